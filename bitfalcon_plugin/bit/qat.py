"""Fine-tune a ternary model with the quantisation in the loop, by an ordinary training run (spec/bit.md section 4.6).

Fine-tuning adds to a run: a schedule, a start from weights with measured scales, a log of how the codes move, and at
the end the choice between averaged and raw weights, each with statistics of the batch norms measured anew.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from ..config.callbacks import Events
from ..config.devices import select_device, select_devices
from ..config.errors import UserError
from ..config.printable import say
from ..config.settings import Settings, load_settings
from ..data.dataset import Sample
from ..data.from_settings import class_names, find_data, legal_side, same_classes, scan_split
from ..export.formats import ModelKind, model_kind
from ..models.bitify import bitify
from ..models.build import task_of_graph
from ..models.detector import Detector, odd_norms
from ..models.graph.bit_policy import NOTHING
from ..models.inference.prepare import fold_for_inference
from ..models.weights.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from ..models.weights.foreign import open_checkpoint
from ..tasks import task_named
from ..tasks.metrics import TaskMetrics
from ..train.optim import auto_rule, planned_iterations
from ..train.resume import is_finished, recorded_settings, to_resume
from ..train.run import Result, run_train
from ..val.run import validate_samples
from .calibration import calibrate, calibration_images
from .code_log import CodeLog

EPOCH_SHARE, MIN_EPOCHS = 0.15, 10  # epochs: this share of the float model's epochs, and at least so many
UNKNOWN_EPOCHS = 20  # where the checkpoint does not say how long the float model was trained
PEAK = 0.5  # highest learning rate, as a share of the float run's
LAST = 0.02  # learning rate of the last epoch, as a share of the highest
SGD_RATE, LONG_RATE = 0.01, 0.001  # float peaks of optimizers that the user names: SGD; Adam and its kind in long runs
NOT_OF_TRAINING = {"step", "bit", "keep"}  # settings that a training run does not have
AS_TRAINED = "best.pt as trained"  # the weights that training itself has chosen


@dataclass(frozen=True)
class Tuned:
    """The result of fine-tuning: file, metrics and kind of the chosen weights. candidates: Metrics.main of
    each kind."""

    path: Path
    metrics: TaskMetrics
    kind: str
    candidates: Mapping[str, float]


def schedule_of(settings: Settings, checkpoint: Checkpoint, images: int) -> dict[str, object]:
    """Return the settings of section 4.6 that the user did not give: epochs, rate, its shape, warm-up, end of mosaic.

    images: of the training split. A step follows every batch, because the number of steps is what brings accuracy back
    (BCCD, bit=all, 15 epochs: AP 0.528, with one step every four batches 0.472).
    """
    fixed = set(settings.given)
    if settings.optimizer.lower() == "auto":
        fixed.discard("optimizer")
    epochs = settings.epochs if "epochs" in fixed else _planned_epochs(checkpoint)
    batch = int(settings.batch)
    name, rate = auto_rule(planned_iterations(images, batch, batch, epochs), checkpoint.graph.nc)
    if "optimizer" in fixed:
        name, rate = settings.optimizer, _float_rate(settings.optimizer, LONG_RATE if name == "SGD" else rate)
    schedule = {
        "epochs": epochs,
        "optimizer": name,
        "lr0": round(PEAK * rate, 7),
        "momentum": 0.9,
        "lrf": LAST,
        "cos_lr": True,
        "nbs": batch,
        "warmup_epochs": 1,
        "warmup_floor": 0,
        "warmup_bias_lr": 0.0,
        "close_mosaic": -(-epochs // 3),
        "patience": 0,
    }
    return {key: value for key, value in schedule.items() if key not in fixed or key == "epochs"}


def _planned_epochs(checkpoint: Checkpoint) -> int:
    epochs = checkpoint.settings.get("epochs")
    return max(MIN_EPOCHS, round(EPOCH_SHARE * epochs)) if isinstance(epochs, int) else UNKNOWN_EPOCHS


def _float_rate(optimizer: str, adam_rate: float) -> float:
    """Return the peak learning rate that a float run with this optimizer would have."""
    return SGD_RATE if optimizer.lower() in ("sgd", "rmsprop") else adam_rate


def run_qat(settings: Settings, events: Events | None = None) -> Tuned:
    """Make layers of model= ternary (bit=, keep=), measure their scales, fine-tune, and keep the best weights.

    resume= goes on with an interrupted run. bit=none fine-tunes the float model by the same schedule, for comparison.
    Raises UserError for mistakes in the settings.
    """
    events = events or Events()
    log = CodeLog()
    events.add("on_train_start", log.start)
    events.add("on_train_epoch_end", log.add_epoch)
    if settings.resume:
        path = to_resume(settings)
        if "epochs" not in settings.given and is_finished(last := load_checkpoint(path)):
            return _finish_ended_run(path, last, settings)
        return _finish_run(run_train(_training(settings.replace(resume=str(path)), {}), None, events))
    _check(settings)
    checkpoint = open_checkpoint(settings.model).to_train(settings.model)
    form = task_named(task_of_graph(checkpoint.graph)).data
    data, settings = find_data(settings, form)
    same_classes(checkpoint.graph.names, class_names(settings, data), data)
    samples = scan_split(data, "train", settings, form).samples
    start = ternary_start(checkpoint, settings, samples)
    training = _training(settings, schedule_of(settings, checkpoint, len(samples)))
    return _finish_run(run_train(training, start, events))


def _check(settings: Settings) -> None:
    if settings.model is None or model_kind(settings.model) is not ModelKind.CHECKPOINT:
        raise UserError(
            "bit mode=qat starts from trained weights: give model=best.pt. To train a ternary model from nothing: "
            "bitfalcon train model=yolov12.yaml bit=head ."
        )
    if settings.batch < 1:
        raise UserError(
            f"bit mode=qat batch={settings.batch:g}: expected a number of images, for example batch=16; "
            "a step follows each batch."
        )
    if len(select_devices(settings.device)) > 1:
        raise UserError(
            "bit mode=qat works on one device; several can train: bitfalcon train model=... bit=... device=0,1 ."
        )


def ternary_start(checkpoint: Checkpoint, settings: Settings, samples: Sequence[Sample]) -> Checkpoint:
    """Return the weights to fine-tune: the layers of bit= (default: head) ternary, scales and norms measured.

    samples: training images to measure on.
    """
    bit = settings.bit or "head"
    if bit == NOTHING:
        return checkpoint
    model = checkpoint.model().to(select_device(settings.device))
    settings = legal_side(settings, model.multiple)
    say(f"bit={bit}: {bitify(model, bit, settings.keep or 'default').total()}")
    batches = calibrate(model, calibration_images(samples, settings, model))
    say(f"Scales of activations and statistics of batch norms measured over {batches} batches of training images")
    return as_checkpoint(model, checkpoint)


def as_checkpoint(model: Detector, source: Checkpoint) -> Checkpoint:
    """Return a model's weights as a Checkpoint with the names, settings, metrics and licence of `source`."""
    return replace(
        source,
        graph=model.graph,
        state={name: tensor.detach().cpu() for name, tensor in model.state_dict().items()},
        norms=odd_norms(model),
        measured=(model.strides, model.multiple),
        compared=False,
        training=None,
    )


