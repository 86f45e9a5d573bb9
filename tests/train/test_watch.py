"""train/watch.py and train/progress.py: who is named when a process hangs, and who is never taken for hanging."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time

import pytest
import torch.distributed as dist

from bitfalcon_plugin.train import watch as module
from bitfalcon_plugin.train.progress import (
    CALLBACK,
    END,
    FORWARD,
    LOGGING,
    READING,
    START,
    THREADS,
    VALIDATION,
    WRITING,
    Progress,
    parent_of,
    processor_seconds,
)
from bitfalcon_plugin.train.watch import Watch

TIMEOUT, LOOK = 40.0, 1.0  # seconds without progress, seconds between two looks
LONG = 20 * TIMEOUT  # seconds of simulated time in which a wrong watch would end the process


class Ended(Exception):
    """What the end of the process is in these tests."""


@pytest.fixture()
def computing(monkeypatch):
    """The seconds of processor time of this process, as a list of one."""
    seconds = [0.0]
    monkeypatch.setattr(module, "processor_seconds", lambda: seconds[0])
    monkeypatch.delenv(module.NOTES, raising=False)
    return seconds


@pytest.fixture()
def watch(computing, monkeypatch):
    """The watch of process 0 of 2, which never starts its thread; process 1 answers by `answer`."""

    def finish(self, text, kind="hang", speaks=False):
        raise Ended(text)

    monkeypatch.setattr(Watch, "_finish", finish)
    one = Watch(0, 2, 0, Progress(TIMEOUT), gpu=False, group=0)
    one._store = dist.HashStore()
    return one


def answer(watch, stage=FORWARD, waiting=True, quiet=0.0, end="") -> None:
    """Report as process 1 does; each report is a new one."""
    answer.beat += 1
    report = {"beat": answer.beat, "stage": stage, "waiting": waiting, "quiet": quiet, "end": end, "pid": 0}
    watch._store.set("1", json.dumps(report))


answer.beat = 0


def seconds_until_the_end(watch, limit: float, each=lambda: None) -> tuple[float, str]:
    """Look for at most `limit` seconds, after `each` before every look; the time of the end and its sentence."""
    for turn in range(int(limit / LOOK)):
        each()
        try:
            watch._look(LOOK)
        except Ended as ended:
            return (turn + 1) * LOOK, str(ended)
    return limit, ""


def test_a_process_that_does_not_answer_is_named_with_its_stage(watch, capfd):
    answer(watch, VALIDATION)
    after, text = seconds_until_the_end(watch, 100, lambda: watch.progress.enter(FORWARD))
    assert TIMEOUT < after <= TIMEOUT + 3 and "rank_timeout=40" in text
    assert text.startswith("Process 1 of 2 (counted from 0; stage: validation) has not answered for 4")
    assert "resume=<run folder>/weights/last.pt" in text


def test_a_note_comes_long_before(watch, monkeypatch, capsys):
    monkeypatch.setattr(sys, "__stderr__", sys.stderr)
    answer(watch, VALIDATION)
    assert seconds_until_the_end(watch, 20, lambda: watch.progress.enter(FORWARD)) == (20, "")
    assert capsys.readouterr().err.count("note: Process 1 of 2 (counted from 0; stage: validation) has not ans") == 1


@pytest.mark.parametrize("stage", [START, READING, FORWARD, WRITING, CALLBACK])
def test_a_process_that_stands_still_names_itself_in_any_stage(watch, stage):
    watch.progress.enter(stage)
    after, text = seconds_until_the_end(watch, 100, lambda: answer(watch))
    assert TIMEOUT < after <= TIMEOUT + 3
    assert text.startswith(f"Process 0 of 2 (counted from 0; stage: {stage}) hangs: no progress for 4")
    assert "allow more than rank_timeout=40 seconds" in text


def test_a_logger_is_waited_for_as_long_as_loggers_say(watch):
    watch.progress.enter(LOGGING)
    assert seconds_until_the_end(watch, 100, lambda: answer(watch)) == (100, "")


def test_a_process_that_computes_is_never_ended(watch, computing):
    watch.progress.enter(VALIDATION)

    def compute():
        computing[0] += 0.002  # the smallest part of a second in every second
        answer(watch, READING, waiting=True)

    assert seconds_until_the_end(watch, LONG, compute) == (LONG, "")


def test_a_process_that_waits_for_others_is_not_the_one_that_hangs(watch):
    watch.progress.waiting = True
    assert seconds_until_the_end(watch, LONG, lambda: answer(watch, VALIDATION, waiting=False)) == (LONG, "")


def test_all_that_wait_for_each_other_are_named(watch):
    watch.progress.enter(FORWARD, waiting=True)
    quiet = [0.0]

    def wait():
        quiet[0] += LOOK
        answer(watch, READING, waiting=True, quiet=quiet[0])

    after, text = seconds_until_the_end(watch, 100, wait)
    assert TIMEOUT < after < TIMEOUT + 3
    assert text.startswith("All 2 processes wait for each other") and "1 in reading data" in text


def test_timeout_0_and_the_end_of_the_run_are_not_judged(watch):
    watch.progress.timeout = 0.0
    answer(watch)
    assert seconds_until_the_end(watch, 1000)[1] == ""
    watch.progress.timeout = TIMEOUT
    watch.progress.enter(END)
    assert seconds_until_the_end(watch, 1000)[1] == ""


def test_a_process_that_left_or_is_not_there_yet_is_not_missed(watch):
    watch.progress.waiting = True
    assert seconds_until_the_end(watch, 1000)[1] == ""  # it may be starting on another machine
    answer(watch, end=module.LEFT)
    assert seconds_until_the_end(watch, 1000)[1] == ""


def test_one_that_a_launcher_started_has_to_come(watch, monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "True")
    watch.progress.waiting = True
    after, text = seconds_until_the_end(watch, 100)
    assert TIMEOUT < after < TIMEOUT + 3 and f"1 of 2 (counted from 0; stage: {START})" in text


def test_the_error_of_another_ends_one_that_is_held_up(watch):
    answer(watch, end="Process 1 of 2 failed: a reason")
    after, text = seconds_until_the_end(watch, 100)
    assert after == pytest.approx(module.GRACE, abs=2) and text == "Process 1 of 2 failed: a reason"


def test_a_process_that_was_stopped_itself_does_not_blame_the_others(watch, monkeypatch):
    """After SIGSTOP and SIGCONT, or a night of the machine, one look counts as two intervals at most."""
    looks, clock = [], iter([0.0, 10_000.0])
    monkeypatch.setattr(module.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(watch, "_look", lambda elapsed: (looks.append(elapsed), len(looks) == 2 and watch._stop.set()))
    monkeypatch.setattr(watch, "_interval", lambda: 0.01)
    watch._run()
    assert looks == [0.0, 0.02]


def test_a_store_that_is_gone_ends_the_wait(watch, monkeypatch):
    monkeypatch.setenv("MASTER_ADDR", "node0")

    class Gone:
        def set(self, *_):
            raise dist.DistNetworkError("gone")

    watch._store = Gone()
    after, text = seconds_until_the_end(watch, 100, lambda: watch.progress.enter(FORWARD))
    assert TIMEOUT < after < TIMEOUT + 3
    assert "Process 0 of 2 (counted from 0; stage: forward pass) has not reached node0" in text


def test_a_store_that_never_answers_ends_the_wait_too(watch, monkeypatch):
    monkeypatch.setenv("MASTER_ADDR", "node0")
    monkeypatch.setattr(watch, "_interval", lambda: 0.001)
    monkeypatch.setattr(watch, "_report", threading.Event().wait)
    after, text = seconds_until_the_end(watch, 100, lambda: watch.progress.enter(FORWARD))
    assert TIMEOUT < after < TIMEOUT + 3 and "has not reached node0" in text


def test_reports_are_rare_where_many_processes_report():
    intervals = [Watch(0, size, 0, Progress(TIMEOUT), False, 0)._interval() for size in (2, 64, 1024)]
    assert intervals == [1.0, 1.0, 5.0]


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is of Linux")
def test_work_is_that_of_this_process_and_of_those_below_it():
    found = []

    def measure(pause):
        before = processor_seconds()
        pause()
        found.append(processor_seconds() - before)

    def child():
        end = "import time\nend = time.process_time() + 0.3\nwhile time.process_time() < end: pass\ninput()"
        with subprocess.Popen([sys.executable, "-c", end], stdin=subprocess.PIPE) as process:
            assert parent_of(process.pid) == os.getpid()
            while processor_seconds() < before + 0.25:
                time.sleep(0.02)
            found.append("worked")
            process.communicate(b"\n")

    before = processor_seconds()
    for pause in (child, lambda: time.sleep(0.2)):
        thread = threading.Thread(target=measure, args=(pause,), name=THREADS)
        thread.start()
        thread.join()
    assert found[0] == "worked" and abs(found[2]) <= 0.02
