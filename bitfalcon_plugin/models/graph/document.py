"""What holds for a whole model: its size, family, classes and activation, from its document and from what was asked.

Written from spec/interface.md section 3 (top-level keys, 3.1) and spec/families.md sections 1 and 3. No torch here.
What is wrong is added to `problems`, what the user should hear of to `notes`; a usable value stands in for it.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from ...config.errors import did_you_mean
from .bit_policy import Policy, read_policies
from .rules import VARIANTS, activation_name, shown

LISTS = ("backbone", "neck", "head")
DOCUMENT_KEYS = frozenset(
    {
        "nc",
        "names",
        "scales",
        "scale",
        "depth_multiple",
        "width_multiple",
        "activation",
        "ch",
        "channels",
        "reg_max",
        "end2end",
        "inplace",
        "yaml_file",
        "variant",
        "class_width",
        "bit",
        *LISTS,
    }
)
# a misspelt one of these changes the model
SHAPING_KEYS = ("scales", "depth_multiple", "width_multiple", "activation", "reg_max", *LISTS)
MAX_FACTOR = 100  # depth and width multipliers beyond are no sizes
MAX_COUNT = 100_000  # classes, image channels, bins


@dataclass(frozen=True)
class Choices:
    """The model that is meant.

    scale: its letter or ''. depth, width, limit: its numbers (limit: most channels before width). activation: name,
    args and keywords of a class of torch.nn, or None for the default.
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
    activation: tuple[str, tuple, Mapping[str, object]] | None
    class_width: int  # hidden channels of the head's class branches, 0 for the usual rule
    bit: tuple[Policy, ...]  # which layers are ternary


def choose(
    document: Mapping,
    problems: list[str],
    notes: list[str],
    scale: str,
    named_scale: str,
    variant: str | None,
    nc: int | None,
    names: Mapping[int, str] | None,
) -> Choices:
    """Choices for `document`; scale to names are the arguments of graph.resolve."""
    _check_keys(document, problems, notes)
    letter, (depth, width, limit) = _size(document, scale, named_scale, problems, notes)
    family = _family(document, variant, problems, notes)
    nc, names = _classes(document, nc, names, problems, notes)
    channels = _count("ch", _first(document, ("ch", "channels"), 3), 1, problems)
    reg_max = _count("reg_max", _first(document, ("reg_max",), 16), 2, problems)
    return Choices(
        letter,
        depth,
        width,
        limit,
        family,
        nc,
        names,
        channels,
        reg_max,
        _activation(document, problems),
        _count("class_width", document.get("class_width") or 0, 0, problems),
        read_policies(document.get("bit"), problems),
    )


def _first(document: Mapping, keys: Sequence[str], otherwise: object) -> object:
    return next((document[key] for key in keys if document.get(key) is not None), otherwise)


def _check_keys(document: Mapping, problems: list[str], notes: list[str]) -> None:
    unknown = sorted(str(key) for key in document if key not in DOCUMENT_KEYS)
    missing = [key for key in SHAPING_KEYS if key not in document]
    meant = {key: difflib.get_close_matches(key.lower(), missing, 1, 0.8) for key in unknown}
    problems += [f"key {shown(key)} is unknown. Did you mean {near[0]!r}?" for key, near in meant.items() if near]
    without = [key for key, near in meant.items() if not near]
    if without:
        notes.append(f"keys without a meaning here are passed over: {', '.join(map(shown, without))}")
    if document.get("end2end"):
        problems.append("end2end: True asks for a second set of branches, which is not built here; set it to False")


def _size(
    document: Mapping, asked: str, named: str, problems: list[str], notes: list[str]
) -> tuple[str, Sequence[float]]:
    scales = document.get("scales") or {}
    if not isinstance(scales, Mapping):
        problems.append(f"scales: {shown(scales)} is not a mapping of letter to [depth, width, max_channels]")
        return "", (1.0, 1.0, math.inf)
    scales = {str(key)[:20]: value for key, value in scales.items()}
    letter = asked or named or document.get("scale") or ""
    if asked and named and asked != named:
        notes.append(f"scale={asked} as asked, not {named!r} as in the file name")
    if not isinstance(letter, str) or letter and letter not in scales and (scales or asked):
        problems.append(
            f"scale: {_unknown(letter, scales)}"
            if scales
            else f"scale: {shown(letter)} was asked for, but this YAML has no scales"
        )
        return "", (1.0, 1.0, math.inf)
    if scales and not letter:
        letter = next(iter(scales))
        notes.append(f"no scale given, assuming scale='{letter}' (known: {', '.join(scales)})")
    written = [_first(document, (key,), 1.0) for key in ("depth_multiple", "width_multiple")]
    values = scales.get(letter, written)
    if not _is_size(values):
        what = f"scales: {letter}" if scales else "depth_multiple, width_multiple"
        problems.append(
            f"{what}: {shown(values)} is not [depth, width, max_channels] of numbers above 0, the first "
            f"two at most {MAX_FACTOR}"
        )
        return letter, (1.0, 1.0, math.inf)
    return letter, (*values, math.inf)[:3]


