"""What a run's settings turn into before the first batch: precision, frozen rows, deterministic kernels, compilation."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
import yaml
from torch import nn

from ..config.errors import raise_problems
from ..config.files import sweep, write_text
from ..config.settings import Settings
from ..config.unused import MIXING
from ..data.augmentation.augment import recipe_of
from ..data.loading.loader import TrainLoader, ValLoader, workers_for
from ..models.detector import Detector
from ..models.inference.compiling import compiled_for_training as compiled
from ..models.inference.precision import precision_of
from ..tasks.detect import class_weights, gains_of
from ..val.pictures import Pictures
from .distributed import NO_SYNC_BN
from .guard import Guard
from .optim import (
    TUNED_UPDATES,
    Ema,
    Plan,
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
    """With deterministic=True, torch's deterministic kernels for as long as the context lasts."""
    before = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        torch.backends.cudnn.deterministic,
        torch.utils.deterministic.fill_uninitialized_memory,
    )
    if settings.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS repeats itself only with a fixed workspace
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.backends.cudnn.deterministic = True
        torch.utils.deterministic.fill_uninitialized_memory = (
            False  # for finding bugs; costs a pass over every new tensor
        )
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
    parts = (
        range(min(wanted, last + 1))
        if isinstance(wanted, int)
        else [wanted]
        if isinstance(wanted, str)
        else wanted or ()
    )
    names = [name for name, _ in model.named_modules()]
    chosen: set[str] = set()
    problems = []
    for part in parts:
        found = _matching(names, str(part))
        chosen.update(found)
        if not found:
            problems.append(
                f"freeze={part}: no part of the model is called that; rows are 0 to {last}, names are like {last}.cv2"
            )
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


CHANCES = ("mosaic", "mixup", "cutmix", "copy_paste", "flipud", "fliplr", "bgr")
RANGES = ("degrees", "translate", "scale", "shear", "perspective", "hsv_h", "hsv_s", "hsv_v")


def prepare(run: Run) -> Trainer:
    """Build everything that a run needs, take up the state that it starts from, print and save the effective settings."""
    settings, model, device, world = run.settings, run.model, run.device, run.world
    if world.main:
        sweep(run.folder)
        sweep(run.folder / "weights")
    model.to(device, memory_format=torch.channels_last)
    model.checkpointing = settings.checkpointing
    frozen = freeze(model, settings.freeze)
    set_training(model, frozen)
    loader, val_loader = _loaders(run)
    groups = parameter_groups(model, scaled_decay(settings.weight_decay, settings.batch, settings.nbs))
    optimizer, plan = _optimizer(run, groups)
    schedule = Schedule(
        settings.epochs,
        len(loader),
        settings.batch,
        settings.nbs,
        plan.lr,
        plan.momentum,
        settings.lrf,
        settings.cos_lr,
        settings.warmup_epochs,
        settings.warmup_momentum,
        plan.warmup_bias_lr,
        settings.warmup_floor,
    )
    precision = precision_of(settings, device, run.say)
    if settings.sync_bn and (device.type != "cuda" or world.size == 1):
        run.say(
            NO_SYNC_BN if world.size > 1 else "note: sync_bn=True is for several GPUs; one device sees the whole batch."
        )
    ema = Ema(model, TUNED_UPDATES if run.tuned else 0)
    scaler = torch.amp.GradScaler(device.type, enabled=precision is torch.float16)
    network = compiled(world.wrap(world.synchronised(model) if settings.sync_bn else model), settings.compile)
    guard = Guard(model, lambda indices: [str(run.samples[index].image) for index in indices], run.say)
    labels = torch.cat([sample.classes for sample in run.samples])
    weights = class_weights(torch.bincount(labels, minlength=model.nc), settings.cls_pw)
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
        gains_of(settings),
        None if weights is None else weights.to(device),
        precision,
        frozen,
        Records(run.folder, settings, run.say, world.main),
        Pictures(run.folder, model.names, settings.plots and world.main, run.say, board=world.main),
        settings.epochs,
        tloss=torch.zeros(3, device=device),
        counted=torch.zeros((), device=device),
    )
    trainer.fire("on_pretrain_routine_start")
    if run.start is not None:
        trainer.restore(run.start, run.start["average"])
        if settings.time:
            planned = int(settings.time * 3600 * trainer.epoch / max(trainer.records.seconds, 1e-9))
            trainer.epochs = max(planned, trainer.epoch + 1) if trainer.epoch else run.start["epochs"]
    trainer.began_with = ema.updates
    trainer.pictures.labels(run.samples)
    _tell(trainer)
    return trainer


