"""Runs are killed or stopped at random moments; what they leave is whole, and resumed ones end with the same last bit.

    python -m tests.attack.kills count=200 seed=0 state=kills.json
    python -m tests.attack.kills count=20 only=export,tune

Of each scenario an unkilled run is made first. Then runs are begun, and ended by SIGKILL, by SIGTERM or by SIGINT to
their whole process group, at moments drawn from the length of the unkilled run, again and again until they finish.
Checked are the exit code, every checkpoint after each ending, what is printed, and at the end the weights.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from tests.attack.state import State, words

DEFAULTS = {"count": 200, "seed": 0, "state": "", "only": ""}
CODES = {  # by the signal: an exit code, or the signal itself where it comes before the work begins or after it
    signal.SIGKILL: {-signal.SIGKILL},
    signal.SIGTERM: {143, -signal.SIGTERM},
    signal.SIGINT: {130},
}
# What multiprocessing prints in a process that is just starting when SIGKILL hits the one that started it.
ORPHAN = re.compile(r"Traceback .*\n(?:  .*\n)+?.*SemLock\._rebuild.*\n(?:  .*\n)*FileNotFoundError: .*\n")
SECONDS = 300  # after which a process counts as hung
SMALL = ["imgsz=64", "batch=4", "nbs=8", "device=cpu", "plots=False", "project=runs", "amp=False", "close_mosaic=1"]
TRAIN = ["train", "model=small.yaml", "scale=n", "data=data/data.yaml", *SMALL, "epochs=5"]
TUNE = ["tune", "model=small.yaml", "scale=n", "data=data/data.yaml", *SMALL, "epochs=2", "iterations=2"]


@dataclass(frozen=True)
class Scenario:
    """begin, resume: words of the commands. processes: that train together. weight: how often it takes part."""

    begin: list[str]
    resume: list[str] | None = None
    processes: int = 1
    weight: int = 1

    @property
    def trains(self) -> bool:
        """Whether the run leaves runs/r with checkpoints."""
        return self.begin[0] == "train"


LAST = "resume=runs/r/weights/last.pt"
SCENARIOS = {
    "train": Scenario([*TRAIN, "name=r", "workers=0"], ["train", LAST], weight=6),
    "train with readers": Scenario([*TRAIN, "name=r", "workers=2"], ["train", LAST], weight=6),
    "validation": Scenario(
        [*TRAIN, "name=r", "workers=2", "epochs=3", "data=data/much.yaml"], ["train", LAST], weight=3
    ),
    "two processes": Scenario([*TRAIN, "name=r", "workers=1"], ["train", LAST], processes=2, weight=2),
    "export": Scenario(
        ["export", "model=m.pt", "format=torchscript", "imgsz=64", "device=cpu", "out=m.torchscript"], weight=2
    ),
    "track": Scenario(
        ["track", "model=m.pt", "source=data/images/train", "imgsz=64", "device=cpu", "project=runs"], weight=2
    ),
    "tune": Scenario([*TUNE, "name=t", "workers=0"], ["tune", "resume=runs/t"], weight=1),
}


def attempt(folder: str, tokens: list[str], processes: int) -> None:
    """In a new process, which leads a group of its own: run one command line."""
    os.setpgid(0, 0)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell starts background jobs with it ignored
    os.chdir(folder)
    log = os.open("log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    multiprocessing.set_start_method("fork", force=True)
    Path(f"ready{os.getpid()}").touch()
    from bitfalcon_plugin.cli import main

    if processes > 1:
        import bitfalcon_plugin.train.run as run

        run.select_devices = lambda device, own=run.select_devices: (
            own("cpu") * (1 if "RANK" in os.environ else processes)
        )
        run.device_text = lambda devices: "cpu"
    sys.argv = ["bitfalcon", *tokens]
    raise SystemExit(main())


def lay_out(folder: Path) -> None:
    """Write the graph, the datasets and a checkpoint."""
    import torch

    from bitfalcon_plugin.models.weights.checkpoint import Checkpoint, save_checkpoint
    from tests.helpers import coloured
    from tests.helpers.tiny_models import CONV, small_model

    coloured.lay_out(folder)
    text = (folder / "data/data.yaml").read_text()
    (folder / "data/much.yaml").write_text(text.replace("val: images/val", "val: [images/train, images/val]"))
    torch.manual_seed(0)
    model = small_model(CONV, (-1, 1, "Conv", [32, 3, 2]))
    save_checkpoint(folder / "m.pt", Checkpoint(model.graph, model.state_dict()))


def start(folder: Path, tokens: list[str], processes: int) -> multiprocessing.Process:
    """Start a command line from a server that has imported torch already."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["bitfalcon_plugin.train.run", "bitfalcon_plugin.export.run", "bitfalcon_plugin.yolo"]
    )
    process = context.Process(target=attempt, args=(str(folder), tokens, processes))
    process.start()
    while not (folder / f"ready{process.pid}").is_file() and process.is_alive():
        time.sleep(0.01)
    return process


def ended(process: multiprocessing.Process) -> str:
    """Wait for the end of a process; what is wrong with it, else nothing."""
    process.join(SECONDS)
    if process.exitcode is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.join()
        return "hung"
    return ""


