"""The training optimizer: Muon for convolution kernels, AdamW for all other weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from invdiff.priors.load import has_bfloat16_units

__all__ = ["Float32Muon", "MuonAdamW", "orthogonalise"]


class MuonAdamW:
    r"""Muon for every inner convolution kernel, reshaped to a matrix of outputs by inputs; AdamW for everything else.

    Muon replaces the momentum of a matrix by the nearest orthogonal matrix, so that all directions are learned at the same
    rate. The updates are scaled to the size of AdamW updates, so that one learning rate serves both.

    Args:
        net: The network, with its kernels in channels-last memory format. AdamW also updates the first and the last
            convolution, which act on pixels, and the convolutions of the noise maps, which are initialized to zero and have few
            input features.
        rate: Learning rate.

    References:
        Jordan et al., 2024, https://kellerjordan.github.io/posts/muon; Liu et al., 2025, https://arxiv.org/abs/2502.16982
        (the scaling)
    """

    def __init__(self, net: nn.Module, *, rate: float) -> None:
        named = list(net.named_parameters())
        self.kernels = [p for name, p in named if p.ndim == 4 and not _is_outer(name)]
        # Views of the same memory: Muon takes matrices only.
        self.matrices = [nn.Parameter(_matrix(p.detach())) for p in self.kernels]
        inner = {id(p) for p in self.kernels}
        others = [p for _, p in named if id(p) not in inner]
        muon = torch.optim.Muon if has_bfloat16_units(self.kernels[0].device) else Float32Muon
        self.parts: list[torch.optim.Optimizer] = [
            torch.optim.AdamW(others, lr=rate, betas=(0.9, 0.99), weight_decay=1e-4),
            muon(self.matrices, lr=rate, momentum=0.95, weight_decay=1e-4, adjust_lr_fn="match_rms_adamw"),
        ]

    def step(self, rate: float) -> None:
        """Update the weights from their gradients, with learning rate ``rate``."""
        for matrix, kernel in zip(self.matrices, self.kernels, strict=True):
            matrix.grad = None if kernel.grad is None else _matrix(kernel.grad)
        for part in self.parts:
            for group in part.param_groups:
                group["lr"] = rate
            part.step()

    def state_dict(self) -> list[dict[str, Any]]:
        return [part.state_dict() for part in self.parts]

    def load_state_dict(self, state: list[dict[str, Any]]) -> None:
        """Continue from what :meth:`state_dict` returned.

        Raises:
            ValueError: If it belongs to another network, or is not finite.
        """
        for part, saved in zip(self.parts, state, strict=True):
            part.load_state_dict(saved)
            for weight, kept in part.state.items():
                for name, value in kept.items():
                    if not isinstance(value, Tensor) or (value.ndim and value.shape != weight.shape):
                        raise ValueError(f"{name} of the optimizer does not fit a weight of shape {tuple(weight.shape)}")
                    if not value.isfinite().all():
                        raise ValueError(f"{name} of the optimizer is not finite")


class Float32Muon(torch.optim.Muon):
    """``torch.optim.Muon`` in float32. The original computes in bfloat16, for which most CPUs have no hardware units.

    Settings and state are those of ``torch.optim.Muon`` with ``nesterov=True`` and ``adjust_lr_fn="match_rms_adamw"``.
    """

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Update every matrix along its orthogonalized momentum."""
        for group in self.param_groups:
            for matrix in group["params"]:
                if matrix.grad is None:
                    continue
                momentum = self.state[matrix].setdefault("momentum_buffer", torch.zeros_like(matrix.grad))
                momentum.lerp_(matrix.grad, 1 - group["momentum"])
                update = orthogonalise(
                    matrix.grad.lerp(momentum, group["momentum"]), group["ns_coefficients"], group["ns_steps"]
                )
                matrix.mul_(1 - group["lr"] * group["weight_decay"])
                matrix.add_(update, alpha=-0.2 * max(matrix.shape) ** 0.5 * group["lr"])


def orthogonalise(matrix: Tensor, coefficients: tuple[float, float, float], steps: int) -> Tensor:
    r"""Return a matrix with the singular vectors of ``matrix`` and singular values near 1, by Newton-Schulz iteration.

    .. math:: X \leftarrow p(X X^\top)\, X, \qquad p(G) = a I + b\, G + c\, G^2

    Each step maps :math:`G = X X^\top` to :math:`p(G)\, G\, p(G)`. The iteration therefore runs on this small square matrix and
    accumulates the product of the polynomials, which commute; the wide matrix is multiplied only at the beginning and at the
    end.

    Args:
        matrix: A float32 matrix of any shape.
        coefficients: :math:`(a, b, c)`.
        steps: Number of iterations.

    References:
        Jordan et al., 2024, https://kellerjordan.github.io/posts/muon
    """
    if len(matrix) > matrix.shape[1]:
        return orthogonalise(matrix.T, coefficients, steps).T
    a, b, c = coefficients
    x = matrix / matrix.norm().clamp(min=1e-7)
    gram, total = x @ x.T, torch.eye(len(x), dtype=x.dtype, device=x.device)
    for _ in range(steps):
        factor = torch.addmm(gram, gram, gram, beta=b, alpha=c)
        factor.diagonal().add_(a)
        gram, total = factor @ gram @ factor, factor @ total
    orthogonal: Tensor = total @ x
    return orthogonal


def _is_outer(name: str) -> bool:
    return name in ("first.weight", "last.weight") or any(part.startswith("map_") for part in name.split("."))


def _matrix(kernel: Tensor) -> Tensor:
    return kernel.permute(0, 2, 3, 1).reshape(len(kernel), -1)
