"""What a classifier learns from nothing, over seeds: top-1 and top-5 on val, and when it leaves chance.

    python tests/bench/classes.py ../shared/datasets/signs [recipe=calm|default] [epochs=20] [seeds=0,1,2]
        [model=yolov12n-cls.yaml] [imgsz=96] [folder=runs/classes]

calm: little augmentation and AdamW(0.0005), the recipe of the reference run in spec/segment-classify.md part 4.
default: the default augmentation and optimizer. Each seed takes minutes on a processor core.
"""

from __future__ import annotations

import csv
import statistics
import sys
from pathlib import Path

from bitfalcon_plugin.config.settings import load_settings
from bitfalcon_plugin.train.run import run_train

COMMON = {"mode": "train", "batch": 16, "nbs": 16, "device": "cpu", "plots": False, "verbose": False, "patience": 0}
RECIPES: dict[str, dict[str, object]] = {
    "calm": {
        "optimizer": "AdamW",
        "lr0": 0.0005,
        "momentum": 0.9,
        "auto_augment": "none",
        "erasing": 0.0,
        "scale": 0.2,
        "hsv_h": 0.0,
        "hsv_s": 0.0,
        "hsv_v": 0.2,
    },
    "default": {},
}


def main(data: str, **given: str) -> None:
    recipe, seeds = given.pop("recipe", "calm"), given.pop("seeds", "0,1,2").split(",")
    folder = Path(given.pop("folder", "runs/classes")) / recipe
    options = {"model": "yolov12n-cls.yaml", "epochs": 20, "imgsz": 96, **given}
    options |= {key: int(options[key]) for key in ("epochs", "imgsz")}
    found = []
    for seed in seeds:
        place = {"data": data, "seed": int(seed), "project": str(folder), "name": seed, "exist_ok": True}
        metrics = run_train(load_settings({**COMMON, **RECIPES[recipe], **options, **place}), None).metrics
        with open(folder / seed / "results.csv", newline="") as file:
            by_epoch = [float(row["metrics/accuracy_top1"]) for row in csv.DictReader(file)]
        half = next((epoch for epoch, value in enumerate(by_epoch, start=1) if value > 0.5), None)
        found.append(metrics.top1)
        print(f"seed {seed}: top-1 {metrics.top1:.4f}, top-5 {metrics.top5:.4f}; above 0.5 from epoch {half}")
    print(f"median top-1 of {len(found)}: {statistics.median(found):.4f}")


if __name__ == "__main__":
    main(sys.argv[1], **dict(word.split("=", 1) for word in sys.argv[2:]))
