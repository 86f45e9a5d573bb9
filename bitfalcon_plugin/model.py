"""Graph rows to a network: `Detector`, its folding, and its summary.

`forward` gives raw outputs and nothing else; losses and decoding are other functions (DETR, Carion et al. 2020).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from .errors import UserError
from .graph import Graph, Row, resolve
from .locate import find_model
from .modules import Raw, entry, known_modules, lookup
from .modules.conv import DefaultActivation

PROBE = 256  # side of the image by which strides are measured (spec/interface.md section 4)


class Detector(nn.Module):
    """A detection network built from a Graph. Rows are `model.<index>`, as in published checkpoints.

    stride (Tensor[levels]): pixels a cell of each level, fine to coarse. multiple: what the sides of an image must be a
    multiple of. names: class index to name. Raises UserError when a row cannot be built or its maps do not fit.
    """

    def __init__(self, graph: Graph):
        super().__init__()
        self.graph, self.names, self.nc = graph, dict(graph.names), graph.nc
        self.model = nn.ModuleList(_build(graph.name, row) for row in graph.rows)
        used = {source for row in graph.rows for source in row.sources if source != row.index - 1}
        self.kept = frozenset(used)  # rows whose output a later row, not the next, reads
        if graph.activation is not None:
            _replace_activation(self, graph)
        self.strides, self.multiple = self._measure_strides()
        self.stride = torch.tensor(self.strides, device="cpu")
        if hasattr(self.head, "start_biases"):
            self.head.start_biases(self.strides)

    @property
    def head(self) -> nn.Module:
        """The last row."""
        return self.model[-1]

    @property
    def reg_max(self) -> int:
        """Bins of each box side's distribution."""
        return self.head.reg_max

    def forward(self, images: Tensor) -> Raw:
        """images (Tensor[B, C, H, W]): floating point, RGB in [0, 1] -> raw outputs (see modules.head.Raw).

        H and W must be multiples of `self.multiple`; ValueError otherwise, naming the nearest sizes that are.
        """
        if images.ndim != 4 or images.shape[1] != self.graph.channels or not images.is_floating_point():
            raise ValueError(f"images are {images.dtype} {tuple(images.shape)}; expected floating point "
                             f"(B, {self.graph.channels}, H, W) in [0, 1]")
        height, width = images.shape[-2:]
        if height % self.multiple or width % self.multiple or not height or not width:
            raise ValueError(f"images are {height}x{width}; both sides must be multiples of {self.multiple}, the nearest "
                             f"are {nearest_side(height, self.multiple)}x{nearest_side(width, self.multiple)}")
        x, maps = images, {}
        for row, module in zip(self.graph.rows, self.model, strict=True):
            inputs = [x if source == row.index - 1 else maps[source] for source in row.sources]
            x = module(inputs if row.kind in ("join", "head") else inputs[0])
            if row.index in self.kept:
                maps[row.index] = x
        return x

    def decode(self, raw: Mapping[str, Tensor], size: tuple[int, int] | None = None) -> Tensor:
        """Raw outputs -> (B, 4+nc, A) float32: xywh in pixels of the network input, then class probabilities.

        size: (H, W) of the images; only needed for a plain mapping that does not carry the sizes of its levels.
        """
        sizes = getattr(raw, "sizes", None)
        if sizes is None:
            if size is None:
                raise ValueError("raw outputs without the sizes of their levels: give size=(H, W) of the images")
            sizes = [(int(size[0] / s), int(size[1] / s)) for s in self.strides]
        return self.head.decode(raw, sizes, self.strides)

    def fuse(self) -> Detector:
        """Fold every batch norm into its convolution, in place; a second call changes nothing. Returns self."""
        for module in self.modules():
            if module is not self and hasattr(module, "fuse"):
                module.fuse()
        return self

    @torch.no_grad()
    def _measure_strides(self) -> tuple[tuple[float, ...], int]:
        training, device = self.training, next(self.parameters()).device
        self.eval()
        image = torch.zeros(1, self.graph.channels, PROBE, PROBE, device=device)
        maps: dict[int, Tensor] = {-1: image}
        for row, module in zip(self.graph.rows, self.model, strict=True):
            inputs = [maps[source] for source in row.sources]
            maps[row.index] = _probe(self.graph.name, row, module, inputs)
        heights = [maps[source].shape[-2] for source in self.graph.rows[-1].sources]
        self.train(training)
        coarsest = max(PROBE // maps[row.index].shape[-2] for row in self.graph.rows[:-1])
        return tuple(PROBE / height for height in heights), coarsest


def build(model: str | Path = "yolov12.yaml", scale: str = "", *, variant: str | None = None, nc: int | None = None,
          names: Mapping[int, str] | None = None) -> Detector:
    """A Detector with fresh weights from a model YAML: `build("yolov12.yaml", "n")`, `build("yolov12n.yaml")`.

    variant: v1, turbo or turbo-all-residual. nc and names are of the dataset and win over the YAML's own.
    """
    return Detector(read_graph(model, scale, variant=variant, nc=nc, names=names))


def read_graph(model: str | Path, scale: str = "", *, variant: str | None = None, nc: int | None = None,
               names: Mapping[int, str] | None = None) -> Graph:
    """Find a model YAML and resolve it; see `build`."""
    found = find_model(model, variant)
    return graph_of(found.document, name=found.path.name, scale=scale, named_scale=found.letter, variant=variant, nc=nc,
                    names=names)


def graph_of(document: Mapping[str, object], **choices) -> Graph:
    """Resolve a document with the modules known here; `choices` as in graph.resolve."""
    return resolve(document, lookup, known_modules(), **choices)


def nearest_side(side: int, multiple: int) -> int:
    """The positive multiple of `multiple` nearest to `side`; the larger of two equally near."""
    return max((2 * side + multiple) // (2 * multiple), 1) * multiple


def _build(name: str, row: Row) -> nn.Module:
    cls = entry(row.module).cls
    try:
        if row.times == 1:
            return cls(*row.args, **row.keywords)
        if row.kind == "block":  # the first brings the width, the others keep it
            later = (row.channels, *row.args[1:])
            return nn.Sequential(cls(*row.args, **row.keywords), *(cls(*later, **row.keywords) for _ in range(row.times - 1)))
        return nn.Sequential(*(cls(*row.args, **row.keywords) for _ in range(row.times)))
    except Exception as error:  # whatever a constructor makes of the arguments, the row is what must be named
        raise UserError(f"{name} row {row.index} ({row.module} {list(row.args)}) cannot be built: {error}") from error


def _probe(name: str, row: Row, module: nn.Module, inputs: list[Tensor]) -> Tensor:
    shapes = ", ".join("x".join(map(str, x.shape[1:])) for x in inputs)
    try:
        out = module(inputs if row.kind in ("join", "head") else inputs[0])
    except Exception as error:
        raise UserError(f"{name} row {row.index} ({row.module}) cannot take rows {list(row.sources)} ({shapes}, channels x "
                        f"height x width of a {PROBE} px image): {error}") from error
    if row.kind != "head" and (not isinstance(out, Tensor) or out.ndim != 4 or out.shape[1] != row.channels):
        got = f"{tuple(out.shape)}" if isinstance(out, Tensor) else type(out).__name__
        raise UserError(f"{name} row {row.index} ({row.module}) gives {got} for {shapes}; its rule promises a map of "
                        f"{row.channels} channels. Check its arguments or its rule.")
    return out


def _replace_activation(model: nn.Module, graph: Graph) -> None:
    kind, args, keywords = graph.activation
    cls = getattr(nn, kind, None)
    if not (isinstance(cls, type) and issubclass(cls, nn.Module) and cls.__module__ == "torch.nn.modules.activation"):
        raise UserError(f"{graph.name} activation: nn.{kind} is no activation of torch.nn; use for example nn.ReLU().")
    for module in list(model.modules()):
        for child, value in module.named_children():
            if isinstance(value, DefaultActivation):
                setattr(module, child, cls(*args, **keywords))


@dataclass(frozen=True)
class Summary:
    """Sizes of a model: parameters, those with gradients, GFLOPs (2 x MACs / 1e9, one image of imgsz), a line a row."""

    layers: int
    parameters: int
    gradients: int
    gflops: float
    rows: tuple[tuple[int, object, int, int, str, str], ...]  # index, from, n, parameters, module, arguments


def summary(model: Detector, imgsz: int = 640) -> Summary:
    """Count a model; GFLOPs by torch's own counter on shapes alone (attention counted exactly), rounded up to a legal size."""
    side = -(-imgsz // model.multiple) * model.multiple
    meta = {name: value.to("meta") for name, value in (*model.named_parameters(), *model.named_buffers())}
    image = torch.zeros(1, model.graph.channels, side, side, device="meta")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        torch.func.functional_call(model, meta, (image,))
    rows = []
    for row, module in zip(model.graph.rows, model.model, strict=True):
        args = [*row.args, *(value for key, value in row.keywords.items() if key == "channels")]
        cls = entry(row.module).cls
        rows.append((row.index, row.source, row.repeats, _count(module), f"{cls.__module__}.{cls.__qualname__}", str(args)))
    leaves = sum(1 for module in model.modules() if not list(module.children()))
    gradients = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return Summary(leaves, _count(model), gradients, counter.get_total_flops() / 1e9, tuple(rows))


def _count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())
