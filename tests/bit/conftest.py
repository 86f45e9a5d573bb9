"""Working directories with a float model, and with the ternary models that were made from it."""

from __future__ import annotations

import contextlib
import io
from dataclasses import dataclass
from pathlib import Path

import pytest

from bitfalcon_plugin.cli import main
from tests.bit.commands import run_training, save_float_model
from tests.helpers.coloured import lay_out, place  # noqa: F401  the fixture


@pytest.fixture()
def floats(place):  # noqa: F811
    """A working directory with float.pt, the dataset and small.yaml."""
    save_float_model()
    return place


@dataclass(frozen=True)
class Tuned:
    """The results of one fine-tuning. tuning, packing: what the two commands printed."""

    folder: Path
    tuning: str
    packing: str


@pytest.fixture(scope="session")
def tuned_once(tmp_path_factory) -> Tuned:
    """A directory with float.pt, runs/tuned (float.pt fine-tuned with bit=all) and small-bit.pt (its packed file)."""
    folder = tmp_path_factory.mktemp("tuned")
    lay_out(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        save_float_model()
        with contextlib.redirect_stdout(io.StringIO()) as tuning:
            weights = run_training("tuned", "bit", "mode=qat", "model=float.pt", "bit=all", "epochs=3")
        with contextlib.redirect_stdout(io.StringIO()) as packing:
            assert main(["bit", "pack", f"model={weights / 'best.pt'}", "out=small-bit.pt"]) == 0
    return Tuned(folder, tuning.getvalue(), packing.getvalue())


@pytest.fixture()
def tuned(tuned_once, monkeypatch) -> Tuned:
    """The same, as the working directory."""
    monkeypatch.chdir(tuned_once.folder)
    return tuned_once
