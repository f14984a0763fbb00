"""What the transforms share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from helpers import randn
from torch.testing import assert_close

from invdiff.operators import (
    MRI,
    CodedDiffraction,
    CumulativeSum,
    FiniteDifferences,
    FourierMask,
    GaussianNoise,
    Hadamard,
    LinearOperator,
    Magnitude,
    Operator,
    PhaseRetrieval,
    RandomConvolution,
    SubsampledConvolution,
    birdcage_maps,
    cartesian_mask,
)


@pytest.mark.parametrize(
    "op",
    [
        Hadamard.random((2, 64, 128), 100, seed=0),
        RandomConvolution((2, 65, 90), 100, seed=0),
        FourierMask((2, 65, 90), torch.arange(90) % 3 == 0),
        MRI((2, 65, 90), torch.arange(90) % 3 == 0),
        MRI((2, 65, 90), torch.ones(90), coil_maps=birdcage_maps(2, 65, 90)),
        FiniteDifferences((2, 65, 90), boundary="circular"),
        FiniteDifferences((2, 65, 90), boundary="zero"),
        CumulativeSum((2, 65, 90), -1),
    ],
    ids=lambda op: type(op).__name__,
)
def test_structure_gives_a_decomposition_at_any_size(op: LinearOperator) -> None:
    svd, x, y = op.svd, randn(2, *op.in_shape), randn(2, *op.out_shape, seed=1)
    assert svd is not None
    assert_close(svd.measured(op(x)), svd.singular * svd.analyze(x), rtol=0, atol=1e-11)
    assert_close(svd.synthesize(svd.singular * svd.measured(y)), op.adjoint(y), rtol=0, atol=1e-11)


@pytest.mark.parametrize(
    "build",
    [
        lambda **k: Hadamard((4,), [0], **k),
        lambda **k: Hadamard.random((4,), 1, seed=0, **k),
        lambda **k: RandomConvolution((1, 2, 2), 1, seed=0, **k),
        lambda **k: FourierMask((1, 2, 2), torch.ones(2), **k),
        lambda **k: MRI((2, 2, 2), torch.ones(2), **k),
        lambda **k: FiniteDifferences((1, 2, 2), **k),
        lambda **k: CumulativeSum((2,), 0, **k),
        lambda **k: SubsampledConvolution((1, 2), torch.ones(1), stride=1, boundary="zero", **k),
        lambda **k: PhaseRetrieval((1, 2, 2), oversampling=2.0, **k),
        lambda **k: CodedDiffraction((1, 2, 2), torch.ones(1, 2, 2), **k),
        lambda **k: CodedDiffraction.random((1, 2, 2), 1, seed=0, **k),
        lambda **k: Magnitude((2,), **k),
    ],
)
def test_takes_a_noise_model(build: Callable[..., Operator]) -> None:
    assert build(sigma_y=0.2).sigma_y == 0.2
    assert build(noise=GaussianNoise(0.3)).sigma_y == 0.3


@pytest.mark.parametrize(
    "build",
    [
        lambda seed: Hadamard((4,), [0], sign_seed=seed),
        lambda seed: Hadamard.random((4,), 1, seed=seed),
        lambda seed: RandomConvolution((1, 2, 2), 1, seed=seed),
        lambda seed: CodedDiffraction.random((1, 2, 2), 1, seed=seed),
        lambda seed: cartesian_mask(2, 2, acceleration=1, center_fraction=0.5, seed=seed),
    ],
)
def test_rejects_seed(build: Callable[[Any], object]) -> None:
    with pytest.raises(ValueError, match="seed must be a non-negative integer below 2\\^63, got -1"):
        build(-1)
    with pytest.raises(TypeError, match=r"seed must be an integer, got 0\.5"):
        build(0.5)


@pytest.mark.parametrize("rho", [1e-8, 1e-3])
@pytest.mark.parametrize(
    "op",
    [
        FourierMask((1, 32, 33), torch.ones(33)),
        MRI((2, 32, 32), torch.ones(32), coil_maps=birdcage_maps(4, 32, 32)),
        *(FiniteDifferences((1, 32, 32), boundary=boundary) for boundary in ("circular", "replicate", "zero")),
    ],
    ids=["pairs", "coils", "circular", "replicate", "zero"],
)
class TestHardlyAnyNoise:
    """Where there are more measurements than unknowns, what no image explains weighs 1 / rho in ``solve``."""

    def test_prox_in_float32(self, op: LinearOperator, rho: float) -> None:
        z, y = randn(2, *op.in_shape), randn(2, *op.out_shape, seed=1)
        expected = op.prox(z, y, rho)
        assert_close(LinearOperator.prox(op, z, y, rho), expected, rtol=0, atol=1e-5)
        assert_close(op.prox(z.float(), y.float(), rho).double(), expected, rtol=0, atol=1e-4)

    def test_prox_per_item(self, op: LinearOperator, rho: float) -> None:
        z, y, per_item = randn(2, *op.in_shape), randn(2, *op.out_shape, seed=1), torch.tensor([rho, 0.5])
        together = op.prox(z, y, per_item.double().reshape(2, 1, 1, 1))
        assert_close(together[:1], op.prox(z[:1], y[:1], rho), rtol=0, atol=1e-6)
        assert_close(together[1:], op.prox(z[1:], y[1:], 0.5))
