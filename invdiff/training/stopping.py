"""Stopping a training between two steps, without leaving anything behind."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from invdiff.io.signals import STOPPING

__all__ = ["Stop", "folder_for", "stop_signals"]


@contextlib.contextmanager
def folder_for(file: Path) -> Iterator[None]:
    """Create the folder of a file with its parents, and in the end remove those that are still empty."""
    made = [path for path in file.parents if not path.exists()]
    file.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield
    finally:
        for path in made:
            with contextlib.suppress(OSError):
                path.rmdir()  # fails if the folder is not empty


class Stop:
    """The signal that asked a training to stop, if one did.

    Attributes:
        number: The signal, or ``None``.
    """

    def __init__(self) -> None:
        self.number: int | None = None


@contextlib.contextmanager
def stop_signals() -> Iterator[Stop]:
    """Yield what notes Ctrl-C, SIGTERM and SIGHUP, so that a step is always completed."""
    stop, before = Stop(), dict[int, Any]()

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def handle(number: int, frame: object) -> None:
        stop.number = number
        restore()  # a second signal does not wait for the end of the step

    if threading.current_thread() is not threading.main_thread():  # Only the main thread can install signal handlers.
        yield stop
        return
    numbers = [number for number in STOPPING if number.name != "SIGHUP" or signal.getsignal(number) != signal.SIG_IGN]  # nohup
    before |= {number: signal.signal(number, handle) for number in numbers}
    try:
        yield stop
    finally:
        restore()
