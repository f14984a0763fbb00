"""Laws of every operator, found through its class; then what each one does, against other libraries."""

from __future__ import annotations

import contextlib
import copy
import math
import pickle
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import pytest
import scipy.ndimage
import torch
from helpers import all_subclasses, dot, norm, randn
from PIL import Image
from torch import Tensor
from torch.testing import assert_close

from invdiff import operators
from invdiff.linalg import conjugate_gradients, dense_matrix, over_items
from invdiff.operators import (
    Blur,
    Downsample,
    Function,
    GaussianNoise,
    Identity,
    LinearFunction,
    LinearOperator,
    Mask,
    Matrix,
    Noise,
    Operator,
    gaussian_kernel,
    motion_kernel,
)
from invdiff.operators.blur.boundaries import BOUNDARIES, SCIPY_MODES
from invdiff.operators.blur.convolution import PaddedConvolution
from invdiff.operators.blur.separable import Separable
from invdiff.operators.core.device import Movable
from invdiff.operators.core.svd import SVD
from invdiff.random import Streams


@dataclass(frozen=True)
class Precision:
    """A dtype, and what the laws hold to in it: products alone, and what divides by singular values, relative to its size."""

    dtype: torch.dtype
    exact: float
    solved: float
    smallest: float  # lam: the residual of a solve is rounded to eps / lam


BATCH = 3
DOUBLE = Precision(torch.float64, 1e-12, 1e-10, 1e-3)  # Conjugate gradients stop at 1e-12.
SINGLE = Precision(torch.float32, 1e-5, 1e-4, 1e-2)
DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
CASES = [(f"{cls.__name__}-{i}", op) for cls in all_subclasses(Operator) for i, op in enumerate(cast(Any, cls).examples())]
EVERY = pytest.mark.parametrize("op", [pytest.param(op, id=name) for name, op in CASES])
LINEAR = pytest.mark.parametrize("op", [pytest.param(op, id=name) for name, op in CASES if isinstance(op, LinearOperator)])
NONLINEAR = pytest.mark.parametrize(
    "op", [pytest.param(op, id=name) for name, op in CASES if not isinstance(op, LinearOperator)]
)
NOISES = [(f"{cls.__name__}-{i}", law) for cls in all_subclasses(Noise) for i, law in enumerate(cast(Any, cls).examples())]
DECOMPOSED = pytest.mark.parametrize(
    "op", [pytest.param(op, id=name) for name, op in CASES if isinstance(op, LinearOperator) and not op.per_item]
)


def inputs(op: Operator, *, seed: int = 1, dtype: torch.dtype = torch.float64) -> Tensor:
    return randn(BATCH, *op.in_shape, seed=seed, dtype=dtype)


def outputs(op: Operator, *, seed: int = 2, dtype: torch.dtype = torch.float64) -> Tensor:
    return randn(BATCH, *op.out_shape, seed=seed, dtype=dtype)


def assert_near(actual: Tensor, expected: Tensor, rtol: float, scale: Tensor | None = None) -> None:
    """Compare item by item, relative to the norm of the item (or to ``scale``): no scale hides an error."""
    assert actual.shape == expected.shape
    assert actual.dtype == expected.dtype
    gap = norm(actual - expected)
    assert (gap <= rtol * (norm(expected) if scale is None else scale)).all(), gap


def with_noise(op: Operator, sigma: float) -> Operator:
    noisy = copy.copy(op)
    noisy.noise = GaussianNoise(sigma)
    return noisy


def largest(op: LinearOperator) -> float:
    """Return the largest singular value, of all items where each has an operator of its own."""
    found = [cast(LinearOperator, one).svd for one in op.distinct]
    return max(float(svd.singular.amax()) for svd in found if svd is not None)


def unit(op: LinearOperator, at: Precision) -> float:
    """Return 1; in float32 the largest singular value, against which its digits count, however large or small the operator."""
    return 1.0 if at is DOUBLE else largest(op)


# The laws themselves, as functions, so that planted errors can be held against them too.


def check_adjoint(op: LinearOperator, at: Precision = DOUBLE) -> None:
    x = inputs(op, dtype=at.dtype)
    y = outputs(op, dtype=at.dtype) + op(x)  # Along A x a wrong factor shows in full, across it anything else.
    gap = dot(op(x), y) - dot(x, op.adjoint(y))
    assert (gap.abs() <= at.exact * norm(op(x)) * norm(y)).all()


def check_gradient(op: LinearOperator, at: Precision = DOUBLE) -> None:
    x, v = inputs(op, dtype=at.dtype), outputs(op, dtype=at.dtype)
    _, pullback = cast(tuple[Tensor, Callable[[Tensor], tuple[Tensor]]], torch.func.vjp(op, x))
    assert_near(op.adjoint(v), pullback(v)[0], at.exact, scale=norm(v))


def check_linear(op: LinearOperator, at: Precision = DOUBLE) -> None:
    a, b = inputs(op, seed=1, dtype=at.dtype), inputs(op, seed=2, dtype=at.dtype)
    assert_near(op(2.5 * a - b), 2.5 * op(a) - op(b), at.exact, scale=norm(op(a)) + norm(op(b)))


