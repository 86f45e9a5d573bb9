"""The verb predict: files of the run folder, lines, JSON for pipes, and the events of a prediction."""

from __future__ import annotations

import json
import re
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bitfalcon_plugin.config.callbacks import PREDICT, Events
from bitfalcon_plugin.config.errors import UserError
from bitfalcon_plugin.config.settings import load_settings
from bitfalcon_plugin.models.inference import precision
from bitfalcon_plugin.predict import run as outputs
from bitfalcon_plugin.predict import video
from bitfalcon_plugin.predict.results import Results
from bitfalcon_plugin.predict.run import run_predict
from tests.helpers.bad_images import CONTENTS
from tests.helpers.finder import BrightBoxes, painted
from tests.helpers.tiny_models import CONV, small_model
from tests.predict.test_sources import write_video


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    painted(tmp_path / "in/a.png", (64, 48), [(0, 8, 8, 40, 40)])
    painted(tmp_path / "in/b.png", (64, 48), [])
    painted(tmp_path / "in/sub/a.png", (64, 48), [(1, 8, 8, 40, 40), (2, 44, 4, 60, 30)])
    return tmp_path


def run(source, lines=False, events=None, model=None, **given):
    settings = load_settings({"mode": "predict", "imgsz": 64, "save": False, **given})
    return list(run_predict(model or BrightBoxes(), settings, source, lines, events))


def files(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_everything_that_can_be_saved(here):
    found = run(["in", "in/sub"], save=True, save_txt=True, save_conf=True, save_crop=True, save_json=True)
    folder = here / "runs/detect/predict"
    assert files(folder) == [
        "a-2.jpg",
        "a.jpg",
        "b.jpg",
        "crops/blue/a-2.jpg",
        "crops/green/a-2.jpg",
        "crops/red/a.jpg",
        "labels/a-2.txt",
        "labels/a.txt",
        "predictions.json",
    ]
    assert all(result.save_dir == str(folder.relative_to(here)) for result in found)
    numbers = [float(number) for number in (folder / "labels/a.txt").read_text().split()]
    assert numbers == pytest.approx([0, 24 / 64, 24 / 48, 32 / 64, 32 / 48, 0.9], abs=0.02)
    rows = json.loads((folder / "predictions.json").read_text())
    assert [(row["image_id"], row["file_name"], row["category_id"]) for row in rows] == [
        ("a", "a.png", 1),
        ("sub/a", "a.png", 2),
        ("sub/a", "a.png", 3),
    ]
    assert rows[0]["bbox"] == pytest.approx([8, 8, 32, 32], abs=1.1) and rows[0]["score"] == 0.9
    assert Image.open(folder / "a.jpg").size == (64, 48)


def test_saved_lines_are_not_doubled_in_a_folder_that_is_there(here):
    for _ in range(2):
        run("in/a.png", save_txt=True, exist_ok=True)
    assert (here / "runs/detect/predict/labels/a.txt").read_text().count("\n") == 1
    run("in/a.png", save_txt=True)
    assert files(here / "runs/detect/predict2") == ["labels/a.txt"]


def test_json_of_a_folder_without_detections_is_an_empty_list(here):
    run("in/b.png", save_json=True)
    assert json.loads((here / "runs/detect/predict/predictions.json").read_text()) == []


def test_nothing_is_written_unasked_or_where_nothing_can_be_read(here):
    run("in")
    (here / "in/text.jpg").write_text("x")
    run("in/text.jpg", save=True, save_txt=True)
    assert not (here / "runs").exists()


def test_a_line_an_image_and_a_summary(here, capsys):
    (here / "in/aa.jpg").write_text("no image")
    found = run(["in", np.zeros((48, 64, 3), np.uint8)], lines=True, save=True)
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert lines[0].startswith(f"image 1/4 {here / 'in/a.png'}: 64x64 1 red, ") and lines[0].endswith("ms")
    assert lines[1].startswith(f"image 3/4 {here / 'in/b.png'}: 64x64 (no detections), ")
    assert lines[2].startswith("3: 64x64 (no detections), ")
    assert lines[3].startswith("Speed: ") and lines[3].endswith("ms postprocess per image at shape (1, 3, 64, 64)")
    assert lines[4] == "Results saved to runs/detect/predict; 1 images could not be read" and len(lines) == 5
    assert "1 of 4 sources could not be read" in err and "aa.jpg: not a picture" in err
    assert [result.path.rsplit("/")[-1] for result in found] == ["a.png", "b.png", "image3.jpg"]


def test_one_broken_image_of_many_is_named_and_the_others_are_predicted(here, capsys):
    for name, content in CONTENTS.items():
        (here / f"in/{name}.jpg").write_bytes(content())
    (here / "in/gone.jpg").symlink_to("nowhere")
    found = run("in")
    err = capsys.readouterr().err
    assert [Path(result.path).name for result in found] == ["a.png", "b.png"]
    assert all(f"{name}.jpg" in err for name in CONTENTS) and "Traceback" not in err
    with pytest.raises(UserError, match="on_bad_image=skip"):
        run("in", on_bad_image="stop")


@pytest.mark.parametrize("given", [{"verbose": False}, {}])
def test_quiet_where_nobody_asks_for_lines(here, capsys, given):
    run("in", lines=bool(given), **given)
    assert capsys.readouterr() == ("", "")


def test_json_for_pipes_is_all_that_goes_to_stdout(here, capsys):
    (here / "in/aa.jpg").write_text("no image")
    run("in", lines=True, json=True, save=True)
    out, err = capsys.readouterr()
    rows = [json.loads(line) for line in out.splitlines()]
    assert [(row["path"], row["height"], row["width"]) for row in rows] == [
        (str(here / "in" / name), 48, 64) for name in ("a.png", "b.png")
    ]
    (found,) = rows[0]["detections"]
    assert (found["name"], found["class"], found["confidence"]) == ("red", 0, 0.9)
    assert set(found["box"]) == {"x1", "y1", "x2", "y2"}
    assert rows[1]["detections"] == [] and set(rows[0]["speed"]) == {"preprocess", "inference", "postprocess"}
    assert "aa.jpg" in err and "Results saved to" in err and "Speed:" in err


def test_a_video_becomes_a_video_frames_and_labels(here, capsys):
    path = write_video(here / f"in/v{video.SUFFIX}", frames=4)
    run(path, lines=True, save=True, save_txt=True, save_crop=True, save_frames=True, vid_stride=2)
    folder = here / "runs/detect/predict"
    assert files(folder) == [
        "crops/blue/v_3.jpg",
        "crops/red/v_1.jpg",
        "labels/v_1.txt",
        "labels/v_3.txt",
        f"v{video.SUFFIX}",
        "v_frames/1.jpg",
        "v_frames/3.jpg",
    ]
    with video.VideoFile(folder / f"v{video.SUFFIX}") as written:
        assert written.count == 2 and written.rate == 5 and next(written.frames())[1].shape == (48, 64, 3)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"video 1/1 (frame 1/4) {path}: 64x64 1 red, ") and "(frame 3/4)" in lines[1]


