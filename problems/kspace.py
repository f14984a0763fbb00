r"""K-space as files hold it: its axes, frequency 0, the origin of the image and the mask are put in one convention.

With frequency 0 at ``(H // 2, W // 2)`` and the origin of the image at its pixel ``(H // 2, W // 2)``, k-space is
``fftshift(fft2(ifftshift(x), norm="ortho"))``. Other conventions are told by the data, or by name:

================================ ============== ============== =====================================================
k-space of the file              zero frequency origin         told by
================================ ============== ============== =====================================================
``fftshift(fft2(ifftshift(x)))`` center         center
``fftshift(fft2(x))``            center         corner         a picture that is cut in its middle, not at its border
``fft2(ifftshift(x))``           corner         center         the energy in the corners of k-space
``fft2(x)``                      corner         corner         both
================================ ============== ============== =====================================================
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .arrays import Arrays, named, real_numbers
from .coil_maps import centered_block, middle

__all__ = ["PLACES", "KSpace", "axes_in_corner", "kspace_of"]

PEAKED = 10.0  # energy of the corner over that of the middle above which frequency 0 is in the corner
FLAT = 3.0  # the energy along the axis of coils is that much less concentrated than along those of frequencies
# Of 26 pictures, exact or a quarter of the columns with noise of 0.03, these levels find the origin in the corner of 88 % and
# leave most others undecided; of these and 250 crops, they never take a center for a corner.
CUT = 2.0  # sum over both axes of the log ratio of the jumps in the middle and at the border
AGAINST = 1.0  # what one axis may say against it
LARGEST_JUMP = 0.8  # jump in the middle of a picture that is cut there, relative to the largest one
UNRELATED = 0.5  # jump between rows that have little in common, as in noise
SHORTEST = 8  # samples along an axis that can tell whether the picture is cut

PLACES = ("center", "corner")
CORRECTED = (
    "the origin of the image is in the corner, as of fftshift(fft2(x)), which would cut the picture into quadrants: corrected "
    "by the factor (-1)^(i+j) on k-space (keep it by --origin center)"
)
UNDECIDED = (
    "the origin of the image is taken to be in its center, as of fftshift(fft2(ifftshift(x))), because the data do not tell; "
    "if the picture is cut into quadrants: --origin corner"
)


@dataclass(frozen=True)
class KSpace:
    """K-space in the convention of :class:`~invdiff.operators.MRI`.

    Attributes:
        values: Complex128 ``(coils, H, W)``, 0 where the mask is false.
        mask: Boolean ``(H, W)``.
        coil_maps: Complex128 ``(coils, H, W)``; ``None`` if the file has none.
        notes: What was converted, for the user.
    """

    values: Tensor
    mask: Tensor
    coil_maps: Tensor | None
    notes: tuple[str, ...]


def kspace_of(arrays: Arrays) -> KSpace:
    """Return the k-space, mask and coil maps of a file.

    Raises:
        ValueError: If an array has an invalid shape or invalid values, or they do not fit each other.
    """
    given = arrays["kspace"]
    if given.dtype.kind == "c" and given.size and not given.any():  # before it is converted, in case that it is large
        raise ValueError("mri: k-space is 0 everywhere, so no frequency is measured.")
    notes: list[str] = []
    values = _complex(arrays["kspace"], "kspace")
    maps = _complex(arrays["coil_maps"], "coil_maps") if "coil_maps" in arrays else None
    values, maps = _coils_first(values, maps, notes)
    size = values.shape[1], values.shape[2]
    mask = _mask(arrays, size)
    measured = (values != 0).any(0)
    if not measured.any():
        raise ValueError("mri: k-space is 0 everywhere, so no frequency is measured.")
    if mask is None:
        mask = measured
    if "zero_frequency" in arrays:
        axes = [-2, -1] if named(arrays, "zero_frequency", PLACES) == "corner" else []
    else:
        axes = axes_in_corner(values)
        where = "in the corner" if len(axes) > 1 else f"at the end of axis {axes[0]}" if axes else ""
        notes += [f"k-space has frequency 0 {where}: moved to the center (keep it by --zero-frequency center)"] if axes else []
    if axes:
        values, measured, mask = (torch.fft.fftshift(each, dim=axes) for each in (values, measured, mask))
    mask = _checked(mask, measured, notes)
    values = torch.where(mask, values, 0)
    if "origin" in arrays:
        cut: bool | None = named(arrays, "origin", PLACES) == "corner"
    else:
        cut = _is_cut(values, mask)
        notes += [] if cut is False else [CORRECTED if cut else UNDECIDED]
    if cut:
        values = values * _ramp(size[0]).unsqueeze(1) * _ramp(size[1])
    return KSpace(values, mask, maps, tuple(notes))


def _complex(values: NDArray[Any], name: str) -> Tensor:
    """Return complex128 ``(coils, H, W)``; the input may lack the coil axis, or have real and imaginary parts last."""
    what = "k-space" if name == "kspace" else name
    if values.dtype.kind not in "cfiu":
        raise ValueError(f"mri: {what} must be complex or floating point, got {values.dtype} of shape {values.shape}.")
    if values.dtype.kind != "c":
        if name == "coil_maps" and values.ndim in (2, 3) and values.shape[-1] != 2:
            values = values.astype(np.complex128)
        elif values.ndim not in (3, 4) or values.shape[-1] != 2:
            hint = " Real and imaginary part are the last axis: np.moveaxis(k, 0, -1)." if 2 in values.shape[:1] else ""
            raise ValueError(
                f"mri: {what} must be complex, (H, W) or (coils, H, W), or real with a last axis of size 2, got "
                f"{values.dtype} of shape {values.shape}.{hint}"
            )
        else:
            values = values.astype(np.float64)
            values = values[..., 0] + 1j * values[..., 1]
    if values.ndim not in (2, 3) or not values.size or not np.isfinite(values).all():
        hint = f" Give one slice, such as {name}[0]." if values.ndim > 3 else ""
        bad = int((~np.isfinite(values)).sum())
        hint += f" {bad} values are NaN or infinite." if bad else ""
        raise ValueError(f"mri: expected finite {what} (H, W) or (coils, H, W), got shape {tuple(values.shape)}.{hint}")
    given = torch.from_numpy(values.astype(np.complex128))
    return given.reshape(-1, *given.shape[-2:]) if given.ndim == 2 else given


def _coils_first(values: Tensor, maps: Tensor | None, notes: list[str]) -> tuple[Tensor, Tensor | None]:
    """Move the axis of the coils to the front: the one along which the energy is not concentrated at frequency 0."""
    energy = values.abs().square()
    peaks = [_peak(energy.sum([other for other in range(3) if other != axis])) for axis in range(3)]
    found = int(np.argmin(peaks))
    if found and FLAT * peaks[found] < sorted(peaks)[1]:
        notes.append(f"k-space {tuple(values.shape)} has its coils along axis {found}: read as (coils, H, W)")
        values = values.movedim(found, 0)
    if maps is not None and maps.shape != values.shape:
        moved = [maps.movedim(axis, 0) for axis in (2, 1)]
        maps = next((each for each in moved if each.shape == values.shape), maps)
    if maps is not None and maps.shape != values.shape:
        raise ValueError(f"mri: coil_maps has shape {tuple(maps.shape)}, expected {tuple(values.shape)} as k-space has.")
    return values, maps


def _peak(profile: Tensor) -> float:
    """Return the mean energy at frequency 0, in the middle or in the corner, over the mean energy."""
    lowest = torch.stack([profile[places].mean() for places in _lowest(len(profile))])
    return float(lowest.max() / profile.mean().clamp(min=1e-300))


def _lowest(side: int) -> tuple[Tensor, Tensor]:
    """Return the indices of the lowest frequencies of an axis if frequency 0 is in the middle, and if it is in the corner."""
    near = torch.arange(-(side // 32), side // 32 + 1)
    return side // 2 + near, near % side


def axes_in_corner(values: Tensor) -> list[int]:
    """Return the axes, -2 and -1, along which the energy says that frequency 0 is in the corner."""
    energy = values.abs().square().sum(0)
    rows, columns = (_lowest(side) for side in energy.shape)
    found = {(i, j): float(energy[rows[i]][:, columns[j]].mean()) for i in (0, 1) for j in (0, 1)}
    best = max(found, key=lambda place: found[place])
    if found[best] <= PEAKED * max(found[0, 0], float(energy[energy > 0].mean())):
        return []
    return [axis - 2 for axis in (0, 1) if best[axis]]


def _is_cut(values: Tensor, mask: Tensor) -> bool | None:
    r"""Return whether the picture is cut in its middle, so that its origin is in the corner; ``None`` if the data do not tell.

    The relative jump :math:`\sum |x_{j+1} - x_j|^2 / \sum (|x_{j+1}|^2 + |x_j|^2)` between neighboring rows, the last and the
    first being neighbors too, is small within a picture, and about 1 between unrelated rows and in the noise beside an object.
    The picture is that of the fully sampled center of k-space, so that nothing in it is folded: all of it, for sharp borders,
    and its lowest frequencies, where the noise is least.
    """
    if not middle(mask, (0, 0)).all():
        return None
    evidence = [0.0, 0.0]
    for largest in (33, None):
        center = middle(values, centered_block(mask, largest))
        picture = torch.fft.fftshift(torch.fft.ifft2(torch.fft.ifftshift(center, dim=(-2, -1))), dim=(-2, -1))
        evidence = [told + _jump(picture, axis) for told, axis in zip(evidence, (-2, -1), strict=True)]
    if sum(evidence) > CUT and min(evidence) > -AGAINST:
        return True
    return False if sum(evidence) < -CUT and max(evidence) < AGAINST else None


def _jump(picture: Tensor, axis: int) -> float:
    """Return the log ratio of the jumps in the middle and at the border along an axis; 0 if others exceed the first."""
    count = picture.shape[axis]
    if count < SHORTEST:
        return 0.0
    following = picture.roll(-1, axis)
    rest = [0, -3 - axis]  # coils and the other axis
    size = (picture.abs().square() + following.abs().square()).sum(rest)
    gap = (following - picture).abs().square().sum(rest)
    jumps = torch.where(size > 1e-9 * size.mean(), gap / size.clamp(min=1e-300), 1.0).clamp(min=1e-3)
    inside, border = jumps[[count // 2 - 1, count // 2]].max(), jumps[[count - 1, 0]].max()
    if border < inside < LARGEST_JUMP * jumps.max().clamp(max=UNRELATED):  # lines of text: larger jumps are elsewhere
        return 0.0
    return float((inside / border).log())


def _ramp(side: int) -> Tensor:
    """Return the factors that move the origin of an axis from pixel 0 to pixel ``side // 2``; for even sides they alternate."""
    frequencies = torch.arange(side) - side // 2
    turns = torch.remainder(frequencies * (side // 2), side).double() / side
    return torch.polar(torch.ones_like(turns), 2 * torch.pi * turns)


def _mask(arrays: Arrays, size: tuple[int, int]) -> Tensor | None:
    """Return the mask of a file as ``(H, W)``; fastMRI has one value for each column, with any number of axes of length 1."""
    if "mask" not in arrays:
        return None
    given = real_numbers(arrays, "mask")
    shape, mask = tuple(given.shape), given != 0
    if mask.ndim > 2 and mask.shape[-1] == 1:  # fastMRI: an axis for the real and the imaginary part
        mask = mask[..., 0]
    while mask.ndim > 2 and len(mask) == 1:
        mask = mask[0]
    if mask.ndim == 2 and mask.shape == (size[1], 1) and size[0] != size[1]:
        mask = mask[:, 0]
    try:
        mask = mask.expand(size)
    except RuntimeError:
        raise ValueError(f"mri: mask has shape {shape}, expected {size} as k-space has, or ({size[1]},) for columns.") from None
    if mask.all() and not torch.isin(given, torch.tensor([0.0, 1.0], dtype=torch.float64)).all():
        raise ValueError(f"mri: mask must hold 0 and 1, got values from {float(given.min()):g} to {float(given.max()):g}.")
    return mask


def _checked(mask: Tensor, measured: Tensor, notes: list[str]) -> Tensor:
    """Return the mask without the rows and columns in which k-space is exactly 0, so that nothing was measured."""
    if not mask.any():
        raise ValueError("mri: the mask is 0 everywhere, so no frequency is measured.")
    if not (mask & measured).any():
        raise ValueError("mri: k-space is 0 wherever the mask is 1. Expected 1 where a frequency is measured: invert the mask.")
    center = mask.shape[0] // 2, mask.shape[1] // 2
    if not mask[center] and torch.fft.fftshift(mask)[center] and centered_block(torch.fft.fftshift(mask)) > (0, 0):
        raise ValueError(
            f"mri: the mask does not measure frequency 0, at {center} of k-space, but does so in its corner. "
            "Apply np.fft.fftshift to the mask."
        )
    lines = mask & measured.any(1, keepdim=True) & measured.any(0, keepdim=True)
    if int(lines.sum()) < int(mask.sum()):
        notes.append(
            f"the mask marks {int(mask.sum() - lines.sum())} frequencies as measured in rows or columns of k-space that are "
            "all 0: taken as not measured"
        )
    return lines
