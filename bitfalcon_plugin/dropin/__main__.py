"""`python -m bitfalcon_plugin.dropin script.py` is `bitfalcon run script.py`."""

from __future__ import annotations

import runpy
import sys

from ..config.printable import say
from .run import run


def _command(words: list[str]) -> int:
    """Run `python -m bitfalcon_plugin WORDS`: this room may not import the command line."""
    sys.argv[1:] = words
    runpy.run_module("bitfalcon_plugin", run_name="__main__", alter_sys=True)
    return 0


if __name__ == "__main__":
    from ..config.errors import UserError

    try:
        code = run(sys.argv[1:], _command)
    except UserError as error:
        say(f"error: {error}", file=sys.stderr)
        code = 2
    raise SystemExit(code)
