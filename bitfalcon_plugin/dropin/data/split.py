"""Splits of a folder of images into lists. Facts: spec/dropin-helpers.md section 8."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

from ...data.formats.yolo import label_path
from ...data.images import IMAGE_SUFFIXES

SPLITS = ("train", "val", "test")


def autosplit(path: str | Path, weights: Sequence[float] = (0.9, 0.1, 0.0), annotated_only: bool = False) -> None:
    """Write autosplit_train.txt, autosplit_val.txt and autosplit_test.txt beside the folder `path` of images.

    weights: the shares of the three. annotated_only: only images with a label file. The split is the same every time.
    """
    folder = Path(path)
    files = sorted(file for file in folder.rglob("*") if file.suffix.lower() in IMAGE_SUFFIXES)
    if annotated_only:
        files = [file for file in files if label_path(file).exists()]
    names = [f"autosplit_{name}.txt" for name in SPLITS]
    chosen = random.Random(0).choices(range(len(names)), weights=list(weights), k=len(files))
    for number, name in enumerate(names):
        target = folder.parent / name
        target.unlink(missing_ok=True)
        lines = [
            f"./{file.relative_to(folder.parent).as_posix()}" for file, part in zip(files, chosen) if part == number
        ]
        if lines:
            target.write_text("\n".join(lines) + "\n", encoding="utf-8")
