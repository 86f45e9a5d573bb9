"""The training run, to be read from top to bottom.

Written from spec/interface.md section 6 with the choices of spec/families.md section 3.
"""

from __future__ import annotations

import math
import os
import random
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
import yaml
from torch import Tensor
from tqdm import tqdm

from ..config import Settings
from ..data.augment import Recipe
from ..data.dataset import Sample
from ..data.loader import TrainLoader, ValLoader
from ..errors import UserError
from ..files import write_text
from ..model import Detector
from ..validate import Metrics, validate
from .assign import Targets
from .loss import Gains, detection_loss
from .optim import Ema, Schedule, choose_optimizer, parameter_groups, planned_iterations, scaled_decay, step_is_due
from .records import Records

CLIP = 10.0  # largest global norm of a step's gradient
PRECISIONS = {True: torch.float16, "fp16": torch.float16, "bf16": torch.bfloat16, False: None, "fp32": None}


@dataclass
class Run:
    """What a training run is made of. resumed: the training state of the checkpoint it goes on from, and its next epoch."""

    model: Detector
    settings: Settings
    samples: Sequence[Sample]
    val_samples: Sequence[Sample]
    folder: Path
    device: torch.device
    license: str | None = None
    say: Callable[[str], None] = print
    epoch: int = 0
    resumed: dict[str, object] | None = None


@dataclass
class Engine:
    """The moving parts of a run. last_step: iteration of the optimizer's last step, -1 before the first."""

    loader: TrainLoader
    val_loader: ValLoader
    optimizer: torch.optim.Optimizer
    schedule: Schedule
    scaler: torch.amp.GradScaler
    ema: Ema
    precision: torch.dtype | None
    last_step: int = -1
    rates: list[float] = field(default_factory=list)


def train(run: Run) -> Records:
    """Train to the last epoch, the time limit or the end of patience; leaves weights/last.pt and weights/best.pt.

    Raises UserError when the loss is not finite or the folder cannot be written.
    """
    settings = run.settings
    _seed(settings.seed)
    engine = _prepare(run)
    records = Records(run.folder, settings, run.license, run.say)
    if run.resumed is not None:
        engine.last_step = records.restore(run.resumed, run.model, engine.optimizer, engine.scaler, engine.ema)
    write_text(run.folder / "args.yaml", yaml.safe_dump({**settings.as_dict(), "save_dir": str(run.folder)}, sort_keys=False))
    for epoch in range(run.epoch, settings.epochs):
        losses = _train_epoch(run, engine, epoch)
        metrics = _measure(run, engine) if settings.val or epoch + 1 == settings.epochs else None
        records.add(epoch, losses, metrics, engine.rates)
        records.save(epoch, run.model, engine.optimizer, engine.scaler, engine.ema, engine.last_step)
        if (reason := records.stop_reason(epoch)) and epoch + 1 < settings.epochs:
            run.say(reason)
            break
    records.finish()
    return records


def _prepare(run: Run) -> Engine:
    settings, model = run.settings, run.model
    model.to(run.device, memory_format=torch.channels_last).train()
    precision = PRECISIONS[settings.amp] if run.device.type == "cuda" else None
    workers = workers_for(run.device, settings)
    loader = TrainLoader(run.samples, imgsz=settings.imgsz, batch=settings.batch, workers=workers, seed=settings.seed,
                         device=run.device)
    val_loader = ValLoader(run.val_samples, imgsz=settings.imgsz, batch=2 * settings.batch, stride=model.multiple,
                           workers=workers, device=run.device)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(".dfl." not in name)  # a fixed expectation, never trained
    groups = parameter_groups(model, scaled_decay(settings.weight_decay, settings.batch, settings.nbs))
    optimizer, plan = choose_optimizer(
        settings.optimizer, groups, lr=settings.lr0, momentum=settings.momentum, warmup_bias_lr=settings.warmup_bias_lr,
        iterations=planned_iterations(len(run.samples), settings.batch, settings.nbs, settings.epochs), nc=model.nc)
    schedule = Schedule(settings.epochs, len(loader), settings.batch, settings.nbs, plan.lr, plan.momentum, settings.lrf,
                        settings.cos_lr, settings.warmup_epochs, settings.warmup_momentum, plan.warmup_bias_lr,
                        settings.warmup_floor)
    counts = ", ".join(f"{len(group['params'])} {group['kind']}" for group in groups)
    run.say(f"Optimizer: {plan}; parameters: {counts}")
    run.say(f"Schedule: {settings.epochs} epochs of {len(loader)} batches, {schedule.warmup} warm-up iterations, "
            f"{'cosine' if settings.cos_lr else 'linear'} to {settings.lrf:g} of the rate, a step every "
            f"{schedule.accumulate(schedule.warmup + 1)} batches")
    scaler = torch.amp.GradScaler(run.device.type, enabled=precision is torch.float16)
    return Engine(loader, val_loader, optimizer, schedule, scaler, Ema(model), precision)


