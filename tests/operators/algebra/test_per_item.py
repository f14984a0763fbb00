"""One operator for each item of a batch: as if every item had been measured, and sampled, by its own alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import pytest
import torch
from cases import build
from helpers import randn
from latent_problem import decoded_for
from torch import Tensor
from torch.testing import assert_close

from invdiff import Posterior, PosteriorSampler
from invdiff.diagnostics import calibrate, residual_test
from invdiff.linalg import largest_singular_values
from invdiff.methods import METHODS
from invdiff.operators import (
    Blur,
    CovarianceNoise,
    Function,
    GaussianNoise,
    Identity,
    LaplaceNoise,
    LinearOperator,
    Mask,
    Matrix,
    Operator,
    compose,
    linearize,
    per_item,
    stack,
    whiten,
)
from invdiff.operators.algebra.per_item import LinearPerItem, NonlinearPerItem, PerItem
from invdiff.presets import kind_of
from invdiff.priors import Gaussian, GaussianMixture

SHAPE = (1, 3, 4)
FACTOR = randn(12, 12, seed=7)
PRIOR = Gaussian(0.3 * randn(*SHAPE, seed=8), (FACTOR @ FACTOR.mT / 12 + 0.1 * torch.eye(12, dtype=torch.float64)))
MASKS = torch.tensor([[[1, 0, 1, 1]] * 3, [[0, 1, 1, 0]] * 3, [[1, 1, 1, 1], [0, 0, 0, 0], [1, 0, 0, 1]]])
KERNELS = [torch.tensor(k, dtype=torch.float64) for k in ([[0.2, 0.6, 0.2]], [[0.1], [0.8], [0.1]], [[0.1, 1.5], [0.3, 0.1]])]
CONTROL = "unconditional"
LINEAR = {"linear", "mask", "latent", "inpainting"}  # needs that no nonlinear function meets


def masks(sigma_y: float = 0.3) -> list[LinearOperator]:
    return [Mask(mask[None], sigma_y=sigma_y) for mask in MASKS]


def blurs(sigma_y: float = 0.3) -> list[LinearOperator]:
    return [Blur(SHAPE, kernel, sigma_y=sigma_y) for kernel in KERNELS]


def saturating(sigma_y: float = 0.3) -> list[Operator]:
    def sensor(gain: float) -> Operator:
        return Function(lambda x: torch.tanh(gain * x), SHAPE, sigma_y=sigma_y)

    return [sensor(gain) for gain in (0.5, 1.0, 2.0)]


def suitable(method: str) -> Sequence[Operator]:
    """Return operators of three items that a method takes: of different kinds, gains and numbers of measured values."""
    needs = METHODS[method].needs
    sigma_y = 0.0 if "exact" in needs else 0.3
    if {"mask", "inpainting"} & set(needs):
        return masks(sigma_y)
    return [decoded_for(method, op) for op in (masks(sigma_y)[0], blurs(sigma_y)[2], masks(sigma_y)[1])]


def run(op: Operator, y: Tensor, method: str, *, chunk: int | None = None, **options: Any) -> Posterior:
    # The grid is one for all items: the gain of one operator alone may ask for another.
    settings = {"steps": 3, "ratio_min": 0.05, **options}
    if METHODS[method].algorithm.__name__ in ("TDS", "MMTSMC", "MCGdiff", "FPS"):
        settings["particles"] = 3
    return PosteriorSampler(PRIOR, op, method=method, **settings).run(y, num_samples=4, seed=5, chunk=chunk)


def assert_as_alone(ops: Sequence[Any], method: str, *, chunks: tuple[int, ...] = (2, 10), **options: Any) -> None:
    op = per_item(ops)
    y = op.measure(PRIOR.sample(3, seed=1), seed=2)
    alone = [run(one, y, method, **options) for one in ops]
    for chunk in chunks:
        post = run(op, y, method, chunk=chunk, **options)
        for b, expected in enumerate(alone):
            assert_close(post.samples[:, b], expected.samples[:, b], rtol=1e-6, atol=1e-8)
            assert_close(post.residual[:, b], expected.residual[:, b], rtol=1e-6, atol=1e-8)
            assert_close(post.weights[:, b], expected.weights[:, b])
            assert int(torch.as_tensor(post.dof).expand(3)[b]) == expected.dof
            if post.particles is not None and expected.particles is not None:
                assert_close(post.particles.log_evidence[b], expected.particles.log_evidence[b])
        if method != CONTROL:  # Else the items could have been measured by any of the three.
            assert not torch.allclose(alone[0].samples[:, 1], alone[1].samples[:, 1], rtol=1e-3)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::invdiff.posterior.MisfitWarning")  # few steps
class TestSampling:
    @pytest.mark.parametrize("method", METHODS)
    def test_every_item_as_by_its_operator_alone(self, method: str) -> None:
        assert_as_alone(suitable(method), method)

    @pytest.mark.parametrize("method", [name for name, method in METHODS.items() if not LINEAR & {*method.needs}])
    def test_nonlinear(self, method: str) -> None:
        options = {"langevin_steps": 5} if method in ("daps", "pnp-dm") else {}
        assert_as_alone(saturating(), method, chunks=(10,), **options)

    @pytest.mark.parametrize("method", ["mmps", "daps", "mm-tsmc"])
    def test_other_noise(self, method: str) -> None:
        noise = LaplaceNoise(0.2)
        laws: list[list[LinearOperator]] = [
            [Blur(SHAPE, KERNELS[0], noise=noise), Blur(SHAPE, KERNELS[2], boundary="reflect", noise=noise), masks()[0]],
            [Mask(mask[None], noise=GaussianNoise(0.1 + 0.1 * torch.arange(12.0).reshape(SHAPE))) for mask in MASKS],
        ]
        laws[0][2].noise = noise
        for ops in laws:
            assert_as_alone(ops, method, chunks=(10,), **({"langevin_steps": 5} if method == "daps" else {}))

    def test_exact_data(self) -> None:
        # One iteration, so that the preconditioner and its floor are seen in the answer.
        assert_as_alone(blurs(0.0), "mmps", chunks=(10,), max_iterations=1)

    @pytest.mark.parametrize("method", ["mmps", "lgd-mc"])
    def test_composed(self, method: str) -> None:
        (blur, *_), ops = blurs(0.0), masks()
        y = (per_item(ops) @ blur).measure(PRIOR.sample(3, seed=1), seed=2)
        post = run(per_item(ops) @ blur, y, method, chunk=5)
        for b, op in enumerate(ops):
            assert_close(post.samples[:, b], run(op @ blur, y, method).samples[:, b], rtol=1e-6, atol=1e-8)

    def test_the_right_rows_are_taken(self, monkeypatch: pytest.MonkeyPatch) -> None:
        taken = PerItem.take

        def shifted(self: PerItem[Any], rows: list[int]) -> Operator:
            return taken(self, [(row + 1) % self.items for row in rows])

        assert_as_alone(masks(), "pigdm", chunks=(2,))
        monkeypatch.setattr(PerItem, "take", shifted)
        with pytest.raises(AssertionError):
            assert_as_alone(masks(), "pigdm", chunks=(2,))

    def test_float32_and_an_operator_that_comes_twice(self) -> None:
        first, second, _ = masks()
        op = per_item([first, second, first])
        y = op.measure(PRIOR.sample(3, seed=1).float(), seed=2)
        post = run(op, y, "mmps")
        assert post.samples.dtype == torch.float32
        assert_close(post.samples[:, 2], run(first, y, "mmps").samples[:, 2], rtol=1e-3, atol=1e-4)

    def test_auto(self) -> None:
        two = torch.zeros(1, 3, 4)
        two[0, 0, :2] = 1
        ops = [Mask(two, sigma_y=0.1), Mask(two.flip(2), sigma_y=0.1)]
        y = per_item(ops).measure(PRIOR.sample(2, seed=1), seed=2)
        sampler = PosteriorSampler(PRIOR, per_item(ops), steps=3)
        assert "weights hardly matter" in sampler.run(y, num_samples=16).options["auto"]  # The prior is Gaussian.
        assert sampler.run(y, num_samples=16).dof == 2

    def test_the_grid_serves_the_largest_gain(self) -> None:
        weak, strong = Identity(SHAPE, sigma_y=0.3), 4.0 * Identity(SHAPE, sigma_y=0.3 / 4)
        plans = [PosteriorSampler(PRIOR, op, method="mmps").plan(1) for op in (weak, strong, per_item([weak, strong]))]
        assert_close(plans[2].times, plans[1].times)
        assert plans[0].times[-2] > plans[1].times[-2]

    def test_presets(self) -> None:
        assert kind_of(per_item(masks())) == "mask"
        assert kind_of(per_item([*masks(), *blurs()])) == "other"
        assert kind_of(per_item(saturating())) == "nonlinear"

    def test_what_fails_for_one_item_fails_at_once(self) -> None:
        shape = (1, 72, 72)  # Too large for a dense decomposition, and the second has no other.
        circular, reflect = (Blur(shape, KERNELS[2], boundary=border, sigma_y=0.1) for border in ("circular", "reflect"))
        prior = Gaussian(torch.zeros(shape), torch.ones(shape))
        PosteriorSampler(prior, per_item([circular, circular]), method="ddrm", steps=2)
        with pytest.raises(ValueError, match="needs an operator with a known singular value decomposition, got Blur"):
            PosteriorSampler(prior, per_item([circular, reflect]), method="ddrm", steps=2)


@pytest.mark.slow
class TestDiagnostics:
    def test_calibrate(self) -> None:
        ops = masks()
        op = per_item([ops[b % 3] for b in range(30)])
        clean = PRIOR.sample(30, seed=3)
        result = calibrate(PosteriorSampler(PRIOR, op, method="mmps", steps=10, max_iterations=12), clean, num_samples=9)
        assert result.residual is not None
        assert result.residual.p_value > 1e-3
        assert result.residual.error == pytest.approx((2 / (10 * (9 + 6 + 6))) ** 0.5)

    def test_residuals_of_unequal_degrees(self) -> None:
        dof = torch.tensor([2, 50]).repeat(200)
        chi2 = torch.distributions.Chi2(dof.double())
        torch.manual_seed(0)
        values = chi2.sample()
        fine = residual_test(values, dof)
        assert fine.p_value > 1e-2
        assert fine.ratio == pytest.approx(float(values.sum()) / float(dof.sum()))
        assert residual_test(values, dof.flip(0)).p_value < 1e-6
        assert residual_test(values[::2], 2) == residual_test(values[::2], dof[::2])
        with pytest.raises(ValueError, match="dof must be at least 1, got 0"):
            residual_test(values[:2], torch.tensor([3, 0]))

    def test_exact_posteriors_are_of_one_operator(self) -> None:
        ops = [Matrix(randn(3, 4, seed=b), sigma_y=0.1) for b in range(3)]  # 3 items and 3 numbers: shapes alone would pass.
        mixture = build(GaussianMixture)[0]
        with pytest.raises(ValueError, match="the operator differs from item to item"):
            mixture.posterior(per_item(ops), randn(3, 3))


def all_maps(op: Operator, x: Tensor, y: Tensor, lam: Tensor) -> list[Tensor]:
    found = [op(x), op.keep_measured(y), op.jacobian(x)(x), op.jacobian(x).adjoint(y)]
    if isinstance(op, LinearOperator):
        found += [op.adjoint(y), op.solve(y, lam), op.solve(y, 0.1), op.pinv(y), op.T(y)]
        found += [op.prox(x, y, 0.1), op.precondition(y, lam)]
    return found


class TestAlgebra:
    """What is made of operators per item is what is made of each item's own."""

    mask, blur = per_item(masks()), per_item(blurs(0.0))
    entries = GaussianNoise(0.1 + torch.arange(12, dtype=torch.float64).reshape(SHAPE))

    @pytest.mark.parametrize(
        "build",
        [
            lambda mask, blur: mask @ blur,
            lambda mask, blur: mask @ Blur(SHAPE, KERNELS[2]),
            lambda mask, blur: Identity(SHAPE, sigma_y=0.1) @ blur,
            lambda mask, blur: Function(torch.tanh, SHAPE, sigma_y=0.1) @ blur,
            lambda mask, blur: 2 * mask,
            lambda mask, blur: -(0.5 * (mask @ blur)),
            lambda mask, blur: blur + 0.3 * Blur(SHAPE, KERNELS[2]) - 0.2 * blur,
            lambda mask, blur: stack([mask, 2 * mask @ blur, Identity(SHAPE, sigma_y=0.1)]),
            lambda mask, blur: stack([mask, mask], axis=0),
            lambda mask, blur: whiten(compose(Identity(SHAPE, noise=TestAlgebra.entries), blur)),
            lambda mask, blur: whiten(compose(Identity(SHAPE, noise=TestAlgebra.entries), Function(torch.tanh, SHAPE) @ blur)),
        ],
    )
    def test_item_by_item(self, build: Callable[[LinearOperator, LinearOperator], Operator]) -> None:
        whole = build(self.mask, self.blur)
        x, y = randn(3, *SHAPE), randn(3, *whole.out_shape, seed=1)
        lam = torch.tensor([0.1, 1.0, 3.0], dtype=torch.float64).reshape(3, *(1,) * len(whole.out_shape))
        assert whole.items == 3
        together = all_maps(whole, x, y, lam)
        for b, (mask, blur) in enumerate(zip(masks(), blurs(0.0), strict=True)):
            row = slice(b, b + 1)
            one = build(mask, blur)
            assert (one.dof, repr(one.noise)) == (int(torch.as_tensor(whole.dof).expand(3)[b]), repr(whole.noise))
            for expected, found in zip(all_maps(one, x[row], y[row], lam[row]), together, strict=True):
                assert_close(found[row], expected)
            taken = whole.take([b, b])
            assert_close(taken(x[[2, 1]]), one(x[[2, 1]]))
            assert taken.items is None
            if isinstance(one, LinearOperator) and isinstance(whole, LinearOperator):
                assert (one.closed_form, one.gram_scale) == (taken.closed_form, taken.gram_scale)  # type: ignore[attr-defined]
                assert (one.svd is None) is (cast(LinearOperator, taken).svd is None)

    def test_takes_rows(self) -> None:
        x, rows = randn(5, *SHAPE), [2, 0, 0, 1, 2]
        taken = self.mask.take(rows)
        assert taken.items == 5
        assert_close(taken(x), torch.cat([masks()[b](x[[k]]) for k, b in enumerate(rows)]))
        again = taken.take([4, 3])
        assert_close(again(x[:2]), torch.cat([masks()[2](x[:1]), masks()[1](x[1:2])]))
        assert_close(torch.as_tensor(taken.dof), torch.tensor([6, 9, 9, 6, 6]))

    def test_dof(self) -> None:
        assert_close(torch.as_tensor(self.mask.dof), torch.tensor([9, 6, 6]))
        assert (self.blur.dof, self.blur.complete, self.mask.complete) == (12, True, False)
        assert_close(torch.as_tensor(stack([self.mask, 2 * self.mask]).dof), torch.tensor([18, 12, 12]))

    def test_jacobians_and_what_is_linearized(self) -> None:
        op, x = per_item(saturating()), randn(3, *SHAPE)
        y = op.measure(x, seed=0)
        jacobian = op.jacobian(x)
        assert isinstance(op, NonlinearPerItem)
        assert isinstance(jacobian, LinearPerItem)
        for rows in ([1], [2, 0], [0, 1, 2]):
            assert_close(jacobian.take(rows)(x[rows]), op.take(rows).jacobian(x[rows])(x[rows]))
        op.noise = LaplaceNoise(0.1)
        whole, residual, _ = linearize(op, y, x)
        for b, one in enumerate(saturating()):
            one.noise = LaplaceNoise(0.1)
            linear, rest, _ = linearize(one, y[[b]], x[[b]])
            assert_close(residual[[b]], rest)
            for found in (whole(x)[[b]], whole.take([b])(x[[b]]), whole.take([b, 0])(x[[b, 0]])[:1]):
                assert_close(found, linear(x[[b]]))
            assert_close(whole.solve(x, 0.3)[[b]], linear.solve(x[[b]], 0.3))
            assert_close(whole.precondition(x, 0.3)[[b]], linear.precondition(x[[b]], 0.3))

    def test_an_operator_around_it_takes_the_rows_of_what_it_holds(self) -> None:
        class Doubled(LinearOperator):
            def __init__(self, op: LinearOperator) -> None:
                self.op, self.both, self.noise = op, (op, "other"), op.noise
                self.in_shape, self.out_shape = op.in_shape, op.out_shape

            def forward(self, x: Tensor) -> Tensor:
                return self.op.forward(x) + cast(LinearOperator, self.both[0]).forward(x)

            def adjoint(self, y: Tensor) -> Tensor:
                return 2 * self.op.adjoint(y)

        op, x = Doubled(self.blur), randn(3, *SHAPE)
        assert op.items == 3
        assert op.svd is None
        taken = op.take([1, 1, 1])
        assert_close(taken(x), 2 * blurs()[1](x))
        assert cast(LinearOperator, taken).svd is not None  # Not what was kept of all items.
        assert_close(op.solve(x, 0.1)[[1]], cast(LinearOperator, taken).solve(x, 0.1)[[1]])
        assert [type(one) for one in op.distinct] == [Doubled] * 3

    def test_noise_set_later_is_that_of_all(self) -> None:
        op = per_item(masks())
        op.noise = GaussianNoise(2.0)
        for one in (op, op.take([0]), op.take([2, 1]), op.to(dtype=torch.float32), op.to("cpu").take([1])):
            assert one.sigma_y == 2.0
        assert [one.sigma_y for one in masks()] == [0.3] * 3

    def test_same_noise(self) -> None:
        covariance = torch.diag(torch.arange(1.0, 13.0))
        ops = [Blur(SHAPE, kernel, noise=CovarianceNoise(covariance)) for kernel in KERNELS]
        assert per_item(ops).to("cpu", torch.float32).take([0, 1]).items == 2

    def test_gains(self) -> None:
        found = largest_singular_values(self.blur.forward, self.blur.adjoint, SHAPE, items=3, dtype=torch.float64)
        assert_close(found, torch.tensor([1.0, 1.0, 2.0], dtype=torch.float64), rtol=1e-3, atol=0)


