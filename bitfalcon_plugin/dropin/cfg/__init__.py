"""Settings as a namespace, under the names of the wider package. Written from spec/dropin-helpers.md section 10."""

from __future__ import annotations

import importlib
import shlex
import sys
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from ...config.command_line import join_equals
from ...config.default_table import table
from ...config.errors import UserError
from ...config.listing import defaults_text
from ...config.notes import print_note
from ...config.printable import say
from ...config.settings import draft_of
from ...config.user_settings import folder
from ...config.values import literal
from ..defaults import DEFAULT_CFG_DICT, DEFAULT_CFG_PATH
from ..utils import DEFAULT_CFG, LOGGER, RUNS_DIR, SETTINGS, IterableSimpleNamespace, yaml_load
from ..utils.files import increment_path

__all__ = [
    "CFG_BOOL_KEYS",
    "CFG_FLOAT_KEYS",
    "CFG_FRACTION_KEYS",
    "CFG_INT_KEYS",
    "DEFAULT_CFG",
    "DEFAULT_CFG_DICT",
    "DEFAULT_CFG_PATH",
    "MODELS",
    "MODES",
    "SOLUTION_MAP",
    "TASK2DATA",
    "TASK2METRIC",
    "TASK2MODEL",
    "TASKS",
    "cfg2dict",
    "check_cfg",
    "check_dict_alignment",
    "entrypoint",
    "get_cfg",
    "get_save_dir",
    "smart_value",
]

MODES = frozenset(("train", "val", "predict", "export", "track", "benchmark"))
TASKS = frozenset(("detect", "segment", "classify", "pose", "obb"))
# Names that others give: files to fetch by hand.
TASK2DATA = {
    "detect": "coco8.yaml",
    "segment": "coco8-seg.yaml",
    "classify": "imagenet10",
    "pose": "coco8-pose.yaml",
    "obb": "dota8.yaml",
}
TASK2MODEL = {
    "detect": "yolov12n.pt",
    "segment": "yolov12n-seg.pt",
    "classify": "yolov12n-cls.pt",
    "pose": "yolo12n-pose.pt",
    "obb": "yolo12n-obb.pt",
}
TASK2METRIC = {
    "detect": "metrics/mAP50-95(B)",
    "segment": "metrics/mAP50-95(M)",
    "classify": "metrics/accuracy_top1",
    "pose": "metrics/mAP50-95(P)",
    "obb": "metrics/mAP50-95(B)",
}
MODELS = frozenset(TASK2MODEL.values())
SOLUTION_MAP = {
    "count": "ObjectCounter",
    "crop": "ObjectCropper",
    "blur": "ObjectBlurrer",
    "workout": "AIGym",
    "heatmap": "Heatmap",
    "isegment": "InstanceSegmentation",
    "visioneye": "VisionEye",
    "speed": "SpeedEstimator",
    "queue": "QueueManager",
    "analytics": "Analytics",
    "inference": "Inference",
    "trackzone": "TrackZone",
    "region": "RegionCounter",
    "help": None,
}


def _keys_of(kind: str) -> frozenset[str]:
    """The settings whose first type is `kind`."""
    return frozenset(key for key, row in table().items() if str(row.get("type", "")).split("|")[0] == kind)


CFG_FLOAT_KEYS, CFG_FRACTION_KEYS, CFG_INT_KEYS, CFG_BOOL_KEYS = map(_keys_of, ("float", "fraction", "int", "bool"))


class UnknownSettingError(UserError, SyntaxError):
    """There is no such setting."""

    __str__ = Exception.__str__


class WrongSettingError(UserError, TypeError, ValueError):
    """A setting has a value that it cannot have."""


def cfg2dict(cfg: Any) -> dict[str, Any]:
    """Return settings as a dict: those of a YAML file, of a namespace, or of a mapping."""
    if isinstance(cfg, (str, Path)):
        return yaml_load(cfg)
    return dict(vars(cfg)) if isinstance(cfg, SimpleNamespace) else dict(cfg)


