"""What to do when memory runs out: how to tell, and going on with half as much at a time."""

from __future__ import annotations

import gc
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

import torch

__all__ = ["halve_when_full", "out_of_memory"]

# What torch's allocator of the CPU says, which has no error of its own, and oneDNN, which does not say why.
CPU_MESSAGES = ("can't allocate memory", "not enough memory", "Cannot allocate memory", "could not create a primitive")

Item = TypeVar("Item")
Result = TypeVar("Result")


def out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that the memory of a device, or of the process, does not suffice."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(message in str(error) for message in CPU_MESSAGES)


def halve_when_full(
    chunks: Iterable[Sequence[Item]], work: Callable[[Sequence[Item]], Result], *, device: torch.device
) -> Iterator[Result]:
    """Yield ``work(chunk)`` for every chunk; one that the memory does not hold is halved, and so are all that follow.

    Raises:
        MemoryError, RuntimeError: What ``work`` raised, if the memory does not hold a single item.
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
        if not results:  # outside of the handler, whose error holds on to the memory
            _free(device)
            largest = len(chunk) // 2
            waiting.appendleft(chunk)
        yield from results


def _free(device: torch.device) -> None:
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
