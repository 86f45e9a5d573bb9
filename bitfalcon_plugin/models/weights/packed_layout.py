"""The state of a folded ternary model as five flat pieces: four tensors and a table in plain text, and back.

A file with a tensor for each of 600 entries would spend 0.17 MB on its container (spec/bit.md section 4.2). The table
has a line for each layer or tensor, in the order of the state: its name, the piece that holds its numbers, its shape.
Numbers follow one another without gaps in the order of the lines, so there are no offsets that could be wrong; the
lines and the tensors must agree to the last value.

    model.1.conv t:sba 32x16x3x3    codes in `trits`, from a whole byte on; scale, bias, act_scale in `floats`
    model.21.cv3.0.0.0.conv b:sb 64x1x3x3    codes in `bytes` (int8)
    model.0.conv.weight h 16x3x3x3    in `halves` (float16)
    model.0.conv.bias f 16    in `floats` (float32); n: whole numbers, also there
"""

from __future__ import annotations

import math
import re
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from json import dumps

import torch
from torch import Tensor

from .trits import CODECS, byte_count, pack_trits, unpack_all

PIECES = {"trits": torch.uint8, "bytes": torch.int8, "halves": torch.float16, "floats": torch.float32}
CODES = ".codes"  # end of the name of a quantised layer's weights
COMPANIONS = {"s": "scale", "b": "bias", "a": "act_scale"}  # of a quantised layer: always in full precision
TENSOR_PIECES = {"h": "halves", "f": "floats", "n": "floats"}
LINE = re.compile(
    r"(?P<name>[^\s]{1,300}) (?:(?P<codes>[tb]):(?P<companions>s?b?a?)|(?P<tensor>[hfn])) "
    r"(?P<shape>-|[1-9]\d{0,8}(?:x[1-9]\d{0,8}){0,7})"
)
MAX_EXACT = 2**24  # whole numbers up to here are exact in float32


