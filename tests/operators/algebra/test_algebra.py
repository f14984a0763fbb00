"""Compositions, sums, multiples, transposes and stacks: the laws of operators, over a sample of formulas; then each rule."""

from __future__ import annotations

import copy
import functools
import math
import random
from collections.abc import Callable
from typing import Any, cast

import numpy as np
import pytest
import torch
from cases import selected
from helpers import norm, randn
from operator_checks import (
    LINEAR_LAWS,
    SINGLE,
    Planted,
    assert_near,
    check_adjoint,
    check_gradient,
    check_items,
    check_kind,
    check_pinv,
    check_precondition,
    check_saved,
    check_solve,
    check_solve_without_noise,
    inputs,
    missed_faults,
    outputs,
)
from torch import Tensor
from torch.testing import assert_close

from invdiff.linalg import conjugate_gradients, dense_matrix
from invdiff.operators import (
    Blur,
    CovarianceNoise,
    Downsample,
    Function,
    GaussianNoise,
    Identity,
    LaplaceNoise,
    LinearFunction,
    LinearOperator,
    Mask,
    Matrix,
    Operator,
    PoissonNoise,
    compose,
    stack,
)
from invdiff.operators.algebra.add import LinearSum, NonlinearSum
from invdiff.operators.algebra.combination import Combination
from invdiff.operators.algebra.compose import LinearComposed, NonlinearComposed
from invdiff.operators.algebra.scale import LinearScaled, NonlinearScaled
from invdiff.operators.algebra.stack import LinearStack, NonlinearStack
from invdiff.operators.algebra.transpose import Adjoint
from invdiff.operators.blur.convolution import CircularConvolution

SAMPLE, LARGEST = 50, 300  # formulas, and numbers in one x or y of their leaves
KERNEL = torch.tensor([[0.1, 0.7, 0.2], [0.0, 0.0, 0.1]], dtype=torch.float64)
Formula = tuple[LinearOperator, Tensor]  # an operator and its matrix, which is made from those of its parts


def matrix_of(op: LinearOperator) -> Tensor:
    return dense_matrix(op.forward, op.in_shape, dtype=torch.float64, device=torch.device("cpu"))


def without_noise(op: LinearOperator) -> LinearOperator:
    exact = copy.copy(op)
    exact.noise = GaussianNoise(0.0)
    return exact


@functools.cache
def leaves() -> list[Formula]:
    """Return every small linear operator there is, without noise, and its matrix."""
    cases = selected(LinearOperator, lambda cls: not issubclass(cls, Combination | Adjoint))
    ops = [without_noise(case.build()) for case in cases]
    sizes = [max(torch.Size(op.in_shape).numel(), torch.Size(op.out_shape).numel()) for op in ops]
    return [(op, matrix_of(op)) for op, size in zip(ops, sizes, strict=True) if size <= LARGEST and not op.per_item]


@functools.cache
def branches() -> list[Formula]:
    return [*leaves(), *((op.T, matrix.T) for op, matrix in leaves())]


def grown(formula: Formula, rng: random.Random) -> Formula:
    """Return a larger formula around this one."""
    (op, matrix), factor = formula, rng.choice([-1.5, 0.5, 2.0])
    step = rng.choice(["before", "before", "after", "after", "add", "add", "stack", "stack", "scale", "transpose"])
    if step == "scale":
        return factor * op, factor * matrix
    if step == "transpose":
        return op.T, matrix.T
    fits: dict[str, Callable[[LinearOperator], bool]] = {
        "before": lambda other: other.in_shape == op.out_shape,
        "after": lambda other: other.out_shape == op.in_shape,
        "add": lambda other: (other.in_shape, other.out_shape) == (op.in_shape, op.out_shape),
        "stack": lambda other: other.in_shape == op.in_shape,
    }
    fitting = [branch for branch in branches() if fits[step](branch[0])]
    if not fitting:
        return grown(formula, rng)
    other, its = rng.choice(fitting)
    if step == "before":
        return other @ op, its @ matrix
    if step == "after":
        return op @ other, matrix @ its
    if step == "add":
        return op - factor * other, matrix - factor * its
    return cast(LinearOperator, stack([other, op])), torch.cat([its, matrix])


