"""What `benchmark` does: every engine and precision that is installed, on this machine, with what each costs and what it changes.

Milliseconds of a machine say little of another; the ratios of engines that took turns in one process say more. All numbers stand
beside threads, instruction set and versions.
"""

from __future__ import annotations

import contextlib
import io
import math
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..config.devices import select_device
from ..config.errors import UserError
from ..config.files import new_run_dir
from ..config.settings import Settings
from ..data.dataset import Sample
from ..data.from_settings import class_names, find_data, scan_split
from ..data.images import letterbox, read_image
from ..data.loading.loader import ValLoader, workers_for
from ..data.shapes import draw as drawn_shapes
from ..export.compare import compare_candidates, tolerance_for
from ..models.detector import Detector
from ..ops.letterbox import letterbox_fit
from ..plots.charts import NoMatplotlib
from ..val.loop import DEFAULT_CONF, validate
from .candidates import REFERENCE, Contender, contenders, opened, provided, reason, runs_of, tried
from .report import Bench, EngineRecord, draw, markdown, save
from .timing import Timing, interleave, machine

ROUNDS, WARMUP = 15, 2
SLOW = 10.0  # times the reference: one that takes longer does not take part in the rounds
COMPARED = 4  # batches of images, at most, on which boxes are compared
IOU = 0.7
KINDS = {"float32": "float32", "int8": "int8"}  # precision of a row -> that of a tolerance; others have 16 bits
TAKES = frozenset(
    (
        "mode",
        "task",
        "model",
        "data",
        "split",
        "imgsz",
        "batch",
        "device",
        "format",
        "project",
        "name",
        "exist_ok",
        "plots",
        "workers",
        "allow_outside",
        "verbose",
        "debug",
        "max_det",
        "single_cls",
        "pretrained",
    )
)


@dataclass(frozen=True)
class Ground:
    """What all contenders are measured on. images: batches to compare boxes on; told: what they are. samples: with labels, or none."""

    settings: Settings
    device: torch.device
    shape: tuple[int, int, int, int]
    images: Sequence[Tensor]
    told: str
    samples: Sequence[Sample] = ()
    data: str = ""


def run_benchmark(model: Detector, weights: Path, origin: Path, settings: Settings) -> Bench:
    """Measure all contenders; prints and writes the table. weights: the model's checkpoint in a folder to export into.

    origin: the file the model is from, beside which exports may lie already. A contender that fails is a row with the reason. Raises
    UserError for settings that cannot be meant.
    """
    if others := sorted(settings.given - TAKES):
        print(
            f"note: benchmark runs all precisions of the engines in the same way; without effect: {', '.join(others)}",
            file=sys.stderr,
        )
    device = select_device(settings.device)
    ground = _ground(model, settings, device)
    found = contenders(ground.settings, device)
    folder = new_run_dir("benchmark", settings.project, settings.name, settings.exist_ok)
    print(
        f"Benchmark of {origin.name}: {len(found)} engines at {ground.shape[3]}x{ground.shape[2]}, batch {ground.shape[0]}, on {device}, "
        f"{torch.get_num_threads()} threads; results in {folder}"
    )
    rows = {one.name: EngineRecord(one.name, one.precision) for one in found}
    ready = _made_ready(found, rows, model, weights, origin, ground)
    timed = _timed(ready, rows, ground)
    _judged(timed, rows, ground)
    high, wide = ground.shape[2:]
    bench = Bench(
        origin.name,
        ground.data,
        (high, wide),
        ground.shape[0],
        str(device),
        ROUNDS,
        REFERENCE,
        ground.told,
        tuple(rows.values()),
        machine(),
        folder,
    )
    save(bench, folder)
    print(f"\n{markdown(bench)}\nTable: {folder / 'benchmark.md'}, {folder / 'benchmark.json'}")
    if settings.plots:
        try:
            print(f"Picture: {draw(folder / 'benchmark.png', bench)}")
        except NoMatplotlib as error:
            print(f"note: no picture: {error}")
    return bench


