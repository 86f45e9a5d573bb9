"""One function a verb for the command line, and the `YOLO` object for scripts."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from .config.errors import UserError
from .config.settings import Settings, given
from .export.formats import format_of
from .export.open import open_engine
from .models.build import DEFAULT_MODEL, graph_for, is_weights
from .models.detector import Detector
from .models.summary import Summary, packed_lines, show_info
from .models.weights.checkpoint import MAX_TEXT, Checkpoint
from .models.weights.checkpoint import save as save_checkpoint
from .models.weights.foreign import Opened, convert_foreign, convert_ours, load_any, open_any
from .yolo import YOLO

if TYPE_CHECKING:
    from .benchmark.experiment import Experiment
    from .benchmark.record import Bench
    from .benchmark.selftest import Verdict
    from .data.doctor.report import Report
    from .tasks.metrics import Metrics


def train(settings: Settings) -> Metrics:
    """The verb train."""
    from .train.run import run_train

    source = settings.model or DEFAULT_MODEL
    if format_of(source):
        raise UserError(
            f"train needs a graph (.yaml) or a checkpoint (.pt); model={source} is an exported model, whose weights cannot be "
            "trained. Take the .pt it was made from."
        )
    return run_train(settings, load_any(source) if is_weights(source) and not settings.resume else None).metrics


def val(settings: Settings) -> Metrics:
    """The verb val."""
    return YOLO(_weights(settings, "val")).val(**given(settings))


def predict(settings: Settings) -> None:
    """The verb predict: writes annotated images and prints a line an image, or with json= an object an image."""
    if settings.source is None:
        raise UserError("predict needs source=: an image, a folder or a glob, for example source=images/ .")
    with contextlib.redirect_stdout(
        sys.stderr if settings.json else sys.stdout
    ):  # a pipe reads what json= prints, and nothing else
        model = YOLO(_weights(settings, "predict"), verbose=True)
    count = sum(1 for _ in model.predict(stream=True, **{"save": not settings.json, **given(settings)}))
    if not count:
        raise UserError(f"None of the images of source={settings.source} could be read.")


def info(settings: Settings) -> Summary | None:
    """The verb info; of another maker's or another task's checkpoint it says what the file holds, and nothing is built."""
    source = settings.model or DEFAULT_MODEL
    if format_of(source):
        return _describe_export(source)
    if is_weights(source):
        opened = open_any(source)
        _describe(source, opened)
        names = opened.graph.names if isinstance(opened, Checkpoint) else opened.names
        print(f"classes: {', '.join(names.values()) or 'not named in the file'}")
        if not isinstance(opened, Checkpoint) or not opened.graph.rows:
            return None
        graph = opened.graph
    else:
        graph = graph_for(source, settings)
    with torch.device("meta"):  # shapes alone: nothing is computed
        model = Detector(graph)
    return show_info(model, settings)


def convert(settings: Settings) -> Path:
    """The verb convert: another maker's checkpoint to our format, or with to= a checkpoint to a family's own keys."""
    if settings.model is None or not is_weights(settings.model):
        raise UserError(
            "convert needs a checkpoint: bitfalcon convert x.pt, or bitfalcon convert best.pt to=turbo out=y.pt ."
        )
    source = Path(settings.model)
    out = Path(settings.out or source.with_name(f"{source.stem}-{settings.to or 'bitfalcon'}.pt"))
    if out.exists() and out.samefile(source):
        raise UserError(f"out={out} is the file to convert; give another name.")
    opened = open_any(source)
    if settings.to is None and isinstance(opened, Checkpoint):
        raise UserError(
            f"'{source}' is in our format already. Give to= to write a maker's keys: v1, turbo, yolo11 or yolov8."
        )
    checkpoint = opened if isinstance(opened, Checkpoint) else convert_foreign(opened)
    _describe(source, opened)
    if settings.to is None:
        save_checkpoint(out, checkpoint)
        what = f"{len(checkpoint.state)} tensors in our format"
    else:
        what = f"a state dict of {len(convert_ours(checkpoint, settings.to, out))} tensors in the keys of {settings.to}"
    print(f"wrote {out}: {what}; licence: {_licence(checkpoint)}")
    return out


def _describe_export(source: str) -> None:
    engine = open_engine(source, "cpu")
    about, names = engine.about, ", ".join(engine.names.values())
    print(
        f"{source}: {engine!r}; {about.description or 'no description'}; {about.date or 'no date'}; licence: {about.license or 'not stated'}"
    )
    print(f"classes: {names}")


def _describe(source: str | Path, opened: Checkpoint | Opened) -> None:
    if not isinstance(opened, Checkpoint):
        print(opened.describe())
        return
    graph, family = opened.graph, opened.source.get("family", "of no other maker")
    for line in packed_lines(opened, source):
        print(line)
    print(
        f"{source}: bitfalcon checkpoint, {graph.name} scale={graph.scale or 'none'}, family {family}, "
        f"{opened.source.get('task', 'detect')}, {graph.nc} classes, {len(opened.state)} tensors, epoch {opened.epoch + 1}, "
        f"{opened.date}; licence: {_licence(opened)}"
    )


def _licence(opened: Checkpoint) -> str:
    return (opened.license or "not stated")[:MAX_TEXT]


def export(settings: Settings) -> Path:
    """The verb export: a file for other programs, compared with the network. Of a graph, one with random weights."""
    from .export.run import run_export

    source = settings.model or DEFAULT_MODEL
    if is_weights(source) or format_of(source):
        return Path(YOLO(source).export(**given(settings)))
    print(f"note: {source} is a graph, its weights are random.", file=sys.stderr)
    return run_export(Detector(graph_for(source, settings)), settings, source)


def doctor(settings: Settings) -> Report:
    """The verb doctor: everything wrong or odd in a dataset, printed."""
    from .data.doctor.report import run_doctor

    return run_doctor(settings)


def selftest(settings: Settings) -> Verdict:
    """The verb selftest: trains on generated shapes and says whether the accuracy is what it should be."""
    from .benchmark.selftest import run_selftest

    return run_selftest(settings)


def bit(settings: Settings) -> object:
    """The verb bit: layers made ternary step by step, with the price of each step."""
    from .bit.run import run_bit

    return run_bit(settings)


def sizes(settings: Settings) -> Experiment:
    """The verb sizes: trains a graph in several sizes under one budget and writes one table."""
    from .benchmark.sizes import run_sizes

    return run_sizes(settings)


def benchmark(settings: Settings) -> Bench:
    """The verb benchmark: every engine and precision that is installed, measured on this machine."""
    source = _weights(settings, "benchmark")
    if not is_weights(source):
        raise UserError(f"benchmark exports by itself: give the checkpoint that '{source}' was made from.")
    return YOLO(source).benchmark(**given(settings))


def _weights(settings: Settings, verb: str) -> str:
    if settings.model is None:
        raise UserError(
            f"{verb} needs model=: a trained checkpoint, for example model=runs/detect/train/weights/best.pt ."
        )
    if not is_weights(settings.model) and not format_of(settings.model):
        raise UserError(
            f"{verb} needs trained weights; model={settings.model} does not end in .pt. Give a checkpoint, for example "
            "model=runs/detect/train/weights/best.pt ."
        )
    return settings.model
