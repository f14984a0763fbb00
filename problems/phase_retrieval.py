"""Phase retrieval: an image from the magnitudes of diffraction patterns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from invdiff.operators import Affine, CodedDiffraction, Noise, Operator, PhaseRetrieval, per_channel

from .arrays import ArrayProblem, Arrays, image_size, real_numbers
from .options import PATTERN_SEED, SCALE, Option
from .problem import photographs

__all__ = ["RetrievePhase"]


class RetrievePhase(ArrayProblem):
    r"""Reconstruct an image from the magnitudes of its Fourier transform, zero-padded or behind several known masks.

    .. math:: y = |F P (x + 1)| + n \quad \text{or} \quad y_k = |F (d_k \odot (x + 1))| + n

    with a unitary transform :math:`F` and zero padding :math:`P`; the field is 0 where the image is black. A file holds
    :math:`y \cdot \text{scale} / 2`. Without masks, an image, its rotation by 180 degrees and its shifts within the padding
    have the same measurement.

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
    recommended = photographs(max_iterations=4)
    measured = "magnitudes"
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
            if masks.ndim != 3 or masks.dtype.kind not in "buifc":
                raise ValueError(
                    f"phase-retrieval: masks must be a numeric array (K, H, W), got {masks.dtype} of shape {masks.shape}."
                )
            height, width = masks.shape[1:]
            problem = cls((height, width), masks=torch.from_numpy(masks.astype(np.complex128)))
        elif {"oversampling", "size"} <= set(arrays):
            problem = cls(image_size(arrays), oversampling=float(real_numbers(arrays, "oversampling")))
        else:
            raise ValueError(
                "phase-retrieval: the file does not describe the measurement. Expected .npz with `magnitudes` and either "
                f"`masks` or `oversampling` and `size` (H, W); got {', '.join(sorted(arrays))}."
            )
        wanted = problem.operator((1, *problem.size)).out_shape[1:]
        if tuple(values.shape[-len(wanted) :]) != wanted:
            raise ValueError(f"phase-retrieval: expected magnitudes of shape {wanted}, got {tuple(values.shape)}.")
        problem.scale = 1.0 if scale is None else scale
        return problem, problem.in_range(values.reshape(1, -1, *wanted).float())

    def to_arrays(self, y: Tensor) -> dict[str, NDArray[Any]]:
        how = {"size": np.array(self.size)}
        how |= {"oversampling": np.array(self.oversampling)} if self.masks is None else {"masks": self.masks.numpy()}
        return {"magnitudes": self.in_units(y)[0].numpy(), **how}

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
