"""One algorithm between a maker's tensors and ours, driven by a table of key templates.

A table maps a template of the maker's keys (`{name}` stands for any text) to a step: a rename, rows in another order,
one part of a joined tensor, a bias folded into a batch norm, or a tensor dropped for a stated reason. The first
matching template decides. The inverse gives the maker's tensors back, bit for bit except folded biases.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor


@dataclass(frozen=True)
class Same:
    """The tensor under our key, unchanged."""

    our_key: str


@dataclass(frozen=True)
class Rows:
    """The tensor under our key with its rows reordered: ours = foreign[order(number of rows)]."""

    our_key: str
    order: Callable[[int], Tensor]


@dataclass(frozen=True)
class Part:
    """One of several tensors that are joined along rows under our key: number `index`, `share` of `of` equal shares."""

    our_key: str
    index: int
    share: int
    of: int


@dataclass(frozen=True)
class FoldedBias:
    """A convolution's bias in front of a batch norm: subtracted from our running mean, exact in float32."""

    our_key: str


@dataclass(frozen=True)
class Dropped:
    """A tensor that has no counterpart, and why."""

    reason: str


Step = Same | Rows | Part | FoldedBias | Dropped
Table = Mapping[str, Step]


@dataclass(frozen=True)
class Report:
    """The outcome for every key of the maker: converted (key -> our key) and dropped (key -> reason)."""

    converted: dict[str, str]
    dropped: dict[str, str]


class RemapError(ValueError):
    """Tensors that do not fit: `problems` lists every one."""

    def __init__(self, problems: list[str]):
        super().__init__("\n".join(problems))
        self.problems = problems


def apply(
    table: Table, state: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]] | None
) -> tuple[dict[str, Tensor], Report]:
    """Convert the maker's tensors to ours. Every foreign key is used once or dropped; every key of ours is filled.

    shapes: of every tensor of ours; None where the model cannot be built, so that shapes cannot be compared.

    Raises RemapError with all problems at once.
    """
    out: dict[str, Tensor] = {}
    parts: dict[str, dict[int, Tensor]] = {}
    biases: dict[str, Tensor] = {}
    converted, dropped, problems = {}, {}, []
    for key, tensor in state.items():
        step, our_key = _match(table, key)
        if isinstance(step, Dropped):
            dropped[key] = step.reason
            continue
        if step is None or shapes is not None and our_key not in shapes:
            problems.append(f"unknown: {key} {tuple(tensor.shape)}")
            continue
        converted[key] = our_key
        if isinstance(step, Part):
            parts.setdefault(our_key, {})[step.index] = tensor
        elif isinstance(step, FoldedBias):
            biases[our_key] = tensor
        else:
            out[our_key] = tensor[step.order(len(tensor))] if isinstance(step, Rows) and tensor.ndim else tensor
    for our_key, pieces in parts.items():
        out[our_key] = _joined(our_key, pieces, problems)
    for our_key, bias in biases.items():
        if our_key in out:
            out[our_key] = out[our_key].float() - bias.float()
    shapes = {key: tuple(tensor.shape) for key, tensor in out.items()} if shapes is None else shapes
    problems += [f"missing: {key} {shape}" for key, shape in shapes.items() if key not in out]
    problems += [
        f"shape: {key} is {tuple(out[key].shape)}, expected {shapes[key]}"
        for key in out
        if tuple(out[key].shape) != tuple(shapes[key])
    ]
    if problems:
        raise RemapError(problems)
    return {key: out[key] for key in shapes}, Report(converted, dropped)


def invert(table: Table, state: Mapping[str, Tensor], folded: bool = False) -> dict[str, Tensor]:
    """Convert our tensors to the maker's. folded: also write the biases that `apply` folds, as zeros.

    Raises RemapError for a tensor of ours that no template of the table gives.
    """
    out: dict[str, Tensor] = {}
    parts: dict[int, dict[str, Tensor]] = {}  # a maker lists one part of a joined tensor's module after the other
    problems = []
    for key, tensor in state.items():
        steps = _inverse(table, key)
        split = [item for item in steps if isinstance(item[1], Part)]
        plain = next((item for item in steps if isinstance(item[1], (Same, Rows))), None)
        for foreign_key, step in split:
            parts.setdefault(step.index, {})[foreign_key] = _part(table, step, tensor)
        if split:
            continue
        _flush(parts, out)
        if plain is None:
            problems.append(f"unknown: {key} {tuple(tensor.shape)}")
            continue
        foreign_key, step = plain
        out[foreign_key] = (
            tensor[step.order(len(tensor)).argsort()] if isinstance(step, Rows) and tensor.ndim else tensor
        )
        if folded:
            out.update((name, torch.zeros_like(tensor)) for name, other in steps if isinstance(other, FoldedBias))
    _flush(parts, out)
    if problems:
        raise RemapError(problems)
    return out


def _flush(parts: dict[int, dict[str, Tensor]], out: dict[str, Tensor]) -> None:
    for index in sorted(parts):
        out.update(parts[index])
    parts.clear()


def _joined(our_key: str, pieces: dict[int, Tensor], problems: list[str]) -> Tensor:
    ordered = [pieces[index] for index in sorted(pieces)]
    if ordered[0].ndim:
        return torch.cat(ordered)
    if any(not torch.equal(ordered[0], other) for other in ordered[1:]):
        problems.append(f"counters that merge into {our_key} differ: {[int(x) for x in ordered]}")
    return ordered[0]


def _part(table: Table, step: Part, tensor: Tensor) -> Tensor:
    if not tensor.ndim:
        return tensor.clone()
    before = sum(
        other.share
        for other in table.values()
        if isinstance(other, Part) and other.our_key == step.our_key and other.index < step.index
    )
    unit = len(tensor) // step.of
    return tensor[before * unit : (before + step.share) * unit].clone()


@cache
def _pattern(template: str) -> re.Pattern[str]:
    escaped = re.escape(template).replace(r"\{", "{").replace(r"\}", "}")
    return re.compile(re.sub(r"\{(\w+)\}", r"(?P<\1>.+)", escaped))


def _match(table: Table, key: str) -> tuple[Step | None, str]:
    for foreign_key, step in table.items():
        if match := _pattern(foreign_key).fullmatch(key):
            return step, "" if isinstance(step, Dropped) else step.our_key.format(**match.groupdict())
    return None, ""


def _inverse(table: Table, key: str) -> list[tuple[str, Step]]:
    """(the maker's key, step) for every template that gives this key of ours, where that key leads back to the step."""
    steps = []
    for foreign_key, step in table.items():
        match = None if isinstance(step, Dropped) else _pattern(step.our_key).fullmatch(key)
        if match:
            name = foreign_key.format(**match.groupdict())
            if _match(table, name)[0] is step:
                steps.append((name, step))
    return steps
