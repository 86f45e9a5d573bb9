"""From what a user types as `model=` to a model YAML and the scale its name carries.

Order: the path as given, the same path without its scale letter, then both names in cfg/models. The letter is taken off
the file name only, never off a folder. `yolo12` and `yolov12` are the same name.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import yaml

from .errors import MissingFileError, UserError, did_you_mean
from .files import cfg_dir

LETTER = re.compile(r"(yolo(?:e-)?v?\d+)([nsmlx])")
P6_NAME = re.compile(r"^(yolov?\d+[nsmlx]?)6$")
SUFFIXES = (".yaml", ".yml")
MAX_BYTES = 1 << 20  # a model YAML has a few kB; more is not one

# Which graph of ours carries a family that the named one does not (rows 1 and 3 differ, spec/families.md section 1).
SHIPPED_VARIANTS: Mapping[tuple[str, str], str] = MappingProxyType({
    ("yolov12", "turbo"): "yolov12-turbo",
    ("yolov12", "turbo-all-residual"): "yolov12-turbo",
    ("yolov12-turbo", "v1"): "yolov12",
})


@dataclass(frozen=True)
class ModelFile:
    """A model YAML that was found: its path, the scale letter of the name that was typed, and its content."""

    path: Path
    letter: str
    document: Mapping[str, object]


def scale_letter(name: str) -> str:
    """The scale letter a file name carries: 'yolov12l.yaml' -> 'l', 'my_yolo12s.yaml' -> 's', 'yolov12.yaml' -> ''."""
    found = LETTER.search(_stem(name))
    return found[2] if found else ""


def find_model(model: str | Path, variant: str | None = None) -> ModelFile:
    """Find and read the model YAML that `model` names; `variant` picks the shipped graph of that family.

    Raises MissingFileError with what was tried and the nearest known name, UserError for an unreadable YAML.
    """
    given = Path(model).expanduser()
    path = _find(given)
    if path is None:
        shipped = shipped_models()
        raise MissingFileError(
            f"Model '{model}' does not exist: looked for {', '.join(repr(n) for n in _names(given.name))} in '{given.parent}'"
            f" and in cfg/models ({', '.join(shipped)}).{did_you_mean(given.stem + '.yaml', shipped)}"
        )
    if variant and path.parent == cfg_dir() / "models":
        other = SHIPPED_VARIANTS.get((path.stem, variant), path.stem)
        path = path.with_name(other + ".yaml")
    return ModelFile(path, scale_letter(given.name), load_yaml(path))


def shipped_models() -> list[str]:
    """File names of the graphs in cfg/models."""
    return sorted(path.name for path in (cfg_dir() / "models").glob("*.yaml"))


def load_yaml(path: Path) -> dict:
    """The mapping in a YAML file; UserError with file and line when it is none or is malformed."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise UserError(f"'{path}' has {path.stat().st_size} bytes; a YAML of settings has less than {MAX_BYTES}.")
        content = yaml.safe_load(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise UserError(f"'{path}' cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise UserError(f"'{path}' is not text (byte {error.start}); expected a YAML file in UTF-8.") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f" line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise UserError(f"'{path}'{line} is not YAML: {getattr(error, 'problem', None) or error}.") from error
    if not isinstance(content, dict):
        raise UserError(f"'{path}' holds {type(content).__name__}, expected a mapping of keys to values.")
    return content


def _stem(name: str) -> str:
    # yolov8n6 and yolov8-6 style names are the P6 graph: yolov8n-p6
    stem = Path(name).stem if Path(name).suffix.lower() in SUFFIXES else name
    found = P6_NAME.match(stem)
    return f"{found[1]}-p6" if found else stem


def _names(name: str) -> list[str]:
    # The name as typed, then without its letter, each with a suffix.
    suffix = Path(name).suffix if Path(name).suffix.lower() in SUFFIXES else ".yaml"
    stem = _stem(name)
    stems = [Path(name).stem if Path(name).suffix.lower() in SUFFIXES else name, stem, LETTER.sub(r"\1", stem, count=1)]
    return list(dict.fromkeys(stem + suffix for stem in stems))


def _find(given: Path) -> Path | None:
    names = _names(given.name)
    here = [given.with_name(name) for name in names] if given.name else []
    found = next((path for path in here if path.is_file()), None)
    if found is not None or given.parent != Path("."):
        return found
    shipped = {_canonical(Path(name).stem): cfg_dir() / "models" / name for name in shipped_models()}
    return next((shipped[_canonical(Path(name).stem)] for name in names if _canonical(Path(name).stem) in shipped), None)


def _canonical(stem: str) -> str:
    return re.sub(r"^yolov(?=\d)", "yolo", stem)
