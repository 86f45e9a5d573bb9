"""From a Run to its Trainer: loaders, optimizer, schedule, precision, frozen rows, deterministic kernels."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial

import torch
from torch import Tensor, nn

from ..config.errors import blaming, raise_problems
from ..config.files import remove_leftovers
from ..config.notes import print_note
from ..config.printable import say
from ..config.settings import Settings
from ..data.loading.loader import Reading, TrainLoader, ValLoader, workers_for
from ..models.detector import Detector
from ..models.inference.compiling import compile_network
from ..models.inference.precision import has_codes, training_precision
from ..tasks import task_of
from ..tasks.detect import class_weights
from ..val.pictures import Pictures
from ..val.run import LAST_FILE
from . import optim
from .effective import report_effective
from .guard import Guard
from .records import Records
from .step_gain import step_gain
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
    example = f"{last}.{next(name for name, _ in model.head.named_children())}"
    if isinstance(rows, int):
        parts = [str(row) for row in range(min(rows, last + 1))]
    elif isinstance(rows, str):
        parts = [rows]
    else:
        parts = [str(part) for part in rows or ()]
    names = [name for name, _ in model.named_modules()]
    matches = {part: _matches(names, part) for part in parts}
    problems = [
        f"freeze={part}: no part of the model is called that; rows are 0 to {last}, names are like {example}"
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


def set_dropout(model: Detector, share: float) -> None:
    """Set the share of features that the head sets to 0 in training, where it has such a layer."""
    layer = getattr(model.model[-1], "dropout", None)
    if isinstance(layer, nn.Dropout):
        layer.p = share


PRECISIONS = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}  # of autocast


def has_dropout(model: Detector) -> bool:
    """Whether training sets features to 0 at random."""
    return any(
        isinstance(module, (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)) and module.p > 0
        for module in model.modules()
    )


def prepare(run: Run) -> Trainer:
    """Build all parts of a run, restore the state that it starts from, print and save the effective settings."""
    settings, model, device, main = run.settings, run.initial.model, run.device, run.world.main
    if main:
        remove_leftovers(run.folder)
        remove_leftovers(run.folder / "weights")
        (run.folder / LAST_FILE).unlink(missing_ok=True)  # of an earlier end of the run
    model.to(device, memory_format=torch.channels_last)
    model.checkpointing = settings.checkpointing
    frozen = freeze(model, settings.freeze)
    set_training(model, frozen)
    set_dropout(model, settings.dropout)
    loader, val_loader = run.steps("loaders", _loaders, run)
    with _resuming(run):
        optimizer, plan = run.steps("optimizer", _optimizer, run)
        precision = _precision(run)
    # the copy is made before _network, which may change batch norms
    rule = task_of(model).average
    ema = optim.Ema(model, optim.AVERAGES[rule].tuned if run.initial.tuned else 0, rule)
    trainer = Trainer(
        run=run,
        loader=loader,
        val_loader=val_loader,
        frozen=frozen,
        precision=precision,
        scaler=torch.amp.GradScaler(device.type, enabled=precision is torch.float16),
        ema=ema,
        network=_network(run),
        optimizer=optimizer,
        plan=plan,
        schedule=_schedule(settings, len(loader), plan),
        class_weights=_class_weights(run),
        guard=Guard(model, lambda indices: [str(run.samples[index].image) for index in indices]),
        records=Records(run.folder, settings, task_of(model), main),
        pictures=run.steps("pictures", Pictures, run.folder, model.names, settings.plots and main),
    )
    trainer.fire("on_pretrain_routine_start")
    if run.start is not None:
        with _resuming(run):
            trainer.restore(run.start, run.start["average"])
        trainer.stop = run.start["finished"]
        if settings.time and not trainer.stop:
            trainer.epochs = run.start["epochs"]
            trainer.plan_epochs(trainer.epoch, at_least=trainer.epoch + 1)
    if trainer.task.objects:
        trainer.pictures.labels(run.samples)
    report_effective(trainer)
    return trainer


def _resuming(run: Run) -> AbstractContextManager:
    """Blame the file of a resumed run for what its state raises: it may be somebody else's."""
    return nullcontext() if run.start is None else blaming(run.folder / "weights" / "last.pt")


