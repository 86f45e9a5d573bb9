"""Records of an experiment: dataclasses saved as JSON, read back with checks, and shown as a Markdown table."""

from __future__ import annotations

import json
import math
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from ..config.errors import MissingFileError, UserError
from ..config.files import write_text
from ..config.notes import print_note
from ..config.printable import say
from ..plots.figure import NoMatplotlib

MISSING = "-"  # cell of a value that was not measured
FloatOrNan = Annotated[float, "NaN allowed"]  # type of a column whose values may be NaN, such as mAP without labels
CHECKS: Mapping[object, Callable[[object], bool]] = {
    str: lambda value: isinstance(value, str),
    int: lambda value: type(value) is int and value >= 0,
    float: lambda value: type(value) in (int, float) and 0 <= value < math.inf,
    dict: lambda value: isinstance(value, dict),
}


@dataclass(frozen=True)
class Column:
    """A column of a Markdown table.

    value: the attribute of a record, or a function of the record. form: the format of a value; None becomes `missing`.
    unit: what a value is divided by, e.g. 1e6 for bytes shown in MB. text: aligned to the left, as words are.
    """

    title: str
    value: str | Callable[[Any], object]
    form: str = "{}"
    unit: float | None = None
    missing: str = MISSING
    text: bool = False

    def cell(self, record: object) -> str:
        """Return the value of a record as it stands in the table."""
        value = getattr(record, self.value) if isinstance(self.value, str) else self.value(record)
        if value is None:
            return self.missing
        shown = self.form.format(value if self.unit is None else value / self.unit)
        return shown.replace("|", "\\|").replace("\n", " ")


def markdown_table(records: Iterable[object], columns: Sequence[Column]) -> list[str]:
    """Return the lines of a Markdown table: the titles, the alignment, and a line for each record."""
    titles = [column.title for column in columns]
    lines = [[column.cell(record) for column in columns] for record in records]
    alignment = "|" + "".join("---|" if column.text else "--:|" for column in columns)
    first, *others = ["| " + " | ".join(cells) + " |" for cells in (titles, *lines)]
    return [first, alignment, *others]


def write_report(text: str, path: Path, data: Path, draw: Callable[[Path], object] | None) -> None:
    """Write a table as Markdown, print it with its paths, and draw its picture; a note where matplotlib is missing.

    path: of the table; the picture gets the same name with .png. data: the JSON file of the same records.
    """
    write_text(path, text)
    say(f"\n{text}\nTable: {path}, {data}")
    if draw is None:
        return
    try:
        say(f"Picture: {draw(path.with_suffix('.png'))}")
    except NoMatplotlib as error:
        print_note(f"no picture: {error}")


@dataclass(frozen=True)
class RecordFile:
    """A JSON file that holds records. It begins with the name and the version of its format.

    title: what the file is. writer: the command that writes it. repair: what to do about a damaged file.
    """

    format: str
    version: int
    title: str
    writer: str
    repair: str

    def save(self, path: Path, entries: Mapping[str, object]) -> None:
        """Write the entries as JSON, whole or not at all; a dataclass becomes a mapping of its fields."""
        content = {"format": self.format, "version": self.version, **entries}
        write_text(path, json.dumps(content, indent=1, ensure_ascii=False, default=_plain) + "\n")

    def load(self, path: Path, kinds: Mapping[str, object]) -> dict[str, Any]:
        """Read the entries that `kinds` names with their types.

        Types: str, int, float, FloatOrNan, dict, dict[str, X], a record, X | None, tuple[X, ...], tuple[X, Y].
        Numbers are neither negative nor infinite; only a FloatOrNan may be NaN. Other entries are ignored.
        Raises MissingFileError, or UserError for a file that is not JSON, of another format, too new or damaged.
        """
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise MissingFileError(f"'{path}' does not exist. It is written by {self.writer}.") from error
        except (OSError, ValueError, RecursionError) as error:
            raise UserError(f"'{path}' cannot be read as JSON ({error}). {self.repair}") from error
        if not isinstance(content, dict) or content.get("format") != self.format:
            raise UserError(f"'{path}' is not {self.title} (no format: {self.format!r} in it). {self.repair}")
        version = content.get("version")
        if type(version) is not int:
            raise self.damage(path, [f"version is {version!r}, expected a whole number"])
        if version > self.version:
            raise UserError(
                f"'{path}' has format version {version}, this package writes {self.version}. Install a newer bitfalcon."
            )
        problems: list[str] = []
        values = {key: _read(content.get(key), kind, key, problems) for key, kind in kinds.items()}
        if problems:
            raise self.damage(path, problems)
        return values

    def damage(self, path: Path, problems: Sequence[str]) -> UserError:
        """Return the error for a file whose content is not what was written; it names the first five problems."""
        return UserError(f"'{path}' is damaged: {'; '.join(problems[:5])}. {self.repair}")


def _plain(value: object) -> object:
    """Return the JSON form of a dataclass: its own `as_dict`, or a mapping of its fields."""
    if hasattr(value, "as_dict"):
        return value.as_dict()
    return {field.name: getattr(value, field.name) for field in fields(value)}


def _read(value: object, kind: object, name: str, problems: list[str]) -> object:
    """Return a value of a JSON file as the type `kind`; where it is of another type, add a line to `problems`."""
    arguments = get_args(kind)
    if get_origin(kind) is Annotated:  # FloatOrNan
        return value if value != value else _read(value, arguments[0], name, problems)
    if get_origin(kind) is types.UnionType:  # X | None
        if value is None:
            return None
        if value == value:
            return _read(value, arguments[0], name, problems)
        problems.append(f"{name} is NaN, expected null for a value that was not measured")
        return None
    if get_origin(kind) is dict and isinstance(value, dict):
        return {key: _read(item, arguments[1], f"{name}.{key}", problems) for key, item in value.items()}
    if get_origin(kind) is tuple:
        return _read_tuple(value, arguments, name, problems)
    if hasattr(kind, "from_dict"):
        try:
            return kind.from_dict(value)
        except UserError as error:
            problems.append(f"{name}: {error}")
    elif is_dataclass(kind):
        return _read_record(value, kind, name, problems)
    elif not CHECKS[get_origin(kind) or kind](value):
        problems.append(f"{name} is {str(value)[:40]!r}, expected {kind.__name__}")
    return value


def _read_tuple(value: object, kinds: tuple, name: str, problems: list[str]) -> tuple:
    open_ended = kinds[-1] is Ellipsis
    if not isinstance(value, list) or not open_ended and len(value) != len(kinds):
        expected = "a list" if open_ended else f"a list of {len(kinds)}"
        problems.append(f"{name} is {str(value)[:40]!r}, expected {expected}")
        return ()
    kinds = kinds[:1] * len(value) if open_ended else kinds
    items = enumerate(zip(value, kinds, strict=True))
    return tuple(_read(item, kind, f"{name}[{index}]", problems) for index, (item, kind) in items)


def _read_record(value: object, kind: type, name: str, problems: list[str]) -> object:
    kinds = get_type_hints(kind, include_extras=True)
    if not isinstance(value, dict):
        problems.append(f"{name} is {str(value)[:40]!r}, expected a mapping")
    elif kinds.keys() != value.keys():
        problems.append(f"{name}: {', '.join(sorted(kinds.keys() ^ value.keys()))} missing or not known")
    else:
        count = len(problems)
        entries = {key: _read(value[key], kinds[key], f"{name}.{key}", problems) for key in kinds}
        return kind(**entries) if len(problems) == count else None
    return None