def _training(settings: Settings, schedule: Mapping[str, object]) -> Settings:
    """Return the settings of the training run; the schedule comes before what the user gave."""
    chosen = settings.given_values(without=NOT_OF_TRAINING)
    return load_settings({**chosen, **schedule, "mode": "train"})


def _finish_ended_run(path: Path, last: Checkpoint, typed: Settings) -> Tuned:
    """Choose the weights of a run that ended after its last epoch, before its weights were compared."""
    form = task_named(task_of_graph(last.graph)).data
    data, settings = find_data(recorded_settings(last, typed.given_values()), form)
    train, val = (scan_split(data, split, settings, form).samples for split in ("train", "val"))
    return choose_weights(path.with_name("best.pt"), path, settings, train, val, select_device(settings.device))


def _finish_run(result: Result) -> Tuned:
    trainer = result.trainer
    run, paths = trainer.run, (trainer.best, trainer.last)
    return choose_weights(*paths, trainer.args, run.samples, run.val_samples, run.device, result.metrics)


def choose_weights(
    best_path: Path,
    last_path: Path,
    settings: Settings,
    train: Sequence[Sample],
    val: Sequence[Sample],
    device: torch.device,
    metrics: TaskMetrics | None = None,
) -> Tuned:
    """Compare best.pt, and averaged and raw weights with norms measured anew; save the most accurate as best.pt.

    metrics: of best.pt; None: they are measured.
    """
    best, last = load_checkpoint(best_path), load_checkpoint(last_path)
    candidates = {AS_TRAINED: (metrics or accuracy(best.model().to(device), val, settings), best)}
    raw = replace(last, state=last.training["weights"], training=None) if last.training else None
    for kind, checkpoint in (("average, norms measured anew", best), ("raw weights, norms measured anew", raw)):
        if checkpoint is not None and checkpoint.graph.bit:
            model = checkpoint.model().to(device)
            calibrate(model, calibration_images(train, settings, model), scales=False)
            candidates[kind] = accuracy(model, val, settings), as_checkpoint(model, checkpoint)
    results = {kind: metrics for kind, (metrics, _) in candidates.items()}
    main = {kind: metrics.main for kind, metrics in results.items()}
    chosen = max(main, key=main.__getitem__)
    if chosen != AS_TRAINED:
        save_checkpoint(best_path, replace(candidates[chosen][1], metrics=results[chosen].results_dict))
    for kind, metrics in results.items():
        mark = "  <- best.pt" if kind == chosen else ""
        numbers = "  ".join(f"{name} {number:.4f}" for name, number in metrics.headline.items())
        say(f"{kind:<36} {numbers}{mark}")
    return Tuned(best_path, results[chosen], chosen, main)


def accuracy(model: Detector, samples: Sequence[Sample], settings: Settings) -> TaskMetrics:
    """Measure the COCO numbers of a model, folded in a copy; prints and writes nothing."""
    folded = fold_for_inference(copy.deepcopy(model))
    validator, _ = validate_samples(folded, samples, settings.replace(mode="train"))
    return validator.metrics
