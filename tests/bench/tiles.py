"""Memory and time of prediction in tiles on pictures of growing size: `python -m tests.bench.tiles [--format tif]`.

Each picture is generated, and predicted by a process of its own with a small network. Prints the peak of its memory
above that before the prediction, the seconds, and the seconds for each megapixel. Linux tells the peak; .tif needs
rasterio.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

GRAPH = """
nc: 3
backbone:
  - [-1, 1, Conv, [16, 3, 2]]
  - [-1, 1, Conv, [32, 3, 2]]
  - [-1, 1, Conv, [32, 3, 2]]
head:
  - [[2], 1, Detect, [nc]]
"""
SIDES = (1_000, 5_000, 20_000)


def generate(path: Path, side: int) -> None:
    """Write a picture of side x side px, bright squares on noise; compressed ones with rasterio or Pillow."""
    draw = np.random.default_rng(0)
    columns = (np.arange(side) // 40 % 7 == 0)[None, :, None]
    band = draw.integers(0, 60, (280, side, 3), dtype=np.uint8)  # the pattern has a period of 280 px
    band += (columns & (np.arange(280) // 40 % 7 == 0)[:, None, None]).astype(np.uint8) * 150
    bands = [(y, band[: min(280, side - y)]) for y in range(0, side, 280)]
    if path.suffix == ".tif":
        import rasterio

        options = {"compress": "deflate", "tiled": True, "photometric": "RGB", "dtype": "uint8", "count": 3}
        with rasterio.open(path, "w", driver="GTiff", width=side, height=side, **options) as file:
            for y, rows in bands:
                file.write(rows.transpose(2, 0, 1), window=((y, y + len(rows)), (0, side)))
    elif path.suffix in (".png", ".jpg"):
        Image.fromarray(np.concatenate([rows for _, rows in bands])).save(path)
    else:
        with open(path, "wb") as file:
            if path.suffix == ".ppm":
                file.write(f"P6 {side} {side} 255\n".encode())
            else:
                layout = {"descr": "|u1", "fortran_order": False, "shape": (side, side, 3)}
                np.lib.format.write_array_header_1_0(file, layout)
            for _, rows in bands:
                file.write(rows.tobytes())


def peak_megabytes() -> float:
    """The peak of the memory of this process since `forget_peak`."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def measure(path: Path, tile: int, imgsz: int) -> None:
    """Predict one picture, and print megabytes above the start, and seconds."""
    import torch

    from bitfalcon_plugin import YOLO

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        graph = Path(folder) / "small.yaml"
        graph.write_text(GRAPH)
        model = YOLO(graph)
        options = {"imgsz": imgsz, "tile": tile, "conf": 0.5, "device": "cpu", "verbose": False}
        model.predict(np.zeros((3 * tile, 3 * tile, 3), np.uint8), **options)
        forget_peak()
        before, start = peak_megabytes(), time.perf_counter()
        (result,) = model.predict(path, **options)
        seconds = time.perf_counter() - start
    height, width = result.orig_shape
    megapixels = height * width / 1e6
    print(
        f"{width}x{height} {path.suffix}: {peak_megabytes() - before:.0f} MB above {before:.0f} MB, {seconds:.1f} s, "
        f"{seconds / megapixels:.3f} s a megapixel, {len(result)} detections"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--format", default="ppm", choices=("ppm", "npy", "tif", "png", "jpg"))
    parser.add_argument("--sides", type=int, nargs="+", default=SIDES)
    parser.add_argument("--tile", type=int, default=1024)
    parser.add_argument("--imgsz", type=int, default=320)
    parser.add_argument("--measure", type=Path)
    given = parser.parse_args()
    if given.measure:
        measure(given.measure, given.tile, given.imgsz)
        return
    with tempfile.TemporaryDirectory() as folder:
        for side in given.sides:
            path = Path(folder) / f"{side}.{given.format}"
            generate(path, side)
            words = ["--measure", str(path), "--tile", str(given.tile), "--imgsz", str(given.imgsz)]
            subprocess.run([sys.executable, "-m", "tests.bench.tiles", *words], check=True)
            path.unlink()


if __name__ == "__main__":
    main()
