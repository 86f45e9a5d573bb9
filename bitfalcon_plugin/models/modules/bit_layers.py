"""Layers with ternary weights and int8 activations that stand where a convolution or a linear layer stood.

BitNet b1.58 (Ma et al. 2024, arXiv:2402.17764): weights become -1, 0 or 1 times a scale, here one for each output channel;
activations become whole numbers from -127 to 127 times a scale. The threshold of ternary weight networks (Li and Liu 2016,
arXiv:1605.04711) is an option, and int8 weights for depthwise layers, which have few. Training sees the quantised numbers and
passes gradients straight through (Bengio et al. 2013, arXiv:1308.3432); the float weights stay what is trained and saved.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...config.errors import UserError, did_you_mean
from .bit_activations import Quantising, StraightThrough
from .bit_folded import FrozenConv2d, FrozenLinear, by_rows, kind_of
from .bit_kernels import TOP, Convolution, Geometry, checked, codes_of
from .conv import like

SMALLEST = 1e-8  # scale of weights that are all zero
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


class _Bit(Quantising):
    # What convolution and linear layer have in common.

    def _set_up(
        self, rule: str = "absmean", act: str = "static", granularity: str = "channel", backend: str = "auto"
    ) -> None:
        for name, value, known in (
            ("rule", rule, RULES),
            ("act", act, ACTS),
            ("granularity", granularity, GRANULARITIES),
        ):
            if value not in known:
                raise UserError(f"{name}={value!r} is none of {', '.join(known)}.{did_you_mean(str(value), known)}")
        self.rule, self.granularity = rule, granularity
        self.register_buffer("act_scale", torch.zeros(()) if act == "static" else None)
        self.register_buffer("out_scale", None)
        self._start(act, checked(backend))

    # Weights

    @torch.no_grad()
    def codes_and_scales(self) -> tuple[Tensor, Tensor]:
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
        return torch.empty_like(weight).copy_(
            codes * scale
        ), None  # in the weights' memory format: gradients keep to it

    def _made_of(self) -> tuple[Tensor | None, ...]:
        return self.weight, self.out_scale

    @property
    def kind(self) -> str:
        """Kind of weights, of integer.KINDS."""
        return kind_of(self.rule, self.weight.shape, getattr(self, "groups", 1))

    def _dense(self) -> Tensor:  # gradients go straight to the float weights
        weight = StraightThrough.apply(self.weight, self._replace_weight)
        return weight if self.out_scale is None else weight * self.out_scale.view(-1, *[1] * (weight.ndim - 1))

    @torch.no_grad()
    def freeze(self, bn: nn.Module | None = None, act: nn.Module | None = None) -> tuple[nn.Module, nn.Module | None]:
        """What inference needs of `act(bn(self(x)))` in eval mode: a layer, and the activation that is left to do.

        bn: counts where it is an nn.BatchNorm2d. SiLU goes into the layer. Padding that is no number of zeros stays a BitConv2d.
        """
        layer = self.folded(bn) if isinstance(bn, nn.BatchNorm2d) else self.requires_grad_(False)
        if layer._geometry() is None:
            return layer, act
        kind = FrozenLinear if isinstance(self, BitLinear) else FrozenConv2d
        (codes, scale), bias = layer.codes_and_scales(), layer.bias
        bias = torch.zeros_like(scale) if bias is None else bias.detach().clone()
        act_scale = None if layer.act_scale is None else layer.act_scale.clone()
        frozen = kind(
            codes,
            scale.to(layer.weight.dtype),
            bias.to(layer.weight.dtype),
            layer._geometry(),
            rule=self.rule,
            act=self.act,
            backend=self.backend,
            act_scale=act_scale,
            silu=isinstance(act, nn.SiLU),
        )
        return frozen.train(self.training), nn.Identity() if frozen.silu else act

    def _load_from_state_dict(self, state, prefix, metadata, strict, missing, unexpected, errors) -> None:
        self.refresh()
        name = prefix + "act_scale"
        if self.act_scale is not None and name not in state:  # a float layer's: its activations were never measured
            state = {**state, name: torch.zeros_like(self.act_scale)}
        super()._load_from_state_dict(state, prefix, metadata, strict, missing, unexpected, errors)

    def take(self, scale: Tensor | None) -> None:
        """Whether a layer beside it, with this static scale, quantises for both from here on; None: it does so itself."""
        if scale is not None and self.act == "static":
            self.act, self.act_scale = "given", None
        elif scale is None and self.act == "given":
            self.act, self.act_scale = "static", torch.zeros((), device=self.weight.device)
        self.refresh()

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

    def __init__(
        self,
        *args,
        rule: str = "absmean",
        act: str = "static",
        granularity: str = "channel",
        backend: str = "auto",
        **keywords,
    ):
        super().__init__(*args, **keywords)
        self._set_up(rule, act, granularity, backend)

    @classmethod
    def of(cls, conv: nn.Conv2d, **options: str) -> BitConv2d:
        """A layer in place of `conv`, with the same parameters (not copies). options: rule, act, granularity, backend."""
        return _taken_over(cls, conv, options)

    def unquantised(self) -> nn.Conv2d:
        """The float layer with the same parameters (not copies). UserError for a folded one, whose weights lack a factor."""
        if self.out_scale is not None:
            raise UserError(
                "A folded ternary layer has no weights to go back to. Take the model from before fuse() or freeze()."
            )
        with torch.device("meta"):
            new = nn.Conv2d(
                self.in_channels,
                self.out_channels,
                self.kernel_size,
                self.stride,
                self.padding,
                self.dilation,
                self.groups,
                self.bias is not None,
                self.padding_mode,
            )
        new.weight, new.bias = self.weight, self.bias
        return new.train(self.training)

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
        out.weight, out.act_scale = (
            nn.Parameter(self.weight.clone()),
            None if self.act_scale is None else self.act_scale.clone(),
        )
        out.bias = nn.Parameter(((bias - bn.running_mean.to(wide)) * factor + bn.bias.to(wide)).to(self.weight.dtype))
        out.out_scale = (factor if self.out_scale is None else factor * self.out_scale.to(wide)).to(self.weight.dtype)
        out.observing = self.observing
        return out.requires_grad_(False).train(self.training)


class BitLinear(_Bit, nn.Linear):
    """nn.Linear with quantised weights and activations: (..., n_in) -> (..., n_out); options as of BitConv2d.

    A dynamic scale is for one row of x, as in BitNet.
    """

    dims = (-1,)

    def __init__(
        self,
        *args,
        rule: str = "absmean",
        act: str = "static",
        granularity: str = "channel",
        backend: str = "auto",
        **keywords,
    ):
        super().__init__(*args, **keywords)
        self._set_up(rule, act, granularity, backend)

    @classmethod
    def of(cls, linear: nn.Linear, **options: str) -> BitLinear:
        """A layer in place of `linear`, with the same parameters (not copies)."""
        return _taken_over(cls, linear, options)

    def unquantised(self) -> nn.Linear:
        """The float layer with the same parameters (not copies)."""
        with torch.device("meta"):
            new = nn.Linear(self.in_features, self.out_features, self.bias is not None)
        new.weight, new.bias = self.weight, self.bias
        return new.train(self.training)

    def _geometry(self) -> Geometry:
        return Geometry()

    def _compute(self, x: Tensor, weight: Tensor) -> Tensor:
        return F.linear(x, weight, self.bias)

    def _convolve(self, ready: Convolution, codes: Tensor) -> Tensor:
        return by_rows(ready, codes)


def _taken_over(cls: type[_Bit], old: nn.Module, options: dict[str, str]) -> _Bit:
    new = like(old, cls)
    new._set_up(**options)
    new.act_scale = None if new.act_scale is None else torch.zeros((), device=old.weight.device)
    return new
