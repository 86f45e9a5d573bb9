"""Several processes on this machine for `device=0,1` typed without torchrun, by torch's own elastic launcher.

What a process raises is raised here; if one process dies, the others are ended.
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
from ..config.signals import exception_for, release_signals, repeat_ignored_interrupts, signals_by_a_thread
from ..config.threads import is_ours, usable_processors
from .distributed import LostPeer
from .progress import stage_of
from .watch import GO_ON, NOTES

FORWARDED = ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT")  # signals that the launcher hands on to the processes
LOGGERS = ("torch.distributed", "torch.multiprocessing")  # each of them logs a page about every failure
START_METHOD = "spawn"  # of multiprocessing: a fork of this process would inherit CUDA and the threads of torch
SAVING = 30  # seconds that a process has for writing its checkpoint when it is to end, as the launcher gives
GRACE = 1.0  # seconds that a process with an error outlives the process whose end may have caused the error
PROTECTED = r"""__name__\s*[!=]=\s*['"]__main__|['"]__main__['"]\s*[!=]=\s*__name__"""
GUARD = "Put what your script does under `if __name__ == '__main__':`, or the function into a module of its own."


def launch(count: int, function: Callable, *args: object) -> object:
    """Run `function(*args)` in `count` processes, each with torchrun's environment; returns what rank 0 returned.

    Function and arguments are pickled. Raises the UserError of a process, LostPeer for a process that was killed or
    hangs, and RuntimeError with the traceback for any other exception. Ctrl-C and SIGTERM are handed on to the
    processes, which get half a minute to save; KeyboardInterrupt or Stopped follows.
    """
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    # true in a process that is still importing the user's script
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise UserError(
            f"The script starts training when it is imported, and every process that trains imports it. {GUARD}"
        )
    needs_script = _check_pickles(function, args)
    notes = tempfile.TemporaryDirectory(prefix="bitfalcon-", ignore_cleanup_errors=True)
    with notes as folder, _launcher_undone(), script_left_out(needs_script), signals_by_a_thread():
        rendezvous = {"rdzv_backend": "c10d", "rdzv_endpoint": "localhost:0", "local_addr": "localhost"}
        options = {"run_id": uuid.uuid4().hex, "logs_specs": DefaultLogsSpecs(log_dir=folder), "max_restarts": 0}
        config = LaunchConfig(1, 1, count, start_method=START_METHOD, **rendezvous, **options)
        try:
            return elastic_launch(config, _run_worker)(folder, count, function, args)[0]
        except SignalException as error:
            raise exception_for(error.sigval) from None
        except ChildFailedError as error:
            rank, failure = error.get_first_failure()
            raise failure_of(Path(folder), rank, failure.exitcode, count) from None


def _run_worker(folder: str, count: int, function: Callable, args: tuple) -> object:
    """Run the function in a new process; if it fails, write a note of the failure into `folder`."""
    if hasattr(os, "setpgid"):
        os.setpgid(0, 0)  # a terminal's Ctrl-C comes by the launcher alone; a second one would mean: end at once
    if "OMP_NUM_THREADS" not in os.environ or is_ours("OMP_NUM_THREADS"):
        torch.set_num_threads(max(usable_processors() // count, 1))
    threading.Thread(target=_end_with_parent, daemon=True).start()
    os.environ[NOTES] = folder
    rank = int(os.environ["RANK"])
    repeat_ignored_interrupts()
    try:
        release_signals()
        value = function(*args)
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process ends already
        sys.exit(128 + signal.SIGINT)  # some versions of torch would end the process as if it had finished
    except Exception as error:
        kind = _write_note(Path(folder), rank, error)
        if kind != "user":
            time.sleep(GRACE)  # the launcher names the process that ends first: let that be the cause
        sys.exit(getattr(error, "exit_code", 1))
    return value if rank == 0 else None


def _write_note(folder: Path, rank: int, error: Exception) -> str:
    """Write the failure of a process to <nanoseconds>.<rank>.<kind>; returns the kind: "user", "lost" or "error".

    torch's own notes (elastic's `record`, which wraps every process already) cannot replace these: they count whole
    seconds, and of several processes that fail within one the launcher names the first to end, not the first to fail.
    """
    if isinstance(error, LostPeer):
        kind = "lost"
    else:
        kind = "user" if isinstance(error, UserError) else "error"
    text = traceback.format_exc() if kind == "error" else str(error)
    failed_at = getattr(error, "failed_at", time.time_ns())
    (folder / f"{failed_at}.{rank}.{kind}").write_text(text, encoding="utf-8")
    return kind


def _end_with_parent() -> None:
    """End this process when the launcher is killed. On Linux torch has a SIGINT sent then, which a process may miss."""
    multiprocessing.connection.wait([multiprocessing.parent_process().sentinel])
    if sys.platform != "linux":
        os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(SAVING)
    os._exit(1)


def failure_of(folder: Path, rank: int, code: int, count: int) -> BaseException:
    """The exception to raise after a failure, from the notes in `folder`.

    rank, code: of the process that ended first, with its exit code (-9: ended by SIGKILL).
    """
    # sorted by time, because the cause comes first
    notes = {kind: sorted(folder.glob(f"*.*.{kind}")) for kind in ("user", "hang", "error", "lost")}
    texts = {kind: paths[0].read_text(encoding="utf-8") for kind, paths in notes.items() if paths}
    signals = {128 + number: number for number in (signal.SIGINT, signal.SIGTERM)}
    if "user" in texts:
        return UserError(texts["user"])
    if "hang" in texts:
        return LostPeer(texts["hang"])
    if code in signals or -code in signals.values():  # the process was stopped, and not by the launcher
        return exception_for(signals.get(code, -code))
    if code > 0 and "error" in texts:
        failed_rank = notes["error"][0].suffixes[0][1:]
        stage = stage_of(folder, failed_rank)
        return RuntimeError(f"process {failed_rank} of {count} (stage: {stage}) failed:\n{texts['error']}")
    if code > 0 and "lost" in texts:
        return LostPeer(texts["lost"])
    end = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
    memory = ""
    if code == -9:
        memory = " The machine probably ran out of memory: reduce workers= or set cache=False."
    stage = stage_of(folder, rank)
    return LostPeer(
        f"Process {rank} of {count} (counted from 0; stage: {stage}) {end}; the others were stopped.{memory} {GO_ON}"
    )


def _check_pickles(function: Callable, args: tuple) -> bool:
    """Whether the pickled function or arguments come from the user's script. Raises UserError where pickling fails."""
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
    """Keep new processes from importing the user's script, where the import would start the training again.

    A script that compares `__name__` with "__main__" protects itself, as multiprocessing asks for, and is imported.
    needed: whether the processes cannot do without the script; raises UserError then where it does not protect
    itself.
    """
    main = sys.modules["__main__"]
    path = getattr(main, "__file__", None)
    is_script = path is not None and getattr(main, "__spec__", None) is None and path.endswith(".py")
    if not is_script or re.search(PROTECTED, Path(path).read_text(encoding="utf-8", errors="replace")):
        yield
        return
    if needed:
        raise UserError(f"'{path}' cannot be imported by the processes that train: it would start them again. {GUARD}")
    del main.__file__  # multiprocessing has no switch for this: it imports the file that __main__ names, if any
    try:
        yield
    finally:
        main.__file__ = path


@contextmanager
def _launcher_undone() -> Iterator[None]:
    """Undo what the launcher leaves behind, signal handlers and an environment variable; keep it from logging."""
    handlers = {}
    if threading.current_thread() is threading.main_thread():
        numbers = (getattr(signal, name) for name in FORWARDED if hasattr(signal, name))
        handlers = {number: signal.getsignal(number) for number in numbers}
    loggers = [logging.getLogger(name) for name in list(logging.root.manager.loggerDict) if name.startswith(LOGGERS)]
    enabled = [logger for logger in loggers if not logger.disabled]
    for logger in enabled:
        logger.disabled = True
    try:
        yield
    finally:
        for logger in enabled:
            logger.disabled = False
        for number, handler in handlers.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
        os.environ.pop("TORCHELASTIC_SIGNALS_TO_HANDLE", None)
