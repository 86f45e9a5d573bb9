"""Which layers of a model are ternary: the key `bit` of a graph document. No torch here.

The value is `head`, `[neck, head]`, `none` (for a head that is ternary by its name), or a list of mappings such as
{parts: [head], dw: fp} and {layers: [model.2.cv1.conv]}. A document names layers by their full names; regular
expressions are for the command line and scripts (models/bitify.py), because a document may come from somebody else.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

from ...config.errors import did_you_mean
from ...config.printable import short_repr

PARTS = ("backbone", "neck", "head")
EVERYTHING = "all"
NOTHING = "none"
OPTIONS = {  # option: its values, the default first
    "rule": ("absmean", "twn"),
    "dw": ("int8", "ternary", "fp"),
    "act": ("static", "dynamic", "none"),
    "granularity": ("channel", "tensor"),
}
MAX_LAYERS, MAX_POLICIES = 10_000, 50


@dataclass(frozen=True)
class Policy:
    """Layers that become ternary: the layers of `parts` but the usual exceptions, and those of `layers` by their names.

    A policy without parts and layers makes all layers before it float again. rule: of ternary weights. dw: weights of
    depthwise layers. act: scales of activations. granularity: of weight scales.
    """

    parts: tuple[str, ...] = ()
    layers: tuple[str, ...] = ()
    rule: str = "absmean"
    dw: str = "int8"
    act: str = "static"
    granularity: str = "channel"

    def as_document(self) -> dict[str, object]:
        """Return the mapping of a graph document: only values that differ from the defaults."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        lists = {key: list(values[key]) for key in ("parts", "layers") if values[key]}
        return lists | {key: values[key] for key, choices in OPTIONS.items() if values[key] != choices[0]}


def parts_of(text: str) -> tuple[str, ...] | None:
    """Return the parts that text such as "head", "neck,head" or "all" names; None where a word names no part."""
    words = [word.strip().lower() for word in text.split(",")]
    if words == [EVERYTHING]:
        return PARTS
    return tuple(part for part in PARTS if part in words) if set(words) <= set(PARTS) else None


def read_policies(value: object, problems: list[str]) -> tuple[Policy, ...]:
    """Return the policies of a document's key `bit`; what is wrong with it is added to `problems`."""
    if value is None:
        return ()
    if value in (NOTHING, False):
        return (Policy(),)
    entries = value if isinstance(value, (list, tuple)) else [value]
    if len(entries) > MAX_POLICIES:
        problems.append(f"bit: {len(entries)} entries; expected at most {MAX_POLICIES}")
        return ()
    if entries and all(isinstance(entry, str) for entry in entries):
        entries = [",".join(entries)]
    policies = [_read_policy(entry, problems) for entry in entries]
    return tuple(policy for policy in policies if policy is not None)


def _read_policy(entry: object, problems: list[str]) -> Policy | None:
    words = (*PARTS, EVERYTHING)
    if isinstance(entry, str):
        parts = parts_of(entry)
        if parts is None:
            choices = ", ".join((*words, NOTHING))
            problems.append(f"bit: {short_repr(entry)} is none of {choices}.{did_you_mean(entry, words)}")
            return None
        return Policy(parts)
    if not isinstance(entry, Mapping):
        expected = f"a part ({', '.join(words)}) or a mapping of parts, layers and options"
        problems.append(f"bit: {short_repr(entry)}; expected {expected}")
        return None
    if wrong := _mapping_problems(entry):
        problems += wrong
        return None
    names = {key: tuple(entry.get(key, ())) for key in ("parts", "layers")}
    return Policy(**{**entry, **names})


def _mapping_problems(entry: Mapping) -> list[str]:
    keys = sorted(field.name for field in fields(Policy))
    problems = [f"bit: key {short_repr(key)} is unknown (known: {', '.join(keys)})" for key in entry if key not in keys]
    problems += [
        f"bit: {key}: {short_repr(entry[key])} is none of {', '.join(choices)}"
        for key, choices in OPTIONS.items()
        if key in entry and entry[key] not in choices
    ]
    for key in ("parts", "layers"):
        names = entry.get(key, [])
        is_list = isinstance(names, (list, tuple)) and len(names) <= MAX_LAYERS
        if not is_list or not all(isinstance(name, str) for name in names):
            problems.append(f"bit: {key}: expected a list of names, found {short_repr(names)}")
        elif key == "parts" and not set(names) <= set(PARTS):
            problems.append(f"bit: parts: {short_repr(names)} names more than {', '.join(PARTS)}")
    return problems
