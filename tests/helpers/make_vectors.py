"""Copy what the tests need of the recorded conformance numbers into tests/data/recorded/conformance.json.gz.

Run by hand: python tests/helpers/make_vectors.py <folder of the recorded vectors>. Of layers and outputs every recorded
sample is copied; of the state dict its keys and shapes.
"""

from __future__ import annotations

import gzip
import json
import sys
from pathlib import Path

from tests.helpers.paths import RECORDED

MODELS = (
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
)
SHAPES_ONLY = ("turbo-n-seg", "turbo-l-seg", "turbo-n-cls")


def main() -> None:
    source = Path(sys.argv[1])
    vectors = {name: json.loads((source / f"{name}.json").read_text()) for name in MODELS}
    for name in SHAPES_ONLY:
        vectors[name] = {"state_dict": json.loads((source / f"{name}.json").read_text())["state_dict"]}
    target = RECORDED / "conformance.json.gz"
    text = json.dumps(vectors, separators=(",", ":")).encode()
    target.write_bytes(gzip.compress(text, 9, mtime=0))
    print(target, target.stat().st_size)


if __name__ == "__main__":
    main()
