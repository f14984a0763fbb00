"""The interface of a ready-made task on images."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

from torch import Tensor

from invdiff.methods.guidance.exact_score import fits
from invdiff.operators import Operator
from invdiff.priors import ScoreModel

__all__ = ["QUALITIES", "Problem", "photographs"]


def photographs(*, max_iterations: int, products: int = 1, steps: int = 16) -> Mapping[str, Any]:
    """Return what solves photographs well under the bundled prior; docs/methods.md has the figures.

    Args:
        max_iterations: Of GMRES, under a prior whose error was not measured.
        products: Of the network, under one whose error was.
        steps: Of the reverse diffusion.
    """
    options = {"max_iterations": max_iterations, "root_iterations": 2, "products": products}
    return {"rule": "matched", "steps": steps, "ratio_max": 10.0, **options}


# Where the prior denoises what the measurement leaves, and its error was measured; docs/methods.md has the figures. It starts
# from a level at which a state says nothing yet, not even of the mean colour of a large hole.
HANDOVER: Mapping[str, Any] = {"method": "handover", "rule": "matched", "steps": 20, "ratio_max": 80.0, "products": 1}
# Where what the measurement leaves is white noise: the pivot is what every prior was trained for.
EXACT: Mapping[str, Any] = {"method": "exact-score", "rule": "matched", "steps": 16, "ratio_max": 10.0, "ratio_min": 0.01}
# Without a gradient, and without a measured error.
FAST: Mapping[str, Any] = {"method": "exact-score", "rule": "ddpm", "steps": 20, "ratio_max": 80.0, "ratio_min": 0.01}


QUALITIES = ("fast", "balanced", "best")


class Problem(ABC):
    """A task on images: the operator for an image of any size, and the settings that solve it well.

    Attributes:
        name: What ``--problem`` takes.
        summary: One line for the list of problems.
        needs: The command-line options it cannot do without; ``--a or --b`` where one of several is enough.
        size: Of the image, ``(H, W)``, where the measurement is of one size alone; ``None``: any.
        recommended: Arguments of :class:`~invdiff.PosteriorSampler` that solve photographs well by ``mmps``, under any prior.
            ``benchmarks/RESULTS.md`` has the figures behind them.
        leaves_white: Whether what is left to find out is alike everywhere, so that ``exact-score`` serves at all levels.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    needs: ClassVar[tuple[str, ...]] = ()
    size: tuple[int, int] | None = None
    recommended: ClassVar[Mapping[str, Any]] = {}
    leaves_white: ClassVar[bool] = False

    def settings(self, score: ScoreModel, op: Operator, *, quality: str = "balanced") -> Mapping[str, Any]:
        """Return the arguments of :class:`~invdiff.PosteriorSampler` that solve this well under a prior.

        ======== ===============================================================================================================
        quality  what runs
        ======== ===============================================================================================================
        fast     ``exact-score``, 20 steps of DDPM, where the prior denoises what the measurement leaves, and all of it was
                 recorded: no gradient, narrow samples; elsewhere half the steps of what follows
        balanced ``handover`` where the prior denoises what the measurement leaves and its error was measured (``exact-score``
                 with matched draws where that is white noise); else ``recommended``
        best     the same with three times the steps, and twice the products or iterations
        ======== ===============================================================================================================

        Args:
            score: The prior.
            op: The measurement, of :meth:`operator`.
            quality: One of :data:`QUALITIES`.

        Raises:
            ValueError: If there is no such quality.
        """
        if quality not in QUALITIES:
            raise ValueError(f"quality must be one of {', '.join(QUALITIES)}, got {quality!r}.")
        ours = self.recommended
        if quality == "fast" and fits(score, op):
            return FAST
        if score.error_model is not None and fits(score, op, imputing=True):
            ours = EXACT if self.leaves_white else HANDOVER
        if quality == "balanced" or not ours:
            return ours
        if quality == "fast":
            return {**ours, "steps": ours["steps"] // 2}
        more = {name: 2 * ours[name] for name in ("products", "max_iterations", "root_iterations") if name in ours}
        return {**ours, **more, "steps": 3 * ours["steps"]}

    @classmethod
    @abstractmethod
    def examples(cls) -> Sequence[Self]:
        """Return instances for images of 16 x 24 pixels, or of a size of their own: what the shared tests run over."""

    @abstractmethod
    def operator(self, shape: tuple[int, int, int], *, sigma_y: float) -> Operator:
        """Return the measurement of an image of ``shape`` ``(C, H, W)``, noise in the units of [-1, 1] images.

        Raises:
            ValueError: If such an image cannot be measured, or not with such noise.
        """

    def image_shape(self, measured: tuple[int, ...]) -> tuple[int, int, int]:
        """Return the shape of the image whose measurement has the shape ``measured``.

        Raises:
            ValueError: If no measurement has it.
        """
        channels, height, width = measured
        return channels, height, width

    def fit(self, x: Tensor) -> Tensor:
        """Return the clean images ``(B, C, H, W)`` cropped, where needed, to a size that can be measured.

        Raises:
            ValueError: If they are too small, or have channels that cannot be measured.
        """
        return x

    def preview(self, y: Tensor) -> Tensor:
        """Return the measurement as pictures ``(B, C, H, W)`` to look at."""
        return y

    def upright(self, x: Tensor) -> Tensor:
        """Return pictures ``(B, C, H, W)`` turned as the file asks for that they were measured from."""
        return x

    def finish(self, x: Tensor, y: Tensor, op: Operator) -> Tensor:
        """Return the samples ``x`` with what is known exactly put in, ``x`` and ``y`` row by row."""
        return x
