"""What layers with int8 activations have in common: the scale of the activations, and inference with codes.

A code is a whole number from -127 to 127; an activation is its code times a scale, as in BitNet b1.58 (Ma et al. 2024,
arXiv:2402.17764). Training sees the quantised numbers and passes gradients straight through (Bengio et al. 2013,
arXiv:1308.3432).
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .bit_kernels import (
    MAX_CODE,
    Convolution,
    Floats,
    Geometry,
    as_floats,
    backend_for,
    default_backend,
    unclipped_codes,
)

ACT_SCALE = ".act_scale"  # end of the names of static scales; a state of a float layer has none: the scale stays 0
SILU_MINIMUM = 0.2785  # SiLU is nowhere below minus this
MIN_RANGE = 1e-5  # a dynamic scale covers at least this range of activations
TINY = 1e-30  # replaces a scale of zero in a division
MOMENTUM = 0.05  # share of a new batch in a static scale


class StraightThrough(torch.autograd.Function):
    """Replace values by an approximation; the gradient of the values is the gradient of the approximation.

    replace: values -> (approximation, mask or None). Outside the mask, where values were clipped, the gradient is zero.
    """

    @staticmethod
    def forward(ctx, values: Tensor, replace: Callable[[Tensor], tuple[Tensor, Tensor | None]]) -> Tensor:
        approximation, inside = replace(values)
        ctx.save_for_backward(inside)
        return approximation

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        (inside,) = ctx.saved_tensors
        if inside is not None:
            gradient = torch.where(inside, gradient, 0.0)  # a product would first copy the mask to floats
        return gradient, None


@dataclass(frozen=True)
class Quantised:
    """An activation that several layers share: either `values` in floating point, or `codes` times `scale`."""

    values: Tensor | None = None
    codes: Tensor | None = None
    scale: Tensor | None = None

    @property
    def shape(self) -> torch.Size:
        """The shape of the activation."""
        return (self.values if self.codes is None else self.codes).shape

    def floats(self) -> Tensor:
        """Return the activation in floating point."""
        return self.values if self.codes is None else as_floats(self.codes, self.scale.dtype) * self.scale


@dataclass(frozen=True, slots=True)
class Prepared:
    """A convolution ready for inference, and what it was made from. convolution: None where the scale is unset."""

    convolution: Convolution | None
    sources: Sequence[Tensor | None]  # the tensors themselves, so that no new tensor can have the id of an old one
    versions: Sequence[tuple[int, int]]
    backends: tuple[str, str]  # of the layer, and the default at that time

    def is_current(self, sources: Sequence[Tensor | None], backends: tuple[str, str]) -> bool:
        """Whether the layer still has the same tensors, unchanged, and the same backends."""
        same = backends == self.backends and all(map(operator.is_, sources, self.sources))
        return same and versions_of(sources) == self.versions


def versions_of(tensors: Sequence[Tensor | None]) -> list[tuple[int, int]]:
    """Return the address of each tensor and how often it was written to; inference tensors do not count that."""
    # `_version` is private, but torch offers no other way to notice that a tensor was changed in place.
    return [(t.data_ptr(), -1 if t.is_inference() else t._version) for t in tensors if t is not None]


class QuantisedLayer(nn.Module):
    """A layer that quantises its input, or takes quantised input, and infers with codes where possible.

    act: "static" (one scale gathered over training batches, in the buffer act_scale; 0: not gathered yet), "dynamic"
    (the scale comes from x itself), "none" (activations stay float), or "given" (another layer quantises the shared
    input). A subclass has the tensors `bias` and `act_scale`, which may be None, and overrides the methods that raise
    NotImplementedError.
    """

    dims: tuple[int, ...]  # dimensions of x that share one dynamic scale
    silu = False  # whether the layer applies SiLU to its output

    def _start(self, act: str, backend: str) -> None:
        self.act, self.backend, self.observing = act, backend, True
        self._prepared: Prepared | None = None

    # For subclasses to override

    def codes_and_scales(self) -> tuple[Tensor, Tensor]:
        """Return the codes of the weights (int8, the weights' shape) and the scale of each output channel (O,)."""
        raise NotImplementedError

    def _sources(self) -> tuple[Tensor | None, ...]:
        """Return the tensors that inference is prepared from; the first has the layer's device and floating type."""
        raise NotImplementedError

    def _float_weight(self) -> Tensor:
        """Return the quantised weights in floating point."""
        raise NotImplementedError

    def _compute(self, x: Tensor, weight: Tensor) -> Tensor:
        """Apply the layer in floating point, with its bias."""
        raise NotImplementedError

    def _convolve(self, convolution: Convolution, codes: Tensor) -> Tensor:
        """Apply a prepared convolution to codes of the layer's input."""
        raise NotImplementedError

    def _geometry(self) -> Geometry | None:
        """Return stride, padding, dilation and groups; None for a layer that is computed in floating point only."""
        raise NotImplementedError

    @property
    def kind(self) -> str:
        """The kind of weights, one of bit_kernels.KINDS."""
        raise NotImplementedError

    def _next_scale(self) -> Tensor | None:
        """Return the activation scale of the only layer that reads the output, where the output may be codes."""
        return None

    def _activate(self, y: Tensor) -> Tensor:
        return F.silu(y) if self.silu else y

    # Activations

    def quantise(self, x: Tensor) -> Quantised:
        """Quantise an activation for this layer and for the layers with act="given" that share it.

        A static scale of zero was never set (float weights, no training since): x then stays float.
        """
        return self._quantise(x)[0]

    def _quantise(self, x: Tensor) -> tuple[Quantised, Convolution | None]:
        """Return the activation, and the prepared convolution for it where it has codes."""
        if self.act in ("none", "given"):
            return Quantised(x), None
        if self.training and self.observing and self.act == "static":
            self._observe(x)
        static_scale = self.act_scale
        if self._allows_codes(x) and (convolution := self._convolution(static_scale)) is not None:
            scale = static_scale if self.act == "static" else self._dynamic_scale(x)
            return Quantised(codes=convolution.quantise(x, scale), scale=scale), convolution
        if torch.is_grad_enabled() and x.requires_grad:
            return Quantised(StraightThrough.apply(x, self._round_trip)), None
        return Quantised(self._round_trip(x)[0]), None

    def _round_trip(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Quantise x and return to floats: (approximation of x, mask of the values that were not clipped)."""
        wide = x if x.dtype == torch.float64 else x.float()  # half precision has too few digits for the division
        scale = (self.act_scale if self.act == "static" else self._dynamic_scale(wide)).to(wide.dtype)
        measured = self.act == "dynamic" or self.training and self.observing  # then 0 means that all of x is 0
        divisor = scale.clamp_min(TINY) if measured else torch.where(scale > 0, scale, 1)
        unclipped = unclipped_codes(wide, divisor)
        codes = unclipped.clamp(-MAX_CODE, MAX_CODE)
        inside = codes == unclipped
        approximation = codes.mul_(divisor)
        if not measured:
            approximation, inside = torch.where(scale > 0, approximation, wide), inside | ~(scale > 0)
        return approximation.to(x.dtype), inside

    def _dynamic_scale(self, x: Tensor) -> Tensor:
        return x.detach().abs().amax(self.dims, keepdim=True).clamp_min(MIN_RANGE) / MAX_CODE

    @torch.no_grad()
    def _observe(self, x: Tensor) -> None:
        """Move the static scale towards the largest activation of a batch."""
        if x.numel():
            smallest, largest = x.detach().aminmax()
            new, old = torch.maximum(-smallest, largest).to(self.act_scale.dtype) / MAX_CODE, self.act_scale
            moved = torch.where(old > 0, (1 - MOMENTUM) * old + MOMENTUM * new, new)
            old.copy_(torch.where(new.isfinite(), moved, old))  # one bad batch must not stay in the scale for good

    # Inference

    def _allows_codes(self, x: Tensor) -> bool:
        """Whether to compute with codes of x: in eval mode, without gradients, and nothing records the operations."""
        if self.training or torch.compiler.is_compiling() or torch.jit.is_tracing():
            return False
        weight = self._sources()[0]
        dtype, device = weight.dtype, weight.device
        if x.dtype != dtype or x.device != device or dtype not in (torch.float32, torch.float64):
            return False
        if not x.numel() or device.type == "meta" or torch.is_autocast_enabled(device.type):
            return False
        if torch.is_grad_enabled() and (x.requires_grad or any(p.requires_grad for p in self.parameters())):
            return False
        return self._geometry() is not None

    def _convolution(self, scale: Tensor | None) -> Convolution | None:
        """Return the prepared convolution, made again when a tensor or a backend has changed.

        scale: a static scale of the input, or None for dynamic scales. None is returned for a scale that was never set.
        """
        sources = (*self._sources(), scale, self._next_scale())
        backends, prepared = (self.backend, default_backend()), self._prepared
        if prepared is None or not prepared.is_current(sources, backends):
            versions = versions_of(sources)
            self._prepared = prepared = Prepared(self._prepare(scale), sources, versions, backends)
        return prepared.convolution

    @torch.no_grad()
    def _prepare(self, scale: Tensor | None) -> Convolution | None:
        if scale is not None and not scale > 0:
            return None
        codes, factor = self.codes_and_scales()
        codes = codes.view(*codes.shape, *[1] * (4 - codes.ndim))
        weight = self._sources()[0]
        backend = backend_for(self.backend, self.kind, weight.device, weight.dtype)
        if scale is None:  # a dynamic scale is known at each call only: the caller applies it, the bias and SiLU
            return backend(codes, factor, None, self._geometry())
        bias, next_scale = None if self.bias is None else self.bias.detach().clone(), self._next_scale()
        output_scale = float(next_scale) if next_scale is not None else 0.0
        if output_scale * (MAX_CODE + 0.5) <= SILU_MINIMUM:  # else codes could end at -128, which training never sees
            output_scale = None
        return backend(codes, factor * scale, bias, self._geometry(), self.silu, output_scale)

    def computed_by(self) -> str:
        """Return the name of the backend that inference of this layer uses: onednn or float."""
        weight, integers = self._sources()[0], self._geometry() is not None and self.act != "none"
        return backend_for(self.backend, self.kind, weight.device, weight.dtype).name if integers else Floats.name

    def forward(self, x: Tensor | Quantised) -> Tensor | Quantised:
        if not isinstance(x, Quantised):
            x, convolution = self._quantise(x)
        elif x.codes is not None and self._allows_codes(x.scale):
            convolution = self._convolution(None if x.scale.ndim else x.scale)
        else:
            convolution = None
        if convolution is None:
            return self._activate(self._compute(x.floats(), self._float_weight()))
        y = self._convolve(convolution, x.codes)
        if not x.scale.ndim:  # one static scale, which the convolution has applied
            return y if convolution.output_scale is None else Quantised(codes=y, scale=self._next_scale())
        y = y * x.scale
        return self._activate(y if self.bias is None else y + self.bias.view(-1, *[1] * (len(self.dims) - 1)))

    # Copies and states

    def refresh(self) -> None:
        """Forget the prepared convolution; needed only after writing to `weight.data`, which torch does not count."""
        self._prepared = None

    def train(self, mode: bool = True) -> nn.Module:
        self.refresh()
        return super().train(mode)

    def _apply(self, *args, **keywords) -> nn.Module:
        self.refresh()
        return super()._apply(*args, **keywords)

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_prepared": None}  # packed weights of oneDNN can be neither copied nor pickled
