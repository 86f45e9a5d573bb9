"""Convolution and activation as one oneDNN operator, with the weights laid out once for each shape."""

from __future__ import annotations

import math
import sys
from collections import OrderedDict
from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..modules.conv import Conv, SepConv7x7

SHAPES = 4  # input shapes for which a convolution keeps its weights laid out
HEAP = (
    33_000_000  # bytes; the largest block that glibc keeps for the next use, once it has seen one returned (mallopt(3))
)
# Activation -> its name in the operator. A subclass may compute something else: only these very classes.
FUSED = {nn.SiLU: "swish", nn.ReLU: "relu", nn.Hardswish: "hardswish", nn.Identity: "none"}
# Numbers in the input up to which oneDNN takes longer to begin than others to finish (0.1 ms): torch's own loops, as torch itself
# chooses for single images, and a product of matrices for 1x1 convolutions of channels-last images.
FEW, SOME = 20_480, 200_000


class Packed(nn.Conv2d):
    """A convolution with the activation behind it, for inference on a CPU. State and attributes are the convolution's own.

    images (B, c_in, H, W) -> (B, c_out, H', W'). Where the operator cannot be used (a gradient is asked for, autocast, tracing,
    another type or device) the plain layers are.
    """

    @classmethod
    def of(cls, conv: nn.Conv2d, act: nn.Module) -> Packed:
        """conv's own tensors, and `act` after them. See `_packs` for what can be taken."""
        packed = cls.__new__(cls)
        packed.__dict__.update(conv.__dict__)
        packed._parameters, packed._buffers, packed._modules = dict(conv._parameters), dict(conv._buffers), {}
        packed.after, packed._laid, packed._seen = act, OrderedDict(), ()
        packed._options = list(conv.padding), list(conv.stride), list(conv.dilation), conv.groups
        packed._loops = FEW if conv.groups == 1 and max(conv.kernel_size) <= 3 else 0
        single = (conv.kernel_size, conv.stride, conv.padding, conv.groups) == ((1, 1), (1, 1), (0, 0), 1)
        packed._products = (
            SOME if single and conv.weight.dtype == torch.float32 and torch.backends.mkl.is_available() else 0
        )
        return packed

    def forward(self, x: Tensor) -> Tensor:
        if not self._usable(x):
            return self.after(super().forward(x))
        if (count := x.numel()) <= self._products and (rows := x.permute(0, 2, 3, 1)).is_contiguous():
            return self._after(
                functional.linear(rows, self._parameters["weight"].flatten(1), self._parameters["bias"])
            ).permute(0, 3, 1, 2)
        if count <= self._loops and len(x) == 1:
            return self._after(super().forward(x))
        return _operator()(
            x, self._weights(x.shape), self._parameters["bias"], *self._options, FUSED[type(self.after)], [], ""
        )

    def _after(self, y: Tensor) -> Tensor:
        return functional.silu(y, inplace=True) if type(self.after) is nn.SiLU else self.after(y)

    def _usable(self, x: Tensor) -> bool:
        weight = self._parameters["weight"]
        if not x.is_cpu or x.dtype != weight.dtype or x.dtype not in (torch.float32, torch.bfloat16) or not x.numel():
            return False
        if (
            not torch.is_inference_mode_enabled()
            and torch.is_grad_enabled()
            and (x.requires_grad or weight.requires_grad)
        ):
            return False
        if torch.is_autocast_enabled("cpu") or torch.compiler.is_compiling() or torch.jit.is_tracing():
            return False
        return type(x) in (Tensor, nn.Parameter)

    def _weights(self, shape: torch.Size) -> Tensor:
        # At the first sight of a shape as they are: the operator then lays them out itself, for this call. At the second
        # sight they are kept so. The result is the same bit for bit. Threads may come here at once: nothing is half done.
        laid = self._laid.get(shape)
        if laid is not None:
            return laid
        if shape not in self._seen:
            self._seen = (*self._seen[1 - SHAPES :], shape)
            return self.weight
        if shape[0] > 1:
            _keep_memory()
        laid = torch.ops.mkldnn._reorder_convolution_weight(self.weight, *self._options, list(shape))
        kept = OrderedDict(self._laid)
        kept[shape] = laid
        while len(kept) > SHAPES:
            kept.popitem(last=False)
        self._laid = kept
        return laid

    def _apply(self, function: Callable[[Tensor], Tensor], recurse: bool = True) -> Packed:
        self._laid, self._seen = OrderedDict(), ()
        return super()._apply(function, recurse)

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_laid": OrderedDict(), "_seen": ()}

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, {type(self.after).__name__}"


