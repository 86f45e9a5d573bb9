"""What a source may be: lists, addresses, tensors, videos; and that reading ahead keeps order, bounds and errors."""

from __future__ import annotations

import http.server
import io
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from bitfalcon_plugin.config.errors import MissingFileError, UserError
from bitfalcon_plugin.predict import sources, video
from bitfalcon_plugin.predict import url as fetch
from bitfalcon_plugin.predict.reader import Unread, ahead, read_pictures
from bitfalcon_plugin.predict.sources import Ready, Url, Video, list_sources
from tests.helpers.finder import BrightBoxes, painted
from tests.helpers.predicting import predict


def same(pixels):
    return torch.from_numpy(pixels)


def names(items):
    return [item.name for item in items]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a.jpg", "sub/b.png", "sub/c.png", "with space.png"):
        painted(tmp_path / name, (32, 32), [])
    return tmp_path


def test_a_text_list_names_paths_globs_and_folders_seen_from_it_or_from_here(folder):
    lines = ["\ufeffb.png", "", "  sub/c.png  ", "*.png", "with space.png", str(folder / "a.jpg")]
    (folder / "sub/list.txt").write_text("\n".join(lines), encoding="utf-8")
    assert names(list_sources("sub/list.txt")) == ["b.png", "c.png", "with space.png", "with space.png", "a.jpg"]


def test_a_glob_in_a_list_is_seen_from_here_first(folder):
    (folder / "sub/list.txt").write_text("c*.png\n")
    assert [item.parent.name for item in list_sources("sub/list.txt")] == ["sub"]


@pytest.mark.parametrize("head", ["", "source\n", "source,note\n"])
def test_a_csv_list_gives_its_first_column(folder, head):
    (folder / "list.csv").write_text(head + 'a.jpg,x\n"with space.png",y\n')
    assert names(list_sources("list.csv")) == ["a.jpg", "with space.png"]


def test_all_that_is_missing_is_told_at_once(folder):
    (folder / "list.txt").write_text("a.jpg\nlost.jpg\nsub/d.png\n")
    with pytest.raises(MissingFileError) as caught:
        list_sources(["list.txt", "none.jpg"])
    assert str(caught.value).count("does not exist") == 3 and "Did you mean 'c.png'" in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"\n \n"])
def test_an_empty_list_is_an_error(folder, content):
    (folder / "list.txt").write_bytes(content)
    with pytest.raises(MissingFileError, match="is empty"):
        list_sources("list.txt")


def test_a_list_that_is_no_text_and_one_that_names_itself(folder):
    (folder / "list.txt").write_bytes(b"\xff\xfe\x00\x80")
    with pytest.raises(UserError, match="is no list of sources"):
        list_sources("list.txt")
    (folder / "self.txt").write_text("self.txt\n")
    assert names(list_sources("self.txt")) == ["self.txt"]  # not followed; told as unreadable when its turn comes


def test_addresses_need_to_be_allowed():
    with pytest.raises(UserError, match="allow_url=True"):
        list_sources("https://example.org/a.jpg")
    assert list_sources(["https://example.org/a.jpg"], allow_url=True) == [Url("https://example.org/a.jpg")]
    for wrong in ("rtsp://host/stream", "https://", "http:///a.jpg"):
        with pytest.raises(UserError, match="live streams|cannot be fetched"):
            list_sources(wrong, allow_url=True)


class Site(http.server.BaseHTTPRequestHandler):
    """/a.png: a picture; /turn: to it; /ftp: elsewhere; /text, /huge, /slow, /broken.jpg: what should not be taken."""

    def do_GET(self):  # noqa: N802
        buffer = io.BytesIO()
        Image.new("RGB", (48, 32), "#00ff00").save(buffer, "PNG")
        body, kind, status = buffer.getvalue(), "image/png", 200
        if self.path in ("/turn", "/ftp"):
            self.send_response(302)
            self.send_header("Location", "/a.png" if self.path == "/turn" else "ftp://host/a.png")
            self.end_headers()
            return
        if self.path == "/text":
            body, kind = b"<html>", "text/html"
        elif self.path == "/broken.jpg":
            body = body[:40]
        elif self.path == "/lost.png":
            status = 404
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.end_headers()
        for _ in range(400 if self.path in ("/huge", "/slow") else 0):
            try:
                self.wfile.write(b"x" * (10_000 if self.path == "/huge" else 1))
            except OSError:
                return
            time.sleep(0 if self.path == "/huge" else 0.01)
        self.wfile.write(body)

    def log_message(self, *words):
        pass


@pytest.fixture(scope="module")
def site():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Site)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_a_picture_from_the_web_is_one_like_others(site):
    items = list_sources([f"{site}/a.png", f"{site}/turn"], allow_url=True)
    found = list(predict(BrightBoxes(), items, imgsz=64))
    assert [result.orig_shape for result in found] == [(32, 48)] * 2 and found[0].path == f"{site}/a.png"
    assert [int(result.boxes.cls[0]) for result in found] == [1, 1]


def test_what_the_web_gives_instead_is_skipped_with_the_reason(site):
    skipped = []
    items = list_sources(
        [f"{site}/{name}" for name in ("text", "lost.png", "ftp", "broken.jpg", "a.png")], allow_url=True
    )
    assert len(list(predict(BrightBoxes(), items, imgsz=64, skipped=skipped))) == 1
    expected = ("text/html, not a picture", "404", "cannot be fetched", "broken.jpg")
    for reason, words in zip(skipped, expected, strict=True):
        assert words in reason


