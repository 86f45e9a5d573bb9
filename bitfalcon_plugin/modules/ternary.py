"""Layers with ternary weights and int8 activations that stand where a convolution or a linear layer stood.

BitNet b1.58 (Ma et al. 2024, arXiv:2402.17764): weights become -1, 0 or 1 times a scale, here one for each output channel;
activations become whole numbers from -127 to 127 times a scale. The threshold of ternary weight networks (Li and Liu 2016,
arXiv:1605.04711) is an option, and int8 weights for depthwise layers, which have few. Training sees the quantised numbers and
passes gradients straight through (Bengio et al. 2013, arXiv:1308.3432); the float weights stay what is trained and saved.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import UserError, did_you_mean
from .integer import TOP, Convolution, Floats, Geometry, as_floats, checked, codes_of, pick

SMALLEST = 1e-8  # scale of weights that are all zero
SMALLEST_RANGE = 1e-5  # largest activation that a dynamic scale takes for granted
TINY = 1e-30  # keeps 0 / 0 away where all activations are zero
MOMENTUM = 0.05  # share of a new batch in a static scale
ACTS = ("static", "dynamic", "none", "given")
GRANULARITIES = ("channel", "tensor")


def absmean(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Weights (N, n) -> codes -1, 0, 1 and scales (N, 1): the mean absolute value of each row, threshold half of it."""
    scale = rows.abs().mean(1, keepdim=True).clamp_min(SMALLEST)
    return (rows / scale).round_().clamp_(-1, 1), scale


def twn(rows: Tensor) -> tuple[Tensor, Tensor]:
    """The same with threshold 0.7 of the mean absolute value, scaled to the mean of what is kept (least squares)."""
    sizes = rows.abs()
    kept = sizes > 0.7 * sizes.mean(1, keepdim=True)
    scale = (sizes * kept).sum(1, keepdim=True) / kept.sum(1, keepdim=True).clamp_min(1)
    return rows.sign() * kept, scale.clamp_min(SMALLEST)


