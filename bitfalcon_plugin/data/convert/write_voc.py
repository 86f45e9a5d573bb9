"""Write a dataset with label files of Pascal VOC: XML with boxes in pixels from 0, and images as links."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from ..dataset import Sample
from .source import Source
from .tiling import Tiling
from .write import Written, image_links, write_yaml

DIGITS = 6  # of pixels


def write_voc(source: Source, folder: Path, tiling: Tiling | None, origin: str) -> dict[str, Written]:
    """Write images/, Annotations/ and data.yaml into an empty folder; return what each split got.

    Boxes alone are written: of outlines and keypoints a note says so.
    """
    written = {}
    for split, part in source.parts.items():
        written[split] = result = Written()
        for sample, name in image_links(source, split, folder, result):
            if not part.labelled:
                continue
            tree, count = _annotation(source, sample, name)
            target = (folder / "Annotations" / name).with_suffix(".xml")
            target.parent.mkdir(parents=True, exist_ok=True)
            tree.write(target, encoding="utf-8")
            result.objects += count
            result.backgrounds += not count
    first = next(iter(written.values()))
    if source.task != "detect":
        what = {"segment": "outlines", "pose": "keypoints"}[source.task]
        first.notes.append(f"label files of VOC have boxes alone: the {what} are not written")
    write_yaml(source, folder, origin, None, {"format": "voc", "first_pixel": 0})
    return written


def _annotation(source: Source, sample: Sample, name: str) -> tuple[ElementTree.ElementTree, int]:
    """The label file of an image, and the number of its objects."""
    height, width = sample.size
    root = ElementTree.Element("annotation")
    ElementTree.SubElement(root, "filename").text = Path(name).name
    size = ElementTree.SubElement(root, "size")
    for key, value in (("width", width), ("height", height), ("depth", 3)):
        ElementTree.SubElement(size, key).text = str(value)
    rows = _objects(sample)
    for index, box, difficult in rows:
        element = ElementTree.SubElement(root, "object")
        ElementTree.SubElement(element, "name").text = source.names[index]
        ElementTree.SubElement(element, "difficult").text = str(int(difficult))
        corners = ElementTree.SubElement(element, "bndbox")
        for key, value in zip(("xmin", "ymin", "xmax", "ymax"), box):
            ElementTree.SubElement(corners, key).text = f"{round(value, DIGITS) + 0.0:.12g}"
    ElementTree.indent(root)
    return ElementTree.ElementTree(root), len(rows)


def _objects(sample: Sample) -> list[tuple[int, list[float], bool]]:
    """Class, box xyxy in pixels and difficulty of each object that is no group."""
    if sample.truth is None:
        labels = sample.pixel_labels()
        return [(i, box, False) for i, box in zip(labels.classes.tolist(), labels.boxes.double().tolist())]
    truth = sample.truth
    kept = ~truth.crowd & (truth.boxes[:, 2:] > 0).all(1)
    corners = np.concatenate([truth.boxes[:, :2], truth.boxes[:, :2] + truth.boxes[:, 2:]], 1)[kept]
    return list(zip(truth.classes[kept].tolist(), corners.tolist(), truth.difficult[kept].tolist()))
