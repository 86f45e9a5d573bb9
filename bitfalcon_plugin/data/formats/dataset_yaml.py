"""Find a dataset YAML by path or name, check it key by key, and resolve the entries of its splits to absolute paths.

Nothing in a YAML is executed or fetched, and an entry that leads out of the dataset's folder is refused unless the
caller allows it. Written from interface.md 5.1 and families.md 3.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from ...config.default_table import keys_with, table
from ...config.errors import MissingFileError, UserError, did_you_mean, nearest, raise_problems
from ...config.files import cfg_dir
from ...config.user_settings import folder as user_folder
from ...config.yaml_files import SUFFIXES, load_yaml
from ...ops.keypoint_layout import KEYS, KeypointLayout, read_layout
from ..shape_boxes import ensure_shape_boxes
from ..shapes import ensure_shapes
from ..stick_figures import ensure_figures
from .annotation_yaml import coco_names, format_of, image_folders
from .folders import class_folders, leaves, outside_problem, path_problem, some
from .listing import LISTS, Listing, Place
from .voc import read_voc, voc_names, voc_options, xml_path

SPLITS = ("train", "val", "test")
MAX_PROBLEMS = 500  # of files that an error lists
OF_CLASSES = "holds class folders ({}), which task=classify trains; this task reads data with label files"
GENERATORS = {
    "shapes": ensure_shapes,
    "shapes-seg": partial(ensure_shapes, outlines=True),
    "shapes-obb": ensure_shape_boxes,
    "figures": ensure_figures,
}  # `generator:` -> what makes the dataset and returns its YAML


@dataclass(frozen=True)
class DataSpec:
    """A checked dataset YAML. Its images are looked up when a split is scanned.

    format: yolo (a label file in text for each image), coco (annotation files in JSON) or voc (label files in XML).
    folders: of coco, see listing.Place.images. first_pixel: of voc, see voc.VocLabels.
    """

    path: Path  # the YAML itself
    root: Path  # absolute
    names: dict[int, str]  # 0 to nc-1, in order
    splits: dict[str, tuple[str, ...]]  # train, val, test -> absolute folders, lists (.txt), images, annotation files
    settings: dict[str, object] = field(default_factory=dict)  # defaults of settings for this dataset
    download: str | None = None  # text of the YAML for messages, never executed
    keypoints: KeypointLayout | None = None  # of each label, where `kpt_shape:` is given
    allow_outside: bool = False  # entries and lines of lists may lead out of the root
    notes: tuple[str, ...] = ()
    share: float | None = None  # class folders: of each class this share of the images in train is train, the rest val
    imposed: tuple[str, ...] = ()  # those of `settings` that hold whatever else is given
    format: str = "yolo"
    folders: dict[str, str] = field(default_factory=dict)
    first_pixel: int | None = None

    @property
    def nc(self) -> int:
        """Number of classes."""
        return len(self.names)

    @property
    def kpt_shape(self) -> tuple[int, int] | None:
        """Number of keypoints of each label, and 2 (x y) or 3 (x y visibility); None without keypoints."""
        return None if self.keypoints is None else self.keypoints.shape

    def listing(self, split: str) -> Listing:
        """The images of a split; problems are collected, not raised."""
        return LISTS[self.format](self.splits[split], split, Place(self.root, self.allow_outside, self.folders))


def load_data(data: str | Path, *, allow_outside: bool = False) -> DataSpec:
    """Find a dataset YAML and check it.

    Args:
        data: a YAML file; a folder that holds exactly one; or the bare name of a dataset that comes with the package.
        allow_outside: accept entries that lead out of the dataset's root.

    Raises MissingFileError, with the nearest names, if there is no such file, and UserError with all problems.
    """
    spec, problems = read_data(data, allow_outside=allow_outside)
    problems += _class_folder_problems(spec) if problems else []
    raise_problems(f"Dataset file '{spec.path}' cannot be used:", problems)
    if not spec.names:
        refuse_wrong_files(spec)
        raise UserError(f"Dataset file '{spec.path}' has no names:, and no {spec.format.upper()} file of it a class.")
    return spec


def refuse_wrong_files(spec: DataSpec) -> None:
    """Raise what is wrong with the files that are to say what a YAML of COCO or VOC leaves out.

    Raises MissingFileError for files that are not there, UserError with all problems of the others.
    """
    listings = [spec.listing(split) for split in spec.splits]
    absent = [f"'{path}' is not there" for listing in listings for path in listing.absent]
    problems = [problem for listing in listings for problem in listing.problems]
    if spec.format == "voc":
        for image in (path for listing in listings for path in listing.paths):
            with suppress(FileNotFoundError):
                problems += read_voc(xml_path(image), spec.first_pixel)[2]
    title, kind = f"Files of dataset '{spec.path}' cannot be used:", MissingFileError if absent else UserError
    raise_problems(title, list(dict.fromkeys([*absent, *problems])), MAX_PROBLEMS, kind)


def read_data(data: str | Path, *, allow_outside: bool = False) -> tuple[DataSpec, list[str]]:
    """Find a dataset YAML as `load_data` does, and return it with its problems.

    A key with a problem is left out of the DataSpec, and so are entries that lead out of the dataset's root. Raises
    MissingFileError or UserError if there is no such YAML or it cannot be parsed.
    """
    path = find_yaml(data)
    raw = load_yaml(path)
    problems: list[str] = []
    settings = settings_of(raw, problems)
    if raw.get("generator") is not None:
        name = raw["generator"]
        if isinstance(name, str) and name in GENERATORS:
            return replace(load_data(GENERATORS[name]()), path=path, settings=settings), problems
        names = ", ".join(GENERATORS)
        problems.append(f"generator: {name!r} is unknown; known: {names}.{did_you_mean(name, GENERATORS)}")
        return DataSpec(path, path.parent, {}, {}), problems

    notes: list[str] = []
    root = root_of(raw, path, problems)
    if raw.get("channels", 3) != 3:
        problems.append(f"channels: {raw['channels']!r}; only 3 (colour images) is supported")
    form = format_of(raw, problems)
    named = form == "yolo" or raw.get("names") is not None or raw.get("nc") is not None
    names = names_of(raw, problems) if named else {}
    required = ("train", "val") if form == "yolo" else ()
    splits = splits_of(raw, root, problems, notes, allow_outside=allow_outside, required=required)
    if not splits and not problems:
        problems.append(f"train, val: missing; expected what format: {form} reads.{did_you_mean('train', raw)}")
    download = None if raw.get("download") is None else str(raw["download"])
    rest = {"download": download, "allow_outside": allow_outside, "format": form}
    spec = DataSpec(path, root, names, splits, settings, **rest)
    spec = _DETAILS[form](spec, raw, problems, notes)
    return replace(spec, notes=tuple(notes)), problems


def _of_yolo(spec: DataSpec, raw: Mapping[str, object], problems: list[str], notes: list[str]) -> DataSpec:
    """The spec with what the YAML alone says of keypoints."""
    return replace(spec, keypoints=_keypoints(raw, spec.nc, problems, notes))


def _of_coco(spec: DataSpec, raw: Mapping[str, object], problems: list[str], notes: list[str]) -> DataSpec:
    """The spec with classes and keypoints of its annotation files, where the YAML does not say them."""
    names, keypoints, more = coco_names(spec.splits, raw, spec.names, problems)
    notes += more
    return replace(spec, names=names, keypoints=keypoints, folders=image_folders(raw, spec.root, problems))


def _of_voc(spec: DataSpec, raw: Mapping[str, object], problems: list[str], notes: list[str]) -> DataSpec:
    """The spec with the classes of its label files, where the YAML names none."""
    spec = replace(spec, first_pixel=voc_options(raw, problems))
    if spec.names or problems:
        return spec
    images = [image for split in spec.splits for image in spec.listing(split).paths]
    names, more = voc_names(xml_path(image) for image in images)
    notes += more
    return replace(spec, names=names)


_DETAILS = {"yolo": _of_yolo, "coco": _of_coco, "voc": _of_voc}


def find_yaml(data: str | Path) -> Path:
    """The YAML file that `data` names: by its path, by its folder, or among the packaged ones."""
    if not isinstance(data, (str, Path)) or not str(data).strip():
        raise UserError(f"data={data!r}: expected a dataset YAML, a folder that holds one, or a packaged name.")
    path = Path(data).expanduser()
    if not path.exists() and (problem := path_problem(str(data))):
        raise UserError(f"Dataset {problem}.")
    packaged = cfg_dir() / "datasets"
    if not path.exists() and path.name == str(path):
        candidates = [folder / f"{path}{suffix}" for folder in (Path(), packaged) for suffix in ("", *SUFFIXES)]
        path = next((candidate for candidate in candidates if candidate.is_file()), path)
    if path.is_dir():
        path = _only_yaml(path)
    if not path.exists():
        names = {file.name for folder in (packaged, path.parent) for file in _yamls(folder)}
        close = nearest(path.name, names) or sorted(file.name for file in _yamls(packaged))
        raise MissingFileError(
            f"Dataset '{data}' is not there: no such file, and not among the packaged ones in '{packaged}'. "
            f"Nearest: {', '.join(close)}."
        )
    if path.suffix.lower() not in SUFFIXES:
        raise UserError(f"Dataset '{data}' is not a YAML (.yaml, .yml). {_instead(path)}.")
    return Path(os.path.abspath(path))


def _instead(path: Path) -> str:
    """What to give in place of a file that is no YAML."""
    if path.suffix.lower() == ".json":
        return f"For annotations of COCO's format write one: `train: {path.name}`, and `val:` with another such file"
    if path.suffix.lower() == ".xml":
        return "For label files of Pascal VOC write one: `format: voc`, and train:, val: with folders of images"
    return "Unpack an archive and give its YAML or folder"


def _yamls(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(file for file in folder.iterdir() if file.suffix.lower() in SUFFIXES and file.is_file())


def _only_yaml(folder: Path) -> Path:
    files = _yamls(folder)
    if len(files) == 1:
        return files[0]
    if names := class_folders(folder / "train") or class_folders(folder):
        raise UserError(f"'{folder}' {OF_CLASSES.format(some(names))}.")
    if not files:
        raise MissingFileError(f"Dataset folder '{folder}' holds no YAML; expected one, or give the YAML itself.")
    names = ", ".join(file.name for file in files)
    raise UserError(f"Dataset folder '{folder}' holds {len(files)} YAMLs ({names}); give the one that is meant.")


def _class_folder_problems(spec: DataSpec) -> list[str]:
    """A problem for each entry that holds class folders where labels are expected."""
    entries = [(split, Path(entry)) for split, paths in spec.splits.items() for entry in paths]
    return [
        f"{split}: '{entry}' {OF_CLASSES.format(some(names))}"
        for split, entry in entries
        if (names := class_folders(entry))
    ]


def settings_of(raw: Mapping[str, object], problems: list[str]) -> dict[str, object]:
    """The mapping `settings:` of a dataset YAML; empty without the key."""
    value = raw.get("settings")
    if value is None:
        return {}
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        problems.append(f"settings: {value!r}; expected a mapping of setting to value")
        return {}
    yours = {key for key, row in table().items() if "path" in row} | {*keys_with("typed", "dataset")}
    refused = [key for key in value if table().get(key, {}).get("now", key) in yours]
    problems += [
        f"settings: {key}: {value[key]!r}; a dataset chooses no place and gives no right: delete it here, and type "
        f"{key}={value[key]} where you mean it"
        for key in refused
    ]
    return {key: content for key, content in value.items() if key not in refused}


def root_of(raw: Mapping[str, object], path: Path, problems: list[str]) -> Path:
    """The dataset's folder: `path:`, relative to the YAML `path`, the working directory or the user's datasets_dir.

    The first that exists is taken, otherwise the second.
    """
    value = raw.get("path")
    if value is None:
        return path.parent
    if not isinstance(value, str) or not value.strip():
        problems.append(f"path: {value!r}; expected the dataset's folder as text")
        return path.parent
    if problem := path_problem(value):
        problems.append(f"path: {problem}")
        return path.parent
    tops = [path.parent, Path(), datasets_dir()]
    roots = [Path(os.path.abspath(top / Path(value).expanduser())) for top in tops]
    return next((root for root in roots if root.exists()), roots[1])


def datasets_dir() -> Path:
    """The folder where datasets are looked for at last: the user's choice, or `datasets` here."""
    return user_folder("datasets_dir") or Path("datasets")


