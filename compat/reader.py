"""Other makers' checkpoints as tensors and plain values: their classes become inert stand-ins, nobody's code runs.

A `.pt` file of the YOLO packages is a pickle of the whole model (spec/interface.md 4.1). `read` checks the container
(archive.py), follows the pickle without making anything (opcodes.py, allowed.py), and only then lets torch's own
`weights_only` loader make tensors, plain values, and stand-ins (standins.py) for exactly the names the file asks for.
"""

from __future__ import annotations

import contextlib
import gc
import io
import os
import threading
import zipfile
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from ..config.errors import MissingFileError, UserError
from ..config.weight_files import searched
from .allowed import AGAIN, Rejected, cut_line, need
from .archive import Outline, inspect
from .published import where_to_get
from .standins import Plainer, StandIn, Weights, stand_in, weights

WEIGHTS = ("ema", "model_ema", "model", "state_dict", "model_state_dict")  # where a file keeps them, the best first
UNREAD = {*WEIGHTS, "optimizer", "scaler"}  # entries of a file that are not attributes
WRAPPERS = ("module.", "_orig_mod.", "model.")  # DataParallel, torch.compile, the model's own row list
MAX_WRAPPERS = 8  # one in another
FLOATING = ("weight", "bias", "running_mean", "running_var")
ALONE = threading.Lock()  # torch's list of safe classes belongs to the whole process


@dataclass(frozen=True)
class ForeignContent:
    """What another maker's checkpoint holds.

    state: tensors by the maker's key ("model.0.conv.weight"), as stored (on the CPU), in the order of its state_dict.
    attributes: plain values and tensors: the file's entries (epoch, date, version, license, train_args, ...) and the
        model's own (yaml, names, nc, args, stride, task, ...).
    classes: full names of the foreign classes in the file, sorted.
    layout: "pickled model", "resumable" (with the optimizer of an unfinished run), "bare module" or "state dict".
    eps, momentum: of every batch norm, by the key of its module ("model.0.bn"); empty for state dicts.
    half: whether any weight is stored in 16 bits.
    notes: one line each, for the user: values that are not finite, prefixes taken off the keys.
    """

    state: dict[str, Tensor]
    attributes: dict[str, object]
    classes: tuple[str, ...]
    layout: str
    eps: dict[str, float] = field(default_factory=dict)
    momentum: dict[str, float | None] = field(default_factory=dict)
    half: bool = False
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class LoadedFile:
    """A file as torch's loader gives it, with stand-ins for foreign objects. classes: their full names; size: bytes."""

    path: Path
    content: object
    classes: tuple[str, ...]
    size: int


@contextlib.contextmanager
def uncollected() -> Iterator[None]:
    """Without Python's search for cycles: over the hundred thousand objects of a file it takes as long as reading them.

    It is off until these objects are freed. A hostile file can leave no more in cycles than it has instructions.
    """
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


@uncollected()
def read(path: str | os.PathLike[str]) -> ForeignContent:
    """Open a checkpoint of another maker, or a plain state dict.

    Nothing of the file's code runs, nothing but the file is read and nothing is written; what is loaded is never more
    than the file's own size. Raises MissingFileError, or UserError with one line: what the file is and what to do.
    """
    return foreign_content(load_file(path))


@uncollected()
def load_file(path: str | os.PathLike[str]) -> LoadedFile:
    """Check and load any file of torch.save; raises as `read` does."""
    path = Path(path)
    if path.is_dir():
        raise UserError(f"{str(path)!r} is a folder. Give the checkpoint in it, for example weights/best.pt.")
    if not path.exists():
        how = where_to_get(path) or f"Give a file that you have; paths begin at '{Path.cwd()}'."
        also = f" Looked for in {searched()}." if path.name == str(path) and not where_to_get(path) else ""
        raise MissingFileError(f"{str(path)!r} does not exist, and nothing is downloaded. {how}{also}")
    if not path.is_file():  # opening a pipe would wait for ever
        raise UserError(f"{str(path)!r} is not a regular file. Give the path of a checkpoint on disk.")
    with _explained(path), open(path, "rb") as handle:
        size = os.fstat(handle.fileno()).st_size
        outline = inspect(handle, size)
        return LoadedFile(path, _load(handle, outline), tuple(sorted(outline.names)), size)


