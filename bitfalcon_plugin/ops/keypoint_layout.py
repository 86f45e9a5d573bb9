"""What is known of the keypoints of every object: how many, their names, partners in a mirror, spreads and limbs.

The keys are those of a dataset YAML. Written from spec/pose-obb.md 1.3 and 1.5; `skeleton` is a key of this package.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

# Spread of each of COCO's seventeen points, relative to the root of an object's area (cocodataset.org, keypoints)
COCO_SIGMAS = (
    *(0.026, 0.025, 0.025, 0.035, 0.035, 0.079, 0.079, 0.072, 0.072),
    *(0.062, 0.062, 0.107, 0.107, 0.087, 0.087, 0.089, 0.089),
)
# The limbs of COCO's seventeen points, as pairs of indices from 0.
COCO_LIMBS = (
    *((15, 13), (13, 11), (16, 14), (14, 12), (11, 12), (5, 11), (6, 12), (5, 6), (5, 7), (6, 8)),
    *((7, 9), (8, 10), (1, 2), (0, 1), (0, 2), (1, 3), (2, 4), (3, 5), (4, 6)),
)
COCO_SHAPE = (17, 3)
SIGMAS = (1e-6, 1e6)  # least and largest spread: the square of another one is 0 or infinite in float32
MAX_KEYPOINTS = 10_000  # of an object; whole bodies have 133
KEYS = ("flip_idx", "kpt_names", "kpt_oks_sigmas", "skeleton")  # they describe the points of kpt_shape

Limb = tuple[int, int]


@dataclass(frozen=True)
class KeypointLayout:
    """The keypoints of every object.

    count: number of points K. columns: 2 (x, y) or 3 (x, y, visibility). flip: for each point the one that takes its
    place in a mirror, None where that is unknown. names: class index -> K names, empty where they are unknown. given:
    the spreads that the dataset states, or None. skeleton: the limbs that the dataset states, or None.
    """

    count: int
    columns: int
    flip: tuple[int, ...] | None = None
    names: Mapping[int, tuple[str, ...]] = field(default_factory=dict)
    given: tuple[float, ...] | None = None
    skeleton: tuple[Limb, ...] | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """K and the number of columns, as `kpt_shape:` states them."""
        return self.count, self.columns

    @property
    def sigmas(self) -> tuple[float, ...]:
        """The spread of each point in the loss and in OKS: those given, COCO's for [17, 3], otherwise 1/K."""
        if self.given is not None:
            return self.given
        return COCO_SIGMAS if self.shape == COCO_SHAPE else (1 / self.count,) * self.count

    @property
    def limbs(self) -> tuple[Limb, ...]:
        """The pairs of points that pictures join by a line: those of the skeleton, or of COCO for seventeen points."""
        if self.skeleton is not None:
            return self.skeleton
        return COCO_LIMBS if self.count == COCO_SHAPE[0] else ()

    def name(self, index: int, cls: int | None = None) -> str:
        """The name of a point: of a class, or of the first class that has names; else its index as text."""
        names = self.names.get(cls) if cls is not None else next(iter(self.names.values()), None)
        return names[index] if names else str(index)

    def as_keys(self) -> dict[str, object]:
        """The keys of a YAML that `read_layout` reads back."""
        values = {
            "kpt_shape": list(self.shape),
            "flip_idx": self.flip and list(self.flip),
            "kpt_names": {index: list(names) for index, names in self.names.items()} or None,
            "kpt_oks_sigmas": self.given and list(self.given),
            "skeleton": None if self.skeleton is None else [list(limb) for limb in self.skeleton],
        }
        return {key: value for key, value in values.items() if value is not None}


def read_layout(raw: Mapping[str, object], nc: int, problems: list[str]) -> KeypointLayout | None:
    """Read the keys of a YAML about keypoints; None without `kpt_shape:`. nc: number of classes.

    A line is added to `problems` for every key that cannot be used.
    """
    shape = _shape(raw.get("kpt_shape"), problems)
    if shape is None:
        return None
    count, columns = shape
    names = _names(raw.get("kpt_names"), count, nc, problems)
    return KeypointLayout(
        count,
        columns,
        _flip(raw.get("flip_idx"), count, problems),
        names or {},
        _sigmas(raw.get("kpt_oks_sigmas"), count, problems),
        None if names is None else _skeleton(raw.get("skeleton"), count, names, problems),
    )


