"""Measure what predict costs beside the network, and whether its memory stays flat.

By hand: python tests/bench/predict.py speed best.pt images/ [imgsz=640] [batch=8] [rounds=3]
         python tests/bench/predict.py memory [count=10000]
"""

from __future__ import annotations

import gc
import statistics
import sys
import tempfile
import time
import tracemalloc
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from bitfalcon_plugin.models.inference.prepare import prepare_for_inference
from bitfalcon_plugin.models.weights.foreign import open_checkpoint
from bitfalcon_plugin.predict.inference import Options, network_input
from bitfalcon_plugin.predict.reader import read_pictures
from bitfalcon_plugin.predict.sources import list_sources
from bitfalcon_plugin.tasks import task_of

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the root, where tests.helpers is found

from tests.helpers.predicting import predict  # noqa: E402


def speed(weights: str, folder: str, imgsz: int = 640, batch: int = 8, rounds: int = 3) -> None:
    """Compare the time from files to results with that of the forward pass in the same run, and of bare forward passes.

    The last figure is what counts: images/s from files to results over those of bare forwards on the same shape,
    target 90 %. With OMP_NUM_THREADS=1 also processor time, which a busy machine does not change: what is outside the
    forward pass as if nothing overlapped, reading threads included.
    """
    model = prepare_for_inference(open_checkpoint(weights).model(), torch.device("cpu"))
    items = list_sources(folder)
    options, task = Options(imgsz), task_of(model)
    pictures = list(read_pictures(items[:batch], torch.from_numpy))
    for size in (1, batch):
        wall, inside, bare, work = [], [], [], []
        images = network_input(pictures[:size], options, model, task, {})[0]
        for turn in range(rounds + 1):  # the first one warms up
            spent = [0.0, 0.0]
            handles = _timed(model, spent)
            start, busy = time.perf_counter(), time.process_time()
            results = list(predict(model, items if turn else items[:batch], imgsz=imgsz, batch=size))
            wall.append(time.perf_counter() - start)
            work.append(1 - spent[1] / (time.process_time() - busy))
            for handle in handles:
                handle.remove()
            inside.append(spent[0])
            start = time.perf_counter()
            count = max(4, len(results) // size // 2)
            with torch.inference_mode():
                for _ in range(count):
                    model(images)
            bare.append((time.perf_counter() - start) / count / size)
        seconds, forward, alone = (statistics.median(values[1:]) for values in (wall, inside, bare))
        cpu = f"; processor time outside {statistics.median(work[1:]):.1%}" if torch.get_num_threads() == 1 else ""
        share = statistics.median(1 - a / b for a, b in zip(inside[1:], wall[1:]))
        print(
            f"batch={size}, imgsz={imgsz}, {torch.get_num_threads()} threads: {len(results)} images, "
            f"wall {seconds:.2f} s, "
            f"forward {forward:.2f} s, outside {share:.1%}; {len(results) / seconds:.1f} images/s, bare forward "
            f"{1 / alone:.1f} images/s: {len(results) / seconds * alone:.1%} of it{cpu}"
        )


def _timed(model: torch.nn.Module, spent: list[float]) -> list:
    began = [0.0, 0.0]

    def before(module, inputs):
        began[:] = time.perf_counter(), time.thread_time()

    def after(module, inputs, output):
        spent[:] = spent[0] + time.perf_counter() - began[0], spent[1] + time.thread_time() - began[1]

    return [model.register_forward_pre_hook(before), model.register_forward_hook(after)]


class EmptyNetwork(torch.nn.Module):
    """A network without layers, whose predictions are all zero."""

    task, multiple, names, nc, fixed, exported = "detect", 32, {0: "thing"}, 1, None, False

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def forward(self, images):
        return images

    def decode(self, images):
        return torch.zeros(len(images), 5, 4)


def memory(count: int = 10_000) -> None:
    """Print the memory of Python and of the process while `count` small files go through predict."""
    with tempfile.TemporaryDirectory() as name:
        picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8))
        picture.save(Path(name) / "first.jpg")
        data = (Path(name) / "first.jpg").read_bytes()
        for index in range(1, count):
            (Path(name) / f"{index:06d}.jpg").write_bytes(data)
        items = list_sources(name)
        tracemalloc.start()
        for index, _result in enumerate(predict(EmptyNetwork(), items, imgsz=64, batch=8)):
            if index in (count // 10, count // 2, count - 1):
                gc.collect()
                traced, _ = tracemalloc.get_traced_memory()
                print(f"after {index + 1} images: {traced / 2**20:.2f} MiB of Python, {_resident():.1f} MiB resident")


def _resident() -> float:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096 / 2**20


if __name__ == "__main__":
    kind, *words = sys.argv[1:]
    options = {key: int(value) for key, _, value in (word.partition("=") for word in words if "=" in word)}
    {"speed": speed, "memory": memory}[kind](*(word for word in words if "=" not in word), **options)
