"""Optimizer, learning-rate schedule and the moving average of the weights.

Papers: warm-up, Goyal et al., "Accurate, Large Minibatch SGD" (2017); cosine schedule, Loshchilov and Hutter, "SGDR"
(ICLR 2017); averaging, Polyak and Juditsky, "Acceleration of Stochastic Approximation by Averaging" (1992). Written
from spec/interface.md 6.2 and 6.3 with the choices of families.md 3 (column F, warm-up at most half the run).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from ..config.errors import UserError, did_you_mean
from ..models.modules.bit_activations import ACT_SCALE, QuantisedLayer

AUTO_LIMIT = 10_000  # optimizer iterations; optimizer=auto takes SGD for longer runs
Groups = list[dict[str, object]]  # what an optimizer of torch takes


def _betas(momentum: float) -> dict[str, object]:
    return {"betas": (momentum, 0.999)}


# name -> (class, its arguments for a momentum, whether torch has a fused kernel for CUDA and CPU)
OPTIMIZERS: dict[str, tuple[type[torch.optim.Optimizer], Callable[[float], dict[str, object]], bool]] = {
    "SGD": (torch.optim.SGD, lambda momentum: {"momentum": momentum, "nesterov": momentum > 0}, True),
    "Adam": (torch.optim.Adam, _betas, True),
    "Adamax": (torch.optim.Adamax, _betas, False),
    "AdamW": (torch.optim.AdamW, _betas, True),
    "NAdam": (torch.optim.NAdam, _betas, False),
    "RAdam": (torch.optim.RAdam, _betas, False),
    "RMSProp": (torch.optim.RMSprop, lambda momentum: {"momentum": momentum}, False),
}


@dataclass(frozen=True)
class OptimizerPlan:
    """The optimizer and its values with optimizer=auto resolved, and the reason; `str()` is one line for the log."""

    name: str
    lr: float
    momentum: float
    decay: float
    warmup_bias_lr: float
    reason: str

    def __str__(self) -> str:
        return (
            f"{self.name}(lr={self.lr:g}, momentum={self.momentum:g}, weight decay={self.decay:g}, "
            f"warmup_bias_lr={self.warmup_bias_lr:g}): {self.reason}"
        )


def full_accumulate(batch: int, nbs: int) -> int:
    """Batches per optimizer step after warm-up: as many as hold about `nbs` images, the nominal batch size."""
    return max(round(nbs / batch), 1)


def scaled_decay(weight_decay: float, batch: int, nbs: int) -> float:
    """The weight decay for steps of batch * accumulate images, from `weight_decay` for steps of `nbs` images."""
    return weight_decay * batch * full_accumulate(batch, nbs) / nbs


def planned_iterations(images: int, batch: int, nbs: int, epochs: int) -> int:
    """Optimizer iterations of a run, as the auto rule counts them."""
    return math.ceil(images / max(batch, nbs)) * epochs


def parameter_groups(model: nn.Module, decay: float) -> Groups:
    """Sort trainable parameters into groups for an optimizer: biases, decayed weights, norm weights, ternary layers.

    The order is that of the columns lr/pg*. The key "kind" of a group is "bias", "weight", "norm" or "rounded"
    (weights of ternary layers; a group only where there are some). `decay` applies to "weight", and to "rounded" in
    the first half of a run (spec/bit.md section 4.6). A shared parameter is listed once. Raises UserError where no
    parameter is trainable.
    """
    kinds: dict[str, list[nn.Parameter]] = {"bias": [], "weight": [], "norm": [], "rounded": []}
    listed: set[nn.Parameter] = set()
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.requires_grad and parameter not in listed:
                listed.add(parameter)
                kinds[_kind_of(module, name)].append(parameter)
    if not listed:
        raise UserError("Every parameter of the model is frozen: nothing to train. Give a smaller freeze=.")
    decays = {"bias": 0.0, "weight": decay, "norm": 0.0, "rounded": decay}
    return [
        {"params": parameters, "weight_decay": decays[kind], "kind": kind, "decay": decays[kind]}
        for kind, parameters in kinds.items()
        if parameters or kind != "rounded"
    ]


def _kind_of(module: nn.Module, parameter_name: str) -> str:
    if "bias" in parameter_name:
        return "bias"
    if "Norm" in type(module).__name__:
        return "norm"
    return "rounded" if isinstance(module, QuantisedLayer) else "weight"


def choose_optimizer(
    name: str,
    groups: Groups,
    *,
    lr: float,
    momentum: float,
    warmup_bias_lr: float,
    iterations: int,
    nc: int,
    auto_bias_lr: float = 0.0,
) -> tuple[torch.optim.Optimizer, OptimizerPlan]:
    """Build the optimizer `name` (a key of OPTIMIZERS or "auto", in any case) over `groups`; returns it with its plan.

    "auto" overrides `lr`, `momentum` and `warmup_bias_lr` (by auto_bias_lr): SGD for more than 10000 iterations, else
    AdamW with a rate that falls with the number of classes. Raises UserError for an unknown name.
    """
    if name.lower() == "auto":
        chosen, lr = auto_rule(iterations, nc)
        limit = f"more than {AUTO_LIMIT}" if chosen == "SGD" else f"at most {AUTO_LIMIT}, {nc} classes"
        momentum, warmup_bias_lr = 0.9, auto_bias_lr
        reason = (
            f"optimizer=auto ({iterations} iterations, {limit}); lr0, momentum and warmup_bias_lr as given are not used"
        )
    else:
        chosen, reason = _table_name(name), f"optimizer={name}"
    kind, arguments_of, fused = OPTIMIZERS[chosen]
    arguments = arguments_of(momentum)
    if "betas" in arguments and momentum >= 1:
        raise UserError(
            f"momentum={momentum:g} is the first beta of {chosen}, which must be below 1: for example momentum=0.9."
        )
    devices = {parameter.device.type for group in groups for parameter in group["params"]}
    if fused and devices <= {"cuda", "cpu"}:
        arguments["fused"] = True  # one pass over memory; on other devices torch itself chooses foreach
    decay = max(group["weight_decay"] for group in groups)
    plan = OptimizerPlan(chosen, lr, momentum, decay, warmup_bias_lr, reason)
    return kind(groups, lr=lr, **arguments), plan


def auto_rule(iterations: int, nc: int) -> tuple[str, float]:
    """The optimizer and the learning rate of optimizer=auto. iterations: of the optimizer; nc: number of classes."""
    return ("SGD", 0.01) if iterations > AUTO_LIMIT else ("AdamW", round(0.002 * 5 / (4 + nc), 6))


def _table_name(name: str) -> str:
    """The key of OPTIMIZERS that equals `name` in any case. Raises UserError where there is none."""
    if name.lower() == "musgd":
        raise UserError(
            "optimizer=MuSGD is not supported: it is no part of the YOLOv12 recipe, which takes SGD for long runs. "
            "Use optimizer=SGD or optimizer=auto."
        )
    by_lower = {key.lower(): key for key in OPTIMIZERS}
    if name.lower() not in by_lower:
        names = [*OPTIMIZERS, "auto"]
        raise UserError(f"optimizer={name} is not known; known are {', '.join(names)}.{did_you_mean(name, names)}")
    return by_lower[name.lower()]


@dataclass(frozen=True)
class Schedule:
    """Learning rate, momentum and accumulation as functions of the iteration (counted over the whole run, from 0)."""

    epochs: int
    batches: int  # per epoch
    batch: int  # images
    nbs: int  # images, the nominal batch size that accumulation aims at
    lr: float
    momentum: float
    lrf: float  # the last epoch's rate is about lr * lrf
    cos_lr: bool  # half a cosine, else a line
    warmup_epochs: float
    warmup_momentum: float
    warmup_bias_lr: float
    warmup_floor: int = 100  # iterations

    @property
    def warmup(self) -> int:
        """Iterations of warm-up: at least `warmup_floor`, at most half the run, 0 without warm-up epochs."""
        if self.warmup_epochs <= 0:
            return 0
        return min(max(round(self.warmup_epochs * self.batches), self.warmup_floor), self.epochs * self.batches // 2)

    def factor(self, epoch: int) -> float:
        """The factor of the rate during `epoch` (from 0): it falls from 1 to `lrf`, in a line or half a cosine."""
        if self.cos_lr:
            return (1 - math.cos(epoch * math.pi / self.epochs)) / 2 * (self.lrf - 1) + 1
        return max(1 - epoch / self.epochs, 0) * (1 - self.lrf) + self.lrf

    def accumulate(self, iteration: int) -> int:
        """Batches per optimizer step: from 1 up to nbs / batch during warm-up; never more than the run has."""
        count = full_accumulate(self.batch, self.nbs)
        if self._in_warmup(iteration):
            count = max(round(self._interpolate(iteration, 1, self.nbs / self.batch)), 1)
        return min(count, self.epochs * self.batches)

    def apply(self, optimizer: torch.optim.Optimizer, iteration: int, epoch: int) -> int:
        """Set rate and momentum of every group for `iteration`, which lies in `epoch`; returns `accumulate(iteration)`.

        During warm-up the rate rises from 0 (biases: from `warmup_bias_lr`), and the momentum of those optimizers that
        have one (SGD, RMSProp) moves from `warmup_momentum`.
        """
        rate, momentum = self.lr * self.factor(epoch), self.momentum
        in_warmup = self._in_warmup(iteration)
        if in_warmup:
            momentum = self._interpolate(iteration, self.warmup_momentum, momentum)
        if isinstance(optimizer, torch.optim.RMSprop) and self.momentum:
            momentum = max(momentum, 1e-9)  # with 0 in the first step torch creates no buffer, which a later step needs
        for group in optimizer.param_groups:
            start = self.warmup_bias_lr if group["kind"] == "bias" else 0.0
            share = group.get("share", 1.0)  # of the rate, for groups with a rate of their own
            group["lr"] = (self._interpolate(iteration, start, rate) if in_warmup else rate) * share
            if group["kind"] == "rounded":
                # decay moves weights over the thresholds of rounding, which no step takes back late in a run
                group["weight_decay"] = group["decay"] if 2 * epoch < self.epochs else 0.0
            if "momentum" in group:
                group["momentum"] = momentum
        return self.accumulate(iteration)

    def _in_warmup(self, iteration: int) -> bool:
        return iteration <= self.warmup and self.warmup > 0

    def _interpolate(self, iteration: int, start: float, end: float) -> float:
        return start + (end - start) * iteration / self.warmup


def step_is_due(iteration: int, last_step: int, accumulate: int) -> bool:
    """Whether the optimizer steps after `iteration`; last_step: iteration of the previous step, -1 at the start."""
    return iteration - last_step >= accumulate


@dataclass(frozen=True)
class Average:
    """How a moving average of weights forgets.

    share: number of an update, from 1 -> share of the old average. tuned: the number that the average of already
    trained weights begins with: from there it has a memory of about 20 updates.
    """

    share: Callable[[int], float]
    tuned: int


# A short memory in short runs, or one of about a ninth of the updates so far; both reach 10,000 updates in long runs.
AVERAGES = {
    "rising": Average(lambda updates: 0.9999 * (1 - math.exp(-updates / 2000)), 6000),
    "growing": Average(lambda updates: min((1 + updates) / (10 + updates), 0.9999), 170),
}


class Ema:
    """A copy of a model, `.model`, in evaluation mode, whose weights are a moving average of the trained weights.

    After update number u: average = d * average + (1 - d) * value with d the share of `rule` (a key of AVERAGES), for
    every floating tensor of the state dict, statistics of batch norms included. Other tensors (counters) are copied,
    and so are scales of activations, which are averages already and begin at 0. updates: the number to begin with.
    From 0 the first averages follow the weights closely, which suits fresh weights. Trained weights would then follow
    the first steps of fine-tuning, whose optimizer does not know its step sizes yet.
    """

    def __init__(self, model: nn.Module, updates: int = 0, rule: str = "rising") -> None:
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self.updates, self.decay = updates, AVERAGES[rule].share

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Move the average towards `model`, in place."""
        self.updates += 1
        averages, counters = _state_tensors(self.model)
        values, counts = _state_tensors(model)
        get_ema_multi_avg_fn(self.decay(self.updates))(averages, values, None)  # one fused kernel on a GPU
        if counters:
            torch._foreach_copy_(counters, counts)

    def load(self, state: Mapping[str, Tensor], updates: int) -> None:
        """Restore an average: its state dict and its number of updates. Raises RuntimeError where tensors differ."""
        self.model.load_state_dict(state)
        self.updates = updates


def _state_tensors(model: nn.Module) -> tuple[list[Tensor], list[Tensor]]:
    """The tensors of the state dict that are averaged, and those that are copied; a shared tensor once."""
    by_id = {id(tensor): (name, tensor) for name, tensor in model.state_dict(keep_vars=True).items()}
    averaged, copied = [], []
    for name, tensor in by_id.values():
        is_averaged = tensor.is_floating_point() and not name.endswith(ACT_SCALE)
        (averaged if is_averaged else copied).append(tensor)
    return averaged, copied
