"""Priors made of networks: one wrapper turns every parametrisation into a denoiser."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Mapping
from typing import Any, Self

import torch
from torch import Tensor, nn

from invdiff.priors.base import ScoreModel
from invdiff.schedules import Schedule

__all__ = ["PARAMETRISATIONS", "NetworkPrior", "edm_denoise", "from_network"]

# Each maps (x_t, output, alpha_t, sigma_t) to x0_hat for a path x_t = alpha_t x_0 + sigma_t eps.
PARAMETRISATIONS: Mapping[str, Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]] = {
    "eps": lambda x_t, eps, alpha_t, sigma_t: (x_t - sigma_t * eps) / alpha_t,
    "x0": lambda x_t, x0, alpha_t, sigma_t: x0,
    # v = alpha_t eps - sigma_t x_0; on variance-preserving schedules the denominator is 1.
    "v": lambda x_t, v, alpha_t, sigma_t: (alpha_t * x_t - sigma_t * v) / (alpha_t**2 + sigma_t**2),
    # u = eps - x_0; on the straight path the denominator is 1.
    "velocity": lambda x_t, u, alpha_t, sigma_t: (x_t - sigma_t * u) / (alpha_t + sigma_t),
    "score": lambda x_t, s, alpha_t, sigma_t: (x_t + sigma_t**2 * s) / alpha_t,
}


def edm_denoise(
    net: Callable[[Tensor, Tensor], Tensor],
    x: Tensor,
    sigma: Tensor,
    *,
    sigma_data: float,
    trained: tuple[float, float] | None = None,
) -> Tensor:
    r"""Return :math:`c_\text{skip} x + c_\text{out} F(c_\text{in} x, \tfrac14 \log \sigma)`, the denoiser of a raw EDM network.

    Args:
        net: :math:`F`, called with ``(B, *event)`` and ``(B,)``.
        x: Clean data plus noise, ``(B, *event)``.
        sigma: Standard deviation of that noise, a scalar or ``(B,)``.
        sigma_data: Standard deviation of the clean data.
        trained: Smallest and largest noise level the network knows. Beyond them it is told the nearest: a network without
            normalisation answers levels it has never seen with anything.

    References:
        Karras et al., 2022, https://arxiv.org/abs/2206.00364, table 1
    """
    sigma = sigma.to(x).reshape(-1, *(1,) * (x.ndim - 1))
    scale = (sigma**2 + sigma_data**2).sqrt()
    level = sigma if trained is None else sigma.clamp(*trained)
    output = net(x / scale, (level.log() / 4).flatten().expand(x.shape[0]))
    return (sigma_data / scale) ** 2 * x + sigma * sigma_data / scale * output.to(x.dtype)


class NetworkPrior(ScoreModel):
    """A prior whose denoiser is a network. Made by :func:`from_network`, which documents the arguments.

    The module is neither modified nor asked for gradients of its weights. It computes in its own precision;
    what goes in and comes out keeps the dtype of ``x_t``.
    """

    def __init__(
        self,
        net: Callable[[Tensor, Tensor], Tensor],
        schedule: Schedule,
        *,
        predicts: str,
        time: Callable[[Tensor], Tensor],
        event_shape: tuple[int | None, ...] | None,
        sigma_data: float,
        autocast: torch.dtype | None,
        facts: Mapping[str, Any],
    ) -> None:
        self.net, self.schedule, self.predicts, self.time = net, schedule, predicts, time
        self.event_shape, self.sigma_data, self.autocast, self.facts = event_shape, sigma_data, autocast, dict(facts)
        # Detached views of the weights: input gradients cost a sixth less without those of the weights.
        self.weights = dict(_detached(net)) if isinstance(net, nn.Module) else {}

    def denoise(self, x_t: Tensor, t: Tensor) -> Tensor:
        alpha_t, sigma_t = self.levels(t, x_t)
        if self.predicts == "edm":
            sigma, ends = sigma_t / alpha_t, (self.schedule.t_min, self.schedule.t_max)
            trained = float(self.schedule.ratio(ends[0])), float(self.schedule.ratio(ends[1]))
            return edm_denoise(self._call, x_t / alpha_t, sigma, sigma_data=self.sigma_data, trained=trained)
        time = self.time(torch.as_tensor(t).to(x_t)).expand(x_t.shape[0])
        return PARAMETRISATIONS[self.predicts](x_t, self._call(x_t, time), alpha_t, sigma_t)

    def _call(self, x: Tensor, time: Tensor) -> Tensor:
        dtype = next((w.dtype for w in self.weights.values() if w.is_floating_point()), x.dtype)
        casting = torch.autocast(x.device.type, self.autocast) if self.autocast else contextlib.nullcontext()
        with casting:
            output: Tensor
            if isinstance(self.net, nn.Module):
                output = torch.func.functional_call(self.net, self.weights, (x.to(dtype), time.to(dtype)))
            else:
                output = self.net(x, time)
        if output.shape != x.shape:
            raise ValueError(
                f"from_network: the network mapped {tuple(x.shape)} to {tuple(output.shape)}, expected the same shape."
            )
        return output.to(x.dtype)

    def to(self, device: torch.device | str | None = None) -> Self:
        moved = copy.copy(self)
        moved.weights = {name: weight.to(device) for name, weight in self.weights.items()}
        return moved

    def describe(self) -> dict[str, Any]:
        return super().describe() | {"predicts": self.predicts, "autocast": str(self.autocast)} | self.facts


def from_network(
    net: Callable[[Tensor, Tensor], Tensor],
    schedule: Schedule,
    *,
    predicts: str = "eps",
    time: Callable[[Tensor], Tensor] = lambda t: t,
    event_shape: tuple[int | None, ...] | None = None,
    sigma_data: float = 0.5,
    autocast: torch.dtype | None = None,
    facts: Mapping[str, Any] | None = None,
) -> NetworkPrior:
    r"""Wrap a network, or any callable, as a prior.

    ======== ================================================= ============================================================
    predicts the network returns                               :math:`E[x_0 | x_t]`
    ======== ================================================= ============================================================
    eps      the noise :math:`\varepsilon`                      :math:`(x_t - \sigma_t \varepsilon) / \alpha_t`
    x0       the clean data                                    itself
    v        :math:`\alpha_t \varepsilon - \sigma_t x_0`         :math:`(\alpha_t x_t - \sigma_t v)/(\alpha_t^2 + \sigma_t^2)`
    velocity :math:`\varepsilon - x_0`                          :math:`(x_t - \sigma_t u) / (\alpha_t + \sigma_t)`
    score    :math:`\nabla \log p_t(x_t)`                       :math:`(x_t + \sigma_t^2 s) / \alpha_t`
    edm      :math:`F` of :func:`edm_denoise`, asked at        the form with :math:`c_\text{skip}` and :math:`c_\text{out}`
             :math:`x_t / \alpha_t` and :math:`\varsigma_t`
    ======== ================================================= ============================================================

    Args:
        net: Called as ``net(x_t, time)`` with ``(B, *event)`` and ``(B,)``. A module must be in evaluation mode
            if it has dropout or batch statistics.
        schedule: The schedule it was trained with.
        predicts: What it returns, see above.
        time: Maps the schedule's time to what the network expects, such as ``lambda t: 999 * t``. Not used by ``edm``.
        event_shape: Shape of one item, ``None`` for axes of any size.
        sigma_data: Standard deviation of the data, for ``edm``.
        autocast: Compute the network under autocast to this dtype.
        facts: What reports should say about the network.
    """
    if predicts not in {*PARAMETRISATIONS, "edm"}:
        raise ValueError(f"from_network: unknown predicts={predicts!r}, expected one of {', '.join(PARAMETRISATIONS)}, edm.")
    if isinstance(net, nn.Module):
        restless = [name for name, module in net.named_modules() if module.training and isinstance(module, _RESTLESS)]
        if restless:
            raise ValueError(
                f"from_network: {restless[0]!r} is in training mode, so outputs would be random. Call net.eval() first."
            )
    return NetworkPrior(
        net,
        schedule,
        predicts=predicts,
        time=time,
        event_shape=event_shape,
        sigma_data=sigma_data,
        autocast=autocast,
        facts=facts or {},
    )


_RESTLESS = (nn.modules.dropout._DropoutNd, nn.modules.batchnorm._BatchNorm, nn.AlphaDropout)


def _detached(net: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach() for name, tensor in (*net.named_parameters(), *net.named_buffers())}
