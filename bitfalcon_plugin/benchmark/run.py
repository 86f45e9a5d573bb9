"""The verb `benchmark`: measure every engine and precision that is installed, on this machine.

Milliseconds of one machine do not carry over to another one; the ratios of engines that took turns in one process do,
better. The result names threads, instruction set and versions.
"""

from __future__ import annotations

import contextlib
import io
import math
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..config.devices import select_device
from ..config.errors import UserError
from ..config.files import new_run_dir
from ..config.notes import print_note
from ..config.settings import Settings
from ..data.dataset import Sample
from ..data.from_settings import class_names, find_data, scan_split
from ..data.images import letterbox, read_image
from ..data.loading.loader import Reading, ValLoader, workers_for
from ..data.shapes import draw as draw_shapes
from ..export.compare import compare_candidates, tolerance_for
from ..export.runtimes.runtime import Runtime
from ..models.detector import Detector
from ..ops.letterbox import legal_size, letterbox_fit, rounding_note
from ..ops.nms import Suppression
from ..tasks import task_of
from ..tasks.metrics import Metrics
from ..val.loop import DEFAULT_CONF, ValOptions, validate
from .candidates import REFERENCE, Candidate, Network, list_candidates, open_candidate, with_file
from .report import Bench, EngineRecord, write
from .timing import interleave, machine
from .trial import error_line, run_trial

ROUNDS, WARMUP = 15, 2
MAX_SLOWDOWN = 10.0  # times the reference; a slower candidate takes no part in the rounds
MAX_BATCHES = 4  # of images on which boxes are compared
IOU = 0.7
TOLERANCES = {
    "float32": "float32",
    "int8": "int8",
}  # precision of a candidate -> that of a tolerance; others have 16 bits
Records = dict[str, EngineRecord]  # by the name of the candidate
Engines = Mapping[str, Network | Runtime]  # likewise, open and without a failure so far


@dataclass(frozen=True)
class Conditions:
    """The conditions that are the same for all candidates.

    shape: of a batch, (B, 3, H, W). images: the batches on which boxes are compared; images_name: what they are.
    samples: with labels, for mAP, or none; data: what they are, or "".
    """

    settings: Settings
    device: torch.device
    shape: tuple[int, int, int, int]
    images: Sequence[Tensor]
    images_name: str
    samples: Sequence[Sample] = ()
    data: str = ""


def run_benchmark(model: Detector, weights: Path, origin: Path, settings: Settings) -> Bench:
    """Measure all candidates; print and write the table.

    weights: a checkpoint of the model, in a folder into which exports may be written. origin: the file that the model
    is from; exports beside it are used. A candidate that fails is a record with the reason. Raises UserError for
    settings that no candidate could run with.
    """
    if others := settings.unused_by("benchmark"):
        names = ", ".join(others)
        print_note(f"benchmark runs all precisions of the engines in the same way; without effect: {names}")
    conditions = _conditions(model, settings, select_device(settings.device))
    batch, _, height, width = conditions.shape
    candidates = list_candidates(conditions.settings, conditions.device)
    folder = new_run_dir("benchmark", settings.project, settings.name, settings.exist_ok)
    print(
        f"Benchmark of {origin.name}: {len(candidates)} engines at {width}x{height}, batch {batch}, "
        f"on {conditions.device}, {torch.get_num_threads()} threads; results in {folder}"
    )
    records = {candidate.name: EngineRecord(candidate.name, candidate.precision) for candidate in candidates}
    engines = _prepare(candidates, records, model, (weights, origin), conditions)
    engines = _time(engines, records, conditions)
    _evaluate(engines, records, conditions)
    bench = Bench(
        model=origin.name,
        data=conditions.data,
        imgsz=(height, width),
        batch=batch,
        device=str(conditions.device),
        rounds=ROUNDS,
        reference=REFERENCE,
        images=conditions.images_name,
        rows=tuple(records.values()),
        facts=machine(),
        folder=folder,
    )
    write(bench, folder, picture=settings.plots)
    return bench


