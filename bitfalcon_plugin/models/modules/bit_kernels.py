"""Convolution of int8 activations with int8 weights, by the best means of this machine.

Two backends have one interface: `onednn`, the integer convolution of torch on x86 (the operators that torch's own
compiler emits; activations as uint8 with zero point 128), and `float`, the same whole numbers in floating point. Both
are exact: no sum of products exceeds the type that it is added up in. `onednn` is used only for kinds of weights whose
sums come out right on this machine: without VNNI instructions its 16-bit partial sums overflow for full int8 weights of
dense layers, while sums of ternary weights (255 * 2 at most) cannot overflow.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from ...config.errors import UserError, did_you_mean

BACKENDS = ("auto", "onednn", "float")
MAX_CODE = 127  # codes of activations are -127 to 127: symmetric, so that zero padding is code 0
ZERO_POINT = 128  # code 0 as uint8
# A float32 sum with this number is the nearest whole number; its lowest byte is that of the addend.
ROUNDER = 1.5 * 2**23
MAX_FLOAT = torch.finfo(torch.float32).max
KINDS = {  # kind of weights: largest code, whether depthwise
    "ternary": (1, False),
    "ternary depthwise": (1, True),
    "int8": (127, False),
    "int8 depthwise": (127, True),
}
_choice = {"backend": "auto"}
_buffers = threading.local()


@dataclass(frozen=True)
class Geometry:
    """Stride, padding and dilation (vertical, horizontal) and groups of a convolution that pads with zeros."""

    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1


def float_codes(x: Tensor, scale: Tensor | float) -> Tensor:
    """Return codes of activations in x's own type: x / scale, rounded to even, clipped to -127 to 127.

    scale: one for all of x, or one for each image or row, of a shape that broadcasts to x.
    """
    return unclipped_codes(x, scale).clamp_(-MAX_CODE, MAX_CODE)


def unclipped_codes(x: Tensor, scale: Tensor | float) -> Tensor:
    """Return `float_codes` before they are clipped.

    With one scale, float32 on a CPU is rounded by adding a large number (ROUNDER), as in `byte_codes`: both give the
    same codes where x / scale is a half.
    """
    single = not isinstance(scale, Tensor) or scale.ndim == 0
    recorded = torch.compiler.is_compiling() or torch.jit.is_tracing()
    if single and x.is_cpu and x.dtype == torch.float32 and not recorded:
        return torch.add(_rounder(0), x, alpha=_inverse(float(scale))).sub_(ROUNDER)
    return (x / scale).round_()


def byte_codes(x: Tensor, scale: float) -> Tensor:
    """Return codes of a float32 activation as uint8 from 1 to 255, images in channels-last order. scale: above 0.

    Three operations; a buffer that is used again spares most of the time (page faults).
    """
    buffer = _buffer(x)
    torch.clamp(x, -MAX_CODE * scale, MAX_CODE * scale, out=buffer)
    torch.add(_rounder(ZERO_POINT), buffer, alpha=_inverse(scale), out=buffer)
    return buffer.view(torch.int32).to(torch.int8).view(torch.uint8)  # to int8, the lowest byte, is the fastest way


def _inverse(scale: float) -> float:
    return min(1 / scale, MAX_FLOAT)


@lru_cache(maxsize=2)
def _rounder(zero_point: int) -> Tensor:
    with torch.inference_mode(False), torch.device("cpu"):
        return torch.tensor(ROUNDER + zero_point)


def _buffer(x: Tensor) -> Tensor:
    """Return memory of this thread in the shape of x; it grows to the largest activation so far."""
    flat = getattr(_buffers, "flat", None)
    if flat is None or flat.numel() < x.numel():
        with torch.inference_mode(False):  # an inference tensor could not be written to outside inference mode
            flat = _buffers.flat = torch.empty(x.numel(), dtype=torch.float32)
    flat = flat[: x.numel()]
    if x.ndim != 4:
        return flat.view(x.shape)
    batch, channels, height, width = x.shape
    return flat.view(batch, height, width, channels).permute(0, 3, 1, 2)


def as_bytes(codes: Tensor) -> Tensor:
    """Convert float codes -127 to 127 to uint8 1 to 255."""
    if codes.dtype == torch.uint8:
        return codes
    return codes.to(torch.int8).view(torch.uint8).bitwise_xor_(ZERO_POINT)  # several times faster than .to(torch.uint8)


def as_floats(codes: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Convert uint8 codes 1 to 255 to floats -127 to 127; float codes stay as they are."""
    return codes.to(dtype) - ZERO_POINT if codes.dtype == torch.uint8 else codes


