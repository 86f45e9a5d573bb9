"""Masks and keypoints of COCO's annotation files: polygons, run lengths, and triples of x, y and visibility.

The formats are those of cocodataset.org (Lin et al., "Microsoft COCO", arXiv:1405.0312). Run lengths are counted
before pycocotools sees them, because its C code trusts them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from ...config.printable import short_repr

LARGEST = 1e9  # px; larger numbers are mistakes
MOST_BITS = 40  # of a run length
VISIBILITY = (0, 1, 2)


def is_number(value: object) -> bool:
    """Whether a value of JSON is a finite number of a possible size; true and false are none."""
    return type(value) in (int, float) and -LARGEST <= value <= LARGEST


def are_numbers(values: Sequence[object]) -> bool:
    """Whether all values of a list are numbers by `is_number`; quick, as a file may hold tens of millions."""
    if not set(map(type, values)) <= {int, float}:
        return False
    return -LARGEST <= min(values) and max(values) <= LARGEST and math.isfinite(sum(values))  # the sum finds nan


def polygon_problem(rings: Sequence[object]) -> str:
    """What is wrong with the rings of a segmentation, in words; empty where nothing is."""
    for number, ring in enumerate(rings):
        where = f"segmentation[{number}]"
        if not isinstance(ring, list):
            return f"{where} is {short_repr(ring)}; expected a list of numbers x1, y1, x2, y2, ... for each part"
        if len(ring) % 2 or len(ring) < 6:
            return f"{where} has {len(ring)} numbers; expected x and y of three points or more, an even number from 6"
        if not are_numbers(ring):
            bad = next(value for value in ring if not is_number(value))
            return f"{where} holds {short_repr(bad)} where a finite number of pixels is expected"
    return ""


def run_problem(runs: dict[str, object], size: tuple[int, int] | None) -> str:
    """What is wrong with run lengths {"size": [h, w], "counts": ...}, in words; empty where nothing is.

    size: (h, w) of the image, where the file has it.
    """
    stated, counts = runs.get("size"), runs.get("counts")
    if not isinstance(stated, list) or len(stated) != 2 or not all(type(side) is int and side > 0 for side in stated):
        return f"segmentation has size {short_repr(stated)}; expected [height, width] in pixels"
    if size is not None and tuple(stated) != size:
        swapped = " (width and height exchanged)" if tuple(stated) == size[::-1] else ""
        return f"segmentation has size {stated}, its image [{size[0]}, {size[1]}]{swapped}; expected [height, width]"
    lengths = run_lengths(counts)
    if lengths is None:
        expected = "run lengths, as a list or as COCO's compressed text"
        return f"segmentation has counts {short_repr(counts)}; expected {expected}"
    if sum(lengths) != stated[0] * stated[1]:
        expected = f"{stated[0]} x {stated[1]} = {stated[0] * stated[1]} pixels"
        return f"the counts of segmentation add up to {sum(lengths)}; expected {expected}"
    return ""


def run_lengths(counts: object) -> list[int] | None:
    """Run lengths of a list or of COCO's compressed text, beginning with those outside; None if it is neither."""
    if isinstance(counts, list):
        return counts if all(type(count) is int and 0 <= count <= LARGEST for count in counts) else None
    if not isinstance(counts, str) or not counts.isascii():
        return None
    lengths: list[int] = []
    value = shift = 0
    for digit in counts.encode():
        digit -= 48  # six bits a character: five of the number, and whether more follow
        if not 0 <= digit < 64 or shift > MOST_BITS:
            return None
        value |= (digit & 31) << shift
        shift += 5
        if digit & 32:
            continue
        if digit & 16:
            value -= 1 << shift
        if len(lengths) > 2:  # from the fourth on a number is the difference to the one before the last
            value += lengths[-2]
        lengths.append(value)
        value = shift = 0
    return None if shift or min(lengths, default=0) < 0 else lengths


def keypoint_problem(values: object, count: int) -> str:
    """What is wrong with the keypoints of an annotation whose category names `count`, in words; empty where nothing."""
    if not isinstance(values, list) or len(values) != 3 * count:
        found = f"{len(values)} numbers" if isinstance(values, list) else short_repr(values)
        return f"keypoints: {found}; expected {3 * count}, x, y and visibility of the {count} that its category names"
    if not are_numbers(values):
        bad = next(value for value in values if not is_number(value))
        return f"keypoints hold {short_repr(bad)} where a finite number is expected"
    odd = [value for value in values[2::3] if value not in VISIBILITY]
    return f"a keypoint has visibility {odd[0]}; expected 0 (not labelled), 1 (hidden) or 2 (visible)" if odd else ""


def hull(rings: Sequence[Sequence[float]]) -> list[float]:
    """The box left, top, width, height around rings x1, y1, x2, y2, ..."""
    left, right = math.inf, -math.inf
    top, bottom = math.inf, -math.inf
    for ring in rings:
        left, right = min(left, *ring[0::2]), max(right, *ring[0::2])
        top, bottom = min(top, *ring[1::2]), max(bottom, *ring[1::2])
    return [left, top, right - left, bottom - top]
