"""The accuracy of a network and of its exported file, measured by val with the same settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from ..config.errors import UserError
from ..config.notes import print_note
from ..config.settings import Settings, load_settings
from ..models.detector import Detector
from ..val.run import find_split, validate_samples
from .metadata import Metadata
from .open import open_exported

# Settings of an export that are those of val too, and the settings of suppression inside a file.
MEASURED_WITH = ("data", "split", "single_cls", "letterbox", "workers", "allow_outside")
INSIDE = ("conf", "iou", "max_det", "agnostic_nms")


@dataclass(frozen=True)
class Accuracy:
    """What val measures with the network (before) and with its exported file (after).

    data, split: the dataset and its part. images: their number. imgsz: the side of the input in pixels. inside: the
    settings of suppression, where it is inside the file; both are measured with them. before, after: number -> value,
    named as in results_dict of the Metrics. headline: name -> (before, after) of the numbers that are printed.
    """

    data: str
    split: str
    images: int
    imgsz: int
    inside: Mapping[str, object]
    before: Mapping[str, float]
    after: Mapping[str, float]
    headline: Mapping[str, tuple[float, float]]

    def as_dict(self) -> dict[str, object]:
        """Return everything as values that JSON has."""
        return asdict(self)

    def describe(self) -> str:
        """Return the numbers that are told first as one line of text."""
        numbers = (
            f"{name} {before:.4f} and {after:.4f} ({after - before:+.4f})"
            for name, (before, after) in self.headline.items()
        )
        inside = "".join(f", {key}={value}" for key, value in self.inside.items() if value is not False)
        where = f"{self.images} images of '{self.split}' at {self.imgsz} px{inside}"
        return f"accuracy of the network and of the file on {where}: {', '.join(numbers)}"


def measure_accuracy(
    network: Detector, path: Path, metadata: Metadata, settings: Settings, device: torch.device
) -> Accuracy | None:
    """Validate a network, folded and on the CPU, and its exported file on the split that the settings name.

    metadata: those of the file. settings: of the export. device: on which the file is opened. Where val cannot measure
    with the data, prints a note and returns None.
    """
    try:
        return _measured(network, path, metadata, settings, device)
    except UserError as error:
        print_note(f"the accuracy of '{path}' is not measured: {error}")
        return None


def _measured(network: Detector, path: Path, metadata: Metadata, settings: Settings, device: torch.device) -> Accuracy:
    height, width = metadata.imgsz
    if height != width:
        raise UserError(f"val measures on squares, and the export is for {height} x {width} pixels.")
    inside = {key: metadata.args[key] for key in INSIDE if metadata.args.get("nms")}
    chosen = {key: getattr(settings, key) for key in MEASURED_WITH if key in settings.given}
    rect = bool(metadata.args.get("dynamic"))  # a file for one size takes squares only
    own = {"mode": "val", "imgsz": height, "rect": rect, "device": "cpu", "plots": False, "verbose": False}
    split = find_split(network, load_settings({**chosen, **inside, **own, "task": network.task}))
    runtime = open_exported(path, device)
    before, after = (
        validate_samples(model, split.samples, split.settings, single=split.single)[0].metrics
        for model in (network, runtime)
    )
    return Accuracy(
        data=str(split.data.path),
        split=split.settings.split,
        images=len(split.samples),
        imgsz=height,
        inside=inside,
        before=before.results_dict,
        after=after.results_dict,
        headline={name: (value, after.headline[name]) for name, value in before.headline.items()},
    )
