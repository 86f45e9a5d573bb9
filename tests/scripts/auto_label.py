"""Label new pictures with a trained model, then train on them."""

from pathlib import Path

from ultralytics import YOLO

model = YOLO("best.pt")
out = Path("new_labels")
out.mkdir(exist_ok=True)
for result in model.predict("photos", conf=0.5, stream=True, verbose=False):
    lines = []
    for cls, (x, y, w, h) in zip(result.boxes.cls.int().tolist(), result.boxes.xywhn.tolist()):
        lines.append(f"{cls} {x:.6f} {y:.6f} {w:.6f} {h:.6f}")
    (out / (Path(result.path).stem + ".txt")).write_text("\n".join(lines))
print(sum(1 for _ in out.glob("*.txt")))
