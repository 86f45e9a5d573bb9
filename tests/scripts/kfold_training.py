import random
import shutil
from pathlib import Path

import yaml
from ultralytics import YOLO

random.seed(0)
images = sorted(Path("images/train").glob("*.png"))[:12]
random.shuffle(images)
k = 3
folds = [images[i::k] for i in range(k)]
with open("data.yaml") as f:
    classes = yaml.safe_load(f)["names"]

results = {}
for fold in range(k):
    root = Path(f"kfold/fold_{fold}")
    for split, files in (("train", [p for i in range(k) if i != fold for p in folds[i]]), ("val", folds[fold])):
        for path in files:
            for kind, suffix in (("images", ".png"), ("labels", ".txt")):
                target = root / kind / split / (path.stem + suffix)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(Path(kind) / "train" / (path.stem + suffix), target)
    dataset_yaml = root / "dataset.yaml"
    with open(dataset_yaml, "w") as f:
        yaml.safe_dump({"path": str(root.resolve()), "train": "images/train", "val": "images/val", "names": classes}, f)

    model = YOLO("best.pt", task="detect")
    metrics = model.train(
        data=str(dataset_yaml), epochs=1, batch=4, imgsz=64, lr0=1e-5, warmup_epochs=0, optimizer="SGD",
        project="kfold", name=f"run_{fold}", plots=False, workers=0, device="cpu",
    )  # fmt: skip
    results[fold] = metrics.box.map50

print(results, sum(results.values()) / k)
