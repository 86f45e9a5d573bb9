"""The verb predict: run a model over sources, and write and print the results picture by picture.

Written from spec/interface.md 8.4 and 10.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from ..config.callbacks import Events
from ..config.errors import UserError
from ..config.notes import print_note, print_note_once
from ..config.printable import one_line, say
from ..config.settings import Settings
from ..models.detector import Detector
from ..models.inference.precision import why_not_half
from ..ops.letterbox import rounding_note
from ..ops.nms import Suppression
from ..ops.tiles import Tiling
from ..tasks import task_of
from .inference import Options
from .pipeline import Batch, Predictor, embed_rows, predict_batches
from .reader import Picture
from .results import Results
from .shards import ShardOutput
from .sources import Item, Ready, Url, Video, list_sources
from .steps import Steps
from .tiled import overlap_note
from .writer import Writer

FEW = 10  # items that need no progress bar
MAX_REASONS = 100  # unreadable sources that are named; the others are counted


def run_predict(
    model: Detector,
    settings: Settings,
    source: object,
    verbose: bool,
    events: Events | None = None,
    steps: Steps = Steps(),
    *,
    network: bool = False,
) -> Iterator:
    """Yield the Results of a source, or its vectors (n,) with settings.embed; write and print what the settings say.

    verbose: print a line for each image, and the speed. steps: what the caller replaces. network: also print how the
    network computes. Raises UserError for a wrong source or setting, already before the first item is drawn from the
    iterator.
    """
    if source is None:
        raise UserError("predict needs source=: an image, a folder or a glob, for example source=images/ .")
    task = task_of(model)
    notes, settings = task.unused(settings) + overlap_note(settings), task.effective(settings)
    items = list_sources(source, allow_url=settings.allow_url, multiple=model.multiple, notes=notes)
    shard = None if settings.shard is None else ShardOutput(settings, items, task.name)
    classes, embed = ([value] if isinstance(value, int) else value for value in (settings.classes, settings.embed))
    if classes and not task.objects:
        notes.append(f"classes={list(classes)} has no effect here: every class gets its probability.")
    elif unknown := [index for index in classes or () if index not in model.names]:
        notes.append(f"classes={unknown}: the model knows 0 to {model.nc - 1}, others are never found.")
    if embed is not None:
        embed_rows(model, embed)
    _check_tiling(settings, items, steps)
    batch = int(settings.batch) if "batch" in settings.given else None
    if batch is not None and batch < 1:
        notes.append(f"batch={settings.batch:g}: the largest batch is searched for training only; using 1.")
        batch = 1
    if text := rounding_note(settings.imgsz, model.multiple):
        notes.append(text)
    if settings.half and not model.exported and (reason := why_not_half(model)):
        notes.append(f"half=True: {reason}.")
    print_note_once(*notes)
    confidence = 0.25 if settings.conf is None else settings.conf
    suppression = {"iou": settings.iou, "max_det": settings.max_det, "agnostic": settings.agnostic_nms}
    options = Options(
        settings.imgsz,
        Suppression(confidence, classes=classes, **suppression),
        batch=batch,
        square="rect" in settings.given and not settings.rect,
        letterbox=settings.letterbox,
        augment=settings.augment,
        autocast=torch.float16 if settings.half and next(model.parameters()).is_cuda else None,
        retina_masks=settings.retina_masks,
        embed=embed,
        vid_stride=settings.vid_stride,
        keep_all=settings.stream_buffer,
        tiling=None if settings.tile is None else Tiling(settings.tile, settings.overlap),
    )
    verbose = verbose and settings.verbose
    items = items if shard is None else shard.remaining
    return _run(Predictor(model, settings, items), options, (verbose, network), events or Events(), steps, shard)


def _check_tiling(settings: Settings, items: Sequence[Item], steps: Steps) -> None:
    """Raise UserError where tile= is given with what cannot be cut into tiles."""
    if settings.tile is None:
        return
    reason = ""
    if settings.embed is not None:
        reason = "embed= gives a vector for the image as a whole; leave one of the two away."
    elif any(isinstance(item, Ready) for item in items):
        reason = "a tensor goes to the network as it is; give an array, a Pillow image or a file to cut it into tiles."
    elif steps.compute is not None:
        reason = "a predictor with steps of its own gets whole images; leave tile= away, or take the usual predictor."
    if reason:
        raise UserError(f"tile={settings.tile}: {reason}")


def _run(
    predictor: Predictor,
    options: Options,
    printing: tuple[bool, bool],
    events: Events,
    steps: Steps,
    shard: ShardOutput | None,
) -> Iterator:
    """Predict batch by batch, and write and print each batch before its results are yielded."""
    (verbose, network), settings, items, skipped = printing, predictor.args, predictor.source, []
    writer, total_ms = Writer(predictor), Counter()
    lines = verbose and not settings.json

    def fire(event: str, batch: Batch) -> None:
        pictures = batch.pictures
        predictor.batch = [picture.path for picture in pictures], [picture.pixels for picture in pictures], []
        predictor.pictures, predictor.results = pictures, batch.results
        events.fire(event, predictor)

    def write_one(picture: Picture, result: Results) -> str:
        writer.write(picture, result)
        if shard is not None:
            shard.add(picture.path, result)
        if picture.tile is None and len(result) >= settings.max_det:
            _note_limit(settings, picture)
        return _line(picture, result, items)

    def write(batch: Batch) -> None:
        for picture, result in zip(batch.pictures, predictor.results):
            predictor.seen += 1
            if isinstance(result, Results):
                line = write_one(picture, result) if steps.write is None else steps.write(write_one, picture, result)
                predictor.batch[2].append(line)
                total_ms.update({stage: ms for stage, ms in result.speed.items() if ms is not None})
                if lines:
                    say(predictor.batch[2][-1])
            if settings.json and isinstance(result, (Results, Tensor)):
                say(_json(picture, result), flush=True)
        predictor.speed = {stage: ms / predictor.seen for stage, ms in total_ms.items()}

    shape = ()
    with contextlib.ExitStack() as stack:
        stack.callback(writer.close)
        if shard is not None:
            stack.enter_context(shard.collecting(skipped))
        bar = stack.enter_context(_progress_bar(items, lines))
        events.fire("on_predict_start", predictor)
        batches = predict_batches(predictor.model, items, options, skipped=skipped, watch=fire, steps=steps)
        for batch in stack.enter_context(contextlib.closing(batches)):
            _stop_at_unread(settings, skipped)
            write(batch)
            bar.update(len(batch.pictures))
            if batch.results and isinstance(batch.results[0], Results):
                shape = (len(batch.pictures), 3, *batch.results[0].input_shape)
            events.fire("on_predict_batch_end", predictor)
            yield from predictor.results
    _stop_at_unread(settings, skipped)
    _note_skipped(skipped, len(items))
    _print_summary(predictor, writer, shape if verbose else (), len(skipped), network)
    events.fire("on_predict_end", predictor)


def _progress_bar(items: Sequence[Item], lines: bool) -> tqdm:
    """A bar on stderr. It stays hidden if a line is printed for each image, outside a terminal, and for few images."""
    endless = any(isinstance(item, Video) for item in items)
    shown = not lines and sys.stderr.isatty() and (endless or len(items) > FEW)
    return tqdm(total=None if endless else len(items), desc="predict", unit="image", disable=not shown, file=sys.stderr)


def _line(picture: Picture, result: Results, items: Sequence[Item]) -> str:
    """The line that is printed about a picture."""
    height, width = result.input_shape
    summary = f"{height}x{width} {one_line(result.verbose())}{result.speed['inference']:.1f}ms"
    item, path = items[picture.number - 1], one_line(picture.path)
    if isinstance(item, Video):
        frame = f"{picture.frame}/{picture.frames}" if picture.frames else f"{picture.frame}"
        return f"video {picture.number}/{len(items)} (frame {frame}) {path}: {summary}"
    if isinstance(item, (Path, Url)):
        return f"image {picture.number}/{len(items)} {path}: {summary}"
    return f"{picture.number - 1}: {summary}"


def _json(picture: Picture, result: Results | Tensor) -> str:
    """The results of a picture, or its embedding (n,), as a line of JSON."""
    record: dict[str, object] = {"path": picture.path}
    if picture.frame:
        record["frame"] = picture.frame
    if isinstance(result, Tensor):
        record["embedding"] = [round(value, 6) for value in result.tolist()]
    else:
        record["height"], record["width"] = result.orig_shape
        record["detections" if result.probs is None else "classes"] = result.summary()
        record["speed"] = {stage: round(ms, 2) for stage, ms in result.speed.items()}
    return json.dumps(record, ensure_ascii=False)


def _stop_at_unread(settings: Settings, skipped: Sequence[str]) -> None:
    if skipped and settings.on_bad_image == "stop":
        raise UserError(f"{skipped[0]}. Restore the file, or go on without it by on_bad_image=skip.")


def _note_limit(settings: Settings, picture: Picture) -> None:
    print_note_once(f"max_det={settings.max_det}: the best detections are kept; '{picture.path}' may have more.")


def _note_skipped(reasons: Sequence[str], count: int) -> None:
    if reasons:
        print_note(
            f"{len(reasons)} of {count} sources could not be read and were skipped:",
            *(f"skipped {reason}" for reason in reasons[:MAX_REASONS]),
        )
    if len(reasons) > MAX_REASONS:
        print_note(f"... and {len(reasons) - MAX_REASONS} more")


def _print_summary(predictor: Predictor, writer: Writer, shape: Sequence[int], unread: int, network: bool) -> None:
    """Print the speed (with the last input's `shape`, if given) and the run folder; on stderr if stdout is JSON.

    network: also print how the network computes.
    """
    out = sys.stderr if predictor.args.json else sys.stdout
    if shape and predictor.speed:
        speed = ", ".join(f"{ms:.1f}ms {stage}" for stage, ms in predictor.speed.items())
        say(f"Speed: {speed} per image at shape ({', '.join(map(str, shape))})", file=out)
        if network and (how := getattr(predictor.model, "how", None)):
            say(f"Network: {how}", file=out)
    if predictor.save_dir is not None:
        skipped = f"; {unread} images could not be read" if unread else ""
        say(f"Results saved to {predictor.save_dir}{skipped}", file=out)
        if predictor.args.save_txt:
            say(f"{writer.label_files} label files saved to {predictor.save_dir / 'labels'}", file=out)
