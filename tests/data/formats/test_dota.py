"""Lines of DOTA's label files: what is read, and what is said of wrong ones."""

from __future__ import annotations

import pytest

from bitfalcon_plugin.data.formats.dota import CLASSES, VERSIONS, place_problem, read_dota, versions_with

LINE = "10 20 30.5 20 30 40 10 40 plane 0"


def read(tmp_path, content: str | bytes):
    path = tmp_path / "P1.txt"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_dota(path)


@pytest.mark.parametrize(
    "line, name, difficult",
    [
        (LINE, "plane", False),
        ("10 20 30.5 20 30 40 10 40 large-vehicle 1", "large-vehicle", True),
        ("10 20 30.5 20 30 40 10 40 large vehicle 1", "large vehicle", True),
        ("10 20 30.5 20 30 40 10 40 ground track field", "ground track field", False),
        ("10 20 30.5 20 30 40 10 40 plane", "plane", False),
        ("10\t20 30.5\t20 30 40 10 40  Plane  2 ", "Plane", True),
        ("-10 20.0 3.05e1 20 30 40 10 40 plane 0", "plane", False),
    ],
)
def test_lines_that_are_read(tmp_path, line, name, difficult):
    (each,), problems = read(tmp_path, line)
    assert (each.name, each.difficult, problems) == (name, difficult, [])
    assert each.corners[:4] == (-10 if line[0] == "-" else 10, 20, 30.5, 20) and len(each.corners) == 8


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_headers_and_empty_lines_are_skipped(tmp_path, end):
    text = end.join(["imagesource:GoogleEarth", "gsd: 0.146", "acquisition dates: unknown", "", LINE, LINE, ""])
    objects, problems = read(tmp_path, b"\xef\xbb\xbf" + text.encode())
    assert [each.line for each in objects] == [5, 6] and problems == []
    assert read(tmp_path, "") == ([], []) and read(tmp_path, "imagesource:GoogleEarth\ngsd:null\n") == ([], [])


@pytest.mark.parametrize(
    "line, text",
    [
        ("10 20 30 20 30 40 plane 0", "8 words in '10 20 30 20 30 40 plane 0'; expected `x1 y1"),
        ("10 20 30 20 30 40 10 4o plane 0", "'4o' where a number is expected"),
        ("10 20 nan 20 30 40 inf 40 plane 0", "'nan', 'inf' where a number is expected"),
        ("10 20 30 20 30 40 10 40 0", "9 numbers and no class"),
        ("10,20,30,20,30,40,10,40,plane,0 b c d e f g h i", "'10,20,30,20,30,40,10,40,plane,0'"),
        ("0 .1 .2 .3 .2 .3 .4 .1 .4", "a row of YOLO labels, which format=yolo reads"),
        ("0 0.5 0.5 0.1 0.1", "a row of YOLO labels"),
        ("10 20 30 20 30 40 10 40 plane 0.5", "difficulty 0.5; expected 0"),
        ("10 20 30 20 30 40 10 40 plane -1", "difficulty -1; expected 0"),
    ],
)
def test_wrong_lines_are_told_by_file_and_line(tmp_path, line, text):
    objects, problems = read(tmp_path, f"gsd:1\n{LINE}\n{line}\n")
    assert len(objects) == 1 and len(problems) == 1
    assert problems[0].startswith(f"{tmp_path / 'P1.txt'}:3: ") and text in problems[0]


def test_files_that_are_no_text(tmp_path):
    assert "not UTF-8" in read(tmp_path, b"\xff\xfe\x00")[1][0]
    assert "binary data" in read(tmp_path, b"a\x00b")[1][0]


def test_places():
    corners = (10, 20, 30, 20, 30, 40, 10, 40)
    assert place_problem(corners, (100, 100)) == place_problem(corners, (21, 11)) == ""
    for size in ((100, 10), (20, 100)):
        assert "lies outside its image (10, 20, 30, 40" in place_problem(corners, size)
    assert "outside" in place_problem((-5, 0, 0, 0, 0, 5, -5, 5), (100, 100))


def test_versions():
    assert list(VERSIONS.values()) == [15, 16, 18] and len(CLASSES) == 18
    expected = {"": "v1.0", "plane swimming-pool": "v1.0", "container-crane": "v1.5", "helipad plane": "v2.0"}
    for names, version in expected.items():
        assert versions_with([name.replace("-", " ") for name in names.split()]) == version
    assert CLASSES[15:] == ("container crane", "airport", "helipad")
