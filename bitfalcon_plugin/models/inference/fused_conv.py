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

from ..modules.conv import Conv, SepConv7x7, like

MAX_SHAPES = 4  # input shapes for which a convolution keeps its weights laid out
HEAP = 33_000_000  # bytes; glibc keeps no larger block for the next use (mallopt(3))
# Activation -> its name in the operator. A subclass may compute something else: only these very classes.
FUSED = {nn.SiLU: "swish", nn.ReLU: "relu", nn.Hardswish: "hardswish", nn.Identity: "none"}
# Numbers in an input up to which oneDNN takes longer to begin (0.1 ms) than others to finish: torch's own loops for
# single images, as torch itself chooses, and a product of matrices for 1x1 convolutions of channels-last images.
LOOP_LIMIT, PRODUCT_LIMIT = 20_480, 200_000


class FusedConv2d(nn.Conv2d):
    """A convolution and its activation, for inference on a CPU. State and attributes are the convolution's own.

    images (B, c_in, H, W) -> (B, c_out, H', W'). The plain layers compute where the operator cannot be used: where a
    gradient is asked for, under autocast, in tracing, on another type or device.
    """

    @classmethod
    def of(cls, conv: nn.Conv2d, act: nn.Module) -> FusedConv2d:
        """Return a convolution with the tensors of `conv` (not copies) and `act` after it. See `_can_fuse`."""
        fused = like(conv, cls)
        fused._prepare(act)
        return fused

    def _prepare(self, act: nn.Module) -> None:
        self.after = act
        self._forget_layouts()
        self._options = list(self.padding), list(self.stride), list(self.dilation), self.groups
        self._loop_limit = LOOP_LIMIT if self.groups == 1 and max(self.kernel_size) <= 3 else 0
        pointwise = (self.kernel_size, self.stride, self.padding, self.groups) == ((1, 1), (1, 1), (0, 0), 1)
        multiplies = pointwise and self.weight.dtype == torch.float32 and torch.backends.mkl.is_available()
        self._product_limit = PRODUCT_LIMIT if multiplies else 0

    def _forget_layouts(self) -> None:
        self._layouts: OrderedDict[torch.Size, Tensor] = OrderedDict()  # input shape -> weights laid out for it
        self._seen_shapes: tuple[torch.Size, ...] = ()

    def forward(self, x: Tensor) -> Tensor:
        if not self._usable(x):
            return self.after(super().forward(x))
        count, bias = x.numel(), self._parameters["bias"]  # the dict: attributes of a module are slow to look up
        if count <= self._product_limit and (rows := x.permute(0, 2, 3, 1)).is_contiguous():  # (B, H, W, c_in)
            products = functional.linear(rows, self._parameters["weight"].flatten(1), bias)  # (B, H, W, c_out)
            return self._activated(products).permute(0, 3, 1, 2)
        if count <= self._loop_limit and len(x) == 1:
            return self._activated(super().forward(x))
        weights, name = self._weights(x.shape), FUSED[type(self.after)]
        return _operator()(x, weights, bias, *self._options, name, [], "")

    def _activated(self, y: Tensor) -> Tensor:
        return functional.silu(y, inplace=True) if type(self.after) is nn.SiLU else self.after(y)

    def _usable(self, x: Tensor) -> bool:
        weight = self._parameters["weight"]
        if not x.is_cpu or x.dtype != weight.dtype or x.dtype not in (torch.float32, torch.bfloat16) or not x.numel():
            return False
        records = torch.is_grad_enabled() and not torch.is_inference_mode_enabled()
        if records and (x.requires_grad or weight.requires_grad):
            return False
        if torch.is_autocast_enabled("cpu") or torch.compiler.is_compiling() or torch.jit.is_tracing():
            return False
        return type(x) in (Tensor, nn.Parameter)

    def _weights(self, shape: torch.Size) -> Tensor:
        # The first image of a shape gets plain weights: the operator lays them out itself, for this call. The second
        # image has them laid out for good. The result is the same bit for bit. Several threads may
        # be in here at once, so that each attribute is replaced as a whole.
        laid_out = self._layouts.get(shape)
        if laid_out is not None:
            return laid_out
        if shape not in self._seen_shapes:
            self._seen_shapes = (*self._seen_shapes[1 - MAX_SHAPES :], shape)
            return self.weight
        if shape[0] > 1:
            _keep_memory()
        laid_out = torch.ops.mkldnn._reorder_convolution_weight(self.weight, *self._options, list(shape))
        layouts = OrderedDict(self._layouts)
        layouts[shape] = laid_out
        while len(layouts) > MAX_SHAPES:
            layouts.popitem(last=False)
        self._layouts = layouts
        return laid_out

    def _apply(self, function: Callable[[Tensor], Tensor], recurse: bool = True) -> FusedConv2d:
        self._forget_layouts()
        return super()._apply(function, recurse)

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_layouts": OrderedDict(), "_seen_shapes": ()}

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, {type(self.after).__name__}"