def well_conditioned(matrix: Tensor) -> bool:
    """Return whether every singular value is either clearly there, and near 1, or clearly not: the laws have tolerances."""
    values = torch.linalg.svdvals(matrix)
    relative = values / values[0]
    return bool(0.05 < values[0] < 20) and bool(((relative > 3e-3) | (relative < 1e-14)).all())


@functools.cache
def formula(index: int) -> Formula:
    rng = random.Random(index)
    while True:
        candidate = rng.choice(leaves())
        for _ in range(rng.choice([1, 2, 2, 3])):
            candidate = grown(candidate, rng)
        if max(candidate[1].shape) <= 400 and well_conditioned(candidate[1]):
            return candidate


EVERY = pytest.mark.parametrize("index", range(SAMPLE))


class TestFormulas:
    @EVERY
    def test_is_its_matrix(self, index: int) -> None:
        op, matrix = formula(index)
        x, y = inputs(op), outputs(op)
        assert_near(op(x).flatten(1), x.flatten(1) @ matrix.T, 1e-12)
        assert_near(op.adjoint(y).flatten(1), y.flatten(1) @ matrix, 1e-12)
        assert_near(op.pinv(y).flatten(1), y.flatten(1) @ torch.linalg.pinv(matrix, rtol=1e-10).T, 1e-10)

    @pytest.mark.parametrize("law", LINEAR_LAWS, ids=lambda law: law.__name__)
    @EVERY
    def test_keeps_the_laws(self, index: int, law: Callable[[LinearOperator], None]) -> None:
        law(formula(index)[0])

    @EVERY
    def test_keeps_the_laws_in_float32(self, index: int) -> None:
        op, _ = formula(index)
        for law in LINEAR_LAWS:
            law(op, SINGLE)
        x, v = inputs(op), outputs(op)
        assert_near(op(x.float()).double(), op(x), 1e-4, scale=norm(x))
        moved = op.to("cpu", torch.float32)
        assert_near(moved.adjoint(v.float()).double(), op.adjoint(v), 1e-4, scale=norm(v))

    @EVERY
    def test_keeps_the_laws_of_every_operator(self, index: int) -> None:
        op, _ = formula(index)
        for dtype in (torch.float32, torch.float64):
            check_kind(op, dtype, torch.device("cpu"))
        check_items(op)
        check_saved(op)

    @EVERY
    def test_the_laws_catch_a_thousandth(self, index: int) -> None:
        assert missed_faults(formula(index)[0]) == []

    def test_the_sample_is_varied(self) -> None:
        def kinds(op: Operator) -> set[type]:
            parts = op.parts if isinstance(op, Combination) else (op.op,) if isinstance(op, Adjoint) else ()
            return {type(op)}.union(*(kinds(part) for part in parts))

        found = [kinds(formula(index)[0]) for index in range(SAMPLE)]
        for cls in (LinearComposed, LinearSum, LinearScaled, LinearStack, Adjoint):
            assert sum(cls in those for those in found) >= 5, cls
        assert len(set().union(*found)) >= 12


class TestLawsCatchInParts:
    """An error inside a part shows in the whole."""

    def part(self, **factors: float) -> Planted:
        planted = Planted(Blur((1, 4, 6), KERNEL), **factors)
        planted.closed_form = True
        return planted

    def wholes(self, part: LinearOperator) -> list[LinearOperator]:
        mask = Mask(torch.tensor([1, 0, 1, 1, 0, 1]), (1, 4, 6))
        exact = Blur((1, 4, 6), KERNEL)
        ops = [mask @ part, 2.0 * part, part + exact, stack([part, exact]), part @ exact, (2.0 * Identity((1, 4, 6))) @ part]
        return [cast(LinearOperator, op) for op in ops]

    def test_nothing_in_faithful_parts(self) -> None:
        for op in [*self.wholes(self.part()), self.part().T]:
            for law in (check_adjoint, check_gradient, check_solve, check_pinv):
                law(op)

    def test_an_adjoint(self) -> None:
        for op in [*self.wholes(self.part(adjoint=1.001)), self.part(adjoint=1.001).T]:
            for law in (check_adjoint, check_gradient):
                with pytest.raises(AssertionError):
                    law(op)

    def test_a_solve(self) -> None:
        part = self.part(solve=1.001)
        for op in (2.0 * part, LinearComposed(cast(LinearOperator, Identity((1, 4, 6)) * 2.0), part), part.T):
            with pytest.raises(AssertionError):
                check_solve(op)


