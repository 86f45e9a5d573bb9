"""The training run, to be read from top to bottom.

Written from spec/interface.md section 6 with the choices of spec/families.md section 3.
"""

from __future__ import annotations

import contextlib
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch

from ..config.errors import UserError
from ..config.notes import print_note
from ..config.printable import say
from ..config.signals import Interrupts, exception_for
from ..data.augmentation.augment import Batch
from ..data.loading.loader import seed_of
from ..data.loading.workers import worker_death
from ..models.bitify import observe
from ..models.detector import odd_norms, rows_named
from ..models.weights.checkpoint import Checkpoint, load_checkpoint
from ..ops.nms import Suppression
from ..tasks.metrics import TaskMetrics
from ..val.loop import Hooks, ValOptions, progress, validate
from ..val.run import Validator
from .guard import MAX_RETURNS, SLOWER, NotFinite
from .optim import step_is_due
from .progress import BACKWARD, FORWARD, READING, STEP, VALIDATION, WRITING
from .setup import has_dropout, prepare, repeatable, set_training
from .trainer import Run, Trainer

try:
    import resource
except ImportError:  # Windows
    resource = None

REPAIR = "Look at the images named above, give a lower lr0 with an optimizer= of your choice, or amp=False."
OBSERVED = 0.8  # fraction of the epochs in which scales of quantised activations follow the batches
CLIP = 10.0  # largest global norm of a step's gradient


def train(run: Run) -> Trainer:
    """Train to the last epoch, the time limit or the end of patience; leaves weights/last.pt and weights/best.pt.

    A first Ctrl-C or SIGTERM ends the run after the step at hand, with last.pt written; KeyboardInterrupt or
    SystemExit. Raises UserError when steps stay without finite numbers, OSError when the folder cannot be written.
    """
    with Interrupts() as interrupts, repeatable(run.settings):
        trainer = prepare(run)
        run.loggers.begin(run.folder, _parameters(run), len(trainer.records.rows))
        trainer.fire("on_pretrain_routine_end")
        trainer.fire("on_train_start")
        while trainer.epoch < trainer.epochs and not trainer.stop:
            trainer.fire("on_train_epoch_start")
            try:
                _train_epoch(trainer, interrupts)
            except NotFinite as error:
                _return_to_checkpoint(trainer, error)
                continue
            except RuntimeError as error:  # torch reports a dead reading process in the middle of any computation
                if message := worker_death(error):
                    raise UserError(message) from error
                raise
            trainer.loader.bad.join(run.world.gather)
            trainer.fire("on_train_epoch_end")
            trainer.plan_epochs(trainer.epoch + 1, at_least=trainer.epoch + 1)
            is_last = trainer.epoch + 1 >= trainer.epochs
            measures = run.settings.val or is_last
            metrics = run.steps("validate", _validate, trainer, interrupts) if measures else None
            _finish_epoch(trainer, metrics)
            _stop_on_signal(trainer, interrupts)
        if trainer.guard.skipped and trainer.ema.updates == trainer.first_updates:
            raise UserError(
                f"Not one of {trainer.guard.skipped} steps had finite numbers: nothing was trained. {REPAIR}"
            )
        trainer.loader.bad.report()
        run.world.enter(WRITING)
        trainer.records.finish(trainer.guard.skipped)
    return trainer


def _parameters(run: Run) -> dict[str, object]:
    """What loggers get as the parameters of a run: its settings, and what the graph is."""
    graph = run.initial.model.graph
    return {**run.settings.as_dict(), "graph": graph.name, "graph_scale": graph.scale, "classes": graph.nc}