def fuse_activations(model: nn.Module) -> int:
    """Replace every folded convolution that allows it by a FusedConv2d, in place. Return the number of replacements."""
    count = 0
    for block in list(model.modules()):
        if not isinstance(block, (Conv, SepConv7x7)) or not isinstance(block.bn, nn.Identity) or _hooked(block.act):
            continue
        name = "conv" if isinstance(block, Conv) else "pointwise"
        conv = getattr(block, name)
        if _can_fuse(conv):
            takes_act = type(block.act) in FUSED
            setattr(block, name, FusedConv2d.of(conv, block.act if takes_act else nn.Identity()))
            block.act = nn.Identity() if takes_act else block.act
            count += 1
    for parent in list(model.modules()):
        for name, child in list(parent._modules.items()):
            if child is not None and _can_fuse(child):
                parent._modules[name] = FusedConv2d.of(child, nn.Identity())
                count += 1
    return count


def unwrap_convolutions(model: nn.Module) -> None:
    """Replace each block that has nothing left but its convolution by that convolution, in place.

    Each saves three calls. Names of tensors change.
    """
    for parent in list(model.modules()):
        for name, child in list(parent._modules.items()):
            if isinstance(child, Conv) and type(child).forward is Conv.forward and _is_bare(child):
                parent._modules[name] = child.conv


def _is_bare(block: Conv) -> bool:
    is_empty = isinstance(block.bn, nn.Identity) and isinstance(block.act, nn.Identity)
    return is_empty and not any(map(_hooked, (block, block.bn, block.act)))


def _can_fuse(conv: nn.Module) -> bool:
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
    """Return whether oneDNN's fused convolution is here and computes what the plain layers do; tried once a type."""
    if not (torch.backends.mkldnn.is_available() and torch.backends.mkldnn.enabled):
        return False
    with torch.inference_mode(), torch.autocast("cpu", enabled=False):
        conv, images = trial_convolution(8, 16, 9, dtype)
        try:
            fused = FusedConv2d.of(conv, nn.SiLU())
            outputs = [fused(images).float() for _ in range(3)]  # with plain weights, and with weights laid out
            expected = functional.silu(conv(images)).float()
        except (RuntimeError, AttributeError, NotImplementedError):
            return False
    tolerance = 1e-4 if dtype is torch.float32 else 0.1
    return all(torch.allclose(output, expected, atol=tolerance, rtol=tolerance) for output in outputs)


def trial_convolution(c_in: int, c_out: int, side: int, dtype: torch.dtype) -> tuple[nn.Conv2d, Tensor]:
    """Return a 3x3 convolution and two images (2, c_in, side, side) for it. Nothing is drawn at random."""

    def ramp(*shape: int) -> Tensor:
        return torch.linspace(-1, 1, math.prod(shape)).view(shape).to(dtype)

    with torch.random.fork_rng(devices=[]):
        conv = nn.Conv2d(c_in, c_out, 3, padding=1).requires_grad_(False).to(dtype)
    conv.weight.copy_(ramp(c_out, c_in, 3, 3) / c_in)
    conv.bias.copy_(ramp(c_out))
    return conv, ramp(2, c_in, side, side).contiguous(memory_format=torch.channels_last)


@lru_cache(1)
def _keep_memory() -> None:
    """Let the C library of Linux keep the memory of a batch for the next batch, instead of asking the system again.

    Pages that return to the system each time cost a fifth of the time of a small network at batch=4 (34,000 faults a
    batch; one image has none). glibc raises its limits by itself to the largest block that was freed, so that one block
    is taken and freed here. Elsewhere nothing happens.
    """
    if sys.platform == "linux":
        torch.empty(HEAP, dtype=torch.uint8)