def test_rows_that_are_said_to_be_orthogonal_are() -> None:
    for op in (case.build() for case in selected(LinearOperator)):
        if op.gram_scale is not None:
            y = outputs(op)
            assert_near(op(op.adjoint(y)), op.gram_scale * op.keep_measured(y), 1e-12)


class TestCompose:
    def test_applies_the_right_one_first(self) -> None:
        a, b, x = Matrix(randn(3, 4)), Matrix(randn(4, 5, seed=1)), randn(2, 5, seed=2)
        assert_close((a @ b)(x), x @ (a.matrix @ b.matrix).T)
        assert_close((a @ b).adjoint(x[:, :3]), x[:, :3] @ a.matrix @ b.matrix)
        assert_close(((a @ b).in_shape, (a @ b).out_shape), ((5,), (3,)))
        f = Function(torch.square, (3,)) @ (a @ b)
        assert_close(f(x), (x @ (a.matrix @ b.matrix).T) ** 2)

    def test_is_linear_where_both_are(self) -> None:
        linear, nonlinear = Matrix(randn(4, 4)), Function(torch.tanh, (4,))
        assert isinstance(linear @ linear, LinearComposed)
        for op in (linear @ nonlinear, nonlinear @ linear, nonlinear @ nonlinear):
            assert isinstance(op, NonlinearComposed)
            assert not isinstance(op, LinearOperator)

    def test_leaves_out_identities(self) -> None:
        blur, mask = Blur((1, 4, 6), KERNEL), Mask(torch.tensor([1, 0, 1]), sigma_y=0.2)
        assert mask @ Identity((3,)) is mask
        noisy = Identity((1, 4, 6), sigma_y=0.3) @ blur
        assert isinstance(noisy, Blur)
        assert (noisy.sigma_y, blur.sigma_y) == (0.3, 0.0)

    def test_an_identity_measures_what_a_mask_left_out(self) -> None:
        op = Identity((3,), sigma_y=0.5) @ Mask(torch.tensor([1, 0, 1]))
        y = op.measure(torch.ones(1, 3), seed=0)
        assert op.dof == 3
        assert (y != 0).all()
        assert torch.equal(op.keep_measured(y), y)

    def test_a_mask_in_front_decides_what_is_measured(self) -> None:
        mask = Mask(torch.tensor([1, 0, 1, 1, 0, 1]), (1, 4, 6), sigma_y=0.3)
        blur = Blur((1, 4, 6), KERNEL)
        for op in (mask @ blur, -2.0 * (mask @ blur), mask @ Function(torch.tanh, (1, 4, 6))):
            y = op.measure(randn(2, 1, 4, 6), seed=0)
            assert op.dof == mask.dof == 16
            assert (y[:, ~mask.mask] == 0).all()
            assert (y[:, mask.mask] != 0).all()
            assert torch.equal(op.keep_measured(torch.full((1, 1, 4, 6), math.nan))[:, ~mask.mask], torch.zeros(1, 8))
        assert (mask @ blur).sigma_y == 0.3
        assert torch.equal((mask @ blur).measure(randn(2, 1, 4, 6), seed=4), mask.measure(blur(randn(2, 1, 4, 6)), seed=4))

    @pytest.mark.parametrize("shape", [(1, 8, 8), (3, 7, 10), (2, 5, 5)])
    def test_two_circular_blurs_are_one(self, shape: tuple[int, int, int]) -> None:
        first, second = Blur(shape, randn(3, 4).abs()), Blur(shape, randn(2, 5, seed=1).abs(), sigma_y=0.2)
        op = second @ first
        assert isinstance(op, CircularConvolution)
        assert op.sigma_y == 0.2
        assert_close(op(inputs(op)), second(first(inputs(op))))
        assert_close(op.adjoint(outputs(op)), first.adjoint(second.adjoint(outputs(op))))
        check_solve(op)

    def test_associates_to_the_right(self) -> None:
        mask, blur = Mask(torch.tensor([1, 0, 1, 1, 0, 1]), (1, 4, 6), sigma_y=0.1), Blur((1, 4, 6), KERNEL)
        op = mask @ blur @ blur
        assert isinstance(op, LinearComposed)
        assert isinstance(op.inner, CircularConvolution)
        assert op.sigma_y == 0.1
        assert_close(op(inputs(op)), mask(blur(blur(inputs(op)))))

    def test_closed_forms(self) -> None:
        shape = (3, 16, 24)  # Too large for eigenvectors.
        blur, blocks, half = Blur(shape, KERNEL), Downsample(shape, 2), Blur((3, 8, 12), KERNEL)
        ragged = Blur(shape, KERNEL + 0.1 * torch.eye(2, 3), boundary="zero")
        assert not ragged.closed_form
        twice = cast(LinearOperator, Identity(shape) * 2.0)
        for op, closed in (
            (half @ blocks, True),
            (LinearComposed(twice, blur), True),
            (LinearComposed(twice, ragged), False),
            (Mask(torch.arange(24) % 5 > 0, shape) @ blur, False),
            (Mask(torch.ones(24), shape) @ blur, True),
            (blocks @ blur, True),
            (blocks @ ragged, False),
            (Mask(torch.ones(12), (3, 8, 12)) @ blocks, True),
        ):
            assert op.closed_form is closed
            check_solve(op)
            check_precondition(op)
        assert (half @ blocks).gram_scale is None
        assert (2.0 * (Mask(torch.ones(12), (3, 8, 12)) @ blocks)).gram_scale == 4 / 4
        assert LinearComposed(twice, blur).svd is not None

    @pytest.mark.parametrize(("hole", "share"), [(True, 0.25), (False, 0.8)])
    def test_solves_in_fewer_products_than_without_a_preconditioner(self, hole: bool, share: float) -> None:
        mask = torch.rand(40, 40, generator=torch.Generator().manual_seed(0)) < 0.5
        if hole:
            mask[:], mask[10:25, 15:30] = True, False
        op, products = cast(LinearComposed, Mask(mask, (1, 40, 40)) @ Blur((1, 40, 40), randn(5, 5).abs() / 25)), [0, 0]
        v, lam = outputs(op), 1e-3

        def counted(which: int, w: Tensor) -> Tensor:
            products[which] += 1
            return LinearComposed.adjoint(op, w)

        vars(op)["adjoint"] = lambda w: counted(0, w)
        solved = op.solve(v, lam)
        plain = conjugate_gradients(lambda w: op.forward(counted(1, w)) + lam * w, v, rtol=1e-12)
        assert_near(solved, plain, 1e-8)
        assert products[0] < share * products[1], products

    def test_rejects_shapes_and_inner_noise(self) -> None:
        with pytest.raises(ValueError, match=r"Matrix @ Mask: the left operator takes shape \(4,\), but the right .* \(3,\)"):
            _ = Matrix(randn(3, 4)) @ Mask(torch.tensor([1, 0, 1]))
        with pytest.raises(ValueError, match=r"Mask @ Matrix: the right operator has noise, GaussianNoise\(0.1\).* Give"):
            _ = Mask(torch.tensor([1, 0, 1])) @ Matrix(randn(3, 3), sigma_y=0.1)
        with pytest.raises(TypeError, match="unsupported operand"):
            _ = cast(Any, Identity((3,))) @ randn(3, 3)

    def test_of_what_computes_in_float32_alone(self) -> None:
        weights = randn(4, 6, dtype=torch.float32)
        rigid = LinearFunction(lambda x: x @ weights.T, (6,), dtype=torch.float32)
        op = Matrix(torch.ones(3, 4)) @ rigid  # Of rank one: rounding must not count as two more.
        v = randn(2, 3, dtype=torch.float32)
        assert op.dtype == torch.float32
        assert_near(op.pinv(v), v @ torch.linalg.pinv(torch.ones(3, 4) @ weights).T, 1e-5)
        assert op.svd is not None
        assert (op.svd.singular > 0).sum() == 1


