"""Mutations of files that know a little of their structure; each follows from a generator of random numbers alone."""

from __future__ import annotations

import io
import pickletools
import random
import re
import struct
import zipfile
from collections.abc import Callable

LONG = 10_000  # bytes; longer parts are not repeated often: files stay below 50 MB
SIZES = (0, 1, 2, 7, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**64 - 1)
NAMES = (
    "os system", "posix system", "subprocess Popen", "builtins eval", "builtins exec", "builtins getattr",
    "builtins __import__", "shutil rmtree", "socket socket", "torch.jit load", "torch load", "torch.hub load",
    "torch.utils.cpp_extension load", "numpy load", "importlib import_module", "pickle loads", "webbrowser open",
    "torch.nn.modules.container Sequential", "ultralytics.nn.tasks DetectionModel", "collections OrderedDict",
    "torch._utils _rebuild_tensor_v2", "functools partial", "operator attrgetter", "pathlib PosixPath",
)  # fmt: skip
WORDS = (
    "", "~", "null", "true", "-1", "0", "1", "1e999", ".nan", "-.inf", "10" * 40, "0x" + "f" * 30, "1_000", "[]", "{}",
    "[[[[[]]]]]", "'", '"', "a: b: c", "&a [*a]", "*a", "!!python/object/apply:os.system ['true']", "!!binary aGk=",
    "!!int x", "!!timestamp 2001-99-99", "<<: *a", "\x1b[2J", "\x00", "\ufeff", "é" * 200, "x" * 5000,
    "../../etc/passwd",
    "/dev/zero", "/dev/stdin", "http://127.0.0.1:9/x", "%s%n", "${HOME}", "`true`", "$(true)", "nn.ReLU()",
    "__import__('os').system('true')", "2001-01-01", "1:30:00", "[1, 2, 3]", "{1: 2}", "? x", "- - - -", "|", ">",
    "---",
)  # fmt: skip


def mutate_bytes(draw: random.Random, data: bytes) -> bytes:
    """Change one to four places: flip, write a size, remove, repeat, insert, cut off."""
    parts = bytearray(data)
    for _ in range(draw.choice((1, 1, 1, 2, 4))):
        at, length = draw.randrange(len(parts) + 1), draw.choice((1, 2, 4, 8, 64, 1000))
        way = draw.randrange(7)
        if way == 0 and parts:
            parts[at % len(parts)] ^= 1 << draw.randrange(8)
        elif way == 1:
            packed = struct.pack(draw.choice("<>") + "Q", draw.choice(SIZES))
            width = draw.choice((1, 2, 4, 8))
            parts[at : at + width] = packed[:width]
        elif way == 2:
            del parts[at : at + length]
        elif way == 3:
            parts[at:at] = parts[at : at + length] * draw.choice((1, 1, 2, 50))
        elif way == 4:
            parts[at:at] = draw.randbytes(length)
        elif way == 5:
            del parts[at:]
        else:
            parts[at : at + length] = bytes([draw.choice((0, 0xFF))]) * length
    return bytes(parts)


def mutate_pickle(draw: random.Random, data: bytes) -> bytes:
    """Remove, repeat or swap instructions, ask for other names, change arguments. What cannot be parsed: as bytes."""
    try:
        starts = [position for _, _, position in pickletools.genops(data)]
    except Exception:
        return mutate_bytes(draw, data)
    pieces = [data[a:b] for a, b in zip(starts, [*starts[1:], len(data)])]
    for _ in range(draw.choice((1, 1, 2, 3))):
        at, way = draw.randrange(len(pieces)), draw.randrange(7)
        if way == 0:
            pieces[at] = b""
        elif way == 1:
            pieces[at] *= draw.choice((2, 2, 3, 1000)) if len(pieces[at]) < LONG else 2
        elif way == 2:
            other = draw.randrange(len(pieces))
            pieces[at], pieces[other] = pieces[other], pieces[at]
        elif way == 3:
            names = [index for index, piece in enumerate(pieces) if piece[:1] == b"c"]
            at = draw.choice(names) if names else at
            pieces[at] = b"c" + "\n".join(draw.choice(NAMES).split()).encode() + b"\n"
        elif way == 4:
            call = b"c" + "\n".join(draw.choice(NAMES).split()).encode() + b"\nX\x04\x00\x00\x00true\x85R"
            pieces[at] += call + draw.choice((b"", b"0"))
        elif way == 5:
            pieces[at] = pieces[at][:1] + mutate_bytes(draw, pieces[at][1:])
        else:
            pieces[at] = draw.choice((b"N", b"}", b"]", b")", b"(", b"R", b"b", b"s", b"u", b".", b"t", b"Q", b"\x81"))
    return b"".join(pieces)


