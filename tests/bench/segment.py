"""Measure what masks cost: prediction of a segmentation model beside that of the detector inside it.

By hand: python tests/bench/segment.py predict best-seg.pt image.jpg [imgsz=640] [objects=10] [rounds=15]

The detector has the same weights without coefficients and prototypes, so that both find the same boxes. Both predict in
turns, from the pixels of an image to its Results, with torch and with onnxruntime; masks have the size of the network
input, and once that of the image (retina_masks). Prints medians, and the median of the ratios of neighbouring turns.
With OMP_NUM_THREADS=1 also processor time, which a busy machine hardly changes.
"""

from __future__ import annotations

import contextlib
import io
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from bitfalcon_plugin import YOLO
from bitfalcon_plugin.models.build import resolve_graph
from bitfalcon_plugin.models.detector import Detector
from bitfalcon_plugin.models.weights.checkpoint import Checkpoint, save_checkpoint
from bitfalcon_plugin.models.weights.foreign import open_checkpoint

TARGET = 1.25  # times the detector


def predict(weights: str, image: str, imgsz: int = 640, objects: int = 10, rounds: int = 15) -> None:
    """Compare the two models on one image, cut to at most `objects` objects."""
    pixels = np.ascontiguousarray(np.asarray(Image.open(image).convert("RGB"))[..., ::-1])
    with tempfile.TemporaryDirectory() as folder:
        files = {"segment": Path(folder) / "seg.pt", "detect": Path(folder) / "det.pt"}
        segmenter = open_checkpoint(weights).model()
        _save(segmenter, files["segment"])
        _save(detector_of(segmenter), files["detect"])
        for runtime in ("torch", "onnxruntime"):
            with contextlib.redirect_stdout(io.StringIO()):
                models = {name: _opened(path, runtime, imgsz) for name, path in files.items()}
            for retina in (False, True):
                options = {"imgsz": imgsz, "conf": 0.01, "max_det": objects, "rect": False, "retina_masks": retina}
                runs = {name: partial(model, pixels, verbose=False, **options) for name, model in models.items()}
                _compare(f"{runtime}, retina_masks={retina}", runs, rounds)


def detector_of(segmenter: Detector) -> Detector:
    """The detector with the weights of a segmentation model."""
    document = {**segmenter.graph.document, "nc": segmenter.nc, "names": dict(segmenter.names)}
    part = "head" if document.get("head") else "backbone"
    *rows, (source, repeats, _, _) = document[part]
    graph = resolve_graph({**document, part: [*rows, [source, repeats, "Detect", ["nc"]]]}, segmenter.graph.scale or "")
    detector = Detector(graph)
    state = segmenter.state_dict()
    detector.load_state_dict({name: state[name] for name in detector.state_dict()})
    return detector.eval()


def _save(model: Detector, path: Path) -> None:
    save_checkpoint(path, Checkpoint(model.graph, model.state_dict(), measured=(model.strides, model.multiple)))


def _opened(path: Path, runtime: str, imgsz: int) -> YOLO:
    model = YOLO(path)
    return model if runtime == "torch" else YOLO(model.export(format="onnx", imgsz=imgsz))


def _compare(title: str, runs: dict[str, Callable], rounds: int) -> None:
    clocks = {"wall": time.perf_counter}
    if torch.get_num_threads() == 1:
        clocks["processor"] = time.process_time
    spent: dict[str, dict[str, list[float]]] = {clock: {name: [] for name in runs} for clock in clocks}
    counts = {name: len(run()[0]) for name, run in runs.items()}  # warms up, too
    for _ in range(rounds):
        for name, run in runs.items():
            start = {clock: read() for clock, read in clocks.items()}
            run()
            for clock, read in clocks.items():
                spent[clock][name].append((read() - start[clock]) * 1e3)
    print(f"{title}, objects {counts['segment']} and {counts['detect']}, {torch.get_num_threads()} threads:")
    for clock, times in spent.items():
        ratio = statistics.median(a / b for a, b in zip(times["segment"], times["detect"]))
        medians = ", ".join(f"{name} {statistics.median(values):.1f} ms" for name, values in times.items())
        print(f"  {clock} time: {medians}: {ratio:.2f} times the detector (target {TARGET})", flush=True)


if __name__ == "__main__":
    kind, *words = sys.argv[1:]
    options = {key: int(value) for key, _, value in (word.partition("=") for word in words if "=" in word)}
    {"predict": predict}[kind](*(word for word in words if "=" not in word), **options)
