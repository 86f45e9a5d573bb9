"""Train on your own dataset, print the numbers, and put a picture with its detections beside the learning curve."""

import csv

from PIL import Image
from ultralytics import YOLO

# Build a new model from a YAML
model = YOLO("small.yaml")
model.add_callback("on_fit_epoch_end", lambda trainer: print(f"epoch {trainer.epoch}: fitness {trainer.fitness:.3f}"))
model.info()

# Train it
results = model.train(
    data="data.yaml",
    epochs=14,
    imgsz=64,
    batch=8,
    nbs=8,
    optimizer="AdamW",
    lr0=0.02,
    warmup_epochs=0,
    mosaic=0.0,
    scale=0.2,
    hsv_h=0.0,
    hsv_s=0.0,
    hsv_v=0.0,
    device="cpu",
    workers=0,
    project="runs/detect",
    name="shapes",
    exist_ok=True,
    verbose=False,
)
print("mAP50-95", results.box.map, "mAP50", results.box.map50)
for i, c in enumerate(results.ap_class_index):
    print(model.names[int(c)], results.class_result(i))

# Validate it; data and settings are remembered
metrics = model.val(plots=False, device="cpu")
print(metrics.results_dict["metrics/mAP50-95(B)"], metrics.box.maps, metrics.speed["inference"])

# The learning curve
with open(model.trainer.save_dir / "results.csv") as f:
    rows = [{k.strip(): float(v) for k, v in row.items()} for row in csv.DictReader(f)]
curve = [row["metrics/mAP50(B)"] for row in rows]
print("best epoch", max(range(len(curve)), key=curve.__getitem__) + 1, "of", int(rows[-1]["epoch"]))

# Predict with the best weights, and plot
model = YOLO(model.trainer.best)
for i, r in enumerate(model("images/val", conf=0.1)):
    im_bgr = r.plot()
    Image.fromarray(im_bgr[..., ::-1]).save(f"results{i}.jpg")
