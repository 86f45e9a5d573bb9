"""bitfalcon: clean-room training, validation and inference for YOLOv12 graphs and checkpoints (MIT)."""

from __future__ import annotations

from .config.threads import prepare_threads

TYPE_CHECKING = False  # type checkers take it for True; importing it from typing costs milliseconds at every start
if TYPE_CHECKING:  # for type checkers, which do not see what __getattr__ loads
    from .config.errors import UserError
    from .config.version import __version__
    from .models.catalogue import list_models
    from .models.modules import register
    from .yolo import YOLO

prepare_threads()

__all__ = ["YOLO", "UserError", "__version__", "list_models", "register"]


def __getattr__(name: str):
    # Loaded at the first access: `bitfalcon help` must not import torch, and the import of the package costs nothing.
    if name == "YOLO":
        from .yolo import YOLO

        return YOLO
    if name == "UserError":
        from .config.errors import UserError

        return UserError
    if name == "__version__":
        from .config.version import __version__

        return __version__
    if name == "list_models":
        from .models.catalogue import list_models

        return list_models
    if name == "register":
        from .models.modules import register

        return register
    wider = "" if name.startswith("_") else f" Further names that scripts import: from {__name__}.dropin import {name}"
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}.{wider}")
