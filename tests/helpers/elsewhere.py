"""Tensors that say they lie on another device: they compute on the CPU, and refuse to mix with tensors of the CPU.

Torch's own fake tensors hold no numbers, so that a loss, which asks how many labels there are, cannot be computed with
them. These hold their numbers. The device is "lazy", which stands for any other one and needs no driver.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

CPU, OTHER = torch.device("cpu"), torch.device("lazy")
aten = torch.ops.aten
MOVES = {aten.copy_.default, aten._to_copy.default}  # from one device to another
INDEXING = {aten.index.Tensor, aten.index_put_.default, aten.index_put.default, aten._index_put_impl_.default}


class MixedDevices(RuntimeError):
    """An operation got tensors of two devices."""


class Elsewhere(Tensor):
    """A tensor that says it lies on another device. held: its numbers, on the CPU."""

    @staticmethod
    def __new__(cls, held: Tensor) -> Elsewhere:
        layout = {"strides": held.stride(), "storage_offset": held.storage_offset(), "dtype": held.dtype}
        return Tensor._make_wrapper_subclass(cls, held.size(), **layout, device=OTHER)

    def __init__(self, held: Tensor):
        self.held = held.detach()

    def __repr__(self, **_) -> str:
        return f"Elsewhere({self.held})"

    def tolist(self):  # torch refuses it for classes of others
        return self.held.tolist()

    def new_tensor(self, data, dtype=None):  # torch's own asks the device
        return Elsewhere(torch.tensor(data, dtype=dtype or self.dtype))

    @classmethod
    def __torch_dispatch__(cls, function: Callable, types, args=(), kwargs=None):
        return run(function, args, kwargs or {})


class Devices(TorchDispatchMode):
    """A context in which functions with `device=` make tensors Elsewhere."""

    def __torch_dispatch__(self, function: Callable, types, args=(), kwargs=None):
        return run(function, args, kwargs or {})


def run(function: Callable, args: tuple, kwargs: dict):
    """Run an operation on tensors of one device, with the result there. Raises MixedDevices."""
    inputs = [value for value in tree_flatten((args, kwargs))[0] if isinstance(value, Tensor)]
    is_there = any(isinstance(value, Elsewhere) for value in inputs)
    if is_there and function not in MOVES:
        _refuse_mixed(function, inputs)
    if kwargs.get("device") is not None:
        is_there, kwargs = torch.device(kwargs["device"]) == OTHER, {**kwargs, "device": CPU}
    if function is aten.copy_.default:
        is_there = isinstance(inputs[0], Elsewhere)
    held_args, held_kwargs = tree_map(lambda value: getattr(value, "held", value), (args, kwargs))
    result = function(*held_args, **held_kwargs)
    own = {id(value.held): value for value in inputs if isinstance(value, Elsewhere)}  # of operations in place

    def place(value):
        if not isinstance(value, Tensor) or not is_there:
            return value
        return own[id(value)] if id(value) in own else Elsewhere(value)

    return tree_map(place, result)


def _refuse_mixed(function: Callable, inputs: list[Tensor]) -> None:
    """A number, and an index of the CPU, may be used on every device."""
    allowed = inputs[1:] if function in INDEXING and isinstance(inputs[0], Elsewhere) else []
    for value in inputs:
        if not isinstance(value, Elsewhere) and value.dim() and not any(value is other for other in allowed):
            raise MixedDevices(f"{function} got a tensor {tuple(value.shape)} of {value.device} with those of {OTHER}")


def send(module: nn.Module) -> nn.Module:
    """Put the parameters and buffers of a module on the other device, in place."""
    return replace_tensors(module, Elsewhere)


def replace_tensors(module: nn.Module, function: Callable[[Tensor], Tensor]) -> nn.Module:
    """Apply a function to the parameters and buffers of a module, in place."""
    for part in module.modules():
        for name, parameter in part._parameters.items():
            if parameter is not None:
                part._parameters[name] = nn.Parameter(function(parameter), parameter.requires_grad)
        for name, buffer in part._buffers.items():
            if buffer is not None:
                part._buffers[name] = function(buffer)
    return module
