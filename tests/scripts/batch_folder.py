import os
from pathlib import Path

from ultralytics import YOLO

model = YOLO("best.pt")
results = model.predict(
    source="photos", save=True, save_txt=True, save_conf=True, project="output", name="run", exist_ok=True, batch=2
)

label_dir = Path(results[0].save_dir) / "labels"
for file in sorted(os.listdir(label_dir)):
    with open(label_dir / file) as f:
        for line in f:
            cls, xc, yc, w, h, conf = map(float, line.split())
            print(file, model.names[int(cls)], f"{xc:.2f} {yc:.2f} {w:.2f} {h:.2f} {conf:.2f}")
pictures = sorted(p.name for p in Path(results[0].save_dir).glob("*.jpg"))
