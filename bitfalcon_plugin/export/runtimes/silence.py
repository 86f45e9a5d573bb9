"""Keep what compiled programs print about themselves off the terminal."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator

_ONE_THREAD = threading.RLock()  # two threads at once would each restore the other's streams


@contextlib.contextmanager
def silenced() -> Iterator[Callable[[], str]]:
    """Send standard output and standard error of this process to a file while the block runs, also those of C++ code.

    Yields a function that returns what was written so far. Where a stream is closed, nothing is redirected. Other
    threads that enter wait.
    """
    with _ONE_THREAD, tempfile.TemporaryFile() as file:

        def written() -> str:
            _flush()
            file.seek(0)
            return file.read().decode("utf-8", "replace")

        _flush()
        try:
            saved = [os.dup(number) for number in (1, 2)]
        except OSError:
            yield written
            return
        text = open(file.fileno(), "w", encoding="utf-8", errors="replace", closefd=False)  # what Python prints, too
        try:
            for number in (1, 2):
                os.dup2(file.fileno(), number)
            with contextlib.redirect_stdout(text), contextlib.redirect_stderr(text):
                yield written
        finally:
            _flush()
            for number, copy in zip((1, 2), saved):
                os.dup2(copy, number)
                os.close(copy)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            stream.flush()
