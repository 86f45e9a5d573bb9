"""Functions that processes run in the tests of train/launch.py, each with its own end; processes import this file."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from bitfalcon_plugin.config.devices import select_devices
from bitfalcon_plugin.config.errors import UserError
from bitfalcon_plugin.train.distributed import LostPeer, join
from bitfalcon_plugin.train.progress import CALLBACK, FORWARD, VALIDATION
from bitfalcon_plugin.train.watch import NOTES, Watch


def make_a_mistake(where: str) -> None:
    with join(select_devices("cpu")) as world:
        if world.rank == 1:
            raise UserError("data.yaml is wrong")
        world.barrier()


def raise_a_fault(where: str) -> None:
    with join(select_devices("cpu")) as world:
        if world.rank == 1:
            raise ValueError("a fault")
        world.barrier()


def die(where: str) -> None:
    with join(select_devices("cpu")) as world:
        world.barrier()
        if world.rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        while True:
            world.barrier()


def wait_for_signal(folder: str) -> None:
    received = []
    signal.signal(signal.SIGTERM, lambda number, frame: received.append(number))
    with join(select_devices("cpu")) as world:
        (Path(folder) / f"ready{world.rank}").touch()
        while not world.any(bool(received)):
            time.sleep(0.05)
        (Path(folder) / f"saved{world.rank}").write_text(str(len(received)))
        raise SystemExit(128 + signal.SIGTERM)


def stop_in_validation(folder: str) -> None:
    """Process 1 is stopped from outside, in the way of a machine that hangs. It writes the file `hangs` before."""
    with join(select_devices("cpu"), 60.0) as world:
        world.enter(VALIDATION)
        world.barrier()
        world.progress.timeout = 2.0  # not at the start, which may take longer on a busy machine
        if world.rank == 1:
            (Path(folder) / "hangs").touch()
            os.kill(os.getpid(), signal.SIGSTOP)
        while True:
            world.barrier()


def stop_before_a_report(folder: str) -> None:
    """Process 1 is stopped in validation before its watch has reported its process id, as on a busy machine."""
    if os.environ["RANK"] == "1":
        Watch._report = lambda watch: None
    stop_in_validation(folder)


def sleep_in_a_callback(folder: str) -> None:
    """Process 1 waits for ever in a stage that it was never in before. It writes the file `hangs` before."""
    with join(select_devices("cpu"), 60.0) as world:
        world.enter(FORWARD)
        world.barrier()
        world.progress.timeout = 2.0
        if world.rank == 1:
            (Path(folder) / "hangs").touch()
            with world.progress.within(CALLBACK):
                time.sleep(1000)
        while True:
            world.barrier()


def die_without_our_launcher(folder: str) -> None:
    """Process 1 dies where no launcher of ours names it, and process 0 writes down the error that it gets."""
    os.environ.pop(NOTES)
    signal.signal(signal.SIGTERM, lambda number, frame: None)
    try:
        with join(select_devices("cpu"), 60.0) as world:
            world.enter(VALIDATION)
            world.barrier()
            time.sleep(2.5)  # a report comes every 1.5 seconds
            if world.rank == 1:
                os.kill(os.getpid(), signal.SIGKILL)
            while True:
                world.barrier()
    except LostPeer as error:
        (Path(folder) / "lost").write_text(f"{error.exit_code} {error}")
        raise
