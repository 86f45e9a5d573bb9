"""Ctrl-C and SIGTERM during training: the step at hand is finished and saved before the process ends."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

WAITED = ("SIGINT", "SIGTERM")  # Ctrl-C; what schedulers and `kill` send


class Stopped(SystemExit):
    """The end of a process that was asked to stop, after its work was saved; code 128 + the signal's number."""


class Interrupts:
    """Inside this context the first signal is only remembered, in `received`; a second one acts as it would have.

    Outside the main thread signals cannot be caught: there `received` stays None.
    """

    def __init__(self) -> None:
        self.received: str | None = None
        self._before: dict[int, object] = {}

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            for name in WAITED:
                number = getattr(signal, name)
                self._before[number] = signal.signal(number, self._remember)
        return self

    def __exit__(self, *_: object) -> None:
        self._restore()

    def _remember(self, number: int, frame: FrameType | None) -> None:
        self.received = signal.Signals(number).name
        self._restore()

    def _restore(self) -> None:
        while self._before:
            number, handler = self._before.popitem()
            signal.signal(number, handler or signal.SIG_DFL)

    def end(self) -> BaseException:
        """What to raise once everything is saved: KeyboardInterrupt for Ctrl-C, Stopped for SIGTERM."""
        return KeyboardInterrupt() if self.received == "SIGINT" else Stopped(128 + signal.SIGTERM)


@contextlib.contextmanager
def ended_by_signals() -> Iterator[Callable[[], None]]:
    """SIGTERM raises Stopped, so that what is half written is removed, and Ctrl-C stays KeyboardInterrupt whatever a runtime makes of it.

    Yields a function that raises where a signal came and was swallowed. Outside the main thread, and where handlers are another's,
    signals are left alone.
    """
    received: list[int] = []

    def heed() -> None:
        if received:
            raise KeyboardInterrupt if received[0] == signal.SIGINT else Stopped(128 + received[0])

    def stop(number: int, frame: object) -> None:
        received.append(number)
        heed()

    before = {}
    if threading.current_thread() is threading.main_thread():
        before = {
            number: handler
            for number in (signal.SIGINT, signal.SIGTERM)
            if (handler := signal.getsignal(number)) in (signal.SIG_DFL, signal.default_int_handler)
        }
    for number in before:
        signal.signal(number, stop)
    try:
        yield heed
    except Exception:
        heed()  # OpenVINO's callbacks turn it into an error of their own
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