def _keypoints(raw: Mapping[str, object], nc: int, problems: list[str], notes: list[str]) -> KeypointLayout | None:
    """What the YAML says of the keypoints of each label; None without `kpt_shape:`."""
    if raw.get("kpt_shape") is None:
        if without_shape := [key for key in KEYS if raw.get(key) is not None]:
            notes.append(f"{', '.join(without_shape)}: without effect, as there is no kpt_shape")
        return None
    return read_layout(raw, nc, problems)


def names_of(raw: Mapping[str, object], problems: list[str]) -> dict[int, str]:
    """Class index -> name from `names:`, checked against `nc:`. With `nc:` alone the names are class_0, class_1, ..."""
    names, nc = raw.get("names"), raw.get("nc")
    if nc is not None and (type(nc) is not int or nc < 1):
        problems.append(f"nc: {nc!r}; expected a whole number of classes, 1 or more")
        nc = None
    if names is None:
        if nc is None:
            problems.append("names: missing; expected the class names as a list, or as `0: first`, `1: second`, ...")
        return {index: f"class_{index}" for index in range(nc or 0)}
    if not isinstance(names, (list, Mapping)) or not names:
        problems.append(f"names: {names!r}; expected the class names as a list, or as `0: first`, `1: second`, ...")
        return {}
    if isinstance(names, list):
        names = dict(enumerate(names))
    for key, name in names.items():
        if isinstance(name, bool) or not isinstance(name, (str, int, float)) or not str(name).strip():
            problems.append(f"names: class {key} is {name!r}; expected text (put yes, no, on, off in quotes)")
    try:
        by_index = {int(key) if not isinstance(key, (bool, float)) else key: str(name) for key, name in names.items()}
    except (TypeError, ValueError):
        by_index = {}
    if sorted(map(str, by_index)) != sorted(map(str, range(len(names)))):
        problems.append(f"names: indices {', '.join(map(str, names))}; expected 0 to {len(names) - 1}, each once")
        return {}
    if nc is not None and nc != len(names):
        problems.append(f"nc: {nc}, but names has {len(names)} entries; make them agree or leave nc out")
    return dict(sorted(by_index.items()))


