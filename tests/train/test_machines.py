"""Processes that die or hang are named and the run goes on; two torchrun agents train as one launcher does."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time

import pytest
import torch

from bitfalcon_plugin.config.callbacks import Events
from bitfalcon_plugin.config.errors import UserError
from bitfalcon_plugin.config.settings import load_settings
from bitfalcon_plugin.train.distributed import LostPeer
from bitfalcon_plugin.train.launch import launch
from bitfalcon_plugin.train.run import run_train
from tests.helpers.coloured import lay_out
from tests.helpers.endings import (
    die_without_our_launcher,
    sleep_in_a_callback,
    stop_before_a_report,
    stop_in_validation,
)
from tests.helpers.paths import ROOT
from tests.helpers.small_runs import COMMON, GRAPHS, quick_launch, same, weights

pytestmark = pytest.mark.skipif(not hasattr(os, "setpgid"), reason="signals are of POSIX")
LENGTH = {"epochs": 3, "val": False, "workers": 0, "rank_timeout": 90}


@pytest.fixture(autouse=True, scope="module")
def no_world():
    """Tests start outside of any torchrun."""
    with pytest.MonkeyPatch.context() as patch, quick_launch():
        for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
            patch.delenv(name, raising=False)
        patch.setenv("OMP_NUM_THREADS", "1")
        yield


@pytest.mark.parametrize(
    "ending, words",
    [
        (stop_in_validation, r"1 of 2 \(counted from 0; stage: validation\) has not answered for [2-9] s"),
        (stop_before_a_report, r"1 of 2 \(counted from 0; stage: validation\) has not answered for [2-9] s"),
        (sleep_in_a_callback, r"1 of 2 \(counted from 0; stage: a callback\) hangs: no progress for [2-9] s"),
    ],
)
def test_a_process_that_hangs_is_named_in_time(tmp_path, ending, words):
    with pytest.raises(LostPeer, match=f"^Process {words}.*resume=") as error:
        launch(2, ending, str(tmp_path))
    assert "\n" not in str(error.value) and error.value.exit_code == 1
    seconds = time.time() - (tmp_path / "hangs").stat().st_mtime
    assert seconds < 30  # torch's launcher alone would give a stopped process half a minute to end


def test_without_our_launcher_the_others_name_the_one_that_died(tmp_path):
    with pytest.raises(UserError, match="killed by SIGKILL"):
        launch(2, die_without_our_launcher, str(tmp_path))
    words = "1 Process 1 of 2 (counted from 0; stage: validation) ended without a word"
    assert (tmp_path / "lost").read_text().startswith(words)


def settings_of(**more) -> dict:
    return {"mode": "train", "model": GRAPHS["detect"], "model_scale": "n", **COMMON, **LENGTH, **more}


def train_and_die(folder: str) -> None:
    """Train a whole run; then one in which process 1 dies in the last epoch but one."""
    os.chdir(folder)
    run_train(load_settings(settings_of(name="whole")), None)
    events = Events()
    events.add("on_train_start", check_timeout)
    events.add("on_train_batch_end", die_in_the_second_epoch)
    run_train(load_settings(settings_of(name="cut")), None, events)


def check_timeout(trainer) -> None:
    assert trainer.run.world.progress.timeout == LENGTH["rank_timeout"]


def die_in_the_second_epoch(trainer) -> None:
    if trainer.epoch == 1 and trainer.batch == 2 and not trainer.run.world.main:
        os.kill(os.getpid(), signal.SIGKILL)


def resume(folder: str) -> None:
    os.chdir(folder)
    events = Events()
    events.add("on_train_start", check_timeout)  # the setting is that of the run
    run_train(load_settings({"mode": "train", "resume": True, "project": "runs"}), None, events)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with runs/whole, and with runs/cut, whose process 1 died; both by two processes of one launcher."""
    folder = tmp_path_factory.mktemp("machines")
    lay_out(folder)
    words = r"Process 1 of 2 \(counted from 0; stage: a callback\) was killed by SIGKILL; the others were stopped"
    with pytest.raises(LostPeer, match=words):
        launch(2, train_and_die, str(folder))
    return folder


def test_a_run_whose_process_died_is_resumed_with_equal_bits(place, monkeypatch):
    monkeypatch.chdir(place)
    cut = torch.load("runs/cut/weights/last.pt")
    assert cut["epoch"] == 0 and not same(weights("whole"), weights("cut"))
    os.utime("runs/cut/weights/last.pt")  # the newest
    launch(2, resume, str(place))
    assert same(weights("whole"), weights("cut"))


def test_two_nodes_end_with_the_weights_of_one(place, monkeypatch):
    """Two agents of torchrun, each with one process, as on two machines."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        endpoint = f"127.0.0.1:{free.getsockname()[1]}"
    agent = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1", "--rdzv-backend=c10d"]
    agent += [f"--rdzv-endpoint={endpoint}", "--rdzv-id=run1", "--local-addr=127.0.0.1"]
    words = [f"{key}={value}" for key, value in settings_of(name="nodes").items() if key not in ("mode", "model_scale")]
    command = [*agent, "-m", "bitfalcon_plugin", "train", "scale=n", *words]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    nodes = [subprocess.Popen(command, cwd=place, env=environment, **streams) for _ in range(2)]
    try:
        outputs = [node.communicate(timeout=120)[0] for node in nodes]
    finally:
        for node in nodes:
            node.kill()
    assert [node.returncode for node in nodes] == [0, 0], outputs
    assert sum("on cpu and 1 more" in output for output in outputs) == 1  # one process speaks for all
    monkeypatch.chdir(place)
    assert same(weights("whole"), weights("nodes"))
