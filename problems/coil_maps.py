"""Coil sensitivities from the fully sampled frequencies in the center of k-space."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["CALIBRATION", "centered_block", "estimated_maps", "few_frequencies", "fitted_maps", "middle"]

# Largest side of the block, in frequencies. Sensitivities are smooth: of 320 x 320 pixels, 8 coils and complex noise of 0.03,
# maps from blocks of 17 to 31 give 33.4 dB, from 61 33.0 and from all frequencies 26.6; larger blocks only add noise.
CALIBRATION = 31
FEWEST = 8  # frequencies along an axis that resolve sensitivities
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
