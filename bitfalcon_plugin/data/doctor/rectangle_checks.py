"""What can be wrong or odd in the labels of a dataset of oriented boxes, and the table of their angles."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from ...ops.rotated import corners_of
from ...ops.rotated_overlap import probiou
from .checks import EQUAL, TWICE, Finding, View
from .survey import Picture

THIN = 2.0  # px of the network input: a training leaves out objects with a shorter side
SQUARE = 1.1  # width over height up to which a rectangle is nearly a square
UPRIGHT = 1.0  # degrees from upright or level
FILLED = 0.8  # an outline that fills less of its rectangle is no rectangle
CROSSED = 0.1  # an outline that fills less of its rectangle crosses itself: of a crossed rectangle nothing remains
BEYOND = 0.01  # share of the image's side by which a corner lies outside
NEAR = 0.25  # of the longer side: two labels that are one object lie no further apart
ROWS = 256  # objects compared with all others at once
BINS = 6  # of 30 degrees each, in the table of angles


def check_rectangles(view: View) -> Iterator[Finding]:
    """Yield objects that are too thin, crossed, no rectangles, cut by the border, labelled twice, or nearly squares."""
    items: dict[str, list[str]] = {kind: [] for kind in ("thin", "crossed", "filled", "beyond", "twice")}
    ratios, turns = [], []
    for split, picture in view.pictures():
        if picture.rectangles is None or not len(picture.rectangles.boxes):
            continue
        found = picture.rectangles
        scale = view.imgsz / max(picture.size)
        thin = found.boxes[:, 2:4].amin(1) * scale < THIN
        odd = {"thin": thin, "crossed": (found.filled < CROSSED) & ~thin, "beyond": _beyond(picture)}
        odd["filled"] = (found.filled < FILLED) & (found.filled >= CROSSED) & ~thin
        odd["twice"] = _twice(picture)
        for kind, which in odd.items():
            items[kind] += [_object(view, split, picture, row) for row in which.nonzero().flatten().tolist()]
        sides = found.boxes[:, 2:4].sort(1).values
        ratios.append(sides[:, 1] / sides[:, 0].clamp(min=1e-9))
        turns.append(found.degrees)
    for kind, finding in _findings(view.imgsz).items():
        if items[kind]:
            yield Finding(*finding, tuple(items[kind]))
    if ratios:
        yield from _shapes(torch.cat(ratios), torch.cat(turns))


def _findings(imgsz: int) -> dict[str, tuple[str, str, str]]:
    """Kind of items -> severity, kind and description."""
    return {
        "thin": (
            "warning",
            "thin object",
            f"objects with a side under {THIN:g} px at imgsz={imgsz}, left out of training",
        ),
        "crossed": (
            "warning",
            "crossed corners",
            "objects whose corners cross: they stand in no order around the object",
        ),
        "filled": ("note", "no rectangle", f"outlines that fill under {FILLED:.0%} of the rectangle they are read as"),
        "beyond": ("note", "cut by the border", "objects with a corner outside the image, which keep their angle"),
        "twice": TWICE,
    }


def _beyond(picture: Picture) -> Tensor:
    shares = corners_of(picture.rectangles.boxes) / torch.tensor(picture.size[::-1], dtype=torch.float64)
    return ((shares < -BEYOND) | (shares > 1 + BEYOND)).flatten(1).any(1)


def _twice(picture: Picture) -> Tensor:
    """(n,) bool: which objects nearly are an earlier one of their class, by ProbIoU."""
    boxes, classes = picture.rectangles.boxes, picture.labels.labels.classes
    hidden = torch.zeros(len(boxes), dtype=torch.bool)
    for rows in torch.arange(len(boxes)).split(ROWS):
        near = torch.cdist(boxes[rows, :2], boxes[:, :2]) <= NEAR * boxes[rows, 2:4].amax(1)[:, None]
        later, earlier = (near & (classes[rows, None] == classes)).nonzero().unbind(1)
        later = rows[later]
        equal = (probiou(boxes[later], boxes[earlier]) > EQUAL) & (earlier < later)
        hidden[later[equal]] = True
    return hidden


def _shapes(ratios: Tensor, turns: Tensor) -> Iterator[Finding]:
    squares = int((ratios < SQUARE).sum())
    if squares:
        text = (
            f"{squares} of {len(ratios)} objects are nearly squares: their angle means something only up to 90 degrees."
        )
        yield Finding("note", "squares", text)
    level = torch.minimum(turns % 90, 90 - turns % 90) <= UPRIGHT
    if bool(level.all()):
        text = "Every object is upright or level: task=detect finds the same boxes with less."
        yield Finding("note", "no angles", text)


def angles_of_split(pictures: Sequence[Picture]) -> str:
    """Return how many objects of a split have which angle, for the table."""
    turns = [picture.rectangles.degrees for picture in pictures if picture.rectangles is not None]
    total = sum(map(len, turns))
    if not total:
        return "-"
    step = 180 // BINS
    counts = torch.bincount(torch.round(torch.cat(turns) / step).long() % BINS, minlength=BINS)  # around 0, 30, ...
    return ", ".join(f"{index * step}: {count / total:.0%}" for index, count in enumerate(counts.tolist()))


def _object(view: View, split: str, picture: Picture, row: int) -> str:
    cls, (x, y, w, h, _) = int(picture.labels.labels.classes[row]), picture.rectangles.boxes[row].tolist()
    angle = float(picture.rectangles.degrees[row])
    place = f"{max(w, h):.1f} x {min(w, h):.1f} px at {angle:.0f} degrees around ({x:.0f}, {y:.0f})"
    return f"{split}: {view.near(picture.path)}: {view.names.get(cls, '?')}, {place}"
