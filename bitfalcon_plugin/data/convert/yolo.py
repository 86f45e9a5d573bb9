"""Read a dataset with a data.yaml, in order to cut its images into tiles."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress

from ...config.errors import UserError
from ...config.notes import print_note
from ...config.settings import Settings
from ..dataset import Scan, scan
from ..formats.dataset_yaml import DataSpec, load_data
from ..formats.obb_rows import read_obb
from ..formats.yolo import RowReader, read_row
from .source import Part, Source

READERS: Mapping[str, RowReader] = {"detect": read_row, "segment": read_row, "obb": read_obb}


def read_yolo(settings: Settings) -> Source:
    """Read the dataset `settings.data` for the task that is given, otherwise for the one that its rows are written for.

    Raises UserError for keypoints, and with all problems of the labels of a split.
    """
    task = settings.task if "task" in settings.given else ""
    if task and task not in READERS:
        raise UserError(f"task={task}: tiles are cut for {', '.join(READERS)}.")
    if settings.tile is None:
        raise UserError("format=yolo is the format of the result already; give tile=1024 to cut its images into tiles.")
    data = load_data(settings.data, allow_outside=settings.allow_outside)
    if data.keypoints is not None and task != "detect":
        raise UserError(
            f"'{data.path}' has keypoints (kpt_shape:), of which no tiles are cut. task=detect takes its boxes alone."
        )
    task, scans = (task, _scans(data, READERS[task])) if task else _by_rows(data)
    parts = {}
    for split, content in scans.items():
        labelled = split != "test" or content.missing < len(content.samples)
        parts[split] = Part(content.samples, labelled, content.notes if labelled else content.notes[:-1])
    return Source(data.names, parts, task, data.settings)


def _scans(data: DataSpec, read: RowReader) -> dict[str, Scan]:
    return {split: scan(data, split, read=read) for split in data.splits}


def _by_rows(data: DataSpec) -> tuple[str, dict[str, Scan]]:
    """The task whose rows a dataset has, and its splits: obb where every row has four corners, otherwise segment where
    one has an outline.
    """
    with suppress(UserError):  # rows of another task; what is wrong is told below
        scans = _scans(data, read_obb)
        polygons = [sample.labels.polygons for content in scans.values() for sample in content.samples]
        if all(bool((each.counts == 4).all()) for each in polygons if each is not None):
            print_note("every row has four corners: taken as oriented boxes. task=segment cuts them as outlines.")
            return "obb", scans
    scans = _scans(data, read_row)
    return "segment" if any(content.polygons for content in scans.values()) else "detect", scans
