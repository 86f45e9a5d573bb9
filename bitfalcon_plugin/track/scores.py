"""How tracks agree with true identities: HOTA, MOTA and IDF1, computed by the package `trackers`."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ..config.errors import MissingFileError, UserError, raise_problems
from .tracker import Tracker

COLUMNS = "frame, id, left, top, width, height[, counts, class, ...]"
SCORED, DISTRACTORS = 1, (2, 7, 8, 12)  # classes of MOT Challenge: pedestrians, and what no method is judged by
PEDESTRIANS = {"person", "pedestrian"}  # names of a class to which the classes of MOT Challenge apply


def read_labels(path: str | Path) -> np.ndarray:
    """Return true identities (n, 8): frame from 1, id, left, top, width, height (pixels), whether it counts, class.

    path: a file in the format of MOT Challenge, or the folder of a sequence with gt/gt.txt in it. Rows of 6 or 7 values
    count, and are of class 1. Raises MissingFileError, and UserError with every row that cannot be read.
    """
    file = Path(path).expanduser()
    file = next((inner for inner in (file / "gt" / "gt.txt", file / "gt.txt") if inner.is_file()), file)
    if not file.is_file():
        raise MissingFileError(f"labels={path}: there is no such file; expected {COLUMNS} in each line.")
    rows, problems = [], []
    for number, line in enumerate(file.read_text(encoding="utf-8-sig", errors="replace").splitlines(), 1):
        if not line.strip():
            continue
        try:
            values = [float(value) for value in line.replace(";", ",").strip(" ,").split(",")]
        except ValueError:
            values = []
        if len(values) < 6 or not np.isfinite(values).all():
            problems.append(f"line {number}: {line.strip()[:60]!r}; expected {COLUMNS}, numbers with commas.")
            continue
        rows.append([*values, 1, SCORED][:8] if len(values) == 6 else [*values, SCORED][:8])
    raise_problems(f"labels={path} cannot be read:", problems)
    if not rows:
        raise UserError(f"labels={path} is empty; expected {COLUMNS} in each line.")
    labels = np.asarray(rows)
    if labels[:, 0].min() < 1:  # frames from 0
        labels[:, 0] += 1 - labels[:, 0].min()
    return labels


@dataclass
class ClipScores:
    """The tracks of one clip beside its labels. frames: numbers of the frames seen. rows: frame, id, xyxy, score."""

    labels: np.ndarray
    frames: set[int] = field(default_factory=set)
    rows: list[tuple[float, ...]] = field(default_factory=list)

    def add(self, frame: int, tracker: Tracker) -> None:
        """Add the tracks of the frame that the tracker saw last. frame: its number, from 1."""
        self.frames.add(frame)
        for track in tracker.tracked_stracks:
            x1, y1, x2, y2 = (float(side) for side in track.xyxy)
            self.rows.append((frame, track.track_id, x1, y1, x2 - x1, y2 - y1, track.score, -1, -1, -1))

    def metrics(self, names: Mapping[int, str]) -> dict[str, float]:
        """Return HOTA, MOTA and IDF1 in [0, 1], and counts: IDSW, objects, tracks, boxes, found. names: of classes.

        Frames that were not seen do not count. The classes of MOT Challenge count where the model knows people: only
        pedestrians are scored. Otherwise all classes of the labels are. Raises UserError without a label in a frame.
        """
        from trackers.eval import evaluate_mot_sequence

        labels = self.labels[np.isin(self.labels[:, 0], list(self.frames))]
        if not PEDESTRIANS & {str(name).lower() for name in names.values()} or not (labels[:, 7] == SCORED).any():
            labels = np.concatenate([labels[:, :7], np.full((len(labels), 1), SCORED)], axis=1)
        scored = labels[(labels[:, 6] != 0) & (labels[:, 7] == SCORED)]
        if not len(scored):
            raise UserError("labels= has no object in the frames of the source; its frames are counted from 1.")
        with tempfile.TemporaryDirectory() as folder:
            truth, tracks = Path(folder) / "truth.txt", Path(folder) / "tracks.txt"
            _write(truth, labels.tolist())
            _write(tracks, [*self.rows, (1, -1, 0, 0, 1, 1, 1, -1, -1, -1)])  # a row without a track: not empty
            result = evaluate_mot_sequence(truth, tracks, ["CLEAR", "HOTA", "Identity"])
        clear, identity = result.CLEAR, result.Identity
        counts = {"IDSW": clear.IDSW, "objects": len(set(scored[:, 1])), "tracks": len({row[1] for row in self.rows})}
        counts |= {"boxes": len(scored), "found": clear.CLR_TP}
        return {"HOTA": result.HOTA.HOTA, "MOTA": clear.MOTA, "IDF1": identity.IDF1, **counts}


def score_line(metrics: Mapping[str, float]) -> str:
    """The line that is printed about `ClipScores.metrics`, shares in percent."""
    shares = "  ".join(f"{name} {metrics[name] * 100:.1f}" for name in ("HOTA", "MOTA", "IDF1"))
    return (
        f"{shares}  ({metrics['found']} of {metrics['boxes']} boxes, {metrics['tracks']} tracks for "
        f"{metrics['objects']} objects, {metrics['IDSW']} changes of identity)"
    )


def _write(path: Path, rows: Iterable[Iterable[float]]) -> None:
    path.write_text("".join(",".join(f"{value:.10g}" for value in row) + "\n" for row in rows), encoding="utf-8")
