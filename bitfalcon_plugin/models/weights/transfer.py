"""Take over the weights of a checkpoint into a model, which may have other classes or another graph.

A tensor that has the same name and shape in both is taken over; of the layers with a row for each class, the rows of
classes with the same name. The others keep their fresh values.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
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


COUNTER = "num_batches_tracked"
FEWEST_FITTING = 0.1  # share of the tensors that must fit


@dataclass(frozen=True)
class Transfer:
    """The outcome of a transfer.

    copied: how many tensors were taken over whole. remapped: classes whose rows were taken over by name. new: classes
    of the model that start fresh. dropped: classes of the checkpoint that the model does not have. total: how many
    tensors the model has. misfit: the first tensor beside the class layers that was not taken over, and why; "" where
    all were.
    """

    copied: int
    remapped: tuple[str, ...]
    new: tuple[str, ...]
    dropped: tuple[str, ...]
    total: int = 0
    misfit: str = ""

    @property
    def counts(self) -> str:
        """How many of how many tensors were taken over and, unless all fit, the first that does not."""
        if not self.misfit:
            return f"{self.copied} tensors"
        return f"{self.copied} of {self.total} tensors fit and are taken over; the first that does not: {self.misfit}"

    def __str__(self) -> str:
        lines = [f"  {'kept':<9} {self.counts}"]
        for label, classes in (("remapped", self.remapped), ("new", self.new), ("dropped", self.dropped)):
            names = f": {', '.join(classes[:8])}" if classes else ""
            lines.append(f"  {label:<9} {len(classes)} classes{names}{', ...' if len(classes) > 8 else ''}")
        return "\n".join(lines)


def class_width(checkpoint: Checkpoint) -> int | None:
    """Hidden channels of the class branches of a checkpoint's head; None where it has no such branches."""
    last = checkpoint.state.get(f"model.{len(checkpoint.graph.rows) - 1}.cv3.0.2.weight")
    return None if last is None else last.shape[1]


@torch.no_grad()
def transfer(
    model: Detector, checkpoint: Checkpoint, path: str | Path, *, by_name: bool = True, strict: bool = False
) -> Transfer:
    """Take over a checkpoint's weights into `model`, in place.

    by_name: rows of classes are matched by the classes' names; otherwise by number, where there are equally many.
    strict: every tensor outside the last class layers must fit.

    Raises UserError, with the model unchanged, when fewer than FEWEST_FITTING of the tensors fit, or with `strict` not
    all; for weights of another family of attention (VARIANT_WORDS); and for a packed checkpoint.
    """
    checkpoint.to_train(path)
    model_state, state = model.state_dict(), checkpoint.state
    class_layers = _class_layers(model) & model_state.keys()
    has_names = dict(checkpoint.graph.names) == dict(model.names)
    same_classes = has_names or not by_name and checkpoint.graph.nc == model.nc
    replaced = set() if same_classes else class_layers
    copied = fitting(state, {name: tuple(tensor.shape) for name, tensor in model_state.items()}) - replaced
    copied -= _layers_of_other_keypoints(checkpoint, model)
    # a float head has no scales of activations
    unset = {name for name in model_state.keys() - state.keys() if name.endswith(ACT_SCALE)}
    missing = [name for name in model_state if name not in copied | unset | replaced]
    wrong = sorted({*missing, *state.keys() - copied - replaced})
    if wrong and (strict or _is_too_little(copied, model_state) or _are_other_families(checkpoint, model)):
        raise UserError(_misfit(model, checkpoint, path, wrong, None if strict else len(copied)))
    for name in copied:
        model_state[name].copy_(state[name])
    for name in unset:
        model_state[name].zero_()
    norms = {name: values for name, values in checkpoint.norms.items() if f"{name}.weight" in copied}
    replace(checkpoint, norms=checkpoint.norms if strict else norms).set_norms(model)
    result = Transfer(len(copied), (), (), (), len(model_state), _reason(missing, checkpoint, model, model_state))
    if same_classes:
        return result
    if not by_name:
        return replace(result, new=tuple(model.names.values()), dropped=tuple(checkpoint.graph.names.values()))
    same_width = {
        name for name in class_layers if name in state and state[name].shape[1:] == model_state[name].shape[1:]
    }
    return _by_name(model_state, checkpoint, model.names, sorted(class_layers), result, same_width == class_layers)


def _class_layers(model: Detector) -> set[str]:
    """The weights and biases of the layers with a row for each class; a registered head may name none."""
    names = model.head.class_layers() if hasattr(model.head, "class_layers") else ()
    last = len(model.model) - 1
    return {f"model.{last}.{name}.{part}" for name in names for part in ("weight", "bias")}


