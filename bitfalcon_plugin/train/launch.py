"""Several processes on this machine for `device=0,1` typed without torchrun, by torch's own elastic launcher.

What a process raises arrives here as if it had been raised here; if one dies, the others are ended.
"""

from __future__ import annotations

import logging
import multiprocessing.connection
import os
import pickle
import re
import signal
import sys
import tempfile
import threading
import time
import traceback
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from ..config.errors import UserError
from ..config.signals import Stopped
from .distributed import Lost

FORWARDED = ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT")  # what the launcher hands on to the processes
LOGGERS = ("torch.distributed", "torch.multiprocessing")  # they tell of every failure by a page
PATIENCE = 30  # seconds to save in, as the launcher gives
GRACE = 1.0  # seconds that an error stays behind the one it may follow from
PROTECTED = r"""__name__\s*[!=]=\s*['"]__main__|['"]__main__['"]\s*[!=]=\s*__name__"""
GUARD = "Put what your script does under `if __name__ == '__main__':`, or the function into a module of its own."


def launch(count: int, function: Callable, *args: object) -> object:
    """Run `function(*args)` in `count` processes, with torchrun's environment set for each; returns what rank 0 returned.

    Function and arguments are pickled. Raises the UserError of a process, UserError for a process that was killed, and
    RuntimeError with the traceback for any other exception. Ctrl-C and SIGTERM are handed on, and awaited for half a minute:
    KeyboardInterrupt or Stopped then.
    """
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    if getattr(
        multiprocessing.current_process(), "_inheriting", False
    ):  # a process that is still importing the user's script
        raise UserError(
            f"The script starts training when it is imported, and every process that trains imports it. {GUARD}"
        )
    needs_script = _check_pickles(function, args)
    notes = tempfile.TemporaryDirectory(prefix="bitfalcon-", ignore_cleanup_errors=True)
    with notes as folder, _as_before(), script_left_out(needs_script):
        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=count,
            run_id=uuid.uuid4().hex,
            rdzv_backend="c10d",
            rdzv_endpoint="localhost:0",
            local_addr="localhost",
            max_restarts=0,
            start_method="spawn",
            logs_specs=DefaultLogsSpecs(log_dir=folder),
        )
        try:
            return elastic_launch(config, _work)(folder, count, function, args)[0]
        except SignalException as error:
            raise _ended(error.sigval) from None
        except ChildFailedError as error:
            rank, failure = error.get_first_failure()
            raise _told(Path(folder), rank, failure.exitcode, count) from None


def _work(folder: str, count: int, function: Callable, args: tuple) -> object:
    """What each process runs: the function, and if it fails a note of why in `folder`."""
    if hasattr(os, "setpgid"):
        os.setpgid(0, 0)  # a terminal's Ctrl-C comes by the launcher alone; twice would mean: at once
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max((os.cpu_count() or 1) // count, 1))
    threading.Thread(target=_end_with_parent, daemon=True).start()
    rank = int(os.environ["RANK"])
    try:
        value = function(*args)
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)  # some versions of torch would end the process as if it had finished
    except Exception as error:
        kind = "lost" if isinstance(error, Lost) else "user" if isinstance(error, UserError) else "error"
        text = traceback.format_exc() if kind == "error" else str(error)
        (Path(folder) / f"{getattr(error, 'left_world', time.time_ns())}.{rank}.{kind}").write_text(
            text, encoding="utf-8"
        )
        if kind != "user":
            time.sleep(GRACE)  # where another rank died, and this is what came of it, the launcher sees that one first
        sys.exit(2 if kind == "user" else 1)
    return value if rank == 0 else None


def _end_with_parent() -> None:
    """Leave nobody behind when the launcher is killed. On Linux torch has a SIGINT sent then, which a process may miss."""
    multiprocessing.connection.wait([multiprocessing.parent_process().sentinel])
    if sys.platform != "linux":
        os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(PATIENCE)
    os._exit(1)


def _told(folder: Path, rank: int, code: int, count: int) -> BaseException:
    """What to raise after the process of `rank` was the first to end, with exit code `code` (-9: by SIGKILL)."""
    notes = {
        kind: sorted(folder.glob(f"*.*.{kind}")) for kind in ("user", "error", "lost")
    }  # by time: the cause comes first
    told = {kind: found[0].read_text(encoding="utf-8") for kind, found in notes.items() if found}
    signals = {128 + number: number for number in (signal.SIGINT, signal.SIGTERM)}
    if "user" in told:
        return UserError(told["user"])
    if code in signals or -code in signals.values():  # somebody stopped this one, not the launcher
        return _ended(signals.get(code, -code))
    if code > 0 and "error" in told:
        return RuntimeError(f"process {notes['error'][0].suffixes[0][1:]} of {count} failed:\n{told['error']}")
    if code > 0 and "lost" in told:
        return UserError(told["lost"])
    how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
    memory = (
        " A machine without memory left ends processes so: fewer workers=, or cache=False, need less."
        if code == -9
        else ""
    )
    return UserError(
        f"Process {rank} of {count} (counted from 0) {how}; the others were stopped.{memory} The run goes on with "
        "resume=<run folder>/weights/last.pt"
    )


def _ended(number: int) -> BaseException:
    return KeyboardInterrupt() if number == signal.SIGINT else Stopped(128 + number)


def _check_pickles(function: Callable, args: tuple) -> bool:
    """Whether the processes need the user's script to find what they are given. Raises UserError where that cannot be."""
    try:
        content = pickle.dumps((function, args))
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise UserError(
            f"Several processes need functions and settings that can be sent to them: {error}. A callback must be a "
            "function at the top of a module."
        ) from None
    return b"__main__" in content


@contextmanager
def script_left_out(needed: bool) -> Iterator[None]:
    """New processes import the user's script again; one that would start training there, too, is left out.

    A script that compares `__name__` somewhere is taken to protect itself, as multiprocessing asks for.
    """
    main = sys.modules["__main__"]
    path = getattr(main, "__file__", None)
    if path is None or getattr(main, "__spec__", None) is not None or not path.endswith(".py"):
        yield
        return
    text = Path(path).read_text(encoding="utf-8", errors="replace")
    if re.search(PROTECTED, text):
        yield
        return
    if needed:
        raise UserError(f"'{path}' cannot be imported by the processes that train: it would start them again. {GUARD}")
    del main.__file__
    try:
        yield
    finally:
        main.__file__ = path


@contextmanager
def _as_before() -> Iterator[None]:
    """Undo what the launcher leaves behind: signal handlers, an environment variable; and keep it from logging tracebacks."""
    main = threading.current_thread() is threading.main_thread()
    handlers = (
        {number: signal.getsignal(number) for name in FORWARDED if (number := getattr(signal, name, None))}
        if main
        else {}
    )
    loggers = [logging.getLogger(name) for name in list(logging.root.manager.loggerDict) if name.startswith(LOGGERS)]
    loud = [logger for logger in loggers if not logger.disabled]
    for logger in loud:
        logger.disabled = True
    try:
        yield
    finally:
        for logger in loud:
            logger.disabled = False
        for number, handler in handlers.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
        os.environ.pop("TORCHELASTIC_SIGNALS_TO_HANDLE", None)
