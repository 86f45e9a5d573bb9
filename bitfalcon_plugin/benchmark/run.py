"""The verb `benchmark`: measure every runtime and precision that is installed, on this machine.

Milliseconds do not carry over from one machine to another; ratios of runtimes that took turns in one process do so
better. The result names threads, instruction set and versions.
"""

from __future__ import annotations

import contextlib
import math
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..config.devices import select_device
from ..config.errors import UserError
from ..config.notes import print_note
from ..config.printable import say
from ..config.run_folder import new_run_dir
from ..config.settings import Settings
from ..data.dataset import Sample
from ..data.formats.dataset_yaml import DataSpec
from ..data.from_settings import class_names, find_data, scan_split
from ..data.images import UnreadableImage, read_image
from ..data.loading.loader import Reading, workers_for
from ..data.shapes import draw as draw_shapes
from ..export.compare import compare_decoded, further_values, tolerance_for
from ..export.images import network_input
from ..export.runtimes.runtime import Runtime
from ..models.detector import Detector
from ..ops.letterbox import legal_size, rounding_note
from ..ops.nms import Suppression
from ..tasks import task_of
from ..tasks.detect import Decoded, predict_decoded
from ..tasks.metrics import TaskMetrics
from ..val.loop import ValOptions, validate
from .candidates import REFERENCE, Candidate, Network, list_candidates, open_candidate, with_file
from .quiet import measure_quiet, quiet_note
from .report import Bench, EngineRecord, write
from .timing import machine
from .trial import run_trial
from .turns import Records, Runtimes, WithFile, failures, silence, time_in_turns, time_workloads, update

ROUNDS, WARMUP = 15, 2
BATCHES = (1, 8)  # that are measured where no batch was asked for; the first one with accuracy and memory
MORE_ROUNDS = 7  # for the other batches and numbers of threads
MAX_BATCHES = 4  # of images on which boxes are compared
IOU = 0.7
TOLERANCES = {"float32": "float32", "int8": "int8"}  # precision of a candidate -> of a tolerance; others: "half"


@dataclass(frozen=True)
class Conditions:
    """The conditions that are the same for all candidates.

    shape: of a batch, (B, 3, H, W). images: the batches on which boxes are compared; images_name: what they are.
    samples: with labels, to validate on, or none; data: what they are, or "".
    """

    settings: Settings
    device: torch.device
    shape: tuple[int, int, int, int]
    images: Sequence[Tensor]
    images_name: str
    samples: Sequence[Sample] = ()
    data: str = ""


def run_benchmark(
    model: Detector, weights: Path, origin: Path, settings: Settings, batches: Sequence[int] = ()
) -> Bench:
    """Measure all candidates; print and write the tables.

    weights: a checkpoint of the model, in a folder into which exports may be written. origin: the file that the model
    is from; exports beside it are used. batches: numbers of images for which latencies alone are measured too. A
    candidate that fails is a record with the reason. Raises UserError for settings that no candidate could run with.
    """
    if others := settings.unused_by("benchmark"):
        names = ", ".join(others)
        print_note(f"benchmark runs all precisions of the engines in the same way; without effect: {names}")
    conditions = _conditions(model, settings, select_device(settings.device))
    quiet = measure_quiet()
    if text := quiet_note(quiet):
        print_note(text)
    batch, _, height, width = conditions.shape
    candidates = list_candidates(conditions.settings, conditions.device)
    folder = new_run_dir("benchmark", settings.project, settings.name, settings.exist_ok, settings.task)
    say(
        f"Benchmark of {origin.name}: {len(candidates)} engines at {width}x{height}, batch {batch}, "
        f"on {conditions.device}, {torch.get_num_threads()} threads; results in {folder}"
    )
    records = {candidate.name: EngineRecord(candidate.name, candidate.precision) for candidate in candidates}

    def given_file(candidate: Candidate, count: int) -> Candidate:
        return with_file(candidate, weights, origin, model, conditions.settings.replace(batch=count), conditions.device)

    runtimes, ready = _prepare(candidates, records, given_file, conditions)
    images, device = conditions.images[0], conditions.device
    runtimes = time_in_turns(runtimes, records, images, device, ROUNDS, WARMUP)
    _evaluate(runtimes, records, conditions)
    fast = [ready[name] for name in runtimes]
    runtimes = {}  # closes them
    grid = _workloads((batch, *batches), conditions)
    workloads = time_workloads(fast, grid, given_file, images[:1], device, min(ROUNDS, MORE_ROUNDS), WARMUP)
    common = {"model": origin.name, "imgsz": (height, width), "batch": batch, "device": str(conditions.device)}
    measured = {"data": conditions.data, "images": conditions.images_name, "rows": tuple(records.values())}
    measured |= {"workloads": workloads, "quiet": quiet}
    bench = Bench(**common, **measured, rounds=ROUNDS, reference=REFERENCE, facts=machine(), folder=folder)
    write(bench, folder, picture=settings.plots)
    return bench


