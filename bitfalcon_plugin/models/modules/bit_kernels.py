"""Convolution of int8 activations with int8 weights, by whatever this machine computes it with.

Two backends with one interface: `onednn`, the integer convolution of torch on x86 (the operators that torch's own compiler
lowers to; activations as uint8 with zero point 128), and `float`, the same whole numbers in floating point. Both are exact:
sums of products of whole numbers that fit into what they are added up in. `onednn` is chosen only where it gives the right
sums for the kind of weights in question: without VNNI instructions its 16-bit partial sums overflow for full int8 weights
of dense layers, while ternary ones (255 * 2 at most) cannot.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F

from ...config.errors import UserError, did_you_mean

BACKENDS = ("auto", "onednn", "float")
TOP = 127  # codes of activations are -127 to 127: symmetric, so that zero padding is code 0
ZERO = 128  # code 0 as uint8
ROUNDER = (
    1.5 * 2**23
)  # a float32 sum with this is a whole number, the nearest, and its lowest byte is that of the addend
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


def codes_of(x: Tensor, scale: Tensor | float) -> Tensor:
    """Whole numbers -127 to 127, in x's own type: x / scale, rounded to even and clipped. scale: for all, or for each image."""
    return steps_of(x, scale).clamp_(-TOP, TOP)


def steps_of(x: Tensor, scale: Tensor | float) -> Tensor:
    """The same before it is clipped.

    With one scale, float32 on a CPU is rounded by adding a large number (ROUNDER), as `bytes_of` does: both find the same codes
    where x / scale is a half, give or take what a division or a product rounds away.
    """
    one = not isinstance(scale, Tensor) or scale.ndim == 0
    if (
        not one
        or x.dtype != torch.float32
        or x.device.type != "cpu"
        or torch.compiler.is_compiling()
        or torch.jit.is_tracing()
    ):
        return (x / scale).round_()
    return torch.add(_rounder(0), x, alpha=inverse_and_limit(scale)[0]).sub_(ROUNDER)


def inverse_and_limit(scale: Tensor | float) -> tuple[float, float]:
    """What one scale becomes for `bytes_of`: 1 / scale, as float32 rounds it, and the largest activation that it can express."""
    return float(1 / torch.as_tensor(scale, dtype=torch.float32)), TOP * float(scale)


def bytes_of(x: Tensor, inverse: float, limit: float) -> Tensor:
    """Codes of a float32 activation as uint8 1 to 255, images channels last. inverse, limit: of `inverse_and_limit`.

    Three operations; a buffer that is used again spares most of the time (page faults).
    """
    buffer = _buffer(x)
    torch.clamp(x, -limit, limit, out=buffer)
    torch.add(_rounder(ZERO), buffer, alpha=inverse, out=buffer)
    return buffer.view(torch.int32).to(torch.int8).view(torch.uint8)  # to int8, the lowest byte, is the fastest way


@lru_cache(maxsize=2)
def _rounder(zero: int) -> Tensor:
    with torch.inference_mode(False), torch.device("cpu"):
        return torch.tensor(ROUNDER + zero)


def _buffer(x: Tensor) -> Tensor:
    # This thread's, as large as any activation so far.
    flat = getattr(_buffers, "flat", None)
    if flat is None or flat.numel() < x.numel():
        with torch.inference_mode(False):  # one of inference could not be written to outside it
            flat = _buffers.flat = torch.empty(x.numel(), dtype=torch.float32)
    flat = flat[: x.numel()]
    if x.ndim != 4:
        return flat.view(x.shape)
    batch, channels, height, width = x.shape
    return flat.view(batch, height, width, channels).permute(0, 3, 1, 2)


def as_bytes(codes: Tensor) -> Tensor:
    """Float codes -127 to 127 -> uint8 1 to 255 (through int8 and its sign bit: several times faster than straight)."""
    return codes if codes.dtype == torch.uint8 else codes.to(torch.int8).view(torch.uint8).bitwise_xor_(ZERO)


