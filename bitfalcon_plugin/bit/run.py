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
from ..config.files import new_run_dir
from ..config.settings import Settings
from ..data.dataset import Sample
from ..data.from_settings import class_names, find_data, legal_side, same_classes, scan_split
from ..export.formats import ModelKind, model_kind
from ..models.bitify import parts_by_row, replace_alike, ternary_layers
from ..models.detector import Detector
from ..models.graph.bit_policy import PARTS
from ..models.inference.prepare import prepare_for_inference
from ..models.modules.bit_kernels import describe
from ..models.weights.checkpoint import Checkpoint, save_checkpoint
from ..models.weights.foreign import open_checkpoint
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
    """Do the step that mode= (step=) names; returns what that gives. UserError where none is named."""
    if settings.step is None:
        raise UserError(
            f"bit needs mode=, one of {', '.join(STEPS)}: bitfalcon bit mode=scan model=best.pt data=data.yaml"
        )
    return STEPS[settings.step](settings)


def run_scan(settings: Settings) -> Ranking:
    """Rank the units of a model; resume=<folder> goes on with an interrupted scan."""
    subject = _subject(settings)
    return _scanned(subject, _folder(settings))


def _scanned(subject: Subject, folder: Path) -> Ranking:
    settings = subject.settings
    units = units_of(subject.model, settings.by, settings.bit or "all", settings.keep or "default")
    ranking = scan_units(subject.model, units, subject.train, subject.val, settings, folder)
    print(f"\n{ranking.table()}\nResults: {folder}")
    return ranking


def run_replace(settings: Settings) -> list[Step]:
    """Replace units in the order of a scan (of resume=<folder>, or made first), the least harmful first.

    The step before max_drop= points of mAP are lost is kept as replaced.pt, with measured norms, not fine-tuned. With
    resume= the steps that an interrupted walk has written are not measured again.
    """
    subject, folder = _subject(settings), _folder(settings)
    settings = subject.settings
    before = resumed_ranking(folder, settings)
    ranking = _scanned(subject, folder)  # of what scan.json holds nothing is measured again
    done = _steps_before(folder) if before is not None and before.losses == ranking.losses else {}
    steps, kept, model = [_first(subject, ranking.ap)], 0, None
    for number in range(1, len(ranking.losses) + 1):
        units, trial = tuple(loss.unit for loss in ranking.losses[:number]), None
        if (step := done.get(units)) is None:
            trial = _walked(subject, ranking, number)
            raw, again = price(trial, subject.train, subject.val, settings)
            step = _step(f"{number} units", trial, units, ap_raw=raw, ap_norms=again)
        steps.append(step)
        save_steps(folder, steps)
        drop = 100 * (ranking.ap - step.ap_norms)
        print(
            f"{number:>3}/{len(ranking.losses)} + {units[-1]:<32} AP {step.ap_norms:.4f} ({-drop:+.1f} points), "
            f"{step.ternary_share:.0%} ternary, "
            f"{step.bytes_packed / 1e6:.2f} MB packed"
        )
        if drop > settings.max_drop:
            print(f"max_drop={settings.max_drop:g}: stopped; {kept} units stay within it.")
            break
        kept, model = number, trial
    if kept:
        if model is None:  # of an earlier run, which left numbers only
            calibrate(
                model := _walked(subject, ranking, kept),
                calibration_images(subject.train, settings, subject.model, IMAGES),
            )
        save_checkpoint(folder / "replaced.pt", as_checkpoint(model, subject.checkpoint))
        print(
            f"{folder / 'replaced.pt'}: fine-tune it with "
            f"bitfalcon bit mode=qat model={folder / 'replaced.pt'} data={settings.data}"
        )
    _write(folder, steps)
    return steps


def _walked(subject: Subject, ranking: Ranking, count: int) -> Detector:
    return replaced(subject.model, [layer for loss in ranking.losses[:count] for layer in loss.layers])


def _steps_before(folder: Path) -> dict[tuple[str, ...], Step]:
    # What an interrupted walk has measured, by what was replaced.
    found = load_steps(folder) if (folder / FILE).is_file() else []
    return {step.replaced: step for step in found if step.ap_norms is not None and step.bytes_packed is not None}


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
    subject, folder = _subject(settings.replace(model=paths[0])), _folder(settings)
    settings = subject.settings
    base = accuracy(subject.model, subject.val, settings).ap
    steps, runs = [_first(subject, base)], {}
    image = torch.zeros(1, subject.model.graph.channels, settings.imgsz, settings.imgsz).contiguous(
        memory_format=torch.channels_last
    )
    for path in paths[1:]:
        step, model = _reported(path, subject)
        while step.name in {one.name for one in steps}:
            step = replace(step, name=step.name + "'")
        steps.append(step)
        runs[step.name] = _run(model, image)
        save_steps(folder, steps)
    with torch.inference_mode():
        steps = time_steps(steps, runs, subject.model, settings.imgsz)
    _write(folder, steps)
    return steps


def _run(model: Detector, image: torch.Tensor) -> Callable[[], object]:
    return lambda: model.decode(model(image))


