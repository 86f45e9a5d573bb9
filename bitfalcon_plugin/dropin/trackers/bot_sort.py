"""BoT-SORT, constructed from the keys of a tracker YAML and called frame by frame with boxes."""

from __future__ import annotations

from .basetrack import BaseTrack
from .byte_tracker import BYTETracker

BOTrack = BaseTrack


class BOTSORT(BYTETracker):
    """As BYTETracker, with scores in the matching and the motion of the camera."""

    kind = "botsort"
