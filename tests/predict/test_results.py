"""Boxes, their units, every way out of Results, and the picture with them drawn in; values worked out by hand."""

from __future__ import annotations

import builtins
import copy
import csv
import io
import json
import pickle
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from PIL import Image

from bitfalcon_plugin.config.errors import UserError
from bitfalcon_plugin.plots.drawing import PALETTE
from bitfalcon_plugin.predict import results as module
from bitfalcon_plugin.predict.detections import Boxes
from bitfalcon_plugin.predict.results import Results

ROWS = torch.tensor(
    [[10.0, 20.0, 50.0, 80.0, 0.9, 0.0], [0.0, 0.0, 100.0, 200.0, 0.5, 1.0], [5.0, 5.0, 9.0, 9.0, 0.3, 1.0]]
)
TRACKED = torch.cat((ROWS[:, :4], torch.tensor([[7.0], [1234567.0], [9.0]]), ROWS[:, 4:]), 1)
NAMES = {0: "person", 1: "bus"}
SHAPE = (200, 100)
# What each attribute holds for ROWS on a picture of 200 x 100 (h, w).
VALUES = {
    "xyxy": [[10, 20, 50, 80], [0, 0, 100, 200], [5, 5, 9, 9]],
    "xywh": [[30, 50, 40, 60], [50, 100, 100, 200], [7, 7, 4, 4]],
    "xyxyn": [[0.1, 0.1, 0.5, 0.4], [0, 0, 1, 1], [0.05, 0.025, 0.09, 0.045]],
    "xywhn": [[0.3, 0.25, 0.4, 0.3], [0.5, 0.5, 1, 1], [0.07, 0.035, 0.04, 0.02]],
    "conf": [0.9, 0.5, 0.3],
    "cls": [0, 1, 1],
}
SUMMARY = [
    {"name": "person", "class": 0, "confidence": 0.9, "box": {"x1": 10.0, "y1": 20.0, "x2": 50.0, "y2": 80.0}},
    {"name": "bus", "class": 1, "confidence": 0.5, "box": {"x1": 0.0, "y1": 0.0, "x2": 100.0, "y2": 200.0}},
    {"name": "bus", "class": 1, "confidence": 0.3, "box": {"x1": 5.0, "y1": 5.0, "x2": 9.0, "y2": 9.0}},
]


def result(rows=ROWS, **options) -> Results:
    return Results(np.full((*SHAPE, 3), 50, np.uint8), "pictures/street.png", NAMES, rows, **options)


def kinds(rows: torch.Tensor) -> tuple[Boxes, Boxes]:
    """The same boxes of torch and of numpy."""
    return Boxes(rows, SHAPE), Boxes(rows.numpy(), SHAPE)


@pytest.mark.parametrize("rows", [ROWS, TRACKED], ids=["plain", "tracked"])
@pytest.mark.parametrize("name", VALUES)
def test_values_of_boxes(name, rows):
    for boxes, kind in zip(kinds(rows), (torch.Tensor, np.ndarray)):
        value = getattr(boxes, name)
        assert isinstance(value, kind) and value.dtype == boxes.data.dtype
        np.testing.assert_allclose(value, np.array(VALUES[name]), rtol=1e-6)
        empty = getattr(boxes[:0], name)
        assert isinstance(empty, kind) and tuple(empty.shape) == (0, *value.shape[1:])


def test_tracks_have_numbers():
    for boxes in kinds(TRACKED):
        assert (
            boxes.is_track
            and boxes.shape == (3, 7)
            and boxes.id.tolist() == [7, 1234567, 9]
            and boxes[1].id.tolist() == [1234567]
        )
    for boxes in kinds(ROWS):
        assert not boxes.is_track and boxes.id is None and boxes.shape == (3, 6) and boxes.orig_shape == SHAPE


INDICES = [
    (0, [0]),
    (-1, [2]),
    (np.int64(1), [1]),
    (torch.tensor(1), [1]),
    (slice(None), [0, 1, 2]),
    (slice(1, None), [1, 2]),
    (slice(None, None, -1), [2, 1, 0]),
    (slice(2, 2), []),
    (range(2), [0, 1]),
    ([2, 0], [2, 0]),
    ([], []),
    (np.array([2, 1]), [2, 1]),
    (torch.tensor([0, 2]), [0, 2]),
    (torch.tensor([True, False, True]), [0, 2]),
    (np.array([False, False, False]), []),
    ([False, True, False], [1]),
]


