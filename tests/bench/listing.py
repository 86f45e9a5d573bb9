"""A dataset of many images: seconds of the first and the second start, and the memory of the program and of a reader.

    python tests/bench/listing.py [images=100000] [format=yolo|coco|voc] [workers=2]

A few tiny pictures are drawn and hard-linked as often as asked, three labels each. Each start is a new process: it
loads the YAML, scans the split, and reads 100 batches with `workers` readers. `reader` is the memory that a reader has
for itself (Linux: Private_Dirty). It is to be the same for 3200 images and for `images`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from PIL import Image

SIDE = 64
BOXES = ((8, 8, 20, 24), (30, 10, 18, 12), (12, 40, 30, 16))  # left, top, width, height in pixels


def draw(root: Path, count: int, form: str) -> Path:
    """Write a dataset of `count` images; returns its YAML."""
    images = root / "images"
    images.mkdir(parents=True)
    originals = []
    for number in range(-(-count // 20_000)):  # a file has a limited number of links
        original = root / f"{number}.jpg"
        Image.new("RGB", (SIDE, SIDE), (90, 120, number % 255)).save(original)
        os.utime(original, (10**9, 10**9))
        originals.append(original)
    names = [f"{number:07d}" for number in range(count)]
    for number, name in enumerate(names):
        os.link(originals[number // 20_000], images / f"{name}.jpg")
    {"yolo": write_rows, "coco": write_json, "voc": write_xml}[form](root, names)
    entry = "annotations.json" if form == "coco" else "images"
    text = f"format: {form}\ntrain: {entry}\nval: {entry}\nnames: [thing]\n"
    (root / "data.yaml").write_text(text)
    return root / "data.yaml"


def write_rows(root: Path, names: list[str]) -> None:
    shares = [[(x + w / 2) / SIDE, (y + h / 2) / SIDE, w / SIDE, h / SIDE] for x, y, w, h in BOXES]
    text = "".join(f"0 {' '.join(map(str, row))}\n" for row in shares)
    write_each(root / "labels", names, ".txt", text)


def write_xml(root: Path, names: list[str]) -> None:
    corners = [{"xmin": x, "ymin": y, "xmax": x + w, "ymax": y + h} for x, y, w, h in BOXES]
    boxes = ["".join(f"<{key}>{value}</{key}>" for key, value in box.items()) for box in corners]
    objects = "".join(f"<object><name>thing</name><bndbox>{box}</bndbox></object>" for box in boxes)
    text = f"<annotation><size><width>{SIDE}</width><height>{SIDE}</height></size>{objects}</annotation>"
    write_each(root / "Annotations", names, ".xml", text)


def write_each(folder: Path, names: list[str], suffix: str, text: str) -> None:
    folder.mkdir()
    for number, name in enumerate(names):
        path = folder / f"{name}{suffix}"
        if number % 20_000:
            os.link(folder / f"{names[number - number % 20_000]}{suffix}", path)
        else:
            path.write_text(text)
            os.utime(path, (10**9, 10**9))


def write_json(root: Path, names: list[str]) -> None:
    x = [[left, top, left + width, top, left + width, top + height] for left, top, width, height in BOXES]
    pairs = [(number, place) for number in range(len(names)) for place in range(len(BOXES))]
    annotations = [
        {
            "id": at + 1,
            "image_id": number,
            "category_id": 1,
            "bbox": BOXES[place],
            "segmentation": [x[place]],
            "area": 9,
        }
        for at, (number, place) in enumerate(pairs)
    ]
    images = [{"id": at, "file_name": f"{name}.jpg", "width": SIDE, "height": SIDE} for at, name in enumerate(names)]
    content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "thing"}]}
    (root / "annotations.json").write_text(json.dumps(content))
    os.utime(root / "annotations.json", (10**9, 10**9))


def memory(process: int | str, name: str) -> float:
    """MiB of a process, by its line in smaps_rollup; nan elsewhere than on Linux."""
    try:
        lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
        return sum(int(line.split()[1]) for line in lines if line.startswith(name)) / 1024
    except OSError:
        return float("nan")


def start(path: Path, workers: int) -> None:
    """One start: load, scan, read. Prints a line of JSON."""
    from bitfalcon_plugin.data.dataset import scan
    from bitfalcon_plugin.data.formats.dataset_yaml import load_data
    from bitfalcon_plugin.data.loading.loader import Reading, ValLoader

    before, began = memory("self", "Rss:"), time.perf_counter()
    samples = scan(load_data(path), "train").samples
    seconds, after = time.perf_counter() - began, memory("self", "Rss:")
    loader = ValLoader(samples, Reading(workers=workers), imgsz=64, batch=32, multiple=32)
    readers, passed = [], 0
    for passed, _ in enumerate(loader, 1):  # noqa: B007
        if passed == 100:
            pids = [worker.pid for worker in loader._loader._iterator._workers]
            readers = [memory(pid, "Private_Dirty:") for pid in pids]
            break
    print(json.dumps({"seconds": seconds, "scan": after - before, "reader": max(readers, default=float("nan"))}))
    sys.stdout.flush()
    os._exit(0)  # readers are busy


def main() -> None:
    words = dict(word.split("=", 1) for word in sys.argv[1:] if "=" in word)
    workers = int(words.get("workers", 2))
    if "start" in words:
        start(Path(words["start"]), workers)
    count = int(words.get("images", 100_000))
    for form in words.get("format", "yolo,coco,voc").split(","):
        with tempfile.TemporaryDirectory() as folder:
            for size in (3200, count):
                path = draw(Path(folder) / str(size), size, form)
                environment = {**os.environ, "BITFALCON_CACHE": str(Path(folder) / "cache")}
                command = [sys.executable, __file__, f"start={path}", f"workers={workers}"]
                for name in ("first", "second"):
                    output = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
                    numbers = json.loads(output.splitlines()[-1])
                    line = f"{form:>5} {size:>8} images, {name:>6} start: {numbers['seconds']:6.1f} s, "
                    line += f"{numbers['scan']:6.0f} MiB for the listing, {numbers['reader']:4.0f} MiB a reader"
                    print(line, flush=True)


if __name__ == "__main__":
    main()
