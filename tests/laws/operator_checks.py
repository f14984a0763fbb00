"""The laws of operators as functions, so that planted errors can be held against them too."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, cast

import torch
from cases import chosen_device
from helpers import dot, norm, randn
from torch import Tensor
from torch.testing import assert_close

from invdiff.linalg import dense_matrix, over_items
from invdiff.movable import Movable
from invdiff.operators import (
    Function,
    GaussianNoise,
    LinearFunction,
    LinearOperator,
    Operator,
)
from invdiff.operators.core.svd import SVD


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


def inputs(op: Operator, *, seed: int = 1, dtype: torch.dtype = torch.float64) -> Tensor:
    return randn(BATCH, *op.in_shape, seed=seed, dtype=dtype).to(chosen_device())


def outputs(op: Operator, *, seed: int = 2, dtype: torch.dtype = torch.float64) -> Tensor:
    return randn(BATCH, *op.out_shape, seed=seed, dtype=dtype).to(chosen_device())


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
    """The gradient of what it minimizes vanishes there."""
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
    device = chosen_device()
    svd, x, y = op.svd.to(device, at.dtype), inputs(op, dtype=at.dtype), outputs(op, dtype=at.dtype)
    s, x_bar, y_bar = svd.singular, svd.analyze(x), svd.measured(y)
    assert s.shape == svd.shape == x_bar.shape[1:] == y_bar.shape[1:]
    assert (s >= 0).all()
    assert_near(svd.synthesize(x_bar), x, at.exact)
    assert_near(norm(x_bar).unsqueeze(1), norm(x).unsqueeze(1), at.exact)
    assert_near(svd.measured(op(x)), s * x_bar, at.exact)
    assert_near(svd.synthesize(s * y_bar), op.adjoint(y), at.exact)
    assert (y_bar[:, s == 0] == 0).all()
    pinv = svd.synthesize(torch.where(s > 0, y_bar / torch.where(s > 0, s, 1), 0))
    assert_near(pinv, op.pinv(y), at.solved)
    assert_near(norm(y_bar).unsqueeze(1), norm(op(pinv)).unsqueeze(1), at.solved)
    if at is DOUBLE:  # Against the matrix itself.
        basis = dense_matrix(svd.analyze, op.in_shape, dtype=torch.float64, device=device)
        assert_near(basis @ basis.T, torch.eye(x[0].numel(), dtype=torch.float64, device=device), 1e-12)
        matrix = dense_matrix(op.adjoint, op.out_shape, dtype=torch.float64, device=device)
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


# Laws of every operator, linear or not.


def check_kind(op: Operator, dtype: torch.dtype, device: torch.device) -> None:
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
    """What comes out for an item does not depend on its neighbors."""
    x, v = inputs(op), outputs(op)
    v = v * over_items(
        torch.tensor([1e-4, 1.0, 1e4], dtype=v.dtype, device=v.device), v
    )  # A norm over the batch would drown the first.
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

    def analyze(self, x: Tensor) -> Tensor:
        return self.svd.analyze(x)

    def synthesize(self, x_bar: Tensor) -> Tensor:
        return self.svd.synthesize(x_bar)

    def _rotate(self, y: Tensor) -> Tensor:
        return self.svd._rotate(y)


class Planted(LinearOperator):
    """``op`` with one of its maps off by a factor: what the laws must notice."""

    def __init__(self, op: LinearOperator, **factors: float) -> None:
        self.op, self.factors, self.closed_form = op, factors, op.closed_form
        self.in_shape, self.out_shape, self.noise = op.in_shape, op.out_shape, op.noise

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