class TestErrors:
    @pytest.mark.parametrize(
        ("ops", "error", "message"),
        [
            ([], ValueError, "expected an operator for each item of the batch, got none"),
            ([torch.tanh], TypeError, "expected operators, got builtin_function_or_method for item 0"),
            ([masks()[0], per_item(masks())], ValueError, "of item 1 already has separate operators for 3 items"),
            (
                [masks()[0], Identity((3, 4))],
                ValueError,
                r"same in_shape, got \(1, 3, 4\) for Mask of item 0 and \(3, 4\) for Id",
            ),
            ([Matrix(torch.ones(2, 3)), Matrix(torch.ones(4, 3))], ValueError, r"same out_shape, got \(2,\) .* separately"),
            ([masks()[0], saturating()[0]], ValueError, "got linear for Mask of item 0 and not linear for Function of item 1"),
            ([*masks(), masks(0.1)[0]], ValueError, r"got GaussianNoise\(0.3\) for item 0 and GaussianNoise\(0.1\) for item 3"),
            (
                [Identity((2,), noise=GaussianNoise(torch.tensor([0.1, s]))) for s in (0.2, 0.3)],
                ValueError,
                "must have the same noise",
            ),
            ([Identity((2,), sigma_y=0.1), Identity((2,), noise=LaplaceNoise(0.1))], ValueError, "must have the same noise"),
        ],
    )
    def test_of_what_does_not_fit(self, ops: list[Any], error: type[Exception], message: str) -> None:
        with pytest.raises(error, match=message):
            per_item(ops)

    def test_of_another_batch(self) -> None:
        op = per_item(masks())
        x = randn(2, *SHAPE)
        maps: list[Callable[[], object]] = [
            lambda: op(x),
            lambda: op.measure(x, seed=0),
            lambda: op.adjoint(x),
            lambda: op.solve(x, 0.1),
            lambda: op.keep_measured(x),
            lambda: (2 * op)(x),
            lambda: per_item(saturating()).jacobian(x),
        ]
        for function in maps:
            with pytest.raises(ValueError, match=r"expected a batch of 3 items, one per operator, got 2\. Give a batch"):
                function()
        with pytest.raises(ValueError, match="differs between its 3 items, got 2 measurements"):
            PosteriorSampler(PRIOR, op, method="mmps", steps=2).run(x)

    @pytest.mark.parametrize("rows", [[], [3], [0, -1]])
    def test_of_rows(self, rows: list[int]) -> None:
        with pytest.raises(ValueError, match="take: expected rows from 0 to 2, at least one, got"):
            per_item(masks()).take(rows)

    def test_of_different_numbers_of_items(self) -> None:
        with pytest.raises(ValueError, match="must agree in the batch size, got 2 and 3 items"):
            compose(per_item(masks()[:2]), per_item(blurs(0.0)))

    @pytest.mark.parametrize("method", [name for name, method in METHODS.items() if method.one_operator])
    def test_of_algorithms_that_take_one_operator(self, method: str) -> None:
        ops = suitable(method)
        with pytest.raises(ValueError, match=r"needs one operator shared by all rows, got a different .* 3 items.*take"):
            cast(Any, METHODS[method].algorithm)(PRIOR, per_item(ops), randn(3, *SHAPE))

    def test_of_a_batch_of_masks(self) -> None:
        with pytest.raises(
            ValueError, match=r"For one mask per item of the batch: per_item\(\[Mask\(m, in_shape\) for m in masks"
        ):
            Mask(MASKS[:, None], SHAPE)