def _train_epoch(trainer: Trainer, interrupts: Interrupts) -> None:
    """Train on all training images once, or on the rest of an interrupted epoch; sums losses in trainer.tloss."""
    settings, batches = trainer.args, len(trainer.loader)
    set_training(trainer.model, trainer.frozen)
    observe(trainer.model, trainer.epoch < OBSERVED * trainer.epochs)
    recipe = trainer.recipe(closed=trainer.epoch >= trainer.epochs - settings.close_mosaic)
    closed = trainer.recipe(closed=False).mosaic > recipe.mosaic
    bar = progress(f"{trainer.epoch + 1}/{trainer.epochs}", trainer.run.world.main)(
        trainer.loader.epoch(trainer.epoch, recipe, trainer.batch), total=batches, initial=trainer.batch
    )
    schedule = replace(trainer.schedule, epochs=trainer.epochs, lr=trainer.schedule.lr * trainer.rate_factor)
    start, first_batch = time.perf_counter(), trainer.batch
    trainer.run.world.enter(READING)
    for batch, indices in bar:
        trainer.fire("on_train_batch_start")
        accumulate = schedule.apply(trainer.optimizer, trainer.iteration, trainer.epoch)
        due = step_is_due(trainer.iteration, trainer.last_step, accumulate)
        batch = trainer.run.steps("batch", _unchanged, trainer, batch, indices)
        losses = _backward(trainer, batch, due)
        trainer.guard.watch(sum(losses.values()), indices)
        trainer.pictures.train_batch(trainer.iteration, batch, closed=closed)
        trainer.loss_items = torch.stack([*losses.values()])
        trainer.tloss += trainer.loss_items.nan_to_num(0, 0, 0)
        trainer.counted += trainer.loss_items.isfinite().all()
        trainer.boxes += len(batch.labels)
        if due:
            trainer.run.steps("step", _step, trainer)
            trainer.last_step = trainer.iteration
        trainer.batch += 1
        trainer.fire("on_train_batch_end")
        if not bar.disable and trainer.batch % 10 == 0:
            bar.set_postfix_str(_losses_text(trainer))
        if trainer.batch < batches:
            _stop_on_signal(trainer, interrupts)
        trainer.run.world.enter(READING)
    seconds = time.perf_counter() - start
    images = min((batches - first_batch) * settings.batch, len(trainer.run.samples))
    without = "  (mosaic closed)" if closed else ""
    say(
        f"{trainer.epoch + 1:>5}/{trainer.epochs}  {_losses_text(trainer)}  {seconds:.1f} s, "
        f"{images / seconds:.1f} images/s, {_time_left(trainer)}{without}"
    )


def _backward(trainer: Trainer, batch: Batch, due: bool) -> dict[str, torch.Tensor]:
    """Forward and backward of one batch: the losses by name, without gradient.

    Gradients are shared between devices only where a step follows.
    """
    world = trainer.run.world
    world.enter(FORWARD)
    if has_dropout(trainer.model):  # it draws from torch's own generator, whose state no checkpoint holds
        torch.manual_seed(seed_of(trainer.args.seed, "dropout", trainer.epoch, trainer.batch, world.rank))
    with contextlib.nullcontext() if due else world.accumulating(trainer.network):
        losses = trainer.run.steps("losses", _losses, trainer, batch)
        total = sum(losses.values())
        if trainer.task.times_images:
            total = world.scale_loss(total * len(batch.images))
        world.enter(BACKWARD, waiting=True)
        trainer.scaler.scale(total).backward()
    return {name: loss.detach() for name, loss in losses.items()}


def _unchanged(trainer: Trainer, batch: Batch, indices: Sequence[int]) -> Batch:
    return batch


def _losses(trainer: Trainer, batch: Batch) -> dict[str, torch.Tensor]:
    """The losses of a batch by name, each with its gain."""
    is_autocast = trainer.precision is not None
    with rows_named(), torch.autocast(trainer.device.type, dtype=trainer.precision, enabled=is_autocast):
        raw = trainer.network(batch.images.contiguous(memory_format=torch.channels_last))
    factors = {"gains": trainer.gains, "class_weights": trainer.class_weights, **trainer.loss_options}
    return trainer.task.loss(raw, batch.labels, sizes=raw.sizes, strides=trainer.model.strides, **factors)


