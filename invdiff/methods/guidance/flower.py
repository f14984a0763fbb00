"""Flower: denoise, draw given the data, and add fresh noise."""

from __future__ import annotations

from torch import Tensor

from invdiff.methods.denoised import Denoised
from invdiff.methods.guidance.guidance import Transition
from invdiff.methods.method import Method, Preset
from invdiff.operators import LinearOperator, Operator
from invdiff.priors import ScoreModel
from invdiff.random import Draw

__all__ = ["Flower"]


class Flower(Transition):
    r"""Destination, refinement, progression: an isotropic draw given the data after every denoising. ``op`` must be linear.

    .. math:: x_0' \sim \mathcal{N}(x_0; \hat x_0, \nu_t^2 I)\, p(y | x_0), \qquad
        \nu_t^2 = \frac{\varsigma_t^2}{1 + \varsigma_t^2}, \qquad x_s = \alpha_s x_0' + \sigma_s z

    The draw is exact, by perturbing and solving. With ``mean`` its mean is taken instead, the proximal step
    :math:`\arg\min_x \lVert y - A x \rVert^2 + (\sigma_y^2 / \nu_t^2) \lVert x - \hat x_0 \rVert^2`.

    The noise of the next state is fresh, and independent of the present one. So information travels between levels through
    :math:`x_0'` alone, and as the denoiser's covariance is not isotropic, samples are approximate.

    Args:
        score: The prior.
        op: A linear operator; ``op.sigma_y`` is :math:`\sigma_y`.
        y: Measurement, ``(B, *op.out_shape)``.
        mean: Whether the mean replaces the draw, as in the paper's tables of PSNR (its :math:`\gamma = 0`).

    Cost: one denoiser evaluation and one proximal step. No gradient of the network.

    References:
        Pourya et al., FLOWER: A Flow-Matching Solver for Inverse Problems, 2025, https://arxiv.org/abs/2509.26287. Departure:
        the draw, its :math:`\gamma = 1`, by default.
    """

    needs = ("linear",)
    op: LinearOperator

    def __init__(self, score: ScoreModel, op: Operator, y: Tensor, *, mean: bool = False) -> None:
        super().__init__(score, op, y)
        self.mean = mean

    def transition(self, at: Denoised, s: Tensor, draw: Draw) -> Tensor:
        (alpha_s, sigma_s), z = at.levels(s), draw(at.x_t.shape[1:])
        return alpha_s * self.refined(at, draw) + sigma_s * z

    def refined(self, at: Denoised, draw: Draw) -> Tensor:
        r"""Return :math:`x_0'`."""
        nu, sigma_y = (at.ratio**2 / (1 + at.ratio**2)) ** 0.5, self.op.sigma_y
        if self.mean:
            return self.op.prox(at.x0_hat, self.y, sigma_y**2 / nu**2)
        center = at.x0_hat + nu * draw(at.x_t.shape[1:])
        return self.op.prox(center, self.y + self.op.keep_measured(sigma_y * draw(self.op.out_shape)), sigma_y**2 / nu**2)


METHOD = Method(
    Flower,
    spacing="flow",
    paper="Pourya et al., 2025, arXiv 2509.26287",
    presets={
        "any": Preset({"steps": 100, "spacing": "flow", "mean": True}, "released code of Pourya et al., 2025: 100 steps"),
    },
)
