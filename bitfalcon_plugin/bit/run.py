"""The verb bit: the experiment of replacing layers step by step, from a ranking to a small file.

scan      rank parts, blocks or layers by the mAP that their replacement costs
replace   replace from the least harmful unit on, a row a step, until max_drop= points of mAP are lost
qat       replace and fine-tune (bit.qat)
report    the table of several models beside each other: mAP, size, latency
pack      the small file
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch

from ..benchmark.record import write_report
from ..benchmark.timing import machine
from ..config.devices import select_device
from ..config.errors import MissingFileError, UserError
from ..config.printable import say
from ..config.run_folder import new_run_dir
from ..config.settings import Settings
from ..config.weight_files import SUFFIXES
from ..data.dataset import Sample
from ..data.from_settings import class_names, find_data, legal_side, same_classes, scan_split
from ..export.formats import ModelKind, model_kind
from ..models.bitify import parts_by_row, replace_alike, ternary_layers, weights_of
from ..models.build import task_of_graph
from ..models.detector import Detector
from ..models.graph.bit_policy import PARTS
from ..models.inference.prepare import prepare_for_inference
from ..models.modules.bit_kernels import describe
from ..models.weights.checkpoint import Checkpoint, save_checkpoint
from ..models.weights.foreign import open_checkpoint
from ..tasks import task_named, task_of
from ..val.run import counted_batch
from .calibration import calibrate, calibration_images
from .packing import pack, packed_of, sizes
from .qat import accuracy, as_checkpoint, run_qat
from .report import FILE, FLOAT, Step, draw, load_steps, markdown, save_steps, time_steps
from .scan import IMAGES, Ranking, price, replaced, resumed_ranking, scan_units, units_of

SUFFIX = "-bit.pt"


@dataclass(frozen=True)
class Subject:
    """The float model of an experiment on its device, with its checkpoint, images and resolved settings."""

    model: Detector
    checkpoint: Checkpoint
    settings: Settings
    train: Sequence[Sample]
    val: Sequence[Sample]


def run_bit(settings: Settings) -> object:
    """Run the step that mode= (step=) names and return its result. UserError without mode=."""
    if settings.step is None:
        raise UserError(
            f"bit needs mode=, one of {', '.join(STEPS)}: bitfalcon bit mode=scan model=best.pt data=data.yaml"
        )
    return STEPS[settings.step](settings)


def run_scan(settings: Settings) -> Ranking:
    """Rank the units of a model; resume=<folder> goes on with an interrupted scan."""
    subject = _subject(settings)
    return _scanned(subject, _folder(subject.settings))


def _scanned(subject: Subject, folder: Path) -> Ranking:
    settings = subject.settings
    units = units_of(subject.model, settings.by, settings.bit or "all", settings.keep or "default")
    ranking = scan_units(subject.model, units, subject.train, subject.val, settings, folder)
    say(f"\n{ranking.table()}\nResults: {folder}")
    return ranking


def run_replace(settings: Settings) -> list[Step]:
    """Replace units in the order of a scan (of resume=<folder>, or made first), the least harmful first.

    The last model that loses at most max_drop= points of mAP is written as replaced.pt, with norms measured anew, not
    fine-tuned. With resume= the steps that an interrupted walk has written are not measured again.
    """
    subject = _subject(settings)
    settings, folder = subject.settings, _folder(subject.settings)
    before = resumed_ranking(folder, settings)
    ranking = _scanned(subject, folder)  # units in scan.json are not measured again
    done = _measured_steps(folder) if before is not None and before.losses == ranking.losses else {}
    measure = task_of(subject.model).measure
    steps, count, model = [_first(subject, ranking.ap)], 0, None  # count: units that stay within max_drop=
    for number in range(1, len(ranking.losses) + 1):
        units, trial = tuple(loss.unit for loss in ranking.losses[:number]), None
        if (step := done.get(units)) is None:
            trial = _walked(subject, ranking, number)
            raw, norms = price(trial, subject.train, subject.val, settings)
            step = _step(f"{number} units", trial, units, ap_raw=raw, ap_norms=norms)
        steps.append(step)
        save_steps(folder, steps)
        drop = 100 * (ranking.ap - step.ap_norms)
        say(
            f"{number:>3}/{len(ranking.losses)} + {units[-1]:<32} {measure} {step.ap_norms:.4f} ({-drop:+.1f} points), "
            f"{step.ternary_share:.0%} ternary, {step.bytes_packed / 1e6:.2f} MB packed"
        )
        if drop > settings.max_drop:
            say(f"max_drop={settings.max_drop:g}: stopped; {count} units stay within it.")
            break
        count, model = number, trial
    if count:
        if model is None:  # an earlier run measured this step; it left numbers, and no model
            model = _walked(subject, ranking, count)
            calibrate(model, calibration_images(subject.train, settings, subject.model, IMAGES))
        path = folder / "replaced.pt"
        save_checkpoint(path, as_checkpoint(model, subject.checkpoint))
        say(f"{path}: fine-tune it with bitfalcon bit mode=qat model={path} data={settings.data}")
    _write(folder, steps, task_of(subject.model).measure)
    return steps


def _walked(subject: Subject, ranking: Ranking, count: int) -> Detector:
    """Return a copy of the model with the first `count` units of a ranking ternary."""
    return replaced(subject.model, [layer for loss in ranking.losses[:count] for layer in loss.layers])


def _measured_steps(folder: Path) -> dict[tuple[str, ...], Step]:
    """Return the steps that an interrupted walk has measured, by the units that are ternary."""
    steps = load_steps(folder) if (folder / FILE).is_file() else []
    return {step.replaced: step for step in steps if step.ap_norms is not None and step.bytes_packed is not None}


def run_report(settings: Settings) -> list[Step]:
    """Compare the models of model=float.pt,head.pt,all.pt, the float one first: mAP of every stage, size, latency.

    Of each ternary model the table also has what the same replacement costs the float model without training. Writes
    report.md, steps.json and report.png.
    """
    paths = [path.strip() for path in str(settings.model or "").split(",") if path.strip()]
    if not paths or any(model_kind(path) is not ModelKind.CHECKPOINT for path in paths):
        raise UserError(
            "bit mode=report compares checkpoints: give model=float.pt,head.pt,all.pt , the float one first."
        )
    subject = _subject(settings.replace(model=paths[0]))
    settings, folder = subject.settings, _folder(subject.settings)
    base = accuracy(subject.model, subject.val, settings).main
    steps, runs = [_first(subject, base)], {}
    image = torch.zeros(1, subject.model.graph.channels, settings.imgsz, settings.imgsz)
    image = image.contiguous(memory_format=torch.channels_last)
    for path in paths[1:]:
        step, model = _reported(path, subject)
        while step.name in {other.name for other in steps}:
            step = replace(step, name=step.name + "'")
        steps.append(step)
        runs[step.name] = _run(model, image)
        save_steps(folder, steps)
    with torch.inference_mode():
        steps = time_steps(steps, runs, subject.model, settings.imgsz)
    _write(folder, steps, task_of(subject.model).measure)
    return steps


def _run(model: Detector, image: torch.Tensor) -> Callable[[], object]:
    return lambda: model.decode(model(image))


def _reported(path: str, subject: Subject) -> tuple[Step, Detector]:
    """Measure a ternary checkpoint, and the same replacement in the float model; return a model that predicts too."""
    settings, checkpoint = subject.settings, open_checkpoint(path)
    model = checkpoint.model()
    layers = tuple(ternary_layers(model))
    if not layers:
        raise UserError(f"'{path}' has no ternary layer; the float model is the first of model=, and only that.")
    trial = copy.deepcopy(subject.model)
    replace_alike(trial, model)
    raw, norms = price(trial, subject.train, subject.val, settings)
    ready = prepare_for_inference(model, torch.device("cpu"))  # as predict runs it
    small = checkpoint if checkpoint.packed else packed_of(checkpoint)
    aps = {"ap_raw": raw, "ap_norms": norms}
    aps["ap_tuned"] = None if checkpoint.packed else accuracy(ready, subject.val, settings).main
    aps["ap_packed"] = accuracy(small.model(), subject.val, settings).main
    return _step(_name(model), model, layers, small, **aps), ready


def _name(model: Detector) -> str:
    """Return the parts that have ternary layers, such as head+neck, or all."""
    by_row = parts_by_row(model.graph)
    ternary = {by_row[int(layer.split(".")[1])] for layer in ternary_layers(model)}
    parts = [part for part in PARTS[::-1] if part in ternary]
    return "all" if len(parts) == len(PARTS) else "+".join(parts)


def run_pack(settings: Settings) -> Path:
    """Write the packed file of a ternary checkpoint (out=, fmt=) and check that it gives the same outputs."""
    if settings.model is None or model_kind(settings.model) is not ModelKind.CHECKPOINT:
        raise UserError(
            "bit mode=pack needs the checkpoint of a ternary model: "
            "bitfalcon bit mode=pack model=best.pt out=best-bit.pt"
        )
    source = Path(settings.model)
    out = Path(settings.out or source.with_name(source.stem + SUFFIX))
    if out.suffix.lower() not in SUFFIXES:
        raise UserError(f"out={out}: expected a file name that ends in .pt or .safetensors.")
    if out.exists() and out.resolve() == source.resolve():
        raise UserError(f"out={out} is the checkpoint itself; it could not be trained on any more. Give another name.")
    checkpoint = open_checkpoint(source)
    with tempfile.TemporaryDirectory(prefix="bitfalcon-pack-") as scratch:  # an error leaves an earlier `out` unchanged
        packed = pack(checkpoint, Path(scratch, "x.pt"), settings.fmt)
        _check_outputs(packed, open_checkpoint(Path(scratch, "x.pt")))
    save_checkpoint(out, packed)
    size = out.stat().st_size / 1e6
    say(f"{out}: {size:.3f} MB, packed {packed.packed}; read back, its outputs are the same")
    say(_size_table(packed))
    return out


def _check_outputs(packed: Checkpoint, read: Checkpoint) -> None:
    """Compare the outputs of what was packed and of the file; RuntimeError where they differ in a bit."""
    side = 2 * packed.model().multiple
    image = torch.rand(1, packed.graph.channels, side, side, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected, outputs = packed.model()(image), read.model()(image)
    if not all(torch.equal(expected[key], outputs[key]) for key in expected):
        raise RuntimeError("the packed file does not give back what was packed; nothing was written")


def _size_table(packed: Checkpoint) -> str:
    lines = []
    for part, size in sizes(packed).items():
        single, half, t2, t5 = (size[form] / 1e6 for form in ("fp32", "fp16", "t2", "t5"))
        lines.append(
            f"  {part:<6} float32 {single:.2f} MB, float16 {half:.2f} MB, 2-bit {t2:.3f} MB, base-3 {t5:.3f} MB "
            f"({single / t5:.1f} times smaller than float32, {half / t5:.1f} than float16)"
        )
    return "\n".join(lines)


def _subject(settings: Settings) -> Subject:
    if settings.model is None or model_kind(settings.model) is not ModelKind.CHECKPOINT:
        raise UserError(f"bit mode={settings.step} starts from trained weights: give model=best.pt.")
    checkpoint = open_checkpoint(settings.model).to_train(settings.model)
    form = task_named(task_of_graph(checkpoint.graph)).data
    data, settings = find_data(settings, form)
    same_classes(checkpoint.graph.names, class_names(settings, data), data)
    device = select_device(settings.device)
    model = checkpoint.model().to(device, memory_format=torch.channels_last).requires_grad_(False)
    if layers := ternary_layers(model):
        raise UserError(
            f"'{settings.model}' has {len(layers)} ternary layers already; "
            f"mode={settings.step} starts from a float model."
        )
    settings = counted_batch(legal_side(settings.replace(task=model.task), model.multiple))
    train, val = (scan_split(data, split, settings, form).samples for split in ("train", settings.split))
    return Subject(model, checkpoint, settings, train, val)


def _folder(settings: Settings) -> Path:
    if settings.resume is True:
        raise UserError(
            "resume=True does not tell which: give the folder of the scan, for example resume=runs/detect/bit."
        )
    if isinstance(settings.resume, str):
        folder = Path(settings.resume)
        if not folder.is_dir():
            raise MissingFileError(
                f"resume={settings.resume}: expected the folder of an earlier scan, for example runs/detect/bit."
            )
        return folder
    return new_run_dir("bit", settings.project, settings.name, settings.exist_ok, settings.task)


def _first(subject: Subject, ap: float) -> Step:
    """Return the step of the float model."""
    count = sum(p.numel() for p in subject.model.parameters())
    return Step(FLOAT, ap_raw=ap, bytes_fp32=4 * count, bytes_fp16=2 * count, backend="float")


def _step(
    name: str, model: Detector, units: tuple[str, ...], packed: Checkpoint | None = None, **aps: float | None
) -> Step:
    """Return the step of a ternary model, with the sizes of its packed form, which is made where it is not given."""
    size = sizes(packed or copy.deepcopy(model))["whole"]
    layers = ternary_layers(model).values()
    share = sum(weights_of(layer).numel() for layer in layers if layer.rule != "int8") / (size["fp32"] // 4)
    fields = {"bytes_fp32": size["fp32"], "bytes_fp16": size["fp16"], "bytes_packed": size["file t5"]}
    return Step(name, units, share, backend=describe().partition(", ")[2], **fields, **aps)


def _write(folder: Path, steps: Sequence[Step], measure: str) -> None:
    save_steps(folder, steps)
    facts = machine()
    picture = partial(draw, steps=steps, machine=facts, measure=measure)
    write_report(markdown(steps, facts, measure), folder / "report.md", folder / FILE, picture)
    say(f"Results: {folder}")


STEPS: Mapping[str, Callable[[Settings], object]] = {
    "scan": run_scan,
    "replace": run_replace,
    "qat": run_qat,
    "report": run_report,
    "pack": run_pack,
}
