"""ncnn: what pnnx does while it converts, and what is said of networks and files that ncnn does not take."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from torch import nn

from bitfalcon_plugin import YOLO
from bitfalcon_plugin.config.errors import UserError
from bitfalcon_plugin.export.open import open_exported
from bitfalcon_plugin.export.run import run_export
from bitfalcon_plugin.models.modules.bit_layers import BitConv2d
from bitfalcon_plugin.models.modules.conv import Conv
from tests.helpers.exports import is_here, made, save, tiny

pytestmark = pytest.mark.skipif(not is_here("ncnn"), reason="needs ncnn and pnnx: pip install -e '.[ncnn]'")


def traces() -> bool:
    """Whether strace is here and may trace."""
    return bool(shutil.which("strace")) and not subprocess.run(["strace", "-o", "/dev/null", "true"]).returncode


def exported(folder: Path, **options) -> Path:
    return Path(YOLO(save(tiny(), folder / "best.pt")).export(format="ncnn", imgsz=64, **options))


def test_pnnx_opens_no_network_address_and_writes_beside_its_archive_only(folder):
    if not traces():
        pytest.skip("needs strace")
    import pnnx

    class Small(nn.Module):
        def forward(self, images):
            return images.mean(1) * 2

    (folder / "work").mkdir()
    torch.jit.trace(Small(), (torch.rand(1, 3, 8, 8),)).save("work/model.pt")
    words = [pnnx.EXEC_PATH, "model.pt", "inputshape=[1,3,8,8]f32", "device=cpu", "fp16=0"]
    trace = ["strace", "-f", "-e", "trace=network,process,creat,openat,open", "-o", str(folder / "log")]
    assert subprocess.run([*trace, *words], cwd="work", capture_output=True).returncode == 0
    log = Path("log").read_text()
    assert "openat(" in log and "execve(" in log  # it was traced
    assert not re.search(r"\b(socket|connect|sendto|bind)\(", log) and log.count("execve(") == 1
    written = re.findall(r'open(?:at)?\((?:AT_FDCWD, )?"([^"]+)", [^)]*O_(?:WRONLY|RDWR|CREAT)', log)
    assert written and all(name.startswith("/dev/") or "/" not in name for name in written)
    assert {path.name.partition(".")[0] for path in Path("work").iterdir()} <= {"model", "model_pnnx", "model_ncnn"}


def test_a_folder_has_the_names_that_programs_for_ncnn_read(folder):
    path = exported(folder)
    assert sorted(item.name for item in path.iterdir()) == ["metadata.yaml", "model.ncnn.bin", "model.ncnn.param"]
    assert path.name == "best_ncnn_model" and exported(folder) == path  # an earlier one is replaced
    assert [item.name for item in folder.iterdir() if item.name != "best.pt"] == [path.name]


def test_a_file_takes_any_number_of_images(folder):
    path = exported(folder, batch=2)
    engine, images = open_exported(path, "cpu"), torch.rand(3, 3, 64, 64)
    one, both = engine(images[:1]), engine(images)
    assert both.shape[0] == 3 and torch.equal(both[:1], one)


def test_what_ncnn_has_no_layer_for_is_named(folder):
    model = tiny()
    for block in list(model.modules()):
        if isinstance(block, Conv) and block is not model.model[0]:
            block.conv = BitConv2d.of(block.conv, rule="int8")
    model.train()(torch.rand(2, 3, 64, 64))
    with pytest.raises(UserError, match="ncnn has no layer for torch.where .*another format"):
        run_export(model.eval(), made(format="ncnn"), "small.yaml")
    assert not list(folder.iterdir())


@pytest.mark.parametrize("content", ["raise SystemExit(3)", None])
def test_a_pnnx_that_fails_is_one_line(folder, monkeypatch, content):
    import pnnx

    program = folder / "program"
    if content is not None:
        program.write_text(f"#!/usr/bin/env python3\n{content}\n")
        program.chmod(0o755)
    monkeypatch.setattr(pnnx, "EXEC_PATH", str(program))
    with pytest.raises(UserError, match=r"exit status 3|cannot be started .*bitfalcon\[ncnn\]"):
        exported(folder)


DAMAGE = {
    "half of the weights": lambda path: cut(path / "model.ncnn.bin"),
    "no weights": lambda path: (path / "model.ncnn.bin").unlink(),
    "half of the graph": lambda path: cut(path / "model.ncnn.param"),
    "a graph without an output": lambda path: (path / "model.ncnn.param").write_text(
        "7767517\n1 1\nInput in0 0 1 in0\n"
    ),
    "bytes behind the first line": lambda path: (path / "model.ncnn.param").write_bytes(
        b"7767517\n" + bytes(range(256))
    ),
}


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_folder_is_one_line(folder, capfd, damage):
    path = exported(folder)
    DAMAGE[damage](path)
    capfd.readouterr()
    with pytest.raises(UserError, match="cannot be read as an ncnn model: ") as raised:
        open_exported(path, "cpu")
    assert "\n" not in str(raised.value) and not any(capfd.readouterr())


def test_without_metadata_the_keys_are_asked_for(folder):
    path = exported(folder)
    (path / "metadata.yaml").unlink()
    with pytest.raises(UserError, match="does not say what it detects"):
        open_exported(path, "cpu")
