"""bitfalcon: clean-room training, validation and inference for YOLOv12 graphs and checkpoints (MIT)."""

from __future__ import annotations

__version__ = "0.1.0"
__all__ = ["YOLO", "__version__", "register"]


def __getattr__(name: str):
    # Loaded when first asked for: `bitfalcon help` must not import torch.
    if name == "YOLO":
        from .api import YOLO

        return YOLO
    if name == "register":
        from .modules import register

        return register
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
