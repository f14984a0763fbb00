"""The argument of the callback of a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from invdiff.posterior.windows import Window

__all__ = ["Step"]


@dataclass(frozen=True, eq=False)
class Step:
    r"""One step of a chunk of samples, passed to the callback of ``PosteriorSampler.run(..., callback=...)``.

    Its tensors are copies: they can be kept and modified.

    Attributes:
        number: Number of the step, counted from 1.
        steps: Total number of steps.
        t: Time at the start of the step, a float64 scalar.
        s: Time at the end of the step.
        x_s: The state after the step, ``(R, *event)``; after the last step the samples themselves.
        estimate: The estimate of :math:`x_0` used in the step, ``(R, *event)``. For conditional denoisers, the one that the
            step rule followed: :math:`E[x_0 | x_t, y]`, or a draw under the rule ``matched``. For other methods, the denoised
            state :math:`E[x_0 | x_t]`. ``None`` if the method computes none in the step (``snips``, ``pnp-dm``).
        rows: The sample and the item of each of the ``R`` rows: after the last step, ``x_s[r]`` becomes
            ``post.samples[rows[r]]``.
        windows: The window of each row, if samples are computed in windows around what is missing
            (:class:`~invdiff.posterior.Window`): ``x_s[r]`` is that part of the image, and after the last step its missing
            pixels ``windows[r].fills`` are those of the sample. ``None`` for whole images.
    """

    number: int
    steps: int
    t: Tensor
    s: Tensor
    x_s: Tensor
    estimate: Tensor | None
    rows: Sequence[tuple[int, int]]
    windows: Sequence[Window] | None = None
