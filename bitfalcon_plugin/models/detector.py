"""Graph rows to a network: `Detector`, its folding, and its summary.

`forward` gives raw outputs and nothing else; losses and decoding are other functions (DETR, Carion et al. 2020).
"""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..config.errors import UserError, WrongValueError, did_you_mean, is_out_of_memory, raise_problems
from ..config.printable import short_repr
from ..ops.keypoint_layout import KeypointLayout
from ..ops.letterbox import nearest_side
from .bitify import apply_policies
from .graph.rows import Graph
from .modules import entry
from .modules.bit_activations import QuantisedLayer
from .modules.conv import DefaultActivation
from .modules.head import Raw
from .modules.library_names import ACTIVATIONS
from .trial import Measured, build_row, check_weights, reason, try_row, try_rows


class Detector(nn.Module):
    """A network built from a Graph, with the head of its task. Rows are `model.<index>`, as in published checkpoints.

    stride (Tensor[levels]): pixels a cell of each level, in the head's order; strides: the same as a tuple. A head
    without levels has (1.0,). multiple: the sides of an image must be multiples of it. names: class index to name.

    checkpointing: where it is True, training computes the inside of each row a second time in the backward pass instead
    of storing it (Chen et al., "Training Deep Nets with Sublinear Memory Cost", 2016): less memory, more time.

    measured: strides and multiple where they are known, as of a checkpoint: they are tried on a smaller image.
    compared: whether the shapes of all weights are known to be those of a file, and take no more memory than that.

    Raises UserError with every row that cannot be built, or with every row whose maps do not fit.
    """

    exported = False  # True for an exported model, which has no losses and no choice of precision
    fixed: tuple[int, int] | None = None  # (H, W) of an exported model that takes one size only
    how = ""  # one line: precision, compilation, threads; set by prepare_for_inference
    warmed: dict | None = None  # (shape, type) of images -> seconds of compiling for them, see inference.compiling
    twins: tuple[Detector, ...] = ()  # copies on other devices; predict deals its batches out to all of them

    def __init__(self, graph: Graph, measured: Measured | None = None, *, compared: bool = False):
        super().__init__()
        self.graph, self.names, self.nc = graph, dict(graph.names), graph.nc
        self.checkpointing = False
        problems: list[str] = []
        if not compared:
            check_weights(graph, problems)
        shared = _activation(graph, problems)
        raise_problems(f"{graph.name} cannot be built:", problems)
        self.model = nn.Sequential(*(build_row(row, problems) for row in graph.rows))
        _share(self, shared)
        raise_problems(f"{graph.name} cannot be built:", problems)
        apply_policies(self.model, graph)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):  # of nn.X and registered rows too (spec/interface.md section 4)
                module.eps, module.momentum = self.norm
        # rows whose output is stored, because a later row than the next reads it
        self.stored_rows = frozenset(source for row in graph.rows for source in row.sources if source != row.index - 1)
        strides, self.multiple = try_rows(graph, self.model.eval(), measured)
        self.model.train(self.training)
        self.strides = tuple(float(stride) for stride in strides)
        self.stride = torch.tensor(self.strides, device="cpu")
        if hasattr(self.head, "start_biases"):
            self.head.start_biases(self.strides)

    @property
    def head(self) -> nn.Module:
        """The last row."""
        return self.model[-1]

    @property
    def task(self) -> str:
        """The task that the head row names, a key of tasks.TASKS."""
        return entry(self.graph.rows[-1].module).rule.task

    @property
    def keypoints(self) -> KeypointLayout | None:
        """What is known of the keypoints of every object; None for a model without keypoints."""
        return self.graph.keypoints

    @property
    def norm(self) -> tuple[float, float]:
        """The eps and momentum that a batch norm of a model with this head usually has."""
        return entry(self.graph.rows[-1].module).rule.norm

    @property
    def reg_max(self) -> int:
        """Bins of each box side's distribution."""
        return self.head.reg_max

    def forward(self, images: Tensor) -> Raw:
        """images (Tensor[B, C, H, W]): floating point, RGB in [0, 1] -> raw outputs (see modules.head.Raw).

        H and W must be multiples of `self.multiple`; WrongValueError otherwise, naming the nearest sizes that are.
        """
        if images.ndim != 4 or images.shape[1] != self.graph.channels or not images.is_floating_point():
            raise WrongValueError(
                f"images are {images.dtype} {tuple(images.shape)}; expected floating point "
                f"(B, {self.graph.channels}, H, W) in [0, 1]"
            )
        height, width = images.shape[-2:]
        if height % self.multiple or width % self.multiple or not height or not width:
            raise WrongValueError(
                f"images are {height}x{width}; both sides must be multiples of {self.multiple}, the "
                f"nearest are {nearest_side(height, self.multiple)}x{nearest_side(width, self.multiple)}"
            )
        x, maps = images, {}
        for row, module in zip(self.graph.rows, self.model, strict=True):
            inputs = [x if source == row.index - 1 else maps[source] for source in row.sources]
            inputs = inputs if row.kind in ("join", "head") else inputs[0]
            recomputes = self.checkpointing and self.training and row.kind in ("block", "stage")
            x = _recomputed(module, inputs) if recomputes else module(inputs)
            if row.index in self.stored_rows:
                maps[row.index] = x
        return x

    def decode(self, raw: Mapping[str, Tensor], size: tuple[int, int] | None = None) -> Tensor:
        """Raw outputs -> float32, as the head says: boxes (B, 4+nc, A), xywh in pixels of the network input and then
        class probabilities; of a classification head class probabilities alone, (B, nc).

        size: (H, W) of the images; only needed for a plain mapping that does not carry the sizes of its levels.
        """
        sizes = getattr(raw, "sizes", None)
        if sizes is None:
            if size is None:
                raise ValueError("raw outputs without the sizes of their levels: give size=(H, W) of the images")
            sizes = [(int(size[0] / s), int(size[1] / s)) for s in self.strides]
        return self.head.decode(raw, sizes, self.strides)

    def fuse(self) -> Detector:
        """Fold every batch norm into its convolution, in place; a second call changes nothing. Returns self.

        Convolutions that were folded ask for no gradient any more: a folded model is for inference.
        """
        for module in list(self.modules()):
            if module is not self and hasattr(module, "fuse"):
                module.fuse()
        for module in list(self.modules()):  # ternary layers outside blocks, which no batch norm follows
            for name, layer in list(module.named_children()):
                if hasattr(layer, "freeze"):
                    setattr(module, name, layer.freeze()[0])
        return self


