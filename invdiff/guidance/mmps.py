"""MMPS: moment matching with the denoiser's own covariance."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from invdiff.guidance.base import Guidance, denoise_and_pull_back
from invdiff.guidance.gain import gain
from invdiff.guidance.moments import TweedieGaussian
from invdiff.linalg import gmres, over_items, positive_solve
from invdiff.operators import LinearOperator, Operator, linearise
from invdiff.priors import ScoreModel
from invdiff.random import Draw

__all__ = ["MMPS"]

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

    Any noise: where it is not Gaussian, a Gaussian of the right gradient stands for it, of the variance at
    :math:`\hat x_0` (:func:`invdiff.operators.linearise`).

    Args:
        score: The prior.
        op: The measurement; ``op.sigma_y`` is :math:`\sigma_y`.
        y: Measurement, ``(B, *op.out_shape)``.
        rtol: Residual at which GMRES stops, relative to that of each item.
        max_iterations: Iterations at most.
        exact_up_to: Largest measurement, in numbers, that is solved exactly.
        root_iterations: Products with :math:`V_t` for its square root, where the rule follows draws.

    Cost: one denoiser evaluation and one vector-Jacobian product per iteration (per measured number, where exact); with a
    rule that follows draws, ``root_iterations`` more.

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
    ) -> None:
        super().__init__(score, op, y)
        if not 0 < rtol < 1 or max_iterations < 1 or exact_up_to < 0 or root_iterations < 1:
            raise ValueError(
                "MMPS: expected 0 < rtol < 1, max_iterations >= 1, exact_up_to >= 0 and root_iterations >= 1, "
                f"got {rtol}, {max_iterations}, {exact_up_to}, {root_iterations}."
            )
        self.rtol, self.max_iterations, self.exact_up_to = rtol, max_iterations, exact_up_to
        self.root_iterations = root_iterations
        self.passes = 2 if op.noise.heavy_tailed else 1  # What lies far out is told best from a first answer.
        self.floor = y.new_zeros(())
        if isinstance(op, LinearOperator) and torch.Size(op.out_shape).numel() > exact_up_to:
            self.floor = 1e-3 * gain(op, y, iterations=5) ** 2

    def posterior_mean(self, x_t: Tensor, t: Tensor) -> Tensor:
        alpha_t, sigma_t = self.score.levels(t, x_t)
        x0_hat, pull_back = denoise_and_pull_back(self.score, x_t, t)
        guided = x0_hat
        for _ in range(self.passes):
            linear, residual, sigma_y = linearise(self.op, self.y, x0_hat, noise_at=guided)
            guided = x0_hat + self._gain(lambda v: sigma_t**2 / alpha_t * pull_back(v), linear, residual, sigma_y, x_t, t)
        return guided

    def posterior_draw(self, x_t: Tensor, t: Tensor, draw: Draw, *, strength: float = 1.0) -> Tensor:
        r"""Return a draw of :math:`\mathcal{N}(\hat x_0, V_t)` given :math:`y`, by Matheron's rule.

        .. math:: x_0' = \hat x_0 + \zeta + V_t A^\top (\sigma_y^2 I + A V_t A^\top)^{-1} (y - A \hat x_0 - A \zeta - n),
            \qquad \zeta \sim \mathcal{N}(0, V_t), \quad n \sim \mathcal{N}(0, \sigma_y^2 I)
        """
        moments = TweedieGaussian(self.score, x_t, t, iterations=self.root_iterations)
        zeta, n = moments.draw(draw(x_t.shape[1:])), self.op.keep_measured(draw(self.op.out_shape))
        guided = moments.mean
        for _ in range(self.passes):
            linear, residual, sigma_y = linearise(self.op, self.y, moments.mean, noise_at=guided)
            residual = residual - linear(zeta) - sigma_y * n
            guided = moments.mean + zeta + strength * self._gain(moments.product, linear, residual, sigma_y, x_t, t)
        return guided

    def _gain(
        self, product: Product, linear: LinearOperator, residual: Tensor, sigma_y: float, x_t: Tensor, t: Tensor
    ) -> Tensor:
        r"""Return :math:`V_t A^\top (\sigma_y^2 I + A V_t A^\top)^{-1}` times ``residual``."""

        def spread(w: Tensor) -> Tensor:  # w -> V_t A^T w
            return product(linear.adjoint(w))

        if torch.Size(self.op.out_shape).numel() <= self.exact_up_to:
            return self._exact(spread, linear, residual, sigma_y)

        # The solve of PiGDM, on the right: its answer for an isotropic covariance. The floor keeps it tame for exact data.
        alpha_t, sigma_t = self.score.levels(t, x_t)
        r2_t = sigma_t**2 / (alpha_t**2 + sigma_t**2)
        lam = torch.maximum(sigma_y**2 / r2_t, self.floor)

        def preconditioned(u: Tensor) -> tuple[Tensor, Tensor]:
            w = linear.precondition(u, lam)
            spread_w = spread(w)
            return sigma_y**2 * w + linear(spread_w), spread_w

        _, shift = gmres(preconditioned, residual, rtol=self.rtol, max_iterations=self.max_iterations)
        return shift

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
