"""Compare detections with the label files by hand."""

from pathlib import Path

import numpy as np
from ultralytics import YOLO

model = YOLO("best.pt")
tp = fp = fn = 0
for result in model.predict("images/val", stream=True, conf=0.4, verbose=False):
    h, w = result.orig_shape
    label = Path(result.path.replace("images", "labels")).with_suffix(".txt")
    truth = np.loadtxt(label, ndmin=2)
    wanted = [(int(c), x * w, y * h) for c, x, y, *_ in truth]
    for cls, (x, y, *_) in zip(result.boxes.cls.tolist(), result.boxes.xywh.tolist()):
        near = [t for t in wanted if t[0] == cls and abs(t[1] - x) < 5 and abs(t[2] - y) < 5]
        if near:
            wanted.remove(near[0])
            tp += 1
        else:
            fp += 1
    fn += len(wanted)
print(f"precision {tp / (tp + fp):.2f} recall {tp / (tp + fn):.2f}")
