"""The images of a split, and what is wrong with the list: of folders, lists, annotation files and VOC's lists."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ...config.printable import short_repr
from ..images import IMAGE_SUFFIXES
from .annotation_yaml import OTHERS, annotation_files
from .coco_file import CocoFile, read_coco
from .folders import images_below, leaves, outside_problem, path_problem, some
from .yolo import read_text

PREFIXES = ("instances_", "person_keypoints_", "image_info_", "stuff_", "panoptic_")  # of COCO's annotation files
VOC_IMAGES = "JPEGImages"
FLAGS = ("-1", "0", "1")  # behind a name in VOC's lists of one class


@dataclass(frozen=True, eq=False)
class Listing:
    """The image files that the YAML lists for a split, sorted by path, and what is wrong with the list."""

    paths: list[Path] = field(default_factory=list)
    absent: list[Path] = field(default_factory=list)  # entries that do not exist
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)  # lines of .txt lists that name no image
    files: list[tuple[Path, CocoFile]] = field(default_factory=list)  # annotation files
    places: dict[Path, tuple[int, int]] = field(default_factory=dict)  # image -> index in `files`, row of the image


@dataclass(frozen=True)
class Place:
    """Where the entries of a split lead. root: the dataset's folder, which they may leave where allow_outside is True.

    images: split -> folder of its images, "" for all splits (COCO).
    """

    root: Path
    allow_outside: bool = False
    images: Mapping[str, str] = field(default_factory=dict)

    def problem(self, path: Path, entry: str) -> str:
        """What is wrong with a place outside the root; empty where nothing is."""
        return outside_problem(entry, self.root) if not self.allow_outside and leaves(path, self.root) else ""


def _listing(entries: Sequence[str], add: Callable[[Path, Listing], None]) -> Listing:
    """List each entry by `add`; an entry that is not there is absent, one that cannot be read is a problem."""
    listing = Listing()
    for entry in map(Path, entries):
        try:
            if entry.exists():
                add(entry, listing)
            else:
                listing.absent.append(entry)
        except (OSError, ValueError) as error:  # a name that is too long or contains a zero byte, no permission
            reason = getattr(error, "strerror", None) or error
            listing.problems.append(f"{str(entry)[:200]!r} cannot be read: {reason}")
    listing.paths.sort(key=str)
    return listing


def list_files(entries: Sequence[str], split: str, place: Place) -> Listing:
    """List folders, .txt lists and single images."""

    def add(entry: Path, listing: Listing) -> None:
        if entry.is_dir():
            listing.paths.extend(images_below(entry))
        elif entry.suffix.lower() == ".txt":
            _read_list(entry, place, listing)
        elif entry.suffix.lower() in IMAGE_SUFFIXES:
            listing.paths.append(entry)
        else:
            hint = "; with format: coco it is read as annotations" if entry.suffix.lower() == ".json" else ""
            listing.problems.append(f"'{entry}' is neither a folder, a .txt list nor an image{hint}; {OTHERS}")

    return _listing(entries, add)


def list_coco(entries: Sequence[str], split: str, place: Place) -> Listing:
    """List the images of COCO's annotation files, each file with its own folder of images."""

    def add(entry: Path, listing: Listing) -> None:
        files = annotation_files(entry)
        if len(files) == 1:
            _add_coco(files[0], split, place, listing)
        else:
            names = some([file.name for file in files]) or "no .json file"
            listing.problems.append(f"'{entry}' holds {names}; expected one annotation file: give its path")

    return _listing(entries, add)


