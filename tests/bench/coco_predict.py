"""COCO numbers on the predict path: minimal-rectangle letterbox, one label a box, confidence 0.001, IoU 0.7.

By hand: python tests/bench/coco_predict.py best.pt data.yaml [split=val] [imgsz=320]
"""

from __future__ import annotations

import sys
from dataclasses import replace

import torch

from bitfalcon_plugin import YOLO
from bitfalcon_plugin.data.dataset import scan
from bitfalcon_plugin.data.formats.dataset_yaml import load_data
from bitfalcon_plugin.ops.instances import Instances
from bitfalcon_plugin.tasks.coco import coco_metrics
from bitfalcon_plugin.tasks.metrics import STATS


def main() -> None:
    weights, data, *words = sys.argv[1:]
    options = dict(word.split("=", 1) for word in words)
    spec = load_data(data)
    samples = scan(spec, options.get("split", "val")).samples
    results = YOLO(weights).predict(
        [str(sample.image) for sample in samples],
        stream=True,
        conf=0.001,
        iou=0.7,
        imgsz=int(options.get("imgsz", 320)),
    )
    parts = []
    for index, result in enumerate(results):
        detections = Instances.from_rows(result.boxes.data)
        parts.append(replace(detections, image=torch.full((len(detections),), index)))
    metrics = coco_metrics(samples, Instances.cat(parts), spec.names)
    print("  ".join(f"{name} {metrics.stats[name]:.4f}" for name in STATS))


if __name__ == "__main__":
    main()
