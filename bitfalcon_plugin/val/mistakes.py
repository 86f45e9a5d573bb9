"""The images that a classifier takes for another class, the surest mistakes first, as a table and as a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from ..config.tabular import Tabular
from ..data.dataset import Sample
from ..ops.instances import Instances
from .worst import DRAWN, PRINTED, cell_of, draw_text, sheet_of


@dataclass(frozen=True)
class Mistake:
    """An image with a wrong class. label, predicted: classes. score, label_score: their probabilities."""

    image: Path
    label: int
    predicted: int
    score: float
    label_score: float


@dataclass(frozen=True, eq=False)
class Mistakes(Tabular):
    """The images with a wrong class, by the falling probability of that class.

    names: class index -> name. images: number of all images.
    """

    errors: tuple[Mistake, ...]
    names: Mapping[int, str]
    images: int

    def columns(self, flat: bool = False) -> Sequence[str]:
        return "image", "label", "predicted", "confidence", "label_confidence"

    def summary(self, decimals: int = 5) -> list[dict[str, object]]:
        """Return a dict for each image with a wrong class: path, classes by name, and their probabilities."""
        records = []
        for each in self.errors:
            scores = round(each.score, decimals), round(each.label_score, decimals)
            values = str(each.image), self.names[each.label], self.names[each.predicted], *scores
            records.append(dict(zip(self.columns(), values, strict=True)))
        return records

    def table(self, limit: int = PRINTED) -> str:
        """Return the table people read: the first `limit` images."""
        if not self.errors:
            return f"Worst images: none of {self.images} has a wrong class"
        lines = [
            f"Worst images (the surest mistakes first; {len(self.errors)} of {self.images} have a wrong class)",
            f"{'Label':>16}{'Predicted':>16}{'Conf':>7}  Image",
        ]
        for each in self.errors[:limit]:
            names = "".join(f"{str(self.names[index])[:15]:>16}" for index in (each.label, each.predicted))
            lines.append(f"{names}{each.score:>7.3f}  {Path(each.image.parent.name, each.image.name)}")
        return "\n".join(lines)

    def draw(self) -> Image.Image:
        """Draw a sheet of the first images, each with its label and the class that it was taken for."""

        def paste(cell: Image.Image, picture: Image.Image, ratio: float, corner: tuple[int, int]) -> None:
            cell.paste(picture, corner)

        sheet = sheet_of([cell_of(each.image, self._caption(each), paste) for each in self.errors[:DRAWN]])
        text = f"{len(self.errors)} of {self.images} images have a wrong class; the surest mistakes first"
        draw_text(sheet, (8, 7), text, "white", "black")
        return sheet

    def _caption(self, mistake: Mistake) -> str:
        label, predicted = self.names[mistake.label], self.names[mistake.predicted]
        return f"{mistake.image.name}: {label} {mistake.label_score:.2f}, taken for {predicted} {mistake.score:.2f}"


def find_mistakes(samples: Sequence[Sample], detections: Instances, names: Mapping[int, str]) -> Mistakes:
    """Find the images whose most probable class is not that of their label.

    detections: a row for each image, with probabilities; `image` is the index of the sample. Samples without a label
    do not count.
    """
    mistakes, count = [], 0
    rows = zip(detections.image.tolist(), detections.classes.tolist(), detections.scores.tolist())
    for row, (image, predicted, score) in enumerate(rows):
        labels = samples[image].labels.classes.tolist()
        count += len(labels)
        for label in labels:
            if label != predicted:
                label_score = float(detections.probabilities[row, label])
                mistakes.append(Mistake(samples[image].image, label, predicted, score, label_score))
    mistakes.sort(key=lambda each: (-each.score, str(each.image)))
    return Mistakes(tuple(mistakes), dict(names), count)
