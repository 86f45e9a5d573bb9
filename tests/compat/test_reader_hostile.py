"""Hostile and broken files, each made here: no code runs, memory stays bounded, and one line says what is wrong."""

from __future__ import annotations

import copyreg
import importlib
import io
import operator
import os
import pickle
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from bitfalcon_plugin.compat import opcodes
from bitfalcon_plugin.compat.reader import read

from tests.helpers import foreign
from tests.helpers.foreign import refusal

# Code.


class Call:
    """Pickles as the call of a function."""

    def __init__(self, function, *arguments):
        self.parts = function, arguments

    def __call__(self):
        """Only so that the result of a call can be pickled as a function to call."""

    def __reduce__(self):
        return self.parts


def touch(canary: Path) -> str:
    return f"open({str(canary)!r}, 'w').close()"


OS = Call(importlib.import_module, "os")
ATTACKS = {
    "os.system": lambda canary: Call(os.system, f"touch {canary}"),
    "subprocess": lambda canary: Call(subprocess.check_call, ["touch", str(canary)]),
    "eval": lambda canary: Call(eval, touch(canary)),
    "exec": lambda canary: Call(exec, touch(canary)),
    "open": lambda canary: Call(open, str(canary), "w"),
    "chain": lambda canary: Call(Call(operator.attrgetter("system"), OS), f"touch {canary}"),
    "getattr gadget": lambda canary: Call(Call(getattr, OS, "system"), f"touch {canary}"),
    "pickle in a pickle": lambda canary: Call(pickle.loads, pickle.dumps(Call(os.system, f"touch {canary}"))),
    "file in a file": lambda canary: Call(torch.storage._load_from_bytes, _saved(Call(os.system, f"touch {canary}"))),
    "in a key": lambda canary: {Call(os.system, f"touch {canary}"): 1},
}


def _saved(value: object) -> bytes:
    file = io.BytesIO()
    torch.save(value, file)
    return file.getvalue()


@pytest.mark.parametrize("place", ["entry", "attribute", "parameters", "whole", "legacy"])
@pytest.mark.parametrize("attack", ATTACKS)
def test_no_code_runs(tmp_path, attack, place) -> None:
    canary, payload = tmp_path / "canary", ATTACKS[attack](tmp_path / "canary")
    options = {"_use_new_zipfile_serialization": False} if place == "legacy" else {}

    def wrap(model, cls):
        if place == "attribute":
            model.model[0].extra = payload
        elif place == "parameters":
            model.__dict__["_parameters"] = {"weight": payload}
        elif place == "whole":
            return payload
        epoch = payload if place in ("entry", "legacy") else 1
        return {"model": foreign.small_state() if options else model, "epoch": epoch}

    path = foreign.write(tmp_path / "x.pt", wrap=wrap, save=options)
    line = refusal(path)
    assert "asks for" in line and "was not read" in line
    assert not canary.exists()
    with foreign.package():  # the file does what it says, for those who let it
        try:
            torch.load(path, weights_only=False)
        except Exception:
            pass
    assert canary.exists()


def test_every_refused_name_is_told(tmp_path) -> None:
    torch.save([Call(os.system, "true"), Call(eval, "1"), Call(getattr, 1, "real")], tmp_path / "x.pt")
    line = refusal(tmp_path / "x.pt")
    assert all(word in line for word in (f"{os.name}.system", "builtin", "eval", "getattr"))


def name(module: str, attribute: str) -> bytes:
    return f"c{module}\n{attribute}\n".encode()


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def framed(*parts: bytes) -> bytes:
    return b"\x80\x02" + b"".join(parts) + b"."