def foreign_content(loaded: LoadedFile) -> ForeignContent:
    """What a loaded file holds of a model. Raises UserError where it holds none, or one that does not hold together."""
    with _explained(loaded.path):
        return _foreign(loaded)


@contextlib.contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except Rejected as reason:
        raise UserError(f"{str(path)!r} {cut_line(str(reason))}") from None
    except OSError as error:
        raise UserError(
            f"{str(path)!r} cannot be read: {error.strerror or error}. Check its permissions and the disk."
        ) from error


def _load(handle: BinaryIO, outline: Outline) -> object:
    # torch reads the same open file that was inspected. The old format comes from memory: a real file would first be
    # tried as a tar archive, which unpacks to disk.
    handle.seek(0)
    source = handle if outline.is_zip else io.BytesIO(handle.read())
    serialization = torch.serialization
    with ALONE:
        others = serialization.get_safe_globals()
        serialization.clear_safe_globals()  # a real class that somebody registered must not take a stand-in's place
        try:
            unknown = serialization.get_unsafe_globals_in_checkpoint(_file_of_names(outline.names))
            real = sorted(outline.names - set(unknown))
            need(not real, f"asks for {', '.join(real)}, which torch itself would make")
            with serialization.safe_globals([(stand_in(name), name) for name in outline.names]):
                return torch.load(source, map_location="cpu", weights_only=True, mmap=False)
        except Rejected:
            raise
        except Exception as error:  # whatever a damaged record raises in torch's reader: no list of them is complete
            reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
            raise Rejected(f"is damaged: {reason}. {AGAIN}") from error
        finally:
            serialization.add_safe_globals(others)


def _file_of_names(names: frozenset[str]) -> BinaryIO:
    """A file that asks for these names and holds nothing else, so that torch need not read the whole file twice."""
    asks = "".join("c{}\n{}\n".format(*name.rpartition(".")[::2]) for name in sorted(names))
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("x/data.pkl", b"\x80\x02(" + asks.encode() + b"t.")
        archive.writestr("x/version", b"3\n")
    file.seek(0)
    return file


def _foreign(loaded: LoadedFile) -> ForeignContent:
    holder, layout, entries = _find(loaded.content)
    named = {key: value for key, value in entries.items() if type(key) is str and key not in UNREAD}
    if isinstance(holder, StandIn):
        model = _innermost(holder)
        held = weights(model)
        model_attributes = model.attributes()
        named |= {key: value for key, value in model_attributes.items() if type(key) is str and not key.startswith("_")}
    else:
        held = Weights({key: tensor.detach() for key, tensor in holder.items()})
    state, notes = _renamed(held.state)
    _check(state, loaded.size)
    notes += _not_finite(state)
    half = any(tensor.dtype in (torch.float16, torch.bfloat16) for tensor in state.values())
    attributes = Plainer().entries(named, 0)
    return ForeignContent(
        state, attributes, loaded.classes, layout, held.eps, held.momentum, half=half, notes=tuple(notes)
    )


def _find(content: object) -> tuple[StandIn | dict[str, Tensor], str, dict]:
    """Find the weights: (module or state, layout, the other entries of the file)."""
    if isinstance(content, StandIn):
        module = content if content.is_module() else _held(content.attributes())
        if isinstance(module, StandIn):
            return module, "bare module", {}
        raise Rejected(
            f"holds an object of {content.full_name}, which is not a model. Save its weights with the "
            "package that made it: torch.save(model.state_dict(), path)."
        )
    if type(content) not in (dict, OrderedDict):
        raise Rejected(f"holds a {type(content).__name__}, not a model. A checkpoint is a dict with a model in it.")
    if content and all(isinstance(value, Tensor) for value in dict.values(content)):
        return _named(content), "state dict", _license_entry(content)
    holder = _held(content)
    if holder is None:
        keys = ", ".join(str(key)[:40] for key in list(content)[:8])
        raise Rejected(
            f"holds no model: its entries are {keys or 'none'}. Weights are looked for under {', '.join(WEIGHTS)}."
        )
    if isinstance(holder, StandIn):
        return holder, "pickled model" if content.get("optimizer") is None else "resumable", content
    return holder, "state dict", content


