"""The files of predictions: annotated pictures and videos, crops, label files and COCO JSON."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from ..config.files import atomic, write_text
from ..config.notes import print_note
from ..config.printable import say
from ..config.run_folder import new_run_dir
from ..config.settings import Settings
from ..ops.instances import Instances
from ..tasks.coco_rows import coco_rows, file_ids
from . import coco_json
from .coco_json import CocoJson
from .crops import require_masks
from .image_names import file_stems, image_ids, task1_images
from .pictures import show_picture
from .pipeline import Predictor
from .probs import Probs
from .reader import Picture
from .records import label_lines
from .results import Results
from .sources import Item, Video, describe
from .task1 import write_task1
from .video import SUFFIX, VideoWriter, show_frame

if TYPE_CHECKING:  # predicting needs no dataset
    from ..data.dataset import Sample


def write_files(
    folder: Path,
    samples: Sequence[Sample],
    detections: Instances,
    names: Mapping[int, str],
    settings: Settings,
    *,
    coco: bool,
) -> None:
    """Write the detections of a dataset: predictions.json (save_json) and labels/*.txt (save_txt, save_conf).

    save_json also writes the files of DOTA's Task1 where the detections are oriented (see task1.write_task1).

    detections: in pixels of the original images; `image` is the index of the sample. Of probabilities the five best
    classes of an image are written, without a box. Oriented boxes have the name of their image beside its id
    (spec/pose-obb.md 2.10). names: class index -> name. coco: give the classes COCO's own ids, 1 to 90, instead of
    index + 1. Of samples of an annotation file predictions.json has the file's ids and all digits, so that another
    program computes the same numbers of both.
    """
    detections = detections.only(detections.image.argsort(stable=True))
    paths = [sample.image for sample in samples]
    if settings.save_json:
        of_file, count = file_ids(samples, names), 0
        ids = image_ids(paths) if of_file is None else of_file.images
        categories = coco_json.COCO_IDS if coco else None
        if of_file is not None:
            categories = of_file.categories
        with CocoJson(folder / "predictions.json", categories, exact=of_file is not None) as file:
            for image, xywh, score, cls, others in _records(detections):
                name = paths[image].name if detections.xywhr is not None else None
                file.add(ids[image], xywh, score, cls, name, **others)
                count += 1
        told = "category_id as in COCO's annotations" if coco else "category_id is the class + 1"
        if of_file is not None:
            told = "image_id and category_id as in the annotation file"
        say(f"predictions.json: {count} records, {told}")
        if detections.xywhr is not None:
            write_task1(folder, task1_images(paths, ids), detections, names)
    if settings.save_txt:
        _write_labels(folder / "labels", samples, file_stems(paths), detections, names, settings.save_conf)


def _records(detections: Instances) -> Iterator[tuple]:
    """Yield image, x y w h, score, class, and mask, keypoints or xywhr by name, of each detection.

    Of probabilities: of the five best classes of each image, without a box. Oriented boxes have xywhr alone.
    """
    if detections.probabilities is not None:
        for image, probabilities in zip(detections.image.tolist(), detections.probabilities):
            best = Probs(probabilities)
            yield from ((image, None, score, cls, {}) for cls, score in zip(best.top5, best.top5conf.tolist()))
        return
    if detections.xywhr is not None:
        columns = (detections.image, detections.scores, detections.classes, detections.xywhr)
        for image, score, cls, xywhr in zip(*(column.tolist() for column in columns)):
            yield image, None, score, cls, {"xywhr": xywhr}
        return
    masks = [None] * len(detections) if detections.encoded_masks is None else detections.encoded_masks.codes
    points = [None] * len(detections) if detections.keypoints is None else detections.keypoints.tolist()
    for (image, *xywh, score, cls), mask, keypoints in zip(coco_rows(detections).tolist(), masks, points):
        yield int(image), xywh, score, cls, {"mask": mask, "keypoints": keypoints}


def _write_labels(
    folder: Path,
    samples: Sequence[Sample],
    stems: Sequence[str],
    detections: Instances,
    names: Mapping[int, str],
    scores: bool,
) -> None:
    """Write a label file for each image with detections, which are sorted by image."""
    folder.mkdir(exist_ok=True)
    first = torch.searchsorted(detections.image, torch.arange(len(samples) + 1)).tolist()
    for index, (sample, stem) in enumerate(zip(samples, stems)):
        part = detections.only(torch.arange(first[index], first[index + 1]))
        if not len(part):
            continue
        if part.probabilities is not None:
            parts = {"probs": part.probabilities[0]}
        else:
            masks = None if part.encoded_masks is None else part.encoded_masks.decode()
            name = "boxes" if part.xywhr is None else "obb"
            parts = {name: part.rows(), "masks": masks, "keypoints": part.keypoints}
        result = Results(None, sample.image, names, **parts, orig_shape=sample.size)
        if lines := label_lines(result, scores):
            write_text(folder / f"{stem}.txt", "".join(lines))


class Writer:
    """The files of a run of predict. The run folder is made when the first file is written.

    label_files: number of label files written so far.
    """

    def __init__(self, predictor: Predictor):
        settings = predictor.args
        self.predictor, self.settings, self.label_files = predictor, settings, 0
        self._style = {
            "conf": settings.show_conf,
            "labels": settings.show_labels,
            "boxes": settings.show_boxes,
            "line_width": settings.line_width,
            "kpt_conf": settings.kpt_conf,
        }
        paths = [_path(item, index) for index, item in enumerate(predictor.source)]
        self._stems = file_stems(paths)
        self._ids = image_ids(paths) if settings.save_json else []
        self._source_number = 0  # of the current picture
        self._has_display = self._has_window = True  # until a picture, or a frame, could not be shown
        self._video = contextlib.ExitStack()
        self._video_writer: VideoWriter | None = None
        self._coco_json: CocoJson | None = None

    def write(self, picture: Picture, result: Results) -> None:
        """Write all that the settings ask for about one picture, and set result.save_dir."""
        settings = self.settings
        if settings.save_crop == "masked":
            require_masks(result)  # before anything is written
        if settings.show:
            self._show(picture, result)
        is_drawn = settings.save or (settings.save_frames and picture.frame)
        if not (is_drawn or settings.save_txt or settings.save_crop or settings.save_json):
            return
        if self.predictor.save_dir is None:
            verb = "track" if settings.mode == "track" else "predict"
            self.predictor.save_dir = new_run_dir(
                verb, settings.project, settings.name, settings.exist_ok, settings.task
            )
        folder = self.predictor.save_dir
        result.save_dir = str(folder)
        if picture.number != self._source_number:
            self._end_video()
            self._source_number = picture.number
        frame = f"_{picture.frame}" if picture.frame else ""
        stem = self._stems[picture.number - 1]
        if is_drawn:
            self._draw(picture, result, folder / stem)
        if settings.save_txt:
            self._write_labels(result, folder / "labels" / f"{stem}{frame}.txt")
        if settings.save_crop:
            result.save_crop(folder / "crops", f"{stem}{frame}", masked=settings.save_crop == "masked")
        if settings.save_json:
            self._write_json(result, folder / "predictions.json", frame)

    def close(self) -> None:
        """Complete the open files."""
        self._end_video()
        if self._coco_json is not None:
            self._coco_json.close()

    def _show(self, picture: Picture, result: Results) -> None:
        """Show the annotated picture, frames of videos one after the other in a window.

        Where there is no display, or no window, that is said once, and of a video only the first frame is shown or
        written to a file.
        """
        if picture.frame and self._has_window:
            self._has_window = show_frame(result.plot(**self._style), Path(result.path).name)
            if self._has_window or not self._has_display:
                return
        elif picture.frame:
            return
        target = Path.cwd() / f"results_{Path(result.path).stem}.jpg"
        was_said, drawn = not self._has_display, result.plot(**self._style, pil=True)
        self._has_display = show_picture(drawn, target, quiet=was_said)
        if picture.frame and self._has_display:
            print_note("only the first frame is shown: this OpenCV opens no windows, pip install opencv-python .")

    def _draw(self, picture: Picture, result: Results, target: Path) -> None:
        """Write the annotated picture, frame and video. target: path of these files without suffix."""
        settings = self.settings
        drawn = result.plot(**self._style, pil=True)
        path = None
        if picture.frame and settings.save_frames:
            path = target.parent / f"{target.name}_frames/{picture.frame}.jpg"
        elif settings.save and not picture.frame:
            path = target.parent / f"{target.name}.jpg"
        if path is not None:
            with atomic(path) as temporary:
                drawn.save(temporary, quality=95)
        if settings.save and picture.frame:
            if self._video_writer is None:
                path = self._video.enter_context(atomic(target.parent / f"{target.name}{SUFFIX}"))
                self._video_writer = VideoWriter(path, picture.rate, picture.pixels.shape[:2])
                self._video.callback(self._video_writer.close)
            self._video_writer.write(np.ascontiguousarray(np.asarray(drawn)[..., ::-1]))

    def _write_labels(self, result: Results, path: Path) -> None:
        path.unlink(missing_ok=True)  # of an earlier run in this folder: save_txt appends
        if len(result):
            path.parent.mkdir(exist_ok=True)
            result.save_txt(path, save_conf=self.settings.save_conf)
            self.label_files += 1

    def _write_json(self, result: Results, path: Path, frame: str) -> None:
        if self._coco_json is None:
            self._coco_json = CocoJson(path)
        image = self._ids[self._source_number - 1]
        image_id = f"{image}{frame}" if frame else image
        name = Path(result.path).name
        if result.probs is not None:
            for cls, score in zip(result.probs.top5, result.probs.top5conf.tolist()):
                self._coco_json.add(image_id, None, score, cls, name)
            return
        masks = [None] * len(result) if result.masks is None else result.masks.rle
        points = [None] * len(result) if result.keypoints is None else result.keypoints.data.tolist()
        oriented = [None] * len(result) if result.obb is None else result.obb.xywhr.tolist()
        boxes = result.detections
        columns = (boxes.xyxy.tolist(), boxes.conf.tolist(), boxes.cls.tolist(), masks, points, oriented)
        for (x1, y1, x2, y2), score, cls, mask, keypoints, xywhr in zip(*columns):
            xywh = (x1, y1, x2 - x1, y2 - y1) if xywhr is None else None
            self._coco_json.add(image_id, xywh, score, cls, name, mask, keypoints, xywhr)

    def _end_video(self) -> None:
        self._video.close()
        self._video, self._video_writer = contextlib.ExitStack(), None


def _path(item: Item, index: int) -> str:
    """The path that gives the files of an item their names: absolute, links not followed, as in datasets."""
    file = item.source if isinstance(item, Video) else item
    return os.path.abspath(file) if isinstance(file, Path) else describe(item, index)
