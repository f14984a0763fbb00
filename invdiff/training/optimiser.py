"""The optimiser of the training: Muon for the kernels of convolutions, AdamW for all other weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["MuonAdamW"]


class MuonAdamW:
    r"""Muon on every inner convolution kernel, seen as a matrix of outputs by inputs; AdamW on everything else.

    Muon replaces the momentum of a matrix by the nearest orthogonal matrix, so that all directions learn at one pace. With
    updates scaled to the size that AdamW's have, one learning rate serves both.

    Args:
        net: The network, its kernels in channels-last memory. The first and the last convolution, which touch the pixels, are
            AdamW's.
        rate: Learning rate.

    References:
        Jordan et al., 2024, https://kellerjordan.github.io/posts/muon; Liu et al., 2025, https://arxiv.org/abs/2502.16982
        (the scaling)
    """

    def __init__(self, net: nn.Module, *, rate: float) -> None:
        outer = {"first.weight", "last.weight"}
        named = list(net.named_parameters())
        self.kernels = [p for name, p in named if p.ndim == 4 and name not in outer]
        # Views of the same memory: Muon takes matrices only.
        self.matrices = [nn.Parameter(_matrix(p.detach())) for p in self.kernels]
        inner = {id(p) for p in self.kernels}
        others = [p for _, p in named if id(p) not in inner]
        self.parts: list[torch.optim.Optimizer] = [
            torch.optim.AdamW(others, lr=rate, betas=(0.9, 0.99), weight_decay=1e-4),
            torch.optim.Muon(self.matrices, lr=rate, momentum=0.95, weight_decay=1e-4, adjust_lr_fn="match_rms_adamw"),
        ]

    def step(self, rate: float) -> None:
        """Move the weights along their gradients at learning rate ``rate``."""
        for matrix, kernel in zip(self.matrices, self.kernels, strict=True):
            matrix.grad = None if kernel.grad is None else _matrix(kernel.grad)
        for part in self.parts:
            for group in part.param_groups:
                group["lr"] = rate
            part.step()

    def state_dict(self) -> list[dict[str, Any]]:
        return [part.state_dict() for part in self.parts]

    def load_state_dict(self, state: list[dict[str, Any]]) -> None:
        for part, saved in zip(self.parts, state, strict=True):
            part.load_state_dict(saved)


def _matrix(kernel: Tensor) -> Tensor:
    return kernel.permute(0, 2, 3, 1).reshape(len(kernel), -1)
