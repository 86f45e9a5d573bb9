"""One image from disk to its Results by each engine, in turns: what engine= gains. By hand, not a test:

    python tests/bench/engines.py [best.pt] [image.jpg] [scale=n] [imgsz=640] [rounds=30]

Without a checkpoint the network of yolov12.yaml has random weights, without an image a drawn one is written. Reading
the file, resizing, the network, suppression and Results are in the time. Rows: engine, half, median and quartiles in
ms, how many times as fast as torch in float32, and the largest difference of a box in pixels and of a score to that.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from PIL import Image

import bitfalcon_plugin  # noqa: F401, I001  before torch: it chooses how threads wait
from bitfalcon_plugin import YOLO
from bitfalcon_plugin.data.shapes import draw
from bitfalcon_plugin.models.build import build
from bitfalcon_plugin.models.weights.checkpoint import Checkpoint, save_checkpoint

WAYS = [("torch", False), ("torch", True), ("openvino", False), ("openvino", True), ("onnx", False)]
NEEDED = {"torch": "torch", "openvino": "openvino", "onnx": "onnxruntime"}


def far(results: list, others: list) -> str:
    """The largest differences of boxes and scores, or that the numbers of boxes differ."""
    one, other = results[0].boxes.data, others[0].boxes.data
    if len(one) != len(other):
        return f"{len(one)} boxes against {len(other)}"
    difference = (one - other).abs()
    return f"{difference[:, :4].max():.2g} px, {difference[:, 4].max():.2g}" if len(one) else "no boxes"


def main(*files: str, scale: str = "n", imgsz: int = 640, rounds: int = 30) -> None:
    weights = next((name for name in files if name.endswith(".pt")), None)
    image = next((name for name in files if not name.endswith(".pt")), None)
    with tempfile.TemporaryDirectory() as folder:
        if image is None:
            image = str(Path(folder, "image.jpg"))
            Image.fromarray(draw(np.random.RandomState(0))[0]).resize((1280, 960)).save(image)
        options = {"imgsz": imgsz, "verbose": False, "device": "cpu", "conf": 0.25}
        ways = [(engine, half) for engine, half in WAYS if find_spec(NEEDED[engine])]
        if weights is None:
            torch.manual_seed(0)
            model = build("yolov12.yaml", scale, nc=80)
            weights = str(Path(folder, "random.pt"))
            save_checkpoint(weights, Checkpoint(model.graph, model.state_dict()))
        models = {way: YOLO(weights) for way in ways}
        seconds: dict[tuple[str, bool], list[float]] = {way: [] for way in ways}
        found = {}
        for turn in range(rounds + 3):
            for way, model in models.items():
                start = time.perf_counter()
                found[way] = model.predict(image, engine=way[0], half=way[1], **options)
                if turn >= 3:
                    seconds[way].append((time.perf_counter() - start) * 1e3)
    print(f"{weights}, {image}, imgsz {imgsz}, {torch.get_num_threads()} threads")
    base = statistics.median(seconds["torch", False])
    for (engine, half), times in seconds.items():
        low, middle, high = statistics.quantiles(times, n=4)
        name = f"{engine}{' half' if half else ''}"
        distance = far(found["torch", False], found[engine, half])
        print(f"{name:<16}{middle:8.1f} ms ({low:.1f} to {high:.1f}){base / middle:7.2f} times as fast; {distance}")


if __name__ == "__main__":
    files = [word for word in sys.argv[1:] if "=" not in word]
    words = dict(word.split("=", 1) for word in sys.argv[1:] if "=" in word)
    main(*files, **{key: int(value) if value.isdigit() else value for key, value in words.items()})
