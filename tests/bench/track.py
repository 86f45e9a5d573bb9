"""How well identities are kept, and milliseconds a frame. By hand, not a test; needs the extra `track`:

    python tests/bench/track.py [model=best.pt] [frames=240] [seed=0] [folder=clips]

A clip is drawn with known identities: twelve shapes of the embedded dataset on 320 x 320 px, of which pairs cross, some
stop and go on, one turns at once, one hides behind a wall and one leaves the picture and comes back. `camera`: the same
clip seen by a camera that sways. Detections: "perfect", the true boxes; "rough", the true boxes shifted by 3 % of their
size, one in ten missing, scores from 0.15 to 1, and a false one in every second frame; "model", those of a checkpoint
with conf=0.1 and agnostic_nms=True, where one is given. The table has HOTA, MOTA, IDF1 and changes of identity for
each tracker of cfg/trackers.

The speed is that of the tracker alone on one core, with 20 and 100 objects that move on a page of 1280 x 720 px; the
frame is looked at by BoT-SORT and McByte. folder: where clip.avi and camera.avi with the true ids drawn in are written.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.random import RandomState

from bitfalcon_plugin import YOLO
from bitfalcon_plugin.data.shapes import Shape, background, paint
from bitfalcon_plugin.data.shapes import _unit_outline as unit_outline
from bitfalcon_plugin.predict.detections import Boxes
from bitfalcon_plugin.predict.results import Results
from bitfalcon_plugin.predict.video import VideoWriter
from bitfalcon_plugin.track.options import read_options, shipped_trackers
from bitfalcon_plugin.track.scores import ClipScores
from bitfalcon_plugin.track.tracker import Tracker

SIDE, WALL = 320, (150, 180)  # px; the wall covers these columns between two rows
WALL_ROWS = (225, 285)
NAMES = {0: "circle", 1: "square", 2: "triangle", 3: "star"}


@dataclass(frozen=True)
class Actor:
    """An object: its class, the side of its box in px, and frames with positions (x, y) that it moves between."""

    kind: int
    side: float
    stops: Sequence[tuple[int, float, float]]

    def place(self, frame: int) -> np.ndarray:
        frames, xs, ys = zip(*self.stops)
        return np.array([np.interp(frame, frames, xs), np.interp(frame, frames, ys)])


def cast(last: int) -> list[Actor]:
    """The twelve objects of a clip with frames 0 to `last`."""
    half, third = last // 2, last // 3
    return [
        Actor(0, 44, [(0, 40, 40), (last, 280, 46)]),  # 0 and 1 cross head on
        Actor(1, 44, [(0, 280, 48), (last, 40, 42)]),
        Actor(2, 40, [(0, 30, 80), (last, 290, 200)]),  # 2 and 3 cross at an angle
        Actor(3, 40, [(0, 30, 200), (last, 290, 80)]),
        Actor(0, 36, [(0, 60, 110), (half, 120, 290), (last, 250, 300)]),  # turns
        Actor(1, 34, [(0, 290, 120), (third, 230, 150), (2 * third, 230, 150), (last, 200, 60)]),  # stops and goes on
        Actor(2, 34, [(0, 150, 140), (third, 150, 140), (half, 80, 160), (last, 80, 160)]),  # starts late, stops
        Actor(3, 40, [(0, 40, 255), (last, 300, 255)]),  # hides behind the wall
        Actor(
            0, 40, [(0, 260, 290), (third, 345, 250), (third + 16, 345, 246), (last, 200, 225)]
        ),  # leaves, comes back
        Actor(1, 30, [(0, 300, 20), (half, 300, 170), (half + 8, 296, 170), (last, 304, 20)]),  # there and back
        Actor(2, 30, [(0, 16, 120), (last, 20, 290)]),
        Actor(3, 32, [(0, 100, 20), (third, 160, 100), (half, 100, 190), (last, 170, 280)]),  # in turns
    ]


@dataclass(frozen=True)
class Clip:
    """frames: (H, W, 3) BGR uint8. boxes: of each frame (n, 6): x1, y1, x2, y2, id from 1, class."""

    frames: list[np.ndarray]
    boxes: list[np.ndarray]

    def labels(self) -> np.ndarray:
        """True identities as read_labels returns them."""
        rows = [
            (frame, row[4], row[0], row[1], row[2] - row[0], row[3] - row[1], 1, 1)
            for frame, boxes in enumerate(self.boxes, 1)
            for row in boxes
        ]
        return np.asarray(rows)


def draw_clip(count: int, seed: int, camera: bool) -> Clip:
    """Draw the clip. A hidden object has no box while less than a third of it can be seen."""
    scenery = background(RandomState(seed), (SIDE + 80, SIDE + 80))
    frames, boxes = [], []
    for frame in range(count):
        sway = np.array([30 * np.sin(frame / 9), 20 * np.sin(frame / 7)]) if camera else np.zeros(2)
        left, top = (40 + sway).round().astype(int)
        canvas, rows = scenery[top : top + SIDE, left : left + SIDE].copy(), []
        for number, actor in enumerate(cast(count - 1), 1):
            outline = unit_outline(actor.kind)
            outline = outline * (actor.side / np.ptp(outline, axis=0).max())
            shape = Shape(actor.kind, outline + actor.place(frame) - (left - 40, top - 40))
            paint(canvas, shape, RandomState([seed, number]))
            rows.append(np.array([*shape.box((SIDE, SIDE)), number, actor.kind]))
        x1, x2, y1, y2 = WALL[0] - left + 40, WALL[1] - left + 40, WALL_ROWS[0] - top + 40, WALL_ROWS[1] - top + 40
        canvas[max(y1, 0) : y2, max(x1, 0) : x2] = 90
        frames.append(canvas.clip(0, 255).round().astype(np.uint8)[..., ::-1].copy())
        boxes.append(np.array([row for row in rows if seen(row, (x1, y1, x2, y2))]).reshape(-1, 6))
    return Clip(frames, boxes)


def seen(row: np.ndarray, wall: tuple[float, ...]) -> bool:
    """Whether a box is at least 8 px wide and high, and more than a third of it is not behind the wall."""
    width, height = row[2] - row[0], row[3] - row[1]
    if min(width, height) < 8:
        return False
    hidden = max(min(row[2], wall[2]) - max(row[0], wall[0]), 0) * max(min(row[3], wall[3]) - max(row[1], wall[1]), 0)
    return hidden / (width * height) < 2 / 3


def as_results(clip: Clip, rough: bool) -> list[Results]:
    """The true boxes as detections, or with `rough` a poor copy of them."""
    random, results = RandomState(7), []
    for frame, boxes in zip(clip.frames, clip.boxes):
        data = np.concatenate([boxes[:, :4], np.full((len(boxes), 1), 0.9), boxes[:, 5:]], 1)
        if rough:
            sides = np.tile(data[:, 2:4] - data[:, :2], 2)
            data[:, :4] += random.normal(0, 0.03, sides.shape) * sides
            data[:, 4] = random.uniform(0.15, 1, len(data))
            data = data[random.rand(len(data)) > 0.1]
            if random.rand() < 0.5:
                x, y = random.uniform(20, SIDE - 60, 2)
                data = np.concatenate([data, [[x, y, x + 40, y + 40, random.uniform(0.15, 0.6), 0]]])
        tensor = torch.as_tensor(data, dtype=torch.float32)
        speed = {"preprocess": 0.0, "inference": 0.0, "postprocess": 0.0}
        results.append(Results(frame, "frame.jpg", NAMES, tensor, speed=speed))
    return results


def measure(name: str, clip: Clip, results: Sequence[Results]) -> dict[str, float]:
    """Track the results and compare with the true identities."""
    tracker, scores = Tracker(read_options(name)), ClipScores(clip.labels())
    for frame, result in enumerate(results, 1):
        tracker.with_ids(result)
        scores.add(frame, tracker)
    return scores.metrics(NAMES)


def milliseconds(name: str, count: int, frames: int = 60) -> float:
    """The median processor time of one frame with `count` objects, without the first ten frames."""
    random, tracker, times = RandomState(0), Tracker(read_options(name)), []
    start, speed = random.uniform(0, (1200, 640), (count, 2)), random.normal(0, 2, (count, 2))
    picture = background(random, (720, 1280)).astype(np.uint8)
    for frame in range(frames):
        corner = start + speed * frame
        boxes = np.concatenate([corner, corner + 60], 1)
        begin = time.process_time()  # of this process alone: a busy machine changes it little
        tracker.step(boxes, np.full(count, 0.9), np.zeros(count), picture)
        times.append(time.process_time() - begin)
    return float(np.median(times[10:])) * 1e3


def write(clip: Clip, path: Path) -> None:
    """Write the clip with the true ids drawn in."""
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = VideoWriter(path, 25.0, (SIDE, SIDE))
    for frame, boxes in zip(clip.frames, clip.boxes):
        data = np.concatenate([boxes[:, :5], np.ones((len(boxes), 1)), boxes[:, 5:]], 1)
        writer.write(Results(frame, "frame.jpg", NAMES, Boxes(data, (SIDE, SIDE))).plot(conf=False))
    writer.close()


def main(arguments: Sequence[str]) -> None:
    import cv2  # an extra: the measurement alone needs it

    cv2.setNumThreads(1)
    given = dict(argument.split("=", 1) for argument in arguments)
    count, seed = int(given.get("frames", 240)), int(given.get("seed", 0))
    for view in ("clip", "camera"):
        clip = draw_clip(count, seed, view == "camera")
        if "folder" in given:
            write(clip, Path(given["folder"]) / f"{view}.avi")
        kinds = {"perfect": as_results(clip, False), "rough": as_results(clip, True)}
        if "model" in given:
            kinds["model"] = YOLO(given["model"]).predict(clip.frames, conf=0.1, agnostic_nms=True, imgsz=SIDE)
        for kind, results in kinds.items():
            print(f"{view}, {kind}:   HOTA   MOTA   IDF1  changes")
            for name in shipped_trackers():
                found = measure(name, clip, results)
                numbers = "  ".join(f"{found[key] * 100:5.1f}" for key in ("HOTA", "MOTA", "IDF1"))
                print(f"  {name:>14}  {numbers}  {found['IDSW']:7}")
    print("milliseconds a frame:  20 objects  100 objects")
    for name in shipped_trackers():
        print(f"  {name:>18}  {milliseconds(name, 20):10.2f}  {milliseconds(name, 100):11.2f}")


if __name__ == "__main__":
    main(sys.argv[1:])