def check_pinv(op: LinearOperator, at: Precision = DOUBLE) -> None:
    """The four conditions of Penrose, which no other map fulfils."""
    x, z = (inputs(op, seed=seed, dtype=at.dtype) for seed in (1, 2))
    y, w = (outputs(op, seed=seed, dtype=at.dtype) for seed in (3, 4))
    p_a_x = op.pinv(op(x))
    assert_near(op(p_a_x), op(x), at.solved)
    p_y = op.pinv(y)
    assert_near(op.pinv(op(p_y)), p_y, at.solved)
    assert ((dot(p_a_x, z) - dot(x, op.pinv(op(z)))).abs() <= at.solved * norm(x) * norm(z)).all()
    # The solution may be larger than what it explains, by the condition of A: then so is its rounding.
    size = norm(y) if at is DOUBLE else norm(y).maximum(unit(op, at) * norm(p_y))
    assert ((dot(op(p_y), w) - dot(y, op(op.pinv(w)))).abs() <= at.solved * size * norm(w)).all()


def check_solve(op: LinearOperator, at: Precision = DOUBLE) -> None:
    v = outputs(op, dtype=at.dtype)
    per_item = over_items(torch.tensor([at.smallest, 1.0, 30.0], dtype=torch.float64), v)
    for weight in (1.0, at.smallest, per_item):
        lam = unit(op, at) ** 2 * weight
        w = op.solve(v, lam)
        assert_near(op(op.adjoint(w)) + (lam.to(w) if isinstance(lam, Tensor) else lam) * w, v, at.solved)


def check_solve_without_noise(op: LinearOperator, at: Precision = DOUBLE) -> None:
    """At lam 0, a pseudo-inverse of A A^T: together with symmetry, the one. Also where another item has a lam."""
    v, w = outputs(op, seed=1, dtype=at.dtype), outputs(op, seed=2, dtype=at.dtype)
    gram, lam = op(op.adjoint(v)), over_items(unit(op, at) ** 2 * torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64), v)
    mixed = op.solve(gram, lam)
    assert_near(op(op.adjoint(mixed)) + lam.to(v) * mixed, gram, at.solved)
    solved = op.solve(v, 0.0)
    assert_near(op.solve(op(op.adjoint(solved)), 0.0), solved, at.solved)
    assert ((dot(solved, w) - dot(v, op.solve(w, 0.0))).abs() <= at.solved * norm(solved) * norm(w)).all()


def check_prox(op: LinearOperator, at: Precision = DOUBLE) -> None:
    """The gradient of what it minimises vanishes there."""
    z, y, rho = inputs(op, dtype=at.dtype), outputs(op, dtype=at.dtype), 0.3 * unit(op, at) ** 2
    x = op.prox(z, y, rho).requires_grad_()
    objective = ((y - op(x)) ** 2).sum() + rho * ((x - z) ** 2).sum()
    (gradient,) = torch.autograd.grad(objective, x)
    assert_near(gradient, torch.zeros_like(x), at.solved, scale=norm(op.adjoint(y)) + rho * norm(z))


def check_precondition(op: LinearOperator, at: Precision = DOUBLE) -> None:
    """Linear, symmetric and positive, and the solve itself where that costs nothing."""
    v, w = outputs(op, seed=1, dtype=at.dtype), outputs(op, seed=2, dtype=at.dtype)
    lam = 0.1 * unit(op, at) ** 2
    p_v, p_w = op.precondition(v, lam), op.precondition(w, lam)
    assert_near(op.precondition(2.5 * v - w, lam), 2.5 * p_v - p_w, at.solved, scale=norm(p_v) + norm(p_w))
    assert ((dot(p_v, w) - dot(v, p_w)).abs() <= at.solved * norm(p_v) * norm(w)).all()
    assert (dot(p_v, v) >= 0).all()
    if op.closed_form:
        assert_near(p_v, op.solve(v, lam), at.exact)


def check_svd(op: LinearOperator, at: Precision = DOUBLE) -> None:
    """V orthogonal, s the singular values, and U^T an isometry of the range: which is what A^T y = V s U^T y leaves open."""
    if op.per_item:
        assert op.svd is None
        for one in op.distinct:
            check_svd(cast(LinearOperator, one), at)
        return
    assert op.svd is not None
    svd, x, y = op.svd.to("cpu", at.dtype), inputs(op, dtype=at.dtype), outputs(op, dtype=at.dtype)
    s, x_bar, y_bar = svd.singular, svd.analyse(x), svd.measured(y)
    assert s.shape == svd.shape == x_bar.shape[1:] == y_bar.shape[1:]
    assert (s >= 0).all()
    assert_near(svd.synthesise(x_bar), x, at.exact)
    assert_near(norm(x_bar).unsqueeze(1), norm(x).unsqueeze(1), at.exact)
    assert_near(svd.measured(op(x)), s * x_bar, at.exact)
    assert_near(svd.synthesise(s * y_bar), op.adjoint(y), at.exact)
    assert (y_bar[:, s == 0] == 0).all()
    pinv = svd.synthesise(torch.where(s > 0, y_bar / torch.where(s > 0, s, 1), 0))
    assert_near(pinv, op.pinv(y), at.solved)
    assert_near(norm(y_bar).unsqueeze(1), norm(op(pinv)).unsqueeze(1), at.solved)
    if at is DOUBLE:  # Against the matrix itself.
        basis = dense_matrix(svd.analyse, op.in_shape, dtype=torch.float64, device=torch.device("cpu"))
        assert_near(basis @ basis.T, torch.eye(x[0].numel(), dtype=torch.float64), 1e-12)
        matrix = dense_matrix(op.adjoint, op.out_shape, dtype=torch.float64, device=torch.device("cpu"))
        expected = torch.linalg.svdvals(matrix)
        found = s.flatten().sort(descending=True).values[: len(expected)]
        assert_near(found.unsqueeze(0), expected.unsqueeze(0), 1e-12)
        assert (s > 0).sum() == torch.linalg.matrix_rank(matrix)


