"""Measure what tasks cost beside detection: steps of training, masks, and the suppression of oriented boxes. By hand:

    python tests/bench/tasks.py train [mask_ratio=4 mask_ratio=2 mask_ratio=1 pose obb] [imgsz=640] [batch=2]
        [objects=10] [rounds=7]
    python tests/bench/tasks.py suppress [anchors=8400] [classes=15] [rounds=5]
    python tests/bench/tasks.py predict best-seg.pt image.jpg [imgsz=640] [objects=10] [rounds=15]
    python tests/bench/tasks.py memory [imgsz=640] [batch=2] [objects=100]

train: a step of the graphs of yolov12n and one of yolov12n itself, on labels of all sizes: outlines of 24 corners, all
of seventeen keypoints, rectangles at any angle. suppress: oriented candidates all above the threshold, and the memory
that 30,000 take that are all kept or all suppressed. predict: a segmentation model beside the detector inside it, from
the pixels of an image to its Results, with torch and with onnxruntime; masks have the size of the network input, and
once that of the image (retina_masks). memory: the largest sum of tensors that the allocator gave out during the loss of
the masks, and during a whole step.

All take turns; medians are printed, the median of the ratios of neighbouring turns, and the ratio of the fastest turns.
With OMP_NUM_THREADS=1 also processor time is printed, which a busy machine changes less.
"""

from __future__ import annotations

import contextlib
import io
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
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
from bitfalcon_plugin.ops.rotated import corners_of
from bitfalcon_plugin.ops.rotated_nms import rotated_suppression
from bitfalcon_plugin.tasks import task_of
from bitfalcon_plugin.tasks.detect import GAINS, box_losses, detection_loss
from bitfalcon_plugin.tasks.segment import segmentation_loss

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from tests.bench.nms import scene  # noqa: E402

TARGET = 1.25  # times the detector, to predict
STEP_TARGETS = {"mask_ratio=4": 1.35, "pose": 1.2, "obb": 1.35}  # times the detector
MEMORY_TARGET, LOSS_TARGET = 1.3, 0.5  # times the detector, and planes of float32 a positive anchor
SUPPRESS_TARGET = 300  # ms
CORNERS, POINTS = 24, 17  # of an outline, of a pose
GRAPHS = {"pose": "yolov12-pose.yaml", "obb": "yolov12-obb.yaml", "detect": "yolov12.yaml"}  # else yolov12-seg.yaml


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
    """Training steps of one model on one batch of made-up images. name: a task, or the setting mask_ratio."""

    def __init__(self, name: str, imgsz: int, batch: int, objects: int) -> None:
        torch.manual_seed(0)
        graph = GRAPHS.get(name, "yolov12-seg.yaml")
        self.model = build(graph, "n", nc=4).train().to(memory_format=torch.channels_last)
        self.task = task_of(self.model)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=1e-4, momentum=0.9)
        self.images = torch.rand(batch, 3, imgsz, imgsz).contiguous(memory_format=torch.channels_last)
        labels = outlined_labels(imgsz, batch, objects)
        self.labels = {"pose": posed, "obb": turned}.get(name, lambda same: same)(labels)
        self.options = {"mask_ratio": int(name.rpartition("=")[2])} if self.task.options else {}

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


def posed(labels: Instances) -> Instances:
    """The labels with keypoints at random places of their boxes in the place of outlines."""
    draw = torch.Generator().manual_seed(1)
    corner, size = labels.boxes[:, None, :2], (labels.boxes[:, 2:] - labels.boxes[:, :2])[:, None]
    points = corner + size * torch.rand(len(labels), POINTS, 2, generator=draw)
    return replace(labels, polygons=None, keypoints=torch.cat((points, torch.full((len(labels), POINTS, 1), 2.0)), 2))


