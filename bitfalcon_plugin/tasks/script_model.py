"""The network as scripts expect it: decoded boxes in evaluation, maps in training, losses for a batch.

The package itself runs a Detector, whose outputs are raw in every mode. `ScriptModel` has the layers of a Detector and
calls them as scripts do. Shapes as in spec/dropin.md section 3.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from ..config.errors import UserError
from ..config.settings import load_settings
from ..models.detector import Detector, odd_norms
from ..models.modules.head import Raw
from ..models.weights.checkpoint import CONTENT, Checkpoint, checkpoint_from, content_of, plain_values
from ..ops.boxes import xyxy_from_xywh
from ..ops.instances import Instances
from ..ops.rotated import corners_of, hulls_of
from . import task_of
from .detect import predict_decoded

HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
OWN = ("_modules", "_detector", "args", "yaml", "save", "origin")  # attributes that the Detector does not get
Outputs = Any  # see PairsHead


class PairsHead(nn.Module):
    """What `script_head` mixes into the class of a head: outputs as scripts read them.

    In training the outputs are maps: for each level (Tensor[B, 4*reg_max+nc, h, w]), fine to coarse. In evaluation they
    are (y, maps) with y (Tensor[B, 4+nc, A]): xywh in pixels of the network input, then class probabilities. A head of
    another task has (maps, further outputs of its Raw, ...) in the place of maps, and more channels in y. A head
    without levels has its one output in the place of maps, logits (Tensor[B, nc]), and y are probabilities
    (Tensor[B, nc]). Where a script sets export=True, evaluation gives y alone.
    """

    others: tuple[str, ...] = ()  # names of the outputs that are no maps

    def forward(self, maps: Sequence[Tensor]) -> Outputs:
        raw = super().forward(maps)
        sizes = getattr(raw, "sizes", None)
        sizes = [tuple(x.shape[-2:]) for x in maps] if sizes is None else sizes
        self.others = tuple(name for name in raw if name not in ("boxes", "scores"))
        parts = [Raw(raw, sizes).levels()] if sizes else []
        parts += [raw[name] for name in self.others]
        outputs = tuple(parts) if len(parts) > 1 else parts[0]
        if self.training:
            return outputs
        decoded = self.decode(raw, sizes, self.strides)
        return decoded if self.export else (decoded, outputs)


@lru_cache
def _pairs_class(cls: type[nn.Module]) -> type[nn.Module]:
    return type(cls.__name__, (PairsHead, cls), {"__module__": cls.__module__, "__doc__": cls.__doc__})


def script_head(head: nn.Module, strides: tuple[float, ...]) -> nn.Module:
    """Return a head with the layers, hooks and attributes of `head`, whose outputs are those of PairsHead.

    Both share one set of attributes, of which these are new: nl, the number of levels; no, the channels of a map;
    stride (Tensor[nl]) and strides, pixels a cell of each level; export.
    """
    cls = _pairs_class(type(head))
    twin = cls.__new__(cls)
    object.__setattr__(twin, "__dict__", head.__dict__)
    twin.nl, twin.no, twin.export = len(strides), 4 * getattr(head, "reg_max", 0) + head.nc, False
    twin.strides, twin.stride = strides, torch.tensor(strides, device="cpu")
    return twin


class ScriptModel(Detector):
    """The network that `YOLO.model` gives: a Detector that is called as scripts call one.

    Its layers are those of `detector`; the list of rows and the outputs of the head are its own. `model`
    (nn.Sequential) holds the rows, each with i (index), f (source), type (its class) and np (number of parameters).
    args: the settings of the YOLO object. yaml: the graph's document. save: the rows that later rows read. origin:
    what the file of the weights says besides the weights (licence, ...). Attributes that a script sets stay.

    Pickled, it is the content of a checkpoint, which `YOLO(path)` opens; comes back on the CPU, and without hooks.
    """

    end2end = False

    def __init__(self, detector: Detector, args: dict[str, object] | None = None, origin: Checkpoint | None = None):
        nn.Module.__init__(self)
        self.__dict__.update({key: value for key, value in detector.__dict__.items() if key not in OWN})
        self.args, self.yaml = {} if args is None else args, _yaml_of(detector)
        self.save = sorted(detector.stored_rows)
        self.origin = origin and replace(origin, state={}, training=None, compared=False)
        self._detector = (detector,)  # in a tuple, because it is no part of this module
        self.take_rows()

    def forward(
        self,
        x: Tensor | Mapping[str, object],
        *,
        augment: bool = False,
        profile: bool = False,
        visualize: bool = False,
        embed: Sequence[int] | None = None,
    ) -> Outputs:
        """images (Tensor[B, C, H, W]): floating point, RGB in [0, 1] -> the outputs of PairsHead.

        A batch (dict) gives what `loss` gives. augment: (y, None), with the anchors of three copies of the images.
        embed: for each image a vector, the means of the maps of these rows. profile, visualize: without effect.
        """
        if isinstance(x, Mapping):
            return self.loss(x)
        if embed is not None:
            return self._embed(x, embed)
        if augment:
            return predict_decoded(self.live(), x, augment=True).candidates, None
        return super().forward(x)

    def predict(self, x: Tensor, **options) -> Outputs:
        """Return the outputs for images, as a call does."""
        return self(x, **options)

    def loss(self, batch: Mapping[str, Tensor], preds: Outputs | None = None) -> tuple[Tensor, Tensor]:
        """Return the sum of the losses times the number of images, with gradient, and each loss (Tensor[losses]).

        batch: img (B, C, H, W) in [0, 1] or uint8, batch_idx (n,), cls (n,) or (n, 1), bboxes (n, 4): xywh as shares of
        the image, of oriented boxes (n, 5) with the angle; to segment also masks; of poses also keypoints (n, K, 3): x
        and y as shares of the image, and the visibility; of a classifier img and cls (B,). preds: outputs for these
        images, where they were computed before.
        The gains are those in `args`. A classifier's loss is not multiplied.
        """
        device = next(self.parameters()).device
        images = batch["img"].to(device)
        images = images.float() / 255 if images.dtype == torch.uint8 else images
        raw = self.raw_of(self(images) if preds is None else preds)
        task = task_of(self)
        labels = self._labels_of(batch, images, task.objects).to(device)
        keys = (*filter(None, task.losses.values()), *task.options)
        settings = load_settings({key: self.args[key] for key in keys if key in self.args})
        options = {"gains": task.gains(settings), **task.loss_options(settings, self)}
        losses = torch.stack([*task.loss(raw, labels, sizes=raw.sizes, strides=self.strides, **options).values()])
        return losses.sum() * (len(images) if task.times_images else 1), losses.detach()

    def _labels_of(self, batch: Mapping[str, Tensor], images: Tensor, objects: bool) -> Instances:
        """The labels of a batch in pixels of the images. objects: they are boxes, not the classes of whole images."""
        height, width = images.shape[2:]
        classes = batch["cls"].cpu().view(-1).long()
        if not objects:
            whole = torch.tensor([[0.0, 0.0, width, height]]).expand(len(classes), 4)
            return Instances(whole, classes, image=torch.arange(len(classes)))
        image = batch["batch_idx"].cpu().view(-1).long()
        boxes = batch["bboxes"].cpu().float()
        scale = torch.tensor([width, height, width, height])
        if boxes.shape[-1] == 5:  # oriented
            xywhr = torch.cat((boxes[:, :4] * scale, boxes[:, 4:]), 1)
            return Instances(hulls_of(corners_of(xywhr)), classes, image=image, xywhr=xywhr)
        boxes = xyxy_from_xywh(boxes.view(-1, 4)) * scale
        points = batch.get("keypoints")
        if self.keypoints is not None and len(classes):
            expected = (len(classes), self.keypoints.count, 3)
            if points is None or tuple(points.shape) != expected:
                found = "no keypoints" if points is None else f"keypoints {tuple(points.shape)}"
                raise UserError(f"The batch has {found}; expected {expected}: x and y in shares, and the visibility.")
            points = points.cpu().float() * torch.tensor([width, height, 1])
        return Instances(boxes, classes, image=image, masks=self._masks_of(batch, image), keypoints=points)

    def _masks_of(self, batch: Mapping[str, Tensor], image: Tensor) -> Tensor | None:
        """The masks (n, h, w) of a batch's objects, None without masks. image (n,): the image of each object.

        The batch has (n, h, w), or with overlap_mask (B, h, w) with 0 for no object, 1 for the first of its image, ...
        """
        masks = batch.get("masks")
        if masks is None or not self.args.get("overlap_mask", True):
            return None if masks is None else masks.bool()
        number = (image[:, None] == image).tril().sum(1)
        return masks.to(image.device)[image] == number[:, None, None]

    @property
    def kpt_shape(self) -> list[int] | None:
        """The number of keypoints of an object, and of numbers for each; None for a model without keypoints."""
        return self.keypoints and list(self.keypoints.shape)

    def init_criterion(self) -> Callable[[Outputs, Mapping[str, Tensor]], tuple[Tensor, Tensor]]:
        """Return a function of outputs and a batch that gives what `loss` gives."""
        return lambda preds, batch: self.loss(batch, preds)

    def raw_of(self, outputs: Outputs) -> Raw:
        """The raw outputs that `outputs` were computed from."""
        rest = outputs[1] if isinstance(outputs[0], Tensor) and isinstance(outputs, tuple) else outputs
        parts, names = rest if isinstance(rest, tuple) else (rest,), getattr(self.head, "others", ())
        if not isinstance(parts[0], (list, tuple)):  # a head without levels
            return Raw(dict(zip(names, parts)))
        raw = Raw.from_levels(parts[0], 4 * self.reg_max)
        raw.update(zip(names, parts[1:]))
        return raw

    def is_fused(self, thresh: int = 10) -> bool:
        """Whether fewer than `thresh` batch norms are left."""
        return sum(isinstance(module, nn.BatchNorm2d) for module in self.modules()) < thresh

    def fuse(self, verbose: bool = True) -> ScriptModel:
        """Fold every batch norm into its convolution, in place, as Detector.fuse. verbose: without effect."""
        super().fuse()
        return self

    def take_rows(self) -> None:
        """Take over the rows of the Detector, also after the package has changed them."""
        rows = list(self._detector[0].model)
        if hasattr(rows[-1], "decode"):
            rows[-1] = script_head(rows[-1], self.strides)
        for row, module in zip(self.graph.rows, rows, strict=True):
            module.i, module.f = row.index, list(row.source) if isinstance(row.source, tuple) else row.source
            module.type = f"{type(module).__module__}.{type(module).__qualname__}"
            module.np = sum(parameter.numel() for parameter in module.parameters())
        self.model = nn.Sequential(*rows)

    def give_rows(self) -> None:
        """Hand over to the Detector the rows and attributes that a script may have changed."""
        detector = self._detector[0]
        detector.__dict__.update({key: value for key, value in self.__dict__.items() if key not in OWN})
        head = detector.model[-1]
        rows = [head if isinstance(row, PairsHead) else row for row in self.model]
        if any(ours is not row for ours, row in zip(detector.model, rows)) or len(rows) != len(detector.model):
            detector.model = nn.Sequential(*rows)

    def plain(self) -> Detector:
        """Return the Detector with these layers, for code that reads raw outputs."""
        self.give_rows()
        return self._detector[0]

    def has_hooks(self) -> bool:
        """Whether any module has a hook, as scripts and torch.nn.utils.prune register them."""
        return any(module.__dict__.get(name) for module in self.modules() for name in HOOKS)

    def live(self, device: torch.device | None = None) -> LiveModel:
        """Return a Detector that runs this very network, in evaluation, so that hooks see what passes through it."""
        return LiveModel(self.eval().to(device))

    def _embed(self, images: Tensor, rows: Sequence[int]) -> tuple[Tensor, ...]:
        means: dict[int, Tensor] = {}

        def keep_mean_of(row: int) -> Callable:
            return lambda module, inputs, output: means.update({row: output.mean((2, 3))})

        hooks = [self.model[row].register_forward_hook(keep_mean_of(row)) for row in rows]
        try:
            super().forward(images)
        finally:
            for hook in hooks:
                hook.remove()
        return torch.cat([means[row] for row in rows], 1).unbind(0)

    def __deepcopy__(self, memo: dict[int, object]) -> ScriptModel:
        self.give_rows()
        twin = type(self).__new__(type(self))
        memo[id(self)] = twin
        ScriptModel.__init__(twin, copy.deepcopy(self._detector[0], memo), copy.deepcopy(self.args, memo), self.origin)
        for name, module in self._modules.items():  # layers that a subclass has beside the rows
            if name != "model":
                twin.add_module(name, copy.deepcopy(module, memo))
        return twin

    def to_checkpoint(self) -> Checkpoint:
        """Return the present weights as a checkpoint. Raises UserError where they do not fit the graph any more."""
        self.give_rows()
        origin = self.origin or Checkpoint(
            self.graph, {}, norms=odd_norms(self), measured=(self.strides, self.multiple)
        )
        state = {name: tensor.cpu() for name, tensor in self._detector[0].state_dict().items()}
        checkpoint = replace(origin, graph=replace(self.graph, names=dict(self.names)), state=state)
        try:
            checkpoint.check_shapes()
        except UserError as error:
            raise UserError(
                "A script has changed the layers of the network, so that no file of weights can hold it (masks of "
                f"torch.nn.utils.prune become weights by its function `remove`). {error}"
            ) from error
        return checkpoint

    def __getstate__(self) -> dict[str, object]:
        try:
            content = content_of(self.to_checkpoint())
        except UserError:  # the layers themselves, which no more than Python's own pickle takes
            return {"detector": self._detector[0], "args": self.args, "origin": self.origin}
        half = next(self.parameters()).dtype == torch.float16
        return {CONTENT: content, "args": plain_values(self.args), "training": self.training, "half": half}

    def __setstate__(self, state: Mapping[str, object]) -> None:
        detector, origin = state.get("detector"), state.get("origin")
        if CONTENT in state:
            origin = checkpoint_from(state[CONTENT], "this object")
            detector = origin.model().half() if state["half"] else origin.model()
            detector.train(state["training"])
        ScriptModel.__init__(self, detector, state["args"], origin)


class LiveModel(Detector):
    """A ScriptModel as a Detector: its forward, layers, hooks and losses, and raw outputs. It is never folded.

    What a script has overridden runs: predict and val take it where there are hooks, training where there is a loss.
    """

    def __init__(self, script: ScriptModel):
        nn.Module.__init__(self)
        own = dict(self.__dict__)
        self.__dict__.update({key: value for key, value in script.__dict__.items() if key not in own})
        self.names, self.model, self._script = dict(script.names), script.model, (script,)
        weight = next(script.parameters())
        self.how = f"{str(weight.dtype)[6:]}, not folded, because a script has hooks on it, on {weight.device}"
        self.training = script.training

    @property
    def script(self) -> ScriptModel:
        """The network whose outputs these are."""
        return self._script[0]

    def forward(self, images: Tensor) -> Raw:
        """As Detector.forward."""
        return self.script.raw_of(self.script(images))

    def loss(self, batch: Mapping[str, Tensor], preds: Outputs | None = None) -> tuple[Tensor, Tensor]:
        """As ScriptModel.loss, or as the script has it."""
        return self.script.loss(batch, preds)

    def train(self, mode: bool = True) -> LiveModel:
        """Set the mode of the layers and of the script's network."""
        self.script.training = mode
        return super().train(mode)

    def __deepcopy__(self, memo: dict[int, object]) -> LiveModel:
        return LiveModel(copy.deepcopy(self.script, memo))


def _yaml_of(detector: Detector) -> dict[str, object]:
    graph = detector.graph
    facts = {"nc": detector.nc, "ch": graph.channels, "scale": graph.scale, "yaml_file": graph.name}
    return {**graph.document, **facts}
