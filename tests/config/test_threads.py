"""How torch's threads wait and how many there are: chosen before torch is loaded, never against the user's word."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from bitfalcon_plugin.config import threads

SHOWN = "import os; print(*(f'{k}={v}' for k, v in sorted(os.environ.items()) if k.startswith(('OMP', 'GOMP', 'KMP'))))"


def said(code: str, **variables: str) -> tuple[str, str]:
    """What a new interpreter prints on stdout and stderr, with no variables of OpenMP but the given ones."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("OMP", "GOMP", "KMP", "MKL", threads.OURS))}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={**kept, **variables})
    assert done.returncode == 0, done.stderr
    return done.stdout.strip(), done.stderr.strip()


BUSY = """
import os
before = dict(os.environ)
from bitfalcon_plugin.config import threads  # which has chosen by the load of the moment
os.environ.clear()
os.environ.update(before)
threads._text = lambda path: {text!r} if path == "/proc/loadavg" else None
threads.prepare_threads()
"""


def busy(text: str) -> str:
    """Code that chooses again, with another /proc/loadavg."""
    return BUSY.format(text=text) + SHOWN


def test_a_quiet_machine_is_left_as_it_is():
    assert said(busy("0.02 1.50 1.90 1/300 4242"))[0] == ""
    assert said(busy("7.90 1.50 1.90 1/300 4242"))[0] == ""  # a minute ago, not now
    assert said(busy("0.02 1.50 1.90 9/300 4242"))[0] == ""  # now, for a moment


def test_beside_busy_programs_threads_sleep_and_leave_processors_to_them():
    shown, _ = said(busy("90.02 1.50 1.90 99/300 4242"))
    assert shown.split() == ["OMP_NUM_THREADS=1", "OMP_WAIT_POLICY=PASSIVE"]


@pytest.mark.parametrize(
    "name, value", [("OMP_WAIT_POLICY", "ACTIVE"), ("GOMP_SPINCOUNT", "7"), ("KMP_BLOCKTIME", "1")]
)
def test_what_a_user_set_stays(name, value):
    shown, _ = said(busy("90.02 1.50 1.90 99/300 4242"), **{name: value})
    assert [text for text in shown.split() if "THREADS" not in text] == [f"{name}={value}"]


def test_nothing_is_set_once_torch_is_loaded():
    shown, _ = said("import sys; sys.modules['torch'] = None" + busy("90.02 1.50 1.90 99/300 4242"))
    assert shown == ""


NOTE = """
import sys, torch
torch.set_num_threads(2)
import bitfalcon_plugin
from bitfalcon_plugin.config import threads
threads.busy_programs = lambda: {busy}
threads.note_spinning_threads(torch.device("cuda", 0))
for _ in range(2):
    threads.note_spinning_threads(torch.device("cpu"))
print(threads.waiting_text())
"""


def test_a_note_says_once_what_to_set_where_torch_came_first():
    shown, noted = said(NOTE.format(busy=1))
    assert noted.count("OMP_WAIT_POLICY=PASSIVE") == 1 and noted.startswith("note: other programs are busy")
    assert "OMP_WAIT_POLICY=PASSIVE" in shown
    assert said(NOTE.format(busy=0))[1] == ""
    assert said(NOTE.format(busy=1), GOMP_SPINCOUNT="100") == ("GOMP_SPINCOUNT=100 (set by you)", "")


def test_who_chose_is_known_in_child_processes():
    inner = "import bitfalcon_plugin; from bitfalcon_plugin.config.threads import waiting_text; print(waiting_text())"
    run = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {inner!r}])"
    shown, _ = said(BUSY.format(text="90.02 1.50 1.90 99/300 4242") + run)
    assert shown == "OMP_WAIT_POLICY=PASSIVE (set by bitfalcon), OMP_NUM_THREADS=1 (set by bitfalcon)"


def cgroup(folder, listing, **files):
    """Write the files of a cgroup, `a__b` standing for the path a/b, and return the quota that is read."""
    for name, text in files.items():
        path = folder / name.replace("__", "/").replace("_max", ".max").replace("cpu_cfs", "cpu.cfs")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (folder / "listing").write_text(listing)
    return threads._quota(str(folder), str(folder / "listing"))


def test_the_smallest_quota_of_a_group_and_those_above_counts(tmp_path):
    assert cgroup(tmp_path, "0::/a/b\n", a__cpu_max="150000 100000\n", a__b__cpu_max="max 100000\n") == 1.5


def test_a_container_sees_its_own_group_as_the_root(tmp_path):
    assert cgroup(tmp_path, "0::/\n", cpu_max="400000 100000\n") == 4
    assert cgroup(tmp_path, "0::/../elsewhere\n", cpu_max="400000 100000\n") == 4


def test_quotas_of_version_1(tmp_path):
    files = {"cpu__cpu_cfs_quota_us": "50000\n", "cpu__cpu_cfs_period_us": "100000\n"}
    assert cgroup(tmp_path, "4:cpu,cpuacct:/\n3:memory:/x\n", **files) == 0.5
    assert cgroup(tmp_path, "4:cpu,cpuacct:/\n", cpu__cpu_cfs_quota_us="-1\n") is None


@pytest.mark.parametrize("text", ["max 100000", "", "7", "x y", "100000 0"])
def test_no_limit_and_unreadable_limits_are_none(tmp_path, text):
    assert cgroup(tmp_path, "0::/\n", cpu_max=text) is None
    assert threads._quota(str(tmp_path / "nowhere"), str(tmp_path / "nothing")) is None


@pytest.mark.parametrize("quota, count", [(None, 8), (2.0, 2), (2.5, 3), (0.1, 1), (64.0, 8)])
def test_a_quota_lowers_the_number_of_threads(monkeypatch, quota, count):
    monkeypatch.setattr(threads, "_quota", lambda: quota)
    monkeypatch.setattr(threads, "_allowed", lambda: 8)
    monkeypatch.setattr(threads, "busy_programs", lambda: 0)
    monkeypatch.setattr(threads.os, "cpu_count", lambda: 8)
    monkeypatch.setattr(threads, "sys", type("NoTorch", (), {"modules": {}}))
    assert threads.usable_processors() == count
    chosen: dict[str, str] = {}
    threads.prepare_threads(chosen)
    assert chosen.get("OMP_NUM_THREADS") == (str(count) if count < 8 else None)
    own = {"OMP_NUM_THREADS": "5", "OMP_WAIT_POLICY": "ACTIVE"}
    threads.prepare_threads(own)
    assert own == {"OMP_NUM_THREADS": "5", "OMP_WAIT_POLICY": "ACTIVE"}