def absmax(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Weights (N, n) -> codes -127 to 127 and scales (N, 1), the largest absolute value at 127."""
    scale = (rows.abs().amax(1, keepdim=True) / TOP).clamp_min(SMALLEST)
    return codes_of(rows, scale), scale


RULES: dict[str, Callable[[Tensor], tuple[Tensor, Tensor]]] = {"absmean": absmean, "twn": twn, "int8": absmax}


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
        return gradient if inside is None else gradient * inside, None


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


class _Bit(nn.Module):
    # What convolution and linear layer have in common. `dims`: dimensions of x that one dynamic scale is for.
    dims: tuple[int, ...]

    def _set_up(self, rule: str, act: str, granularity: str, backend: str) -> None:
        for name, value, known in (("rule", rule, RULES), ("act", act, ACTS), ("granularity", granularity, GRANULARITIES)):
            if value not in known:
                raise UserError(f"{name}={value!r} is none of {', '.join(known)}.{did_you_mean(str(value), known)}")
        self.rule, self.act, self.granularity, self.backend = rule, act, granularity, checked(backend)
        self.observing = True
        self.register_buffer("act_scale", torch.zeros(()) if act == "static" else None)
        self.register_buffer("out_scale", None)
        self._prepared: tuple[tuple, Convolution | None, tuple] | None = None

    # Weights

    @torch.no_grad()
    def codes(self) -> tuple[Tensor, Tensor]:
        """Codes of the weights (int8, the weights' shape) and the scale of each output channel (O), at least float32."""
        codes, scale = self._rounded(self.weight)
        return codes.to(torch.int8), scale.flatten() if self.out_scale is None else scale.flatten() * self.out_scale

    def _rounded(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        # scale: (O, 1, ...), which multiplies weights
        wide = weight.detach().to(torch.promote_types(weight.dtype, torch.float32))
        codes, scale = RULES[self.rule](wide.reshape(1 if self.granularity == "tensor" else len(weight), -1))
        return codes.view_as(weight), scale.expand(len(weight), 1).reshape(-1, *[1] * (weight.ndim - 1))

    def _replace_weight(self, weight: Tensor) -> tuple[Tensor, None]:
        codes, scale = self._rounded(weight)
        return (codes * scale).to(weight.dtype), None

    def quantised_weight(self) -> Tensor:
        """The weights as the layer computes with them; gradients go straight to the float weights."""
        weight = StraightThrough.apply(self.weight, self._replace_weight)
        return weight if self.out_scale is None else weight * self.out_scale.view(-1, *[1] * (weight.ndim - 1))

    # Activations

    def quantise(self, x: Tensor) -> Quantised:
        """The activation as this layer computes with it, for itself and for layers with act="given" beside it.

        A static scale that is zero was never set (a float layer's weights, no training since): x stays as it is.
        """
        if self.act in ("none", "given"):
            return Quantised(x)
        wide = x if x.dtype == torch.float64 else x.float()  # half precision has too few digits for the division
        if self.training and self.observing and self.act == "static":
            self._observe(wide)
        if self._whole(x) and (ready := self._convolution(self.act_scale)) is not None:
            scale = self.act_scale if self.act == "static" else self._range(x)
            return Quantised(codes=ready.ready(codes_of(x, scale)), scale=scale)
        return Quantised(StraightThrough.apply(x, self._replace_activation))

    def _replace_activation(self, x: Tensor) -> tuple[Tensor, Tensor]:
        wide = x if x.dtype == torch.float64 else x.float()
        scale = (self.act_scale if self.act == "static" else self._range(wide)).to(wide.dtype)
        measured = self.act == "dynamic" or self.training and self.observing
        safe = scale.clamp_min(TINY) if measured else torch.where(scale > 0, scale, 1)  # zero: all of x is, or never measured
        steps = (wide / safe).round_()
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
            new, old = torch.maximum(-least, most) / TOP, self.act_scale
            moved = torch.where(old > 0, (1 - MOMENTUM) * old + MOMENTUM * new, new)
            old.copy_(torch.where(new.isfinite(), moved, old))  # one bad batch must not stay in the scale for good

    # Inference

    def _whole(self, x: Tensor) -> bool:
        # Whether whole numbers may be computed with: nobody wants gradients, nobody records the operations.
        plain = not self.training and x.dtype in (torch.float32, torch.float64) and x.dtype == self.weight.dtype and x.numel()
        if not plain or x.device != self.weight.device or x.device.type == "meta" or torch.is_autocast_enabled(x.device.type):
            return False
        wanted = torch.is_grad_enabled() and (x.requires_grad or any(p.requires_grad for p in self.parameters()))
        return not (wanted or torch.compiler.is_compiling() or torch.jit.is_tracing()) and self._geometry() is not None

    def _convolution(self, scale: Tensor | None) -> Convolution | None:
        # Packed again whenever a tensor it was made of has changed. None: a static scale that was never set.
        # What it was made of is kept beside it, so that no new tensor can have an old one's id.
        sources = (self.weight, self.bias, self.out_scale, scale)
        key = (self.backend, pick(self.backend, self.kind, self.weight.device, self.weight.dtype),
               *((id(t), t.data_ptr(), -1 if t.is_inference() else t._version) for t in sources if t is not None))
        if self._prepared is None or self._prepared[0] != key:
            self._prepared = key, self._pack(key[1], scale), sources
        return self._prepared[1]

    @torch.no_grad()
    def _pack(self, backend: type[Convolution], scale: Tensor | None) -> Convolution | None:
        if scale is not None and not scale > 0:
            return None
        codes, factor = self.codes()
        factor = factor if scale is None else factor * scale
        bias = None if self.bias is None or scale is None else self.bias.detach().clone()
        return backend(codes.view(*codes.shape, *[1] * (4 - codes.ndim)), factor, bias, self._geometry())

    @property
    def kind(self) -> str:
        """Kind of weights, of integer.KINDS."""
        groups = getattr(self, "groups", 1)
        depthwise = groups > 1 and groups == self.weight.shape[0] and self.weight.shape[1] == 1
        return ("int8" if self.rule == "int8" else "ternary") + (" depthwise" if depthwise else "")

    def computed_by(self) -> str:
        """Name of the backend that inference runs on, as things stand: onednn or float."""
        exact = self._geometry() is not None and self.act != "none"
        return pick(self.backend, self.kind, self.weight.device, self.weight.dtype).name if exact else Floats.name

    def forward(self, x: Tensor | Quantised) -> Tensor:
        x = x if isinstance(x, Quantised) else self.quantise(x)
        scale = x.scale if x.scale is not None and x.scale.ndim == 0 else None  # dynamic scales are multiplied on afterwards
        if x.codes is None or not self._whole(x.scale) or (ready := self._convolution(scale)) is None:
            return self._compute(x.floats(), self.quantised_weight())
        y = self._convolve(ready, x.codes)
        if scale is not None:
            return y
        y = y * x.scale
        return y if self.bias is None else y + self.bias.view(-1, *[1] * (len(self.dims) - 1))

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

    def _load_from_state_dict(self, state, prefix, metadata, strict, missing, unexpected, errors) -> None:
        self.refresh()
        name = prefix + "act_scale"
        if self.act_scale is not None and name not in state:  # a float layer's: its activations were never measured
            state = {**state, name: torch.zeros_like(self.act_scale)}
        super()._load_from_state_dict(state, prefix, metadata, strict, missing, unexpected, errors)

    def _options(self) -> dict[str, str]:
        return {"rule": self.rule, "act": self.act, "granularity": self.granularity, "backend": self.backend}

    def extra_repr(self) -> str:
        return ", ".join([super().extra_repr(), *(f"{key}={value}" for key, value in self._options().items())])


class BitConv2d(_Bit, nn.Conv2d):
    """nn.Conv2d with quantised weights and activations: (B, c_in, H, W) -> (B, c_out, H', W').

    rule: absmean or twn (ternary weights), int8. act: static (one scale, a moving average of largest values over training
    batches, in the buffer act_scale; frozen while `observing` is False), dynamic (a scale for each image), none (float
    activations), given (another layer quantised the input). granularity of weight scales: channel, or tensor as in BitNet.
    backend: of integer.BACKENDS, for inference. Other arguments as nn.Conv2d; so are the tensors' names, beside act_scale.
    A state without act_scale loads, strictly too: the scale is then unset, and activations stay float until it is.
    UserError for an option that does not exist.
    """

    dims = (-3, -2, -1)

    def __init__(self, *args, rule: str = "absmean", act: str = "static", granularity: str = "channel", backend: str = "auto",
                 **keywords):
        super().__init__(*args, **keywords)
        self._set_up(rule, act, granularity, backend)

    @classmethod
    def of(cls, conv: nn.Conv2d, **options: str) -> BitConv2d:
        """A layer in place of `conv`, with the same parameters (not copies). options: rule, act, granularity, backend."""
        with torch.device("meta"):
            new = cls(conv.in_channels, conv.out_channels, conv.kernel_size, conv.stride, conv.padding, conv.dilation,
                      conv.groups, conv.bias is not None, conv.padding_mode, **options)
        return _take_over(new, conv)

    def _geometry(self) -> Geometry | None:
        simple = self.padding_mode == "zeros" and not isinstance(self.padding, str)
        return Geometry(self.stride, self.padding, self.dilation, self.groups) if simple else None

    def _compute(self, x: Tensor, weight: Tensor) -> Tensor:
        return self._conv_forward(x, weight, self.bias)

    def _convolve(self, ready: Convolution, codes: Tensor) -> Tensor:
        return ready(codes) if codes.ndim == 4 else ready(codes[None])[0]

    @torch.no_grad()
    def folded(self, bn: nn.BatchNorm2d) -> BitConv2d:
        """A layer that equals `bn(self(x))` in eval mode, with the very same codes; it asks for no gradient.

        The batch norm's factor becomes the buffer out_scale, because rounding of scaled weights could flip a code.
        """
        wide = torch.float32 if self.weight.device.type == "mps" else torch.float64  # mps has no float64
        factor = bn.weight.to(wide) * (bn.running_var.to(wide) + bn.eps).rsqrt()
        bias = torch.zeros_like(factor) if self.bias is None else self.bias.to(wide)
        out = BitConv2d.of(self, **self._options())
        out.weight, out.act_scale = nn.Parameter(self.weight.clone()), None if self.act_scale is None else self.act_scale.clone()
        out.bias = nn.Parameter(((bias - bn.running_mean.to(wide)) * factor + bn.bias.to(wide)).to(self.weight.dtype))
        out.out_scale = (factor if self.out_scale is None else factor * self.out_scale.to(wide)).to(self.weight.dtype)
        out.observing = self.observing
        return out.requires_grad_(False).train(self.training)


class BitLinear(_Bit, nn.Linear):
    """nn.Linear with quantised weights and activations: (..., n_in) -> (..., n_out); options as of BitConv2d.

    A dynamic scale is for one row of x, as in BitNet.
    """

    dims = (-1,)

    def __init__(self, *args, rule: str = "absmean", act: str = "static", granularity: str = "channel", backend: str = "auto",
                 **keywords):
        super().__init__(*args, **keywords)
        self._set_up(rule, act, granularity, backend)

    @classmethod
    def of(cls, linear: nn.Linear, **options: str) -> BitLinear:
        """A layer in place of `linear`, with the same parameters (not copies)."""
        with torch.device("meta"):
            new = cls(linear.in_features, linear.out_features, linear.bias is not None, **options)
        return _take_over(new, linear)

    def _geometry(self) -> Geometry:
        return Geometry()

    def _compute(self, x: Tensor, weight: Tensor) -> Tensor:
        return F.linear(x, weight, self.bias)

    def _convolve(self, ready: Convolution, codes: Tensor) -> Tensor:
        flat = codes.reshape(1, -1, 1, self.in_features).permute(0, 3, 1, 2)  # (1, n_in, rows, 1): a 1x1 convolution
        return ready(flat).permute(0, 2, 3, 1).reshape(*codes.shape[:-1], self.out_features)


def _take_over(new: _Bit, old: nn.Module) -> _Bit:
    new.weight, new.bias = old.weight, old.bias
    if new.act_scale is not None:
        new.act_scale = torch.zeros((), device=old.weight.device)
    return new.train(old.training)
