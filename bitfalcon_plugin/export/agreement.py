"""How far two programs may differ that compute the same network, and how far they do.

The tolerances are those of another runtime for float32; for 16 and 8 bits, what leaves the average precision unchanged.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

RIGHT_ANGLE = math.pi / 2
MIN_SIDE = 320  # pixels: smaller images get the tolerance of this side
# What a value behind those of the classes is (tasks.Task.further) -> the name of all such values.
GROUPS = {"x": "points", "y": "points", "visibility": "visibilities", "angle": "angles", "coefficient": "coefficients"}
UNITS = {"points": " px", "angles": " rad"}  # of the differences; those of other groups have none


class MismatchError(Exception):
    """An exported model that does not give what its network gives. The user did nothing wrong."""


@dataclass(frozen=True)
class Tolerance:
    """How far two programs may differ and still agree.

    side: the largest difference of a coordinate, as a share of the longer side of the image. score: the largest
    difference of a score, or of the visibility of a keypoint, as a share of the reference's; one below `floor` counts
    as `floor`. further: the largest difference of an angle, as a share of a right angle, and of any other value, as a
    share of the largest such value in the batch. share: the share of the boxes, and of the values of a map, that must
    agree, in [0, 1].
    """

    side: float
    score: float
    floor: float
    further: float
    share: float

    def pixels(self, image_shape: Sequence[int]) -> float:
        """The largest difference of a coordinate in pixels, for images of shape (..., H, W)."""
        return self.side * max(*image_shape[-2:], MIN_SIDE)

    def scores_agree(self, scores: Tensor, reference: Tensor) -> Tensor:
        """Whether each score is near enough to the reference's (bool, broadcast shape)."""
        return (scores - reference).abs() <= self.score * reference.clamp(min=self.floor)


TOLERANCES = {
    "float32": Tolerance(1e-4, 1e-3, 1e-3, 1e-3, 1.0),
    "half": Tolerance(1e-2, 0.04, 0.25, 0.04, 0.95),
    "int8": Tolerance(3e-2, 0.15, 1.0, 0.15, 0.8),
}
ANY = Tolerance(torch.inf, torch.inf, 1.0, torch.inf, 0.0)  # to measure a difference


@dataclass(frozen=True)
class Agreement:
    """The result of a comparison; `a + b` is that of both.

    pixels, score: the largest difference of a coordinate of a box and of a score; pixels is None where there are no
    boxes. matched: how many of `count` boxes agree, or of images where there are no boxes. images: how many images were
    compared. note: why the tolerance is wider than usual, or "". further: the largest difference of other values, by
    the name of their group (GROUPS) or map: of points in pixels, of visibilities as probabilities, of angles in
    radians, of coefficients and maps as a share of the largest.
    """

    pixels: float | None = None
    score: float = 0.0
    matched: int = 0
    count: int = 0
    images: int = 0
    note: str = ""
    further: Mapping[str, float] = field(default_factory=dict)

    def __add__(self, other: Agreement) -> Agreement:
        pixels = [value for value in (self.pixels, other.pixels) if value is not None]
        further = dict(self.further)
        for name, value in other.further.items():
            further[name] = max(value, further.get(name, value))
        return Agreement(
            max(pixels, default=None),
            max(self.score, other.score),
            self.matched + other.matched,
            self.count + other.count,
            self.images + other.images,
            self.note or other.note,
            further,
        )

    def describe(self) -> str:
        """Return the result as one line of text."""
        if self.pixels is None:
            return (
                f"largest difference {self.score:.2g} in probability; {self.matched} of {self.count} images "
                f"matched{self.note}"
            )
        further = "".join(f", {value:.2g}{UNITS.get(name, '')} in {name}" for name, value in self.further.items())
        return (
            f"largest difference {self.pixels:.2g} px, {self.score:.2g} in score{further}; {self.matched} of "
            f"{self.count} boxes matched on {self.images} images{self.note}"
        )


def values_agree(
    reference: Tensor, others: Tensor, kinds: Sequence[str], tolerance: Tolerance, pixels: float, scale: Tensor
) -> tuple[Tensor, dict[str, Tensor]]:
    """Compare the values (..., k) of candidates behind those of the classes.

    kinds: what each of the k values is, a key of GROUPS. pixels: the tolerance of a coordinate. scale: the largest of
    all values, which differences of coefficients are shares of.

    Returns whether all values of a candidate agree (...), and the largest difference of each group (...) by its name.
    """
    agree = torch.ones(reference.shape[:-1], dtype=torch.bool, device=reference.device)
    largest: dict[str, Tensor] = {}
    for group in dict.fromkeys(GROUPS[kind] for kind in kinds):
        columns = [index for index, kind in enumerate(kinds) if GROUPS[kind] == group]
        one, other = reference[..., columns], others[..., columns]
        difference = (other - one).abs()
        if group == "visibilities":
            agree &= tolerance.scores_agree(other, one).all(-1)
        else:
            limits = {"points": pixels, "angles": tolerance.further * RIGHT_ANGLE}
            difference = difference / scale if group == "coefficients" else difference
            agree &= (difference <= limits.get(group, tolerance.further)).all(-1)
        largest[group] = difference.amax(-1)
    return agree, largest


def largest_of(values: Tensor) -> Tensor:
    """The largest absolute value, at least 1e-6; also of no values."""
    return torch.cat((values.abs().flatten(), values.new_tensor([1e-6]))).amax()


def check_shape(other: Tensor, reference: Tensor) -> None:
    """Raise MismatchError for another shape than that of the reference, and for numbers that are not finite."""
    if other.shape != reference.shape:
        raise MismatchError(f"it gives {tuple(other.shape)} in the place of {tuple(reference.shape)}")
    if not other.isfinite().all():
        raise MismatchError("it gives numbers that are not finite")
