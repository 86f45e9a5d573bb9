"""From sources to Results: pictures are read ahead, put into batches and shared out among devices.

Written from spec/interface.md 8.1 and 8.2.
"""

from __future__ import annotations

import contextlib
import queue
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..config.errors import UserError
from ..config.settings import Settings
from ..data.images import UnreadableImage
from ..models.detector import Detector
from ..ops.instances import Instances
from ..ops.letterbox import legal_size
from ..tasks import Task, task_of
from .inference import Options, detect, fits_of, network_input
from .keypoints import Keypoints
from .patch_masks import PatchMasks
from .reader import Picture, Unread, read_pictures
from .results import Results
from .sources import Item, Video
from .steps import Steps
from .tiled import detect_tiles

MAX_TOGETHER = 16  # images of one tensor that go through the network at once, unless batch= says how many


@dataclass
class Batch:
    """Pictures that go through the network together. results: their Results, or vectors (n,) of embed; empty before."""

    pictures: list[Picture]
    results: list = field(default_factory=list)


@dataclass(repr=False)
class Predictor:
    """A prediction under way: the argument of callbacks of its events.

    args: the settings. source: the items that are read. save_dir: the run folder, None until something is written.
    batch: paths, images (BGR uint8) and printed lines of the batch at hand. pictures: of this batch. results: of this
    batch; what a callback puts there at on_predict_postprocess_end is written, and what it puts there at
    on_predict_batch_end is what the caller gets. seen: images done. speed: milliseconds an image, by stage. trackers:
    of the verb track, one for each clip. track_metrics: how tracks agree with labels=.
    """

    model: Detector
    args: Settings
    source: Sequence[Item]
    save_dir: Path | None = None
    batch: tuple[list, list, list] = ((), (), ())
    pictures: Sequence[Picture] = ()
    results: list = field(default_factory=list)
    seen: int = 0
    speed: dict[str, float] = field(default_factory=dict)
    trackers: list = field(default_factory=list)
    track_metrics: dict[str, float] = field(default_factory=dict)

    @property
    def dataset(self) -> Sequence[Item]:
        """The items that are read."""
        return self.source

    @property
    def imgsz(self) -> list[int]:
        """Height and width of the network input, where the images are square or imgsz= names both."""
        return list(legal_size(self.args.imgsz, self.model.multiple))

    def __repr__(self) -> str:
        return f"Predictor({self.seen} images of {len(self.source)} sources, save_dir={str(self.save_dir)!r})"


Watch = Callable[[str, Batch], None]


def predict_batches(
    model: Detector,
    sources: Iterable[Item],
    options: Options,
    *,
    skipped: list[str] | None = None,
    watch: Watch | None = None,
    steps: Steps = Steps(),
) -> Iterator[Batch]:
    """Yield batches of sources that can be read, in order, with their Results. The model must be in eval mode.

    skipped: gets a line for each source that could not be read. watch: called with the events on_predict_batch_start
    and on_predict_postprocess_end and their batch. steps: what the caller replaces.

    A thread is one batch ahead of the caller, who meanwhile draws and writes; except of a webcam. Where the model has
    `twins`, copies on other devices, batches are shared out among all, each to one that is free.

    Raises UserError for a row of `embed` that is none.
    """
    if options.embed is not None:
        embed_rows(model, options.embed)
    watch = watch or (lambda event, batch: None)
    models = [model, *getattr(model, "twins", ())]
    buffers: list[dict] = [{} for _ in models]
    task = task_of(model)
    is_live = isinstance(sources, Sequence) and any(map(_is_webcam, sources))

    def tile(pixels: np.ndarray) -> Tensor | None:
        if options.tiling is not None and options.tiling.divides(pixels.shape[:2]):
            return None
        return task.tile(pixels, fits_of([pixels.shape[:2]], options, model, task)[0])

    def compute(index: int, batch: Batch) -> list:
        try:
            return _results(models[index], batch.pictures, options, task, buffers[index])
        except UnreadableImage as error:  # a large image that is not complete
            return [Unread(batch.pictures[0].path, str(error))]

    depth = min(max(2 * (options.batch or 1), 4), 32)
    kept = {"vid_stride": options.vid_stride, "keep_all": options.keep_all, "tiling": options.tiling}
    pictures = read_pictures(sources, tile, depth=depth, **kept)
    with contextlib.closing(pictures):
        skipped = [] if skipped is None else skipped
        batches = _batches(pictures, options.batch, skipped)
        if steps.compute is None:
            computed = _compute_ahead(batches, compute, len(models), 0 if is_live else len(models))
        else:
            computed = _compute_ahead(batches, lambda index, batch: [], 1, 0)  # computed below, between its events
        with contextlib.closing(computed):
            for batch, results in computed:
                if results and isinstance(results[0], Unread):
                    skipped.append(results[0].line)
                    continue
                watch("on_predict_batch_start", batch)
                batch.results = results if steps.compute is None else steps.compute(batch)
                watch("on_predict_postprocess_end", batch)
                yield batch


def _is_webcam(item: Item) -> bool:
    return isinstance(item, Video) and isinstance(item.source, int)


