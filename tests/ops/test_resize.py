"""The resize against OpenCV's bytes: recorded digests, OpenCV where it is installed, and the formula pixel by pixel.

The digests were made by `python tests/ops/test_resize.py` with OpenCV 5.0.0; 4.10.0 and 4.12.0 give the same.
"""

from __future__ import annotations

import json
import sys
import types
import zlib

import numpy as np
import pytest
import torch

from bitfalcon_plugin.ops import resize as module
from bitfalcon_plugin.ops.resize import resize_bilinear
from tests.helpers.paths import RECORDED

DIGESTS = RECORDED / "opencv_resize.json"  # "h w H W channels" -> CRC-32 of the bytes of cv2.resize
TIGHT = [1, 2, 3, 5, 16, 33, 97]


def random_case(index: int) -> tuple[np.ndarray, tuple[int, int]]:
    """Noise (h, w, 1 or 3) and a size: up and down, odd and tiny ones."""
    random = np.random.RandomState(index)
    limit = (12, 90, 500)[index % 3]
    height, width, new_height, new_width = (int(side) for side in random.randint(1, limit + 1, 4))
    return noise(height, width, 1 if index % 4 == 0 else 3, index), (new_height, new_width)


def noise(height: int, width: int, channels: int, seed: int = 0) -> np.ndarray:
    return np.random.RandomState(seed).randint(0, 256, (height, width, channels)).astype(np.uint8)


