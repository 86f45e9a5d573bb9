"""Writes that fail, folders that vanish, clocks that go back, runs that race for a name: nothing is lost.

    python -m tests.attack.disks                  # every write of every verb, with a full disk and without permission
    python -m tests.attack.disks only=train
    python -m tests.attack.disks mount=1          # as root: a real file system of 1 MB

Each write of an unharmed run is counted: every opening for writing, renaming and making of a folder. Then the run is
repeated so many times, and once each of them fails. A run that ended early is resumed, or begun anew where it left no
checkpoint, and must end with the weights of the unharmed one.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bitfalcon_plugin.cli import main as command
from tests.attack.audits import CHANGED, _writes
from tests.attack.kills import SMALL, lay_out, same, weights
from tests.attack.state import words

DEFAULTS = {"only": "", "every": 1, "mount": 0}
ERRORS = {"full": errno.ENOSPC, "denied": errno.EACCES}
TRAIN = ["train", "model=small.yaml", "scale=n", "data=data/data.yaml", *SMALL, "epochs=2", "workers=0"]
VERBS = {
    "train": [*TRAIN, "name=r", "exist_ok=True"],
    "predict": ["predict", "model=m.pt", "source=data/images/val", "imgsz=64", "device=cpu", "save_txt=True"],
    "export": ["export", "model=m.pt", "format=torchscript", "imgsz=64", "device=cpu"],
    "doctor": ["doctor", "data=data/data.yaml", "out=report.json"],
}


class Failing:
    """An audit hook, put in once a process, that makes the n-th write below a folder fail while it is armed."""

    def __init__(self) -> None:
        self.root, self.left, self.code, self.count = "", 0, 0, 0
        sys.addaudithook(self.hear)

    def hear(self, event: str, arguments: tuple) -> None:
        """The hook itself."""
        if not self.root:
            return
        paths = ()
        if event == "open" and isinstance(arguments[0], (str, bytes)) and _writes(arguments):
            paths = arguments[:1]
        elif event in CHANGED and event not in ("os.remove", "os.rmdir", "shutil.rmtree"):
            paths = [arguments[place] for place in CHANGED[event] if place < len(arguments)]
        names = [os.path.abspath(os.fsdecode(path)) for path in paths if not isinstance(path, int)]
        if any(name.startswith(self.root) for name in names):
            self.count += 1
            self.left -= 1
            if self.left == 0:
                raise OSError(self.code, os.strerror(self.code), names[0])

    @contextlib.contextmanager
    def armed(self, root: Path, number: int, code: int) -> Iterator[None]:
        """Let write `number` fail inside; 0: none. `count` has the number of writes afterwards."""
        self.root, self.left, self.code, self.count = str(root), number, code, 0
        try:
            yield
        finally:
            self.root = ""


_failing: list[Failing] = []


def failing() -> Failing:
    """The hook of this process: a hook cannot be taken out again."""
    if not _failing:
        _failing.append(Failing())
    return _failing[0]


def said(tokens: list[str]) -> tuple[int, str]:
    """Run a command line here: its exit code, and what it printed on stderr."""
    with contextlib.redirect_stderr(io.StringIO()) as errors, contextlib.redirect_stdout(io.StringIO()):
        try:
            code = command(tokens)
        except SystemExit as end:
            code = end.code
    return code, errors.getvalue()


def problem_of(code: int, text: str) -> str:
    """What is wrong with an ending, else nothing: an error is one line that begins with `error:`."""
    lines = [line for line in text.splitlines() if line.startswith("error:")]
    if "Traceback" in text or "fault of bitfalcon" in text:
        return f"exit code {code}: {text[-1500:]}"
    if code not in (0, 1, 2) or (code and len(lines) != 1):
        return f"exit code {code} with {len(lines)} error lines: {text[-800:]}"
    return ""


@contextlib.contextmanager
def place() -> Iterator[Path]:
    """A working directory with the graph, the dataset and a checkpoint."""
    with tempfile.TemporaryDirectory(prefix="bitfalcon-disks-") as name, pytest.MonkeyPatch.context() as patch:
        folder = Path(name).resolve()
        lay_out(folder)
        patch.chdir(folder)
        patch.setenv("BITFALCON_CACHE", str(folder / "cache"))
        yield folder


def every_write(verb: str, error: str, every: int = 1) -> Iterator[str]:
    """Let each write of a verb fail in turn, or every so many-th; yield what is wrong."""
    with place() as folder:
        with failing().armed(folder, 0, 0):
            code, text = said(VERBS[verb])
        if code:
            raise RuntimeError(f"{verb} unharmed ended with {code}: {text}")
        expected = weights(folder / "runs/r/weights/last.pt") if verb == "train" else None
        writes = failing().count
    print(f"{verb}: {writes} writes")
    for number in range(1, writes + 1, every):
        with place() as folder:
            with failing().armed(folder, number, ERRORS[error]):
                found = problem_of(*said(VERBS[verb]))
            if found:
                yield f"{verb}, write {number} of {writes}, {error}: {found}"
            yield from _again(verb, folder, expected, f"{verb}, write {number} of {writes}, {error}")


def _again(verb: str, folder: Path, expected: dict | None, case: str) -> Iterator[str]:
    """Go on without harm; yield what is wrong."""
    last = folder / "runs/r/weights/last.pt"
    tokens = ["train", f"resume={last}"] if verb == "train" and last.is_file() else VERBS[verb]
    code, text = said(tokens)
    if code == 2 and "finished run" in text:
        code = 0
    if code:
        yield f"{case}: afterwards {tokens} ended with {code}: {text[-500:]}"
    elif expected is not None and not same(expected, weights(last)):
        yield f"{case}: the weights differ afterwards"


def folder_gone() -> Iterator[str]:
    """The run's folder is removed after the first epoch."""
    from bitfalcon_plugin import YOLO
    from bitfalcon_plugin.config.errors import UserError

    with place(), contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yolo = YOLO("small.yaml")
        yolo.add_callback("on_fit_epoch_end", lambda trainer: shutil.rmtree(trainer.save_dir, ignore_errors=True))
        options = {"imgsz": 64, "batch": 4, "device": "cpu", "plots": False, "project": "runs", "name": "r"}
        try:
            yolo.train(data="data/data.yaml", scale="n", epochs=3, **options)
        except (UserError, OSError) as error:
            if "\n" in str(error):
                yield f"folder gone: several lines: {error}"
        except Exception as error:
            yield f"folder gone: {type(error).__name__}: {error}"


