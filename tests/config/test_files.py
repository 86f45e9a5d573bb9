"""Atomic writes, and what is swept up after a process that was killed in one."""

from __future__ import annotations

import os

import pytest

from bitfalcon_plugin.config.files import atomic, remove_leftovers, write_text


def test_a_write_that_fails_leaves_the_earlier_file_and_nothing_else(tmp_path):
    target = tmp_path / "last.pt"
    write_text(target, "earlier")
    with pytest.raises(ValueError), atomic(target) as temporary:
        temporary.write_text("half")
        raise ValueError
    assert target.read_text() == "earlier" and os.listdir(tmp_path) == ["last.pt"]


def test_leftovers_of_a_killed_process_are_swept_and_nothing_else(tmp_path):
    keep = ["last.pt", ".hidden", ".gitignore", ".env-local", "notes-abcdefgh.txt", ".last-ABCDEFGH.pt"]
    for name in keep:
        (tmp_path / name).write_text("x")
    process = os.fork() if hasattr(os, "fork") else pytest.skip("no fork")
    if not process:
        with atomic(tmp_path / "last.pt") as temporary:
            temporary.write_text("half")
            os._exit(9)
    os.waitpid(process, 0)
    assert len(os.listdir(tmp_path)) == len(keep) + 1
    assert remove_leftovers(tmp_path) == 1 and sorted(os.listdir(tmp_path)) == sorted(keep)
    assert remove_leftovers(tmp_path / "absent") == 0
