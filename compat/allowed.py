"""The names that the pickle of a model file may ask for, and a rule for every call that torch's loader would make.

torch's `weights_only` loader refuses names it does not know, but calls the ones it knows with whatever the file says: a
tensor may be given a shape beyond its storage (torch then grows the storage), a codec may be applied thirty times (each
doubles a text). The rules hold the arguments to what `torch.save` writes. Written from the documentation of torch's
serialization and from what the files in spec/interface.md 4.1 contain.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

MAX_DIMENSIONS = 16
AGAIN = "Get the file again from its maker."

# Names that may become stand-ins: a namespace ends with a dot, the others are whole. None of them is ever imported.
NAMESPACES = (
    "bitfalcon_plugin.yolo.YOLO",
    "bitfalcon_plugin.tasks.script_model.ScriptModel",
    "bitfalcon_plugin.dropin.",
    "ultralytics.",
    "models.",
    "torch.nn.",
    "pathlib.",
    "types.SimpleNamespace",
    "argparse.Namespace",
    "torchvision.transforms.",
    "numpy.dtype",
    "numpy.ndarray",
    "numpy.core.multiarray.scalar",
    "numpy.core.multiarray._reconstruct",
    "numpy._core.multiarray.scalar",
    "numpy._core.multiarray._reconstruct",
)
NEVER_STAND_IN = ("torch.nn.parameter.Parameter",)  # torch's loader knows it itself and would hand over the real class

STORAGES = {  # storage type -> bytes a value
    "torch.DoubleStorage": 8,
    "torch.FloatStorage": 4,
    "torch.HalfStorage": 2,
    "torch.BFloat16Storage": 2,
    "torch.LongStorage": 8,
    "torch.IntStorage": 4,
    "torch.ShortStorage": 2,
    "torch.CharStorage": 1,
    "torch.ByteStorage": 1,
    "torch.BoolStorage": 1,
}
DTYPES = {
    f"torch.{name}"
    for name in ("float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool")
}


class Rejected(Exception):
    """Why a file is not opened, as the end of the sentence "the file ..."."""


@dataclass(frozen=True)
class Name:
    """A class or function that the pickle asks for, as text."""

    full: str


@dataclass(frozen=True)
class Storage:
    """A tensor's storage: record `key` of `numel` values of the storage type `kind`."""

    key: str
    numel: int
    kind: str

    @property
    def nbytes(self) -> int:
        return self.numel * STORAGES[self.kind]


class Made:
    """The inert result of a call or of an empty dict: its kind, and for dicts whether all keys are `_metadata`."""

    __slots__ = ("kind", "only_metadata")

    def __init__(self, kind: str):
        self.kind, self.only_metadata = kind, True


def becomes_stand_in(full: str) -> bool:
    """Whether a name gets an inert class of ours."""
    if full in CALLS or full in STORAGES or full in DTYPES or full in NEVER_STAND_IN:
        return False
    return any(full.startswith(space) if space.endswith(".") else full == space for space in NAMESPACES)


def is_known(full: str) -> bool:
    """Whether a pickle may ask for a name at all."""
    return full in CALLS or full in STORAGES or full in DTYPES or becomes_stand_in(full)


def called(function: object, arguments: object) -> Made:
    """Return the result of a call. Raises Rejected where torch.save would not have written it."""
    fits = isinstance(function, Name) and type(arguments) is tuple
    need(fits, "calls something that is not a class it names")
    if function.full in CALLS:
        return CALLS[function.full](function.full, arguments)
    return instance(function, arguments)


def instance(cls: object, arguments: object) -> Made:
    """Return an instance of a stand-in. Raises Rejected for anything else."""
    fits = isinstance(cls, Name) and cls.full not in CALLS and cls.full not in STORAGES and cls.full not in DTYPES
    need(fits and type(arguments) is tuple, "makes an object of something that is not a class it names")
    return Made("stand-in")


