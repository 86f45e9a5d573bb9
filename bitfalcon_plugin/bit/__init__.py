"""Ternary models for scripts: `from bitfalcon_plugin.bit import bitify, calibrate, unbitify, freeze, pack`.

Each function is imported at its first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # for type checkers, which do not see what __getattr__ loads
    from ..models.bitify import bitify, freeze, unbitify
    from ..models.modules.bit_layers import BitConv2d, BitLinear
    from .calibration import calibrate, calibration_images
    from .packing import pack, sizes

__all__ = ["BitConv2d", "BitLinear", "bitify", "calibrate", "calibration_images", "freeze", "pack", "sizes", "unbitify"]

HOMES = {
    "bitify": "models.bitify",
    "unbitify": "models.bitify",
    "freeze": "models.bitify",
    "calibrate": "bit.calibration",
    "calibration_images": "bit.calibration",
    "pack": "bit.packing",
    "sizes": "bit.packing",
    "BitConv2d": "models.modules.bit_layers",
    "BitLinear": "models.modules.bit_layers",
}


def __getattr__(name: str):
    if name not in HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {', '.join(HOMES)}")
    return getattr(import_module(f"bitfalcon_plugin.{HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(HOMES)
