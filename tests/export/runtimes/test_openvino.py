"""OpenVINO in one process with much else."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.helpers.bright import untrained

SIGNAL_AFTER_TWO_MODELS = """
import faulthandler, gc, os, signal, sys
import torch
from bitfalcon_plugin.export.open import open_exported
faulthandler.enable()  # signals are handled on a stack of their own
signal.signal(signal.SIGCHLD, lambda *given: print("handled"))
for _ in range(2):
    first, second = (open_exported(sys.argv[1], "cpu") for _ in range(2))
    first(torch.zeros(1, 3, 64, 64))
    del first
    gc.collect()
    del second
    gc.collect()
os.kill(os.getpid(), signal.SIGCHLD)
"""


def test_a_signal_is_handled_after_two_models_are_gone(tmp_path):
    pytest.importorskip("openvino")
    pytest.importorskip("onnx")
    out = str(tmp_path / "x_openvino_model")
    folder = untrained(tmp_path).export(format="openvino", imgsz=64, device="cpu", verbose=False, out=out)
    command = [sys.executable, "-c", SIGNAL_AFTER_TWO_MODELS, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and done.stdout == "handled\n", done.stderr
