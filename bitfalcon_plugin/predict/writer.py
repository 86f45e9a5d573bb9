"""The files of predictions: annotated images, COCO JSON and label files."""

from __future__ import annotations

import contextlib
import json
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from ..config.files import atomic, new_run_dir, write_text
from ..config.notes import note
from ..config.settings import Settings
from .pipeline import Predictor
from .reader import Picture
from .results import Results
from .sources import Item, Url, Video
from .video import SUFFIX, VideoWriter

if TYPE_CHECKING:  # predicting needs no dataset
    from ..data.dataset import Sample
    from ..data.formats.dataset_yaml import DataSpec

# The ids that COCO's annotations give to its 80 classes.
COCO_IDS = (
    *range(1, 12),
    *range(13, 26),
    27,
    28,
    *range(31, 45),
    *range(46, 66),
    67,
    70,
    *range(72, 83),
    *range(84, 91),
)
COCO_LISTS = ("train2017", "val2017", "test2017", "test-dev2017")


def write_files(
    folder: Path, samples: Sequence[Sample], detections: np.ndarray, settings: Settings, *, coco: bool
) -> None:
    """Write predictions.json (save_json) and labels/*.txt (save_txt, save_conf) into the run folder.

    detections (n, 7): image index, x, y, w, h in original pixels, score, class. coco: give the classes COCO's own ids, 1 to
    90, instead of index + 1.
    """
    detections = detections[np.argsort(detections[:, 0], kind="stable")]
    if settings.save_json:
        _write_json(folder / "predictions.json", samples, detections, coco)
        print(
            f"predictions.json: {len(detections)} detections, category_id "
            + ("as in COCO's annotations" if coco else "is the class + 1")
        )
    if settings.save_txt:
        _write_txt(folder / "labels", samples, detections, settings.save_conf)


def is_coco(data: DataSpec, split: str) -> bool:
    """Whether a split is one of COCO 2017: 80 classes, and lists or folders of COCO's names below something called coco."""
    paths = [Path(entry) for entry in data.splits.get(split, ())]
    return (
        bool(paths)
        and data.nc == len(COCO_IDS)
        and all(
            "coco" in str(path).lower() and path.stem in COCO_LISTS and path.suffix in ("", ".txt") for path in paths
        )
    )


def image_ids(samples: Sequence[Sample]) -> list[int | str]:
    """The image_id of each sample: its stem, as an integer where it is a number; with its folders where stems occur twice."""
    found = [_number(sample.image.stem) for sample in samples]
    counts = Counter(found)
    if len(counts) == len(found):
        return found
    common = Path(os.path.commonpath([sample.image.parent for sample in samples]))
    note(
        "note: some images of different folders have the same name: the image_id of these is their path below "
        f"'{common}', without the suffix."
    )
    paths = [sample.image.relative_to(common).as_posix() for sample in samples]
    bare = [path[: len(path) - len(sample.image.suffix)] for path, sample in zip(paths, samples, strict=True)]
    taken = Counter(bare)  # x.jpg and x.png in one folder
    return [
        key if counts[key] == 1 else path if taken[short] > 1 else short
        for key, path, short in zip(found, paths, bare, strict=True)
    ]


def _number(stem: str) -> int | str:
    return int(stem) if stem.isascii() and stem.isdecimal() else stem


def _write_json(target: Path, samples: Sequence[Sample], detections: np.ndarray, coco: bool) -> None:
    ids = image_ids(samples)
    with atomic(target) as temporary, open(temporary, "w", encoding="utf-8") as file:
        for place, (image, x, y, w, h, score, cls) in enumerate(detections.tolist()):
            row = {
                "image_id": ids[int(image)],
                "category_id": COCO_IDS[int(cls)] if coco else int(cls) + 1,
                "bbox": [round(side, 3) for side in (x, y, w, h)],
                "score": round(score, 5),
            }
            file.write((",\n" if place else "[") + json.dumps(row, ensure_ascii=False))
        file.write("]\n" if len(detections) else "[]\n")


def _write_txt(folder: Path, samples: Sequence[Sample], detections: np.ndarray, scores: bool) -> None:
    folder.mkdir(exist_ok=True)
    first = np.searchsorted(detections[:, 0], np.arange(len(samples) + 1))
    taken: set[str] = set()
    for index, sample in enumerate(samples):
        height, width = sample.size
        stem, count = sample.image.stem, 1
        while stem in taken:
            count += 1
            stem = f"{sample.image.stem}-{count}"
        taken.add(stem)
        lines = []
        for _, x, y, w, h, score, cls in detections[first[index] : first[index + 1]].tolist():
            numbers = (
                int(cls),
                (x + w / 2) / width,
                (y + h / 2) / height,
                w / width,
                h / height,
                *([score] if scores else []),
            )
            lines.append(" ".join(f"{number:g}" for number in numbers) + "\n")
        if lines:
            write_text(folder / f"{stem}.txt", "".join(lines))


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
    return json.dumps(
        {
            "path": picture.path,
            **frame,
            "height": height,
            "width": width,
            "detections": result.summary(),
            "speed": speed,
        },
        ensure_ascii=False,
    )


def _json_vector(picture: Picture, vector: Tensor) -> str:
    frame = {"frame": picture.frame} if picture.frame else {}
    return json.dumps(
        {"path": picture.path, **frame, "embedding": [round(value, 6) for value in vector.tolist()]}, ensure_ascii=False
    )


class Writer:
    """The files of a run. The folder is made when the first of them is written."""

    def __init__(self, about: Predictor):
        settings = about.args
        self.about, self.settings, self.labels = about, settings, 0
        self._looks = {
            "conf": settings.show_conf,
            "labels": settings.show_labels,
            "boxes": settings.show_boxes,
            "line_width": settings.line_width,
        }
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
            row = {
                "image_id": image,
                "file_name": Path(result.path).name,
                "category_id": int(cls) + 1,
                "bbox": [round(side, 3) for side in (x1, y1, x2 - x1, y2 - y1)],
                "score": round(score, 5),
            }
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