def _add_coco(path: Path, split: str, place: Place, listing: Listing) -> None:
    """Add the images of one annotation file."""
    content, problems = read_coco(path)
    if content is None:
        listing.problems.extend(problems)
        return
    if not content.labelled and split != "test":
        listing.problems.append(f"{path}: the key 'annotations' is missing; expected a list of annotations")
        return
    folder = image_folder(path, content.file_names, split, place)
    for row, name in enumerate(content.file_names):
        image = Path(os.path.abspath(folder / name))
        where = f"{path}: images (id {short_repr(content.image_ids[row])}): file_name"
        if problem := path_problem(name) or place.problem(image, name):
            listing.problems.append(f"{where} {problem}")
        elif image in listing.places:
            other = listing.files[listing.places[image][0]][0] if listing.files else path
            listing.problems.append(f"{where} {short_repr(name)} is listed twice, also in '{other}'; keep one entry")
        else:
            listing.paths.append(image)
            listing.places[image] = len(listing.files), row
    listing.files.append((path, content))


def image_folder(path: Path, names: Sequence[str], split: str, place: Place) -> Path:
    """The folder of the images of an annotation file: that of the YAML, else the first usual one that has the first.

    Where none has it, the first usual one.
    """
    for key in (split, ""):
        if key in place.images:
            return Path(place.images[key])
    stem = path.stem
    for prefix in PREFIXES:
        stem = stem.removeprefix(prefix)
    tops = (place.root, path.parent, path.parent.parent)
    usual = [top / below for below in (f"images/{stem}", stem, f"images/{split}", split, "images") for top in tops]
    candidates = [path.parent, *usual, place.root]
    return next((folder for folder in candidates if names and (folder / names[0]).is_file()), candidates[0])


def list_voc(entries: Sequence[str], split: str, place: Place) -> Listing:
    """List the images of folders, of VOC's lists of names without suffix, and of lists of paths."""

    def add(entry: Path, listing: Listing) -> None:
        if entry.is_dir():
            inner = entry / VOC_IMAGES
            listing.paths.extend(images_below(inner if inner.is_dir() else entry))
        elif entry.suffix.lower() == ".txt":
            _read_list(entry, place, listing, _Stems(entry, place.root))
        else:
            listing.problems.append(f"'{entry}' is neither a folder nor a .txt list of images; {OTHERS}")

    return _listing(entries, add)


class _Stems:
    """Finds the images that a list of VOC names by their stems."""

    def __init__(self, file: Path, root: Path) -> None:
        tops = [*file.parents[:3], root]
        folders = [top / name for top in tops for name in (VOC_IMAGES, "images")]
        self.folder = next((folder for folder in folders if folder.is_dir()), root)
        self.names: dict[str, str] | None = None

    def path(self, line: str) -> Path | None:
        """The image that a line names; None where there is none of this name."""
        if self.names is None:
            images = images_below(self.folder)
            self.names = {str(path.relative_to(self.folder).with_suffix("")): str(path) for path in images}
        words = line.split()
        stem = " ".join(words[:-1]) if len(words) > 1 and words[-1] in FLAGS else line
        return Path(self.names[stem]) if stem in self.names else None


def _read_list(file: Path, place: Place, listing: Listing, stems: _Stems | None = None) -> None:
    """Add the images that a .txt names: `./x` from the folder of the .txt, others from the dataset's root.

    stems: finds images by their names without suffix, where lines may be such.
    """
    text, problem = read_text(file, "expected one image path a line")
    if problem:
        listing.problems.append(problem)
        return
    for number, line in enumerate(text.split("\n"), start=1):
        if not (line := line.strip()):
            continue
        where = f"{file}:{number}"
        path = Path(os.path.abspath((file.parent if line.startswith("./") else place.root) / line))
        if problem := path_problem(line):
            listing.problems.append(f"{where}: {problem}")
        elif path.suffix.lower() in IMAGE_SUFFIXES:
            if problem := place.problem(path, line):
                listing.problems.append(f"{where}: {problem}")
            else:
                listing.paths.append(path)
        elif stems is None:
            listing.notes.append(f"{where}: {line[:60]!r} has no image suffix, left out")
        elif found := stems.path(line):
            listing.paths.append(found)
        else:
            listing.problems.append(
                f"{where}: {short_repr(line)} is no image in '{stems.folder}'; expected a name without suffix"
            )


LISTS = {"yolo": list_files, "coco": list_coco, "voc": list_voc}  # format -> how the images of a split are listed
