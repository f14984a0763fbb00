"""Identities, matrices and functions."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from helpers import randn
from operator_checks import assert_near
from torch import Tensor
from torch.testing import assert_close

from invdiff.operators import (
    Function,
    Identity,
    LinearFunction,
    Matrix,
    Operator,
)


class TestIdentity:
    @pytest.mark.parametrize(
        ("in_shape", "error"), [((), ValueError), ((3, 0), ValueError), ((3, 2.5), TypeError), (7, TypeError)]
    )
    def test_rejects_in_shape(self, in_shape: Any, error: type[Exception]) -> None:
        with pytest.raises(error, match="Identity: in_shape must"):
            Identity(in_shape)


class TestMatrix:
    def test_solved_in_inference_mode_it_can_be_differentiated_later(self) -> None:
        op, v = Matrix(randn(4, 6)), randn(2, 4).requires_grad_()
        with torch.inference_mode():
            op.solve(randn(2, 4), 0.1)
        (gradient,) = torch.autograd.grad((op.solve(v, 0.1) * v).sum(), v)
        assert_near(gradient, 2 * op.solve(v.detach(), 0.1), 1e-12)

    def test_is_the_matrix(self) -> None:
        matrix = randn(4, 6)
        x = randn(2, 6, seed=1)
        assert_close(Matrix(matrix)(x), torch.stack([matrix @ item for item in x]))
        assert_close(Matrix(matrix.numpy()).pinv(x[:, :4]), x[:, :4] @ torch.linalg.pinv(matrix).T)

    def test_keeps_its_own_copy(self) -> None:
        matrix = randn(4, 6)
        op = Matrix(matrix)
        matrix.zero_()
        assert op(randn(2, 6)).abs().min() > 0

    @pytest.mark.parametrize(
        ("matrix", "error", "message"),
        [
            (torch.zeros(3), ValueError, r"two-dimensional and not empty, got shape \(3,\)"),
            (torch.zeros(0, 3), ValueError, r"got shape \(0, 3\)"),
            (torch.tensor([[1.0, math.nan]]), ValueError, "must be finite, got 1 NaN or infinite values of 2"),
            (torch.zeros(2, 2, dtype=torch.complex64), TypeError, "must be real, got torch.complex64"),
        ],
    )
    def test_rejects(self, matrix: Tensor, error: type[Exception], message: str) -> None:
        with pytest.raises(error, match=message):
            Matrix(matrix)


class TestFunction:
    def test_learns_the_shape_from_its_first_call(self) -> None:
        calls: list[tuple[torch.Size, torch.dtype]] = []

        def halves(x: Tensor) -> Tensor:
            calls.append((x.shape, x.dtype))
            return x[..., ::2] ** 2

        op = Function(halves, (3, 8), dtype=torch.float64)
        assert op.out_shape == (3, 4)
        assert calls == [((1, 3, 8), torch.float64), *[((2, 3, 8), torch.float64)] * 3]

    @pytest.mark.parametrize("build", [Function, LinearFunction])
    def test_rejects_what_is_not_a_measurement(self, build: Callable[..., Operator]) -> None:
        with pytest.raises(TypeError, match="must return a real floating-point tensor, got list"):
            build(lambda x: x.tolist(), (3,))
        with pytest.raises(TypeError, match=r"got torch\.complex64\. See torch\.view_as_real"):
            build(torch.fft.fft, (3,))
        with pytest.raises(ValueError, match="must be the batch, got shape"):
            build(lambda x: x.sum(), (3,))

    def test_linear_function_agrees_with_the_matrix(self) -> None:
        matrix = randn(4, 6)
        op, reference = LinearFunction(lambda x: x @ matrix.T.to(x), (6,)), Matrix(matrix)
        y = randn(2, 4)
        assert op.out_shape == (4,)
        assert_close(op.adjoint(y), reference.adjoint(y))
        assert_close(op.pinv(y), reference.pinv(y))

    @pytest.mark.parametrize("function", [torch.tanh, torch.abs, lambda x: x + 1, lambda x: x.clamp(-1, 1), lambda x: x / 0])
    def test_rejects_what_is_not_linear(self, function: Callable[[Tensor], Tensor]) -> None:
        with pytest.raises(ValueError, match=r"the function is not linear.* Use Function"):
            LinearFunction(function, (3, 8))

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_rejects_a_wrong_adjoint(self, dtype: torch.dtype) -> None:
        with pytest.raises(ValueError, match="adjoint is not the adjoint of the function"):
            LinearFunction(lambda x: 2 * x.roll(1, -1), (3, 8), adjoint=lambda y: 2 * y.roll(1, -1), dtype=dtype)
        with pytest.raises(ValueError, match=r"adjoint must return shape \(1, 3, 8\) here, got \(1, 3, 4\)"):
            LinearFunction(lambda x: x[..., ::2], (3, 8), adjoint=lambda y: y, dtype=dtype)
