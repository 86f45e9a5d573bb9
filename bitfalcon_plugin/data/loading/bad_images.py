"""Images that cannot be read while a run reads them: what takes their place, and how they are named and counted.

The scan reads headers only, and files change during a run. So a reader may meet an image that it cannot decode.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from ...config.errors import UserError, raise_problems
from ...config.notes import print_note

MAX_STAND_INS = 100  # images that are tried for one place of a batch
MAX_NAMED = 100  # bad images of a split that are named; all are counted

Problem = tuple[int, str]  # index of a sample, and why it cannot be read


class Item(NamedTuple):
    """What a reader gives for one place of a batch.

    index: of the sample that was read. image: a Tensor, or another form of the picture; None where none could be read.
    problems: of the samples that were tried before.
    """

    index: int
    image: object | None
    problems: list[Problem]


def stand_ins(index: int, count: int) -> Iterator[int]:
    """Yield sample `index` of `count`, then those that take its place where it cannot be read, the first that can.

    They follow from the numbers alone, so that a resumed run reads the same. Their distance is about 0.618 of all
    samples: neighbours in a folder that is broken as a whole do not stand in for each other.
    """
    step = max(round(count * (math.sqrt(5) - 1) / 2), 1)
    while math.gcd(step, count) != 1:
        step += 1
    for attempt in range(min(count, MAX_STAND_INS)):
        yield (index + attempt * step) % count


def read_or_replace(read: Callable[[int], object], index: int, count: int) -> Item:
    """Read sample `index` of `count`, or the first of its stand-ins that can be read.

    read: index -> a picture, or why it cannot be read.
    """
    problems: list[Problem] = []
    for candidate in stand_ins(index, count):
        image = read(candidate)
        if not isinstance(image, str):
            return Item(candidate, image, problems)
        problems.append((candidate, image))
    return Item(index, None, problems)


class BadImages:
    """The images of a split that could not be read in this run.

    split: "training" or "validation". paths: of all samples. rule: the value of on_bad_image=. named: the indices of
    those that were named, here or by an earlier loader of the run.
    """

    def __init__(self, split: str, paths: Sequence[str], rule: str) -> None:
        self.split, self.paths, self.rule = split, paths, rule
        self.reasons: dict[int, str] = {}  # by the index of the sample
        self.named: set[int] = set()
        self._reported = 0

    def add(self, problems: Sequence[Problem]) -> None:
        """Name those that are new. Raises UserError with on_bad_image=stop."""
        new = {index: reason for index, reason in problems if index not in self.reasons}
        if self.rule == "stop":
            raise_problems(
                f"{self.split.capitalize()} images cannot be read. Restore them, or go on without them by "
                "on_bad_image=skip:",
                [f"{self.paths[index]}: {reason}" for index, reason in new.items()],
            )
        self.reasons |= new
        before = len(self.named)
        for index in [index for index in new if index not in self.named][: max(MAX_NAMED - before, 0)]:
            print_note(f"{self.paths[index]}: {new[index]}; image set aside")
        self.named |= new.keys()
        if before <= MAX_NAMED < len(self.named):
            print_note(f"more than {MAX_NAMED} {self.split} images cannot be read; further ones are only counted.")

    def indices_of(self, items: Sequence[Item]) -> list[int]:
        """Return the samples whose images could be read, in the order of `items`; add the problems of the others."""
        self.add([problem for item in items for problem in item.problems])
        return [item.index for item in items if item.image is not None]

    def require(self, items: Sequence[Item]) -> None:
        """Raise UserError where no image could be read for some place of a training batch."""
        for item in items:
            if item.image is None:
                lines = [f"{self.paths[index]}: {reason}" for index, reason in item.problems]
                title = f"None of {len(lines)} {self.split} images that were tried can be read; is their folder there?"
                raise_problems(title, lines, limit=5)

    def join(self, gather: Callable[[list], list]) -> None:
        """Add what the other processes of a run met. gather: as World.gather."""
        self.add(gather(list(self.reasons.items())))

    def report(self) -> None:
        """Print the count, where it changed since the last report."""
        count = len(self.reasons)
        if count == self._reported:
            return
        self._reported = count
        images = f"{count} of {len(self.paths)} {self.split} images could not be read"
        print_note(f"{images}; {CONSEQUENCES[self.split]}")

    def require_some(self) -> None:
        """Raise UserError where not one image is left."""
        if self.paths and len(self.reasons) == len(self.paths):
            first = f"{self.paths[0]}: {self.reasons[0]}"
            raise UserError(f"None of the {len(self.paths)} {self.split} images can be read; the first: {first}.")


CONSEQUENCES = {
    "training": "in every epoch other images took their places.",
    "validation": "the numbers are those of the others.",
}
