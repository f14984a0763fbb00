"""Magnetic resonance imaging: an image from undersampled k-space."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from invdiff.io.picture import Picture
from invdiff.operators import (
    MRI,
    ChannelMix,
    GaussianNoise,
    LinearOperator,
    Noise,
    Operator,
    birdcage_maps,
    cartesian_mask,
    per_channel,
)
from invdiff.priors import Complex, ScoreModel, adapt

from .arrays import ArrayProblem, Arrays, grey, named, one_number
from .coil_maps import (
    ALIGNED_ESPIRIT,
    espirit_maps,
    estimated_maps,
    explained,
    few_frequencies,
    fitted_maps,
    low_magnitude,
    phase_of_maps,
    suits_espirit,
)
from .kspace import PLACES, KSpace, kspace_of
from .options import PATTERN_SEED, SCALE, Option

__all__ = ["ReconstructMRI"]

WIDTH = 0.3  # standard deviation of the imaginary part over the magnitude: radians of the phase that the maps miss
OUTER = 0.1  # share of the measured frequencies from which the noise is estimated
RAYLEIGH = 1.1774  # median magnitude of a complex number whose parts have standard deviation 1
IMAGES, MAPS_FROM = ("complex", "real"), ("espirit", "center")


class ReconstructMRI(ArrayProblem):
    r"""Reconstruct an image from a subset of its frequencies, measured by one or several receiver coils.

    .. math:: y_c = M\, F (s_c \odot z) + n_c

    The phase of the image at low resolution is part of the sensitivity maps :math:`s_c`, so that :math:`z` is nearly real.
    Measured k-space is that of a complex image, :math:`z = (x + 1 + i v) / 2`, under :class:`invdiff.priors.Complex`: :math:`x`
    is a picture, and :math:`v` is Gaussian with the standard deviation :data:`WIDTH` times the magnitude of the image at low
    resolution. Results are magnitudes :math:`|z|`, and the phase of the mean of :math:`z` as ``phase.png``. Simulated k-space
    is that of a real image, and so is any with ``image="real"``.

    If a file has no maps, they are estimated: by ESPIRiT, if sigpy is installed and 15 x 15 frequencies in the center are
    measured, and else from the largest fully sampled rectangle of frequencies in the center of k-space, with sides of at most
    31: each coil image of the Hann-windowed rectangle is divided by the root of the sum of squares over coils.
    :mod:`invdiff.problems.kspace` has the conventions of files. The noise, if it is not given, is that of a noise scan, and
    else the median magnitude of the outermost frequencies, where fine details of the image count as noise.

    Args:
        mask: Boolean ``(H, W)``, true for the measured frequencies, with frequency 0 at ``(H // 2, W // 2)``.
        coil_maps: Complex coil sensitivity maps ``(coils, H, W)``. Default: one coil of uniform sensitivity.
        scale: Pixel value of white in the units of a file.
        widths: Standard deviations of :math:`v`, ``(H, W)``. Default: the image is real.
        phase: Factor of modulus 1, ``(H, W)``, by which the phase of the image was multiplied to the maps. Default: 1.
        noise_std: Standard deviation of both parts of the noise in the units of a file, if it is known.

    Raises:
        ValueError: If mask and maps differ in height or width, or no frequency is measured.

    References:
        McKenzie et al., Self-calibrating parallel imaging with automatic coil sensitivity extraction, 2002,
        https://doi.org/10.1002/mrm.10087
    """

    name = "mri"
    options = (
        Option(
            name="acceleration",
            kind="NUMBER",
            minimum=1,
            needed="yes",
            simulation=True,
            help="Acceleration factor R: one in R k-space columns is sampled (simulation).",
        ),
        Option(
            name="center_fraction",
            kind="NUMBER",
            minimum=0,
            maximum=1,
            simulation=True,
            help="Fraction of k-space columns fully sampled in the center (simulation). Default: 0.32 / acceleration.",
        ),
        Option(
            name="coils",
            kind="INTEGER",
            minimum=1,
            simulation=True,
            help="Number of receiver coils (simulation). Default: 1.",
        ),
        PATTERN_SEED,
        Option(
            name="zero_frequency",
            kind=PLACES,
            changes_spread=False,
            help="Place of frequency 0 in measured k-space: (H // 2, W // 2) or (0, 0). Default: where the energy is.",
        ),
        Option(
            name="origin",
            kind=PLACES,
            changes_spread=False,
            help="Origin of the image in the transform that gives measured k-space: pixel (H // 2, W // 2), or pixel (0, 0), a "
            "factor (-1)^(i+j) on k-space. Default: the place at which the picture is not cut into quadrants.",
        ),
        Option(
            name="image",
            kind=IMAGES,
            help="Image of measured k-space: complex, with what is left of the phase after that of the coil maps, or real. "
            "Default: complex.",
        ),
        Option(
            name="maps_from",
            kind=MAPS_FROM,
            help="How coil maps are estimated if INPUT has none: by ESPIRiT (sigpy), or from images of the center of k-space. "
            "Default: espirit if it is installed and 15 x 15 frequencies in the center are measured.",
        ),
        SCALE,
    )
    finds_noise = True
    default_noise = "file"
    needs = "an .npy or .npz file of k-space as INPUT or, to simulate, --acceleration"
    measures = "MRI"
    misfit_causes = "wrong coil maps, a wrong --zero-frequency or --origin, a wrong --scale"
    bundled = "shepp_logan_phantom"
    measured = "kspace"
    others = ("mask", "coil_maps", "zero_frequency", "origin", "noise_std", "image", "maps_from")
    looks = "zero-filled"

    def __init__(
        self,
        mask: Tensor,
        coil_maps: Tensor | None = None,
        *,
        scale: float = 1.0,
        widths: Tensor | None = None,
        phase: Tensor | None = None,
        noise_std: float | None = None,
    ) -> None:
        self.mask, self.coil_maps, self.scale, self.noise_std = mask, coil_maps, scale, noise_std
        self.widths, self.phase, self.own_channels = widths, phase, widths is not None
        self.size = mask.shape[0], mask.shape[1]
        MRI((2, *mask.shape), mask, coil_maps=coil_maps)  # Invalid arguments fail here rather than at the first image.

    @classmethod
    def simulated(cls, size: tuple[int, int], *, acceleration: float, center_fraction: float, coils: int, seed: int) -> Self:
        """Return the problem with randomly sampled k-space columns and birdcage coil maps.

        Args:
            size: Image size, ``(H, W)``.
            acceleration: Acceleration factor R: one in R columns is sampled.
            center_fraction: Fraction of the columns that is fully sampled in the center.
            coils: Number of coils; a single coil has uniform sensitivity.
            seed: Random seed of the columns.
        """
        mask = cartesian_mask(*size, acceleration=acceleration, center_fraction=center_fraction, seed=seed)
        return cls(mask, birdcage_maps(coils, *size) if coils > 1 else None)

    @classmethod
    def from_options(cls, options: Mapping[str, Any], *, size: tuple[int, int]) -> Self:
        cls.refuse_measured(options, "zero_frequency", "origin", "image", "maps_from")
        acceleration, given = options["acceleration"], options["center_fraction"]
        return cls.simulated(
            size,
            acceleration=acceleration,
            center_fraction=0.32 / acceleration if given is None else given,  # as in fastMRI: 0.08 at acceleration 4, 0.04 at 8
            coils=options["coils"] or 1,
            seed=options["pattern_seed"],
        )

    @classmethod
    def from_arrays(cls, arrays: Arrays, *, scale: float | None) -> tuple[Self, Tensor]:
        given = kspace_of(arrays)
        is_complex = "image" not in arrays or named(arrays, "image", IMAGES) == "complex"
        notes: tuple[str, ...] = ()
        if given.coil_maps is not None:
            maps, notes = fitted_maps(given.coil_maps, given.values, given.mask)
            ratio = (given.coil_maps.conj() * maps).sum(0)
            phase = torch.where(ratio.abs() > 0, ratio / ratio.abs().clamp(min=1e-300), 1)
        else:
            asked = named(arrays, "maps_from", MAPS_FROM) if "maps_from" in arrays else None
            maps, notes = _estimated(given, asked)
            phase = phase_of_maps(maps)
        magnitude = low_magnitude(maps, given.values, given.mask) if is_complex else None
        # Without maps the operator of a single uniform coil keeps its closed form.
        problem = cls(
            given.mask,
            None if len(maps) == 1 and bool((maps == 1).all()) else maps,
            widths=magnitude,
            phase=phase,
            noise_std=one_number(arrays, "noise_std") if "noise_std" in arrays else None,
        )
        problem.notes = (*given.notes, *notes)
        y = torch.view_as_real(given.values)[None].float()
        y = y if problem.own_channels else y[None]
        problem.set_scale(scale, problem._zero_filled(y))
        if magnitude is not None:
            problem.widths = WIDTH * (2 / problem.scale) * magnitude
        return problem, problem.in_range(y)

    def to_arrays(self, y: Tensor) -> dict[str, NDArray[Any]]:
        kspace = torch.view_as_complex(self.in_units(y)[0].contiguous())
        kspace = kspace[None] if self.own_channels else kspace
        if len(kspace) > 1:
            raise ValueError(f"mri: cannot write k-space of {len(kspace)} channels, expected one channel.")
        maps = torch.ones(1, *self.mask.shape, dtype=torch.complex64) if self.coil_maps is None else self.coil_maps
        conventions = {"zero_frequency": np.array("center"), "origin": np.array("center")}
        conventions["image"] = np.array("complex" if self.own_channels else "real")
        measured = {"kspace": kspace[0].numpy(), "mask": self.mask.numpy()}
        return {**measured, "coil_maps": maps.to(torch.complex64).numpy(), **conventions}

    def image_shape(self, measured: tuple[int, ...]) -> tuple[int, int, int]:
        return (2, *self.size) if self.own_channels else super().image_shape(measured)

    def measurement(self, shape: tuple[int, int, int], noise: Noise | None) -> LinearOperator:
        if self.own_channels:
            return MRI(shape, self.mask, coil_maps=self.coil_maps, noise=noise)
        # A real image is a complex one with imaginary part zero.
        real = ChannelMix((1, *self.size), torch.tensor([[1.0], [0.0]]))
        return per_channel(MRI((2, *self.size), self.mask, coil_maps=self.coil_maps) @ real, shape[0], noise=noise)

    def prior(self, score: ScoreModel) -> ScoreModel:
        if not self.own_channels:
            return score
        gray, _ = adapt(score, (1, *self.size))
        return Complex(gray, width=self.widths)

    def noise_of_input(self, y: Tensor, *, estimated: bool) -> tuple[Noise, str] | None:
        if self.noise_std is not None and not estimated:
            return self._noise(self.noise_std, "the noise scan of INPUT")
        rows, columns = ((torch.arange(side) - side // 2).abs() / (side / 2) for side in self.size)
        far = torch.hypot(rows.unsqueeze(1), columns)[self.mask]
        values = torch.view_as_complex(self.in_units(y).contiguous())[..., self.mask]
        outer = values[..., far >= far.quantile(1 - OUTER)].abs()
        level = float(outer[outer > 0].double().median()) if (outer > 0).any() else 0.0
        return self._noise(level / RAYLEIGH, "the outermost frequencies of INPUT, where fine details count as noise")

    def _noise(self, level: float, source: str) -> tuple[Noise, str]:
        """Return noise of a level in the units of a file, and a note on where it comes from."""
        sigma = 2 / self.scale * level
        return GaussianNoise(sigma), f"noise: {sigma / 2:.4g} from {source}, pixels spanning 0..1"

    def fit(self, x: Tensor) -> Tensor:
        return grey(x)

    def finish(self, x: Tensor, y: Tensor, op: Operator) -> Tensor:
        """Return samples that are black where all maps are 0: software sets them to 0 outside of the object."""
        if self.coil_maps is None or bool((seen := (self.coil_maps != 0).any(0)).all()):
            return x
        black = torch.tensor([-1.0, 0.0] if self.own_channels else [-1.0])
        return torch.where(seen.to(x.device), x, black.to(x).reshape(-1, 1, 1))

    def pictured(self, x: Tensor) -> Tensor:
        return 2 * self._complex(x).abs().unsqueeze(1) - 1 if self.own_channels else x

    def derived(self, x: Tensor) -> dict[str, Picture]:
        if not self.own_channels:
            return {}
        mean = self._complex(x).mean(0).to(torch.complex128) * (1 if self.phase is None else self.phase)
        return {"phase": Picture((mean.angle() / torch.pi).numpy()[None], bits=16)}

    def preview(self, y: Tensor) -> Tensor:
        return 2 * self._zero_filled(self.in_units(y)) / self.scale - 1

    def _complex(self, x: Tensor) -> Tensor:
        """Return images of two channels as complex ones ``(B, H, W)``, white having the magnitude 1."""
        return torch.complex(x[:, 0] + 1, x[:, 1]) / 2

    def _of_white(self, y: Tensor) -> Tensor:
        if not self.own_channels:
            return super()._of_white(y)
        white = torch.stack([torch.ones(self.size), torch.zeros(self.size)])[None]
        return self.measurement((2, *self.size), None)(white.to(y))

    def _zero_filled(self, y: Tensor) -> Tensor:
        """Return the zero-filled reconstruction, with the coils combined by their maps, in the units of a file."""
        op = self.measurement(self.image_shape(y.shape[1:]), None)
        weight = 1.0 if self.coil_maps is None else self.coil_maps.abs().square().sum(0).clamp(min=1e-6).to(y)
        image = op.adjoint(y) / weight
        return torch.linalg.vector_norm(image, dim=1, keepdim=True) if self.own_channels else image


def _estimated(given: KSpace, asked: str | None) -> tuple[Tensor, tuple[str, ...]]:
    """Return coil maps with the phase of the image, and notes; ``asked``: of :data:`MAPS_FROM`, or ``None`` for the best."""
    center, data = few_frequencies(given.mask), (given.values, given.mask)
    if asked == "center" or (asked is None and (len(given.values) == 1 or not suits_espirit(given.mask))):
        return estimated_maps(*data), center
    found = espirit_maps(*data)
    share = explained(found, *data)
    if asked is None and share < ALIGNED_ESPIRIT:
        return estimated_maps(*data), (
            f"maps by ESPIRiT explain only {share:.0%} of the coil images, as if the object were larger than the field of "
            "view: those from the center are taken (--maps-from espirit)",
            *center,
        )
    said = ("the coil maps are those of ESPIRiT (change it with --maps-from center)",) if asked is None else ()
    return fitted_maps(found, *data)[0], said