def _conditions(model: Detector, settings: Settings, device: torch.device) -> Conditions:
    if "batch" not in settings.given:
        settings = settings.replace(batch=1)
    if settings.batch < 1:
        raise UserError(f"batch={settings.batch:g}: benchmark takes a whole number of images, 1 or more.")
    batch, imgsz, multiple = int(settings.batch), settings.imgsz, model.multiple
    height, width = legal_size(imgsz, multiple)
    if text := rounding_note(imgsz, multiple):
        print(text)
    settings = settings.replace(batch=batch, imgsz=height if height == width else (height, width))
    samples, data, source = [], "", "drawn shapes"
    if settings.data is not None:
        if height != width:
            raise UserError(
                f"imgsz={settings.imgsz}: with data= give one side, for example imgsz={max(height, width)}."
            )
        spec, settings = find_data(settings)
        names = class_names(settings, spec)
        if list(names.values()) != list(model.names.values()):
            raise UserError(
                f"{spec.path} has the classes {', '.join(names.values())}; the model knows "
                f"{', '.join(model.names.values())}. Give the data it was trained for, or none."
            )
        samples = scan_split(spec, settings.split, settings).samples
        data = f"split {settings.split} of {spec.path.name}, {len(samples)} images"
        source = f"images of {spec.path.name}"
    images = _compared_images(samples, MAX_BATCHES * batch)
    count = len(images)
    images = [
        letterbox(image, letterbox_fit(tuple(image.shape[1:]), (height, width))).float() / 255 for image in images
    ]
    images = (images * batch)[: max(count // batch, 1) * batch]  # whole batches
    batches = [images.contiguous() for images in torch.stack(images).split(batch)]
    return Conditions(settings, device, (batch, 3, height, width), batches, f"{count} {source}", samples, data)


def _compared_images(samples: Sequence[Sample], count: int) -> list[Tensor]:
    """Read `count` images evenly spread over the samples, or draw shapes where there are none; uint8 (3, H, W)."""
    if samples:
        return [read_image(sample.image) for sample in samples[:: max(len(samples) // count, 1)][:count]]
    shapes = (draw_shapes(np.random.RandomState(number))[0] for number in range(count))
    return [torch.from_numpy(image).permute(2, 0, 1) for image in shapes]


def _prepare(
    candidates: Sequence[Candidate], records: Records, model: Detector, files: tuple[Path, Path], conditions: Conditions
) -> Engines:
    """Give each candidate its file, try it in a process of its own, and open it here; returns those that came through.

    files: weights and origin, as of `run_benchmark`.
    """
    engines: dict[str, Network | Runtime] = {}
    reference = 0.0  # seconds of the reference
    for candidate in candidates:
        name, begin = candidate.name, time.perf_counter()
        with _failures(records, name), _silence():
            candidate = with_file(candidate, *files, model, conditions.settings)
            trial = run_trial(candidate, conditions.shape, conditions.device)
            measured = {"bytes": candidate.bytes, "load": trial.load, "first": trial.first_run}
            _update(records, name, **measured, memory=trial.memory, gpu=trial.gpu_memory)
            seconds = trial.second_run
            reference = seconds if name == REFERENCE else reference
            if reference and seconds > MAX_SLOWDOWN * reference:
                raise UserError(
                    f"{seconds:.2f} s a batch, {seconds / reference:.0f} times the reference: too slow to take part "
                    f"in the rounds (this machine has no fast {candidate.precision})"
                )
            engine = open_candidate(candidate, conditions.device)
            _update(records, name, runtime=engine.runtime)
            with torch.inference_mode():
                engine.decode(engine(conditions.images[0].to(conditions.device)))  # compiles what is to be compiled
            engines[name] = engine
        outcome = records[name].reason or f"opens in {records[name].load:.2f} s"
        print(f"  {name:<24} {time.perf_counter() - begin:6.1f} s  {outcome[:140]}", flush=True)
    return engines


def _update(records: Records, name: str, **values: object) -> None:
    records[name] = replace(records[name], **values)


@contextlib.contextmanager
def _failures(records: Records, name: str) -> Iterator[None]:
    """Write what a candidate raises into its record, instead of ending the benchmark."""
    try:
        yield
    except Exception as error:  # noqa: BLE001  a runtime may raise anything
        _update(records, name, reason=error_line(error))


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield


def _time(engines: Engines, records: Records, conditions: Conditions) -> Engines:
    """Time the engines in turns and write their latencies; returns those that ran all rounds."""

    def forward(name: str) -> Callable[[], None]:
        engine = engines[name]
        images = conditions.images[0].to(next(engine.parameters()).device)

        def run() -> None:
            if not records[name].reason:  # after its first failure an engine only waits for the others
                with _failures(records, name):
                    engine.decode(engine(images))

        return run

    with torch.inference_mode():
        runs = {name: forward(name) for name in engines}
        timings = interleave(runs, rounds=ROUNDS, warmup=WARMUP, device=conditions.device)
    timings = {name: timing for name, timing in timings.items() if not records[name].reason}
    reference = timings.get(REFERENCE)
    for name, timing in timings.items():
        _update(records, name, latency=timing, faster=timing.faster_than(reference) if reference else None)
    return {name: engines[name] for name in timings}


def _evaluate(engines: Engines, records: Records, conditions: Conditions) -> None:
    """Write the agreement with the reference and, where there are labels, the average precision into the records."""
    reference: Tensor | None = None
    for name, engine in engines.items():  # the reference is the first
        with _failures(records, name), torch.inference_mode():
            batches = [engine.decode(engine(images.to(conditions.device))) for images in conditions.images]
            predictions = torch.cat(batches).float().cpu()  # (images, 4+nc, A)
            reference = predictions if reference is None else reference
            if REFERENCE in engines:
                precision = TOLERANCES.get(records[name].precision, "half")
                images = conditions.images[0].to(conditions.device)
                tolerance, _ = tolerance_for(precision, engines[REFERENCE].model, images)
                agreement = compare_candidates(reference, predictions, tolerance, conditions.shape)
                _update(records, name, pixels=agreement.pixels, score=agreement.score)
                _update(records, name, matched=agreement.matched, boxes=agreement.count)
            if conditions.samples:
                print(f"  {name:<24} measuring mAP on {len(conditions.samples)} images", flush=True)
                metrics = _validate(engine, conditions)
                _update(records, name, ap=_finite(metrics.ap), ap50=_finite(metrics.ap50))


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _validate(engine: Network | Runtime, conditions: Conditions) -> Metrics:
    reading = Reading(conditions.device, workers_for(conditions.device, conditions.settings))
    sizes = {"imgsz": conditions.shape[2], "batch": conditions.shape[0], "multiple": engine.multiple}
    loader = ValLoader(conditions.samples, reading, rect=False, **sizes)
    rule = Suppression(conf=DEFAULT_CONF, iou=IOU, max_det=conditions.settings.max_det, multi_label=True)
    return validate(engine, conditions.samples, loader, ValOptions(rule), task=task_of(engine)).metrics


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """Yield a folder for weights and exports, and remove it afterwards."""
    with tempfile.TemporaryDirectory(prefix="bitfalcon-benchmark-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)
