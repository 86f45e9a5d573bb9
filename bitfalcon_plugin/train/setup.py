"""From a Run to its Trainer: loaders, optimizer, schedule, precision, frozen rows, deterministic kernels."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ..config.errors import raise_problems
from ..config.files import remove_leftovers
from ..config.settings import Settings
from ..data.loading.loader import Reading, TrainLoader, ValLoader, workers_for
from ..models.detector import Detector
from ..models.inference.compiling import compile_network
from ..models.inference.precision import training_precision
from ..tasks import task_of
from ..tasks.detect import class_weights
from ..val.pictures import Pictures
from .effective import report_effective
from .guard import Guard
from .optim import (
    TUNED_UPDATES,
    Ema,
    OptimizerPlan,
    Schedule,
    choose_optimizer,
    parameter_groups,
    planned_iterations,
    scaled_decay,
)
from .records import Records
from .trainer import Run, Trainer


@contextmanager
def repeatable(settings: Settings) -> Iterator[None]:
    """Use torch's deterministic kernels for as long as the context lasts, with deterministic=True."""
    enabled = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    cudnn, fill = torch.backends.cudnn.deterministic, torch.utils.deterministic.fill_uninitialized_memory
    if settings.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS repeats itself only with a fixed workspace
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.backends.cudnn.deterministic = True
        # filling is for finding bugs, and costs a pass over every new tensor
        torch.utils.deterministic.fill_uninitialized_memory = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(enabled, warn_only=warn_only)
        torch.backends.cudnn.deterministic = cudnn
        torch.utils.deterministic.fill_uninitialized_memory = fill


def freeze(model: Detector, rows: int | str | Sequence[int | str] | None) -> tuple[str, ...]:
    """Ask no gradient for rows or parts of the model, nor for the head's fixed expectation (`.dfl`).

    rows: a number (the first so many rows), row numbers, or parts of names ("23.cv2"). Returns the names of all frozen
    modules. Raises UserError for rows that the model does not have, and names that match nothing.
    """
    last = len(model.model) - 1
    if isinstance(rows, int):
        parts = [str(row) for row in range(min(rows, last + 1))]
    elif isinstance(rows, str):
        parts = [rows]
    else:
        parts = [str(part) for part in rows or ()]
    names = [name for name, _ in model.named_modules()]
    matches = {part: _matches(names, part) for part in parts}
    problems = [
        f"freeze={part}: no part of the model is called that; rows are 0 to {last}, names are like {last}.cv2"
        for part, matching in matches.items()
        if not matching
    ]
    raise_problems("Rows that cannot be frozen:", problems)
    frozen = {name for matching in matches.values() for name in matching}
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.rpartition(".")[0] not in frozen and ".dfl." not in name)
    return tuple(name for name in names if name in frozen)


def _matches(names: list[str], part: str) -> list[str]:
    """The module names that `part` stands for: a row number (the row and all below it) or a dotted part of a name."""
    if part.isdigit():
        return [name for name in names if f"{name}.".startswith(f"model.{part}.")]
    return [name for name in names if f".{part}." in f".{name}."]


def set_training(model: Detector, frozen: tuple[str, ...]) -> None:
    """Set training mode; batch norms of frozen parts are set to evaluation, so that their statistics stay."""
    model.train()
    for name in frozen:
        module = model.get_submodule(name)
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()