def _train_epoch(run: Run, engine: Engine, epoch: int) -> list[float]:
    """One pass over the training images; returns the mean box, cls and dfl losses."""
    settings, model, optimizer, scaler = run.settings, run.model, engine.optimizer, engine.scaler
    model.train()
    gains, batches, start = gains_of(settings), len(engine.loader), time.perf_counter()
    recipe = recipe_of(settings, closed=epoch >= settings.epochs - settings.close_mosaic)
    total, boxes = torch.zeros(3, device=run.device), 0
    bar = progress(f"{epoch + 1}/{settings.epochs}")(engine.loader.epoch(epoch, recipe), total=batches)
    for number, (batch, _) in enumerate(bar):
        iteration = epoch * batches + number
        accumulate = engine.schedule.apply(optimizer, iteration, epoch)
        with torch.autocast(run.device.type, dtype=engine.precision, enabled=engine.precision is not None):
            raw = model(batch.images.contiguous(memory_format=torch.channels_last))
        losses = detection_loss(raw, raw.sizes, model.strides, Targets(batch.boxes, batch.classes, batch.owner), gains=gains)
        scaler.scale(losses.total).backward()
        if step_is_due(iteration, engine.last_step, accumulate):
            scaler.unscale_(optimizer)
            torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
            engine.ema.update(model)
            engine.last_step = iteration
        total += torch.stack(losses[:3])
        boxes += len(batch.boxes)
        if not bar.disable and number % 10 == 0:
            bar.set_postfix_str(_summary(total / (number + 1), boxes, recipe.imgsz, run.device))
    means = (total / batches).tolist()
    if not all(map(math.isfinite, means)):
        raise UserError(f"The loss is not finite after epoch {epoch + 1} ({means}); last.pt holds the epoch before. Give a lower "
                        "lr0 with an optimizer of your choice, or amp=False.")
    engine.rates = [group["lr"] for group in optimizer.param_groups]
    run.say(f"{epoch + 1:>5}/{settings.epochs}  {_summary(total / batches, boxes, recipe.imgsz, run.device)}  "
            f"{time.perf_counter() - start:.1f} s{'' if recipe.mosaic or not settings.mosaic else '  (mosaic closed)'}")
    return means


def _measure(run: Run, engine: Engine) -> Metrics:
    settings = run.settings
    return validate(engine.ema.model, run.val_samples, engine.val_loader, iou=settings.iou, max_det=settings.max_det,
                    gains=gains_of(settings), autocast=engine.precision, progress=progress("val"))


def recipe_of(settings: Settings, closed: bool) -> Recipe:
    """The augmentation of an epoch; `closed` leaves out what mixes several images."""
    recipe = Recipe(imgsz=settings.imgsz, mosaic=settings.mosaic, degrees=settings.degrees, translate=settings.translate,
                    scale=settings.scale, shear=settings.shear, perspective=settings.perspective, hsv_h=settings.hsv_h,
                    hsv_s=settings.hsv_s, hsv_v=settings.hsv_v, flipud=settings.flipud, fliplr=settings.fliplr,
                    mixup=settings.mixup, bgr=settings.bgr)
    return replace(recipe, mosaic=0.0, mixup=0.0) if closed else recipe


def gains_of(settings: Settings) -> Gains:
    """The weights of the three losses."""
    return Gains(settings.box, settings.cls, settings.dfl)


def workers_for(device: torch.device, settings: Settings) -> int:
    """Loader processes: none on the CPU (they would take its cores from the network) unless asked for."""
    if device.type == "cpu" and "workers" not in settings.given:
        return 0
    return min(settings.workers, os.cpu_count() or 1)


def progress(label: str) -> Callable:
    """A tqdm bar that is there on a terminal only and leaves nothing behind."""
    return partial(tqdm, desc=f"{label:>9}", leave=False, disable=not sys.stderr.isatty(), dynamic_ncols=True)


def _summary(losses: Tensor, boxes: int, imgsz: int, device: torch.device) -> str:
    box, cls, dfl = losses.tolist()
    memory = f"{torch.cuda.max_memory_reserved(device) / 2**30:.1f} GiB  " if device.type == "cuda" else ""
    return f"{memory}box_loss {box:.4f}  cls_loss {cls:.4f}  dfl_loss {dfl:.4f}  boxes {boxes}  size {imgsz}"


def _seed(seed: int) -> None:
    # Rank 0 of the reference; batches and augmentation are seeded by (seed, epoch, batch) in the loader.
    random.seed(seed + 1)
    np.random.seed(seed + 1)
    torch.manual_seed(seed + 1)
