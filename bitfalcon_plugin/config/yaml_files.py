"""Find and read the model YAML that `model=` names, with the scale in its name, and the YAML of settings of `cfg=`.

Order for a model: the given path, the same path without its scale letter, then both names in cfg/models. The letter is
removed from the file name only, never from a folder. `yolo12` and `yolov12` are the same name. A recipe has no letter.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

from .errors import MissingFileError, UserError, did_you_mean
from .files import cfg_dir

LETTER = re.compile(r"(yolo(?:e-)?v?\d+)([nsmlx])")
OTHER_LETTER = re.compile(r"yolo(?:e-)?v?\d+([a-zA-Z])(?![a-zA-Z])(?<![nsmlx])")
P6_NAME = re.compile(r"(yolov?\d+[nsmlx])6(-\w+)?")
SUFFIXES = (".yaml", ".yml")
MAX_BYTES = 1 << 20  # a model YAML has a few kB
MAX_VALUES = 100_000  # in a YAML whose aliases are written out

# (shipped graph, family) -> the shipped graph of that family; rows 1 and 3 differ (spec/families.md section 1).
SHIPPED_VARIANTS = {
    (f"{one}{task}", variant): f"{other}{task}"
    for task in ("", "-seg", "-cls", "-pose", "-obb")
    for one, variant, other in (
        ("yolov12", "turbo", "yolov12-turbo"),
        ("yolov12", "turbo-all-residual", "yolov12-turbo"),
        ("yolov12-turbo", "v1", "yolov12"),
    )
}


@dataclass(frozen=True)
class ModelFile:
    """A model YAML: its path, the scale letter in the name that the user typed, and its content."""

    path: Path
    letter: str
    document: Mapping[str, object]


def scale_letter(name: str) -> str:
    """The scale letter in a file name: 'yolov12l.yaml' -> 'l', 'my_yolo12s.yaml' -> 's', 'yolov12.yaml' -> ''."""
    match = LETTER.search(_stem(name))
    return match[2] if match else ""


def find_model(model: str | Path, variant: str | None = None) -> ModelFile:
    """Find and read the model YAML that `model` names; of a shipped graph, the one of the family `variant`.

    Raises MissingFileError with the paths that were tried and the nearest name, UserError for an unreadable YAML.
    """
    path_given = Path(model).expanduser()
    path = _find(path_given)
    if path is None:
        raise _missing(path_given, model)
    if variant and path.resolve().parent == _shipped_folder():
        path = path.with_name(SHIPPED_VARIANTS.get((path.stem, variant), path.stem) + ".yaml")
    return ModelFile(path, scale_letter(path_given.name), load_yaml(path))


def _missing(path_given: Path, model: str | Path) -> MissingFileError:
    """The error for a model that does not exist: the paths that were tried, and the nearest name."""
    if path_given.name and path_given.is_dir():
        return MissingFileError(f"Model '{model}' is a folder; give the YAML file in it.")
    shipped = shipped_models()
    tried = f"looked for {', '.join(repr(name) for name in _names(path_given.name))} in '{path_given.parent}'"
    also = "; a name without a folder is looked for in cfg/models too"
    if path_given.parent == Path("."):
        also = " and in cfg/models"
    match = OTHER_LETTER.search(_stem(path_given.name))
    letter = f" {match[1]!r} is no scale letter; those are n, s, m, l and x." if match else ""
    return MissingFileError(
        f"Model '{model}' does not exist: {tried}{also} ({', '.join(shipped)}).{letter}"
        f"{did_you_mean(path_given.stem + '.yaml', shipped)}"
    )


def shipped_models() -> list[str]:
    """File names of the graphs in cfg/models."""
    return sorted(path.name for path in _shipped_folder().glob("*.yaml"))


def find_settings(cfg: str | Path) -> Path:
    """The YAML of settings that `cfg` names: a path, or the default file or a recipe of cfg/hyp by name.

    The suffix of a name may be left out. Raises MissingFileError with the recipes and the nearest of them.
    """
    path_given = Path(cfg).expanduser()
    if path_given.is_file():
        return path_given
    if path_given.parent == Path("."):
        shipped = {_canonical(path.name): path for path in (cfg_dir() / "default.yaml", *_recipes())}
        if path := shipped.get(_canonical(path_given.name)):
            return path
    names = [path.stem for path in _recipes()]
    raise MissingFileError(
        f"there is no such file, and the recipes are {', '.join(names)}."
        f"{did_you_mean(_without_suffix(path_given.name)[0], names)} `bitfalcon copy-cfg` writes a file to edit."
    )


def is_recipe(path: Path) -> bool:
    """Whether a YAML of settings is one of the recipes in cfg/hyp."""
    return path in _recipes()


def load_yaml(path: Path) -> dict:
    """Read the mapping in a YAML file.

    Raises UserError with file and line where the file holds no mapping, is malformed, or would grow without bound.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise UserError(f"'{path}' has {path.stat().st_size} bytes; a YAML of settings has less than {MAX_BYTES}.")
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UserError(f"'{path}' cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise UserError(f"'{path}' is not text (byte {error.start}); expected a YAML file in UTF-8.") from error
    try:
        content = _parse(text)
    except Exception as error:  # a malformed tag makes the parser raise any of ten exceptions
        mark = getattr(error, "problem_mark", None)
        line = f" line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        deep = "its values are nested too deep" if isinstance(error, RecursionError) else ""
        raise UserError(f"'{path}'{line} is not YAML: {deep or getattr(error, 'problem', None) or error}.") from error
    if not isinstance(content, dict):
        problem = "is empty" if content is None else f"holds {type(content).__name__}"
        raise UserError(f"'{path}' {problem}, expected a mapping of keys to values.")
    return content


def _parse(text: str) -> object:
    """Parse as yaml.safe_load, in two steps: the nodes are checked before objects are made of them.

    By libyaml where PyYAML has it, which takes a fifth of the time.
    """
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)(text)
    try:
        root = loader.get_single_node()
        if root is None:
            return None
        _check_nodes(root)
        return loader.construct_document(root)
    finally:
        loader.dispose()