def pack(model: nn.Module) -> int:
    """Replace every folded convolution that can be by a Packed one, in place; returns how many."""
    count = 0
    for block in list(model.modules()):
        if isinstance(block, (Conv, SepConv7x7)) and isinstance(block.bn, nn.Identity) and not _hooked(block.act):
            name = "conv" if isinstance(block, Conv) else "pointwise"
            act = block.act if type(block.act) in FUSED else nn.Identity()
            if _packs(conv := getattr(block, name)):
                setattr(block, name, Packed.of(conv, act))
                block.act = nn.Identity() if act is block.act else block.act
                count += 1
    for parent in list(model.modules()):
        for name, child in list(parent._modules.items()):
            if child is not None and _packs(child):
                parent._modules[name] = Packed.of(child, nn.Identity())
                count += 1
    return count


def shorten(model: nn.Module) -> None:
    """Let each block of which only the convolution is left give way to that, in place: three calls fewer, and other names."""
    for parent in list(model.modules()):
        for name, child in list(parent._modules.items()):
            if (
                isinstance(child, Conv)
                and type(child).forward is Conv.forward
                and not any(map(_hooked, (child, child.bn, child.act)))
            ):
                if isinstance(child.bn, nn.Identity) and isinstance(child.act, nn.Identity):
                    parent._modules[name] = child.conv


def _packs(conv: nn.Module) -> bool:
    return (
        type(conv) is nn.Conv2d
        and conv.padding_mode == "zeros"
        and not isinstance(conv.padding, str)
        and not _hooked(conv)
        and not conv.weight.requires_grad
    )


def _hooked(module: nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks)


def _operator() -> Callable[..., Tensor]:
    return torch.ops.mkldnn._convolution_pointwise.default


@lru_cache(4)
def operator_works(dtype: torch.dtype = torch.float32) -> bool:
    """Whether this torch has oneDNN's fused convolution, and it computes here what the plain layers do (tried once)."""
    if not (torch.backends.mkldnn.is_available() and torch.backends.mkldnn.enabled):
        return False
    with torch.inference_mode(), torch.autocast("cpu", enabled=False):
        conv, x = _trial(8, 16, 9, dtype)
        try:
            packed = Packed.of(conv, nn.SiLU())
            found = [packed(x).float() for _ in range(3)]  # with weights as they are, and laid out
            expected = functional.silu(conv(x)).float()
        except (RuntimeError, AttributeError, NotImplementedError):
            return False
    tolerance = 1e-4 if dtype is torch.float32 else 0.1
    return all(torch.allclose(result, expected, atol=tolerance, rtol=tolerance) for result in found)


def _trial(c_in: int, c_out: int, side: int, dtype: torch.dtype) -> tuple[nn.Conv2d, Tensor]:
    # A 3x3 convolution and what it takes, without drawing from the caller's random numbers.
    def ramp(*shape: int) -> Tensor:
        return torch.linspace(-1, 1, math.prod(shape)).view(shape).to(dtype)

    with torch.random.fork_rng(devices=[]):
        conv = nn.Conv2d(c_in, c_out, 3, padding=1).requires_grad_(False).to(dtype)
    conv.weight.copy_(ramp(c_out, c_in, 3, 3) / c_in)
    conv.bias.copy_(ramp(c_out))
    return conv, ramp(2, c_in, side, side).contiguous(memory_format=torch.channels_last)


@lru_cache(1)
def _keep_memory() -> None:
    """Let the C library of Linux keep what a batch's maps took for the next batch, instead of asking the system again.

    Returned to the system each time, pages cost a fifth of the time of a small network at batch=4 (34,000 faults a batch;
    one image has none). glibc raises its limits by itself to the largest block that it has seen come back, so one is taken
    and given back; elsewhere nothing happens.
    """
    if sys.platform == "linux":
        torch.empty(HEAP, dtype=torch.uint8)