def clock_back() -> Iterator[str]:
    """Each look at the clock shows an earlier time."""
    with place() as folder:
        code, _ = said(VERBS["train"])
        expected = weights(folder / "runs/r/weights/last.pt")
    with place() as folder, pytest.MonkeyPatch.context() as patch:
        now = [time.time()]

        def earlier() -> float:
            now[0] -= 100.0
            return now[0]

        patch.setattr(time, "time", earlier)
        code, text = said(VERBS["train"])
        if problem := problem_of(code, text):
            yield f"clock: {problem}"
        if code or not same(expected, weights(folder / "runs/r/weights/last.pt")):
            yield f"clock: exit code {code}, or other weights"


def racing(count: int = 24) -> Iterator[str]:
    """Many runs ask for a folder of the same name at once."""
    from bitfalcon_plugin.config.run_folder import new_run_dir

    with place():
        made: list[Path] = []
        start = threading.Barrier(count)

        def ask() -> None:
            start.wait()
            made.append(new_run_dir("train", "runs", "same", False, "detect"))

        threads = [threading.Thread(target=ask) for _ in range(count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if len({*made}) != count or not all(path.is_dir() for path in made):
            yield f"racing: {len({*made})} folders for {count} runs"


def mounted() -> Iterator[str]:
    """Train on a real file system that is full after a while. Needs root."""
    with place() as folder:
        code, _ = said(VERBS["train"])
        expected, size = weights(folder / "runs/r/weights/last.pt"), _size(folder / "runs")
    for share in (0.05, 0.2, 0.4, 0.6, 0.8, 0.95):
        with place() as folder:
            (folder / "runs").mkdir()
            limit = f"size={int(size * share) // 4096 * 4}k"
            subprocess.run(["mount", "-t", "tmpfs", "-o", limit, "none", str(folder / "runs")], check=True)
            try:
                if found := problem_of(*said(VERBS["train"])):
                    yield f"mounted, {share:.0%}: {found}"
                subprocess.run(["mount", "-o", "remount,size=1g", str(folder / "runs")], check=True)
                yield from _again("train", folder, expected, f"mounted, {share:.0%}")
            finally:
                subprocess.run(["umount", "-l", str(folder / "runs")], check=True)


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def main() -> None:
    """Run as the words say."""
    given, wrong = words(DEFAULTS), 0
    cases = {f"{verb}, {error}": every_write(verb, error, given["every"]) for verb in VERBS for error in ERRORS}
    cases |= {"folder gone": folder_gone(), "clock": clock_back(), "racing": racing()}
    if given["mount"]:
        cases["mounted"] = mounted()
    for name, problems in cases.items():
        if given["only"] and not name.startswith(tuple(given["only"].split(","))):
            continue
        found = list(problems)
        wrong += len(found)
        print(f"{name}: {len(found)} problems", *found, sep="\n  ", flush=True)
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