def storage(pid: object, seen: dict[str, Storage]) -> Storage:
    """Return the storage that a persistent id names; `seen` collects one Storage a record.

    pid: ("storage", type, key, location, number of values), in the old format also None or (view key, offset, size).
    """
    if type(pid) is tuple and pid[:1] == ("module",):
        raise Rejected(
            "is a whole model in the format of torch before 1.6, whose classes cannot be left out. Save its "
            "weights with the package that made it: torch.save(model.state_dict(), path)."
        )
    fits = type(pid) is tuple and len(pid) in (5, 6) and pid[0] == "storage" and isinstance(pid[1], Name)
    fits = fits and pid[1].full in STORAGES and type(pid[2]) is str and type(pid[3]) is str and is_count(pid[4])
    need(fits, "refers to a tensor's values in a way that torch.save does not")
    whole = Storage(pid[2], pid[4], pid[1].full)
    earlier = seen.setdefault(whole.key, whole)
    need(earlier == whole or earlier.nbytes == whole.nbytes == 0, f"reads record {whole.key!r} as two different types")
    view = pid[5] if len(pid) == 6 else None
    if view is None:
        return whole
    fits = type(view) is tuple and len(view) == 3 and is_count(view[1]) and is_count(view[2])
    need(fits and view[1] + view[2] <= whole.numel, "has a view that reaches beyond its storage")
    return Storage(whole.key, view[2], whole.kind)


def cut_line(text: object, limit: int = 1000) -> str:
    """Return text of a file as one line of at most `limit` characters, without those that a terminal would obey."""
    text = text if isinstance(text, str) else repr(text)
    return "".join(letter if letter.isprintable() else "?" for letter in " ".join(text[: 4 * limit].split()))[:limit]


def need(fits: bool, problem: str) -> None:
    """Raise Rejected with the problem, unless `fits`."""
    if not fits:
        raise Rejected(f"{problem}: it is damaged or made by hand. {AGAIN}")


def is_count(value: object) -> bool:
    """Whether a value is a number of values or bytes, small enough that products of two are exact."""
    return type(value) is int and 0 <= value < 2**48


def hashable(value: object) -> bool:
    """Whether a key hashes at once: nested tuples overflow the C stack, integers beyond 64 bits may all collide."""
    return value is None or type(value) in (str, float, bool) or type(value) is int and -(2**63) <= value < 2**63


def _counts(value: object) -> bool:
    return type(value) is tuple and len(value) <= MAX_DIMENSIONS and all(map(is_count, value))


def _tensor(name: str, arguments: tuple) -> Made:
    need(6 <= len(arguments) <= 7 and arguments[6:] in ((), (None,)), "rebuilds a tensor with unknown arguments")
    values, offset, size, stride, grad, hooks = arguments[:6]
    fits = isinstance(values, Storage) and is_count(offset) and _counts(size) and _counts(stride)
    fits = fits and len(size) == len(stride) and type(grad) is bool and isinstance(hooks, Made)
    need(fits, "rebuilds a tensor from something else than a storage")
    count = math.prod(size)
    last = offset + sum((length - 1) * step for length, step in zip(size, stride))
    if count and (count > values.numel or last >= values.numel):
        need(False, f"has a tensor of shape {size} that reaches beyond its storage of {values.numel} values")
    return Made("tensor")


def _parameter(name: str, arguments: tuple) -> Made:
    fits = len(arguments) == 3 and isinstance(arguments[0], Made) and arguments[0].kind == "tensor"
    fits = fits and type(arguments[1]) is bool and isinstance(arguments[2], Made)
    need(fits, "makes a parameter of something else than a tensor")
    return Made("tensor")


def _is_device(arguments: tuple) -> bool:
    return 1 <= len(arguments) <= 2 and type(arguments[0]) is str and all(map(is_count, arguments[1:]))


def _is_bytes(arguments: tuple) -> bool:
    # How protocol 2 writes bytes. Any other codec could be chained until memory is full.
    return len(arguments) == 2 and type(arguments[0]) is str and arguments[1] == "latin1"


def _is_set(arguments: tuple) -> bool:
    return len(arguments) == 1 and type(arguments[0]) is list and all(map(hashable, arguments[0]))


def _makes(kind: str, fits: Callable[[tuple], bool]) -> Callable[[str, tuple], Made]:
    def rule(name: str, arguments: tuple) -> Made:
        if not fits(arguments):
            need(False, f"calls {name} as torch.save does not")
        return Made(kind)

    return rule


CALLS: dict[str, Callable[[str, tuple], Made]] = {
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_parameter": _parameter,
    "torch.Size": _makes("size", lambda arguments: len(arguments) == 1 and _counts(arguments[0])),
    "torch.device": _makes("device", _is_device),
    "collections.OrderedDict": _makes("ordered dict", lambda arguments: not arguments),
    "builtins.set": _makes("set", _is_set),
    "__builtin__.set": _makes("set", _is_set),
    "_codecs.encode": _makes("bytes", _is_bytes),
}
