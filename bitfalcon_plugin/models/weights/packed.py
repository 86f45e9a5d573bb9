"""The state of a folded ternary model as five flat pieces: four tensors and a table in plain text, and back.

A file with a tensor for each of 600 entries would spend 0.17 MB on its container (spec/bit.md section 4.2). The table has a
line for each layer or tensor, in the order of the state: its name, where its numbers stand, its shape. Numbers follow one
another without gaps in the order of the lines, so there are no offsets that could be wrong; what the lines need and what the
tensors hold must agree to the last value.

    model.1.conv t:sba 32x16x3x3    codes in `trits`, each layer from a whole byte on; scale, bias, act_scale in `floats`
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

from .trits import FORMATS, bytes_of, pack_trits, unpack_all

PIECES = {"trits": torch.uint8, "bytes": torch.int8, "halves": torch.float16, "floats": torch.float32}
CODES = ".codes"  # what tells a quantised layer
BESIDE = {"s": "scale", "b": "bias", "a": "act_scale"}  # of a quantised layer: always in full precision
KEPT = {"h": "halves", "f": "floats", "n": "floats"}
LINE = re.compile(
    r"(?P<name>[^\s]{1,300}) (?:(?P<codes>[tb]):(?P<beside>s?b?a?)|(?P<kept>[hfn])) (?P<shape>-|[1-9]\d{0,8}(?:x[1-9]\d{0,8}){0,7})"
)
MOST = 2**24  # whole numbers up to here are exact in float32


@dataclass(frozen=True)
class Line:
    """A line of the table. store: t or b for the codes of a layer, h, f or n for a tensor; beside: letters of BESIDE."""

    name: str
    store: str
    shape: tuple[int, ...]
    beside: str = ""

    def __str__(self) -> str:
        kind = f"{self.store}:{self.beside}" if self.store in "tb" else self.store
        return f"{self.name} {kind} {'x'.join(map(str, self.shape)) or '-'}"

    @property
    def count(self) -> int:
        """Numbers of the codes or the tensor."""
        return math.prod(self.shape)

    def around(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Names and shapes of what stands beside the codes."""
        for letter in self.beside:
            yield f"{self.name}.{BESIDE[letter]}", () if letter == "a" else self.shape[:1]

    def taken(self, fmt: str) -> dict[str, int]:
        """How many values of which pieces it takes."""
        if self.store not in "tb":
            return {KEPT[self.store]: self.count}
        codes = {"trits": bytes_of(self.count, fmt)} if self.store == "t" else {"bytes": self.count}
        return {**codes, "floats": sum(math.prod(shape) for _, shape in self.around())}


def halved(tensor: Tensor) -> Tensor:
    """A kept tensor rounded to float16 where that is done at all: weights of two dimensions or more that 16 bits can hold."""
    if tensor.ndim < 2 or not tensor.is_floating_point():
        return tensor
    short = tensor.half().to(tensor.dtype)
    return short if torch.equal(short.isfinite(), tensor.isfinite()) else tensor


def flatten(state: Mapping[str, Tensor], fmt: str) -> dict[str, object]:
    """The pieces and the table of a state. Nothing is rounded: a kept tensor is stored in 16 bits where these are exact.

    ValueError for what has no place in them.
    """
    parts: dict[str, list[Tensor]] = {piece: [] for piece in PIECES}
    lines = lines_of(state)
    for line in lines:
        if line.store in "tb":
            codes = state[line.name + CODES].detach().cpu()
            parts["trits" if line.store == "t" else "bytes"].append(
                pack_trits(codes, fmt) if line.store == "t" else codes.flatten()
            )
            for name, _ in line.around():
                parts["floats"].append(_exact(name, state[name]))
        elif line.store == "h":
            parts["halves"].append(state[line.name].detach().cpu().half().flatten())
        else:
            parts["floats"].append(_exact(line.name, state[line.name]))
    flat = {
        piece: torch.cat(parts[piece]) if parts[piece] else torch.zeros(0, dtype=kind) for piece, kind in PIECES.items()
    }
    return {"fmt": fmt, "table": "\n".join(map(str, lines)), **flat}


def lines_of(state: Mapping[str, Tensor]) -> list[Line]:
    """The table of a state. ValueError for what has no place in it."""
    lines, layers = [], {name.removesuffix(CODES) for name in state if name.endswith(CODES)}
    for name, tensor in state.items():
        layer, _, last = name.rpartition(".")
        if layer in layers and last != "codes":
            if last not in BESIDE.values():
                raise ValueError(f"{name}, which no quantised layer has")
        elif layer in layers:
            if tensor.dtype != torch.int8 or not tensor.ndim:
                raise ValueError(f"{name} of {str(tensor.dtype)[6:]} {tuple(tensor.shape)}; codes are int8")
            ternary = not tensor.numel() or -1 <= int(tensor.min()) and int(tensor.max()) <= 1
            beside = "".join(letter for letter, word in BESIDE.items() if f"{layer}.{word}" in state)
            lines.append(line := Line(layer, "t" if ternary else "b", tuple(tensor.shape), beside))
            if wrong := [name for name, shape in line.around() if tuple(state[name].shape) != shape]:
                raise ValueError(
                    f"{wrong[0]} of shape {tuple(state[wrong[0]].shape)} beside codes {tuple(tensor.shape)}"
                )
        else:
            lines.append(Line(name, _store(tensor), tuple(tensor.shape)))
    if wrong := [line.name for line in lines if not LINE.fullmatch(str(line))]:
        raise ValueError(f"an entry {wrong[0][:80]!r}, whose name or shape cannot be written")
    return lines


