"""Helpers for a training of one's own: averages, schedules, early stopping, seeds. See torch_utils."""

from __future__ import annotations

import math
import os
import random
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ...models.weights.checkpoint import content_of, save_checkpoint
from ...models.weights.foreign import open_checkpoint
from ...train.optim import Ema
from . import LOGGER
from .networks import copy_attr, de_parallel


def one_cycle(y1: float = 0.0, y2: float = 1.0, steps: int = 100) -> Callable[[float], float]:
    """Return a function that goes from y1 at 0 to y2 at `steps` along half a cosine."""
    return lambda x: y1 + (y2 - y1) * (1 - math.cos(min(max(x / steps, 0), 1) * math.pi)) / 2


def init_seeds(seed: int = 0, deterministic: bool = False) -> None:
    """Start all random numbers at seed; deterministic: prefer kernels that repeat exactly."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
    torch.use_deterministic_algorithms(deterministic, warn_only=True)
    torch.backends.cudnn.deterministic = deterministic
    if deterministic:
        os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
        os.environ["PYTHONHASHSEED"] = str(seed)


def unset_deterministic() -> None:
    """Take back what init_seeds(deterministic=True) chose."""
    torch.use_deterministic_algorithms(False)
    torch.backends.cudnn.deterministic = False
    for name in ("CUBLAS_WORKSPACE_CONFIG", "PYTHONHASHSEED"):
        os.environ.pop(name, None)


class ModelEMA:
    """A moving average of a network's weights: ema is the network, updates counts, decay(updates) is the old share."""

    def __init__(self, model: nn.Module, decay: float = 0.9999, tau: float = 2000, updates: int = 0):
        self._average = Ema(de_parallel(model), updates)
        self.decay = lambda count: decay * (1 - math.exp(-count / tau))
        self._average.decay = self.decay  # type: ignore[method-assign]
        self.enabled = True

    @property
    def ema(self) -> nn.Module:
        """The network of the averages, in eval mode."""
        return self._average.model

    @ema.setter
    def ema(self, model: nn.Module) -> None:
        self._average.model = model

    @property
    def updates(self) -> int:
        """How many updates there were."""
        return self._average.updates

    @updates.setter
    def updates(self, count: int) -> None:
        self._average.updates = count

    def update(self, model: nn.Module) -> None:
        """Move the averages towards the weights of a network."""
        if self.enabled:
            self._average.update(de_parallel(model))

    def update_attr(
        self, model: nn.Module, include: Collection[str] = (), exclude: Collection[str] = ("process_group", "reducer")
    ) -> None:
        """Copy the attributes of a network to that of the averages."""
        if self.enabled:
            copy_attr(self.ema, model, include, exclude)


class EarlyStopping:
    """Says when to stop: after `patience` epochs without a better fitness; 0 is never.

    best_fitness, best_epoch: so far. possible_stop: whether the next epoch may be the last.
    """

    def __init__(self, patience: int = 50):
        self.best_fitness, self.best_epoch = 0.0, 0
        self.patience = patience or float("inf")
        self.possible_stop = False

    def __call__(self, epoch: int, fitness: float | None) -> bool:
        """Take the fitness of an epoch; return whether to stop. None was not measured."""
        if fitness is None:
            return False
        if fitness > self.best_fitness or self.best_fitness == 0:
            self.best_epoch, self.best_fitness = epoch, fitness
        waited = epoch - self.best_epoch
        self.possible_stop = waited >= self.patience - 1
        if waited >= self.patience:
            LOGGER.info("No better fitness in %s epochs; the best is epoch %s.", self.patience, self.best_epoch)
            return True
        return False


def strip_optimizer(f: str | Path = "best.pt", s: str = "", updates: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Rewrite a checkpoint, or write it to s, without the state of its training; return its content."""
    checkpoint = replace(open_checkpoint(f, say=lambda text: None), training=None)
    save_checkpoint(s or f, checkpoint)
    LOGGER.info("The state of the training is taken from %s%s", f, f", saved as {s}" if s else "")
    return {**content_of(checkpoint), **(updates or {})}


def convert_optimizer_state_dict_to_fp16(state_dict: dict[str, Any]) -> dict[str, Any]:
    """Make the float32 tensors of an optimizer's state float16, in place, but for the counts of steps."""
    for state in state_dict["state"].values():
        for key, value in state.items():
            if key != "step" and isinstance(value, Tensor) and value.dtype is torch.float32:
                state[key] = value.half()
    return state_dict