def _license_entry(state: dict) -> dict[str, object]:
    """The licence of a state dict, which torch's metadata may have under the name of the whole model."""
    metadata = getattr(state, "_metadata", None)
    whole = metadata.get("") if type(metadata) in (dict, OrderedDict) else None
    return {"license": whole["license"]} if type(whole) in (dict, OrderedDict) and "license" in whole else {}


def _held(entries: dict) -> StandIn | dict[str, Tensor] | None:
    for key in WEIGHTS:
        value = entries.get(key)
        if isinstance(value, StandIn):
            value = value if value.is_module() else _inside(value)
        if isinstance(value, StandIn):
            return value
        if type(value) in (dict, OrderedDict) and any(isinstance(item, Tensor) for item in dict.values(value)):
            return _named(value)
    return None


def _inside(holder: StandIn) -> StandIn | None:
    """The module that a trainer's averaged model or a facade object has as an attribute."""
    inner = (holder.attributes().get(key) for key in ("ema", "model"))
    return next((item for item in inner if isinstance(item, StandIn) and item.is_module()), None)


def _named(state: dict) -> dict[str, Tensor]:
    wrong = [key for key, value in dict.items(state) if type(key) is not str or not isinstance(value, Tensor)]
    shown = ", ".join(str(key)[:60] for key in wrong[:3])
    need(not wrong, f"has a state dict with entries that are not tensors: {shown}")
    return dict(dict.items(state))


def _innermost(module: StandIn) -> StandIn:
    """The model inside wrappers (DataParallel, torch.compile, a facade whose `model.model` is the row list)."""
    for _ in range(MAX_WRAPPERS):
        model = module.child("model")
        facade = model if model is not None and model.child("model") is not None else None
        inner = module.child("module") or module.child("_orig_mod") or facade
        if inner is None:
            return module
        module = inner
    raise Rejected(f"has a model inside more than {MAX_WRAPPERS} wrappers: it is damaged or made by hand. {AGAIN}")


def _renamed(state: dict[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """Rename the keys to "model.<row>...", without the names of wrappers; a note where that changed them."""
    prefix = ""
    for _ in range(MAX_WRAPPERS):
        wrappers = [word for word in WRAPPERS if all(key.startswith(prefix + word) for key in state)]
        prefix += wrappers[0] if wrappers else ""
    ours = {f"model.{key[len(prefix) :]}": tensor for key, tensor in state.items()}
    if prefix == "model." or not all(key.split(".")[1].isdigit() for key in ours):
        return state, []
    return ours, [f"its keys begin with {prefix or 'row numbers'}: read as model.<row>"]


def _check(state: dict[str, Tensor], size: int) -> None:
    need(bool(state), "holds a model without any tensor")
    need(all(key.isprintable() and len(key) < 1000 for key in state), "has tensors whose names cannot be printed")
    total = sum(tensor.numel() * tensor.element_size() for tensor in state.values())
    need(total <= 2 * size, f"has tensors of {total} bytes together in {size} bytes")
    wrong = [
        f"{key} ({str(tensor.dtype)[6:]})"
        for key, tensor in state.items()
        if key.rpartition(".")[2] in FLOATING and not tensor.is_floating_point()
    ]
    need(not wrong, f"has weights that are not floating-point: {', '.join(wrong[:3])}")


def _not_finite(state: dict[str, Tensor]) -> list[str]:
    wrong = [key for key, tensor in state.items() if tensor.is_floating_point() and not torch.isfinite(tensor).all()]
    if not wrong:
        return []
    shown = ", ".join(wrong[:3]) + (", ..." if wrong[3:] else "")
    return [f"{len(wrong)} of {len(state)} tensors hold NaN or infinite values: {shown}"]
