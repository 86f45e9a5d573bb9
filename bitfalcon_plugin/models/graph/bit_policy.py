"""Which layers of a model are ternary, as its document says it: the key `bit`. No torch here.

`bit: head`, `bit: [neck, head]`, `bit: none` (also of a head that is ternary by its name), or a list of mappings such as {parts: [head], dw: fp} and {layers: [model.2.cv1.conv]}. Regular
expressions are for those who type them (modules.replace): a file that somebody else made names layers only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

from ...config.errors import did_you_mean
from .rules import shown

PARTS = ("backbone", "neck", "head")
EVERYTHING = "all"
NOTHING = "none"
OPTIONS = {  # option: what it may be, the default first
    "rule": ("absmean", "twn"),
    "dw": ("int8", "ternary", "fp"),
    "act": ("static", "dynamic", "none"),
    "granularity": ("channel", "tensor"),
}
MAX_LAYERS, MAX_POLICIES = 10_000, 50


@dataclass(frozen=True)
class Policy:
    """Layers that become ternary: those of `parts` but the usual exceptions, and those of `layers` by their names.

    One without either: what came before is float again. rule: of ternary weights. dw: what depthwise layers get. act: scales of activations. granularity: of weight scales.
    """

    parts: tuple[str, ...] = ()
    layers: tuple[str, ...] = ()
    rule: str = "absmean"
    dw: str = "int8"
    act: str = "static"
    granularity: str = "channel"

    def plain(self) -> dict[str, object]:
        """As a document holds it: what differs from the defaults."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {
            key: list(value) if isinstance(value, tuple) else value
            for key, value in values.items()
            if value and value != OPTIONS.get(key, ("",))[0]
        }


def parts_of(words: str) -> tuple[str, ...] | None:
    """The parts that text such as "head", "neck,head" or "all" names; None where it names none."""
    named = [word.strip().lower() for word in words.split(",")]
    if named == [EVERYTHING]:
        return PARTS
    return tuple(part for part in PARTS if part in named) if set(named) <= set(PARTS) else None


def read_policies(written: object, problems: list[str]) -> tuple[Policy, ...]:
    """The policies of a document's key `bit`; what is wrong is added to `problems`."""
    if written is None:
        return ()
    if written in (NOTHING, False):
        return (Policy(),)
    items = written if isinstance(written, (list, tuple)) else [written]
    if len(items) > MAX_POLICIES:
        problems.append(f"bit: {len(items)} entries; expected at most {MAX_POLICIES}")
        return ()
    if items and all(isinstance(item, str) for item in items):
        items = [",".join(items)]
    found = [_read(item, problems) for item in items]
    return tuple(policy for policy in found if policy is not None)


def _read(item: object, problems: list[str]) -> Policy | None:
    if isinstance(item, str):
        parts = parts_of(item)
        if parts is None:
            problems.append(
                f"bit: {shown(item)} is none of {', '.join((*PARTS, EVERYTHING, NOTHING))}.{did_you_mean(item, (*PARTS, EVERYTHING))}"
            )
            return None
        return Policy(parts)
    if not isinstance(item, Mapping):
        problems.append(
            f"bit: {shown(item)} is neither a part ({', '.join((*PARTS, EVERYTHING))}) nor a mapping of parts, layers and options"
        )
        return None
    known = {field.name for field in fields(Policy)}
    wrong = [
        f"bit: key {shown(key)} is unknown (known: {', '.join(sorted(known))})" for key in item if key not in known
    ]
    wrong += [
        f"bit: {key}: {shown(item[key])} is none of {', '.join(values)}"
        for key, values in OPTIONS.items()
        if key in item and item[key] not in values
    ]
    lists = {key: item.get(key, []) for key in ("parts", "layers")}
    for key, value in lists.items():
        if (
            not isinstance(value, (list, tuple))
            or len(value) > MAX_LAYERS
            or not all(isinstance(name, str) for name in value)
        ):
            wrong.append(f"bit: {key}: expected a list of names, found {shown(value)}")
        elif key == "parts" and not set(value) <= set(PARTS):
            wrong.append(f"bit: parts: {shown(value)} names more than {', '.join(PARTS)}")
    problems += wrong
    return None if wrong else Policy(**{**item, **{key: tuple(value) for key, value in lists.items()}})