def _reported(path: str, subject: Subject) -> tuple[Step, Detector]:
    settings, checkpoint = subject.settings, open_checkpoint(path)
    if not ternary_layers(built := checkpoint.model()):
        raise UserError(f"'{path}' has no ternary layer; the float model is the first of model=, and only that.")
    layers, trial = tuple(ternary_layers(built)), copy.deepcopy(subject.model)
    replace_alike(trial, built)
    raw, again = price(trial, subject.train, subject.val, settings)
    ready = prepare_for_inference(built, torch.device("cpu"))  # as predict runs it
    tuned = None if checkpoint.packed else accuracy(ready, subject.val, settings).ap
    small = checkpoint if checkpoint.packed else packed_of(checkpoint)
    packed = accuracy(small.model(), subject.val, settings).ap
    return _step(
        _name(built), built, layers, ap_raw=raw, ap_norms=again, ap_tuned=tuned, ap_packed=packed, small=small
    ), ready


def _name(model: Detector) -> str:
    """The parts that have ternary layers, in words."""
    rows, found = parts_by_row(model.graph), ternary_layers(model)
    parts = [part for part in PARTS[::-1] if any(rows[int(name.split(".")[1])] == part for name in found)]
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
    if out.suffix.lower() not in (".pt", ".pth"):
        raise UserError(f"out={out}: expected a file name that ends in .pt.")
    if out.exists() and out.resolve() == source.resolve():
        raise UserError(f"out={out} is the checkpoint itself; it could not be trained on any more. Give another name.")
    checkpoint = open_checkpoint(source)
    with tempfile.TemporaryDirectory(
        prefix="bitfalcon-pack-"
    ) as scratch:  # what is wrong leaves an earlier file as it is
        small = pack(checkpoint, Path(scratch, "x.pt"), settings.fmt)
        _same(small, open_checkpoint(Path(scratch, "x.pt")))
    save_checkpoint(out, small)
    print(_pack_lines(out, small))
    return out


def _same(small: Checkpoint, again: Checkpoint) -> None:
    """Whether a packed file gives back what was packed, to the bit; RuntimeError where it does not."""
    side = 2 * small.model().multiple
    image = torch.rand(1, small.graph.channels, side, side, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        one, two = small.model()(image), again.model()(image)
    if not all(torch.equal(one[key], two[key]) for key in one):
        raise RuntimeError("the packed file does not give back what was packed; nothing was written")


def _pack_lines(out: Path, small: Checkpoint) -> str:
    found = sizes(small)
    lines = [f"{out}: {out.stat().st_size / 1e6:.3f} MB, packed {small.packed}; read back, its outputs are the same"]
    for part, of in found.items():
        lines.append(
            f"  {part:<6} float32 {of['fp32'] / 1e6:.2f} MB, float16 {of['fp16'] / 1e6:.2f} MB, "
            f"2-bit {of['t2'] / 1e6:.3f} MB, "
            f"base-3 {of['t5'] / 1e6:.3f} MB "
            f"({of['fp32'] / of['t5']:.1f} times smaller than float32, {of['fp16'] / of['t5']:.1f} than float16)"
        )
    return "\n".join(lines)


def _subject(settings: Settings) -> Subject:
    if settings.model is None or model_kind(settings.model) is not ModelKind.CHECKPOINT:
        raise UserError(f"bit mode={settings.step} starts from trained weights: give model=best.pt.")
    checkpoint = open_checkpoint(settings.model).to_train(settings.model)
    data, settings = find_data(settings)
    same_classes(checkpoint.graph.names, class_names(settings, data), data)
    model = (
        checkpoint.model().to(select_device(settings.device), memory_format=torch.channels_last).requires_grad_(False)
    )
    if found := ternary_layers(model):
        raise UserError(
            f"'{settings.model}' has {len(found)} ternary layers already; "
            f"mode={settings.step} starts from a float model."
        )
    settings = counted_batch(legal_side(settings, model.multiple))
    return Subject(
        model,
        checkpoint,
        settings,
        scan_split(data, "train", settings).samples,
        scan_split(data, settings.split, settings).samples,
    )


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
    return new_run_dir("bit", settings.project, settings.name, settings.exist_ok)


def _first(subject: Subject, ap: float) -> Step:
    count = sum(p.numel() for p in subject.model.parameters())
    return Step(FLOAT, ap_raw=ap, bytes_fp32=4 * count, bytes_fp16=2 * count, backend="float")


def _step(
    name: str, model: Detector, replaced: tuple[str, ...], small: Checkpoint | None = None, **aps: float | None
) -> Step:
    of = sizes(small or copy.deepcopy(model))["whole"]
    layers = ternary_layers(model)
    weights = {
        layer: (module.codes if hasattr(module, "codes") else module.weight).numel() for layer, module in layers.items()
    }
    total = of["fp32"] // 4
    share = sum(count for layer, count in weights.items() if layers[layer].rule != "int8") / total
    return Step(
        name,
        replaced,
        ternary_share=share,
        bytes_fp32=of["fp32"],
        bytes_fp16=of["fp16"],
        bytes_packed=of["file t5"],
        backend=describe().partition(", ")[2],
        **aps,
    )


def _write(folder: Path, steps: Sequence[Step]) -> None:
    save_steps(folder, steps)
    facts = machine()
    picture = partial(draw, steps=steps, machine=facts)
    write_report(markdown(steps, facts), folder / "report.md", folder / FILE, picture)
    print(f"Results: {folder}")


STEPS: Mapping[str, Callable[[Settings], object]] = {
    "scan": run_scan,
    "replace": run_replace,
    "qat": run_qat,
    "report": run_report,
    "pack": run_pack,
}
