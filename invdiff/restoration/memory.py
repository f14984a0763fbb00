"""Memory that a run needs, from the sizes of the tensors of the network, and the memory that the machine has."""

from __future__ import annotations

import math
import weakref
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from invdiff.posterior import PosteriorSampler
from invdiff.posterior.draw import chunk_size
from invdiff.priors import NetworkPrior, ScoreModel, Tiled
from invdiff.priors.adapters.channels import Gray, PerChannel
from invdiff.priors.adapters.rescaled import Rescaled

__all__ = ["available_memory", "gigabytes", "memory_note", "needed_memory", "rows_at_a_time"]

OVERHEAD = 1.5  # Peak memory of the process over that of its tensors (workspaces of convolutions, fragmentation): 1.3 to 1.7.
# Copies of the image, in float32, that are held:
RESULTS = 8  # per sample: the state, its noise, results, pictures
IN_WINDOWS = 4  # likewise, for samples computed in windows, which are put in one copy of the measured picture
SOLVER = 48  # per sample of a chunk, during an evaluation of the network
DRAW = 128  # likewise, in a draw with the measured covariance of the error, which has many bands of frequencies
WORTHWHILE = 2**16  # pixels per chunk from which the memory is estimated, which takes a quarter of a second


def needed_memory(sampler: PosteriorSampler, *, num_samples: int, chunk: int | None, device: torch.device) -> int | None:
    """Return the memory in bytes that a run on a CPU needs besides what the process has now; ``None``: not known, or little.

    The network is run on tensors without data (:class:`torch._subclasses.FakeTensorMode`), which takes as long for large images
    as for small ones.

    Args:
        sampler: The sampler.
        num_samples: Samples of one measurement.
        chunk: Samples per chunk, as in :meth:`~invdiff.PosteriorSampler.run`.
        device: Device of the run. On a GPU, chunks that do not fit are halved.
    """
    shape = tuple(sampler.op.in_shape)
    if device.type != "cpu" or len(shape) != 3:
        return None
    whole, rows = torch.Size(shape).numel(), rows_at_a_time(sampler, num_samples=num_samples, chunk=chunk, device=device)
    shape = (shape[0], *max(sampler.parts(num_samples), key=math.prod))
    if rows * shape[1] * shape[2] < WORTHWHILE:
        return None
    plan, entries = sampler.plan(num_samples), torch.Size(shape).numel()
    gradient, draws = plan.method.algorithm.differentiates, plan.rule is not None and plan.rule.follows_draws
    network = _of_network(sampler.score, rows, shape, gradient=gradient)
    if network is None:
        return None
    drawing = 4 * DRAW * rows * entries if draws and sampler.score.error_model is not None else 0
    held = RESULTS if entries == whole else IN_WINDOWS
    return int(OVERHEAD * max(network + 4 * SOLVER * rows * entries, drawing)) + 4 * held * num_samples * whole


def rows_at_a_time(sampler: PosteriorSampler, *, num_samples: int, chunk: int | None, device: torch.device) -> int:
    """Return the number of samples, or of the largest windows of samples, that are computed at a time."""
    parts = sampler.parts(num_samples)
    shape = (*sampler.op.in_shape[:-2], *max(parts, key=math.prod))
    return min(chunk or chunk_size(shape, device), num_samples * len(parts))


def _of_network(score: ScoreModel, rows: int, shape: tuple[int, ...], *, gradient: bool) -> int | None:
    """Return the peak memory of the tensors in an evaluation, with its gradient if wanted."""
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
    from torch._subclasses.fake_tensor import FakeTensorMode  # takes a while

    live = LiveMemory(score.weights)
    try:
        with FakeTensorMode(allow_non_fake_inputs=True), live, torch.set_grad_enabled(gradient):
            x_t = torch.zeros(rows, *shape, requires_grad=gradient)
            x0_hat = score.denoise(x_t, score.schedule.time(torch.tensor(1.0)))
            if gradient:
                torch.autograd.grad(x0_hat, x_t, torch.ones_like(x0_hat))
    except Exception:  # The network is somebody's code, which may not run without data.
        return None
    return live.peak


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
    allowed, used = (_lines(f"/sys/fs/cgroup/memory.{name}") for name in ("max", "current"))
    if allowed and used and allowed[0].isdigit():
        limits.append(max(0, int(allowed[0]) - int(used[0])))
    return min(limits, default=None)


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text(encoding="ascii").splitlines()
    except OSError:
        return []


def memory_note(needed: int | None, *, rows: int, tiled: bool) -> tuple[str, ...]:
    """Return a note if a run needs more memory than is available, with what to do.

    Args:
        needed: Memory in bytes, or ``None``.
        rows: Samples per chunk.
        tiled: Whether the prior works in windows already.
    """
    there = available_memory()
    if needed is None or there is None or needed <= there:
        return ()
    advice = [*(["--chunk 1"] if rows > 1 else []), *([] if tiled else ["--tile 256"]), "--precision bfloat16"]
    return (
        f"memory: the run needs about {gigabytes(needed)} and {gigabytes(there)} are available: use {', '.join(advice)}, or a "
        "smaller picture",
    )


def gigabytes(count: int) -> str:
    """Format a number of bytes: ``1.2 GB``."""
    return f"{count / 1e9:.2g} GB" if count < 1e10 else f"{count / 1e9:.0f} GB"
