"""Rank the parts of a model by the mAP that ternary weights cost, one unit at a time (spec/bit.md section 4.5).

The error of a layer's output is no measure: the layers with the smallest error are among those whose replacement costs
most (section 1.5).
"""

from __future__ import annotations

import copy
import csv
import io
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from ..benchmark.record import FloatOrNan, RecordFile
from ..config.errors import UserError, did_you_mean
from ..config.files import write_text
from ..config.printable import say
from ..config.settings import Settings
from ..config.weight_files import file_of_weights
from ..data.dataset import Sample
from ..models.bitify import bitify, parts_by_row
from ..models.detector import Detector
from ..tasks import task_of
from .calibration import calibrate, calibration_images
from .qat import accuracy

UNITS = ("part", "block", "layer")  # what a scan replaces at a time
IMAGES = 128  # training images to measure scales and batch norms on
FILE = "scan.json"
SCAN_FILE = RecordFile(
    "bitfalcon bit scan", 1, "the record of a scan", "`bitfalcon bit mode=scan`", "Remove it, or give another folder."
)


@dataclass(frozen=True)
class Loss:
    """The cost of replacing one unit.

    layers: the layers that become ternary. ap_raw, ap_norms: TaskMetrics.main (0 to 1) with the float model's batch
    norms, and with batch norms measured anew.
    """

    unit: str
    layers: tuple[str, ...]
    parameters: int
    ap_raw: FloatOrNan
    ap_norms: FloatOrNan


@dataclass(frozen=True)
class Ranking:
    """The result of a scan: the losses, the least harmful first.

    ap: of the float model. halves: of the float model on every other image, and on the other images; their difference
    shows how much such a number depends on the images.
    """

    ap: FloatOrNan
    halves: tuple[FloatOrNan, FloatOrNan]
    losses: tuple[Loss, ...]

    def table(self) -> str:
        """Return a table in plain text, accuracies in points."""
        ap, first, second = (100 * value for value in (self.ap, *self.halves))
        lines = [
            f"float: {ap:.1f} (on the two halves of the images: {first:.1f}, {second:.1f})",
            f"{'unit':<32} {'layers':>6} {'parameters':>10} {'lost, raw':>10} {'lost, norms anew':>17}",
        ]
        for loss in self.losses:
            raw, norms = 100 * (self.ap - loss.ap_raw), 100 * (self.ap - loss.ap_norms)
            lines.append(f"{loss.unit:<32} {len(loss.layers):>6} {loss.parameters:>10} {raw:>10.1f} {norms:>17.1f}")
        return "\n".join(lines)


def units_of(model: Detector, by: str, bit: str = "all", keep: str = "default") -> dict[str, tuple[str, ...]]:
    """Return the units of a scan, each with the layers that would become ternary.

    by: part, block (a row of the graph) or layer. bit, keep: as of bitify; layers that they leave out are in no unit.
    UserError for another `by`.
    """
    if by not in UNITS:
        raise UserError(f"by={by} is none of {', '.join(UNITS)}.{did_you_mean(by, UNITS)}")
    trial = copy.deepcopy(model)
    changed = bitify(trial, bit, keep).changed
    parts, graph = parts_by_row(model.graph), model.graph
    names: dict[str, list[str]] = {}
    for layer in changed:
        row = int(layer.split(".")[1])
        unit = {"part": parts[row], "block": f"model.{row} ({graph.rows[row].module})", "layer": layer}[by]
        names.setdefault(unit, []).append(layer)
    if not names:
        raise UserError(f"bit={bit} keep={keep}: no layer is left that would become ternary. Keep fewer.")
    return {unit: tuple(layers) for unit, layers in names.items()}


def pattern(layers: Sequence[str]) -> str:
    """Return the regular expression of these layers and no others."""
    return "^(" + "|".join(layer.replace(".", r"\.") for layer in layers) + ")$"


def replaced(model: Detector, layers: Sequence[str]) -> Detector:
    """Return a copy of a model with these layers ternary."""
    trial = copy.deepcopy(model)
    bitify(trial, pattern(layers), "none")
    return trial


