"""Ready-made problems, for images of 16 x 24 pixels or of a size of their own."""

from __future__ import annotations

import math

import torch

from invdiff.operators import Identity
from invdiff.operators.blur.kernels import gaussian_kernel
from invdiff.operators.sampling.mosaic import BAYER_PATTERNS
from invdiff.problems import (
    Colorize,
    CompressedSensing,
    Deblur,
    Declip,
    Defocus,
    Dejpeg,
    Demosaic,
    Denoise,
    Dequantize,
    Inpaint,
    MotionDeblur,
    Outpaint,
    OwnOperator,
    ReconstructCT,
    ReconstructMRI,
    RetrievePhase,
    SuperResolution,
)

from .registry import cases_of


@cases_of(Inpaint, 1)
def _() -> list[Inpaint]:
    mask = torch.ones(16, 24, dtype=torch.bool)
    mask[4:9, 5:12] = False
    return [Inpaint(mask)]


@cases_of(Outpaint, 1)
def _() -> list[Outpaint]:
    return [Outpaint(3)]


@cases_of(Denoise, 1)
def _() -> list[Denoise]:
    return [Denoise()]


@cases_of(Deblur, 2)
def _() -> list[Deblur]:
    return [Deblur(gaussian_kernel(1.0, 5), boundary=boundary) for boundary in ("reflect", "circular")]


@cases_of(Defocus, 2)
def _() -> list[Defocus]:
    return [Defocus(1.7), Defocus(2.5, boundary="circular")]


@cases_of(MotionDeblur, 2)
def _() -> list[MotionDeblur]:
    return [MotionDeblur(5, 30.0), MotionDeblur(3, 0.0, boundary="circular")]


@cases_of(SuperResolution, 2)
def _() -> list[SuperResolution]:
    return [SuperResolution(2), SuperResolution(4, kernel="area")]


@cases_of(Colorize, 1)
def _() -> list[Colorize]:
    return [Colorize()]


@cases_of(Demosaic, 4)
def _() -> list[Demosaic]:
    return [Demosaic(pattern) for pattern in BAYER_PATTERNS]


@cases_of(Declip, 2)
def _() -> list[Declip]:
    return [Declip(-0.8, 0.5), Declip(-math.inf, 0.3)]


@cases_of(Dequantize, 2)
def _() -> list[Dequantize]:
    return [Dequantize(2), Dequantize(8)]


@cases_of(Dejpeg, 3)
def _() -> list[Dejpeg]:
    return [
        Dejpeg(quality=10, subsampling="4:4:4"),
        Dejpeg(tables=[range(1, 65), range(64, 128)], subsampling="4:4:0"),
        Dejpeg(quality=50, size=(16, 24)),  # The second column of 16 x 16 units reaches beyond the image.
    ]


@cases_of(CompressedSensing, 2)
def _() -> list[CompressedSensing]:
    return [
        CompressedSensing((16, 32), 100, sensing="hadamard", seed=0),
        CompressedSensing((16, 24), 90, sensing="convolution", seed=1),
    ]


@cases_of(RetrievePhase, 2)
def _() -> list[RetrievePhase]:
    return [RetrievePhase.coded(2, (16, 24), seed=0), RetrievePhase((16, 24), oversampling=2.0)]


@cases_of(ReconstructMRI, 2)
def _() -> list[ReconstructMRI]:
    return [ReconstructMRI.simulated((16, 24), acceleration=2, center_fraction=0.2, coils=coils, seed=0) for coils in (1, 3)]


@cases_of(ReconstructCT, 2)
def _() -> list[ReconstructCT]:
    return [ReconstructCT.evenly(7, (16, 24)), ReconstructCT([0.0, 30.0, 100.0], (16, 24), detectors=20)]


@cases_of(OwnOperator, 1)
def _() -> list[OwnOperator]:
    return [OwnOperator(Identity)]
