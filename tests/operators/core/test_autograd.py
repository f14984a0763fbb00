"""Maps that are differentiated by their adjoint or by a formula."""

from __future__ import annotations

from typing import cast

import torch
from helpers import randn
from torch import Tensor
from torch.testing import assert_close

from invdiff.operators.core.autograd import with_adjoint, with_derivative


class TestWithAdjoint:
    matrix = randn(3, 4)

    def map(self, x: Tensor) -> Tensor:
        return with_adjoint(x, lambda v: v @ self.matrix.T, lambda w: w @ self.matrix)

    def test_derivatives(self) -> None:
        x = randn(1, 4).requires_grad_()
        assert torch.autograd.gradcheck(self.map, x, check_forward_ad=True, check_batched_grad=True)
        assert torch.autograd.gradgradcheck(lambda v: self.map(v) ** 2, x)
        assert_close(torch.func.jacrev(self.map)(x[0].detach()), self.matrix)
        assert_close(torch.func.jacfwd(self.map)(x[0].detach()), self.matrix)

    def test_takes_the_adjoint_it_is_given(self) -> None:
        x = randn(4).requires_grad_()
        with_adjoint(x, lambda v: v, lambda w: 3 * w).sum().backward()
        assert torch.equal(cast(Tensor, x.grad), torch.full((4,), 3.0).double())


class TestWithDerivative:
    def cube(self, x: Tensor) -> Tensor:
        return with_derivative(x, lambda x: x * x.square().mul_(1), lambda v, x, y: 3 * v * y / x)

    def test_derivatives(self) -> None:
        x = randn(2, 3).requires_grad_()
        assert torch.equal(self.cube(x), x**3)
        assert torch.autograd.gradcheck(self.cube, x, check_forward_ad=True, check_batched_grad=True)
        assert torch.autograd.gradgradcheck(self.cube, x)
        point = x.detach()
        assert_close(torch.func.vmap(torch.func.grad(lambda x: self.cube(x).sum()))(point), 3 * point**2)
        assert_close(torch.func.jacfwd(torch.func.jacrev(self.cube))(point[0]).sum((0, 1)), 6 * point[0])

    def test_takes_the_derivative_it_is_given(self) -> None:
        x = randn(4).requires_grad_()
        with_derivative(x, torch.round, lambda v, x, y: 3 * v).sum().backward()
        assert torch.equal(cast(Tensor, x.grad), torch.full((4,), 3.0).double())
