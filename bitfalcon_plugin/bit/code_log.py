"""The log of a fine-tuning run, codes.csv: how the codes of each ternary layer change from epoch to epoch."""

from __future__ import annotations

import csv
import io
import math

from torch import Tensor, nn

from ..config.files import write_text
from ..config.printable import say
from ..models.bitify import ternary_layers

FILE = "codes.csv"
COLUMNS = ("epoch", "layer", "changed", "zeros")


class CodeLog:
    """Writes codes.csv of a run: for each epoch and ternary layer the share of codes that changed, and of zeros.

    Weights that keep crossing a threshold ("oscillation") show as changes that do not fall towards the end of the run.
    """

    def __init__(self) -> None:
        self.codes: dict[str, Tensor] = {}  # of the last epoch, by layer
        self.records: list[list[str]] = []

    def start(self, trainer) -> None:
        """Read the codes that the run starts from, and the records that a resumed run wrote before."""
        self.codes = _codes(trainer.model)
        path = trainer.save_dir / FILE
        if trainer.run.start is not None and path.is_file():
            with open(path, encoding="utf-8", newline="") as file:
                _, *records = csv.reader(file)
            self.records = [record for record in records if int(record[0]) <= trainer.epoch]

    def add_epoch(self, trainer) -> None:
        """Add a record for each layer at the end of an epoch; write codes.csv and print the means."""
        codes = _codes(trainer.model)
        records = []
        for name, current in codes.items():
            changed, zeros = math.nan, (current == 0).float().mean().item()
            if name in self.codes:
                changed = (current != self.codes[name]).float().mean().item()
            records.append([f"{trainer.epoch + 1}", name, f"{changed:.5f}", f"{zeros:.5f}"])
        self.codes = codes
        self.records += records
        if records and trainer.run.world.main:
            text = io.StringIO()
            csv.writer(text, lineterminator="\n").writerows([COLUMNS, *self.records])
            write_text(trainer.save_dir / FILE, text.getvalue())
            changed, zeros = (sum(float(record[column]) for record in records) / len(records) for column in (2, 3))
            layers = f"in the mean of {len(records)} layers"
            say(f"{'codes':>9}  changed {changed:.2%} {layers}, zeros {zeros:.1%}")


def _codes(model: nn.Module) -> dict[str, Tensor]:
    return {name: layer.codes_and_scales()[0].cpu() for name, layer in ternary_layers(model).items()}
