"""Take over the weights of a checkpoint into a model of the same graph, which may have other classes.

All tensors are taken over but the last layers of the class branches; of these, the rows of classes with the same name.
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

# How the families differ in a checkpoint (spec/families.md section 1).
VARIANT_WORDS = {
    "v1": "rows 1 and 3 dense, positional convolution 7x7",
    "turbo": "rows 1 and 3 grouped, positional convolution 5x5",
    "turbo-all-residual": "rows 1 and 3 grouped, positional convolution 5x5, a residual scale at every size",
}


@dataclass(frozen=True)
class Transfer:
    """The outcome of a transfer.

    copied: how many tensors were taken over whole. remapped: classes whose rows were taken over by name. new: classes
    of the model that start fresh. dropped: classes of the checkpoint that the model does not have.
    """

    copied: int
    remapped: tuple[str, ...]
    new: tuple[str, ...]
    dropped: tuple[str, ...]

    def __str__(self) -> str:
        lines = [f"  {'kept':<9} {self.copied} tensors"]
        for label, classes in (("remapped", self.remapped), ("new", self.new), ("dropped", self.dropped)):
            names = f": {', '.join(classes[:8])}" if classes else ""
            lines.append(f"  {label:<9} {len(classes)} classes{names}{', ...' if len(classes) > 8 else ''}")
        return "\n".join(lines)


def class_width(checkpoint: Checkpoint) -> int:
    """Hidden channels of the class branches of a checkpoint's head."""
    return checkpoint.state[f"model.{len(checkpoint.graph.rows) - 1}.cv3.0.2.weight"].shape[1]


@torch.no_grad()
def transfer(model: Detector, checkpoint: Checkpoint, path: str | Path, *, by_name: bool = True) -> Transfer:
    """Take over a checkpoint's weights into `model`, in place.

    by_name: rows of classes are matched by the classes' names; otherwise by number, where there are equally many.

    Raises UserError, with the model unchanged, when a tensor outside the last class layers differs in name or shape,
    and for a packed checkpoint.
    """
    checkpoint.to_train(path)
    model_state = model.state_dict()
    last = f"model.{len(model.model) - 1}.cv3."
    class_layers = {name for name in model_state if name.startswith(last) and name.split(".")[-2] == "2"}
    has_names = dict(checkpoint.graph.names) == dict(model.names)
    same_classes = has_names or not by_name and checkpoint.graph.nc == model.nc
    replaced = set() if same_classes else class_layers
    shapes = {name: tensor.shape for name, tensor in model_state.items()}
    fits = {name for name, tensor in checkpoint.state.items() if shapes.get(name) == tensor.shape}
    copied = fits - replaced
    # a float head has no scales of activations
    unset = {name for name in model_state.keys() - checkpoint.state.keys() if name.endswith(ACT_SCALE)}
    wrong = sorted((model_state.keys() | checkpoint.state.keys()) - copied - unset - replaced)
    if wrong:
        raise UserError(_misfit(model, checkpoint, path, wrong))
    for name in copied:
        model_state[name].copy_(checkpoint.state[name])
    for name in unset:
        model_state[name].zero_()
    checkpoint.set_norms(model)
    if same_classes:
        return Transfer(len(copied), (), (), ())
    if not by_name:
        return Transfer(len(copied), (), tuple(model.names.values()), tuple(checkpoint.graph.names.values()))
    return _by_name(model_state, checkpoint, model.names, sorted(class_layers), len(copied))


def _by_name(
    model_state: Mapping[str, Tensor],
    checkpoint: Checkpoint,
    names: Mapping[int, str],
    class_layers: list[str],
    copied: int,
) -> Transfer:
    before = checkpoint.graph.names
    rows = {name.lower(): index for index, name in before.items() if name != str(index)}  # numbers are placeholders
    pairs = {index: rows[name.lower()] for index, name in names.items() if name.lower() in rows}
    for layer in class_layers:
        for index, row in pairs.items():
            model_state[layer][index].copy_(checkpoint.state[layer][row])
    remapped = tuple(names[index] for index in pairs)
    new = tuple(name for index, name in names.items() if index not in pairs)
    dropped = tuple(name for index, name in before.items() if index not in pairs.values())
    return Transfer(copied, remapped, new, dropped)


def _misfit(model: Detector, checkpoint: Checkpoint, path: str | Path, wrong: list[str]) -> str:
    before, graph = checkpoint.graph, model.graph
    text = (
        f"The weights of '{path}' (scale {before.scale or 'none'}, variant {before.variant}) do not fit {graph.name} "
        f"(scale {graph.scale or 'none'}, variant {graph.variant}); {len(wrong)} tensors differ, the first is "
        f"{wrong[0]}."
    )
    if before.scale != graph.scale and before.scale:
        text += f" Give scale={before.scale}."
    if before.variant != graph.variant:
        text += (
            f" {before.variant} weights have {VARIANT_WORDS[before.variant]}; this {graph.variant} graph has "
            f"{VARIANT_WORDS[graph.variant]}. Give variant={before.variant}."
        )
    return text