@dataclass(eq=False)
class Convolution:
    """A convolution of codes, prepared for one layer.

    weights: int8 (O, I/groups, kh, kw). factor (O,): what the sums of each channel are multiplied by. silu: apply SiLU.
    output_scale: return codes of this scale instead of floats.
    """

    weights: Tensor
    factor: Tensor
    bias: Tensor | None
    geometry: Geometry
    silu: bool = False
    output_scale: float | None = None

    name: ClassVar[str]  # of the backend

    def __post_init__(self) -> None:
        """Convert the tensors to what the backend takes."""
        raise NotImplementedError

    @staticmethod
    def quantise(x: Tensor, scale: Tensor) -> Tensor:
        """Return codes of an activation in the type that this backend prefers; each backend takes both types."""
        raise NotImplementedError

    def __call__(self, codes: Tensor) -> Tensor:
        """Convolve codes (B, I, H, W), floats or uint8: return (B, O, H', W'), floats or codes."""
        raise NotImplementedError


class Floats(Convolution):
    """The convolution in floating point; its output has the type of `factor`."""

    name = "float"

    def __post_init__(self) -> None:
        self.weights, self.factor = self.weights.to(self.factor.dtype), self.factor.view(-1, 1, 1)
        self.bias = None if self.bias is None else self.bias.view(-1, 1, 1)

    @staticmethod
    def quantise(x: Tensor, scale: Tensor) -> Tensor:
        return float_codes(x, scale)

    def __call__(self, codes: Tensor) -> Tensor:
        g, codes = self.geometry, as_floats(codes, self.weights.dtype)
        sums = F.conv2d(codes, self.weights, None, g.stride, g.padding, g.dilation, g.groups)
        y = sums * self.factor if self.bias is None else torch.addcmul(self.bias, sums, self.factor)
        y = F.silu(y) if self.silu else y
        return y if self.output_scale is None else float_codes(y, self.output_scale)


class OneDnn(Convolution):
    """The convolution in integers, on a CPU: float32 or uint8, channels last.

    Its codes reach down to -128; those of Floats end at -127. Keep it out of what is saved: the packed weights of
    oneDNN can be neither copied nor pickled.
    """

    name = "onednn"

    def __post_init__(self) -> None:
        g, factor = self.geometry, self.factor.contiguous()
        options = [*g.stride], [*g.padding], [*g.dilation], g.groups
        prepack = torch.ops.onednn.qconv_prepack
        self.weights = prepack(self.weights.contiguous(), factor, 1.0, ZERO_POINT, *options, None)
        zero_points = torch.zeros(len(factor), dtype=torch.int32)
        # scale, zero point and type of the output
        output = (1.0, 0, torch.float32) if self.output_scale is None else (self.output_scale, ZERO_POINT, torch.uint8)
        activation = "swish" if self.silu else "none"
        self._operator = _operator()
        self._arguments = self.weights, factor, zero_points, self.bias, *options, *output, activation, [], ""

    @staticmethod
    def quantise(x: Tensor, scale: Tensor) -> Tensor:
        # uint8, channels last, so that layers which share the codes need not convert them each
        if scale.ndim == 0:
            return byte_codes(x, float(scale))
        return as_bytes(torch.div(x, scale, out=_buffer(x)).round_().clamp_(-MAX_CODE, MAX_CODE))

    def __call__(self, codes: Tensor) -> Tensor:
        codes = as_bytes(codes).contiguous(memory_format=torch.channels_last)
        return self._operator(codes, 1.0, ZERO_POINT, *self._arguments)


def set_default_backend(backend: str) -> None:
    """Set the backend of layers whose own is `auto`: auto, onednn or float. UserError for another name."""
    _choice["backend"] = check_backend(backend)


def default_backend() -> str:
    """Return the backend of layers whose own is `auto`."""
    return _choice["backend"]


