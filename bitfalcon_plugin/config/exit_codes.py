"""How an error ends the command: its message and exit code."""

from __future__ import annotations

import os
import sys

from .errors import UserError, is_out_of_memory
from .printable import say


def message_of(error: Exception) -> tuple[str, int]:
    """The message for an error that ends the run, and its exit code."""
    kind, text = type(error).__name__, " ".join(str(error).split()) or "no message"
    if isinstance(error, UserError):
        return str(error), error.exit_code
    if kind == "MismatchError":  # by name: its module imports torch
        return str(error), 1
    if is_out_of_memory(error):
        return f"out of memory ({text}). Give a smaller batch= or imgsz=, or another device=.", 1
    if isinstance(error, OSError) and error.errno is not None:
        return f"the system refused: {kind}: {text}. Add --debug to see where.", 1
    return f"a fault of bitfalcon, not yours: {kind}: {text}. Run again with --debug to see where.", 1


def is_output_closed() -> bool:
    """Whether stdout is the pipe that broke, and not a pipe between processes of a run. Silences stdout then."""
    try:
        say(flush=True)  # an empty line shows it, a second flush does not
    except BrokenPipeError:
        # Otherwise the interpreter prints an error when it flushes stdout at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return True
    return False
