"""Write a dataset with annotation files of COCO's format (cocodataset.org), and images as links."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch

from ..dataset import Sample
from ..formats.coco_labels import encoded
from ..formats.coco_shapes import VISIBILITY
from .source import Source
from .tiling import Tiling
from .write import Written, image_links, write_yaml

DIGITS = 6  # of pixels


def write_coco(source: Source, folder: Path, tiling: Tiling | None, origin: str) -> dict[str, Written]:
    """Write images/, annotations/ and data.yaml into an empty folder; return what each split got."""
    (folder / "annotations").mkdir()
    written, classes = {}, _category_ids(source)
    for split, part in source.parts.items():
        written[split] = result = Written()
        images, annotations = [], []
        links = image_links(source, split, folder, result)
        for (sample, name), identity in zip(links, _image_ids(part.samples), strict=True):
            height, width = sample.size
            images.append({"id": identity, "file_name": name, "width": width, "height": height})
            entries = list(_entries(source, sample))
            result.objects += len(entries)
            result.backgrounds += not entries
            for entry in entries:
                entry["category_id"] = classes[entry["category_id"]]
                annotations.append({"id": len(annotations) + 1, "image_id": identity, **entry})
        document = {"images": images, "categories": _categories(source, classes)}
        if part.labelled:
            document["annotations"] = annotations
        text = json.dumps(document, ensure_ascii=False, separators=(",", ":"))
        (folder / "annotations" / f"{split}.json").write_text(text, encoding="utf-8")
    entries = {split: f"annotations/{split}.json" for split in source.parts}
    write_yaml(source, folder, origin, entries, {"format": "coco", "images": "images"})
    return written


def _category_ids(source: Source) -> dict[int, int]:
    """Class index -> id: that of the source's annotation files where they agree, else from 1."""
    samples = [sample for part in source.parts.values() for sample in part.samples]
    given = [sample.truth.ids.classes if sample.truth and sample.truth.ids else {} for sample in samples]
    if given and all(each == given[0] for each in given) and given[0].keys() >= source.names.keys():
        return dict(given[0])
    return {index: index + 1 for index in source.names}


def _image_ids(samples: Sequence[Sample]) -> list[int | str]:
    """The ids of the images of a split: those of the source's annotation file where these differ, else from 1."""
    given = [sample.truth.ids.image for sample in samples if sample.truth and sample.truth.ids]
    if len(given) == len(samples) == len(set(given)):
        return given
    return [number + 1 for number in range(len(samples))]


def _categories(source: Source, classes: Mapping[int, int]) -> list[dict[str, object]]:
    categories = []
    for index, name in source.names.items():
        category: dict[str, object] = {"id": classes[index], "name": name}
        if (layout := source.keypoints) is not None:
            category["keypoints"] = [
                layout.name(number, index if layout.names.get(index) else None) for number in range(layout.count)
            ]
            category["skeleton"] = [[end + 1 for end in limb] for limb in layout.limbs]
        categories.append(category)
    return categories


def _entries(source: Source, sample: Sample) -> Iterator[dict[str, object]]:
    """Yield the annotations of an image without ids; category_id is the index of the class."""
    if sample.truth is not None:
        yield from _entries_of_file(sample)
        return
    height, width = sample.size
    labels = sample.pixel_labels()
    rings: Sequence[torch.Tensor | None] = [None] * len(labels)
    if source.task == "segment" and labels.polygons is not None:
        rings = labels.polygons.split()
    for row, (category, (x1, y1, x2, y2)) in enumerate(zip(labels.classes.tolist(), labels.boxes.double().tolist())):
        entry: dict[str, object] = {"category_id": category, "bbox": _rounded([x1, y1, x2 - x1, y2 - y1])}
        entry |= {"area": round((x2 - x1) * (y2 - y1), DIGITS), "iscrowd": 0}
        if rings[row] is not None and len(rings[row]):
            from pycocotools import mask

            ring = rings[row].double().numpy()
            entry["segmentation"] = [_rounded(ring.flatten().tolist())]
            entry["area"] = float(mask.area(encoded([ring], height, width)))
        if labels.keypoints is not None:
            points = labels.keypoints[row].double()
            entry |= _keypoints(points.tolist(), int((points[:, 2] != 0).sum()))
        yield entry


def _entries_of_file(sample: Sample) -> Iterator[dict[str, object]]:
    """Yield the annotations that a file has of an image, groups of objects too, as exactly as it has them."""
    truth = sample.truth
    kept = truth.classes >= 0
    for row in kept.nonzero()[0].tolist():
        entry: dict[str, object] = {"category_id": int(truth.classes[row]), "bbox": truth.boxes[row].tolist()}
        entry |= {"area": float(truth.areas[row]), "iscrowd": int(truth.crowd[row])}
        if truth.difficult[row]:
            entry["difficult"] = 1
        shape = truth.segments[row] if truth.segments is not None else None
        if shape is not None:
            entry["segmentation"] = shape if isinstance(shape, dict) else [ring.flatten().tolist() for ring in shape]
        if truth.keypoints is not None:
            entry |= _keypoints(truth.keypoints[row].tolist(), int(truth.labelled[row]))
        yield entry


def _keypoints(points: Sequence[Sequence[float]], labelled: int) -> dict[str, object]:
    flat = [value for x, y, seen in points for value in (*_rounded([x, y]), int(seen) if seen in VISIBILITY else 2)]
    return {"keypoints": flat, "num_keypoints": labelled}


def _rounded(values: Sequence[float]) -> list[float]:
    return [round(value, DIGITS) + 0.0 for value in values]
