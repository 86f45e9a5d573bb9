"""The Annotator and the other drawing functions of dropin.utils.plotting, pixel by pixel."""

from __future__ import annotations

import threading
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from bitfalcon_plugin.dropin.utils.plotting import (
    Annotator,
    colors,
    feature_visualization,
    output_to_target,
    plot_images,
    plot_labels,
    plot_results,
    plot_tune_results,
    plt_color_scatter,
    save_one_box,
)


def grey(height=200, width=300) -> np.ndarray:
    return np.full((height, width, 3), 90, np.uint8)


def changed(image: np.ndarray) -> np.ndarray:
    return (image != 90).any(-1)


def test_a_box_is_drawn_in_place_in_the_colour_as_it_is():
    image = grey()
    annotator = Annotator(image, line_width=2)
    assert annotator.box_label([50.9, 60, 150, 120], color=(1, 2, 3)) is None
    assert annotator.im is image and annotator.result() is image
    rows, columns = np.nonzero(changed(image))
    assert (image[changed(image)] == (1, 2, 3)).all()
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (59, 120, 49, 150)
    inside = changed(image)[61:119, 51:149]
    assert not inside.any()


@pytest.mark.parametrize("kind", [list, tuple, torch.tensor, np.array])
def test_boxes_of_every_kind(kind):
    image = grey()
    Annotator(image).box_label(kind([50, 60, 150, 120]), "cat 0.9", color=colors(3, True))
    assert changed(image).any()


def test_measures_follow_the_image():
    annotator = Annotator(np.zeros((1080, 1920, 3), np.uint8))
    assert annotator.lw == round((1080 + 1920 + 3) / 2 * 0.003) and annotator.tf == annotator.lw - 1
    assert annotator.sf == annotator.lw / 3 and Annotator(grey()).lw == 2 and not annotator.pil


def test_what_images_it_takes():
    with pytest.raises(AssertionError, match="contiguous"):
        Annotator(grey()[:, ::-1])
    frozen = grey()
    frozen.flags.writeable = False
    copy = Annotator(frozen)
    copy.box_label([5, 5, 50, 50])
    assert copy.im is not frozen and (frozen == 90).all() and changed(copy.result()).any()
    assert Annotator(np.zeros((20, 30), np.uint8)).im.shape == (20, 30, 3)
    assert Annotator(np.zeros((20, 30, 4), np.uint8)).im.shape == (20, 30, 3)
    with pytest.raises(TypeError, match="list"):
        Annotator([1, 2])


def test_the_label_stands_above_the_box_or_inside_it():
    image = grey()
    annotator = Annotator(image, line_width=2)
    annotator.box_label([50, 100, 150, 150], "label", color=(0, 0, 255))
    above = changed(image)[:98]
    assert above.any() and above[60:98, 50].any() and not changed(image)[:, :48].any()
    top = grey()
    Annotator(top, line_width=2).box_label([50, 4, 150, 150], "label", color=(0, 0, 255))
    assert changed(top)[6:20, 60:90].all()  # a patch inside
    right = grey()
    Annotator(right, line_width=2).box_label([280, 100, 299, 150], "a long label", color=(0, 0, 255))
    assert changed(right)[80:98, 200:].any(0).sum() > 60 and changed(right)[80:98, :280].any()
    empty = grey()
    Annotator(empty, line_width=2).box_label([50, 100, 150, 150], "", color=(0, 0, 255))
    assert not changed(empty)[:98].any()


def test_text_on_the_palette_can_be_read_and_other_colours_take_the_given_one():
    annotator = Annotator(grey())
    texts = {annotator.get_txt_color(colors(index, bgr)) for index in range(20) for bgr in (False, True)}
    assert texts == {(104, 31, 17), (255, 255, 255)}
    assert annotator.get_txt_color((1, 2, 3), (9, 9, 9)) == (9, 9, 9)
    assert annotator.get_txt_color(colors(4)) == (104, 31, 17)  # yellow
    image = grey()
    Annotator(image, line_width=4).box_label([50, 100, 150, 150], "label", (0, 0, 0), (0, 255, 0))
    assert (image == (0, 255, 0)).all(-1).sum() > 20


