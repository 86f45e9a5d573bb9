"""Inert stand-ins for foreign classes, and what can be read off them: tensors of a module tree, plain values.

torch's loader gives a stand-in the arguments and the state that the file has for an object. The stand-in stores them
and does nothing else. A module is any object with the three dicts in which torch.nn.Module keeps its parts.
"""

from __future__ import annotations

import math
import struct
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import PurePath, PurePosixPath, PureWindowsPath

import torch
from torch import Tensor

from .allowed import AGAIN, MAX_DIMENSIONS, Rejected, is_count, need

MAX_DEPTH = 64  # of modules and of values in values; real files: 9 and 5
MAX_PARTS = 100_000  # modules, tensors and values that are visited; yolov12n: 4 thousand
MAX_ARRAY = 65_536  # bytes of a numpy array among the attributes
MAX_PATH = 4_096  # characters
MAX_KEY = 1_000  # characters of the key of a tensor
PARTS = ("_parameters", "_buffers", "_modules")
TRANSFORMS = (  # classes of steps that prepare an image (spec/segment-classify.md 2.3)
    "torchvision.transforms.transforms.",
    "ultralytics.data.augment.",
    "ultralytics.yolo.data.augment.",
)
SCALARS = (str, int, float, bool, type(None), bytes)


class StandIn:
    """An object of a foreign class: the arguments it was made with and the state it was given."""

    __slots__ = ("arguments", "state")
    full_name = ""

    def __new__(cls, *arguments: object) -> StandIn:
        """Keep the arguments."""
        self = object.__new__(cls)
        self.arguments, self.state = arguments, {}
        return self

    def __setstate__(self, state: object) -> None:
        """Keep the state; with slots it is (attributes, slots), of which the attributes are kept."""
        self.state = state[0] if type(state) is tuple and len(state) == 2 else state

    def attributes(self) -> dict:
        """The attributes, in the file's order; empty where the state is no dict."""
        return self.state if type(self.state) in (dict, OrderedDict) else {}

    def is_module(self) -> bool:
        """Whether it is a torch module."""
        return all(type(self.attributes().get(part)) in (dict, OrderedDict) for part in PARTS)

    def child(self, name: str) -> StandIn | None:
        """The sub-module `name`, or None."""
        child = self.attributes()["_modules"].get(name) if self.is_module() else None
        return child if isinstance(child, StandIn) else None


def stand_in(full_name: str) -> type[StandIn]:
    """A new class that stands for `full_name`."""
    return type("StandIn", (StandIn,), {"__slots__": (), "full_name": full_name})


class Visits:
    """Counts what is visited: a file of 1 KB can share its parts so often that a walk over all paths never ends."""

    def __init__(self) -> None:
        self.count = 0

    def add(self, depth: int, count: int = 1) -> None:
        """Raises Rejected beyond MAX_DEPTH or MAX_PARTS."""
        self.count += count
        need(depth <= MAX_DEPTH, f"has parts nested deeper than {MAX_DEPTH}")
        need(self.count <= MAX_PARTS, f"has more than {MAX_PARTS} parts")


@dataclass
class Weights:
    """What a module tree holds. state: tensors in state_dict order; eps, momentum: of batch norms, by module key."""

    state: dict[str, Tensor] = field(default_factory=dict)
    eps: dict[str, float] = field(default_factory=dict)
    momentum: dict[str, float | None] = field(default_factory=dict)


def weights(root: StandIn) -> Weights:
    """Return the tensors of a module tree under the keys that `root.state_dict()` would give them."""
    held, visits = Weights(), Visits()
    for path, module in _modules(root, "", 0, visits):
        attributes = module.attributes()
        hidden = attributes.get("_non_persistent_buffers_set", ())
        for part in ("_parameters", "_buffers"):
            for name, tensor in _entries(attributes[part], visits):
                if tensor is None or part == "_buffers" and type(hidden) is set and name in hidden:
                    continue
                need(isinstance(tensor, Tensor), f"has {path}{name} that is not a tensor")
                need(path + name not in held.state, f"has {path}{name} twice")
                held.state[path + name] = tensor.detach()
        if isinstance(attributes["_buffers"].get("running_var"), Tensor):
            held.eps[path[:-1]] = _fraction(attributes.get("eps"), f"{path}eps")
            momentum = attributes.get("momentum")
            held.momentum[path[:-1]] = None if momentum is None else _fraction(momentum, f"{path}momentum")
    return held


def _modules(module: StandIn, path: str, depth: int, visits: Visits) -> Iterator[tuple[str, StandIn]]:
    visits.add(depth)
    need(len(path) < MAX_KEY, f"has names of parts longer than {MAX_KEY} letters together")
    need(module.is_module(), f"has {path[:-1] or 'a model'} that is not a torch module")
    yield path, module
    for name, child in _entries(module.attributes()["_modules"], visits):
        if child is not None:
            need(isinstance(child, StandIn), f"has {path}{name} that is not a module")
            yield from _modules(child, f"{path}{name}.", depth + 1, visits)