def _step(trainer: Trainer) -> None:
    """Step the optimizer by the gathered gradients, unless they are not finite. Raises NotFinite after several such."""
    scaler, guard, world = trainer.scaler, trainer.guard, trainer.run.world
    scaler.unscale_(trainer.optimizer)
    norm = torch.nn.utils.clip_grad_norm_(trainer.model.parameters(), CLIP)
    finite = world.all(guard.is_finite(norm))  # waits for the device, and so for the exchange
    world.enter(STEP)
    overflow = not finite and scaler.is_enabled() and world.all(guard.losses_are_finite())
    if finite or overflow:  # the scaler itself leaves out a step whose gradients overflow
        trainer.fire("optimizer_step")
        scaler.step(trainer.optimizer)
    scaler.update()  # lowers the scale after an overflow
    trainer.fire("on_before_zero_grad")
    trainer.optimizer.zero_grad()
    if finite:
        trainer.ema.update(trainer.model)
        guard.accept()
    elif overflow and scaler.get_scale() >= 1:
        guard.overflowed()
    else:
        guard.skip(f"epoch {trainer.epoch + 1}, batch {trainer.batch + 1}")


def _validate(trainer: Trainer, interrupts: Interrupts) -> TaskMetrics:
    """Validate the averaged weights."""
    settings, world, model = trainer.args, trainer.run.world, trainer.ema.model
    world.enter(VALIDATION)
    world.broadcast_buffers(model)  # rank 0 writes the files, so its statistics count
    validator = trainer.validator = Validator(settings, trainer.save_dir, trainer.val_loader, trainer.device, model)

    def notify(event: str) -> None:
        if event != "on_val_end":  # fired below, when the validator has its metrics
            trainer.fire(event, validator)
        world.enter(VALIDATION)
        # Ranks may have different numbers of batches, so several processes handle a signal only after validation.
        if event == "on_val_batch_end" and world.size == 1:
            _stop_on_signal(trainer, interrupts)

    rule = Suppression(conf=trainer.task.conf, iou=settings.iou, max_det=settings.max_det, multi_label=True)
    options = ValOptions(rule, trainer.gains, trainer.precision, loss_options=trainer.loss_options)
    hooks = Hooks(progress("val", world.main), notify, gather=world.gather)
    samples, loader = trainer.run.val_samples, trainer.val_loader
    validator.metrics = validate(model, samples, loader, options, task=trainer.task, hooks=hooks).metrics
    trainer.fire("on_val_end", validator)
    return validator.metrics


def _finish_epoch(trainer: Trainer, metrics: TaskMetrics | None) -> None:
    """Record a finished epoch, decide whether it was the last, and write the checkpoints."""
    records, epoch = trainer.records, trainer.epoch
    trainer.run.world.enter(WRITING)
    trainer.tloss = trainer.run.world.mean(trainer.tloss / trainer.counted)  # nan where no batch was finite
    losses = (metrics.losses or {}) if metrics is not None else {}
    numbers = metrics.results_dict if metrics is not None else {}
    trainer.metrics = {**numbers, **{f"val/{name}": value for name, value in losses.items()}}
    row = records.row(epoch, trainer.tloss.tolist(), metrics, list(trainer.lr.values()))
    trainer.run.steps("record", _record, trainer, row)
    improved = records.judge(epoch, metrics)
    reason = records.stop_reason(epoch)
    if reason and epoch + 1 < trainer.epochs:
        say(reason)
    trainer.run.world.average_gradients(trainer.model)
    sums = {"losses": torch.zeros(len(trainer.task.losses)), "counted": 0.0, "boxes": 0}
    at_next_epoch = {**trainer.state(), **sums, "epoch": epoch + 1, "batch": 0, "ended": reason}
    trainer.run.steps("save", _save, trainer, checkpoint_of(trainer, epoch), at_next_epoch, improved)
    trainer.run.loggers.epochs(records.columns, records.rows)
    trainer.fire("on_model_save")
    trainer.fire("on_fit_epoch_end")
    trainer.stop = trainer.run.world.any(trainer.stop or bool(reason))
    trainer.clear_sums()
    trainer.batch, trainer.epoch = 0, epoch + 1


def _record(trainer: Trainer, row: Mapping[str, float]) -> None:
    trainer.records.write(row)


def _save(trainer: Trainer, weights: Checkpoint, state: Mapping[str, object], improved: bool) -> None:
    trainer.records.save(weights, state, improved=improved)


