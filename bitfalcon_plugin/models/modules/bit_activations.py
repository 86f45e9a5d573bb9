"""What layers with int8 activations have in common: scales of the activations, and inference in whole numbers.

Activations become whole numbers from -127 to 127 times a scale, as in BitNet b1.58 (Ma et al. 2024, arXiv:2402.17764). Training
sees the quantised numbers and passes gradients straight through (Bengio et al. 2013, arXiv:1308.3432).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .bit_kernels import TOP, Convolution, Floats, Geometry, as_floats, pick, steps_of

UNSET = ".act_scale"  # what names of such scales end in; a file without one (of a float head) leaves it at 0: not measured yet
SILU_MINIMUM = 0.2785  # SiLU is nowhere below minus this
SMALLEST_RANGE = 1e-5  # largest activation that a dynamic scale takes for granted
TINY = 1e-30  # keeps 0 / 0 away where all activations are zero
MOMENTUM = 0.05  # share of a new batch in a static scale


class StraightThrough(torch.autograd.Function):
    """Values replaced by an approximation; the gradient of the values is that of the approximation.

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
        return gradient if inside is None else torch.where(
            inside, gradient, 0.0
        ), None  # a product would copy the mask to floats first


@dataclass(frozen=True)
class Quantised:
    """An activation that several layers share. values: in floating point; codes, scale: whole numbers and what one is worth."""

    values: Tensor | None = None
    codes: Tensor | None = None
    scale: Tensor | None = None

    @property
    def shape(self) -> torch.Size:
        """The activation's."""
        return (self.values if self.codes is None else self.codes).shape

    def floats(self) -> Tensor:
        """The activation in floating point."""
        return self.values if self.codes is None else as_floats(self.codes, self.scale.dtype) * self.scale


