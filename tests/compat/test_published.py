"""What is said about weights that others publish by name and that are not here."""

from __future__ import annotations

import pytest
from bitfalcon_plugin.compat.published import where_to_get

from bitfalcon_plugin import YOLO
from bitfalcon_plugin.config.errors import MissingFileError


@pytest.mark.parametrize(
    "name, page",
    [
        ("yolov12n.pt", "sunsmarterjie/yolov12"),
        ("yolov12x.pt", "sunsmarterjie/yolov12"),
        ("yolov12s-seg.pt", "sunsmarterjie/yolov12"),
        ("yolo12n.pt", "assets"),
        ("yolo11n-pose.pt", "assets"),
        ("yolov8m.pt", "assets"),
        ("yolov5su.pt", "assets"),
        ("yolov8s-world.pt", "assets"),
        ("rtdetr-l.pt", "assets"),
    ],
)
def test_a_published_name_is_recognised(name, page):
    assert f"{page}/releases" in where_to_get(f"weights/{name}") and "AGPL-3.0" in where_to_get(name)


@pytest.mark.parametrize(
    "name, command",
    [
        ("yolo12n-pose", "model=yolo12n-pose.yaml pretrained=yolo12n.pt data="),
        ("yolov12s-turbo-obb", "model=yolov12s-turbo-obb.yaml pretrained=yolov12s-turbo.pt data="),
        ("yolov12l-pose", "model=yolov12l-pose.yaml pretrained=yolov12l.pt data="),
        ("yolo12m-seg", "model=yolo12m-seg.yaml pretrained=yolo12m.pt data="),
        ("yolo12x-cls", "model=yolo12x-cls.yaml data="),
    ],
)
def test_weights_that_nobody_publishes_are_trained(name, command):
    text = where_to_get(f"{name}.pt")
    assert text.startswith(f"Nobody publishes weights called {name}.pt") and command in text and "http" not in text


@pytest.mark.parametrize("name", ["best.pt", "yolov12n.yaml", "my_yolov12n.pt", "yolov12", "last.pt"])
def test_other_names_are_not(name):
    assert where_to_get(name) == ""


def test_the_error_says_what_to_do_and_where_the_file_may_lie(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(MissingFileError) as caught:
        YOLO("yolov12n.pt")
    text = str(caught.value)
    assert text.startswith("'yolov12n.pt' does not exist, and nothing is downloaded. ")
    assert f"put it where it is looked for ('{tmp_path}', 'weights', " in text and isinstance(caught.value, OSError)
    with pytest.raises(FileNotFoundError, match=f"put it into '{tmp_path / 'mine'}', or give the path of your copy."):
        YOLO("mine/yolov12n.pt")
    with pytest.raises(FileNotFoundError, match=f"paths begin at '{tmp_path}'"):
        YOLO("weights/best.pt")
