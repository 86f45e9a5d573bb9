"""Freed memory is kept on a CPU where the C library is glibc, and never against the user's word."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from bitfalcon_plugin.config import freed_memory
from bitfalcon_plugin.config.freed_memory import DECIDING, keep_freed_memory

FAULTS = """
import resource
import torch
from bitfalcon_plugin.config.freed_memory import keep_freed_memory
kept = keep_freed_memory(torch.device("cpu"))
def write():
    torch.empty(20_000_000).fill_(1)  # 80 MB
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    write()
print(kept, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
CHOSEN = dict.fromkeys(DECIDING, "65536")
is_glibc = os.name == "posix" and "CS_GNU_LIBC_VERSION" in os.confstr_names


@pytest.mark.skipif(not is_glibc, reason="another C library")
@pytest.mark.parametrize(
    "variables, kept", [({}, True), (CHOSEN, False), ({"GLIBC_TUNABLES": "glibc.malloc.x=1"}, False)]
)
def test_memory_is_kept_unless_the_user_decides(variables, kept):
    clean = {name: value for name, value in os.environ.items() if name not in (*DECIDING, "GLIBC_TUNABLES")}
    done = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True, env={**clean, **variables})
    assert done.returncode == 0, done.stderr
    said, faults = done.stdout.split()
    pages = 80_000_000 // os.sysconf(
        "SC_PAGE_SIZE"
    )  # of one tensor; glibc places it at a few addresses before it reuses one
    assert said == str(kept) and (int(faults) < 10 * pages if kept else int(faults) > 10)


def test_a_gpu_needs_nothing(monkeypatch):
    monkeypatch.setattr(freed_memory, "_configure_malloc", lambda: pytest.fail("malloc is not asked"))
    assert not keep_freed_memory(torch.device("cuda"))


@pytest.mark.parametrize("fault", [OSError, TypeError])
def test_other_systems_are_left_alone(monkeypatch, fault):
    def no_library(name):
        raise fault

    monkeypatch.setattr(freed_memory.ctypes, "CDLL", no_library)
    assert not freed_memory._configure_malloc.__wrapped__()
