"""A folder as people have it beside their scripts: weights, data.yaml with images and labels, pictures, a clip."""

from __future__ import annotations

import random
from pathlib import Path

import yaml

from tests.helpers.coloured import GRAPH
from tests.helpers.finder import painted

NAMES = ("red", "green", "blue")
WIDTH, HEIGHT = 64, 48
Box = tuple[int, int, int, int, int]  # class, x1, y1, x2, y2 in pixels, ends outside

# image.jpg
SCENE: list[Box] = [(0, 6, 8, 24, 30), (1, 38, 4, 58, 20), (2, 30, 27, 48, 43)]
# large.jpg, 128 x 96: no box crosses a line between the four tiles of 64 x 48
LARGE: list[Box] = [
    (0, 8, 8, 28, 30),
    (1, 80, 10, 104, 32),
    (2, 20, 60, 42, 84),
    (0, 90, 62, 112, 80),
    (1, 44, 14, 60, 36),
]
FRAMES = 17


def clip(frame: int) -> list[Box]:
    """The boxes of a frame of the clip: red goes to the right and crosses x = 32, blue goes to the left below."""
    return [(0, 2 + 2 * frame, 4, 22 + 2 * frame, 20), (2, 42 - 2 * frame, 26, 62 - 2 * frame, 44)]


def scene(draw: random.Random, count: int) -> list[Box]:
    """At most `count` boxes of different classes that do not touch."""
    boxes: list[Box] = []
    for cls in draw.sample(range(3), count):
        for _ in range(20):
            w, h = draw.randint(12, 28), draw.randint(12, 28)
            x, y = draw.randint(0, WIDTH - w), draw.randint(0, HEIGHT - h)
            if all(x >= b[3] + 2 or y >= b[4] + 2 or x + w + 2 <= b[1] or y + h + 2 <= b[2] for b in boxes):
                boxes.append((cls, x, y, x + w, y + h))
                break
    return boxes


def label_lines(boxes: list[Box]) -> str:
    """The label file of an image with these boxes."""
    rows = (
        (c, (a + x) / 2 / WIDTH, (b + y) / 2 / HEIGHT, (x - a) / WIDTH, (y - b) / HEIGHT) for c, a, b, x, y in boxes
    )
    return "\n".join(" ".join(map(str, row)) for row in rows)


def lay_out(folder: Path) -> None:
    """Write all but best.pt: two graphs, a dataset, image.jpg, large.jpg, photos/, frames/ and truth.txt."""
    draw = random.Random(0)
    (folder / "small.yaml").write_text(GRAPH)
    (folder / "larger.yaml").write_text(
        GRAPH.replace("[64, False]", "[64, True]").replace("[256, 3, 2]", "[192, 3, 2]")
    )
    for split, count in (("train", 64), ("val", 12)):
        (folder / f"labels/{split}").mkdir(parents=True)
        for index in range(count):
            boxes = scene(draw, 1 + index % 3)
            painted(folder / f"images/{split}/{index}.png", (WIDTH, HEIGHT), boxes)
            (folder / f"labels/{split}/{index}.txt").write_text(label_lines(boxes))
    (folder / "data.yaml").write_text(
        yaml.safe_dump({"path": ".", "train": "images/train", "val": "images/val", "names": dict(enumerate(NAMES))})
    )
    jpeg = {"quality": 95, "subsampling": 0}
    painted(folder / "image.jpg", (WIDTH, HEIGHT), SCENE, **jpeg)
    painted(folder / "large.jpg", (2 * WIDTH, 2 * HEIGHT), LARGE, **jpeg)
    for index in range(4):
        painted(folder / f"photos/{index}.jpg", (WIDTH, HEIGHT), photo(index), **jpeg)
    for index in range(FRAMES):
        painted(folder / f"frames/{index:03d}.png", (WIDTH, HEIGHT), clip(index))
    (folder / "truth.txt").write_text("\n".join(" ".join(map(str, box)) for box in SCENE))


def photo(index: int) -> list[Box]:
    """The boxes of photos/INDEX.jpg: of image.jpg the first, all but the last, all, and the last."""
    return [SCENE[:1], SCENE[:2], SCENE, SCENE[2:]][index]
