"""What a run's settings turn into before the first batch: precision, frozen rows, deterministic kernels, compilation."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import nn

from ..config import Settings
from ..data.augment import Recipe
from ..errors import raise_problems
from ..model import Detector
from .loss import Gains

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


@contextmanager
def repeatable(settings: Settings) -> Iterator[None]:
    """With deterministic=True, torch's deterministic kernels for as long as the context lasts."""
    before = (torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled(),
              torch.backends.cudnn.deterministic, torch.utils.deterministic.fill_uninitialized_memory)
    if settings.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS repeats itself only with a fixed workspace
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.backends.cudnn.deterministic = True
        torch.utils.deterministic.fill_uninitialized_memory = False  # for finding bugs; costs a pass over every new tensor
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        torch.backends.cudnn.deterministic, torch.utils.deterministic.fill_uninitialized_memory = before[2:]


def freeze(model: Detector, wanted: object) -> tuple[str, ...]:
    """Ask no gradient for what is named, and for the head's fixed expectation (`.dfl`); the frozen modules' names.

    wanted: None, a number (the first rows), row numbers, or parts of names ("23.cv2"). Raises UserError for rows that are
    not there and names that match nothing.
    """
    last = len(model.model) - 1
    parts = range(min(wanted, last + 1)) if isinstance(wanted, int) else [wanted] if isinstance(wanted, str) else wanted or ()
    names = [name for name, _ in model.named_modules()]
    chosen: set[str] = set()
    problems = []
    for part in parts:
        found = _matching(names, str(part))
        chosen.update(found)
        if not found:
            problems.append(f"freeze={part}: no part of the model is called that; rows are 0 to {last}, names are like {last}.cv2")
    raise_problems("Rows that cannot be frozen:", problems)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.rpartition(".")[0] not in chosen and ".dfl." not in name)
    return tuple(name for name in names if name in chosen)


def _matching(names: list[str], part: str) -> list[str]:
    """Module names a number (that row and all below it) or a dotted part of a name stands for."""
    if part.isdigit():
        return [name for name in names if f"{name}.".startswith(f"model.{part}.")]
    return [name for name in names if f".{part}." in f".{name}."]


def set_training(model: Detector, frozen: tuple[str, ...]) -> None:
    """Training mode, but evaluation for the batch norms of frozen parts: their statistics stay too."""
    model.train()
    for name in frozen:
        module = model.get_submodule(name)
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()


def compiled(model: nn.Module, wanted: bool | str) -> nn.Module:
    """The model through torch.compile where compile= asks for it; weights and state stay the model's own."""
    if not wanted:
        return model
    return torch.compile(model, mode="default" if wanted is True else wanted)


def recipe_of(settings: Settings, closed: bool) -> Recipe:
    """The augmentation of an epoch; `closed` leaves out what mixes several images."""
    names = Recipe.__dataclass_fields__
    recipe = Recipe(**{name: getattr(settings, name) for name in names})
    return recipe.closed() if closed else recipe


def gains_of(settings: Settings) -> Gains:
    """The weights of the three losses."""
    return Gains(settings.box, settings.cls, settings.dfl)


def class_weights(counts: torch.Tensor, power: float) -> torch.Tensor | None:
    """Weights of the class loss, (nc,): 1 / count ** power, their mean 1; None for power 0. A class without labels counts as one."""
    if not power:
        return None
    weights = counts.clamp(min=1).float().pow(-power)
    return weights / weights.mean()


def workers_for(device: torch.device, settings: Settings) -> int:
    """Loader processes: none on the CPU (they would take its cores from the network) unless asked for."""
    if device.type == "cpu" and "workers" not in settings.given:
        return 0
    return min(settings.workers, os.cpu_count() or 1)