def _shape(value: object, problems: list[str]) -> tuple[int, int] | None:
    if value is None:
        return None
    if isinstance(value, (list, tuple)) and [type(number) for number in value] == [int, int]:
        if 0 < value[0] <= MAX_KEYPOINTS and value[1] in (2, 3):
            return value[0], value[1]
    problems.append(f"kpt_shape: {_short(value)}; expected [number of keypoints, 2 (x y) or 3 (x y visibility)]")
    return None


def _flip(value: object, count: int, problems: list[str]) -> tuple[int, ...] | None:
    if value is None:
        return None
    if isinstance(value, (list, tuple)) and all(type(index) is int for index in value):
        if sorted(value) == list(range(count)):
            return tuple(value)
        reason = f"{len(value)} indices" if len(value) != count else f"not each of 0 to {count - 1} once"
    else:
        reason = "not a list of whole numbers"
    problems.append(
        f"flip_idx: {_short(value)} is {reason}; expected the {count} indices 0 to {count - 1}, each once: for each "
        "keypoint the one that takes its place in a mirror, itself where it is neither left nor right"
    )
    return None


def _names(value: object, count: int, nc: int, problems: list[str]) -> dict[int, tuple[str, ...]] | None:
    """Class index -> names; None where they cannot be used. One list of names is for every class."""
    if value is None:
        return {}
    by_class = value if isinstance(value, Mapping) else dict.fromkeys(range(nc), value)
    names = {}
    for index, row in by_class.items():
        is_class = type(index) is int and 0 <= index < max(nc, 1)
        if not is_class or not isinstance(row, (list, tuple)) or len(row) != count:
            problems.append(
                f"kpt_names: {_short({index: row})}; expected for each class, 0 to {nc - 1}, a list of {count} names"
            )
            return None
        if wrong := [name for name in row if isinstance(name, bool) or not isinstance(name, (str, int, float))]:
            problems.append(
                f"kpt_names: {_short(wrong[0])} is no name; expected text (put yes, no, on, off in quotes), and for "
                "several classes `0: [...]`, `1: [...]`"
            )
            return None
        names[index] = tuple(map(str, row))
    return names


def _sigmas(value: object, count: int, problems: list[str]) -> tuple[float, ...] | None:
    if value is None:
        return None
    if isinstance(value, (list, tuple)) and len(value) == count and all(map(_is_sigma, value)):
        return tuple(map(float, value))
    low, high = SIGMAS
    problems.append(
        f"kpt_oks_sigmas: {_short(value)}; expected {count} numbers above 0 ({low:g} to {high:g}), the spread of each "
        "keypoint"
    )
    return None


def _skeleton(
    value: object, count: int, names: Mapping[int, Sequence[str]], problems: list[str]
) -> tuple[Limb, ...] | None:
    """Limbs as pairs of indices. In the YAML a point may also be called by its name."""
    if value is None:
        return None
    known = {name: index for row in names.values() for index, name in enumerate(row)}
    limbs, wrong = [], []
    for pair in value if isinstance(value, (list, tuple)) else [value]:
        ends = pair if isinstance(pair, (list, tuple)) else ()
        indices = tuple(known.get(end, end) if isinstance(end, str) else end for end in ends)
        fits = len(indices) == 2 and all(type(index) is int and 0 <= index < count for index in indices)
        (limbs if fits else wrong).append(indices if fits else pair)
    if not wrong:
        return tuple(limbs)
    from_one = "; COCO's files count from 1, here the first keypoint is 0" if any(map(_holds(count), wrong)) else ""
    problems.append(
        f"skeleton: {_short(wrong)}; expected pairs of keypoints, by index 0 to {count - 1} or by name{from_one}"
    )
    return None


def _holds(count: int):
    return lambda pair: isinstance(pair, (list, tuple)) and count in pair


def _is_sigma(value: object) -> bool:
    return type(value) in (int, float) and SIGMAS[0] <= value <= SIGMAS[1]


def _short(value: object) -> str:
    try:
        text = repr(value)
    except ValueError:  # a number of more digits than Python writes
        return f"a {type(value).__name__} with a number of enormous length"
    return text if len(text) <= 100 else text[:97] + "..."
