"""Networks from YAML files, documents and checkpoints. Written from spec/dropin-helpers.md section 11.

A class of a module that a script puts here (`tasks.MyBlock = MyBlock`) becomes a word of the graph language: its rows
give the constructor's arguments as written, and as many channels come out as go in.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from ...config.settings import load_settings
from ...config.yaml_files import find_model, scale_letter
from ...models.build import resolve_graph
from ...models.detector import Detector
from ...models.graph.document import LISTS
from ...models.modules import MODULES, Entry, register
from ...models.summary import show_info
from ...models.weights.checkpoint import Checkpoint
from ...models.weights.foreign import open_checkpoint
from ...tasks.script_model import ScriptModel
from ..defaults import DEFAULT_CFG_DICT
from ..refused import refused
from ..utils import LOGGER
from ..utils.networks import intersect_dicts, model_info
from .modules import *  # noqa: F403

TASK_OF_HEAD = {  # the head row of a graph, in lower case -> task; the first that begins so
    "classify": "classify",
    "segment": "segment",
    "pose": "pose",
    "obb": "obb",
    "detect": "detect",
    "bitdetect": "detect",
    "v10detect": "detect",
}
TASK_OF_NAME = {"-seg": "segment", "-cls": "classify", "-pose": "pose", "-obb": "obb", "detect": "detect"}


class _Kin(type):
    """The kind of the networks here: a network of the house is an instance of the class of its task."""

    def __instancecheck__(cls, instance: Any) -> bool:
        if super().__instancecheck__(instance):
            return True
        kin = CLASSES.get(instance.task) if isinstance(instance, Detector) else None
        return kin is not None and issubclass(kin, cls) and cls in (BaseModel, *CLASSES.values())


class BaseModel(ScriptModel, metaclass=_Kin):
    """A network: forward(images) gives maps in training and (decoded, maps) in evaluation; a batch gives its loss.

    model: the rows. yaml: the document with nc, scale and yaml_file. save: rows that later rows read. names, stride,
    nc, args, task: what scripts read.
    """

    inplace, criterion, pt_path = True, None, None

    def __init__(self, cfg: Any, ch: int = 3, nc: int | None = None, verbose: bool = True):
        document = deepcopy(dict(cfg)) if isinstance(cfg, Mapping) else yaml_model_load(cfg)
        file = str(document.pop("yaml_file", "model.yaml"))
        if ch != 3 and not {"ch", "channels"} & set(document):
            document["ch"] = ch
        scale = str(document.get("scale") or "") if document.get("scales") else ""
        graph = resolve_graph(document, name=Path(file).name, scale=scale, nc=nc)
        detector = Detector(graph)
        if verbose:
            for note in graph.notes:
                LOGGER.info("%s", note)
            show_info(detector, load_settings({}))
        super().__init__(detector, {})
        self.yaml["yaml_file"] = file

    def load(self, weights: Any, verbose: bool = True) -> None:
        """Take over the tensors of a network, or of a dict with one under "model", that fit by name and shape."""
        network = weights["model"] if isinstance(weights, Mapping) else weights
        mine = self.state_dict()
        fitting = intersect_dicts(network.float().state_dict(), mine)
        self.load_state_dict(fitting, strict=False)
        if verbose:
            LOGGER.info("Transferred %d/%d items from pretrained weights", len(fitting), len(mine))

    def info(self, detailed: bool = False, verbose: bool = True, imgsz: int = 640) -> Any:
        """Log and return modules without children, parameters, trained parameters and GFLOPs."""
        return model_info(self, detailed, verbose, imgsz)


class DetectionModel(BaseModel):
    """A detector: DetectionModel("yolov12n.yaml", ch=3, nc=None). cfg: a YAML of a graph, or its document.

    nc: classes, in place of those of the document. verbose: print the rows.
    """

    def __init__(self, cfg: Any = "yolov12n.yaml", ch: int = 3, nc: int | None = None, verbose: bool = True):
        super().__init__(cfg, ch, nc, verbose)


class SegmentationModel(DetectionModel):
    """A segmenter."""

    def __init__(self, cfg: Any = "yolov12n-seg.yaml", ch: int = 3, nc: int | None = None, verbose: bool = True):
        super().__init__(cfg, ch, nc, verbose)


class PoseModel(DetectionModel):
    """A finder of keypoints."""

    def __init__(
        self,
        cfg: Any = "yolo12n-pose.yaml",
        ch: int = 3,
        nc: int | None = None,
        data_kpt_shape: Any = (None, None),
        verbose: bool = True,
    ):
        cfg = dict(cfg) if isinstance(cfg, Mapping) else yaml_model_load(cfg)
        if any(data_kpt_shape):
            cfg["kpt_shape"] = list(data_kpt_shape)
        super().__init__(cfg, ch, nc, verbose)


class OBBModel(DetectionModel):
    """A detector of oriented boxes."""

    def __init__(self, cfg: Any = "yolo12n-obb.yaml", ch: int = 3, nc: int | None = None, verbose: bool = True):
        super().__init__(cfg, ch, nc, verbose)


class ClassificationModel(BaseModel):
    """A classifier."""

    def __init__(self, cfg: Any = "yolov12n-cls.yaml", ch: int = 3, nc: int | None = None, verbose: bool = True):
        super().__init__(cfg, ch, nc, verbose)


CLASSES: dict[str, type[BaseModel]] = {
    "detect": DetectionModel,
    "segment": SegmentationModel,
    "pose": PoseModel,
    "obb": OBBModel,
    "classify": ClassificationModel,
}
_OTHER = "Only graphs of Detect and Segment heads and their kin are here."
RTDETRDetectionModel = refused("RTDETRDetectionModel", "a detector with a transformer decoder", _OTHER, __name__)
WorldModel = refused("WorldModel", "a detector of classes named by text", _OTHER, __name__)
YOLOEModel = refused("YOLOEModel", "a detector of classes named by text", _OTHER, __name__)


def as_wider(network: Any) -> Any:
    """Give a network of the house, as YOLO.model hands it out, the class of its task here; return it."""
    if type(network) is ScriptModel:
        network.__class__ = CLASSES.get(network.task, DetectionModel)
    return network


class Ensemble(nn.ModuleList):
    """Several networks whose decoded outputs are put together along the anchors."""

    def forward(self, x: Tensor, augment: bool = False, profile: bool = False, visualize: bool = False) -> tuple:
        """Return (decoded outputs (B, 4 + nc, A of all networks), None)."""
        return torch.cat([network(x, augment=augment)[0] for network in self], 2), None


def parse_model(d: Mapping[str, Any], ch: Any, verbose: bool = True) -> tuple[nn.Sequential, list[int]]:
    """Return the rows of a document as modules, each with i, f, type and np, and the numbers of the rows kept."""
    channels = ch[0] if isinstance(ch, (list, tuple)) else ch
    network = DetectionModel(d, ch=channels, verbose=verbose)
    return network.model, network.save


def yaml_model_load(path: Any) -> dict[str, Any]:
    """Return the document that a name such as yolov12n.yaml stands for, with its scale and yaml_file."""
    found = find_model(path)
    return {**found.document, "scale": guess_model_scale(path), "yaml_file": str(path)}


def guess_model_scale(model_path: Any) -> str:
    """Return the scale letter in the name of a graph; "" where there is none."""
    return scale_letter(Path(str(model_path)).name)


def guess_model_task(model: Any) -> str:
    """Return the task of a network, a document or a name, by head or name; otherwise "detect", with a warning."""
    task = None
    if isinstance(model, nn.Module):
        task = getattr(model, "task", None) or next(filter(None, map(_task_of_class, model.modules())), None)
    elif isinstance(model, Mapping):
        task = _task_of_document(model)
    elif isinstance(model, (str, Path)):
        stem = Path(model).stem
        task = next((task for part, task in TASK_OF_NAME.items() if part in stem or part in Path(model).parts), None)
        task = task or _task_of_file(model)
    if task is None:
        LOGGER.warning("The task of the model is not known; assuming 'task=detect'.")
    return task or "detect"


def _task_of_document(document: Mapping[str, Any]) -> str | None:
    rows = [row for part in LISTS for row in document.get(part) or []]
    return _task_of_word(str(rows[-1][-2])) if rows else None


def _task_of_class(module: nn.Module) -> str | None:
    return _task_of_word(type(module).__name__)


def _task_of_word(word: str) -> str | None:
    return next((task for head, task in TASK_OF_HEAD.items() if word.lower().startswith(head)), None)


def _task_of_file(path: Any) -> str | None:
    if Path(path).suffix not in (".yaml", ".yml"):
        return None
    try:
        return _task_of_document(find_model(path).document)
    except FileNotFoundError:
        return None


def _network_of(checkpoint: Checkpoint, path: str) -> BaseModel:
    """The network of a checkpoint, in eval mode."""
    settings = {**DEFAULT_CFG_DICT, **checkpoint.settings}
    network = as_wider(ScriptModel(checkpoint.model(), settings, checkpoint))
    network.pt_path = path
    return network.eval()


def torch_safe_load(weight: Any, safe_only: bool = False) -> tuple[dict[str, Any], str]:
    """Return the content of a checkpoint, ours or of another maker, and its path; "model" is the network.

    No code of the file runs. Raises FileNotFoundError, and UserError for a file that is no checkpoint.
    """
    path = str(weight)
    checkpoint = open_checkpoint(path, say=lambda text: None)
    network = _network_of(checkpoint, path)
    empty = dict.fromkeys(("best_fitness", "ema", "updates", "optimizer", "scaler", "train_results"))
    content = {
        "epoch": checkpoint.epoch,
        **empty,
        "model": network,
        "train_args": dict(checkpoint.settings),
        "train_metrics": dict(checkpoint.metrics),
        "date": checkpoint.date,
        "version": None,
        "license": checkpoint.license,
        "docs": None,
    }
    return content, path


def attempt_load_one_weight(
    weight: Any, device: Any = None, inplace: bool = True, fuse: bool = False
) -> tuple[BaseModel, dict[str, Any]]:
    """Return the network of a checkpoint, in eval mode and float32, and the content of its file."""
    content, _ = torch_safe_load(weight)
    network = content["model"]
    if device is not None:
        network = network.to(device)
    return network.fuse() if fuse else network, content


load_checkpoint = attempt_load_one_weight


def attempt_load_weights(weights: Any, device: Any = None, inplace: bool = True, fuse: bool = False) -> Any:
    """Return the network of a checkpoint in eval mode; for a list of several an Ensemble of theirs."""
    paths: Sequence[Any] = weights if isinstance(weights, (list, tuple)) else [weights]
    networks = [attempt_load_one_weight(path, device, inplace, fuse)[0] for path in paths]
    if len(networks) == 1:
        return networks[0]
    ensemble = Ensemble(networks)
    ensemble.names, ensemble.nc, ensemble.yaml = networks[0].names, networks[0].nc, networks[0].yaml
    ensemble.stride = max((network.stride for network in networks), key=lambda stride: float(stride.max()))
    return ensemble.eval()


class _Language(ModuleType):
    """This module, which lets the classes that a script puts into it be words of the graph language."""

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if isinstance(value, type) and issubclass(value, nn.Module) and not name.startswith("_"):
            if name in MODULES:  # a script's own version of a module
                MODULES[name] = Entry(value, MODULES[name].rule)
            else:
                register(name, value, "same")


sys.modules[__name__].__class__ = _Language
