"""Which parts of a model suffer most from ternary weights, measured as mAP lost, one unit at a time (spec/bit.md section 4.5).

Never by the error of a layer's output: the layers with the smallest error are among those whose replacement costs most (section 1.5).
"""

from __future__ import annotations

import copy
import csv
import io
import json
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from ..config.errors import UserError, did_you_mean
from ..config.files import write_text
from ..config.settings import Settings
from ..data.dataset import Sample
from ..models.bitify import bitify, parts_by_row
from ..models.detector import Detector
from .calibration import calibrate, calibration_images
from .qat import accuracy

SIZES = ("part", "block", "layer")  # of a unit
IMAGES = 128  # of training, for scales and batch norms
FILE, FORMAT = "scan.json", "bitfalcon bit scan"


@dataclass(frozen=True)
class Loss:
    """A unit and what its replacement costs. layers: those that become others; ap_*: mAP50-95 (0 to 1) as replaced, and with norms anew."""

    unit: str
    layers: tuple[str, ...]
    parameters: int
    ap_raw: float
    ap_norms: float


@dataclass(frozen=True)
class Ranking:
    """What a scan found. ap: of the float model; halves: of the float model on every other image, and on the rest: how much such a
    number depends on the images. losses: the least harmful first."""

    ap: float
    halves: tuple[float, float]
    losses: tuple[Loss, ...]

    def table(self) -> str:
        """Rows for reading, mAP in points."""
        lines = [
            f"float: {100 * self.ap:.1f} (on the two halves of the images: {100 * self.halves[0]:.1f}, {100 * self.halves[1]:.1f})",
            f"{'unit':<32} {'layers':>6} {'parameters':>10} {'lost, raw':>10} {'lost, norms anew':>17}",
        ]
        lines += [
            f"{loss.unit:<32} {len(loss.layers):>6} {loss.parameters:>10} {100 * (self.ap - loss.ap_raw):>10.1f} "
            f"{100 * (self.ap - loss.ap_norms):>17.1f}"
            for loss in self.losses
        ]
        return "\n".join(lines)


def units_of(model: Detector, by: str, bit: str = "all", keep: str = "default") -> dict[str, tuple[str, ...]]:
    """The units of a scan, each with the layers that would become others. by: part, block (a row of the graph) or layer.

    bit, keep: as of bitify; what they leave out is in no unit. UserError for another `by`.
    """
    if by not in SIZES:
        raise UserError(f"by={by} is none of {', '.join(SIZES)}.{did_you_mean(by, SIZES)}")
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
    """The regular expression of these layers and no others."""
    return "^(" + "|".join(layer.replace(".", r"\.") for layer in layers) + ")$"


def replaced(model: Detector, layers: Sequence[str]) -> Detector:
    """A copy with these layers ternary."""
    trial = copy.deepcopy(model)
    bitify(trial, pattern(layers), "none")
    return trial


def price(trial: Detector, train: Sequence[Sample], val: Sequence[Sample], settings: Settings) -> tuple[float, float]:
    """mAP of a float model with layers replaced: with its norms as they are, and measured anew. The model has the latter afterwards."""
    calibrate(trial, calibration_images(train, settings, trial, IMAGES), norms=False)
    raw = accuracy(trial, val, settings).ap
    calibrate(trial, calibration_images(train, settings, trial, IMAGES))
    return raw, accuracy(trial, val, settings).ap


