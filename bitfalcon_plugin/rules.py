"""The rules of the row language: what a module's arguments mean, and what a size or a family adds to them.

The scaling is compound (EfficientDet, Tan et al. 2020): one depth and one width multiplier a size. No torch here and
nothing evaluated: strings are read as literals or matched as names.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

KINDS = MappingProxyType({
    "block": "(c_in, c_out, *args); c_out follows the width rule; repeats stand in a row",
    "stage": "(c_in, c_out, repeats, *args); c_out follows the width rule; repeats go inside",
    "same": "(*args); as many channels come out as go in; repeats stand in a row",
    "norm": "(c_in); as many channels come out as go in",
    "plain": "(*args) as written; the second argument is the number of channels that come out",
    "join": "(*args); takes a list of maps, their channels add up",
    "head": "(*args, channels=[...]); the detection head, the last row",
})


@dataclass(frozen=True)
class Rule:
    """How a row of a module is read.

    kind: one of KINDS. modern: its presence selects the depthwise-separable class branch of Detect. legacy: the
    constructor takes `legacy=`. declared_input: a row may name its input channels first. scaling: the key of SCALING,
    what the size adds to the arguments.
    """

    kind: str
    modern: bool = False
    legacy: bool = False
    declared_input: bool = False
    scaling: str = ""


@dataclass(frozen=True)
class Signature:
    """What the graph needs to know of a module: its rule, and what may be written in args (without c_in, c_out, repeats).

    parameters: (name, annotation) pairs in order; required: how many have no default; open: takes any number.
    """

    rule: Rule
    parameters: tuple[tuple[str, str], ...] = ()
    required: int = 0
    open: bool = False


@dataclass(frozen=True)
class Variant:
    """How a family fills in what its YAML leaves open (spec/families.md section 1)."""

    pe: int  # side of the positional convolution
    residual: Collection[str] | None  # sizes whose attention stages carry a residual gamma; None: all
    mlp_ratio: Mapping[str, float] = field(default_factory=dict)


VARIANTS: Mapping[str, Variant] = MappingProxyType({
    "v1": Variant(7, "lx", {"l": 1.2, "x": 1.2}),
    "turbo": Variant(5, "lx", {"l": 1.5, "x": 1.5}),
    "turbo-all-residual": Variant(5, None, {"l": 1.0, "x": 1.0}),
})

def literal(value: object) -> object:
    """`value` read as a Python literal when it is a string that is one ('None' -> None), else as it is."""
    if not isinstance(value, str) or len(value) > 1000:
        return value
    try:
        return ast.literal_eval(value.strip())
    except (ValueError, SyntaxError, RecursionError, MemoryError, TypeError):
        return value


def scale_width(channels: int, width: float, limit: float) -> int:
    """min(channels, limit) * width, rounded up to a multiple of 8."""
    return math.ceil(min(channels, limit) * width / 8) * 8


def scale_depth(repeats: int, depth: float) -> int:
    """repeats * depth rounded half to even, at least 1; a single repeat stays."""
    return max(round(repeats * depth), 1) if repeats > 1 else repeats


def _deep_c3k2(args: list, scale: str, variant: Variant) -> tuple[list, dict]:
    # Sizes m, l and x always use the C3k form, whatever the row says.
    if scale in ("m", "l", "x"):
        args = [True, *args[1:]]
    return args, {}


def _area_stage(args: list, scale: str, variant: Variant) -> tuple[list, dict]:
    # After the repeats the stage takes a2, area, residual, mlp_ratio; what the row leaves open is filled in.
    filled = list(args)
    if variant.residual is None or (scale and scale in variant.residual):
        filled += [True, 1, True, variant.mlp_ratio.get(scale, 2.0)][len(args):]
    return filled, {"pe": variant.pe}


SCALING: Mapping[str, Callable] = MappingProxyType({"c3k2": _deep_c3k2, "a2c2f": _area_stage})


def activation_name(value: object) -> tuple[str, tuple, dict] | None:
    """'torch.nn.LeakyReLU(0.1)' -> ('LeakyReLU', (0.1,), {}); None when `value` is no such text. Matched, not run."""
    try:
        node = ast.parse(str(value).strip(), mode="eval").body
        call = node if isinstance(node, ast.Call) else ast.Call(func=node, args=[], keywords=[])
        path = ast.unparse(call.func)
        args = tuple(ast.literal_eval(arg) for arg in call.args)
        keywords = {item.arg: ast.literal_eval(item.value) for item in call.keywords if item.arg}
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return None
    prefix, _, last = path.rpartition(".")
    return (last, args, keywords) if prefix in ("", "nn", "torch.nn") and last.isidentifier() else None