def _check_nodes(root: yaml.Node) -> None:
    """Raise MarkedYAMLError for aliases that grow without bound, and for a key that stands twice."""
    waiting, count = [root], 0
    while waiting:
        node = waiting.pop()
        count += 1
        if count > MAX_VALUES:
            raise yaml.MarkedYAMLError(problem=f"its aliases, written out, make more than {MAX_VALUES} values")
        if isinstance(node, yaml.MappingNode):
            seen = set()
            for key, value in node.value:
                if isinstance(key, yaml.ScalarNode) and key.value in seen and key.tag != "tag:yaml.org,2002:merge":
                    raise yaml.MarkedYAMLError(
                        problem=f"the key {key.value!r} stands twice", problem_mark=key.start_mark
                    )
                seen.add(key.value if isinstance(key, yaml.ScalarNode) else id(key))
                waiting += (key, value)
        elif isinstance(node, yaml.SequenceNode):
            waiting += node.value


def _recipes() -> list[Path]:
    return sorted((cfg_dir() / "hyp").glob("*.yaml"))


def _shipped_folder() -> Path:
    return (cfg_dir() / "models").resolve()


def _without_suffix(name: str) -> tuple[str, str]:
    path = Path(name)
    return (path.stem, path.suffix) if path.suffix.lower() in SUFFIXES else (name, "")


def _stem(name: str) -> str:
    """The name without its suffix; a P6 graph such as yolov8n6 is yolov8n-p6, yolov8n6-seg is yolov8n-seg-p6."""
    stem, _ = _without_suffix(name)
    match = P6_NAME.fullmatch(stem)
    return f"{match[1]}{match[2] or ''}-p6" if match else stem


def _names(name: str) -> list[str]:
    """The file names to try: the typed one, then without its letter, each with a suffix."""
    typed, suffix = _without_suffix(name)
    stems = (typed, _stem(name), LETTER.sub(r"\1", _stem(name), count=1))
    return list(dict.fromkeys(stem + (suffix or ".yaml") for stem in stems))


def _find(path_given: Path) -> Path | None:
    names = _names(path_given.name)
    candidates = [path_given.with_name(name) for name in names] if path_given.name else []
    path = next((path for path in candidates if path.is_file()), None)
    if path is not None or path_given.parent != Path("."):
        return path
    shipped = {_canonical(name): _shipped_folder() / name for name in shipped_models()}
    return next((shipped[_canonical(name)] for name in names if _canonical(name) in shipped), None)


def _canonical(name: str) -> str:
    return re.sub(r"^yolov(?=\d)", "yolo", _without_suffix(name)[0])
