"""Copy what the tests need of the recorded conformance numbers into tests/data/recorded/<group>.json.gz.

Run by hand: python -m tests.helpers.make_vectors <folder of the recorded vectors>. Of the models of other tasks in
SHAPES_ONLY, conformance.json.gz gets the keys and shapes of the state dict alone. results.json: what recorded results
of single images hold.
"""

from __future__ import annotations

import gzip
import json
import sys
from pathlib import Path

from tests.helpers.paths import RECORDED

GROUPS = {
    "conformance": (
        "v1-n",
        "v1-s",
        "v1-l",
        "turbo-n",
        "turbo-m",
        "turbo-l",
        "yolo11-n",
        "yolov8-n",
        "checkpoint-turbo-n",
        "checkpoint-v1-n-released-layout",
    ),
    "segment": (
        "v1-n-seg",
        "turbo-n-seg",
        "turbo-l-seg",
        "yolo11-n-seg",
        "yolov8-n-seg",
        "segment-loss",
        "segment-decode",
        "predict-nuclei",
    ),
    "obb": (
        "obb-geometry",
        "probiou",
        "rotated-nms",
        "obb-loss",
        "pose-obb-decode",
        "pose-obb-labels",
        "obb-map",
        "predict-hituav",
    ),
    "pose-obb-models": ("v1-n-pose", "v1-n-obb", "yolov8-n-pose", "yolov8-n-obb"),
    "pose": ("keypoints", "pose-loss", "pose-map", "predict-gluetubes"),
    "classify": ("v1-n-cls", "turbo-n-cls", "yolo11-n-cls", "yolov8-n-cls", "classify", "predict-signs"),
}
SHAPES_ONLY = ("turbo-n-seg", "turbo-l-seg", "turbo-n-cls")


def main() -> None:
    source = Path(sys.argv[1])
    for group, names in GROUPS.items():
        vectors = {name: json.loads((source / f"{name}.json").read_text()) for name in names}
        if group == "conformance":
            for name in SHAPES_ONLY:
                vectors[name] = {"state_dict": json.loads((source / f"{name}.json").read_text())["state_dict"]}
        target = RECORDED / f"{group}.json.gz"
        text = json.dumps(vectors, separators=(",", ":")).encode()
        target.write_bytes(gzip.compress(text, 9, mtime=0))
        print(target, target.stat().st_size)
    write_results(source)


def write_results(source: Path) -> None:
    """Write the recorded results of pose, oriented boxes, classification and segmentation: values, texts, outlines."""
    pose_obb, classify, segment = (
        json.loads((source / f"{name}.json").read_text()) for name in ("pose-obb-results", "classify", "segment-decode")
    )
    masks = [
        {"name": f"{case['name']} {kind}", "original": case["original"], **case[kind]}
        for case in segment["decode"]
        for kind in ("default", "retina")
    ]
    target = RECORDED / "results.json"
    content = {"pose_obb": pose_obb, "probs": classify["results"], "masks": masks}
    target.write_text(json.dumps(content, separators=(",", ":")) + "\n")
    print(target, target.stat().st_size)


if __name__ == "__main__":
    main()
