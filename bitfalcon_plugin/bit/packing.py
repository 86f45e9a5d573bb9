"""Ternary models as small files: `pack` writes one, `rounded` rounds as packing does, `sizes` counts bytes.

A packed file opens with load_checkpoint and open_checkpoint; models/weights/packed_layout.py describes its pieces
(spec/bit.md section 4.2).
"""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import torch
from torch import Tensor

from ..config.errors import UserError, did_you_mean
from ..models.detector import Detector, odd_norms
from ..models.modules.bit_layers import BitLayer
from ..models.weights.checkpoint import Checkpoint, content_of, save_checkpoint
from ..models.weights.packed_layout import CODES, PIECES, flatten, halved
from ..models.weights.trits import CODECS


def pack(model: Detector | Checkpoint, path: str | Path, fmt: str = "t5", half: bool = True) -> Checkpoint:
    """Write a ternary model, folded, as a packed file; return the checkpoint that the file holds.

    model: a Detector with ternary layers, folded or not, or a checkpoint of one, whose names, licence, metrics and
    settings go along. fmt: t5 (five weights in a byte) or t2 (four). half: layers that stay in floating point are
    rounded to float16; their raw outputs are then those of `rounded(model.fuse())`. UserError where there is nothing to
    pack, or numbers are not finite.
    """
    packed = packed_of(model, fmt, half)
    save_checkpoint(path, packed)
    return packed


def packed_of(model: Detector | Checkpoint, fmt: str = "t5", half: bool = True) -> Checkpoint:
    """Return the checkpoint that `pack` writes, without writing it."""
    if fmt not in CODECS:
        raise UserError(f"fmt={fmt!r} is none of {', '.join(CODECS)}.{did_you_mean(str(fmt), CODECS)}")
    checkpoint = model if isinstance(model, Checkpoint) else None
    if checkpoint and checkpoint.packed:  # from t5 to t2
        return replace(checkpoint, state=_short(checkpoint.state) if half else checkpoint.state, packed=fmt)
    model = checkpoint.model().fuse() if checkpoint else copy.deepcopy(model).eval().fuse()
    if unfolded := [name for name, module in model.named_modules() if isinstance(module, BitLayer)]:
        raise UserError(
            f"{model.graph.name} has ternary layers that cannot be folded: {', '.join(unfolded[:3])} "
            "(padding that is no number of zeros). Keep them float, keep=<their names>, to pack the rest."
        )
    state = {name: _single(tensor.detach().cpu()) for name, tensor in model.state_dict().items()}
    if not any(name.endswith(CODES) for name in state):
        raise UserError(
            f"{model.graph.name} has no ternary layer: packing would not make it smaller. "
            "Give a model with ternary layers, for example one trained with bit=head."
        )
    if bad := [name for name, tensor in state.items() if tensor.is_floating_point() and not tensor.isfinite().all()]:
        raise UserError(
            f"{model.graph.name} holds NaN or infinite values in {len(bad)} tensors (the first is {bad[0]}). "
            "Give other weights."
        )
    if checkpoint is None:
        checkpoint = Checkpoint(replace(model.graph, names=dict(model.names)), state)
    state = _short(state) if half else state
    changes = {"state": state, "norms": odd_norms(model), "measured": (model.strides, model.multiple), "packed": fmt}
    return replace(checkpoint, training=None, compared=False, **changes)


def _short(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: halved(tensor) for name, tensor in state.items()}


def _single(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.is_floating_point() else tensor


@torch.no_grad()
def rounded(model: Detector) -> Detector:
    """Round the float layers of a folded model as packing does, in place: weights to float16 values.

    Returns the model. Its raw outputs are then those of the packed model, to the bit.
    """
    for tensor in model.state_dict().values():
        tensor.copy_(halved(tensor))
    return model


def sizes(model: Detector | Checkpoint, half: bool = True) -> dict[str, dict[str, int]]:
    """Return the bytes of a ternary model, {"whole": ..., "head": ...}, each with fp32, fp16, t2 and t5.

    fp32, fp16: every weight and bias of the folded float model, in four or two bytes. t2, t5: the pieces of the packed
    form, without the container, which "file t2" and "file t5" count too.
    """
    packed = packed_of(model, half=half)
    last = f"model.{len(packed.graph.rows) - 1}."
    head = {name: tensor for name, tensor in packed.state.items() if name.startswith(last)}
    table = {"whole": _sizes(packed.state), "head": _sizes(head)}
    for fmt in ("t2", "t5"):
        buffer = BytesIO()
        torch.save(content_of(replace(packed, packed=fmt)), buffer)
        table["whole"][f"file {fmt}"] = buffer.seek(0, os.SEEK_END)
    return table


def _sizes(state: Mapping[str, Tensor]) -> dict[str, int]:
    layers = {name.removesuffix(CODES) for name in state if name.endswith(CODES)}
    added = {f"{layer}.{name}" for layer in layers for name in ("scale", "act_scale")}  # a float model has none
    weights = sum(tensor.numel() for name, tensor in state.items() if name not in added)
    table = {"fp32": 4 * weights, "fp16": 2 * weights}
    for fmt in ("t2", "t5"):
        flat = flatten(state, fmt)
        table[fmt] = sum(flat[piece].nbytes for piece in PIECES)
    return table
