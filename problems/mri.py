"""Magnetic resonance imaging: an image from undersampled k-space."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from invdiff.operators import MRI, ChannelMix, LinearOperator, Noise, birdcage_maps, cartesian_mask, per_channel

from .arrays import ArrayProblem, Arrays, grey, white_of
from .options import PATTERN_SEED, SCALE, Option
from .problem import photographs

__all__ = ["ReconstructMRI"]


class ReconstructMRI(ArrayProblem):
    r"""Reconstruct an image from a subset of its frequencies, measured by one or several receiver coils.

    .. math:: y_c = M\, F (s_c \odot x) + n_c

    with a real :math:`x`: the phase is part of the sensitivity maps :math:`s_c`. If a file has no maps, they are estimated from
    the fully sampled block of frequencies in the center of k-space: each coil image of the Hann-windowed block is divided by
    the root of the sum of squares over coils.

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
        SCALE,
    )
    needs = "an .npy or .npz file of k-space as INPUT or, to simulate, --acceleration"
    measures = "MRI"
    bundled = "shepp_logan_phantom"
    recommended = photographs(max_iterations=4)
    measured = "kspace"
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
        kspace = _complex(arrays["kspace"])
        mask = torch.as_tensor(arrays["mask"] != 0) if "mask" in arrays else (kspace != 0).any(0)
        if mask.ndim != 2 or mask.shape != kspace.shape[1:]:
            raise ValueError(f"mri: mask has shape {tuple(mask.shape)}, expected {tuple(kspace.shape[1:])} as k-space has.")
        if not mask.any():
            raise ValueError("mri: k-space is 0 everywhere, so no frequency is measured.")
        kspace = torch.where(mask, kspace, 0)
        maps = _maps(arrays["coil_maps"]) if "coil_maps" in arrays else estimated_maps(kspace, mask)
        if maps.shape != kspace.shape:
            raise ValueError(f"mri: coil_maps has shape {tuple(maps.shape)}, expected {tuple(kspace.shape)} as k-space has.")
        # Without maps the operator of a single uniform coil keeps its closed form.
        problem = cls(mask, None if len(maps) == 1 and bool((maps == 1).all()) else maps)
        y = torch.view_as_real(kspace)[None, None].float()
        problem.scale = white_of(problem._zero_filled(y)) if scale is None else scale
        return problem, problem.in_range(y)

    def to_arrays(self, y: Tensor) -> dict[str, NDArray[Any]]:
        kspace = torch.view_as_complex(self.in_units(y)[0].contiguous())
        if len(kspace) > 1:
            raise ValueError(f"mri: cannot write k-space of {len(kspace)} channels, expected one channel.")
        maps = torch.ones(1, *self.mask.shape, dtype=torch.complex64) if self.coil_maps is None else self.coil_maps
        return {"kspace": kspace[0].numpy(), "mask": self.mask.numpy(), "coil_maps": maps.to(torch.complex64).numpy()}

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


def estimated_maps(kspace: Tensor, mask: Tensor) -> Tensor:
    """Estimate coil sensitivities ``(coils, H, W)`` from the center of k-space; for a single coil this is its phase."""
    if not _middle(mask, (0, 0)).all():
        raise ValueError(
            "mri: frequency 0, in the center of k-space, is not measured, so the coil sensitivities cannot be estimated. "
            "Expected it at (H // 2, W // 2), or the sensitivities as `coil_maps` in an .npz file."
        )
    reach = [side // 2 for side in mask.shape]
    while not _middle(mask, reach).all():
        # Shrink the axis for which the rest is more completely sampled; on a tie keep the larger block.
        shorter = [[side - (axis == k) for k, side in enumerate(reach)] for axis in (0, 1) if reach[axis]]
        reach = max(shorter, key=lambda sides: (float(_middle(mask, sides).double().mean()), math.prod(sides)))
    block = torch.zeros(mask.shape, dtype=torch.float64)
    windows = [torch.hann_window(2 * side + 3, periodic=False, dtype=torch.float64)[1:-1] for side in reach]
    _middle(block, reach).copy_(torch.outer(*(w[:n] for w, n in zip(windows, _middle(block, reach).shape, strict=True))))
    low = torch.fft.fftshift(torch.fft.ifft2(torch.fft.ifftshift(block * kspace, dim=(-2, -1))), dim=(-2, -1))
    seen = torch.linalg.vector_norm(low, dim=0)
    maps: Tensor = low / seen.clamp(min=1e-12 * float(seen.max()))
    return maps


def _middle(values: Tensor, reach: Sequence[int]) -> Tensor:
    """Return a view of the frequencies at a distance of at most ``reach`` from frequency 0 along each axis."""
    (top, left), (height, width) = (side // 2 for side in values.shape), reach
    return values[max(top - height, 0) : top + height + 1, max(left - width, 0) : left + width + 1]


def _complex(values: NDArray[Any]) -> Tensor:
    """Return k-space as complex ``(coils, H, W)``; the input may lack the coil axis, or have real and imaginary parts last."""
    if values.dtype.kind not in "cf":
        raise ValueError(f"mri: k-space must be complex or floating point, got {values.dtype} of shape {values.shape}.")
    given = torch.from_numpy(values)
    if not given.is_complex():
        if given.ndim not in (3, 4) or given.shape[-1] != 2:
            raise ValueError(
                f"mri: k-space must be complex, (H, W) or (coils, H, W), or real with a last axis of size 2, got "
                f"{values.dtype} of shape {values.shape}."
            )
        given = torch.view_as_complex(given.double().contiguous())
    if given.ndim not in (2, 3) or not given.numel() or not torch.view_as_real(given).isfinite().all():
        raise ValueError(f"mri: expected finite k-space (H, W) or (coils, H, W), got shape {tuple(given.shape)}.")
    return given.to(torch.complex128).reshape(-1, *given.shape[-2:])


def _maps(values: NDArray[Any]) -> Tensor:
    maps = torch.from_numpy(np.asarray(values)).to(torch.complex128)
    return maps.reshape(-1, *maps.shape[-2:])
