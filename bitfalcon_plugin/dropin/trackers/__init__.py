"""Trackers, under the module names of the wider package: thin forms of bitfalcon_plugin.track."""

from .bot_sort import BOTSORT
from .byte_tracker import BYTETracker
from .track import register_tracker

__all__ = ["BOTSORT", "BYTETracker", "register_tracker"]
