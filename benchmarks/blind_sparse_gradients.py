r"""Blind deconvolution with the number of gradients that are not zero as prior (Pan et al., 2014), from the paper.

Coarse to fine, an intermediate picture of few edges and the kernel are estimated in turn:

.. math:: \min_x\; \lVert k * x - y \rVert^2 + \lambda \lVert \nabla x \rVert_0, \qquad
    \min_k\; \lVert k * \nabla x - \nabla y \rVert^2 + \gamma \lVert k \rVert^2,

the first by half-quadratic splitting, the second by conjugate gradients from the strongest gradients only. The sharp picture
follows by deconvolution with a hyper-Laplacian prior (Krishnan & Fergus, 2009).

Departures: the paper's prior on the intensities is left out, which is for text; convolutions are circular, and pictures that
are not periodic are extended so that they are.

References:
    Pan, Hu, Su & Yang, Deblurring Text Images via L0-Regularized Intensity and Gradient Prior, 2014,
    https://doi.org/10.1109/CVPR.2014.371

    Krishnan & Fergus, Fast Image Deconvolution using Hyper-Laplacian Priors, 2009
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.sparse.linalg import LinearOperator, cg
from skimage.transform import resize

__all__ = ["estimate_kernel", "extended", "hyper_laplacian"]

Array = NDArray[np.float64]
Spectrum = NDArray[np.complex128]

LAMBDA, SMALLEST_LAMBDA = 4e-3, 1e-4  # weight of the gradients: falls by 1.1 with every estimate of the kernel
GAMMA = 2.0  # weight of the kernel's norm
ALTERNATIONS = 5
SMALL = 0.05  # of the largest entry of the kernel: smaller ones are noise
PART = 0.1  # of the kernel's sum: smaller parts that hang together are noise
STEPS = (np.array([[1.0, -1, 0]]), np.array([[1.0], [-1], [0]]))  # differences to the next pixel


def estimate_kernel(y: Array, size: int) -> Array:
    """Return the kernel ``(size, size)``, summing to 1, of a periodic blurred picture ``(H, W)`` on the 0..1 scale.

    Args:
        y: Blurred picture.
        size: Side of the kernel, odd.
    """
    sizes = [size]
    while sizes[-1] > 3:
        sizes.append(max(3, 2 * int(sizes[-1] / np.sqrt(2) / 2) + 1))
    kernel, weight = np.zeros((3, 3)), LAMBDA
    kernel[1, 1] = 1
    for side in reversed(sizes):
        shape = [round(length * side / size) for length in y.shape]
        level = y if side == size else _resized(y, shape)
        kernel = _resized(kernel, (side, side)).clip(0)
        kernel /= kernel.sum()
        slopes, threshold = np.stack([_apply(_transfer(step, level.shape), level) for step in STEPS]), None
        for _ in range(ALTERNATIONS):
            x = _few_edges(level, kernel, weight)
            edges = np.stack([_apply(_transfer(step, level.shape), x) for step in STEPS])
            threshold = _threshold(edges, side) if threshold is None else threshold / 1.1
            edges = edges * (np.sum(edges**2, 0) >= threshold**2)
            if edges.any():
                kernel = _without_specks(_kernel_step(edges, slopes, side))
            weight = max(weight / 1.1, SMALLEST_LAMBDA)
        kernel = _centered(kernel)
    return kernel


def _resized(x: Array, shape: Sequence[int]) -> Array:
    smaller = shape[0] < len(x)
    result: Array = resize(x, shape, order=1, anti_aliasing=smaller, mode="wrap" if smaller else "constant")  # type: ignore[no-untyped-call]
    return result


def _transfer(kernel: Array, shape: tuple[int, ...]) -> Spectrum:
    """Return the transfer function of a kernel with its center at ``(h // 2, w // 2)``."""
    rows, columns = kernel.shape
    padded = np.zeros(shape)
    padded[:rows, :columns] = kernel
    return np.fft.rfft2(np.roll(padded, (-(rows // 2), -(columns // 2)), (0, 1)))


def _apply(transfer: Spectrum, x: Array) -> Array:
    return np.fft.irfft2(transfer * np.fft.rfft2(x), s=x.shape[-2:])


def _few_edges(y: Array, kernel: Array, weight: float) -> Array:
    """Return the picture with few gradients that explains ``y``."""
    blur, steps = _transfer(kernel, y.shape), [_transfer(step, y.shape) for step in STEPS]
    data, x, beta = blur.conj() * np.fft.rfft2(y), y, 2 * weight
    while beta < 1e5:
        slopes = np.stack([_apply(step, x) for step in steps])
        slopes = slopes * (np.sum(slopes**2, 0) >= weight / beta)
        right = data + beta * sum(step.conj() * np.fft.rfft2(part) for step, part in zip(steps, slopes, strict=True))
        x = np.fft.irfft2(right / (np.abs(blur) ** 2 + beta * sum(np.abs(step) ** 2 for step in steps)), s=y.shape)
        beta *= 2
    return np.asarray(x)


def _threshold(edges: Array, side: int) -> float:
    """Return the magnitude that at least two gradients per pixel of the kernel's side exceed, in each of four directions."""
    magnitude = np.hypot(*edges)
    direction = (np.arctan2(edges[0], edges[1]) % np.pi // (np.pi / 4)).astype(int)
    kept = [np.sort(magnitude[direction == quarter])[::-1][: 2 * side] for quarter in range(4)]
    return float(min(part[-1] if len(part) else 0.0 for part in kept))


def _kernel_step(edges: Array, slopes: Array, side: int) -> Array:
    spectra, shape, half = np.fft.rfft2(edges), edges.shape[1:], side // 2
    power = np.sum(np.abs(spectra) ** 2, 0)

    def cropped(spectrum: Spectrum) -> Array:
        return np.roll(np.fft.irfft2(spectrum, s=shape), (half, half), (0, 1))[:side, :side]

    def normal(flat: Array) -> Array:
        k = flat.reshape(side, side)
        return (cropped(power * _transfer(k, shape)) + GAMMA * k).ravel()

    data = cropped(np.sum(spectra.conj() * np.fft.rfft2(slopes), 0))
    found, _ = cg(LinearOperator((side**2, side**2), matvec=normal, dtype=np.float64), data.ravel(), rtol=1e-5, maxiter=20)
    kernel = found.reshape(side, side)
    kernel[kernel < SMALL * kernel.max()] = 0
    return np.asarray(kernel / kernel.sum())


def _without_specks(kernel: Array) -> Array:
    labels, count = ndimage.label(kernel > 0, structure=np.ones((3, 3)))
    sums = ndimage.sum_labels(kernel, labels, range(1, count + 1))
    kernel = kernel * np.isin(labels, 1 + np.flatnonzero(sums >= min(PART, sums.max())))
    return np.asarray(kernel / kernel.sum())


def _centered(kernel: Array) -> Array:
    """Return a kernel moved by whole pixels so that its center of mass is in the middle."""
    moves = [side // 2 - round(center) for side, center in zip(kernel.shape, ndimage.center_of_mass(kernel), strict=True)]
    moved = ndimage.shift(kernel, moves, order=0)
    return np.asarray(moved / moved.sum())


def extended(y: Array, margin: int) -> Array:
    """Return pictures ``(C, H, W)`` in a frame of ``margin`` pixels that makes them periodic, without a jump at the border."""
    (height, width) = y.shape[1:]
    frame = np.pad(y, ((0, 0), (margin, margin), (margin, margin)), mode="edge")
    inside = np.pad(np.ones((height, width)), margin)
    smooth = ndimage.gaussian_filter(frame, (0, margin / 2, margin / 2), mode="wrap")
    share = ndimage.gaussian_filter(inside, margin / 4, mode="wrap")
    blended = share * frame + (1 - share) * smooth
    blended[:, margin : margin + height, margin : margin + width] = y
    return np.asarray(blended)


def hyper_laplacian(y: Array, kernel: Array, *, weight: float = 2000.0, power: float = 0.8) -> Array:
    r"""Deconvolve periodic pictures ``(C, H, W)`` on the 0..1 scale by half-quadratic splitting.

    .. math:: \min_x\; \frac{w}{2} \lVert k * x - y \rVert^2 + \sum_i \lVert D_i x \rVert_p^p

    Args:
        y: Blurred pictures.
        kernel: Kernel with its center at ``(h // 2, w // 2)``.
        weight: :math:`w`; 2000 is the paper's for noise of 0.01.
        power: :math:`p`.
    """
    shape = y.shape[1:]
    blur, steps = _transfer(kernel, shape), [_transfer(step, shape) for step in STEPS]
    data, x, beta = blur.conj() * np.fft.rfft2(y), y, 1.0
    while beta < 256:
        right = sum(step.conj() * np.fft.rfft2(_shrunk(_apply(step, x), beta, power)) for step in steps)
        left = sum(np.abs(step) ** 2 for step in steps) + weight / beta * np.abs(blur) ** 2
        x = np.fft.irfft2((right + weight / beta * data) / left, s=shape)
        beta *= 2 * np.sqrt(2)
    return np.asarray(x)


def _shrunk(v: Array, beta: float, power: float) -> Array:
    """Return the minimizer of |w|^p + beta/2 (w - v)^2 for every value, by Newton steps on |w| from |v|."""
    size = np.maximum(np.abs(v), 1e-12)
    w = size
    for _ in range(6):
        slope = power * w ** (power - 1) + beta * (w - size)
        curvature = np.maximum(power * (power - 1) * w ** (power - 2) + beta, beta / 10)
        w = np.clip(w - slope / curvature, 1e-12, size)
    better = w**power + beta / 2 * (w - size) ** 2 < beta / 2 * size**2
    return np.where(better, np.sign(v) * w, 0.0)
