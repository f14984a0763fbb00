"""Operators composed of other operators."""

from __future__ import annotations

import torch

from invdiff.operators import (
    MRI,
    Blur,
    ChannelMix,
    CodedDiffraction,
    CovarianceNoise,
    Downsample,
    Function,
    GaussianNoise,
    Identity,
    Mask,
    Matrix,
    ParallelBeamCT,
    birdcage_maps,
    compose,
)
from invdiff.operators.algebra.add import LinearSum, NonlinearSum
from invdiff.operators.algebra.compose import LinearComposed, NonlinearComposed
from invdiff.operators.algebra.per_item import LinearPerItem, NonlinearPerItem
from invdiff.operators.algebra.repeated import LinearRepeated, NonlinearRepeated
from invdiff.operators.algebra.scale import LinearScaled, NonlinearScaled
from invdiff.operators.algebra.stack import LinearStack, NonlinearStack
from invdiff.operators.algebra.transpose import Adjoint
from invdiff.operators.algebra.whiten import Whitened, WhitenedLinear

from .registry import cases_of


@cases_of(NonlinearSum, 1)
def _() -> list[NonlinearSum]:
    return [NonlinearSum([Function(torch.square, (3, 4), sigma_y=0.05), Identity((3, 4))])]


@cases_of(LinearSum, 2)
def _() -> list[LinearSum]:
    kernel = torch.tensor([[0.1, 0.7, 0.2], [0.0, 0.0, 0.1]], dtype=torch.float64)
    mask = torch.rand(24, 24, generator=torch.Generator().manual_seed(0)) < 0.5
    shape = (1, 24, 24)
    return [
        LinearSum([Blur((3, 8, 12), kernel, sigma_y=0.03), Blur((3, 8, 12), kernel.flip(1), sigma_y=0.04)]),
        # Too many measurements for an eigendecomposition.
        LinearSum([Mask(mask, shape), Blur(shape, kernel), Mask(~mask, shape)]),
    ]


@cases_of(NonlinearComposed, 2)
def _() -> list[NonlinearComposed]:
    saturation, matrix = Function(torch.tanh, (4,)), torch.arange(12.0).reshape(4, 3) / 6
    mask = Mask(torch.tensor([1, 0, 1, 1]), sigma_y=0.05)
    return [
        NonlinearComposed(mask, saturation),
        NonlinearComposed(Function(torch.sin, (4,), sigma_y=0.05), NonlinearComposed(saturation, Matrix(matrix))),
    ]


@cases_of(LinearComposed, 5)
def _() -> list[LinearComposed]:
    g = torch.Generator().manual_seed(0)
    kernel = torch.tensor([[0.1, 0.7, 0.2], [0.0, 0.0, 0.1]], dtype=torch.float64)
    mask, few = (torch.rand(3, 8, 12, generator=g) < 0.6), torch.randn(8, 12, generator=g, dtype=torch.float64)
    rotated = Identity((3, 8, 12), sigma_y=0.05) * 2.0
    hole = torch.ones(24, 24)
    hole[5:15, 8:20] = 0
    blur, blocks = Blur((3, 8, 12), kernel), Downsample((3, 8, 12), 2)
    return [
        LinearComposed(Mask(mask, sigma_y=0.05), blur),
        LinearComposed(rotated, blur),
        LinearComposed(Blur((3, 4, 6), kernel, sigma_y=0.05), blocks),
        # Too many measurements for an eigendecomposition: preconditioned by the blur.
        LinearComposed(Mask(hole, (1, 24, 24)), Blur((1, 24, 24), kernel)),
        LinearComposed(Matrix(few), Matrix(few.mT)),
    ]


@cases_of(NonlinearRepeated, 2)
def _() -> list[NonlinearRepeated]:
    codes = CodedDiffraction.random((1, 3, 4), 2, seed=0)
    bend = Function(lambda x: torch.tanh(x[:, :1] - x[:, 1:]), (2, 3, 4))
    return [NonlinearRepeated(codes, 2, 0, GaussianNoise(0.05)), NonlinearRepeated(bend, 3, 1, GaussianNoise(0.05))]


@cases_of(LinearRepeated, 9)
def _() -> list[LinearRepeated]:
    real = ChannelMix((1, 4, 6), torch.tensor([[1.0], [0.0]]))
    coils = MRI((2, 4, 6), torch.tensor([1, 0, 1, 1, 1, 0]), coil_maps=birdcage_maps(2, 4, 6)) @ real
    kernel, matrix = torch.tensor([[0.1, 0.7, 0.2]]), torch.arange(4.0).reshape(4, 1) / 4
    mask = torch.rand(2, 4, 6, generator=torch.Generator().manual_seed(0)) < 0.6
    by_slice = (Blur((2, 4, 6), kernel), Downsample((2, 4, 6), 2), Mask(mask), coils, Matrix(matrix.mT))
    angles = ParallelBeamCT((1, 6, 6), torch.linspace(0, 150, 6))
    return [
        LinearRepeated(coils, 2, 0, GaussianNoise(0.05)),
        LinearRepeated(Blur((1, 4, 6), kernel), 3, 0, GaussianNoise(0.0)),
        LinearRepeated(Matrix(matrix), 3, 0, GaussianNoise(0.0)),
        *[LinearRepeated(op, 3, 1, GaussianNoise(0.05)) for op in (*by_slice, angles)],
    ]


