"""Files that are cut off, damaged or something else: one line says which, and no other error gets out."""

from __future__ import annotations

import gzip
import os
import pickle
import random
import struct
import tarfile
import warnings
import zipfile
from pathlib import Path

import pytest
import torch
from bitfalcon_plugin.compat.opcodes import DryRun
from bitfalcon_plugin.compat.reader import ForeignContent, read

from bitfalcon_plugin.config.errors import UserError
from tests.helpers import foreign
from tests.helpers.foreign import refusal


@pytest.fixture
def good(tmp_path) -> Path:
    return foreign.write(tmp_path / "good.pt")


# Something else under the name of a checkpoint.


def _image(path: Path) -> bytes:
    from PIL import Image

    Image.new("RGB", (8, 8)).save(path, "png")
    return path.read_bytes()


def _zip(path: Path) -> bytes:
    return foreign.write_members(path, {"notes/a.txt": b"abc" * 99}, zipfile.ZIP_DEFLATED).read_bytes()


def _scripted(path: Path) -> bytes:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is on its way out
        torch.jit.save(torch.jit.trace(torch.nn.Conv2d(1, 1, 1), torch.zeros(1, 1, 2, 2)), path)
    return path.read_bytes()


OTHERS = {
    "empty": (lambda path: b"", "is empty"),
    "text": (lambda path: b"see the link for the weights\nhttps://x.y", "text file that begins with 'see the link"),
    "YAML": (lambda path: b"nc: 80\n" * 200, "text file that begins with 'nc: 80"),
    "web page": (lambda path: b"<!doctype html><html>404", "web page"),
    "git-lfs": (lambda path: b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "git lfs pull"),
    "gzip": (lambda path: gzip.compress(b"x"), "gzip"),
    "safetensors": (lambda path: struct.pack("<Q", 2) + b'{"a":1}', "safetensors"),
    "image": (_image, "PNG image"),
    "zip": (_zip, "not one of torch.save"),
    "zip without members": (lambda path: foreign.write_members(path, {}).read_bytes(), "empty zip"),
    "TorchScript": (_scripted, "TorchScript archive"),
    "pickle": (lambda path: pickle.dumps({"a": 1}, 4), "not one of torch.save"),
    "noise": (lambda path: b"\x11\xfe\x00\x01" * 300, "begins with the bytes 11 fe 00 01"),
    "tar": (lambda path: b"storages".ljust(257, b"\0") + b"ustar" + bytes(700), "tar archive"),
}


@pytest.mark.parametrize("case", OTHERS)
def test_other_files_are_called_what_they_are(tmp_path, case) -> None:
    make, word = OTHERS[case]
    data = make(tmp_path / "made")
    (tmp_path / "x.pt").write_bytes(data)
    assert word in refusal(tmp_path / "x.pt")


def test_a_folder_and_a_pipe(tmp_path) -> None:
    assert "is a folder" in refusal(tmp_path)
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe.pt")
        assert "not a regular file" in refusal(tmp_path / "pipe.pt")


@pytest.mark.parametrize(
    "content, word",
    [
        ({"epoch": 3, "optimizer": {}}, "its entries are epoch, optimizer"),
        ([1, 2], "holds a list"),
        ({}, "are none"),
        ({"model": None, "ema": None}, "holds no model"),
        ({"state_dict": {"a": torch.ones(1), "b": 3}}, "not tensors: b"),
        ({"model": {1: torch.ones(1)}}, "not tensors: 1"),
        ({"a\x1b[2J\ud800": torch.ones(1)}, "names cannot be printed"),
        (torch.ones(2), "holds a Tensor"),
    ],
)
def test_files_without_a_model(tmp_path, content, word) -> None:
    torch.save(content, tmp_path / "x.pt")
    assert word in refusal(tmp_path / "x.pt")


def test_an_object_that_is_no_model(tmp_path) -> None:
    def wrap(model, cls):
        return cls("ultralytics.utils.IterableSimpleNamespace")(a=1)

    path = foreign.write(tmp_path / "x.pt", wrap=wrap)
    assert "IterableSimpleNamespace, which is not a model" in refusal(path)


# Cut off and damaged.


@pytest.mark.parametrize("keep", [3, 40, 600, 0.3, 0.6, 0.9, -1000, -98, -22, -1])
def test_truncated_archives(good, keep) -> None:
    data = good.read_bytes()
    good.write_bytes(data[: int(keep * len(data)) if isinstance(keep, float) else keep])
    assert "is cut off" in refusal(good) or keep == 3


def test_bytes_behind_the_end_and_in_front(good) -> None:
    data = good.read_bytes()
    good.write_bytes(data + b"more")
    assert "something behind its end" in refusal(good)
    good.write_bytes(b"more" + data)
    assert "begins with" in refusal(good)


