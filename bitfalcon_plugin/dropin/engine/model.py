"""The YOLO object under its wider name."""

from __future__ import annotations

from ...yolo import YOLO as _YOLO


class YOLO(_YOLO):
    __doc__ = _YOLO.__doc__


Model = YOLO