def scan_units(
    model: Detector,
    units: Mapping[str, Sequence[str]],
    train: Sequence[Sample],
    val: Sequence[Sample],
    settings: Settings,
    folder: Path,
    say: Callable[[str], None] = print,
) -> Ranking:
    """Measure every unit by itself; after each, scan.json holds all so far, and a scan of the same folder goes on from it."""
    before = known_ranking(folder, settings)
    known = {
        loss.unit: loss for loss in (before.losses if before else ()) if tuple(units.get(loss.unit, ())) == loss.layers
    }
    if known:
        say(f"{folder / FILE} has {len(known)} of {len(units)} units already")
    ap = before.ap if before else accuracy(model, val, settings).ap
    halves = (
        before.halves if before else tuple(accuracy(model, part, settings).ap for part in (val[::2], val[1::2] or val))
    )
    say(f"float: AP {ap:.4f}; on the two halves of the images {halves[0]:.4f} and {halves[1]:.4f}")
    losses: list[Loss] = []
    for number, (unit, layers) in enumerate(units.items(), 1):
        loss = known.get(unit)
        if loss is None:
            raw, again = price(trial := replaced(model, layers), train, val, settings)
            weights = {name: p.numel() for name, p in trial.named_parameters()}
            loss = Loss(unit, tuple(layers), sum(weights[f"{layer}.weight"] for layer in layers), raw, again)
        losses.append(loss)
        say(
            f"{number:>3}/{len(units)} {unit:<32} AP {loss.ap_raw:.4f} raw, {loss.ap_norms:.4f} with norms measured anew"
        )
        ranking = Ranking(ap, halves, tuple(sorted(losses, key=lambda one: -one.ap_norms)))
        save_ranking(folder, ranking, settings)
    return ranking


def save_ranking(folder: Path, ranking: Ranking, settings: Settings) -> None:
    """Write scan.json and scan.csv."""
    content = {
        "format": FORMAT,
        "version": 1,
        "of": _identity(settings),
        "ap": ranking.ap,
        "halves": list(ranking.halves),
        "losses": [asdict(loss) for loss in ranking.losses],
    }
    write_text(folder / FILE, json.dumps(content, indent=1) + "\n")
    text = io.StringIO()
    rows = [
        (
            loss.unit,
            len(loss.layers),
            loss.parameters,
            f"{loss.ap_raw:.5f}",
            f"{loss.ap_norms:.5f}",
            f"{ranking.ap - loss.ap_raw:.5f}",
            f"{ranking.ap - loss.ap_norms:.5f}",
        )
        for loss in ranking.losses
    ]
    csv.writer(text, lineterminator="\n").writerows(
        [("unit", "layers", "parameters", "mAP50-95 raw", "mAP50-95 norms anew", "lost raw", "lost norms anew"), *rows]
    )
    write_text(folder / "scan.csv", text.getvalue())


def load_ranking(folder: Path) -> tuple[Ranking, dict[str, object]] | None:
    """The scan of a folder and what it was of; None where there is none. UserError for a file that is damaged."""
    path = folder / FILE
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        losses = [Loss(**{**row, "layers": tuple(row["layers"])}) for row in content["losses"]]
        numbers = [
            content["ap"],
            *content["halves"],
            *(value for loss in losses for value in (loss.ap_raw, loss.ap_norms)),
        ]
        of = content["of"]
        if (
            content["format"] != FORMAT
            or not isinstance(of, dict)
            or len(content["halves"]) != 2
            or not all(isinstance(value, (int, float)) for value in numbers)
        ):
            raise ValueError("its entries are not those of a scan")
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(
            f"'{path}' cannot be read as the record of a scan ({error}). Remove it, or give another folder."
        ) from error
    return Ranking(content["ap"], tuple(content["halves"]), tuple(losses)), of


def known_ranking(folder: Path, settings: Settings) -> Ranking | None:
    """The scan of a folder, if there is one. UserError where it is of another model, of other images or settings."""
    found = load_ranking(folder)
    if found is None:
        return None
    ranking, of = found
    other = [
        f"{key}={value} (the scan: {of.get(key)})" for key, value in _identity(settings).items() if of.get(key) != value
    ]
    if other:
        raise UserError(
            f"'{folder / FILE}' is of another scan: {', '.join(other)}. Give the settings of that one, or another folder."
        )
    return ranking


def _identity(settings: Settings) -> dict[str, object]:
    # What makes numbers of two scans comparable.
    path = Path(settings.model).resolve()
    return {
        "model": str(path),
        "checksum": zlib.crc32(path.read_bytes()),
        "images": IMAGES,
        "torch": torch.__version__,
        **{
            key: settings.as_dict()[key]
            for key in ("data", "split", "imgsz", "seed", "single_cls", "classes", "conf", "iou", "max_det")
        },
    }
