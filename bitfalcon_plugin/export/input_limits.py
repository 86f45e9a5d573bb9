"""The sizes that a dynamic file takes whose program is prepared for a range of sizes instead of all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

KEY = "profile"  # in the `args` of the metadata
RECT_STEP = 32  # pixels that val may add to a side of a rectangular batch, or `multiple` where that is more
COMPARED_SIDES = 3  # the longest side of a comparison's small images, in multiples


@dataclass(frozen=True)
class InputLimits:
    """The smallest, the usual and the largest input, each (B, 3, H, W). The program is fastest at the usual one."""

    least: tuple[int, ...]
    usual: tuple[int, ...]
    most: tuple[int, ...]

    def take(self, size: Sequence[int]) -> bool:
        """Whether images of a size (H, W) can be run; more of them than most[0] are split."""
        return all(low <= side <= high for low, side, high in zip(self.least[2:], size, self.most[2:]))

    def describe(self) -> str:
        """Return the limits as text."""
        return f"up to {self.most[0]} images a call, with sides of {min(self.least[2:])} to {max(self.most[2:])} pixels"

    def shapes(self) -> list[list[int]]:
        """Return the three shapes as lists, as metadata keep them."""
        return [list(shape) for shape in (self.least, self.usual, self.most)]


def limits_for(multiple: int, size: tuple[int, int], batch: int, most: int) -> InputLimits:
    """The limits of a file for images of (H, W), `batch` in a call and at most `most`.

    Sides begin at `multiple`. They end at the longer side of `size` in both directions, because pictures lie and stand,
    and RECT_STEP above it, which val needs for rectangular batches. Memory grows with the largest input, so there is no
    more room than that.
    """
    longest = max(max(size) + max(multiple, RECT_STEP), COMPARED_SIDES * multiple)
    longest = -(-longest // multiple) * multiple
    return InputLimits((1, 3, multiple, multiple), (batch, 3, *size), (max(batch, most), 3, longest, longest))


def read_limits(args: Mapping[str, object]) -> InputLimits | None:
    """The limits that the `args` of metadata say; None where they say none, or none that can be meant."""
    shapes = args.get(KEY)
    if not isinstance(shapes, (list, tuple)) or len(shapes) != 3:
        return None
    if not all(isinstance(shape, (list, tuple)) and len(shape) == 4 for shape in shapes):
        return None
    columns = list(zip(*shapes))
    if not all(type(value) is int for column in columns for value in column):
        return None
    if columns[1] != (3, 3, 3) or not all(0 < low <= usual <= high for low, usual, high in columns):
        return None
    return InputLimits(*map(tuple, shapes))
