"""An image from incomplete k-space."""

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
    r"""Reconstruct an image from some frequencies, as one receiver coil or several see them.

    .. math:: y_c = M\, F (s_c \odot x) + n_c

    with a real :math:`x`: the phase belongs to the maps :math:`s_c`. Where a file has no maps they are estimated from the block
    of frequencies in the middle that is measured without a gap, windowed (Hann): those of the coils, divided by the root of
    their sum of squares.

    Args:
        mask: Boolean ``(H, W)``, true for the frequencies that are measured, frequency 0 at ``(H // 2, W // 2)``.
        coil_maps: Complex ``(coils, H, W)``. Default: one coil that sees everything alike.
        scale: What white is in the units of a file.

    Raises:
        ValueError: If mask and maps do not have the same sides, or nothing is measured.

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
            help="Acceleration factor R: one in R k-space columns is sampled, to simulate.",
        ),
        Option(
            name="center_fraction",
            kind="NUMBER",
            minimum=0,
            maximum=1,
            simulation=True,
            help="Fully sampled share of the k-space columns in the center, to simulate. Default: 0.32 over the acceleration.",
        ),
        Option(
            name="coils",
            kind="INTEGER",
            minimum=1,
            simulation=True,
            help="Number of receiver coils, to simulate. Default: 1.",
        ),
        PATTERN_SEED,
        SCALE,
    )
    needs = "an .npy or .npz file of k-space as INPUT; to simulate, --acceleration"
    measures = "MRI"
    bundled = "shepp_logan_phantom"
    recommended = photographs(max_iterations=4)
    measured = "kspace"
    looks = "zero-filled"

    def __init__(self, mask: Tensor, coil_maps: Tensor | None = None, *, scale: float = 1.0) -> None:
        self.mask, self.coil_maps, self.scale = mask, coil_maps, scale
        self.size = mask.shape[0], mask.shape[1]
        MRI((2, *mask.shape), mask, coil_maps=coil_maps)  # Fails here rather than at the first image.

    @classmethod
    def simulated(cls, size: tuple[int, int], *, acceleration: float, center_fraction: float, coils: int, seed: int) -> Self:
        """Return it with random columns of k-space and a bird cage of coils.

        Args:
            size: Of the image, ``(H, W)``.
            acceleration: One of how many columns is measured.
            center_fraction: Share of the columns that are measured in the middle.
            coils: How many; 1 sees everything alike.
            seed: Of the columns.
        """
        mask = cartesian_mask(*size, acceleration=acceleration, center_fraction=center_fraction, seed=seed)
        return cls(mask, birdcage_maps(coils, *size) if coils > 1 else None)

    @classmethod
    def from_options(cls, options: Mapping[str, Any], *, size: tuple[int, int]) -> Self:
        acceleration, given = options["acceleration"], options["center_fraction"]
        return cls.simulated(
            size,
            acceleration=acceleration,
            center_fraction=0.32 / acceleration if given is None else given,  # fastMRI's: 0.08 at 4, 0.04 at 8
            coils=options["coils"] or 1,
            seed=options["pattern_seed"],
        )

    @classmethod
    def from_arrays(cls, arrays: Arrays, *, scale: float | None) -> tuple[Self, Tensor]:
        kspace = _complex(arrays["kspace"])
        mask = torch.as_tensor(arrays["mask"] != 0) if "mask" in arrays else (kspace != 0).any(0)
        if mask.ndim != 2 or mask.shape != kspace.shape[1:]:
            raise ValueError(f"mri: mask has shape {tuple(mask.shape)}, expected that of k-space, {tuple(kspace.shape[1:])}.")
        if not mask.any():
            raise ValueError("mri: k-space is 0 everywhere: nothing is measured.")
        kspace = torch.where(mask, kspace, 0)
        maps = _maps(arrays["coil_maps"]) if "coil_maps" in arrays else estimated_maps(kspace, mask)
        if maps.shape != kspace.shape:
            raise ValueError(f"mri: coil_maps have shape {tuple(maps.shape)}, expected that of k-space, {tuple(kspace.shape)}.")
        # One coil that sees everything alike has the structure that goes without maps.
        problem = cls(mask, None if len(maps) == 1 and bool((maps == 1).all()) else maps)
        y = torch.view_as_real(kspace)[None, None].float()
        problem.scale = white_of(problem._zero_filled(y)) if scale is None else scale
        return problem, problem.in_range(y)

    def to_arrays(self, y: Tensor) -> dict[str, NDArray[Any]]:
        kspace = torch.view_as_complex(self.in_units(y)[0].contiguous())
        if len(kspace) > 1:
            raise ValueError(f"mri: k-space of {len(kspace)} channels has no file, expected that of a grey image.")
        maps = torch.ones(1, *self.mask.shape, dtype=torch.complex64) if self.coil_maps is None else self.coil_maps
        return {"kspace": kspace[0].numpy(), "mask": self.mask.numpy(), "coil_maps": maps.to(torch.complex64).numpy()}

    def measurement(self, shape: tuple[int, int, int], noise: Noise | None) -> LinearOperator:
        # A real image is a complex one without imaginary part.
        real = ChannelMix((1, *self.size), torch.tensor([[1.0], [0.0]]))
        return per_channel(MRI((2, *self.size), self.mask, coil_maps=self.coil_maps) @ real, shape[0], noise=noise)

    def fit(self, x: Tensor) -> Tensor:
        return grey(x)

    def preview(self, y: Tensor) -> Tensor:
        return 2 * self._zero_filled(self.in_units(y)) / self.scale - 1

    def _zero_filled(self, y: Tensor) -> Tensor:
        """Return what the coils see together where missing frequencies are taken as 0, in the units of a file."""
        op = self.measurement(self.image_shape(y.shape[1:]), None)
        weight = 1.0 if self.coil_maps is None else self.coil_maps.abs().square().sum(0).clamp(min=1e-6).to(y)
        return op.adjoint(y) / weight


def estimated_maps(kspace: Tensor, mask: Tensor) -> Tensor:
    """Return the sensitivities of coils ``(coils, H, W)`` from the middle of their k-space; of one coil, its phase."""
    if not _middle(mask, (0, 0)).all():
        raise ValueError(
            "mri: frequency 0, in the middle of k-space, is not measured, so that the sensitivities of the coils cannot be "
            "estimated. Expected it at (H // 2, W // 2), or the sensitivities as `coil_maps` in an .npz file."
        )
    reach = [side // 2 for side in mask.shape]
    while not _middle(mask, reach).all():
        # The side with a gap next to the middle gives way; where both have none, the longer one.
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
    """Return a view of the frequencies up to ``reach`` away from 0 along either axis."""
    (top, left), (height, width) = (side // 2 for side in values.shape), reach
    return values[max(top - height, 0) : top + height + 1, max(left - width, 0) : left + width + 1]


def _complex(values: NDArray[Any]) -> Tensor:
    """Return k-space as complex ``(coils, H, W)``, from such, ``(H, W)``, or either with real and imaginary part last."""
    if values.dtype.kind not in "cf":
        raise ValueError(f"mri: k-space must be complex or real numbers, got {values.dtype} of shape {values.shape}.")
    given = torch.from_numpy(values)
    if not given.is_complex():
        if given.ndim not in (3, 4) or given.shape[-1] != 2:
            raise ValueError(
                f"mri: k-space must be complex, (H, W) or (coils, H, W), or real with an axis of two at the end, got "
                f"{values.dtype} of shape {values.shape}."
            )
        given = torch.view_as_complex(given.double().contiguous())
    if given.ndim not in (2, 3) or not given.numel() or not torch.view_as_real(given).isfinite().all():
        raise ValueError(f"mri: expected finite k-space (H, W) or (coils, H, W), got shape {tuple(given.shape)}.")
    return given.to(torch.complex128).reshape(-1, *given.shape[-2:])


def _maps(values: NDArray[Any]) -> Tensor:
    maps = torch.from_numpy(np.asarray(values)).to(torch.complex128)
    return maps.reshape(-1, *maps.shape[-2:])
