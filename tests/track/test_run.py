"""The verb track: clips, persist, callbacks, files and JSON; with a small tracker, and with the library."""

from __future__ import annotations

import copy
import json
import pickle
import sys

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from bitfalcon_plugin import YOLO
from bitfalcon_plugin.cli import main
from bitfalcon_plugin.config.errors import UserError
from bitfalcon_plugin.predict import pictures
from bitfalcon_plugin.predict import video as video_files
from bitfalcon_plugin.predict.results import Results
from bitfalcon_plugin.predict.video import VideoWriter
from bitfalcon_plugin.track.options import read_options
from bitfalcon_plugin.track.tracker import Tracker
from tests.helpers.bright import bright, canvas
from tests.helpers.coloured import lay_out
from tests.helpers.fake_tracker import GONE, LATE, clip, fake, ids_of, scene  # noqa: F401  a fixture
from tests.helpers.small_yolo import save_weights
from tests.helpers.tiny_models import lived

EXPECTED = [[1] if i in GONE else [1, 2] if i <= LATE else [1, 2, 3] for i in range(14)]


@pytest.fixture(params=["fake", "bytetrack", "sort", "botsort"])
def tracker(request):
    """The name of a tracker; the small one in place of the default."""
    if request.param == "fake":
        request.getfixturevalue("fake")
        return "bytetrack"
    pytest.importorskip("trackers", reason="the package trackers is not installed (extra track)")
    return request.param


@pytest.fixture()
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def video(path, frames):
    """Write the frames into a video file."""
    writer = VideoWriter(path, 25.0, frames[0].shape[:2])
    for frame in frames:
        writer.write(frame)
    writer.close()
    return path


def test_every_object_keeps_its_id(here, tracker):
    results = bright(here).track(clip(), tracker=tracker)
    expected = EXPECTED
    if tracker == "botsort":  # its filter has not seen enough of the green object when that hides
        expected = None
    assert expected is None or ids_of(results) == expected
    for index, result in enumerate(results):
        boxes = result.boxes
        assert boxes.is_track and boxes.data.shape == (len(boxes), 7) and boxes.data.dtype == torch.float32
        assert torch.equal(boxes.data[:, 4], boxes.id) and boxes.conf.tolist() == pytest.approx([0.9] * len(boxes))
        truth = {cls: box for cls, *box in scene(index)}
        for cls, box in zip(boxes.cls.tolist(), boxes.xyxy.tolist()):
            assert box == pytest.approx(truth[int(cls)], abs=1)


def test_whole_streamed_and_frame_by_frame_are_equal(here, tracker):
    model, frames = bright(here), clip()
    whole = [result.boxes.data for result in model.track(frames, tracker=tracker)]
    streamed = [result.boxes.data for result in model.track(frames, tracker=tracker, stream=True)]
    batched = [result.boxes.data for result in model.track(frames, tracker=tracker, batch=4)]
    single = [model.track(frame, tracker=tracker, persist=True)[0].boxes.data for frame in frames]
    for others in (streamed, batched, single):
        assert all(torch.equal(one, other) for one, other in zip(whole, others, strict=True))


def test_without_persist_every_call_begins_anew_and_with_it_ids_go_on(here, fake):
    model, frames = bright(here), clip()
    assert ids_of(model.track(frames[12]) + model.track(frames[13])) == [[1, 2, 3], [1, 2, 3]]
    once = model.track(frames[:4]) and model.track(frames[8], persist=True)
    assert ids_of(once) == [[1]], "nothing is left of the call without persist"
    assert ids_of(model.track(frames[12], persist=True)) == [[1]]
    assert ids_of(model.track(frames[13], persist=True)) == [[1, 2, 3]]
    assert ids_of(model.track(frames[13], persist=True, tracker="sort")) == [[1, 2, 3]]
    assert [tracker.args.tracker_type for tracker in model.predictor.trackers] == ["sort"]


def test_a_frame_without_tracks_has_no_ids(here, fake):
    first, new = bright(here).track([canvas(96, 128), clip()[0]])
    for result in (first, new):
        assert len(result) == 0 and result.boxes.id is None and not result.boxes.is_track
        assert result.boxes.data.shape == (0, 6) and result.summary() == []


def test_a_later_predict_does_not_track(here, fake):
    model = bright(here)
    model.track(clip()[0], persist=True)
    assert model.predict(clip()[0])[0].boxes.id is None and not any(model.callbacks.values())


