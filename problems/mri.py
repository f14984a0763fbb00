"""Magnetic resonance imaging: an image from undersampled k-space."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from invdiff.operators import MRI, ChannelMix, LinearOperator, Noise, birdcage_maps, cartesian_mask, per_channel

from .arrays import ArrayProblem, Arrays, grey
from .coil_maps import estimated_maps, few_frequencies, fitted_maps
from .kspace import PLACES, kspace_of
from .options import PATTERN_SEED, SCALE, Option

__all__ = ["ReconstructMRI"]


class ReconstructMRI(ArrayProblem):
    r"""Reconstruct an image from a subset of its frequencies, measured by one or several receiver coils.

    .. math:: y_c = M\, F (s_c \odot x) + n_c

    with a real :math:`x`: the phase is part of the sensitivity maps :math:`s_c`. If a file has no maps, they are estimated from
    the largest fully sampled rectangle of frequencies in the center of k-space, with sides of at most 31: each coil image of
    the Hann-windowed rectangle is divided by the root of the sum of squares over coils. :mod:`invdiff.problems.kspace` has the
    conventions of files.

    Args:
        mask: Boolean ``(H, W)``, true for the measured frequencies, with frequency 0 at ``(H // 2, W // 2)``.
        coil_maps: Complex coil sensitivity maps ``(coils, H, W)``. Default: one coil of uniform sensitivity.
        scale: Pixel value of white in the units of a file.

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
        SCALE,
    )
    needs = "an .npy or .npz file of k-space as INPUT or, to simulate, --acceleration"
    measures = "MRI"
    misfit_causes = "wrong coil maps, a wrong --zero-frequency or --origin, a wrong --scale"
    bundled = "shepp_logan_phantom"
    measured = "kspace"
    others = ("mask", "coil_maps", "zero_frequency", "origin")
    looks = "zero-filled"

    def __init__(self, mask: Tensor, coil_maps: Tensor | None = None, *, scale: float = 1.0) -> None:
        self.mask, self.coil_maps, self.scale = mask, coil_maps, scale
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
        cls.refuse_measured(options, "zero_frequency", "origin")
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
        notes: tuple[str, ...] = ()
        if given.coil_maps is None:
            maps, notes = estimated_maps(given.values, given.mask), few_frequencies(given.mask)
        else:
            maps, notes = fitted_maps(given.coil_maps, given.values, given.mask)
        # Without maps the operator of a single uniform coil keeps its closed form.
        problem = cls(given.mask, None if len(maps) == 1 and bool((maps == 1).all()) else maps)
        problem.notes = (*given.notes, *notes)
        y = torch.view_as_real(given.values)[None, None].float()
        problem.set_scale(scale, problem._zero_filled(y))
        return problem, problem.in_range(y)

    def to_arrays(self, y: Tensor) -> dict[str, NDArray[Any]]:
        kspace = torch.view_as_complex(self.in_units(y)[0].contiguous())
        if len(kspace) > 1:
            raise ValueError(f"mri: cannot write k-space of {len(kspace)} channels, expected one channel.")
        maps = torch.ones(1, *self.mask.shape, dtype=torch.complex64) if self.coil_maps is None else self.coil_maps
        conventions = {"zero_frequency": np.array("center"), "origin": np.array("center")}
        measured = {"kspace": kspace[0].numpy(), "mask": self.mask.numpy()}
        return {**measured, "coil_maps": maps.to(torch.complex64).numpy(), **conventions}

    def measurement(self, shape: tuple[int, int, int], noise: Noise | None) -> LinearOperator:
        # A real image is a complex one with imaginary part zero.
        real = ChannelMix((1, *self.size), torch.tensor([[1.0], [0.0]]))
        return per_channel(MRI((2, *self.size), self.mask, coil_maps=self.coil_maps) @ real, shape[0], noise=noise)

    def fit(self, x: Tensor) -> Tensor:
        return grey(x)

    def preview(self, y: Tensor) -> Tensor:
        return 2 * self._zero_filled(self.in_units(y)) / self.scale - 1

    def _zero_filled(self, y: Tensor) -> Tensor:
        """Return the zero-filled reconstruction, with the coils combined by their maps, in the units of a file."""
        op = self.measurement(self.image_shape(y.shape[1:]), None)
        weight = 1.0 if self.coil_maps is None else self.coil_maps.abs().square().sum(0).clamp(min=1e-6).to(y)
        return op.adjoint(y) / weight
