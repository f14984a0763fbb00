"""Memory that a run needs, from the sizes of the tensors of the network, and the memory that the machine has."""

from __future__ import annotations

import contextlib
import copy
import math
import weakref
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from invdiff.operators import Identity
from invdiff.posterior import PosteriorSampler
from invdiff.posterior.draw import chunk_size
from invdiff.priors import NetworkPrior, ScoreModel, Tiled
from invdiff.priors.adapters.channels import Gray, PerChannel
from invdiff.priors.adapters.rescaled import Rescaled

__all__ = ["available_memory", "gigabytes", "needed_memory", "rows_at_a_time"]

# Peak memory of the process over that of its tensors: workspaces of convolutions, more of them for gradients; what a heap of
# small tensors loses, up to a number of bytes, since large ones have pages of their own; and tables and libraries, in bytes.
OVERHEAD = {"plain": 1.1, "pivot": 1.1, "gradient": 1.2}
HEAP, LARGEST_LOSS, LIBRARIES = 0.3, 120 * 2**20, 30 * 2**20
# Copies of the image, in float32, that are held:
RESULTS = 8  # per sample: the state, its noise, results, pictures
IN_WINDOWS = 4  # likewise, for samples computed in windows, which are put in one copy of the measured picture
SOLVER = {"plain": 16, "pivot": 8, "gradient": 22}  # per sample of a chunk, during an evaluation of the network
DRAW = 28  # likewise, in a draw with the measured covariance of the error
SMALL = 64  # side in pixels of the image on which a network is run
WORTHWHILE = 2**16  # pixels per chunk from which the memory is estimated, which takes a tenth of a second


def needed_memory(
    sampler: PosteriorSampler, *, num_samples: int, chunk: int | None, device: torch.device, side: int | None = None
) -> int | None:
    """Return the memory in bytes that a run on a CPU needs besides what the process has now; ``None``: not known, or little.

    A network that looks no further than some pixels is run on a small image, since its memory is proportional to the pixels.
    Others are run on tensors without data (:class:`torch._subclasses.FakeTensorMode`), which takes as long for large images as
    for small ones.

    Args:
        sampler: The sampler.
        num_samples: Samples of one measurement.
        chunk: Samples per chunk, as in :meth:`~invdiff.PosteriorSampler.run`.
        device: Device of the run. On a GPU, chunks that do not fit are halved.
        side: Side of the squares in which the network would be evaluated (:meth:`invdiff.priors.NetworkPrior.in_parts`).
            Default: as the prior is.
    """
    shape = tuple(sampler.op.in_shape)
    if device.type != "cpu" or len(shape) != 3:
        return None
    whole, rows = torch.Size(shape).numel(), rows_at_a_time(sampler, num_samples=num_samples, chunk=chunk, device=device)
    shape = (shape[0], *max(sampler.parts(num_samples), key=math.prod))
    if rows * shape[1] * shape[2] < WORTHWHILE:
        return None
    plan, entries = sampler.plan(num_samples), torch.Size(shape).numel()
    algorithm, draws = plan.method.algorithm, plan.rule is not None and plan.rule.follows_draws
    ways = [name for name, wanted in (("gradient", algorithm.differentiates), ("pivot", algorithm.starts_high)) if wanted]
    drawing = 4 * DRAW * rows * entries if draws and sampler.score.error_model is not None else 0
    working = [float(drawing)]
    for way in ways or ["plain"]:
        network = _of_network(sampler.score, rows, shape, way=way, side=side)
        if network is None:
            return None
        working.append(OVERHEAD[way] * (network + 4 * SOLVER[way] * rows * entries))
    held = 4 * (RESULTS if entries == whole else IN_WINDOWS) * num_samples * whole
    return int(max(working) + min(HEAP * max(working), LARGEST_LOSS)) + LIBRARIES + held


def rows_at_a_time(sampler: PosteriorSampler, *, num_samples: int, chunk: int | None, device: torch.device) -> int:
    """Return the number of samples, or of the largest windows of samples, that are computed at a time."""
    parts = sampler.parts(num_samples)
    shape = (*sampler.op.in_shape[:-2], *max(parts, key=math.prod))
    return min(chunk or chunk_size(shape, device), num_samples * len(parts))


