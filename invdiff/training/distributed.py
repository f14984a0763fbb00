"""Data-parallel training: the ranks started by ``torchrun`` share every batch."""

from __future__ import annotations

import os
from types import TracebackType
from typing import Self

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

__all__ = ["Ranks"]


class Ranks:
    """The processes of one training run: a single one, or those started by ``torchrun``.

    Args:
        device: The device of this process.
    """

    def __init__(self, device: str) -> None:
        self.device = torch.device(device)
        self.count = int(os.environ.get("WORLD_SIZE", "1"))
        self.rank = int(os.environ.get("RANK", "0")) if self.count > 1 else 0

    @property
    def first(self) -> bool:
        """Whether this is rank 0, the process that writes files and prints."""
        return self.rank == 0

    def __enter__(self) -> Self:
        if self.device.type == "cuda":
            torch.cuda.set_device(self.device)
        if self.count > 1:
            dist.init_process_group("nccl" if self.device.type == "cuda" else "gloo")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        # After an error the other ranks may wait in a collective forever; torchrun ends them once this process exits.
        if self.count > 1 and kind is None:
            dist.barrier()  # A rank that leaves while another still works may abort, and torchrun then ends the other.
            dist.destroy_process_group()

    def share(self, batch: int) -> slice:
        """Return the slice of a batch that this process computes.

        Raises:
            ValueError: If the processes cannot get equal shares; the average over ranks would then not be the mean gradient.
        """
        if batch % self.count:
            raise ValueError(f"train: a batch of {batch} cannot be shared equally by {self.count} processes.")
        own = batch // self.count
        return slice(self.rank * own, (self.rank + 1) * own)

    def wrap(self, net: nn.Module) -> nn.Module:
        """Return the network with gradients averaged over the processes."""
        if self.count == 1:
            return net
        return DistributedDataParallel(net, device_ids=[self.device] if self.device.type == "cuda" else None)

    def require_same(self, **values: object) -> None:
        """Raise ``ValueError`` in every process if the values differ between processes."""
        if self.count == 1:
            return
        everyone: list[dict[str, object] | None] = [None] * self.count
        dist.all_gather_object(everyone, values)
        differing = [name for name in values if len({str((other or {}).get(name)) for other in everyone}) > 1]
        if differing:
            raise ValueError(
                f"train: the processes differ in {', '.join(differing)}: all of them need the same images and checkpoint."
            )

    def mean(self, value: Tensor) -> float:
        """Return the mean of a scalar over the processes."""
        if self.count > 1:
            value = value.clone()
            dist.all_reduce(value)
            value /= self.count
        return float(value)

    def any(self, flag: bool) -> bool:
        """Return whether ``flag`` is set in any process."""
        return self.mean(torch.tensor(float(flag), device=self.device)) > 0 if self.count > 1 else flag


def local_device(device: str) -> str:
    """Return the device of this process; under ``torchrun`` every process uses its own GPU."""
    if "LOCAL_RANK" in os.environ and (device == "cuda" or (device == "auto" and torch.cuda.is_available())):
        return f"cuda:{os.environ['LOCAL_RANK']}"
    return device