def _layers_of_other_keypoints(checkpoint: Checkpoint, model: Detector) -> set[str]:
    """The weights and biases of the last layers of keypoints, where the file's mean other numbers in equal shapes."""
    of_file, own = checkpoint.graph.keypoints, model.graph.keypoints
    if of_file is None or own is None or of_file.shape == own.shape:
        return set()
    last = f"model.{len(model.model) - 1}.cv4"
    return {f"{last}.{level}.2.{part}" for level in range(len(model.strides)) for part in ("weight", "bias")}


def fitting(state: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]]) -> set[str]:
    """Return the names of the tensors that have the same name and shape in a model of `shapes`.

    A batch norm's counter, which has the shape of any other, fits where its running mean does.
    """
    fits = {name for name, tensor in state.items() if shapes.get(name) == tuple(tensor.shape)}
    counters = {name for name in fits if name.endswith(COUNTER)}
    return fits - {name for name in counters if name.removesuffix(COUNTER) + "running_mean" not in fits}


def _is_too_little(copied: Collection[str], model_state: Collection[str]) -> bool:
    counted = [sum(not name.endswith(COUNTER) for name in names) for names in (copied, model_state)]
    return counted[0] < FEWEST_FITTING * counted[1]


def _are_other_families(checkpoint: Checkpoint, model: Detector) -> bool:
    """Whether both have attention, whose tensors mean other things in each."""
    has_attention = [any(row.module == "A2C2f" for row in graph.rows) for graph in (checkpoint.graph, model.graph)]
    return all(has_attention) and checkpoint.graph.variant != model.graph.variant


def _reason(missing: list[str], checkpoint: Checkpoint, model: Detector, model_state: Mapping[str, Tensor]) -> str:
    """Return the first of the tensors that were not taken over, with its shape in the file and in the model."""
    if not missing:
        return ""
    name, tensor = missing[0], checkpoint.state.get(missing[0])
    if tensor is None:
        return f"{name} is not in the file"
    if tensor.shape == model_state[name].shape and name in _layers_of_other_keypoints(checkpoint, model):
        shapes = (list(graph.keypoints.shape) for graph in (checkpoint.graph, model.graph))
        return "{} is for kpt_shape {} in the file and {} here".format(name, *shapes)
    return f"{name} is {tuple(tensor.shape)} in the file and {tuple(model_state[name].shape)} here"


def _by_name(
    model_state: Mapping[str, Tensor],
    checkpoint: Checkpoint,
    names: Mapping[int, str],
    class_layers: list[str],
    result: Transfer,
    has_rows: bool,
) -> Transfer:
    """Take over the rows of classes by name, and return `result` with these classes.

    has_rows: whether the class layers of both have the same width.
    """
    before = checkpoint.graph.names
    rows = {name.lower(): index for index, name in before.items() if name != str(index)}  # numbers are placeholders
    pairs = {index: rows[name.lower()] for index, name in names.items() if has_rows and name.lower() in rows}
    for layer in class_layers:
        for index, row in pairs.items():
            model_state[layer][index].copy_(checkpoint.state[layer][row])
    remapped = tuple(names[index] for index in pairs)
    new = tuple(name for index, name in names.items() if index not in pairs)
    dropped = tuple(name for index, name in before.items() if index not in pairs.values())
    return replace(result, remapped=remapped, new=new, dropped=dropped)


def _misfit(model: Detector, checkpoint: Checkpoint, path: str | Path, wrong: list[str], copied: int | None) -> str:
    """Return the text of the error. copied: how many tensors fit, where a part would have been enough."""
    before, graph = checkpoint.graph, model.graph
    text = (
        f"The weights of '{path}' (scale {before.scale or 'none'}, variant {before.variant}) do not fit {graph.name} "
        f"(scale {graph.scale or 'none'}, variant {graph.variant}); {len(wrong)} tensors differ, the first is "
        f"{wrong[0]}."
    )
    if copied is not None:
        text += f" {copied} of the {len(model.state_dict())} tensors of the graph fit."
    if before.scale != graph.scale and before.scale:
        text += f" Give scale={before.scale}."
    if before.variant != graph.variant:
        text += (
            f" {before.variant} weights have {VARIANT_WORDS[before.variant]}; this {graph.variant} graph has "
            f"{VARIANT_WORDS[graph.variant]}. Give variant={before.variant}."
        )
    return text