@pytest.mark.parametrize("index, expected", INDICES, ids=[str(index) for index, _ in INDICES])
def test_rows_by_index_slice_and_mask(index, expected):
    for boxes in kinds(ROWS):
        part = boxes[index]
        assert isinstance(part, Boxes) and type(part.data) is type(boxes.data)
        assert part.data.tolist() == ROWS[expected].tolist() and part.orig_shape == SHAPE
        of_results = result(boxes)[index]
        assert isinstance(of_results, Results) and of_results.boxes.data.tolist() == ROWS[expected].tolist()
        assert of_results.names == NAMES and of_results.path == "pictures/street.png"


def test_both_are_lists_of_boxes():
    for some, none in ((Boxes(ROWS, SHAPE), Boxes(ROWS[:0], SHAPE)), (result(), result(ROWS[:0]))):
        assert len(some) == 3 and some and len(none) == 0 and not none and list(none) == []
        assert [len(one) for one in some] == [1, 1, 1]
        with pytest.raises(IndexError):
            some[3]
    assert [float(box.conf) for box in Boxes(ROWS, SHAPE)] == pytest.approx([0.9, 0.5, 0.3])
    assert [one.boxes.xyxy[0].tolist() for one in result()] == VALUES["xyxy"]


def test_one_row_is_a_list_of_one_and_other_shapes_are_refused():
    assert Boxes(ROWS[0], SHAPE).shape == (1, 6) and Boxes([1, 2, 3, 4, 0.5, 0], SHAPE).cls.tolist() == [0]
    for wrong in (ROWS[:, :5], ROWS[None], torch.zeros(0), np.zeros((2, 8))):
        with pytest.raises(ValueError, match="expected \\(n, 6\\)"):
            Boxes(wrong, SHAPE)


@pytest.mark.parametrize("make", [lambda: Boxes(ROWS, SHAPE), result], ids=["Boxes", "Results"])
def test_from_torch_to_numpy_and_back(make):
    data = lambda thing: getattr(thing, "boxes", thing).data  # noqa: E731
    things = make()
    arrays = things.numpy()
    assert isinstance(data(arrays), np.ndarray) and isinstance(data(things), torch.Tensor)
    assert isinstance(data(arrays.numpy()), np.ndarray) and isinstance(data(arrays.cpu()), np.ndarray)
    assert torch.equal(data(arrays.to("cpu")), ROWS) and torch.equal(data(things.cpu()), ROWS)
    assert data(things.to(torch.float64)).dtype == torch.float64
    assert data(things.to(torch.bfloat16).numpy()).dtype == np.float32
    assert type(things.to("cpu")) is type(things)
    if torch.cuda.is_available():
        assert all(data(moved).is_cuda for moved in (things.cuda(), things.cuda(0), things.to("cuda"), arrays.cuda()))
        assert isinstance(data(things.cuda().numpy()), np.ndarray)


def test_attributes_of_results():
    found = result(speed={"inference": 3.0})
    assert found.speed == {"preprocess": None, "inference": 3.0, "postprocess": None}
    assert (found.masks, found.probs, found.keypoints, found.obb, found.save_dir) == (None,) * 5
    assert (
        found.orig_shape == SHAPE
        and found.path == "pictures/street.png"
        and result(save_dir="runs/x").save_dir == "runs/x"
    )
    assert Results(found.orig_img, "x.jpg", ["a", "b"]).names == {0: "a", 1: "b"}
    assert result(None).boxes.shape == (0, 6) and "street.png" in repr(found) and "2 buss" in repr(found)


def test_the_picture_is_made_when_it_is_read():
    made = []

    def picture():
        made.append(1)
        return np.zeros((*SHAPE, 3), np.uint8)

    found = Results(picture, "x.jpg", NAMES, ROWS, orig_shape=SHAPE)
    assert (
        found.boxes.xywhn.shape == (3, 4)
        and len(found[0].numpy()) == 1
        and found.summary()
        and found.verbose()
        and not made
    )
    assert found.orig_img.shape == (*SHAPE, 3) and found.plot().shape == (*SHAPE, 3) and made == [1]
    assert Results(picture, "x.jpg", NAMES, ROWS).orig_shape == SHAPE
    assert Results(picture, "x.jpg", NAMES, ROWS, orig_shape=SHAPE)[0].orig_img.shape == (*SHAPE, 3)


