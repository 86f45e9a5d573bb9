"""Train, then read results.csv as notebooks do."""

import csv
import os

from ultralytics import YOLO

model = YOLO("best.pt")
results = model.train(
    data="data.yaml", epochs=2, imgsz=64, batch=8, workers=0, fraction=0.25, name="curves", patience=5
)
folder = str(results.save_dir)
print(sorted(os.listdir(folder)))

with open(os.path.join(folder, "results.csv")) as f:
    rows = [{k.strip(): float(v) for k, v in row.items()} for row in csv.DictReader(f)]
for row in rows:
    print(int(row["epoch"]), row["train/box_loss"], row["val/box_loss"], row["metrics/mAP50(B)"])
model = YOLO(os.path.join(folder, "weights", "best.pt"))
