"""Ctrl-C and SIGTERM during training and export: what is half done is finished or removed before the process ends."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)  # Ctrl-C; what schedulers and `kill` send


class Stopped(SystemExit):
    """The end of a process that was asked to stop, after its work was saved; code 128 + the signal's number."""


def exception_for(number: int) -> BaseException:
    """Return the exception that ends a process after a signal: KeyboardInterrupt for SIGINT, otherwise Stopped."""
    return KeyboardInterrupt() if number == signal.SIGINT else Stopped(128 + number)


class Interrupts:
    """A context in which the first signal is only remembered, in `received`; a second signal acts as usual.

    Outside the main thread signals cannot be caught: there `received` stays None.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._handlers: dict[int, object] = {}  # of the time before

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            self._handlers = {number: signal.getsignal(number) for number in SIGNALS}
            _set_handlers(dict.fromkeys(self._handlers, self._remember))
        return self

    def __exit__(self, *_: object) -> None:
        _set_handlers(self._handlers)

    def _remember(self, number: int, frame: FrameType | None) -> None:
        self.received = signal.Signals(number)
        _set_handlers(self._handlers)


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


def _set_handlers(handlers: dict[int, object]) -> None:
    """Set the handlers of signals by number; None, a handler that was not set from Python, becomes the default."""
    for number, handler in handlers.items():
        signal.signal(number, handler or signal.SIG_DFL)
