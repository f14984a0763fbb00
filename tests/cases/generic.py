"""Operators given by a function, a matrix or an affine map."""

from __future__ import annotations

import torch
from torch import Tensor

from invdiff.operators import Affine, Decoder, Function, Identity, LinearFunction, Matrix

from .registry import cases_of


@cases_of(Affine, 2)
def _() -> list[Affine]:
    return [Affine((2, 3, 4), 0.5, 0.5, sigma_y=0.05), Affine((5,), -3.0, 1.0)]


def enlarged(z: Tensor) -> Tensor:
    return torch.tanh(z.repeat_interleave(2, -1).repeat_interleave(2, -2))


@cases_of(Decoder, 1)
def _() -> list[Decoder]:
    return [Decoder(enlarged, (2, 3, 4), rows=2)]


@cases_of(Function, 2)
def _() -> list[Function]:
    saturating = Function(lambda x: torch.tanh(2 * x), (3, 4, 5), sigma_y=0.05)
    phaseless = Function(lambda x: torch.fft.rfft2(x, norm="ortho").abs(), (1, 4, 6), sigma_y=0.05)
    return [saturating, phaseless]


@cases_of(LinearFunction, 3)
def _() -> list[LinearFunction]:
    def differences(x: Tensor) -> Tensor:
        return torch.stack([x - x.roll(1, -1), x - x.roll(1, -2)], 1)

    def differences_adjoint(y: Tensor) -> Tensor:
        along, across = y.unbind(1)
        return along - along.roll(-1, -1) + across - across.roll(-1, -2)

    sums = LinearFunction(lambda x: x.cumsum(-1)[..., 1::2], (3, 8, 12), sigma_y=0.05)
    # More measurements than unknowns, too many for an eigendecomposition, and singular: the mean is not measured.
    return [sums, LinearFunction(differences, (20, 20), adjoint=differences_adjoint), LinearFunction(differences, (20, 20))]


@cases_of(Identity, 2)
def _() -> list[Identity]:
    return [Identity((3, 8, 12), sigma_y=0.05), Identity((5,))]


@cases_of(Matrix, 4)
def _() -> list[Matrix]:
    full = torch.randn(6, 10, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    tall = torch.randn(600, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    # Wide; tall; of rank 2; and with too many measurements for an eigendecomposition.
    return [Matrix(full, sigma_y=0.05), Matrix(full.T, sigma_y=0.05), Matrix(full[:, :2] @ full[:2, :]), Matrix(tall)]
