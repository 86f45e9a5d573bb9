"""Speed of a network, prepared in each way, over plain float32 NCHW (folded), and its parts. By hand, not a test:

    python tests/bench/speed.py [scales=ns] [imgsz=640] [threads=2] [batch=1] [rounds=15] [compile=1] [cpu=0]
    [model=yolov12.yaml]

One process, all ways in turn in every round; a ratio is the median over the rounds of plain's time over the way's own
in the same round. Parts (share of one image's time, before: plain, after: the default path): the first two rows are
the stem, the rows before the first join the backbone, attention is every attention layer wherever it stands
(projections included) and counts for no other part; preprocessing is the letterbox of a 720 x 1280 picture, without
decoding its file. CPU only. With bf16 in the CPU (precision.half_type) the default path in half precision is a way
too. cpu=1 counts processor time instead, with one thread: on a busy machine. model may be a checkpoint (scales is
then without effect); with fresh weights boxes hardly depend on the image. `max_diff` is the largest difference of
decoded boxes (px) and scores from plain's.
"""

from __future__ import annotations

import copy
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from bitfalcon_plugin.models.build import build
from bitfalcon_plugin.models.detector import Detector
from bitfalcon_plugin.models.inference import compiling, precision
from bitfalcon_plugin.models.inference.prepare import prepare_for_inference
from bitfalcon_plugin.models.modules.attention import Attention
from bitfalcon_plugin.models.weights.foreign import open_checkpoint
from bitfalcon_plugin.ops.nms import non_max_suppression
from bitfalcon_plugin.predict.inference import Options, fits_of, network_input
from bitfalcon_plugin.predict.reader import Picture
from bitfalcon_plugin.tasks import task_of

CPU = torch.device("cpu")
clock: Callable[[], float] = time.perf_counter
PARTS = ("stem", "backbone", "attention", "neck", "head", "decode", "NMS", "preprocessing")


def ways(model: Detector, images: Tensor, compile: bool) -> dict[str, Callable[[], object]]:
    """Return the forward passes that this machine can run, by name."""
    last = images.contiguous(memory_format=torch.channels_last)
    plain = copy.deepcopy(model).eval().requires_grad_(False).fuse()
    before = copy.deepcopy(plain).to(memory_format=torch.channels_last)
    default = prepare_for_inference(model, CPU)
    runs = {
        "plain": lambda: plain(images),
        "channels last, folded": lambda: before(last),
        "default": lambda: default(last),
    }
    print(f"default: {default.how}")
    if compile:
        compiled = prepare_for_inference(model, CPU, compiling=True)
        with torch.inference_mode():
            compiling.warm(compiled, last, print)
        runs["compile"] = lambda: compiled(last)
    kind, reason = precision.half_type(CPU)
    if kind is None:
        print(f"half: {reason}")
    else:
        half, small = prepare_for_inference(model, CPU, half=True), last.to(kind)
        runs["half"] = lambda: half(small)
    return runs


def compare(model: Detector, images: Tensor, rounds: int, compile: bool) -> None:
    runs = ways(model, images, compile)
    spent: dict[str, list[float]] = {name: [] for name in runs}
    with torch.inference_mode():
        expected = model.decode(runs["plain"]())
        for turn in range(rounds + 3):
            for name, run in runs.items():
                start = clock()
                run()
                if turn >= 3:
                    spent[name].append(clock() - start)
        for name, run in runs.items():
            ratios = sorted(plain / own for plain, own in zip(spent["plain"], spent[name]))
            difference = (model.decode(run()) - expected).abs()
            print(
                f"  {name:<24} {statistics.median(spent[name]) * 1e3:7.1f} ms (fastest {min(spent[name]) * 1e3:.1f}), "
                f"{statistics.median(ratios):.2f}x (quarter to quarter "
                f"{ratios[len(ratios) // 4]:.2f} to {ratios[3 * len(ratios) // 4]:.2f}); "
                f"max_diff {difference[:, :4].max():.2g} px, {difference[:, 4:].max():.2g}"
            )