@dataclass(frozen=True)
class Line:
    """A line of the table.

    store: t or b for the codes of a layer, h, f or n for a tensor. companions: letters of COMPANIONS.
    """

    name: str
    store: str
    shape: tuple[int, ...]
    companions: str = ""

    def __str__(self) -> str:
        kind = f"{self.store}:{self.companions}" if self.has_codes else self.store
        return f"{self.name} {kind} {'x'.join(map(str, self.shape)) or '-'}"

    @property
    def has_codes(self) -> bool:
        """Whether the line is of a quantised layer."""
        return self.store in "tb"

    @property
    def count(self) -> int:
        """How many numbers the codes or the tensor have."""
        return math.prod(self.shape)

    def companion_shapes(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Yield name and shape of each tensor beside the codes."""
        for letter in self.companions:
            yield f"{self.name}.{COMPANIONS[letter]}", () if letter == "a" else self.shape[:1]

    def entries(self) -> set[str]:
        """Return the names of the state's entries that the line stands for."""
        if not self.has_codes:
            return {self.name}
        return {self.name + CODES, *(name for name, _ in self.companion_shapes())}

    def lengths(self, fmt: str) -> dict[str, int]:
        """Return how many values of which pieces the line needs."""
        if not self.has_codes:
            return {TENSOR_PIECES[self.store]: self.count}
        codes = {"trits": byte_count(self.count, fmt)} if self.store == "t" else {"bytes": self.count}
        return {**codes, "floats": sum(math.prod(shape) for _, shape in self.companion_shapes())}


def halved(tensor: Tensor) -> Tensor:
    """Round the weights of a layer that stays float to float16; return other tensors, and larger numbers, unchanged.

    Weights are floats of two dimensions or more.
    """
    if tensor.ndim < 2 or not tensor.is_floating_point():
        return tensor
    short = tensor.half().to(tensor.dtype)
    return short if torch.equal(short.isfinite(), tensor.isfinite()) else tensor


def flatten(state: Mapping[str, Tensor], fmt: str) -> dict[str, object]:
    """Return the pieces and the table of a state. Nothing is rounded: a tensor has 16 bits where 16 bits are exact.

    ValueError for an entry that has no place in the pieces.
    """
    parts: dict[str, list[Tensor]] = {piece: [] for piece in PIECES}
    lines = lines_of(state)
    for line in lines:
        if line.store == "t":
            parts["trits"].append(pack_trits(state[line.name + CODES], fmt))
        elif line.store == "b":
            parts["bytes"].append(state[line.name + CODES].detach().cpu().flatten())
        elif line.store == "h":
            parts["halves"].append(state[line.name].detach().cpu().half().flatten())
        else:
            parts["floats"].append(_floats(line.name, state[line.name]))
        for name, _ in line.companion_shapes():
            parts["floats"].append(_floats(name, state[name]))
    flat = {
        piece: torch.cat(parts[piece]) if parts[piece] else torch.zeros(0, dtype=dtype)
        for piece, dtype in PIECES.items()
    }
    return {"fmt": fmt, "table": "\n".join(map(str, lines)), **flat}


def lines_of(state: Mapping[str, Tensor]) -> list[Line]:
    """Return the table of a state. ValueError for an entry that has no place in it."""
    lines, layers = [], {name.removesuffix(CODES) for name in state if name.endswith(CODES)}
    for name, tensor in state.items():
        layer, _, attribute = name.rpartition(".")
        if layer not in layers:
            lines.append(Line(name, _store(tensor), tuple(tensor.shape)))
        elif attribute == "codes":
            lines.append(_layer_line(layer, tensor, state))
        elif attribute not in COMPANIONS.values():
            raise ValueError(f"{name}, which no quantised layer has")
    if wrong := [line.name for line in lines if not LINE.fullmatch(str(line))]:
        raise ValueError(f"an entry {wrong[0][:80]!r}, whose name or shape cannot be written")
    return lines


def _layer_line(layer: str, codes: Tensor, state: Mapping[str, Tensor]) -> Line:
    if codes.dtype != torch.int8 or not codes.ndim:
        raise ValueError(f"{layer}{CODES} of {str(codes.dtype)[6:]} {tuple(codes.shape)}; codes are int8")
    ternary = not codes.numel() or -1 <= int(codes.min()) and int(codes.max()) <= 1
    companions = "".join(letter for letter, attribute in COMPANIONS.items() if f"{layer}.{attribute}" in state)
    line = Line(layer, "t" if ternary else "b", tuple(codes.shape), companions)
    for name, shape in line.companion_shapes():
        if tuple(state[name].shape) != shape:
            raise ValueError(f"{name} of shape {tuple(state[name].shape)} beside codes {tuple(codes.shape)}")
    return line


def _store(tensor: Tensor) -> str:
    if not tensor.is_floating_point():
        return "n"
    return "h" if tensor.numel() and torch.equal(tensor.half().float(), tensor.float()) else "f"


def _floats(name: str, tensor: Tensor) -> Tensor:
    tensor = tensor.detach().cpu().flatten()
    if not tensor.is_floating_point() and tensor.numel() and int(tensor.abs().max()) > MAX_EXACT:
        raise ValueError(f"{name} with whole numbers beyond {MAX_EXACT}")
    return tensor.float()


def restore(content: Mapping[str, object]) -> dict[str, Tensor]:
    """Return the state that `flatten` took: codes int8, whole numbers int64, others float32. ValueError for damage."""
    fmt = content.get("fmt")
    if not isinstance(fmt, str) or fmt not in CODECS:
        raise ValueError(f"fmt {str(fmt)[:20]!r} is none of {', '.join(CODECS)}")
    pieces = {piece: content.get(piece) for piece in PIECES}
    for piece, dtype in PIECES.items():
        if not isinstance(pieces[piece], Tensor) or pieces[piece].dtype != dtype or pieces[piece].ndim != 1:
            raise ValueError(f"{piece} is no flat tensor of {str(dtype)[6:]}")
    if content.get("checksum") != checksum(content):
        raise ValueError("its checksum does not match its content")
    if wrong := [piece for piece in ("floats", "halves") if not pieces[piece].isfinite().all()]:
        raise ValueError(f"{wrong[0]} that are not finite")
    lines = parse(content.get("table"))
    needed = dict.fromkeys(PIECES, 0)
    for line in lines:
        for piece, length in line.lengths(fmt).items():
            needed[piece] += length
    if wrong := [piece for piece in PIECES if needed[piece] != len(pieces[piece])]:
        raise ValueError(f"{wrong[0]} has {len(pieces[wrong[0]])} values where the table needs {needed[wrong[0]]}")
    return _state_of(lines, pieces, fmt)


def parse(table: object) -> list[Line]:
    """Return the lines of a table. ValueError for a line that is malformed or names something twice."""
    if not isinstance(table, str) or not all(text.isprintable() for text in table.split("\n")):
        raise ValueError("it has no table")
    lines, names = [], set()
    for number, text in enumerate(table.split("\n"), 1):
        if not (match := LINE.fullmatch(text)):
            raise ValueError(f"line {number} of its table is malformed: {text[:80]!r}")
        shape = () if match["shape"] == "-" else tuple(map(int, match["shape"].split("x")))
        line = Line(match["name"], match["codes"] or match["tensor"], shape, match["companions"] or "")
        if line.has_codes and not shape:
            raise ValueError(f"line {number} of its table has codes without a shape")
        if not line.has_codes and line.name.endswith(CODES):
            raise ValueError(f"line {number} of its table has codes as floats")
        if repeated := names & line.entries():
            raise ValueError(f"its table has {min(repeated)[:80]} twice")
        names |= line.entries()
        lines.append(line)
    return lines


def _state_of(lines: list[Line], pieces: Mapping[str, Tensor], fmt: str) -> dict[str, Tensor]:
    """Return the entries as views of the pieces, whose lengths are those of the table."""
    state: dict[str, Tensor] = {}
    trits, trits_a_byte = unpack_all(pieces["trits"], fmt), CODECS[fmt].count
    values, position = {**pieces, "halves": pieces["halves"].float()}, dict.fromkeys(PIECES, 0)

    def take(piece: str, shape: tuple[int, ...]) -> Tensor:
        start, position[piece] = position[piece], position[piece] + math.prod(shape)
        return values[piece][start : position[piece]].view(shape)

    for line in lines:
        if line.store == "t":
            start, position["trits"] = position["trits"], position["trits"] + byte_count(line.count, fmt)
            end = start * trits_a_byte + line.count
            if trits[end : position["trits"] * trits_a_byte].any():
                raise ValueError(f"padding behind {line.name[:80]} that is not zero")
            state[line.name + CODES] = trits[start * trits_a_byte : end].view(line.shape)
        elif line.store == "b":
            state[line.name + CODES] = codes = take("bytes", line.shape)
            if int(codes.min()) < -127:
                raise ValueError(f"codes of {line.name[:80]} below -127")
        else:
            tensor = take(TENSOR_PIECES[line.store], line.shape)
            state[line.name] = tensor.long() if line.store == "n" else tensor
        for name, shape in line.companion_shapes():
            state[name] = take("floats", shape)
    return state


def checksum(content: Mapping[str, object]) -> int:
    """Return the CRC-32 of everything in a packed file but the checksum itself.

    A file written without the archive's checksums, or read without comparing them, is checked all the same.
    """
    plain = {key: value for key, value in content.items() if key not in PIECES and key != "checksum"}
    try:
        total = zlib.crc32(dumps(plain).encode())
    except (TypeError, RecursionError) as error:
        raise ValueError("it has entries that are no plain values") from error
    for piece in PIECES:
        total = zlib.crc32(content[piece].contiguous().view(torch.uint8).numpy(), total)
    return total
