"""How a model is made ready to predict and to be measured on a device: what is folded, packed, cast and compiled.

On a CPU each folded convolution and its activation become one oneDNN operator (the one that torch's own compiler emits),
with weights laid out once for each shape of the input. The arithmetic is that of the plain layers, to rounding.
"""

from __future__ import annotations

import copy
from collections import OrderedDict

import torch
from torch import Tensor, nn

from ..graph.rows import Graph
from .compiling import compiled
from .fused_conv import operator_works, pack, shorten
from .precision import _has_codes, half_type

OWN = (__name__.partition(".")[0] + ".", "torch.nn.modules.")
PLAIN = frozenset((int, float, bool, str, bytes, type(None), frozenset, Graph))  # values that nobody changes
EMPTY = frozenset((dict, OrderedDict, set, list, tuple))


def prepared(model: nn.Module, device: torch.device, *, half: bool = False, compiling: bool | str = False) -> nn.Module:
    """A copy of a model, folded and as quick as this device makes it; its attribute `how` says in words what was chosen.

    half: 16-bit weights where the device gains by them, see `half_type`. compiling: through torch.compile, in this mode where it
    is a word; the first images of a shape then take long, see `warm`.
    """
    ready = copied(model).eval().requires_grad_(False).fuse()
    kind = half_type(device)[0] if half and not _has_codes(ready) else None
    ready = ready.to(device, memory_format=torch.channels_last if _channels_last(device) else torch.preserve_format)
    ready = ready if kind is None else ready.to(kind)
    weight = next(ready.parameters())
    words = [str(weight.dtype).removeprefix("torch."), "folded", *(["channels last"] if _channels_last(device) else [])]
    if compiling:
        words.append("compiled")
        compiled(ready, compiling)
    elif device.type == "cpu" and weight.dtype in (torch.float32, torch.bfloat16) and operator_works(weight.dtype):
        if count := pack(ready):
            words.append(f"{count} convolutions with their activations in one step")
            shorten(ready)
    ready.how = f"{', '.join(words)} on {device}" + (
        f", {torch.get_num_threads()} threads" if device.type == "cpu" else ""
    )
    return ready


def copied(model: nn.Module) -> nn.Module:
    """A deep copy of a model, in a fifth of the time for modules of ours and torch's: those hold values beside what is registered."""
    return _copied(model, {})


def _copied(module: nn.Module, memo: dict[int, object]) -> nn.Module:
    if id(module) in memo:
        return memo[id(module)]
    kind = type(module)
    if not kind.__module__.startswith(OWN) or hasattr(kind, "__deepcopy__"):
        return copy.deepcopy(module, memo)
    memo[id(module)] = twin = kind.__new__(kind)
    known = twin.__dict__
    told = any("__getstate__" in vars(base) for base in kind.__mro__[:-1])  # says what of it can be copied
    for name, value in (module.__getstate__() if told else vars(module)).items():
        if type(value) in PLAIN:
            known[name] = value
        elif name == "_modules":
            known[name] = {key: None if child is None else _copied(child, memo) for key, child in value.items()}
        elif name in ("_parameters", "_buffers"):
            known[name] = {
                key: None if tensor is None else _copied_tensor(tensor, memo) for key, tensor in value.items()
            }
        elif type(value) in EMPTY and not value:
            known[name] = type(value)()
        elif type(value) is tuple and all(type(item) in PLAIN for item in value):
            known[name] = value
        else:
            known[name] = copy.deepcopy(value, memo)
    return twin


def _copied_tensor(tensor: Tensor, memo: dict[int, object]) -> Tensor:
    if id(tensor) not in memo:
        plain = type(tensor) in (Tensor, nn.Parameter) and tensor.is_leaf and tensor.grad is None
        twin = copy.deepcopy(tensor, memo) if not plain else tensor.detach().clone()
        memo[id(tensor)] = (
            nn.Parameter(twin, tensor.requires_grad) if plain and isinstance(tensor, nn.Parameter) else twin
        )
    return memo[id(tensor)]


def _channels_last(device: torch.device) -> bool:
    # Where convolutions are oneDNN's or cuDNN's. Others copy such maps, or are made for the other order.
    return device.type == "cuda" or device.type == "cpu" and torch.backends.mkldnn.is_available()