LINEAR_LAWS = [
    check_adjoint,
    check_gradient,
    check_linear,
    check_pinv,
    check_solve,
    check_solve_without_noise,
    check_prox,
    check_precondition,
    check_svd,
]


@pytest.mark.parametrize("law", LINEAR_LAWS, ids=lambda law: law.__name__)
@LINEAR
def test_linear_operator(op: LinearOperator, law: Callable[[LinearOperator], None]) -> None:
    law(op)


@LINEAR
def test_linear_operator_in_float32(op: LinearOperator) -> None:
    for law in LINEAR_LAWS:
        law(op, SINGLE)


# Laws of every operator, linear or not.


def check_kind(op: Operator, dtype: torch.dtype, device: str) -> None:
    """Shape, dtype and device are kept."""
    x, v = inputs(op, dtype=dtype).to(device), outputs(op, dtype=dtype).to(device)
    results = [(op(x), v), (op.measure(x, seed=0), v)]
    if isinstance(op, LinearOperator):
        # Schedules hand over lam in float64, whatever the images are.
        lam = over_items(torch.ones(BATCH, dtype=torch.float64, device=device), v)
        results += [(op.adjoint(v), x), (op.solve(v, 0.1), v), (op.solve(v, lam), v), (op.pinv(v), x)]
        results += [(op.prox(x, v, lam if lam.ndim == x.ndim else 0.1), x), (op.precondition(v, 0.1), v)]
    for result, like in results:
        assert (result.shape, result.dtype, result.device) == (like.shape, like.dtype, like.device)


def check_items(op: Operator) -> None:
    """What comes out for an item does not depend on its neighbours."""
    x, v = inputs(op), outputs(op)
    v = v * over_items(torch.tensor([1e-4, 1.0, 1e4], dtype=v.dtype), v)  # A norm over the batch would drown the first.
    lam = 0.1 * largest(op) ** 2 if isinstance(op, LinearOperator) else 0.0  # A small one makes residuals large.

    def results(op: Operator, rows: slice) -> list[Tensor]:
        found = [op(x[rows])]
        if isinstance(op, LinearOperator):
            found += [op.adjoint(v[rows]), op.solve(v[rows], lam), op.pinv(v[rows]), op.precondition(v[rows], lam)]
            found += [] if type(op).prox is LinearOperator.prox else [op.prox(x[rows], v[rows], lam)]
        return found

    together = results(op, slice(None))
    for i in range(BATCH):
        alone = results(op.take([i]), slice(i, i + 1))
        for whole, one in zip(together, alone, strict=False):
            assert_near(whole[i : i + 1], one, 1e-10)


def given_callables(part: object) -> Iterator[Any]:
    """Yield the callables that the user gave, to ``part`` or to any part of it."""
    if isinstance(part, Function):
        yield part.function
    if isinstance(part, LinearFunction):
        yield from (part.function, *([part.transpose] if part.transpose else []))
    for value in vars(part).values():
        for inner in value if isinstance(value, tuple) else (value,):
            if isinstance(inner, Movable):
                yield from given_callables(inner)


def has_a_name(function: Any) -> bool:
    """Return whether it can be found again in its module: neither ``<lambda>`` nor ``f.<locals>.g``."""
    return "<" not in getattr(function, "__qualname__", "")


def check_saved(op: Operator) -> None:
    """Saved and loaded, an operator is the same to the last bit. Callables without a name of their own cannot be saved."""
    x, v = inputs(op), outputs(op)
    copies = [copy.deepcopy(op)]
    if all(has_a_name(function) for function in given_callables(op)):
        copies.append(pickle.loads(pickle.dumps(op)))
    results = []
    for each in (op, *copies):
        assert type(each) is type(op)
        assert (each.in_shape, each.out_shape) == (op.in_shape, op.out_shape)
        assert_close(torch.as_tensor(each.dof), torch.as_tensor(op.dof))
        linear = [each.adjoint(v), each.solve(v, 0.1)] if isinstance(each, LinearOperator) else []
        results.append([each(x), each.measure(x, seed=0), *linear])
    for other in results[1:]:
        assert all(map(torch.equal, other, results[0]))


# A thousandth more of anything is seen by one law at least.


class PlantedSVD(SVD):
    """``svd`` with one of its parts off by a factor."""

    def __init__(self, svd: SVD, factor: float) -> None:
        self.svd, self.factor, self.shape, self._values = svd, factor, svd.shape, factor * svd._values

    def analyse(self, x: Tensor) -> Tensor:
        return self.svd.analyse(x)

    def synthesise(self, x_bar: Tensor) -> Tensor:
        return self.svd.synthesise(x_bar)

    def _rotate(self, y: Tensor) -> Tensor:
        return self.svd._rotate(y)


