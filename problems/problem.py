"""Interface of ready-made problems on images."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from invdiff.io.images import Picture, write_image
from invdiff.io.metadata import enlarged
from invdiff.io.source import Source
from invdiff.operators import Noise, Operator, temper
from invdiff.priors import ScoreModel

from .options import Option, check_declared

if TYPE_CHECKING:
    from invdiff.blind import FreeFamily
    from invdiff.blind.families import ParametricFamily

__all__ = ["Given", "Problem"]


@dataclass(frozen=True)
class Given:
    """The problem and the data described by INPUT and the options.

    Attributes:
        problem: The problem.
        y: The measurement, ``(1, C, ...)``; the pixels of INPUT if it is a clean image that is degraded later.
        picture: Format of the results: bit depth, alpha channel, color profile, EXIF data.
        notes: Messages for the user.
    """

    problem: Problem
    y: Tensor
    picture: Picture
    notes: tuple[str, ...] = ()


class Problem(ABC):
    """A problem on images: its options, and the operator for an image of any size.

    A subclass only needs to define :meth:`operator`; everything else has a default suitable for pictures.

    Attributes:
        name: Name for ``--problem``, also part of the name of the results. Default: the class name in lower case.
        options: Options at the command line and in ``invdiff.restore``; :meth:`from_options` receives their values.
        needs: Requirements of the problem, for the error message if one is missing. Default: the required options.
        reads: Type of INPUT if it is a measurement. If not a picture, it contains the values of the ``simulation`` options.
        reads_alpha: Whether :meth:`of_picture` takes pixels of alpha 0 as not measured. Otherwise it receives a picture in
            which they have the color of the nearest visible pixel.
        keeps_range: Whether a measured picture without noise is nowhere far below black: more values there are refused.
        accepts_noise: ``"any"``; ``"above 0"``: any noise, but no exact data; ``"gaussian"``: Gaussian noise of a known level;
            ``"rounding"``: only the rounding of the problem itself.
        finds_noise: Whether :meth:`noise_of_input` finds the noise of a measured INPUT, where ``accepts_noise`` is
            ``"gaussian"``.
        default_noise: Noise of a measured INPUT if none is given: ``"0"``: exact data, where measured pixels are to be kept as
            they are; ``"file"``: found in INPUT (:func:`invdiff.restoration.file_noise.noise_of_file`), where it would
            otherwise be amplified.
        exact_is_usual: Whether noise-free data are common, so that no note about them is needed.
        measures: Name of the operator, for the list of problems.
        looks: Label of the measurement in the comparison panel.
        bundled: Name of the scikit-image picture that is degraded if there is no INPUT.
        why_cropped: Reason for the crop, for the note if :meth:`fit` crops a picture.
        size: Image size, ``(H, W)``, if the measurement fixes it; ``None``: any size.
        enlarges: Pixels of the image along a side for each pixel of the measured picture: the resolution in pixels per inch
            that the measured file declares is multiplied by it, so that the image has the same size on paper.
        misfit_causes: What is likely to be wrong with the problem if the samples do not explain INPUT, for the note on it.
        recommended: Arguments of :class:`~invdiff.PosteriorSampler` that suit this problem better than those of
            :func:`invdiff.posterior.recommended`, which know the prior and the operator alone. Not used with ``--quality``.
        own_channels: Whether its images have other channels than pictures have, such as a real and an imaginary part:
            :meth:`prior` makes a prior of them.
        boundary: Boundary condition of the blur, where :meth:`kernels` are looked for.
    """

    name: ClassVar[str]
    options: ClassVar[Sequence[Option]] = ()
    needs: ClassVar[str] = ""
    reads: ClassVar[Literal["picture", "arrays", "JPEG file"]] = "picture"
    reads_alpha: ClassVar[bool] = False
    keeps_range: ClassVar[bool] = True
    accepts_noise: ClassVar[Literal["any", "above 0", "gaussian", "rounding"]] = "any"
    finds_noise: ClassVar[bool] = False
    default_noise: ClassVar[Literal["0", "file"]] = "0"
    exact_is_usual: ClassVar[bool] = False
    measures: ClassVar[str] = ""
    looks: ClassVar[str] = "measured"
    bundled: ClassVar[str] = "chelsea"  # the cat of scikit-image: CC0, part of its wheel
    why_cropped: ClassVar[str] = ""
    size: tuple[int, int] | None = None
    enlarges: float = 1
    misfit_causes: ClassVar[str] = "a measurement that does not describe INPUT (scale, orientation, range of the values)"
    recommended: Mapping[str, Any] = MappingProxyType({})
    own_channels: bool = False
    boundary: str = "reflect"

    def __init_subclass__(cls, **arguments: Any) -> None:
        super().__init_subclass__(**arguments)
        cls.name = cls.__dict__.get("name", cls.__name__.lower())
        check_declared(cls.__name__, cls.options)

    @abstractmethod
    def operator(self, shape: tuple[int, int, int], *, noise: Noise | None = None) -> Operator:
        """Return the measurement operator for images of a shape.

        Args:
            shape: Image shape, ``(C, H, W)``.
            noise: Noise model, in the units of images that span [-1, 1]. Default: no noise, or the noise of the problem itself.

        Raises:
            ValueError: If an image of this shape cannot be measured, or the problem does not accept this noise.
        """

    # From options and INPUT to a problem and a measurement.

    @classmethod
    def from_options(cls, options: Mapping[str, Any], *, size: tuple[int, int]) -> Self:
        """Return the problem that the values of :attr:`options` describe.

        Args:
            options: Values of all options by name; ``None`` for one that is not given and has no default.
            size: Size of the input picture, ``(H, W)``.
        """
        build: Any = cls
        values = {name: value for name, value in options.items() if value is not None}
        try:
            inspect.signature(build).bind(**values)
        except TypeError as error:
            got = ", ".join(values) or "none"
            raise TypeError(
                f"problem {cls.name}: the constructor must take the given options ({got}) by name: {error}."
            ) from None
        problem: Self = build(**values)
        return problem

    @classmethod
    def of_picture(cls, picture: Picture, options: Mapping[str, Any], *, source: str) -> Given:
        """Return the problem for an input picture, measured or clean; ``source`` is its name in errors."""
        _, height, width = picture.pixels.shape
        return Given(cls.from_options(options, size=(height, width)), pixels_of(picture), picture)

    @classmethod
    def propose(
        cls, options: Mapping[str, Any], picture: Picture, score: ScoreModel | None, *, source: str, progress: bool = False
    ) -> tuple[dict[str, Any], tuple[str, ...]]:
        """Return the options with values for those that are to be proposed (:attr:`Option.proposed`), and notes for the user.

        Called if there are any; a problem with such options must define it.

        Args:
            options: Values of all options by name.
            picture: INPUT, with visible colors in transparent pixels.
            score: The prior; ``None``: none is at hand.
            source: Name of INPUT in errors.
            progress: Whether to show progress bars.

        Raises:
            ValueError: If no value can be proposed.
        """
        raise NotImplementedError(f"problem {cls.name}: propose() must give values to the options that declare proposed=...")

    @classmethod
    def as_measured(cls, picture: Picture) -> Picture:
        """Return a measured picture in the channels that the problem measures, with a note for the user if they change."""
        return picture

    @classmethod
    def read(cls, source: Source, options: Mapping[str, Any]) -> Given:
        """Return the problem and the measurement in INPUT, if it :attr:`reads` something other than a picture.

        Raises:
            ValueError: If INPUT does not hold such a measurement.
            OSError: If INPUT is a file that cannot be opened.
        """
        return cls.of_picture(source.picture(), options, source=str(source))

    @classmethod
    def bundled_size(cls, options: Mapping[str, Any]) -> tuple[int, int]:
        """Return the size ``(H, W)`` of the bundled picture that is degraded if there is no INPUT."""
        return 256, 256

    @classmethod
    def files(cls, options: Mapping[str, Any]) -> dict[str, Path]:
        """Return the files given as options, whose digests go into the record of a run."""
        return {option.name: options[option.name] for option in cls.options if isinstance(options[option.name], Path)}

    @classmethod
    def options_of_results(cls, options: Mapping[str, Any], pictures: Mapping[str, Path]) -> dict[str, Any]:
        """Return options that give the operator of a run again, from those of its record and the pictures of its results.

        A picture that :meth:`extras` wrote as it was used takes the place of what it was made from.

        Args:
            options: Values of the options in the record.
            pictures: Pictures of the results by name, such as ``"mask"``.

        Raises:
            ValueError: If a picture that is needed is not there.
        """
        return dict(options)

    def noise_pixels(self, y: Tensor) -> Tensor:
        """Return pictures ``(B, C, H, W)`` from which the noise can be estimated, NaN where there is no measurement."""
        return y

    def noise_of_input(self, y: Tensor, *, estimated: bool) -> tuple[Noise, str] | None:
        """Return the noise of a measured INPUT in the units of ``y``, and a note on it; ``None``: it is found in its pixels.

        Args:
            y: The measurement.
            estimated: Whether it is to be estimated, even if the file states it.

        Raises:
            ValueError: If it cannot be found: the reason alone.
        """
        return None

    def in_channels(self, op: Operator, y: Tensor, channels: int) -> tuple[Operator, Tensor]:
        """Return operator and measurement for a grayscale picture under a prior with more channels.

        The image is modeled as equal channels, whose noise is tempered so that together they carry the information of one
        measurement: see :func:`invdiff.operators.temper`.
        """
        own, height, width = op.in_shape
        return self.operator((channels, height, width), noise=temper(op.noise, channels // own)), y

    # Unknown instruments.

    @classmethod
    def is_blind(cls, options: Mapping[str, Any]) -> bool:
        """Return whether the options leave the instrument open: its kernel is then estimated together with the image."""
        return False

    def kernels(self, size: tuple[int, int]) -> FreeFamily | ParametricFamily | None:
        """Return the kernels among which that of a picture of ``size`` ``(H, W)`` is looked for; ``None`` if it is known.

        The :meth:`operator` of a problem whose kernel is looked for has no blur; the one under a kernel is that of
        :meth:`with_kernel`.

        Raises:
            ValueError: If the picture is too small.
        """
        return None

    def with_kernel(self, kernel: Tensor) -> Problem:
        """Return the problem whose kernel, ``(h, w)``, is known, if :meth:`kernels` are looked for."""
        raise NotImplementedError(f"problem {self.name} has no kernel")

    # Between measurements and pictures.

    def image_shape(self, measured: tuple[int, ...]) -> tuple[int, int, int]:
        """Return the shape of the image whose measurement has the shape ``measured``.

        Raises:
            ValueError: If no measurement has this shape.
        """
        channels, height, width = measured
        return channels, height, width

    def fit(self, x: Tensor) -> Tensor:
        """Return clean images ``(B, C, H, W)``, cropped if needed to a size that can be measured.

        Raises:
            ValueError: If they are too small, or have an unsupported number of channels.
        """
        return x

    def preview(self, y: Tensor) -> Tensor:
        """Return the measurement as pictures ``(B, C, H, W)`` for display."""
        return y

    def upright(self, x: Tensor) -> Tensor:
        """Return pictures ``(B, C, H, W)`` in the orientation and the color space of the results."""
        return x

    def shown(self, x: Tensor) -> Tensor:
        """Return results ``(..., C, H, W)`` as figures show them, where they are no pictures for a display."""
        return x

    def framed(self, x: Tensor) -> Tensor:
        """Return the part of images ``(..., H, W)`` that INPUT shows, where the image extends beyond its border."""
        return x

    def pictured(self, x: Tensor) -> Tensor:
        """Return images ``(B, C, H, W)`` as the pictures of results: of complex images the magnitude."""
        return self.framed(x)

    def derived(self, x: Tensor) -> dict[str, Picture]:
        """Return what samples ``(N, C, H, W)`` show besides :meth:`pictured`, such as a phase, written beside the results as
        ``NAME.png``.

        The names are the same for all samples.
        """
        return {}

    def prior(self, score: ScoreModel) -> ScoreModel:
        """Return the prior of the images of the problem, made of that of pictures, if it has :attr:`own_channels`."""
        return score

    def finish(self, x: Tensor, y: Tensor, op: Operator) -> Tensor:
        """Return the samples ``x`` made consistent with exact data ``y``; rows of ``x`` and ``y`` correspond."""
        return x

    def alpha_of(self, alpha: NDArray[np.float64], size: tuple[int, int]) -> NDArray[np.float64]:
        """Return the alpha channel of an image of ``size`` ``(H, W)``, given the alpha channel of its measured picture."""
        (height, width), (rows, columns) = size, alpha.shape
        return alpha[nearest(height, rows)][:, nearest(width, columns)]

    def picture_of(self, y: Tensor) -> Tensor:
        """Return a measurement ``(1, ...)`` as the picture ``(C, H, W)`` written to a file."""
        return y[0]

    def numbers(self, y: Tensor) -> NDArray[Any]:
        """Return the measured values in the units of a file."""
        return self.picture_of(y).numpy() / 2 + 0.5

    def write_measurement(
        self, folder: Path, y: Tensor, *, suffix: str, bits: int, icc: bytes | None, exif: bytes | None = None
    ) -> None:
        """Write a simulated measurement to a file ``measurement.*`` that :meth:`read` can read.

        Args:
            folder: Folder of the file.
            y: The measurement, ``(1, ...)``.
            suffix: File name extension of pictures.
            bits: Bits per channel of pictures.
            icc: Color profile of pictures.
            exif: EXIF data of the clean picture; the resolution is that of the measurement.
        """
        if exif is not None and self.enlarges != 1:
            exif = enlarged(exif, 1 / self.enlarges)
        write_image(folder / f"measurement{suffix}", self.picture_of(y).numpy(), bits=bits, icc=icc, exif=exif)

    def write_simulated(
        self, folder: Path, x: Tensor, y: Tensor, *, suffix: str, bits: int, icc: bytes | None, exif: bytes | None = None
    ) -> None:
        """Write a measurement ``y`` of the clean image ``x``, ``(1, C, H, W)``, to a file ``measurement.*`` that can be solved.

        The other arguments are those of :meth:`write_measurement`, which is called; it need not write a file that
        :meth:`read` takes.
        """
        self.write_measurement(folder, y, suffix=suffix, bits=bits, icc=icc, exif=exif)

    def doubts(self, score: ScoreModel) -> tuple[str, ...]:
        """Return what cannot be expected of a solution, in one line each, for the user to know before the work.

        Args:
            score: The prior.
        """
        return ()

    def extras(self) -> dict[str, Picture]:
        """Return pictures of the problem itself by name, such as a mask, which are written beside the results as ``NAME.png``.

        The names are the same before and after sampling.
        """
        return {}

    def facts(self) -> dict[str, Any]:
        """Return properties, besides options, that affect the spread of samples, to compare with a calibration."""
        return {}


def nearest(side: int, small: int) -> NDArray[np.intp]:
    """Return which of ``small`` pixels lies under each of ``side`` pixels that cover the same length."""
    return np.arange(side) * small // side


def pixels_of(picture: Picture) -> Tensor:
    """Return the pixels of a picture as a batch of one, ``(1, C, H, W)``, float32."""
    return torch.from_numpy(picture.pixels).float()[None]
