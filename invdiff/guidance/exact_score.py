"""The exact posterior score: the denoiser asked about the noisy state and the measurement at once."""

from __future__ import annotations

from torch import Tensor

from invdiff.guidance.base import Guidance
from invdiff.operators import LinearOperator, Operator
from invdiff.priors import ScoreModel

__all__ = ["ExactScore"]


class ExactScore(Guidance):
    r"""The posterior mean by one call of a denoiser that knows noise which is not the same in all directions.

    .. math:: E[x_0 | x_t, y] = E[x_0 | \mu], \qquad
        \mu = \Sigma \Big( \frac{\alpha_t}{\sigma_t^2} x_t + \frac{1}{\sigma_y^2} A^\top y \Big), \quad
        \Sigma = \Big( \frac{\alpha_t^2}{\sigma_t^2} I + \frac{1}{\sigma_y^2} A^\top A \Big)^{-1}

    Given :math:`x_0`, state and measurement are independent Gaussian looks at it, and :math:`\mu` (:meth:`LinearOperator.pivot
    <invdiff.operators.LinearOperator.pivot>`) says what both say. No approximation of :math:`p(y | x_t)` is made: with an exact
    denoiser the mean is exact, for every prior and every linear operator with Gaussian noise. It takes a prior that denoises
    such noise (:attr:`ScoreModel.noise_kinds <invdiff.priors.ScoreModel.noise_kinds>`): analytic ones know every kind, networks
    those they were trained on (``invdiff train --noise-maps``).

    Args:
        score: The prior.
        op: The measurement, linear, in white Gaussian noise or exact.
        y: Measurement, ``(B, *op.out_shape)``.

    Cost: one denoiser evaluation, no gradient, no solve.

    Raises:
        ValueError: If the noise of the pivot is of a kind that the prior does not know.

    References:
        Mammadov et al., 2026, https://arxiv.org/abs/2606.17048
    """

    needs = ("linear", "svd")
    one_operator = True  # Each has a singular basis of its own.

    def __init__(self, score: ScoreModel, op: Operator, y: Tensor) -> None:
        super().__init__(score, op, y)
        assert isinstance(op, LinearOperator)
        assert op.svd is not None
        if op.svd.kind not in score.noise_kinds:
            known = ", ".join(sorted(score.noise_kinds)) or "white noise alone"
            raise ValueError(
                f"exact-score: {type(op).__name__} leaves {op.svd.kind} noise, and {type(score).__name__} knows {known}. Use "
                "'mmps', which needs no such prior, or train one with `invdiff train --noise-maps`."
            )
        self.linear = op

    def posterior_mean(self, x_t: Tensor, t: Tensor) -> Tensor:
        alpha_t, _ = self.score.levels(t, x_t)
        pivot = self.linear.pivot(x_t / alpha_t, self.score.schedule.ratio(t).to(x_t), self.y)
        assert pivot is not None
        return self.score.denoise_pivot(*pivot)
