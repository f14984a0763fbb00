"""The interface of step rules."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Tensor

from invdiff.methods.denoised import Denoised, PosteriorMean

__all__ = ["StepRule"]


class StepRule(ABC):
    r"""One step of the reverse diffusion, from a state to an earlier time, along a posterior mean.

    Attributes:
        follows_draws: Whether the rule uses draws from :math:`p(x_0 | x_t, y)` in place of the mean.
    """

    follows_draws: ClassVar[bool] = False

    @abstractmethod
    def __call__(self, mean: PosteriorMean, at: Denoised, s: Tensor, noise: Tensor) -> Tensor:
        r"""Return the state at the earlier time ``s``, ``(B, *event)``.

        Args:
            mean: Returns :math:`E[x_0 | x_t, y]`, or a draw, at a state.
            at: State at the start of the step.
            s: Time at the end of the step.
            noise: Standard normal, shaped like the state.
        """
