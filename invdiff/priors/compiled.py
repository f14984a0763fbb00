"""A network compiled by ``torch.compile``, and the network itself where compiling fails."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["CompiledNetwork"]


class CompiledNetwork:
    """A network whose small operations are fused into few kernels, for calls and for gradients with respect to its input.

    Launching kernels bounds small networks on a GPU. Every new shape of the input compiles again, which takes a minute or more;
    after eight of them PyTorch leaves further shapes as they are. Compiled for any shape, PyTorch would refuse the second
    gradient through one graph.

    The kernels are not captured in CUDA graphs (``mode="reduce-overhead"``). A graph owns the memory of the activations, and
    the next call of the network overwrites them, whereas a sampler takes several products at one state, also after it has
    evaluated the network at another.

    Args:
        net: The network, called with its input and anything else.
        how: Further arguments of ``torch.compile``.

    Attributes:
        failures: Why compiling failed; empty if it has not. Copies made by :meth:`of` share it.
    """

    def __init__(self, net: nn.Module, **how: Any) -> None:
        self.net, self.how = net, how
        self.failures: list[str] = []
        self._run: Callable[..., Any] | None = None
        self._differentiated: set[torch.Size] = set()

    def of(self, net: nn.Module) -> CompiledNetwork:
        """Return the same for another network, such as a copy on another device."""
        other = copy.copy(self)
        other.net, other._run, other._differentiated = net, None, set()
        return other

    def __call__(self, x: Tensor, *others: Any) -> Any:
        if self.failures:
            return self.net(x, *others)
        try:
            if self._run is None:
                self._run = torch.compile(self.net, dynamic=False, **self.how)
            if torch.is_grad_enabled() and x.requires_grad and x.shape not in self._differentiated:
                self._differentiate(self._run, x, *others)
            return self._run(x, *others)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # Every backend raises its own exceptions.
            output = self.net(x, *others)  # First: an error of the network itself is not one of compiling.
            self.failures.append(" ".join(str(error).split())[:200] or type(error).__name__)
            warnings.warn(f"torch.compile failed ({self.failures[0]}); the network runs without it.", stacklevel=2)
            return output

    def _differentiate(self, run: Callable[..., Any], x: Tensor, *others: Any) -> None:
        """Compile the gradient now, where a failure can still be answered, and for graphs that are differentiated again."""
        x = x.detach().requires_grad_()
        output: Any = run(x, *others)
        output = output if isinstance(output, Tensor) else output.sample  # As from diffusers.
        for _ in range(2):
            torch.autograd.grad(output, x, torch.ones_like(output), retain_graph=True)
        self._differentiated.add(x.shape)

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"_run": None, "_differentiated": set()}  # What is compiled can neither be copied nor saved.
