"""Helpers for devices and networks. Written from spec/dropin-helpers.md section 10."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ...config.devices import named_devices
from ...config.errors import UserError
from ...config.version import __version__
from . import LOGGER, PYTHON_VERSION, TORCH_VERSION
from .networks import (
    copy_attr,
    de_parallel,
    fuse_conv_and_bn,
    fuse_deconv_and_bn,
    get_flops,
    get_flops_with_torch_profiler,
    get_num_gradients,
    get_num_params,
    initialize_weights,
    intersect_dicts,
    is_parallel,
    model_info,
    unwrap_model,
)
from .training import (
    EarlyStopping,
    ModelEMA,
    convert_optimizer_state_dict_to_fp16,
    init_seeds,
    one_cycle,
    strip_optimizer,
    unset_deterministic,
)

__all__ = [
    "EarlyStopping",
    "ModelEMA",
    "attempt_compile",
    "autocast",
    "convert_optimizer_state_dict_to_fp16",
    "copy_attr",
    "cuda_memory_usage",
    "de_parallel",
    "fuse_conv_and_bn",
    "fuse_deconv_and_bn",
    "get_cpu_info",
    "get_flops",
    "get_flops_with_torch_profiler",
    "get_gpu_info",
    "get_num_gradients",
    "get_num_params",
    "init_seeds",
    "initialize_weights",
    "intersect_dicts",
    "is_parallel",
    "model_info",
    "one_cycle",
    "profile",
    "profile_ops",
    "scale_img",
    "select_device",
    "smart_inference_mode",
    "strip_optimizer",
    "time_sync",
    "torch_distributed_zero_first",
    "unset_deterministic",
    "unwrap_model",
]

_NUMBERS = tuple(int(part) for part in TORCH_VERSION.split("+")[0].split(".")[:2] if part.isdecimal())
TORCH_1_9 = TORCH_1_10 = TORCH_1_11 = TORCH_1_13 = TORCH_2_0 = TORCH_2_1 = TORCH_2_3 = TORCH_2_4 = True
TORCH_2_8, TORCH_2_9, TORCH_2_10 = (_NUMBERS >= (2, minor) for minor in (8, 9, 10))
TORCHVISION_0_10 = TORCHVISION_0_11 = TORCHVISION_0_13 = TORCHVISION_0_18 = True


class WrongDeviceError(UserError, ValueError):
    """A device that this machine does not have."""


def select_device(device: Any = "", batch: int = 0, newline: bool = False, verbose: bool = True) -> torch.device:
    """Return the first device that a text, a number, a list or a torch.device names; "" and None: the best there is.

    batch: must be a multiple of the number of GPUs. verbose: log versions and the device. Raises ValueError for a
    device that is missing.
    """
    if isinstance(device, torch.device):
        return device
    try:
        devices = named_devices(device)
    except UserError as error:
        raise WrongDeviceError(f"Invalid CUDA 'device={device}' requested. {error}") from None
    if batch > 0 and len(devices) > 1 and batch % len(devices):
        raise WrongDeviceError(f"batch={batch} is no multiple of the {len(devices)} GPUs of device={device}")
    if verbose:
        names = ", ".join(_device_name(item) for item in devices)
        text = f"bitfalcon {__version__}, Python-{PYTHON_VERSION} torch-{TORCH_VERSION} {names}"
        LOGGER.info("%s%s", text, "\n" if newline else "")
    return devices[0]


def _device_name(device: torch.device) -> str:
    if device.type != "cuda":
        return f"{device.type.upper()} ({get_cpu_info()})" if device.type == "cpu" else device.type.upper()
    gpu = torch.cuda.get_device_properties(device)
    return f"CUDA:{device.index or 0} ({gpu.name}, {gpu.total_memory / 2**20:.0f}MiB)"


def get_cpu_info() -> str:
    """Return the name of the processor."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(errors="ignore").splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else "unknown"


def get_gpu_info(index: int) -> str:
    """Return the name and the memory of a GPU."""
    gpu = torch.cuda.get_device_properties(index)
    return f"{gpu.name}, {gpu.total_memory / 2**20:.0f}MiB"