@pytest.mark.parametrize(
    "copied", [copy.copy, copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))], ids=["copy", "deep", "pickle"]
)
def test_copies(copied):
    image = np.full((*SHAPE, 3), 9, np.uint8)
    for found in (
        result(TRACKED, speed={"inference": 1.0}),
        Results(lambda: image, "x.jpg", NAMES, ROWS.numpy(), orig_shape=SHAPE),
    ):
        other = copied(found)
        assert (
            other.summary() == found.summary()
            and np.array_equal(other.orig_img, found.orig_img)
            and other.speed == found.speed
        )
        assert copied(found.boxes).data.tolist() == found.boxes.data.tolist()


def test_new_and_update():
    found = result()
    blank = found.new()
    assert len(blank) == 0 and len(found) == 3 and blank.path == found.path and blank.orig_img is found.orig_img
    given = torch.tensor([[-5.0, 10, 150, 250, 0.4, 1]])
    blank.update(boxes=given)
    assert blank.boxes.data.tolist() == [[0, 10, 100, 200, pytest.approx(0.4), 1]] and given[0, 0] == -5
    blank.update(boxes=TRACKED.numpy(), masks=None)
    assert blank.boxes.is_track and blank.boxes.conf.tolist() == pytest.approx([0.9, 0.5, 0.3])
    blank.update()
    assert len(blank) == 3
    with pytest.raises(UserError, match="masks, probs.*this package detects"):
        blank.update(masks=given, probs=given)


@pytest.mark.parametrize(
    "rows, words",
    [
        (ROWS, "1 person, 2 buss, "),
        (ROWS[[1, 0]], "1 person, 1 bus, "),
        (ROWS[:0], "(no detections), "),
        (TRACKED, "1 person, 2 buss, "),
        (torch.tensor([[0, 0, 9, 9, 0.5, 77]]), "1 77, "),
    ],
)
def test_verbose_counts_by_class(rows, words):
    assert result(rows).verbose() == words and result(rows).numpy().verbose() == words


def test_summary_and_its_formats():
    for found in (result(), result().numpy(), result().to(torch.float64)):
        assert found.summary() == SUMMARY
        assert json.loads(found.to_json()) == SUMMARY == json.loads(found.tojson())
    assert result().summary(normalize=True)[2]["box"] == {"x1": 0.05, "y1": 0.025, "x2": 0.09, "y2": 0.045}
    odd = result(torch.tensor([[1 / 3, 0, 2 / 3, 1, 0.123456789, 0]])).summary(decimals=2)[0]
    assert (odd["confidence"], odd["box"]["x1"], odd["box"]["x2"]) == (0.12, 0.33, 0.67)
    assert [row["track_id"] for row in result(TRACKED).summary()] == [7, 1234567, 9]
    assert result(ROWS[:0]).summary() == [] and result(ROWS[:0]).to_json() == "[]"


def test_csv_has_a_column_for_each_corner():
    assert result(ROWS[:1]).to_csv() == "name,class,confidence,x1,y1,x2,y2\nperson,0,0.9,10.0,20.0,50.0,80.0\n"
    assert result(ROWS[:0]).to_csv() == "name,class,confidence,x1,y1,x2,y2\n"
    assert result(TRACKED).to_csv(normalize=True).splitlines()[2] == "bus,1,0.5,0.0,0.0,1.0,1.0,1234567"
    found = Results(np.zeros((9, 9, 3), np.uint8), "x", {0: 'a, "b"\nc 猫', 1: "d"}, ROWS)
    assert next(csv.DictReader(io.StringIO(found.to_csv())))["name"] == 'a, "b"\nc 猫'


def test_xml_has_a_row_for_each_box():
    rows = ElementTree.fromstring(result(TRACKED).to_xml())
    assert [row.findtext("name") for row in rows] == ["person", "bus", "bus"]
    assert (rows[0].findtext("x2"), rows[0].findtext("confidence"), rows[1].findtext("track_id")) == (
        "50.0",
        "0.9",
        "1234567",
    )
    assert len(ElementTree.fromstring(result(ROWS[:0]).to_xml())) == 0