def test_a_flipped_bit_in_the_weights(good) -> None:
    data = bytearray(good.read_bytes())
    with zipfile.ZipFile(good) as archive:
        member = archive.getinfo("good/data/0")
    padding = struct.unpack("<H", data[member.header_offset + 28 :][:2])[0]  # the header's last field
    data[member.header_offset + 30 + len(member.filename) + padding + 5] ^= 1
    good.write_bytes(data)
    assert "Bad CRC-32 for file 'good/data/0'" in refusal(good)


def test_archives_without_checksums(tmp_path) -> None:
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(foreign.small_state(), tmp_path / "x.pt")
    finally:
        torch.serialization.set_crc32_options(True)
    assert len(read(tmp_path / "x.pt").state) == 8


def test_a_missing_record(good) -> None:
    content = foreign.members(good)
    del content["good/data/3"]
    assert "lacks the record data/'3'" in refusal(foreign.write_members(good, content))


@pytest.mark.parametrize("size", [0, 6, 10])
def test_a_record_of_another_length(good, size) -> None:
    content = {**foreign.members(good), "good/data/1": bytes(size)}
    assert f"holds {size} bytes in record data/1, where 4 values of torch.HalfStorage take 8" in refusal(
        foreign.write_members(good, content)
    )


@pytest.mark.parametrize(
    "new, word",
    [
        (b"FloatStorage", "holds 216 bytes in record data/0"),
        (b"ShortStorage", "not floating-point: model.0.conv.weight"),
        (b"ComplexFloatStorage", "ComplexFloatStorage"),
        (b"NoSuchStorage", "NoSuchStorage"),
    ],
)
def test_a_wrong_type(good, new, word) -> None:
    content, old = foreign.members(good), b"HalfStorage"
    assert content["good/data.pkl"].count(old) == 1
    content["good/data.pkl"] = content["good/data.pkl"].replace(old, new)
    assert word in refusal(foreign.write_members(good, content))


def test_one_record_as_two_types(tmp_path) -> None:
    weight = torch.zeros(4)
    torch.save({"a": weight, "b": weight.view(4), "c": torch.zeros(4, dtype=torch.int32)}, tmp_path / "x.pt")
    content = foreign.members(tmp_path / "x.pt")
    content["x/data.pkl"] = content["x/data.pkl"].replace(b"\x01\0\0\x001", b"\x01\0\0\x000")
    assert "reads record '0' as two different types" in refusal(foreign.write_members(tmp_path / "x.pt", content))


@pytest.mark.parametrize("eps", ["big", float("nan"), -1.0, None])
def test_a_batch_norm_that_cannot_be(tmp_path, eps) -> None:
    assert "model.0.bn.eps" in refusal(foreign.write(tmp_path / "x.pt", eps=eps))


def test_a_module_tree_that_does_not_hold_together(tmp_path) -> None:
    def wrap(model, cls):
        model.model.__dict__["_modules"]["1"] = "row"
        return {"model": model}

    assert "has model.1 that is not a module" in refusal(foreign.write(tmp_path / "x.pt", wrap=wrap))

    def buffers(model, cls):
        model.__dict__["_buffers"] = {"grid": [1.0]}
        return {"model": model}

    assert "has grid that is not a tensor" in refusal(foreign.write(tmp_path / "x.pt", wrap=buffers))


def test_shared_weights_more_often_than_the_file_is_large(tmp_path) -> None:
    weight = torch.zeros(100_000)
    torch.save({f"model.{index}.weight": weight for index in range(10)}, tmp_path / "x.pt")
    assert "4000000 bytes together" in refusal(tmp_path / "x.pt")


# Archives that readers could see differently, or that lead out of their folder.


@pytest.mark.parametrize(
    "member",
    [
        "/etc/passwd",
        "good/../../x",
        "good/..",
        "other/x",
        "good\\x",
        "good//x",
        "x",
        "good/a\nb",
        "good/" + "a" * 300,
        "good/d\u00e4ta",
        "good/DATA.PKL",
        "good/data/0",
    ],
)
def test_member_names(good, member) -> None:
    with zipfile.ZipFile(good, "a") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the double name
        archive.writestr(member, b"")
    assert "has a member" in refusal(good) or "has the member" in refusal(good)


def test_a_second_table_of_contents(good) -> None:
    data = good.read_bytes()
    at = len(data) - 98
    assert data[at : at + 4] == b"PK\6\6"
    for offset, value in ((24, 1), (32, 1), (48, 0)):  # 64-bit numbers of entries and start that differ from the others
        changed = bytearray(data)
        changed[at + offset : at + offset + 8] = struct.pack("<Q", value)
        good.write_bytes(changed)
        assert "two tables of contents" in refusal(good)
    changed = bytearray(data)
    changed[-34:-26] = struct.pack("<Q", 0)  # where the 64-bit record is said to be
    good.write_bytes(changed)
    assert "two tables of contents" in refusal(good)


