"""MMPS: moment matching with the denoiser's own covariance."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from invdiff.linalg import over_items, positive_solve
from invdiff.methods.guidance.base import Guidance, denoise_and_pull_back
from invdiff.methods.hybrid import NEARLY_EXACT, hybrid_gain, preconditioned_gmres
from invdiff.methods.moments import TweedieGaussian
from invdiff.methods.operator_norm import gain
from invdiff.operators import LinearOperator, Operator, linearize
from invdiff.priors import ErrorCovariance, ScoreModel
from invdiff.random import Draw

__all__ = ["MMPS"]

COVARIANCES = ("auto", "jacobian", "measured")
Product = Callable[[Tensor], Tensor]


class MMPS(Guidance):
    r"""Gaussian guidance with Tweedie's covariance. ``op`` may be nonlinear; it is then linearised at :math:`\hat x_0`.

    .. math:: E[x_0 | x_t, y] \approx \hat x_0 + V_t A^\top (\sigma_y^2 I + A V_t A^\top)^{-1} (y - A \hat x_0),
        \qquad V_t = \mathrm{Cov}[x_0 | x_t] = \frac{\sigma_t^2}{\alpha_t} J

    Exact for every Gaussian prior and every linear operator. Measurements of up to ``exact_up_to`` numbers are solved by
    the eigenvectors of :math:`A V_t A^\top` with negative eigenvalues raised to zero; larger ones by GMRES, preconditioned
    by the operator as if the covariance were isotropic. Under a learned prior :math:`A V_t A^\top` is ill-conditioned and
    not quite symmetric: conjugate gradients leave the truth there after an iteration or two, while minimal residuals come
    closer with every one (``docs/methods.md`` has the figures).

    **A measured covariance.** Where the prior has one (:class:`invdiff.priors.ErrorModel`) and the measurement is larger than
    ``exact_up_to``, one exact product is enough: the measured covariance answers what is left of the residual after
    ``products`` GMRES iterations, and gives the draw (:func:`invdiff.methods.hybrid.hybrid_gain`). That costs a third of
    the time on photographs, and the spread is nearer to the truth. It is exact only as far as the measured covariance is.

    Any noise: where it is not Gaussian, a Gaussian of the right gradient stands for it, of the variance at
    :math:`\hat x_0` (:func:`invdiff.operators.linearize`).

    Args:
        score: The prior.
        op: The measurement; ``op.sigma_y`` is :math:`\sigma_y`.
        y: Measurement, ``(B, *op.out_shape)``.
        rtol: Residual at which GMRES stops, relative to that of each item.
        max_iterations: Iterations at most.
        exact_up_to: Largest measurement, in numbers, that is solved exactly.
        root_iterations: Products with :math:`V_t` for its square root, where the rule follows draws.
        covariance: ``jacobian``: that of the network alone, to which the options above belong; ``measured``: see above;
            ``auto``: measured where the prior has one and the measurement is larger than ``exact_up_to``.
        products: Exact products with :math:`V_t` at most, where the covariance is measured; ``max_iterations`` and
            ``root_iterations`` do not count then.
        inner_iterations: Products with the measured covariance at most; they need no network.

    Cost: one denoiser evaluation and one vector-Jacobian product per iteration (per measured number, where exact); with a
    rule that follows draws, ``root_iterations`` more. With a measured covariance ``products`` in all.

    References:
        Rozet et al., Learning Diffusion Priors from Observations by Expectation Maximization, 2024,
        https://arxiv.org/abs/2405.13712, algorithm 3. Departures: several iterations to a tolerance instead of one; the
        preconditioner; and the last product with :math:`V_t A^\top` is added up from those of the iterations, which saves a
        vector-Jacobian product.
    """

    any_noise = True

    def __init__(
        self,
        score: ScoreModel,
        op: Operator,
        y: Tensor,
        *,
        rtol: float = 1e-2,
        max_iterations: int = 5,
        exact_up_to: int = 8,
        root_iterations: int = 5,
        covariance: str = "auto",
        products: int = 1,
        inner_iterations: int = 15,
    ) -> None:
        super().__init__(score, op, y)
        counts = max_iterations, root_iterations, products, inner_iterations
        if not 0 < rtol < 1 or exact_up_to < 0 or min(counts) < 1:
            raise ValueError(
                "MMPS: expected 0 < rtol < 1, exact_up_to >= 0, and max_iterations, root_iterations, products and "
                f"inner_iterations of at least 1, got {rtol}, {exact_up_to}, {', '.join(map(str, counts))}."
            )
        if covariance not in COVARIANCES:
            raise ValueError(f"MMPS: covariance must be one of {', '.join(COVARIANCES)}, got {covariance!r}.")
        if covariance == "measured" and score.error_model is None:
            raise ValueError(
                "MMPS: covariance='measured' needs a prior whose error was measured (invdiff priors measure, or "
                "priors.measure_error), and this one's was not."
            )
        self.rtol, self.max_iterations, self.exact_up_to = rtol, max_iterations, exact_up_to
        self.root_iterations, self.products, self.inner_iterations = root_iterations, products, inner_iterations
        self.passes = 2 if op.noise.heavy_tailed else 1  # What lies far out is told best from a first answer.
        large = torch.Size(op.out_shape).numel() > exact_up_to
        self.error_model = score.error_model if covariance == "measured" or (covariance == "auto" and large) else None
        self.floor, self.square_gain = y.new_zeros(()), y.new_ones(())
        if isinstance(op, LinearOperator) and (large or self.error_model is not None):
            self.square_gain = gain(op, y, iterations=5) ** 2
            self.floor = 1e-3 * self.square_gain

    def posterior_mean(self, x_t: Tensor, t: Tensor) -> Tensor:
        alpha_t, sigma_t = self.score.levels(t, x_t)
        x0_hat, pull_back = denoise_and_pull_back(self.score, x_t, t)
        measured, guided = self._measured(x0_hat, t), x0_hat
        for _ in range(self.passes):
            linear, residual, sigma_y = linearize(self.op, self.y, x0_hat, noise_at=guided)
            guided = x0_hat + self._gain(
                lambda v: sigma_t**2 / alpha_t * pull_back(v), measured, linear, residual, sigma_y, x_t, t
            )
        return guided

    def posterior_draw(self, x_t: Tensor, t: Tensor, draw: Draw, *, strength: float = 1.0) -> Tensor:
        r"""Return a draw of :math:`\mathcal{N}(\hat x_0, V_t)` given :math:`y`, by Matheron's rule.

        .. math:: x_0' = \hat x_0 + \zeta + V_t A^\top (\sigma_y^2 I + A V_t A^\top)^{-1} (y - A \hat x_0 - A \zeta - n),
            \qquad \zeta \sim \mathcal{N}(0, V_t), \quad n \sim \mathcal{N}(0, \sigma_y^2 I)
        """
        moments = TweedieGaussian(self.score, x_t, t, iterations=self.root_iterations)
        measured = self._measured(moments.mean, t)
        zeta = moments.draw(draw(x_t.shape[1:])) if measured is None else measured.draw(draw)
        n = self.op.keep_measured(draw(self.op.out_shape))
        guided = moments.mean
        for _ in range(self.passes):
            linear, residual, sigma_y = linearize(self.op, self.y, moments.mean, noise_at=guided)
            residual = residual - linear(zeta) - sigma_y * n
            gained = self._gain(moments.product, measured, linear, residual, sigma_y, x_t, t)
            guided = moments.mean + zeta + strength * gained
        return guided

    def _measured(self, x0_hat: Tensor, t: Tensor) -> ErrorCovariance | None:
        """Return the measured covariance of the error of ``x0_hat``, where it is to be used."""
        return None if self.error_model is None else self.error_model.at(x0_hat, float(self.score.schedule.ratio(t)))

    def _gain(
        self,
        product: Product,
        measured: ErrorCovariance | None,
        linear: LinearOperator,
        residual: Tensor,
        sigma_y: float,
        x_t: Tensor,
        t: Tensor,
    ) -> Tensor:
        r"""Return :math:`V_t A^\top (\sigma_y^2 I + A V_t A^\top)^{-1}` times ``residual``."""
        if measured is None and torch.Size(self.op.out_shape).numel() <= self.exact_up_to:
            return self._exact(lambda w: product(linear.adjoint(w)), linear, residual, sigma_y)

        # The solve of PiGDM, on the right: its answer for an isotropic covariance. The floor keeps it tame for exact data.
        alpha_t, sigma_t = self.score.levels(t, x_t)
        r2_t = sigma_t**2 / (alpha_t**2 + sigma_t**2)
        lam = torch.maximum(sigma_y**2 / r2_t, self.floor)

        if measured is None:
            return preconditioned_gmres(
                product, linear, residual, variance=sigma_y**2, lam=lam, rtol=self.rtol, max_iterations=self.max_iterations
            )[1]
        return hybrid_gain(
            product,
            measured,
            linear,
            residual,
            variance=sigma_y**2,
            floor=NEARLY_EXACT**2 * self.square_gain,
            lam=lam,
            softest=self.floor,
            rtol=self.rtol,
            products=self.products,
            inner_iterations=self.inner_iterations,
        )

    def _exact(self, spread: Product, linear: LinearOperator, residual: Tensor, sigma_y: float) -> Tensor:
        flat = residual.flatten(1)
        basis = torch.eye(flat.shape[1], dtype=flat.dtype, device=flat.device)
        columns = [spread(e.expand_as(flat).reshape(residual.shape)) for e in basis]  # V_t A^T e_i
        gram = torch.stack([linear(column).flatten(1) for column in columns], -1)
        variance = sigma_y**2
        # Below the rounding of the largest entry no eigenvalue means anything: there exact data stop counting.
        rounding = 4 * flat.shape[1] * torch.finfo(gram.dtype).eps * gram.abs().amax((1, 2)) + torch.finfo(gram.dtype).tiny
        floor = rounding.clamp(min=variance)
        w = positive_solve(gram + variance * basis, flat, floor=floor)
        return torch.stack([over_items(w[:, i], column) * column for i, column in enumerate(columns)]).sum(0)
