"""A user's own operator needs ``in_shape`` and ``forward`` alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from helpers import randn
from operator_checks import assert_near, check_adjoint, check_gradient, check_linear, check_pinv, check_prox, check_solve
from torch import Tensor
from torch.testing import assert_close

from invdiff import PosteriorSampler
from invdiff.linalg import dense_matrix
from invdiff.operators import GaussianNoise, LinearOperator, Matrix, Operator
from invdiff.priors import Gaussian


class Double(Operator):
    def __init__(self, in_shape: tuple[int, ...]) -> None:
        self.in_shape = in_shape

    def forward(self, x: Tensor) -> Tensor:
        return 2 * x


class RowSums(LinearOperator):
    def __init__(self, in_shape: tuple[int, ...], sigma_y: float = 0.0) -> None:
        self.in_shape, self.noise = in_shape, GaussianNoise(sigma_y)

    def forward(self, x: Tensor) -> Tensor:
        return x.cumsum(-1)[..., 1::2]


class Weighted(Operator):
    """Its weights are float64: so is the trial."""

    def __init__(self, weights: Tensor) -> None:
        self.in_shape, self.weights = (len(weights),), weights

    def forward(self, x: Tensor) -> Tensor:
        return (x @ self.weights).tanh()


PRIOR = Gaussian(torch.zeros(6, dtype=torch.float64), torch.eye(6, dtype=torch.float64))


def test_shape_and_noise_have_defaults() -> None:
    op, x = Double((3, 4)), randn(2, 3, 4)
    assert repr(op) == "Double((3, 4) -> ...)"
    assert op.out_shape == (3, 4)
    assert op.sigma_y == 0
    assert torch.equal(op.measure(x, seed=0), 2 * x)
    assert_close(op.jacobian(x).adjoint(x), 2 * x)
    assert_close((op @ op - op)(x), 2 * x)
    assert Weighted(randn(6, 2)).out_shape == (2,)


def test_noise_is_its_own() -> None:
    assert RowSums((6,), 0.5).sigma_y == 0.5
    assert RowSums((6,)).sigma_y == 0


@pytest.mark.parametrize("check", [check_linear, check_adjoint, check_gradient, check_solve, check_pinv, check_prox])
def test_the_adjoint_comes_from_automatic_differentiation(check: Any) -> None:
    check(RowSums((3, 4, 6), 0.05))


def test_it_is_solved() -> None:
    op = RowSums((6,), 0.3)
    reference = Matrix(dense_matrix(op.forward, (6,), dtype=torch.float64, device=torch.device("cpu")), sigma_y=0.3)
    y = op.measure(randn(1, 6), seed=1)
    runs = [PosteriorSampler(PRIOR, each, method="mmps", steps=4).run(y, num_samples=3, seed=0) for each in (op, reference)]
    assert_near(runs[0].samples.flatten(1), runs[1].samples.flatten(1), 1e-8)
    nonlinear = Double((6,))
    nonlinear.noise = GaussianNoise(0.1)
    post = PosteriorSampler(PRIOR, nonlinear, steps=50).run(nonlinear.measure(randn(1, 6), seed=1), num_samples=2, seed=0)
    assert (post.samples - randn(1, 6)).abs().max() < 1


def test_what_it_returns_is_checked() -> None:
    class Listed(Double):
        def forward(self, x: Tensor) -> Tensor:
            return x.tolist()  # type: ignore[return-value]

    with pytest.raises(TypeError, match="Listed: the function must return a real floating-point tensor, got list"):
        Listed((3,)).out_shape  # noqa: B018
