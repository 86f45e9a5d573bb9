"""The methods of the YOLO object that read or change its network: weights, devices, types, attributes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch

from ..config.devices import select_device
from ..config.errors import UserError, WrongModelError, did_you_mean
from ..config.weight_files import EXPECTED, names_weights
from .build import task_of_graph
from .detector import Detector
from .weights.checkpoint import Checkpoint
from .weights.foreign import ADOPTED_SETTINGS
from .weights.hub_folder import save_weights
from .working_model import WorkingModel

# Method or attribute -> words that people try for it.
MEANINGS: dict[str, tuple[str, ...]] = {
    "predict": ("detect", "infer", "inference", "run", "forward_image", "predictions"),
    "val": ("evaluate", "eval_model", "validate", "validation", "test", "score"),
    "train": ("fit", "finetune", "fine_tune", "training"),
    "track": ("tracking", "tracker", "track_objects"),
    "tune": ("hyperparameter_search", "optimize", "search"),
    "names": ("classes", "class_names", "labels", "get_names"),
    "info": ("summary", "describe", "model_info"),
    "load": ("load_weights", "load_model", "from_pretrained"),
    "save": ("save_weights", "save_model"),
    "add_callback": ("on", "register_callback", "callback"),
}
CLASSES_BY_TEXT = " Classes are not chosen by text here: train them, YOLO('yolov12.yaml').train(data=...)."
ELSEWHERE: dict[str, str] = {
    "set_classes": CLASSES_BY_TEXT,
    "get_text_pe": CLASSES_BY_TEXT,
    "set_vocab": CLASSES_BY_TEXT,
}

Self = TypeVar("Self", bound="NetworkMethods")


class NetworkMethods:
    """The part of YOLO that is about its network.

    source: the path that the object was made with. overrides: settings of every call that does not give them. A class
    that inherits sets both, `_working`, and `_exported`: the exported model (export.open.ExportedModel), or None.
    """

    source: str
    overrides: dict[str, object]
    _working: WorkingModel
    _exported: Any

    @property
    def checkpoint(self) -> Checkpoint | None:
        """The checkpoint that the weights came from; None for a graph and for an exported model."""
        return self._working.checkpoint

    @property
    def ckpt_path(self) -> str | None:
        """The file of `checkpoint`."""
        return self._working.path

    @property
    def names(self) -> dict[int, str]:
        """Class index to name."""
        return self._network.names

    @property
    def device(self) -> torch.device:
        """The device of the weights. Calls run on device=, or where `to` moved the weights, or on the best device."""
        return next(self._network.parameters()).device

    @property
    def ckpt(self) -> dict[str, object]:
        """The checkpoint's epoch, date, license, train_args and train_metrics, and model. Empty for a graph."""
        checkpoint = self.checkpoint
        if checkpoint is None:
            return {}
        return {
            "epoch": checkpoint.epoch,
            "date": checkpoint.date,
            "license": checkpoint.license,
            "train_args": dict(checkpoint.settings),
            "train_metrics": dict(checkpoint.metrics),
            "model": self.model,
        }

    def load(self: Self, weights: str | Path, *, strict: bool = False) -> Self:
        """Take the weights of a checkpoint, also of a foreign one or of another graph.

        A graph starts with these weights, the weights of a checkpoint are replaced. Classes are matched by number where
        their numbers are equal and the model's classes have no names, otherwise by name. Tensors of another name or
        shape stay as they are, and a line says how many fit. Raises UserError where fewer than a tenth do, for weights
        of another family of attention, and with strict=True where anything but the classes differs.
        """
        if not names_weights(weights):
            shown = repr(weights) if isinstance(weights, (str, Path, int)) else f"a {type(weights).__name__}"
            raise UserError(f"load({shown}): expected {EXPECTED}.")
        self._changeable.load(weights, strict)
        if self.checkpoint is None:
            self._drop_pretrained()
            self.overrides |= {"pretrained": str(weights), **({"strict": True} if strict else {})}
        self._update_overrides()
        return self

    def _drop_pretrained(self) -> None:
        """Forget the weights that the next training would begin with."""
        for key in ("pretrained", "strict"):
            self.overrides.pop(key, None)

    def save(self, filename: str | Path = "saved_model.pt") -> None:
        """Write the present weights, with the licence of their checkpoint, in our format, whole or not at all.

        filename: ends in .pt or .safetensors, or with a slash: then a folder as the Hub has it.
        """
        save_weights(filename, self._changeable.to_checkpoint(), f"save({filename!r})")

    def reset_weights(self: Self) -> Self:
        """Replace the weights by fresh ones for the same graph."""
        self._changeable.reset()
        self._drop_pretrained()
        return self

    def fuse(self: Self) -> Self:
        """Fold the batch norms in place. `train` and `save` go on with the weights from before."""
        self._changeable.fuse()
        return self

    def to(self: Self, *args, **kwargs) -> Self:
        """Move the weights or change their type, as torch.nn.Module.to; calls then run on that device.

        A device may also be written as in device=, for example "0".
        """
        arguments = list(args)
        if arguments and isinstance(arguments[0], (str, int, torch.device)):
            device = arguments.pop(0)
        else:
            device = kwargs.pop("device", None)
        if device is not None:
            arguments.insert(0, select_device(str(device)))
            self.overrides["device"] = str(arguments[0])
        try:
            self._changeable.to(*arguments, **kwargs)
        except TypeError as error:
            raise UserError(
                f"to{args}: expected a device, a floating-point type or both ({str(error).splitlines()[0]})."
            ) from error
        return self

    def cpu(self: Self) -> Self:
        """Move the weights into the CPU's memory."""
        return self.to("cpu")

    def cuda(self: Self, device: int | str | torch.device | None = None) -> Self:
        """Move the weights to a GPU."""
        return self.to("cuda" if device is None else device)

    def half(self: Self) -> Self:
        """Make the weights float16."""
        return self.to(torch.float16)

    def float(self: Self) -> Self:
        """Make the weights float32."""
        return self.to(torch.float32)

    def eval(self: Self) -> Self:
        """Put the network into evaluation mode; val and predict always use it so."""
        self._network.eval()
        return self

    def state_dict(self, *args, prefix: str = "", **kwargs) -> dict[str, torch.Tensor]:
        """The tensors of the network by name; each name begins with "model.", before those of `model.state_dict()`."""
        return self.model.state_dict(*args, prefix=f"{prefix}model.", **kwargs)

    def load_state_dict(self, state_dict: Mapping[str, torch.Tensor], strict: bool = True):
        """Take over tensors, named as in `state_dict` or as in `model.state_dict()`; returns what is missing.

        Raises RuntimeError as torch.nn.Module.load_state_dict.
        """
        prefix = "model." if all(name.startswith("model.model.") for name in state_dict) else ""
        return self.model.load_state_dict({name[len(prefix) :]: x for name, x in state_dict.items()}, strict)

    def __getattr__(self, name: str):
        """An attribute of the network: stride, parameters(), state_dict(), ..."""
        if not name.startswith("_") and name != "model" and hasattr(network := self.model, name):
            return getattr(network, name)
        names = [item for item in dir(type(self)) if not item.startswith("_")]
        meant = [method for method, words in MEANINGS.items() if name.lower() in words]
        hint = f" Did you mean {meant[0]!r}?" if meant else did_you_mean(name, names)
        raise AttributeError(f"YOLO has no {name!r}, nor has its model.{ELSEWHERE.get(name, hint)}")

    def _update_overrides(self) -> None:
        """Let later calls use the data, the image size, ... of the checkpoint's training."""
        if self.checkpoint is not None:
            self._drop_pretrained()
            self.task = self.overrides["task"] = task_of_graph(self.checkpoint.graph)
            trained = self.checkpoint.settings
            self.overrides.update({key: trained[key] for key in ADOPTED_SETTINGS if trained.get(key) is not None})
            if trained.get("letterbox"):  # of a classifier that was validated on whole images
                self.overrides["letterbox"] = True
            self.overrides["model"] = self.ckpt_path

    @property
    def _network(self) -> Detector:
        """The network for methods of this class; scripts get it from `model`."""
        return self._exported.runtime if self._exported else self._working.network

    @property
    def _changeable(self) -> WorkingModel:
        """The model, for methods that read or change its weights. Raises WrongModelError for an exported model."""
        if self._exported:
            raise WrongModelError(
                f"'{self.source}' is an exported model, without a network to look into or to change. Take the "
                "checkpoint (.pt) it was made from."
            )
        return self._working
