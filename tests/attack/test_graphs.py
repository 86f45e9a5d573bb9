"""Broken graphs and weights in checkpoints are refused with a UserError, or they work; see graphs.py.

By hand, thousands of them: python -m tests.attack.test_graphs 1000 5000
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest

from bitfalcon_plugin import YOLO
from bitfalcon_plugin.config.errors import UserError
from tests.attack.graphs import write

IMAGE = np.zeros((64, 96, 3), np.uint8)


def endures(seed: int, folder: Path) -> bool:
    """Open the checkpoint of a seed, build it and predict; whether that works. Raises what is no UserError."""
    try:
        path = write(seed, folder)
    except (RecursionError, RuntimeError):  # torch.save cannot write it
        return False
    try:
        yolo = YOLO(path)
        yolo.predict(IMAGE, imgsz=64, device="cpu", verbose=False)
        return True
    except UserError:
        return False
    finally:
        path.unlink()


@pytest.mark.parametrize("first", range(0, 150, 10))
def test_a_broken_graph_is_refused_or_works(first, tmp_path):
    for seed in range(first, first + 10):
        endures(seed, tmp_path)


def test_some_of_them_work(tmp_path):
    assert any(endures(seed, tmp_path) for seed in (5, 8, 9, 23))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        for number in range(*map(int, sys.argv[1:3])):
            try:
                endures(number, Path(name))
            except Exception as error:
                print(number, type(error).__name__, str(error)[:200])
