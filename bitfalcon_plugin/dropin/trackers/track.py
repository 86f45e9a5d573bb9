"""The functions at the events of predict that track, for scripts that add them to a model themselves."""

from __future__ import annotations

from functools import partial
from typing import Any

from ...track.options import read_options
from ...track.run import Tracking
from .bot_sort import BOTSORT
from .byte_tracker import BYTETracker

TRACKER_MAP = {"bytetrack": BYTETracker, "botsort": BOTSORT}


def on_predict_start(predictor: Any, persist: bool = False) -> None:
    """Begin to track with `predictor.args.tracker`; with persist, go on from the call before."""
    _tracking(predictor).start(predictor, read_options(predictor.args.tracker), persist)


def on_predict_postprocess_end(predictor: Any, persist: bool = False) -> None:
    """Put results with ids in the place of the predictor's."""
    _tracking(predictor).step(predictor)


def register_tracker(model: Any, persist: bool = False) -> None:
    """Add both functions to the events of a model: every later `predict` tracks."""
    model.add_callback("on_predict_start", partial(on_predict_start, persist=persist))
    model.add_callback("on_predict_postprocess_end", partial(on_predict_postprocess_end, persist=persist))


def _tracking(predictor: Any) -> Tracking:
    """The trackers of the network, which stays the same from call to call, as the predictor does not."""
    return vars(predictor.model).setdefault("_tracking", Tracking())
