"""The names of the wider package that public scripts import, each a few lines over our own parts.

Facts of the names: spec/dropin.md and spec/dropin-helpers.md. No other room imports this one. `bitfalcon run script.py`
runs a script unchanged; `import bitfalcon_plugin.dropin.install` as the first line of a script does the same; a script
may also import this package in the place of the other. What is loaded at the first use stands in names.py.
"""

from __future__ import annotations

import sys

from .finder import start

__version__ = "8.3.63"  # as in metadata.py; clients compare it
__all__ = ["ASSETS", "FastSAM", "NAS", "RTDETR", "SAM", "YOLO", "YOLOE", "YOLOWorld", "checks", "download", "settings"]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .engine.model import YOLO

start(sys.modules[__name__])
