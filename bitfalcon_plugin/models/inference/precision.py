"""The type in which a model computes: float32, float16 or bfloat16."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from functools import lru_cache

import torch
from torch import nn

from ...config.notes import note
from ...config.settings import Settings
from ..detector import Detector
from .fused_conv import Packed, _trial, operator_works


def evaluation_precision(settings: Settings, device: torch.device, model: Detector | None = None) -> torch.dtype | None:
    """What autocast computes in: amp names the kind where it is a word, half alone means the device's own; None for float32.

    Weights that are of 16 bits already (see quick.prepared) need none on a CPU.
    """
    named = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": None}
    by_name = isinstance(settings.amp, str) and "amp" in settings.given
    if by_name:
        wanted = named[settings.amp]
    else:
        wanted = (half_type(device)[0] or torch.float16) if settings.half else None
    if (
        device.type == "cpu"
        and wanted is torch.bfloat16
        and model is not None
        and next(model.parameters()).dtype is wanted
    ):
        return None
    if wanted is None or device.type == "cuda" and (wanted is torch.float16 or torch.cuda.is_bf16_supported()):
        return wanted
    if (
        device.type == "cpu" and wanted is torch.bfloat16
    ):  # asked for by name: a CPU with the instructions gains, any CPU can
        return wanted
    if by_name:
        note(
            f"note: amp={settings.amp}: {device.type} does not compute well in this type; measuring in float32"
            + (" (amp=bf16 measures in bfloat16)." if device.type == "cpu" else ".")
        )
    else:
        note(
            f"note: half=True: {half_type(device)[1]}"
            + (" (float32; amp=bf16 measures in bfloat16)." if device.type == "cpu" else ".")
        )
    return None


GAIN = 1.15  # how much faster 16 bits must be on a CPU to be chosen


def _has_codes(model: nn.Module) -> bool:
    # Layers of few bits have scales that must keep their digits.
    return any(hasattr(module, "quantise") for module in model.modules())


@lru_cache(8)
def half_type(device: torch.device) -> tuple[torch.dtype | None, str]:
    """The 16-bit type that half=True means on a device, and why; None where 32 bits are quicker.

    CUDA: float16. A CPU: bfloat16 where a convolution, tried once, is faster in it.
    """
    if device.type == "cuda":
        return torch.float16, "float16"
    if device.type != "cpu":
        return None, f"{device.type} gains nothing by it; this device goes on in 32 bits"
    if not operator_works(torch.float32) or not operator_works(torch.bfloat16):
        return None, "this CPU has no instructions for it; this device goes on in 32 bits"
    ratio = _bfloat16_gain()
    if ratio >= GAIN:
        return torch.bfloat16, f"bfloat16, in which a convolution is {ratio:.1f} times as fast here"
    return None, (
        f"a convolution in bfloat16 is {ratio:.2g} times as fast as in float32 on this CPU, which has no good instructions for it; "
        "this device goes on in 32 bits"
    )


def why_not_half(model: nn.Module) -> str:
    """Why a model that was asked to take 16 bits does not, for a note; "" where it does."""
    weight = next(model.parameters())
    if weight.is_cuda or weight.dtype.itemsize == 2:
        return ""
    return (
        half_type(weight.device)[1]
        if not _has_codes(model)
        else "layers of codes keep their scales in float32; this model goes on in 32 bits"
    )


def _bfloat16_gain(rounds: int = 5) -> float:
    """Time of a usual convolution in float32 over that in bfloat16, rounds taken in turn; a hundredth of a second."""
    spent: list[list[float]] = [[], []]
    with torch.inference_mode(), torch.autocast("cpu", enabled=False):
        tried = (_trial(64, 64, 40, dtype) for dtype in (torch.float32, torch.bfloat16))
        runs = [(Packed.of(conv, nn.SiLU()), images) for conv, images in tried]
        for _ in range(rounds + 2):  # two to lay the weights out
            for (layer, pixels), times in zip(runs, spent, strict=True):
                start = time.perf_counter()
                layer(pixels)
                times.append(time.perf_counter() - start)
    whole, half = (statistics.median(times[2:]) for times in spent)
    return whole / half


PRECISIONS = {True: torch.float16, "fp16": torch.float16, "bf16": torch.bfloat16, False: None, "fp32": None}


def precision_of(settings: Settings, device: torch.device, say: Callable[[str], None]) -> torch.dtype | None:
    """The type autocast computes in, None for float32; says so where it is not what was asked for."""
    wanted = PRECISIONS[settings.amp]
    if device.type == "cuda":
        if wanted is torch.bfloat16 and not torch.cuda.is_bf16_supported():
            say("note: amp=bf16: this GPU has no bfloat16 arithmetic; using fp16.")
            return torch.float16
        return wanted
    if settings.amp == "bf16":  # asked for by name: a CPU with the instructions gains, any CPU can
        return wanted
    if wanted is not None and "amp" in settings.given:
        say(f"note: amp={settings.amp} needs a GPU; training in float32 on {device.type}.")
    return None