def checkpoint_of(trainer: Trainer, epoch: int) -> Checkpoint:
    """The averaged weights as a checkpoint; epoch: the last finished one, from 0."""
    model = trainer.model
    return Checkpoint(
        graph=model.graph,
        state=trainer.ema.model.state_dict(),
        settings={**trainer.args.as_dict(), "save_dir": str(trainer.save_dir)},
        metrics=trainer.metrics,
        epoch=epoch,
        license=trainer.run.initial.license,
        norms=odd_norms(trainer.ema.model),
        measured=(model.strides, model.multiple),
    )


def _stop_on_signal(trainer: Trainer, interrupts: Interrupts) -> None:
    """End the run here where a signal was received; last.pt then has all that was trained.

    Raises KeyboardInterrupt or SystemExit.
    """
    if not trainer.run.world.any(interrupts.received is not None):
        return
    received = interrupts.received or signal.SIGTERM  # of another process
    trainer.run.world.enter(WRITING)
    if trainer.epoch >= trainer.epochs or (trainer.stop and trainer.batch == 0):  # all epochs are trained and written
        say(
            f"{received.name}: stopped after the last epoch, before the final measurement, which follows with: "
            f"bitfalcon train resume={trainer.last}"
        )
        raise exception_for(received)
    trainer.run.world.average_gradients(trainer.model)
    trainer.tloss = trainer.run.world.mean(trainer.tloss)
    trainer.records.save_last(checkpoint_of(trainer, trainer.epoch - 1), trainer.state())
    say(
        f"{received.name}: stopped in epoch {trainer.epoch + 1} after {trainer.batch} of {len(trainer.loader)} "
        f"batches. To go on: bitfalcon train resume={trainer.last}"
    )
    raise exception_for(received)


def _return_to_checkpoint(trainer: Trainer, error: NotFinite) -> None:
    """Restore the last checkpoint and train on with a lower rate. Raises UserError where that is not possible."""
    guard = trainer.guard
    report = f"Training does not stay finite: {error}. "
    if not trainer.records.has_own_checkpoint or not trainer.last.is_file() or not trainer.args.save:
        raise UserError(f"{report}This run has no checkpoint to return to. {REPAIR}")
    if guard.returned >= MAX_RETURNS:
        raise UserError(
            f"{report}Going back {MAX_RETURNS} times with a lower rate did not help; {trainer.last} is the last good "
            f"checkpoint. {REPAIR}"
        )
    rate_factor, skipped, returned = trainer.rate_factor * SLOWER, guard.skipped, guard.returned + 1
    checkpoint = load_checkpoint(trainer.last)
    trainer.restore(checkpoint.training, checkpoint.state)
    # Keep these counters: the checkpoint holds older values.
    trainer.rate_factor, guard.skipped, guard.returned, guard.in_a_row = rate_factor, skipped, returned, 0
    epoch = trainer.epoch + 1
    print_note(f"{report}Back to epoch {epoch} of {trainer.last}, with {rate_factor:g} of the learning rate.")


def _losses_text(trainer: Trainer) -> str:
    """Memory, mean losses of the epoch so far, objects and image size, for the progress bar and an epoch's line."""
    losses = (trainer.tloss / trainer.counted).tolist()
    values = "  ".join(f"{name} {value:.4f}" for name, value in zip(trainer.task.losses, losses, strict=True))
    return f"{_memory(trainer.device)}{values}  {trainer.task.counted} {trainer.boxes}  size {trainer.args.imgsz}"


def _memory(device: torch.device) -> str:
    """The highest memory use so far: of the GPU, or of this process."""
    if device.type == "cuda":
        return f"{torch.cuda.max_memory_reserved(device) / 2**30:.1f} GiB  "
    if resource is None:
        return ""
    unit = 1 if sys.platform == "darwin" else 1024  # bytes on macOS, KiB elsewhere
    return f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30:.1f} GiB  "


def _time_left(trainer: Trainer) -> str:
    """How long the remaining epochs will take at the pace so far."""
    done = trainer.epoch + 1
    if done >= trainer.epochs:
        return "last epoch"
    seconds = trainer.records.seconds / done * (trainer.epochs - done)
    return f"{seconds / 60:.0f} min left" if seconds >= 60 else f"{seconds:.0f} s left"
