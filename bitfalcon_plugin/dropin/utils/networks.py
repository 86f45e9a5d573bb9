"""Functions of networks: sizes, folded batch norms, attributes, wrappers. See torch_utils."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Mapping, Sequence
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from ...models.modules.conv import EPS, MOMENTUM, folded
from ...ops.letterbox import nearest_side
from . import LOGGER


def get_num_params(model: nn.Module) -> int:
    """Return how many numbers the parameters of a network hold."""
    return sum(parameter.numel() for parameter in model.parameters())


def get_num_gradients(model: nn.Module) -> int:
    """Return how many numbers of the parameters are trained."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def get_flops(model: nn.Module, imgsz: int | Sequence[int] = 640) -> float:
    """Return GFLOPs of one image: 2 multiply-adds, with attention; 0.0 for a network that takes no such image."""
    from torch.utils.flop_counter import FlopCounterMode

    parameter = next((item for item in model.parameters() if item.is_floating_point()), None)
    if parameter is None:
        return 0.0
    sides = [imgsz, imgsz] if isinstance(imgsz, int) else list(imgsz)
    multiple = int(max(getattr(model, "multiple", 1), torch.as_tensor(getattr(model, "stride", 32)).max()))
    image = torch.zeros(1, 3, *(nearest_side(side, multiple) for side in sides), dtype=parameter.dtype)
    modes = [(module, module.training) for module in model.modules()]
    tensors = {name: value.to("meta") for name, value in (*model.named_parameters(), *model.named_buffers())}
    model.eval()
    try:
        for given, weights in ((image.to("meta"), tensors), (image.to(parameter.device), {})):  # shapes first
            with contextlib.suppress(Exception), FlopCounterMode(display=False) as counter, torch.no_grad():
                torch.func.functional_call(model, weights, (given,))
                return counter.get_total_flops() / 1e9
    finally:
        for module, training in modes:
            module.training = training
    return 0.0


get_flops_with_torch_profiler = get_flops


def model_info(
    model: nn.Module, detailed: bool = False, verbose: bool = True, imgsz: int | Sequence[int] = 640
) -> tuple[int, int, int, float] | None:
    """Return modules without children, parameters, trained parameters and GFLOPs, and log them; None if not verbose.

    detailed: also log a line for each parameter.
    """
    if not verbose:
        return None
    layers = sum(1 for module in model.modules() if not list(module.children()))
    sizes = layers, get_num_params(model), get_num_gradients(model), get_flops(model, imgsz)
    if detailed:
        LOGGER.info(
            "%5s %40s %9s %12s %20s %10s %10s", "layer", "name", "gradient", "parameters", "shape", "mu", "sigma"
        )
        for index, (name, value) in enumerate(model.named_parameters()):
            mean, deviation = float(value.detach().mean()), float(value.detach().std())
            numbers = value.requires_grad, value.numel(), list(value.shape), mean, deviation
            LOGGER.info("%5g %40s %9s %12g %20s %10.3g %10.3g", index, name, *numbers)
    text = f"{layers} layers, {sizes[1]:,} parameters, {sizes[2]:,} gradients, {sizes[3]:.1f} GFLOPs"
    LOGGER.info("%s summary: %s", type(model).__name__, text)
    return sizes


def fuse_conv_and_bn(conv: nn.Conv2d, bn: nn.BatchNorm2d) -> nn.Conv2d:
    """Return a convolution with a bias that equals bn(conv(x)) in eval mode."""
    return folded(conv, bn, nn.Identity())[0]


def fuse_deconv_and_bn(deconv: nn.ConvTranspose2d, bn: nn.BatchNorm2d) -> nn.ConvTranspose2d:
    """Return a transposed convolution with a bias that equals bn(deconv(x)) in eval mode."""
    fused = deepcopy(deconv).requires_grad_(False)
    factor = bn.weight * (bn.running_var + bn.eps).rsqrt()
    bias = torch.zeros_like(bn.running_mean) if deconv.bias is None else deconv.bias
    groups = fused.weight.unflatten(0, (fused.groups, -1)) * factor.view(fused.groups, 1, -1, 1, 1)
    fused.weight = nn.Parameter(groups.flatten(0, 1).detach(), False)
    fused.bias = nn.Parameter(((bias - bn.running_mean) * factor + bn.bias).detach(), False)
    return fused


def initialize_weights(model: nn.Module) -> None:
    """Give batch norms the constants of detectors, and let activations work in place."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps, module.momentum = EPS, MOMENTUM
        elif isinstance(module, (nn.Hardswish, nn.LeakyReLU, nn.ReLU, nn.ReLU6, nn.SiLU)):
            module.inplace = True


def intersect_dicts(da: Mapping[str, Tensor], db: Mapping[str, Tensor], exclude: Collection[str] = ()) -> dict:
    """Return the tensors of da that db has under the same name in the same shape; names with a part in exclude not."""
    return {
        name: value
        for name, value in da.items()
        if name in db and not any(part in name for part in exclude) and value.shape == db[name].shape
    }


def copy_attr(a: Any, b: Any, include: Collection[str] = (), exclude: Collection[str] = ()) -> None:
    """Copy the public attributes of b to a: those in include where that is not empty, and none in exclude."""
    for name, value in vars(b).items():
        if not name.startswith("_") and name not in exclude and (name in include or not include):
            setattr(a, name, value)


def is_parallel(model: nn.Module) -> bool:
    """Return whether a network is wrapped for several GPUs."""
    return isinstance(model, (nn.parallel.DataParallel, nn.parallel.DistributedDataParallel))


COMPILED = "_orig_mod"  # attribute of what torch.compile returns: the network inside


def de_parallel(model: nn.Module) -> nn.Module:
    """Return the network inside the wrappers for several GPUs and for compilation."""
    while is_parallel(model) or hasattr(model, COMPILED):
        model = model.module if is_parallel(model) else getattr(model, COMPILED)
    return model


unwrap_model = de_parallel
