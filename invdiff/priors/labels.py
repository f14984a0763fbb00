"""Class-conditional networks: a network with one label, or with several labels for equal parts of a batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

from invdiff.priors.conditional import Conditional
from invdiff.priors.noise_maps import NoiseMaps

__all__ = ["NO_LABEL", "ConditionedNetwork"]

NO_LABEL = -1  # of a row without a label, for networks whose classes are one-hot vectors


class ConditionedNetwork(Conditional):
    """Wrap a network as ``net(x, time)``: the class label, the data range and the number of outputs are handled here.

    Outputs beyond the channels of ``x`` belong to a learned variance and are dropped.

    Args:
        net: Called with ``x``, ``time``, and labels if there are any.
        labels: One label for the whole batch, or ``n`` labels for ``n`` equal parts of it, one after another. ``None``: none.
        unit_range: Whether ``net`` takes data that span [0, 1] and returns their score.
    """

    def __init__(self, net: nn.Module, *, labels: Sequence[int | None] = (None,), unit_range: bool = False) -> None:
        super().__init__()
        self.net, self.labels, self.unit_range = net, tuple(labels), unit_range

    def forward(self, x: Tensor, time: Tensor, *maps: NoiseMaps) -> Tensor:
        output: Tensor = self.net((x + 1) / 2 if self.unit_range else x, time, *self._labels(x), *maps)
        output = output[:, : x.shape[1]]
        return output / 2 if self.unit_range else output  # the score with respect to data on a scale twice as large

    def joined(self, other: Any) -> Self:
        return self._with(*self.labels, *other.labels)

    def parts(self) -> list[Self]:
        return [self._with(label) for label in self.labels]

    def _with(self, *labels: int | None) -> Self:
        return type(self)(self.net, labels=labels, unit_range=self.unit_range)

    def _labels(self, x: Tensor) -> tuple[Tensor, ...]:
        if all(label is None for label in self.labels):
            return ()
        size = len(x) // len(self.labels)
        return (torch.cat([x.new_full((size,), NO_LABEL if k is None else k, dtype=torch.long) for k in self.labels]),)
