r"""A state with its denoised image and Jacobian products. The network is evaluated once per step and shared."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor

from invdiff.priors import ScoreModel

__all__ = ["Denoised", "PosteriorMean", "prior_mean"]


class Denoised:
    r"""A state :math:`x_t = \alpha_t x_0 + \sigma_t \varepsilon` and its denoised image :math:`\hat x_0 = E[x_0 | x_t]`.

    The network is evaluated when ``x0_hat`` is first accessed, and only once at this state.

    Args:
        score: The prior.
        x_t: State, ``(B, *event)``.
        t: Its time, a scalar.
        differentiable: Whether to keep the autograd graph of the network, which :meth:`vjp` needs.
        everywhere: Whether the states returned by :meth:`elsewhere` keep a graph too.

    Attributes:
        score: The prior.
        x_t: The state.
        t: Its time.
        alpha_t: :math:`\alpha_t`.
        sigma_t: :math:`\sigma_t`.
    """

    def __init__(
        self, score: ScoreModel, x_t: Tensor, t: Tensor, *, differentiable: bool = False, everywhere: bool = True
    ) -> None:
        self.score, self.x_t, self.t = score, x_t, t
        self.alpha_t, self.sigma_t = self.levels(t)
        self._differentiable, self._elsewhere = differentiable, differentiable and everywhere
        self._x0_hat: Tensor | None = None
        self._graph: tuple[Tensor, Tensor] | None = None

    @property
    def ratio(self) -> float:
        r"""Noise-to-signal ratio :math:`\varsigma_t = \sigma_t / \alpha_t`."""
        return self.sigma_t / self.alpha_t

    @property
    def x0_hat(self) -> Tensor:
        r""":math:`\hat x_0`, ``(B, *event)``, without a graph."""
        if self._x0_hat is None:
            if self._differentiable:
                self._x0_hat = self._evaluate()[1].detach()
            else:
                self._x0_hat = self.score.denoise(self.x_t, self.t)
        return self._x0_hat

    @property
    def estimate(self) -> Tensor | None:
        """``x0_hat`` if the network has been evaluated, else ``None``."""
        return self._x0_hat

    def vjp(self, v: Tensor) -> Tensor:
        r"""Return :math:`J^\top v`, :math:`J = \partial \hat x_0 / \partial x_t`, by one backward pass through the network.

        Raises:
            RuntimeError: If no graph is kept.
        """
        if not self._differentiable:
            raise RuntimeError(
                "Denoised: no graph was kept, so vector-Jacobian products are not available. An algorithm that needs them "
                "declares differentiates = True."
            )
        _ = self.x0_hat  # The first access builds the graph.
        x_t, x0_hat = self._graph or self._evaluate()
        (product,) = torch.autograd.grad(x0_hat, x_t, v, retain_graph=True)
        return product

    def _evaluate(self) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            x_t = self.x_t.detach().requires_grad_()
            self._graph = x_t, self.score.denoise(x_t, self.t)
        return self._graph

    def covariance(self, v: Tensor) -> Tensor:
        r"""Return :math:`V_t v` with Tweedie's :math:`V_t = \mathrm{Cov}[x_0 | x_t] = (\sigma_t^2 / \alpha_t)\, J`.

        It takes one vector-Jacobian product: :math:`J` is symmetric for an exact denoiser.
        """
        return self.sigma_t**2 / self.alpha_t * self.vjp(v)

    def levels(self, s: Tensor) -> tuple[float, float]:
        r"""Return :math:`(\alpha_s, \sigma_s)` at time ``s``."""
        return self.score.schedule.levels(s)

    def elsewhere(self, x: Tensor, t: Tensor) -> Denoised:
        """Return a :class:`Denoised` of the same prior for another state and time."""
        return Denoised(self.score, x, t, differentiable=self._elsewhere)

    def take(self, rows: Tensor) -> Denoised:
        """Return the selected rows. The graph is not shared: unless it was released, the network is evaluated again."""
        taken = copy.copy(self)
        taken.x_t, taken._graph = self.x_t[rows], None
        taken._x0_hat = None if self._x0_hat is None or self._graph is not None else self._x0_hat[rows]
        return taken

    def release(self) -> Denoised:
        """Drop the graph and return ``self``. A later product evaluates the network again."""
        self._graph = None
        return self


PosteriorMean = Callable[[Denoised], Tensor]


def prior_mean(at: Denoised) -> Tensor:
    r"""Return :math:`E[x_0 | x_t]`, the mean that a step rule follows without guidance."""
    return at.x0_hat