def test_four_corners_are_an_oriented_box():
    corners = [[100, 40], [160, 100], [100, 160], [40, 100]]
    drawn = []
    for box, options in (
        (corners, {}),
        (torch.tensor(corners), {"rotated": True}),
        (np.ravel(corners), {"rotated": True}),
    ):
        image = grey()
        Annotator(image, line_width=3).box_label(box, color=(5, 6, 7), **options)
        assert image[70, 130].tolist() == [5, 6, 7] and image[100, 100].tolist() == [90, 90, 90]
        drawn.append(image)
    assert all(np.array_equal(image, drawn[0]) for image in drawn)


@pytest.mark.parametrize("box", [[-50, -50, 10, 10], [290, 190, 900, 900], [-9, -9, 999, 999], [400, 400, 500, 500]])
@pytest.mark.parametrize("pil", [False, True])
def test_boxes_beyond_the_image_do_not_fail(box, pil):
    Annotator(grey(), pil=pil).box_label(box, "label", colors(1))


def test_pillow_pictures_are_drawn_on_too():
    picture = Image.new("RGB", (300, 200), (90, 90, 90))
    annotator = Annotator(picture)
    assert annotator.pil and annotator.im is picture
    annotator.box_label([50, 60, 150, 120], "é ü", color=(200, 10, 20))
    assert picture.getpixel((100, 60)) == (200, 10, 20) and annotator.result(pil=True) is picture
    annotator.rectangle([5, 5, 20, 20], fill=(1, 1, 1))
    assert picture.getpixel((10, 10)) == (1, 1, 1)
    assert np.asarray(annotator.result()).shape == (200, 300, 3)
    array = Annotator(grey(), pil=True)
    array.box_label([50, 60, 150, 120], color=(200, 10, 20))  # blue, green, red
    assert array.result()[60, 100].tolist() == [200, 10, 20]
    assert array.result(pil=True).getpixel((100, 60)) == (20, 10, 200)
    with pytest.raises(AttributeError, match="pil=True"):
        Annotator(grey()).rectangle([1, 2, 3, 4])
    assert Annotator(grey(), example="汉字").pil


def test_both_canvases_draw_the_same():
    results = []
    for pil in (False, True):
        annotator = Annotator(grey(), line_width=3, font_size=14, pil=pil)
        annotator.box_label([50, 60, 150, 120], "label 0.75", color=(200, 10, 20))
        annotator.kpts(np.array([[80.0, 80, 0.9], [120, 100, 0.1]]), radius=4)
        annotator.text((10, 10), "two\nlines", (1, 250, 3), box_color=(9, 9, 9))
        results.append(annotator.result())
    differ = np.abs(results[0].astype(int) - results[1]).max(-1)
    assert (differ > 1).mean() < 0.002  # corners of discs


def test_text():
    image = grey()
    annotator = Annotator(image, line_width=2)
    annotator.text((20, 50), "text", (255, 0, 0), anchor="bottom")
    rows = np.nonzero(changed(image).any(1))[0]
    assert 20 < rows.min() and rows.max() <= 50
    annotator.text((100, 50), "text", box_style=True, txt_color=(0, 0, 255))
    assert image[52, 101].tolist() == [0, 0, 255]
    annotator.text_label([200, 100, 280, 160], "mid", (0, 200, 0))
    annotator.circle_label([50, 100, 150, 180], "longer", (0, 0, 200))
    assert changed(image)[120:140, 220:260].any() and image[140, 100].tolist() != [90, 90, 90]
    assert Annotator.get_bbox_dimension([10, 20, 30, 50]) == (20, 30, 600)


