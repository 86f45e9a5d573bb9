"""Rows with keypoints in a detection dataset are refused; genuine polygons never are."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from bitfalcon_plugin.config.errors import UserError
from bitfalcon_plugin.data import shapes
from bitfalcon_plugin.data.dataset import scan
from bitfalcon_plugin.data.doctor.report import examine
from bitfalcon_plugin.data.doctor.survey import survey
from bitfalcon_plugin.data.formats.dataset_yaml import load_data
from bitfalcon_plugin.data.formats.keypoint_rows import count_visible_keypoints, looks_like_keypoints
from tests.helpers.paths import SHARED
from tests.helpers.tiny_dataset import MINIMAL, dataset

POSE = "0 0.5 0.5 0.2 0.2 0.45 0.45 0.55 0.45 0.5 0.55"  # class, box and three keypoints


def rows_of(name: str) -> list[list[float]]:
    """The numbers behind the class of all label rows of a shared dataset."""
    files = sorted((SHARED / "datasets" / name / "labels").rglob("*.txt"))
    rows = [list(map(float, line.split()[1:])) for file in files for line in file.read_text().splitlines()]
    assert rows
    return rows


def without_visibility(row: list[float]) -> list[float]:
    return row[:4] + [value for at, value in enumerate(row[4:]) if at % 3 < 2]


needs_shared = pytest.mark.skipif(not (SHARED / "datasets").is_dir(), reason="the shared datasets are not here")


@needs_shared
def test_genuine_polygons_do_not_look_like_keypoints():
    polygons = [row for row in rows_of("nuclei") if len(row) > 4]
    assert len(polygons) > 2000 and not any(map(looks_like_keypoints, polygons))


def test_outlines_of_shapes_hardly_ever_look_like_keypoints():
    random, outlines = np.random.RandomState(0), []
    for _ in range(100):
        for shape in shapes.arrange(random, (240, 320)):
            outline = (shape.outline / (320, 240)).clip(0, 1)
            outline = np.roll(outline, random.randint(len(outline)), axis=0)[:: random.choice([-1, 1])]
            outlines.append(outline.flatten().tolist())
    assert len(outlines) > 300 and sum(map(looks_like_keypoints, outlines)) < 0.02 * len(outlines)


@needs_shared
@pytest.mark.parametrize("name", ["gluetubes", "mirrormouse"])
def test_real_keypoints_look_like_keypoints(name):
    rows = rows_of(name)
    assert all(count_visible_keypoints(row) == (len(row) - 4) // 3 for row in rows)
    assert all(map(looks_like_keypoints, rows))
    bare = list(map(without_visibility, rows))
    assert sum(map(looks_like_keypoints, bare)) > 0.9 * len(bare)


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        (POSE, True),
        ("0 0.5 0.5 0.2 0.2 0.45 0.45 0 0 0.5 0.55", True),  # the second keypoint has no label
        ("0 0.5 0.5 0.2 0.2 0.45 0.45 0.55 0.45 0.5 0.65", False),  # the third lies outside the box
        ("0 0.05 0.5 0.2 0.2 0.02 0.45 0.1 0.45", False),  # a box beyond the image
        ("0 0.3 0.3 0.5 0.5 0.4 0.45 0.3 0.4 0.5 0.2 0.1 0.1", True),  # (w, h) lies inside the box; its sides cross
        ("0 0.5 0.5 0.52 0.5 0.52 0.53 0.5 0.53", False),  # a small square
        ("0 0.5 0.5 0.2 0.2 0.45 0.45 1 0.55 0.45 1", True),  # x y visibility
        ("0 0.4 0.3 0.4 0.6 0.8 0.6 0.8 0.3", False),  # a large square
        ("0 0.5 0.61 0.51 0.4 0.58 0.403 0.57 0.613", False),  # an upright bar in the middle
        ("0 0.4 0.4 0.6 0.6 0.4 0.6 0.6 0.4", False),  # a rectangle with crossed corners
        ("0 0.4 0.4 0.6 0.6 0.45 0.6 0.6 0.4", True),
    ],
)
def test_what_looks_like_keypoints(row, expected):
    assert looks_like_keypoints(list(map(float, row.split()[1:]))) is expected


def test_visible_keypoints_are_counted_only_where_no_polygon_can_be():
    assert count_visible_keypoints([0.5, 0.5, 0.2, 0.2, 0.5, 0.5, 1]) == 1  # an even number of columns
    assert count_visible_keypoints([0.5, 0.5, 0.2, 0.2, 0.5, 0.5, 2, 0.4, 0.4, 0]) == 2
    assert count_visible_keypoints([0.5, 0.5, 0.2, 0.2, 0.5, 0.5, 1, 0.4, 0.4, 0]) == 0  # perhaps five points
    assert count_visible_keypoints([0.5, 0.5, 0.2, 0.2, 0.5, 0.5, 0.3]) == 0
    assert count_visible_keypoints([0.5, 0.5, 0.2, 0.2]) == 0


def test_rows_with_keypoints_are_refused_with_file_and_line(tmp_path):
    path = dataset(tmp_path, {"a": f"0 0.5 0.5 0.2 0.2\n\n{POSE}\n", "b": "0 0.1 0.1 0.1 0.1\n"})
    with pytest.raises(UserError) as caught:
        scan(load_data(path), "train")
    text = str(caught.value)
    assert f"{tmp_path / 'labels' / 'train' / 'a.txt'}:3: 11 columns look like class, box and keypoints" in text
    assert "kpt_shape" in text and "first 5 columns" in text and "b.txt" not in text
    (finding,) = (finding for finding in examine(survey(path), 640).findings if finding.kind == "keypoints")
    assert finding.severity == "error" and len(finding.items) == 1 and "a.txt:3" in finding.items[0]


def test_visibility_is_told_from_coordinates(tmp_path):
    visible = "0 0.5 0.5 0.2 0.2 0.45 0.45 2 0.55 0.45 2"
    path = dataset(tmp_path, {"a": visible, "b": f"{visible} 0 0 0"})  # 11 columns and 14
    with pytest.raises(UserError) as caught:
        scan(load_data(path), "train")
    assert "11 columns look like class, box and 2 keypoints (x y visibility)" in str(caught.value)
    assert "14 columns look like class, box and 3 keypoints" in str(caught.value)
    assert "outside the image" not in str(caught.value)
    kinds = {finding.kind for finding in examine(survey(path), 640).findings}
    assert "keypoints" in kinds and not kinds & {"malformed", "outside"}


def test_a_few_polygons_that_look_like_keypoints_are_polygons(tmp_path):
    square = "0 0.4 0.3 0.4 0.6 0.8 0.6 0.8 0.3 0.6 0.25\n"
    path = dataset(tmp_path, {"a": square + POSE, "b": "1 0.1 0.2 0.5 0.2 0.3 0.6\n"})
    assert scan(load_data(path), "train").polygons == 3
    assert not any(finding.kind == "keypoints" for finding in examine(survey(path), 640).findings)


def test_with_kpt_shape_the_number_of_columns_decides(tmp_path):
    pose = "0 0.4 0.3 0.4 0.6 0.8 0.6 0.8 0.3"
    sound = "0 0.1 0.2 0.5 0.2 0.3 0.6"
    keys = {**MINIMAL, "kpt_shape": [2, 2]}
    path = dataset(tmp_path, {"a": f"{sound}\n{pose}\n{sound} 0.2 0.5 0.1 0.4\n"}, keys)
    labels = scan(load_data(path), "train").samples[0].labels
    assert labels.has_polygon.tolist() == [True, False, True]
    assert labels.boxes[1].tolist() == pytest.approx([0.2, 0, 0.6, 0.6])


@pytest.mark.parametrize("wrong", [17, [17], [0, 2], [17, 4], [17.0, 3], [True, 2], "17, 3"])
def test_a_kpt_shape_that_is_none_is_refused(tmp_path, wrong):
    with pytest.raises(UserError, match="kpt_shape"):
        load_data(dataset(tmp_path, keys={**MINIMAL, "kpt_shape": wrong}))


@needs_shared
@pytest.mark.parametrize("split", ["train", "val"])
def test_shared_datasets_of_polygons_are_read_and_those_of_keypoints_refused(split):
    assert scan(load_data(SHARED / "datasets" / "nuclei"), split).polygons > 100
    for name in ("gluetubes", "mirrormouse"):
        data = replace(load_data(SHARED / "datasets" / name), keypoints=None)
        with pytest.raises(UserError, match="class, box and . keypoints"):
            scan(data, split)


@needs_shared
@pytest.mark.parametrize("name", ["gluetubes", "mirrormouse"])
def test_keypoints_without_visibility_are_refused(tmp_path, name):
    rows = [without_visibility(row) for row in rows_of(name)]
    labels = {f"{index:03d}": f"0 {' '.join(map(str, row))}\n" for index, row in enumerate(rows)}
    keypoints = (len(rows[0]) - 4) // 2
    path = dataset(tmp_path, labels)
    with pytest.raises(UserError, match=f"{5 + 2 * keypoints} columns look like class, box and keypoints"):
        scan(load_data(path), "train")


def test_chance_resemblance_is_rare():
    random = np.random.RandomState(0)
    for points, limit in ((3, 0.03), (6, 0.01), (12, 0.001)):
        polygons = []
        for _ in range(3000):
            angles = np.sort(random.uniform(0, 2 * math.pi, points))
            radii = random.uniform(0.5, 1, points) * math.exp(random.uniform(math.log(0.01), math.log(0.5)))
            outline = np.stack((np.cos(angles), np.sin(angles)), axis=1) * radii[:, None] + random.uniform(0, 1, 2)
            polygons.append(outline.clip(0, 1).flatten().tolist())
        assert sum(map(looks_like_keypoints, polygons)) <= limit * len(polygons)
