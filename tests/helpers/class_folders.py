"""Class folders of small pictures that the tests write themselves."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

TWO = {"train": {"cat": 4, "dog": 4}, "val": {"cat": 2, "dog": 2}}


def class_folders(
    folder: Path, splits: Mapping[str, Mapping[str, int]] = TWO, size: tuple[int, int] = (40, 30)
) -> Path:
    """Write `splits`: split -> class -> number of pictures of noise, of `size` (w, h); no two are equal.

    The split "" stands for the folder itself.
    """
    random = np.random.RandomState(0)
    for split, classes in splits.items():
        for name, count in classes.items():
            (folder / split / name).mkdir(parents=True, exist_ok=True)
            for number in range(count):
                pixels = random.randint(0, 256, (size[1], size[0], 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / split / name / f"{number:03}.png")
    return folder
