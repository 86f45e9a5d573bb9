"""From pictures to Results: letterbox, network, suppression, back to original pixels.

Written from spec/interface.md 5.4, 8.1 and 8.2.
"""

from __future__ import annotations

import contextlib
import queue
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from ..config.errors import UserError
from ..config.settings import Settings
from ..data.images import GREY
from ..models.detector import Detector
from ..models.inference.compiling import warm
from ..ops.letterbox import Fit, legal_size, letterbox_fit, minimal_canvas
from ..ops.nms import Suppression
from ..tasks import task_of
from ..tasks.detect import predict_decoded
from .reader import Picture, Unread, read_pictures, resize_pixels
from .results import Results
from .sources import Item, Video

MOST_TOGETHER = 16  # images of one tensor that go through the network at once where nobody says how many


@dataclass
class Skipped:
    """Sources that could not be read, with the reason; filled while `predict` runs."""

    reasons: list[str] = field(default_factory=list)


@dataclass
class Batch:
    """Pictures that go through the network together. results: their Results, or vectors (n,) of embed; empty before."""

    pictures: list[Picture]
    results: list = field(default_factory=list)


@dataclass(repr=False)
class Predictor:
    """What the events of a prediction are told: where it stands.

    args: the settings. source: what is read. save_dir: the run folder, None until something is written. batch: paths,
    images (BGR uint8) and printed lines of the batch at hand. results: of this batch; what a callback puts there at
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


Watch = Callable[[str, Batch], None]


@dataclass(frozen=True)
class Options:
    """How sources are predicted.

    imgsz: side of the network input in pixels, or (H, W); rounded up to what the model takes. rule: which candidates
    are detections. batch: images at once, by default 1 (of a tensor MOST_TOGETHER); they share a minimal rectangle if
    their sizes are equal, and a square otherwise. augment: merge the detections on the image with those on copies of
    0.83, mirrored, and 0.67 of its size. half: autocast to float16 on a GPU; elsewhere the type of the weights counts.
    embed: instead of detections, give for each image the means of the maps of these rows, one behind the other.
    vid_stride, keep_all: of videos and webcams, see reader.read_pictures.
    """

    imgsz: int | tuple[int, int] = 640
    rule: Suppression = field(default_factory=Suppression)
    batch: int | None = None
    augment: bool = False
    half: bool = False
    embed: Sequence[int] | None = None
    vid_stride: int = 1
    keep_all: bool = False

    @classmethod
    def of(cls, **values: object) -> Options:
        """Options from plain keywords; those of Suppression (conf, iou, max_det, agnostic, classes) are sorted in."""
        names = Suppression.__dataclass_fields__
        rule = Suppression(**{name: values.pop(name) for name in [*values] if name in names})
        return cls(rule=rule, **values)


def predict(
    model: Detector, sources: Iterable[Item], *, skipped: Skipped | None = None, watch: Watch | None = None, **options
) -> Iterator[Results]:
    """Yield the Results of every source that can be read, in order. `options` are those of Options.of."""
    for batch in predict_batches(model, sources, Options.of(**options), skipped=skipped, watch=watch):
        yield from batch.results


def predict_batches(
    model: Detector,
    sources: Iterable[Item],
    options: Options,
    *,
    skipped: Skipped | None = None,
    watch: Watch | None = None,
) -> Iterator[Batch]:
    """Yield batches of sources that can be read, in order, with their Results. The model must be in eval mode.

    skipped: collects the sources that could not be read. watch: called with the events on_predict_batch_start and
    on_predict_postprocess_end and their batch.

    A thread is one batch ahead of the caller, who meanwhile draws and writes; except of a webcam. Where the model has
    `twins`, copies on other devices, batches are shared out among all, each to one that is free.

    Raises UserError for a row of `embed` that is none.
    """
    if options.embed is not None:
        embed_rows(model, options.embed)
    watch = watch or (lambda event, batch: None)

    def resized(size: tuple[int, int]) -> tuple[int, int]:
        return _fits([size], options.imgsz, model)[0].resized

    depth = min(max(2 * (options.batch or 1), 4), 32)
    pictures = read_pictures(sources, resized, depth=depth, vid_stride=options.vid_stride, keep_all=options.keep_all)
    models, live = [model, *getattr(model, "twins", ())], isinstance(sources, Sequence) and any(map(_is_live, sources))
    buffers: list[dict] = [{} for _ in models]

    def compute(place: int, chunk: Batch) -> list:
        return _results(models[place], chunk.pictures, options, buffers[place])

    with contextlib.closing(pictures):
        chunks = _chunks(pictures, options.batch, Skipped() if skipped is None else skipped)
        with contextlib.closing(_computed(chunks, compute, len(models), 0 if live else len(models))) as done:
            for chunk, results in done:
                watch("on_predict_batch_start", chunk)
                chunk.results = results
                watch("on_predict_postprocess_end", chunk)
                yield chunk


def _is_live(item: Item) -> bool:
    return isinstance(item, Video) and isinstance(item.source, int)


def _computed(
    chunks: Iterable[Batch], compute: Callable[[int, Batch], list], places: int, ahead: int
) -> Iterator[tuple[Batch, list]]:
    """Each batch and its results, in order, while threads compute up to `ahead` later ones.

    compute: results of a batch at one of so many places; at each place one batch at a time.
    """
    if not ahead:
        yield from ((chunk, compute(0, chunk)) for chunk in chunks)
        return
    free: queue.SimpleQueue[int] = queue.SimpleQueue()
    for place in range(places):
        free.put(place)

    def work(chunk: Batch) -> list:
        place = free.get()
        try:
            return compute(place, chunk)
        finally:
            free.put(place)

    waiting: deque = deque()
    # the readers' threads have set torch's number for every new thread to 1: this one is told the caller's
    pool = ThreadPoolExecutor(places, "bitfalcon-predict", partial(torch.set_num_threads, torch.get_num_threads()))
    try:
        for chunk in chunks:
            waiting.append((chunk, pool.submit(work, chunk)))
            if len(waiting) > ahead:
                done, future = waiting.popleft()
                yield done, future.result()
        while waiting:
            done, future = waiting.popleft()
            yield done, future.result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def embed_rows(model: Detector, rows: Sequence[int]) -> None:
    """Raise UserError unless each of `rows` is a row of the model whose output is a map."""
    last = len(model.model) - 2
    if wrong := [row for row in rows if not 0 <= row <= last]:
        raise UserError(
            f"embed={wrong}: the rows of this model that give maps are 0 to {last}; the usual one is {last}."
        )


def _chunks(pictures: Iterable[Picture | Unread], size: int | None, skipped: Skipped) -> Iterator[Batch]:
    """Batches of at most `size`; tensors stand apart, with those of their own shape."""
    held: list[Picture] = []
    for picture in pictures:
        if isinstance(picture, Unread):
            skipped.reasons.append(f"{picture.path}: {picture.reason}")
            continue
        if held and _kind(held[0]) != _kind(picture):
            yield Batch(held)
            held = []
        held.append(picture)
        if len(held) >= (size or min(max(picture.together, 1), MOST_TOGETHER)):
            yield Batch(held)
            held = []
    if held:
        yield Batch(held)


def _kind(picture: Picture) -> tuple:
    return (picture.tile.shape, picture.tile.dtype, picture.tile.device) if picture.together else ()


def _results(model: Detector, pictures: list[Picture], options: Options, buffers: dict | None = None) -> list:
    """The Results of one batch of pictures, or with `options.embed` their vectors."""
    start = time.perf_counter()
    images, fits = _input(pictures, options.imgsz, model, buffers)
    warming = 0.0
    if options.embed is None:
        with torch.inference_mode():
            warming = warm(model, images)
    prepared = _now(images)
    with torch.inference_mode(), torch.autocast("cuda", torch.float16, enabled=options.half and images.is_cuda):
        if options.embed is not None:
            vectors = _embedded(model, images, options.embed)
        else:
            decoded = predict_decoded(model, images, options.augment)
    if options.embed is not None:
        return list(vectors.clone())  # outside of inference mode: a caller may train on them
    inferred = _now(images)
    with torch.inference_mode():
        detections = [
            replace(found, boxes=fit.to_original(found.boxes))
            for fit, found in zip(fits, task_of(model).decode(decoded, options.rule), strict=True)
        ]
    done, count = _now(images), len(pictures)
    results = []
    for picture, found in zip(pictures, detections, strict=True):
        speed = {
            "preprocess": picture.milliseconds + (prepared - start - warming) * 1e3 / count,
            "inference": (inferred - prepared) * 1e3 / count,
            "postprocess": (done - inferred) * 1e3 / count,
        }
        rows, input_shape = found.rows(), tuple(images.shape[2:])
        results.append(Results(picture.pixels, picture.path, model.names, rows, speed, input_shape=input_shape))
    return results


def _now(images: Tensor) -> float:
    if images.is_cuda:
        torch.cuda.synchronize(images.device)
    return time.perf_counter()


def _input(
    pictures: list[Picture], imgsz: int | tuple[int, int], model: Detector, room: dict | None = None
) -> tuple[Tensor, list[Fit]]:
    """The network input (B, 3, H, W), channels last in memory, and how each image lies on it. room: keeps the letterbox buffer."""
    weight = next(model.parameters())
    if pictures[0].together:
        images = torch.stack([picture.tile for picture in pictures]).to(weight.device, weight.dtype)
        size = tuple(images.shape[2:])
        return images.contiguous(memory_format=torch.channels_last), [Fit(size, size, size, (0, 0))] * len(pictures)
    fits = _fits([picture.pixels.shape[:2] for picture in pictures], imgsz, model)
    shape, room = (len(pictures), *fits[0].canvas, 3), {} if room is None else room
    if shape not in room:
        room.clear()
        room[shape] = torch.empty(shape, dtype=torch.uint8)
    canvas = room[shape]
    for image, picture, fit in zip(canvas, pictures, fits, strict=True):
        tile = picture.tile if picture.tile.shape[:2] == fit.resized else resize_pixels(picture.pixels, fit.resized)
        (top, left), (height, width) = fit.pad, fit.resized
        if fit.resized != fit.canvas:
            image.fill_(GREY)
        image[top : top + height, left : left + width] = tile
    return torch.div(canvas.to(weight.device).permute(0, 3, 1, 2), 255).to(
        weight.dtype
    ), fits  # one pass, and a new tensor


def _fits(sizes: list[tuple[int, int]], imgsz: int | tuple[int, int], model: Detector) -> list[Fit]:
    multiple = model.multiple
    if canvas := model.fixed:  # an exported model that takes one size
        pass
    elif len(set(sizes)) == 1:
        canvas = minimal_canvas(sizes[0], imgsz, multiple)
    else:
        canvas = legal_size(imgsz, multiple)
    return [letterbox_fit(size, canvas) for size in sizes]


def _embedded(model: Detector, images: Tensor, rows: Sequence[int]) -> Tensor:
    """(B, 3, H, W) -> (B, channels of the rows): each row's map averaged over its pixels, float32."""
    kept: dict[int, Tensor] = {}

    def keeper(row: int) -> Callable:
        return lambda module, inputs, output: kept.__setitem__(row, output.float().mean((2, 3)))

    hooks = [model.model[row].register_forward_hook(keeper(row)) for row in dict.fromkeys(rows)]
    try:
        getattr(model, "forward", model)(images)  # not what was compiled: hooks are not part of it
    finally:
        for hook in hooks:
            hook.remove()
    return torch.cat([kept[row] for row in rows], 1)
