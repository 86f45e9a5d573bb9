"""Charts are drawn whole into their files, with any names and numbers, and leave matplotlib as it was."""

from __future__ import annotations

import sys
from dataclasses import replace
from importlib.util import find_spec

import numpy as np
import pytest
from PIL import Image

from bitfalcon_plugin.config.errors import UserError
from bitfalcon_plugin.ops.instances import Instances
from bitfalcon_plugin.plots import figure
from bitfalcon_plugin.plots.charts import draw_curve, draw_labels, draw_results, smoothed
from bitfalcon_plugin.plots.figure import NoMatplotlib, shortened
from bitfalcon_plugin.tasks.confusion import ConfusionMatrix
from tests.helpers.labels import detections_of
from tests.tasks.test_curves import NAMES, coco_metrics, random_case

needs_matplotlib = pytest.mark.skipif(find_spec("matplotlib") is None, reason="matplotlib is not installed")
ODD = [
    "猫",
    "naïve кошка",
    "_under",
    "$x_1$ \\frac",
    "two\nlines",
    "",
    "a name that goes on and on and on and on",
    "\ud7ff\u0000",
]
HEAD = (
    "epoch,time,train/box_loss,train/cls_loss,train/dfl_loss,metrics/precision(B),metrics/recall(B),metrics/mAP50(B),"
    "metrics/mAP50-95(B),val/box_loss,val/cls_loss,val/dfl_loss,lr/pg0,lr/pg1,lr/pg2"
)


@pytest.fixture(autouse=True)
def coarse(monkeypatch):
    monkeypatch.setattr(figure, "DPI", 50)  # small pictures are drawn faster


@pytest.fixture
def quiet(capfd, recwarn):
    """Assert after the test that nothing was written to the terminal and no warning was given."""
    yield
    assert capfd.readouterr() == ("", "") and not recwarn.list


def size(path) -> tuple[int, int]:
    with Image.open(path) as picture:
        picture.load()
        return picture.size


def coloured(path) -> int:
    """Pixels that are neither grey, black nor white."""
    pixels = np.asarray(Image.open(path).convert("RGB")).astype(int)
    return int((pixels.max(2) - pixels.min(2) > 40).sum())


@needs_matplotlib
def test_metrics_draw_six_figures(tmp_path, quiet):
    samples, detections = random_case(0)
    names = {0: ODD[0], 1: ODD[3], 2: ODD[1]}
    metrics = coco_metrics(samples, detections_of(detections), names)
    drawn = metrics.plot(tmp_path / "run")
    expected = ["PR_curve", "F1_curve", "P_curve", "R_curve", "confusion_matrix", "confusion_matrix_normalized"]
    assert [path.name for path in drawn] == [f"{name}.png" for name in expected]
    assert sorted((tmp_path / "run").iterdir()) == sorted(drawn)  # and no temporary file
    assert all(min(size(path)) >= 200 and coloured(path) > 500 for path in drawn)


@needs_matplotlib
def test_metrics_of_nothing_can_be_drawn(tmp_path, quiet):
    samples, _ = random_case(0)
    nothing = replace(samples[0], size=(50, 50), labels=Instances.empty())
    metrics = coco_metrics([nothing], detections_of(np.zeros((0, 7))), NAMES)
    assert len(metrics.plot(tmp_path)) == 6


@needs_matplotlib
@pytest.mark.parametrize("classes", [1, 40])
def test_many_classes_and_odd_names(tmp_path, quiet, classes):
    draw = np.random.RandomState(0)
    names = [ODD[i % len(ODD)] for i in range(classes)]
    grid = np.linspace(0, 1, 50)
    path = draw_curve(
        tmp_path / "curve.png",
        grid,
        draw.rand(classes, 50),
        ("Recall", "Precision"),
        names,
        draw.rand(classes).tolist(),
        "all classes",
        mark=0.5,
    )
    matrix = draw.randint(0, 9, (classes + 1, classes + 1)) * 1000
    drawn = ConfusionMatrix(matrix, dict(enumerate(names))).plot(normalize=False, save_dir=tmp_path)
    assert drawn == tmp_path / "confusion_matrix.png" and coloured(drawn) > 500
    assert coloured(path) > 300 and max(size(drawn)) <= 1000


