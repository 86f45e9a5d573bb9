"""Boxes and Results as lists, their moves between kinds of memory, copies and updates."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import torch

from bitfalcon_plugin.predict.detections import Boxes
from bitfalcon_plugin.predict.results import Results
from tests.helpers.results import NAMES, ROWS, SHAPE, TRACKED, VALUES, kinds, result

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


@pytest.mark.parametrize("make", [lambda: Boxes(ROWS, SHAPE), result], ids=["Boxes", "Results"])
def test_from_torch_to_numpy_and_back(make):
    data = lambda thing: (thing.boxes if isinstance(thing, Results) else thing).data  # noqa: E731
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
    assert found.orig_shape == SHAPE
    assert found.path == "pictures/street.png"
    assert result(save_dir="runs/x").save_dir == "runs/x"
    assert Results(found.orig_img, "x.jpg", ["a", "b"]).names == {0: "a", 1: "b"}
    nothing = result(None)
    assert nothing.boxes is None and len(nothing) == 0 and not nothing and list(nothing) == []
    assert nothing.verbose() == "(no detections), " and nothing.summary() == []


def test_the_picture_is_made_when_it_is_read():
    made = []

    def picture():
        made.append(1)
        return np.zeros((*SHAPE, 3), np.uint8)

    found = Results(picture, "x.jpg", NAMES, ROWS, orig_shape=SHAPE)
    assert found.boxes.xywhn.shape == (3, 4)
    assert len(found[0].numpy()) == 1
    assert found.summary()
    assert found.verbose()
    assert not made
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
        assert other.summary() == found.summary()
        assert np.array_equal(other.orig_img, found.orig_img)
        assert other.speed == found.speed
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
    assert blank.boxes.conf.tolist() == pytest.approx([0.9, 0.5, 0.3])
