"""Signals that ask a process to stop: as an exception, and held back while files are moved."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import Any

__all__ = ["STOPPING", "Stopped", "held_back", "raise_when_stopped"]

# SIGQUIT is left alone: it ends a process at once, as SIGKILL does. The next run removes what is left then.
STOPPING = tuple(signal.Signals[name] for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))


class Stopped(KeyboardInterrupt):
    """The process was asked to stop by a signal.

    Args:
        number: The signal.
        hint: What the user can do next, one sentence.
    """

    def __init__(self, number: int = signal.SIGINT, hint: str = "") -> None:
        super().__init__()
        self.number, self.hint = signal.Signals(number), hint

    def __str__(self) -> str:
        what = "Interrupted." if self.number == signal.SIGINT else f"Stopped by {self.number.name}."
        return f"{what} {self.hint}".strip()


@contextlib.contextmanager
def raise_when_stopped() -> Iterator[None]:
    """Raise :class:`Stopped` on SIGTERM and SIGHUP, as Python raises ``KeyboardInterrupt`` on Ctrl-C.

    Signals that are ignored (``nohup``) or handled by the caller are left alone, and so are all outside the main thread.
    """

    def stop(number: int, frame: object) -> None:
        raise Stopped(number)

    with _handled(stop, [s for s in STOPPING if s != signal.SIGINT and signal.getsignal(s) == signal.SIG_DFL]):
        yield


@contextlib.contextmanager
def held_back() -> Iterator[None]:
    """Hold back signals that ask to stop until the end of the block, which must be short."""
    arrived: list[int] = []
    try:
        with _handled(lambda number, frame: arrived.append(number), [s for s in STOPPING if _acts(signal.getsignal(s))]):
            yield
    finally:
        if arrived:
            signal.raise_signal(arrived[0])


def _acts(handler: Any) -> bool:
    return handler is not None and handler != signal.SIG_IGN  # None: installed by other code than Python's


@contextlib.contextmanager
def _handled(handler: Any, numbers: list[signal.Signals]) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():  # Only the main thread can install signal handlers.
        yield
        return
    before: dict[signal.Signals, Any] = {}
    try:
        for number in numbers:
            before[number] = signal.getsignal(number)
            signal.signal(number, handler)
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)
