"""Try whether the rows of a graph fit together: each is run once, on the smallest image that tells, and before that
without memory where it might take too much of it.

A graph may come from somebody else's file. Whatever its rows raise becomes a UserError that names the graph and the
row, and keeps the exception as its cause.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter

from ..config.errors import raise_problems
from ..config.printable import short_repr
from .graph.rows import Graph, Row
from .modules import BUILT_IN, entry
from .modules.library_names import library_class

PROBE = 256  # side of the image by which strides are measured (spec/interface.md section 4)
SMALLEST = 32  # least side of the image on which strides that are known are tried
MAX_WEIGHTS = 1 << 28  # values of all parameters together, 1 GB; the largest graphs here have 6e7
MAX_VALUES = 1 << 27  # values of the map that a row gives for the probe, 0.5 GB; here 4e6
MAX_PRODUCTS = 1 << 38  # weights times pixels of the input, over all rows; takes seconds; the most here is 5e10
FAST_KERNEL = 31  # largest side of kernels that torch is fast with
SLOWER = 200  # times that a product of larger kernels takes

Measured = tuple[Sequence[float], int]  # strides of the levels, and what the sides of an image must be multiples of


def build_row(row: Row, problems: list[str]) -> nn.Module:
    """Build the module of a row. Where that fails, add to `problems` and return an empty module."""
    cls = entry(row.module).cls
    rounds = [row.args] * row.times
    if row.kind == "block":  # the first one changes the width, the others keep it
        rounds[1:] = [(row.channels, *row.args[1:])] * (row.times - 1)
    try:
        modules = [cls(*args, **row.keywords) for args in rounds]
    except Exception as error:  # a constructor may raise anything
        problems.append(f"{row.location} {short_repr(row.args)}: {reason(error)}")
        return nn.Module()
    return modules[0] if len(modules) == 1 else nn.Sequential(*modules)


def check_weights(graph: Graph, problems: list[str]) -> None:
    """Add to `problems` the rows that cannot be built, and the one that makes more than MAX_WEIGHTS values of all.

    Takes no memory. Rows of registered modules that cannot be built without memory are left out.
    """
    total = 0
    for row in graph.rows:
        found: list[str] = []
        with torch.device("meta"):
            module = build_row(row, found)
        if _is_known(row):
            problems += found
        total += _weights(module)
        if total > MAX_WEIGHTS:
            problems.append(f"{row.location} {short_repr(row.args)}: more than {MAX_WEIGHTS} weights up to this row")
            return


@torch.no_grad()
def try_rows(graph: Graph, rows: nn.Sequential, measured: Measured | None) -> Measured:
    """Run an image through the rows, which are in eval mode, and return their strides and multiple.

    measured: what a checkpoint says of them; where that is true, the smallest image is enough. Raises UserError with
    every row that fails.
    """
    return (measured and _confirmed(graph, rows, measured)) or _measured(graph, rows)


def _confirmed(graph: Graph, rows: nn.Sequential, measured: Measured) -> Measured | None:
    """Return `measured` where a small image gives these strides, None where it does not or a row needs a larger one."""
    strides, multiple = measured
    problems: list[str] = []
    side = max(SMALLEST, multiple)
    if side > PROBE or side % multiple:
        return None
    maps = _maps(graph, rows, side, problems)
    if problems:
        return None
    given = [(side / height, side / width) for height, width in _levels(graph, maps)] or [(1, 1)]
    return measured if given == [(stride, stride) for stride in strides] else None


def _measured(graph: Graph, rows: nn.Sequential) -> Measured:
    problems: list[str] = []
    maps = _maps(graph, rows, PROBE, problems)
    raise_problems(
        f"{graph.name} does not fit together (maps are channels x height x width of a {PROBE} px image):", problems
    )
    levels = _levels(graph, maps)
    raise_problems(
        f"{graph.name}: levels of a {PROBE} px image without a stride:",
        [
            f"row {source} gives the head {height}x{width} cells; expected squares of a whole number of pixels"
            for source, (height, width) in zip(graph.rows[-1].sources, levels)
            if not height or PROBE % height or height != width
        ],
    )
    strides = tuple(PROBE / height for height, _ in levels) or (1.0,)
    inner = (maps[row.index].shape[-2] for row in graph.rows[:-1])
    # a map of one cell is pooled over the image
    coarsest = max((*strides, *(PROBE / height for height in inner if height > 1)))
    return strides, 1 << math.ceil(math.log2(coarsest))


def _has_levels(graph: Graph, maps: Mapping[int, object]) -> bool:
    return getattr(maps[graph.rows[-1].index], "sizes", None) != ()


def _levels(graph: Graph, maps: Mapping[int, Tensor]) -> list[tuple[int, int]]:
    """Height and width of the maps that the head reads; none for a head without levels."""
    return [tuple(maps[source].shape[-2:]) for source in graph.rows[-1].sources] if _has_levels(graph, maps) else []


def _maps(graph: Graph, rows: nn.Sequential, side: int, problems: list[str]) -> dict[int, Tensor]:
    """Return what each row gives for a black image, by the row's index; -1 is the image."""
    if graph.channels * side * side > MAX_VALUES:
        problems.append(f"ch: images of {graph.channels} channels are too large")
        return {}
    device = next((p.device for p in rows.parameters()), None)
    maps: dict[int, Tensor] = {-1: torch.zeros(1, graph.channels, side, side, device=device)}
    products = 0
    for row, module in zip(graph.rows, rows, strict=True):
        if not all(source in maps for source in row.sources):  # the missing row has a problem already
            continue
        pixels = max(math.prod(maps[source].shape[2:]) for source in row.sources)
        products += pixels * _work(module)
        if products > MAX_PRODUCTS:
            problems.append(
                f"{row.location} {short_repr(row.args)}: more than {MAX_PRODUCTS} multiplications up to this row, on "
                f"an image of {side} x {side} pixels"
            )
            break
        try_row(row, module, maps, problems)
    return maps