def test_a_data_frame_holds_the_summary():
    pytest.importorskip("pandas", reason="pandas makes the frame")
    assert result().to_df().to_dict("records") == SUMMARY
    assert list(result(ROWS[:0]).to_df().columns) == ["name", "class", "confidence", "box"]
    assert list(result(TRACKED).to_df()["track_id"]) == [7, 1234567, 9]


def test_a_data_frame_needs_pandas(monkeypatch):
    real = builtins.__import__
    monkeypatch.setattr(
        builtins, "__import__", lambda name, *rest: raising() if name == "pandas" else real(name, *rest)
    )

    def raising():
        raise ImportError("pandas")

    with pytest.raises(UserError, match="pip install pandas"):
        result().to_df()


@pytest.mark.parametrize(
    "rows, save_conf, lines",
    [
        (ROWS, False, ["0 0.3 0.25 0.4 0.3", "1 0.5 0.5 1 1", "1 0.07 0.035 0.04 0.02"]),
        (ROWS[:1], True, ["0 0.3 0.25 0.4 0.3 0.9"]),
        (TRACKED[:2], False, ["0 0.3 0.25 0.4 0.3 7", "1 0.5 0.5 1 1 1234567"]),
        (TRACKED[1:2], True, ["1 0.5 0.5 1 1 0.5 1234567"]),
        (
            torch.tensor([[0, 0, 100 / 3, 200 / 7, 0.123456789, 1]]),
            True,
            ["1 0.166667 0.0714286 0.333333 0.142857 0.123457"],
        ),
    ],
)
def test_labels_as_text(tmp_path, rows, save_conf, lines):
    path = tmp_path / "labels" / "a.txt"
    for found in (result(rows), result(rows).numpy()):
        assert found.save_txt(path, save_conf=save_conf) == str(path)
    assert path.read_text() == "\n".join(lines * 2) + "\n"  # appended


def test_labels_of_nothing_and_behind_an_unfinished_line(tmp_path):
    assert result(ROWS[:0]).save_txt(tmp_path / "none.txt") and not (tmp_path / "none.txt").exists()
    (tmp_path / "a.txt").write_text("0 1 1 1 1")
    result(ROWS[:1]).save_txt(tmp_path / "a.txt")
    assert (tmp_path / "a.txt").read_text() == "0 1 1 1 1\n0 0.3 0.25 0.4 0.3\n"


def test_crops(tmp_path):
    image = np.random.default_rng(0).integers(0, 255, (*SHAPE, 3), np.uint8)
    names = {0: "traffic light", 1: "../b:us"}
    found = Results(image, "a.png", names, torch.cat((ROWS, ROWS[:1])))
    found.save_crop(tmp_path, "street.v2.png")
    files = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.jpg"))
    assert files == [
        "_b_us/street.v2.jpg",
        "_b_us/street.v22.jpg",
        "traffic light/street.v2.jpg",
        "traffic light/street.v22.jpg",
    ]
    # 40 x 60 around (30, 50): 50.8 x 71.2, so x from 4.6 to 55.4 and y from 14.4 to 85.6
    expected = Image.fromarray(image[14:85, 4:55, ::-1])
    buffer = io.BytesIO()
    expected.save(buffer, "JPEG", quality=95)
    with Image.open(tmp_path / "traffic light" / "street.v2.jpg") as crop:
        assert crop.size == (51, 71) and np.array_equal(np.asarray(crop), np.asarray(Image.open(buffer)))
    with Image.open(tmp_path / "_b_us" / "street.v2.jpg") as crop:
        assert crop.size == (100, 200)
    found[:0].save_crop(tmp_path / "none")
    assert not (tmp_path / "none").exists()
    found[2].save_crop(tmp_path / "usual")
    assert [path.name for path in (tmp_path / "usual").rglob("*.jpg")] == ["im.jpg"]


@pytest.mark.parametrize(
    "name, folder", [("..", "class 0"), ("", "class 0"), ("a/b", "a_b"), ("C:\\x", "C__x"), ("猫", "猫"), (". x.", "x")]
)
def test_crops_never_leave_their_folder(name, folder):
    assert module._folder_name(name, 0) == folder