def test_a_video_that_is_left_in_its_middle_is_whole(here):
    path = write_video(here / f"in/v{video.SUFFIX}", frames=9)
    before = set(threading.enumerate())
    results = run_predict(BrightBoxes(), load_settings({"imgsz": 64, "save": True, "save_json": True}), path, False)
    for _ in range(3):
        next(results)
    results.close()
    assert set(threading.enumerate()) == before
    assert files(here / "runs/detect/predict") == ["predictions.json", f"v{video.SUFFIX}"]
    with video.VideoFile(here / f"runs/detect/predict/v{video.SUFFIX}") as written:
        assert written.count == 3
    assert len(json.loads((here / "runs/detect/predict/predictions.json").read_text())) == 3


def test_the_events_of_a_prediction_in_order(here):
    told, events = [], Events()
    for name in PREDICT:
        events.add(name, lambda it, name=name: told.append((name, it.seen, len(it.results), it.save_dir is not None)))
    found = run(["in/a.png", "in/b.png", "in/sub/a.png"], events=events, batch=2, save=True)
    assert told == [
        ("on_predict_start", 0, 0, False),
        ("on_predict_batch_start", 0, 0, False),
        ("on_predict_postprocess_end", 0, 2, False),
        ("on_predict_batch_end", 2, 2, True),
        ("on_predict_batch_start", 2, 0, True),
        ("on_predict_postprocess_end", 2, 1, True),
        ("on_predict_batch_end", 3, 1, True),
        ("on_predict_end", 3, 1, True),
    ]
    assert len(found) == 3


