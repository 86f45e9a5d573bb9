"""Layers with ternary weights and int8 activations, in place of a convolution or a linear layer.

BitNet b1.58 (Ma et al. 2024, arXiv:2402.17764): weights become -1, 0 or 1 times a scale, here one for each output
channel; activations become whole numbers from -127 to 127 times a scale. The threshold of ternary weight networks (Li
and Liu 2016, arXiv:1605.04711) is an option, and so are int8 weights for depthwise layers, which have few weights.
Training sees the quantised numbers and passes gradients straight through (Bengio et al. 2013, arXiv:1308.3432); the
float weights stay what is trained and saved.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...config.errors import UserError, did_you_mean
from .bit_activations import QuantisedLayer, StraightThrough
from .bit_folded import FrozenConv2d, FrozenLinear, by_images, by_rows, kind_of
from .bit_kernels import MAX_CODE, Convolution, Geometry, check_backend, float_codes
from .conv import like

SMALLEST = 1e-8  # scale of weights that are all zero
ACTS = ("static", "dynamic", "none", "given")
GRANULARITIES = ("channel", "tensor")


def absmean(weights: Tensor) -> tuple[Tensor, Tensor]:
    """Quantise weights (N, n) to codes -1, 0, 1 and scales (N, 1), the mean absolute value; the threshold is half."""
    scale = weights.abs().mean(1, keepdim=True).clamp_min(SMALLEST)
    return (weights / scale).round_().clamp_(-1, 1), scale


def twn(weights: Tensor) -> tuple[Tensor, Tensor]:
    """Quantise weights (N, n) to codes -1, 0, 1 and scales (N, 1); the threshold is 0.7 times the mean absolute value.

    The scale is the mean absolute value of the weights above the threshold (least squares).
    """
    magnitudes = weights.abs()
    above = magnitudes > 0.7 * magnitudes.mean(1, keepdim=True)
    scale = (magnitudes * above).sum(1, keepdim=True) / above.sum(1, keepdim=True).clamp_min(1)
    return weights.sign() * above, scale.clamp_min(SMALLEST)


def absmax(weights: Tensor) -> tuple[Tensor, Tensor]:
    """Quantise weights (N, n) to codes -127 to 127 and scales (N, 1); the largest absolute value has the code 127."""
    scale = (weights.abs().amax(1, keepdim=True) / MAX_CODE).clamp_min(SMALLEST)
    return float_codes(weights, scale), scale


RULES: dict[str, Callable[[Tensor], tuple[Tensor, Tensor]]] = {"absmean": absmean, "twn": twn, "int8": absmax}


class BitLayer(QuantisedLayer):
    """The base of the ternary convolution and the ternary linear layer; options as of BitConv2d."""

    def __init__(self, *args, rule="absmean", act="static", granularity="channel", backend="auto", **keywords):
        super().__init__(*args, **keywords)
        self._set_options(rule, act, granularity, backend)

    def _set_options(
        self, rule: str = "absmean", act: str = "static", granularity: str = "channel", backend: str = "auto"
    ) -> None:
        options = (("rule", rule, RULES), ("act", act, ACTS), ("granularity", granularity, GRANULARITIES))
        for name, value, choices in options:
            if value not in choices:
                hint = did_you_mean(str(value), choices)
                raise UserError(f"{name}={value!r} is none of {', '.join(choices)}.{hint}")
        self.rule, self.granularity = rule, granularity
        self.register_buffer("act_scale", torch.zeros(()) if act == "static" else None)
        self.register_buffer("out_scale", None)
        self._start(act, check_backend(backend))

    @classmethod
    def of(cls, layer: nn.Module, **options: str) -> BitLayer:
        """Return a layer in place of a float layer, with the same parameters (not copies).

        options: rule, act, granularity, backend.
        """
        new = like(layer, cls)
        new._set_options(**options)
        new.act_scale = None if new.act_scale is None else torch.zeros((), device=layer.weight.device)
        return new

    def unquantised(self) -> nn.Module:
        """Return the float layer with the same parameters (not copies).

        UserError for a folded layer: its weights lack the factor of the batch norm.
        """
        if self.out_scale is not None:
            raise UserError(
                "A folded ternary layer has no weights to go back to. Take the model from before fuse() or freeze()."
            )
        with torch.device("meta"):
            new = self._float_layer()
        new.weight, new.bias = self.weight, self.bias
        return new.train(self.training)

    def _float_layer(self) -> nn.Module:
        """Return a float layer of the same shape."""
        raise NotImplementedError

    # Weights

    @torch.no_grad()
    def codes_and_scales(self) -> tuple[Tensor, Tensor]:
        """Return the codes of the weights (int8, the weights' shape) and the scale of each output channel (O,)."""
        codes, scale = self._rounded(self.weight)
        return codes.to(torch.int8), scale.flatten() if self.out_scale is None else scale.flatten() * self.out_scale

    def _rounded(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Return codes of the weights as floats, and the scale (O, 1, ...) of each output channel, at least float32."""
        wide = weight.detach().to(torch.promote_types(weight.dtype, torch.float32))
        codes, scale = RULES[self.rule](wide.reshape(1 if self.granularity == "tensor" else len(weight), -1))
        return codes.view_as(weight), scale.expand(len(weight), 1).reshape(-1, *[1] * (weight.ndim - 1))

    def _replace_weight(self, weight: Tensor) -> tuple[Tensor, None]:
        codes, scale = self._rounded(weight)
        # In the weights' memory format, so that their gradients have it too.
        return torch.empty_like(weight).copy_(codes * scale), None

    def _sources(self) -> tuple[Tensor | None, ...]:
        return self.weight, self.out_scale, self.bias

    @property
    def kind(self) -> str:
        """The kind of weights, one of bit_kernels.KINDS."""
        return kind_of(self.rule, self.weight.shape, getattr(self, "groups", 1))

    def _float_weight(self) -> Tensor:  # gradients go straight to the float weights
        weight = StraightThrough.apply(self.weight, self._replace_weight)
        return weight if self.out_scale is None else weight * self.out_scale.view(-1, *[1] * (weight.ndim - 1))

    @torch.no_grad()
    def freeze(self, bn: nn.Module | None = None, act: nn.Module | None = None) -> tuple[nn.Module, nn.Module | None]:
        """Return the layer that infers `act(bn(self(x)))`, and the activation that it does not apply itself.

        bn: folded where it is an nn.BatchNorm2d. SiLU becomes part of the layer; nn.Identity is then left. A layer that
        does not pad with a number of zeros stays a BitConv2d.
        """
        layer = self.folded(bn) if isinstance(bn, nn.BatchNorm2d) else self.requires_grad_(False)
        if layer._geometry() is None:
            return layer, act
        codes, scale = layer.codes_and_scales()
        bias = torch.zeros_like(scale) if layer.bias is None else layer.bias.detach().clone()
        kind = FrozenLinear if isinstance(self, BitLinear) else FrozenConv2d
        dtype, act_scale = layer.weight.dtype, None if layer.act_scale is None else layer.act_scale.clone()
        options = {"rule": self.rule, "act": self.act, "backend": self.backend, "silu": isinstance(act, nn.SiLU)}
        frozen = kind(codes, scale.to(dtype), bias.to(dtype), layer._geometry(), act_scale=act_scale, **options)
        return frozen.train(self.training), nn.Identity() if frozen.silu else act

    def _load_from_state_dict(self, state, prefix, metadata, strict, missing, unexpected, errors) -> None:
        self.refresh()
        name = prefix + "act_scale"
        if self.act_scale is not None and name not in state:  # the state of a float layer: no activation was measured
            state = {**state, name: torch.zeros_like(self.act_scale)}
        super()._load_from_state_dict(state, prefix, metadata, strict, missing, unexpected, errors)

    def take_scale(self, scale: Tensor | None) -> None:
        """Let another layer with this static scale quantise the input; None: this layer quantises its input itself."""
        if scale is not None and self.act == "static":
            self.act, self.act_scale = "given", None
        elif scale is None and self.act == "given":
            self.act, self.act_scale = "static", torch.zeros((), device=self.weight.device)
        self.refresh()

    def _options(self) -> dict[str, str]:
        return {"rule": self.rule, "act": self.act, "granularity": self.granularity, "backend": self.backend}

    def extra_repr(self) -> str:
        return ", ".join([super().extra_repr(), *(f"{key}={value}" for key, value in self._options().items())])


class BitConv2d(BitLayer, nn.Conv2d):
    """nn.Conv2d with quantised weights and activations: (B, c_in, H, W) -> (B, c_out, H', W').

    rule: absmean or twn (ternary weights), int8. act: static (one scale, a moving average of the largest values of
    training batches, in the buffer act_scale; fixed while `observing` is False), dynamic (a scale for each image), none
    (float activations), given (another layer quantised the input). granularity of the weight scales: channel, or tensor
    as in BitNet. backend: one of bit_kernels.BACKENDS, for inference. Other arguments and the names of tensors are
    those of nn.Conv2d. A state without act_scale loads too, strictly: the scale is then unset, and activations stay
    float until it is set. UserError for an option that does not exist.
    """

    dims = (-3, -2, -1)

    def _float_layer(self) -> nn.Conv2d:
        sizes = self.kernel_size, self.stride, self.padding, self.dilation, self.groups
        return nn.Conv2d(self.in_channels, self.out_channels, *sizes, self.bias is not None, self.padding_mode)

    def _geometry(self) -> Geometry | None:
        pads_zeros = self.padding_mode == "zeros" and not isinstance(self.padding, str)
        return Geometry(self.stride, self.padding, self.dilation, self.groups) if pads_zeros else None

    def _compute(self, x: Tensor, weight: Tensor) -> Tensor:
        return self._conv_forward(x, weight, self.bias)

    def _convolve(self, convolution: Convolution, codes: Tensor) -> Tensor:
        return by_images(convolution, codes)

    @torch.no_grad()
    def folded(self, bn: nn.BatchNorm2d) -> BitConv2d:
        """Return a layer that equals `bn(self(x))` in eval mode, with the very same codes; it asks for no gradient.

        The factor of the batch norm becomes the buffer out_scale: rounding of scaled weights could flip a code.
        """
        wide = torch.float32 if self.weight.device.type == "mps" else torch.float64  # mps has no float64
        factor = bn.weight.to(wide) * (bn.running_var.to(wide) + bn.eps).rsqrt()
        bias = torch.zeros_like(factor) if self.bias is None else self.bias.to(wide)
        bias = (bias - bn.running_mean.to(wide)) * factor + bn.bias.to(wide)
        out_scale = factor if self.out_scale is None else factor * self.out_scale.to(wide)
        new = BitConv2d.of(self, **self._options())
        new.weight = nn.Parameter(self.weight.clone())
        new.bias = nn.Parameter(bias.to(self.weight.dtype))
        new.act_scale = None if self.act_scale is None else self.act_scale.clone()
        new.out_scale = out_scale.to(self.weight.dtype)
        new.observing = self.observing
        return new.requires_grad_(False).train(self.training)


class BitLinear(BitLayer, nn.Linear):
    """nn.Linear with quantised weights and activations: (..., n_in) -> (..., n_out); options as of BitConv2d.

    A dynamic scale is for one vector of n_in values, as in BitNet.
    """

    dims = (-1,)

    def _float_layer(self) -> nn.Linear:
        return nn.Linear(self.in_features, self.out_features, self.bias is not None)

    def _geometry(self) -> Geometry:
        return Geometry()

    def _compute(self, x: Tensor, weight: Tensor) -> Tensor:
        return F.linear(x, weight, self.bias)

    def _convolve(self, convolution: Convolution, codes: Tensor) -> Tensor:
        return by_rows(convolution, codes)
