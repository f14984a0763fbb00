r"""The three kinds of guidance: conditional denoisers, corrections after a step, and transitions of their own."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

from torch import Tensor

from invdiff.methods.algorithm import Algorithm
from invdiff.methods.denoised import Denoised, PosteriorMean
from invdiff.random import Draw

__all__ = ["ConditionalDenoiser", "Correction", "Guidance", "Transition"]


class Guidance(Algorithm):
    """What the measurement says along the reverse diffusion. Derive from one of the three kinds below.

    The loop (:func:`invdiff.methods.steps.reverse_diffusion`) evaluates the network once a step and hands over ``at``, the
    state with what the network says of it (:class:`~invdiff.methods.denoised.Denoised`).

    Attributes:
        corrects: Whether a rule takes its step without guidance, and the state is corrected after it.
    """

    corrects: bool = False

    def start(self, t: Tensor, draw: Draw) -> Tensor:
        r"""Return the first state, :math:`x_T \sim \mathcal{N}(0, \sigma_T^2 I)` unless the method starts elsewhere."""
        return float(self.score.schedule(t)[1]) * draw(self.op.in_shape)

    def at(self, x_t: Tensor, t: Tensor) -> Denoised:
        # A rule of second order asks a correction for nothing but the denoised state at its second point.
        return Denoised(self.score, x_t, t, differentiable=self.differentiates, everywhere=not self.corrects)


class ConditionalDenoiser(Guidance):
    r"""An approximation of :math:`E[x_0 | x_t, y]`, which any step rule can follow."""

    follows_rules = True

    @abstractmethod
    def posterior_mean(self, at: Denoised) -> Tensor:
        r"""Return the approximation of :math:`E[x_0 | x_t, y]`, shaped like the state, without a graph."""

    def step_mean(self, at: Denoised, s: Tensor, draw: Draw) -> PosteriorMean:
        """Return what a rule follows in the step from ``at`` to ``s``: the posterior mean, at any state.

        Methods whose mean depends on the size of the step, or on noise of its own, override this.

        Args:
            at: Where the step starts.
            s: Time at its end.
            draw: Noise of the step, after that of the rule.
        """
        return self.posterior_mean

    def posterior_draw(self, at: Denoised, draw: Draw) -> Tensor:
        r"""Return a draw of the approximation of :math:`p(x_0 | x_t, y)`. A class that has one declares ``can_draw = True``."""
        raise ValueError(
            f"{type(self).__name__} knows a mean of x_0 given x_t and y, but no distribution to draw from, which the rule "
            "'matched' needs. Use 'mmps', or another rule."
        )

    def check_draws(self) -> None:
        """Raise a ``ValueError`` where :meth:`posterior_draw` is known, but not under this prior."""


class Correction(Guidance):
    """A change of the state after an unconditional step by any rule."""

    follows_rules = True
    corrects: bool = True

    @abstractmethod
    def correct(self, x_s: Tensor, at: Denoised, s: Tensor, draw: Draw) -> Tensor:
        """Return the corrected state at ``s``.

        Args:
            x_s: Where the unconditional step led, ``(B, *event)``.
            at: Where it started.
            s: Time of ``x_s``.
            draw: Noise of the step, after that of the rule.
        """


class Transition(Guidance):
    """A step of its own, from the state to an earlier time. One that is a conditional denoiser too can also follow rules."""

    own_step: ClassVar[bool] = True

    @abstractmethod
    def transition(self, at: Denoised, s: Tensor, draw: Draw) -> Tensor:
        """Return the state at the earlier time ``s``, ``(B, *event)``.

        Args:
            at: The state.
            s: Where to go.
            draw: The noise of this step.
        """
