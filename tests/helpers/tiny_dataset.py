"""Datasets of a few grey images that the tests write themselves."""

from __future__ import annotations

import yaml
from PIL import Image

MINIMAL = {"train": "images/train", "val": "images/val", "names": ["cat", "dog"]}


def image(path, size=(32, 24), **options):
    """A grey image of `size` (w, h)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (90, 90, 90)).save(path, **options)
    return path


def dataset(folder, labels=None, keys=MINIMAL):
    """A folder with one image per label file of train (name -> text, None for no file), one in val, and a YAML."""
    for name, text in (labels or {"a": "0 0.5 0.5 0.2 0.4\n"}).items():
        image(folder / "images" / "train" / f"{name}.png")
        if text is not None:
            file = folder / "labels" / "train" / f"{name}.txt"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(text if isinstance(text, bytes) else text.encode())
    image(folder / "images" / "val" / "v.png")
    return write_yaml(folder / "data.yaml", keys)


def write_yaml(path, keys):
    """`keys` as a YAML file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(keys, sort_keys=False), encoding="utf-8")
    return path
