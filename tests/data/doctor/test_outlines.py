"""What doctor says of outlines: with task=segment as that task reads them, else as detection does."""

from __future__ import annotations

import pytest

from bitfalcon_plugin.cli import main
from tests.data.doctor.test_doctor import findings, put
from tests.helpers.tiny_dataset import MINIMAL, write_yaml

OUTLINE = "0 .1 .1 .6 .2 .5 .7 .2 .6\n"


@pytest.fixture
def outlined(tmp_path):
    """Twelve images with an outline each, of which one has a box too."""
    for index in range(12):
        put(
            tmp_path,
            "train",
            f"t{index:02d}",
            index,
            OUTLINE + OUTLINE.replace("0", "1", 1) + "1 .5 .5 .2 .2\n" * (index == 3),
        )
    put(tmp_path, "val", "v", 99, OUTLINE)
    write_yaml(tmp_path / "data.yaml", MINIMAL)
    return tmp_path


def test_boxes_among_outlines_are_noted(outlined):
    found = findings(outlined)
    assert [key for key in found if key[0] != "note"] == []
    (item,) = found["note", "boxes and outlines"].items
    assert item == "train: images/train/t03.png: 2 of 3 labels are outlines"


def test_they_are_errors_where_outlines_are_needed(outlined, capsys):
    data = f"data={outlined / 'data.yaml'}"
    assert main(["doctor", data]) == 0
    assert "boxes and outlines: 1 images with both" in capsys.readouterr().out
    assert main(["doctor", data, "task=segment"]) == 1
    text = capsys.readouterr().out
    assert (
        "labels/train/t03.txt:3: the row '1 .5 .5 .2 .2' is a box" in text
        and "  box: 1 label rows that are boxes" in text
    )
    assert main(["doctor", data, "task=segment", "boxes_without_masks=True"]) == 0
    output = capsys.readouterr()
    assert "without effect" not in output.err and "boxes and outlines" in output.out


def test_an_outline_that_leaves_the_image_is_a_warning(outlined):
    (outlined / "labels/val/v.txt").write_text("0 .6 .2 1.1 .4 .6 .6\n")
    finding = findings(outlined)["warning", "reaches outside"]
    assert "v.txt:1: the outline reaches 0.100" in finding.items[0]
