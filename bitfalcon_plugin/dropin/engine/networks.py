"""Networks that scripts give to a trainer, a validator or a predictor, and where they start from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from torch import nn

from ...config.devices import select_device
from ...config.errors import UserError
from ...config.settings import Settings
from ...export.formats import ModelKind, model_kind
from ...export.open import ExportedModel
from ...models.build import DEFAULT_MODEL, graph_from_settings, resolve_graph, state_shapes
from ...models.detector import Detector, odd_norms
from ...models.graph.rows import Graph
from ...models.inference.prepare import prepare_for_inference
from ...models.weights.checkpoint import Checkpoint
from ...models.weights.foreign import ADOPTED_SETTINGS, open_checkpoint
from ...models.working_model import WorkingModel
from ...tasks.script_model import ScriptModel
from .losses import has_own_loss
from .overriding import is_foreign


def checkpoint_of(settings: Settings, silent: bool = False) -> Checkpoint | None:
    """Return the checkpoint that model= names; None for a graph."""
    source = settings.model or DEFAULT_MODEL
    if model_kind(source) is not ModelKind.CHECKPOINT:
        return None
    return open_checkpoint(source, **({"say": lambda text: None} if silent else {}))


def start_of(cfg: object, weights: object, settings: Settings, known: Checkpoint | None) -> Checkpoint | Graph:
    """Return what a run starts from: the weights of a network or a file, otherwise a graph.

    cfg: a document, a path, or None for that of model=. known: the checkpoint of model=, whose licence stays.
    """
    if isinstance(weights, nn.Module):
        return checkpoint_from_network(weights, known)
    if isinstance(weights, (str, Path)):
        return open_checkpoint(weights)
    if isinstance(cfg, Mapping):
        name = str(cfg.get("yaml_file", settings.model or "model"))
        return resolve_graph(cfg, name=Path(name).name, scale=str(cfg.get("scale") or ""))
    return graph_from_settings(str(cfg or settings.model or DEFAULT_MODEL), settings)


def checkpoint_from_network(network: nn.Module, known: Checkpoint | None = None) -> Checkpoint:
    """Return the present weights of a network as a checkpoint. known: that of its file, whose licence stays."""
    network = checked(network)
    if isinstance(network, ScriptModel):
        return network.to_checkpoint()
    state = {name: tensor.detach().cpu() for name, tensor in network.state_dict().items()}
    graph = replace(network.graph, names=dict(network.names))
    if known is not None:
        return replace(known, graph=graph, state=state, training=None, compared=False)
    measured = (network.strides, network.multiple)
    return Checkpoint(graph, state, norms=odd_norms(network), measured=measured)


def origin_of(network: nn.Module) -> Checkpoint:
    """Return what a network says of its origin, its graph and licence, as a checkpoint without weights."""
    network = checked(network)
    return getattr(network, "origin", None) or Checkpoint(network.graph, {})


def checked(network: object) -> Detector:
    """Return a network that can be trained. Raises UserError for anything else."""
    if isinstance(network, Detector):
        return network
    kind = type(network).__name__
    raise UserError(
        f"get_model gave a {kind}; expected a DetectionModel, or a subclass of it, as super().get_model() returns one: "
        "training needs its graph, strides and names."
    )


def name_classes(network: Detector, names: Mapping[int, str]) -> None:
    """Give a network the names of the classes of the data. Raises UserError where it has another number of classes."""
    if network.nc != len(names):
        raise UserError(
            f"get_model gave a network for {network.nc} classes; the data have {len(names)} "
            f"({', '.join(names.values())}). Make it with nc=self.data['nc']."
        )
    network.names = dict(names)
    network.graph = replace(network.graph, names=dict(names))


def network_to_train(network: object) -> Detector:
    """Return the network that a run trains: that of a script where the script changed what it computes, else ours."""
    network = checked(network)
    if not isinstance(network, ScriptModel) or is_foreign(network.forward) or has_own_loss(network):
        return network
    return network if set(network._modules) - {"model"} else network.plain()


def document_of(start: Checkpoint | Graph | None) -> dict[str, object] | None:
    """Return the graph of what a run starts from as scripts have it, a document with nc, scale and yaml_file."""
    if start is None:
        return None
    graph = start.graph if isinstance(start, Checkpoint) else start
    return {**graph.document, "nc": graph.nc, "scale": graph.scale, "yaml_file": graph.name, "ch": 3}


def fits_its_graph(network: nn.Module) -> bool:
    """Whether a network has the tensors of its graph, so that its weights alone say what it is."""
    shapes = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    return all(shapes.pop(name, None) == shape for name, shape in state_shapes(network.graph).items()) and not shapes


def prepare_copy(network: nn.Module, settings: Settings) -> nn.Module:
    """Return a network ready to be measured or to predict: a folded copy of a Detector, another one as it is."""
    if not isinstance(network, Detector):
        return network
    device = select_device(settings.device)
    if isinstance(network, ScriptModel):
        if network.has_hooks() or network_to_train(network) is network:
            return network.live(device)
        network = network.plain()
    prepared = prepare_for_inference(network, device, half=settings.half, compiling=settings.compile)
    prepared.names = dict(network.names)
    return prepared


def network_for(settings: Settings) -> tuple[nn.Module, Settings]:
    """Return the network that model= names, ready for a verb, and the settings completed by what its file remembers."""
    source = settings.model or DEFAULT_MODEL
    if model_kind(source) is ModelKind.EXPORTED:
        exported = ExportedModel(source, settings.task if "task" in settings.given else None)
        settings = settings.with_defaults(exported.default_settings(settings.mode))
        return exported.runtime_for(settings), settings
    checkpoint = checkpoint_of(settings)
    if checkpoint is not None:
        trained = checkpoint.settings
        known = {key: trained[key] for key in ADOPTED_SETTINGS if trained.get(key) is not None}
        settings = settings.with_defaults(known)
    return WorkingModel(source, checkpoint).network_for(settings), settings