def _conditions(model: Detector, settings: Settings, device: torch.device) -> Conditions:
    if "batch" not in settings.given:
        settings = settings.replace(batch=BATCHES[0])
    if settings.batch < 1:
        raise UserError(f"batch={settings.batch:g}: benchmark takes a whole number of images, 1 or more.")
    batch = int(settings.batch)
    if text := rounding_note(settings.imgsz, model.multiple):
        print_note(text)
    height, width = size = legal_size(settings.imgsz, model.multiple)
    settings = settings.replace(batch=batch, imgsz=height if height == width else size)
    samples, data, source = [], "", "drawn shapes"
    if settings.data is not None:
        spec, settings, samples = _labelled(model, settings)
        data = f"split {settings.split} of {spec.path.name}, {len(samples)} images"
        source = f"images of {spec.path.name}"
    images = _compared_images(samples, MAX_BATCHES * batch)
    count = len(images)
    images = [network_input(image, size, task_of(model), settings.letterbox) for image in images]
    images = (images * batch)[: max(count // batch, 1) * batch]  # whole batches
    batches = [images.contiguous() for images in torch.cat(images).split(batch)]
    return Conditions(settings, device, (batch, 3, height, width), batches, f"{count} {source}", samples, data)


def _labelled(model: Detector, settings: Settings) -> tuple[DataSpec, Settings, Sequence[Sample]]:
    """Return the dataset that data= names, the settings with what it brings, and the samples of split=."""
    if not isinstance(settings.imgsz, int):
        side = max(settings.imgsz)
        raise UserError(f"imgsz={settings.imgsz}: with data= give one side, for example imgsz={side}.")
    form = task_of(model).data
    spec, settings = find_data(settings, form)
    names, own_names = list(class_names(settings, spec).values()), list(model.names.values())
    if names != own_names:
        raise UserError(
            f"{spec.path} has the classes {', '.join(names)}; the model knows {', '.join(own_names)}. "
            "Give the data it was trained for, or none."
        )
    return spec, settings, scan_split(spec, settings.split, settings, form).samples


def _compared_images(samples: Sequence[Sample], count: int) -> list[Tensor]:
    """Read `count` images evenly spread over the samples, or draw shapes where there are none; uint8 (3, H, W)."""
    if samples:
        return _spread(samples, count)
    shapes = (draw_shapes(np.random.RandomState(number))[0] for number in range(count))
    return [torch.from_numpy(image).permute(2, 0, 1) for image in shapes]


def _spread(samples: Sequence[Sample], count: int) -> list[Tensor]:
    """Read `count` images, evenly spread over the samples where all can be read. Raises UserError where none can."""
    spread = range(0, len(samples), max(len(samples) // count, 1))
    images: list[Tensor] = []
    for index in dict.fromkeys((*spread, *range(len(samples)))):  # the others stand in for those that cannot be read
        if len(images) == count:
            break
        with contextlib.suppress(UnreadableImage):
            images.append(read_image(samples[index].image))
    if not images:
        raise UserError(f"None of {len(samples)} images can be read; the first is '{samples[0].image}'.")
    return images


def _prepare(
    candidates: Sequence[Candidate], records: Records, with_file: WithFile, conditions: Conditions
) -> tuple[Runtimes, dict[str, Candidate]]:
    """Give each candidate its file, try it in a process of its own, and open it here.

    Returns the runtimes that came through, and their candidates with their files.
    """
    runtimes: dict[str, Network | Runtime] = {}
    ready: dict[str, Candidate] = {}
    for candidate in candidates:
        name, begin = candidate.name, time.perf_counter()
        with failures(records, name), silence():
            candidate = with_file(candidate, conditions.shape[0])
            trial = run_trial(candidate, conditions.shape, conditions.device)
            measured = {"bytes": candidate.bytes, "load": trial.load, "first": trial.first_run}
            update(records, name, **measured, memory=trial.memory, gpu=trial.gpu_memory)
            runtime = open_candidate(candidate, conditions.device)
            update(records, name, runtime=runtime.runtime)
            with torch.inference_mode():
                runtime.decode(runtime(conditions.images[0].to(conditions.device)))  # compiles what is to be compiled
            runtimes[name], ready[name] = runtime, candidate
        outcome = records[name].reason or f"opens in {records[name].load:.2f} s"
        say(f"  {name:<24} {time.perf_counter() - begin:6.1f} s  {outcome[:140]}", flush=True)
    return runtimes, ready


def _workloads(batches: Sequence[int], conditions: Conditions) -> list[tuple[int, int]]:
    """(batch, threads) that are measured besides the conditions: each batch with one thread, and with all."""
    every = torch.get_num_threads()
    counts = (1, every) if conditions.device.type == "cpu" else (every,)
    grid = dict.fromkeys((batch, count) for batch in batches for count in counts)
    return [each for each in grid if each != (conditions.shape[0], every)]


def _evaluate(runtimes: Runtimes, records: Records, conditions: Conditions) -> None:
    """Write into the records the agreement with the reference and, where there are labels, the numbers of val."""
    reference: Decoded | None = None
    for name, runtime in runtimes.items():  # the reference is the first
        with failures(records, name), torch.inference_mode():
            predictions = _decoded(runtime, conditions)
            reference = predictions if reference is None else reference
            if REFERENCE in runtimes:
                precision = TOLERANCES.get(records[name].precision, "half")
                images = conditions.images[0].to(conditions.device)
                tolerance, _ = tolerance_for(precision, runtimes[REFERENCE].model, [images])
                kinds = further_values(runtimes[REFERENCE].model, reference)
                agreement = compare_decoded(reference, predictions, tolerance, conditions.shape, kinds)
                update(records, name, pixels=agreement.pixels, score=agreement.score, further=dict(agreement.further))
                update(records, name, matched=agreement.matched, boxes=agreement.count)
            if conditions.samples:
                say(f"  {name:<24} validating on {len(conditions.samples)} images", flush=True)
                metrics = _validate(runtime, conditions)
                numbers = {name: number for name, number in metrics.headline.items() if math.isfinite(number)}
                update(records, name, numbers=numbers)


def _decoded(runtime: Network | Runtime, conditions: Conditions) -> Decoded:
    """The decoded predictions for all images that are compared, in float32 on the CPU."""
    batches = [predict_decoded(runtime, images.to(conditions.device)) for images in conditions.images]
    maps = [each.prototypes for each in batches if each.prototypes is not None]
    candidates = torch.cat([each.candidates for each in batches]).float().cpu()
    return Decoded(candidates, runtime.nc, torch.cat(maps).float().cpu() if maps else None)


def _validate(runtime: Network | Runtime, conditions: Conditions) -> TaskMetrics:
    workers = workers_for(conditions.device, conditions.settings)
    reading = Reading(conditions.device, workers, on_bad_image=conditions.settings.on_bad_image)
    sizes = {"imgsz": conditions.shape[2], "batch": conditions.shape[0], "multiple": runtime.multiple}
    task = task_of(runtime)
    loader = task.data.val_loader(conditions.samples, reading, conditions.settings, rect=False, **sizes)
    rule = Suppression(conf=task.conf, iou=IOU, max_det=conditions.settings.max_det, multi_label=True)
    return validate(runtime, conditions.samples, loader, ValOptions(rule), task=task).metrics


@contextmanager
def scratch() -> Iterator[Path]:
    """Yield a folder for weights and exports, and remove it afterwards."""
    with tempfile.TemporaryDirectory(prefix="bitfalcon-benchmark-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)
