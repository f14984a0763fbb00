"""Who does what: one process, one of several jobs that know nothing of each other, or the ranks of ``torchrun``."""

from __future__ import annotations

import hashlib
import heapq
import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from invdiff.problems import OptionError
from invdiff.study.listing import Item

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store

__all__ = ["Alone", "Job", "Ranks", "Share", "find_share", "longest_first", "shares_of"]

PAUSE = 0.05  # seconds between looks at what other ranks have done


class Alone:
    """A single process does all items, in the order of their names.

    Attributes:
        writer: Name of the process among those that write results; ``None`` if it is the only one.
        number: Its number, from 0.
        count: Number of processes.
        where: Where the number was found, for the user; empty for a single process.
    """

    writer: str | None = None
    number, count, where = 0, 1, ""

    def take(self, items: Sequence[Item]) -> Iterator[Item]:
        """Yield the items that this process does, one after another."""
        yield from items

    def gather(self, summary: Any) -> list[Any] | None:
        """Return what all processes that know of each other have given, to the first of them; ``None`` to the others."""
        return [summary]


@dataclass(frozen=True)
class Job:
    """One of several jobs that know nothing of each other: a fixed share of about the same work, the longest items first."""

    number: int
    count: int
    where: str

    @property
    def writer(self) -> str | None:
        return f"{self.number}-of-{self.count}"

    def take(self, items: Sequence[Item]) -> Iterator[Item]:
        yield from shares_of(items, self.count)[self.number]

    def gather(self, summary: Any) -> list[Any] | None:
        return [summary]


class Ranks:
    """One of the ranks that ``torchrun`` has started: each takes the longest item that none has taken yet.

    Args:
        store: Store that all ranks share.
        number: The rank.
        count: Number of ranks.
    """

    where = "torchrun"

    def __init__(self, store: Store, number: int, count: int) -> None:
        self.store, self.number, self.count = store, number, count
        self.writer: str | None = f"{number}-of-{count}"

    def take(self, items: Sequence[Item]) -> Iterator[Item]:
        ordered = longest_first(items)
        text = json.dumps([[item.name, item.cost] for item in ordered])
        digest = hashlib.sha256(text.encode()).hexdigest()
        if self.number == 0:
            self.store.set("invdiff/items", digest)
        elif (first := self._wait("invdiff/items")) != digest:
            raise RuntimeError(f"rank {self.number} finds other pictures than rank 0 ({digest[:8]}, {first[:8]}).")
        while (taken := self.store.add("invdiff/next", 1) - 1) < len(ordered):
            yield ordered[taken]

    def gather(self, summary: Any) -> list[Any] | None:
        self.store.set(f"invdiff/summary/{self.number}", json.dumps(summary))
        if self.number:
            self._wait("invdiff/seen")  # The store may live in rank 0, which ends last.
            self.store.add("invdiff/left", 1)
            return None
        every = [json.loads(self._wait(f"invdiff/summary/{number}")) for number in range(self.count)]
        self.store.set("invdiff/seen", "1")
        while self.store.add("invdiff/left", 0) < self.count - 1:
            time.sleep(PAUSE)
        return every

    def _wait(self, key: str) -> str:
        while not self.store.check([key]):  # without the limit that a get has
            time.sleep(PAUSE)
        return bytes(self.store.get(key)).decode()


Share = Alone | Job | Ranks


def longest_first(items: Sequence[Item]) -> list[Item]:
    """Return the items by decreasing cost."""
    return sorted(items, key=lambda item: (-item.cost, item.name))


def shares_of(items: Sequence[Item], count: int) -> list[list[Item]]:
    """Divide items into shares of about the same cost: the longest first, each to the share with the least so far."""
    shares: list[list[Item]] = [[] for _ in range(count)]
    least = [(0, 0, number) for number in range(count)]
    for item in longest_first(items):
        cost, length, number = heapq.heappop(least)
        shares[number].append(item)
        heapq.heappush(least, (cost + item.cost, length + 1, number))
    return shares


def find_share(shard: str | None, environment: Mapping[str, str] = os.environ) -> Share:
    """Return the share of this process.

    It is given as ``I/N``, or by ``torchrun``, or found in ``SLURM_ARRAY_TASK_ID`` and ``SLURM_ARRAY_TASK_COUNT``, or in
    ``RANK`` and ``WORLD_SIZE``.

    Args:
        shard: ``I/N`` with ``I`` from 0 to N - 1, or ``None``.
        environment: The environment variables.

    Raises:
        OptionError: If the text is no such share.
    """
    if shard is not None:
        return _fixed(*_parsed(shard), "--shard")
    found = environment.get
    if found("RANK") and found("WORLD_SIZE") and found("MASTER_ADDR") and found("MASTER_PORT"):
        return _ranks()
    for name, count, first in (
        ("SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_COUNT", "SLURM_ARRAY_TASK_MIN"),
        ("RANK", "WORLD_SIZE", None),
    ):
        if found(name) and found(count):
            start = int(found(first) or 0) if first else 0
            step = int(found("SLURM_ARRAY_TASK_STEP") or 1) if first else 1
            number, of = (int(environment[name]) - start) // step, int(environment[count])
            if not 0 <= number < of:
                raise OptionError(f"{name}={environment[name]} and {count}={of} are no share: give it with --shard I/N.")
            return _fixed(number, of, name)
    return Alone()


def _fixed(number: int, count: int, where: str) -> Share:
    return Alone() if count == 1 else Job(number, count, where)


def _parsed(shard: str) -> tuple[int, int]:
    number, slash, count = shard.partition("/")
    if not (slash and number.isascii() and number.isdigit() and count.isascii() and count.isdigit()):
        raise OptionError(f"--shard {shard:.40}: expected I/N, such as 0/4 for the first of four.")
    if not int(number) < int(count):
        last = f"{int(count) - 1}/{count}" if int(count) else "0/1"
        raise OptionError(f"--shard {shard:.40}: shares are numbered from 0, so that the last one is {last}.")
    return int(number), int(count)


def _ranks() -> Share:
    import torch.distributed as dist

    store, number, count = next(iter(dist.rendezvous("env://")))  # type: ignore[attr-defined]
    return Alone() if count == 1 else Ranks(store, number, count)