def turned(labels: Instances) -> Instances:
    """The labels with their boxes, turned by any angle, in the place of outlines."""
    draw = torch.Generator().manual_seed(1)
    low, high = labels.boxes[:, :2], labels.boxes[:, 2:]
    angle = torch.rand(len(labels), 1, generator=draw) * torch.pi
    corners = corners_of(torch.cat(((low + high) / 2, high - low, angle), 1)).flatten(0, 1)
    polygons = Polygons(corners, torch.full((len(labels),), 4), rectangles=True)
    return replace(labels, boxes=hulls(polygons), polygons=polygons)


def train(*names: str, imgsz: int = 640, batch: int = 2, objects: int = 10, rounds: int = 7) -> None:
    """Compare the time of training steps."""
    names = names or ("mask_ratio=4", "mask_ratio=2", "mask_ratio=1", "pose", "obb")
    steps = {name: Step(name, imgsz, batch, objects) for name in ("detect", *names)}
    for clock, times in _in_turns(steps, rounds).items():
        print(f"{clock} time, {torch.get_num_threads()} threads, {batch} images of {objects} objects:")
        for name, values in times.items():
            ratio = statistics.median(a / b for a, b in zip(values, times["detect"]))
            fastest = min(values) / min(times["detect"])
            target = f" (target {STEP_TARGETS[name]})" if name in STEP_TARGETS else ""
            text = f"a step of {statistics.median(values):.0f} ms, {ratio:.2f} times the detector{target}"
            print(f"  {name}: {text}; fastest {min(values):.0f} ms, {fastest:.2f} times")


def suppress(anchors: int = 8400, classes: int = 15, rounds: int = 5) -> None:
    """Measure the suppression of oriented candidates, all above the threshold."""
    print(f"{torch.get_num_threads()} threads, {anchors} anchors, {classes} classes, all above the threshold:")
    options = {"conf": 0.001, "iou": 0.7, "multi_label": True}
    cases = [(kind, 300) for kind in ("spread", "heap", "late", "equal")] + [("spread", 30_000), ("heap", 30_000)]
    for kind, max_det in cases:
        run = partial(_suppressed, _oriented(kind, anchors, classes), {**options, "max_det": max_det})
        for clock, times in _in_turns({kind: run}, rounds).items():
            fastest, median = min(times[kind]), statistics.median(times[kind])
            target = f" (target {SUPPRESS_TARGET})" if max_det == 300 else ""
            text = f"fastest {fastest:.0f} ms, median {median:.0f} ms{target}"
            print(f"  {kind:>7}, max_det={max_det}, {clock} time: {text}; {len(run()[0])} kept")
    for kind in ("spread", "heap"):
        run = partial(_suppressed, _oriented(kind, 30_000, 1), {**options, "max_det": 30_000})
        print(f"  30,000 candidates, {kind}: {len(run()[0])} kept, {peak(run) / 1e6:.0f} MB at most")


def _suppressed(candidates: torch.Tensor, options: dict[str, object]) -> list[torch.Tensor]:
    with torch.inference_mode():
        return rotated_suppression(candidates, **options)


def _oriented(kind: str, anchors: int, classes: int) -> torch.Tensor:
    """Return candidates (1, 4 + classes + 1, anchors) as tests/bench/nms.py makes them, at any angle."""
    upright = scene(kind, anchors, classes)
    angles = torch.rand(1, 1, anchors, generator=torch.Generator().manual_seed(1)) * torch.pi
    return torch.cat((upright, angles), 1)


def memory(imgsz: int = 640, batch: int = 2, objects: int = 100) -> None:
    """Compare peaks of memory."""
    peaks = {}
    for name, kind in (("detect", "detect"), ("segment", "mask_ratio=4")):
        step = Step(kind, imgsz, batch, objects)
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
    pairs = {word: word.partition("=")[::2] for word in words if "=" in word and "mask_ratio" not in word}
    options = {key: int(value) for key, value in pairs.values()}
    verbs = {"train": train, "suppress": suppress, "predict": predict, "memory": memory}
    verbs[kind](*(word for word in words if word not in pairs), **options)
