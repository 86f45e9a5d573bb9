"""The network that is exported: images in; decoded predictions, or the detections after suppression, out.

It gives the numbers of Detector.decode(Detector(images)), and behind them the maps that the task needs besides. A
recorded graph must hold for every size and device, so nothing here asks Python for a size where the graph could compute
it, and coordinates are computed from the images.
"""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor, nn

from ..models.detector import Detector
from ..models.inference.merged_proto import merge_prototypes
from ..models.modules.attention import Attention
from ..models.modules.head import Detect
from ..ops.boxes import anchor_points
from ..tasks import task_of
from .nms import Suppression

LARGE = 1e4  # subtracted from the logits of added positions: exp(-1e4) is 0 in every floating point type


class ExportedNetwork(nn.Module):
    """images (B, 3, H, W) float32 in [0, 1] -> what Detector.decode gives, or with suppression the detections, float32.

    A model whose task has maps (tasks.Task.maps) gives a tuple: the candidates or detections, then these maps. outputs:
    the names of all. model: a folded Detector, which is copied. half: compute in float16; input and output stay
    float32. size: the (H, W) of a network for one size, whose anchors are constants; None for one that takes any.
    """

    def __init__(
        self,
        model: Detector,
        half: bool = False,
        suppression: Suppression | None = None,
        size: tuple[int, int] | None = None,
    ):
        super().__init__()
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        _replace_attention(self.model)
        self.has_constants = size is not None and hasattr(self.model.head, "decode_at")
        if size is None:  # merged prototypes are woven together by strided views
            merge_prototypes(self.model)
        elif self.has_constants:
            cells = [(int(size[0] / stride), int(size[1] / stride)) for stride in self.model.strides]
            points, steps = anchor_points(cells, self.model.strides)
            self.register_buffer("points", points.t().contiguous())  # (2, A)
            self.register_buffer("steps", steps[None])  # (1, A)
        if half:
            self.model.half()
        self.eval()
        self.half_inside, self.suppression = half, suppression
        self.dtype = torch.float16 if half else torch.float32
        task = task_of(model)
        self.outputs = ("candidates" if task.objects else "probabilities", *task.maps)

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, ...]:
        raw = self.model(images.to(self.dtype) if self.half_inside else images)
        head = self.model.head
        if isinstance(head, Detect) and type(head).decode is Detect.decode:
            anchors = (self.points, self.steps) if self.has_constants else _anchors(images, self.model.strides)
            candidates = head.decode_at(raw, *anchors)
        else:  # a head without anchors, or one that was registered from outside
            candidates = self.model.decode(raw)
        first = candidates if self.suppression is None else self.suppression(candidates)
        maps = tuple(raw[name].float() for name in self.outputs[1:])
        return (first, *maps) if maps else first


def _anchors(images: Tensor, strides: tuple[float, ...]) -> tuple[Tensor, Tensor]:
    """The anchors that decode_at takes, for images of any size: points (2, A) and stride (1, A)."""
    points, steps = [], []
    for stride in map(int, strides):
        cells = images[:1, 0, ::stride, ::stride] * 0 + 1  # (1, h, w) ones
        points.append(torch.cat((cells.cumsum(2).flatten(1), cells.cumsum(1).flatten(1))) - 0.5)  # (2, h*w)
        steps.append(cells.flatten(1) * stride)
    return torch.cat(points, 1), torch.cat(steps, 1)


class PlainAttention(nn.Module):
    """modules.attention.Attention with the same parts, written as matrix products that every runtime has.

    padded: whether some sizes need added positions, so that `area` divides the number of positions.
    """

    def __init__(self, original: Attention, padded: bool):
        super().__init__()
        self.qkv, self.proj, self.pe = original.qkv, original.proj, original.pe
        self.heads, self.area, self.padded = original.num_heads, original.area, padded
        self.key_width, self.value_width = original.key_width, original.value_width

    def forward(self, x: Tensor) -> Tensor:
        qkv = self.qkv(x)  # (B, 2K+C, H, W)
        keys, count = self.heads * self.key_width, x.shape[2] * x.shape[3]
        values = qkv[:, 2 * keys :]
        q, k, v = qkv.flatten(2).split((keys, keys, self.heads * self.value_width), 1)  # (B, width, N)
        mask = None
        if self.padded:
            extra = (self.area - count % self.area) % self.area
            q, k, v = (nn.functional.pad(part, (0, extra)) for part in (q, k, v))
            mask = nn.functional.pad(v[:1, :1, :count] * 0, (0, extra), value=-LARGE).view(self.area, 1, 1, -1)
        q, k, v = self._areas(q, self.key_width), self._areas(k, self.key_width), self._areas(v, self.value_width)
        logits = (q * (1 / math.sqrt(self.key_width))).transpose(-1, -2) @ k  # (B, area, heads, run, run)
        weights = (logits if mask is None else logits + mask).softmax(-1)
        y = v @ weights.transpose(-1, -2)  # (B, area, heads, width, run)
        y = y.flatten(1, 3) if self.area == 1 else y.permute(0, 2, 3, 1, 4).flatten(3).flatten(1, 2)  # (B, C, N)
        return self.proj(y[..., :count].reshape(values.shape) + self.pe(values))

    def _areas(self, part: Tensor, width: int) -> Tensor:
        """(B, heads*width, N) -> (B, area, heads, width, run)."""
        # Views instead of unflatten, which the ONNX exporter writes from opset 13 on.
        batch = part.shape[0]
        if self.area == 1:
            return part.reshape(batch, 1, self.heads, width, -1)
        return part.reshape(batch, self.heads, width, self.area, -1).permute(0, 3, 1, 2, 4)


@torch.no_grad()
def _replace_attention(model: Detector) -> None:
    """Replace each Attention of the model by a PlainAttention.

    Whether a layer needs added positions is seen at the smallest image: its positions at any other size are a multiple.
    """
    layers = [
        (parent, name, layer)
        for parent in model.modules()
        for name, layer in parent.named_children()
        if isinstance(layer, Attention)
    ]
    if not layers:
        return
    counts: dict[int, int] = {}  # id of a layer -> its positions

    def count(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        counts[id(layer)] = inputs[0].shape[-2:].numel()

    hooks = [layer.register_forward_pre_hook(count) for _, _, layer in layers]
    model(next(model.parameters()).new_zeros(1, 3, model.multiple, model.multiple))
    for hook in hooks:
        hook.remove()
    for parent, name, layer in layers:
        setattr(parent, name, PlainAttention(layer, counts[id(layer)] % layer.area != 0))
