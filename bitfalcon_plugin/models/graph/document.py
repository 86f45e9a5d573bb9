"""The size, family, classes and activation of a whole model, from its document and from what the caller asks for.

Written from spec/interface.md section 3 (top-level keys, 3.1) and spec/families.md sections 1 and 3. No torch here.
Each function adds errors to `problems` and remarks for the user to `notes`; after an error it returns a usable value.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from ...config.errors import did_you_mean
from ...config.printable import short_repr
from ...ops.keypoint_layout import KEYS, KeypointLayout, read_layout
from .bit_policy import Policy, read_policies
from .rules import VARIANTS, activation_name

LISTS = ("backbone", "neck", "head")
# heads whose turbo graphs are residual at every scale (spec/segment-classify.md 1.1, 2.1)
RESIDUAL_HEADS = ("Segment", "Classify")
# A misspelt one of these changes the model.
SHAPING_KEYS = ("scales", "depth_multiple", "width_multiple", "activation", "reg_max", *LISTS)
OTHER_KEYS = "nc names scale ch channels end2end inplace yaml_file variant class_width bit"
KEYPOINT_KEYS = ("kpt_shape", *KEYS)
DOCUMENT_KEYS = frozenset((*SHAPING_KEYS, *OTHER_KEYS.split(), *KEYPOINT_KEYS))
MAX_FACTOR = 100  # depth and width multipliers beyond are no sizes
MAX_COUNT = 100_000  # classes, image channels, bins
UNSCALED = (1.0, 1.0, math.inf)  # depth, width, limit

Activation = tuple[str, tuple, Mapping[str, object]]  # name, args and keywords of a class of torch.nn


@dataclass(frozen=True)
class Overrides:
    """What the caller gives; it comes before the document.

    scale: one of the document's `scales`. named_scale: the letter in the file name, used where scale is empty. variant:
    v1, turbo or turbo-all-residual. nc, names, keypoints: those of the dataset.
    """

    scale: str = ""
    named_scale: str = ""
    variant: str | None = None
    nc: int | None = None
    names: Mapping[int, str] | None = None
    keypoints: KeypointLayout | None = None


@dataclass(frozen=True)
class Choices:
    """The values that hold for a whole model.

    scale: its letter or ''. depth, width, limit: its numbers (limit: most channels before width). activation: None for
    the default. class_width: hidden channels of the head's class branches, 0 for the usual rule. bit: which layers are
    ternary. keypoints: of every object, None without.
    """

    scale: str
    depth: float
    width: float
    limit: float
    variant: str
    nc: int
    names: dict[int, str]
    channels: int
    reg_max: int
    activation: Activation | None
    class_width: int
    bit: tuple[Policy, ...]
    keypoints: KeypointLayout | None


def read_choices(document: Mapping, overrides: Overrides, problems: list[str], notes: list[str]) -> Choices:
    """Return the Choices for a document."""
    _check_keys(document, problems, notes)
    letter, (depth, width, limit) = _size(document, overrides, problems, notes)
    variant = _variant(document, overrides.variant, problems, notes)
    nc, names = _classes(document, overrides, problems, notes)
    return Choices(
        letter,
        depth,
        width,
        limit,
        variant,
        nc,
        names,
        channels=_count("ch", _first(document, ("ch", "channels"), 3), 1, problems),
        reg_max=_count("reg_max", _first(document, ("reg_max",), 16), 2, problems),
        activation=_activation(document.get("activation"), problems),
        class_width=_count("class_width", document.get("class_width") or 0, 0, problems),
        bit=read_policies(document.get("bit"), problems),
        keypoints=_keypoints(document, overrides.keypoints, nc, problems, notes),
    )


def _first(document: Mapping, keys: Sequence[str], default: object) -> object:
    """The value of the first of the keys that the document has."""
    return next((document[key] for key in keys if document.get(key) is not None), default)


def _check_keys(document: Mapping, problems: list[str], notes: list[str]) -> None:
    unknown = sorted(str(key) for key in document if key not in DOCUMENT_KEYS)
    missing = [key for key in SHAPING_KEYS if key not in document]
    nearest = {key: difflib.get_close_matches(key.lower(), missing, 1, 0.8) for key in unknown}
    problems += [
        f"key {short_repr(key)} is unknown. Did you mean {near[0]!r}?" for key, near in nearest.items() if near
    ]
    if unused := [short_repr(key) for key, near in nearest.items() if not near]:
        notes.append(f"keys without a meaning here are passed over: {', '.join(unused)}")
    if document.get("end2end"):
        problems.append("end2end: True asks for a second set of branches, which is not built here; set it to False")


def _size(
    document: Mapping, overrides: Overrides, problems: list[str], notes: list[str]
) -> tuple[str, Sequence[float]]:
    """The letter of the scale, and its depth, width and limit."""
    scales = document.get("scales") or {}
    if not isinstance(scales, Mapping):
        problems.append(f"scales: {short_repr(scales)} is not a mapping of letter to [depth, width, max_channels]")
        return "", UNSCALED
    scales = {str(key)[:20]: value for key, value in scales.items()}
    scale, named = overrides.scale, overrides.named_scale
    letter = scale or named or document.get("scale") or ""
    if scale and named and scale != named:
        notes.append(f"scale={scale} as asked, not {named!r} as in the file name")
    if not isinstance(letter, str) or letter and letter not in scales and (scales or scale):
        missing = f"{short_repr(letter)} was asked for, but this YAML has no scales"
        problems.append(f"scale: {_unknown(letter, scales) if scales else missing}")
        return "", UNSCALED
    if scales and not letter:
        letter = next(iter(scales))
        notes.append(f"no scale given, assuming scale='{letter}' (known: {', '.join(scales)})")
    multiples = [_first(document, (key,), 1.0) for key in ("depth_multiple", "width_multiple")]
    values = scales.get(letter, multiples)
    if not _is_size(values):
        key = f"scales: {letter}" if scales else "depth_multiple, width_multiple"
        problems.append(
            f"{key}: {short_repr(values)} is not [depth, width, max_channels] of numbers above 0, the first "
            f"two at most {MAX_FACTOR}"
        )
        return letter, UNSCALED
    return letter, (*values, math.inf)[:3]


def _is_size(values: object) -> bool:
    return (
        isinstance(values, (list, tuple))
        and len(values) in (2, 3)
        and all(isinstance(v, (int, float)) and not isinstance(v, bool) and v > 0 for v in values)
        and max(values[:2]) <= MAX_FACTOR
    )


def _variant(document: Mapping, override: str | None, problems: list[str], notes: list[str]) -> str:
    """The family: that of the caller, of the document, or the one that its rows look like."""
    rows = [row for key in LISTS if isinstance(document.get(key), list) for row in document[key]]
    has_attention = any(isinstance(row, list) and "A2C2f" in row[2:3] for row in rows)
    is_grouped = has_attention and any(_groups(row) > 1 for row in (*rows[1:2], *rows[3:4]))
    if override:
        variant, reason = override, "as asked"
    elif document.get("variant"):
        variant, reason = document["variant"], "as the YAML says"
    elif is_grouped:
        is_residual = isinstance(rows[-1], list) and any(head in rows[-1][2:3] for head in RESIDUAL_HEADS)
        variant, reason = "turbo-all-residual" if is_residual else "turbo", "rows 1 and 3 are grouped"
    else:
        variant, reason = "v1", "the default"
    if not isinstance(variant, str) or variant not in VARIANTS:
        problems.append(f"variant: {_unknown(variant, VARIANTS)}")
        return "v1"
    if has_attention:
        notes.append(f"variant={variant} ({reason})")
    elif override:
        notes.append(f"variant={override} changes nothing: no row is an A2C2f")
    return variant


def _groups(row: object) -> int:
    """The groups of a row of Conv, as the turbo release writes it: [from, repeats, Conv, [c_out, k, s, p, groups]]."""
    args = row[3] if isinstance(row, list) and len(row) == 4 and row[2] == "Conv" else None
    return args[4] if isinstance(args, list) and len(args) > 4 and isinstance(args[4], int) else 1


def _unknown(value: object, known: Collection[str]) -> str:
    text = short_repr(value)
    return f"{text} is unknown (known: {', '.join(known)}).{did_you_mean(text.strip(chr(39)), known)}"


def _classes(
    document: Mapping, overrides: Overrides, problems: list[str], notes: list[str]
) -> tuple[int, dict[int, str]]:
    """The number of classes, and class index -> name."""
    nc, names = overrides.nc, overrides.names
    own_names = _own_names(document.get("names"), problems)
    own_nc = document.get("nc")
    if own_nc is None and own_names is not None:
        own_nc = len(own_names)
    if nc is None and names is not None:
        nc = len(names)
    if own_nc is not None or nc is None:
        before = len(problems)
        own_nc = _count("nc", own_nc, 1, problems)
        if own_names is not None and own_nc != len(own_names) and len(problems) == before:
            problems.append(f"names: {len(own_names)} names for nc: {own_nc}")
        if nc is not None and nc != own_nc:
            notes.append(classes_note(own_nc, nc))
    count = own_nc if nc is None else nc
    if names is None and own_names is not None and len(own_names) == count:
        names = dict(enumerate(own_names))
    if names is None:
        names = {index: str(index) for index in range(count)}
    return count, {index: str(name) for index, name in names.items()}


def classes_note(own: int, data: int) -> str:
    """The note that a model of `own` classes is built for the `data` classes of a dataset."""
    return f"nc={own} of the model becomes nc={data} of the dataset"


def _keypoints(
    document: Mapping, override: KeypointLayout | None, nc: int, problems: list[str], notes: list[str]
) -> KeypointLayout | None:
    """The keypoints of the dataset, otherwise those of the document. nc: number of classes of the model."""
    keys = ("kpt_shape",) if override is not None else KEYPOINT_KEYS
    own_nc = document["nc"] if type(document.get("nc")) is int else nc
    own = read_layout({key: document.get(key) for key in keys}, max(nc, own_nc), problems)
    if override is None:
        return own and replace(own, names={index: names for index, names in own.names.items() if index < nc})
    if own is not None and own.shape != override.shape:
        notes.append(keypoints_note(own, override))
    return override


def keypoints_note(own: KeypointLayout, data: KeypointLayout) -> str:
    """The note that a model with `own` keypoints is built for those of a dataset."""
    return f"kpt_shape={list(own.shape)} of the model becomes kpt_shape={list(data.shape)} of the dataset"


def _own_names(names: object, problems: list[str]) -> list | None:
    if isinstance(names, Mapping):
        if set(names) != set(range(len(names))):
            problems.append(f"names: the indices must be 0 to {len(names) - 1}, found {short_repr(list(names))}")
            return None
        names = [names[index] for index in range(len(names))]
    is_list = isinstance(names, list) and names and all(isinstance(name, (str, int, float)) for name in names)
    if names is None or is_list:
        return names
    problems.append(f"names: {short_repr(names)} is not a list of names, or a mapping of index to name")
    return None


def _count(key: str, value: object, minimum: int, problems: list[str]) -> int:
    if type(value) is int and minimum <= value <= MAX_COUNT:
        return value
    problems.append(f"{key}: {short_repr(value)} is not an integer from {minimum} to {MAX_COUNT}")
    return minimum


def _activation(text: object, problems: list[str]) -> Activation | None:
    activation = None if text is None else activation_name(text)
    if text is not None and activation is None:
        problems.append(f"activation: {short_repr(text)} is not a name such as nn.ReLU() or torch.nn.LeakyReLU(0.1)")
    return activation