class TestSumAndMultiple:
    def test_add_and_scale(self) -> None:
        a, b, x = Matrix(randn(3, 4)), Matrix(randn(3, 4, seed=1)), randn(2, 4, seed=2)
        assert_close((a + b)(x), a(x) + b(x))
        assert_close((a - 2.0 * b)(x), a(x) - 2 * b(x))
        assert_close((-a)(x), -a(x))
        assert_close((a * 3)(x), 3 * a(x))
        for factor in (np.float32(0.5), np.float64(0.5), torch.tensor(0.5), 0.5):
            assert_close((cast(Any, factor) * a)(x), 0.5 * a(x))

    def test_kinds(self) -> None:
        linear, nonlinear = Matrix(randn(4, 4)), Function(torch.tanh, (4,))
        assert isinstance(linear + linear, LinearSum)
        assert isinstance(linear + nonlinear, NonlinearSum)
        assert isinstance(-linear, LinearScaled)
        assert isinstance(-nonlinear, NonlinearScaled)
        assert isinstance(linear - nonlinear, NonlinearSum)

    def test_a_multiple_keeps_structure(self) -> None:
        blur = Blur((3, 64, 64), KERNEL)
        op = -0.5 * blur
        assert op.closed_form
        assert op.svd is not None
        assert_near(op.svd.measured(op(inputs(op))), op.svd.singular * op.svd.analyze(inputs(op)), 1e-12)
        twice = 4.0 * (0.5 * blur)
        assert isinstance(twice, LinearScaled)
        assert twice.op is blur
        assert twice.factor == 2.0

    def test_noise_of_a_multiple(self) -> None:
        op = -2.0 * Matrix(randn(3, 4), sigma_y=0.3)
        assert op.sigma_y == 0.6
        assert (3.0 * op).sigma_y == pytest.approx(1.8)
        levels = torch.tensor([0.1, 0.2, 0.3], dtype=torch.float64)
        noise = (-2.0 * Matrix(randn(3, 4), noise=GaussianNoise(levels))).noise
        assert isinstance(noise, GaussianNoise)
        assert_close(noise.deviations, 2 * levels)

    def test_noise_of_a_sum(self) -> None:
        a, b = Matrix(randn(3, 4), sigma_y=0.3), Matrix(randn(3, 4, seed=1), sigma_y=0.4)
        assert (a + b).sigma_y == pytest.approx(0.5)
        assert (a - b).sigma_y == pytest.approx(0.5)
        assert (a + Matrix(randn(3, 4))).sigma_y == 0.3
        levels = torch.tensor([0.1, 0.2, 0.3], dtype=torch.float64)
        noise = (a + Matrix(randn(3, 4), noise=GaussianNoise(levels))).noise
        assert isinstance(noise, GaussianNoise)
        assert_close(noise.deviations, (levels**2 + 0.09).sqrt())

    def test_noise_that_has_no_model(self) -> None:
        photons = Matrix(randn(3, 4), noise=PoissonNoise(0.1, offset=-1.0))
        with pytest.raises(ValueError, match=r"PoissonNoise.* cannot be scaled.* Scale the operator without its noise"):
            _ = 2.0 * photons
        with pytest.raises(ValueError, match="known only if it is independent and Gaussian, got PoissonNoise"):
            _ = photons + Matrix(randn(3, 4))
        with pytest.raises(ValueError, match=r"Mask measures 2 of 3\. Add the operators without their noise"):
            _ = Mask(torch.tensor([1, 0, 1]), sigma_y=0.1) + Identity((3,))

    @pytest.mark.parametrize("factor", [0.0, math.nan, -math.inf])
    def test_rejects_factor(self, factor: float) -> None:
        with pytest.raises(ValueError, match="Matrix: the factor must be a finite number other than 0"):
            _ = factor * Matrix(randn(3, 4))

    def test_rejects_shapes(self) -> None:
        with pytest.raises(ValueError, match=r"Matrix \+ Identity: both must have the same in_shape, got \(4,\) and \(3,\)"):
            _ = Matrix(randn(3, 4)) + Identity((3,))
        with pytest.raises(ValueError, match=r"both must have the same out_shape, got \(3,\) and \(4,\)"):
            _ = Matrix(randn(3, 4)) - Identity((4,))
        with pytest.raises(TypeError, match="unsupported operand"):
            _ = cast(Any, Identity((3,))) + 1.0


