"""Processes that train together: torchrun starts them, so that these helpers refuse."""

from __future__ import annotations

from typing import Any, NoReturn

from ...config.errors import UserError


def _refuse(*args: Any, **kwargs: Any) -> NoReturn:
    """Raise UserError: several GPUs train with device=0,1 or under torchrun."""
    raise UserError("No process is started this way here: give device=0,1 to train(), or start the script by torchrun.")


find_free_network_port = generate_ddp_file = generate_ddp_command = ddp_cleanup = _refuse
