"""bitfalcon: clean-room training, validation and inference for YOLOv12 graphs and checkpoints (MIT)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .config.errors import UserError
from .config.version import __version__

if TYPE_CHECKING:  # for type checkers, which do not see what __getattr__ loads
    from .models.modules import register
    from .yolo import YOLO

__all__ = ["YOLO", "UserError", "__version__", "register"]


def __getattr__(name: str):
    # Loaded when first asked for: `bitfalcon help` must not import torch.
    if name == "YOLO":
        from .yolo import YOLO

        return YOLO
    if name == "register":
        from .models.modules import register

        return register
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