def test_clips_do_not_mix(here, fake, capsys):
    model, frames = bright(here), clip()
    for name in ("a", "b"):
        (here / name).mkdir()
        for number in (1, 2, 3):
            Image.fromarray(frames[9 + number][..., ::-1]).save(here / name / f"{number:03}.png")
    interleaved = [here / name / f"{number:03}.png" for number in (1, 2, 3) for name in ("a", "b")]
    results = model.track(interleaved)
    assert ids_of(results) == [[1, 2, 3]] * 6
    assert len(model.predictor.trackers) == 2
    err = capsys.readouterr().err
    assert err.count("another clip; its ids start at 1") == 1 and f"folder '{here / 'b'}'" in err


def test_images_in_memory_of_another_size_are_another_clip(here, fake, capsys):
    model, frames = bright(here), clip()
    wide = [canvas(96, 160, *scene(index)) for index in range(3)]
    results = [model.track(frame, persist=True)[0] for pair in zip(frames[10:], wide) for frame in pair]
    assert ids_of(results) == [[1, 2, 3], [1, 2]] * 3
    assert "a frame of 96x160 pixels is another clip" in capsys.readouterr().err


def test_videos_one_after_the_other(here, fake, capsys):
    pytest.importorskip("cv2", reason="OpenCV is not installed (extra video)")
    model, frames = bright(here), clip()
    first, second = video(here / "a.avi", frames[:5]), video(here / "b.avi", frames[9:])
    results = model.track([first, second], persist=True, conf=0.5)
    assert ids_of(results)[:5] == [[1, 2]] * 5 and ids_of(results)[5:7] == [[1, 2], [1, 2]]
    assert "b.avi' is another clip; its ids start at 1." in capsys.readouterr().err
    again = model.track(second, persist=True)
    assert ids_of(again) == ids_of(results)[5:] and "its ids start at 1." in capsys.readouterr().err
    assert len(model.predictor.trackers) == 1
    strided = model.track(first, vid_stride=2)
    assert ids_of(strided) == [[1, 2]] * 3


def test_callbacks_see_ids_and_trackers_can_be_read(here, fake):
    model, seen = bright(here), []
    model.add_callback("on_predict_postprocess_end", lambda predictor: seen.append(predictor.results[0].boxes.id))
    events = ("on_predict_start", "on_predict_batch_start", "on_predict_batch_end", "on_predict_end")
    for event in events:
        model.add_callback(event, lambda predictor, event=event: seen.append(event))
    model.track(clip()[12])
    assert seen[0] == events[0] and seen[2].tolist() == [1, 2, 3] and seen[-1] == events[-1]
    (tracker,) = model.predictor.trackers
    assert [track.track_id for track in tracker.tracked_stracks] == [1, 2, 3] and tracker.frame_id == 1
    assert tracker.args.lost_track_buffer == 30 and not tracker.lost_stracks and not tracker.removed_stracks
    tracker.reset()
    assert tracker.frame_id == 0 and not tracker.tracked_stracks


def test_states_of_tracks(here, fake):
    model, frames = bright(here), clip()
    for frame in frames[:7]:
        model.track(frame, persist=True)
    (tracker,) = model.predictor.trackers
    (lost,) = tracker.lost_stracks
    assert (lost.track_id, lost.state, lost.cls, lost.frame_id, lost.tracklet_len) == (2, 2, 1, 6, 5)
    assert lost.tlwh.tolist() == [90, 50, 20, 30] and lost.xywh.tolist() == [100, 65, 20, 30]
    for _ in range(31):
        model.track(canvas(96, 128, scene(0)[0]), persist=True)
    assert [track.track_id for track in tracker.removed_stracks] == [2] and not tracker.lost_stracks


def test_copies_of_a_model_start_without_tracks(here, fake):
    model = bright(here)
    model.track(clip()[12], persist=True)
    for copied in (copy.deepcopy(model._tracking), pickle.loads(pickle.dumps(model._tracking))):
        assert not copied.trackers and model._tracking.trackers


def test_what_is_written_has_ids(here, fake, capsys):
    model = bright(here)
    frames = clip()
    for index in (0, 1):
        Image.fromarray(frames[index + 12][..., ::-1]).save(here / f"{index}.png")
    results = model.track([here / "0.png", here / "1.png"], save=True, save_txt=True, save_conf=True, save_json=True)
    folder = here / "runs/detect/track"
    assert results[0].save_dir == "runs/detect/track" and (folder / "0.jpg").is_file()
    lines = (folder / "labels/1.txt").read_text().splitlines()
    assert [line.split()[0] for line in lines] == ["0", "1", "2"] and [line.split()[6] for line in lines] == list("123")
    rows = json.loads((folder / "predictions.json").read_text())
    assert [len(row["bbox"]) for row in rows] == [4] * 6 and rows[0]["score"] == pytest.approx(0.9)
    assert [row["track_id"] for row in results[1].summary()] == [1, 2, 3]
    assert json.loads(results[1].to_json())[2]["track_id"] == 3