def _precision(run: Run) -> torch.dtype | None:
    """The type of autocast; a resumed run keeps its own where amp= and the kind of device are the same."""
    settings, model, world = run.settings, run.initial.model, run.world
    before = (run.start or {}).get("precision")
    if before and before["asked"] == [settings.amp, run.device.type]:
        dtype = PRECISIONS[before["name"]]
        return None if dtype is torch.float32 else dtype
    if not world.main:
        return world.broadcast(None)
    # layers of codes need all digits of their scales
    gain = (
        (lambda: 1.0) if has_codes(model) else partial(step_gain, model, settings.imgsz, settings.batch // world.size)
    )
    return world.broadcast(training_precision(settings, run.device, gain=gain))


def _network(run: Run) -> Callable[[Tensor], Mapping[str, Tensor]]:
    """What is called for outputs in training: the model, distributed over the processes and compiled as asked for."""
    model, world, settings = run.initial.model, run.world, run.settings
    if settings.sync_bn:
        if world.size == 1:
            print_note("sync_bn=True is for several GPUs; one device sees the whole batch.")
        elif run.device.type != "cuda":
            print_note("sync_bn=True needs several GPUs; every process normalises over its own images.")
        else:
            model = world.synchronise_norms(model)
    return compile_network(world.wrap(model), settings.compile, in_place=False)


def _class_weights(run: Run) -> Tensor | None:
    """The weights of the classes in the loss, by their frequency in the training labels; None where all are 1."""
    labels = torch.cat([sample.labels.classes for sample in run.samples])
    weights = class_weights(torch.bincount(labels, minlength=run.initial.model.nc), run.settings.cls_pw)
    return None if weights is None else weights.to(run.device)


def _loaders(run: Run) -> tuple[TrainLoader, ValLoader]:
    settings, world, multiple = run.settings, run.world, run.initial.model.multiple
    form = task_of(run.initial.model).data
    how = workers_for(run.device, settings), settings.cache, world.rank, world.size, settings.on_bad_image
    reading = Reading(run.device, *how)
    train = form.train_loader(run.samples, reading, settings, multiple)
    batch = 2 * settings.batch // world.size or 1
    val = form.val_loader(run.val_samples, reading, settings, imgsz=settings.imgsz, batch=batch, multiple=multiple)
    for loader in (train, val):
        if loader.note:
            say(loader.note)
    return train, val


def _optimizer(run: Run) -> tuple[torch.optim.Optimizer, optim.OptimizerPlan]:
    settings, model, plan_before = run.settings, run.initial.model, (run.start or {}).get("plan")
    groups = optim.parameter_groups(model, optim.scaled_decay(settings.weight_decay, settings.batch, settings.nbs))
    name, values = settings.optimizer, {"lr": settings.lr0}
    values |= {key: getattr(settings, key) for key in ("momentum", "warmup_bias_lr")}
    bias_lr = None if run.initial.matched else task_of(model).bias_lr  # weights that are taken over would suffer
    if bias_lr is not None and "warmup_bias_lr" not in settings.given:
        values["warmup_bias_lr"] = bias_lr
    if plan_before:
        values["warmup_bias_lr"] = plan_before["warmup_bias_lr"]
    if plan_before and name.lower() == "auto":  # a resumed run keeps its optimizer, also where epochs= changes
        name, values = plan_before["name"], {key: plan_before[key] for key in values}
    values |= {"auto_bias_lr": bias_lr or 0.0, "nc": model.nc}
    iterations = optim.planned_iterations(len(run.samples), settings.batch, settings.nbs, settings.epochs)
    return optim.choose_optimizer(name, groups, iterations=iterations, **values)


def _schedule(settings: Settings, batches: int, plan: optim.OptimizerPlan) -> optim.Schedule:
    names = ("epochs", "batch", "nbs", "lrf", "cos_lr", "warmup_epochs", "warmup_momentum", "warmup_floor")
    from_settings = {name: getattr(settings, name) for name in names}
    from_plan = {name: getattr(plan, name) for name in ("lr", "momentum", "warmup_bias_lr")}
    return optim.Schedule(batches=batches, **from_settings, **from_plan)
