"""Computed tomography: an image from its projections."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from invdiff.formats.window import Window
from invdiff.linalg import least_squares
from invdiff.operators import FanBeamCT, GaussianNoise, Noise, Operator, ParallelBeamCT, TransmissionNoise
from invdiff.operators.transforms.tomography import RayTransform

from .arrays import ArrayProblem, Arrays, grey, named, one_number
from .counts import Counts
from .options import SCALE, Option
from .sinogram import FanBeam, half_turn, sinogram_of

__all__ = ["ReconstructCT"]

FAN_ITERATIONS = 30
LENGTHS = ("pixel_size", "detector_spacing", "source_distance", "detector_distance", "detector_shape", "mu_water")
MEASURED = ("flat", "gain", "bin", *LENGTHS)  # options of a measured INPUT


class ReconstructCT(ArrayProblem):
    r"""Reconstruct an image from line integrals along parallel rays or a fan, from few angles or noisy data.

    The integral over a length :math:`l` of white is :math:`l` times ``scale``. Lengths are in pixels unless a file gives the
    pixel size or the detector spacing. :mod:`invdiff.problems.sinogram` has the conventions of files.

    A file of counts has its own noise: the counts are Poisson distributed (:class:`~invdiff.operators.TransmissionNoise`), so
    none needs to be given. With ``likelihood="gaussian"`` their logarithms have independent Gaussian noise instead, of the
    variance that follows from the counts, for methods that take no other. With a noise that is given, it is that of their
    logarithms, as of an image on the 0..1 scale.

    Args:
        angles: Projection angles in degrees, in the convention of ``skimage.transform.radon``.
        size: Image size, ``(H, W)``.
        detectors: Number of detectors. Default: enough to cover the diagonal. Needed for a fan.
        center: Detector on which the rotation axis projects, counted from 0, which may be a fraction. Default: the middle.
        axis: Pixel ``(row, column)`` of the rotation axis, which may be fractions. Default: the center of the image.
        scale: Pixel value of white in the units of a file, per unit of length.
        pixel_size: Side of a pixel.
        detector_spacing: Distance between detectors. Default: that whose rays are a pixel apart at the rotation axis.
        fan: The fan of the rays. Default: they are parallel.

    Attributes:
        unit: Unit of the values of an image: ``1/mm``, ``1/cm`` or ``HU``; empty: per pixel.
        counts: The measured counts, if the noise follows from them.

    Raises:
        ValueError: If there are no angles, or a number is out of range.
    """

    name = "ct"
    options = (
        Option(
            name="angles",
            kind="INTEGER",
            minimum=1,
            needed="yes",
            simulation=True,
            help="Number of angles, evenly spaced over 180 degrees (simulation).",
        ),
        Option(
            name="center",
            kind="NUMBER",
            minimum=0,
            changes_spread=False,
            help="Center of rotation: the detector on which the rotation axis projects, counted from 0; 319.5 is the middle of "
            "640. Default: that of the centers of mass of the projections, or of opposite projections, if they tell, or the "
            "middle.",
        ),
        Option(
            name="flat",
            kind="NUMBER",
            minimum=0,
            above=True,
            changes_spread=False,
            help="INPUT holds counts, and this many without an object: -log(counts / flat) is taken. Default: INPUT holds line "
            "integrals.",
        ),
        Option(
            name="gain",
            kind="NUMBER",
            minimum=0,
            above=True,
            help="Units of the counts per photon, from which their noise follows. Default: told by the variance of repeated "
            "flats, or 1 for whole numbers.",
        ),
        Option(
            name="likelihood",
            kind=("poisson", "gaussian"),
            default="poisson",
            help="Noise of counts: poisson, or gaussian with the variance of their logarithms, which every method takes.",
        ),
        Option(
            name="bin",
            kind="INTEGER",
            minimum=1,
            help="Number of neighboring detectors that are joined: the image has fewer and larger pixels. Counts add up.",
        ),
        Option(
            name="pixel_size",
            kind="NUMBER",
            minimum=0,
            above=True,
            changes_spread=False,
            help="Side of a pixel of the image in mm: results are in 1/mm. Default: the distance of the rays of neighboring "
            "detectors at the rotation axis, or 1 (results in 1/pixel).",
        ),
        Option(
            name="detector_spacing",
            kind="NUMBER",
            minimum=0,
            above=True,
            changes_spread=False,
            help="Distance between detectors in mm, along the arc of a curved detector.",
        ),
        Option(
            name="source_distance",
            kind="NUMBER",
            minimum=0,
            above=True,
            changes_spread=False,
            help="Distance from the rotation axis to the source of a fan beam in mm. Default: parallel beams.",
        ),
        Option(
            name="detector_distance",
            kind="NUMBER",
            minimum=0,
            changes_spread=False,
            help="Distance from the rotation axis to the detector of a fan beam in mm.",
        ),
        Option(
            name="detector_shape",
            kind=("flat", "curved"),
            changes_spread=False,
            help="Shape of the detector of a fan beam: flat (default), or curved, an arc around the source.",
        ),
        Option(
            name="mu_water",
            kind="NUMBER",
            minimum=0,
            above=True,
            changes_spread=False,
            help="Attenuation of water in the unit of the results: they are then in Hounsfield units (HU).",
        ),
        SCALE,
    )
    needs = "an .npy or .npz file of a sinogram as INPUT or, to simulate, --angles, their number"
    measures = "ParallelBeamCT"
    misfit_causes = "wrong angles, a wrong --center of rotation, a wrong --scale or --gain"
    bundled = "shepp_logan_phantom"
    measured = "sinogram"
    others = (
        *("angles", "size", "center", "axis", "flat", "dark", "gain", "likelihood", "bin"),
        *("geometry", "length_unit", *LENGTHS),
    )
    looks = "filtered backprojection"

    def __init__(
        self,
        angles: Sequence[float],
        size: tuple[int, int],
        *,
        detectors: int | None = None,
        center: float | None = None,
        axis: tuple[float, float] | None = None,
        scale: float = 1.0,
        pixel_size: float = 1.0,
        detector_spacing: float | None = None,
        fan: FanBeam | None = None,
    ) -> None:
        self.angles, self.size, self.scale = [float(angle) for angle in angles], size, scale
        self.pixel_size, self.fan = float(pixel_size), fan
        self.detector_spacing = (
            pixel_size * (1.0 if fan is None else fan.magnification) if detector_spacing is None else detector_spacing
        )
        lengths: dict[str, Any] = {"pixel_size": self.pixel_size, "detector_spacing": self.detector_spacing}
        place: dict[str, Any] = {"center": center, "axis": axis}
        if fan is None:
            self.single: RayTransform = ParallelBeamCT((1, *size), self.angles, detectors=detectors, **lengths, **place)
        elif detectors is None:
            raise ValueError("ct: a fan beam needs the number of detectors.")
        else:
            self.single = FanBeamCT((1, *size), self.angles, detectors=detectors, **vars(fan), **lengths, **place)
        self.detectors = self.single.out_shape[-1]
        self.center = (self.detectors - 1) / 2 if center is None else center
        self.axis = ((size[0] - 1) / 2, (size[1] - 1) / 2) if axis is None else axis

    length_unit: str = "pixel"
    mu_water: float | None = None
    counts: Counts | None = None
    likelihood: str = "poisson"

    @classmethod
    def evenly(cls, count: int, size: tuple[int, int], *, center: float | None = None) -> Self:
        """Return the problem with ``count`` angles evenly spaced over 180 degrees, and a center of rotation."""
        return cls(half_turn(count), size, center=center)

    @classmethod
    def from_options(cls, options: Mapping[str, Any], *, size: tuple[int, int]) -> Self:
        cls.refuse_measured(options, *MEASURED)
        return cls.evenly(options["angles"], size, center=options.get("center"))

    @classmethod
    def from_arrays(cls, arrays: Arrays, *, scale: float | None) -> tuple[Self, Tensor]:
        given = sinogram_of(arrays)
        problem = cls(
            given.angles,
            given.size,
            detectors=given.values.shape[1],
            center=given.center,
            axis=given.axis,
            pixel_size=given.pixel_size,
            detector_spacing=given.detector_spacing,
            fan=given.fan,
        )
        problem.notes, problem.length_unit, problem.counts = given.notes, given.unit, given.counts
        problem.unit = "" if given.unit == "pixel" else f"1/{given.unit}"
        if "mu_water" in arrays:
            problem.mu_water = one_number(arrays, "mu_water")
            problem.unit = "HU"
            if problem.mu_water <= 0:
                raise ValueError(f"ct: mu_water must be positive, in 1/{given.unit}, got {problem.mu_water:g}.")
        if "likelihood" in arrays:
            problem.likelihood = named(arrays, "likelihood", ("poisson", "gaussian"))
        y = given.values[None, None].float()
        problem.set_scale(scale, problem._backprojected(y))
        return problem, problem.in_range(y)

    def to_arrays(self, y: Tensor) -> dict[str, NDArray[Any]]:
        sinogram = self.in_units(y)[0]
        if len(sinogram) > 1:
            raise ValueError(f"ct: cannot write a sinogram of {len(sinogram)} channels, expected one channel.")
        geometry: dict[str, Any] = {"angles": self.angles, "size": self.size, "center": self.center, "axis": self.axis}
        if self.length_unit != "pixel" or self.fan is not None:
            geometry |= {"pixel_size": self.pixel_size, "detector_spacing": self.detector_spacing}
            geometry |= {"length_unit": self.length_unit} | ({} if self.mu_water is None else {"mu_water": self.mu_water})
        if self.fan is not None:
            geometry |= {"geometry": "fan", "detector_shape": "curved" if self.fan.curved else "flat"}
            geometry |= {name: getattr(self.fan, name) for name in ("source_distance", "detector_distance")}
        return {"sinogram": sinogram[0].numpy(), **{name: np.array(value) for name, value in geometry.items()}}

    @property
    def window(self) -> Window:
        if self.mu_water is None:
            return super().window
        return Window(-1000.0, 1000 * (self.scale / self.mu_water - 1), "reconstruction")

    def measurement(self, shape: tuple[int, int, int], noise: Noise | None) -> Operator:
        op = self._rays(shape)
        op.noise = self._own_noise() if noise is None else noise
        return op

    def _rays(self, shape: tuple[int, int, int]) -> RayTransform:
        """Return the line integrals of every channel, without noise; all share one matrix."""
        rays = copy.copy(self.single)
        rays.in_shape, rays.out_shape = shape, (shape[0], *self.single.out_shape[1:])
        return rays

    def _own_noise(self) -> Noise:
        """Return the noise of the counts, for one channel; none if there are no counts."""
        if self.counts is None:
            return GaussianNoise(0.0)
        half = self.scale / 2  # y = 2 / scale * (integral) - A(1)
        if self.likelihood == "gaussian":
            return GaussianNoise(self.counts.deviations() / half)
        white = self.single(torch.ones(1, *self.single.in_shape, dtype=torch.float64))[0, 0]
        flat = (self.counts.flat * torch.exp(-half * white)).clamp(min=1e-300)
        return TransmissionNoise(flat, background=self.counts.background, scale=half)

    def fit(self, x: Tensor) -> Tensor:
        return grey(x)

    def preview(self, y: Tensor) -> Tensor:
        return 2 * self._backprojected(self.in_units(y)) / self.scale - 1

    def _of_white(self, y: Tensor) -> Tensor:
        rays = self._rays(self.image_shape(y.shape[1:]))
        return rays(torch.ones(1, *rays.in_shape, dtype=y.dtype))

    def _backprojected(self, y: Tensor) -> Tensor:
        """Return the filtered backprojection (Ram-Lak) of a sinogram, in its units per length.

        Angles are assumed to be evenly spaced over 180 degrees. A fan is inverted by a few iterations of conjugate gradients.
        """
        rays = self._rays(self.image_shape(y.shape[1:]))
        if self.fan is not None:
            return least_squares(rays.forward, rays.adjoint, y, max_iterations=FAN_ITERATIONS)
        detectors = y.shape[-1]
        offsets = torch.arange(-detectors, detectors + 1)
        kernel = torch.where(offsets % 2 == 1, -1 / (torch.pi * offsets) ** 2, 0.0)
        kernel[detectors] = 0.25
        length = 3 * detectors + 1
        spectrum = torch.fft.rfft(kernel.to(y), n=length)
        filtered = torch.fft.irfft(torch.fft.rfft(y, n=length) * spectrum, n=length)[..., detectors : 2 * detectors]
        # The lengths within a pixel add up to its area over the spacing, which the filter has in its denominator too.
        return (torch.pi / len(self.angles) / self.pixel_size**2) * rays.adjoint(filtered)
