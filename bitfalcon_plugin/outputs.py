"""The verb predict: what a run over sources writes into its folder and prints, picture by picture.

Written from spec/interface.md 8.4 and 10.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from torch import Tensor
from tqdm import tqdm

from .ahead import Picture
from .config import Settings
from .engines.interface import Engine
from .errors import UserError
from .events import Events
from .files import atomic, new_run_dir
from .model import Detector
from .predict import Batch, Skipped, embed_rows, predict_batches
from .quick import why_not_half
from .results import Results
from .sources import Item, Url, Video, list_sources
from .video import SUFFIX, VideoWriter

FEW = 10  # items that need no progress bar
TOLD = 10  # unreadable sources that are named; the others are counted


@dataclass(repr=False)
class Predictor:
    """What the events of a prediction are told: where it stands.

    args: the settings. source: what is read. save_dir: the run folder, None until something is written. batch: paths, images
    (BGR uint8) and printed lines of the batch at hand. results: of this batch; what a callback puts there at
    on_predict_batch_end is what the caller gets. seen: images done. speed: milliseconds an image, by stage.
    """

    model: Detector
    args: Settings
    source: Sequence[Item]
    save_dir: Path | None = None
    batch: tuple[list, list, list] = ((), (), ())
    results: list = field(default_factory=list)
    seen: int = 0
    speed: dict[str, float] = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"Predictor({self.seen} images of {len(self.source)} sources, save_dir={str(self.save_dir)!r})"


def run_predict(model: Detector, settings: Settings, source: object, verbose: bool, events: Events | None = None) -> Iterator:
    """Yield the Results of a source, or with settings.embed its vectors (n,), and write and print what settings ask for.

    What is wrong with the source or the settings is raised by the call itself. verbose: a line an image.
    """
    if source is None:
        raise UserError("predict needs source=: an image, a folder or a glob, for example source=images/ .")
    notes: list[str] = []
    items = list_sources(source, allow_url=settings.allow_url, multiple=model.multiple, notes=notes)
    classes, embed = ([value] if isinstance(value, int) else value for value in (settings.classes, settings.embed))
    if unknown := [index for index in classes or () if index not in model.names]:
        raise UserError(f"classes={unknown}: the model knows 0 to {model.nc - 1}.")
    if embed is not None:
        embed_rows(model, embed)
    batch = int(settings.batch) if "batch" in settings.given else None
    if batch is not None and batch < 1:
        notes.append(f"batch={settings.batch:g}: what fits is searched for training only; using 1.")
        batch = 1
    sides = (settings.imgsz,) if isinstance(settings.imgsz, int) else settings.imgsz
    if any(side % model.multiple for side in sides):
        rounded = [-(-side // model.multiple) * model.multiple for side in sides]
        notes.append(f"imgsz={settings.imgsz} is no multiple of {model.multiple}, which this model needs; using {rounded}.")
    if settings.half and not isinstance(model, Engine) and (reason := why_not_half(model)):
        notes.append(f"half=True: {reason}.")
    for note in notes:
        print(f"note: {note}", file=sys.stderr)
    options = {"imgsz": settings.imgsz, "conf": 0.25 if settings.conf is None else settings.conf, "iou": settings.iou,
               "max_det": settings.max_det, "batch": batch, "agnostic": settings.agnostic_nms, "classes": classes,
               "augment": settings.augment, "half": settings.half, "embed": embed, "vid_stride": settings.vid_stride,
               "keep_all": settings.stream_buffer}
    return _run(Predictor(model, settings, items), options, verbose and settings.verbose, events or Events())


def _run(about: Predictor, options: dict, verbose: bool, events: Events) -> Iterator:
    settings, items, skipped = about.args, about.source, Skipped()
    out = sys.stderr if settings.json else sys.stdout
    writer, totals = _Writer(about), Counter()

    def watch(event: str, batch: Batch) -> None:
        about.batch = [p.path for p in batch.pictures], [p.pixels for p in batch.pictures], []
        about.results = batch.results
        events.fire(event, about)

    def done(batch: Batch) -> None:
        for picture, result in zip(batch.pictures, about.results):
            about.seen += 1
            if not isinstance(result, Results):
                if settings.json and isinstance(result, Tensor):
                    print(_json_vector(picture, result), flush=True)
                continue
            writer.write(picture, result)
            totals.update(result.speed)
            about.batch[2].append(_line(picture, result, items))
            if verbose and not settings.json:
                print(about.batch[2][-1])
            if settings.json:
                print(_json(picture, result), flush=True)
        about.speed = {stage: ms / about.seen for stage, ms in totals.items()}

    with contextlib.ExitStack() as stack:
        stack.callback(writer.close)
        bar = stack.enter_context(_bar(items, verbose and not settings.json))
        events.fire("on_predict_start", about)
        for batch in stack.enter_context(contextlib.closing(
                predict_batches(about.model, items, **options, skipped=skipped, watch=watch))):
            done(batch)
            bar.update(len(batch.pictures))
            shape = len(batch.pictures), batch.results[0]
            events.fire("on_predict_batch_end", about)
            yield from about.results
    _tell_skipped(skipped, len(items))
    if verbose and about.speed:
        height, width = shape[1].input_shape
        speed = ", ".join(f"{ms:.1f}ms {stage}" for stage, ms in about.speed.items())
        print(f"Speed: {speed} per image at shape ({shape[0]}, 3, {height}, {width})", file=out)
        if how := getattr(about.model, "how", None):
            print(f"Network: {how}", file=out)
    if about.save_dir is not None:
        unread = f"; {len(skipped.reasons)} images could not be read" if skipped.reasons else ""
        print(f"Results saved to {about.save_dir}{unread}", file=out)
        if settings.save_txt:
            print(f"{writer.labels} label files saved to {about.save_dir / 'labels'}", file=out)
    events.fire("on_predict_end", about)


def _bar(items: Sequence[Item], lines: bool) -> tqdm:
    # Where a line is printed for each image, or nobody looks, there is none.
    endless = any(isinstance(item, Video) for item in items)
    shown = not lines and sys.stderr.isatty() and (endless or len(items) > FEW)
    return tqdm(total=None if endless else len(items), desc="predict", unit="image", disable=not shown, file=sys.stderr)


def _tell_skipped(skipped: Skipped, count: int) -> None:
    reasons = skipped.reasons
    if reasons:
        print(f"note: {len(reasons)} of {count} sources could not be read and were skipped:", file=sys.stderr)
        for reason in reasons[:TOLD]:
            print(f"note: skipped {reason}", file=sys.stderr)
        if len(reasons) > TOLD:
            print(f"note: ... and {len(reasons) - TOLD} more", file=sys.stderr)


def _line(picture: Picture, result: Results, items: Sequence[Item]) -> str:
    height, width = result.input_shape
    found = f"{height}x{width} {result.verbose()}{result.speed['inference']:.1f}ms"
    item = items[picture.number - 1]
    if isinstance(item, Video):
        of = f"/{picture.frames}" if picture.frames else ""
        return f"video {picture.number}/{len(items)} (frame {picture.frame}{of}) {picture.path}: {found}"
    if isinstance(item, (Path, Url)):
        return f"image {picture.number}/{len(items)} {picture.path}: {found}"
    return f"{picture.number - 1}: {found}"


def _json(picture: Picture, result: Results) -> str:
    height, width = result.orig_shape
    frame = {"frame": picture.frame} if picture.frame else {}
    speed = {stage: round(ms, 2) for stage, ms in result.speed.items()}
    return json.dumps({"path": picture.path, **frame, "height": height, "width": width, "detections": result.summary(),
                       "speed": speed}, ensure_ascii=False)


def _json_vector(picture: Picture, vector: Tensor) -> str:
    frame = {"frame": picture.frame} if picture.frame else {}
    return json.dumps({"path": picture.path, **frame, "embedding": [round(value, 6) for value in vector.tolist()]}, ensure_ascii=False)


class _Writer:
    """The files of a run. The folder is made when the first of them is written."""

    def __init__(self, about: Predictor):
        settings = about.args
        self.about, self.settings, self.labels = about, settings, 0
        self._looks = {"conf": settings.show_conf, "labels": settings.show_labels, "boxes": settings.show_boxes,
                       "line_width": settings.line_width}
        self._taken: Counter[str] = Counter()
        self._current = (0, "")  # number of the source, its stem in this folder
        self._video = contextlib.ExitStack()
        self._video_out: VideoWriter | None = None
        self._coco = contextlib.ExitStack()
        self._coco_file, self._comma = None, "\n"
        self._ids: dict[int | str, str] = {}  # image_id to the stem that has it

    def write(self, picture: Picture, result: Results) -> None:
        """All that is asked for of one picture; sets result.save_dir."""
        settings = self.settings
        if settings.show:
            result.show(**self._looks)
        pictures = settings.save or settings.save_frames and picture.frame
        if not (pictures or settings.save_txt or settings.save_crop or settings.save_json):
            return
        if self.about.save_dir is None:
            self.about.save_dir = new_run_dir("predict", settings.project, settings.name, settings.exist_ok)
        folder = self.about.save_dir
        result.save_dir = str(folder)
        if picture.number != self._current[0]:
            self._end_video()
            self._current = picture.number, _free_stem(Path(picture.path).stem, self._taken)
        stem = self._current[1]
        single = f"{stem}_{picture.frame}" if picture.frame else stem
        if pictures:
            self._pictures(picture, result, folder, stem)
        if settings.save_txt:
            self._labels(result, folder / "labels" / f"{single}.txt")
        if settings.save_crop:
            result.save_crop(folder / "crops", single)
        if settings.save_json:
            self._add_coco(result, folder, single)

    def close(self) -> None:
        """Finish what is open; what was written so far is whole."""
        self._end_video()
        if self._coco_file is not None:
            self._coco_file.write("\n]\n")
        self._coco.close()

    def _pictures(self, picture: Picture, result: Results, folder: Path, stem: str) -> None:
        settings = self.settings
        drawn = result.plot(**self._looks, pil=True)
        frames = f"{stem}_frames/{picture.frame}.jpg" if picture.frame and settings.save_frames else None
        for name in (frames, f"{stem}.jpg" if settings.save and not picture.frame else None):
            if name:
                with atomic(folder / name) as temporary:
                    drawn.save(temporary, quality=95)
        if settings.save and picture.frame:
            if self._video_out is None:
                path = self._video.enter_context(atomic(folder / f"{stem}{SUFFIX}"))
                self._video_out = VideoWriter(path, picture.rate, picture.pixels.shape[:2])
                self._video.callback(self._video_out.close)
            self._video_out.write(np.ascontiguousarray(np.asarray(drawn)[..., ::-1]))

    def _labels(self, result: Results, path: Path) -> None:
        path.unlink(missing_ok=True)  # of an earlier run in this folder: lines are appended
        if len(result):
            path.parent.mkdir(exist_ok=True)
            result.save_txt(path, save_conf=self.settings.save_conf)
            self.labels += 1

    def _add_coco(self, result: Results, folder: Path, stem: str) -> None:
        """Rows of COCO's result format; categories count from 1."""
        if self._coco_file is None:
            path = self._coco.enter_context(atomic(folder / "predictions.json"))
            self._coco_file = self._coco.enter_context(open(path, "w", encoding="utf-8"))
            self._coco_file.write("[")
        image = int(stem) if stem.isascii() and stem.isdecimal() else stem
        if self._ids.setdefault(image, stem) != stem:  # 1 and 001
            image = stem
        for x1, y1, x2, y2, score, cls in result.boxes.data.tolist():
            row = {"image_id": image, "file_name": Path(result.path).name,
                   "category_id": int(cls) + 1, "bbox": [round(side, 3) for side in (x1, y1, x2 - x1, y2 - y1)],
                   "score": round(score, 5)}
            self._coco_file.write(self._comma + json.dumps(row, ensure_ascii=False))
            self._comma = ",\n"

    def _end_video(self) -> None:
        self._video.close()
        self._video, self._video_out = contextlib.ExitStack(), None


def _free_stem(stem: str, taken: Counter[str]) -> str:
    """`stem`, or stem-2, stem-3, ... where it was given out before; names that differ by case alone are the same."""
    first, name = stem.casefold(), stem
    while taken[name.casefold()]:
        taken[first] += 1
        name = f"{stem}-{taken[first]}"
    taken[name.casefold()] = 1
    return name
