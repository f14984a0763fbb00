r"""The time of a straight path between noise and data, at the levels of any schedule."""

from __future__ import annotations

__all__ = ["flow_time"]


def flow_time(alpha: float, sigma: float) -> float:
    r"""Return :math:`u = \sigma / (\alpha + \sigma)`: 1 is noise, 0 is data.

    The state over :math:`\alpha + \sigma` is :math:`(1 - u)\, x_0 + u\, \varepsilon`, as in flow matching. The papers on flows
    count time from noise to data: their :math:`t` is :math:`1 - u`.
    """
    return sigma / (alpha + sigma)
