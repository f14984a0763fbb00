"""Noise models, for measurements of shape ``(2, 3)`` around 0."""

from __future__ import annotations

import torch

from invdiff.operators import (
    CorrelatedNoise,
    CovarianceNoise,
    GaussianNoise,
    LaplaceNoise,
    LinearFunction,
    PoissonGaussianNoise,
    PoissonNoise,
    RoundingNoise,
    StudentNoise,
    TransmissionNoise,
)
from invdiff.operators.core.concatenation import Concatenation
from invdiff.operators.noise.joined import JoinedNoise
from invdiff.operators.noise.tempered import TemperedNoise

from .registry import cases_of


@cases_of(GaussianNoise, 2)
def _() -> list[GaussianNoise]:
    return [GaussianNoise(0.3), GaussianNoise(torch.tensor([[0.1, 0.2, 0.3], [0.4, 0.5, 0.6]], dtype=torch.float64))]


@cases_of(CovarianceNoise, 1)
def _() -> list[CovarianceNoise]:
    factor = torch.randn(6, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return [CovarianceNoise(0.05 * factor @ factor.mT + 0.02 * torch.eye(6))]


@cases_of(CorrelatedNoise, 1)
def _() -> list[CorrelatedNoise]:
    return [
        CorrelatedNoise(LinearFunction(lambda x: x + 0.4 * x.roll(1, -1), (2, 3), adjoint=lambda y: y + 0.4 * y.roll(-1, -1)))
    ]


@cases_of(StudentNoise, 1)
def _() -> list[StudentNoise]:
    return [StudentNoise(0.3, dof=3.0)]


@cases_of(LaplaceNoise, 1)
def _() -> list[LaplaceNoise]:
    return [LaplaceNoise(0.3)]


@cases_of(PoissonGaussianNoise, 1)
def _() -> list[PoissonGaussianNoise]:
    return [PoissonGaussianNoise(0.05, offset=-1.5, sigma=0.1)]


@cases_of(PoissonNoise, 1)
def _() -> list[PoissonNoise]:
    return [PoissonNoise(0.05, offset=-1.5)]


@cases_of(TransmissionNoise, 2)
def _() -> list[TransmissionNoise]:
    flats = torch.tensor([[30.0, 50.0, 80.0], [130.0, 210.0, 340.0]], dtype=torch.float64)
    return [TransmissionNoise(60.0, scale=0.7), TransmissionNoise(flats, background=flats[:1] / 20, scale=1.3)]


@cases_of(RoundingNoise, 3)
def _() -> list[RoundingNoise]:
    steps = torch.tensor([[0.1, 0.2, 0.3], [0.4, 0.5, 0.6]], dtype=torch.float64)
    return [
        RoundingNoise(0.25, offset=-1.0),
        RoundingNoise(steps, offset=0.0),
        RoundingNoise(steps[:1], offset=steps[:, :1] - 1),
    ]


@cases_of(JoinedNoise, 1)
def _() -> list[JoinedNoise]:
    return [JoinedNoise([GaussianNoise(0.2), LaplaceNoise(0.3)], Concatenation(((2, 2), (2, 1)), 1))]


@cases_of(TemperedNoise, 1)
def _() -> list[TemperedNoise]:
    return [TemperedNoise(PoissonNoise(0.05, offset=-1.5), 3)]