def odd_norms(model: Detector) -> dict[str, list[float]]:
    """eps and momentum of the batch norms that differ from the usual ones, by module name."""
    return {
        name: [module.eps, module.momentum]
        for name, module in model.named_modules()
        if isinstance(module, nn.BatchNorm2d) and (module.eps, module.momentum) != model.norm
    }


def _recomputed(module: nn.Module, inputs: Tensor) -> Tensor:
    """Run a module, whose inside the backward pass computes a second time."""

    def contexts() -> tuple:  # of the first pass and of the second
        return contextlib.nullcontext(), _without_statistics(module)

    return checkpoint(module, inputs, use_reentrant=False, context_fn=contexts)


@contextlib.contextmanager
def _without_statistics(module: nn.Module) -> Iterator[None]:
    """Leave the statistics of batch norms and the scales of activations unchanged: batch norms move copies instead."""
    norms = [norm for norm in module.modules() if isinstance(norm, nn.modules.batchnorm._BatchNorm) and norm.training]
    observers = [layer for layer in module.modules() if isinstance(layer, QuantisedLayer) and layer.observing]
    originals = [dict(norm._buffers) for norm in norms]
    for norm, buffers in zip(norms, originals):
        norm._buffers.update((name, buffer.clone()) for name, buffer in buffers.items() if buffer is not None)
    for layer in observers:
        layer.observing = False
    try:
        yield
    finally:
        for norm, buffers in zip(norms, originals):
            norm._buffers.update(buffers)
        for layer in observers:
            layer.observing = True


def _activation(graph: Graph, problems: list[str]) -> nn.Module:
    """Return the activation of all blocks that name none. Where it cannot be made, add to `problems`."""
    kind, args, keywords = graph.activation or ("SiLU", (), {})
    if kind not in ACTIVATIONS:
        problems.append(
            f"activation: nn.{short_repr(kind)[1:-1]} is no activation of torch.nn; use for example nn.ReLU()."
            f"{did_you_mean(kind, ACTIVATIONS)}"
        )
        return nn.SiLU()
    try:
        return entry(f"nn.{kind}").cls(*args, **keywords)
    except Exception as error:
        problems.append(f"activation: nn.{kind} does not take these arguments: {reason(error)}")
        return nn.SiLU()


def _share(model: nn.Module, shared: nn.Module) -> None:
    """Give all blocks that name no activation the one of the graph."""
    for module in list(model.modules()):
        for child, value in list(module._modules.items()):  # named_children() leaves out modules that occur twice
            if isinstance(value, DefaultActivation):
                setattr(module, child, shared)


@contextlib.contextmanager
def rows_named() -> Iterator[None]:
    """Turn what a row of a Detector raises into a UserError that names graph and row, with the exception as its cause.

    For images of another size than those that were tried. An exception that the row does not raise on the CPU, for a
    black image of the same size, is a fault of the machine or of this package: it passes.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if not is_out_of_memory(error) and (problem := _problem_of_row(error)):
            raise UserError(f"{problem}. Give another imgsz=, or repair the graph.") from error
        raise


def _problem_of_row(error: Exception) -> str:
    """Return which row of which graph raised `error`, and why; "" where none did."""
    frames = (frame for frame, _ in traceback.walk_tb(error.__traceback__) if frame.f_code is Detector.forward.__code__)
    frame = next(frames, None)
    if frame is None or "inputs" not in frame.f_locals:
        return ""
    graph, row, inputs = (frame.f_locals["self"].graph, frame.f_locals["row"], frame.f_locals["inputs"])
    inputs = inputs if isinstance(inputs, list) else [inputs]
    problems: list[str] = []
    module = build_row(row, problems)
    _share(module, _activation(graph, problems))
    maps = {source: torch.zeros(min(len(x), 2), *x.shape[1:]) for source, x in zip(row.sources, inputs)}
    with torch.inference_mode():
        try_row(row, module.train(frame.f_locals["self"].training), maps, problems)
    return f"{graph.name}: {problems[0]}" if problems else ""
