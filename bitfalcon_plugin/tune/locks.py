"""A lock that processes share, and that ends with the process that holds it, however it ends.

It is an open transaction of SQLite on an empty file: the system releases it with the process, also after a kill.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path

from ..config.errors import UserError

WAIT = 600.0  # seconds for another process, which holds a lock for less than a second


class Lock:
    """The lock of the file `path`, whose folder must exist. As a context it waits for other processes."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._connection: sqlite3.Connection | None = None

    def acquire(self, wait: float = 0.0) -> bool:
        """Take the lock; returns whether that was possible within `wait` seconds."""
        connection = sqlite3.connect(self.path, timeout=wait, isolation_level=None)
        try:
            connection.execute("BEGIN EXCLUSIVE")
        except sqlite3.OperationalError as error:
            connection.close()
            if "locked" not in str(error):
                raise UserError(f"'{self.path}' cannot be locked: {error}. Give a project= on another disk.") from error
            return False
        self._connection = connection
        return True

    def release(self) -> None:
        """Give the lock back; without one nothing happens."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def remove(self) -> None:
        """Give the lock back and remove its file."""
        self.release()
        self.path.unlink(missing_ok=True)

    def __enter__(self) -> Lock:
        if not self.acquire(WAIT):
            raise UserError(f"'{self.path}' has been held by another process for {WAIT:.0f} seconds. End that process.")
        return self

    def __exit__(self, *_: object) -> None:
        self.release()