class Round:
    """A run of a scenario that is ended again and again until it finishes."""

    def __init__(self, scenario: Scenario, seconds: float, expected: dict | None, draw: random.Random) -> None:
        self.scenario, self.seconds, self.expected, self.draw = scenario, seconds, expected, draw
        self.folder = Path(tempfile.mkdtemp(prefix="bitfalcon-kills-"))
        lay_out(self.folder)
        if scenario.begin[0] == "export":
            shutil.copy(self.folder / "m.pt", self.folder / "before")
        self.last = self.folder / "runs/r/weights/last.pt"
        self.finished = False

    def kill(self) -> tuple[str, str]:
        """Begin or go on, and end it by a signal: the signal's name, and what is wrong, or nothing."""
        tokens = self.scenario.begin
        if self.scenario.resume and (self.last.is_file() or (self.folder / "runs/t/trials").is_dir()):
            tokens = self.scenario.resume
        elif (self.folder / "runs").is_dir():
            tokens = [*tokens, "exist_ok=True"] if self.scenario.trains else tokens
            if tokens[0] == "tune":
                shutil.rmtree(self.folder / "runs")
        process = start(self.folder, tokens, self.scenario.processes)
        process.join(self.draw.uniform(0, self.seconds))
        number = self.draw.choice(list(CODES))
        if process.exitcode is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, number) if number == signal.SIGKILL else os.killpg(process.pid, number)
        problem = ended(process)
        # A run that was ended during its final measurement has nothing left to train, and says so.
        complete = process.exitcode == 2 and "is of a finished run" in (self.folder / "log.txt").read_text()
        self.finished = process.exitcode == 0 or complete
        if not problem and not self.finished and process.exitcode not in CODES[number]:
            problem = f"exit code {process.exitcode}"
        return number.name, problem or self.check()

    def check(self) -> str:
        """What is wrong with the files and the words of a run that has ended, else nothing."""
        import torch

        log = ORPHAN.sub("", (self.folder / "log.txt").read_text(errors="replace"))
        for word in ("Traceback", "fault of bitfalcon", "most often memory", "died"):
            if word in log:
                return f"printed {word!r}: {log[-1500:]}"
        for path in (self.folder / "runs").rglob("*.pt"):
            if not path.name.startswith("."):
                torch.load(path)
        exported = self.folder / "m.torchscript"
        if exported.is_file():
            torch.jit.load(exported)
        if self.finished and self.expected is not None and not same(self.expected, weights(self.last)):
            return "the weights differ from those of the unkilled run"
        if self.finished and self.scenario.trains:
            left = [str(path) for path in (self.folder / "runs").rglob(".*")]
            return f"left behind: {left}" if left else ""
        return ""

    def close(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self.folder, ignore_errors=True)


def weights(last: Path) -> dict:
    """All weights of a checkpoint: those of the mean, and the raw ones."""
    import torch

    content = torch.load(last)
    return {**content["state"], **{f"raw {key}": value for key, value in content["training"]["weights"].items()}}


def same(one: dict, two: dict) -> bool:
    """Whether two sets of weights are equal bit for bit."""
    import torch

    return one.keys() == two.keys() and all(torch.equal(one[key], two[key]) for key in one)


def unkilled(name: str) -> tuple[float, dict | None]:
    """Run a scenario to its end: its seconds, and its weights where it trains."""
    scenario = SCENARIOS[name]
    round_ = Round(scenario, 0, None, random.Random(0))
    process = start(round_.folder, scenario.begin, scenario.processes)
    begun = time.monotonic()
    problem = ended(process) or (f"ended with {process.exitcode}" if process.exitcode else "")
    if problem:
        raise RuntimeError(f"{name} without a kill {problem}: {(round_.folder / 'log.txt').read_text()[-2000:]}")
    found = time.monotonic() - begun, weights(round_.last) if scenario.trains else None
    round_.close()
    return found


def is_here(name: str) -> bool:
    """Whether the packages of a scenario are installed."""
    package = {"tune": "optuna", "track": "trackers"}.get(name)
    return package is None or find_spec(package) is not None


def run(count: int, seed: int, state: State, only: str = "", report: Callable[[str], None] = print) -> list:
    """End so many runs; returns what was found."""
    names = [name for name in SCENARIOS if (not only or name in only.split(",")) and is_here(name)]
    turns = [name for name in names for _ in range(SCENARIOS[name].weight)]
    whole: dict[str, tuple[float, dict | None]] = {}
    number, turn = state.done, 0
    while number < count:
        turn += 1  # a run that finishes before its end has another moment next
        draw = random.Random(f"{seed}/{number}/{turn}")
        name = draw.choice(turns)
        if name not in whole:
            whole[name] = unkilled(name)
        round_ = Round(SCENARIOS[name], *whole[name], draw)
        report(f"{number} of {count}: {name}")
        while not round_.finished:
            signal_name, problem = round_.kill()
            outcome = "finished" if round_.finished else signal_name
            finding = {
                "case": number,
                "scenario": name,
                "signal": signal_name,
                "problem": problem,
                "folder": str(round_.folder),
            }
            state.add(number, f"{name}: {'problem' if problem else outcome}", finding if problem else None)
            number += bool(problem) or not round_.finished
            if problem:
                break
        else:
            round_.close()
    state.save()
    return state.content["findings"]


def main() -> None:
    """Run as the words say."""
    given = words(DEFAULTS)
    state = State(given["state"], {"seed": given["seed"], "only": given["only"]})
    found = run(given["count"], given["seed"], state, given["only"])
    state.report()
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()