class TestAdjoint:
    def test_is_the_transpose(self) -> None:
        op = Matrix(randn(3, 4), sigma_y=0.2)
        assert_close(matrix_of(op.T), op.matrix.T)
        assert op.T.T is op
        assert op.T.sigma_y == 0

    def test_closed_forms(self) -> None:
        for op in (Downsample((3, 32, 32), 2), Blur((3, 16, 24), KERNEL), Mask(torch.ones(30, 30))):
            assert op.T.closed_form
            check_solve(op.T)
            check_solve_without_noise(op.T)
            check_pinv(op.T)

    def test_of_an_automatic_adjoint_can_be_differentiated(self) -> None:
        check_gradient(LinearFunction(lambda x: x.cumsum(-1), (3, 4)).T)

    def test_gram(self) -> None:
        op = Matrix(randn(3, 4))
        assert_close(matrix_of(op.T @ op), op.matrix.T @ op.matrix)
        with pytest.raises(ValueError, match="Adjoint @ Matrix: the right operator has noise"):
            _ = op.T @ Matrix(op.matrix, sigma_y=0.1)

    @pytest.mark.parametrize(("dtype", "lam", "rtol"), [(torch.float32, 1e-4, 1e-4), (torch.float64, 1e-8, 1e-12)])
    def test_solve_keeps_its_digits(self, dtype: torch.dtype, lam: float, rtol: float) -> None:
        op = Blur((1, 24, 24), torch.ones(1, 1)).T
        v = outputs(op, dtype=dtype)
        assert_near(op.solve(v, lam), v / (1 + lam), rtol)


