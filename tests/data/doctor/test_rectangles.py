"""What doctor says of oriented boxes: problems planted one by one in a sound dataset."""

from __future__ import annotations

import math

import pytest
import torch

from bitfalcon_plugin.cli import main
from bitfalcon_plugin.data.doctor.rectangles import Rectangles
from bitfalcon_plugin.data.doctor.report import examine
from bitfalcon_plugin.data.doctor.survey import survey
from bitfalcon_plugin.data.formats.obb_rows import read_obb
from bitfalcon_plugin.ops.instances import Instances
from bitfalcon_plugin.ops.polygons import Polygons
from tests.data.doctor.test_doctor import put
from tests.helpers.tiny_dataset import MINIMAL, write_yaml

SIZE = (64, 48)  # (w, h) of the images


def row(cls, x, y, w, h, degrees) -> str:
    """A label row of a rectangle in pixels; corners computed here, by hand."""
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    ends = [(w / 2, h / 2), (w / 2, -h / 2), (-w / 2, -h / 2), (-w / 2, h / 2)]
    corners = [(x + u * cos - v * sin, y + u * sin + v * cos) for u, v in ends]
    return f"{cls} " + " ".join(f"{px / SIZE[0]} {py / SIZE[1]}" for px, py in corners) + "\n"


@pytest.fixture
def turned(tmp_path):
    """Twelve images to train on and one to validate, each with a rectangle of each class."""
    for index in range(12):
        put(tmp_path, "train", f"t{index:02d}", index, row(0, 20, 20, 24, 10, 15 * index) + row(1, 45, 30, 12, 6, 20))
    put(tmp_path, "val", "v", 99, row(0, 32, 24, 24, 10, 30))
    write_yaml(tmp_path / "data.yaml", MINIMAL)
    return tmp_path


def report(folder, imgsz=64):
    return examine(survey(folder / "data.yaml", read=read_obb, oriented=True), imgsz)


def test_sound_rectangles_have_no_findings_and_a_column_of_angles(turned):
    result = report(turned)
    assert result.findings == ()
    shares = [share.split(": ") for share in result.tables["train"]["angles (degrees)"].split(", ")]
    assert [degrees for degrees, _ in shares] == ["0", "30", "60", "90", "120", "150"]
    assert sum(int(share.rstrip("%")) for _, share in shares) in range(97, 104)
    assert result.tables["val"]["angles (degrees)"] == "0: 0%, 30: 100%, 60: 0%, 90: 0%, 120: 0%, 150: 0%"


def crossed() -> str:
    cls, *values = row(0, 32, 24, 24, 10, 30).split()
    return " ".join([cls, *values[:2], *values[4:6], *values[2:4], *values[6:]]) + "\n"


@pytest.mark.parametrize(
    ("label", "severity", "kind", "words"),
    [
        (row(0, 32, 24, 24, 1, 30), "warning", "thin object", "24.0 x 1.0 px at 30 degrees around (32, 24)"),
        (crossed(), "warning", "crossed corners", "24.0 x 10.0 px at 30 degrees"),
        (f"0 {30 / 64} {20 / 48} {54 / 64} {20 / 48} {30 / 64} {30 / 48}\n", "note", "no rectangle", "px at"),
        (row(0, 60, 24, 24, 10, 135), "note", "cut by the border", "24.0 x 10.0 px at 135 degrees around (60, 24)"),
        (
            row(0, 32, 24, 24, 10, 30) + row(0, 32.1, 24, 24, 10, 210),
            "warning",
            "object twice",
            "24.0 x 10.0 px at 30 degrees",
        ),
    ],
)
def test_odd_objects(turned, label, severity, kind, words):
    (turned / "labels/val/v.txt").write_text(label)
    (finding,) = report(turned).findings
    assert (finding.severity, finding.kind) == (severity, kind) and len(finding.items) == 1
    assert finding.items[0].startswith("val: images/val/v.png: cat, ") and words in finding.items[0]


def test_the_same_place_in_another_class_is_another_object(turned):
    (turned / "labels/val/v.txt").write_text(row(0, 32, 24, 24, 10, 30) + row(1, 32, 24, 24, 10, 30))
    assert report(turned).findings == ()


def test_thin_is_measured_on_the_network_input(turned):
    (turned / "labels/val/v.txt").write_text(row(0, 32, 24, 24, 1.5, 30))
    assert [finding.kind for finding in report(turned, imgsz=64).findings] == ["thin object"]
    assert report(turned, imgsz=128).findings == ()


def test_squares_and_objects_without_angles_are_noted(turned):
    for path in (turned / "labels").rglob("*.txt"):
        path.write_text(row(0, 32, 24, 20, 20, 90) + row(1, 40, 30, 20, 10, 0))
    found = {finding.kind: finding for finding in report(turned).findings}
    assert found.keys() == {"squares", "no angles"}
    assert found["squares"].description.startswith("13 of 26 objects are nearly squares")


def test_rows_that_are_no_rectangles(turned, capsys):
    (turned / "labels/val/v.txt").write_text("0 .5 .5 .2 .2\n0 .5 .5 .2 .2 .3\n0 .5 .5\n")
    assert main(["doctor", f"data={turned / 'data.yaml'}", "task=obb"]) == 1
    text = capsys.readouterr().out
    assert "box: 1 label rows that are upright boxes" in text and "v.txt:1: '0 .5 .5 .2 .2' is an upright box" in text
    assert "centre and angle: 1 label rows" in text and "v.txt:2: 6 columns" in text
    assert "malformed: 1 label rows that cannot be read" in text and "angles (degrees)" in text


def test_without_the_task_they_are_outlines(turned, capsys):
    assert main(["doctor", f"data={turned / 'data.yaml'}"]) == 0
    assert "degrees" not in capsys.readouterr().out


def test_rectangles_by_hand():
    outlines = torch.tensor([[0.1, 0.2], [0.5, 0.2], [0.5, 0.4], [0.1, 0.4], [0.2, 0.2], [0.4, 0.2], [0.2, 0.8]])
    labels = Instances(torch.zeros(2, 4), torch.zeros(2).long(), polygons=Polygons(outlines, torch.tensor([4, 3])))
    found = Rectangles.of(labels, (50, 100))
    torch.testing.assert_close(found.filled, torch.tensor([1.0, 0.5], dtype=torch.float64))
    assert found.boxes[0, 2:4].sort().values.tolist() == pytest.approx([10, 40]) and float(found.degrees[0]) == 0
    assert Rectangles.of(Instances.empty(), (50, 100)) is None
