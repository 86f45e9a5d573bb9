"""One worker of the training loader on JPEG files: processor time by part, and who decodes quickest to the same bytes.

    python tests/bench/loader.py [data=FOLDER] [imgsz=640] [rounds=9] [images=32]
    python tests/bench/loader.py equal [data=FOLDER] [crops=500]

data: a folder with JPEG files at any depth; without it 32 photographs of 640x480 are drawn. The ways take turns in one
process on one thread; each time is the median of processor time for an image, so that busy neighbours count little.
`equal` compares the pixels of all files, of as many crops in random qualities and samplings, and of damaged ones, with
Pillow's. It ends with exit code 1 where a pixel differs or where only one of both reads a file.

Pillow's draft mode halves the sides of pictures that are at least twice imgsz while it decodes. Their tiles have other
pixels than the loader's, and smaller pictures gain nothing: it is not used. The tiles' mean difference is printed.
"""

from __future__ import annotations

import io
import random
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from bitfalcon_plugin.data.images import UnreadableImage, read_image, read_interleaved, read_picture, resize
from bitfalcon_plugin.data.loading.workers import Tiles, long_side
from bitfalcon_plugin.ops import jpeg


def photographs(folder: Path, count: int) -> None:
    """Draw pictures of 640x480 with coarse shapes and noise, in quality 90 as COCO's have it nearly."""
    generator = np.random.RandomState(0)
    for number in range(count):
        coarse = Image.fromarray(generator.randint(0, 256, (30, 40, 3), dtype=np.uint8))
        pixels = np.asarray(coarse.resize((640, 480), Image.Resampling.BICUBIC)) + generator.normal(0, 8, (480, 640, 1))
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"{number}.jpg", quality=90)


def size_of(path: Path) -> tuple[int, int]:
    with Image.open(path) as image:
        return image.height, image.width


def with_pillow(path: Path) -> torch.Tensor:
    """What the loader did before: Pillow, an array, planes."""
    return torch.from_numpy(np.array(read_picture(path))).permute(2, 0, 1).contiguous()


