"""Read a dataset with a data.yaml of any format, to write it in another one, or to cut its images into tiles."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from contextlib import suppress

from ...config.errors import UserError
from ...config.notes import print_note
from ...config.settings import Settings
from ..dataset import Scan, scan
from ..formats.coco_labels import Wish
from ..formats.dataset_yaml import DataSpec, load_data
from ..formats.obb_rows import read_obb
from ..formats.pose_rows import read_pose
from ..formats.yolo import RowReader, read_row
from ..label_sources import refuse
from .source import Part, Source

READERS: Mapping[str, RowReader] = {"detect": read_row, "segment": read_row, "pose": read_pose, "obb": read_obb}
PARTS = {"detect": "", "segment": "outlines", "pose": "keypoints", "obb": "corners"}  # task -> Wish.part


def read_dataset(settings: Settings) -> Source:
    """Read the dataset `settings.data` for the task that is given, otherwise for what its labels have.

    Raises UserError for a task that the labels cannot serve, for tiles of keypoints, and with all problems of the
    labels of a split.
    """
    task = settings.task if "task" in settings.given else ""
    if task and task not in READERS:
        raise UserError(f"task={task}: data converts labels of {', '.join(READERS)}.")
    _require_change(settings.format.lower() if "format" in settings.given else "", settings)
    data = load_data(settings.data, allow_outside=settings.allow_outside)
    if "format" in settings.given and settings.format.lower() != data.format:
        raise UserError(
            f"format={settings.format}, but '{data.path}' is of format {data.format}; write `format: "
            f"{settings.format.lower()}` into it if it is wrong, or leave format= out."
        )
    _require_change(data.format, settings)
    task = task or _task_of_yaml(data)
    if task == "pose" and settings.tile is not None:
        raise UserError(
            f"'{data.path}' has keypoints (kpt_shape:), of which no tiles are cut. task=detect takes its boxes alone."
        )
    if task == "pose" and data.keypoints is None:
        raise UserError(f"'{data.path}' has no kpt_shape:, which task=pose needs.")
    task, scans = (task, _scans(data, task, settings)) if task else _by_rows(data, settings)
    if task == "segment" and "task" not in settings.given and not any(each.polygons for each in scans.values()):
        task = "detect"
    parts = {split: _part(split, content, settings.to.lower()) for split, content in scans.items()}
    keypoints = data.keypoints if task == "pose" else None
    return Source(data.names, parts, task, data.settings, keypoints)


def _require_change(form: str, settings: Settings) -> None:
    """Raise UserError where a dataset of format `form` would be written as it is."""
    if form == settings.to.lower() == "yolo" and settings.tile is None and not isinstance(settings.split, tuple):
        raise UserError(
            "format=yolo is the format of the result already; give tile=1024 to cut its images into tiles, or "
            "split=0.8/0.1/0.1 to divide them."
        )


def _part(split: str, content: Scan, to: str) -> Part:
    labelled = split != "test" or content.missing < len(content.samples)
    left_out: Counter[str] = Counter()
    for sample in content.samples if to != "coco" else ():
        crowds = 0 if sample.truth is None else int(sample.truth.crowd.sum())
        left_out.update({"that are groups (iscrowd)": crowds} if crowds else {})
    return Part(content.samples, labelled, content.notes if labelled else content.notes[:-1], left_out)


def _task_of_yaml(data: DataSpec) -> str:
    """The task that the format and the YAML tell; empty for label files whose rows tell it."""
    if data.keypoints is not None:
        return "pose"
    return {"yolo": "", "coco": "segment", "voc": "detect"}[data.format]


def _scans(data: DataSpec, task: str, settings: Settings) -> dict[str, Scan]:
    wish = Wish(PARTS[task], task == "segment", exact=True, truth=True, difficult=settings.difficult)
    refuse(data, wish)
    in_tiles = settings.tile is not None
    return {split: scan(data, split, read=READERS[task], wish=wish, large=in_tiles) for split in data.splits}


def _by_rows(data: DataSpec, settings: Settings) -> tuple[str, dict[str, Scan]]:
    """The task whose rows a dataset has, and its splits: obb where every row has four corners, otherwise segment where
    one has an outline.
    """
    with suppress(UserError):  # rows of another task; what is wrong is told below
        scans = _scans(data, "obb", settings)
        polygons = [sample.labels.polygons for content in scans.values() for sample in content.samples]
        if settings.to.lower() == "yolo" and all(
            bool((each.counts == 4).all()) for each in polygons if each is not None
        ):
            print_note("every row has four corners: taken as oriented boxes. task=segment cuts them as outlines.")
            return "obb", scans
    scans = _scans(data, "segment", settings)
    return "segment" if any(content.polygons for content in scans.values()) else "detect", scans
