"""Image transforms, and measurements in a transform domain."""

from __future__ import annotations

import numpy as np
import torch

from invdiff.operators import (
    MRI,
    CodedDiffraction,
    CumulativeSum,
    FanBeamCT,
    FiniteDifferences,
    FourierMask,
    Hadamard,
    JPEGCoefficients,
    Magnitude,
    ParallelBeamCT,
    PhaseRetrieval,
    RandomConvolution,
    birdcage_maps,
    cartesian_mask,
)
from invdiff.operators.transforms.finite_differences import DIFFERENCE_BOUNDARIES
from invdiff.operators.transforms.jpeg_coefficients import SUBSAMPLINGS

from .registry import cases_of


@cases_of(CumulativeSum, 4)
def _() -> list[CumulativeSum]:
    return [
        CumulativeSum((3, 8, 5), -1, sigma_y=0.05),
        CumulativeSum((2, 6, 4), 1),
        CumulativeSum((7,), 0),
        CumulativeSum((1, 3), -1),
    ]


@cases_of(FiniteDifferences, 8)
def _() -> list[FiniteDifferences]:
    plane = [FiniteDifferences((2, 4, 5), boundary=boundary, sigma_y=0.05) for boundary in DIFFERENCE_BOUNDARIES]
    line = [FiniteDifferences((2, 5), axes=[1], boundary=boundary) for boundary in DIFFERENCE_BOUNDARIES]
    return [
        *plane,
        *line,
        FiniteDifferences((2, 3, 2, 4), axes=(1, 0, -1), boundary="replicate"),
        FiniteDifferences((3, 4, 2), axes=(0, 2)),
    ]


@cases_of(FourierMask, 4)
def _() -> list[FourierMask]:
    random = torch.rand(6, 8, generator=torch.Generator().manual_seed(0)) < 0.5
    odd = torch.rand(5, 7, generator=torch.Generator().manual_seed(1)) < 0.5
    # Conjugate pairs, halves of pairs and self-conjugate frequencies; phases that are signs, and others; all frequencies.
    return [
        FourierMask((2, 6, 8), random, sigma_y=0.05),
        FourierMask((1, 5, 7), odd, sigma_y=0.05),
        FourierMask((1, 5, 6), torch.ones(6)),
        FourierMask((1, 4, 4), torch.arange(16).reshape(4, 4) == 10),
    ]


@cases_of(Hadamard, 6)
def _() -> list[Hadamard]:
    together = Hadamard((2, 4, 16), [5, 0, 127, 64], per_channel=False, sign_seed=0)
    # The fourth is too large for one Hadamard matrix. The last keeps all rows.
    return [
        Hadamard((3, 4, 8), [0, 31, 7, 8], sigma_y=0.05),
        Hadamard.random((3, 4, 8), 9, seed=1),
        together,
        Hadamard.random((256,), 40, seed=2),
        Hadamard((2, 1), [0]),
        Hadamard((8,), range(8)),
    ]


@cases_of(JPEGCoefficients, 9)
def _() -> list[JPEGCoefficients]:
    whole = [JPEGCoefficients((3, 8 * v, 8 * h), name, sigma_y=0.05) for name, (v, h) in SUBSAMPLINGS.items()]
    # Partial blocks, a luma block missing to the right or at the bottom; and too large for an eigendecomposition.
    parts = [
        JPEGCoefficients((3, 5, 7), "4:4:4"),
        JPEGCoefficients((3, 9, 8), "4:2:0"),
        JPEGCoefficients((1, 10, 7), "4:2:0"),
        JPEGCoefficients((3, 17, 21), "4:2:0"),
    ]
    return [*whole, JPEGCoefficients((1, 8, 16), "4:2:0", sigma_y=0.05), *parts]


@cases_of(MRI, 4)
def _() -> list[MRI]:
    mask, maps = torch.rand(6, 5, generator=torch.Generator().manual_seed(0)) < 0.5, birdcage_maps(3, 6, 5)
    dark = maps * (torch.arange(5) > 0)  # No coil sees the first column.
    large = cartesian_mask(8, 10, acceleration=2, center_fraction=0.2, seed=0)
    return [
        MRI((2, 6, 5), mask, sigma_y=0.05),
        MRI((2, 6, 5), torch.ones(5), coil_maps=2 * dark, sigma_y=0.05),
        MRI((2, 6, 5), mask, coil_maps=dark, sigma_y=0.05),
        MRI((2, 8, 10), large, coil_maps=birdcage_maps(4, 8, 10)),  # Too large for an eigendecomposition.
    ]


@cases_of(PhaseRetrieval, 3)
def _() -> list[PhaseRetrieval]:
    plain = PhaseRetrieval((2, 4, 6), oversampling=2.0, sigma_y=0.05)
    return [plain, PhaseRetrieval((1, 5, 4), oversampling=4.0, power=2), PhaseRetrieval((1, 3, 5), oversampling=0.0)]


@cases_of(CodedDiffraction, 2)
def _() -> list[CodedDiffraction]:
    signs = torch.tensor([1.0, -1.0])[torch.randint(2, (2, 4, 6), generator=torch.Generator().manual_seed(0))]
    return [CodedDiffraction.random((2, 4, 5), 3, seed=0, sigma_y=0.05), CodedDiffraction((1, 4, 6), signs, power=2)]


@cases_of(Magnitude, 2)
def _() -> list[Magnitude]:
    return [Magnitude((2, 4, 5), sigma_y=0.05), Magnitude((7,), power=2)]


@cases_of(RandomConvolution, 3)
def _() -> list[RandomConvolution]:
    return [
        RandomConvolution((2, 6, 7), 15, seed=0, sigma_y=0.05),
        RandomConvolution((1, 5, 8), 40, seed=1),
        RandomConvolution((1, 1, 4), 2, seed=2),
    ]


@cases_of(ParallelBeamCT, 2)
def _() -> list[ParallelBeamCT]:
    wide = ParallelBeamCT((2, 6, 8), [0.0, 90.0, 30.0, 160.0], sigma_y=0.05)
    # Too many measurements for an eigendecomposition, and more than unknowns.
    half_turn = np.linspace(0, 180, 40, endpoint=False)
    long = ParallelBeamCT((1, 7, 7), half_turn, detectors=15, detector_spacing=0.7, center=6.4, axis=(3.5, 2.8))
    return [wide, long]


@cases_of(FanBeamCT, 3)
def _() -> list[FanBeamCT]:
    few = FanBeamCT(
        (2, 6, 8),
        [0.0, 75.0, 200.0],
        source_distance=12.0,
        detector_distance=6.0,
        detectors=9,
        detector_spacing=1.5,
        sigma_y=0.05,
    )
    # Too many measurements for an eigendecomposition, and more than unknowns.
    turn = np.linspace(0, 360, 40, endpoint=False)
    fine = FanBeamCT(
        (1, 7, 7), turn, source_distance=10.0, detector_distance=0.0, detectors=15, detector_spacing=0.7, center=7.3
    )
    arc = FanBeamCT(
        (1, 6, 7),
        [0.0, 75.0, 200.0],
        source_distance=9.0,
        detector_distance=4.0,
        detectors=7,
        detector_spacing=1.4,
        curved=True,
    )
    return [few, fine, arc]
