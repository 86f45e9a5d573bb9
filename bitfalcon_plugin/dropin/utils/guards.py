"""Functions in threads, behind a lock, tried again, and with their errors printed."""

from __future__ import annotations

import contextlib
import functools
import logging
import threading
import time
from collections.abc import Callable
from typing import Any

LOGGER = logging.getLogger("ultralytics")


def threaded(func: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that runs in a thread and returns the thread; threaded=False in a call runs it at once."""

    @functools.wraps(func)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        if not kwargs.pop("threaded", True):
            return func(*args, **kwargs)
        thread = threading.Thread(target=func, args=args, kwargs=kwargs, daemon=True)
        thread.start()
        return thread

    return wrapper


class ThreadingLocked:
    """A decorator: one thread at a time runs the function."""

    def __init__(self) -> None:
        self.lock = threading.Lock()

    def __call__(self, f: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(f)
        def locked(*args: Any, **kwargs: Any) -> Any:
            with self.lock:
                return f(*args, **kwargs)

        return locked


class TryExcept(contextlib.ContextDecorator):
    """A context and a decorator that turns an exception into a warning; msg stands before it."""

    def __init__(self, msg: str = "", verbose: bool = True):
        self.msg, self.verbose = msg, verbose

    def __enter__(self) -> TryExcept:
        return self

    def __exit__(self, kind: type | None, value: BaseException | None, traceback: object) -> bool:
        if self.verbose and value is not None:
            LOGGER.warning("%s", f"{self.msg}: {value}" if self.msg else value)
        return kind is None or issubclass(kind, Exception)


class Retry:
    """A decorator that calls a function up to `times` times, waiting delay, 2 delay, ... seconds after an exception."""

    def __init__(self, times: int = 3, delay: float = 2):
        self.times, self.delay = times, delay

    def __call__(self, func: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(func)
        def again(*args: Any, **kwargs: Any) -> Any:
            for turn in range(self.times):
                try:
                    return func(*args, **kwargs)
                except Exception as error:
                    if turn + 1 >= self.times:
                        raise
                    LOGGER.warning("attempt %d of %d failed: %s", turn + 1, self.times, error)
                    time.sleep(self.delay * 2**turn)

        return again


def plt_settings(rcparams: dict[str, object] | None = None, backend: str = "Agg") -> Callable[..., Any]:
    """Return a decorator under which matplotlib has these settings and this backend while the function runs."""

    def decorator(func: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(func)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            from matplotlib import get_backend, pyplot, rc_context

            before = get_backend()
            with rc_context(rcparams or {"font.size": 11}):
                pyplot.switch_backend(backend)
                try:
                    return func(*args, **kwargs)
                finally:
                    pyplot.close("all")
                    pyplot.switch_backend(before)

        return wrapper

    return decorator
