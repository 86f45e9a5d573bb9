"""The tracker that `tracker=` names, and its checked parameters: from cfg/trackers, or from a YAML of the user."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..config.errors import MissingFileError, UserError, did_you_mean, raise_problems
from ..config.files import cfg_dir
from ..config.values import KINDS, expected, show
from ..config.yaml_files import load_yaml
from .usual_keys import from_usual_keys

DEFAULT = "bytetrack"
SUFFIXES = (".yaml", ".yml")
SIMILARITY = {"type": "fraction"}
SCORE = {"type": "fraction"}
# Every key of the files in cfg/trackers and the values that it takes, as in cfg/default.yaml.
PARAMETERS: Mapping[str, Mapping[str, object]] = {
    "minimum_score": SCORE,
    "high_conf_det_threshold": SCORE,
    "track_activation_threshold": SCORE,
    "minimum_iou_threshold": SIMILARITY,
    "minimum_iou_threshold_first_assoc": SIMILARITY,
    "minimum_iou_threshold_second_assoc": SIMILARITY,
    "minimum_iou_threshold_unconfirmed_assoc": SIMILARITY,
    "minimum_consecutive_frames": {"type": "int", "min": 1, "unit": "frames"},
    "instant_first_frame_activation": {"type": "bool"},
    "lost_track_buffer": {"type": "int", "min": 0, "unit": "frames"},
    "frame_rate": {"type": "float", "above": 0, "unit": "frames a second"},
    "direction_consistency_weight": {"type": "float", "min": 0},
    "delta_t": {"type": "int", "min": 1, "unit": "frames"},
    "buffer_ratio_first": {"type": "float", "min": 0},
    "buffer_ratio_second": {"type": "float", "min": 0},
    "enable_cmc": {"type": "bool"},
    "cmc_method": {"type": "str", "choices": ["sparseOptFlow", "orb", "sift", "ecc"]},
    "cmc_downscale": {"type": "int", "min": 1},
    "iou": {"type": "str", "choices": ["iou", "giou", "diou", "ciou"]},
}
OTHER_SPELLINGS = {
    "byte": "bytetrack",
    "byte-track": "bytetrack",
    "bot-sort": "botsort",
    "oc-sort": "ocsort",
    "c-biou": "cbiou",
}
REPLACED = {"tracktrack": DEFAULT}  # a default of other packages that is not here -> what tracks in its place


@dataclass(frozen=True)
class TrackerOptions:
    """A tracker and its parameters. name: of a file in cfg/trackers. notes: lines for the user about the YAML."""

    name: str
    parameters: Mapping[str, Any]
    notes: tuple[str, ...] = field(default=(), compare=False)


@functools.cache
def shipped_trackers() -> dict[str, Path]:
    """Name -> file in cfg/trackers."""
    return {path.stem: path for path in sorted((cfg_dir() / "trackers").glob("*.yaml"))}


def read_options(tracker: str | Path) -> TrackerOptions:
    """Return the tracker that `tracker` names: a file, or a name of cfg/trackers with or without .yaml.

    Raises MissingFileError for a name that is neither, UserError with every problem of a file.
    """
    path = Path(tracker).expanduser()
    if path.is_file():
        return options_from(load_yaml(path), str(path), path.stem)
    stem = path.stem if path.suffix.lower() in SUFFIXES else path.name
    is_of_a_package = path.parts[-3:-1] == ("cfg", "trackers")  # another's file of the same name
    if (path.parent == Path(".") or is_of_a_package) and (name := _known(stem)):
        notes = [_replaced(stem, name)] if stem.lower() in REPLACED else []
        if is_of_a_package:
            notes.append(f"there is no such file; it is {name} of cfg/trackers here.")
        return TrackerOptions(name, _defaults(name), tuple(f"tracker={tracker}: {note}" for note in notes))
    raise MissingFileError(
        f"tracker={tracker}: there is no such file, and the trackers here are {', '.join(shipped_trackers())}."
        f"{did_you_mean(stem, shipped_trackers())}"
    )


def options_from(document: Mapping[str, object], where: str, stem: str = "") -> TrackerOptions:
    """Check the keys of a tracker YAML. where: what messages call it. stem: of its name, in place of tracker_type."""
    given = dict(document)
    kind = given.pop("tracker_type", stem)
    name = _known(str(kind))
    if name is None:
        raise UserError(
            f"{where}: tracker_type={show(kind)}: expected one of {', '.join(shipped_trackers())}."
            f"{did_you_mean(str(kind), shipped_trackers())}"
        )
    is_replaced = str(kind).lower() in REPLACED
    defaults = _defaults(name)
    problems: list[str] = []
    values, notes = from_usual_keys(given, name, defaults, problems)
    notes = [_replaced(str(kind), name), *notes] if is_replaced else notes
    parameters = dict(defaults)
    for key, value in values.items():
        if key not in defaults and (is_replaced or key in PARAMETERS):
            notes.append(f"{key} has no effect for {name}.")
        elif key not in defaults:
            problems.append(f"{key}: there is no such key of {name}.{did_you_mean(str(key), defaults)}")
        elif (checked := _checked(value, PARAMETERS[key])) is None:
            problems.append(f"{key}={show(value)}: expected {expected(PARAMETERS[key])}; for example {defaults[key]}.")
        else:
            parameters[key] = checked
    raise_problems(f"Wrong keys in {where}:", problems)
    return TrackerOptions(name, parameters, tuple(f"{where}: {note}" for note in notes))


@functools.cache
def _shipped(name: str) -> dict[str, object]:
    return {key: value for key, value in load_yaml(shipped_trackers()[name]).items() if key != "tracker_type"}


def _defaults(name: str) -> dict[str, object]:
    """The keys of a tracker with their defaults, as in cfg/trackers."""
    return dict(_shipped(name))


def _known(name: str) -> str | None:
    """The name in cfg/trackers for a name as people write it; None for another."""
    lower = name.lower()
    name = REPLACED.get(lower, OTHER_SPELLINGS.get(lower, lower))
    return name if name in shipped_trackers() else None


def _replaced(name: str, by: str) -> str:
    return f"the tracker {name} is not here; {by} tracks in its place."


def _checked(value: object, row: Mapping[str, object]) -> object:
    """Return `value` as the type of the row, None where it is of another type or out of range."""
    return None if value is None else KINDS[str(row["type"])].check(value, row)