def _of_network(score: ScoreModel, rows: int, shape: tuple[int, ...], *, way: str, side: int | None) -> int | None:
    """Return the peak memory of the tensors in an evaluation: ``plain``, with its ``gradient``, or at a ``pivot``."""
    while isinstance(score, Gray | PerChannel | Rescaled | Tiled):
        if isinstance(score, Gray):
            shape = (score.channels, *shape[1:])
        elif isinstance(score, PerChannel):
            rows, shape = rows * shape[0], (1, *shape[1:])
        elif isinstance(score, Tiled):  # One batch of windows at a time.
            windows = rows * score.windows(shape[1], shape[2])
            shape = (shape[0], *score.tile)
            rows = min(windows, score.windows_at_a_time(shape, torch.device("cpu")))
        score = score.score_model
    if not isinstance(score, NetworkPrior):
        return None
    score = copy.copy(score)
    score.compiled = None  # A shape that does not occur in the run is not compiled.
    side = score.side if side is None else side
    if side is not None:  # One square at a time.
        shape = (shape[0], *(min(side, n) for n in shape[1:]))
    scale = 1.0
    if score.reach is not None:
        scale, rows, shape = rows * shape[1] * shape[2] / SMALL**2, 1, (shape[0], SMALL, SMALL)
    live, op = LiveMemory(score.weights), Identity(shape, sigma_y=0.1)
    try:
        with _fake(score.reach is None), live, torch.set_grad_enabled(way == "gradient"):
            x_t, t = torch.zeros(rows, *shape, requires_grad=way == "gradient"), score.schedule.time(torch.tensor(1.0))
            pivot = op.pivot(x_t, 1.0, x_t) if way == "pivot" and "pixel" in score.noise_kinds else None
            x0_hat = score.denoise(x_t, t) if pivot is None else score.denoise_pivot(*pivot)
            if way == "gradient":
                torch.autograd.grad(x0_hat, x_t, torch.ones_like(x0_hat))
    except Exception:  # The network is somebody's code, which may not run without data.
        return None
    return int(scale * live.peak)


def _fake(wanted: bool) -> contextlib.AbstractContextManager[object]:
    if not wanted:
        return contextlib.nullcontext()
    from torch._subclasses.fake_tensor import FakeTensorMode  # takes two seconds to import

    return FakeTensorMode(allow_non_fake_inputs=True)


class LiveMemory(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of all tensors that are alive, while it is active.

    Args:
        known: Tensors that are not counted.

    Attributes:
        peak: Largest number of bytes at any time.
    """

    def __init__(self, known: Iterable[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.peak = 0
        self._known = [tensor.untyped_storage() for tensor in known]  # kept, so that their ids stay theirs
        self._seen = {id(storage): 0 for storage in self._known}

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # Otherwise the first call imports torch._dynamo, which takes two seconds.

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor):
                self._count(leaf.untyped_storage())
        return out

    def _count(self, storage: torch.UntypedStorage) -> None:
        if id(storage) in self._seen:
            return
        self._seen[id(storage)] = storage.nbytes()
        self.now += storage.nbytes()
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._forget, id(storage))

    def _forget(self, key: int) -> None:
        self.now -= self._seen.pop(key)


def available_memory() -> int | None:
    """Return the bytes that the process can still take, by the machine and by its control group; ``None``: not known.

    Known on Linux alone.
    """
    limits = []
    for line in _lines("/proc/meminfo"):
        name, _, value = line.partition(":")
        if name == "MemAvailable":
            limits.append(1024 * int(value.split()[0]))
    for folder, (most, used, cached) in _control_groups():
        numbers = [_lines(f"{folder}/{name}") for name in (most, used)]
        if all(lines and lines[0].isdigit() for lines in numbers):
            stat = dict(line.split()[:2] for line in _lines(f"{folder}/memory.stat"))
            files = int(stat.get(cached, 0))  # Copies of files, which make room.
            limits.append(max(0, int(numbers[0][0]) - max(0, int(numbers[1][0]) - files)))
    return min(limits, default=None)


def _control_groups() -> list[tuple[str, tuple[str, str, str]]]:
    """Return the folders of the control groups of the process, with the names of limit, use, and cached files in them."""
    second = ("memory.max", "memory.current", "inactive_file")
    first = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
    found = [("/sys/fs/cgroup", second), ("/sys/fs/cgroup/memory", first)]
    for line in _lines("/proc/self/cgroup"):
        _, controllers, path = line.split(":", 2)
        if controllers in ("", "memory") and path != "/":
            found.append((f"/sys/fs/cgroup{path}", second) if not controllers else (f"/sys/fs/cgroup/memory{path}", first))
    return found


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text(encoding="ascii").splitlines()
    except (OSError, UnicodeDecodeError):
        return []


def gigabytes(count: int) -> str:
    """Format a number of bytes: ``1.2 GB``."""
    return f"{count / 1e9:.2g} GB" if count < 1e10 else f"{count / 1e9:.0f} GB"
