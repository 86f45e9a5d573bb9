"""What a run really does, after all defaults and rules: effective.yaml, and the lines printed before training."""

from __future__ import annotations

from collections.abc import Mapping

import yaml

from ..config.files import write_text
from ..config.printable import say
from ..data.loading.loader import workers_for
from .trainer import Trainer

MAX_NAMES = 6  # frozen parts in the printed line


def effective(trainer: Trainer) -> dict[str, object]:
    """What the run does, as plain values: the content of effective.yaml."""
    settings, plan, schedule = trainer.args, trainer.plan, trainer.schedule
    recipe = trainer.recipe(closed=False)
    augmentation = recipe.described()
    if recipe.mixing:
        augmentation["without_mixing_from_epoch"] = max(trainer.epochs - settings.close_mosaic, 0) + 1
    groups = {}
    for group in trainer.optimizer.param_groups:
        parameters = group["params"]
        sizes = {"parameters": len(parameters), "values": sum(p.numel() for p in parameters)}
        groups[group["kind"]] = {**sizes, "lr": plan.lr, "weight_decay": group["weight_decay"]}
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
        "augmentation": augmentation,
        "precision": trainer.precision_name,
        "device": str(trainer.device),
        "devices": trainer.run.world.size,
        "workers": workers_for(trainer.device, settings),
        "frozen": list(trainer.frozen),
        "weights": trainer.run.initial.matched or "fresh",
        "parameters": sum(p.numel() for p in trainer.model.parameters()),
    }


def report_effective(trainer: Trainer) -> None:
    """Print what the run does; on rank 0 also write args.yaml and effective.yaml into its folder."""
    values, settings, folder = effective(trainer), trainer.args, trainer.save_dir
    for line in _lines(trainer, values):
        say(line)
    if trainer.run.world.main:
        given = {**settings.as_dict(), "save_dir": str(folder)}
        write_text(folder / "args.yaml", yaml.safe_dump(given, sort_keys=False))
        write_text(folder / "effective.yaml", yaml.safe_dump(values, sort_keys=False, allow_unicode=True))


def _lines(trainer: Trainer, values: Mapping) -> list[str]:
    settings, frozen = trainer.args, trainer.frozen
    schedule, augmentation = values["schedule"], values["augmentation"]
    lines = [f"Optimizer: {trainer.plan}"]
    if settings.time:
        lines.append(
            f"time={settings.time:g} h: the number of epochs follows the clock; epochs={settings.epochs} is where the "
            "count begins"
        )
    groups = (
        f"{group['parameters']} {kind} (lr {group['lr']:g}, decay {group['weight_decay']:g})"
        for kind, group in values["optimizer"]["groups"].items()
    )
    lines.append("Groups: " + "; ".join(groups))
    lines.append(
        f"Schedule: {schedule['epochs']} epochs of {schedule['batches']} batches, {schedule['warmup_iterations']} "
        f"warm-up iterations, {schedule['shape']} to {settings.lrf:g} of the rate, a step every "
        f"{schedule['accumulate']} batches; {values['precision']}"
    )
    line = f"Augmentation: {_listed(augmentation['chances'])}; ranges: {_listed(augmentation['ranges'])}"
    if policy := augmentation.get("policy"):
        line += f"; policy {policy}"
    if settings.close_mosaic and (mixing := trainer.recipe(closed=False).mixing):
        line += f"; from epoch {augmentation['without_mixing_from_epoch']} on without {', '.join(mixing)}"
    lines.append(line)
    if frozen:
        more = f" and {len(frozen) - MAX_NAMES} more" if len(frozen) > MAX_NAMES else ""
        lines.append(f"Frozen: {', '.join(frozen[:MAX_NAMES])}{more}")
    if trainer.stop:
        lines.append(f"All {trainer.epoch} epochs are trained; the final measurement follows")
    elif trainer.run.start is not None:
        lines.append(f"Resumed at epoch {trainer.epoch + 1}, batch {trainer.batch + 1}")
    return lines


def _listed(values: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:g}" for name, value in values.items() if value) or "none"