def splits_of(
    raw: Mapping[str, object],
    root: Path,
    problems: list[str],
    notes: list[str],
    *,
    allow_outside: bool,
    required: Sequence[str] = ("train", "val"),
    val_names: Sequence[str] = ("validation",),
) -> dict[str, tuple[str, ...]]:
    """The absolute paths of train, val and test, without those that lead out of the root if that is not allowed.

    required: splits whose absence is a problem. val_names: other keys that mean val.
    """
    split_entries = {split: raw[split] for split in SPLITS if raw.get(split) is not None}
    for key in val_names:
        if raw.get(key) is not None:
            outcome = "ignored: 'val' is given" if "val" in split_entries else "is read as 'val'"
            notes.append(f"key '{key}' {outcome}")
            split_entries.setdefault("val", raw[key])
    others = [key for key in raw if isinstance(key, str) and key not in SPLITS]
    for split in required:
        if split not in split_entries:
            problems.append(
                f"{split}: missing; expected a folder, a .txt list or a list of these.{did_you_mean(split, others)}"
            )
    splits = {}
    for split, value in split_entries.items():
        entries = value if isinstance(value, list) else [value]
        if not entries or not all(isinstance(entry, str) and entry.strip() for entry in entries):
            problems.append(f"{split}: {value!r}; expected a folder, a .txt list or a list of these, as text")
            continue
        paths = []
        for entry in entries:
            if problem := path_problem(entry.strip()):
                problems.append(f"{split}: {problem}")
                continue
            path = _entry(entry.strip(), root)
            if allow_outside or not leaves(path, root):
                paths.append(str(path))
                continue
            problems.append(f"{split}: {outside_problem(entry, root)}")
        splits[split] = tuple(paths)
    return splits


def _entry(entry: str, root: Path) -> Path:
    """Resolve an entry of a split to an absolute path, without following symbolic links.

    Some exports write `../train/images` next to a folder `train`: if `../x` does not exist, `x` is meant.
    """
    path = Path(os.path.abspath(root / Path(entry).expanduser()))
    if entry.startswith("../") and not path.exists():
        return Path(os.path.abspath(root / entry[3:]))
    return path
