"""The rules of the row language: the meaning of a module's arguments, and the arguments that a scale or family adds.

The scaling is compound (EfficientDet, Tan et al. 2019, arXiv:1905.11946): one depth and one width multiplier a size.
Written from spec/interface.md 3.2 and 3.3 and spec/families.md section 1. No torch here, and nothing is evaluated:
texts are read as literals or matched as names.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from ...config.errors import UserError, did_you_mean

EPS, MOMENTUM = 1e-3, 0.03  # batch norm of models whose head says nothing else (spec/interface.md section 4)
MAX_TEXT = 1000  # characters of a literal or an activation, because a parser's stack is finite

KINDS = MappingProxyType(
    {
        "block": "(c_in, c_out, *args); c_out follows the width rule; repeats follow each other",
        "stage": "(c_in, c_out, repeats, *args); c_out follows the width rule; repeats go inside",
        "same": "(*args); as many channels come out as go in; repeats follow each other",
        "norm": "(c_in), whatever the row says; as many channels come out as go in; repeats follow each other",
        "plain": "(*args) as written; the second is the number of channels that come out; repeats follow each other",
        "join": "(*args); takes a list of maps, their channels add up",
        "head": "(*args, channels=[...]); the head of a task, the last row; forward takes a list of maps and gives Raw",
    }
)


@dataclass(frozen=True)
class Rule:
    """How a row of a module is read.

    kind: a key of KINDS. modern: a graph with such a row has the depthwise-separable class branch of Detect. legacy,
    class_width: the constructor takes `legacy=`, `class_width=`. declared_input: a row may name its input channels
    first. scaling: a key of SCALING or "". scaled: the position of a head's argument that follows the width rule; 0:
    none does. task: the task whose outputs a head gives (tasks.TASKS). outputs: the names of those that it must give.
    norm: eps and momentum of every batch norm in a model with this head.

    Raises UserError for an unknown kind or scaling.
    """

    kind: str
    modern: bool = False
    legacy: bool = False
    class_width: bool = False
    declared_input: bool = False
    scaling: str = ""
    scaled: int = 0
    task: str = "detect"
    outputs: tuple[str, ...] = ("boxes", "scores")
    norm: tuple[float, float] = (EPS, MOMENTUM)

    def __post_init__(self):
        for word, value, known in (("rule", self.kind, (*KINDS,)), ("scaling", self.scaling, ("", *SCALING))):
            if value not in known:
                names = ", ".join(filter(None, known))
                raise UserError(f"{word} {value!r} is unknown (known: {names}).{did_you_mean(value, known)}")


@dataclass(frozen=True)
class Signature:
    """The rule of a module, and the arguments that a row may have (besides c_in, c_out and repeats).

    parameters: (name, annotation) pairs in order. required: how many have no default.
    accepts_more: the constructor has *args.
    """

    rule: Rule
    parameters: tuple[tuple[str, str], ...] = ()
    required: int = 0
    accepts_more: bool = False


@dataclass(frozen=True)
class Variant:
    """The values of a family that its YAML leaves open (spec/families.md section 1)."""

    pe: int  # side of the positional convolution
    residual: Collection[str] | None  # scales whose attention stages have a residual gamma; None: all
    mlp_ratio: Mapping[str, float] = field(default_factory=dict)  # by scale; 2.0 for the others


VARIANTS: Mapping[str, Variant] = MappingProxyType(
    {
        "v1": Variant(7, "lx", {"l": 1.2, "x": 1.2}),
        "turbo": Variant(5, "lx", {"l": 1.5, "x": 1.5}),
        "turbo-all-residual": Variant(5, None, {"l": 1.0, "x": 1.0}),
    }
)

TYPES: Mapping[str, tuple[tuple[type, ...], str]] = MappingProxyType(
    {
        "int": ((int,), "an integer"),
        "float": ((int, float), "a number"),
        "bool": ((bool,), "True or False"),
        "int | None": ((int, type(None)), "an integer or None"),
        "bool | nn.Module": ((bool, type(None)), "True or False"),
    }
)


def mismatch(annotation: str, value: object) -> str:
    """The expectation, as text, where `value` does not fit a parameter's annotation; '' where it fits."""
    types, expected = TYPES.get(annotation, ((object,), ""))
    if isinstance(value, bool):
        fits = bool in types or object in types
    else:
        fits = isinstance(value, types) or (bool in types and value in (0, 1))
    return "" if fits else expected


def literal(value: object) -> object:
    """Return the value of a text that is a Python literal ('None' -> None); anything else is returned unchanged."""
    if not isinstance(value, str) or len(value) > MAX_TEXT:
        return value
    try:
        return ast.literal_eval(value.strip())
    except (ValueError, SyntaxError, RecursionError, MemoryError, TypeError):
        return value


def scale_width(channels: int, width: float, limit: float) -> int:
    """Return min(channels, limit) * width, rounded up to a multiple of 8."""
    return math.ceil(min(channels, limit) * width / 8) * 8


def scale_depth(repeats: int, depth: float) -> int:
    """Return repeats * depth rounded half to even, at least 1; a single repeat stays."""
    return max(round(repeats * depth), 1) if repeats > 1 else repeats


def _deep_c3k2(args: list, scale: str, variant: Variant) -> tuple[list, dict]:
    # Scales m, l and x always use the C3k form, whatever the row says.
    if scale in ("m", "l", "x"):
        args = [True, *args[1:]]
    return args, {}


def _area_stage(args: list, scale: str, variant: Variant) -> tuple[list, dict]:
    # The stage takes a2, area, residual, mlp_ratio; those that the row leaves open are filled in.
    if variant.residual is None or (scale and scale in variant.residual):
        args = [*args, *[True, 1, True, variant.mlp_ratio.get(scale, 2.0)][len(args) :]]
    return args, {"pe": variant.pe}


# (args after c_out, scale, variant) -> args, keywords
SCALING: Mapping[str, Callable[[list, str, Variant], tuple[list, dict]]] = MappingProxyType(
    {"c3k2": _deep_c3k2, "a2c2f": _area_stage}
)


def activation_name(value: object) -> tuple[str, tuple, dict] | None:
    """Return ('LeakyReLU', (0.1,), {}) for 'torch.nn.LeakyReLU(0.1)', and None for what is no such text."""
    if not isinstance(value, str) or len(value) > MAX_TEXT:
        return None
    try:
        node = ast.parse(value.strip(), mode="eval").body
        call = node if isinstance(node, ast.Call) else ast.Call(func=node, args=[], keywords=[])
        path = ast.unparse(call.func)
        args = tuple(ast.literal_eval(arg) for arg in call.args)
        keywords = {item.arg: ast.literal_eval(item.value) for item in call.keywords}
    except (ValueError, SyntaxError, RecursionError, MemoryError, TypeError):
        return None
    prefix, _, last = path.rpartition(".")
    is_name = prefix in ("", "nn", "torch.nn") and last.isidentifier() and None not in keywords  # None: a ** argument
    return (last, args, keywords) if is_name else None
