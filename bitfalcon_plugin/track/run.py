"""The verb track: predict, and give the objects of each clip their ids. Written from spec/dropin-helpers.md 12.

The ids come in with functions at the events of predict, before the functions of the user; predict knows nothing of
them.
"""

from __future__ import annotations

import sys
import time
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from ..config.callbacks import Events
from ..config.errors import UserError
from ..config.notes import print_note
from ..config.printable import say
from ..config.settings import Settings
from ..predict.pipeline import Predictor
from ..predict.reader import Picture
from ..predict.sources import Item, Video, describe
from .library import need_library
from .options import TrackerOptions, read_options
from .scores import ClipScores, read_labels, score_line
from .tracker import Tracker

CONFIDENCE = 0.1  # unsure detections help to keep an object; the thresholds of the tracker begin the tracks


class Clip(NamedTuple):
    """What one tracker follows: a video file, a webcam, the images of a folder, or images in memory of one size.

    kind: 'video' or another word. where: what tells it from others. name: in messages.
    """

    kind: str
    where: object
    name: str


class Tracking:
    """The trackers of one model, one for each clip that is seen, kept from call to call with persist=True.

    A copy of this object, also a pickled one, has no trackers: it begins anew.
    """

    def __init__(self) -> None:
        self.trackers: dict[Clip, Tracker] = {}
        self._options: TrackerOptions | None = None
        self._persist = False
        self._scores: ClipScores | None = None

    def __reduce__(self) -> tuple:
        return Tracking, ()

    def settings(self, settings: Settings) -> Settings:
        """Return the settings of predict for tracking: a low confidence, unless one is given."""
        return settings.with_defaults({"conf": CONFIDENCE})

    def events(self, others: Events | None, settings: Settings) -> Events:
        """Return the events of a call: the steps of tracking before those of `others`.

        Raises UserError, before anything is predicted, for a wrong tracker=, labels= or embed=, and where the package
        is missing.
        """
        if settings.embed is not None:
            raise UserError("track(embed=...): embed= gives vectors instead of boxes, and vectors have no tracks.")
        need_library()
        options = read_options(settings.tracker)
        print_note(*options.notes)
        self._scores = ClipScores(read_labels(settings.labels)) if settings.labels else None
        events = Events(others)
        start = partial(self.start, options=options, persist=settings.persist)
        events.callbacks["on_predict_start"].insert(0, start)
        events.callbacks["on_predict_postprocess_end"].insert(0, self.step)
        events.callbacks["on_predict_end"].insert(0, self.end)
        return events

    def start(self, predictor: Predictor, options: TrackerOptions, persist: bool) -> None:
        """Begin a call. With persist the trackers of the call before go on, if it had persist and the same options."""
        if not (persist and self._persist and options == self._options):
            self.trackers.clear()
        self._persist, self._options = persist, options
        predictor.trackers = list(self.trackers.values())
        files = {_clip(item, number, ()) for number, item in enumerate(predictor.source)}
        if self._scores and len(files) > 1:
            raise UserError(f"labels= belongs to one clip, and source= has {len(files)}; track each with its labels.")

    def step(self, predictor: Any) -> None:
        """Put Results with ids in the place of the predictor's."""
        results = []
        for picture, result in zip(predictor.pictures, predictor.results, strict=True):
            if result.detections is not None and result.detections.is_track:  # a script has added these steps itself
                results.append(result)
                continue
            start, tracker = time.perf_counter(), self._tracker_of(picture, predictor)
            tracked = tracker.with_ids(result)
            milliseconds = (time.perf_counter() - start) * 1e3 + (tracked.speed["postprocess"] or 0)
            tracked.speed = {**tracked.speed, "postprocess": milliseconds}
            results.append(tracked)
            if self._scores:
                self._scores.add(_frame_number(picture, tracker), tracker)
        predictor.results = results

    def end(self, predictor: Any) -> None:
        """Print how the tracks agree with labels=."""
        if self._scores and self._scores.frames:
            predictor.track_metrics = self._scores.metrics(predictor.model.names)
            say(score_line(predictor.track_metrics), file=sys.stderr if predictor.args.json else sys.stdout)

    def _tracker_of(self, picture: Picture, predictor: Predictor) -> Tracker:
        """Return the tracker of the clip that a picture belongs to, a new one for the first picture of a clip."""
        clip = _clip(predictor.source[picture.number - 1], picture.number - 1, picture.pixels.shape[:2])
        begins = clip not in self.trackers or clip.kind == "video" and picture.frame == 1
        if begins:
            if self.trackers:
                again = "begins again" if clip in self.trackers else "is another clip"
                print_note(f"track: {clip.name} {again}; its ids start at 1.")
            if clip.kind == "video":  # an earlier video has ended
                self.trackers = {key: value for key, value in self.trackers.items() if key.kind != "video"}
            self.trackers[clip] = Tracker(self._options or read_options(predictor.args.tracker))
            predictor.trackers = list(self.trackers.values())
        return self.trackers[clip]


def _clip(item: Item, number: int, size: tuple[int, ...]) -> Clip:
    """The clip of a source. number: of the source. size: (h, w) of an image in memory."""
    path = describe(item, number)
    if isinstance(item, Video):
        is_file = isinstance(item.source, Path)
        return Clip("video", (path, number), f"'{path}'") if is_file else Clip("webcam", path, path)
    folder = path.rpartition("/")[0]
    if folder:
        return Clip("folder", folder, f"folder '{folder}'")
    return Clip("memory", tuple(size), f"a frame of {'x'.join(map(str, size))} pixels")


def _frame_number(picture: Picture, tracker: Tracker) -> int:
    """The number of a frame from 1: in its video, in the name of its file (000012.jpg), or among those tracked."""
    stem = Path(picture.path).stem
    return picture.frame or (int(stem) if stem.isdecimal() else tracker.frame_id)
