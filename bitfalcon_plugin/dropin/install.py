"""`import bitfalcon_plugin.dropin.install`, as the first line of a script, does what `bitfalcon run` does (hook.py)."""

from __future__ import annotations

from .hook import install

install()
