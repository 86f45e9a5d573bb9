"""Measure what masks cost: a segmentation model beside the detector inside it, which finds the same boxes. By hand:

    python tests/bench/segment.py predict best-seg.pt image.jpg [imgsz=640] [objects=10] [rounds=15]
    python tests/bench/segment.py train [imgsz=640] [batch=2] [objects=10] [rounds=7]
    python tests/bench/segment.py memory [imgsz=640] [batch=2] [objects=100]

predict: from the pixels of an image to its Results, with torch and with onnxruntime; masks have the size of the network
input, and once that of the image (retina_masks). train: a step of yolov12n-seg, with mask_ratio 4, 2 and 1, and one of
yolov12n, on labels of all sizes with outlines of 24 corners. All take turns; medians are printed, and the median of the
ratios of neighbouring turns. memory: the largest sum of tensors that the allocator gave out during the loss of the
masks, and during a whole step. With OMP_NUM_THREADS=1 also processor time is printed, which a busy machine hardly
changes.
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
from bitfalcon_plugin.models.build import build, resolve_graph
from bitfalcon_plugin.models.detector import Detector
from bitfalcon_plugin.models.weights.checkpoint import Checkpoint, save_checkpoint
from bitfalcon_plugin.models.weights.foreign import open_checkpoint
from bitfalcon_plugin.ops.instances import Instances
from bitfalcon_plugin.ops.polygons import Polygons, hulls
from bitfalcon_plugin.tasks import task_of
from bitfalcon_plugin.tasks.detect import GAINS, box_losses, detection_loss
from bitfalcon_plugin.tasks.segment import segmentation_loss

TARGET = 1.25  # times the detector, to predict
STEP_TARGET, MEMORY_TARGET, LOSS_TARGET = 1.35, 1.3, 0.5  # times the detector, and planes of float32 a positive anchor
CORNERS = 24  # of an outline


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
    counts = {name: len(run()[0]) for name, run in runs.items()}
    print(f"{title}, objects {counts['segment']} and {counts['detect']}, {torch.get_num_threads()} threads:")
    for clock, times in _in_turns(runs, rounds).items():
        ratio = statistics.median(a / b for a, b in zip(times["segment"], times["detect"]))
        medians = ", ".join(f"{name} {statistics.median(values):.1f} ms" for name, values in times.items())
        print(f"  {clock} time: {medians}: {ratio:.2f} times the detector (target {TARGET})", flush=True)


def _in_turns(runs: dict[str, Callable], rounds: int) -> dict[str, dict[str, list[float]]]:
    """Milliseconds by clock, run and round. A round before warms up."""
    clocks = {"wall": time.perf_counter}
    if torch.get_num_threads() == 1:
        clocks["processor"] = time.process_time
    spent: dict[str, dict[str, list[float]]] = {clock: {name: [] for name in runs} for clock in clocks}
    for turn in range(rounds + 1):
        for name, run in runs.items():
            start = {clock: read() for clock, read in clocks.items()}
            run()
            for clock, read in clocks.items() if turn else ():
                spent[clock][name].append((read() - start[clock]) * 1e3)
    return spent


class Step:
    """Training steps of one model on one batch of made-up images."""

    def __init__(self, graph: str, imgsz: int, batch: int, objects: int, mask_ratio: int = 4) -> None:
        torch.manual_seed(0)
        self.model = build(graph, "n", nc=4).train().to(memory_format=torch.channels_last)
        self.task = task_of(self.model)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=1e-4, momentum=0.9)
        self.images = torch.rand(batch, 3, imgsz, imgsz).contiguous(memory_format=torch.channels_last)
        self.labels = outlined_labels(imgsz, batch, objects)
        self.options = {"mask_ratio": mask_ratio} if self.task.options else {}

    def __call__(self) -> None:
        raw = self.model(self.images)
        self.loss(raw).backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 10.0)
        self.optimizer.step()
        self.optimizer.zero_grad()

    def loss(self, raw: dict[str, torch.Tensor]) -> torch.Tensor:
        losses = self.task.loss(raw, self.labels, sizes=raw.sizes, strides=self.model.strides, **self.options)
        return sum(losses.values()) * len(self.images)


def outlined_labels(imgsz: int, batch: int, objects: int) -> Instances:
    """Labels of 4 to 50 % of the side at random places, with outlines between the box and its middle."""
    draw = torch.Generator().manual_seed(0)
    count = batch * objects
    size = imgsz * (0.04 + 0.46 * torch.rand(count, 2, generator=draw) ** 2)
    corner = torch.rand(count, 2, generator=draw) * (imgsz - size)
    angle = torch.arange(CORNERS) * (2 * torch.pi / CORNERS)
    radius = 0.5 - 0.2 * torch.rand(count, CORNERS, 1, generator=draw)
    points = torch.stack([angle.cos(), angle.sin()], 1) * radius + 0.5  # (n, CORNERS, 2) in shares of the box
    points = (corner[:, None] + points * size[:, None]).flatten(0, 1)
    polygons = Polygons(points, torch.full((count,), CORNERS))
    image = torch.arange(batch).repeat_interleave(objects)
    return Instances(hulls(polygons), torch.randint(0, 4, (count,), generator=draw), image=image, polygons=polygons)


def train(imgsz: int = 640, batch: int = 2, objects: int = 10, rounds: int = 7) -> None:
    """Compare the time of training steps."""
    steps = {f"mask_ratio={ratio}": Step("yolov12-seg.yaml", imgsz, batch, objects, ratio) for ratio in (4, 2, 1)}
    steps = {"detect": Step("yolov12.yaml", imgsz, batch, objects), **steps}
    for clock, times in _in_turns(steps, rounds).items():
        print(f"{clock} time, {torch.get_num_threads()} threads:")
        for name, values in times.items():
            ratio = statistics.median(a / b for a, b in zip(values, times["detect"]))
            target = f" (target {STEP_TARGET})" if name == "mask_ratio=4" else ""
            print(f"  {name}: a step of {statistics.median(values):.0f} ms, {ratio:.2f} times the detector{target}")


def memory(imgsz: int = 640, batch: int = 2, objects: int = 100) -> None:
    """Compare peaks of memory."""
    peaks = {}
    for name, graph in (("detect", "yolov12.yaml"), ("segment", "yolov12-seg.yaml")):
        step = Step(graph, imgsz, batch, objects)
        step()  # gradients and moments are there
        peaks[name] = peak(step)
    raw = {name: value.detach().requires_grad_() for name, value in step.model(step.images).items()}
    sizes = [(imgsz // stride, imgsz // stride) for stride in (8, 16, 32)]
    arguments = {"sizes": sizes, "strides": step.model.strides}
    alone = {name: raw[name] for name in ("boxes", "scores")}
    boxes = peak(lambda: sum(detection_loss(alone, step.labels, **arguments).values()).backward())
    both = peak(lambda: sum(segmentation_loss(raw, step.labels, **arguments).values()).backward())
    _, assignment = box_losses(alone, step.labels, sizes, step.model.strides, GAINS, None)
    positives, plane = int(assignment.won.sum()), (imgsz // 4) ** 2 * 4
    print(
        f"step: {peaks['segment'] / 1e6:.0f} MB and {peaks['detect'] / 1e6:.0f} MB, "
        f"{peaks['segment'] / peaks['detect']:.2f} times the detector (target {MEMORY_TARGET})"
    )
    print(
        f"loss: {both / 1e6:.0f} MB with masks, {boxes / 1e6:.0f} MB without; {positives} positives, a plane of each "
        f"would take {positives * plane / 1e6:.0f} MB: {both / (positives * plane):.3f} of it (target {LOSS_TARGET})"
    )


def peak(run: Callable[[], object]) -> int:
    """Bytes that the allocator gave out at most during a run, beyond those that it had given out before."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profiler:
        run()
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    held = most = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    return most


if __name__ == "__main__":
    kind, *words = sys.argv[1:]
    options = {key: int(value) for key, _, value in (word.partition("=") for word in words if "=" in word)}
    {"predict": predict, "train": train, "memory": memory}[kind](
        *(word for word in words if "=" not in word), **options
    )
