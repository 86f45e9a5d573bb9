"""The model that a run starts from: fresh weights, weights taken over from a checkpoint, or those of a resumed run."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ..config.errors import UserError
from ..config.notes import print_note
from ..config.printable import say
from ..config.settings import Settings
from ..data.formats.dataset_yaml import DataSpec
from ..data.from_settings import class_names, keypoint_layout
from ..models.bitify import bitify, unbitify
from ..models.build import state_shapes, with_classes
from ..models.detector import Detector
from ..models.graph.bit_policy import NOTHING
from ..models.graph.document import classes_note, keypoints_note
from ..models.graph.rows import Graph
from ..models.weights.checkpoint import Checkpoint
from ..models.weights.foreign import open_checkpoint
from ..models.weights.transfer import class_width, fitting, transfer


@dataclass(frozen=True)
class InitialModel:
    """The model that a run starts from, and the origin of its weights.

    license: of the weights that were taken over. matched: which weights were taken over, as one line for the records,
    "" for fresh ones. tuned: whether all weights were taken over, so that no tensor of the model is fresh.
    """

    model: Detector
    license: str | None = None
    matched: str = ""
    tuned: bool = False


def initial_model(settings: Settings, start: Checkpoint | Graph, data: DataSpec) -> InitialModel:
    """Build the model of a new run for the classes of the data; prints which weights are taken over, and from where.

    start: what model= names. Raises UserError for weights that are not finite.
    """
    torch.manual_seed(settings.seed + 1)  # fresh weights are part of what a seed repeats
    names, keypoints = class_names(settings, data), keypoint_layout(settings, data)
    graph = start.graph if isinstance(start, Checkpoint) else start
    if graph.keypoints and keypoints and graph.keypoints.shape != keypoints.shape:
        say(f"{graph.name}: {keypoints_note(graph.keypoints, keypoints)}")
    if isinstance(start, Checkpoint):
        width = None if dict(start.graph.names) == names else class_width(start)
        model = Detector(with_classes(start.graph, names, width, keypoints))
        initial = _with_weights(model, start, str(settings.model), settings)
    else:
        if start.nc != len(names):
            say(f"{start.name}: {classes_note(start.nc, len(names))}")
        if isinstance(settings.pretrained, str):
            checkpoint = open_checkpoint(settings.pretrained)
            width = _width_to_fit(checkpoint, start, len(names))
            model = Detector(with_classes(start, names, width, keypoints))
            initial = _with_weights(model, checkpoint, settings.pretrained, settings)
        else:
            initial = InitialModel(Detector(with_classes(start, names, keypoints=keypoints)))
    _set_ternary_layers(initial.model, settings)
    return initial


def resumed_model(settings: Settings, checkpoint: Checkpoint, data: DataSpec) -> InitialModel:
    """Build the model of a run that is resumed. Its weights follow with the training state.

    Raises UserError where the data have other classes or other keypoints than the run.
    """
    torch.manual_seed(settings.seed + 1)
    before, names = dict(checkpoint.graph.names), class_names(settings, data)
    if before != names:
        raise UserError(
            f"The run was of the classes {', '.join(before.values())}; {data.path} has {', '.join(names.values())}. "
            "Give the data of the run, or start a new run with model= and no resume."
        )
    own, keypoints = checkpoint.graph.keypoints, keypoint_layout(settings, data)
    if own and keypoints and own != keypoints:
        keys, other = own.as_keys(), keypoints.as_keys()
        differing = sorted(key for key in keys.keys() | other.keys() if keys.get(key) != other.get(key))
        raise UserError(
            f"The run was of other keypoints: {data.path} has another {', '.join(differing)}. Give the data of the "
            "run, or start a new run with model= and no resume."
        )
    model = Detector(checkpoint.graph)
    checkpoint.set_norms(model)
    return InitialModel(model, checkpoint.license)


def _width_to_fit(checkpoint: Checkpoint, graph: Graph, nc: int) -> int | None:
    """The width of class branches at which more weights of a checkpoint for other classes fit, or None."""
    width = class_width(checkpoint)
    if checkpoint.graph.nc == nc or width is None or len(checkpoint.graph.rows) != len(graph.rows):
        return None
    names = {index: str(index) for index in range(nc)}
    own, given = (
        len(fitting(checkpoint.state, state_shapes(with_classes(graph, names, each)))) for each in (None, width)
    )
    return width if given > own else None


def _with_weights(model: Detector, checkpoint: Checkpoint, source: str, settings: Settings) -> InitialModel:
    """Take over the weights of a checkpoint, unless pretrained=False. source: its path, for messages."""
    if settings.pretrained is False:
        print_note(f"pretrained=False: '{source}' gives the graph, its weights are not used.")
        return InitialModel(model)
    floats = {name: tensor for name, tensor in checkpoint.state.items() if tensor.is_floating_point()}
    if bad := [name for name, tensor in floats.items() if not tensor.isfinite().all()]:
        raise UserError(
            f"'{source}' holds NaN or infinite values in {len(bad)} tensors (the first is {bad[0]}): nothing can be "
            "trained from it. Give other weights."
        )
    table = transfer(model, checkpoint, source, by_name=settings.cls_remap, strict=settings.strict)
    say(f"Weights of '{source}':\n{table}")
    lines = "; ".join(" ".join(line.split()) for line in str(table).splitlines())
    return InitialModel(model, checkpoint.license, f"{source}: {lines}", tuned=not table.new and not table.misfit)


def _set_ternary_layers(model: Detector, settings: Settings) -> None:
    """Make layers ternary as bit= asks, or all float with bit=none; without bit= the graph decides."""
    if settings.bit == NOTHING:
        if changes := unbitify(model):
            say(f"bit=none: {len(changes)} layers are float now")
    elif settings.bit:
        changes = bitify(model, settings.bit, settings.keep or "default")
        say(f"bit={settings.bit}: {changes.total()}")