def drafted(path: Path, imgsz: int) -> torch.Tensor:
    with Image.open(path) as image:
        image.draft("RGB", tuple(-(-side * imgsz // max(image.size)) for side in image.size))
        return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)


def ways(files: list[Path], imgsz: int) -> dict[str, Callable[[], object]]:
    """Name -> a function that does this for all files."""
    sizes = {path: long_side(size_of(path), imgsz) for path in files}
    decoded = {path: read_interleaved(path) for path in files}
    tiles = Tiles([str(path) for path in files], [size_of(path) for path in files], imgsz)
    items = [tiles[index] for index in range(len(files))]

    def each(work: Callable[[Path], object]) -> Callable[[], object]:
        return lambda: [work(path) for path in files]

    return {
        "decode: Pillow to planes": each(with_pillow),
        "decode: Pillow alone": each(read_picture),
        "decode: read_interleaved": each(read_interleaved),
        "decode: Pillow's draft mode": each(lambda path: drafted(path, imgsz)),
        "resize": each(lambda path: resize(decoded[path], sizes[path]).contiguous()),
        "collate": lambda: Tiles.collate(items),
        "tile: Pillow to planes": each(lambda path: resize(with_pillow(path), sizes[path])),
        "tile: as the loader": lambda: [tiles[index] for index in range(len(files))],
    }


def measure(files: list[Path], imgsz: int, rounds: int) -> None:
    functions = ways(files, imgsz)
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for number in range(rounds + 1):
        for name, function in functions.items():
            start = time.process_time()
            function()
            if number:  # the first round warms up
                seconds[name].append((time.process_time() - start) / len(files))
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    for name, value in medians.items():
        before = medians.get(f"{name.partition(':')[0]}: Pillow to planes")
        print(
            f"{name:<28} {value * 1e3:6.2f} ms {1 / value:7.0f} images/s"
            + (f"{before / value:6.2f} times Pillow to planes" if before else "")
        )
    whole = [resize(read_image(path), long_side(size_of(path), imgsz)) for path in files]
    draft = [resize(drafted(path, imgsz), tuple(tile.shape[1:])) for path, tile in zip(files, whole)]
    means = [float((one.float() - other.float()).abs().mean()) for one, other in zip(whole, draft)]
    print(f"draft mode: tiles differ by {statistics.mean(means):.2f} grey levels on average")


def outcome(source: object) -> torch.Tensor | None:
    try:
        return read_image(source)
    except UnreadableImage:
        return None


def compare(kind: str, data: bytes, path: Path, counts: Counter) -> None:
    """Count whether a file and the same bytes in memory, which Pillow decodes, have the same pixels."""
    path.write_bytes(data)
    try:
        with Image.open(io.BytesIO(data)) as image:
            pillow = outcome(image)
    except Exception:  # Pillow raises errors of any class
        pillow = None
    ours = outcome(path)
    if pillow is None or ours is None:
        word = "both refuse" if pillow is ours else "ONE REFUSES"
    else:
        word = "equal" if torch.equal(pillow, ours) else "DIFFERENT"
    counts[kind, word] += 1


def equal(files: list[Path], crops: int) -> bool:
    """Whether all pixels agree; prints a count for each kind of file."""
    counts: Counter = Counter()
    chance = random.Random(0)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.jpg"
        for file in files:
            compare("as it is", file.read_bytes(), path, counts)
        for _ in range(crops):
            with Image.open(chance.choice(files)) as image:
                width, height = (chance.randint(1, min(side, 400)) for side in image.size)
                left, top = chance.randint(0, image.width - width), chance.randint(0, image.height - height)
                crop = image.convert("RGB").crop((left, top, left + width, top + height))
            quality = chance.randint(1, 100)
            for name, options in {
                "4:4:4": {"subsampling": 0},
                "4:2:2": {"subsampling": 1},
                "4:2:0": {"subsampling": 2},
                "progressive": {"progressive": True},
                "grey": {"mode": "L"},
                "cmyk": {"mode": "CMYK"},
            }.items():
                buffer = io.BytesIO()
                mode = options.pop("mode", "RGB")
                crop.convert(mode).save(buffer, "JPEG", quality=quality, **options)
                compare(name, buffer.getvalue(), path, counts)
            data = bytearray(buffer.getvalue() if chance.random() < 0.1 else _saved(crop, quality))
            compare("cut", bytes(data[: chance.randint(2, len(data))]), path, counts)
            for _ in range(3):
                data[chance.randrange(len(data) - 2)] = chance.randrange(256)
            compare("damaged", bytes(data), path, counts)
    for (kind, word), count in sorted(counts.items()):
        print(f"{kind:<12} {word:<12} {count}")
    return not any(word.isupper() for _, word in counts)


def _saved(picture: Image.Image, quality: int) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def main(
    command: str = "", data: str = "", imgsz: int = 640, rounds: int = 9, images: int = 32, crops: int = 500
) -> int:
    torch.set_num_threads(1)
    jpeg.FIRST = 0
    print(f"torch {torch.__version__}; torchvision's decoder is {'' if jpeg._decoder() else 'not '}used; imgsz {imgsz}")
    with tempfile.TemporaryDirectory() as scratch:
        if not data:
            photographs(Path(scratch), images)
        files = sorted(path for path in Path(data or scratch).rglob("*") if path.suffix.lower() in (".jpg", ".jpeg"))
        if command == "equal":
            return 0 if equal(files, crops) else 1
        measure(files[:: max(len(files) // images, 1)][:images], imgsz, rounds)
    return 0


if __name__ == "__main__":
    words = dict(word.split("=", 1) if "=" in word else ("command", word) for word in sys.argv[1:])
    sys.exit(main(**{key: int(value) if value.isdecimal() else value for key, value in words.items()}))
