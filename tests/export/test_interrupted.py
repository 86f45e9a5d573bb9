"""Exports that signals, kills and faults end: nothing half done stays, and what was there before does."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import pytest

from bitfalcon_plugin.cli import main
from bitfalcon_plugin.config import signals
from bitfalcon_plugin.config.files import atomic_export
from bitfalcon_plugin.export import run as exporting
from bitfalcon_plugin.export.run import run_export
from bitfalcon_plugin.export.writers import write_torchscript
from tests.helpers.exports import made, tiny


class Signalled:
    """A writer that has begun when a signal comes. swallow: what a runtime does with the exception of the signal."""

    def __init__(self, number: int, swallow=None):
        self.number, self.swallow = number, swallow

    def __call__(self, job, path):
        (path / "model.xml" if path.is_dir() else path).write_text("half of it")
        try:
            signal.raise_signal(self.number)
        except BaseException:
            if self.swallow is None:
                raise
            self.swallow()
        write_torchscript(job, path)


def fault():
    raise RuntimeError("Check failed: KeyboardInterrupt")


@pytest.fixture
def usual_handlers():
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("swallow", [None, fault, lambda: None])
@pytest.mark.parametrize("number, raised", [(signal.SIGTERM, SystemExit), (signal.SIGINT, KeyboardInterrupt)])
def test_a_signal_ends_an_export_without_leaving_anything(folder, monkeypatch, usual_handlers, number, raised, swallow):
    out = folder / "x.torchscript"
    out.write_text("an earlier one")
    monkeypatch.setitem(exporting.WRITERS, "torchscript", Signalled(number, swallow))
    with pytest.raises(raised) as error:
        run_export(tiny(), made(out=str(out)), "small.yaml")
    assert raised is KeyboardInterrupt or error.value.code == 128 + signal.SIGTERM
    assert [path.name for path in folder.iterdir()] == ["x.torchscript"] and out.read_text() == "an earlier one"
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == (
        signal.SIG_DFL,
        signal.default_int_handler,
    )


def test_an_interruption_that_a_runtime_made_a_fault_of_ends_as_an_interruption(
    folder, monkeypatch, capsys, usual_handlers
):
    monkeypatch.setitem(exporting.WRITERS, "torchscript", Signalled(signal.SIGINT, fault))
    monkeypatch.setattr(
        "bitfalcon_plugin.export.run.run_export", lambda *_: run_export(tiny(), made(out="x.torchscript"), "small.yaml")
    )
    assert main(["export", "model=yolov12-lite.yaml", "scale=n"]) == 130
    assert capsys.readouterr().err.strip().endswith("interrupted") and not list(folder.iterdir())


def test_handlers_of_others_and_other_threads_are_left_alone(folder, usual_handlers):
    seen = []
    signal.signal(signal.SIGTERM, lambda number, frame: seen.append(number))
    with signals.ended_by_signals() as raise_if_received:
        signal.raise_signal(signal.SIGTERM)
        raise_if_received()
    assert seen == [signal.SIGTERM]
    thread = threading.Thread(target=lambda: seen.append(run_export(tiny(), made(), "small.yaml").path))
    thread.start()
    thread.join()
    assert seen[1:] == [Path("small.torchscript")]


def test_a_signal_while_a_folder_is_replaced_leaves_the_earlier_one(folder, monkeypatch):
    target = folder / "y_openvino_model"
    with atomic_export(target, is_folder=True) as path:
        (path / "y.xml").write_text("one")
    rename = Path.rename

    def stopped(self, other):
        if other == target and not self.name.endswith("-old"):
            raise KeyboardInterrupt
        return rename(self, other)

    monkeypatch.setattr(Path, "rename", stopped)
    with pytest.raises(KeyboardInterrupt), atomic_export(target, is_folder=True) as path:
        (path / "y.xml").write_text("two")
    assert [item.name for item in folder.iterdir()] == [target.name] and (target / "y.xml").read_text() == "one"


@pytest.mark.skipif(os.name == "nt", reason="rights of files are POSIX's")
def test_what_a_killed_export_left_goes_with_the_next_of_the_same_name(folder):
    def left(name: str, *, is_folder: bool, mode: int = 0, age: float = 2 * 3600) -> None:
        path = folder / name
        path.mkdir() if is_folder else path.write_text("half")
        if is_folder:
            (path / "part.xml").write_text("half")
        path.chmod(mode or (0o700 if is_folder else 0o600))
        os.utime(path, (time.time() - age,) * 2)

    left(".best-tfexelo0.onnx", is_folder=False)
    left(".96cgg9d2-best_openvino_model", is_folder=True)
    left(
        ".96cgg9d2-best_openvino_model-old", is_folder=True, mode=0o755
    )  # no best_openvino_model is there yet: the only one
    kept = {
        ".best-tfexelo1.onnx": {"age": 60},
        ".best-original.onnx": {"mode": 0o644},
        ".last-tfexelo0.onnx": {},
        ".best-tfexelo0.pt": {},
        ".best-tfexelo01.onnx": {},
        ".best.onnx": {},
        "best-tfexelo0.onnx": {},
    }
    for name, options in kept.items():
        left(name, is_folder=False, **options)
    left(".96cgg9d3-best_openvino_model", is_folder=True, age=60)
    left(".96cgg9d2-last_openvino_model", is_folder=True)
    (folder / ".best-tfexelo2.onnx").symlink_to(folder / ".last-tfexelo0.onnx")
    there = {path.name for path in folder.iterdir()}
    with atomic_export(folder / "best.onnx", is_folder=False) as path:
        path.write_text("whole")
    with atomic_export(folder / "best_openvino_model", is_folder=True) as path:
        (path / "best.xml").write_text("whole")
    gone = {".best-tfexelo0.onnx", ".96cgg9d2-best_openvino_model"}
    assert {path.name for path in folder.iterdir()} == there - gone | {"best.onnx", "best_openvino_model"}
    with atomic_export(folder / "best_openvino_model", is_folder=True) as path:
        (path / "best.xml").write_text("again")
    assert not (folder / ".96cgg9d2-best_openvino_model-old").exists()
