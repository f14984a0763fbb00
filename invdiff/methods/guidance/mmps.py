"""MMPS: moment matching posterior sampling, with the denoiser's own covariance."""

from __future__ import annotations

import torch
from torch import Tensor

from invdiff.methods.denoised import Denoised
from invdiff.methods.dense_gain import dense_gain
from invdiff.methods.guidance.guidance import ConditionalDenoiser
from invdiff.methods.hybrid import NEARLY_EXACT, error_model_for, hybrid_gain, preconditioned_gmres
from invdiff.methods.method import Method
from invdiff.methods.moments import TweedieGaussian
from invdiff.methods.operator_norm import operator_norm
from invdiff.operators import LinearOperator, Operator, linearize
from invdiff.priors import ErrorCovariance, ScoreModel
from invdiff.random import Draw

__all__ = ["MMPS"]


class MMPS(ConditionalDenoiser):
    r"""Moment matching with Tweedie's covariance. ``op`` may be nonlinear; it is then linearized at :math:`\hat x_0`.

    .. math:: E[x_0 | x_t, y] \approx \hat x_0 + V_t A^\top (\sigma_y^2 I + A V_t A^\top)^{-1} (y - A \hat x_0),
        \qquad V_t = \mathrm{Cov}[x_0 | x_t] = \frac{\sigma_t^2}{\alpha_t} J

    The paper approximates :math:`p(x_0 | x_t)` by :math:`\mathcal{N}(\hat x_0, V_t)`, which gives
    :math:`\nabla_{x_t} \log p(y | x_t) \approx J^\top A^\top (\Sigma_y + A V_t A^\top)^{-1} (y - A \hat x_0)` with
    :math:`\Sigma_y = \sigma_y^2 I` and :math:`J = \partial \hat x_0 / \partial x_t`. By Tweedie's formula, the posterior mean
    is :math:`\hat x_0` plus :math:`\sigma_t^2 / \alpha_t` times this score, which is the equation above.

    Exact for every Gaussian prior and every linear operator. If the measurement dimension is at most ``exact_up_to``, the
    system is solved with the eigenvectors of :math:`A V_t A^\top`, negative eigenvalues set to zero. Otherwise it is solved by
    GMRES, with the preconditioner that the operator has for an isotropic covariance. Under a learned prior
    :math:`A V_t A^\top` is ill-conditioned and not exactly symmetric: conjugate gradients move away from the solution after an
    iteration or two, while minimal residuals improve with every iteration (``docs/evidence.md`` has the figures).

    **A measured covariance.** If the prior has one (:class:`invdiff.priors.ErrorModel`) and the measurement dimension exceeds
    ``exact_up_to``, one exact product is enough: the measured covariance is used for the residual that remains after
    ``products`` GMRES iterations, and for the draw (:func:`invdiff.methods.hybrid.hybrid_gain`). On photographs this takes a
    third of the time, and the posterior spread is closer to the truth. It is only as exact as the measured covariance.

    Any noise model is accepted: noise that is not Gaussian is replaced by a Gaussian with the same gradient of the log
    likelihood, and with the variance at :math:`\hat x_0` (:func:`invdiff.operators.linearize`).

    Args:
        score: The prior.
        op: The measurement; ``op.sigma_y`` is :math:`\sigma_y`.
        y: Measurement, ``(B, *op.out_shape)``.
        rtol: Residual norm at which GMRES stops, relative to the initial one of each item, in (0, 1).
        max_iterations: Maximum number of GMRES iterations.
        exact_up_to: Largest measurement dimension for which the system is solved exactly.
        root_iterations: Products with :math:`V_t` for its square root, if the rule follows draws.
        covariance: ``jacobian``: from the Jacobian of the network only, to which the options above apply; ``measured``: see
            above; ``auto``: measured if the prior has one and the measurement dimension exceeds ``exact_up_to``.
        products: Maximum number of exact products with :math:`V_t`, if the covariance is measured; ``max_iterations`` and
            ``root_iterations`` are not used then.
        inner_iterations: Maximum number of products with the measured covariance, which do not evaluate the network.

    Cost: one denoiser evaluation, and one vector-Jacobian product per iteration (per measured value, if solved exactly); with a
    rule that follows draws, ``root_iterations`` more. With a measured covariance, ``products`` in total.

    References:
        Rozet et al., Learning Diffusion Priors from Observations by Expectation Maximization, 2024,
        https://arxiv.org/abs/2405.13712, algorithm 3. Departures: several iterations to a tolerance instead of one; the
        preconditioner; and the last product with :math:`V_t A^\top` is accumulated from the products of the iterations, which
        saves a vector-Jacobian product.
    """

    any_noise = True
    can_draw = True
    differentiates = True
    in_windows = True

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
        self.rtol, self.max_iterations, self.exact_up_to, self.covariance = rtol, max_iterations, exact_up_to, covariance
        self.root_iterations, self.products, self.inner_iterations = root_iterations, products, inner_iterations
        self.passes = 2 if op.noise.heavy_tailed else 1  # A second pass, at the first solution, identifies outliers.
        self.small = torch.Size(op.out_shape).numel() <= exact_up_to
        self.error_model = error_model_for(score, covariance, small=self.small)
        self.floor, self.square_norm = y.new_zeros(()), y.new_ones(())
        if isinstance(op, LinearOperator) and not (self.small and self.error_model is None):
            self.square_norm = operator_norm(op, y, iterations=5) ** 2
            self.floor = 1e-3 * self.square_norm

    def posterior_mean(self, at: Denoised) -> Tensor:
        measured, guided = self.measured(at), at.x0_hat
        for _ in range(self.passes):
            linear, residual, sigma_y = linearize(self.op, self.y, at.x0_hat, noise_at=guided)
            guided = at.x0_hat + self.kalman_gain(at, measured, linear, residual, sigma_y)
        return guided

    def posterior_draw(self, at: Denoised, draw: Draw) -> Tensor:
        r"""Return a draw of :math:`\mathcal{N}(\hat x_0, V_t)` given :math:`y`, by Matheron's rule.

        .. math:: x_0' = \hat x_0 + \zeta + V_t A^\top (\sigma_y^2 I + A V_t A^\top)^{-1} (y - A \hat x_0 - A \zeta - n),
            \qquad \zeta \sim \mathcal{N}(0, V_t), \quad n \sim \mathcal{N}(0, \sigma_y^2 I)
        """
        measured = self.measured(at)
        if measured is None:
            zeta = TweedieGaussian(at, iterations=self.root_iterations).draw(draw(at.x_t.shape[1:]))
        else:
            zeta, measured = measured.draw(draw), measured.stationary
        n = self.op.keep_measured(draw(self.op.out_shape))
        guided = at.x0_hat
        for _ in range(self.passes):
            linear, innovation, sigma_y = linearize(self.op, self.y, at.x0_hat, noise_at=guided)
            innovation = innovation - linear(zeta) - sigma_y * n
            shift = self.kalman_gain(at, measured, linear, innovation, sigma_y)
            guided = at.x0_hat + zeta + shift
        return guided

    def measured(self, at: Denoised) -> ErrorCovariance | None:
        """Return the measured covariance of the error of ``x0_hat``, or ``None`` if it is not used."""
        return None if self.error_model is None else self.error_model.at(at.x0_hat, at.ratio)

    def kalman_gain(
        self, at: Denoised, measured: ErrorCovariance | None, linear: LinearOperator, residual: Tensor, sigma_y: float
    ) -> Tensor:
        r"""Return :math:`V_t A^\top (\sigma_y^2 I + A V_t A^\top)^{-1}` times ``residual``."""
        if measured is None and self.small:
            return dense_gain(at.covariance, linear, residual, variance=sigma_y**2)
        # Right preconditioner: the solve of PiGDM, with its isotropic covariance r_t^2 I. The floor bounds it for exact data.
        r2_t = at.sigma_t**2 / (at.alpha_t**2 + at.sigma_t**2)
        lam = self.floor.clamp(min=sigma_y**2 / r2_t)
        if measured is None:
            return preconditioned_gmres(
                at.covariance,
                linear,
                residual,
                variance=sigma_y**2,
                lam=lam,
                rtol=self.rtol,
                max_iterations=self.max_iterations,
            )[1]
        return hybrid_gain(
            at.covariance,
            measured,
            linear,
            residual,
            variance=sigma_y**2,
            floor=NEARLY_EXACT**2 * self.square_norm,
            lam=lam,
            softest=self.floor,
            rtol=self.rtol,
            products=self.products,
            inner_iterations=self.inner_iterations,
        )


METHOD = Method(MMPS, rule="matched", steps=50, paper="Rozet et al., 2024, arXiv 2405.13712")