def time_sync() -> float:
    """Return seconds of a clock, after all work on the GPU."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.time()


def autocast(enabled: bool, device: str = "cuda") -> Any:
    """Return torch's context of mixed precision."""
    return torch.amp.autocast(device, enabled=enabled)


def smart_inference_mode() -> Callable[[Callable], Callable]:
    """Return a decorator under which a function asks for no gradients."""
    return torch.inference_mode()


def scale_img(img: Tensor, ratio: float = 1.0, same_shape: bool = False, gs: int = 32) -> Tensor:
    """Return images (B, C, H, W) resized by a factor, and padded with grey to multiples of gs.

    same_shape: padded to H and W instead.
    """
    if ratio == 1.0:
        return img
    height, width = img.shape[2:]
    size = int(height * ratio), int(width * ratio)
    small = nn.functional.interpolate(img, size=size, mode="bilinear", align_corners=False)
    if not same_shape:
        height, width = (math.ceil(side * ratio / gs) * gs for side in (height, width))
    return nn.functional.pad(small, [0, width - size[1], 0, height - size[0]], value=0.447)


@contextlib.contextmanager
def torch_distributed_zero_first(local_rank: int) -> Iterator[None]:
    """Let the first process go before the others."""
    ready = torch.distributed.is_available() and torch.distributed.is_initialized()
    if ready and local_rank not in (-1, 0):
        torch.distributed.barrier()
    yield
    if ready and local_rank == 0:
        torch.distributed.barrier()


@contextlib.contextmanager
def cuda_memory_usage(device: torch.device | None = None) -> Iterator[dict[str, int]]:
    """Yield a dict whose "memory" is, afterwards, the bytes reserved on the GPU; 0 without one."""
    usage = {"memory": 0}
    has_gpu = torch.cuda.is_available()
    if has_gpu:
        torch.cuda.empty_cache()
    yield usage
    usage["memory"] = torch.cuda.memory_reserved(device) if has_gpu else 0


def profile(input: Any, ops: Any, n: int = 10, device: Any = None, max_num_obj: int = 0) -> list[list[Any] | None]:
    """Measure networks on inputs n times: a list of parameters, GFLOPs, GB, ms forward and backward, and shapes.

    A network that fails gives None.
    """
    results: list[list[Any] | None] = []
    target = select_device(device, verbose=False)
    for given in input if isinstance(input, list) else [input]:
        x = given.to(target).requires_grad_(True)
        for operation in ops if isinstance(ops, list) else [ops]:
            operation = operation.to(target) if isinstance(operation, nn.Module) else operation
            try:
                results.append(_profiled(x, operation, n))
            except Exception as error:  # a network of somebody else may raise anything
                LOGGER.info("%s", error)
                results.append(None)
    return results


def _profiled(x: Tensor, operation: Callable[[Tensor], Any], n: int) -> list[Any]:
    forward = backward = 0.0
    with cuda_memory_usage(x.device) as usage:
        for _ in range(n):
            start = time_sync()
            y = operation(x)
            middle = time_sync()
            parts = [part for part in (y if isinstance(y, (list, tuple)) else [y]) if isinstance(part, Tensor)]
            sum(part.sum() for part in parts).backward()
            forward, backward = forward + middle - start, backward + time_sync() - middle
    is_network = isinstance(operation, nn.Module)
    sizes = (get_num_params(operation), get_flops(operation, x.shape[-1])) if is_network else (0, 0.0)
    shapes = tuple(x.shape), tuple(y.shape) if isinstance(y, Tensor) else "list"
    return [*sizes, usage["memory"] / 1e9, forward / n * 1000, backward / n * 1000, *shapes]


profile_ops = profile


def attempt_compile(model: nn.Module, *args: Any, **kwargs: Any) -> nn.Module:
    """Return the network through torch.compile; mode= and device= as torch has them."""
    return torch.compile(model, mode=kwargs.get("mode", "default"))  # type: ignore[return-value]