def _store(tensor: Tensor) -> str:
    if not tensor.is_floating_point():
        return "n"
    return "h" if tensor.numel() and torch.equal(tensor.half().float(), tensor.float()) else "f"


def _exact(name: str, tensor: Tensor) -> Tensor:
    tensor = tensor.detach().cpu().flatten()
    if not tensor.is_floating_point() and tensor.numel() and int(tensor.abs().max()) > MOST:
        raise ValueError(f"{name} with whole numbers beyond {MOST}")
    return tensor.float()


def restore(content: Mapping[str, object]) -> dict[str, Tensor]:
    """The state that `flatten` took: codes int8, whole numbers int64, the rest float32. ValueError says what is wrong."""
    fmt = content.get("fmt")
    if not isinstance(fmt, str) or fmt not in FORMATS:
        raise ValueError(f"fmt {str(fmt)[:20]!r} is none of {', '.join(FORMATS)}")
    pieces = {piece: content.get(piece) for piece in PIECES}
    for piece, kind in PIECES.items():
        if not isinstance(pieces[piece], Tensor) or pieces[piece].dtype != kind or pieces[piece].ndim != 1:
            raise ValueError(f"{piece} is no flat tensor of {str(kind)[6:]}")
    if content.get("checksum") != checksum(content):
        raise ValueError("its checksum is another")
    if wrong := [piece for piece in ("floats", "halves") if not pieces[piece].isfinite().all()]:
        raise ValueError(f"{wrong[0]} that are not finite")
    lines = parse(content.get("table"))
    needed = dict.fromkeys(PIECES, 0)
    for line in lines:
        for piece, count in line.taken(fmt).items():
            needed[piece] += count
    if wrong := [piece for piece in PIECES if needed[piece] != len(pieces[piece])]:
        raise ValueError(f"{wrong[0]} has {len(pieces[wrong[0]])} values where the table needs {needed[wrong[0]]}")
    return _read(lines, pieces, fmt)


def parse(table: object) -> list[Line]:
    """The lines of a table. ValueError for what is none, or names something twice."""
    if (
        not isinstance(table, str)
        or not table.isprintable()
        and not all(line.isprintable() for line in table.split("\n"))
    ):
        raise ValueError("it has no table")
    found, seen = [], set()
    for number, text in enumerate(table.split("\n"), 1):
        if not (match := LINE.fullmatch(text)):
            raise ValueError(f"line {number} of its table is none: {text[:80]!r}")
        shape = () if match["shape"] == "-" else tuple(map(int, match["shape"].split("x")))
        line = Line(match["name"], match["codes"] or match["kept"], shape, match["beside"] or "")
        if line.store in "tb" and not shape:
            raise ValueError(f"line {number} of its table has codes without a shape")
        if line.store not in "tb" and line.name.endswith(CODES):
            raise ValueError(f"line {number} of its table has codes as floats")
        names = {line.name + CODES, *(name for name, _ in line.around())} if line.store in "tb" else {line.name}
        if seen & names:
            raise ValueError(f"its table has {min(seen & names)[:80]} twice")
        seen |= names
        found.append(line)
    return found


def _read(lines: list[Line], pieces: Mapping[str, Tensor], fmt: str) -> dict[str, Tensor]:
    # Views of what is unpacked at once. All lengths were compared before.
    state: dict[str, Tensor] = {}
    trits, each = unpack_all(pieces["trits"], fmt), FORMATS[fmt].count
    whole, at = {**pieces, "halves": pieces["halves"].float()}, dict.fromkeys(PIECES, 0)

    def take(piece: str, shape: tuple[int, ...]) -> Tensor:
        start, at[piece] = at[piece], at[piece] + math.prod(shape)
        return whole[piece][start : at[piece]].view(shape)

    for line in lines:
        if line.store == "t":
            start, at["trits"] = at["trits"], at["trits"] + bytes_of(line.count, fmt)
            end = start * each + line.count
            if trits[end : at["trits"] * each].any():
                raise ValueError(f"padding behind {line.name[:80]} that is not zero")
            state[line.name + CODES] = trits[start * each : end].view(line.shape)
        elif line.store == "b":
            state[line.name + CODES] = codes = take("bytes", line.shape)
            if int(codes.min()) < -127:
                raise ValueError(f"codes of {line.name[:80]} below -127")
        else:
            tensor = take(KEPT[line.store], line.shape)
            state[line.name] = tensor.long() if line.store == "n" else tensor
        for name, shape in line.around():
            state[name] = take("floats", shape)
    return state


def checksum(content: Mapping[str, object]) -> int:
    """CRC-32 of everything in a packed file beside the checksum itself: the archive's own need not be there, nor is every reader's to compare it."""
    plain = {key: value for key, value in content.items() if key not in PIECES and key != "checksum"}
    try:
        total = zlib.crc32(dumps(plain).encode())
    except (TypeError, RecursionError) as error:
        raise ValueError("it has entries that are no plain values") from error
    for piece in PIECES:
        tensor = content[piece]
        total = zlib.crc32(tensor.contiguous().view(torch.uint8).numpy(), total)
    return total
