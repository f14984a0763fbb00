"""Coil sensitivities from the fully sampled frequencies in the center of k-space."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = [
    "ALIGNED_ESPIRIT",
    "CALIBRATION",
    "centered_block",
    "espirit_maps",
    "estimated_maps",
    "explained",
    "few_frequencies",
    "fitted_maps",
    "low_magnitude",
    "middle",
    "phase_of_maps",
    "suits_espirit",
]

# Largest side of the block, in frequencies. Sensitivities are smooth: of 320 x 320 pixels, 8 coils and complex noise of 0.03,
# maps from blocks of 17 to 31 give 33.4 dB, from 61 33.0 and from all frequencies 26.6; larger blocks only add noise.
CALIBRATION = 31
# Sides of the square block from which ESPIRiT is estimated. From 15 frequencies on it is better than estimated_maps: samples of
# a phantom of 6 coils gain 2 dB. From 13 and fewer it is worse.
ESPIRIT_BLOCK, GOOD_FOR_ESPIRIT, FEWEST_OF_ESPIRIT = 24, 15, 7
FEWEST = 8  # frequencies along an axis that resolve sensitivities
ALIGNED_ESPIRIT = (
    0.95  # of maps by ESPIRiT, 0.9 if the object is larger than the field of view, and else 0.98 with noise of 0.1
)
ALIGNED = 0.85  # share of the energy of the coil images that given maps explain; of right ones, with noise of 0.1, 0.9
REAL = 0.9  # share of the combined image that is real and positive


def estimated_maps(kspace: Tensor, mask: Tensor) -> Tensor:
    r"""Estimate coil sensitivities ``(coils, H, W)`` from the center of k-space; for a single coil this is its phase.

    Each coil image of the Hann-windowed block is divided by the root of the sum of squares over coils. The block is the largest
    rectangle of measured frequencies around frequency 0, with sides of at most :data:`CALIBRATION`.

    Args:
        kspace: Complex ``(coils, H, W)``, frequency 0 at ``(H // 2, W // 2)``.
        mask: Boolean ``(H, W)``, true for the measured frequencies.

    Raises:
        ValueError: If frequency 0 is not measured.
    """
    if not middle(mask, (0, 0)).all():
        raise ValueError(
            "mri: frequency 0, in the center of k-space, is not measured, so the coil sensitivities cannot be estimated. "
            "Expected it at (H // 2, W // 2), or the sensitivities as `coil_maps` in an .npz file."
        )
    low = _low_resolution(kspace, mask)
    seen = torch.linalg.vector_norm(low, dim=0)
    maps: Tensor = low / seen.clamp(min=1e-12 * float(seen.max()))
    return maps


def espirit_maps(kspace: Tensor, mask: Tensor) -> Tensor:
    r"""Estimate coil sensitivities ``(coils, H, W)`` by ESPIRiT, as sigpy does it, without their phase.

    They are the eigenvectors of the projection on the null space of kernels that the square block of measured frequencies
    around frequency 0 allows, with sides of at most :data:`ESPIRIT_BLOCK`. Nothing is cut off where the largest eigenvalue is
    low, which is where the image is dark: a map of 0 would leave such pixels to the prior. One set of maps does not explain an
    object that is larger than the field of view, because its ends lie on one another.

    Args:
        kspace: Complex ``(coils, H, W)``, frequency 0 at ``(H // 2, W // 2)``.
        mask: Boolean ``(H, W)``, true for the measured frequencies.

    Raises:
        ValueError: If sigpy is not installed, or the block is too small.

    References:
        Uecker et al., ESPIRiT - an eigenvalue approach to autocalibrating parallel MRI, 2014,
        https://doi.org/10.1002/mrm.24751
    """
    side = min(2 * min(centered_block(mask)) + 1 if middle(mask, (0, 0)).all() else 0, ESPIRIT_BLOCK, *mask.shape)
    if side < FEWEST_OF_ESPIRIT:
        raise ValueError(
            f"mri: ESPIRiT needs {FEWEST_OF_ESPIRIT} x {FEWEST_OF_ESPIRIT} measured frequencies in the center of k-space, "
            f"got {side} x {side}. Choose --maps-from center."
        )
    try:
        from sigpy.mri.app import EspiritCalib
    except ImportError:
        raise ValueError('mri: --maps-from espirit needs sigpy: pip install "invdiff[mri]"') from None
    kernel, scaled = min(6, side // 2), kspace / kspace.abs().max()
    calibration: Any = EspiritCalib(scaled.numpy(), calib_width=side, kernel_width=kernel, crop=0.0, show_pbar=False)
    return torch.from_numpy(np.array(calibration.run(), np.complex128))


def suits_espirit(mask: Tensor) -> bool:
    """Return whether :func:`espirit_maps` is installed, and better than :func:`estimated_maps`."""
    large = bool(middle(mask, (0, 0)).all()) and 2 * min(centered_block(mask)) + 1 >= GOOD_FOR_ESPIRIT
    return large and importlib.util.find_spec("sigpy") is not None


def explained(maps: Tensor, kspace: Tensor, mask: Tensor) -> float:
    """Return the share of the energy of the coil images at low resolution that maps explain, from 0 to 1."""
    low = _low_resolution(kspace, mask)
    most = (maps.abs().square().sum(0) * low.abs().square().sum(0)).sum()
    return float((maps.conj() * low).sum(0).abs().square().sum() / most.clamp(min=1e-300))


def low_magnitude(maps: Tensor, kspace: Tensor, mask: Tensor) -> Tensor:
    """Return the magnitude of the image at low resolution, ``(H, W)``, in the units of k-space."""
    if not middle(mask, (0, 0)).all():
        return torch.full(mask.shape, float(kspace.abs().square().sum().div(mask.numel()).sqrt()), dtype=torch.float64)
    images = _low_resolution(kspace, mask) * mask.numel() ** 0.5  # of the unitary transform
    gram = maps.abs().square().sum(0)
    magnitude: Tensor = (maps.conj() * images).sum(0).abs() / gram.clamp(min=1e-6 * float(gram.max()))
    return magnitude


def phase_of_maps(maps: Tensor) -> Tensor:
    r"""Return the factor of modulus 1, ``(H, W)``, that is the phase of estimated maps as seen by one virtual coil.

    Only the product of sensitivities and image is measured. The virtual coil is :math:`\sum_c \bar w_c s_c` with the direction
    :math:`w` of largest energy among coils, so that it is not dark where one coil is.
    """
    flat = maps.flatten(1)
    direction = torch.linalg.eigh(flat @ flat.conj().T).eigenvectors[:, -1]
    seen = torch.einsum("c,chw->hw", direction.conj(), maps)
    return torch.where(seen.abs() > 0, seen / seen.abs().clamp(min=1e-300), 1)


def few_frequencies(mask: Tensor) -> tuple[str, ...]:
    """Return a note if the block of :func:`estimated_maps` is so small that it does not resolve the sensitivities."""
    tall, wide = middle(mask, centered_block(mask, CALIBRATION)).shape
    if tall >= min(FEWEST, mask.shape[0]) and wide >= min(FEWEST, mask.shape[1]):
        return ()
    return (
        f"the coil sensitivities and the phase of the image are estimated from {tall} x {wide} frequencies only, the largest "
        "block without a gap in the center of k-space: give `coil_maps` if you know them",
    )


def fitted_maps(maps: Tensor, kspace: Tensor, mask: Tensor) -> tuple[Tensor, tuple[str, ...]]:
    r"""Return given coil sensitivities, multiplied by the phase of the image if they lack it, and notes.

    The image is real here, so its phase is part of the maps. Those of ESPIRiT and most other software leave it out. With
    :math:`l_c` the coil images of the center of k-space, the phase of :math:`\sum_c s_c^* l_c` is the missing one.

    Args:
        maps: Complex ``(coils, H, W)``.
        kspace: Complex ``(coils, H, W)``, frequency 0 at ``(H // 2, W // 2)``.
        mask: Boolean ``(H, W)``, true for the measured frequencies.
    """
    if not middle(mask, (0, 0)).all():
        return maps, ()
    low = _low_resolution(kspace, mask)
    seen = (maps.conj() * low).sum(0)
    most = (maps.abs().square().sum(0) * low.abs().square().sum(0)).sum()
    if not most > 0:
        return maps, ()
    energy = seen.abs().square().sum()  # squared, so that the noise beside the object counts little
    if float(energy / most) < ALIGNED:
        return maps, (
            f"the coil images follow `coil_maps` by {float(energy / most):.0%} only: check the order of the coils, the "
            "orientation of the maps, and that they are not conjugated, unless the noise is that strong",
        )
    if float((seen.real * seen.abs()).sum() / energy) >= REAL:
        return maps, ()
    phase = torch.where(seen.abs() > 0, seen / seen.abs().clamp(min=1e-300), 1)
    return maps * phase, (
        "`coil_maps` lack the phase of the image, which is real here: that of the center of k-space is multiplied to them",
    )


def _low_resolution(kspace: Tensor, mask: Tensor) -> Tensor:
    """Return the coil images ``(coils, H, W)`` of the Hann-windowed center of k-space."""
    reach = centered_block(mask, CALIBRATION)
    block = torch.zeros(mask.shape, dtype=torch.float64)
    windows = [torch.hann_window(2 * side + 3, periodic=False, dtype=torch.float64)[1:-1] for side in reach]
    middle(block, reach).copy_(torch.outer(*(w[:n] for w, n in zip(windows, middle(block, reach).shape, strict=True))))
    low: Tensor = torch.fft.fftshift(torch.fft.ifft2(torch.fft.ifftshift(block * kspace, dim=(-2, -1))), dim=(-2, -1))
    return low


def centered_block(mask: Tensor, largest: int | None = None) -> tuple[int, int]:
    """Return the reach, along both axes, of the largest rectangle without a gap that is centered at frequency 0.

    Args:
        mask: Boolean ``(H, W)``, true at ``(H // 2, W // 2)``.
        largest: Largest side of the rectangle, odd. Default: unlimited.
    """
    tall, wide = (side // 2 if largest is None else min(side // 2, largest // 2) for side in mask.shape)
    columns = torch.arange(mask.shape[1]) - mask.shape[1] // 2
    best, measured = (0, 0), torch.ones(mask.shape[1], dtype=torch.bool)
    for height in range(tall + 1):
        measured = measured & middle(mask, (height, mask.shape[1])).all(0)
        gaps = columns[~measured].abs()
        width = min(wide, int(gaps.min()) - 1 if len(gaps) else wide)
        if width < 0:
            break
        best = max(best, (height, width), key=lambda reach: middle(mask, reach).numel())
    return best


def middle(values: Tensor, reach: Sequence[int]) -> Tensor:
    """Return a view of the frequencies at a distance of at most ``reach`` from frequency 0 along the last two axes."""
    (top, left), (height, width) = (side // 2 for side in values.shape[-2:]), reach
    return values[..., max(top - height, 0) : top + height + 1, max(left - width, 0) : left + width + 1]
