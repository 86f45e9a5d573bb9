"""`predict shard=3/64`: one of many processes that share out the images of a source, and its resumable output.

Process 3 of 64 predicts the images 3, 67, 131, ... of the sorted list. It appends a row for each image (see rows.py) to
files of its own, so that a process that was killed goes on behind the last row: no image is predicted twice, and none
is left out. The processes know nothing of each other.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any

from ..config.errors import UserError
from ..config.files import atomic, remove_leftovers, sha256_of, write_text
from ..config.printable import say
from ..config.run_folder import runs_top
from ..config.settings import Settings
from ..config.weight_files import file_of_weights
from .results import Results
from .rows import arrow_table, row_of, row_of_unread
from .sources import Item, describe

ROWS = 500  # of a Parquet file
# Settings on which the rows depend: a shard goes on with those that it was begun with.
FIXED = "conf iou imgsz max_det classes agnostic_nms half augment tile overlap retina_masks rect letterbox".split()


@dataclass(frozen=True)
class Shard:
    """One part of many: the images index, index + count, ... of a list, counted from 1."""

    index: int
    count: int

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Read "3/64". Raises UserError for anything else, and for a part beyond the last one."""
        match = re.fullmatch(r"\s*(\d{1,6})\s*/\s*(\d{1,6})\s*", text)
        index, count = map(int, match.groups()) if match else (0, 0)
        if not 1 <= index <= count:
            raise UserError(f"shard={text}: expected a part and the number of parts, from 1/64 to 64/64 for example.")
        return cls(index, count)

    @property
    def stem(self) -> str:
        """The name of its files: "shard-03-of-64"."""
        width = len(str(self.count))
        return f"shard-{self.index:0{width}}-of-{self.count}"


class ShardOutput:
    """The rows of a shard, on disk. images: how many the shard has.

    Raises UserError where the files were begun with other images or settings, where another process writes them, and
    for sources that are no image files.
    """

    def __init__(self, settings: Settings, items: Sequence[Item], task: str):
        shard = Shard.parse(settings.shard)
        _check(settings, items)
        self.folder = runs_top(settings.project, task) / (settings.name or "shards")
        self._record = self.folder / f"{shard.stem}.json"
        images = {describe(item, index): item for index, item in enumerate(items)}
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock = _lock(self.folder / f".{shard.stem}.lock", settings.shard)
            kept = self._begin(_description(settings, list(images)))
            self._rows = (_Parts if kept["format"] == "parquet" else _Lines)(self.folder / shard.stem)
        except OSError as error:
            raise UserError(f"The rows of shard={settings.shard} cannot be written: {error}.") from error
        mine = list(images)[shard.index - 1 :: shard.count]
        self.images = len(mine)
        self._pending = {image: images[image] for image in mine if image not in self._rows.done}

    def _begin(self, description: dict[str, Any]) -> dict[str, Any]:
        """Return what the shard was begun with; write it where the shard is new."""
        if not self._record.exists():
            kept = {**description, "format": "parquet" if find_spec("pyarrow") else "jsonl"}
            write_text(self._record, json.dumps(kept, indent=1) + "\n")
            return kept
        try:
            kept = json.loads(self._record.read_text(encoding="utf-8"))
            changed = [key for key, value in description.items() if kept[key] != value]
            kept["format"]
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"'{self._record}' is no record of a shard: {error!r}. Give another name=.") from error
        if changed:
            then, now = ", ".join(f"{key}={kept[key]}" for key in changed), [description[key] for key in changed]
            raise UserError(
                f"'{self._record}' was begun with {then}; now given: {', '.join(map(str, now))}. "
                "Rows of both would be mixed: give what it was begun with, or another name=."
            )
        return kept

    @property
    def remaining(self) -> list[Item]:
        """The images that have no row yet."""
        return list(self._pending.values())

    def add(self, image: str, result: Results) -> None:
        """Append the row of an image."""
        del self._pending[image]
        self._rows.add(row_of(image, result))

    def _add_unread(self, line: str) -> None:
        image = next((image for image in self._pending if line.startswith(f"{image}: ")), None)
        if image is not None:
            del self._pending[image]
            self._rows.add(row_of_unread(image, line[len(image) + 2 :]))

    @contextmanager
    def collecting(self, unread: Sequence[str]) -> Iterator[None]:
        """Write the rows that are added inside, to the last one, and then let other processes have the shard.

        unread: gets a line "path: reason" for each image that cannot be read. Those have a row, too, at the end.
        """
        try:
            yield
            for line in unread:
                self._add_unread(line)
            say(f"{self._record.stem}: {self.images} images have their rows in {self._rows.path}", file=sys.stderr)
        finally:
            self._rows.close()
            if self._lock is not None:
                self._lock.close()


