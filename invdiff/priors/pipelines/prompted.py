"""A network of diffusers with its condition, such as the encoding of a text, as ``net(x, time)``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Self

import torch
from torch import Tensor, nn

from invdiff.priors.conditional import Conditional

__all__ = ["Call", "Prompted"]

Call = Callable[[Any, Tensor, Tensor, Mapping[str, Tensor]], Tensor]
PREFIX = "condition_"  # of the names of buffers, which must not be those of attributes


class Prompted(Conditional):
    """A network with a condition, or with several, for equal parts of a batch.

    Outputs beyond the channels of ``x`` belong to a learned variance and are dropped.

    Args:
        net: The network.
        call: Evaluates it: ``call(net, x, time, condition)``, with a condition of as many rows as ``x``.
        condition: Tensors by name; the first axis has one row per condition, and follows the rows of ``x``.
    """

    def __init__(self, net: nn.Module, call: Call, condition: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.net, self.call, self.names = net, call, tuple(condition)
        for name, value in condition.items():
            self.register_buffer(PREFIX + name, value.detach(), persistent=False)

    @property
    def condition(self) -> dict[str, Tensor]:
        """The condition, by name."""
        return {name: getattr(self, PREFIX + name) for name in self.names}

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        rows = {name: self._rows(value, x) for name, value in self.condition.items()}
        return self.call(self.net, x, time, rows)[:, : x.shape[1]]

    @staticmethod
    def _rows(value: Tensor, x: Tensor) -> Tensor:
        value = value.to(x.dtype) if value.is_floating_point() else value
        return value.repeat_interleave(len(x) // len(value), 0)

    def joined(self, other: Any) -> Self:
        return type(self)(self.net, self.call, {k: torch.cat([v, other.condition[k]]) for k, v in self.condition.items()})

    def parts(self) -> list[Self]:
        count = max((len(value) for value in self.condition.values()), default=1)
        return [type(self)(self.net, self.call, {k: v[n : n + 1] for k, v in self.condition.items()}) for n in range(count)]
