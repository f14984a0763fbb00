"""Laws of the linear algebra: right, and right for each item whatever its neighbours are."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from helpers import dot, norm, randn
from torch import Tensor
from torch.testing import assert_close

from invdiff.linalg import (
    conjugate_gradients,
    dense_matrix,
    gmres,
    largest_singular_value,
    least_squares,
    linear_adjoint,
    over_items,
    positive_solve,
)


def positive(batch: int, size: int, *, condition: float = 100.0, seed: int = 0) -> Tensor:
    q, _ = torch.linalg.qr(randn(batch, size, size, seed=seed))
    return q * torch.logspace(0, -torch.tensor(condition).log10(), size, dtype=q.dtype) @ q.mT


def times(matrix: Tensor) -> Any:
    return lambda v: (matrix @ v.flatten(1).unsqueeze(-1)).reshape(v.shape)


def test_inner_products_run_over_items_alone() -> None:
    a, b = randn(3, 2, 4, seed=1), randn(3, 2, 4, seed=2)
    assert_close(dot(a, b), torch.stack([(x * y).sum() for x, y in zip(a, b, strict=True)]))
    assert_close(norm(a) ** 2, dot(a, a))
    assert over_items(norm(a), a).shape == (3, 1, 1)


class TestConjugateGradients:
    @pytest.mark.parametrize("event", [(12,), (3, 2, 2)])
    def test_solves(self, event: tuple[int, ...]) -> None:
        matrix, b = positive(4, 12), randn(4, *event, seed=1)
        v = conjugate_gradients(times(matrix), b, rtol=1e-12)
        assert_close(v.flatten(1), torch.linalg.solve(matrix, b.flatten(1)), rtol=1e-10, atol=1e-10)

    def test_an_item_does_not_depend_on_its_neighbours(self) -> None:
        # One is done before it starts, one at once, one after few and one after many iterations.
        matrix, b = positive(4, 12), randn(4, 12, seed=1)
        matrix[1], matrix[2] = torch.eye(12), positive(1, 12, condition=1.1)[0]
        matrix[3] = positive(1, 12, condition=1e5)[0]
        b[0] = 0
        together = conjugate_gradients(times(matrix), b, rtol=1e-10)
        alone = [conjugate_gradients(times(m[None]), r[None], rtol=1e-10) for m, r in zip(matrix, b, strict=True)]
        assert_close(together, torch.cat(alone), rtol=1e-12, atol=1e-12)
        assert (together[0] == 0).all()

    def test_a_singular_consistent_system_gives_the_least_norm(self) -> None:
        root = randn(2, 12, 5)
        matrix = root @ root.mT
        b = times(matrix)(randn(2, 12, seed=1))
        v = conjugate_gradients(times(matrix), b, rtol=1e-12)
        expected = (torch.linalg.pinv(matrix, hermitian=True) @ b.unsqueeze(-1)).squeeze(-1)
        assert_close(v, expected, rtol=1e-8, atol=1e-8)

    def test_negative_curvature_stops_the_item_and_no_other(self) -> None:
        matrix, b = positive(3, 6), randn(3, 6, seed=1)
        matrix[1] = torch.diag(torch.tensor([1.0, 1, 1, 1, -3, -3], dtype=b.dtype))
        v = conjugate_gradients(times(matrix), b, rtol=1e-12)
        assert v.isfinite().all()
        assert_close(v[[0, 2]], torch.linalg.solve(matrix, b)[[0, 2]], rtol=1e-9, atol=1e-9)

    def test_what_is_not_finite_stays_so(self) -> None:
        matrix, b = positive(3, 6), randn(3, 6, seed=1)
        b[1, 2] = torch.inf
        v = conjugate_gradients(times(matrix), b, rtol=1e-12)
        assert not v[1].isfinite().any()
        assert_close(v[[0, 2]], torch.linalg.solve(matrix[[0, 2]], b[[0, 2]]), rtol=1e-9, atol=1e-9)

    def test_preconditioned_it_solves_the_same_system(self) -> None:
        matrix, other, b = positive(4, 12), positive(4, 12, seed=3), randn(4, 3, 4, seed=1)
        v = conjugate_gradients(times(matrix), b, precondition=times(other), rtol=1e-12)
        assert_close(v.flatten(1), torch.linalg.solve(matrix, b.flatten(1)), rtol=1e-9, atol=1e-9)
        for i in range(4):
            alone = conjugate_gradients(
                times(matrix[i : i + 1]), b[i : i + 1], precondition=times(other[i : i + 1]), rtol=1e-12
            )
            assert_close(v[i : i + 1], alone, rtol=1e-12, atol=1e-12)

    def test_the_inverse_as_preconditioner_takes_one_product(self) -> None:
        matrix, b, calls = positive(3, 12), randn(3, 12, seed=1), []
        inverse = times(torch.linalg.inv(matrix))
        v = conjugate_gradients(lambda p: calls.append(1) or times(matrix)(p), b, precondition=inverse, rtol=1e-10)
        assert_close(v, torch.linalg.solve(matrix, b))
        assert len(calls) == 1

    def test_preconditioned_it_stops_at_the_residual_itself(self) -> None:
        # Not at that of the preconditioned residual, a million times smaller. By a power of two: no rounding tells them apart.
        matrix, b = positive(2, 40, condition=1e4), randn(2, 40, seed=1)
        v = conjugate_gradients(times(matrix), b, precondition=lambda r: 2.0**-20 * r, rtol=1e-3)
        assert_close(v, conjugate_gradients(times(matrix), b, rtol=1e-3))
        assert (norm(b - times(matrix)(v)) <= 1.0001e-3 * norm(b)).all()

    def test_a_preconditioner_that_is_not_positive_stops_the_item_and_no_other(self) -> None:
        matrix, b = positive(3, 6), randn(3, 6, seed=1)
        signs = torch.tensor([1.0, -1.0, 1.0], dtype=b.dtype)
        v = conjugate_gradients(times(matrix), b, precondition=lambda r: over_items(signs, r) * r, rtol=1e-12)
        assert (v[1] == 0).all()
        assert_close(v[[0, 2]], torch.linalg.solve(matrix, b)[[0, 2]], rtol=1e-9, atol=1e-9)

    def test_stops_at_the_tolerance_and_at_the_count(self) -> None:
        matrix, b = positive(2, 40, condition=1e4), randn(2, 40, seed=1)
        v = conjugate_gradients(times(matrix), b, rtol=1e-2)
        assert (norm(b - times(matrix)(v)) <= 1.0001e-2 * norm(b)).all()
        calls: list[int] = []
        conjugate_gradients(lambda p: calls.append(1) or times(matrix)(p), b, rtol=1e-12, max_iterations=4)
        assert len(calls) == 4


def product(matrix: Tensor) -> Any:
    return lambda v: (matrix @ v.unsqueeze(-1)).squeeze(-1)


class TestLeastSquares:
    @pytest.mark.parametrize(("rows", "columns", "rank"), [(12, 12, 12), (16, 9, 9), (9, 16, 9), (14, 11, 5)])
    def test_is_the_pseudo_inverse(self, rows: int, columns: int, rank: int) -> None:
        matrix, b = randn(3, rows, rank) @ randn(3, rank, columns, seed=1), randn(3, rows, seed=2)
        x = least_squares(product(matrix), product(matrix.mT), b, rtol=1e-13)
        assert_close(x, (torch.linalg.pinv(matrix, rtol=1e-10) @ b.unsqueeze(-1)).squeeze(-1), rtol=1e-8, atol=1e-8)

    @pytest.mark.parametrize("start", [None, 0.1, 1e6])
    def test_damping(self, start: float | None) -> None:
        matrix, b, rho = randn(3, 12, 9), randn(3, 12, seed=1), torch.tensor([0.0, 0.1, 30.0], dtype=torch.float64)
        first = None if start is None else start * randn(3, 9, seed=2)
        x = least_squares(product(matrix), product(matrix.mT), b, damping=rho, start=first, rtol=1e-13)
        normal = matrix.mT @ matrix + rho.reshape(3, 1, 1) * torch.eye(9, dtype=torch.float64)
        assert_close(x, torch.linalg.solve(normal, product(matrix.mT)(b)), rtol=1e-9, atol=1e-9)
        # From the answer there is nowhere to go, and from far away no start at all.
        few = least_squares(product(matrix), product(matrix.mT), b, damping=rho, start=x, rtol=1e-9, max_iterations=1)
        assert_close(few, x, rtol=1e-9, atol=1e-9)

    def test_in_float32_nothing_grows_in_the_null_space(self) -> None:
        # Asked for more than float32 has, over and over: A^T A x = A^T b leaves it a null space to grow in.
        matrix = (randn(2, 30, 8) @ randn(2, 8, 30, seed=1)).float()
        b = randn(2, 30, seed=2, dtype=torch.float32)
        expected = torch.linalg.pinv(matrix.double(), rtol=1e-5) @ b.double().unsqueeze(-1)
        x = least_squares(product(matrix), product(matrix.mT), b, rtol=0.0)
        assert (norm(x.double() - expected.squeeze(-1)) <= 1e-4 * norm(expected.squeeze(-1))).all()
        normal = conjugate_gradients(product(matrix.mT @ matrix), product(matrix.mT)(b), rtol=0.0)
        assert not (norm(normal.double() - expected.squeeze(-1)) <= norm(expected.squeeze(-1))).all()

    def test_an_item_does_not_depend_on_its_neighbours(self) -> None:
        matrix, b = randn(3, 8, 5), randn(3, 8, seed=1)
        matrix[1] = torch.eye(8, 5)
        b[0], b[2, 3] = 0, torch.inf
        x = least_squares(product(matrix), product(matrix.mT), b, rtol=1e-12)
        alone = least_squares(product(matrix[1:2]), product(matrix[1:2].mT), b[1:2], rtol=1e-12)
        assert (x[0] == 0).all()
        assert_close(x[1:2], alone, rtol=1e-12, atol=1e-12)
        assert not x[2].isfinite().any()

    def test_stops_at_the_count(self) -> None:
        calls: list[int] = []
        matrix = randn(1, 20, 20)
        least_squares(
            lambda p: calls.append(1) or product(matrix)(p), product(matrix.mT), randn(1, 20), rtol=1e-12, max_iterations=3
        )
        assert len(calls) == 3


class TestGMRES:
    """Of any square matrix, with the product of another one added up on the way."""

    @staticmethod
    def solve(matrix: Tensor, b: Tensor, *, rtol: float = 1e-12, max_iterations: int = 40) -> tuple[Tensor, Tensor]:
        return gmres(lambda q: (times(matrix)(q), 2 * q[:, :3]), b, rtol=rtol, max_iterations=max_iterations)

    @pytest.mark.parametrize("event", [(12,), (4, 3)])
    def test_solves_and_adds_up_the_by_product(self, event: tuple[int, ...]) -> None:
        matrix, b = positive(4, 12) + 0.2 * randn(4, 12, 12, seed=2), randn(4, *event, seed=1)
        v, by_product = self.solve(matrix, b)
        assert_close(v.flatten(1), torch.linalg.solve(matrix, b.flatten(1)), rtol=1e-8, atol=1e-8)
        assert_close(by_product, 2 * v[:, :3])

    def test_an_item_does_not_depend_on_its_neighbours(self) -> None:
        matrix, b = positive(4, 12), randn(4, 12, seed=1)
        matrix[1], matrix[2] = torch.eye(12), positive(1, 12, condition=1.1)[0]
        b[0] = 0
        for rtol in (1e-2, 1e-10):
            together = self.solve(matrix, b, rtol=rtol)
            for i in range(4):
                alone = self.solve(matrix[i : i + 1], b[i : i + 1], rtol=rtol)
                assert_close(together[0][i], alone[0][0], rtol=1e-12, atol=1e-12)
                assert_close(together[1][i], alone[1][0], rtol=1e-12, atol=1e-12)
            assert (together[0][0] == 0).all()

    def test_is_the_least_residual_of_its_krylov_space(self) -> None:
        matrix, b = randn(3, 12, 12), randn(3, 12, seed=1)
        for count in (1, 2, 5):
            powers = [b]
            for _ in range(count):
                powers.append(times(matrix)(powers[-1]))
            best = torch.linalg.lstsq(torch.stack(powers[1:], -1), b.unsqueeze(-1)).solution.squeeze(-1)
            expected = torch.einsum("bnk,bk->bn", torch.stack(powers[:-1], -1), best)
            assert_close(self.solve(matrix, b, max_iterations=count)[0], expected, rtol=1e-8, atol=1e-8)

    def test_a_singular_consistent_system_gives_the_least_norm(self) -> None:
        root = randn(2, 12, 5)
        matrix = root @ root.mT
        b = times(matrix)(randn(2, 12, seed=1))
        expected = (torch.linalg.pinv(matrix, hermitian=True) @ b.unsqueeze(-1)).squeeze(-1)
        assert_close(self.solve(matrix, b)[0], expected, rtol=1e-8, atol=1e-8)

    def test_what_is_not_finite_stays_so(self) -> None:
        matrix, b = positive(3, 6), randn(3, 6, seed=1)
        for bad in (torch.inf, torch.nan):
            b[1, 2] = bad
            v, by_product = self.solve(matrix, b)
            assert not v[1].isfinite().any()
            assert not by_product[1].isfinite().any()
            assert_close(v[[0, 2]], torch.linalg.solve(matrix[[0, 2]], b[[0, 2]]), rtol=1e-8, atol=1e-8)

    def test_nothing_to_solve(self) -> None:
        v, by_product = self.solve(positive(2, 6), torch.zeros(2, 6, dtype=torch.float64))
        assert v.shape == (2, 6)
        assert by_product.shape == (2, 3)
        assert not v.any()
        assert not by_product.any()

    def test_stops_at_the_tolerance(self) -> None:
        matrix, b, calls = positive(2, 40, condition=1e4), randn(2, 40, seed=1), []

        def product(q: Tensor) -> tuple[Tensor, Tensor]:
            calls.append(q)
            return times(matrix)(q), q

        v, _ = gmres(product, b, rtol=1e-2, max_iterations=40)
        assert (norm(b - times(matrix)(v)) <= 1.0001e-2 * norm(b)).all()
        assert len(calls) < 40


class TestPositiveSolve:
    def test_solves(self) -> None:
        matrix, b = positive(5, 6), randn(5, 6, seed=1)
        assert_close(positive_solve(matrix, b, floor=1e-9), torch.linalg.solve(matrix, b), rtol=1e-10, atol=1e-10)

    def test_lifts_small_eigenvalues_of_each_item(self) -> None:
        matrix, b = positive(4, 5), randn(4, 5, seed=1)
        matrix[1] -= 0.3 * torch.eye(5)
        floor = torch.tensor([1e-6, 0.05, 0.2, 1e-6], dtype=b.dtype)
        values, vectors = torch.linalg.eigh(matrix)
        lifted = vectors * torch.maximum(values, floor[:, None]).unsqueeze(1) @ vectors.mT
        assert_close(positive_solve(matrix, b, floor=floor), torch.linalg.solve(lifted, b))

    def test_takes_the_symmetric_part(self) -> None:
        matrix, skew, b = positive(3, 5), randn(3, 5, 5, seed=2), randn(3, 5, seed=1)
        assert_close(positive_solve(matrix + skew - skew.mT, b, floor=1e-9), torch.linalg.solve(matrix, b))

    def test_an_item_that_is_not_finite_does_not_touch_the_others(self) -> None:
        matrix, b = positive(3, 5), randn(3, 5, seed=1)
        matrix[1, 2, 2] = torch.nan
        v = positive_solve(matrix, b, floor=1e-9)
        assert v[1].isnan().all()
        assert_close(v[[0, 2]], torch.linalg.solve(matrix[[0, 2]], b[[0, 2]]))


@pytest.mark.parametrize("chunk", [1, 5, 256])
def test_dense_matrix(chunk: int) -> None:
    matrix = randn(7, 12)
    built = dense_matrix(
        lambda x: x.flatten(1) @ matrix.mT, (3, 4), dtype=torch.float64, device=torch.device("cpu"), chunk=chunk
    )
    assert_close(built, matrix)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_linear_adjoint(mode: Any) -> None:
    matrix, y = randn(7, 12), randn(3, 7, seed=1)
    with mode():
        x = linear_adjoint(lambda x: x.flatten(1) @ matrix.mT, y.clone(), (3, 4))
    assert_close(x.flatten(1), y @ matrix)


class TestLargestSingularValue:
    @pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
    def test_against_the_svd(self, scale: float) -> None:
        matrix = scale * randn(9, 12, dtype=torch.float32)
        found = largest_singular_value(lambda x: x @ matrix.mT, lambda y: y @ matrix, (12,))
        exact = float(torch.linalg.matrix_norm(matrix, 2))
        assert 0.97 * exact <= found <= 1.0001 * exact

    def test_refuses_the_zero_map(self) -> None:
        with pytest.raises(ValueError, match="to zero"):
            largest_singular_value(torch.zeros_like, torch.zeros_like, (3,))
