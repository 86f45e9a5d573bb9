"""Small datasets with annotation files of COCO's format, and pycocotools' numbers on these files."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path

import numpy as np
import yaml
from pycocotools import mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from tests.helpers.tiny_dataset import image

CATEGORIES = [{"id": 7, "name": "dog"}, {"id": 3, "name": "cat"}, {"id": 90, "name": "cow"}]  # not in the order of ids
KEYPOINTS = ["nose", "left_ear", "right_ear"]


def annotation_file(path: Path, folder: Path, count: int = 6, seed: int = 0, keypoints: bool = False) -> dict:
    """Draw `count` grey images into `folder` and write an annotation file about them; returns its content.

    Polygons of one and two parts, run lengths of both kinds, groups of objects, areas that are those of no box.
    """
    generator = np.random.default_rng(seed)
    categories = [{**each, "keypoints": KEYPOINTS, "skeleton": [[1, 2], [1, 3]]} for each in CATEGORIES]
    categories = categories if keypoints else CATEGORIES
    images, annotations = [], []
    for number in generator.permutation(count).tolist():
        width, height = int(generator.integers(100, 180)), int(generator.integers(90, 160))
        name = f"{number:04d}.png"
        image(folder / name, (width, height))
        images.append({"id": 1000 - number * 7, "file_name": name, "width": width, "height": height})
        for _ in range(int(generator.integers(0, 6))):
            entry = annotation(generator, width, height)
            identity = {"id": len(annotations) + 11, "image_id": images[-1]["id"]}
            annotations.append({**identity, "category_id": CATEGORIES[int(generator.integers(3))]["id"], **entry})
            if keypoints:
                annotations[-1] |= points(generator, annotations[-1])
    generator.shuffle(annotations)
    content = {"images": images, "annotations": annotations, "categories": categories}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")
    return content


def annotation(generator: np.random.Generator, width: int, height: int) -> dict:
    """The box, the segmentation, the area and iscrowd of a random object of an image."""
    x, y = generator.uniform(0, width * 0.6), generator.uniform(0, height * 0.6)
    w, h = generator.uniform(10, width * 0.35), generator.uniform(10, height * 0.35)
    kind = int(generator.integers(4))
    first = [x, y, x + w * 0.4, y, x + w * 0.5, y + h, x, y + h * 0.8]
    second = [x + w * 0.6, y + h * 0.1, x + w, y + h * 0.3, x + w * 0.7, y + h]
    plane = np.zeros((height, width), np.uint8, order="F")
    plane[int(y) : int(y + h), int(x) : int(x + w)] = 1
    plane[int(y + h / 3) : int(y + h / 2), int(x + w / 3) : int(x + w / 2)] = 0
    code = mask.encode(plane)
    column = plane.flatten(order="F")
    edges = np.flatnonzero(np.diff(column, prepend=0, append=1 - column[-1]))
    counts = np.diff(edges, prepend=0).tolist()
    segmentation = [
        [first],
        [first, second],
        {"size": [height, width], "counts": code["counts"].decode()},
        {"size": [height, width], "counts": counts},
    ][kind]
    crowd = int(kind >= 2 and generator.random() < 0.5)
    area = float(generator.uniform(0.3, 0.8) * w * h)
    return {"bbox": [x, y, w, h], "segmentation": segmentation, "area": area, "iscrowd": crowd}


def points(generator: np.random.Generator, entry: dict) -> dict:
    """Keypoints of an object: none of them is labelled in a group."""
    x, y, w, h = entry["bbox"]
    visible = generator.integers(0, 3, 3) * (1 - entry["iscrowd"])
    values = [
        value
        for seen in visible.tolist()
        for value in (
            (float(x + w * generator.random()), float(y + h * generator.random()), seen) if seen else (0, 0, 0)
        )
    ]
    return {"keypoints": values, "num_keypoints": int((visible > 0).sum())}


def coco_dataset(folder: Path, keypoints: bool = False, count: int = 6, **keys: object) -> Path:
    """A dataset with an annotation file for train and one for val, whose categories have another order; its YAML."""
    annotation_file(folder / "annotations/instances_train.json", folder / "train", count, 1, keypoints)
    annotation_file(folder / "annotations/instances_val.json", folder / "val", count, 2, keypoints)
    path = folder / "data.yaml"
    content = {"train": "annotations/instances_train.json", "val": "annotations/instances_val.json", **keys}
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return path


def numbers_of_files(annotations: Path, predictions: Path, kind: str = "bbox", sigmas=None) -> list[float]:
    """What pycocotools sums up of two files."""
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(annotations))
        evaluation = COCOeval(truth, truth.loadRes(str(predictions)), kind)
        if sigmas is not None:
            evaluation.params.kpt_oks_sigmas = np.array(sigmas)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats.tolist()
