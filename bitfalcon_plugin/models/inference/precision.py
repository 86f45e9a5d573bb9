"""The type in which a model computes: float32, float16 or bfloat16."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import lru_cache

import torch
from torch import nn

from ...config.notes import print_note
from ...config.settings import Settings
from ..detector import Detector
from .fused_conv import FusedConv2d, operator_works, trial_convolution

GAIN = 1.15  # how much faster 16 bits must be on a CPU to be chosen
PRECISIONS = {True: torch.float16, "fp16": torch.float16, "bf16": torch.bfloat16, False: None, "fp32": None}


def training_precision(
    settings: Settings,
    device: torch.device,
    note: Callable[[str], None] = print_note,
    gain: Callable[[], float] = lambda: 1.0,
) -> torch.dtype | None:
    """Return the type of autocast in training for amp=, None for float32. `note` gets a line where they differ.

    gain: measures how much faster a training step is in bfloat16 on this CPU; called where a convolution gains.
    """
    dtype = PRECISIONS[settings.amp]
    if device.type == "cuda":
        if dtype is None or _is_supported(dtype, device):
            return dtype
        note("amp=bf16: this GPU has no bfloat16 arithmetic; using fp16.")
        return torch.float16
    if settings.amp == "bf16":  # named, so used: a CPU with the instructions gains, any CPU can
        return dtype
    if settings.amp is True and device.type == "cpu" and half_type(device)[0] is not None:
        measured = gain()
        if measured >= GAIN:
            note(
                f"training computes in bfloat16: a step is {measured:.1f} times as fast as in float32 on this CPU. "
                "amp=False trains in float32."
            )
            return torch.bfloat16
    if dtype is not None and "amp" in settings.given:
        reason = "needs a GPU" if settings.amp == "fp16" else "gains nothing here"
        note(f"amp={settings.amp} {reason}; training in float32 on {device.type}.")
    return None


def evaluation_precision(settings: Settings, device: torch.device, model: Detector | None = None) -> torch.dtype | None:
    """Return the type that autocast computes in while measuring; None for float32. A note says what differs.

    amp= names the type where it is a word, half=True alone means the device's own. Weights that have 16 bits already
    (see prepare_for_inference) need no autocast on a CPU.
    """
    dtype, is_named = None, isinstance(settings.amp, str) and "amp" in settings.given
    if is_named:
        dtype = PRECISIONS[settings.amp]
    elif settings.half:
        dtype = half_type(device)[0] or torch.float16
    is_16_bit_cpu = device.type == "cpu" and dtype is torch.bfloat16 and model is not None
    if is_16_bit_cpu and next(model.parameters()).dtype is dtype:
        return None
    if dtype is None or _is_supported(dtype, device):
        return dtype
    hint = "amp=bf16 measures in bfloat16" if device.type == "cpu" else ""
    if is_named:
        reason = f"amp={settings.amp}: {device.type} does not compute well in this type; measuring in float32"
        print_note(f"{reason}{f' ({hint})' if hint else ''}.")
    else:
        print_note(f"half=True: {half_type(device)[1]}{f' (float32; {hint})' if hint else ''}.")
    return None


def _is_supported(dtype: torch.dtype, device: torch.device) -> bool:
    if device.type == "cuda":
        return dtype is torch.float16 or torch.cuda.is_bf16_supported()
    return device.type == "cpu" and dtype is torch.bfloat16


def has_codes(model: nn.Module) -> bool:
    """Return whether a model has layers of few bits, whose scales must keep their digits."""
    return any(hasattr(module, "quantise") for module in model.modules())


@lru_cache(8)
def half_type(device: torch.device) -> tuple[torch.dtype | None, str]:
    """Return the 16-bit type that half=True means on a device, and why; None where 32 bits are quicker.

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
        f"a convolution in bfloat16 is {ratio:.2g} times as fast as in float32 on this CPU, which has no good "
        "instructions for it; this device goes on in 32 bits"
    )


def why_not_half(model: nn.Module) -> str:
    """Return why a model computes in 32 bits although half=True; "" where it has 16 bits."""
    weight = next(model.parameters())
    if weight.is_cuda or weight.dtype.itemsize == 2:
        return ""
    if has_codes(model):
        return "layers of codes keep their scales in float32; this model goes on in 32 bits"
    return half_type(weight.device)[1]


def _bfloat16_gain(rounds: int = 20) -> float:
    """Return the time of a usual convolution in float32 over that in bfloat16. Takes three hundredths of a second.

    Of each type the shortest time counts, because other programs can only lengthen a convolution.
    """
    times: list[list[float]] = [[], []]
    with torch.inference_mode(), torch.autocast("cpu", enabled=False):
        trials = (trial_convolution(64, 64, 40, dtype) for dtype in (torch.float32, torch.bfloat16))
        layers = [(FusedConv2d.of(conv, nn.SiLU()), images) for conv, images in trials]
        for _ in range(rounds + 2):  # in turn; the first two rounds lay the weights out
            for (layer, images), seconds in zip(layers, times, strict=True):
                start = time.perf_counter()
                layer(images)
                seconds.append(time.perf_counter() - start)
    full, half = (min(seconds[2:]) for seconds in times)
    return full / half
