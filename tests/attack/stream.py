"""A day's stream in an hour: frames through predict and track; memory, descriptors and threads must stay flat.

    python -m tests.attack.stream frames=100000 mode=predict
    python -m tests.attack.stream frames=100000 mode=stream      # one call over an iterator of results
    python -m tests.attack.stream frames=100000 mode=track       # needs the package trackers

Measured are means of the fifth part after the first tenth, when everything is warm, and of the last fifth part.
"""

from __future__ import annotations

import gc
import os
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from tests.attack.state import words

DEFAULTS = {"frames": 100_000, "mode": "predict"}
GROWTH = 16.0  # MB of memory that may be more at the end: allocators keep parts of pages
EVERY = 20  # frames between two measurements


def lay_out(folder: Path) -> Path:
    """Write a checkpoint that finds objects."""
    from bitfalcon_plugin.models.weights.checkpoint import Checkpoint, save_checkpoint
    from tests.helpers.tiny_models import CONV, lived, small_model

    torch.manual_seed(0)
    model = lived(small_model(CONV, (-1, 1, "Conv", [32, 3, 2])))
    save_checkpoint(folder / "m.pt", Checkpoint(model.graph, model.state_dict()))
    return folder / "m.pt"


def results(yolo: object, frames: int, mode: str) -> Iterator[object]:
    """Yield the results of so many frames of noise."""
    draw = np.random.default_rng(0)
    images = [draw.integers(0, 256, (48, 64, 3), dtype=np.uint8) for _ in range(7)]
    options = {"imgsz": 64, "conf": 0.001, "max_det": 20, "device": "cpu", "verbose": False}
    if mode == "stream":
        yield from yolo.predict([images[number % 7] for number in range(frames)], stream=True, **options)
        return
    for number in range(frames):
        image = images[number % 7]
        yield (yolo.track(image, persist=True, **options) if mode == "track" else yolo.predict(image, **options))[0]


def measured() -> tuple[float, float, float]:
    """MB of memory, open descriptors and threads of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20, len(os.listdir("/proc/self/fd")), threading.active_count()


def run(frames: int, mode: str, folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return (memory, descriptors, threads) early and at the end."""
    from bitfalcon_plugin import YOLO

    torch.set_num_threads(1)
    yolo, rows = YOLO(lay_out(folder)), []
    for number, result in enumerate(results(yolo, frames, mode)):
        len(result)
        if number % EVERY == 0:
            gc.collect(0)
            rows.append(measured())
    table, tenth = np.array(rows), len(rows) // 10
    return table[tenth : 3 * tenth].mean(0), table[-2 * tenth :].mean(0)


def main() -> None:
    """Run as the words say."""
    given = words(DEFAULTS)
    with tempfile.TemporaryDirectory() as folder:
        early, late = run(given["frames"], given["mode"], Path(folder))
    for name, before, after in zip(("MB", "descriptors", "threads"), early, late):
        print(f"{name:>12}: {before:.1f} early, {after:.1f} at the end")
    growth = late - early
    sys.exit(1 if growth[0] > GROWTH or growth[1] > 1 or growth[2] > 1 else 0)


if __name__ == "__main__":
    main()
