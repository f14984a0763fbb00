"""MM-TSMC: twisted particles with matched moments."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from invdiff.linalg import Spectrum, positive_eigen
from invdiff.methods.moments import TweedieGaussian
from invdiff.methods.particles.loop import ParticleMethod
from invdiff.operators import LinearOperator, Operator
from invdiff.priors import ScoreModel
from invdiff.random import Draw

__all__ = ["MMTSMC"]


class MMTSMC(ParticleMethod):
    r"""Moment-matched twisted sequential Monte Carlo. ``op`` may be nonlinear; it is then linearised at :math:`\hat x_0`.

    Particles move by the moment-matched kernel (:class:`~invdiff.methods.steps.Matched`) of the Gaussian
    :math:`\mathcal{N}(\hat x_0, V_t)` given :math:`y`, and are weighted by how much better or worse they explain the
    measurement than that Gaussian foretold:

    .. math:: \psi_t(x_t) = \mathcal{N}(y;\, A \hat x_0,\, \sigma_y^2 I + A V_t A^\top), \qquad
        \Delta \log w = \log \psi_s(x_s) - \log \tilde p(y | x_s, x_t),

    .. math:: \tilde p(y | x_s, x_t) = \mathcal{N}\big(y;\, A \tilde x,\, \sigma_y^2 I + A \tilde V A^\top\big), \qquad
        \tilde x = \hat x_0 + b V_t (\tilde\sigma^2 I + b^2 V_t)^{-1} (x_s - m(\hat x_0)), \quad
        \tilde V = \tilde\sigma^2 V_t (\tilde\sigma^2 I + b^2 V_t)^{-1},

    where :math:`\tilde p` comes from the same Gaussian: :math:`\psi_t / \tilde p` is the ratio of the prior kernel
    :math:`\mathcal{N}(m(\hat x_0), \tilde\sigma^2 I + b^2 V_t)` to the proposal, in measurement space. So for a Gaussian
    prior and a linear operator the weights are constant and the samples exact at any number of steps; for others they are
    exact as particles and steps grow. The last twist is the likelihood itself.

    Args:
        score: The prior.
        op: The measurement; at most ``largest`` numbers, because :math:`A V_t A^\top` is computed densely.
        y: Measurement, ``(B, *op.out_shape)``, one row per particle.
        particles: Particles in a group. 4 give most of the gain, 16 behave like 1,000.
        weighted: Whether to hand out the last weights instead of resampling to equal ones.
        iterations: Products with :math:`V_t` for each function of it (square root, inverse).
        largest: Largest measurement, in numbers.

    Cost: one denoiser evaluation, and for each measured number and for the draw up to ``iterations`` vector-Jacobian products
    (as many as ``x`` has numbers, if that is fewer: :meth:`products`); after a resampling perhaps another evaluation.

    References:
        Own. The twisting follows Wu et al., Practical and Asymptotically Exact Conditional Sampling in Diffusion Models, 2023,
        https://arxiv.org/abs/2306.17775; the covariance Rozet et al., 2024, https://arxiv.org/abs/2405.13712.
    """

    any_noise = True
    one_operator = True  # Each mask leaves another number of values to match.

    def __init__(
        self,
        score: ScoreModel,
        op: Operator,
        y: Tensor,
        *,
        particles: int = 16,
        weighted: bool = False,
        iterations: int = 6,
        largest: int = 64,
    ) -> None:
        super().__init__(score, op, y, particles=particles, weighted=weighted)
        if iterations < 1:
            raise ValueError(f"MM-TSMC: iterations must be at least 1, got {iterations}.")
        # What a mask leaves out is not measured: it has no variance, and no part in the evidence.
        self.measured = op.keep_measured(torch.ones_like(y[:1])).flatten().nonzero().flatten()
        if len(self.measured) > largest:
            raise ValueError(
                "MM-TSMC computes the covariance of the measurement densely, "
                f"at most {largest} numbers, got {len(self.measured)}. "
                "Use 'mmps', or raise 'largest' if as many gradients a step are affordable."
            )
        self.iterations = iterations
        self._local: tuple[Tensor, _Local] | None = None

    @staticmethod
    def products(numel: int, measured: int, *, iterations: int = 6) -> int:
        """Return how many vector-Jacobian products a step takes at most, for events of ``numel`` numbers."""
        return min(numel, iterations * (measured + 1))

    def start(self, t: Tensor, draw: Draw) -> tuple[Tensor, Tensor]:
        x_t, _ = super().start(t, draw)
        return x_t, self._at(x_t, t).log_twist.double()

    def step(self, x_t: Tensor, t: Tensor, s: Tensor, draw: Draw) -> tuple[Tensor, Tensor]:
        local = self._at(x_t, t)
        (alpha_t, sigma_t), (alpha_s, sigma_s) = (map(float, self.score.schedule(time)) for time in (t, s))
        kappa = (alpha_t * sigma_s / (alpha_s * sigma_t)) ** 2
        b, variance = alpha_s * (1 - kappa), sigma_s**2 * (1 - kappa)  # of x_s given x_t and x_0

        # x_0' ~ p(x_0 | x_t, y) by Matheron's rule, then x_s ~ q(x_s | x_t, x_0').
        zeta = local.moments.draw(draw(x_t.shape[1:]))
        n = torch.einsum("bij,bj->bi", local.noise_root, draw((len(self.measured),)))
        shift = local.gain(local.residual - local.observe(zeta) - n).reshape(x_t.shape)
        x_0 = local.moments.mean + zeta + shift
        mean_s = alpha_t * sigma_s**2 / (alpha_s * sigma_t**2) * x_t
        x_s = mean_s + b * x_0 + math.sqrt(variance) * draw(x_t.shape[1:])

        # What the same Gaussian foretells of y, now that x_s is known.
        innovation = x_s - mean_s - b * local.moments.mean
        known = local.columns_of(lambda v: _ratio(b * v, variance + b**2 * v))
        left = local.columns_of(lambda v: v * _ratio(variance, variance + b**2 * v))
        foretold = local.residual - torch.einsum("bni,bn->bi", known, innovation.flatten(1))
        log_foretold = _log_normal(foretold, local.noise + local.rows @ left)

        if sigma_s > 0:
            return x_s, self._at(x_s, s).log_twist.double() - log_foretold
        if isinstance(self.op, LinearOperator) and self.op.noise.white:
            return x_s, log_foretold.new_zeros(len(x_s), dtype=torch.float64)  # The likelihood was foretold exactly.
        if self.op.noise.white:
            return x_s, _log_normal(self._misfit(x_s), self._noise(x_s)).double() - log_foretold
        each = self.op.noise.log_likelihood(self.y, self.op(x_s)).flatten(1)[:, self.measured]
        return x_s, each.double().sum(1) - log_foretold

    def take(self, x_t: Tensor, rows: Tensor) -> Tensor:
        taken, known = super().take(x_t, rows), self._local
        if known is not None and known[0] is x_t:
            self._local = taken, known[1].take(rows, taken)
        return taken

    def _misfit(self, x: Tensor) -> Tensor:
        return (self.y - self.op(x)).flatten(1)[:, self.measured]

    def _noise(self, x: Tensor) -> Tensor:
        """Return the covariance of the noise, or of the Gaussian that stands for it at ``x``, ``(B, d, d)``."""
        variance = self.op.noise.variance(self.y, self.op(x)).expand_as(self.y)
        return torch.diag_embed(variance.flatten(1)[:, self.measured])

    def _at(self, x_t: Tensor, t: Tensor) -> _Local:
        """Return the Gaussian at ``x_t``, computed once for a state that has not been resampled since."""
        if self._local is None or self._local[0] is not x_t:
            moments = TweedieGaussian(self.score, x_t, t, iterations=self.iterations, vectors=len(self.measured) + 1)
            tangent = isinstance(self.op, LinearOperator) or not moments.dense
            self._local = x_t, _Local(moments, *(self._tangent(moments) if tangent else self._regression(moments)))
        return self._local[1]

    def _tangent(self, moments: TweedieGaussian) -> tuple[Tensor, Tensor, Tensor]:
        """Return residual, rows and noise of the operator, linearised at the mean where it is not linear."""
        linear, numel = self.op.jacobian(moments.mean), torch.Size(self.op.out_shape).numel()
        units = torch.nn.functional.one_hot(self.measured, numel).to(self.y)
        rows = [linear.adjoint(e.expand(len(self.y), -1).reshape(self.y.shape)).flatten(1) for e in units]
        return self._misfit(moments.mean), torch.stack(rows, 1), self._noise(moments.mean)

    def _regression(self, moments: TweedieGaussian) -> tuple[Tensor, Tensor, Tensor]:
        r"""Return residual, rows and noise of the line that fits the operator best over :math:`\mathcal{N}(\hat x_0, V_t)`.

        Statistical linear regression by cubature: over :math:`x = \hat x_0 \pm \sqrt{n \lambda_i}\, u_i`, with
        :math:`\lambda, u` the eigenvalues and eigenvectors of :math:`V_t`, :math:`H = \mathrm{Cov}[A(x), x]\, V_t^{-1}`; what
        the line leaves unexplained is added to the noise. A tangent sees one point: that of :math:`|x|` far from the truth
        is wrong by its sign.

        References:
            Garcia-Fernandez et al., Posterior Linearization Filter, 2015, https://doi.org/10.1109/TSP.2015.2454485
        """
        values, vectors = moments.eigen
        size = values.shape[1]
        offsets = (size * values).sqrt()[:, None] * vectors  # (B, n, n): columns
        points = [sign * offsets[..., i].reshape(moments.mean.shape) for i in range(size) for sign in (1, -1)]
        misfits = torch.stack([self._misfit(moments.mean + point) for point in points])
        expected = misfits.mean(0)
        deviation = expected - misfits
        along = (deviation[0::2] - deviation[1::2]).permute(1, 2, 0) / 2  # (B, d, n): slope along u_i, times its offset
        slopes = along * _ratio(torch.ones_like(values), (size * values).sqrt())[:, None]
        explained = (slopes * values[:, None]) @ slopes.mT
        unexplained = torch.einsum("kbi,kbj->bij", deviation, deviation) / len(points) - explained
        return expected, slopes @ vectors.mT, self._noise(moments.mean) + unexplained


class _Local:
    r""":math:`\mathcal{N}(\hat x_0, V_t)` and what it says of :math:`y`, for every particle.

    Args:
        moments: The Gaussian.
        residual: :math:`y` less what is expected of it, ``(B, d)``.
        rows: :math:`A`, ``(B, d, n)``.
        noise: Covariance of :math:`y` around :math:`A x`, ``(B, d, d)``.
        spectra: What functions of :math:`V_t` on the columns of :math:`A^\top` are read from, where neither is
            computed anew nor known by eigenvectors.
    """

    def __init__(
        self, moments: TweedieGaussian, residual: Tensor, rows: Tensor, noise: Tensor, spectra: Sequence[Spectrum] | None = None
    ) -> None:
        self.moments, self.residual, self.rows, self.noise = moments, residual, rows, noise
        shape = moments.mean.shape
        self.spectra = spectra or ([] if moments.dense else [moments.spectrum(row.reshape(shape)) for row in rows.unbind(1)])
        self.columns = self.columns_of(lambda v: v)
        self.spread = noise + rows @ self.columns

    def take(self, which: Tensor, x_t: Tensor) -> _Local:
        """Return what is known at the rows ``x_t``, which are the rows ``which`` of this: no products are computed again."""
        moments = self.moments.take(which, x_t)
        spectra = [spectrum.take(which) for spectrum in self.spectra]
        return _Local(moments, self.residual[which], self.rows[which], self.noise[which], spectra)

    @property
    def log_twist(self) -> Tensor:
        return _log_normal(self.residual, self.spread)

    @property
    def noise_root(self) -> Tensor:
        values, vectors = positive_eigen(self.noise)
        return vectors * values.sqrt()[:, None]

    def observe(self, x: Tensor) -> Tensor:
        """Return :math:`A x`, ``(B, d)``."""
        return torch.einsum("bin,bn->bi", self.rows, x.flatten(1))

    def columns_of(self, function: Callable[[Tensor], Tensor]) -> Tensor:
        r"""Return :math:`f(V_t) A^\top`, ``(B, n, d)``."""
        if self.moments.dense:
            values, vectors = self.moments.eigen
            return vectors * function(values)[:, None] @ (self.rows @ vectors).mT
        return torch.stack([spectrum.apply(function).flatten(1) for spectrum in self.spectra], -1)

    def gain(self, residual: Tensor) -> Tensor:
        r"""Return :math:`V_t A^\top \mathrm{Cov}[y]^{-1}` times ``residual``, ``(B, n)``."""
        inverse, _, vectors = _spread(self.spread)
        w = torch.einsum("bij,bj->bi", vectors, torch.einsum("bij,bi->bj", vectors, residual) * inverse)
        return torch.einsum("bni,bi->bn", self.columns, w)


def _log_normal(residual: Tensor, spread: Tensor) -> Tensor:
    r"""Return :math:`\log \mathcal{N}(r; 0, S)`, ``(B,)``, over the directions where :math:`S` is not singular."""
    inverse, log_spread, vectors = _spread(spread)
    coefficients = torch.einsum("bij,bi->bj", vectors, residual)
    return -0.5 * (coefficients**2 * inverse + log_spread).sum(1)


def _spread(spread: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    r"""Return inverse eigenvalues of :math:`S`, the logarithms of :math:`2 \pi` times eigenvalues, and eigenvectors.

    Where an eigenvalue is only rounding (exact data, missing pixels), the first two are 0.
    """
    values, vectors = positive_eigen(spread)
    rounding = 4 * spread.shape[1] * torch.finfo(spread.dtype).eps * spread.abs().amax((1, 2)) + torch.finfo(spread.dtype).tiny
    kept = ~(values <= rounding[:, None])
    safe = torch.where(kept, values, 1)
    return torch.where(kept, 1 / safe, 0), torch.where(kept, (2 * math.pi * safe).log(), 0), vectors


def _ratio(a: Tensor | float, b: Tensor) -> Tensor:
    return torch.where(b > 0, a / torch.where(b > 0, b, 1), 0)
