"""Labels with outlines and detections with masks that partly agree, for tests of metrics and of worst images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from pycocotools import mask

from bitfalcon_plugin.data.dataset import Sample
from bitfalcon_plugin.ops.encoded_masks import EncodedMasks
from bitfalcon_plugin.ops.instances import Instances
from bitfalcon_plugin.ops.polygons import Polygons, hulls

NAMES = {0: "red", 1: "green", 2: "blue"}


def blob(draw: np.random.RandomState, centre, radius: float) -> np.ndarray:
    """The corners (8, 2) of a star-shaped polygon."""
    angles = np.arange(8) * np.pi / 4
    radii = radius * draw.uniform(0.5, 1, 8)
    return np.asarray(centre) + np.stack([np.cos(angles), np.sin(angles)], 1) * radii[:, None]


def random_case(seed: int, boxes_only: float = 0.0) -> tuple[list[Sample], Instances]:
    """Eight samples and their detections; a share `boxes_only` of the labels, and all of class 2, have no outline."""
    draw = np.random.RandomState(seed)
    samples, parts = [], []
    for image in range(8):
        w, h = draw.randint(80, 200, 2).tolist()
        rings, classes, rows, codes = [], [], [], []
        for _ in range(draw.randint(0, 6)):
            centre, radius, cls = draw.uniform([15, 15], [w - 15, h - 15]), draw.uniform(8, 15), draw.randint(0, 3)
            rings.append(blob(draw, centre, radius))
            classes.append(cls)
            for _ in range(draw.randint(0, 3)):
                found = ((rings[-1] - centre) * draw.uniform(0.8, 1.2) + centre + draw.randn(2)).clip(0, [w, h])
                codes += mask.frPyObjects([found.ravel().tolist()], h, w)
                seen = cls if draw.rand() < 0.85 else draw.randint(0, 3)
                rows.append([*found.min(0), *found.max(0), round(draw.rand(), 1), seen])
        samples.append(outlined_sample(f"{image}.png", (h, w), rings, classes, draw.rand(len(rings)) < boxes_only))
        found = Instances.from_rows(torch.tensor(np.array(rows), dtype=torch.float32).view(-1, 6))
        image_index = torch.full_like(found.classes, image)
        parts.append(
            Instances(found.boxes, found.classes, found.scores, image_index, encoded_masks=EncodedMasks(codes))
        )
    return samples, Instances.cat(parts)


def outlined_sample(name: str, size: tuple[int, int], rings, classes, is_box) -> Sample:
    """A sample of an image of `size` (h, w) with outlines (k, 2) in pixels; labels with `is_box` lose theirs."""
    points = torch.tensor(np.concatenate([np.zeros((0, 2)), *rings]), dtype=torch.float32) / torch.tensor(size[::-1])
    polygons = Polygons(points.clamp(0, 1), torch.tensor([len(ring) for ring in rings], dtype=torch.int64))
    boxes, keep = hulls(polygons), ~torch.tensor(np.asarray(is_box, dtype=bool))
    points = polygons.points[keep[polygons.owner]]
    polygons = Polygons(points, polygons.counts * keep)
    return Sample(Path(name), size, Instances(boxes, torch.tensor(classes, dtype=torch.int64), polygons=polygons))


def annotations(samples: list[Sample], kind: str) -> dict:
    """The labels as a COCO file has them; for kind segm a label without an outline is a crowd that fills its box."""
    records = []
    for image, sample in enumerate(samples):
        labels = sample.pixel_labels()
        rings = labels.polygons.split()
        for (x1, y1, x2, y2), cls, ring in zip(labels.boxes.double().tolist(), labels.classes.tolist(), rings):
            points = ring.flatten().tolist() or [x1, y1, x2, y1, x2, y2, x1, y2]
            code = mask.merge(mask.frPyObjects([points], *sample.size))
            record = {"id": len(records) + 1, "image_id": image, "category_id": cls, "area": float(mask.area(code))}
            crowd = int(kind == "segm" and not len(ring))
            records.append({**record, "bbox": [x1, y1, x2 - x1, y2 - y1], "segmentation": code, "iscrowd": crowd})
    return {
        "images": [{"id": i, "height": s.size[0], "width": s.size[1]} for i, s in enumerate(samples)],
        "categories": [{"id": i} for i in NAMES],
        "annotations": records,
    }
