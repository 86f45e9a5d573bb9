"""What a trained segmentation model predicts and measures on real images, against the recorded numbers."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace

import pytest
import torch
from pycocotools import mask as rle

from bitfalcon_plugin.data.dataset import scan
from bitfalcon_plugin.data.formats.dataset_yaml import load_data
from bitfalcon_plugin.ops.encoded_masks import EncodedMasks
from bitfalcon_plugin.ops.instances import Instances
from bitfalcon_plugin.tasks.segment import evaluate_segments, read_segment
from bitfalcon_plugin.yolo import YOLO
from tests.helpers.paths import RECORDED, SHARED

WEIGHTS, DATA = SHARED / "checkpoints/v1-n-seg-nuclei-best.pt", SHARED / "datasets/nuclei"
RECORD = json.loads(gzip.decompress((RECORDED / "segment.json.gz").read_bytes()))["predict-nuclei"]
pytestmark = pytest.mark.skipif(not WEIGHTS.is_file(), reason=f"needs {WEIGHTS.name} of ../shared")


@pytest.fixture(scope="module")
def model() -> YOLO:
    return YOLO(WEIGHTS)


def recorded_masks(entry: dict, size) -> torch.Tensor:
    codes = [code if isinstance(code, dict) else {"size": list(size), "counts": code} for code in entry["rle"]]
    return torch.from_numpy(rle.decode(codes)).permute(2, 0, 1).bool()


@pytest.mark.parametrize("retina", [False, True], ids=["default", "retina"])
@pytest.mark.parametrize("record", RECORD["images"], ids=lambda record: record["file"].split("/")[-1])
def test_predictions_are_the_recorded_ones(model, record, retina):
    entry = record["retina" if retina else "default"]
    path = DATA / record["file"]
    result = model.predict(path, imgsz=RECORD["imgsz"], conf=0.25, iou=0.7, retina_masks=retina, verbose=False)[0]
    expected = torch.tensor(entry["xyxy_conf_cls"])
    assert len(result) == len(expected)
    unresized = max(record["orig_shape"]) == RECORD["imgsz"]
    px, score, iou = (1e-3, 1e-4, 0.99) if unresized else (0.3, 0.01, 0.9 if retina else 0.98)
    masks = recorded_masks(entry, result.masks.data.shape[1:])
    if unresized:
        order = torch.arange(len(expected))
    else:
        order = torch.cdist(result.boxes.xyxy.double(), expected[:, :4].double()).argmin(0)
    torch.testing.assert_close(result.boxes.xyxy[order], expected[:, :4], atol=px, rtol=0)
    torch.testing.assert_close(result.boxes.conf[order], expected[:, 4], atol=score, rtol=0)
    assert result.boxes.cls[order].tolist() == expected[:, 5].tolist()
    found = result.masks.data[order].bool()
    overlap = (found & masks).flatten(1).sum(1) / (found | masks).flatten(1).sum(1)
    assert overlap.min() >= iou, overlap


def test_coco_numbers_are_the_recorded_ones(model):
    """COCO's numbers on the predict path: one label a box, minimal rectangles, masks in the size of the image."""
    samples = scan(load_data(DATA / "data.yaml"), "val", read=read_segment).samples
    paths = [str(sample.image) for sample in samples]
    results = model.predict(paths, imgsz=RECORD["imgsz"], conf=0.001, iou=0.7, retina_masks=True, verbose=False)
    parts = []
    for image, result in enumerate(results):
        found = Instances.from_rows(result.boxes.data)
        masks = EncodedMasks.of(result.masks.data.bool()) if result.masks is not None else EncodedMasks([])
        parts.append(replace(found, image=torch.full_like(found.classes, image), encoded_masks=masks))
    metrics = evaluate_segments(samples, Instances.cat(parts), result.names, conf=0.25)
    for stats, name in ((metrics.stats, "bbox"), (metrics.mask_stats, "segm_retina")):
        recorded = RECORD["cocoeval"][name]
        for (key, value), expected in zip(stats.items(), recorded, strict=True):
            assert expected == -1 or value == pytest.approx(expected, abs=0.003), (name, key)