ORDERED = name("collections", "OrderedDict") + b")R"
HAND_MADE = {  # what no pickler writes: the instructions, and a word of the refusal
    "extension": (framed(b"\x82\x7f", text("true"), b"\x85R"), "EXT1"),
    "old instance": (framed(b"(", text("true"), b"ios\nsystem\n"), "INST"),
    "old object": (framed(b"(", name("models", "x"), text("true"), b"o"), "OBJ"),
    "name from the stack": (framed(text("os"), text("system"), b"\x93"), "STACK_GLOBAL"),
    "protocol 4": (pickle.dumps({"model": {}}, 4), "protocol 4"),
    "protocol 0": (pickle.dumps({"model": {}}, 0), "instruction"),
    "call of a text": (framed(text("system"), b")R"), "not a class it names"),
    "call of a result": (framed(ORDERED, b")R"), "not a class it names"),
    "call of a type": (framed(name("torch", "float16"), b")R"), "not a class it names"),
    "new of a function": (framed(name("torch._utils", "_rebuild_tensor_v2"), b")\x81"), "not a class it names"),
    "real parameter": (framed(name("torch.nn.parameter", "Parameter"), b")R"), "torch.nn.parameter.Parameter"),
    "real tensor": (framed(name("torch", "Tensor"), b"J\0\0\0\x7f\x85R"), "torch.Tensor"),
    "tensor subclass": (framed(name("torch._tensor", "_rebuild_from_type_v2"), b")R"), "_rebuild_from_type_v2"),
    "bytearray": (framed(name("builtins", "bytearray"), b"J\0\0\0\x7f\x85R"), "bytearray"),
    "codec": (framed(name("_codecs", "encode"), text("ab"), text("zip"), b"\x86R"), "_codecs.encode"),
    "method of a dict": (framed(ORDERED, b"}", text("items"), name("models", "x"), b"sb"), "methods"),
    "state of a list": (framed(b"]}b"), "state"),
    "key of tuples": (framed(b"})", b"\x85" * 300_000, b"Ns"), "keys"),
    "huge integer keys": (framed(b"}\x8a\x10", b"\xff" * 15, b"\x01Ns"), "keys"),
    "dotted name": (framed(name("os", "path.os.system"), b")R"), "os.path.os.system"),
    "name with escapes": (framed(name("os\x1b[2J", "sys\rtem"), b")R"), "os?[2J.sys tem"),
    "unknown persistent id": (framed(text("system"), b"Q"), "tensor's values"),
    "empty stack": (framed(b"R"), "does not hold together"),
    "without an end": (b"\x80\x02}", "does not hold together"),
    "text beyond the end": (framed(b"X\xff\xff\xff\x7fab"), "ends in the middle"),
    "unknown memo": (framed(b"h\x07"), "does not hold together"),
    "stack as it was": (framed(b"}(u", b"t"), "does not hold together"),
}


@pytest.mark.parametrize("case", HAND_MADE)
def test_hand_made_pickles(tmp_path, case) -> None:
    made, word = HAND_MADE[case]
    copyreg.add_extension("os", "system", 0x7F)
    try:
        assert word in refusal(foreign.with_pickle(tmp_path / "x.pt", made))
    finally:
        copyreg.remove_extension("os", "system", 0x7F)


@pytest.mark.parametrize(
    "full",
    [
        ("torch.nn.modules.module", "torch.os.system"),
        ("models", "os.system"),
        ("torch.nn", "Module"),
        ("torch.nn.init", "eval"),
        ("pathlib", "os.system"),
        ("ultralytics.utils", "checks.subprocess.run"),
    ],
)
def test_names_inside_the_namespaces_are_only_names(tmp_path, full) -> None:
    canary = tmp_path / "canary"
    call = name(*full) + text(f"touch {canary}") + b"\x85R"
    state = foreign.pickled({"weight": torch.ones(2)})
    made = framed(b"}(", text("model"), state, text("epoch"), call, b"u")
    found = read(foreign.with_pickle(tmp_path / "x.pt", made, {"0": bytes(8)}))
    assert found.attributes == {} and found.classes == (".".join(full),) and not canary.exists()


# Bombs: small files that would fill memory, or never end.


def number(value: int) -> bytes:
    return b"\x8a\x08" + struct.pack("<q", value)


def numbers(values: tuple[int, ...]) -> bytes:
    return b"(" + b"".join(map(number, values)) + b"t"


def tensor_of(size: tuple[int, ...], stride: tuple[int, ...], numel: int = 2, offset: int = 0) -> bytes:
    """A tensor's pickle with a storage of `numel` floats, which may say what it likes."""
    storage = b"(" + text("storage") + name("torch", "FloatStorage") + text("0") + text("cpu") + number(numel) + b"tQ"
    arguments = storage + number(offset) + numbers(size) + numbers(stride) + b"\x89" + ORDERED
    return name("torch._utils", "_rebuild_tensor_v2") + b"(" + arguments + b"tR"


def in_model(*values: bytes) -> bytes:
    return framed(b"}", text("weight"), *values, b"s")


