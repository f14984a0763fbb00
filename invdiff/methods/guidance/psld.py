"""PSLD: posterior sampling with latent diffusion."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from invdiff.linalg import norm, over_items
from invdiff.methods.denoised import Denoised
from invdiff.methods.guidance.guidance import Correction
from invdiff.methods.method import Method, Preset
from invdiff.operators import LinearOperator, Operator
from invdiff.operators.algebra.decoded import measured_image
from invdiff.priors import ScoreModel
from invdiff.random import Draw

__all__ = ["PSLD"]


class PSLD(Correction):
    r"""DPS for latent priors, with a second gradient that pulls the code toward one that the encoder returns.

    .. math:: z_s = \mathrm{Step}(\hat z_0) - \nabla_{z_t} \big(\omega\, \lVert y - A D(\hat z_0) \rVert_2
        + \gamma\, \lVert \hat z_0 - E(A^+ y + (I - A^+ A)\, D(\hat z_0)) \rVert_2\big)

    :math:`D` is the decoder and :math:`E` the encoder. Many codes explain the data; the second term prefers those that encode
    their own image with the measured part replaced by the data. Both gradients go through the network, the decoder and the
    encoder. The norms are taken per item.

    Like DPS it is not calibrated: the spread depends on :math:`\omega`, which does not transfer between problems. On schedules
    that do not preserve the variance, the step is taken in the variance-preserving scaling, as in
    :class:`~invdiff.methods.guidance.DPS`.

    Args:
        score: The prior of codes.
        op: The measurement of decoded images, linear in the image; its noise level is not used.
        y: Measurement, ``(B, *op.out_shape)``.
        omega: Step size :math:`\omega \ge 0` of the misfit, in the units of codes.
        gamma: Step size :math:`\gamma \ge 0` of the second term, without units.

    Cost: one denoiser evaluation, one vector-Jacobian product of the network, and one of the decoder and of the encoder per
    step; and a pseudo-inverse of the image operator.

    References:
        Rout et al., Solving Linear Inverse Problems Provably via Posterior Sampling with Latent Diffusion Models, 2023,
        https://arxiv.org/abs/2307.00619, algorithm 2. Departures: norms without the square, as in the released code, but per
        item and not over the batch; :math:`A^+` in place of :math:`A^\top`, which is the same where
        :math:`A A^\top = I`, as the derivation assumes; nothing is clipped.
    """

    needs = ("latent", "linear-image", "encoder")
    one_operator = True
    any_noise = True  # The likelihood enters through the norm of the residual only.
    differentiates = True

    def __init__(self, score: ScoreModel, op: Operator, y: Tensor, *, omega: float = 1.0, gamma: float = 0.1) -> None:
        super().__init__(score, op, y)
        if not (omega >= 0 and gamma >= 0):
            raise ValueError(f"PSLD: omega and gamma must not be negative, got {omega} and {gamma}.")
        parts = measured_image(op)
        assert parts is not None
        assert isinstance(parts.image, LinearOperator)
        self.omega, self.gamma, self.image, self.decoder = omega, gamma, parts.image, parts.decoder

    def correct(self, x_s: Tensor, at: Denoised, s: Tensor, draw: Draw) -> Tensor:
        # omega and gamma refer to the variance-preserving state, as zeta of DPS does.
        scale_t, scale_s = math.hypot(at.alpha_t, at.sigma_t), math.hypot(*at.levels(s))
        return torch.sub(x_s, at.vjp(self.objective_gradient(at.x0_hat)), alpha=scale_s * scale_t)

    def objective_gradient(self, z: Tensor) -> Tensor:
        r"""Return the gradient of the two weighted norms with respect to :math:`\hat z_0`, and 0 for a norm that is 0."""
        image, encode = self.image, self.decoder.encode
        assert encode is not None
        with torch.enable_grad():
            z = z.detach().requires_grad_()
            x = self.decoder(z)
            residual = self.y - image(x.detach())
            replaced = (x.detach() + image.pinv(residual)).requires_grad_()
            code = encode(replaced)
        if not code.requires_grad:
            raise ValueError(
                "PSLD: the encoder has no gradient. Write it in torch without no_grad and .detach(), or use 'latino'."
            )
        apart = _unit(z.detach() - code.detach())
        (back,) = torch.autograd.grad(code, replaced, -self.gamma * apart)
        # I - A^+ A is symmetric, so that nothing need be differentiated through the pseudo-inverse.
        back = back - image.pinv(image(back)) - self.omega * image.adjoint(_unit(residual))
        (gradient,) = torch.autograd.grad(x, z, back)
        return gradient + self.gamma * apart


def _unit(v: Tensor) -> Tensor:
    length = over_items(norm(v), v)
    return v / torch.where(length == 0, 1, length)


METHOD = Method(
    PSLD,
    rule="ddpm",
    steps=1000,
    spacing="vp",
    paper="Rout et al., 2023, arXiv 2307.00619",
    presets={
        "any": Preset(
            {"steps": 1000, "rule": "ddim", "spacing": "vp", "omega": 0.1, "gamma": 0.1},
            "scripts of the released code for a latent model of faces, 256 x 256 (super-resolution: omega 0.9)",
        ),
    },
)
