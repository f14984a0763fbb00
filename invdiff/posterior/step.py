"""What a callback sees of a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

__all__ = ["Step"]


@dataclass(frozen=True, eq=False)
class Step:
    r"""A step of some samples, as ``PosteriorSampler.run(..., callback=...)`` hands it over.

    Attributes:
        number: Which step of the run it is, counted from 1.
        steps: How many there are.
        t: Time at its start, a float64 scalar.
        s: Time at its end.
        x_s: The state after the step, ``(R, *event)``; after the last step the samples themselves.
        estimate: The estimate of :math:`x_0` that the step was made with, ``(R, *event)``. For conditional denoisers what the
            step rule followed: :math:`E[x_0 | x_t, y]`, or a draw under the rule ``matched``. Elsewhere the denoised state
            :math:`E[x_0 | x_t]`. ``None`` where a method asks for none in the step (``snips``, ``pnp-dm``).
        rows: For each of the ``R`` rows the sample and the item it belongs to: the last row ``x_s[r]`` becomes
            ``post.samples[rows[r]]``.
    """

    number: int
    steps: int
    t: Tensor
    s: Tensor
    x_s: Tensor
    estimate: Tensor | None
    rows: Sequence[tuple[int, int]]