def _is_size(values: object) -> bool:
    return (
        isinstance(values, (list, tuple))
        and len(values) in (2, 3)
        and all(isinstance(v, (int, float)) and not isinstance(v, bool) and v > 0 for v in values)
        and max(values[:2]) <= MAX_FACTOR
    )


def _family(document: Mapping, asked: str | None, problems: list[str], notes: list[str]) -> str:
    written = document.get("variant")
    rows = [row for key in LISTS if isinstance(document.get(key), list) for row in document[key]]
    attends = any(isinstance(row, list) and "A2C2f" in row[2:3] for row in rows)
    grouped = attends and any(_groups(row) > 1 for row in (*rows[1:2], *rows[3:4]))
    chosen = asked or written or ("turbo" if grouped else "v1")
    if not isinstance(chosen, str) or chosen not in VARIANTS:
        problems.append(f"variant: {_unknown(chosen, VARIANTS)}")
        return "v1"
    if attends:
        why = "rows 1 and 3 are grouped" if grouped else "the default"
        notes.append(f"variant={chosen} ({'as asked' if asked else 'as the YAML says' if written else why})")
    elif asked:
        notes.append(f"variant={asked} changes nothing: no row is an A2C2f")
    return chosen


def _unknown(value: object, known: Collection[str]) -> str:
    word = shown(value)
    return f"{word} is unknown (known: {', '.join(known)}).{did_you_mean(word.strip(chr(39)), known)}"


def _groups(row: object) -> int:
    # Groups of a convolution's row as in the turbo release: [from, repeats, Conv, [c_out, k, s, p, groups]].
    args = row[3] if isinstance(row, list) and len(row) == 4 and row[2] == "Conv" else None
    return args[4] if isinstance(args, list) and len(args) > 4 and isinstance(args[4], int) else 1


def _classes(
    document: Mapping, nc: int | None, names: Mapping[int, str] | None, problems: list[str], notes: list[str]
) -> tuple[int, dict[int, str]]:
    own = _own_names(document.get("names"), problems)
    own_nc = document.get("nc")
    if own_nc is None and own is not None:
        own_nc = len(own)
    if nc is None and names is not None:
        nc = len(names)
    if own_nc is not None or nc is None:
        before = len(problems)
        own_nc = _count("nc", own_nc, 1, problems)
        if own is not None and own_nc != len(own) and len(problems) == before:
            problems.append(f"names: {len(own)} names for nc: {own_nc}")
        if nc is not None and nc != own_nc:
            notes.append(classes_note(own_nc, nc))
    count = own_nc if nc is None else nc
    if names is None and own is not None and len(own) == count:
        names = dict(enumerate(own))
    if names is None:
        names = {index: str(index) for index in range(count)}
    return count, {index: str(name) for index, name in names.items()}


def classes_note(own: int, data: int) -> str:
    """The note that a model of `own` classes is built for the `data` classes of a dataset."""
    return f"nc={own} of the model becomes nc={data} of the dataset"


def _own_names(own: object, problems: list[str]) -> list | None:
    if isinstance(own, Mapping):
        if set(own) != set(range(len(own))):
            problems.append(f"names: the indices must be 0 to {len(own) - 1}, found {shown(list(own))}")
            return None
        own = [own[index] for index in range(len(own))]
    if own is None or (isinstance(own, list) and own and all(isinstance(name, (str, int, float)) for name in own)):
        return own
    problems.append(f"names: {shown(own)} is not a list of names, or a mapping of index to name")
    return None


def _count(key: str, value: object, least: int, problems: list[str]) -> int:
    if type(value) is int and least <= value <= MAX_COUNT:
        return value
    problems.append(f"{key}: {shown(value)} is not an integer from {least} to {MAX_COUNT}")
    return least


def _activation(document: Mapping, problems: list[str]) -> tuple[str, tuple, Mapping[str, object]] | None:
    written = document.get("activation")
    found = activation_name(written) if written is not None else None
    if written is not None and found is None:
        problems.append(f"activation: {shown(written)} is not a name such as nn.ReLU() or torch.nn.LeakyReLU(0.1)")
    return found
