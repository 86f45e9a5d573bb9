"""Functions that processes run in the tests of train/launch.py, each with its own end; processes import this file."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from bitfalcon_plugin.config.devices import select_devices
from bitfalcon_plugin.config.errors import UserError
from bitfalcon_plugin.train.distributed import join


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
