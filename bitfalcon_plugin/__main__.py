"""`python -m bitfalcon_plugin` is the command `bitfalcon`."""

from __future__ import annotations

from .cli import main

if __name__ == "__main__":
    raise SystemExit(main())