ENCODE = name("_codecs", "encode")
DOUBLED = ENCODE + text("a" * 1000) + text("latin1") + b"\x86R" + (text("hex") + b"\x86q\0" + ENCODE + b"h\0R") * 30
BOMBS = {  # the pickle, and a word of the refusal
    "shape beyond the storage": (in_model(tensor_of((2**32,), (1,))), "reaches beyond its storage of 2 values"),
    "stride beyond the storage": (in_model(tensor_of((2,), (2**33,))), "reaches beyond its storage of 2 values"),
    "offset beyond the storage": (in_model(tensor_of((1,), (1,), offset=2**33)), "reaches beyond its storage"),
    "expanded": (in_model(tensor_of((2**20, 2**20), (0, 0))), "reaches beyond its storage of 2 values"),
    "storage beyond the record": (in_model(tensor_of((2**32,), (1,), numel=2**32)), "holds 8 bytes in record data/0"),
    "negative shape": (in_model(tensor_of((-4,), (1,))), "from something else than a storage"),
    "doubling codec": (in_model(DOUBLED), "calls _codecs.encode as torch.save does not"),
    "instructions": (framed(b"}" * (opcodes.MAX_INSTRUCTIONS + 1)), "pickle instructions"),
    "as many as allowed": (framed(b"(" + b"}" * (opcodes.MAX_INSTRUCTIONS - 4) + b"t"), "holds a tuple"),
}


def laughing(tmp_path: Path) -> Path:
    """Values that share each other 40 times over: 2**40 of them on a walk."""
    value: object = [1.0]
    for _ in range(40):
        value = [value, value]
    return foreign.write(tmp_path / "laughing.pt", train_args=value)


def laughing_modules(tmp_path: Path) -> Path:
    def wrap(model, cls):
        for _ in range(40):
            outer = cls("ultralytics.nn.modules.block.Part")()
            outer._modules.update(a=model, b=model)
            model = outer
        return {"model": model}

    return foreign.write(tmp_path / "modules.pt", wrap=wrap)


def deep(tmp_path: Path) -> Path:
    value: object = 1
    for _ in range(200):
        value = {"deeper": value}
    return foreign.write(tmp_path / "deep.pt", yaml=value)


def endless(tmp_path: Path) -> Path:
    value: list[object] = []
    value.append(value)
    return foreign.write(tmp_path / "endless.pt", yaml=value)


def deflated(tmp_path: Path, member: str) -> Path:
    """200 MB of zeros in 200 KB."""
    content = foreign.members(foreign.write(tmp_path / "small.pt"))
    content[f"small/{member}"] = bytes(200_000_000)
    return foreign.write_members(tmp_path / f"deflated-{member.replace('/', '-')}.pt", content, zipfile.ZIP_DEFLATED)


def overlapping(tmp_path: Path) -> Path:
    """Ninety records that are all the same 10 MB of the file."""
    path = tmp_path / "overlap.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x/data.pkl", in_model(tensor_of((2,), (1,))))
        archive.writestr("x/data/0", bytes(10_000_000))
        for index in range(1, 90):
            archive.filelist.append(copy := zipfile.ZipInfo(f"x/data/{index}"))
            for field in ("CRC", "compress_size", "file_size", "header_offset", "compress_type"):
                setattr(copy, field, getattr(archive.filelist[1], field))
    return path


CHILD = """
import resource, sys, torch
from bitfalcon_plugin.compat.reader import read
from bitfalcon_plugin.config.errors import UserError
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
read(sys.argv[1])
before = peak()
for path in sys.argv[2:]:
    try:
        read(path)
        print('opened', path)
    except UserError as error:
        print(peak() - before, 'MB', error)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="measured with the resource module of POSIX systems")
def test_bombs_do_not_fill_memory(tmp_path) -> None:
    good = foreign.write(tmp_path / "good.pt")
    cases = [
        (foreign.with_pickle(tmp_path / f"{case}.pt", made, {"0": bytes(8)}), word)
        for case, (made, word) in BOMBS.items()
    ]
    cases += [
        (laughing(tmp_path), "100000 parts"),
        (laughing_modules(tmp_path), "100000 parts"),
        (deep(tmp_path), "deeper than 64"),
        (endless(tmp_path), "deeper than 64"),
        (overlapping(tmp_path), "bytes together"),
        (deflated(tmp_path, "data.pkl"), "compressed member"),
        (deflated(tmp_path, "data/0"), "compressed member"),
    ]
    paths = [path for path, _ in cases]
    done = subprocess.run([sys.executable, "-c", CHILD, good, *paths], capture_output=True, text=True, timeout=300)
    lines = done.stdout.splitlines()
    assert len(lines) == len(paths) and done.returncode == 0, done.stdout + done.stderr
    for (path, word), line in zip(cases, lines):
        assert str(path) in line and word in line, line
        assert int(line.split()[0]) < 150, line


def test_a_name_that_torch_would_make_itself_is_refused(tmp_path, monkeypatch) -> None:
    path = foreign.write(tmp_path / "x.pt")
    known = torch._weights_only_unpickler._get_allowed_globals
    monkeypatch.setattr(
        torch._weights_only_unpickler, "_get_allowed_globals", lambda: {**known(), foreign.ROOT: object}
    )
    assert f"asks for {foreign.ROOT}, which torch itself would make" in refusal(path)