class Planted(LinearOperator):
    """``op`` with one of its maps off by a factor: what the laws must notice."""

    def __init__(self, op: LinearOperator, **factors: float) -> None:
        self.op, self.factors, self.closed_form = op, factors, op.closed_form
        self.in_shape, self.out_shape, self.noise = op.in_shape, op.out_shape, op.noise

    @classmethod
    def examples(cls) -> list[Any]:
        return []

    def forward(self, x: Tensor) -> Tensor:
        return self.op.forward(x)

    def adjoint(self, y: Tensor) -> Tensor:
        return self.factors.get("adjoint", 1.0) * self.op.adjoint(y)

    def solve(self, v: Tensor, lam: Tensor | float) -> Tensor:
        return self.factors.get("solve", 1.0) * self.op.solve(v, lam)

    def pinv(self, y: Tensor) -> Tensor:
        return self.factors.get("pinv", 1.0) * self.op.pinv(y)

    def prox(self, z: Tensor, y: Tensor, rho: Tensor | float) -> Tensor:
        return self.factors.get("prox", 1.0) * self.op.prox(z, y, rho)

    def precondition(self, v: Tensor, lam: Tensor | float) -> Tensor:
        return self.factors.get("precondition", 1.0) * self.op.precondition(v, lam)

    def _decompose(self) -> SVD | None:
        return None if self.op.svd is None else PlantedSVD(self.op.svd, self.factors.get("svd", 1.0))


FAULTS: list[tuple[str, Callable[[LinearOperator, Precision], None], Precision]] = [
    ("adjoint", check_adjoint, DOUBLE),
    ("adjoint", check_adjoint, SINGLE),
    ("solve", check_solve, DOUBLE),
    ("solve", check_solve, SINGLE),
    ("pinv", check_pinv, DOUBLE),
    ("prox", check_prox, DOUBLE),
    ("precondition", check_precondition, DOUBLE),
    ("svd", check_svd, DOUBLE),
]


def missed_faults(op: LinearOperator) -> list[str]:
    """Return which laws let a thousandth more of something pass."""
    missed = []
    for name, law, at in FAULTS:
        if name == "precondition" and not op.closed_form:
            continue  # There it is an approximation, which may well be off.
        try:
            law(Planted(op, **{name: 1.001}), at)
        except AssertionError:
            continue
        missed.append(f"{name} by {law.__name__} in {at.dtype}")
    return missed


class TestLawsCatch:
    op = Blur.examples()[1]

    def test_nothing_in_a_faithful_copy(self) -> None:
        for law in LINEAR_LAWS:
            law(Planted(self.op))
            law(Planted(self.op), SINGLE)

    @LINEAR
    def test_a_thousandth(self, op: LinearOperator) -> None:
        assert missed_faults(op) == []

    def test_a_shifted_adjoint(self) -> None:
        kernel = torch.tensor([[0.2, 0.5, 0.3]], dtype=torch.float64)
        shifted = LinearFunction(Blur((1, 6, 6), kernel), (1, 6, 6))
        shifted.transpose = Blur((1, 6, 6), kernel)  # Convolution where correlation belongs.
        with pytest.raises(AssertionError):
            check_adjoint(shifted)


class TestEveryOperator:
    @pytest.mark.parametrize("device", DEVICES)
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    @EVERY
    def test_keeps_shape_dtype_device(self, op: Operator, dtype: torch.dtype, device: str) -> None:
        check_kind(op, dtype, device)

    @EVERY
    def test_float32_agrees_with_float64(self, op: Operator) -> None:
        x, v = inputs(op), outputs(op)
        assert_near(op(x.float()).double(), op(x), 1e-4)
        if isinstance(op, LinearOperator):
            assert_near(op.adjoint(v.float()).double(), op.adjoint(v), 1e-4)
        else:
            single, double = op.jacobian(x.float()), op.jacobian(x)
            assert_near(single(x.float()).double(), double(x), 1e-4)
            assert_near(single.adjoint(v.float()).double(), double.adjoint(v), 1e-4)

    @EVERY
    def test_items_do_not_mix(self, op: Operator) -> None:
        check_items(op)

    @EVERY
    def test_is_saved_and_loaded(self, op: Operator) -> None:
        check_saved(op)

    @EVERY
    def test_leaves_its_arguments_alone(self, op: Operator) -> None:
        x, v = inputs(op), outputs(op)
        results = [op(x), op.measure(x, seed=0), op.jacobian(x)(x)]
        if isinstance(op, LinearOperator):
            results += [op.adjoint(v), op.solve(v, 0.1), op.pinv(v), op.prox(x, v, 0.1)]
        for result in results:
            result.add_(1.0)  # Nor is a result the argument itself.
        assert torch.equal(x, inputs(op))
        assert torch.equal(v, outputs(op))

    @EVERY
    def test_rejects_wrong_shapes(self, op: Operator) -> None:
        for shape in (op.in_shape, (BATCH, *op.in_shape[:-1], op.in_shape[-1] + 1), (BATCH, 1, *op.in_shape)):
            if shape != (1, *op.in_shape):
                with pytest.raises(ValueError, match=r"expected x of shape \(B, "):
                    op(torch.zeros(shape))

    @EVERY
    def test_moves(self, op: Operator) -> None:
        for moved in (op.to("cpu"), op.to(dtype=torch.float32), op.to("cpu", torch.float32)):
            assert type(moved) is type(op)
            assert_near(moved(inputs(op).float()), op(inputs(op).float()), 1e-6)
        if isinstance(moved, LinearOperator) and isinstance(op, LinearOperator):
            v = outputs(op).float()
            assert_near(moved.solve(v, 0.1), op.solve(v, 0.1), 1e-4)
            assert_near(moved.pinv(v), op.pinv(v), 1e-4)
            assert_near(moved.adjoint(v), op.adjoint(v), 1e-6)

    @EVERY
    def test_jacobian_is_the_derivative(self, op: Operator) -> None:
        x, direction, step = inputs(op), inputs(op, seed=5), 1e-5
        differences = (op(x + step * direction) - op(x - step * direction)) / (2 * step)
        # What says that it only stands in for the derivative is held to that.
        with pytest.raises(AssertionError) if op.surrogate else contextlib.nullcontext():
            assert_near(op.jacobian(x)(direction), differences, 1e-7)

    @NONLINEAR
    def test_jacobian_keeps_the_laws(self, op: Operator) -> None:
        jacobian = op.jacobian(inputs(op, seed=6))
        for law in (check_adjoint, check_solve, check_prox):
            law(jacobian)
        check_adjoint(op.jacobian(inputs(op, seed=6, dtype=torch.float32)), SINGLE)
        with pytest.raises(AssertionError):
            check_adjoint(Planted(jacobian, adjoint=1.001))

    @EVERY
    def test_in_inference_mode(self, op: Operator) -> None:
        with torch.inference_mode():
            x, v = inputs(op), outputs(op)
            results = [op(x), op.jacobian(x)(x), op.jacobian(x).adjoint(v)]
            if isinstance(op, LinearOperator):
                results += [op.adjoint(v), op.solve(v, 0.1), op.pinv(v), op.prox(x, v, 0.1)]
        assert all(result.isfinite().all() for result in results)


