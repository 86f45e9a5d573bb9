"""Labels that can be read and written, and sheets of a batch: where things stand in the picture."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageFont

from bitfalcon_plugin import drawing
from bitfalcon_plugin.drawing import GREY, PALETTE, batch_sheet, contact_sheet, draw_boxes, ink, writable

NAMES = {0: "cat", 1: "dog"}


def rgb(colour: str) -> tuple[int, ...]:
    return tuple(int(colour[place:place + 2], 16) for place in (1, 3, 5))


def contrast(one: tuple[int, ...], other: tuple[int, ...]) -> float:
    """WCAG 2's contrast ratio."""
    def luminance(colour):
        parts = [c / 255 / 12.92 if c / 255 <= 0.03928 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in colour]
        return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]

    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def test_labels_stand_out_from_their_colour():
    assert ink("#ffffff") == "black" and ink("#000000") == "white"
    for colour in PALETTE:
        assert contrast(rgb(colour), (0, 0, 0) if ink(colour) == "black" else (255, 255, 255)) > 2.4


def test_edges_are_where_the_box_is():
    picture = draw_boxes(Image.new("RGB", (200, 100), "white"), [[20, 30, 120, 80, 0.9, 1]], NAMES, labels=False, line_width=1)
    pixels = np.asarray(picture)
    ys, xs = (pixels == rgb(PALETTE[1])).all(2).nonzero()
    assert (xs.min(), xs.max(), ys.min(), ys.max()) == (20, 120, 30, 80)
    assert len(xs) == 2 * 101 + 2 * 49  # nothing else is drawn


def test_ascii_is_written_as_it_is_and_on_one_line():
    assert writable("traffic light 0.87", 12)[0] == "traffic light 0.87"
    assert writable(" two\nlines\t", 12)[0] == "two lines"


def test_letters_that_no_font_has_are_told_apart(monkeypatch):
    monkeypatch.setattr(drawing, "WIDER", ())
    monkeypatch.setattr(drawing, "IDEOGRAPHS", ())
    text, font = writable("naïve 猫", 12)
    assert text == "naive ?" and font.getmask(text).getbbox()


def test_a_font_of_the_system_is_taken_if_it_has_every_letter():
    try:
        ImageFont.truetype("DejaVuSans.ttf", 12)
    except OSError:
        pytest.skip("this system has no DejaVuSans.ttf")
    text, font = writable("naïve кошка", 12)
    assert text == "naïve кошка" and font.getname()[0] != ImageFont.load_default(12).getname()[0]
    assert drawing._has("DejaVuSans.ttf", "ж") and not drawing._has("DejaVuSans.ttf", "\ue123")


def images_of(count: int, height: int, width: int) -> np.ndarray:
    """Images of one grey each: 10, 20, 30, ..."""
    return np.stack([np.full((3, height, width), 10 * (i + 1), np.uint8) for i in range(count)])


def test_a_sheet_shows_each_image_in_its_cell():
    sheet = batch_sheet(images_of(5, 40, 60), [[]] * 5, NAMES, least=0)
    assert sheet.size == (3 * 60, 2 * 40)
    assert [sheet.getpixel((60 * (i % 3) + 30, 40 * (i // 3) + 20))[0] for i in range(5)] == [10, 20, 30, 40, 50]
    assert sheet.getpixel((150, 60)) == GREY


@pytest.mark.parametrize("shape", [(640, 640), (320, 1280), (1280, 320), (4000, 4000)])
def test_a_sheet_is_bounded_and_keeps_proportions(shape):
    sheet = batch_sheet(np.zeros((4, 3, *shape), np.uint8), [[]] * 4, NAMES, limit=500)
    assert max(sheet.size) <= 500 and max(sheet.size) >= 494
    assert sheet.width / sheet.height == pytest.approx(shape[1] / shape[0], rel=0.05)


def test_a_sheet_shows_sixteen_at_most():
    assert batch_sheet(images_of(20, 32, 32), [[]] * 20, NAMES, least=0).size == (128, 128)


def test_small_images_are_enlarged_until_text_can_be_read():
    assert batch_sheet(images_of(4, 32, 64), [[]] * 4, NAMES).size == (640, 320)
    assert batch_sheet(images_of(1, 400, 300), [[]], NAMES).size == (300, 400)


def test_boxes_shrink_with_their_image():
    rows = [[], [[100, 200, 300, 400, 1.0, 0]]]
    sheet = np.asarray(batch_sheet(np.full((2, 3, 800, 800), 255, np.uint8), rows, {0: ""}, limit=800, conf=False))
    ys, xs = (sheet == rgb(PALETTE[0])).all(2).nonzero()
    assert sheet.shape == (400, 800, 3)
    assert xs.min() == 400 + 50 and xs.max() == 400 + 150 and ys.max() == 200 and (xs >= 400).all()


def test_captions_and_a_batch_of_none():
    plain, named = (np.asarray(batch_sheet(images_of(1, 100, 200), [[]], NAMES, captions=words, least=0))
                    for words in ((), ("a.jpg",)))
    assert (plain != named).any(2).nonzero()[0].min() > 75  # in the lower part
    assert batch_sheet(np.zeros((0, 3, 32, 32), np.uint8), [], NAMES, least=0).size == (32, 32)


def test_contact_sheets_fit_pictures_into_squares():
    sheet = contact_sheet([Image.new("RGB", (100, 50), "red"), Image.new("RGB", (10, 40), "blue")], columns=4, side=80)
    assert sheet.size == (160, 80)
    assert [sheet.getpixel(place) for place in ((40, 40), (40, 5), (120, 5))] == [(255, 0, 0), GREY, (0, 0, 255)]
