"""DInG: decoupled inpainting guidance, by Gaussian transitions without a gradient of the network."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from invdiff.linalg import over_items
from invdiff.methods.denoised import Denoised
from invdiff.methods.flow_time import flow_time
from invdiff.methods.guidance.guidance import Transition
from invdiff.methods.method import Method, Preset
from invdiff.operators import Mask, Operator
from invdiff.operators.algebra.decoded import MeasuredImage, measured_image
from invdiff.priors import ScoreModel
from invdiff.random import Draw, generator

__all__ = ["DInG"]

WHOLE = 0.95  # Share of the pixels under a code from which on the code counts as measured, as in the released code.


class DInG(Transition):
    r"""Inpainting with the noise predicted at a second state, which makes the transition Gaussian in the first.

    .. math:: \mu_s = \alpha_s \hat x_0(x_t) + \sqrt{\sigma_s^2 - \eta_s^2}\, \hat\varepsilon(x_t), \qquad
        z_s = \mu_s + \eta_s \varepsilon, \qquad
        x_s \sim \frac1Z\, \mathcal{N}(x_s; \mu_s, \eta_s^2 I)\,
        \mathcal{N}\Big(y; m \odot \frac{x_s - \sigma_s \hat\varepsilon(z_s)}{\alpha_s}, \sigma_y^2 I\Big)

    DPS would have :math:`\hat\varepsilon(x_s)` in the likelihood, and no such draw. The two factors are diagonal, and their
    product is drawn exactly: where :math:`m = 1`, the mean is moved toward
    :math:`\alpha_s y + \sigma_s \hat\varepsilon(z_s)` by the share :math:`\eta_s^2 / (\eta_s^2 + \alpha_s^2 \sigma_y^2)`. The
    network is not differentiated, so unmeasured entries see the data only through later denoisings.

    Under a latent prior a mask of images acts on codes, as in latent inpainting: a code entry is measured if at least
    95 % of the pixels under it are, in all channels, and its value is that of the encoded data, with 0 (mid-gray) in missing
    pixels. Its noise is that of the encoder's output: the root mean square, over measured entries, of the change
    by a second draw of the noise. Pixels under other code entries are ignored.

    Args:
        score: The prior.
        op: A :class:`~invdiff.operators.Mask`, or a mask of decoded images with an encoder, of shape ``(C, H, W)``.
        y: Measurement, ``(B, *op.out_shape)``.
        power: Exponent :math:`p \ge 0` in :math:`\eta_s = \sigma_s u_s^p`, where :math:`u = \sigma / (\alpha + \sigma)` is the
            time of the flow.

    Cost: two denoiser evaluations per step, one in the last; no gradients. Under a latent prior two encodings per chunk.

    References:
        Moufad et al., Efficient Zero-Shot Inpainting with Decoupled Diffusion Guidance, 2025,
        https://arxiv.org/abs/2512.18365, and the released code, whose configuration has ``power=1`` (``eta_type: square``; its
        default is 1/2). Departures: the mask is reduced to codes by means over blocks instead of a resized mask; the
        experiments of the paper encode the whole true image and mask its code, which no measurement gives; the noise of codes
        is measured, not set to 0.01.
    """

    needs = ("inpainting",)
    one_operator = True

    def __init__(self, score: ScoreModel, op: Operator, y: Tensor, *, power: float = 1.0) -> None:
        super().__init__(score, op, y)
        if not power >= 0:
            raise ValueError(f"DInG: power must not be negative, got {power}.")
        self.power, parts = power, measured_image(op)
        if parts is None:
            assert isinstance(op, Mask)
            self.mask, self.target, self.variance = op.mask.to(y.device), y, y.new_tensor(op.sigma_y**2)
        else:
            self.mask = _mask_of_codes(parts, op.in_shape).to(y.device)
            self.target = parts.encode(y)
            self.variance = over_items(self._variance_of_codes(parts), y)

    def transition(self, at: Denoised, s: Tensor, draw: Draw) -> Tensor:
        (alpha_s, sigma_s), event = at.levels(s), at.x_t.shape[1:]
        eta = sigma_s * flow_time(alpha_s, sigma_s) ** self.power
        eps_hat = (at.x_t - at.alpha_t * at.x0_hat) / at.sigma_t
        mean = alpha_s * at.x0_hat + math.sqrt(max(sigma_s**2 - eta**2, 0)) * eps_hat
        first, second = draw(event), draw(event)
        if sigma_s == 0:
            return mean
        z_s = mean + eta * first
        eps_hat = (z_s - alpha_s * at.elsewhere(z_s, s).x0_hat) / sigma_s
        gain: Tensor = torch.where(self.mask, eta**2 / (eta**2 + alpha_s**2 * self.variance), 0)
        target = torch.where(self.mask, alpha_s * self.target + sigma_s * eps_hat, 0)
        x_s: Tensor = mean + gain * (target - mean) + eta * (1 - gain).sqrt() * second
        return x_s

    def _variance_of_codes(self, parts: MeasuredImage) -> Tensor:
        """Return the variance of the noise of the measured entries of the encoded data, one number for each item."""
        noise = torch.randn(self.op.out_shape, generator=generator(0, "diagnose", 0, 0), dtype=torch.float64).to(self.y)
        other = parts.encode(self.y + self.op.keep_measured(self.op.sigma_y * noise.expand_as(self.y)))
        change = torch.where(self.mask, other - self.target, 0).flatten(1)
        return change.square().sum(1) / self.mask.sum()


def _mask_of_codes(parts: MeasuredImage, shape: tuple[int, ...]) -> Tensor:
    """Return which entries of a code are measured, boolean of shape ``shape``."""
    assert isinstance(parts.image, Mask)
    pixels = parts.image.mask.all(0, keepdim=True).float()
    # Sides that are no multiple of the pixels under a code are those of a decoded image that was cut.
    blocks = [math.ceil(side / code) for side, code in zip(pixels.shape[-2:], shape[-2:], strict=True)]
    beyond = [code * block - side for side, code, block in zip(pixels.shape[-2:], shape[-2:], blocks, strict=True)]
    whole = F.pad(pixels[None], (0, beyond[1], 0, beyond[0]), mode="replicate")[0]
    kept = F.avg_pool2d(whole, blocks) >= WHOLE
    if not kept.any():
        raise ValueError(
            f"DInG: the mask of {tuple(parts.image.in_shape)} measures no entry of codes {tuple(shape)}: one needs 95 % of its "
            "pixels in all channels. Use 'mmps' or 'daps', which compare pixels."
        )
    return kept.expand(shape)


METHOD = Method(
    DInG,
    steps=28,
    spacing="flow",
    paper="Moufad et al., 2025, arXiv 2512.18365",
    presets={
        "any": Preset(
            {"steps": 28, "spacing": "flow", "power": 1.0},
            "configs/sampler/ding.yaml of the released code; the shift of the times of its model is left out",
        ),
    },
)