class TestSVD:
    @DECOMPOSED
    def test_float32(self, op: LinearOperator) -> None:
        svd = op.svd
        assert svd is not None
        moved = svd.to("cpu", torch.float32)
        assert moved.singular.dtype == torch.float32
        assert_near(moved.singular.double().unsqueeze(0), svd.singular.unsqueeze(0), 1e-5)
        x, y, x_bar = inputs(op), outputs(op), svd.analyse(inputs(op, seed=3))
        for either in (svd, moved):  # Both answer in the dtype they are asked in.
            assert_near(either.analyse(x.float()), svd.analyse(x).float(), 1e-5)
            assert_near(either.synthesise(x_bar.float()), svd.synthesise(x_bar).float(), 1e-5)
            assert_near(either.measured(y.float()), svd.measured(y).float(), 1e-5)

    @DECOMPOSED
    def test_of_a_moved_operator(self, op: LinearOperator) -> None:
        before = copy.copy(op).to(dtype=torch.float32)
        assert op.svd is op.svd is not None
        for moved in (before, op.to(dtype=torch.float32)):
            svd, x = moved.svd, inputs(op, dtype=torch.float32)
            assert svd is not None
            assert_near(svd.measured(moved(x)), svd.singular.to(x) * svd.analyse(x), 1e-4)

    @DECOMPOSED
    def test_made_in_inference_mode_it_can_be_differentiated_later(self, op: LinearOperator) -> None:
        fresh, x = copy.copy(op), inputs(op).requires_grad_()
        vars(fresh).pop("_svd", None)
        with torch.inference_mode():
            svd = fresh.svd
        assert svd is not None
        (gradient,) = torch.autograd.grad((svd.analyse(x) ** 2).sum(), x)
        assert_near(gradient, 2 * x.detach(), 1e-12)

    def test_leaves_its_arguments_alone(self) -> None:
        op, x = Mask(torch.tensor([1, 0, 1])), randn(2, 3)
        assert op.svd is not None
        for result in (op.svd.analyse(x), op.svd.synthesise(x), op.svd.measured(x)):
            result.add_(1.0)
        assert torch.equal(x, randn(2, 3))

    def test_ignores_what_is_missing(self) -> None:
        op, y = Mask(torch.tensor([1, 0, 1])), torch.tensor([[1.0, math.nan, 2.0]])
        assert op.svd is not None
        assert torch.equal(op.svd.measured(y), torch.tensor([[1.0, 0.0, 2.0]]))

    def test_is_cut_at_the_rounding_of_the_dtype(self) -> None:
        svd = Matrix(torch.diag(torch.tensor([1.0, 1e-4, 1e-8, 1e-15], dtype=torch.float64))).svd
        assert svd is not None
        assert (svd.singular > 0).tolist() == [True, True, True, False]
        assert (svd.to(dtype=torch.float32).singular > 0).tolist() == [True, True, False, False]

    @pytest.mark.parametrize(
        "op",
        [
            Identity((3, 64, 64)),
            Mask(torch.ones(64, 64), (3, 64, 64)),
            Blur((3, 64, 64), torch.eye(3)),
            Blur((3, 64, 64), torch.ones(3, 3), boundary="reflect"),
            Downsample((3, 64, 64), 4),
            Downsample((3, 64, 64), 4, kernel="bicubic"),
            Matrix(torch.ones(5000, 2)),
        ],
        ids=lambda op: type(op).__name__,
    )
    def test_structure_gives_one_at_any_size(self, op: LinearOperator) -> None:
        svd, x = op.svd, randn(2, *op.in_shape)
        assert svd is not None
        assert_near(svd.measured(op(x)), svd.singular * svd.analyse(x), 1e-12)

    @pytest.mark.parametrize(
        "op",
        [
            Blur((3, 64, 64), torch.eye(3), boundary="reflect"),
            LinearFunction(lambda x: x[..., ::4], (3, 64, 64)),
            LinearFunction(lambda x: x.repeat(1, 2500), (2,)),
            Matrix(torch.ones(2, 5000)),
            Function(torch.tanh, (4,)).jacobian(torch.ones(1, 4)),
        ],
        ids=lambda op: type(op).__name__,
    )
    def test_without_structure_large_ones_have_none(self, op: LinearOperator) -> None:
        assert op.svd is None