@needs_matplotlib
@pytest.mark.parametrize("classes, boxes", [(3, 2500), (100, 300), (2, 0)])
def test_labels_of_any_number(tmp_path, quiet, classes, boxes):
    draw = np.random.RandomState(0)
    target = draw_labels(
        tmp_path / "labels.jpg",
        draw.randint(0, classes, boxes) ** 2 // classes,
        draw.rand(boxes, 4),
        [ODD[i % len(ODD)] for i in range(classes)],
    )
    with Image.open(target) as picture:
        assert picture.format == "JPEG" and picture.size == (550, 380)


@needs_matplotlib
@pytest.mark.parametrize("epochs, measured", [(1, False), (30, True)])
def test_results_of_any_length(tmp_path, quiet, epochs, measured):
    value = "0.5" if measured else "nan"
    rows = [
        ",".join([str(e + 1), "9.5", "1.5", "1.2", "1.1", *[value] * 7, "0.01", "0.01", "0.01"]) for e in range(epochs)
    ]
    (tmp_path / "results.csv").write_text("\n".join([HEAD, *rows]) + "\n")
    target = draw_results(tmp_path / "results.csv", tmp_path / "results.png")
    assert size(target) == (750, 280) and coloured(target) > 100 * measured


@needs_matplotlib
def test_results_without_epochs_are_refused(tmp_path):
    (tmp_path / "results.csv").write_text(HEAD + "\n")
    with pytest.raises(UserError, match="has no epochs"):
        draw_results(tmp_path / "results.csv", tmp_path / "results.png")
    assert not (tmp_path / "results.png").exists()


@needs_matplotlib
def test_the_callers_style_and_backend_stay(tmp_path, monkeypatch):
    import matplotlib

    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)  # importing it would raise
    monkeypatch.setitem(matplotlib.rcParams, "lines.linewidth", 7.25)
    before = dict(dict.items(matplotlib.rcParams))  # looking at the backend in another way would choose one
    draw_curve(tmp_path / "plain.png", np.linspace(0, 1, 9), np.ones((1, 9)) / 2, ("x", "y"), ["a"], [1.0], "mean")
    assert dict(dict.items(matplotlib.rcParams)) == before
    monkeypatch.setitem(
        matplotlib.rcParams, "figure.facecolor", "black"
    )  # nor does the caller's style reach the figure
    draw_curve(tmp_path / "dark.png", np.linspace(0, 1, 9), np.ones((1, 9)) / 2, ("x", "y"), ["a"], [1.0], "mean")
    assert np.array_equal(Image.open(tmp_path / "plain.png"), Image.open(tmp_path / "dark.png"))


def test_without_matplotlib_one_line_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(NoMatplotlib, match=r"pip install 'bitfalcon\[plots\]'") as caught:
        ConfusionMatrix(np.ones((2, 2), int), {0: "a"}).plot(save_dir=tmp_path)
    assert "\n" not in str(caught.value) and not list(tmp_path.iterdir())


def test_shortened_names():
    assert shortened("traffic light") == "traffic light" and shortened("_x") == " _x" and shortened("a\nb") == "a b"
    assert len(shortened("x" * 300)) == 24 and shortened("x" * 300, 5) == "xxxx…"


def test_smoothing_keeps_lines_flat_and_is_the_slow_sum():
    assert smoothed(np.full(9, 3.0)).tolist() == pytest.approx([3.0] * 9)
    values = np.random.RandomState(0).rand(60)
    for index in (0, 7, 59):
        weights = [np.exp(-0.5 * ((index - other) / 2) ** 2) for other in range(60)]
        mean = sum(w * v for w, v in zip(weights, values, strict=True)) / sum(weights)
        assert smoothed(values)[index] == pytest.approx(mean)
