"""Masks, keypoints, oriented boxes and text on pictures: what is drawn where, and in which colour."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from bitfalcon_plugin.ops.keypoint_layout import COCO_LIMBS
from bitfalcon_plugin.ops.letterbox import letterbox_fit
from bitfalcon_plugin.plots.colours import PALETTE, rgb
from bitfalcon_plugin.plots.overlays import draw_keypoints, draw_masks, draw_text_lines
from bitfalcon_plugin.predict.keypoints import Keypoints
from bitfalcon_plugin.predict.results import Results

WHITE = (255, 255, 255)
NAMES = {0: "a", 1: "b", 2: "c"}


def blended(colour: int) -> np.ndarray:
    """Half white, half a colour of the palette."""
    return np.floor(np.asarray(WHITE) * 0.5 + np.asarray(rgb(PALETTE[colour])) * 0.5)


def white(width: int = 100, height: int = 80) -> np.ndarray:
    return np.full((height, width, 3), 255, np.uint8)


def test_masks_of_the_pictures_size_are_blended_where_they_are_and_the_first_is_on_top():
    planes = np.zeros((3, 80, 100), np.uint8)
    planes[0, 10:30, 20:50], planes[1, 20:40, 40:70] = 1, 1
    drawn = np.asarray(draw_masks(Image.fromarray(white()), planes, PALETTE[:3], (0, 0, 100, 80)))
    assert (drawn[10:30, 20:40] == blended(0)).all() and (drawn[30:40, 40:70] == blended(1)).all()
    assert (drawn != 255).any(2).sum() == (planes[0] | planes[1]).sum()
    both = blended(1) * 0.5 + np.asarray(rgb(PALETTE[0])) * 0.5
    assert abs(drawn[25, 45] - both).max() <= 1


@pytest.mark.parametrize("canvas", [(96, 128), (128, 96), (32, 32), (640, 640)])
def test_masks_of_a_letterbox_are_cut_and_enlarged_as_a_whole_plane_would_be(canvas):
    original = (171, 200)
    fit = letterbox_fit(original, canvas)
    (top, left), (height, width) = fit.pad, fit.resized
    plane = np.zeros(canvas, np.uint8)
    plane[canvas[0] // 3 : canvas[0] * 3 // 4, canvas[1] // 5 : canvas[1] // 2] = 1
    content = (left, top, left + width, top + height)
    drawn = np.asarray(draw_masks(Image.new("RGB", original[::-1], WHITE), plane[None], PALETTE, content))
    cut = torch.from_numpy(plane[top : top + height, left : left + width]).float()[None, None]
    antialias = height > original[0]
    expected = torch.nn.functional.interpolate(cut, original, mode="bilinear", antialias=antialias)[0, 0] > 0.5
    assert ((drawn != 255).any(2) != expected.numpy()).mean() < 0.003  # a pixel of rounding along the border


def test_masks_at_the_padding_and_empty_ones_are_not_drawn():
    plane = np.zeros((64, 64), np.uint8)
    plane[:16] = 1  # the padding above a wide picture
    for planes in (plane[None], plane[None] * 0, plane[None][:0]):
        drawn = draw_masks(Image.new("RGB", (100, 50), WHITE), planes, PALETTE, (0, 16, 64, 48))
        assert (np.asarray(drawn)[1:] == 255).all()


def test_points_are_drawn_where_they_are_seen():
    points = [[20.0, 20, 0.9], [60, 20, 0.2], [60, 60, 0.25], [float("nan"), 5, 1]]
    limbs = [(0, 1), (0, 2)]
    drawn = draw_keypoints(Image.fromarray(white()), [points], limbs, radius=3)
    assert drawn.getpixel((20, 20)) == rgb(PALETTE[0]) and drawn.getpixel((60, 60)) == rgb(PALETTE[2])
    assert drawn.getpixel((60, 20)) == WHITE == drawn.getpixel((40, 20))  # neither the point nor its limb
    assert drawn.getpixel((40, 40)) == rgb(PALETTE[2])
    plain = draw_keypoints(Image.fromarray(white()), [points], limbs, radius=3, lines=False, colour=(1, 2, 3))
    assert plain.getpixel((40, 40)) == WHITE and plain.getpixel((60, 60)) == (1, 2, 3)
    every = draw_keypoints(Image.fromarray(white()), [points], limbs, radius=3, least=0.1)
    assert every.getpixel((60, 20)) == rgb(PALETTE[1]) == every.getpixel((40, 20))
    two = draw_keypoints(Image.fromarray(white()), [[[0.0, 0], [50, 40]]], [(0, 1)], radius=3)
    assert two.getpixel((0, 0)) == WHITE == two.getpixel((25, 20)) and two.getpixel((50, 40)) == rgb(PALETTE[1])


@pytest.mark.parametrize("size, radius", [((640, 480), 5), ((320, 240), 5), ((100, 100), 2), ((3840, 2160), 21)])
def test_dots_grow_with_the_picture(size, radius):
    drawn = np.asarray(draw_keypoints(Image.new("RGB", size), [[[size[0] // 2, size[1] // 2, 1.0]]], []))
    assert drawn.any(2).any(0).sum() == 2 * radius + 1


def test_people_have_limbs_and_other_objects_those_of_their_skeleton():
    points = torch.rand(1, 17, 3, generator=torch.Generator().manual_seed(0)) * 90 + 5
    for keypoints, has_limbs in (
        (Keypoints(points, (100, 100)), True),
        (Keypoints(points[:, :5], (100, 100)), False),
        (Keypoints(points[:, :5], (100, 100), skeleton=[(0, 1)]), True),
    ):
        result = Results(white(100, 100), "a", NAMES, keypoints=keypoints)
        assert np.array_equal(result.plot(), result.plot(kpt_line=False)) != has_limbs
    assert len(COCO_LIMBS) == 19 and {index for limb in COCO_LIMBS for index in limb} == set(range(17))


def test_no_label_hides_a_keypoint():
    points = [[[30.0, 41, 0.9], [60, 60, 0.9]]]
    result = Results(
        white(), "a", NAMES, boxes=torch.tensor([[25.0, 40, 90, 80, 0.9, 1]]), keypoints=torch.tensor(points)
    )
    drawn = result.plot(kpt_color=(3, 2, 1), kpt_radius=4, font_size=20, line_width=2)
    assert (drawn[38:45, 30] == (3, 2, 1)).all() and (drawn[38:45, 50] != 255).any()


def test_the_least_confidence_of_drawn_keypoints_is_an_option():
    result = Results(white(), "a", NAMES, keypoints=torch.tensor([[[20.0, 20, 0.9], [60, 40, 0.2]]]))
    drawn = [(result.plot(kpt_conf=conf, kpt_radius=3) != 255).any(2) for conf in (0.95, 0.25, 0.0)]
    assert [bool(picture[20, 20]) for picture in drawn] == [False, True, True]
    assert [bool(picture[40, 60]) for picture in drawn] == [False, False, True]
    assert np.array_equal(result.plot(), result.plot(kpt_conf=0.25))


def test_text_stands_on_a_ground_that_shines_through():
    drawn = np.asarray(draw_text_lines(Image.fromarray(white(300, 200)), ["six 0.91", "zero 0.04"]))
    assert (drawn[:6] == 255).all() and (drawn[:, :6] == 255).all()  # 3 % of the height
    rows = (drawn == 255).all(2)[6:, 8:60]
    ground = drawn[7, 7]
    assert 100 < ground[0] < 160 and rows[2:20].any() and rows[20:34].any()
    blue = np.asarray(draw_text_lines(Image.fromarray(white(300, 200)), ["six"], colour=(0, 0, 255), font_size=40))
    assert (blue == [0, 0, 255]).all(2).any()
    assert draw_text_lines(Image.new("RGB", (3, 3)), ["long text"] * 5).size == (3, 3)


def obb_result(angle: float, **options) -> Results:
    return Results(white(), "a", NAMES, obb=torch.tensor([[50.0, 40, 40, 20, angle, 0.9, 1]]), **options)


def test_oriented_boxes_are_drawn_along_their_corners():
    drawn = obb_result(0.0).plot(labels=False, line_width=1)[..., ::-1]
    ys, xs = (drawn == rgb(PALETTE[1])).all(2).nonzero()
    assert (xs.min(), xs.max(), ys.min(), ys.max()) == (30, 70, 30, 50) and len(xs) == 2 * 41 + 2 * 19
    turned = obb_result(0.6)
    ys, xs = (turned.plot(labels=False, line_width=1)[..., ::-1] == rgb(PALETTE[1])).all(2).nonzero()
    x1, y1, x2, y2 = turned.obb.xyxy[0].tolist()
    np.testing.assert_allclose((xs.min(), xs.max(), ys.min(), ys.max()), (x1, x2, y1, y2), atol=1)
    assert not np.array_equal(turned.plot(), turned.plot(labels=False))
    beyond = Results(white(), "a", NAMES, obb=torch.tensor([[-500.0, 900, 4000, 20, 0.5, 0.9, 1]]))
    assert beyond.plot().shape == (80, 100, 3)


def test_crops_of_oriented_boxes_are_upright(tmp_path):
    image = np.zeros((200, 200, 3), np.uint8)
    y, x = np.mgrid[:200, :200] - 100
    cos, sin = np.cos(0.6), np.sin(0.6)
    along, across = x * cos + y * sin, y * cos - x * sin
    image[(abs(along) < 50) & (abs(across) < 15)] = (0, 0, 255)
    image[(abs(along - 40) < 10) & (abs(across) < 15)] = (0, 255, 0)  # the end to which the angle points
    boxes = torch.tensor(
        [[100.5, 100.5, 100, 30, 0.6, 0.9, 0], [0, 0, 40, 40, 0.3, 0.8, 1], [-90, 50, 40, 40, 0.3, 0.8, 1]]
    )
    Results(image, "x.jpg", NAMES, obb=boxes).save_crop(tmp_path)
    with Image.open(tmp_path / "a" / "im.jpg") as crop:
        pixels = np.asarray(crop).astype(int)
    assert pixels.shape == (41, 112, 3)  # 2 % and 10 px larger
    assert (abs(pixels[8:33, 8:80] - [255, 0, 0]) < 40).all() and (abs(pixels[10:31, 90:103] - [0, 255, 0]) < 60).all()
    assert pixels[:3].max() < 40 and pixels[-3:].max() < 40
    assert [path.name for path in (tmp_path / "b").iterdir()] == ["im.jpg"]  # none of the box outside the image


def test_keywords_of_plot_concern_their_part():
    rows = torch.tensor([[10.0, 10, 40, 60, 0.9, 0], [30, 20, 90, 70, 0.8, 0]])
    masks = torch.zeros(2, 80, 100)
    masks[0, 20:50, 15:35], masks[1, 30:60, 50:80] = 1, 1
    found = Results(white(), "a", NAMES, rows, masks)
    plain = found.plot(masks=False)
    assert np.array_equal(plain, Results(white(), "a", NAMES, rows).plot())
    alone = found.plot(boxes=False)
    assert (alone[40, 20] == blended(0)[::-1]).all() and (alone[10, 12] == 255).all()
    by_object = found.plot(boxes=False, color_mode="instance")
    assert (by_object[45, 60] == blended(1)[::-1]).all() and (by_object[40, 20] == blended(0)[::-1]).all()
    tracked = torch.cat((rows[:, :4], torch.tensor([[4.0], [5]]), rows[:, 4:]), 1)
    by_track = Results(white(), "a", NAMES, tracked, masks).plot(boxes=False)
    assert (by_track[40, 20] == blended(4)[::-1]).all() and (by_track[45, 60] == blended(5)[::-1]).all()
    for old, new in (({"show_conf": False}, {"conf": False}), ({"line_thickness": 5}, {"line_width": 5})):
        assert np.array_equal(found.plot(**old), found.plot(**new))
        assert not np.array_equal(found.plot(**old), found.plot())
    assert np.array_equal(found.plot(im_gpu=torch.zeros(3, 8, 8), kpt_radius=9), found.plot())
    orange = found.plot(txt_color=(0, 128, 255), font_size=30)
    assert (orange == [0, 128, 255]).all(2).any()
    probs = Results(white(), "a", NAMES, probs=torch.tensor([0.1, 0.7, 0.2]))
    assert np.array_equal(probs.plot(probs=False), white()) and not np.array_equal(probs.plot(), white())


def test_crops_of_probabilities_are_none(tmp_path, capsys):
    Results(white(), "a", NAMES, probs=torch.tensor([0.1, 0.7, 0.2])).save_crop(tmp_path)
    assert "have no boxes" in capsys.readouterr().err and not list(tmp_path.iterdir())
