"""Classifier guidance: a prior conditioned by a classifier of noisy images."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from invdiff.priors.score_model import ScoreModel

__all__ = ["ClassifierGuided"]


class ClassifierGuided(ScoreModel):
    r"""A prior conditioned by a classifier :math:`p(c | x_t)` of noisy images: Bayes' rule for the score.

    .. math:: \nabla \log p_t(x_t | c) = \nabla \log p_t(x_t) + w\, \nabla \log p(c | x_t), \qquad
        D(x_t) = E[x_0 | x_t] + w\, \frac{\sigma_t^2}{\alpha_t} \nabla \log p(c | x_t)

    With :math:`w = 1` and the true classifier this is the prior given :math:`c`, exactly. A larger :math:`w` follows the class
    more closely, with less variety, and in general there is then no density that it is the denoiser of.

    A classifier of *clean* images is no such :math:`p(c | x_t)`. Use it as a measurement
    (:class:`invdiff.operators.LogLikelihood`), or with ``on_estimate``, which evaluates it at :math:`E[x_0 | x_t]` and is an
    approximation: the estimate is taken to be certain.

    Args:
        score: The unconditional prior.
        log_p: :math:`\log p(c | x_t)`: takes ``(B, *event)`` and the times ``(B,)`` of the schedule of ``score``, and returns
            ``(B,)``. With ``on_estimate``: takes the denoised items alone. Differentiated by autograd.
        weight: :math:`w`, the inverse temperature, positive.
        on_estimate: Whether ``log_p`` is evaluated at :math:`E[x_0 | x_t]`.

    Raises:
        ValueError: If ``weight`` is not positive, or ``log_p`` returns another shape.

    Cost: one evaluation of both, and a gradient of ``log_p``; with ``on_estimate`` of the prior too.

    References:
        Dhariwal & Nichol, Diffusion Models Beat GANs on Image Synthesis, 2021, https://arxiv.org/abs/2105.05233, section 4;
        :math:`w` is its gradient scale :math:`s`.
    """

    def __init__(
        self,
        score: ScoreModel,
        log_p: Callable[..., Tensor],
        *,
        weight: float = 1.0,
        on_estimate: bool = False,
    ) -> None:
        if not (math.isfinite(weight) and weight > 0):
            raise ValueError(f"ClassifierGuided: weight must be a positive number, got {weight}.")
        self.score_model, self.log_p, self.weight, self.on_estimate = score, log_p, float(weight), on_estimate
        self.schedule, self.event_shape, self.notes = score.schedule, score.event_shape, score.notes
        self.batched, self.learned, self.scale = score.batched, True, score.scale
        self.windowed = score.windowed

    def _summary(self) -> Sequence[str]:
        return (repr(self.score_model), f"weight {self.weight:g}")

    def denoise(self, x_t: Tensor, t: Tensor) -> Tensor:
        alpha_t, sigma_t = self.levels(t, x_t)
        followed = torch.is_grad_enabled() and x_t.requires_grad
        with torch.inference_mode(False), torch.enable_grad():
            at = x_t if followed else x_t.detach().clone().requires_grad_()
            estimate = self.score_model.denoise(at, t) if self.on_estimate else None
            times = torch.as_tensor(t).to(at).expand(len(at))
            log_p = self.log_p(*((at, times) if estimate is None else (estimate,)))
            if log_p.shape != x_t.shape[:1]:
                raise ValueError(
                    f"ClassifierGuided: log_p must return one number for each item, shape ({len(x_t)},), got "
                    f"{tuple(log_p.shape)}. Choose the entry of your class: log_softmax(...)[:, label]."
                )
            (gradient,) = torch.autograd.grad(log_p.sum(), at, create_graph=followed)
        if estimate is None:
            estimate = self.score_model.denoise(x_t, t)
        elif not followed:
            estimate = estimate.detach()
        return estimate + self.weight * sigma_t**2 / alpha_t * gradient

    def to(self, device: torch.device | str | None = None) -> ClassifierGuided:
        score = self.score_model.to(device)
        return ClassifierGuided(score, self.log_p, weight=self.weight, on_estimate=self.on_estimate)

    def describe(self) -> dict[str, Any]:
        return self.score_model.describe() | {"classifier_weight": self.weight, "classifier_on_estimate": self.on_estimate}
