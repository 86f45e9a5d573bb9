"""Labels that can be read and written, and sheets of a batch: where things stand in the picture."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from bitfalcon_plugin.config.errors import UserError
from bitfalcon_plugin.plots import fonts, labels
from bitfalcon_plugin.plots.colours import GREY, PALETTE, ink
from bitfalcon_plugin.plots.drawing import BoxStyle, draw_boxes, picture_of
from bitfalcon_plugin.plots.fonts import writable
from bitfalcon_plugin.plots.sheets import Overlay, batch_sheet

NAMES = {0: "cat", 1: "dog"}


def rgb(colour: str) -> tuple[int, ...]:
    return tuple(int(colour[start : start + 2], 16) for start in (1, 3, 5))


def contrast(first: tuple[int, ...], second: tuple[int, ...]) -> float:
    """WCAG 2's contrast ratio."""

    def luminance(colour):
        parts = [c / 255 / 12.92 if c / 255 <= 0.03928 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in colour]
        return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]

    light, dark = sorted((luminance(first), luminance(second)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def test_labels_stand_out_from_their_colour():
    assert ink("#ffffff") == "black" and ink("#000000") == "white"
    for colour in PALETTE:
        assert contrast(rgb(colour), (0, 0, 0) if ink(colour) == "black" else (255, 255, 255)) > 4.5


def lab(colour: str) -> np.ndarray:
    """CIELAB of an sRGB colour under D65."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (part / 255 for part in rgb(colour))]
    x, y, z = (
        np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
        @ linear
        / (0.9505, 1, 1.089)
    )
    fx, fy, fz = (c ** (1 / 3) if c > 0.008856 else 7.787 * c + 16 / 116 for c in (x, y, z))
    return np.array([116 * fy - 16, 500 * (fx - fy), 200 * (fy - fz)])


def test_twenty_colours_can_be_told_apart_from_one_another_and_from_padding():
    assert len(PALETTE) == 20 and PALETTE[0] == "#042aff"
    colours = [lab(colour) for colour in (*PALETTE, "#727272", "#000000", "#ffffff")]
    assert min(np.linalg.norm(one - other) for one, other in itertools.combinations(colours, 2)) > 30


class Pen:
    """What draw_boxes writes: (text, extent of the text, extent of the ground it stands on), in order."""

    def __init__(self, monkeypatch):
        self.labels, rectangle, text = [], ImageDraw.ImageDraw.rectangle, ImageDraw.ImageDraw.text

        def draw_rectangle(draw, sides, fill=None, **options):
            self.ground = sides
            rectangle(draw, sides, fill=fill, **options)

        def draw_text(draw, corner, words, font=None, **options):
            self.labels.append((words, draw.textbbox(corner, words, font=font), self.ground))
            text(draw, corner, words, font=font, **options)

        monkeypatch.setattr(ImageDraw.ImageDraw, "rectangle", draw_rectangle)
        monkeypatch.setattr(ImageDraw.ImageDraw, "text", draw_text)


@pytest.mark.parametrize("size", [(1, 1), (8, 8), (40, 30), (30, 300), (2000, 20), (320, 240), (3840, 2160)])
def test_labels_never_leave_the_picture_nor_text_its_ground(monkeypatch, size):
    pen, (w, h) = Pen(monkeypatch), size
    names = {
        0: "cat",
        1: "a name of a class that nobody can remember, let alone write down on a picture",
        2: "Größe|\n猫",
        3: "gjpqy",
    }
    boxes = [
        (0, 0, w, h),
        (-50, -50, 5, 5),
        (w - 3, h - 3, w + 90, h + 90),
        (w / 2, h / 2, w / 2, h / 2),
        (w - 1, 0, w, 2),
        (0, h - 1, 2, h),
        (-1e9, 3, 1e9, 4),
    ]
    rows = [[*box, 0.9 - index / 100, cls] for index, box in enumerate(boxes) for cls in names]
    assert draw_boxes(Image.new("RGB", size), rows, names).size == size
    if min(size) >= 200:
        assert len(pen.labels) == len(rows)
    for text, (left, top, right, bottom), (x1, y1, x2, y2) in pen.labels:
        assert 0 <= x1 <= left and right <= x2 + 1 <= w and 0 <= y1 <= top and bottom <= y2 + 1 <= h, text


def test_long_names_are_cut_and_scores_are_not(monkeypatch):
    pen = Pen(monkeypatch)
    draw_boxes(Image.new("RGB", (120, 120)), [[10, 30, 60, 90, 0.87, 0]], {0: "extraordinarily long name"})
    ((text, *_),) = pen.labels
    assert text.startswith("extra") and text.endswith(".. 0.87")


def test_labels_keep_away_from_one_another_and_from_small_boxes(monkeypatch):
    pen = Pen(monkeypatch)
    rows = [[100, 100, 180, 180, 0.9, 0], [102, 101, 190, 170, 0.8, 1], [105, 85, 111, 91, 0.7, 1]]
    draw_boxes(Image.new("RGB", (400, 300)), rows, NAMES)
    grounds = [ground for *_, ground in pen.labels]
    assert [text for text, *_ in pen.labels] == ["dog 0.70", "dog 0.80", "cat 0.90"]  # the best lies on top
    for one, other in itertools.combinations([*grounds, rows[2][:4]], 2):
        assert min(one[2], other[2]) < max(one[0], other[0]) or min(one[3], other[3]) < max(one[1], other[1])


def test_the_first_row_is_drawn_on_top():
    rows = [[20, 20, 60, 60, 0.5, 1], [20, 20, 60, 60, 0.9, 0]]
    assert draw_boxes(Image.new("RGB", (100, 100)), rows, NAMES, BoxStyle(labels=False)).getpixel((20, 40)) == rgb(
        PALETTE[1]
    )


def test_small_objects_are_seen_inside_their_box_on_a_large_picture():
    drawn = draw_boxes(
        Image.new("RGB", (3840, 2160)),
        [[100, 100, 108, 108, 0.9, 0], [500, 500, 900, 900, 0.9, 0]],
        NAMES,
        BoxStyle(labels=False),
    )
    pixels = np.asarray(drawn).any(2)
    assert pixels[100:109, 100:109].sum() == 4 * 8  # one pixel wide
    assert pixels[700, 500:520].sum() == round((3840 + 2160 + 3) / 2 * 0.003) == 9


def test_edges_at_and_beyond_the_border_are_seen():
    pixels = np.asarray(
        draw_boxes(Image.new("RGB", (50, 40)), [[-5, -5, 60, 40, 0.9, 0]], NAMES, BoxStyle(labels=False, line_width=1))
    )
    assert (pixels[[0, -1]] == rgb(PALETTE[0])).all() and (pixels[:, [0, -1]] == rgb(PALETTE[0])).all()
    assert not pixels[1:-1, 1:-1].any()


@pytest.mark.parametrize(
    "size, side, smallest, largest",
    [
        ((320, 240), 100, 12, 12),
        ((640, 480), 100, 20, 20),
        ((640, 480), 30, 12, 12),
        ((3840, 2160), 800, 105, 105),
        ((3840, 2160), 30, 52, 53),
        ((3840, 2160), 300, 75, 75),
        ((64, 64), 5, 12, 12),
    ],
)
def test_text_grows_with_the_picture_and_less_over_small_boxes(size, side, smallest, largest):
    assert smallest <= labels.text_size(size, [(0, 0, side, side)] * 3) <= largest
    assert labels.text_size(size, []) >= 12


def test_crowded_labels_are_smaller():
    boxes = [(0, 0, 200, 200)] * 40
    usual, crowded, crush = (labels.text_size((640, 480), boxes, letters) for letters in (60, 400, 4000))
    assert (usual, crush) == (20, 8) and 8 < crowded < 20
    assert crowded**2 * 0.75 * 400 == pytest.approx(0.2 * 640 * 480, rel=0.08)


def test_colours_and_labels_of_tracks_and_instances(monkeypatch):
    pen = Pen(monkeypatch)
    tracked = [[10, 20, 40, 90, 7, 0.9, 1], [50, 20, 90, 90, 8, 0.8, 1]]
    for rows, colours in ((tracked, (7, 8)), ([row[:4] + row[5:] for row in tracked], (0, 1))):
        picture = draw_boxes(Image.new("RGB", (100, 100)), rows, NAMES, BoxStyle(instance=True))
        assert [picture.getpixel((x, 60)) for x in (10, 50)] == [rgb(PALETTE[colour]) for colour in colours]
    assert [text for text, *_ in pen.labels] == ["id:8 dog 0.80", "id:7 dog 0.90", "dog 0.80", "dog 0.90"]
    for instance, colour in ((None, 8), (False, 1)):  # by default a colour for each track
        picture = draw_boxes(Image.new("RGB", (100, 100)), tracked, NAMES, BoxStyle(instance=instance))
        assert picture.getpixel((50, 60)) == rgb(PALETTE[colour])


def test_rows_that_are_not_finite_are_left_out():
    blank = Image.new("RGB", (50, 50))
    rows = [[np.nan, 5, 20, 20, 0.9, 0], [5, 5, np.inf, 20, 0.9, 0], [5, 5, 20, 20, np.nan, 0]]
    assert np.array_equal(np.asarray(draw_boxes(blank, rows, NAMES)), np.asarray(blank))


def test_arrays_become_pictures():
    bgr = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    assert np.array_equal(np.asarray(picture_of(bgr[:, ::-1])), bgr[:, ::-1, ::-1])
    assert np.array_equal(np.asarray(picture_of(np.dstack((bgr, bgr[..., :1])))), bgr[..., ::-1])
    for grey in (bgr[..., 0], bgr[..., :1]):
        assert np.array_equal(np.asarray(picture_of(grey)), np.repeat(bgr[..., :1], 3, 2))
    for wrong in (bgr / 255, bgr[..., :2], bgr[0, 0], bgr[:0]):
        with pytest.raises(UserError, match="expected uint8"):
            picture_of(wrong)


def test_edges_are_where_the_box_is():
    picture = draw_boxes(
        Image.new("RGB", (200, 100), "white"), [[20, 30, 120, 80, 0.9, 1]], NAMES, BoxStyle(labels=False, line_width=1)
    )
    pixels = np.asarray(picture)
    ys, xs = (pixels == rgb(PALETTE[1])).all(2).nonzero()
    assert (xs.min(), xs.max(), ys.min(), ys.max()) == (20, 120, 30, 80)
    assert len(xs) == 2 * 101 + 2 * 49  # nothing else is drawn


def test_ascii_is_written_as_it_is_and_on_one_line():
    assert writable("traffic light 0.87", 12)[0] == "traffic light 0.87"
    assert writable(" two\nlines\t", 12)[0] == "two lines"


def test_letters_that_no_font_has_are_told_apart(monkeypatch):
    no_fonts(monkeypatch)
    text, font = writable("naïve 猫", 12)
    assert text == "naive ?" and font.getmask(text).getbbox()


def test_names_of_which_nothing_can_be_written_are_numbers(monkeypatch):
    no_fonts(monkeypatch)
    pen = Pen(monkeypatch)
    draw_boxes(
        Image.new("RGB", (300, 300)),
        [[50, 50, 90, 90, 0.9, cls] for cls in range(4)],
        {0: "猫", 1: "犬 小", 2: "?", 3: ""},
    )
    assert [text for text, *_ in pen.labels] == ["0.90", "? 0.90", "class 1 0.90", "class 0 0.90"]


def test_any_font_of_the_system_is_searched_for_letters(monkeypatch, tmp_path):
    builder = pytest.importorskip("fontTools.fontBuilder", reason="fontTools draws the font of this test")
    from fontTools.pens.ttGlyphPen import TTGlyphPen

    def box(side):
        pen = TTGlyphPen(None)
        pen.moveTo((0, 0)), pen.lineTo((0, side)), pen.lineTo((side, side)), pen.lineTo((side, 0)), pen.closePath()
        return pen.glyph()

    font = builder.FontBuilder(1000, isTTF=True)
    letters = {0x732B: "cat", 0x20: "space", **{ord(letter): "cat" for letter in "0.9"}}
    font.setupGlyphOrder([".notdef", "cat", "space"])
    font.setupCharacterMap(letters)
    font.setupGlyf({".notdef": box(200), "cat": box(800), "space": TTGlyphPen(None).glyph()})
    font.setupHorizontalMetrics(dict.fromkeys((".notdef", "cat", "space"), (900, 0)))
    font.setupHorizontalHeader(ascent=900, descent=-100)
    font.setupNameTable({"familyName": "Ideographs of a test", "styleName": "Regular"})
    font.setupOS2(), font.setupPost()
    (tmp_path / "deep").mkdir()
    font.save(tmp_path / "deep" / "nobody-knows-this-name.ttf")
    (tmp_path / "broken.ttf").write_bytes(b"no font")
    no_fonts(monkeypatch, str(tmp_path))
    text, chosen = writable("猫 0.9", 12)
    assert text == "猫 0.9" and chosen.getname()[0] == "Ideographs of a test"
    assert writable("犬", 12)[0] == "?"


@pytest.fixture(autouse=True)
def fonts_are_searched_anew():
    yield
    fonts._font_for.cache_clear(), fonts._system_fonts.cache_clear()


def no_fonts(monkeypatch, *folders: str) -> None:
    """No font of the system but those in the folders."""
    fonts._font_for.cache_clear(), fonts._system_fonts.cache_clear()
    monkeypatch.setattr(fonts, "WIDER", ())
    monkeypatch.setattr(fonts, "IDEOGRAPHS", ())
    monkeypatch.setattr(fonts, "OTHER_FOLDERS", folders)
    monkeypatch.setattr(fonts, "FONT_FOLDERS", {})


def test_a_font_of_the_system_is_taken_if_it_has_every_letter():
    try:
        ImageFont.truetype("DejaVuSans.ttf", 12)
    except OSError:
        pytest.skip("this system has no DejaVuSans.ttf")
    text, font = writable("naïve кошка", 12)
    assert text == "naïve кошка" and font.getname()[0] != ImageFont.load_default(12).getname()[0]
    assert fonts._has("DejaVuSans.ttf", "ж") and not fonts._has("DejaVuSans.ttf", "\ue123")


def images_of(count: int, height: int, width: int) -> np.ndarray:
    """Images of one grey each: 10, 20, 30, ..."""
    return np.stack([np.full((3, height, width), 10 * (i + 1), np.uint8) for i in range(count)])


def test_a_sheet_shows_each_image_in_its_cell():
    sheet = batch_sheet(images_of(5, 40, 60), [[]] * 5, NAMES, min_side=0)
    assert sheet.size == (3 * 60, 2 * 40)
    assert [sheet.getpixel((60 * (i % 3) + 30, 40 * (i // 3) + 20))[0] for i in range(5)] == [10, 20, 30, 40, 50]
    assert sheet.getpixel((150, 60)) == GREY


@pytest.mark.parametrize("shape", [(640, 640), (320, 1280), (1280, 320), (4000, 4000)])
def test_a_sheet_is_bounded_and_keeps_proportions(shape):
    sheet = batch_sheet(np.zeros((4, 3, *shape), np.uint8), [[]] * 4, NAMES, max_side=500)
    assert max(sheet.size) <= 500 and max(sheet.size) >= 494
    assert sheet.width / sheet.height == pytest.approx(shape[1] / shape[0], rel=0.05)


def test_a_sheet_shows_sixteen_at_most():
    assert batch_sheet(images_of(20, 32, 32), [[]] * 20, NAMES, min_side=0).size == (128, 128)


def test_small_images_are_enlarged_until_text_can_be_read():
    assert batch_sheet(images_of(4, 32, 64), [[]] * 4, NAMES).size == (640, 320)
    assert batch_sheet(images_of(1, 400, 300), [[]], NAMES).size == (300, 400)


def test_boxes_shrink_with_their_image():
    rows = [[], [[100, 200, 300, 400, 1.0, 0]]]
    sheet = np.asarray(batch_sheet(np.full((2, 3, 800, 800), 255, np.uint8), rows, {0: ""}, max_side=800, conf=False))
    ys, xs = (sheet == rgb(PALETTE[0])).all(2).nonzero()
    assert sheet.shape == (400, 800, 3)
    assert xs.min() == 400 + 50 and xs.max() == 400 + 150 and ys.max() == 200 and (xs >= 400).all()


def test_keypoints_move_with_their_image():
    points = np.array([[[200.0, 400, 2], [600, 400, 1], [700, 700, 0]]])
    pictures = np.full((2, 3, 800, 800), 255, np.uint8)
    overlays = [Overlay(), Overlay(keypoints=points, limbs=[(0, 1)])]
    sheet = np.asarray(batch_sheet(pictures, [[], []], {}, overlays=overlays, max_side=800))
    assert [tuple(sheet[200, 400 + x]) for x in (100, 300)] == [rgb(PALETTE[0]), rgb(PALETTE[1])]
    assert tuple(sheet[200, 600]) == rgb(PALETTE[1]) and (sheet[350, 750] == 255).all()
    assert (sheet[2:398, 2:398] == 255).all()


def test_oriented_boxes_are_drawn_by_their_corners_and_move_with_their_image():
    diamond = np.array([[[200.0, 400], [400, 200], [600, 400], [400, 600]]])
    rows, pictures = [[], [[200, 200, 600, 600, 1.0, 0]]], np.full((2, 3, 800, 800), 255, np.uint8)
    overlays = [Overlay(), Overlay(corners=diamond)]
    sheet = np.asarray(batch_sheet(pictures, rows, {0: ""}, overlays=overlays, max_side=800, conf=False))
    assert [tuple(sheet[y, 400 + x]) for x, y in ((150, 150), (250, 250))] == [rgb(PALETTE[0])] * 2  # middles of sides
    assert (sheet[102, 502] == 255).all() and (sheet[298, 698] == 255).all()  # corners of the hull


def test_captions_and_a_batch_of_none():
    plain, named = (
        np.asarray(batch_sheet(images_of(1, 100, 200), [[]], NAMES, captions=captions, min_side=0))
        for captions in ((), ("a.jpg",))
    )
    assert (plain != named).any(2).nonzero()[0].min() > 75  # in the lower part
    assert batch_sheet(np.zeros((0, 3, 32, 32), np.uint8), [], NAMES, min_side=0).size == (32, 32)
