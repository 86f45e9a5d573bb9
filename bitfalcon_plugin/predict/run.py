"""The verb predict: what a run over sources writes into its folder and prints, picture by picture.

Written from spec/interface.md 8.4 and 10.
"""

from __future__ import annotations

import contextlib
import sys
from collections import Counter
from collections.abc import Iterator, Sequence

from torch import Tensor
from tqdm import tqdm

from ..config.callbacks import Events
from ..config.errors import UserError
from ..config.settings import Settings
from ..models.detector import Detector
from ..models.inference.precision import why_not_half
from .pipeline import Batch, Predictor, Skipped, embed_rows, predict_batches
from .results import Results
from .sources import Item, Video, list_sources
from .writer import Writer, _json, _json_vector, _line

FEW = 10  # items that need no progress bar
TOLD = 10  # unreadable sources that are named; the others are counted


def run_predict(
    model: Detector, settings: Settings, source: object, verbose: bool, events: Events | None = None
) -> Iterator:
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
        notes.append(
            f"imgsz={settings.imgsz} is no multiple of {model.multiple}, which this model needs; using {rounded}."
        )
    if settings.half and not model.exported and (reason := why_not_half(model)):
        notes.append(f"half=True: {reason}.")
    for note in notes:
        print(f"note: {note}", file=sys.stderr)
    options = {
        "imgsz": settings.imgsz,
        "conf": 0.25 if settings.conf is None else settings.conf,
        "iou": settings.iou,
        "max_det": settings.max_det,
        "batch": batch,
        "agnostic": settings.agnostic_nms,
        "classes": classes,
        "augment": settings.augment,
        "half": settings.half,
        "embed": embed,
        "vid_stride": settings.vid_stride,
        "keep_all": settings.stream_buffer,
    }
    return _run(Predictor(model, settings, items), options, verbose and settings.verbose, events or Events())


def _run(about: Predictor, options: dict, verbose: bool, events: Events) -> Iterator:
    settings, items, skipped = about.args, about.source, Skipped()
    out = sys.stderr if settings.json else sys.stdout
    writer, totals = Writer(about), Counter()

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
        for batch in stack.enter_context(
            contextlib.closing(predict_batches(about.model, items, **options, skipped=skipped, watch=watch))
        ):
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
