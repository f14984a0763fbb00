"""Handling of memory shortage: detect it, and continue with chunks of half the size."""

from __future__ import annotations

import gc
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

import torch

__all__ = ["halve_when_full", "out_of_memory"]

# Messages of torch's CPU allocator, which has no error class of its own, and of oneDNN, which does not give the reason.
CPU_MESSAGES = ("can't allocate memory", "not enough memory", "Cannot allocate memory", "could not create a primitive")

Item = TypeVar("Item")
Result = TypeVar("Result")


def out_of_memory(error: BaseException) -> bool:
    """Return whether an error reports that the memory of a device or of the process is exhausted."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(message in str(error) for message in CPU_MESSAGES)


def halve_when_full(
    chunks: Iterable[Sequence[Item]], work: Callable[[Sequence[Item]], Result], *, device: torch.device
) -> Iterator[Result]:
    """Yield ``work(chunk)`` for every chunk. A chunk that does not fit in memory is halved, and so are all later ones.

    Raises:
        MemoryError: Raised by ``work``, if a single item does not fit in memory.
        RuntimeError: Raised by ``work``, likewise, or for any other reason.
    """
    waiting, largest = deque(chunks), 0
    while waiting:
        chunk = waiting.popleft()
        if largest and len(chunk) > largest:
            waiting.extendleft([chunk[largest:], chunk[:largest]])
            continue
        try:
            results = [work(chunk)]
        except (RuntimeError, MemoryError) as error:
            if len(chunk) == 1 or not out_of_memory(error):
                raise
            results = []
        if not results:  # Outside the handler: its exception keeps references to the memory.
            _free(device)
            largest = len(chunk) // 2
            waiting.appendleft(chunk)
        yield from results


def _free(device: torch.device) -> None:
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