def test_ids_in_the_picture(here, fake):
    """The picture with ids is another than that of the same detections without."""
    model, frame = bright(here), clip()[12]
    tracked, plain = model.track(frame)[0], model.predict(frame, conf=0.1)[0]
    assert not np.array_equal(tracked.plot(), plain.plot())
    assert np.array_equal(tracked.plot(labels=False).shape, plain.plot(labels=False).shape)


def test_supervision_reads_the_ids(here, fake):
    sv = pytest.importorskip("supervision", reason="supervision is not installed (extra clients)")
    (empty,) = bright(here).track(canvas(96, 128))
    assert sv.Detections.from_ultralytics(empty).tracker_id is None
    (tracked,) = bright(here).track(clip()[12])
    assert sv.Detections.from_ultralytics(tracked).tracker_id.tolist() == [1, 2, 3]


def test_confidence_of_tracking(here, fake):
    model = bright(here)
    model.track(clip()[0])
    assert model.predictor.args.conf == 0.1 and model.predictor.args.mode == "track"
    model.track(clip()[0], conf=0.4, classes=[0])
    assert model.predictor.args.conf == 0.4 and ids_of([model.predictor.results[0]]) == [[1]]
    assert model.track(clip()[0], conf=0.95)[0].boxes.id is None
    model.predict(clip()[0])
    assert model.predictor.args.conf is None


def test_json_lines_have_ids(here, fake, capsys):
    results = bright(here).track(clip()[12:], json=True)
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [[found["track_id"] for found in row["detections"]] for row in rows] == [[1, 2, 3]] * 2
    assert all(isinstance(result, Results) for result in results)


def test_rows_with_a_track_stay_in_the_order_of_the_detections(here, fake):
    model, frames = bright(here), clip()
    first, second = model.track([frames[LATE - 1], frames[LATE]])
    assert ids_of([first, second]) == [[1, 2], [1, 2]] and second.boxes.cls.tolist() == [0, 1]


def test_every_part_of_a_result_keeps_its_rows(fake):
    """Masks, keypoints and oriented boxes beside the boxes; an object that is new in the second frame has no id."""
    tracker, image = Tracker(read_options("bytetrack")), np.zeros((40, 60, 3), np.uint8)
    old, new = [5.0, 5, 15, 15, 0.9, 0], [30.0, 5, 40, 15, 0.8, 1]
    masks = torch.stack([torch.zeros(40, 60), torch.ones(40, 60)])
    points = torch.arange(12.0).view(2, 2, 3)
    parts = {"boxes": torch.tensor([new, old]), "masks": masks, "keypoints": points}
    tracker.with_ids(Results(image, "a.jpg", {0: "a", 1: "b"}, torch.tensor([old])))
    tracked = tracker.with_ids(Results(image, "a.jpg", {0: "a", 1: "b"}, **parts))
    assert tracked.boxes.data.tolist() == [pytest.approx([5, 5, 15, 15, 1, 0.9, 0])]
    assert torch.equal(tracked.masks.data, masks[1:]) and torch.equal(tracked.keypoints.data, points[1:])
    assert tracked.plot().shape == image.shape and tracked.summary()[0]["track_id"] == 1

    tracker = Tracker(read_options("bytetrack"))
    turned = torch.tensor([[20.0, 20, 12, 6, 0.5, 0.9, 0], [40.0, 20, 12, 6, 0.1, 0.8, 1]])
    for _ in range(2):
        tracked = tracker.with_ids(Results(image, "a.jpg", {0: "a", 1: "b"}, obb=turned))
        assert tracked.obb.id.tolist() == [1, 2] and tracked.boxes is None and tracked.obb.data.shape == (2, 8)
        assert torch.equal(tracked.obb.xywhr, turned[:, :5]) and torch.equal(tracked.obb.cls, turned[:, 6])
    with pytest.raises(UserError, match="track needs boxes to follow"):
        tracker.with_ids(Results(image, "a.jpg", {0: "a", 1: "b"}, probs=torch.tensor([0.2, 0.8])))


