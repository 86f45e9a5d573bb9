"""COCO's numbers by pycocotools and by hotcoco on the same detections: seconds, and whether they are equal. By hand:

    python tests/bench/coco.py [images=2000] [detections=10] [rounds=3]

images with about four objects of five classes each, detections: a mean for each image. The seconds are those of a whole
`coco_metrics`, which also sorts labels, draws curves and counts the confusion matrix. Needs `pip install hotcoco`.
"""

from __future__ import annotations

import statistics
import sys
import time
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import torch

from bitfalcon_plugin.data.dataset import Sample
from bitfalcon_plugin.ops.instances import Instances
from bitfalcon_plugin.tasks import quick_coco
from bitfalcon_plugin.tasks.coco import coco_metrics

SIDE, CLASSES, OBJECTS = 640, 5, 4


def random_boxes(count: int) -> torch.Tensor:
    corner = torch.rand(count, 2) * SIDE * 0.7
    return torch.cat((corner, corner + torch.rand(count, 2) * SIDE * 0.3 + 2), 1)


def random_case(images: int, detections: int) -> tuple[list[Sample], Instances]:
    """Labels, and detections half of which lie near a label."""
    torch.manual_seed(0)
    samples, found = [], []
    for index in range(images):
        labels = Instances(random_boxes(OBJECTS), torch.randint(CLASSES, (OBJECTS,)))
        near = torch.randint(OBJECTS, (detections // 2,))
        boxes = torch.cat((labels.boxes[near] + torch.randn(len(near), 4) * 9, random_boxes(detections - len(near))))
        classes = torch.cat((labels.classes[near], torch.randint(CLASSES, (detections - len(near),))))
        image = torch.full((detections,), index)
        found.append(Instances(boxes, classes, torch.rand(detections), image))
        samples.append(Sample(Path(f"{index}.jpg"), (SIDE, SIDE), labels.scaled(1 / SIDE, 1 / SIDE)))
    return samples, Instances.cat(found)


def main(images: int = 2000, detections: int = 10, rounds: int = 3) -> None:
    assert find_spec("hotcoco"), "needs hotcoco: pip install hotcoco"
    samples, found = random_case(images, detections)
    names = {index: str(index) for index in range(CLASSES)}
    seconds: dict[str, list[float]] = {"pycocotools": [], "hotcoco": []}
    metrics = {}
    for _ in range(rounds):
        for program, times in seconds.items():
            quick_coco.find_spec = find_spec if program == "hotcoco" else lambda name: None
            start = time.perf_counter()
            metrics[program] = replace(coco_metrics(samples, found, names))
            times.append(time.perf_counter() - start)
    slow, quick = (statistics.median(times) for times in seconds.values())
    equal = metrics["pycocotools"].stats == metrics["hotcoco"].stats
    compared = f"pycocotools {slow:.2f} s, hotcoco {quick:.2f} s, {slow / quick:.1f} times as fast"
    print(f"{len(found)} detections, {images} images: {compared}")
    print(f"AP {metrics['hotcoco'].ap:.4f}; all twelve numbers equal: {equal}")


if __name__ == "__main__":
    main(**{name: int(value) for name, value in (argument.split("=") for argument in sys.argv[1:])})
