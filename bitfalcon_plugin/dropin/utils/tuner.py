"""The search of settings with Ray, which is not here."""

from __future__ import annotations

from typing import Any, NoReturn

from ...config.errors import UserError


def run_ray_tune(*args: Any, **kwargs: Any) -> NoReturn:
    """Raise UserError: YOLO.tune searches with Optuna."""
    raise UserError("run_ray_tune is not here: model.tune(data=..., iterations=...) searches the settings with Optuna.")
