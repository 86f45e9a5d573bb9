"""Detect in a folder of images, batch by batch, and write every box as a row of a CSV file."""

import csv
from pathlib import Path

from ultralytics import YOLO

model = YOLO("best.pt")
model.to("cpu")
model.fuse()

images = sorted(Path("frames").glob("*.png"))
batch_size = 4

with open("detections.csv", "w", newline="") as f:
    writer = csv.writer(f)
    writer.writerow(["image", "class", "confidence", "x1", "y1", "x2", "y2", "width", "height"])
    for start in range(0, len(images), batch_size):
        results = model.predict(
            images[start : start + batch_size], imgsz=64, conf=0.25, iou=0.6, batch=batch_size, verbose=False
        )
        for result in results:
            h, w = result.orig_shape
            result = result.cpu().numpy()
            for xyxy, conf, cls in zip(result.boxes.xyxy, result.boxes.conf, result.boxes.cls):
                name = result.names[int(cls)]
                writer.writerow([Path(result.path).name, name, f"{conf:.4f}", *(f"{v:.1f}" for v in xyxy), w, h])
