"""The verb data: a dataset of one format, or with large images, becomes a dataset of another format.

The result is made in a hidden folder beside its place and renamed when it is whole, so that a killed conversion leaves
no dataset that looks complete.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

from ...config.errors import UserError, did_you_mean
from ...config.files import RANDOM, STALE_SECONDS, make_public
from ...config.notes import print_note
from ...config.printable import one_line, say
from ...config.settings import Settings
from ...config.yaml_files import SUFFIXES
from ..formats.annotation_yaml import OTHERS
from ..from_settings import MAX_NOTES
from .datasets import read_dataset
from .dota import read_dota_folder
from .shares import divide
from .source import Source, placed
from .tiling import Tiling, tiling_of
from .write import MARK, Written, write_yolo
from .write_coco import write_coco
from .write_voc import write_voc

FORMATS: Mapping[str, Callable[[Settings], Source]] = {  # format= -> what reads such a dataset
    "dota": read_dota_folder,
    **{f"dota-{version}": partial(read_dota_folder, version=version) for version in ("v1.0", "v1.5", "v2.0")},
    **dict.fromkeys(("yolo", "coco", "voc"), read_dataset),
}
# to= -> what writes it
TARGETS: Mapping[str, Callable[..., Mapping[str, Written]]] = {"yolo": write_yolo, "coco": write_coco, "voc": write_voc}
EXAMPLE = "for example bitfalcon data to=coco data=data.yaml out=mine-coco"
# A result, beside data.yaml
PARTS = ("images", "labels", "annotations", "Annotations", "train.txt", "val.txt", "test.txt")
INCOMPLETE = "data.yaml.incomplete"  # stands in for data.yaml while a dataset is replaced


def run_data(settings: Settings) -> Path:
    """Convert the dataset `settings.data` of format= to to=, print what was written, and return its data.yaml.

    Nothing of the source is changed. Raises UserError for wrong settings, with all problems of the source, and where
    `settings.out` cannot be written.
    """
    read, write = _functions(settings)
    tiling = tiling_of(settings)
    if unread := settings.unused_by("data"):
        print_note(f"data only converts; without effect here: {', '.join(unread)}")
    out = Path(os.path.abspath(Path(settings.out).expanduser()))
    _check_place(out, Path(settings.data).expanduser(), settings.exist_ok)
    source = _divided(read(settings), settings)
    notes = [note for part in source.parts.values() for note in part.notes]
    print_note(*notes[:MAX_NOTES], *([f"... and {len(notes) - MAX_NOTES} more"] if len(notes) > MAX_NOTES else []))
    try:
        with _new_dataset(out) as folder:
            written = write(source, folder, tiling, _origin(settings))
    except OSError as error:
        raise UserError(
            f"'{out}' cannot be written: {error.strerror or error}. Give another place with out= ."
        ) from error
    _report(source, written, tiling)
    task = "detect" if settings.to.lower() == "voc" else source.task  # label files of VOC have boxes alone
    say(f"wrote {out / 'data.yaml'}; next: bitfalcon doctor data={out / 'data.yaml'} task={task}")
    return out / "data.yaml"


def _functions(settings: Settings) -> tuple[Callable[[Settings], Source], Callable]:
    """The functions that read and write. Raises UserError where a setting is missing or unknown."""
    missing = [key for key in ("to", "data", "out") if key not in settings.given or getattr(settings, key) is None]
    if missing:
        raise UserError(f"data needs {', '.join(f'{key}=' for key in missing)}: {EXAMPLE} .")
    target = settings.to.lower()
    if target not in TARGETS:
        hint = did_you_mean(target, TARGETS)
        raise UserError(f"to={settings.to}: data writes {', '.join(TARGETS)}; {OTHERS}.{hint}")
    if settings.tile is not None and target != "yolo":
        raise UserError(f"tile={settings.tile}: tiles are written with to=yolo, not with to={settings.to}.")
    if "format" not in settings.given:
        if Path(settings.data).expanduser().is_dir() and not any(map(is_yaml, os.listdir(settings.data))):
            raise UserError(f"data={settings.data} is a folder without a data.yaml; give format=dota if it is DOTA's.")
        return read_dataset, TARGETS[target]
    name = settings.format.lower()
    if name not in FORMATS:
        hint = did_you_mean(name, FORMATS)
        raise UserError(f"format={settings.format}: data reads {', '.join(FORMATS)}; {OTHERS}.{hint}")
    return FORMATS[name], TARGETS[target]


def is_yaml(name: str) -> bool:
    """Whether a file of this name is a YAML."""
    return name.lower().endswith(SUFFIXES)


def _divided(source: Source, settings: Settings) -> Source:
    """The source with the splits that split= asks for. Raises UserError for what cannot be written."""
    if source.task == "obb" and settings.to.lower() != "yolo":
        raise UserError(f"to={settings.to}: it has upright boxes alone; oriented boxes are written with to=yolo.")
    source = placed(source)
    if isinstance(settings.split, tuple):
        return divide(source, settings.split)
    if "split" in settings.given:
        raise UserError(f"split={settings.split}: data divides by shares of train, val and test: split=0.8/0.1/0.1 .")
    return source


def _origin(settings: Settings) -> str:
    """Where a dataset comes from, as a command."""
    keys = ("to", "format", "data", "task", "tile", "overlap", "rates", "difficult", "split")
    values = {key: getattr(settings, key) for key in keys if key in settings.given}
    separator = {"split": "/"}
    values = {
        key: separator.get(key, ",").join(map(str, value)) if isinstance(value, tuple) else value
        for key, value in values.items()
    }
    return " ".join(f"{key}={value}" for key, value in values.items()).replace("\n", " ")


def _check_place(out: Path, data: Path, exist_ok: bool) -> None:
    """Raise UserError where `out` may not be written."""
    source = Path(os.path.realpath(data if data.is_dir() else data.parent))
    if (real := Path(os.path.realpath(out))) == source or real in source.parents:
        raise UserError(f"out={out} holds the dataset that is read, and that is not changed. Give another folder.")
    if not os.path.lexists(out) or out.is_dir() and not any(out.iterdir()):
        return
    if not out.is_dir():
        raise UserError(f"out={out} is a file; give a folder.")
    if not exist_ok:
        raise UserError(f"out={out} is not empty. Give another folder, or exist_ok=True to replace a dataset there.")
    foreign = [name for name in (*PARTS, "data.yaml") if os.path.lexists(out / name)]
    if foreign and not _is_own(out):
        raise UserError(
            f"out={out} holds {', '.join(foreign)} that this command did not write, and exist_ok=True would replace. "
            "Give another folder."
        )


def _is_own(folder: Path) -> bool:
    """Whether this command wrote the dataset in a folder, complete or not."""
    for name in ("data.yaml", INCOMPLETE):
        with suppress(OSError), open(folder / name, encoding="utf-8", errors="replace") as file:
            return file.readline().startswith(MARK)
    return False


@contextmanager
def _new_dataset(out: Path) -> Iterator[Path]:
    """Yield an empty folder to fill; on success its content becomes that of `out`, otherwise it is removed."""
    out.parent.mkdir(parents=True, exist_ok=True)
    _remove_stale(out)
    scratch = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}-"))
    try:
        yield scratch
        make_public(scratch, 0o777)
        if not out.exists() or not any(out.iterdir()):
            if out.exists():
                out.rmdir()
            scratch.rename(out)
        else:
            _replace(out, scratch)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _replace(out: Path, scratch: Path) -> None:
    """Move the parts of a dataset into a folder that holds others. Until all are there it has no data.yaml."""
    (out / INCOMPLETE).write_text(f"{MARK}, which is not complete\n", encoding="utf-8")
    (out / "data.yaml").unlink(missing_ok=True)
    for name in PARTS:
        if (out / name).exists():
            shutil.rmtree(out / name) if (out / name).is_dir() else (out / name).unlink()
        if (scratch / name).exists():
            (scratch / name).rename(out / name)
    os.replace(scratch / "data.yaml", out / "data.yaml")
    (out / INCOMPLETE).unlink(missing_ok=True)


def _remove_stale(out: Path) -> None:
    """Remove what killed conversions to `out` left: hidden folders in which nothing was written for long."""
    for path in out.parent.glob(f".{out.name}-*"):
        if re.fullmatch(re.escape(f".{out.name}-") + RANDOM, path.name) and path.is_dir() and not path.is_symlink():
            if time.time() - path.stat().st_mtime > STALE_SECONDS:
                shutil.rmtree(path, ignore_errors=True)


def _report(source: Source, written: Mapping[str, Written], tiling: Tiling | None) -> None:
    """Print what each split got."""
    for split, result in written.items():
        part = source.parts[split]
        line = f"{split:>9}: {len(part.samples)} images"
        line += f", {result.images} tiles" if tiling else ""
        if part.labelled:
            line += f", {result.objects} objects, {result.backgrounds} backgrounds"
        else:
            line += " without labels"
        left_out = [f"{count} objects {reason} left out" for reason, count in part.left_out.items()]
        left_out += [f"{result.cut} objects too large for their picture, cut at its border"] if result.cut else []
        where = "of which no tile shows 70 %" if tiling else "outside their image"
        left_out += [f"{result.lost} objects {where} left out"] if result.lost else []
        say(", ".join([line, *left_out]))
        print_note(*result.notes[:MAX_NOTES])
    say(f"  classes: {len(source.names)} ({', '.join(map(one_line, source.names.values()))})")
    for split in {"train", "val"} - written.keys():
        print_note(f"there is no split {split}: data.yaml names that of {next(iter(written))} in its place.")
