"""What a user should know of the keypoints of a dataset before training: mirrors, by name, and the sigmas in use.

Written from spec/pose-obb.md 1.3 and section 3, questions 1 and 5.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from ...ops.keypoint_layout import KeypointLayout

SIDES = {"left": "right", "right": "left", "l": "r", "r": "l"}
# Any letter l or r may be a side: it counts where the name with the other letter is a keypoint too.
_SIDE = re.compile("left|right|l|r", re.IGNORECASE)
HALF = 1.71  # distance over sigma and the root of the box's area at which a point counts half in OKS: (0.53 8 ln 2)^0.5


def layout_notes(layout: KeypointLayout) -> list[str]:
    """Return what is told at the start of a run: warnings about flip_idx, exchanged points, sigmas."""
    return [*flip_warnings(layout), *_exchanged(layout), sigmas_line(layout)]


def no_keypoints(path: Path, form: str) -> str:
    """Return what is wrong with the YAML at `path` of a dataset of format `form`, which does not describe keypoints."""
    if form == "coco":
        return (
            f"Dataset '{path}' has no keypoints, which task=pose needs: no category of its annotation files has "
            "`keypoints`, a list of names (COCO's are in person_keypoints_*.json)."
        )
    return (
        f"Dataset '{path}' has no kpt_shape, and a model of task=pose needs one: how many keypoints an object has, and "
        "whether they have a visibility, for example kpt_shape: [17, 3]. Labels without keypoints are for task=detect, "
        "and four corners for task=obb."
    )


def flip_warnings(layout: KeypointLayout) -> list[str]:
    """Return a line for everything odd in `flip_idx`: none at all, not its own inverse, left and right in place."""
    if layout.flip is None:
        return [
            "no flip_idx: fliplr and flipud are off, because a mirror may exchange keypoints. Give flip_idx, for each "
            f"keypoint the one that takes its place in a mirror: {list(range(layout.count))} where none is left or "
            "right"
        ]
    lines = []
    if wrong := [index for index, other in enumerate(layout.flip) if layout.flip[other] != index]:
        chains = [f"{layout.name(i)} becomes {layout.name(layout.flip[i])}" for i in wrong]
        lines.append(
            f"flip_idx is not its own inverse: {', '.join(chains)}. Two mirrors give the picture back, and so should "
            "exchange two keypoints with each other"
        )
    for names in dict.fromkeys(layout.names.values()):
        lines += _mixed_sides(names, layout.flip)
    return lines


def sigmas_line(layout: KeypointLayout) -> str:
    """Return which sigmas the loss and the point AP go by, and why."""
    values = sorted(set(layout.sigmas))
    text = f"{values[0]:.3g}" if len(values) == 1 else f"{values[0]:.3g} to {values[-1]:.3g}"
    if layout.given is not None:
        return f"sigma of the keypoints: {text}, from kpt_oks_sigmas"
    if len(values) > 1:
        return f"sigma of the keypoints: COCO's, {text}"
    return (
        f"sigma of the keypoints: {text}, 1 / {layout.count} as there are no kpt_oks_sigmas. A point that lies "
        f"{HALF * values[0]:.2g} of the object's size away then still counts half. Smaller ones (COCO's are 0.025 "
        "to 0.107) measure more exactly; to train with them, start from the weights of a run with these"
    )


def _exchanged(layout: KeypointLayout) -> list[str]:
    pairs = [(i, other) for i, other in enumerate(layout.flip or ()) if i < other and layout.flip[other] == i]
    if not pairs:
        return []
    return ["a mirror exchanges " + ", ".join(f"{layout.name(a)} and {layout.name(b)}" for a, b in pairs)]


def _mixed_sides(names: Sequence[str], flip: Sequence[int]) -> Iterator[str]:
    """Yield a line where names are a pair of left and right, and flip_idx does not exchange the two."""
    partners = mirror_partners(names)
    wrong = [index for index, partner in partners.items() if flip[index] != partner]
    if wrong:
        expected = [partners.get(index, flip[index]) for index in range(len(names))]
        told = [
            f"{names[i]} {'stays' if flip[i] == i else 'becomes ' + names[flip[i]]}, not {names[partners[i]]}"
            for i in wrong
        ]
        hint = f" By the names it would be {expected}" if sorted(expected) == list(range(len(names))) else ""
        yield f"flip_idx mixes up left and right: in a mirror {'; '.join(told)}.{hint}"


def mirror_partners(names: Sequence[str]) -> dict[int, int]:
    """Index -> index of the name in which left and right are exchanged, where there is such a name."""
    index_of = {name: index for index, name in enumerate(names)}
    partners = {}
    for index, name in enumerate(names):
        for side in _SIDE.finditer(name):
            other = name[: side.start()] + _opposite(side.group()) + name[side.end() :]
            if other in index_of:
                partners[index] = index_of[other]
    return partners


def _opposite(side: str) -> str:
    other = SIDES[side.lower()]
    if side.isupper():
        return other.upper()
    return other.capitalize() if side[0].isupper() else other