def _compute_ahead(
    batches: Iterable[Batch], compute: Callable[[int, Batch], list], models: int, ahead: int
) -> Iterator[tuple[Batch, list]]:
    """Yield each batch with its results, in order, while threads compute up to `ahead` later batches.

    compute: computes a batch with model 0 to models - 1; each model computes one batch at a time.
    """
    if not ahead:
        yield from ((batch, compute(0, batch)) for batch in batches)
        return
    free: queue.SimpleQueue[int] = queue.SimpleQueue()
    for index in range(models):
        free.put(index)

    def work(batch: Batch) -> list:
        index = free.get()
        try:
            return compute(index, batch)
        finally:
            free.put(index)

    waiting: deque[tuple[Batch, Future]] = deque()
    # The readers' threads set torch's thread count of every new thread to 1; these threads use the caller's count.
    pool = ThreadPoolExecutor(models, "bitfalcon-predict", partial(torch.set_num_threads, torch.get_num_threads()))
    try:
        for batch in batches:
            waiting.append((batch, pool.submit(work, batch)))
            if len(waiting) > ahead:
                first, future = waiting.popleft()
                yield first, future.result()
        for first, future in waiting:
            yield first, future.result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def embed_rows(model: Detector, rows: Sequence[int]) -> None:
    """Raise UserError unless each of `rows` is a row of the model whose output is a map."""
    last = len(model.model) - 2
    if wrong := [row for row in rows if not 0 <= row <= last]:
        raise UserError(
            f"embed={wrong}: the rows of this model that give maps are 0 to {last}; the usual one is {last}."
        )


def _batches(pictures: Iterable[Picture | Unread], size: int | None, skipped: list[str]) -> Iterator[Batch]:
    """Yield batches of at most `size` pictures; pictures of tensors are batched with those of their own shape.

    A picture that is cut into tiles is a batch of its own.
    """
    batch: list[Picture] = []
    for picture in pictures:
        if isinstance(picture, Unread):
            skipped.append(picture.line)
            continue
        if batch and _kind(batch[0]) != _kind(picture):
            yield Batch(batch)
            batch = []
        batch.append(picture)
        limit = 1 if picture.tile is None else size or min(max(picture.together, 1), MAX_TOGETHER)
        if len(batch) >= limit:
            yield Batch(batch)
            batch = []
    if batch:
        yield Batch(batch)


def _kind(picture: Picture) -> tuple:
    if picture.tile is None:
        return ("tiles",)
    return (picture.tile.shape, picture.tile.dtype, picture.tile.device) if picture.together else ()


def _results(model: Detector, pictures: list[Picture], options: Options, task: Task, buffers: dict) -> list:
    """Return the Results of one batch of pictures, or with `options.embed` their vectors."""
    if options.embed is not None:
        images, _ = network_input(pictures, options, model, task, buffers)
        with torch.inference_mode(), torch.autocast(images.device.type, options.autocast, enabled=options.is_autocast):
            vectors = _embed(model, images, options.embed)
        return list(vectors.clone())  # outside of inference mode: a caller may train on them
    if pictures[0].tile is None:
        found = detect_tiles(model, pictures[0].pixels, options, task, buffers)
    else:
        found = detect(model, pictures, options, task, buffers)
    stages = ("preprocess", "inference", "postprocess")
    shared = {stage: getattr(found, stage) * 1e3 / len(pictures) for stage in stages}
    results = []
    for picture, each in zip(pictures, found.detections, strict=True):
        speed = {**shared, "preprocess": shared["preprocess"] + picture.milliseconds}
        parts = _parts(each, model, picture.pixels.shape[:2], picture.tile is None)
        parts |= {"speed": speed, "input_shape": found.input_shape, "orig_shape": picture.pixels.shape[:2]}
        results.append(Results(picture.pixels, picture.path, model.names, **parts))
    return results


def _parts(
    instances: Instances, model: Detector, size: tuple[int, int], in_tiles: bool
) -> dict[str, Tensor | PatchMasks | Keypoints | None]:
    """Return the parts of Results that the objects of one image of `size` (h, w) have."""
    if instances.probabilities is not None:
        return {"probs": instances.probabilities[0]}
    if instances.xywhr is not None:
        return {"obb": instances.rows()}
    masks = None
    if instances.patches is not None and len(instances):
        masks = PatchMasks(instances.patches) if in_tiles else instances.patches.planes()
    keypoints = instances.keypoints
    if keypoints is not None:
        keypoints = Keypoints(keypoints, size, model.keypoints.skeleton)
    return {"boxes": instances.rows(), "masks": masks, "keypoints": keypoints}


def _embed(model: Detector, images: Tensor, rows: Sequence[int]) -> Tensor:
    """(B, 3, H, W) -> (B, channels of the rows): the map of each row averaged over its pixels, float32."""
    means: dict[int, Tensor] = {}

    def keep_mean_of(row: int) -> Callable:
        return lambda module, inputs, output: means.__setitem__(row, output.float().mean((2, 3)))

    hooks = [model.model[row].register_forward_hook(keep_mean_of(row)) for row in dict.fromkeys(rows)]
    try:
        getattr(model, "forward", model)(images)  # not the compiled function, which has no hooks
    finally:
        for hook in hooks:
            hook.remove()
    return torch.cat([means[row] for row in rows], 1)