def test_a_comment_and_an_encrypted_member(good) -> None:
    data = good.read_bytes()
    with zipfile.ZipFile(good, "a") as archive:
        archive.comment = b"PK\x05\x06"
    assert "is cut off or has something behind its end" in refusal(good)
    good.write_bytes(data[:-2] + b"\x05\0")  # a comment that is not there
    assert "is cut off or has something behind its end" in refusal(good)
    start = data.rindex(b"PK\x01\x02")
    good.write_bytes(data[: start + 8] + b"\x01" + data[start + 9 :])
    assert "encrypted" in refusal(good)


# The format before torch 1.6.


@pytest.fixture
def legacy(tmp_path) -> Path:
    torch.save(foreign.small_state(), tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    return tmp_path / "old.pt"


@pytest.mark.filterwarnings("ignore:Couldn't retrieve source")
def test_a_whole_model_in_the_old_format(tmp_path) -> None:
    path = foreign.write(tmp_path / "x.pt", save={"_use_new_zipfile_serialization": False})
    text = refusal(path)
    assert "torch before 1.6" in text and "model.state_dict()" in text


@pytest.mark.parametrize("zipped", [True, False])
def test_a_class_of_torch_itself_is_no_stand_in(tmp_path, zipped) -> None:
    torch.save({"a": torch.nn.Parameter}, tmp_path / "x.pt", _use_new_zipfile_serialization=zipped)
    assert "asks for torch.nn.parameter.Parameter, which a YOLO model does not need" in refusal(tmp_path / "x.pt")


@pytest.mark.parametrize("keep", [14, 30, 400, -300, -1])
def test_truncated_old_files(legacy, keep) -> None:
    legacy.write_bytes(legacy.read_bytes()[:keep])
    text = refusal(legacy)
    assert any(word in text for word in ("is cut off", "ends in the middle", "does not hold together", "length is not"))


def test_old_files_whose_lengths_do_not_agree(legacy) -> None:
    data = legacy.read_bytes()
    large = data.replace(b"K\x6cN", b"J\0\0\0\x7fN", 1)  # 108 half values of the first convolution
    assert large != data
    legacy.write_bytes(large)
    assert "whose length is not 2130706432" in refusal(legacy)
    legacy.write_bytes(data.replace(struct.pack("<Q", 108), struct.pack("<Q", 10**12), 1))
    assert "whose length is not" in refusal(legacy)


def test_an_old_file_that_is_a_tar_archive_too(legacy) -> None:
    # torch tries a real file as a tar archive first and makes a folder for it. Here the third pickle, of the machine's
    # properties, holds a text in which the header of a tar archive lies.
    data = legacy.read_bytes()
    start = DryRun(data, DryRun(data).run().at).run().at
    rest = DryRun(data, start).run().at
    header = bytearray(data[:start] + b"\x80\x02}X" + struct.pack("<I", 512 - start - 8)).ljust(512, b"\0")
    header[100:157] = b"0000644\x000000000\x000000000\x0000000000000\x0000000000000\x00        0"
    header[257:265] = b"ustar\x0000"
    header[148:156] = b"%06o\0 " % sum(header)
    legacy.write_bytes(header + b"K\x01s." + data[rest:])
    with tarfile.open(legacy) as archive:
        assert archive.next() is not None
    with pytest.raises(RuntimeError, match="legacy .tar format"):
        torch.load(legacy, weights_only=True)
    assert len(read(legacy).state) == 8


# Anything at all.


def _mutations(data: bytes, draw: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(draw.choice((1, 1, 2, 5))):
        at = draw.randrange(len(changed))
        kind = draw.randrange(3)
        if kind == 0:
            changed[at] = draw.randrange(256)
        elif kind == 1:
            del changed[at : at + draw.choice((1, 2, 40))]
        else:
            changed[at:at] = changed[draw.randrange(len(changed)) :][: draw.choice((1, 3, 30))]
    return bytes(changed)


@pytest.mark.parametrize("what", ["pickle", "archive", "legacy"])
def test_nothing_but_a_user_error_gets_out(good, legacy, what) -> None:
    draw, outcomes = random.Random(what), []
    content, base = foreign.members(good), (legacy if what == "legacy" else good).read_bytes()
    changed = good.with_name("changed.pt")
    for _ in range(150):
        if what == "pickle":
            foreign.write_members(changed, {**content, "good/data.pkl": _mutations(content["good/data.pkl"], draw)})
        else:
            changed.write_bytes(_mutations(base, draw))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            try:
                outcomes.append(type(read(changed)))
            except UserError as error:
                assert "\n" not in str(error)
                outcomes.append(UserError)
    assert outcomes.count(UserError) > 50 and set(outcomes) <= {UserError, ForeignContent}


def test_reading_writes_nothing(good, tmp_path, monkeypatch) -> None:
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("TMPDIR", str(folder))
    before = good.read_bytes(), os.stat(good).st_mtime_ns
    read(good)
    assert not list(folder.iterdir()) and before == (good.read_bytes(), os.stat(good).st_mtime_ns)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["elsewhere", "good.pt"]