class Quantising(nn.Module):
    """A layer that quantises its input, or takes what another has quantised, and computes with whole numbers where it may.

    act: "static" (a scale gathered over batches, in the buffer act_scale; 0: not gathered yet), "dynamic" (from x itself), "none",
    or "given" (a layer beside it quantises for both). Subclasses give what is marked as theirs, and parameters or buffers `bias`
    and `act_scale`, which may be None.
    """

    dims: tuple[int, ...]  # dimensions of x that one dynamic scale is for

    def _start(self, act: str, backend: str) -> None:
        self.act, self.backend, self.observing = act, backend, True
        self._prepared: tuple[tuple, Convolution | None, tuple] | None = None

    # Theirs

    def codes_and_scales(self) -> tuple[Tensor, Tensor]:
        """Codes of the weights (int8, the weights' shape) and the scale of each output channel (O), at least float32."""
        raise NotImplementedError

    def _made_of(self) -> tuple[Tensor | None, ...]:
        """The tensors that inference is prepared from; the first has the layer's device and floating type."""
        raise NotImplementedError

    def _dense(self) -> Tensor:
        """The weights as the layer computes with them, in floating point."""
        raise NotImplementedError

    def _compute(self, x: Tensor, weight: Tensor) -> Tensor:
        raise NotImplementedError

    def _convolve(self, ready: Convolution, codes: Tensor) -> Tensor:
        raise NotImplementedError

    def _geometry(self) -> Geometry | None:
        """None: of a kind that is computed in floating point only."""
        raise NotImplementedError

    @property
    def kind(self) -> str:
        """Kind of weights, of integer.KINDS."""
        raise NotImplementedError

    def _finished(self, y: Tensor) -> Tensor:
        """What follows the convolution and belongs to the layer."""
        return y

    # Activations

    def quantise(self, x: Tensor) -> Quantised:
        """The activation as this layer computes with it, for itself and for layers with act="given" beside it.

        A static scale that is zero was never set (a float layer's weights, no training since): x stays as it is.
        """
        if self.act in ("none", "given"):
            return Quantised(x)
        if self.training and self.observing and self.act == "static":
            self._observe(x)
        if self._whole(x) and (ready := self._convolution(self.act_scale)) is not None:
            scale = self.act_scale if self.act == "static" else self._range(x)
            return Quantised(codes=ready.quantise(x, scale), scale=scale)
        if torch.is_grad_enabled() and x.requires_grad:
            return Quantised(StraightThrough.apply(x, self._replace_activation))
        return Quantised(self._replace_activation(x)[0])

    def _replace_activation(self, x: Tensor) -> tuple[Tensor, Tensor]:
        wide = x if x.dtype == torch.float64 else x.float()  # half precision has too few digits for the division
        scale = (self.act_scale if self.act == "static" else self._range(wide)).to(wide.dtype)
        measured = self.act == "dynamic" or self.training and self.observing
        safe = (
            scale.clamp_min(TINY) if measured else torch.where(scale > 0, scale, 1)
        )  # zero: all of x is, or never measured
        steps = steps_of(wide, safe)
        codes = steps.clamp(-TOP, TOP)
        inside = codes == steps
        found = codes.mul_(safe)
        if not measured:
            found, inside = torch.where(scale > 0, found, wide), inside | ~(scale > 0)
        return found.to(x.dtype), inside

    def _range(self, x: Tensor) -> Tensor:
        return x.detach().abs().amax(self.dims, keepdim=True).clamp_min(SMALLEST_RANGE) / TOP

    @torch.no_grad()
    def _observe(self, x: Tensor) -> None:
        if x.numel():
            least, most = x.detach().aminmax()
            new, old = torch.maximum(-least, most).to(self.act_scale.dtype) / TOP, self.act_scale
            moved = torch.where(old > 0, (1 - MOMENTUM) * old + MOMENTUM * new, new)
            old.copy_(torch.where(new.isfinite(), moved, old))  # one bad batch must not stay in the scale for good

    # Inference

    def _whole(self, x: Tensor) -> bool:
        # Whether whole numbers may be computed with: nobody wants gradients, nobody records the operations.
        if torch.compiler.is_compiling() or torch.jit.is_tracing():
            return False
        own = self._made_of()[0]
        plain = not self.training and x.dtype in (torch.float32, torch.float64) and x.dtype == own.dtype and x.numel()
        if not plain or x.device != own.device or x.device.type == "meta" or torch.is_autocast_enabled(x.device.type):
            return False
        wanted = torch.is_grad_enabled() and (x.requires_grad or any(p.requires_grad for p in self.parameters()))
        return not wanted and self._geometry() is not None

    def _convolution(self, scale: Tensor | None) -> Convolution | None:
        # Packed again whenever a tensor it was made of has changed. None: a static scale that was never set.
        # What it was made of is kept beside it, so that no new tensor can have an old one's id.
        own, following = self._made_of(), self._following()
        sources = (*own, self.bias, scale, following)
        key = (
            self.backend,
            pick(self.backend, self.kind, own[0].device, own[0].dtype),
            *((id(t), t.data_ptr(), -1 if t.is_inference() else t._version) for t in sources if t is not None),
        )
        if self._prepared is None or self._prepared[0] != key:
            self._prepared = key, self._pack(key[1], scale, following), sources
        return self._prepared[1]

    @torch.no_grad()
    def _pack(self, backend: type[Convolution], scale: Tensor | None, following: Tensor | None) -> Convolution | None:
        if scale is not None and not scale > 0:
            return None
        codes, factor = self.codes_and_scales()
        codes = codes.view(*codes.shape, *[1] * (4 - codes.ndim))
        if scale is None:  # known at each call only: what depends on it is done afterwards
            return backend(codes, factor, None, self._geometry())
        bias = None if self.bias is None else self.bias.detach().clone()
        step = float(following) if following is not None else 0.0
        chained = step * (TOP + 0.5) > SILU_MINIMUM  # else codes could end at -128, which training never sees
        return backend(codes, factor * scale, bias, self._geometry(), self._silu(), step if chained else None)

    def _silu(self) -> bool:
        """Whether SiLU follows and belongs to the layer."""
        return False

    def _following(self) -> Tensor | None:
        """The activation scale of the one layer that reads this one's output, where that may be given as codes."""
        return None

    def computed_by(self) -> str:
        """Name of the backend that inference runs on, as things stand: onednn or float."""
        own, exact = self._made_of()[0], self._geometry() is not None and self.act != "none"
        return pick(self.backend, self.kind, own.device, own.dtype).name if exact else Floats.name

    def forward(self, x: Tensor | Quantised) -> Tensor | Quantised:
        x = x if isinstance(x, Quantised) else self.quantise(x)
        scale = (
            x.scale if x.scale is not None and x.scale.ndim == 0 else None
        )  # dynamic scales are multiplied on afterwards
        if x.codes is None or not self._whole(x.scale) or (ready := self._convolution(scale)) is None:
            return self._finished(self._compute(x.floats(), self._dense()))
        y = self._convolve(ready, x.codes)
        if scale is not None:
            return y if ready.step is None else Quantised(codes=y, scale=self._following())
        y = y * x.scale
        return self._finished(y if self.bias is None else y + self.bias.view(-1, *[1] * (len(self.dims) - 1)))

    # Copies and states

    def refresh(self) -> None:
        """Forget what inference keeps ready; needed only after writing to `weight.data`, which torch does not count."""
        self._prepared = None

    def train(self, mode: bool = True) -> nn.Module:
        self.refresh()
        return super().train(mode)

    def _apply(self, *args, **keywords) -> nn.Module:
        self.refresh()
        return super()._apply(*args, **keywords)

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_prepared": None}  # packed weights cannot be copied
