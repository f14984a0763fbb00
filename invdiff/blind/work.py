"""How much of a run of :class:`invdiff.BlindSampler` is done, for estimates of its time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["GRADIENT", "SAMPLING", "Work", "typical_evaluations"]

# Times of one evaluation of the network: of a step of the search for a free kernel, which differentiates it, and of a step of
# the samples of the image with its solves, on the average over the recommended methods.
GRADIENT, SAMPLING = 3.0, 2.0


def typical_evaluations(parameters: int) -> float:
    """Return about how many evaluations of a window the search for so many parameters takes: 230, 575, ..."""
    return 230 * 2.5 ** (parameters - 1)


@dataclass
class Work:
    """Counts evaluations of the network, in pixels.

    Attributes:
        images: Steps of all samples of the image, times its pixels.
        report: Called with the share of the whole work that is done, after every evaluation of a kernel.
        kernel: Estimated work of the search for the kernel.
        done: Work that is done.
    """

    images: float
    report: Callable[[float], object] | None = None
    kernel: float = 0.0
    done: float = 0.0

    def add(self, evaluations: float) -> None:
        """Count evaluations, in pixels, and report the share that is done."""
        self.done += evaluations
        if self.report is not None:
            self.report(min(self.done, self.kernel) / (self.kernel + SAMPLING * self.images))
