"""The list of worst images: pairs as COCOeval makes them, the order, the table, and where the picture draws what."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bitfalcon_plugin.tasks.coco import coco_metrics
from bitfalcon_plugin.val.worst import FALSE, HEAD, HIT, MISS, SIDE, worst_images
from tests.helpers.finder import painted
from tests.helpers.labels import detections_of
from tests.helpers.pairs import counts_of_cocoeval
from tests.val.test_loop import NAMES, random_case, sample


def named(samples):
    return [replace(own, image=Path(f"{index:02}.png")) for index, own in enumerate(samples)]


@pytest.mark.parametrize("seed, conf", [(0, 0.05), (1, 0.35), (2, 0.55), (3, 0.05)])
def test_pairs_are_those_of_cocoeval(seed, conf):
    samples, detections = random_case(seed)
    samples = named(samples)
    worst = worst_images(samples, detections_of(detections), NAMES, conf=conf)
    certain = detections_of(detections[detections[:, 5] > conf])
    expected = counts_of_cocoeval(len(samples), lambda: coco_metrics(samples, certain, NAMES))
    found = {row["image"]: row for row in worst.summary()}
    for index, (labels, hits, false) in enumerate(expected.tolist()):
        if row := found.pop(f"{index:02}.png", None):
            assert (row["labels"], row["hits"], row["misses"], row["false_positives"]) == (
                labels,
                hits,
                labels - hits,
                false,
            )
        else:
            assert labels == hits and false == 0
    assert not found and worst.images == 12
    total = expected.sum(0)
    assert worst.totals == {"missed": total[0] - total[1], "false": total[2], "right": total[1]}


def case(*counts):
    """Samples with so many misses and false positives each, at 0.5 and more."""
    samples, rows = [], []
    for index, (misses, false) in enumerate(counts):
        samples.append(sample(Path(f"{index}.png"), (200, 200), [(0, 10 * k, 0, 10 * k + 8, 8) for k in range(misses)]))
        rows += [[index, 10 * k, 100, 8, 8, 0.9, 1] for k in range(false)] + [[index, 0, 0, 8, 8, 0.5, 0]]
    return samples, detections_of(rows)


@pytest.mark.parametrize(
    "counts, expected",
    [
        (
            [(0, 0), (1, 0), (0, 9), (5, 1), (4, 2)],
            "3 2 4 1",
        ),  # most misses, most false ones, then of those that are left
        ([(0, 1), (0, 3), (0, 2)], "1 2 0"),
        ([(1, 0), (3, 0), (2, 0)], "1 2 0"),  # only one kind of error
        ([(2, 2), (2, 3), (1, 3)], "1 2 0"),
        ([(3, 5), (0, 4), (1, 0)], "0 1 2"),
        ([(0, 0), (0, 0)], ""),
        ([], ""),
    ],
)
def test_misses_and_false_positives_take_turns(counts, expected):
    worst = worst_images(*case(*counts), NAMES, conf=0.5)  # what is found at 0.5 does not count
    assert " ".join(one.image.stem for one in worst.errors) == expected


def test_the_tables():
    labels = [(0, 0, 0, 50, 50), (2, 60, 60, 90, 90), (2, 100, 100, 130, 130)]
    rows = np.array(
        [[0, 0, 0, 50, 50, 0.9, 1], [0, 60, 60, 30, 30, 0.8, 2], [0, 0, 0, 50, 50, 0.3, 0]]
    )  # red taken for green
    worst = worst_images([sample(Path("a/x.png"), (200, 200), labels)], detections_of(rows), NAMES, conf=0.4)
    expected = {
        "image": "a/x.png".replace("/", str(Path("/"))[0]),
        "labels": 3,
        "hits": 1,
        "misses": 2,
        "false_positives": 1,
        "missed": "1 red, 1 blue",
        "found_wrongly": "1 green",
    }
    assert worst.summary() == [expected]
    assert [dict(row) for row in csv.DictReader(io.StringIO(worst.to_csv()))] == [
        {k: str(v) for k, v in expected.items()}
    ]
    assert json.loads(worst.to_json()) == [expected]
    title, head, line = worst.table().splitlines()
    assert "confidence 0.400 and IoU 0.50" in title and "1 of 1" in title
    assert head.split() == ["Labels", "Hits", "Misses", "False", "Image"] and line.split() == [
        "3",
        "1",
        "2",
        "1",
        "x.png",
    ]
    assert "none of 2 has an error" in worst_images(*case((0, 0), (0, 0)), NAMES, conf=0.5).table()


def test_ten_lines_are_printed_and_all_are_in_the_file():
    worst = worst_images(*case(*[(1, 0)] * 15), NAMES, conf=0.5)
    assert len(worst.table().splitlines()) == 12 and len(worst.to_csv().splitlines()) == 16


def extent(picture, colour, inside):
    """x1, y1, x2, y2 of the pixels of a colour in a region of a picture, or None."""
    wanted = [int(colour[place : place + 2], 16) for place in (1, 3, 5)]
    ys, xs = (np.asarray(picture.crop(inside)) == wanted).all(2).nonzero()
    return (xs.min(), ys.min(), xs.max(), ys.max()) if len(xs) else None


def test_the_picture(tmp_path):
    size, ratio, top = (240, 120), SIDE / 240, SIDE // 4  # fills the cell from left to right
    boxes = [(0, 20, 20, 60, 60), (1, 100, 20, 140, 60)]
    paths = [painted(tmp_path / f"{name}.png", size, []) for name in "ab"]
    samples = [sample(path, size, boxes) for path in paths]
    rows = np.array([[0, 20, 20, 40, 40, 0.9, 0], [0, 180, 60, 40, 40, 0.9, 2], [1, 20, 20, 40, 40, 0.9, 0]])
    picture = worst_images(samples, detections_of(rows), NAMES, conf=0.5).draw()
    assert picture.size == (2 * SIDE, HEAD + SIDE)
    for cell, has_false in ((0, True), (1, False)):
        inside = (cell * SIDE, HEAD, (cell + 1) * SIDE, HEAD + SIDE - 25)  # without the caption
        for colour, box in (
            (HIT, (20, 20, 60, 60)),
            (MISS, (100, 20, 140, 60)),
            (FALSE, (180, 60, 220, 100) if has_false else None),
        ):
            found = extent(picture, colour, inside)
            if box is None:
                assert found is None
                continue
            x1, y1, x2, y2 = box
            expected = (x1 * ratio, y1 * ratio + top, x2 * ratio, y2 * ratio + top)
            slack = (1, 17 if colour == FALSE else 1, 30 if colour == FALSE else 1, 1)  # its name and score stand above
            assert all(abs(a - b) <= most for a, b, most in zip(found, expected, slack, strict=True)), (
                colour,
                found,
                expected,
            )


def test_an_image_that_is_gone_leaves_a_cell_that_says_so(tmp_path):
    there = painted(tmp_path / "a.png", (64, 64), [])
    samples = [sample(path, (64, 64), [(0, 5, 5, 30, 30)]) for path in (there, tmp_path / "gone.png")]
    picture = worst_images(samples, detections_of(np.zeros((0, 7))), NAMES, conf=0.5).draw()
    cell = (SIDE, HEAD, 2 * SIDE, HEAD + SIDE)
    assert extent(picture, MISS, (0, HEAD, SIDE, HEAD + SIDE)) and extent(picture, MISS, cell) is None
    assert extent(picture, "#ffffff", (SIDE + 4, HEAD + SIDE // 2 - 5, SIDE + 300, HEAD + SIDE // 2 + 25))  # words


def test_no_more_than_twelve_are_drawn_and_odd_names_too(tmp_path):
    path = painted(tmp_path / "鳥 ö.png", (1000, 10), [])
    samples = [sample(path, (1000, 10), [(0, 0, 0, 999, 9)])] * 14
    assert worst_images(samples, detections_of(np.zeros((0, 7))), {0: "猫\nß"}, conf=0.5).draw().size == (
        4 * SIDE,
        HEAD + 3 * SIDE,
    )
    assert isinstance(worst_images([], detections_of(np.zeros((0, 7))), NAMES, conf=0.5).draw(), Image.Image)