def part_of(model: Detector, index: int) -> str:
    """Return the part that a row belongs to."""
    first_join = next(
        (row.index for row in model.graph.rows if row.kind == "join" or "Upsample" in row.module), len(model.model)
    )
    if index == len(model.model) - 1:
        return "head"
    return "stem" if index < 2 else "backbone" if index < first_join else "neck"


def hooked(model: Detector, spent: dict[str, float]) -> None:
    """Add hooks that add the seconds of each part to `spent`."""

    def watch(module: nn.Module, part: str, around: str | None = None) -> None:
        began = [0.0]

        def after(*call: object) -> None:
            seconds = clock() - began[0]
            spent[part] += seconds
            if around:
                spent[around] -= seconds

        module.register_forward_pre_hook(lambda *call: began.__setitem__(0, clock()))
        module.register_forward_hook(after)

    for index, row in enumerate(model.model):
        watch(row, part_of(model, index))
        for module in row.modules():
            if isinstance(module, Attention):
                watch(module, "attention", part_of(model, index))


def shares(model: Detector, images: Tensor, rounds: int, imgsz: int) -> dict[str, float]:
    """Return the milliseconds of each part of one batch: medians over the rounds."""
    rows: dict[str, list[float]] = defaultdict(list)
    spent = dict.fromkeys(PARTS, 0.0)
    hooked(model, spent)
    pixels = np.random.default_rng(0).integers(0, 256, (720, 1280, 3), dtype=np.uint8)
    options, task, buffers = Options(imgsz), task_of(model), {}
    with torch.inference_mode():
        for turn in range(rounds + 3):
            spent.update(dict.fromkeys(PARTS, 0.0))
            start = clock()
            tile = task.tile(pixels, fits_of([pixels.shape[:2]], options, model, task)[0])
            pictures = [Picture(pixels, tile, "", index + 1, 0.0) for index in range(len(images))]
            network_input(pictures, options, model, task, buffers)
            spent["preprocessing"] = clock() - start
            raw = model(images)
            start = clock()
            predictions = model.decode(raw)
            middle = clock()
            non_max_suppression(predictions[:, :, (predictions[:, 4:].amax(1) > 0.25).any(0)], conf=0.25, iou=0.7)
            spent["decode"], spent["NMS"] = middle - start, clock() - middle
            for part in PARTS if turn >= 3 else ():
                rows[part].append(spent[part] * 1e3)
    return {part: statistics.median(times) for part, times in rows.items()}


def main(
    scales: str = "ns",
    imgsz: int = 640,
    threads: int = 2,
    batch: int = 1,
    rounds: int = 15,
    compile: int = 1,
    cpu: int = 0,
    model: str = "yolov12.yaml",
) -> None:
    global clock
    clock, threads = (time.thread_time, 1) if cpu else (time.perf_counter, threads)
    torch.set_num_threads(threads)
    print(
        f"torch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}, {threads} threads, batch {batch}, "
        f"{imgsz} px, {'processor time' if cpu else 'wall time'}"
    )
    images = torch.rand(batch, 3, imgsz, imgsz)
    for scale in [""] if model.endswith(".pt") else scales:
        torch.manual_seed(0)
        network = (build(model, scale) if scale else open_checkpoint(model).model()).eval()
        print(f"{model} {scale}")
        compare(network, images, rounds, bool(compile))
        plain = copy.deepcopy(network).requires_grad_(False).fuse()
        for name, prepared, batch_images in (
            ("before", plain, images),
            ("after", prepare_for_inference(network, CPU), images.contiguous(memory_format=torch.channels_last)),
        ):
            parts = shares(prepared, batch_images, max(rounds // 2, 3), imgsz)
            total = sum(parts.values())
            print(
                f"  {name:<7} {total:.1f} ms: "
                + ", ".join(f"{part} {ms / total:.1%} ({ms:.1f})" for part, ms in parts.items())
            )


if __name__ == "__main__":
    main(
        **{
            key: value if key in ("scales", "model") else int(value)
            for key, _, value in (word.lstrip("-").partition("=") for word in sys.argv[1:])
        }
    )