def mutate_zip(draw: random.Random, data: bytes) -> bytes:
    """Change, rename, drop, repeat or compress members of an archive; sometimes its raw bytes."""
    if draw.random() < 0.15:
        return mutate_bytes(draw, data)
    with zipfile.ZipFile(io.BytesIO(data)) as old:
        members = [(name, old.read(name)) for name in old.namelist()]
    for _ in range(draw.choice((1, 1, 2))):
        at, way = draw.randrange(len(members)), draw.randrange(10)
        name, content = members[at]
        if way < 6:
            interesting = [index for index, (each, _) in enumerate(members) if mutator_of(each) is not mutate_bytes]
            at = draw.choice(interesting) if interesting and draw.random() < 0.8 else at
            name, content = members[at]
            members[at] = name, mutator_of(name)(draw, content)
        elif way == 6:
            members[at] = draw.choice((name + "x", "../" + name, "/" + name, name.upper(), "x/" + name, "")), content
        elif way == 7:
            del members[at]
            members = members or [("x", b"")]
        elif way == 8:
            members.insert(at, (name, mutate_bytes(draw, content)))
        else:
            members[at] = name, bytes(draw.choice((0, 10, 10**6, 3 * 10**7)))
    file = io.BytesIO()
    kind = draw.choice((zipfile.ZIP_STORED, zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))
    import warnings

    with warnings.catch_warnings(), zipfile.ZipFile(file, "w", kind) as new:
        warnings.simplefilter("ignore")  # about names that stand twice
        for name, content in members:
            new.writestr(name or "x", content)
    return file.getvalue()


def mutate_text(draw: random.Random, data: bytes) -> bytes:
    """Change words, lines, indents and signs of YAML, JSON, XML or rows of numbers; sometimes raw bytes."""
    if draw.random() < 0.1:
        return mutate_bytes(draw, data)
    text = data.decode("utf-8", "surrogateescape")
    for _ in range(draw.choice((1, 1, 2, 3))):
        way = draw.randrange(6)
        words, lines = list(re.finditer(r"[^\s,:\[\]{}<>\"'=]+", text)), text.split("\n")
        at = draw.randrange(len(lines))
        if way < 3 and words:
            word = draw.choice(words)
            text = text[: word.start()] + draw.choice(WORDS) + text[word.end() :]
            continue
        if way == 3:
            del lines[at]
        elif way == 4:
            lines[at:at] = [lines[at]] * (draw.choice((1, 1, 5, 3000)) if len(lines[at]) < LONG else 1)
        else:
            lines[at] = draw.choice(
                (" " * draw.choice((1, 3, 900)) + lines[at], lines[at].lstrip(), draw.choice(WORDS))
            )
        text = "\n".join(lines)
    return text.encode("utf-8", "surrogateescape")


def mutate_protobuf(draw: random.Random, data: bytes, depth: int = 0) -> bytes:
    """Change, drop, repeat or swap fields of a message; goes into nested messages. No message: as bytes."""
    fields = _fields(data)
    if not fields:
        return mutate_bytes(draw, data)
    at = draw.randrange(len(fields))
    tag, kind, value = fields[at]
    way = draw.random()
    if kind == 2 and way < 0.75 and depth < 8 and len(value) > 1:
        fields[at] = tag, kind, mutate_protobuf(draw, value, depth + 1)
    elif kind == 0:
        fields[at] = tag, kind, draw.choice(SIZES)
    elif way < 0.85:
        del fields[at]
    elif way < 0.95:
        short = kind != 2 or len(value) < LONG
        fields[at:at] = [fields[at]] * (draw.choice((1, 2, 500)) if short else 1)
    else:
        fields[at] = draw.randrange(1, 30) << 3 | kind, kind, value
    return b"".join(_encoded(*field) for field in fields)


def _fields(data: bytes) -> list[tuple[int, int, object]]:
    """(tag, kind, value) of each field; empty where the bytes are no message."""
    fields: list[tuple[int, int, object]] = []
    at = 0
    try:
        while at < len(data):
            tag, at = _varint(data, at)
            kind = tag & 7
            if kind == 0:
                value, at = _varint(data, at)
            else:
                length, at = _varint(data, at) if kind == 2 else ({1: 8, 5: 4}[kind], at)
                if length > len(data) - at:
                    return []
                value, at = data[at : at + length], at + length
            fields.append((tag, kind, value))
    except (IndexError, KeyError):
        return []
    return fields


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value, shift, at = value | (byte & 0x7F) << shift, shift + 7, at + 1
        if byte < 0x80:
            return value, at


def _encoded(tag: int, kind: int, value: object) -> bytes:
    head = _as_varint(tag)
    if kind == 0:
        return head + _as_varint(value)
    return head + (_as_varint(len(value)) if kind == 2 else b"") + value


def _as_varint(value: int) -> bytes:
    parts = bytearray()
    while True:
        parts.append(value & 0x7F | (0x80 if value > 0x7F else 0))
        value >>= 7
        if not value:
            return bytes(parts)


def mutator_of(name: str) -> Callable[[random.Random, bytes], bytes]:
    """The mutator that suits a file or a member of an archive, by its name."""
    suffix = name.rpartition(".")[2].lower()
    return MUTATORS.get(suffix, mutate_bytes)


MUTATORS: dict[str, Callable[[random.Random, bytes], bytes]] = {
    "pt": mutate_zip,
    "torchscript": mutate_zip,
    "pt2": mutate_zip,
    "pkl": mutate_pickle,
    "legacy": mutate_pickle,
    "onnx": mutate_protobuf,
    **dict.fromkeys(("yaml", "txt", "json", "xml", "py", "csv"), mutate_text),
}
