"""Signals to the whole process group of a training, while readers work: last.pt is written, nothing is lost."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch

from bitfalcon_plugin.cli import main
from bitfalcon_plugin.config import signals
from bitfalcon_plugin.config.signals import Interrupts
from bitfalcon_plugin.data.loading.workers import Order, batches, start_readers
from tests.helpers.coloured import place  # noqa: F401  the fixture
from tests.helpers.small_runs import command, last, results, same, weights

pytestmark = pytest.mark.skipif(not hasattr(os, "killpg"), reason="process groups are of POSIX")
EPOCHS = 24  # a row each in results.csv, and its header
LENGTH = [f"epochs={EPOCHS}", "workers=2", "val=False"]


def attempt(folder: str, tokens: list[str]) -> None:
    os.setpgid(0, 0)
    multiprocessing.set_start_method("fork", force=True)  # readers begin at once, as on the command line
    os.chdir(folder)
    Path(f"ready{os.getpid()}").touch()
    raise SystemExit(main(tokens))


@pytest.mark.parametrize("number, code, stops", [(signal.SIGTERM, 143, 3), (signal.SIGINT, 130, 1)])
def test_a_signal_to_the_group_ends_the_run_as_interrupted(place, number, code, stops):  # noqa: F811
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["bitfalcon_plugin.train.run"])

    def start(*tokens: str):
        process = context.Process(target=attempt, args=(str(place), [*tokens]))
        process.start()
        return process

    whole, draw, endings = start(*command(), *LENGTH, "name=whole"), random.Random(0), []
    process, begun = start(*command(), *LENGTH, "name=cut"), [place / "runs/cut/results.csv"]
    while len(endings) < stops:
        begun.append(place / f"ready{process.pid}")
        while not all(file.is_file() for file in begun) and process.is_alive():
            time.sleep(0.02)
        process.join(draw.uniform(0.0, 0.5))
        if process.exitcode is None:
            os.killpg(process.pid, number)
        process.join()
        endings.append(process.exitcode)
        if len(results("cut")) == EPOCHS + 1:  # the signal came behind the last epoch
            break
        process = start("train", f"resume={last('cut')}", "workers=2")
    process.join()
    whole.join()
    assert set(endings) <= {code, -number, 0} and endings[0] == code
    assert whole.exitcode == 0 and process.exitcode in (0, endings[-1]) and len(results("cut")) == EPOCHS + 1
    assert same(weights("whole"), weights("cut"))


class Slow(torch.utils.data.Dataset):
    collate = staticmethod(list)

    def __len__(self) -> int:
        return 64

    def __getitem__(self, index: int) -> int:
        time.sleep(0.01)
        return index


def send(passing, *numbers: int) -> None:
    """Send signals to the readers from another process."""
    for worker in passing._workers:
        words = [f"kill -{int(number)} {worker.pid}" for number in numbers]
        subprocess.run(["sh", "-c", "; ".join(words)], check=True)


def test_readers_live_on_from_their_first_moment(monkeypatch):
    """The parent's handler counts the signals; each reader has to give all its batches."""
    received = []
    before = {number: signal.signal(number, lambda *_: received.append(1)) for number in signals.SIGNALS}
    try:
        order = Order()
        order.chunks = [[index] for index in range(40)]
        loader = batches(Slow(), order, 2, torch.device("cpu"))
        passing = start_readers(loader.__iter__)
        found = []
        send(passing, signal.SIGTERM, signal.SIGINT)
        for (index,) in passing:
            found.append(index)
            send(passing, signal.SIGTERM) if index % 10 == 0 else None
        assert found == list(range(40)) and not received
        for worker in passing._workers:
            worker.terminate()  # by the parent
            worker.join(10)
            assert worker.exitcode == 0
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_ctrl_c_while_readers_start_acts_when_all_have_started():
    started = []
    thread = threading.Thread(target=lambda: os.kill(os.getpid(), signal.SIGINT))  # whose signals are not held
    with pytest.raises(KeyboardInterrupt):
        start_readers(lambda: (thread.start(), thread.join(), time.sleep(0.1), started.append(1)))
    assert started


def test_ctrl_c_in_a_destructor_ends_the_code_behind_it(monkeypatch):
    class Closing:
        def __del__(self):
            signal.raise_signal(signal.SIGINT)

    printed = []
    monkeypatch.setattr(sys, "unraisablehook", printed.append)
    signals.repeat_ignored_interrupts()
    with pytest.raises(KeyboardInterrupt):
        Closing()
        time.sleep(1)
    assert not printed


def test_a_process_begins_with_signals_held_and_its_parent_gets_its_own(monkeypatch):
    held = "import signal; print(signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, []))"
    with pytest.raises(KeyboardInterrupt), signals.signals_by_a_thread():
        found = subprocess.run([sys.executable, "-c", held], capture_output=True, text=True).stdout
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(1)
    assert found == "True\n" and signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, [])


def test_a_second_sigterm_counts_only_after_a_while(monkeypatch):
    now, ended = [0.0], []
    monkeypatch.setattr(signals.time, "monotonic", lambda: now[0])
    before = signal.signal(signal.SIGTERM, lambda *_: ended.append(1))
    try:
        with Interrupts() as interrupts:
            for now[0] in (0.0, 0.1, signals.SAME - 0.1):
                signal.raise_signal(signal.SIGTERM)
            assert interrupts.received is signal.SIGTERM and not ended
            now[0] = signals.SAME
            signal.raise_signal(signal.SIGTERM)
            assert ended == [1]
    finally:
        signal.signal(signal.SIGTERM, before)