class TestMeasure:
    @EVERY
    def test_is_reproducible(self, op: Operator) -> None:
        noisy, x = with_noise(op, 0.3), inputs(op)
        assert torch.equal(noisy.measure(x, seed=0), noisy.measure(x, seed=0))
        assert not torch.equal(noisy.measure(x, seed=0), noisy.measure(x, seed=1))

    @EVERY
    def test_noise_belongs_to_the_item(self, op: Operator) -> None:
        noisy, x = with_noise(op, 0.3), inputs(op)
        two = noisy.take([0, 1])
        noise, first = noisy.measure(x, seed=0) - op(x), two.measure(-x[:2], seed=0) - two(-x[:2])
        assert_close(noise[:2], first)
        assert not torch.allclose(noise[0], noise[1])

    @EVERY
    def test_noise_has_the_standard_deviation(self, op: Operator) -> None:
        sigma_y = 0.3
        items = 10 + 2000 // cast(int, op.take([0]).dof)
        noisy, x = with_noise(op, sigma_y).take([0] * items), inputs(op)[:1].expand(items, *op.in_shape)
        residual = ((noisy.measure(x, seed=0) - noisy(x)) ** 2).sum() / sigma_y**2
        count = items * cast(int, noisy.dof)  # residual follows chi-square with count degrees of freedom
        assert abs(float(residual) - count) < 5 * math.sqrt(2 * count)
        assert noisy.sigma_y == sigma_y

    @EVERY
    def test_without_noise(self, op: Operator) -> None:
        assert torch.equal(with_noise(op, 0.0).measure(inputs(op), seed=0), op(inputs(op)))

    @pytest.mark.parametrize("sigma_y", [-0.1, math.nan, math.inf])
    def test_rejects_sigma(self, sigma_y: float) -> None:
        with pytest.raises(ValueError, match="sigma must be a finite number"):
            Identity((3,), sigma_y=sigma_y)


@pytest.mark.parametrize("law", [pytest.param(law, id=name) for name, law in NOISES])
def test_noise_is_saved_and_loaded(law: Noise) -> None:
    clean = randn(2, 2, 3)
    copies = [copy.deepcopy(law)]
    if all(has_a_name(function) for function in given_callables(law)):
        copies.append(pickle.loads(pickle.dumps(law)))
    first, *others = (each.add(clean, Streams([torch.Generator().manual_seed(b) for b in range(2)])) for each in (law, *copies))
    for other, y in zip(copies, others, strict=True):
        assert torch.equal(y, first)
        assert torch.equal(other.log_likelihood(y, clean), law.log_likelihood(y, clean))
        assert (repr(other), other.sigma, other.white) == (repr(law), law.sigma, law.white)


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
            (torch.tensor([[1.0, math.nan]]), ValueError, "must be finite, got 1 NaN or infinite of 2"),
            (torch.zeros(2, 2, dtype=torch.complex64), TypeError, "must be real, got torch.complex64"),
        ],
    )
    def test_rejects(self, matrix: Tensor, error: type[Exception], message: str) -> None:
        with pytest.raises(error, match=message):
            Matrix(matrix)