class TestStack:
    def test_flattened(self) -> None:
        a, b, x = Matrix(randn(3, 4)), Matrix(randn(2, 4, seed=1)), randn(2, 4, seed=2)
        op = stack([a, b])
        assert op.out_shape == (5,)
        assert_close(op(x), torch.cat([a(x), b(x)], 1))
        assert_close(matrix_of(cast(LinearOperator, op)), torch.cat([a.matrix, b.matrix]))

    @pytest.mark.parametrize("axis", [0, 2, -1])
    def test_along_an_axis(self, axis: int) -> None:
        shape = (2, 4, 6)
        op, x = stack([Blur(shape, KERNEL), Identity(shape)], axis=axis), randn(3, *shape)
        assert_close(op(x), torch.cat([Blur(shape, KERNEL)(x), x], axis % 3 + 1))
        assert op.out_shape == tuple(op(x).shape[1:])

    def test_kinds(self) -> None:
        linear, nonlinear = Matrix(randn(4, 4)), Function(torch.tanh, (4,))
        assert isinstance(stack([linear, linear]), LinearStack)
        assert isinstance(stack([linear, nonlinear]), NonlinearStack)

    def test_keeps_what_is_measured(self) -> None:
        mask = Mask(torch.tensor([[1, 0], [0, 1]]), sigma_y=0.3)
        op = stack([mask, Identity((2, 2), sigma_y=0.3)], axis=0)
        y = op.measure(randn(1, 2, 2), seed=0)
        assert op.dof == 6
        assert (y[0, :2][~mask.mask] == 0).all()
        assert (y[0, :2][mask.mask] != 0).all()
        assert torch.equal(op.keep_measured(y), y)
        y[0, 0, 1] = math.nan
        assert op.keep_measured(y).isfinite().all()

    def test_noise(self) -> None:
        exact, a, b = Identity((2, 2)), Identity((2, 2), sigma_y=0.1), Mask(torch.ones(2, 2), sigma_y=0.2)
        assert stack([exact, exact]).sigma_y == 0
        assert stack([a, a]).noise.white
        assert stack([a, a]).sigma_y == 0.1
        noise = stack([a, b], axis=0).noise
        assert isinstance(noise, GaussianNoise)
        assert_close(noise.deviations, torch.tensor([[0.1], [0.1], [0.2], [0.2]], dtype=torch.float64).expand(4, 2))
        noise = stack([stack([a, b]), a]).noise
        assert isinstance(noise, GaussianNoise)
        assert_close(noise.deviations, torch.tensor([0.1] * 4 + [0.2] * 4 + [0.1] * 4, dtype=torch.float64))
        with pytest.raises(ValueError, match="either all measurements are exact or none"):
            stack([exact, a])
        with pytest.raises(ValueError, match="either all measurements are exact or none"):
            stack([exact, Identity((2, 2), noise=LaplaceNoise(0.1))])
        with pytest.raises(ValueError, match="correlated between entries of y cannot be joined"):
            stack([a, Identity((2, 2), noise=CovarianceNoise(torch.eye(4)))])

    @pytest.mark.parametrize("axis", [None, 0])
    def test_noise_of_several_kinds(self, axis: int | None) -> None:
        photons, spikes = PoissonNoise(0.1, offset=-1.0), LaplaceNoise(0.3)
        ops = [Identity((2, 2), noise=noise) for noise in (GaussianNoise(0.1), photons, spikes)]
        op, z = stack(ops, axis=axis), 0.5 * randn(3, 2, 2)
        y = op.measure(z, seed=0)
        assert op.sigma_y == min(one.sigma_y for one in ops)
        assert op.noise.heavy_tailed
        assert not op.noise.gaussian
        for name in ("log_likelihood", "variance"):
            whole = getattr(op.noise, name)(y, op(z)).reshape(3, 3, 2, 2)
            for k, one in enumerate(ops):
                expected = getattr(one.noise, name)(y.reshape(3, 3, 2, 2)[:, k], z)
                assert_close(whole[:, k], expected.to(y).expand(3, 2, 2))

    def test_each_part_has_its_level(self) -> None:
        op = stack([Identity((2, 2), sigma_y=0.1), Identity((2, 2), sigma_y=2.0)], axis=0)
        y = op.measure(torch.zeros(400, 2, 2), seed=0)
        assert float(y[:, :2].std()) == pytest.approx(0.1, rel=0.1)
        assert float(y[:, 2:].std()) == pytest.approx(2.0, rel=0.1)

    def test_rejects(self) -> None:
        with pytest.raises(ValueError, match="expected at least one operator"):
            stack([])
        with pytest.raises(ValueError, match=r"must take the same shape, got \(3,\) for Identity and \(4,\) for Matrix"):
            stack([Identity((3,)), Matrix(randn(3, 4))])
        with pytest.raises(ValueError, match=r"axis must be one of the axes of out_shape \(3,\), got 1"):
            stack([Identity((3,))], axis=1)
        with pytest.raises(ValueError, match=r"only along axis 0, got shapes \(2, 4\), \(1, 1, 2\)\. Omit axis"):
            stack([Identity((2, 4)), Downsample((1, 2, 4), 2) @ LinearFunction(lambda x: x.unsqueeze(1), (2, 4))], axis=0)


