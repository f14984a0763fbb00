"""Laws of every operator, found through its class."""

from __future__ import annotations

import contextlib
import copy
import math
import pickle
from collections.abc import Callable
from typing import cast

import pytest
import torch
from cases import build, chosen_device, over, selected
from helpers import randn
from operator_checks import (
    BATCH,
    LINEAR_LAWS,
    SINGLE,
    Planted,
    assert_near,
    check_adjoint,
    check_items,
    check_kind,
    check_prox,
    check_saved,
    check_solve,
    given_callables,
    has_a_name,
    inputs,
    missed_faults,
    outputs,
    with_noise,
)
from simulated_device import DEVICE as SIMULATED
from torch.testing import assert_close

from invdiff import operators
from invdiff.operators import (
    Blur,
    Crop,
    Downsample,
    Function,
    Identity,
    LinearFunction,
    LinearOperator,
    Mask,
    Matrix,
    Noise,
    Operator,
)
from invdiff.operators.algebra.per_item import PerItem
from invdiff.random import Streams

EVERY = over("op", selected(Operator))
LINEAR = over("op", selected(LinearOperator))
NONLINEAR = over("op", selected(Operator, lambda cls: not issubclass(cls, LinearOperator)))
DECOMPOSED = over("op", selected(LinearOperator, lambda cls: not issubclass(cls, PerItem)))


@pytest.mark.parametrize("law", LINEAR_LAWS, ids=lambda law: law.__name__)
@LINEAR
def test_linear_operator(op: LinearOperator, law: Callable[[LinearOperator], None]) -> None:
    law(op)


@LINEAR
def test_linear_operator_in_float32(op: LinearOperator) -> None:
    for law in LINEAR_LAWS:
        law(op, SINGLE)


class TestLawsCatch:
    op = build(Blur)[1]

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
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    @EVERY
    def test_keeps_shape_dtype_device(self, op: Operator, dtype: torch.dtype, device: torch.device) -> None:
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
        device = chosen_device()
        for moved in (op.to(device), op.to(dtype=torch.float32), op.to(device, torch.float32)):
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

    @NONLINEAR
    def test_measurement_and_jacobian_from_one_evaluation(self, op: Operator) -> None:
        x, v = inputs(op, seed=6), outputs(op)
        value, linear = op.linearized(x)
        assert not value.requires_grad
        assert_near(value, op(x), 1e-12)
        followed = v.clone().requires_grad_()
        expected = torch.func.vjp(op, x)[1](v)[0]
        for product in (linear.adjoint(v), linear.adjoint(v), linear.adjoint(followed)):  # The graph is kept.
            assert_near(product, expected, 1e-10)
        (back,) = torch.autograd.grad(linear.adjoint(followed), followed, x)
        assert_near(back, linear(x), 1e-8)

    @EVERY
    def test_what_is_linearized_is_linearized_at_the_point(self, op: Operator) -> None:
        x, v = inputs(op, seed=6), inputs(op, seed=7)
        assert_near(op.linearized(x)[0], op(x), 1e-12)
        jacobian = op.jacobian(x)
        assert_near(jacobian.linearized(v)[0], jacobian(v), 1e-12)

    @EVERY
    def test_in_inference_mode(self, op: Operator, device: torch.device) -> None:
        if device == SIMULATED:
            pytest.skip("the simulated device has no inference mode")
        with torch.inference_mode():
            x, v = inputs(op), outputs(op)
            results = [op(x), op.jacobian(x)(x), op.jacobian(x).adjoint(v)]
            if isinstance(op, LinearOperator):
                results += [op.adjoint(v), op.solve(v, 0.1), op.pinv(v), op.prox(x, v, 0.1)]
        assert all(result.isfinite().all() for result in results)


class TestSVD:
    @DECOMPOSED
    def test_float32(self, op: LinearOperator) -> None:
        assert op.svd is not None
        svd = op.svd.to(chosen_device())
        moved = svd.to(dtype=torch.float32)
        assert moved.singular.dtype == torch.float32
        assert_near(moved.singular.double().unsqueeze(0), svd.singular.unsqueeze(0), 1e-5)
        x, y, x_bar = inputs(op), outputs(op), svd.analyze(inputs(op, seed=3))
        for either in (svd, moved):  # Both answer in the dtype they are asked in.
            assert_near(either.analyze(x.float()), svd.analyze(x).float(), 1e-5)
            assert_near(either.synthesize(x_bar.float()), svd.synthesize(x_bar).float(), 1e-5)
            assert_near(either.measured(y.float()), svd.measured(y).float(), 1e-5)

    @DECOMPOSED
    def test_of_a_moved_operator(self, op: LinearOperator) -> None:
        before = copy.copy(op).to(dtype=torch.float32)
        assert op.svd is op.svd is not None
        for moved in (before, op.to(dtype=torch.float32)):
            svd, x = moved.svd, inputs(op, dtype=torch.float32)
            assert svd is not None
            assert_near(svd.measured(moved(x)), svd.singular.to(x) * svd.analyze(x), 1e-4)

    @DECOMPOSED
    def test_made_in_inference_mode_it_can_be_differentiated_later(self, op: LinearOperator) -> None:
        fresh, x = copy.copy(op), inputs(op).requires_grad_()
        vars(fresh).pop("_svd", None)
        with torch.inference_mode():
            svd = fresh.svd
        assert svd is not None
        (gradient,) = torch.autograd.grad((svd.analyze(x) ** 2).sum(), x)
        assert_near(gradient, 2 * x.detach(), 1e-12)

    def test_leaves_its_arguments_alone(self) -> None:
        op, x = Mask(torch.tensor([1, 0, 1])), randn(2, 3)
        assert op.svd is not None
        for result in (op.svd.analyze(x), op.svd.synthesize(x), op.svd.measured(x)):
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
        assert_near(svd.measured(op(x)), svd.singular * svd.analyze(x), 1e-12)

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


@over("law", selected(Noise))
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


@LINEAR
def test_what_is_known_exactly_is_measured_bit_by_bit_and_nothing_else_is_measured(op: LinearOperator) -> None:
    noisy, exact = (cast(LinearOperator, with_noise(op, sigma)) for sigma in (0.3, 0.0))
    assert noisy.known is None
    known = exact.known
    if known is None:
        return
    assert (known.shape, known.dtype) == (op.in_shape, torch.bool)
    known = known.to(chosen_device())
    x, other = inputs(op), inputs(op, seed=5)
    placed = exact.adjoint(exact(x))
    assert torch.equal(placed, torch.where(known, x, 0))
    assert torch.equal(exact(torch.where(known, x, other)), exact(x))
    # In a window, the measurement is that of a mask of the window.
    box = tuple(slice(side // 3, side - side // 4) for side in op.in_shape[-2:])
    if len(box) == 2 and known[(..., *box)].any():
        inside = Mask(known[(..., *box)])
        assert torch.equal(inside(x[(..., *box)]), placed[(..., *box)])


def test_masks_and_crops_know_entries_and_the_law_is_not_empty() -> None:
    some = {type(op).__name__ for op in (*build(Mask), *build(Crop)) if with_noise(op, 0.0).known is not None}
    assert some == {"Crop", "Mask"}


def test_every_public_name_exists() -> None:
    assert all(hasattr(operators, name) for name in operators.__all__)
    assert list(operators.__all__) == sorted(operators.__all__)
