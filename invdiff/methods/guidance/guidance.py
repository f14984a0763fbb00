r"""The three kinds of guidance: conditional denoisers, corrections after a step, and transitions."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

from torch import Tensor

from invdiff.methods.algorithm import Algorithm
from invdiff.methods.denoised import Denoised, PosteriorMean
from invdiff.random import Draw

__all__ = ["ConditionalDenoiser", "Correction", "Guidance", "Transition"]


class Guidance(Algorithm):
    """Conditioning of the reverse diffusion on a measurement. Derive from one of the three kinds below.

    The loop (:func:`invdiff.methods.steps.reverse_diffusion`) evaluates the network once per step and passes ``at``, the state
    with its denoised image and Jacobian products (:class:`~invdiff.methods.denoised.Denoised`).

    Attributes:
        corrects: Whether the step rule takes an unconditional step, after which the state is corrected.
    """

    corrects: bool = False

    def start(self, t: Tensor, draw: Draw) -> Tensor:
        r"""Return the first state, :math:`x_T \sim \mathcal{N}(0, \sigma_T^2 I)` by default."""
        return float(self.score.schedule(t)[1]) * draw(self.op.in_shape)

    def at(self, x_t: Tensor, t: Tensor) -> Denoised:
        # With a correction, the second point of a second-order rule needs the denoised state only, and no gradient.
        return Denoised(self.score, x_t, t, differentiable=self.differentiates, everywhere=not self.corrects)


class ConditionalDenoiser(Guidance):
    r"""An approximation of :math:`E[x_0 | x_t, y]`, used in the step rule in place of :math:`E[x_0 | x_t]`."""

    follows_rules = True

    @abstractmethod
    def posterior_mean(self, at: Denoised) -> Tensor:
        r"""Return the approximation of :math:`E[x_0 | x_t, y]`, shaped like the state, detached."""

    def step_mean(self, at: Denoised, s: Tensor, draw: Draw) -> PosteriorMean:
        """Return the function that gives the posterior mean at any state in the step from ``at`` to ``s``.

        Methods whose mean depends on the step size, or draws noise, override this.

        Args:
            at: State at the start of the step.
            s: Time at the end of the step.
            draw: Source of noise. The noise of the step rule is drawn first.
        """
        return self.posterior_mean

    def posterior_draw(self, at: Denoised, draw: Draw) -> Tensor:
        r"""Return a draw of the approximation of :math:`p(x_0 | x_t, y)`. Such a class sets ``can_draw = True``."""
        raise ValueError(
            f"{type(self).__name__} has a mean of x_0 given x_t and y, but no distribution to draw from, which the rule "
            "'matched' needs. Use 'mmps', or another rule."
        )

    def check_draws(self) -> None:
        """Raise a ``ValueError`` if :meth:`posterior_draw` is implemented but not available for this prior."""


class Correction(Guidance):
    """A change of the state after an unconditional step by any rule."""

    follows_rules = True
    corrects: bool = True

    @abstractmethod
    def correct(self, x_s: Tensor, at: Denoised, s: Tensor, draw: Draw) -> Tensor:
        """Return the corrected state at ``s``.

        Args:
            x_s: State after the unconditional step, ``(B, *event)``.
            at: State at the start of the step.
            s: Time of ``x_s``.
            draw: Source of noise. The noise of the step rule is drawn first.
        """


class Transition(Guidance):
    """A method with its own step to an earlier time. If it is also a conditional denoiser, it can follow step rules."""

    own_step: ClassVar[bool] = True

    @abstractmethod
    def transition(self, at: Denoised, s: Tensor, draw: Draw) -> Tensor:
        """Return the state at the earlier time ``s``, ``(B, *event)``.

        Args:
            at: State at the start of the step.
            s: Time at the end of the step.
            draw: Source of noise.
        """