def try_row(row: Row, module: nn.Module, maps: dict[int, Tensor], problems: list[str]) -> None:
    """Add the output of a row to `maps`, or an error to `problems`; rows that read it are then not tried."""
    inputs = [maps[source] for source in row.sources]
    sources = " and ".join(f"row {source} {_size(maps[source])}" for source in row.sources)
    location = f"{row.location} on {sources}"
    try:
        _check_size(row, inputs)
        out = module(inputs if row.kind in ("join", "head") else inputs[0])
        if row.kind == "head" and hasattr(module, "decode") and getattr(out, "sizes", ()):
            module.decode(out, out.sizes, [1.0] * len(out.sizes))
    except Exception as error:  # a module may raise anything
        problems.append(f"{location}: {reason(error)}")
        return
    expected = entry(row.module).rule.outputs
    if row.kind == "head" and (not isinstance(out, Mapping) or not set(expected) <= set(out)):
        names = " and ".join(expected)
        problems.append(f"{location}: a head gives modules.Raw, a mapping of {names}, not {_size(out)}")
    elif row.kind != "head" and (not isinstance(out, Tensor) or out.ndim != 4 or out.shape[1] != row.channels):
        problems.append(
            f"{location}: gives {_size(out)}; its rule promises a map of {row.channels} channels. Check its "
            "arguments, or its rule"
        )
    elif row.kind != "head" and not out.is_floating_point():
        problems.append(f"{location}: gives {out.dtype}; expected floating-point values")
    else:
        maps[row.index] = out


def _check_size(row: Row, inputs: Sequence[Tensor]) -> None:
    """Raise ValueError where the output of a row would have more than MAX_VALUES values.

    Rows that may give more are run without memory, on the meta device, which takes a second the first time.
    """
    if inputs[0].is_meta or _is_small(row, inputs):
        return
    try:
        with torch.device("meta"):
            twin = build_row(row, []).eval()
            out = twin([image.to("meta") for image in inputs] if row.kind == "join" else inputs[0].to("meta"))
    except NotImplementedError:  # of a module that looks at values
        return
    except RuntimeError:
        if _is_known(row):
            raise
        return
    if isinstance(out, Tensor) and out.numel() > MAX_VALUES:
        raise ValueError(f"gives {_size(out)}, more than {MAX_VALUES} values for a small image")


def _is_small(row: Row, inputs: Sequence[Tensor]) -> bool:
    """Whether the output certainly has at most MAX_VALUES values, by the largest number among the arguments."""
    if row.kind in ("join", "head"):  # of maps that are small
        return True
    if row.module not in (*BUILT_IN, "nn.Upsample"):
        return False
    numbers = [abs(number) for number in _numbers(row.args[{"block": 2, "stage": 3, "plain": 2}.get(row.kind, 0) :])]
    most = max((number for number in numbers if number == number), default=1)
    height, width = inputs[0].shape[-2:]
    if row.module in ("nn.Upsample", "nn.ConvTranspose2d"):
        factor = (most + 1) ** min(row.times, 8)
        return max(row.channels, 1) * (height + 2) * (width + 2) * factor**2 <= MAX_VALUES
    return row.channels * (height + 2 * most * row.times) * (width + 2 * most * row.times) <= MAX_VALUES


def _numbers(value: object) -> Iterator[float]:
    for item in value if isinstance(value, (list, tuple)) else [value]:
        if isinstance(item, (list, tuple)):
            yield from _numbers(item)
        elif isinstance(item, (int, float)):
            yield item


def _weights(module: nn.Module) -> int:
    return sum(weight.numel() for weight in module.parameters() if not isinstance(weight, UninitializedParameter))


def _work(module: nn.Module) -> int:
    """The weights of a module; those of large kernels count SLOWER times."""
    convs = (each for each in module.modules() if isinstance(each, (nn.Conv2d, nn.ConvTranspose2d)))
    large = (each for each in convs if max(each.kernel_size) > FAST_KERNEL)
    return _weights(module) + SLOWER * sum(map(_weights, large))


def _is_known(row: Row) -> bool:
    """Whether the module of a row is ours or a library's, and nothing that somebody registered."""
    return row.module in BUILT_IN or library_class(row.module.removeprefix("torch.")) is not None


def reason(error: Exception) -> str:
    """Return the first line of an exception's text, or its name."""
    return str(error).partition("\n")[0] or type(error).__name__


def _size(value: object) -> str:
    return "x".join(map(str, value.shape[1:])) if isinstance(value, Tensor) else type(value).__name__
