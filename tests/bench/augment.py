"""Cost of augmentation in milliseconds per batch, whole and by part. By hand, not a test:

python tests/bench/augment.py [imgsz] [batch] [device]
"""

from __future__ import annotations

import sys
import time
from dataclasses import replace

import torch

from bitfalcon_plugin.data.augmentation import augment as stage
from bitfalcon_plugin.data.augmentation.augment import Recipe, augment
from bitfalcon_plugin.data.augmentation.compose import Tile
from bitfalcon_plugin.ops.instances import Instances

ZERO = dict.fromkeys(("degrees", "shear", "perspective", "flipud", "mixup", "bgr"), 0.0)
HSV = {"hsv_h": 0.015, "hsv_s": 0.7, "hsv_v": 0.4}
DEFAULTS = {**ZERO, **HSV, "mosaic": 1.0, "translate": 0.1, "scale": 0.5, "fliplr": 0.5}
PARTS = ("_scenes", "_maps", "_labels", "_mix_labels", "render", "blend_", "_recolour_")
CASES = {
    "defaults": {},
    "mosaic closed": {"mosaic": 0.0},
    "identity": dict.fromkeys(("mosaic", "translate", "scale", "hsv_h", "hsv_s", "hsv_v", "fliplr"), 0.0),
    "mixup 0.2, rotate, shear, perspective": {"mixup": 0.2, "degrees": 10.0, "shear": 5.0, "perspective": 0.0005},
}


def tiles(count: int, imgsz: int, device: torch.device) -> list[Tile]:
    images = torch.randint(0, 256, (count, 3, imgsz * 3 // 4, imgsz), dtype=torch.uint8).to(device)
    corner = torch.rand(count, 20, 2) * imgsz / 2
    boxes = torch.cat([corner, corner + 10 + torch.rand(count, 20, 2) * imgsz / 5], dim=2)
    classes = torch.zeros(20, dtype=torch.int64)
    return [Tile(image, Instances(part, classes)) for image, part in zip(images, boxes)]


def timed(function, spent: dict[str, float], device: torch.device):
    def call(*args, **kwargs):
        start = time.perf_counter()
        result = function(*args, **kwargs)
        if device.type == "cuda":
            torch.cuda.synchronize()
        spent[function.__name__] = spent.get(function.__name__, 0.0) + time.perf_counter() - start
        return result

    return call


def measure(recipe: Recipe, batch: int, device: torch.device, repeats: int = 10) -> dict[str, float]:
    """Milliseconds per batch of each part and of the whole, after two rounds to warm up."""
    pool = tiles(8 * batch, recipe.imgsz, device)
    generator = torch.Generator().manual_seed(0)
    spent: dict[str, float] = {}
    plain = {name: getattr(stage, name) for name in PARTS}
    whole = timed(augment, spent, device)
    try:
        for name in PARTS:
            setattr(stage, name, timed(plain[name], spent, device))
        for turn in range(repeats + 2):
            if turn == 2:
                spent.clear()
            whole(pool[:batch], pool, recipe, generator, device)
    finally:
        for name in PARTS:
            setattr(stage, name, plain[name])
    return {name: seconds * 1000 / repeats for name, seconds in spent.items()}


def main(imgsz: int = 320, batch: int = 16, device: str = "cpu") -> None:
    print(f"imgsz {imgsz}, batch {batch}, {device}, {torch.get_num_threads()} threads")
    recipe = Recipe(imgsz=imgsz, **DEFAULTS)
    for name, changes in CASES.items():
        parts = measure(replace(recipe, **changes), batch, torch.device(device))
        rows = sorted(parts.items(), key=lambda row: -row[1])
        print(f"{name}: " + ", ".join(f"{part} {ms:.1f}" for part, ms in rows))


if __name__ == "__main__":
    main(*(int(word) if word.isdigit() else word for word in sys.argv[1:]))