@cases_of(NonlinearPerItem, 2)
def _() -> list[NonlinearPerItem]:
    steep, wave = (Function(f, (3, 4), sigma_y=0.05) for f in (torch.tanh, torch.sin))
    mask = Mask(torch.tensor([[1], [0], [1]]).expand(3, 4), sigma_y=0.05)
    return [
        NonlinearPerItem([steep, wave], [[0, 2], [1]]),
        NonlinearPerItem([compose(mask, Function(torch.sin, (3, 4))), wave], [[1], [0, 2]]),
    ]


@cases_of(LinearPerItem, 4)
def _() -> list[LinearPerItem]:
    g = torch.Generator().manual_seed(0)
    masks = [Mask(torch.rand(3, 4, 6, generator=g) < share, sigma_y=0.05) for share in (0.3, 0.6, 0.9)]
    kernel = torch.tensor([[0.0, 0.1, 0.0], [0.05, 0.7, 0.2], [0.1, 0.0, 0.0]], dtype=torch.float64)
    circular, mirrored = Blur((1, 8, 8), kernel.flip(1)), Blur((1, 8, 8), kernel, boundary="reflect")
    matrices = torch.randn(2, 4, 6, generator=g, dtype=torch.float64)
    return [
        LinearPerItem(masks, [[0], [1], [2]]),
        LinearPerItem([circular, mirrored], [[1], [0, 2]]),
        LinearPerItem([Matrix(matrix, sigma_y=0.05) for matrix in matrices], [[0, 1], [2]]),
        LinearPerItem([Matrix(matrices[0])], [[0, 1, 2]]),
    ]


@cases_of(NonlinearScaled, 1)
def _() -> list[NonlinearScaled]:
    return [NonlinearScaled(Function(torch.tanh, (3, 4), sigma_y=0.05), -2.0)]


@cases_of(LinearScaled, 4)
def _() -> list[LinearScaled]:
    kernel = torch.tensor([[0.1, 0.7, 0.2], [0.0, 0.0, 0.1]], dtype=torch.float64)
    matrix = torch.randn(4, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    singular = Blur((3, 8, 12), torch.full((1, 4), 0.25), sigma_y=0.05)
    ops = (Mask(torch.tensor([1, 0, 1, 1, 0]), sigma_y=0.05), singular, Blur((1, 24, 24), kernel, boundary="zero"))
    return [LinearScaled(op, factor) for op, factor in zip((*ops, Matrix(matrix)), (2.0, -0.5, 3.0, -1.0), strict=True)]


@cases_of(NonlinearStack, 1)
def _() -> list[NonlinearStack]:
    mask = Mask(torch.tensor([[1, 0, 1, 0], [1, 1, 1, 0]]), sigma_y=0.05)
    return [NonlinearStack([Function(torch.tanh, (2, 4), sigma_y=0.05), mask], axis=-2)]


@cases_of(LinearStack, 3)
def _() -> list[LinearStack]:
    g = torch.Generator().manual_seed(0)
    mask = Mask(torch.rand(8, 12, generator=g) < 0.4, (1, 8, 12), sigma_y=0.05)
    kernel = torch.tensor([[0.1, 0.7, 0.2], [0.0, 0.0, 0.1]], dtype=torch.float64)
    coarse, blur = Downsample((1, 8, 12), 2, sigma_y=0.05), Blur((1, 8, 12), kernel, sigma_y=0.02)
    large = [Mask(torch.rand(20, 20, generator=g) < 0.5), Mask(torch.rand(20, 20, generator=g) < 0.5)]
    return [LinearStack([mask, coarse, mask]), LinearStack([blur, mask, blur], axis=0), LinearStack(large, axis=-1)]


@cases_of(Adjoint, 5)
def _() -> list[Adjoint]:
    matrix = torch.randn(4, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    # With closed forms; too large for an eigendecomposition; singular; and small.
    blur = Blur((1, 24, 24), torch.tensor([[0.2, 0.7, 0.1]], dtype=torch.float64))
    wide = Matrix(torch.cat([matrix] * 100, 1))
    return [Adjoint(op) for op in (Downsample((3, 8, 12), 2), blur, wide, Matrix(matrix), Identity((5,)))]


@cases_of(Whitened, 1)
def _() -> list[Whitened]:
    sigma = torch.linspace(0.1, 0.5, 12, dtype=torch.float64).reshape(3, 4)
    return [Whitened(Function(lambda x: torch.tanh(2 * x), (3, 4)), GaussianNoise(sigma))]


@cases_of(WhitenedLinear, 3)
def _() -> list[WhitenedLinear]:
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(5, 7, generator=generator, dtype=torch.float64)
    covariance = matrix @ matrix.mT + 0.1 * torch.eye(5, dtype=torch.float64)
    sigma = 0.5 + torch.rand(1, 24, 24, generator=generator, dtype=torch.float64)
    kernel = torch.tensor([[0.1, 0.2, 0.0], [0.0, 0.5, 0.1], [0.1, 0.0, 0.0]], dtype=torch.float64)
    return [
        WhitenedLinear(Matrix(matrix), CovarianceNoise(covariance)),
        WhitenedLinear(Mask(sigma > 0.8), GaussianNoise(sigma)),
        WhitenedLinear(Blur((1, 24, 24), kernel), GaussianNoise(sigma)),
    ]
