"""Weights of a checkpoint in another model: the same graph for other classes, never in part.

Everything but the last layers of the class branches is taken over; of those, the rows of classes with the same name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ...config.errors import UserError
from ..detector import Detector
from ..modules.bit_activations import ACT_SCALE
from .checkpoint import Checkpoint

# What tells the families apart in a checkpoint (spec/families.md section 1).
VARIANT_WORDS = {
    "v1": "rows 1 and 3 dense, positional convolution 7x7",
    "turbo": "rows 1 and 3 grouped, positional convolution 5x5",
    "turbo-all-residual": "rows 1 and 3 grouped, positional convolution 5x5, a residual scale at every size",
}


@dataclass(frozen=True)
class Transfer:
    """What became of a checkpoint in another model. kept: tensors taken over whole. remapped: classes whose rows were taken
    over by name. new: classes of the model that start fresh. dropped: classes of the checkpoint that are left behind."""

    kept: int
    remapped: tuple[str, ...]
    new: tuple[str, ...]
    dropped: tuple[str, ...]

    def __str__(self) -> str:
        rows = [("kept", f"{self.kept} tensors")]
        for word, classes in (("remapped", self.remapped), ("new", self.new), ("dropped", self.dropped)):
            shown = ", ".join(classes[:8]) + (", ..." if len(classes) > 8 else "")
            rows.append((word, f"{len(classes)} classes" + (f": {shown}" if classes else "")))
        return "\n".join(f"  {word:<9} {text}" for word, text in rows)


def class_width(checkpoint: Checkpoint) -> int:
    """Hidden channels of the class branches of a checkpoint's head."""
    return checkpoint.state[f"model.{len(checkpoint.graph.rows) - 1}.cv3.0.2.weight"].shape[1]


@torch.no_grad()
def transfer(model: Detector, checkpoint: Checkpoint, path: str | Path, *, by_name: bool = True) -> Transfer:
    """Take over a checkpoint's weights into `model`, in place.

    by_name: rows of other classes go by the classes' names; otherwise by their numbers, where there are equally many.

    Raises UserError, with the model unchanged, when any other tensor than the last class layers differs in name or shape, or the
    checkpoint is a packed one.
    """
    checkpoint.to_train(path)
    own = model.state_dict()
    last = f"model.{len(model.model) - 1}.cv3."
    ends = {name for name in own if name.startswith(last) and name.split(".")[-2] == "2"}
    same = dict(checkpoint.graph.names) == dict(model.names) or not by_name and checkpoint.graph.nc == model.nc
    fits = {name for name, tensor in checkpoint.state.items() if name in own and own[name].shape == tensor.shape}
    kept = fits if same else fits - ends
    unset = {
        name for name in own.keys() - checkpoint.state.keys() if name.endswith(ACT_SCALE)
    }  # a float head's weights
    wrong = sorted((own.keys() | checkpoint.state.keys()) - kept - unset - (set() if same else ends))
    if wrong:
        raise UserError(_misfit(model, checkpoint, path, wrong))
    for name in kept:
        own[name].copy_(checkpoint.state[name])
    for name in unset:
        own[name].zero_()
    checkpoint.set_norms(model)
    if same:
        return Transfer(len(kept), (), (), ())
    if not by_name:
        return Transfer(len(kept), (), tuple(model.names.values()), tuple(checkpoint.graph.names.values()))
    return _by_name(own, checkpoint, model.names, sorted(ends), len(kept))


def _by_name(
    own: Mapping[str, Tensor], checkpoint: Checkpoint, names: Mapping[int, str], ends: list[str], kept: int
) -> Transfer:
    old = {
        name.lower(): index for index, name in checkpoint.graph.names.items() if name != str(index)
    }  # not placeholders
    pairs = {index: old[name.lower()] for index, name in names.items() if name.lower() in old}
    for name in ends:
        for index, source in pairs.items():
            own[name][index].copy_(checkpoint.state[name][source])
    taken = set(pairs.values())
    return Transfer(
        kept,
        tuple(names[index] for index in pairs),
        tuple(name for i, name in names.items() if i not in pairs),
        tuple(name for i, name in checkpoint.graph.names.items() if i not in taken),
    )


def _misfit(model: Detector, checkpoint: Checkpoint, path: str | Path, wrong: list[str]) -> str:
    theirs, ours = checkpoint.graph, model.graph
    text = (
        f"The weights of '{path}' (scale {theirs.scale or 'none'}, variant {theirs.variant}) do not fit {ours.name} "
        f"(scale {ours.scale or 'none'}, variant {ours.variant}); {len(wrong)} tensors differ, the first is {wrong[0]}."
    )
    if theirs.scale != ours.scale and theirs.scale:
        text += f" Give scale={theirs.scale}."
    if theirs.variant != ours.variant:
        text += (
            f" {theirs.variant} weights have {VARIANT_WORDS[theirs.variant]}; this {ours.variant} graph has "
            f"{VARIANT_WORDS[ours.variant]}. Give variant={theirs.variant}."
        )
    return text
