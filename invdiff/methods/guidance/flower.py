"""Flower: denoise, move toward the data, and add fresh noise."""

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
    r"""Destination, refinement, progression: a proximal step after every denoising, then fresh noise. ``op`` must be linear.

    .. math:: x_0' = \arg\min_x \frac{\lVert y - A x \rVert^2}{\sigma_y^2} + \frac{\lVert x - \hat x_0 \rVert^2}{\nu_t^2},
        \qquad \nu_t^2 = \frac{\varsigma_t^2}{1 + \varsigma_t^2}, \qquad x_s = \alpha_s x_0' + \sigma_s z

    :math:`x_0'` is the mean of :math:`\mathcal{N}(x_0; \hat x_0, \nu_t^2 I)\, p(y | x_0)`. The samples are closer to each other
    than to the truth. With ``draws`` it is a draw of that Gaussian (exact, by perturbing and solving), as in the theory of the
    paper. Where the denoiser's error is far from white, as for images, the denoiser then meets more noise than it expects, and
    samples are noisy.

    Args:
        score: The prior.
        op: A linear operator; ``op.sigma_y`` is :math:`\sigma_y`.
        y: Measurement, ``(B, *op.out_shape)``.
        draws: Whether :math:`x_0'` is drawn (:math:`\gamma = 1` in the paper) and not the mean (:math:`\gamma = 0`, as in its
            released code).

    Cost: one denoiser evaluation and one proximal step. No gradient of the network.

    References:
        Pourya et al., FLOWER: A Flow-Matching Solver for Inverse Problems, 2025, https://arxiv.org/abs/2509.26287.
    """

    needs = ("linear",)
    op: LinearOperator

    def __init__(self, score: ScoreModel, op: Operator, y: Tensor, *, draws: bool = False) -> None:
        super().__init__(score, op, y)
        self.draws = draws

    def transition(self, at: Denoised, s: Tensor, draw: Draw) -> Tensor:
        (alpha_s, sigma_s), z = at.levels(s), draw(at.x_t.shape[1:])
        return alpha_s * self.refined(at, draw) + sigma_s * z

    def refined(self, at: Denoised, draw: Draw) -> Tensor:
        r"""Return :math:`x_0'`."""
        nu, sigma_y = (at.ratio**2 / (1 + at.ratio**2)) ** 0.5, self.op.sigma_y
        if not self.draws:
            return self.op.prox(at.x0_hat, self.y, sigma_y**2 / nu**2)
        center = at.x0_hat + nu * draw(at.x_t.shape[1:])
        return self.op.prox(center, self.y + self.op.keep_measured(sigma_y * draw(self.op.out_shape)), sigma_y**2 / nu**2)


METHOD = Method(
    Flower,
    spacing="flow",
    paper="Pourya et al., 2025, arXiv 2509.26287",
    presets={
        "any": Preset({"steps": 100, "spacing": "flow", "draws": False}, "released code of Pourya et al., 2025: 100 steps"),
    },
)
