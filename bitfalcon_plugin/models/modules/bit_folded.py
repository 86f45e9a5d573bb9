"""What folding makes of a ternary layer: its codes and scales alone, with the batch norm and SiLU behind it inside.

For inference; the weights that were trained are not here any more. A layer whose output one other layer reads gives it codes
instead of floats, so that nothing is converted in between (spec/bit.md section 4.1).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .bit_activations import Quantised, Quantising
from .bit_kernels import Convolution, Geometry, OneDnn, bytes_of, chosen, inverse_and_limit


@dataclass(frozen=True, slots=True)
class Settled:
    """What a layer found out in one forward of inference, for the next ones to take as it is while it still holds."""

    tensors: tuple[Tensor | None, ...]  # codes, scale, bias, act_scale, and the follower's act_scale
    counted: tuple[Tensor, ...]  # all of them, and the input's scale, where torch counts changes
    changes: int
    backends: tuple[str, str]  # the layer's own, and that of all
    ready: OneDnn
    scale: Tensor  # of the input
    inverse: float
    limit: float


class FrozenConv2d(Quantising):
    """A convolution of codes: images (B, I, H, W) -> (B, O, H', W').

    Buffers: codes (int8, O x I/groups x kh x kw), scale and bias (float32, O), act_scale (float32, scalar; absent with act="given",
    "none" and "dynamic"). silu: whether the output goes through SiLU. It trains nothing and asks for no gradient.
    """

    dims = (-3, -2, -1)

    def __init__(
        self,
        codes: Tensor,
        scale: Tensor,
        bias: Tensor,
        geometry: Geometry,
        *,
        rule: str,
        act: str,
        backend: str,
        act_scale: Tensor | None = None,
        silu: bool = False,
    ):
        super().__init__()
        self._start(act, backend)
        self.observing = False  # also in training mode
        self._settled: Settled | None = None
        self.rule, self.geometry, self.silu = rule, geometry, silu
        self.follower: tuple[FrozenConv2d, ...] = ()  # in a tuple: it is no part of this layer
        for name, value in (("codes", codes), ("scale", scale), ("bias", bias), ("act_scale", act_scale)):
            self.register_buffer(name, value)

    def quantise(self, x: Tensor) -> Quantised:
        """The activation as this layer computes with it. See Quantising.quantise; this is quicker where nothing has changed."""
        settled = self._settled_for(x)
        return (
            super().quantise(x)
            if settled is None
            else Quantised(codes=bytes_of(x, settled.inverse, settled.limit), scale=settled.scale)
        )

    def forward(self, x: Tensor | Quantised) -> Tensor | Quantised:
        settled = self._settled_for(x)
        if settled is None:
            y = super().forward(x)
            self._settle(x)
            return y
        codes = x.codes if type(x) is Quantised else bytes_of(x, settled.inverse, settled.limit)
        y = settled.ready(codes)
        return y if settled.ready.step is None else Quantised(codes=y, scale=settled.tensors[-1])

    def _settled_for(self, x: Tensor | Quantised) -> Settled | None:
        settled = self._settled
        if (
            settled is None
            or not torch.is_inference_mode_enabled()
            or torch.compiler.is_compiling()
            or torch.jit.is_tracing()
        ):
            return None
        if settled.backends != (self.backend, chosen()) or changes(settled.counted) != settled.changes:
            return None
        if any(a is not b for a, b in zip(settled.tensors, self._tensors())):
            return None
        if type(x) is Quantised:
            return settled if x.codes is not None and x.scale is settled.scale and x.codes.ndim == 4 else None
        fits = self.act == "static" and x.dtype == torch.float32 and x.is_cpu and x.ndim == 4 and x.numel()
        return settled if fits and not torch.is_autocast_enabled("cpu") else None

    def _settle(self, x: Tensor | Quantised) -> None:
        scale = x.scale if isinstance(x, Quantised) else self.act_scale if self.act == "static" else None
        if (
            scale is None
            or scale.ndim
            or not torch.is_inference_mode_enabled()
            or not self._whole(scale if isinstance(x, Quantised) else x)
        ):
            return
        ready = self._convolution(scale)  # not what lies there of an earlier forward
        if type(ready) is OneDnn:
            tensors = self._tensors()
            counted = tuple(t for t in (*tensors, scale) if t is not None and not t.is_inference())
            self._settled = Settled(
                tensors, counted, changes(counted), (self.backend, chosen()), ready, scale, *inverse_and_limit(scale)
            )

    def _tensors(self) -> tuple[Tensor | None, ...]:
        own = self._buffers
        return own["codes"], own["scale"], own["bias"], own["act_scale"], self._following()

    def refresh(self) -> None:
        self._settled = None
        super().refresh()

    def codes_and_scales(self) -> tuple[Tensor, Tensor]:
        """Codes (int8, the weights' shape) and the scale of each output channel (O)."""
        return self.codes, self.scale

    @property
    def kind(self) -> str:
        """Kind of weights, of integer.KINDS."""
        return kind_of(self.rule, self.codes.shape, self.geometry.groups)

    def extra_repr(self) -> str:
        """For print: the weights' shape and kind."""
        return f"{'x'.join(map(str, self.codes.shape))}, {self.kind}, act={self.act}{', silu' if self.silu else ''}"

    def _made_of(self) -> tuple[Tensor, Tensor]:
        return self.scale, self.codes

    def _dense(self) -> Tensor:
        return self.codes.to(self.scale.dtype) * self.scale.view(-1, *[1] * (self.codes.ndim - 1))

    def _geometry(self) -> Geometry:
        return self.geometry

    def _compute(self, x: Tensor, weight: Tensor) -> Tensor:
        g = self.geometry
        return F.conv2d(x, weight, self.bias, g.stride, g.padding, g.dilation, g.groups)

    def _convolve(self, ready: Convolution, codes: Tensor) -> Tensor:
        return ready(codes) if codes.ndim == 4 else ready(codes[None])[0]

    def _finished(self, y: Tensor) -> Tensor:
        return F.silu(y) if self.silu else y

    def _silu(self) -> bool:
        return self.silu

    def _following(self) -> Tensor | None:
        return self.follower[0]._buffers["act_scale"] if self.follower else None

    def __getstate__(self) -> dict:
        return {**super().__getstate__(), "_settled": None}


class FrozenLinear(FrozenConv2d):
    """The same for a linear layer: (..., n_in) -> (..., n_out). codes: (n_out, n_in)."""

    dims = (-1,)

    def _compute(self, x: Tensor, weight: Tensor) -> Tensor:
        return F.linear(x, weight, self.bias)

    def _settle(self, x: Tensor | Quantised) -> None:
        pass  # rows are rearranged at each call

    def _convolve(self, ready: Convolution, codes: Tensor) -> Tensor:
        return by_rows(ready, codes)


def changes(tensors: tuple[Tensor, ...]) -> int:
    """How often tensors were written to, all together."""
    return sum([t._version for t in tensors])


def by_rows(ready: Convolution, codes: Tensor) -> Tensor:
    """A linear layer as a 1x1 convolution: codes (..., n_in) -> (..., n_out)."""
    flat = codes.reshape(1, -1, 1, codes.shape[-1]).permute(0, 3, 1, 2)  # (1, n_in, rows, 1)
    return ready(flat).permute(0, 2, 3, 1).reshape(*codes.shape[:-1], -1)


def kind_of(rule: str, shape: torch.Size, groups: int) -> str:
    """Of integer.KINDS, for weights (O, I/groups, ...) by a rule of ternary.RULES."""
    depthwise = groups > 1 and groups == shape[0] and shape[1] == 1
    return ("int8" if rule == "int8" else "ternary") + (" depthwise" if depthwise else "")


def fold(*blocks: nn.Module) -> None:
    """Fold blocks each of which alone reads the output of the one before it; a ternary layer with SiLU then gives the next codes.

    A block is a module with a layer `conv`, or that layer itself.
    """
    for block in blocks:
        if hasattr(block, "fuse"):
            block.fuse()
    layers = [getattr(block, "conv", block) for block in blocks]
    for first, second in zip(layers, layers[1:]):
        if (
            isinstance(first, FrozenConv2d)
            and isinstance(second, FrozenConv2d)
            and first.silu
            and second.act == "static"
        ):
            first.follower = (second,)