def test_a_callback_sees_the_batch_and_may_change_what_comes_back(here):
    events, batches = Events(), []

    def pair(predictor):
        paths, images, lines = predictor.batch
        batches.append(
            (paths, [image.shape for image in images], len(lines), predictor.args.imgsz, set(predictor.speed))
        )
        predictor.results = list(zip(predictor.results, images))

    events.add("on_predict_batch_end", pair)
    events.add("on_predict_end", lambda predictor: batches.append(repr(predictor)))
    ((result, image),) = run("in/a.png", events=events)
    assert isinstance(result, Results) and image is result.orig_img
    assert batches.pop() == "Predictor(1 images of 1 sources, save_dir='None')"
    assert batches == [([str(here / "in/a.png")], [(48, 64, 3)], 1, 64, {"preprocess", "inference", "postprocess"})]


def test_what_is_wrong_is_raised_by_the_call_itself(here):
    for source, given, words in (
        ("lost.jpg", {}, "does not exist"),
        (None, {}, "predict needs source="),
        ("http://a.b/c.jpg", {}, "allow_url=True"),
    ):
        with pytest.raises(UserError, match=words):
            run_predict(BrightBoxes(), load_settings(given), source, False)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"half": True}, "goes on in 32 bits"),
        ({"imgsz": 50}, r"imgsz=50 is no multiple of 32, .*; using 64"),
        ({"batch": -1}, "using 1"),
        ({"batch": 0.5}, "batch=0.5: the largest batch is searched"),
    ],
)
def test_what_is_changed_is_said(here, monkeypatch, capsys, given, words):
    monkeypatch.setattr(precision, "half_type", lambda device: (None, "this device goes on in 32 bits"))
    found = run("in/a.png", **given)
    assert len(found) == 1 and found[0].input_shape == (64, 64)
    text = capsys.readouterr().err
    assert text.count("note: ") == 1 and re.search(words, text)


def test_batch_classes_and_agnostic_reach_the_network(here):
    model = BrightBoxes()
    found = run(["in/a.png", "in/b.png", "in/sub/a.png"], model=model, batch=2, classes=[1, 2], max_det=1)
    assert [shape[0] for shape in model.seen] == [2, 1] and [len(result) for result in found] == [0, 0, 1]
    assert run("in/sub/a.png", classes=2)[0].boxes.cls.tolist() == [2.0]


def test_embed_gives_a_vector_an_image(here, capsys):
    model = small_model(CONV, (-1, 1, "Conv", [32, 3, 2])).eval()
    found = run(["in/a.png", "in/b.png"], model=model, embed=1, save=True, lines=True)
    assert [vector.shape for vector in found] == [(32,), (32,)] and not (here / "runs").exists()
    with pytest.raises(UserError, match="give maps are 0 to 1"):
        run_predict(model, load_settings({"embed": [2]}), "in", False)


@pytest.mark.parametrize(
    ("count", "lines", "terminal", "shown"),
    [(11, False, True, True), (10, False, True, False), (50, True, True, False), (50, False, False, False)],
)
def test_the_progress_bar_is_for_many_images_on_a_terminal(monkeypatch, count, lines, terminal, shown):
    class Screen:
        isatty = staticmethod(lambda: terminal)
        write = flush = staticmethod(lambda *text: None)
        encoding = "utf-8"

    monkeypatch.setattr(outputs.sys, "stderr", Screen())
    with outputs._progress_bar([np.zeros((1, 1, 3), np.uint8)] * count, lines) as bar:
        assert (not bar.disable) == shown


def test_image_ids_of_numbers_are_not_shared(here):
    for name in ("1", "001", "٣"):
        painted(here / f"numbers/{name}.png", (64, 48), [(0, 8, 8, 40, 40)])
    run("numbers", save_json=True)
    rows = json.loads((here / "runs/detect/predict/predictions.json").read_text(encoding="utf-8"))
    assert {row["file_name"]: row["image_id"] for row in rows} == {"001.png": "001", "1.png": "1", "٣.png": "٣"}


def test_vectors_are_printed_as_json_too(here, capsys):
    model = small_model(CONV)
    found = run("in", model=model, embed=[0], json=True)
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["path"] for line in lines] == [str(here / "in/a.png"), str(here / "in/b.png")]
    assert [line["embedding"] for line in lines] == [pytest.approx(vector.tolist(), abs=1e-6) for vector in found]


def test_a_webcam_that_is_not_there_takes_one_line(here, capfd):
    pytest.importorskip("cv2")
    assert run(99) == []
    assert [line for line in capfd.readouterr().err.splitlines() if not line.startswith("note: ")] == []
