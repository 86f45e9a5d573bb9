"""What processes do in the tests of training/launch.py: they end in every way. Apart, because each of them imports this."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from bitfalcon_plugin.config.devices import select_devices
from bitfalcon_plugin.config.errors import UserError
from bitfalcon_plugin.train.distributed import join


def one_is_wrong(where: str) -> None:
    with join(select_devices("cpu")) as world:
        if world.rank == 1:
            raise UserError("data.yaml is wrong")
        world.barrier()


def one_finds_a_fault(where: str) -> None:
    with join(select_devices("cpu")) as world:
        if world.rank == 1:
            raise ValueError("a fault")
        world.barrier()


def one_dies(where: str) -> None:
    with join(select_devices("cpu")) as world:
        world.barrier()
        if world.rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        while True:
            world.barrier()


def wait_for_signal(folder: str) -> None:
    heard = []
    signal.signal(signal.SIGTERM, lambda number, frame: heard.append(number))
    with join(select_devices("cpu")) as world:
        (Path(folder) / f"ready{world.rank}").touch()
        while not world.any(bool(heard)):
            time.sleep(0.05)
        (Path(folder) / f"saved{world.rank}").write_text(str(len(heard)))
        raise SystemExit(128 + signal.SIGTERM)