def _check(settings: Settings, items: Sequence[Item]) -> None:
    reason = ""
    if settings.mode == "track":
        reason = "frames of a clip follow one another; share out whole clips instead."
    elif settings.embed is not None:
        reason = "embed= has no rows; leave one of the two away."
    elif any(not isinstance(item, Path) for item in items):
        reason = "only image files are shared out: a folder, a glob or a list of paths."
    if reason:
        raise UserError(f"shard={settings.shard}: {reason}")


def _description(settings: Settings, images: Sequence[str]) -> dict[str, Any]:
    """Return what must be equal for rows to belong together, in JSON's types."""
    listing = hashlib.sha256("\n".join(images).encode("utf-8", "surrogateescape")).hexdigest()
    described = {"model": str(settings.model), "images": len(images), "sha256 of their paths": listing}
    if settings.model and (weights := file_of_weights(settings.model)).is_file():
        described["sha256 of the model"] = sha256_of(weights)
    values = {key: getattr(settings, key) for key in FIXED}
    return described | json.loads(json.dumps(values, default=list))


def _lock(path: Path, shard: str) -> IO | None:
    """Hold the shard for this process, where the system has such locks (not on Windows)."""
    try:
        import fcntl
    except ImportError:
        return None
    file = open(path, "ab")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        file.close()
        raise UserError(f"shard={shard}: another process is writing it ('{path}').") from error
    except OSError:  # a file system without locks
        pass
    return file


class _Lines:
    """Rows as lines of JSON in one file. done: the images that have a line."""

    def __init__(self, stem: Path):
        self.path = stem.with_name(f"{stem.name}.jsonl")
        self.done, end = set(), 0
        with suppress(FileNotFoundError), open(self.path, "rb") as file:
            for number, line in enumerate(file, start=1):
                if not line.endswith(b"\n"):
                    break  # the process was killed while it wrote this line
                self.done.add(_read(self.path, number, _image_of, line))
                end += len(line)
        self._file = open(self.path, "ab")
        self._file.truncate(end)

    def add(self, row: Mapping[str, Any]) -> None:
        line = json.dumps({key: value for key, value in row.items() if value is not None}, ensure_ascii=False)
        self._file.write(line.encode("utf-8", "surrogateescape") + b"\n")
        self._file.flush()

    def close(self) -> None:
        with self._file:
            self._file.flush()
            os.fsync(self._file.fileno())


class _Parts:
    """Rows in Parquet files of at most ROWS rows, in one folder. done: the images that have a row."""

    def __init__(self, stem: Path):
        if not find_spec("pyarrow"):
            raise UserError(f"'{stem}' has Parquet files: pip install pyarrow, or give another name=.")
        from pyarrow import parquet

        self.path, self._rows = stem, []
        self.path.mkdir(exist_ok=True)
        remove_leftovers(self.path)
        parts = sorted(self.path.glob("part-*.parquet"))
        tables = [_read(part, 1, parquet.read_table, part, columns=["image"]) for part in parts]
        self.done = {image for table in tables for image in table["image"].to_pylist()}
        self._next = 1 + max((int(part.stem[len("part-") :]) for part in parts), default=0)

    def add(self, row: Mapping[str, Any]) -> None:
        self._rows.append(row)
        if len(self._rows) >= ROWS:
            self._write()

    def close(self) -> None:
        if self._rows:
            self._write()

    def _write(self) -> None:
        from pyarrow import parquet

        with atomic(self.path / f"part-{self._next:06}.parquet") as path:
            parquet.write_table(arrow_table(self._rows), path)
        self._rows, self._next = [], self._next + 1


def _image_of(line: bytes) -> str:
    return json.loads(line)["image"]


def _read(path: Path, line: int, read: Callable, *args: object, **keywords: object) -> Any:
    """Return what `read` gives. Raises UserError naming file and line where it fails."""
    try:
        return read(*args, **keywords)
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise UserError(f"'{path}', line {line}: no row of a shard ({error}). Give another name=.") from error
