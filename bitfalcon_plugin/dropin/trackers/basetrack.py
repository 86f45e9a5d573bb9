"""The states of a track, and the class of a track."""

from __future__ import annotations

from ...track.tracker import LOST, REMOVED, TRACKED, Track


class TrackState:
    """States, as in `track.state`. New: before the first detection that is kept, which no track here is seen in."""

    New, Tracked, Lost, Removed = 0, TRACKED, LOST, REMOVED


class BaseTrack(Track):
    """A track. Those of `predictor.trackers` are of its parent class, and each tracker counts its own ids."""

    @staticmethod
    def reset_id() -> None:
        """Do nothing: every tracker counts its own ids from 1."""