def get_cfg(cfg: Any = DEFAULT_CFG_DICT, overrides: Any = None) -> IterableSimpleNamespace:
    """Return settings as a namespace: those of cfg (a file, a mapping or a namespace), replaced by overrides.

    Raises SyntaxError for a key that is no setting, and TypeError, which is a ValueError too, for a wrong value.
    """
    values = cfg2dict(cfg)
    if overrides:
        given = cfg2dict(overrides)
        if "save_dir" not in values:
            given.pop("save_dir", None)
        values = {**values, **check_dict_alignment(values, given, allowed_custom_keys=("save_dir", "augmentations"))}
    for key in ("project", "name"):
        if isinstance(values.get(key), (int, float)) and not isinstance(values[key], bool):
            values[key] = str(values[key])
    if values.get("name") == "model":
        values["name"] = str(values.get("model") or "").split(".")[0]
        LOGGER.warning("'name=model' is the name of the model's file: 'name=%s'.", values["name"])
    check_cfg(values)
    return IterableSimpleNamespace(**values)


def check_cfg(cfg: Mapping[str, Any], hard: bool = True) -> None:
    """Raise TypeError for settings with a value that they cannot have; keys that are no settings are passed over."""
    if not hard:
        return
    known = {key: value for key, value in cfg.items() if key in table() and value != table()[key].get("default")}
    problems = draft_of({key: value for key, value in known.items() if key != "cfg"}).problems
    if problems:
        raise WrongSettingError("\n".join(["Wrong settings:", *(f"  - {problem}" for problem in problems)]))


def check_dict_alignment(
    base: Mapping[str, Any],
    custom: Mapping[str, Any],
    e: Exception | None = None,
    allowed_custom_keys: Collection[str] | None = None,
) -> dict[str, Any]:
    """Return `custom` with old names of settings replaced; SyntaxError where base has not each of its keys.

    allowed_custom_keys: further keys that may be there.
    """
    current: dict[str, Any] = {}
    for key, value in custom.items():
        row = table().get(key, {})
        if "now" in row:
            print_note(f"'{key}' is an old name of '{row['now']}'.")
            value = not value if row.get("negate") else value
        current[row.get("now", key)] = value
    unknown = [key for key in current if key not in base and key not in (allowed_custom_keys or ())]
    if unknown:
        problems = draft_of({key: current[key] for key in unknown}).problems
        listed = problems or [f"'{key}' is no key of these settings" for key in unknown]
        raise UnknownSettingError("\n".join(listed)) from e
    return current


def get_save_dir(args: Any, name: str | None = None) -> Path:
    """Return the folder of a run, which is not made: args.save_dir, or the first that is free of project/name.

    Without project it is the task's folder in the user's runs_dir. name: in place of args.name, by default args.mode.
    """
    if getattr(args, "save_dir", None):
        return Path(args.save_dir)
    project = getattr(args, "project", None)
    parent = (
        Path(project) if project else (folder("runs_dir") or RUNS_DIR) / str(getattr(args, "task", None) or "detect")
    )
    first = parent / (name or getattr(args, "name", None) or str(getattr(args, "mode", None) or "train"))
    return increment_path(first, exist_ok=bool(getattr(args, "exist_ok", False)))


def smart_value(v: str) -> Any:
    """Return a text as None, True, False or another literal of Python, otherwise the text. Nothing is evaluated."""
    return literal(v)


def parse_key_value_pair(pair: str = "key=value") -> tuple[str, Any]:
    """Return key and value of a text "key=value". Raises AssertionError where the value is missing."""
    key, _, value = (part.strip() for part in pair.partition("="))
    if not value:
        raise AssertionError(f"missing '{key}' value in {pair!r}")
    return key, smart_value(value)


def merge_equals_args(args: Sequence[str]) -> list[str]:
    """Return words of a command line with `k = v`, `k= v` and `k =v` joined."""
    return join_equals(args)


def handle_yolo_settings(args: Sequence[str]) -> None:
    """Print the user's own settings, after changing those that words key=value give, or `reset` all of them."""
    if "reset" in args:
        SETTINGS.reset()
    elif args:
        SETTINGS.update(dict(parse_key_value_pair(word) for word in args))
    say(SETTINGS)


def copy_default_cfg() -> None:
    """Write the settings to default_copy.yaml in the working directory, to edit."""
    target = Path.cwd() / DEFAULT_CFG_PATH.name.replace(".yaml", "_copy.yaml")
    target.write_text(defaults_text(), encoding="utf-8")
    LOGGER.info("%s is written: `bitfalcon train cfg=%s` takes it.", target, target.name)


def entrypoint(debug: str = "") -> int:
    """Run a command line: `debug` without its first word, or that of this process. Return its exit code."""
    words = shlex.split(debug)[1:] if debug else sys.argv[1:]
    # The command stands above this room; only a call reaches it.
    return importlib.import_module(f"{__package__.partition('.')[0]}.cli").main(words)
