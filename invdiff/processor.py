"""The processor of a command: how many threads suit it, and settings that its libraries read when they are loaded.

Nothing here imports torch, because the settings must be made before.
"""

from __future__ import annotations

import ctypes
import math
import os
import sys
from collections.abc import Iterator
from pathlib import Path

__all__ = ["prepare_processor", "return_memory", "spare_memory", "suitable_threads"]

# A thread that waits for others gives its core away after this many rounds. By default it occupies it for milliseconds, which
# on a machine with other work to do is the time in which those it waits for could have finished.
SPIN_COUNT = 1000
# Parameters of mallopt of the GNU C library, and values that keep freed memory for the next step of a sampler: otherwise every
# activation of a network is taken from the system, and cleared by it, anew.
TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
KEPT, LARGEST, DEFAULT = 2**31 - 1, 2**30, 2**17


def prepare_processor() -> None:
    """Choose threads and memory for this process and its children. To be called before torch is imported.

    Sets ``OMP_NUM_THREADS`` to :func:`suitable_threads` and ``GOMP_SPINCOUNT`` to a short wait, unless these or other variables
    of OpenMP are set already, as ``torchrun`` does for each of several processes; and lets the C library keep freed memory.
    """
    threads = suitable_threads()
    if threads is not None and "MKL_NUM_THREADS" not in os.environ:
        os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    if not {"OMP_WAIT_POLICY", "KMP_BLOCKTIME"} & set(os.environ):
        os.environ.setdefault("GOMP_SPINCOUNT", str(SPIN_COUNT))
    if not any(name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in os.environ):
        _set_thresholds(trim=KEPT, mmap=LARGEST)


def suitable_threads(root: Path = Path("/")) -> int | None:
    """Return the number of threads that a computation should have; ``None``: not known, for systems other than Linux.

    It is the number of physical cores that the process may use, as two threads on one core are no faster than one, and no more
    than the processor time that its control groups allow, as that of a container: threads beyond it are stopped in turn.

    Args:
        root: Root of the file system.
    """
    if not hasattr(os, "sched_getaffinity"):
        return None
    processors = os.sched_getaffinity(0)
    cores = {_read(root / f"sys/devices/system/cpu/cpu{n}/topology/thread_siblings_list") or str(n) for n in processors}
    return max(1, min([len(cores), *map(math.ceil, _quotas(root))]))


def _quotas(root: Path) -> Iterator[float]:
    """Yield the processors that every control group of the process allows: version 2, then version 1."""
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, _, rest = line.partition(":")
        controllers, _, name = rest.partition(":")
        if controllers == "":
            mounted, files = root / "sys/fs/cgroup", ["cpu.max"]
        elif "cpu" in controllers.split(","):
            mounted, files = root / "sys/fs/cgroup" / controllers, ["cpu.cfs_quota_us", "cpu.cfs_period_us"]
        else:
            continue
        group = mounted / name.lstrip("/")
        # In a container the group has the name that it has outside, and what it sees is mounted as the root.
        for folder in (mounted, *(parent for parent in (group, *group.parents) if mounted in parent.parents)):
            numbers = " ".join(_read(folder / file) for file in files).split()
            if len(numbers) == 2 and all(number.isdigit() and int(number) > 0 for number in numbers):
                yield int(numbers[0]) / int(numbers[1])


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return ""


def return_memory() -> None:
    """Return freed memory that the C library has kept to the system, as before a look at how much there is."""
    library = _gnu_library()
    if library is not None:
        library.malloc_trim(0)


def spare_memory() -> None:
    """Let the C library return freed memory at once from now on, where there is little."""
    _set_thresholds(trim=DEFAULT, mmap=DEFAULT)


def _set_thresholds(*, trim: int, mmap: int) -> None:
    library = _gnu_library()
    if library is not None:
        library.mallopt(TRIM_THRESHOLD, trim)
        library.mallopt(MMAP_THRESHOLD, mmap)


def _gnu_library() -> ctypes.CDLL | None:
    """Return the GNU C library; ``None``: the process has another one, whose functions of these names differ."""
    if sys.platform != "linux":
        return None
    try:
        library = ctypes.CDLL(None)
        return library if library.gnu_get_libc_version else None
    except (OSError, AttributeError):
        return None
