"""One object over checkpoints and exported models. Written from spec/dropin-helpers.md section 11."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ...export.formats import ModelKind, model_kind
from ...export.open import open_exported
from ..utils import yaml_load
from .tasks import attempt_load_weights


def check_class_names(names: Any) -> dict[int, str]:
    """Return names, a list or a mapping, by whole numbers. Raises KeyError where the numbers are not 0 to n - 1."""
    named = dict(enumerate(names)) if isinstance(names, (list, tuple)) else dict(names)
    named = {int(index): str(name) for index, name in named.items()}
    if set(named) != set(range(len(named))):
        raise KeyError(f"{len(named)} classes have the numbers {sorted(named)}; expected 0 to {len(named) - 1}")
    return named


def default_class_names(data: Any = None) -> dict[int, str]:
    """Return the class names of a dataset YAML; without one class0 to class998."""
    if data:
        return check_class_names(yaml_load(data)["names"])
    return {index: f"class{index}" for index in range(999)}


class AutoBackend(nn.Module):
    """A checkpoint or an exported model that is called on images: AutoBackend("best.pt", device)(images).

    weights: a path, or a network. fuse: fold the batch norms of a checkpoint. fp16: compute in 16 bits where that is
    possible. names, stride, fp16, device, task, imgsz, batch, metadata, format, kpt_shape of a pose model and a flag of
    each format (pt, onnx, ...) are attributes; dnn and data have no effect beyond names.
    """

    def __init__(
        self,
        weights: Any = "yolov12n.pt",
        device: Any = torch.device("cpu"),
        dnn: bool = False,
        data: Any = None,
        fp16: bool = False,
        batch: int = 1,
        fuse: bool = True,
        verbose: bool = True,
        **more: Any,
    ):
        super().__init__()
        weights = more.get("model", weights)
        self.device, self.batch = torch.device(device), batch
        path = weights[0] if isinstance(weights, list) else weights
        self.nn_module = isinstance(path, nn.Module)
        exported = not self.nn_module and model_kind(str(path)) is ModelKind.EXPORTED
        self.format = "pt" if not exported else ""
        if exported:
            self._open(Path(path), fp16)
        else:
            model = path if self.nn_module else attempt_load_weights(weights, self.device, fuse=fuse)
            model = model.to(self.device).eval()
            self.model = (model.fuse() if fuse and hasattr(model, "fuse") else model).requires_grad_(False)
            self.stride = int(torch.as_tensor(model.stride).max())
            self.names, self.task = check_class_names(model.names), getattr(model, "task", "detect")
            self.imgsz, self.metadata = [640, 640], None
            self.fp16 = fp16 and self.device.type != "cpu"
            self.model.half() if self.fp16 else self.model.float()
        for name in ("pt", "torchscript", "onnx", "openvino", "pt2", "engine", "coreml", "saved_model", "tflite"):
            setattr(self, {"torchscript": "jit", "openvino": "xml"}.get(name, name), self.format == name)
        self.dynamic = self.pt

    def _open(self, path: Path, fp16: bool) -> None:
        runtime = open_exported(path, self.device, fp16)
        self.runtime, self.format, self.fp16 = runtime, runtime.format, False
        self.stride, self.names, self.task = runtime.multiple, check_class_names(runtime.names), runtime.task
        self.imgsz, self.metadata = list(runtime.imgsz), vars(runtime.about)
        if runtime.keypoints:
            self.kpt_shape = list(runtime.keypoints.shape)

    def forward(
        self,
        im: Tensor,
        augment: bool = False,
        visualize: bool = False,
        embed: Sequence[int] | None = None,
        **more: Any,
    ) -> Any:
        """Return the decoded outputs (B, 4 + nc, A) for images (B, 3, H, W) in [0, 1].

        A network gives a list: the decoded outputs, maps; an exported model with several outputs a list of them.

        embed: for each image a vector, the means of the maps of these rows.
        """
        if not self.pt:
            outputs = self.runtime(im.to(self.device))
            decoded = self.runtime.decode(outputs)
            return [decoded, *list(outputs.values())[1:]] if isinstance(outputs, Mapping) else decoded
        im = im.to(self.device).half() if self.fp16 else im.to(self.device)
        options = {"augment": augment, **({"embed": embed} if embed is not None else {})}
        y = self.model(im, **options)
        return list(y) if isinstance(y, tuple) and embed is None else y

    def from_numpy(self, x: Any) -> Any:
        """Return an array as a tensor on the device; anything else unchanged."""
        return torch.from_numpy(x).to(self.device) if isinstance(x, np.ndarray) else x

    def warmup(self, imgsz: Sequence[int] = (1, 3, 640, 640)) -> None:
        """Run black images once, on a GPU."""
        if self.device.type != "cpu":
            self.forward(torch.zeros(*imgsz, device=self.device))

    def eval(self) -> AutoBackend:
        """Return the object itself: it evaluates always."""
        return self

    @staticmethod
    def _model_type(p: Any = "path/to/model.pt") -> Mapping[str, bool]:
        """Return whether a name is that of a checkpoint or of an exported model."""
        kind = model_kind(str(p))
        return {"pt": kind is ModelKind.CHECKPOINT, "exported": kind is ModelKind.EXPORTED}