def price(trial: Detector, train: Sequence[Sample], val: Sequence[Sample], settings: Settings) -> tuple[float, float]:
    """Measure a model with replaced layers: with its batch norms unchanged, and measured anew (in place)."""
    calibrate(trial, calibration_images(train, settings, trial, IMAGES), norms=False)
    raw = accuracy(trial, val, settings).main
    calibrate(trial, calibration_images(train, settings, trial, IMAGES))
    return raw, accuracy(trial, val, settings).main


def scan_units(
    model: Detector,
    units: Mapping[str, Sequence[str]],
    train: Sequence[Sample],
    val: Sequence[Sample],
    settings: Settings,
    folder: Path,
) -> Ranking:
    """Measure every unit by itself, print its cost, and return the ranking.

    scan.json is written after each unit; a scan of the same folder resumes there.
    """
    resumed = resumed_ranking(folder, settings)
    measured = {
        loss.unit: loss
        for loss in (resumed.losses if resumed else ())
        if tuple(units.get(loss.unit, ())) == loss.layers
    }
    if measured:
        say(f"{folder / FILE} has {len(measured)} of {len(units)} units already")
    if resumed:
        ap, halves = resumed.ap, resumed.halves
    else:
        ap = accuracy(model, val, settings).main
        halves = tuple(accuracy(model, half, settings).main for half in (val[::2], val[1::2] or val))
    measure = task_of(model).measure
    say(f"float: {measure} {ap:.4f}; on the two halves of the images {halves[0]:.4f} and {halves[1]:.4f}")
    losses: list[Loss] = []
    for number, (unit, layers) in enumerate(units.items(), 1):
        loss = measured.get(unit)
        if loss is None:
            trial = replaced(model, layers)
            raw, norms = price(trial, train, val, settings)
            parameters = sum(trial.get_parameter(f"{layer}.weight").numel() for layer in layers)
            loss = Loss(unit, tuple(layers), parameters, raw, norms)
        losses.append(loss)
        say(
            f"{number:>3}/{len(units)} {unit:<32} {measure} {loss.ap_raw:.4f} raw, "
            f"{loss.ap_norms:.4f} with norms measured anew"
        )
        ranking = Ranking(ap, halves, tuple(sorted(losses, key=lambda loss: -loss.ap_norms)))
        save_ranking(folder, ranking, settings, measure)
    return ranking


def save_ranking(folder: Path, ranking: Ranking, settings: Settings, measure: str = "mAP50-95") -> None:
    """Write scan.json and scan.csv. measure: what was measured."""
    SCAN_FILE.save(folder / FILE, {"of": _conditions(settings), **vars(ranking)})
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(
        ("unit", "layers", "parameters", f"{measure} raw", f"{measure} norms anew", "lost raw", "lost norms anew")
    )
    for loss in ranking.losses:
        numbers = (loss.ap_raw, loss.ap_norms, ranking.ap - loss.ap_raw, ranking.ap - loss.ap_norms)
        table.writerow((loss.unit, len(loss.layers), loss.parameters, *(f"{number:.5f}" for number in numbers)))
    write_text(folder / "scan.csv", text.getvalue())


def resumed_ranking(folder: Path, settings: Settings) -> Ranking | None:
    """Read the scan of a folder; None without one. UserError for other conditions or a damaged file."""
    path = folder / FILE
    if not path.is_file():
        return None
    kinds = {"of": dict, "ap": FloatOrNan, "halves": tuple[FloatOrNan, FloatOrNan], "losses": tuple[Loss, ...]}
    content = SCAN_FILE.load(path, kinds)
    conditions = content.pop("of")
    changed = [
        f"{key}={value} (the scan: {conditions.get(key)})"
        for key, value in _conditions(settings).items()
        if conditions.get(key) != value
    ]
    if changed:
        raise UserError(
            f"'{path}' is of another scan: {', '.join(changed)}. Give the settings of that one, or another folder."
        )
    return Ranking(**content)


def _conditions(settings: Settings) -> dict[str, object]:
    """Return what numbers of two scans must have in common to be compared."""
    path, values = Path(settings.model).resolve(), settings.as_dict()
    keys = ("data", "split", "imgsz", "seed", "single_cls", "classes", "conf", "iou", "max_det")
    return {
        "model": str(path),
        "checksum": zlib.crc32(file_of_weights(path).read_bytes()),
        "images": IMAGES,
        "torch": torch.__version__,
        **{key: values[key] for key in keys},
    }