@pytest.mark.parametrize("format", ["torchscript", "onnx"])
def test_exported_models_track(here, tracker, format):
    """With the ids and boxes of the network that they were made from."""
    if format == "onnx":
        pytest.importorskip("onnxruntime", reason="ONNX Runtime is not installed (extra export)")
    lay_out(here)
    model = YOLO(save_weights(here, "best.pt"))
    for branch in lived(model.model).head.cv3:  # scores that differ from place to place
        torch.nn.init.normal_(branch[-1].weight, std=3.0)
    model.save("best.pt")
    keys = "minimum_score high_conf_det_threshold track_activation_threshold".split()
    values = {key: 0.0 for key in keys if key in read_options(tracker).parameters}
    (here / "all.yaml").write_text(yaml.safe_dump({**values, "tracker_type": tracker}))
    noise = np.random.default_rng(0).integers(0, 255, (96, 96, 3), np.uint8)  # squares, as the files take
    frames = [np.roll(noise, 2 * index, 1) for index in range(4)]
    settings = {"tracker": "all.yaml", "conf": 0.001, "imgsz": 64, "max_det": 20, "device": "cpu"}
    expected = model.track(frames, **settings)
    exported = YOLO(model.export(format=format, imgsz=64)).track(frames, **settings)
    assert ids_of(exported) == ids_of(expected) and ids_of(expected)[3]
    for one, other in zip(expected, exported):
        torch.testing.assert_close(one.boxes.xyxy, other.boxes.xyxy, atol=0.02, rtol=0)


@pytest.mark.parametrize(
    "arguments, words",
    [
        ({"tracker": "bytetrak"}, "tracker=bytetrak: there is no such file.*Did you mean 'bytetrack'"),
        ({"embed": [1]}, "embed= gives vectors"),
        ({"labels": "gt.txt"}, "labels=gt.txt: there is no such file"),
        ({"persist": 3}, "persist=3: expected True or False"),
    ],
)
def test_mistakes_are_said_before_anything_runs(here, fake, arguments, words):
    with pytest.raises(UserError, match=words):
        bright(here).track(clip(1), stream=True, **arguments)


def test_without_the_package(here, monkeypatch):
    monkeypatch.setitem(sys.modules, "trackers", None)
    with pytest.raises(UserError, match=r"track needs the package trackers: pip install 'bitfalcon\[track\]'"):
        bright(here).track(clip(1))


def test_command_without_a_source_or_weights(here, capsys):
    assert main(["track", "source=x.mp4"]) == 2 and "track needs model=" in capsys.readouterr().err
    assert main(["track", "model=best.pt"]) == 2 and "track needs source=: a video" in capsys.readouterr().err


def test_without_a_display_that_is_said_once(here, fake, monkeypatch, capsys):
    pytest.importorskip("cv2", reason="OpenCV is not installed (extra video)")
    monkeypatch.setattr(pictures, "_display", lambda picture: False)
    monkeypatch.setattr(video_files, "has_display", lambda: False)
    for source, files in (([*clip(3)], 3), (video(here / "a.avi", clip(4)), 1)):
        bright(here).track(source, show=True)
        assert capsys.readouterr().err.count("no display here; the picture is in") == 1
        written = list(here.glob("results_*.jpg"))
        assert len(written) == files and Image.open(written[0]).size == (128, 96)
        [path.unlink() for path in written]


def test_frames_are_shown_in_a_window(here, fake, monkeypatch, capsys):
    cv2 = pytest.importorskip("cv2", reason="OpenCV is not installed (extra video)")
    source, shown = video(here / "a.avi", clip(4)), []
    monkeypatch.setattr(video_files, "has_display", lambda: True)
    monkeypatch.setattr(cv2, "waitKey", lambda delay: -1)
    monkeypatch.setattr(cv2, "imshow", lambda title, frame: shown.append((title, frame.shape)))
    bright(here).predict(source, show=True, verbose=False)
    assert shown == [("a.avi", (96, 128, 3))] * 4 and not capsys.readouterr().err

    def without_windows(title, frame):
        raise cv2.error("rebuild the library with GTK")

    monkeypatch.setattr(cv2, "imshow", without_windows)
    monkeypatch.setattr(pictures, "_display", lambda picture: shown.append(picture.size) or True)
    bright(here).predict(source, show=True, verbose=False)
    assert shown[4:] == [(128, 96)] and capsys.readouterr().err.count("only the first frame is shown") == 1
