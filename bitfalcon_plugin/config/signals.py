"""Ctrl-C and SIGTERM during training and export: what is half done is finished or removed before the process ends."""

from __future__ import annotations

import _thread
import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)  # Ctrl-C; what schedulers and `kill` send
SAME = 5.0  # seconds in which a second SIGTERM is the first once more: a launcher hands on what the group got too


class Stopped(SystemExit):
    """The end of a process that was asked to stop, after its work was saved; code 128 + the signal's number."""


def exception_for(number: int) -> BaseException:
    """Return the exception that ends a process after a signal: KeyboardInterrupt for SIGINT, otherwise Stopped."""
    return KeyboardInterrupt() if number == signal.SIGINT else Stopped(128 + number)


class Interrupts:
    """A context in which the first signal is only remembered, in `received`; a second signal acts as usual.

    A further SIGTERM within SAME seconds counts as the first. Outside the main thread signals cannot be caught: there
    `received` stays None.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._time = 0.0  # of the first signal
        self._handlers: dict[int, object] = {}  # of the time before

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            self._handlers = {number: signal.getsignal(number) for number in SIGNALS}
            _set_handlers(dict.fromkeys(self._handlers, self._remember))
        return self

    def __exit__(self, *_: object) -> None:
        _set_handlers(self._handlers)

    def _remember(self, number: int, frame: FrameType | None) -> None:
        self.received, self._time = signal.Signals(number), time.monotonic()
        _set_handlers({**self._handlers, signal.SIGTERM: self._repeat})

    def _repeat(self, number: int, frame: FrameType | None) -> None:
        if time.monotonic() - self._time >= SAME:
            _set_handlers(self._handlers)
            signal.raise_signal(number)


@contextlib.contextmanager
def ended_by_signals() -> Iterator[Callable[[], None]]:
    """Let SIGTERM raise Stopped and Ctrl-C raise KeyboardInterrupt, also where a runtime swallows the exception.

    Yields a function that raises again where a signal was received. Signals are left alone outside the main thread,
    and where another handler than Python's own is set.
    """
    received: list[int] = []

    def raise_if_received() -> None:
        if received:
            raise exception_for(received[0])

    def stop(number: int, frame: FrameType | None) -> None:
        received.append(number)
        raise_if_received()

    usual = (signal.SIG_DFL, signal.default_int_handler)
    handlers = {}
    if threading.current_thread() is threading.main_thread():
        handlers = {number: signal.getsignal(number) for number in SIGNALS if signal.getsignal(number) in usual}
    _set_handlers(dict.fromkeys(handlers, stop))
    try:
        yield raise_if_received
    except Exception:
        raise_if_received()  # OpenVINO's callbacks turn the exception into an error of their own
        raise
    finally:
        _set_handlers(handlers)


@contextlib.contextmanager
def signals_held() -> Iterator[None]:
    """Let SIGINT and SIGTERM wait until the end. A process that is started inside begins with them held."""
    if not hasattr(signal, "sigwaitinfo"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def signals_by_a_thread() -> Iterator[None]:
    """Let another thread receive SIGINT and SIGTERM; their handlers run in this thread as ever.

    A process that is started inside begins with them held, so that none ends it in the middle of its imports: it calls
    `release_signals`.
    """
    from multiprocessing import resource_tracker  # every command imports this file, and few need that one

    resource_tracker.ensure_running()  # multiprocessing releases the signals when it starts it
    end = threading.Event()
    threading.Thread(target=end.wait, name="signals", daemon=True).start()
    try:
        with signals_held():
            yield
    finally:
        end.set()


def release_signals() -> None:
    """Receive SIGINT and SIGTERM, which this process was started without, and those that came meanwhile."""
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


def repeat_ignored_interrupts() -> None:
    """Let a Ctrl-C that hits a destructor, which Python would print and forget, hit the code behind it.

    torch ends the processes that read images in a destructor, and waits for them there.
    """
    before = sys.unraisablehook

    def hook(unraisable: object) -> None:
        if not isinstance(unraisable.exc_value, KeyboardInterrupt):
            before(unraisable)
            return
        timer = threading.Timer(0.05, _thread.interrupt_main)  # now it would hit this function
        timer.daemon = True
        with contextlib.suppress(RuntimeError):  # where the interpreter ends, no thread begins
            timer.start()

    sys.unraisablehook = hook


def leave_signals_to_parent() -> None:
    """Let SIGINT and SIGTERM end this process of multiprocessing only where its parent sends them.

    Schedulers and terminals send them to every process of a group; the parent then ends its processes by itself. To be
    called before the process has further threads. Without effect on systems that do not say who sent a signal.
    """
    if hasattr(signal, "sigwaitinfo"):
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        threading.Thread(target=_end_for_parent, name="signals", daemon=True).start()


def _end_for_parent() -> None:
    while signal.sigwaitinfo(SIGNALS).si_pid != multiprocessing.parent_process().pid:
        pass
    os._exit(0)


def _set_handlers(handlers: dict[int, object]) -> None:
    """Set the handlers of signals by number; None, a handler that was not set from Python, becomes the default."""
    for number, handler in handlers.items():
        signal.signal(number, handler or signal.SIG_DFL)