class TestJacobian:
    @pytest.mark.parametrize(
        ("op", "kind"),
        [
            (Mask(torch.tensor([1, 0, 1, 1])) @ Function(torch.tanh, (4,)), LinearComposed),
            (Function(torch.tanh, (4,)) + Identity((4,)), LinearSum),
            (2.0 * Function(torch.tanh, (4,)), LinearScaled),
            (stack([Function(torch.tanh, (4,)), Identity((4,))]), LinearStack),
        ],
        ids=lambda value: type(value).__name__,
    )
    def test_is_made_from_those_of_the_parts(self, op: Operator, kind: type) -> None:
        x, v = inputs(op), inputs(op, seed=7)
        jacobian = op.jacobian(x)
        assert isinstance(jacobian, kind)
        assert jacobian.per_item
        assert jacobian.svd is None
        assert jacobian.dof == op.dof
        expected = torch.func.jvp(op, (x,), (v,))[1]
        assert_close(jacobian(v), expected)
        check_adjoint(jacobian)
        check_solve(jacobian)


def test_parts_move() -> None:
    op = compose(Mask(torch.tensor([1, 0, 1])), Matrix(randn(3, 4)) - 2.0 * Matrix(randn(3, 4))).to(dtype=torch.float32)
    assert isinstance(op, LinearComposed)
    total = op.inner
    assert isinstance(total, LinearSum)
    assert isinstance(total.parts[0], Matrix)
    assert total.parts[0].matrix.dtype == torch.float32