def test_the_picture_has_the_boxes_and_the_original_is_untouched(tmp_path):
    found = result()
    before = found.orig_img.copy()
    drawn = found.plot()
    assert (
        drawn.shape == (200, 100, 3) and drawn.dtype == np.uint8 and drawn.flags.c_contiguous and drawn.flags.writeable
    )
    assert np.array_equal(found.orig_img, before) and not np.array_equal(drawn, before)
    assert drawn[50, 10].tolist() == [
        0xFF,
        0x2A,
        0x04,
    ]  # left edge of the first box, in its class's colour #042aff, BGR
    assert np.array_equal(result(ROWS[:0]).plot(), before) and np.array_equal(found.plot(boxes=False), before)
    picture = found.plot(pil=True)
    assert isinstance(picture, Image.Image) and np.array_equal(np.asarray(picture)[..., ::-1], drawn)
    assert np.array_equal(found.numpy().plot(), drawn) and result(TRACKED).plot().shape == drawn.shape


def test_arguments_of_plot(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = result()
    usual = found.plot()
    for options in (
        {"conf": False},
        {"line_width": 5},
        {"font_size": 20},
        {"labels": False},
        {"color_mode": "instance"},
    ):
        assert not np.array_equal(found.plot(**options), usual), options
    assert np.array_equal(found.plot(font="no such font.ttf"), usual)
    assert np.array_equal(found.plot(True, None, None, None, masks=True, probs=False, kpt_line=True), usual)
    assert found.plot(font="Arial.ttf").shape == usual.shape  # wherever that is
    other = np.full((*SHAPE, 3), 200, np.uint8)
    assert found.plot(img=other)[150, 99].tolist() != [50] * 3 and (found.plot(img=other, boxes=False) == other).all()
    assert found.plot(img=other[..., 0]).shape == usual.shape
    assert np.array_equal(found.plot(img=Image.new("RGB", (100, 200), (50,) * 3)), usual)
    assert np.array_equal(found.plot(save=True), usual) and (tmp_path / "results_street.jpg").stat().st_size > 100
    found.plot(save=True, filename="sub/x.png", pil=True)
    assert np.array_equal(np.asarray(Image.open("sub/x.png"))[..., ::-1], usual)
    with pytest.raises(UserError, match="color_mode='id': expected 'class' or 'instance'"):
        found.plot(color_mode="id")
    with pytest.raises(TypeError, match="lables"):
        found.plot(lables=False)
    instance = found.plot(color_mode="instance", labels=False, line_width=1)[..., ::-1]
    assert ["#" + bytes(instance[y, x]).hex() for x, y in ((10, 50), (0, 150), (5, 7))] == list(PALETTE[:3])


def test_saved_pictures(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = result()
    assert found.save() == "results_street.jpg" and (tmp_path / "results_street.jpg").exists()
    assert found.save(tmp_path / "out.png", conf=False) == str(tmp_path / "out.png")
    assert np.array_equal(np.asarray(Image.open(tmp_path / "out.png"))[..., ::-1], found.plot(conf=False))
    assert found.save("bare") == "bare.jpg"
    with pytest.raises(UserError, match="x.doc' cannot be written: '.doc' is no picture format"):
        found.save("x.doc")
    with pytest.raises(UserError, match="cannot be written"):
        found.save(tmp_path / "out.png" / "x.jpg")  # a file is no folder


def test_without_a_display_a_file_is_written_and_named(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(module.sys, "platform", "linux")
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    assert result().show(line_width=1) is None
    told = capsys.readouterr()
    assert (
        str(tmp_path / "results_street.jpg") in told.err and not told.out and (tmp_path / "results_street.jpg").exists()
    )
    shown = []
    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.setattr(module.ImageShow, "show", lambda picture: shown.append(picture.size) or True)
    result().show()
    assert shown == [(100, 200)] and not capsys.readouterr().err
    monkeypatch.setattr(module.ImageShow, "show", lambda picture: 1 / 0)
    result().plot(show=True)
    assert "no display" in capsys.readouterr().err


@pytest.mark.parametrize("shape", [(8, 8), (3000, 20), (40, 4000), (1, 1)])
def test_extreme_pictures_can_be_drawn(shape, tmp_path):
    rows = torch.tensor([[-5.0, -5.0, 5000.0, 5000.0, 0.9, 37.0], [2.0, 2.0, 2.0, 2.0, 0.9, 0.0]])
    found = Results(np.zeros((*shape, 3), np.uint8), "x.jpg", {0: "naïve 猫"}, rows)
    assert found.plot().shape == (*shape, 3)
    found.save_crop(tmp_path)