def as_floats(codes: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """uint8 1 to 255 -> float codes -127 to 127."""
    return codes.to(dtype) - ZERO if codes.dtype == torch.uint8 else codes


class Floats:
    """A convolution of codes in floating point. weights (int8, O x I/groups x kh x kw); factor (O): of each channel's sums.

    silu: SiLU of the result. step: give codes of this scale instead of floats.
    """

    name = "float"

    def __init__(
        self,
        weights: Tensor,
        factor: Tensor,
        bias: Tensor | None,
        geometry: Geometry,
        silu: bool = False,
        step: float | None = None,
    ):
        self.weights, self.factor, self.geometry = weights.to(factor.dtype), factor.view(-1, 1, 1), geometry
        self.bias = None if bias is None else bias.view(-1, 1, 1)
        self.silu, self.step = silu, step

    @staticmethod
    def quantise(x: Tensor, scale: Tensor) -> Tensor:
        """Codes of an activation as this backend likes them best; both take those of the other."""
        return codes_of(x, scale)

    def __call__(self, codes: Tensor) -> Tensor:
        """codes (B, I, H, W) as whole-numbered floats or bytes -> (B, O, H', W'), of the type of the factors, or codes."""
        g, codes = self.geometry, as_floats(codes, self.weights.dtype)
        sums = F.conv2d(codes, self.weights, None, g.stride, g.padding, g.dilation, g.groups)
        y = sums * self.factor if self.bias is None else torch.addcmul(self.bias, sums, self.factor)
        y = F.silu(y) if self.silu else y
        return y if self.step is None else codes_of(y, self.step)


class OneDnn:
    """The same in integers, on a CPU. The packed weights cannot be copied or pickled: keep this out of what is saved.

    Codes that it gives reach down to -128; the others end at -127.
    """

    name = "onednn"

    def __init__(
        self,
        weights: Tensor,
        factor: Tensor,
        bias: Tensor | None,
        geometry: Geometry,
        silu: bool = False,
        step: float | None = None,
    ):
        g, ops = geometry, torch.ops.onednn
        self.run, self.step = _operator(), step
        self.then = (1.0, 0, torch.float32) if step is None else (step, ZERO, torch.uint8)  # scale, zero point, type
        self.post = "swish" if silu else "none"
        self.factor, self.zeros = factor.contiguous(), torch.zeros(len(factor), dtype=torch.int32)
        self.bias, self.places = bias, ([*g.stride], [*g.padding], [*g.dilation], g.groups)
        self.weights = ops.qconv_prepack(weights.contiguous(), self.factor, 1.0, ZERO, *self.places, None)

    @staticmethod
    def quantise(x: Tensor, scale: Tensor) -> Tensor:
        """Codes of an activation as bytes, channels last, so that layers which share them do not each convert them."""
        if scale.ndim == 0:
            return bytes_of(x, *inverse_and_limit(scale))
        return as_bytes(torch.div(x, scale, out=_buffer(x)).round_().clamp_(-TOP, TOP))

    def __call__(self, codes: Tensor) -> Tensor:
        """codes (B, I, H, W) as whole-numbered floats or bytes -> (B, O, H', W') float32, or codes as bytes, channels last."""
        codes = as_bytes(codes).contiguous(memory_format=torch.channels_last)
        return self.run(
            codes,
            1.0,
            ZERO,
            self.weights,
            self.factor,
            self.zeros,
            self.bias,
            *self.places,
            *self.then,
            self.post,
            [],
            "",
        )


Convolution = Floats | OneDnn


def choose(backend: str) -> None:
    """What layers whose own backend is `auto` compute with from now on: auto, onednn or float. UserError otherwise."""
    _choice["backend"] = checked(backend)


def chosen() -> str:
    """The backend of layers whose own is `auto`."""
    return _choice["backend"]


def checked(backend: str) -> str:
    """The name of a backend; UserError for anything else, and for onednn where it cannot be had at all."""
    if backend not in BACKENDS:
        raise UserError(f"backend={backend!r} is none of {', '.join(BACKENDS)}.{did_you_mean(str(backend), BACKENDS)}")
    if backend == "onednn" and all(refusal(kind) for kind in KINDS):
        raise UserError(f"backend='onednn' cannot be used here: {refusal('ternary')}. Use auto or float.")
    return backend


def pick(backend: str, kind: str, device: torch.device, dtype: torch.dtype) -> type[Convolution]:
    """The class that computes a layer with weights of `kind` (of KINDS): OneDnn for float32 on a CPU that passes."""
    wanted = chosen() if backend == "auto" else backend
    integers = wanted != "float" and device.type == "cpu" and dtype == torch.float32 and not refusal(kind)
    return OneDnn if integers else Floats


def describe() -> str:
    """One line for reports: what computes which kind of weights, and why not in integers where it is not so."""
    groups: dict[str, list[str]] = {}
    for kind in KINDS:
        reason = "asked for" if chosen() == "float" else refusal(kind)
        groups.setdefault(f"float ({reason})" if reason else "onednn", []).append(kind)
    return f"torch {torch.__version__}, " + "; ".join(
        f"{backend}: {', '.join(kinds)}" for backend, kinds in groups.items()
    )


def _operator() -> Callable[..., Tensor]:
    # Renamed once; both names take the same arguments. The default overload, looked up once.
    ops = torch.ops.onednn
    return (ops.qconv_pointwise if hasattr(ops, "qconv_pointwise") else ops.qconv2d_pointwise).default


@cache
def refusal(kind: str) -> str:
    """Why oneDNN does not compute weights of `kind` here; empty where a comparison with sums in float64 came out equal."""
    if not torch.backends.mkldnn.is_available():
        return "this torch has no oneDNN"
    try:
        wrong = [geometry for geometry in _geometries(KINDS[kind][1]) if not _agrees(*KINDS[kind], geometry)]
    except (
        AttributeError,
        RuntimeError,
        NotImplementedError,
        TypeError,
    ) as error:  # operators outside torch's public interface
        return f"its integer convolution cannot be called: {str(error).partition(chr(10))[0] or type(error).__name__}"
    return "its sums overflow on this CPU" if wrong else ""


def _geometries(depthwise: bool) -> list[tuple[int, Geometry]]:
    groups = 32 if depthwise else 1
    return [
        (3, Geometry((1, 1), (1, 1), (1, 1), groups)),
        (3, Geometry((2, 2), (1, 1), (1, 1), groups)),
        (1, Geometry(groups=groups)),
        (5, Geometry((1, 1), (2, 2), (1, 1), groups)),
    ]


def _agrees(top: int, depthwise: bool, case: tuple[int, Geometry]) -> bool:
    # The largest sums there can be, of both signs, and a mixture; fixed numbers, nothing drawn from a generator.
    side, geometry = case
    with torch.inference_mode(False), torch.no_grad(), torch.device("cpu"):
        steps = torch.arange(32 * (1 if depthwise else 32) * side * side).view(32, -1, side, side)
        mixed = (steps * 7919 % (2 * top + 1) - top).to(torch.int8)
        full = torch.where(torch.arange(32) % 2 == 0, top, -top).view(-1, 1, 1, 1).expand_as(mixed).to(torch.int8)
        ramp = (torch.arange(2 * 32 * 9 * 7).view(2, 32, 9, 7) * 104729 % 255 - 127).float()
        factor = torch.where(torch.arange(32) % 3 == 0, -0.5, 2.0)  # powers of two: no rounding in float32
        g = geometry
        for weights in (mixed, full):
            for codes in (ramp, torch.full_like(ramp, TOP)):
                found = OneDnn(weights, factor, None, geometry)(codes)
                sums = F.conv2d(codes.double(), weights.double(), None, g.stride, g.padding, g.dilation, g.groups)
                if not torch.equal(found.double(), (sums.float() * factor.view(-1, 1, 1)).double()):
                    return False
    return True
