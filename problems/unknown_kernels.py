"""The kernels among which that of a picture is looked for, where the options do not give it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from invdiff.blind import FreeFamily
    from invdiff.blind.families import ParametricFamily

__all__ = ["FAMILIES", "unknown_kernels"]

FAMILIES = ("free", "gaussian", "disc", "line", "motion")  # "motion" is another word for "line"
SMALLEST = 32  # Side of the smallest picture that shows its blur
SIZE = 31  # Side of a free kernel in pictures that are large enough
WIDEST = {"gaussian": 5.0, "disc": 12.0, "line": 30.0}  # Largest standard deviation, radius and length in pixels
REACH = {"gaussian": 3.5, "disc": 1.0, "line": 0.5}  # Half the side of a kernel for each pixel of these


def unknown_kernels(
    name: str, size: tuple[int, int], *, side: int | None = None, factor: int = 1
) -> FreeFamily | ParametricFamily:
    """Return a family of kernels at most half as wide as the picture.

    Args:
        name: One of :data:`FAMILIES`.
        size: Size of the measured picture, ``(H, W)``.
        side: Side of a free kernel, odd. Default: 31, or the largest that fits.
        factor: Factor of decimation: the kernels are in pixels of the image, which has ``factor`` times as many.

    Raises:
        ValueError: If the picture is too small to show its blur, or the kernel does not fit.
    """
    from invdiff.blind import DiscFamily, FreeFamily, GaussianFamily, LineFamily

    height, width = size
    room = min(size) * factor // 2
    if min(size) < SMALLEST:
        raise ValueError(
            f"a picture of {width} x {height} pixels is too small to estimate its blur from: expected {SMALLEST} or more "
            "pixels along each side. Give the kernel."
        )
    if name == "free":
        if side is not None and side > room:
            raise ValueError(
                f"--kernel-size {side}: the kernel must be at most half as wide as the picture, {width} x {height}. Choose "
                f"--kernel-size {room - 1 + room % 2} or less."
            )
        return FreeFamily(min(SIZE, room - 1 + room % 2) if side is None else side)
    shape = "line" if name == "motion" else name
    high = min(WIDEST[shape], (room / 2 - 2) / REACH[shape])
    if shape == "gaussian":
        return GaussianFamily(high=high)
    return DiscFamily(high=high) if shape == "disc" else LineFamily(high=high)