def check_backend(backend: str) -> str:
    """Return the name of a backend; UserError for an unknown name, and for onednn on a machine without it."""
    if backend not in BACKENDS:
        raise UserError(f"backend={backend!r} is none of {', '.join(BACKENDS)}.{did_you_mean(str(backend), BACKENDS)}")
    if backend == "onednn" and all(refusal(kind) for kind in KINDS):
        raise UserError(f"backend='onednn' cannot be used here: {refusal('ternary')}. Use auto or float.")
    return backend


def backend_for(backend: str, kind: str, device: torch.device, dtype: torch.dtype) -> type[Convolution]:
    """Return the class that computes weights of `kind` (of KINDS): OneDnn only for float32 on a CPU that passes."""
    name = default_backend() if backend == "auto" else backend
    integers = name != "float" and device.type == "cpu" and dtype == torch.float32 and not refusal(kind)
    return OneDnn if integers else Floats


def describe() -> str:
    """Return one line for reports: the backend of each kind of weights, and why it is not onednn."""
    groups: dict[str, list[str]] = {}
    for kind in KINDS:
        reason = "asked for" if default_backend() == "float" else refusal(kind)
        groups.setdefault(f"float ({reason})" if reason else "onednn", []).append(kind)
    backends = "; ".join(f"{backend}: {', '.join(kinds)}" for backend, kinds in groups.items())
    return f"torch {torch.__version__}, {backends}"


def _operator() -> Callable[..., Tensor]:
    # Renamed once; both names take the same arguments. The default overload, looked up once.
    ops = torch.ops.onednn
    return (ops.qconv_pointwise if hasattr(ops, "qconv_pointwise") else ops.qconv2d_pointwise).default


# What calls of operators outside torch's public interface may raise.
OPERATOR_ERRORS = (AttributeError, RuntimeError, NotImplementedError, TypeError)


@cache
def refusal(kind: str) -> str:
    """Return why oneDNN does not compute weights of `kind` here; empty where its sums equal sums in float64."""
    if not torch.backends.mkldnn.is_available():
        return "this torch has no oneDNN"
    largest, depthwise = KINDS[kind]
    try:
        right = all(_agrees(largest, side, geometry) for side, geometry in _trial_geometries(depthwise))
    except OPERATOR_ERRORS as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
        return f"its integer convolution cannot be called: {reason}"
    return "" if right else "its sums overflow on this CPU"


def _trial_geometries(depthwise: bool) -> list[tuple[int, Geometry]]:
    """Return kernel sides and geometries to compare, with 32 channels."""
    groups = 32 if depthwise else 1
    return [
        (3, Geometry((1, 1), (1, 1), (1, 1), groups)),
        (3, Geometry((2, 2), (1, 1), (1, 1), groups)),
        (1, Geometry(groups=groups)),
        (5, Geometry((1, 1), (2, 2), (1, 1), groups)),
    ]


def _agrees(largest: int, side: int, geometry: Geometry) -> bool:
    """Whether OneDnn gives the sums of float64, for mixed weights and for weights that give the largest sums.

    The numbers are fixed; nothing is drawn from a random generator.
    """
    g = geometry
    with torch.inference_mode(False), torch.no_grad(), torch.device("cpu"):
        steps = torch.arange(32 * (32 // g.groups) * side * side).view(32, -1, side, side)
        mixed = (steps * 7919 % (2 * largest + 1) - largest).to(torch.int8)
        signs = torch.where(torch.arange(32) % 2 == 0, largest, -largest).view(-1, 1, 1, 1)
        full = signs.expand_as(mixed).to(torch.int8)
        ramp = (torch.arange(2 * 32 * 9 * 7).view(2, 32, 9, 7) * 104729 % 255 - 127).float()
        factor = torch.where(torch.arange(32) % 3 == 0, -0.5, 2.0)  # powers of two: no rounding in float32
        for weights in (mixed, full):
            for codes in (ramp, torch.full_like(ramp, MAX_CODE)):
                result = OneDnn(weights, factor, None, g)(codes)
                sums = F.conv2d(codes.double(), weights.double(), None, g.stride, g.padding, g.dilation, g.groups)
                if not torch.equal(result.double(), (sums.float() * factor.view(-1, 1, 1)).double()):
                    return False
    return True