def test_masks_are_blended():
    masks = torch.zeros(2, 200, 300)
    masks[0, 10:50, 10:50], masks[1, 100:150, 100:150] = 1, 1
    image = grey()
    Annotator(image).masks(masks, [(0, 0, 250), (10, 0, 0)], alpha=0.4)
    assert image[20, 20].tolist() == [54, 54, 154] and image[120, 120].tolist() == [58, 54, 54]
    assert (image[60:90] == 90).all()
    third = grey()
    Annotator(third).masks(masks.numpy(), [(0, 0, 250), (10, 0, 0)], 0.4)
    assert np.array_equal(third, image)
    letterboxed = torch.zeros(1, 320, 320)
    letterboxed[0, :160] = 1  # the upper half of an image of 200 x 300 in the middle of a square
    moved = grey()
    Annotator(moved).masks(letterboxed, [(0, 0, 0)])
    assert (moved[:95] == 45).all() and (moved[105:] == 90).all()
    Annotator(image).masks(masks[:0], [])


def test_points_and_limbs():
    points = torch.zeros(17, 3)
    points[5], points[6] = torch.tensor([100.0, 50, 0.9]), torch.tensor([180.0, 50, 0.8])  # the shoulders
    points[0] = torch.tensor([140.0, 150, 0.1])
    image = grey()
    Annotator(image, line_width=2).kpts(points, radius=5)
    assert changed(image)[50, 100:180].all() and changed(image)[46, 100] and not changed(image)[140:160].any()
    dots = grey()
    Annotator(dots, line_width=2).kpts(points, radius=5, kpt_line=False, kpt_color=(1, 2, 3))
    assert not changed(dots)[50, 120:160].any() and dots[50, 100].tolist() == [1, 2, 3]
    plain = grey()
    Annotator(plain).kpts([[30.0, 30], [0, 0]])
    assert changed(plain)[30, 30] and not changed(plain)[0:10, 0:10].any()


def test_saving_and_showing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    image = grey()
    image[..., 0] = 200  # blue
    annotator = Annotator(image)
    annotator.save("a.png")
    assert Image.open("a.png").getpixel((5, 5)) == (90, 90, 200)
    annotator.show("frame")
    assert "frame.jpg" in capsys.readouterr().err


def test_the_palette():
    assert colors(0) == (4, 42, 255) and colors(0, bgr=True) == (255, 42, 4) and colors.n == 20
    assert colors(20) == colors(0) and colors(-1) == colors(19) and colors(torch.tensor(3.0)) == colors(3)
    assert (
        len(colors.palette) == 20 and colors.pose_palette.shape == (20, 3) and colors.hex2rgb("#ff0001") == (255, 0, 1)
    )
    assert all(isinstance(part, int) for part in colors(7))


def test_crops(tmp_path):
    image = np.zeros((100, 200, 3), np.uint8)
    image[40:60, 50:90] = (255, 10, 0)  # blue, green, red
    crop = save_one_box(torch.tensor([50.0, 40, 90, 60]), image, tmp_path / "im.jpg", gain=1.0, pad=0)
    assert crop.shape == (20, 40, 3) and (crop == (0, 10, 255)).all()
    assert Image.open(tmp_path / "im.jpg").size == (40, 20)
    assert np.allclose(Image.open(tmp_path / "im.jpg").getpixel((20, 10)), (0, 10, 255), atol=6)
    save_one_box([50, 40, 90, 60], image, tmp_path / "im.jpg")
    assert (tmp_path / "im2.jpg").exists()
    padded = save_one_box(np.array([50, 40, 90, 60]), image, gain=1.5, pad=10, save=False, BGR=True)
    assert padded.shape == (40, 70, 3) and padded[20, 35].tolist() == [255, 10, 0]
    assert save_one_box([50, 40, 90, 60], image, gain=1, pad=0, square=True, save=False).shape == (40, 40, 3)
    assert save_one_box([-50, -40, 900, 600], image, save=False).shape == (100, 200, 3)