def _entries(part: dict, visits: Visits) -> Iterator[tuple[str, object]]:
    for name, value in dict.items(part):
        visits.add(0)
        need(type(name) is str and 0 < len(name) < 200, f"has a module part named {str(name)[:40]!r}")
        yield name, value


def _fraction(value: object, name: str) -> float:
    fits = type(value) in (int, float) and 0 <= value <= 1
    need(fits, f"has {name} = {str(value)[:40]!r}, expected a number from 0 to 1")
    return float(value)


class NotPlain(Exception):
    """A value that is neither plain nor a tensor."""


class Plainer:
    """Makes plain values and tensors of loaded ones: dict, list, tuple, str, int, float, bool, None, bytes."""

    def __init__(self) -> None:
        self.visits = Visits()

    def __call__(self, value: object, depth: int = 0) -> object:
        """Raises NotPlain for a foreign object without a plain form; inside a dict such an entry is left out."""
        self.visits.add(depth)
        kind = type(value)
        if kind in SCALARS:
            return value
        if isinstance(value, Tensor):
            return value.detach()
        if kind in (dict, OrderedDict):
            return self.entries(value, depth)
        if kind in (list, tuple, torch.Size):
            made = [self(item, depth + 1) for item in value]
            return made if kind is list else tuple(made)
        if kind is set:
            self.visits.add(depth, len(value))
            return sorted(value, key=repr)
        if kind in (torch.dtype, torch.device):
            return str(value)
        if isinstance(value, StandIn):
            return self.foreign(value, depth)
        raise NotPlain

    def entries(self, value: dict, depth: int) -> dict:
        """The plain entries of a dict."""
        made = {}
        for key, item in dict.items(value):
            try:
                made[key] = self(item, depth + 1)
            except NotPlain:
                continue
        return made

    def foreign(self, value: StandIn, depth: int) -> object:
        """Paths as text, numpy's scalars and arrays as numbers and tensors, namespaces and transforms as dicts."""
        last = value.full_name.rpartition(".")[2]
        if value.full_name.startswith(TRANSFORMS):
            shown = {key: item for key, item in value.attributes().items() if type(key) is str and key[:1] != "_"}
            return {"class": last, **self.entries(shown, depth)}
        if last.endswith("Namespace"):
            return self.entries(value.attributes(), depth)
        rule = FORMS.get(last) if value.full_name.startswith(("pathlib.", "numpy.")) else None
        if rule is None:
            raise NotPlain
        try:
            self.visits.add(depth, COST)
            return rule(value)
        except (TypeError, ValueError, KeyError, IndexError, RuntimeError, struct.error) as error:
            raise Rejected(f"has a {value.full_name} that does not hold together: it is damaged. {AGAIN}") from error


NUMBERS = {
    "f8": torch.float64,
    "f4": torch.float32,
    "f2": torch.float16,
    "i8": torch.int64,
    "i4": torch.int32,
    "i2": torch.int16,
    "i1": torch.int8,
    "u1": torch.uint8,
    "b1": torch.bool,
}  # numpy's type codes


def _numpy_type(dtype: object) -> torch.dtype:
    # numpy.dtype(code, align, copy), state (version, byte order, ...)
    code = dtype.arguments[0] if isinstance(dtype, StandIn) else None
    if type(code) is not str or code not in NUMBERS or dtype.state[1] == ">":
        raise NotPlain
    return NUMBERS[code]


def _numpy_values(raw: object, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
    if type(shape) is not tuple or len(shape) > MAX_DIMENSIONS or not all(map(is_count, shape)):
        raise ValueError
    if type(raw) is bytes and len(raw) > MAX_ARRAY:
        raise NotPlain
    if type(raw) is not bytes or len(raw) != math.prod(shape) * dtype.itemsize:
        raise ValueError
    return torch.frombuffer(bytearray(raw), dtype=dtype) if raw else torch.empty(0, dtype=dtype)


def _numpy_scalar(value: StandIn) -> int | float | bool:
    dtype, raw = value.arguments
    return _numpy_values(raw, _numpy_type(dtype), ()).item()


def _numpy_array(value: StandIn) -> Tensor:
    _, shape, dtype, fortran, raw = value.state
    flat = _numpy_values(raw, _numpy_type(dtype), shape)
    if fortran:
        return flat.reshape(shape[::-1]).permute(*range(len(shape))[::-1])  # column-major
    return flat.reshape(shape)


def _path(flavour: type[PurePath]) -> Callable[[StandIn], str]:
    def joined(value: StandIn) -> str:
        if len(value.arguments) > MAX_PATH or sum(map(len, value.arguments)) > MAX_PATH:
            raise ValueError
        return str(flavour(*value.arguments))

    return joined


COST = 100  # visits for one of these: they copy, up to MAX_ARRAY bytes
FORMS: dict[str, Callable[[StandIn], object]] = {
    "PosixPath": _path(PurePosixPath),
    "PurePosixPath": _path(PurePosixPath),
    "Path": _path(PurePosixPath),
    "WindowsPath": _path(PureWindowsPath),
    "PureWindowsPath": _path(PureWindowsPath),
    "scalar": _numpy_scalar,
    "_reconstruct": _numpy_array,
}
