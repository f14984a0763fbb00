"""Phase retrieval: an image from the magnitudes of diffraction patterns."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from invdiff.operators import Affine, CodedDiffraction, Noise, Operator, PhaseRetrieval, per_channel
from invdiff.priors import ScoreModel

from .arrays import ArrayProblem, Arrays, image_size, named, one_number, real_numbers
from .kspace import PLACES, axes_in_corner
from .options import PATTERN_SEED, SCALE, Option

__all__ = ["RetrievePhase"]


NEGATIVE = 0.25  # share of negative values that noise does not explain
FEW_NEGATIVE = 0.004  # sum of negative values in an autocorrelation, relative to the positive ones; of magnitudes from 0.007
STEADIER = 0.15  # spread of sums of intensities over masks, relative to that of squared intensities; of magnitudes from 0.25


class RetrievePhase(ArrayProblem):
    r"""Reconstruct an image from the magnitudes of its Fourier transform, zero-padded or behind several known masks.

    .. math:: y = |F P (x + 1)| + n \quad \text{or} \quad y_k = |F (d_k \odot (x + 1))| + n

    with a unitary transform :math:`F` and zero padding :math:`P`; the field is 0 where the image is black. A file holds
    :math:`y \cdot \text{scale} / 2`, with frequency 0 in the middle. Without masks, an image, its rotation by 180
    degrees and its shifts within the padding have the same measurement.

    Args:
        size: Image size, ``(H, W)``.
        oversampling: Amount of zero padding, as in :class:`~invdiff.operators.PhaseRetrieval`: 2.0 makes the sides one and a
            half times as long.
        masks: Masks :math:`d_k`, complex ``(K, H, W)``, instead of ``oversampling``.
        scale: Pixel value of white in the units of a file.

    Raises:
        ValueError: If not exactly one of ``oversampling`` and ``masks`` is given, or it is out of range.
    """

    name = "phase-retrieval"
    options = (
        Option(
            name="codes",
            kind="INTEGER",
            minimum=1,
            needed="either",
            simulation=True,
            help="Number of random masks, each with its own diffraction pattern (simulation).",
        ),
        Option(
            name="oversampling",
            kind="NUMBER",
            minimum=0,
            needed="either",
            simulation=True,
            help="Amount of zero padding; 2 adds half the side of the image in total (simulation).",
        ),
        PATTERN_SEED,
        SCALE,
    )
    needs = "an .npz file as INPUT or, to simulate, --codes, the number of masks, or --oversampling"
    measures = "CodedDiffraction, PhaseRetrieval"
    misfit_causes = "intensities that are read as magnitudes, wrong masks, a wrong --scale"
    measured = "magnitudes"
    others = ("masks", "oversampling", "size", "power", "zero_frequency")
    looks = "log magnitudes"

    def __init__(
        self,
        size: tuple[int, int],
        *,
        oversampling: float | None = None,
        masks: Tensor | None = None,
        scale: float = 1.0,
    ) -> None:
        if (oversampling is None) == (masks is None):
            raise ValueError("phase-retrieval: expected exactly one of oversampling and masks.")
        self.size, self.oversampling, self.masks, self.scale = size, oversampling, masks, scale
        self.operator((1, *size))  # Invalid arguments fail here rather than at the first image.

    @classmethod
    def coded(cls, count: int, size: tuple[int, int], *, seed: int) -> Self:
        """Return the problem with ``count`` masks of random phases."""
        return cls(size, masks=CodedDiffraction.random((1, *size), count, seed=seed).masks)

    @classmethod
    def from_options(cls, options: Mapping[str, Any], *, size: tuple[int, int]) -> Self:
        if options["codes"]:
            return cls.coded(options["codes"], size, seed=options["pattern_seed"])
        return cls(size, oversampling=options["oversampling"])

    @classmethod
    def from_arrays(cls, arrays: Arrays, *, scale: float | None) -> tuple[Self, Tensor]:
        values = real_numbers(arrays, "magnitudes")
        if "masks" in arrays:
            masks = np.asarray(arrays["masks"])
            if masks.ndim != 3 or masks.dtype.kind not in "buifc" or not masks.size:
                raise ValueError(
                    f"phase-retrieval: masks must be a numeric array (K, H, W), got {masks.dtype} of shape {masks.shape}."
                )
            height, width = masks.shape[1:]
            problem = cls((height, width), masks=torch.from_numpy(masks.astype(np.complex128)))
        elif {"oversampling", "size"} <= set(arrays):
            problem = cls(image_size(arrays), oversampling=one_number(arrays, "oversampling"))
        else:
            raise ValueError(
                "phase-retrieval: the file does not describe the measurement. Expected .npz with `magnitudes` and either "
                f"`masks` or `oversampling` and `size` (H, W); got {', '.join(sorted(arrays))}."
            )
        wanted = problem.operator((1, *problem.size)).out_shape[1:]
        bare = (*wanted[:-3], *wanted[-2:])  # without an axis of channels
        if tuple(values.shape[-len(wanted) :]) != wanted and tuple(values.shape[-len(bare) :]) == bare:
            values = values.unsqueeze(-3)
        if tuple(values.shape[-len(wanted) :]) != wanted:
            raise ValueError(f"phase-retrieval: expected magnitudes of shape {wanted}, got {tuple(values.shape)}.")
        padded = problem.masks is not None or wanted[-2:] != problem.size
        values, problem.notes = _magnitudes(values.reshape(-1, *wanted), arrays, problem.masks, padded=padded)
        problem.scale = 1.0 if scale is None else scale
        strength = 1.0 if problem.masks is None else float(problem.masks.abs().square().sum(0).mean())
        problem.doubt_scale(float((values.square().sum() / len(values) / strength / math.prod(problem.size)).sqrt()))
        return problem, problem.in_range(values[None].float())

    def to_arrays(self, y: Tensor) -> dict[str, NDArray[Any]]:
        how = {"size": np.array(self.size), "power": np.array(1), "zero_frequency": np.array("center")}
        how |= {"oversampling": np.array(self.oversampling)} if self.masks is None else {"masks": self.masks.numpy()}
        return {"magnitudes": self.in_units(y)[0].numpy(), **how}

    def doubts(self, score: ScoreModel) -> tuple[str, ...]:
        if self.masks is not None:
            return ()
        return (
            "phase retrieval without masks: an image, its rotation by 180 degrees and its shifts have the same measurement; "
            "expect a sample to be any of them, or a mixture, and measure behind masks if you can",
        )

    def measurement(self, shape: tuple[int, int, int], noise: Noise | None) -> Operator:
        light = Affine((1, *self.size), 1.0, 1.0)
        if self.masks is None:
            return per_channel(
                PhaseRetrieval((1, *self.size), oversampling=self.oversampling or 0.0) @ light, shape[0], noise=noise
            )
        return per_channel(CodedDiffraction((1, *self.size), self.masks) @ light, shape[0], noise=noise)

    def fit(self, x: Tensor) -> Tensor:
        height, width = self.size
        return x[..., :height, :width]

    def preview(self, y: Tensor) -> Tensor:
        pattern = (y[:, :, 0, 0] if self.masks is not None else y[:, :, 0]).clamp(min=0).log1p()
        (height, width), (tall, wide) = self.size, pattern.shape[-2:]
        top, left = (tall - height) // 2, (wide - width) // 2
        pattern = pattern[..., top : top + height, left : left + width]
        return 2 * pattern / pattern.amax((-2, -1), keepdim=True).clamp(min=1e-12) - 1

    def _of_white(self, y: Tensor) -> Tensor:
        return torch.zeros_like(y)


def _magnitudes(values: Tensor, arrays: Arrays, masks: Tensor | None, *, padded: bool) -> tuple[Tensor, tuple[str, ...]]:
    """Return magnitudes with frequency 0 in the middle, and notes; ``power`` 2 in a file says that it holds intensities."""
    notes: list[str] = []
    power = one_number(arrays, "power") if "power" in arrays else None
    if power not in (None, 1, 2):
        raise ValueError(f"phase-retrieval: power must be 1, for magnitudes, or 2, for intensities, got {power:g}.")
    if power == 2:
        values = values.clamp(min=0).sqrt()
    elif (share := float((values < 0).double().mean())) > NEGATIVE:
        notes.append(f"{share:.0%} of the magnitudes are negative, and magnitudes are not: check what `magnitudes` holds")
    if "zero_frequency" in arrays:
        axes = [-2, -1] if named(arrays, "zero_frequency", PLACES) == "corner" else []
    else:
        axes = axes_in_corner(values.reshape(-1, *values.shape[-2:]))
        notes += (
            ["the patterns have frequency 0 in the corner: moved to the middle (zero_frequency in the file)"] if axes else []
        )
    values = torch.fft.fftshift(values, dim=axes) if axes else values
    if power is None and padded and _look_squared(values, masks):
        notes.append("the values look like intensities, and are read as magnitudes: add power=2 to the file if so")
    return values, tuple(notes)


def _look_squared(values: Tensor, masks: Tensor | None) -> bool:
    """Return whether values are rather intensities than magnitudes.

    The inverse transform of intensities is the autocorrelation of an image that is nowhere negative, and is not negative
    either. Behind masks of magnitude 1 the energy, the sum of intensities, is the same for every mask.
    """
    if masks is None:
        lags = torch.fft.ifft2(torch.fft.ifftshift(values, dim=(-2, -1))).real
        return bool(-lags.clamp(max=0).sum() < FEW_NEGATIVE * lags.clamp(min=0).sum())
    if len(masks) < 3 or not torch.allclose(masks.abs(), torch.ones((), dtype=torch.float64)):
        return False
    spread, squared = (sums.std(1).max() / sums.mean() for sums in (values.sum((-2, -1)), values.square().sum((-2, -1))))
    return bool(spread < STEADIER * squared)
