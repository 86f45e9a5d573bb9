"""Ternary models for scripts: `from bitfalcon_plugin.bit import bitify, calibrate, unbitify, freeze, pack`.

Each function is imported at its first use.
"""

from __future__ import annotations

from importlib import import_module

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