def _loaders(run: Run) -> tuple[TrainLoader, ValLoader]:
    settings, world = run.settings, run.world
    workers = workers_for(run.device, settings)
    shares = {"device": run.device, "workers": workers, "rank": world.rank, "world": world.size}
    train = TrainLoader(
        run.samples,
        imgsz=settings.imgsz,
        batch=settings.batch,
        seed=settings.seed,
        rect=settings.rect,
        cache=settings.cache,
        multi_scale=settings.multi_scale,
        multiple=run.model.multiple,
        **shares,
    )
    if train.note:
        run.say(train.note)
    val = ValLoader(
        run.val_samples,
        imgsz=settings.imgsz,
        batch=2 * settings.batch // world.size or 1,
        stride=run.model.multiple,
        cache=settings.cache,
        **shares,
    )
    if val.note:
        run.say(val.note)
    return train, val


def _optimizer(run: Run, groups: Sequence[dict[str, object]]) -> tuple[torch.optim.Optimizer, Plan]:
    # A run that is resumed keeps its optimizer: with other epochs= the rule of optimizer=auto might choose another one.
    settings, kept = run.settings, (run.start or {}).get("plan")
    values = {
        "name": settings.optimizer,
        "lr": settings.lr0,
        "momentum": settings.momentum,
        "warmup_bias_lr": settings.warmup_bias_lr,
    }
    if kept and settings.optimizer.lower() == "auto":
        values = {key: kept[key] for key in values}
    return choose_optimizer(
        values.pop("name"),
        list(groups),
        nc=run.model.nc,
        **values,
        iterations=planned_iterations(len(run.samples), settings.batch, settings.nbs, settings.epochs),
    )


def effective(trainer: Trainer) -> dict[str, object]:
    """What the run really does, as plain values: the content of effective.yaml."""
    settings, plan, schedule = trainer.args, trainer.plan, trainer.schedule
    recipe = recipe_of(settings, closed=False)
    groups = {
        group["kind"]: {
            "parameters": len(group["params"]),
            "values": sum(p.numel() for p in group["params"]),
            "lr": plan.lr,
            "weight_decay": group["weight_decay"],
        }
        for group in trainer.optimizer.param_groups
    }
    return {
        "optimizer": {"name": plan.name, "momentum": plan.momentum, "reason": plan.reason, "groups": groups},
        "schedule": {
            "epochs": trainer.epochs,
            "batches": len(trainer.loader),
            "warmup_iterations": schedule.warmup,
            "warmup_bias_lr": plan.warmup_bias_lr,
            "accumulate": schedule.accumulate(schedule.warmup + 1),
            "shape": "cosine" if settings.cos_lr else "linear",
            "last_lr": plan.lr * settings.lrf,
        },
        "augmentation": {
            "chances": {name: getattr(recipe, name) for name in CHANCES},
            "ranges": {name: getattr(recipe, name) for name in RANGES},
            "without_mixing_from_epoch": max(trainer.epochs - settings.close_mosaic, 0) + 1,
        },
        "precision": str(trainer.precision or torch.float32)[6:],
        "device": str(trainer.device),
        "devices": trainer.run.world.size,
        "workers": workers_for(trainer.device, settings),
        "frozen": list(trainer.frozen),
        "weights": trainer.run.matched or "fresh",
        "parameters": sum(p.numel() for p in trainer.model.parameters()),
    }


def _tell(trainer: Trainer) -> None:
    found = effective(trainer)
    say, schedule, chances = trainer.run.say, found["schedule"], found["augmentation"]
    say(f"Optimizer: {trainer.plan}")
    if trainer.args.time:
        say(
            f"time={trainer.args.time:g} h: the number of epochs follows the clock; epochs={trainer.args.epochs} is where the count begins"
        )
    say(
        "Groups: "
        + "; ".join(
            f"{group['parameters']} {kind} (lr {group['lr']:g}, decay {group['weight_decay']:g})"
            for kind, group in found["optimizer"]["groups"].items()
        )
    )
    say(
        f"Schedule: {schedule['epochs']} epochs of {schedule['batches']} batches, {schedule['warmup_iterations']} warm-up iterations, "
        f"{schedule['shape']} to {trainer.args.lrf:g} of the rate, a step every {schedule['accumulate']} batches; {found['precision']}"
    )
    say(
        "Augmentation: "
        + _words(chances["chances"])
        + "; ranges: "
        + _words(chances["ranges"])
        + (
            f"; from epoch {chances['without_mixing_from_epoch']} on without {', '.join(MIXING)}"
            if trainer.args.close_mosaic
            else ""
        )
    )
    if trainer.frozen:
        shown = ", ".join(trainer.frozen[:6]) + (
            f" and {len(trainer.frozen) - 6} more" if len(trainer.frozen) > 6 else ""
        )
        say(f"Frozen: {shown}")
    if trainer.run.start is not None:
        say(f"Resumed at epoch {trainer.epoch + 1}, batch {trainer.batch + 1}")
    if trainer.run.world.main:
        folder, settings = trainer.save_dir, trainer.args
        write_text(
            folder / "args.yaml", yaml.safe_dump({**settings.as_dict(), "save_dir": str(folder)}, sort_keys=False)
        )
        write_text(folder / "effective.yaml", yaml.safe_dump(found, sort_keys=False, allow_unicode=True))


def _words(values: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:g}" for name, value in values.items() if value) or "none"