def prepare(run: Run) -> Trainer:
    """Build all parts of a run, restore the state that it starts from, print and save the effective settings."""
    settings, model, device, world = run.settings, run.model, run.device, run.world
    if world.main:
        remove_leftovers(run.folder)
        remove_leftovers(run.folder / "weights")
    model.to(device, memory_format=torch.channels_last)
    model.checkpointing = settings.checkpointing
    frozen = freeze(model, settings.freeze)
    set_training(model, frozen)
    loader, val_loader = _loaders(run)
    groups = parameter_groups(model, scaled_decay(settings.weight_decay, settings.batch, settings.nbs))
    optimizer, plan = _optimizer(run, groups)
    schedule = _schedule(settings, len(loader), plan)
    precision = training_precision(settings, device, run.say)
    ema = Ema(model, TUNED_UPDATES if run.tuned else 0)
    scaler = torch.amp.GradScaler(device.type, enabled=precision is torch.float16)
    network = _network(run)
    guard = Guard(model, lambda indices: [str(run.samples[index].image) for index in indices], run.say)
    labels = torch.cat([sample.labels.classes for sample in run.samples])
    weights = class_weights(torch.bincount(labels, minlength=model.nc), settings.cls_pw)
    task = task_of(model)
    trainer = Trainer(
        run,
        loader,
        val_loader,
        network,
        optimizer,
        plan,
        schedule,
        scaler,
        ema,
        guard,
        task,
        task.gains(settings),
        None if weights is None else weights.to(device),
        precision,
        frozen,
        Records(run.folder, settings, task, run.say, world.main),
        Pictures(run.folder, model.names, settings.plots and world.main, board=world.main),
        settings.epochs,
        tloss=torch.zeros(len(task.losses), device=device),
        counted=torch.zeros((), device=device),
    )
    trainer.first_updates = ema.updates
    trainer.fire("on_pretrain_routine_start")
    if run.start is not None:
        trainer.restore(run.start, run.start["average"])
        if settings.time:
            trainer.epochs = _epochs_in_time(trainer, run.start)
    trainer.pictures.labels(run.samples)
    report_effective(trainer)
    return trainer


def _epochs_in_time(trainer: Trainer, start: Mapping[str, object]) -> int:
    """Epochs of a resumed run with time=, by the speed of those that are done: at least one more."""
    if not trainer.epoch:
        return start["epochs"]
    seconds_an_epoch = max(trainer.records.seconds, 1e-9) / trainer.epoch
    return max(int(trainer.args.time * 3600 / seconds_an_epoch), trainer.epoch + 1)


def _network(run: Run) -> Callable[[Tensor], Mapping[str, Tensor]]:
    """What is called for outputs in training: the model, distributed over the processes and compiled as asked for."""
    model, world, settings = run.model, run.world, run.settings
    if settings.sync_bn:
        if world.size == 1:
            run.say("note: sync_bn=True is for several GPUs; one device sees the whole batch.")
        elif run.device.type != "cuda":
            run.say("note: sync_bn=True needs several GPUs; every process normalises over its own images.")
        else:
            model = world.synchronise_norms(model)
    return compile_network(world.wrap(model), settings.compile, in_place=False)


def _schedule(settings: Settings, batches: int, plan: OptimizerPlan) -> Schedule:
    return Schedule(
        epochs=settings.epochs,
        batches=batches,
        batch=settings.batch,
        nbs=settings.nbs,
        lr=plan.lr,
        momentum=plan.momentum,
        lrf=settings.lrf,
        cosine=settings.cos_lr,
        warmup_epochs=settings.warmup_epochs,
        warmup_momentum=settings.warmup_momentum,
        warmup_bias_lr=plan.warmup_bias_lr,
        warmup_floor=settings.warmup_floor,
    )


def _loaders(run: Run) -> tuple[TrainLoader, ValLoader]:
    settings, world = run.settings, run.world
    reading = Reading(run.device, workers_for(run.device, settings), settings.cache, world.rank, world.size)
    train = TrainLoader(
        run.samples,
        reading,
        imgsz=settings.imgsz,
        batch=settings.batch,
        seed=settings.seed,
        rect=settings.rect,
        multi_scale=settings.multi_scale,
        multiple=run.model.multiple,
    )
    if train.note:
        run.say(train.note)
    batch = 2 * settings.batch // world.size or 1
    val = ValLoader(run.val_samples, reading, imgsz=settings.imgsz, batch=batch, multiple=run.model.multiple)
    if val.note:
        run.say(val.note)
    return train, val


def _optimizer(run: Run, groups: Sequence[dict[str, object]]) -> tuple[torch.optim.Optimizer, OptimizerPlan]:
    settings, plan_before = run.settings, (run.start or {}).get("plan")
    name, values = settings.optimizer, {"lr": settings.lr0}
    values |= {key: getattr(settings, key) for key in ("momentum", "warmup_bias_lr")}
    if plan_before and name.lower() == "auto":  # a resumed run keeps its optimizer, also where epochs= changes
        name, values = plan_before["name"], {key: plan_before[key] for key in values}
    iterations = planned_iterations(len(run.samples), settings.batch, settings.nbs, settings.epochs)
    return choose_optimizer(name, list(groups), nc=run.model.nc, iterations=iterations, **values)