def test_fetching_is_bounded_in_size_and_time(site):
    with pytest.raises(UserError, match="larger than 1 MiB"):
        fetch.fetch_picture(f"{site}/huge", max_bytes=1 << 20)
    with pytest.raises(UserError, match="too long"):
        fetch.fetch_picture(f"{site}/slow", seconds=0.2)
    with pytest.raises(UserError, match="cannot be fetched"):
        fetch.fetch_picture("http://127.0.0.1:1/a.png")


def test_a_tensor_has_its_batch_dimension_and_its_range_settled():
    notes = []
    (item,) = list_sources(torch.full((3, 32, 64), 51.0), multiple=32, notes=notes)
    assert isinstance(item, Ready) and torch.allclose(item.image, torch.tensor(0.2)) and "divided by 255" in notes[0]
    (item,) = list_sources(torch.full((1, 3, 32, 32), 51, dtype=torch.uint8), multiple=32)
    assert torch.allclose(item.image, torch.tensor(0.2))
    notes.clear()
    assert len(list_sources(torch.rand(4, 3, 32, 32), multiple=32, notes=notes)) == 4 and not notes


@pytest.mark.parametrize("missing", [True, False])
def test_the_extra_for_videos_is_named_where_it_is_missing(folder, monkeypatch, missing):
    monkeypatch.setattr(sources, "has_video", lambda: not missing)
    monkeypatch.setattr(video, "has_video", lambda: not missing)
    (folder / "v.mp4").write_bytes(b"x")
    if not missing:
        assert list_sources("v.mp4") == [Video(Path("v.mp4"))] and list_sources("0") == list_sources(0) == [Video(0)]
        return
    for source in ("v.mp4", 0, "0", ["a.jpg", "v.mp4"]):
        with pytest.raises(UserError, match=r"pip install 'bitfalcon\[video\]'") as caught:
            list_sources(source)
        assert "\n" not in str(caught.value)
    notes = []
    assert names(list_sources(".", notes=notes)) == ["a.jpg", "with space.png"] and "1 videos" in notes[0]


def write_video(path, frames=5, size=(64, 48)):
    """Frame k has a bright rectangle of class k % 3."""
    pytest.importorskip("cv2", reason="the extra `video` is not installed")
    writer = video.VideoWriter(path, 10.0, (size[1], size[0]))
    for number in range(frames):
        image = np.full((size[1], size[0], 3), 114, np.uint8)
        image[8:40, 8:40] = np.eye(3, dtype=np.uint8)[2 - number % 3] * 255
        writer.write(image)
    writer.close()
    return path


@pytest.mark.parametrize(("stride", "batch", "expected"), [(1, None, [1, 2, 3, 4, 5]), (2, 2, [1, 3, 5]), (9, 4, [1])])
def test_the_frames_of_a_video_are_images_in_order(tmp_path, stride, batch, expected):
    path = write_video(tmp_path / f"v{video.SUFFIX}")
    pictures = list(read_pictures([Video(path)], same, vid_stride=stride))
    assert [picture.frame for picture in pictures] == expected and {picture.frames for picture in pictures} == {5}
    assert all(picture.rate == 10 / stride and picture.path == str(path.resolve()) for picture in pictures)
    found = list(predict(BrightBoxes(), [Video(path)], imgsz=64, vid_stride=stride, batch=batch))
    assert [int(result.boxes.cls[0]) for result in found] == [(frame - 1) % 3 for frame in expected]


def test_a_video_between_images_and_one_that_is_broken(tmp_path):
    path = write_video(tmp_path / f"v{video.SUFFIX}", 2)
    broken = tmp_path / "w.mp4"
    broken.write_bytes(b"no video")
    image = painted(tmp_path / "a.png", (64, 48), [])
    pictures = list(read_pictures([image, Video(broken), Video(path), image], same))
    assert [getattr(picture, "number", 0) for picture in pictures] == [1, 0, 3, 3, 4]
    assert isinstance(pictures[1], Unread) and "not a video" in pictures[1].reason


def test_a_webcam_that_is_not_there_is_skipped(capfd):
    pytest.importorskip("cv2", reason="the extra `video` is not installed")
    skipped = []
    assert list(predict(BrightBoxes(), list_sources(97), imgsz=64, skipped=skipped)) == []
    assert "webcam" in skipped[0]


def counted(count, closed, error=None):
    try:
        yield from range(count)
        if error:
            raise error
    finally:
        closed.append(True)


def test_reading_ahead_keeps_order_and_raises_what_was_raised():
    closed = []
    assert list(ahead(counted(50, closed), 3)) == list(range(50)) and closed == [True]
    seen = []
    with pytest.raises(KeyError, match="lost"):
        for item in ahead(counted(2, closed, KeyError("lost")), 1):
            seen.append(item)
    assert seen == [0, 1]


def test_reading_ahead_ends_with_its_reader():
    closed, before = [], set(threading.enumerate())
    items = ahead(counted(10**9, closed), 2)
    assert [next(items), next(items)] == [0, 1]
    items.close()
    assert closed == [True] and set(threading.enumerate()) == before


def test_of_a_live_source_the_newest_is_kept_where_the_reader_is_slow():
    gate = threading.Event()

    def live():
        yield 0
        yield from range(1, 20)
        gate.set()

    items = ahead(live(), 1, newest=True)
    assert next(items) in (0, 19)
    assert gate.wait(5)
    assert list(items)[-1:] in ([19], [])
