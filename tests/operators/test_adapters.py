"""Operators of scipy and deepinv: the same numbers as over there, and our laws. deepinv need not be installed."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import scipy.sparse
import scipy.sparse.linalg
import torch
from helpers import randn
from operator_checks import (
    LINEAR_LAWS,
    SINGLE,
    assert_near,
    check_adjoint,
    check_pinv,
    check_saved,
    check_solve,
    given_callables,
    has_a_name,
    inputs,
    outputs,
)
from torch import Tensor, nn
from torch.testing import assert_close

from invdiff.operators import (
    Affine,
    Function,
    GaussianNoise,
    LinearFunction,
    LinearOperator,
    Mask,
    Operator,
    from_deepinv,
    from_linear_operator,
    per_item,
)
from invdiff.operators.algebra.compose import LinearComposed
from invdiff.operators.algebra.stack import LinearStack

MATRIX = scipy.sparse.random_array((12, 20), density=0.4, rng=np.random.default_rng(0), dtype=np.float64)


def scipy_operator(shape: tuple[int, int], **products: Any) -> Any:
    return scipy.sparse.linalg.LinearOperator(shape, dtype=np.dtype(np.float64), **products)


class Shift:
    """What is no scipy operator, but looks like one."""

    shape = (6, 6)

    def matvec(self, x: Any) -> Any:
        return 2 * np.roll(x, 1, 0) + x

    def rmatvec(self, y: Any) -> Any:
        return 2 * np.roll(y, -1, 0) + y


class TestLinearOperator:
    def given(self) -> dict[str, Any]:
        dense = MATRIX.toarray()
        return {
            "sparse array": MATRIX.tocsr(),
            "sparse matrix": scipy.sparse.csc_matrix(MATRIX),
            "array": dense,
            "scipy operator": scipy_operator(dense.shape, matvec=lambda x: dense @ x, rmatvec=lambda y: dense.T @ y),
        }

    @pytest.mark.parametrize("name", ["sparse array", "sparse matrix", "array", "scipy operator"])
    def test_is_the_matrix(self, name: str) -> None:
        op, matrix = from_linear_operator(self.given()[name], (4, 5), (3, 4)), torch.from_numpy(MATRIX.toarray())
        x, y = inputs(op), outputs(op)
        assert_close(op(x), (x.flatten(1) @ matrix.T).reshape(-1, 3, 4))
        assert_close(op.adjoint(y), (y.flatten(1) @ matrix).reshape(-1, 4, 5))
        assert_close(op.pinv(y).flatten(1), y.flatten(1) @ torch.linalg.pinv(matrix).T)

    @pytest.mark.parametrize("law", LINEAR_LAWS, ids=lambda law: law.__name__)
    @pytest.mark.parametrize("linear_operator", [MATRIX, MATRIX.T.tocsr(), Shift()], ids=["wide", "tall", "alike"])
    def test_keeps_the_laws(self, linear_operator: Any, law: Any) -> None:
        law(from_linear_operator(linear_operator, (linear_operator.shape[1],), sigma_y=0.1))

    @pytest.mark.parametrize("linear_operator", [MATRIX, MATRIX.toarray(), Shift()], ids=["sparse", "dense", "alike"])
    def test_is_saved_and_loaded(self, linear_operator: Any) -> None:
        op = from_linear_operator(linear_operator, (linear_operator.shape[1],), sigma_y=0.1)
        assert all(map(has_a_name, given_callables(op)))
        check_saved(op)

    def test_takes_any_dtype(self) -> None:
        op, x = from_linear_operator(MATRIX, (20,)), randn(2, 20)
        assert op.out_shape == (12,)
        for dtype in (torch.float32, torch.bfloat16):
            assert op(x.to(dtype)).dtype == dtype
        assert_near(op(x.float()).double(), op(x), 1e-6)
        assert op.to(dtype=torch.float32).solve(x[:, :12].float(), 0.1).dtype == torch.float32

    def test_is_differentiated_through(self) -> None:
        op, x, v = from_linear_operator(MATRIX, (20,)), randn(2, 20).requires_grad_(), randn(2, 12, seed=1)
        (gradient,) = torch.autograd.grad((op(torch.tanh(x)) ** 2).sum(), x)
        expected = (1 - torch.tanh(x) ** 2) * 2 * op.adjoint(op(torch.tanh(x)))
        assert_close(gradient, expected)
        bent = Function(torch.tanh, (12,), dtype=torch.float64) @ op
        jacobian = torch.func.jvp(bent, (x.detach(),), (randn(2, 20, seed=2),))[1]
        assert_close(bent.jacobian(x.detach())(randn(2, 20, seed=2)), jacobian)
        assert_close(torch.func.jvp(op, (x.detach(),), (randn(2, 20, seed=2),))[1], op(randn(2, 20, seed=2)))
        assert_close(torch.func.vjp(op, x.detach())[1](v)[0], op.adjoint(v))

    def test_leaves_its_arguments_alone(self) -> None:
        same = scipy_operator((5, 5), matvec=lambda x: x, rmatvec=lambda y: y, matmat=lambda x: x, rmatmat=lambda y: y)
        op, x = from_linear_operator(same, (5,)), randn(1, 5)
        op(x).add_(1)
        assert torch.equal(x, randn(1, 5))

    def test_noise(self) -> None:
        assert from_linear_operator(MATRIX, (20,), sigma_y=0.2).sigma_y == 0.2
        assert from_linear_operator(MATRIX, (20,), noise=GaussianNoise(0.3)).sigma_y == 0.3

    def test_rejects(self) -> None:
        with pytest.raises(
            ValueError, match=r"in_shape must have 20 entries for an operator of shape \(12, 20\), got \(3, 5\)"
        ):
            from_linear_operator(MATRIX, (3, 5))
        with pytest.raises(ValueError, match=r"out_shape must have 12 entries .* got \(3, 5\)"):
            from_linear_operator(MATRIX, (20,), (3, 5))
        with pytest.raises(TypeError, match="expected a matrix, or an object with shape, matvec and rmatvec, got function"):
            from_linear_operator(lambda x: x, (3, 5))
        with pytest.raises(TypeError, match="must be real, got complex128"):
            from_linear_operator(MATRIX.astype(np.complex128), (20,))
        with pytest.raises(TypeError, match="rmatvec, the adjoint, is missing"):
            from_linear_operator(scipy_operator((3, 3), matvec=lambda x: x), (3,))
        wrong = scipy_operator((3, 3), matvec=lambda x: np.roll(x, 1, 0), rmatvec=lambda y: 1.001 * np.roll(y, -1, 0))
        with pytest.raises(ValueError, match="adjoint is not the adjoint of the function"):
            from_linear_operator(wrong, (3,))


def physics(**members: Any) -> SimpleNamespace:
    return SimpleNamespace(A=lambda x: 2 * x.roll(1, -1), A_adjoint=lambda y: 2 * y.roll(-1, -1), **members)


class TestWhatLooksLikeDeepinv:
    """By the methods alone: deepinv itself is not needed."""

    def test_linear(self) -> None:
        op = from_deepinv(physics(), (3, 4), sigma_y=0.2)
        assert isinstance(op, LinearFunction)
        assert (op.out_shape, op.sigma_y) == ((3, 4), 0.2)
        assert_close(op.solve(outputs(op), 0.5), outputs(op) / 4.5, rtol=1e-6, atol=1e-6)

    def test_nonlinear(self) -> None:
        for given in (SimpleNamespace(A=torch.tanh), SimpleNamespace(A=torch.tanh, A_adjoint=torch.tanh)):
            op = from_deepinv(given, (3, 4), noise=GaussianNoise(0.2))
            assert isinstance(op, Function)
            assert op.sigma_y == 0.2
            assert_close(op(randn(2, 3, 4, dtype=torch.float32)), torch.tanh(randn(2, 3, 4, dtype=torch.float32)))

    def test_an_approximate_adjoint(self) -> None:
        rough = SimpleNamespace(A=lambda x: 2 * x, A_adjoint=lambda y: 2.002 * y)
        with pytest.raises(ValueError, match=r"SimpleNamespace: .*is not the adjoint.* option for that is autodiff=True"):
            from_deepinv(rough, (3, 4))
        op = from_deepinv(rough, (3, 4), autodiff=True)
        assert isinstance(op, LinearOperator)
        check_adjoint(op, SINGLE)

    def test_rejects(self) -> None:
        with pytest.raises(TypeError, match="SimpleNamespace has no method A"):
            from_deepinv(SimpleNamespace(), (3, 4))
        with pytest.raises(
            TypeError, match=r"real floating-point tensor, got torch\.complex64.*torch\.view_as_real\(physics\.A"
        ):
            from_deepinv(SimpleNamespace(A=torch.fft.fft), (3, 4))
        with pytest.raises(ValueError, match=r"A cannot be applied to real tensors of shape .*view_as_real is only supported"):
            from_deepinv(SimpleNamespace(A=torch.view_as_real), (3, 4))
        with pytest.raises(TypeError, match="A must return a real floating-point tensor, got list"):
            from_deepinv(SimpleNamespace(A=lambda x: [x, x]), (3, 4))
        with pytest.raises(ValueError, match="its sensor_model, which acts on the noisy measurement, has no counterpart"):
            from_deepinv(physics(sensor_model=torch.round), (3, 4))
        with pytest.raises(ValueError, match=r"only Gaussian noise with one level .* got SimpleNamespace\."):
            from_deepinv(physics(noise_model=SimpleNamespace(gain=1.0)), (3, 4))


class Physics(nn.Module):
    """What all physics of deepinv have: ``A``, noise of a class that is known by its name, a sensor."""

    def __init__(self, noise_model: nn.Module | None = None) -> None:
        super().__init__()
        self.noise_model = Deepinv.ZeroNoise() if noise_model is None else noise_model
        self.sensor_model = nn.Identity()


class Deepinv:
    """Physics with the public interface of those of deepinv; the real ones are held to the laws in benchmarks/adapters.py."""

    class ZeroNoise(nn.Module):
        pass

    class GaussianNoise(nn.Module):
        sigma: Tensor

        def __init__(self, sigma: float) -> None:
            super().__init__()
            self.register_buffer("sigma", torch.tensor(sigma))

    class Blur(Physics):
        filter: Tensor

        def __init__(self, kernel: Tensor, noise_model: nn.Module | None = None) -> None:
            super().__init__(noise_model)
            self.register_buffer("filter", kernel)

        def A(self, x: Tensor) -> Tensor:  # noqa: N802
            return self._rolled(x, 1)

        def A_adjoint(self, y: Tensor) -> Tensor:  # noqa: N802
            return self._rolled(y, -1)

        def _rolled(self, x: Tensor, sign: int) -> Tensor:
            taps = [(i, j) for i in range(self.filter.shape[0]) for j in range(self.filter.shape[1])]
            return torch.stack([self.filter[i, j] * x.roll((sign * i, sign * j), (-2, -1)) for i, j in taps]).sum(0)

    class Inpainting(Physics):
        mask: Tensor

        def __init__(self, mask: Tensor, noise_model: nn.Module | None = None) -> None:
            super().__init__(noise_model)
            self.register_buffer("mask", mask)

        def A(self, x: Tensor) -> Tensor:  # noqa: N802
            return self.mask * x

        A_adjoint = A

    class MRI(Inpainting):
        def A(self, x: Tensor) -> Tensor:  # noqa: N802
            image = torch.view_as_complex(x.movedim(1, -1).contiguous())
            return self.mask * torch.view_as_real(torch.fft.fft2(image, norm="ortho")).movedim(-1, 1)

        def A_adjoint(self, y: Tensor) -> Tensor:  # noqa: N802
            spectrum = torch.view_as_complex((self.mask * y).movedim(1, -1).contiguous())
            return torch.view_as_real(torch.fft.ifft2(spectrum, norm="ortho")).movedim(-1, 1)

    class Decolorize(Physics):  # Without tensors of its own.
        def A(self, x: Tensor) -> Tensor:  # noqa: N802
            return x.mean(1, keepdim=True)

        def A_adjoint(self, y: Tensor) -> Tensor:  # noqa: N802
            return y.expand(-1, 3, -1, -1) / 3

    class SpatialUnwrapping(Physics):
        def A(self, x: Tensor) -> Tensor:  # noqa: N802
            return x - x.round()

    class StackedLinearPhysics(Physics):
        def __init__(self, physics_list: list[Physics]) -> None:
            super().__init__()
            self.physics_list = physics_list

        def A(self, x: Tensor) -> list[Tensor]:  # noqa: N802
            return [cast(Any, part).A(x) for part in self.physics_list]

    class ComposedLinearPhysics(Physics):
        def __init__(self, *physics: Physics) -> None:
            super().__init__()
            self.physics_list = nn.ModuleList(physics)  # Not a list: these are one physics.

        def A(self, x: Tensor) -> Tensor:  # noqa: N802
            for part in self.physics_list:
                x = cast(Any, part).A(x)
            return x

        def A_adjoint(self, y: Tensor) -> Tensor:  # noqa: N802
            for part in reversed(self.physics_list):
                y = cast(Any, part).A_adjoint(y)
            return y


def blur(noise_model: nn.Module | None = None) -> Any:
    return Deepinv.Blur(randn(3, 3).abs() / 9, noise_model)


class TestDeepinv:
    @pytest.mark.parametrize("law", LINEAR_LAWS, ids=lambda law: law.__name__)
    def test_keeps_the_laws(self, law: Callable[[Any], None]) -> None:
        op = from_deepinv(blur(), (1, 8, 8))
        assert op.dtype == torch.float64
        law(op)

    @pytest.mark.parametrize("change", ["replaced", "in place"])
    def test_a_later_update_changes_nothing(self, change: str) -> None:
        x, mask = randn(2, 1, 6, 8, dtype=torch.float32), (randn(1, 6, 8) < 0).float()
        for given, name in ((Deepinv.Inpainting(mask.clone()), "mask"), (Deepinv.Blur(randn(3, 3).float()), "filter")):
            op = from_deepinv(given, (1, 6, 8))
            y, v, dof = op(x), op.measure(x, seed=0), op.dof
            if change == "replaced":
                setattr(given, name, torch.ones_like(getattr(given, name)))
            else:
                getattr(given, name).fill_(1)
            assert isinstance(op, LinearOperator)
            assert (torch.equal(op(x), y), torch.equal(op.measure(x, seed=0), v), op.dof) == (True, True, dof)
            check_adjoint(op, SINGLE)

    def test_parameters_computed_from_others_are_copied(self) -> None:
        given, x = Deepinv.Blur(torch.ones(3, 3)), randn(1, 1, 6, 6, dtype=torch.float32)
        given.filter = torch.ones(3, 3, requires_grad=True) / 9  # Not a leaf.
        op = from_deepinv(given, (1, 6, 6))
        assert_close(op(x), given.A(x))

    @pytest.mark.parametrize("items", [2, 3])
    def test_parameters_of_a_batch_are_for_per_item(self, items: int) -> None:
        mask = (randn(items, 1, 6, 8) < 0).float()
        with pytest.raises(ValueError, match=rf"Inpainting.* {items} .*per_item\(\[from_deepinv\(one, in_shape\)"):
            from_deepinv(Deepinv.Inpainting(mask), (1, 6, 8))
        op, x = per_item([from_deepinv(Deepinv.Inpainting(one), (1, 6, 8)) for one in mask]), randn(items, 1, 6, 8)
        assert_close(op(x), mask * x)

    def test_images_on_0_to_1(self) -> None:
        """The conversions of the documentation: of measurements, and of nonlinear physics."""
        u, shape = randn(2, 1, 6, 6).abs(), (1, 6, 6)
        given = blur()
        op = from_deepinv(given, shape)
        assert_close(2 * given.A(u) - op(torch.ones(1, *shape, dtype=u.dtype)), op(2 * u - 1))
        squares = SimpleNamespace(A=torch.square)
        assert_close((from_deepinv(squares, shape) @ Affine(shape, 0.5, 0.5))(2 * u - 1), u**2)

    def test_is_the_physics(self) -> None:
        x, given = randn(2, 1, 8, 8), blur(Deepinv.GaussianNoise(0.25))
        op = from_deepinv(given, (1, 8, 8))
        assert isinstance(op, LinearFunction)
        assert op.sigma_y == 0.25
        assert_close(op(x), given.A(x))
        assert_close(op.adjoint(x), given.A_adjoint(x))
        assert from_deepinv(given, (1, 8, 8), sigma_y=0.5).sigma_y == 0.5

    def test_a_mask_leaves_entries_out(self) -> None:
        mask = (torch.arange(48) % 3 > 0).reshape(1, 6, 8)
        op = from_deepinv(Deepinv.Inpainting(mask.float(), Deepinv.GaussianNoise(0.125)), (1, 6, 8))
        assert isinstance(op, LinearComposed)
        assert isinstance(op.outer, Mask)
        assert (op.dof, op.sigma_y) == (32, 0.125)
        assert torch.equal(op.measure(randn(1, 1, 6, 8), seed=0) == 0, ~mask.unsqueeze(0))

    @pytest.mark.parametrize(
        ("given", "shape"),
        [
            (Deepinv.MRI((torch.arange(8) % 2).float().expand(2, 8, 8)), (2, 8, 8)),
            (Deepinv.Decolorize(), (3, 4, 4)),
            (Deepinv.Blur(randn(3, 3, dtype=torch.float32)), (1, 8, 8)),
        ],
        ids=lambda value: type(value).__name__,
    )
    def test_takes_what_computes_in_float32(self, given: Any, shape: tuple[int, ...]) -> None:
        op = from_deepinv(given, shape)
        assert isinstance(op, LinearOperator)
        assert op.dtype == torch.float32
        x = inputs(op, dtype=torch.float32)
        assert_close(op(x), given.A(x), atol=1e-6, rtol=1e-5)
        assert op(x.double()).dtype == torch.float64
        for law in (check_adjoint, check_solve, check_pinv):
            law(op, SINGLE)

    def test_what_is_not_linear(self) -> None:
        op: Operator = from_deepinv(Deepinv.SpatialUnwrapping(), (1, 6, 6))
        assert isinstance(op, Function)
        assert op.out_shape == (1, 6, 6)

    def test_stacked_and_composed(self) -> None:
        given = Deepinv.StackedLinearPhysics([blur(), Deepinv.Decolorize()])
        op, x = from_deepinv(given, (3, 8, 8)), randn(2, 3, 8, 8)
        assert isinstance(op, LinearStack)
        assert_close(op(x), torch.cat([part.flatten(1) for part in given.A(x)], 1), atol=1e-6, rtol=1e-6)
        composed = Deepinv.ComposedLinearPhysics(blur(), blur())
        op = from_deepinv(composed, (3, 8, 8))
        assert isinstance(op, LinearFunction)
        assert_close(op(x), composed.A(x))

    @pytest.mark.parametrize("given", [blur(), Deepinv.SpatialUnwrapping()], ids=lambda value: type(value).__name__)
    def test_is_saved_and_loaded(self, given: Any) -> None:
        op = from_deepinv(given, (1, 6, 6))
        assert all(map(has_a_name, given_callables(op)))
        check_saved(op)


def test_modules_are_left_where_they_are() -> None:
    class Gain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gain = nn.Parameter(torch.tensor(2.0))

        def A(self, x: Tensor) -> Tensor:  # noqa: N802
            return self.gain * x

        A_adjoint = A

    module = Gain()
    op = cast(LinearOperator, from_deepinv(module, (4,)))
    assert op(randn(2, 4)).dtype == torch.float64
    assert_close(op.to(dtype=torch.float64).pinv(randn(2, 4)), randn(2, 4) / 2, rtol=1e-6, atol=1e-6)
    assert module.gain.dtype == torch.float32
