"""COCO numbers on the predict path: minimal-rectangle letterbox, one label a box, confidence 0.001, IoU 0.7.

By hand: python tests/bench/coco_predict.py best.pt data.yaml [split=val] [imgsz=320]
"""

from __future__ import annotations

import sys

import numpy as np

from bitfalcon_plugin import YOLO
from bitfalcon_plugin.data.dataset import scan
from bitfalcon_plugin.data.formats.dataset_yaml import load_data
from bitfalcon_plugin.tasks.coco import coco_metrics
from bitfalcon_plugin.tasks.metrics import STATS


def main() -> None:
    weights, data, *rest = sys.argv[1:]
    options = dict(word.split("=", 1) for word in rest)
    spec = load_data(data)
    samples = scan(spec, options.get("split", "val")).samples
    results = YOLO(weights).predict(
        [str(sample.image) for sample in samples],
        stream=True,
        conf=0.001,
        iou=0.7,
        imgsz=int(options.get("imgsz", 320)),
    )
    rows = []
    for index, result in enumerate(results):
        boxes = result.boxes.data.double().numpy()
        wh = boxes[:, 2:4] - boxes[:, :2]
        rows.append(np.concatenate((np.full((len(boxes), 1), float(index)), boxes[:, :2], wh, boxes[:, 4:]), 1))
    metrics = coco_metrics(samples, np.concatenate(rows), spec.names)
    print("  ".join(f"{name} {metrics['stats'][name]:.4f}" for name in STATS))


if __name__ == "__main__":
    main()
