"""The interface of a ready-made problem on images."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from invdiff.io.images import Picture, write_image
from invdiff.io.source import Source
from invdiff.methods.guidance.exact_score import fits
from invdiff.operators import Noise, Operator, temper
from invdiff.priors import ScoreModel

from .options import Option

__all__ = ["QUALITIES", "Given", "Problem", "photographs"]


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
# from a level at which a state says nothing yet, not even of the mean color of a large hole.
HANDOVER: Mapping[str, Any] = {"method": "handover", "rule": "matched", "steps": 20, "ratio_max": 80.0, "products": 1}
# Where what the measurement leaves is white noise: the pivot is what every prior was trained for.
EXACT: Mapping[str, Any] = {"method": "exact-score", "rule": "matched", "steps": 16, "ratio_max": 10.0, "ratio_min": 0.01}
# Without a gradient, and without a measured error.
FAST: Mapping[str, Any] = {"method": "exact-score", "rule": "ddpm", "steps": 20, "ratio_max": 80.0, "ratio_min": 0.01}


QUALITIES = ("fast", "balanced", "best")


@dataclass(frozen=True)
class Given:
    """What INPUT and the options give.

    Attributes:
        problem: The problem.
        y: What was measured, ``(1, C, ...)``; where INPUT is clean and still to be degraded, its pixels.
        picture: How results are written: bits, opacity, color profile.
        notes: Lines for the person who runs this.
    """

    problem: Problem
    y: Tensor
    picture: Picture
    notes: tuple[str, ...] = ()


class Problem(ABC):
    """A problem on images: its options, the operator for an image of any size, and the settings that solve it well.

    A subclass needs :meth:`operator` alone; what else there is has a default for pictures.

    Attributes:
        name: What ``--problem`` takes, and part of the name of the results. Default: the class's, in lower case.
        options: Its options at the command line and in ``invdiff.restore``; :meth:`from_options` gets their values.
        needs: What it cannot do without, as the error says where it is missing. Default: the options that are needed.
        reads: What INPUT is when it is a measurement. Other than a picture, it tells what ``simulation`` options say.
        accepts_noise: ``"any"``; ``"above 0"``: any, but no exact data; ``"gaussian"``: of a known level; ``"rounding"``: its
            own and no other.
        exact_is_usual: Whether data without noise are what is expected, so that no note need be made of it.
        measures: Name of the operator, for the list of problems.
        looks: What the measurement is called in the comparison.
        bundled: Picture of scikit-image that is degraded where there is no INPUT.
        why_cropped: Said where :meth:`fit` crops a picture.
        size: Of the image, ``(H, W)``, where the measurement is of one size alone; ``None``: any.
        recommended: Arguments of :class:`~invdiff.PosteriorSampler` that solve photographs well by ``mmps``, under any prior.
            ``benchmarks/RESULTS.md`` has the figures behind them.
        leaves_white: Whether what is left to find out is alike everywhere, so that ``exact-score`` serves at all levels.
    """

    name: ClassVar[str]
    options: ClassVar[Sequence[Option]] = ()
    needs: ClassVar[str] = ""
    reads: ClassVar[Literal["picture", "arrays", "JPEG file"]] = "picture"
    accepts_noise: ClassVar[Literal["any", "above 0", "gaussian", "rounding"]] = "any"
    exact_is_usual: ClassVar[bool] = False
    measures: ClassVar[str] = ""
    looks: ClassVar[str] = "measured"
    bundled: ClassVar[str] = "chelsea"  # scikit-image's cat: CC0, inside its wheel
    why_cropped: ClassVar[str] = ""
    size: tuple[int, int] | None = None
    recommended: ClassVar[Mapping[str, Any]] = photographs(max_iterations=4)
    leaves_white: ClassVar[bool] = False

    def __init_subclass__(cls, **arguments: Any) -> None:
        super().__init_subclass__(**arguments)
        cls.name = cls.__dict__.get("name", cls.__name__.lower())

    @abstractmethod
    def operator(self, shape: tuple[int, int, int], *, noise: Noise | None = None) -> Operator:
        """Return the measurement of an image of ``shape`` ``(C, H, W)``.

        Args:
            shape: Of the image.
            noise: In the units of images that span [-1, 1]. Default: none, or that of the problem itself.

        Raises:
            ValueError: If such an image cannot be measured, or not with such noise.
        """

    # From options and INPUT to a problem and a measurement.

    @classmethod
    def from_options(cls, options: Mapping[str, Any], *, size: tuple[int, int]) -> Self:
        """Return the problem that values of :attr:`options` describe.

        Args:
            options: Value by name, for every one of them; ``None`` where it is not given and has no default.
            size: Of the picture that came in, ``(H, W)``.
        """
        build: Any = cls
        problem: Self = build(**{name: value for name, value in options.items() if value is not None})
        return problem

    @classmethod
    def of_picture(cls, picture: Picture, options: Mapping[str, Any], *, source: str) -> Given:
        """Return the problem for a picture that came in, measured or clean; ``source`` names it in errors."""
        _, height, width = picture.pixels.shape
        return Given(cls.from_options(options, size=(height, width)), pixels_of(picture), picture)

    @classmethod
    def read(cls, source: Source, options: Mapping[str, Any]) -> Given:
        """Return the problem and the measurement that INPUT holds, where it :attr:`reads` other than a picture.

        Raises:
            ValueError: If it does not hold one.
            OSError: If it is a file that cannot be opened.
        """
        return cls.of_picture(source.picture(), options, source=str(source))

    @classmethod
    def bundled_size(cls, options: Mapping[str, Any]) -> tuple[int, int]:
        """Return the size ``(H, W)`` of the bundled picture that is degraded where there is no INPUT."""
        return 256, 256

    @classmethod
    def files(cls, options: Mapping[str, Any]) -> dict[str, Path]:
        """Return the files that options name: records say what they held."""
        return {option.name: options[option.name] for option in cls.options if isinstance(options[option.name], Path)}

    def noise_pixels(self, y: Tensor) -> Tensor:
        """Return pictures ``(B, C, H, W)`` of a measurement from which its noise can be estimated."""
        return y

    def in_channels(self, op: Operator, y: Tensor, channels: int) -> tuple[Operator, Tensor]:
        """Return operator and measurement for a prior of more channels than the grey picture that came in.

        Its values are those of equal channels, each of which carries a share of the noise: see
        :func:`invdiff.operators.temper`.
        """
        own, height, width = op.in_shape
        return self.operator((channels, height, width), noise=temper(op.noise, channels // own)), y

    # What solves it.

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

    # Between measurements and pictures.

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

    def alpha_of(self, alpha: NDArray[np.float64], size: tuple[int, int]) -> NDArray[np.float64]:
        """Return the opacity of an image of ``size`` ``(H, W)`` for that of the picture it was measured as."""
        (height, width), (rows, columns) = size, alpha.shape
        return alpha.repeat(height // rows, 0).repeat(width // columns, 1)

    def picture_of(self, y: Tensor) -> Tensor:
        """Return the picture ``(C, H, W)`` that a file of a measurement ``(1, ...)`` holds."""
        return y[0]

    def numbers(self, y: Tensor) -> NDArray[Any]:
        """Return the numbers measured, in the units of a file."""
        return self.picture_of(y).numpy() / 2 + 0.5

    def write_measurement(self, folder: Path, y: Tensor, *, suffix: str, bits: int, icc: bytes | None) -> None:
        """Write a simulated measurement ``(1, ...)`` that :meth:`read` can read, ``measurement`` and an ending.

        Args:
            folder: Where to.
            y: The measurement.
            suffix: Ending of pictures.
            bits: Of their channels.
            icc: Their color profile.
        """
        write_image(folder / f"measurement{suffix}", self.picture_of(y).numpy(), bits=bits, icc=icc)

    def facts(self) -> dict[str, Any]:
        """Return what the spread of samples depends on besides the options: a calibration is held against it."""
        return {}


def pixels_of(picture: Picture) -> Tensor:
    """Return the pixels of a picture as a batch of one, ``(1, C, H, W)``, float32."""
    return torch.from_numpy(picture.pixels).float()[None]
