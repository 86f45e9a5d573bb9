"""Folders that tests read: the repository, the recorded numbers in it, and the shared folder beside it."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TESTS = ROOT / "tests"
RECORDED = TESTS / "data" / "recorded"
SHARED = ROOT.parent / "shared"
