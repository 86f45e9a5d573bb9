"""From files or arrays to Results: decode, letterbox, network, suppression, back to original pixels.

Written from spec/interface.md 5.4, 8.1 and 8.2.
"""

from __future__ import annotations

import glob
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from .boxes import Fit, letterbox_fit, minimal_canvas, non_max_suppression
from .data.images import IMAGE_SUFFIXES, UnreadableImage, place, read_image
from .errors import MissingFileError, UserError, did_you_mean
from .model import Detector
from .results import Results

Item = Path | Image.Image | np.ndarray


def list_sources(source: object) -> list[Item]:
    """What `source` names: a file, a folder (its images, not those below), a glob, a Pillow image, a BGR uint8 array,
    or a list of these. Raises MissingFileError when nothing is there and UserError for another type.
    """
    if isinstance(source, (list, tuple)):
        return [item for part in source for item in list_sources(part)]
    if isinstance(source, (Image.Image, np.ndarray)):
        return [source]
    if not isinstance(source, (str, Path)):
        raise UserError(f"source is a {type(source).__name__}; expected a path, a glob, a Pillow image, a BGR uint8 array, "
                        "or a list of these.")
    path = Path(source).expanduser()
    if path.is_dir():
        return _images_in(sorted(path.iterdir()), f"folder '{source}'")
    if path.is_file():
        return [path]
    if any(mark in str(source) for mark in "*?["):
        return _images_in(sorted(map(Path, glob.glob(str(path), recursive=True))), f"pattern '{source}'")
    near = [item.name for item in path.parent.iterdir()] if path.parent.is_dir() else []
    raise MissingFileError(f"Source '{source}' does not exist.{did_you_mean(path.name, near)}")


def _images_in(paths: Sequence[Path], what: str) -> list[Path]:
    images = [path for path in paths if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file()]
    if not images:
        known = " ".join(sorted(suffix[1:] for suffix in IMAGE_SUFFIXES))
        raise MissingFileError(f"No images in {what}. Images end in: {known}.")
    return images


@dataclass
class Skipped:
    """Sources that could not be read, with the reason; filled while `predict` runs."""

    reasons: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Loaded:
    image: Tensor  # (3, h, w) uint8 RGB
    path: str
    milliseconds: float


def predict(model: Detector, sources: Iterable[Item], *, imgsz: int | tuple[int, int] = 640, conf: float = 0.25,
            iou: float = 0.7, max_det: int = 300, batch: int = 1, agnostic: bool = False,
            classes: Sequence[int] | None = None, skipped: Skipped | None = None) -> Iterator[Results]:
    """Yield the Results of every source that can be read, in order. The model must be in eval mode. Raises UserError
    for an array that is no BGR uint8 image.

    imgsz: side of the network input in pixels, or (H, W); rounded up to what the model takes. conf, iou: as in
    boxes.non_max_suppression. batch: images at once; they share a minimal rectangle if their sizes are equal and a
    square otherwise. skipped: collects the sources that could not be read.
    """
    skipped = Skipped() if skipped is None else skipped
    loaded = _load(sources, skipped)
    while chunk := list(islice(loaded, batch)):
        yield from _predict_chunk(model, chunk, imgsz, {
            "conf": conf, "iou": iou, "max_det": max_det, "agnostic": agnostic, "classes": classes})


def _load(sources: Iterable[Item], skipped: Skipped) -> Iterator[_Loaded]:
    for index, item in enumerate(sources):
        path = str(item.resolve()) if isinstance(item, Path) else getattr(item, "filename", "") or f"image{index}.jpg"
        start = time.perf_counter()
        try:
            image = read_image(item)
        except UnreadableImage as error:
            if isinstance(item, np.ndarray):  # a file may be broken, an array is the caller's mistake
                raise UserError(f"source: {error}.") from error
            skipped.reasons.append(f"{path}: {error}")
            continue
        yield _Loaded(image, path, (time.perf_counter() - start) * 1e3)


def _predict_chunk(model: Detector, chunk: list[_Loaded], imgsz: int | tuple[int, int], suppression: dict) -> list[Results]:
    start = time.perf_counter()
    fits = _fits([tuple(item.image.shape[1:]) for item in chunk], imgsz, model.multiple)
    weight = next(model.parameters())
    images = torch.stack([place(item.image, fit) for item, fit in zip(chunk, fits, strict=True)]).to(weight.device)
    images = images.to(weight.dtype) / 255  # (B, 3, H, W)
    prepared = time.perf_counter()
    with torch.inference_mode():
        prediction = model.decode(model(images))
        if prediction.is_cuda:
            torch.cuda.synchronize(prediction.device)
        inferred = time.perf_counter()
        found = non_max_suppression(prediction, **suppression)
        rows = [torch.cat((fit.to_original(boxes[:, :4]), boxes[:, 4:]), 1) for fit, boxes in zip(fits, found, strict=True)]
    done = time.perf_counter()
    results = []
    for item, boxes in zip(chunk, rows, strict=True):
        speed = {"preprocess": item.milliseconds + (prepared - start) * 1e3 / len(chunk),
                 "inference": (inferred - prepared) * 1e3 / len(chunk), "postprocess": (done - inferred) * 1e3 / len(chunk)}
        picture = item.image.permute(1, 2, 0).numpy()[..., ::-1]  # (H, W, 3) BGR
        result = Results(np.ascontiguousarray(picture), item.path, model.names, boxes.clone(), speed)
        result.input_shape = tuple(images.shape[2:])
        results.append(result)
    return results


def _fits(sizes: list[tuple[int, int]], imgsz: int | tuple[int, int], multiple: int) -> list[Fit]:
    if len(set(sizes)) == 1:
        canvas = minimal_canvas(sizes[0], imgsz, multiple)
    else:
        sides = (imgsz, imgsz) if isinstance(imgsz, int) else imgsz
        canvas = tuple(-(-side // multiple) * multiple for side in sides)
    return [letterbox_fit(size, canvas) for size in sizes]
