"""How a model is made ready for predict and val on a device: folded, moved, laid out, fused or compiled.

On a CPU each folded convolution and its activation become one oneDNN operator, which torch's own compiler emits too,
with weights laid out once for each shape of the input. The arithmetic is that of the plain layers, to rounding.
"""

from __future__ import annotations

import copy

import torch
from torch import nn

from .compiling import compile_network
from .fused_conv import fuse_activations, operator_works, unwrap_convolutions
from .merged_proto import merge_prototypes
from .precision import half_type, has_codes


def fold_for_inference(
    model: nn.Module,
    device: torch.device | None = None,
    dtype: torch.dtype | None = None,
    layout: torch.memory_format = torch.channels_last,
) -> nn.Module:
    """Fold a model in place, let nothing ask for a gradient, move it, and return it. None leaves device or type."""
    return model.eval().fuse().requires_grad_(False).to(device, dtype, memory_format=layout)


def prepare_for_inference(
    model: nn.Module, device: torch.device, *, half: bool = False, compiling: bool | str = False
) -> nn.Module:
    """Return a copy of a model, folded and as quick as this device makes it; its attribute `how` says how.

    half: 16-bit weights where the device gains by them, see `half_type`. compiling: use torch.compile; a word is its
    mode. The first images of a shape then take long, see `compiling.warm`.
    """
    has_layout = _is_channels_last(device)
    layout = torch.channels_last if has_layout else torch.preserve_format
    dtype = half_type(device)[0] if half and not has_codes(model) else None
    ready = fold_for_inference(copy.deepcopy(model), device, dtype, layout)
    if device.type == "cpu":
        merge_prototypes(ready)
        ready.to(memory_format=layout)
    weight = next(ready.parameters())
    parts = [str(weight.dtype).removeprefix("torch."), "folded", *(["channels last"] if has_layout else [])]
    if compiling:
        parts.append("compiled")
        compile_network(ready, compiling)
    elif device.type == "cpu" and weight.dtype in (torch.float32, torch.bfloat16) and operator_works(weight.dtype):
        if count := fuse_activations(ready):
            parts.append(f"{count} convolutions with their activations in one step")
            unwrap_convolutions(ready)
    threads = f", {torch.get_num_threads()} threads" if device.type == "cpu" else ""
    ready.how = f"{', '.join(parts)} on {device}{threads}"
    return ready


def _is_channels_last(device: torch.device) -> bool:
    # Where convolutions are oneDNN's or cuDNN's. Others copy such maps, or are made for the other order.
    return device.type == "cuda" or device.type == "cpu" and torch.backends.mkldnn.is_available()
