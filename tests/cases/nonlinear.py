"""Nonlinear operators: pointwise functions, a codec and a network."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from invdiff.operators import JPEG, Clip, Gamma, LogLikelihood, NetworkOperator, Quantize

from .registry import cases_of


@cases_of(Clip, 2)
def _() -> list[Clip]:
    return [Clip((3, 4, 6), -1.0, 1.0, gain=2.0, sigma_y=0.05), Clip((7,), -0.5, float("inf"))]


@cases_of(Gamma, 2)
def _() -> list[Gamma]:
    return [Gamma((2, 3), 2.2, sigma_y=0.05), Gamma((7,), 1 / 2.2)]


@cases_of(JPEG, 2)
def _() -> list[JPEG]:
    # Corners of a block only: a forward derivative of kornia's codec takes tens of milliseconds at any size.
    return [JPEG((3, 1, 2), 10, sigma_y=0.05), JPEG((1, 2, 2), tables=[range(64, 128)])]


def distance(x: Tensor) -> Tensor:
    return -((x - 0.3) ** 2).flatten(1).sum(1) / 8


@cases_of(LogLikelihood, 2)
def _() -> list[LogLikelihood]:
    return [LogLikelihood(distance, (2, 3)), LogLikelihood(distance, (5,), bound=2.0, weight=3.0)]


@cases_of(NetworkOperator, 1)
def _() -> list[NetworkOperator]:
    blur = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Tanh(), nn.Conv2d(4, 2, 3, 2, padding=1))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in blur.parameters():
            weight.copy_(0.3 * torch.randn(weight.shape, generator=generator))
    return [NetworkOperator(blur, (2, 4, 4), sigma_y=0.05)]


@cases_of(Quantize, 2)
def _() -> list[Quantize]:
    return [Quantize((3, 4, 6), 8, low=-1.0, high=1.0, sigma_y=0.05), Quantize((5,), 2, low=0.0, high=1.0)]