class TestMask:
    mask = torch.tensor([[1, 0, 1], [0, 0, 1]])

    def test_missing_entries_are_zero_and_free_of_noise(self) -> None:
        op = Mask(self.mask, sigma_y=0.5)
        y = op.measure(randn(2, 2, 3), seed=0)
        assert (y[:, self.mask == 0] == 0).all()
        assert (y[:, self.mask == 1] != 0).all()
        assert (op.measured, op.dof) == (3, 3)

    def test_ignores_what_is_missing(self) -> None:
        x = randn(1, 2, 3)
        holes = torch.where(self.mask.bool(), x, math.nan)
        op = Mask(self.mask)
        assert torch.equal(op(holes), op(x))
        assert torch.equal(op.measure(holes, seed=0), op.measure(x, seed=0))
        assert torch.equal(op.prox(x, holes, 0.1), op.prox(x, op(x), 0.1))

    @pytest.mark.parametrize(
        "mask", [mask.bool(), mask.float(), mask.numpy(), mask.numpy().astype(bool), mask[None], mask.expand(4, 2, 3)]
    )
    def test_broadcasts_over_channels(self, mask: Tensor | np.ndarray) -> None:
        op = Mask(mask, (4, 2, 3))
        assert op.in_shape == (4, 2, 3)
        assert op.measured == 12
        assert_close(op(randn(1, 4, 2, 3)), randn(1, 4, 2, 3) * self.mask)

    def test_takes_the_shape_of_the_mask(self) -> None:
        assert Mask(self.mask).in_shape == (2, 3)

    def test_keeps_its_own_copy(self) -> None:
        mask = self.mask.bool()
        op = Mask(mask)
        mask.fill_(True)
        assert op.dof == int(op.mask.sum()) == 3

    @pytest.mark.parametrize(
        ("mask", "in_shape", "message"),
        [
            (torch.tensor([0, 255, 128]), None, "got also 128, 255. Compare it with a threshold"),
            (torch.tensor([1.0, math.nan]), None, "got also nan"),
            (torch.zeros(2, 3), None, "every entry is missing"),
            (torch.ones(2, 3), (3, 2, 4), r"shape \(2, 3\) does not broadcast to in_shape \(3, 2, 4\)"),
            (torch.ones(1, 3, 2, 3), (3, 2, 3), "does not broadcast"),
            (torch.tensor(1), None, "in_shape must hold positive integers"),
        ],
    )
    def test_rejects(self, mask: Tensor, in_shape: tuple[int, ...] | None, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            Mask(mask, in_shape)


class TestBlur:
    @pytest.mark.parametrize("boundary", BOUNDARIES)
    @pytest.mark.parametrize("size", [(3, 5), (4, 2), (3, 4), (1, 1), (8, 11), (7, 1)])
    @pytest.mark.parametrize("separable", [False, True])
    def test_agrees_with_scipy(self, boundary: str, size: tuple[int, int], separable: bool) -> None:
        kernel = randn(size[0], 1) @ randn(1, size[1], seed=1) if separable else randn(*size)
        x = randn(2, 3, 8, 11)
        expected = scipy.ndimage.convolve(x.numpy(), kernel.numpy()[None, None], mode=SCIPY_MODES[boundary])
        if boundary == "valid":
            rows, columns = (slice((n - 1) // 2, (n - 1) // 2 + side - n + 1) for n, side in zip(size, (8, 11), strict=True))
            expected = expected[..., rows, columns]
        assert_close(Blur((3, 8, 11), kernel, boundary=boundary)(x), torch.from_numpy(expected))

    def test_solves_separable_kernels_in_closed_form(self) -> None:
        kernel = torch.tensor([0.2, 0.5, 0.3]).outer(torch.tensor([0.6, 0.4]))  # In float32: of rank one up to its rounding.
        assert isinstance(Blur((1, 8, 8), kernel, boundary="reflect").convolution, Separable)
        kernel[0, 0] *= 1.001
        assert isinstance(Blur((1, 8, 8), kernel, boundary="reflect").convolution, PaddedConvolution)

    @pytest.mark.parametrize("boundary", ["reflect", "zero"])
    def test_solves_by_conjugate_gradients_what_the_matrix_gives(self, boundary: str) -> None:
        kernel = randn(3, 3) + 6 * torch.eye(3)
        op = Blur((1, 24, 24), kernel, boundary=boundary)
        matrix = dense_matrix(op.forward, op.in_shape, dtype=torch.float64, device=torch.device("cpu"))
        v = outputs(op)
        expected = torch.linalg.solve(matrix @ matrix.T + 0.1 * torch.eye(576, dtype=torch.float64), v.flatten(1).T).T
        assert_near(op.solve(v, 0.1).flatten(1), expected, 1e-9)

    @pytest.mark.parametrize("boundary", ["reflect", "zero"])
    def test_solves_in_fewer_products_than_without_a_preconditioner(self, boundary: str) -> None:
        kernel = randn(7, 7).abs()
        op, products = PaddedConvolution((1, 32, 32), kernel / kernel.sum(), boundary), [0, 0]
        v, lam = outputs(op), 1e-3

        def counted(which: int, w: Tensor) -> Tensor:
            products[which] += 1
            return PaddedConvolution.adjoint(op, w)

        vars(op)["adjoint"] = lambda w: counted(0, w)
        solved = op.solve(v, lam)
        plain = conjugate_gradients(lambda w: op.forward(counted(1, w)) + lam * w, v, rtol=1e-12)
        assert_near(solved, plain, 1e-8)
        assert products[0] < 0.7 * products[1], products

    @pytest.mark.parametrize("size", [(5, 6), (4, 1), (5, 5), (1, 6)])
    @pytest.mark.parametrize("boundary", ["reflect", "zero"])
    def test_adjoint_of_kernels_as_large_as_the_image(self, boundary: str, size: tuple[int, int]) -> None:
        check_adjoint(PaddedConvolution((1, 5, 6), randn(*size), boundary))

    def test_does_not_normalise(self) -> None:
        ones = torch.ones(1, 1, 6, 6)
        assert_close(Blur((1, 6, 6), torch.full((2, 2), 0.5))(ones), 2 * ones)

    @pytest.mark.parametrize(
        ("kernel", "message"),
        [
            (torch.ones(3), r"kernel must be two-dimensional and not empty, got shape \(3,\)"),
            (torch.ones(7, 3), "got kernel 7 x 3 for height 6, width 8"),
            (torch.tensor([[1.0, math.inf]]), "kernel must be finite, got 1 NaN"),
            (torch.tensor([[1.0, -1.0]]), "must not sum to zero, got sum 0"),
            (torch.zeros(3, 3), "must not sum to zero, got sum 0"),
        ],
    )
    def test_rejects_kernel(self, kernel: Tensor, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            Blur((3, 6, 8), kernel)

    def test_rejects_boundary_and_shape(self) -> None:
        with pytest.raises(ValueError, match="unknown boundary 'wrap', expected one of circular, reflect, zero"):
            Blur((3, 6, 8), torch.ones(1, 1), boundary="wrap")
        with pytest.raises(ValueError, match=r"Blur: in_shape must be \(C, H, W\), without the batch axis, got \(6, 8\)"):
            Blur((6, 8), torch.ones(1, 1))


class TestKernels:
    def test_gaussian(self) -> None:
        kernel = gaussian_kernel(1.5)
        assert (kernel.shape, kernel.dtype) == ((13, 13), torch.float64)
        assert_close(kernel.sum(), torch.tensor(1.0, dtype=torch.float64))
        impulse = np.zeros((13, 13))
        impulse[6, 6] = 1
        expected = torch.from_numpy(scipy.ndimage.gaussian_filter(impulse, 1.5, radius=6))
        assert_close(kernel, expected)
        assert isinstance(Blur((1, 16, 16), kernel, boundary="zero").convolution, Separable)

    def test_gaussian_of_given_size(self) -> None:
        assert gaussian_kernel(3.0, 61).shape == (61, 61)

    def test_motion(self) -> None:
        kernel = motion_kernel(7, 0.0)
        expected = torch.zeros(7, 7, dtype=torch.float64)
        expected[3] = 1 / 7
        assert_close(kernel, expected)
        assert_close(motion_kernel(7, 90.0), expected.T, atol=1e-12, rtol=0)
        rising = motion_kernel(9, 45.0)  # Counter-clockwise: from the lower left to the upper right.
        assert rising.flip(0).diagonal().sum() > 2 * rising.diagonal().sum()
        assert motion_kernel(5, 0.0, 1.0)[2, 0] == motion_kernel(5, 0.0, 1.0).max()
        assert_close(motion_kernel(5, 0.0, -1.0), motion_kernel(5, 0.0, 1.0).flip(1))
        for angle in (17.0, 45.0, 200.0):
            assert_close(motion_kernel(9, angle, 0.4).sum(), torch.tensor(1.0, dtype=torch.float64))

    @pytest.mark.parametrize("sigma", [0.0, -1.0, math.nan, math.inf])
    def test_rejects_sigma(self, sigma: float) -> None:
        with pytest.raises(ValueError, match="sigma must be positive and finite"):
            gaussian_kernel(sigma)

    @pytest.mark.parametrize("size", [0, -3, 4, 2.5])
    def test_rejects_size(self, size: Any) -> None:
        with pytest.raises(ValueError, match="size must be"):
            gaussian_kernel(1.0, size)
        with pytest.raises(ValueError, match="size must be"):
            motion_kernel(size, 0.0)

    def test_rejects_motion(self) -> None:
        with pytest.raises(ValueError, match="angle must be finite"):
            motion_kernel(5, math.nan)
        with pytest.raises(ValueError, match=r"direction must lie in \[-1, 1\], got 1.5"):
            motion_kernel(5, 0.0, 1.5)


class TestDownsample:
    @pytest.mark.parametrize("factor", [1, 2, 4])
    def test_area_is_the_block_mean(self, factor: int) -> None:
        x = randn(2, 3, 8, 12)
        expected = x.reshape(2, 3, 8 // factor, factor, 12 // factor, factor).mean((3, 5))
        assert_close(Downsample((3, 8, 12), factor)(x), expected)

    @pytest.mark.parametrize(("side", "factor"), [((8, 12), 2), ((32, 48), 4), ((24, 9), 3), ((8, 8), 8), ((5, 7), 1)])
    def test_bicubic_agrees_with_pillow(self, side: tuple[int, int], factor: int) -> None:
        x = randn(1, *side, dtype=torch.float32)
        small = Image.fromarray(x[0].numpy()).resize((side[1] // factor, side[0] // factor), Image.Resampling.BICUBIC)
        actual = Downsample((1, *side), factor, kernel="bicubic")(x.unsqueeze(0))
        assert_close(actual[0, 0], torch.from_numpy(np.array(small)), atol=1e-6, rtol=1e-6)

    @pytest.mark.parametrize("factor", [0, -2, 5, 8])
    def test_rejects_factor(self, factor: int) -> None:
        with pytest.raises(ValueError, match=f"got factor={factor} for height 8, width 12. Crop or pad the image"):
            Downsample((3, 8, 12), factor)

    def test_rejects_kind(self) -> None:
        with pytest.raises(TypeError, match=r"factor must be an integer, got 2\.0"):
            Downsample((3, 8, 12), cast(Any, 2.0))
        with pytest.raises(ValueError, match="unknown kernel 'nearest', expected one of area, bicubic"):
            Downsample((3, 8, 12), 2, kernel="nearest")


class TestSeparable:
    @pytest.mark.parametrize(("left", "right", "name"), [((9, 8), (4, 4), "left"), ((2, 8), (4, 5), "right")])
    def test_rejects_shapes(self, left: tuple[int, int], right: tuple[int, int], name: str) -> None:
        with pytest.raises(ValueError, match=f"Separable: {name} must have"):
            Separable((1, 8, 4), torch.ones(left), torch.ones(right))


class TestFunction:
    def test_learns_the_shape_from_one_call(self) -> None:
        calls: list[tuple[torch.Size, torch.dtype]] = []

        def halves(x: Tensor) -> Tensor:
            calls.append((x.shape, x.dtype))
            return x[..., ::2] ** 2

        op = Function(halves, (3, 8), dtype=torch.float64)
        assert op.out_shape == (3, 4)
        assert calls == [((1, 3, 8), torch.float64)]

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


def test_every_public_name_exists() -> None:
    assert all(hasattr(operators, name) for name in operators.__all__)
    assert list(operators.__all__) == sorted(operators.__all__)