def _ground(model: Detector, settings: Settings, device: torch.device) -> Ground:
    batch = settings.batch if "batch" in settings.given else 1
    if batch < 1:
        raise UserError(f"batch={batch:g}: benchmark takes a whole number of images, 1 or more.")
    sides = (settings.imgsz,) * 2 if isinstance(settings.imgsz, int) else tuple(settings.imgsz)
    high, wide = (-(-side // model.multiple) * model.multiple for side in sides)
    if (high, wide) != sides:
        print(
            f"imgsz={settings.imgsz} is no multiple of {model.multiple}, which this model needs; using {high} x {wide}"
        )
    settings = settings.replace(batch=int(batch), imgsz=high if high == wide else (high, wide))
    samples, data, told = [], "", "drawn shapes"
    if settings.data is not None:
        if high != wide:
            raise UserError(f"imgsz={settings.imgsz}: with data= give one side, for example imgsz={max(high, wide)}.")
        spec, settings = find_data(settings)
        names = class_names(settings, spec)
        if list(names.values()) != list(model.names.values()):
            raise UserError(
                f"{spec.path} has the classes {', '.join(names.values())}; the model knows {', '.join(model.names.values())}. Give "
                "the data it was trained for, or none."
            )
        samples = scan_split(spec, settings.split, settings).samples
        data = f"split {settings.split} of {spec.path.name}, {len(samples)} images"
        told = f"images of {spec.path.name}"
    count = COMPARED * int(batch)
    if samples:
        chosen = samples[:: max(len(samples) // count, 1)][:count]
        pictures = [read_image(sample.image) for sample in chosen]
    else:
        pictures = [
            torch.from_numpy(drawn_shapes(np.random.RandomState(number))[0]).permute(2, 0, 1) for number in range(count)
        ]
    tiles = [
        letterbox(picture, letterbox_fit(tuple(picture.shape[1:]), (high, wide))).float() / 255 for picture in pictures
    ]
    tiles = (tiles * count)[: max(len(tiles) // int(batch), 1) * int(batch)]
    images = [part.contiguous() for part in torch.stack(tiles).split(int(batch))]
    return Ground(settings, device, (int(batch), 3, high, wide), images, f"{len(pictures)} {told}", samples, data)


def _made_ready(
    found: Sequence[Contender],
    rows: dict[str, EngineRecord],
    model: Detector,
    weights: Path,
    origin: Path,
    ground: Ground,
) -> dict[str, object]:
    """Name and engine of the contenders that came through. Each gets its file, is tried in a process of its own, then opened here."""
    ready: dict[str, object] = {}
    usual = 0.0  # seconds of the reference
    for one in found:
        start = time.perf_counter()
        with (
            _told_of(rows, one.name),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            one = provided(one, weights, origin, model, ground.settings, ground.device)
            trial = tried(one, ground.shape, ground.device)
            rows[one.name] = replace(
                rows[one.name], bytes=one.bytes, load=trial.load, first=trial.first, memory=trial.memory, gpu=trial.gpu
            )
            usual = trial.again if one.name == REFERENCE else usual
            if usual and trial.again > SLOW * usual:
                raise UserError(
                    f"{trial.again:.2f} s a batch, {trial.again / usual:.0f} times the reference: too slow to take part in the rounds "
                    f"(this machine has no fast {one.precision})"
                )
            engine = opened(one, ground.device)
            rows[one.name] = replace(rows[one.name], runtime=engine.runtime)
            with torch.inference_mode():
                engine.decode(engine(ground.images[0].to(ground.device)))  # a compiled one is compiled here
            ready[one.name] = engine
        told = rows[one.name].reason or f"opens in {rows[one.name].load:.2f} s"
        print(f"  {one.name:<24} {time.perf_counter() - start:6.1f} s  {told[:140]}", flush=True)
    return ready


@contextlib.contextmanager
def _told_of(rows: dict[str, EngineRecord], name: str) -> Iterator[None]:
    """A contender that fails is a row with the reason."""
    try:
        yield
    except Exception as error:  # noqa: BLE001  whatever a runtime raises
        rows[name] = replace(rows[name], reason=reason(error))


def _timed(ready: Mapping[str, object], rows: dict[str, EngineRecord], ground: Ground) -> dict[str, object]:
    """The engines that ran all rounds, their rows with latencies."""
    failed: dict[str, str] = {}

    def guarded(name: str, run):
        def once() -> None:
            if name not in failed:
                try:
                    run()
                except Exception as error:  # noqa: BLE001
                    failed[name] = reason(error)

        return once

    runs = {name: guarded(name, run) for name, run in runs_of(ready, ground.images[0]).items()}
    with torch.inference_mode():
        taken: dict[str, Timing] = interleave(runs, rounds=ROUNDS, warmup=WARMUP, device=ground.device)
    base = taken.get(REFERENCE) if REFERENCE not in failed else None
    for name, timing in taken.items():
        if name in failed:
            rows[name] = replace(rows[name], reason=failed[name])
        else:
            rows[name] = replace(rows[name], latency=timing, faster=timing.faster_than(base) if base else None)
    return {name: engine for name, engine in ready.items() if name not in failed}


def _judged(engines: Mapping[str, object], rows: dict[str, EngineRecord], ground: Ground) -> None:
    """Write the agreement with the reference and, where there are labels, the average precision into the rows."""
    reference: Tensor | None = None
    for name, engine in engines.items():  # the reference is the first
        with _told_of(rows, name), torch.inference_mode():
            batches = [engine.decode(engine(batch.to(ground.device))) for batch in ground.images]
            candidates = torch.cat(batches).float().cpu()  # (B, 4+nc, A)
            reference = candidates if reference is None else reference
            if REFERENCE in engines:
                kind = KINDS.get(rows[name].precision, "half")
                tolerance, _ = tolerance_for(kind, engines[REFERENCE].model, ground.images[0].to(ground.device))
                found = compare_candidates(reference, candidates, tolerance, ground.shape)
                rows[name] = replace(
                    rows[name], pixels=found.pixels, score=found.score, matched=found.matched, boxes=found.count
                )
            if ground.samples:
                print(f"  {name:<24} measuring mAP on {len(ground.samples)} images", flush=True)
                metrics = _measured(engine, ground)
                rows[name] = replace(rows[name], ap=_finite(metrics.ap), ap50=_finite(metrics.ap50))


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _measured(engine, ground: Ground):
    settings = ground.settings
    loader = ValLoader(
        ground.samples,
        imgsz=ground.shape[2],
        batch=ground.shape[0],
        stride=engine.multiple,
        device=ground.device,
        rect=False,
        workers=workers_for(ground.device, settings),
    )
    return validate(engine, ground.samples, loader, conf=DEFAULT_CONF, iou=IOU, max_det=settings.max_det)


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """A folder for weights and exports that is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="bitfalcon-benchmark-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)
