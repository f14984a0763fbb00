"""Networks without memory for their weights, bounded by the weights that are there to fill them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from invdiff.priors.networks.fill import check_fit

__all__ = ["hollow", "skeleton"]

Module = TypeVar("Module", bound=nn.Module)
SPARE = 256  # tensors of a network beyond those of its file, such as tables that are not saved


def skeleton(make: Callable[[], Module], tensors: int) -> Module:
    """Return the network that ``make`` builds, on the meta device: it has shapes, and neither memory nor values.

    Numbers in a file, such as a billion blocks, do not set the work: a network of more layers than there are weights for is
    given up while it is built.

    Args:
        make: Builds the network.
        tensors: Number of tensors in the file.

    Raises:
        ValueError: If the network has many more tensors than the file.
    """
    with torch.device("meta"), _Counted(2 * tensors + SPARE, tensors):
        return make()


def hollow(make: Callable[[], Module], weights: Mapping[str, Tensor]) -> Module:
    """Return the network that ``make`` builds, with its tables, such as positions, but with weights of no particular values.

    Args:
        make: Builds the network.
        weights: The weights that it will have.

    Raises:
        ValueError: If the network has other tensors than the file, before memory is taken.
    """
    check_fit(skeleton(make, len(weights)), weights)
    with _Counted(2 * len(weights) + SPARE, len(weights)):
        return make()


class _Counted(TorchFunctionMode):
    """Count the tensors that are made, and leave out their initial values, which are replaced."""

    def __init__(self, most: int, held: int) -> None:
        super().__init__()
        self.left, self.held = most, held

    def __torch_function__(
        self, func: Any, types: Iterable[Any], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in INITIAL:
            return args[0]
        if func in FACTORIES:
            self.left -= 1
            if self.left < 0:
                raise ValueError(f"its description asks for many more layers than the file's {self.held:,} tensors fill")
        return func(*args, **(kwargs or {}))


FACTORIES = {torch.empty, torch.zeros, torch.ones, torch.rand, torch.randn, torch.tensor, torch.full, torch.arange}
INITIAL = {torch.Tensor.normal_, torch.Tensor.uniform_, torch.Tensor.zero_, torch.Tensor.fill_}
