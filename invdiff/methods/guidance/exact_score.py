"""The exact posterior score, from a denoiser of anisotropic noise that combines the noisy state and the measurement."""

from __future__ import annotations

import numpy as np
import scipy
import torch
from torch import Tensor

from invdiff.methods.denoised import Denoised
from invdiff.methods.guidance.guidance import ConditionalDenoiser
from invdiff.methods.hybrid import NEARLY_EXACT, measured_gain
from invdiff.methods.method import Method
from invdiff.methods.operator_norm import operator_norm
from invdiff.operators import LinearOperator, Operator, whiten
from invdiff.priors import ScoreModel
from invdiff.random import Draw

__all__ = ["ExactScore", "fits"]

RTOL, ITERATIONS = 0.03, 15  # of the linear solve for a draw, with the measured covariance
MODERATE = 1.0  # Noise-to-signal ratio above which the error covariance is that at this ratio


class ExactScore(ConditionalDenoiser):
    r"""The posterior mean from one call of a denoiser that accepts anisotropic noise.

    .. math:: E[x_0 | x_t, y] = E[x_0 | \mu], \qquad
        \mu = \Sigma \Big( \frac{\alpha_t}{\sigma_t^2} x_t + \frac{1}{\sigma_y^2} A^\top y \Big), \quad
        \Sigma = \Big( \frac{\alpha_t^2}{\sigma_t^2} I + \frac{1}{\sigma_y^2} A^\top A \Big)^{-1}

    Given :math:`x_0`, state and measurement are independent Gaussian observations of it, and :math:`\mu`
    (:meth:`LinearOperator.pivot <invdiff.operators.LinearOperator.pivot>`) is their sufficient statistic. No approximation of
    :math:`p(y | x_t)` is made: with an exact denoiser the mean is exact, for every prior and every linear operator with
    Gaussian noise. It needs a prior that denoises such noise
    (:attr:`ScoreModel.noise_kinds <invdiff.priors.ScoreModel.noise_kinds>`): analytic priors accept every kind, networks the
    kinds they were trained on (``invdiff train --noise-maps``).

    **Draws**, for the rule ``matched``, are this mean plus a draw of the denoiser's error given :math:`y`, by Matheron's rule,
    with the measured covariance :math:`V` of the error (:class:`invdiff.priors.ErrorModel`):

    .. math:: x_0' = E[x_0 | x_t, y] + \zeta - V A^\top (\sigma_y^2 I + A V A^\top)^{-1} (A \zeta + n), \qquad
        \zeta \sim \mathcal{N}(0, V), \quad n \sim \mathcal{N}(0, \sigma_y^2 I)

    The scale of :math:`V` depends on the local energy of the image, averaged with each place weighted by how little of it was
    measured. Above a noise-to-signal ratio of 1, :math:`V` is the covariance at ratio 1: the measurement leaves details
    undetermined, a noisier state adds no information about them, and wider covariances span so many decades that the solve for
    a draw does not converge.

    **Unrecorded entries.** The singular basis may have a fast transform only for a larger, complete measurement (a blur whose
    border the camera did not record, missing pixels of a blurred image: :attr:`LinearOperator.completed
    <invdiff.operators.LinearOperator.completed>`). Then the missing entries of :math:`y` are imputed from the estimate,
    :math:`B \hat x_0^y` with :math:`B` the complete operator, and the estimate is updated from the imputed measurement, for
    ``rounds`` rounds. The first round starts from the estimate of the previous step, and at the first step from the nearest
    recorded entries. For a Gaussian prior the rounds converge to the exact mean: the imputed entries then add no information to
    the recorded ones. The less noise, the more rounds this takes.

    Args:
        score: The prior.
        op: The measurement, linear, in white Gaussian noise or exact.
        y: Measurement, ``(B, *op.out_shape)``.
        rounds: Rounds per step, where a part of the measurement is imputed, at least 1.

    Cost: one denoiser evaluation, no gradient, no solve. Where a part of the measurement is imputed: ``rounds`` evaluations,
    and one more at the start.

    Raises:
        ValueError: If the noise of the pivot is of a kind that the prior does not accept.

    References:
        Mammadov et al., 2026, https://arxiv.org/abs/2606.17048. The imputation is the EM algorithm of Dempster, Laird & Rubin,
        1977, https://doi.org/10.1111/j.2517-6161.1977.tb01600.x, for the mean of a Gaussian.
    """

    needs = ("linear",)
    one_operator = True  # Each operator has a different singular basis.
    can_draw = True
    starts_high = True
    in_windows = True

    def __init__(self, score: ScoreModel, op: Operator, y: Tensor, *, rounds: int = 1) -> None:
        super().__init__(score, op, y)
        if rounds < 1:
            raise ValueError(f"exact-score: rounds must be at least 1, got {rounds}.")
        assert isinstance(op, LinearOperator)
        self.linear, self.square_norm = op, operator_norm(op, y, iterations=5) ** 2
        self.whole, self.recorded, self.rounds = self._of_a_known_kind(op), None, rounds
        if self.whole is not op and op.completed is not None:
            self.recorded = op.completed.recorded
        self._time: float | None = None  # time of the current estimate; _before is the estimate of the previous step
        self._before: Tensor | None = None
        self._now: Tensor | None = None

    def _of_a_known_kind(self, op: LinearOperator) -> LinearOperator:
        """Return the operator whose pivots the prior can denoise: ``op``, or the complete operator it is a part of."""
        whole = _denoisable(self.score, op)
        if whole is not None:
            return whole
        kind = "noise that is diagonal in no known basis" if op.svd is None else f"{op.svd.kind} noise"
        known = ", ".join(sorted(self.score.noise_kinds)) or "white noise alone"
        raise ValueError(
            f"exact-score: {type(op).__name__} leaves {kind}, and the prior accepts {known}. Use 'mmps', which needs no such "
            "prior, or train one with `invdiff train --noise-maps`."
        )

    def posterior_mean(self, at: Denoised) -> Tensor:
        if self.recorded is None:
            return self._mean(at, self.y)
        if self._time != float(at.t):  # A repeated evaluation at the same time starts from the same guess.
            self._time, self._before = float(at.t), self._now
        guess = self._mean(at, self._filled()) if self._before is None else self._before
        for _ in range(self.rounds):
            imagined = self.whole(guess)
            guess = self._mean(at, imagined + self.recorded.adjoint(self.y - self.recorded(imagined)))
        self._now = guess
        return guess

    def _filled(self) -> Tensor:
        """Return the measurement with every unrecorded entry set to the nearest recorded one."""
        assert self.recorded is not None
        placed = self.recorded.adjoint(self.y)
        there = self.recorded.adjoint(self.y.new_ones(1, *self.recorded.out_shape)) > 0
        missing = ~there[0].all(0).cpu().numpy()
        nearest = scipy.ndimage.distance_transform_edt(missing, return_distances=False, return_indices=True)
        places = torch.from_numpy(np.ravel_multi_index(tuple(nearest), missing.shape).ravel()).to(placed.device)
        return torch.where(there, placed, placed.flatten(2).index_select(-1, places).reshape(placed.shape))

    def check_draws(self) -> None:
        if self.score.error_model is None:
            raise ValueError(
                "exact-score: the rule 'matched' follows draws, which need a prior whose error was measured (`invdiff priors "
                "measure`). Use the rule 'ddpm'."
            )

    def posterior_draw(self, at: Denoised, draw: Draw) -> Tensor:
        self.check_draws()
        assert self.score.error_model is not None
        mean = self.posterior_mean(at)
        measured = self.score.error_model.at(mean, min(at.ratio, MODERATE), self._unknown(at.ratio))
        mean = mean + (zeta := measured.draw(draw))
        shift = measured_gain(
            measured.stationary,
            self.linear,
            -self.linear(zeta) - self.linear.sigma_y * self.linear.keep_measured(draw(self.linear.out_shape)),
            noise=(NEARLY_EXACT**2 * self.square_norm).clamp(min=self.linear.sigma_y**2),
            softest=1e-3 * self.square_norm,
            rtol=RTOL,
            max_iterations=ITERATIONS,
        )
        return mean + shift

    def _unknown(self, ratio: float) -> Tensor | None:
        """Return the noise variance of the pivot per entry, ``(1, C, H, W)``, or ``None`` if it is treated as uniform."""
        image, measured = (self.y.new_zeros(1, *shape) for shape in (self.linear.in_shape, self.linear.out_shape))
        pivot = None if self.recorded is not None else self.linear.pivot(image, ratio, measured)
        return None if pivot is None or pivot[1].kind == "dense" else pivot[1].pixel_levels() ** 2

    def _mean(self, at: Denoised, y: Tensor) -> Tensor:
        pivot = self.whole.pivot(at.x_t / at.alpha_t, at.ratio, y)
        assert pivot is not None
        return self.score.denoise_pivot(*pivot)


METHOD = Method(ExactScore, rule="ddpm", steps=32, paper="Mammadov et al., 2026, arXiv 2606.17048")


def fits(score: ScoreModel, op: Operator) -> bool:
    """Return whether :class:`ExactScore` suits: whether the prior denoises the noise of the pivots of ``op`` as it is.

    An incomplete measurement does not suit, though its missing entries can be imputed: this converges slowly at low noise.
    """
    white = whiten(op)
    if not isinstance(white, LinearOperator) or not white.noise.white or white.items is not None or not score.noise_kinds:
        return False
    return _denoisable(score, white) is white


def _denoisable(score: ScoreModel, op: LinearOperator) -> LinearOperator | None:
    """Return the operator whose pivots the prior can denoise: ``op``, or the complete operator it is a part of, or ``None``."""
    for whole in (op, None if op.completed is None else op.completed.whole):
        if whole is not None and whole.svd is not None and whole.svd.kind in score.noise_kinds:
            return whole
    return None