def test_sheets_of_a_batch(tmp_path):
    images = torch.full((2, 3, 64, 96), 0.5)
    boxes = torch.tensor([[0.5, 0.5, 0.5, 0.5], [0.25, 0.5, 0.2, 0.2]])
    calls = []
    thread = plot_images(
        images, torch.tensor([0, 1]), torch.tensor([[0.0], [1]]), boxes, fname=tmp_path / "a.jpg", on_plot=calls.append
    )
    assert isinstance(thread, threading.Thread)
    thread.join()
    assert calls == [tmp_path / "a.jpg"] and Image.open(tmp_path / "a.jpg").size[0] > 96
    labels = {"batch_idx": torch.tensor([0, 1]), "cls": torch.tensor([0.0, 1]), "bboxes": boxes}
    first = plot_images(labels, images, names={0: "a", 1: "b"}, save=False, threaded=False)
    second = plot_images(
        images, torch.tensor([0, 1]), labels["cls"], boxes, names={0: "a", 1: "b"}, save=False, threaded=False
    )
    assert first.shape[2] == 3 and np.array_equal(first, second)
    pixels = boxes * torch.tensor([96, 64, 96, 64])
    in_pixels = plot_images(
        images, torch.tensor([0, 1]), labels["cls"], pixels, names={0: "a", 1: "b"}, save=False, threaded=False
    )
    assert np.array_equal(first, in_pixels)
    weak = plot_images({**labels, "conf": torch.tensor([0.1, 0.2])}, images, save=False, threaded=False)
    none = plot_images(images, save=False, threaded=False)
    assert np.array_equal(weak, none) and not np.array_equal(first, none)
    targets = output_to_target([torch.tensor([[24.0, 16, 72, 48, 0.9, 0]]), torch.zeros(0, 6)])
    assert [part.tolist() for part in targets] == [[0], [0], [[48, 32, 48, 32]], [pytest.approx(0.9)]]
    assert plot_images(images, *targets, save=False, threaded=False).shape == first.shape


def test_feature_maps(tmp_path):
    feature_visualization(torch.randn(1, 40, 12, 16), "modules.conv.Conv", 3, n=9, save_dir=tmp_path)
    feature_visualization(torch.randn(1, 40, 12, 16), "modules.head.Detect", 4, save_dir=tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["stage3_Conv_features.npy", "stage3_Conv_features.png"]
    assert np.load(tmp_path / "stage3_Conv_features.npy").shape == (40, 12, 16)


def test_charts(tmp_path):
    pytest.importorskip("matplotlib")
    with pytest.raises(AssertionError, match="results.csv"):
        plot_results(tmp_path / "results.csv")
    header = "epoch,time,train/box_loss,metrics/mAP50(B),val/box_loss,lr/pg0"
    (tmp_path / "results.csv").write_text(f"{header}\n1,2,3,0.4,5,0.1\n2,3,2,0.5,4,0.1\n")
    assert plot_results(tmp_path / "results.csv") is None and (tmp_path / "results.png").exists()
    plot_labels(np.random.rand(30, 4), np.zeros((30, 1)), names={0: "cat", 1: "dog"}, save_dir=tmp_path)
    assert (tmp_path / "labels.jpg").exists()
    from matplotlib import pyplot

    plt_color_scatter(np.random.rand(50), np.random.rand(50))
    assert SimpleNamespace(axes=pyplot.gca()).axes.collections
    pyplot.close("all")


def test_charts_of_a_search(tmp_path):
    pytest.importorskip("matplotlib")
    rows = [
        f"{index},complete,{index / 10},{0.01 * index},{index / 50},{'' if index == 3 else 1}" for index in range(9)
    ]
    (tmp_path / "tune_results.csv").write_text("\n".join(["trial,state,fitness,lr0,momentum,empty", *rows]))
    assert plot_tune_results(tmp_path / "tune_results.csv") is None
    assert {path.name for path in tmp_path.glob("*.png")} == {"tune_fitness.png", "tune_scatter_plots.png"}
    (tmp_path / "first").mkdir()
    (tmp_path / "first/a.csv").write_text("fitness,lr0\n0.0,0.1\n")
    plot_tune_results(tmp_path / "first/a.csv")
    assert [path.name for path in (tmp_path / "first").glob("*.png")] == ["tune_fitness.png"]
