"""Files of safetensors: tensors, and a header of JSON with texts. No pickle, so that nobody's code can run.

A file begins with the length of its header in eight bytes; the header gives each tensor's type, shape and place, and
texts under `__metadata__`. The library safetensors compares them with the file. Before that this module holds the
header to bounds of time and memory, and refuses JSON that two readers could take for two things. Written from the
format's description, https://huggingface.co/docs/safetensors, and from RFC 8259 (JSON).
"""

from __future__ import annotations

import json
import math
import os
import struct
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from ...compat.allowed import MAX_DIMENSIONS, cut_line
from ...compat.reader import FLOATING
from ...config.errors import UserError
from ...config.files import atomic

MAX_JSON = 4 * 2**20  # bytes of a header or of a config.json; that of yolov12x has 0.2 MB
MAX_DEPTH = 24  # values in values; a graph has 6
MAX_DIGITS = 20  # of a whole number: 64 bits
DTYPES = ("F64", "F32", "F16", "BF16", "I64", "I32", "I16", "I8", "U8", "BOOL")
AGAIN = "Get the file again from its maker."
MISSING = "'{}' needs the package safetensors: pip install 'bitfalcon[safetensors]'"


def write_safetensors(path: str | Path, tensors: Mapping[str, Tensor], texts: Mapping[str, str]) -> None:
    """Write tensors and texts, whole or not at all.

    Raises UserError without the package safetensors, and OSError where the disk is full or forbids it.
    """
    try:
        from safetensors import SafetensorError
        from safetensors.torch import save_file
    except ImportError as error:
        raise UserError(MISSING.format(path)) from error
    own = {name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()}
    with atomic(path) as temporary:
        try:
            save_file(own, temporary, dict(texts))
        except SafetensorError as error:  # what its writer makes of an error of the system
            raise OSError(f"safetensors could not write it: {error}") from error


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors and the texts of a file; the tensors are copies, which hold nothing of the file open.

    What is loaded is never more than the file's own size. Raises UserError for a file that is damaged or lies about
    itself, without the package safetensors, and where the file cannot be read.
    """
    try:
        from safetensors import SafetensorError, safe_open
    except ImportError as error:
        raise UserError(MISSING.format(path)) from error
    try:
        texts = _checked_header(path)
        with safe_open(path, framework="pt", device="cpu") as file:
            return {name: file.get_tensor(name).clone() for name in file.keys()}, texts
    except OSError as error:
        raise UserError(
            f"'{path}' cannot be read: {error.strerror or error}. Check its permissions and the disk."
        ) from error
    except (ValueError, SafetensorError) as error:
        raise UserError(f"'{path}' is a damaged safetensors file: {cut_line(str(error), 200)}. {AGAIN}") from error


def _checked_header(path: Path) -> dict[str, str]:
    """Return the texts of a header. Raises ValueError for a header that is too large, or no JSON of this format."""
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        start = file.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else -1
        if not 2 <= length <= size - 8:
            raise ValueError(f"of its {size} bytes the header would take {length}" if length >= 0 else "it is cut off")
        if length > MAX_JSON:
            raise ValueError(f"its header has {length} bytes; that of a model has less than {MAX_JSON}")
        header = strict_json(file.read(length))
    texts = header.pop("__metadata__", {})
    if not isinstance(texts, dict) or not all(isinstance(text, str) for text in texts.values()):
        raise ValueError("the texts of its header are none")
    held = 0
    for name, entry in header.items():
        held += _checked_bytes(name, entry)
    if held != size - 8 - length:
        raise ValueError(f"its tensors take {held} bytes, and {size - 8 - length} follow the header")
    return texts


def _checked_bytes(name: str, entry: object) -> int:
    """Return the bytes of a tensor between its offsets. Raises ValueError for an entry that is no tensor of a model."""
    shown = cut_line(name, 80)
    if not name.isprintable() or len(name) >= 1000:
        raise ValueError(f"the name of a tensor, {shown!r}, cannot be printed")
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"{shown} has not dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if dtype not in DTYPES:
        raise ValueError(f"{shown} has the type {cut_line(dtype, 20)}; weights have one of {', '.join(DTYPES)}")
    if name.rpartition(".")[2] in FLOATING and not dtype.endswith(("F16", "F32", "F64")):
        raise ValueError(f"{shown} is a weight of type {dtype}, which is not floating-point")
    fits = _are_counts(shape) and _are_counts(offsets) and len(shape) <= MAX_DIMENSIONS and len(offsets) == 2
    if not fits or offsets[0] > offsets[1]:
        raise ValueError(f"{shown} has a shape or offsets that are none")
    return offsets[1] - offsets[0]


def _are_counts(value: object) -> bool:
    return isinstance(value, list) and all(type(item) is int and 0 <= item < 2**48 for item in value)


def strict_json(text: bytes | str) -> dict:
    """Return the object that a JSON text holds, within bounds of time and memory.

    Raises ValueError for any other text, for a key that stands twice, for NaN and numbers beyond 64 bits, for values
    nested too deep and for text that is no Unicode.
    """
    if len(text) > MAX_JSON:
        raise ValueError(f"its JSON has more than {MAX_JSON} bytes")
    try:
        value = json.loads(
            text if isinstance(text, str) else text.decode(),
            object_pairs_hook=_object,
            parse_constant=_no_number,
            parse_float=_float,
            parse_int=_int,
        )
    except RecursionError:
        raise ValueError("its JSON is nested too deep") from None
    except UnicodeDecodeError:
        raise ValueError("its header is not text") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"it holds no JSON ({error})") from None
    if not isinstance(value, dict):
        raise ValueError("its JSON is no object")
    _check_values(value)
    return value


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    content = dict(pairs)
    if len(content) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))
        raise ValueError(f"the key {cut_line(twice, 80)!r} stands twice in its JSON")
    return content


def _no_number(text: str) -> object:
    raise ValueError(f"its JSON holds {text}")


def _float(text: str) -> float:
    return value if math.isfinite(value := float(text)) else _no_number(text[:20])


def _int(text: str) -> int:
    return int(text) if len(text) <= MAX_DIGITS else _no_number(f"a whole number of {len(text)} digits")


def _check_values(top: dict) -> None:
    waiting: list[tuple[object, int]] = [(top, 1)]
    while waiting:
        value, depth = waiting.pop()
        if depth > MAX_DEPTH:
            raise ValueError(f"its JSON is nested more than {MAX_DEPTH} deep")
        if isinstance(value, dict):
            waiting += ((item, depth + 1) for pair in value.items() for item in pair)
        elif isinstance(value, list):
            waiting += ((item, depth + 1) for item in value)
        elif isinstance(value, str) and not value.isascii():
            try:
                value.encode()
            except UnicodeEncodeError:
                raise ValueError("its JSON holds text that is no Unicode") from None