def by_hand(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The formula of ops/resize.py for one pixel after the other, with Python's integers."""

    def neighbours(at: int, old: int, new: int) -> tuple[int, int, int]:
        position = np.float32((at + 0.5) * (1.0 / (new / old)) - 0.5)
        index = int(np.floor(position))
        fraction = np.float32(position - np.float32(index))
        return index, round(float(np.float32(1) - fraction) * 2048), round(float(fraction) * 2048)

    height, width, channels = image.shape
    result = np.empty((*size, channels), np.uint8)
    for y in range(size[0]):
        row, *row_weights = neighbours(y, height, size[0])
        rows = [min(max(row, 0), height - 1), min(max(row + 1, 0), height - 1)]
        for x in range(size[1]):
            column, *column_weights = neighbours(x, width, size[1])
            if column < 0 or column >= width - 1:
                column, column_weights = min(max(column, 0), width - 1), [2048, 0]
            columns = [column, min(column + 1, width - 1)]
            for channel in range(channels):
                sums = [
                    sum(int(image[r, c, channel]) * weight for c, weight in zip(columns, column_weights)) for r in rows
                ]
                result[y, x, channel] = (sum(s // 16 * w // 65536 for s, w in zip(sums, row_weights)) + 2) // 4
    return result


@pytest.fixture
def without_opencv(monkeypatch):
    monkeypatch.delitem(sys.modules, "cv2", raising=False)


def test_the_bytes_are_those_that_opencv_gave(without_opencv):
    for name, digest in json.loads(DIGESTS.read_text()).items():
        height, width, new_height, new_width, channels = map(int, name.split())
        assert zlib.crc32(resize_bilinear(noise(height, width, channels), (new_height, new_width))) == digest, name


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("steps", [(1, 2), (2, 1), (2, 2), (2, 3), (3, 3), (4, 5), (7, 6)])
def test_a_size_that_is_divided_by_whole_numbers_has_the_bytes_of_the_formula(steps, channels, without_opencv):
    size = 5, 4
    image = noise(*(side * step for side, step in zip(size, steps)), channels)
    expected = by_hand(image, size)
    assert np.array_equal(resize_bilinear(image, size), expected)
    assert np.array_equal(resize_bilinear(image, size, reverse=True), expected[..., ::-1])
    assert np.array_equal(resize_bilinear(image, size, planes=True), expected.transpose(2, 0, 1))


def test_positions_of_a_divided_size_have_the_weights_of_the_formula():
    for step in range(1, 200):
        for new in (1, 2, 3, 17, 640):
            index, weights = module._neighbours(new * step, new)
            picked = [np.arange(new * step)[each] for each in module._picked(new * step, new)]
            assert all(np.array_equal(each, index + shift) for shift, each in enumerate(picked)), (step, new)
            assert (weights.T == ([2048, 0] if len(picked) == 1 else [1024, 1024])).all(), (step, new)
    assert module._picked(10, 4) == module._picked(4, 8) == ()


@pytest.mark.parametrize("index", range(40))
def test_the_bytes_are_those_of_the_formula(index, without_opencv):
    image, size = random_case(3 * index)
    assert np.array_equal(resize_bilinear(image, size), by_hand(image, size))


@pytest.mark.parametrize("vectors", [True, False])
def test_two_hundred_random_sizes_are_opencvs_bytes(vectors):
    opencv = pytest.importorskip("cv2")
    different = []
    opencv.setUseOptimized(vectors)  # with its vector instructions and without
    try:
        for index in range(200):
            image, size = random_case(index)
            ours = module._resize(image, size)
            if not np.array_equal(ours, opencv.resize(image, size[::-1]).reshape(ours.shape)):
                different.append((image.shape, size))
    finally:
        opencv.setUseOptimized(True)
    assert not different


def test_every_pair_of_special_sides_is_opencvs_bytes():
    opencv = pytest.importorskip("cv2")
    for old in (1, 2, 3, 8, 15, 64):
        for new in (1, 2, 3, 4, 8, 15, 16, 24, 64, 128):  # the same, halved, doubled, a third, one pixel
            for image, size in (
                (noise(old, 33, 3), (new, 21)),
                (noise(34, old, 1), (17, new)),
                (noise(old, old, 3), (new, new)),
            ):
                ours = module._resize(image, size)
                assert np.array_equal(ours, opencv.resize(image, size[::-1]).reshape(ours.shape)), (image.shape, size)


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("source", ["ours", "opencv"])
def test_reversed_channels_and_planes_hold_the_same_bytes(channels, source, monkeypatch):
    if source == "opencv":
        pytest.importorskip("cv2")
    else:
        monkeypatch.delitem(sys.modules, "cv2", raising=False)
    image, size = noise(41, 30, channels), (23, 57)
    plain = resize_bilinear(image, size)
    assert plain.shape == (*size, channels) and plain.flags.c_contiguous
    assert np.array_equal(resize_bilinear(image, size, reverse=True), plain[..., ::-1])
    assert np.array_equal(resize_bilinear(image, size, planes=True), plain.transpose(2, 0, 1))
    assert np.array_equal(resize_bilinear(image, size, reverse=True, planes=True), plain.transpose(2, 0, 1)[::-1])


def test_a_view_is_resized_like_its_copy(without_opencv):
    image = noise(40, 60, 3)[::-1, 5:55:2, ::-1]
    assert np.array_equal(resize_bilinear(image, (33, 31)), resize_bilinear(image.copy(), (33, 31)))


def test_bands_join_without_a_seam(without_opencv, monkeypatch):
    image, sizes = noise(70, 50, 3), [(33, 41), (9, 60), (140, 20)]
    whole = [resize_bilinear(image, size) for size in sizes]
    monkeypatch.setattr(module, "BAND", 1)  # each line by itself
    assert all(np.array_equal(resize_bilinear(image, size), each) for size, each in zip(sizes, whole))


@pytest.mark.parametrize("resize", [lambda image, size: image[: size[1], : size[0]], None, lambda image, size: 1 / 0])
def test_another_opencv_is_not_used(resize, monkeypatch):
    """A module of that name with arithmetic of its own, without a resize, or one that fails."""
    stand_in = types.ModuleType("cv2")
    if resize:
        stand_in.resize = resize
    image = noise(64, 64, 3)
    monkeypatch.delitem(sys.modules, "cv2", raising=False)
    expected = resize_bilinear(image, (20, 20))
    monkeypatch.setitem(sys.modules, "cv2", stand_in)
    assert np.array_equal(resize_bilinear(image, (20, 20)), expected)


def test_opencv_is_used_where_it_is_loaded_but_not_in_loader_processes(monkeypatch):
    calls = []

    def resize(image, size):
        calls.append(size)
        return module._resize(image, size[::-1])

    stand_in = types.ModuleType("cv2")
    stand_in.resize = resize
    monkeypatch.setitem(sys.modules, "cv2", stand_in)
    resize_bilinear(noise(9, 9, 3), (5, 7))
    assert calls[-1] == (7, 5)
    del calls[:]
    monkeypatch.setattr(module, "get_worker_info", lambda: object())
    resize_bilinear(noise(9, 9, 3), (5, 7))
    assert not calls


def test_threads_get_the_bytes_of_one(without_opencv):
    from concurrent.futures import ThreadPoolExecutor

    cases = [random_case(index) for index in range(24)]
    expected = [resize_bilinear(*case) for case in cases]
    with ThreadPoolExecutor(4) as pool:
        assert all(map(np.array_equal, pool.map(lambda case: resize_bilinear(*case), cases), expected))


def test_a_tensor_of_either_layout_is_resized_to_planes(without_opencv):
    from bitfalcon_plugin.data.images import resize

    interleaved = torch.from_numpy(noise(48, 36, 3)).permute(2, 0, 1)
    expected = resize_bilinear(noise(48, 36, 3), (31, 64)).transpose(2, 0, 1)
    for image in (interleaved, interleaved.contiguous()):
        ours = resize(image, (31, 64))
        assert ours.is_contiguous() and np.array_equal(ours.numpy(), expected)


def _record() -> None:
    import cv2

    sides = [
        (1080, 810, 640, 480),
        (720, 1280, 360, 640),
        (480, 640, 240, 320),
        (375, 500, 480, 640),
        (427, 640, 213, 320),
    ]
    sides += [(old, old + 1, new, new + 2) for old in TIGHT for new in TIGHT]
    digests = {}
    for channels in (1, 3):
        for height, width, new_height, new_width in sides:
            resized = cv2.resize(noise(height, width, channels), (new_width, new_height))
            digests[f"{height} {width} {new_height} {new_width} {channels}"] = zlib.crc32(resized)
    DIGESTS.write_text(json.dumps(digests, indent=0) + "\n")


if __name__ == "__main__":
    _record()
