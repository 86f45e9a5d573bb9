"""Seals: own exports open at once, other files only after a run in a process of its own, which hostile ones end."""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path

import pytest
import torch

from bitfalcon_plugin import YOLO
from bitfalcon_plugin.config.errors import UserError
from bitfalcon_plugin.export import seal
from bitfalcon_plugin.export.formats import EXPORT_FORMATS
from bitfalcon_plugin.export.metadata import Metadata
from bitfalcon_plugin.export.open import open_exported
from bitfalcon_plugin.export.runtimes.runtime import Runtime
from tests.attack.exported import FILES
from tests.helpers.archives import archive
from tests.helpers.exports import needs_onnx, needs_openvino, save, tiny_segment


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    """An empty cache folder, and a process that has sealed nothing."""
    monkeypatch.setenv("BITFALCON_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(seal, "_SEALED", set())
    return tmp_path / "cache"


@pytest.fixture
def tried(monkeypatch) -> list[Path]:
    """The files for which a process was started, one entry each time; it is not started."""
    paths = []
    monkeypatch.setattr(seal, "call_limited", lambda function, path, *arguments, **limits: paths.append(path))
    return paths


def exported(folder: Path, format_: str) -> Path:
    weights = save(tiny_segment(), folder / "best.pt", settings={"imgsz": 64})
    target = folder / f"best{EXPORT_FORMATS[format_].suffix}"
    return Path(YOLO(weights).export(format=format_, imgsz=64, dynamic=True, out=str(target)))


@pytest.mark.parametrize(
    "format_",
    ["torchscript", "pt2", pytest.param("openvino", marks=needs_openvino), pytest.param("onnx", marks=needs_onnx)],
)
def test_own_exports_open_at_once_and_changed_ones_do_not(tmp_path, tried, cache, format_):
    path = exported(tmp_path, format_)
    images = torch.rand(1, 3, 64, 64)
    raw = open_exported(path, "cpu")(images)["candidates"]
    if path.is_dir():
        open_exported(next(path.glob("*.xml")), "cpu")  # stands for its folder
    assert tried == [] and len(list(cache.glob("seals/*"))) == 1
    other = tmp_path / f"copy{EXPORT_FORMATS[format_].suffix}"
    (shutil.copytree if path.is_dir() else shutil.copy)(path, other)
    assert torch.equal(open_exported(other, "cpu")(images)["candidates"], raw) and tried == []
    changed = next(other.glob("*.yaml")) if other.is_dir() else other
    changed.write_bytes(changed.read_bytes() + b"\n")
    with contextlib.suppress(UserError):  # some programs do not mind
        open_exported(other, "cpu")
    assert tried == [other]


def test_without_a_cache_folder_this_process_remembers(tmp_path, tried, cache):
    cache.write_text("no folder")
    path = exported(tmp_path, "torchscript")
    open_exported(path, "cpu")
    assert tried == []
    seal._SEALED.clear()
    for _ in range(2):
        open_exported(path, "cpu")
    assert tried == [path]


def test_a_file_of_another_machine_is_tried_once(tmp_path, cache, capsys):
    path = exported(tmp_path, "torchscript")
    images = torch.rand(1, 3, 64, 64)
    expected = open_exported(path, "cpu")(images)["candidates"]
    shutil.rmtree(cache)
    seal._SEALED.clear()
    for _ in range(2):
        assert torch.equal(open_exported(path, "cpu")(images)["candidates"], expected)
    assert capsys.readouterr().err.count("is tried in a process of its own first, once") == 1
    assert len(list(cache.glob("seals/*"))) == 1


HOSTILE = {  # a file of the corpus, and what is said of it
    "brackets": r"the process in which it was tried crashed \(SIGSEGV\)",
    "endless": "did not end in",
    "doubled text": "cannot be run on images|took more memory",
    "outer product of pt2": "cannot be run on images|took more memory",
}


@pytest.mark.parametrize("case", HOSTILE)
def test_what_crashes_hangs_or_fills_the_memory_is_refused(tmp_path, monkeypatch, cache, case):
    monkeypatch.setattr(seal, "SECONDS", 2.0 if case == "endless" else 60.0)  # a busy machine opens the others in time
    suffix, make = FILES[case]
    path = make(tmp_path / f"x{suffix}")
    with pytest.raises(UserError, match=HOSTILE[case]) as caught:
        YOLO(path)
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)
    assert not list(cache.glob("seals/*"))
    assert [item.name for item in tmp_path.iterdir() if item != cache] == [path.name]


def test_a_mistake_is_told_as_without_a_process(tmp_path):
    path = archive(tmp_path / "x.torchscript", '    z = torch.from_file("x", True, 16, dtype=6)\n')
    with pytest.raises(UserError, match="from_file.*is not opened"):
        open_exported(path, "cpu")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes with a name")
def test_a_pipe_is_no_file(tmp_path):
    os.mkfifo(tmp_path / "x.onnx")  # reading it would wait for ever
    with pytest.raises(UserError, match="x.onnx' is no file"):
        open_exported(tmp_path / "x.onnx", "cpu")


def test_the_input_of_a_graph_is_no_larger_than_a_machine_can_hold():
    about, cpu = Metadata({0: "a"}, 32, (64, 64)), torch.device("cpu")
    with pytest.raises(UserError, match="takes 100000 images of 64 x 64 pixels"):
        Runtime(Path("x.onnx"), about, cpu, 100_000, (64, 64))
    with pytest.raises(UserError, match="takes 1 images of 64 x 20000 pixels"):
        Runtime(Path("x.onnx"), about, cpu, None, (64, 20_000))
