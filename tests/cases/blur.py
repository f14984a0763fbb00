"""Blurs and convolutions."""

from __future__ import annotations

import torch
from torch import Tensor

from invdiff.operators import Blur, SubsampledConvolution, VaryingBlur
from invdiff.operators.blur.blur import BOUNDARIES
from invdiff.operators.blur.convolution import CircularConvolution, PaddedConvolution
from invdiff.operators.blur.decimated_convolution import DecimatedConvolution
from invdiff.operators.blur.mirrored_blur import CosineConvolution
from invdiff.operators.blur.separable import Separable

from .registry import cases_of


@cases_of(Blur, 21)
def _() -> list[Blur]:
    separable = torch.tensor([0.25, 0.7, 0.1]).outer(torch.tensor([0.1, 0.2, 0.8, 0.15]))
    diagonal = torch.eye(3, dtype=torch.float64) / 6 + torch.tensor([[0, 0, 0], [0, 0.5, 0], [0, 0, 0]])
    shape = (3, 8, 11)
    box = torch.full((1, 4), 0.25)  # Circular on a width of 12, it removes some frequencies completely.
    singular = Blur((3, 8, 12), box, sigma_y=0.05)
    paths = [Blur(shape, kernel, boundary=b, sigma_y=0.05) for b in BOUNDARIES for kernel in (separable, diagonal)]
    cross = torch.tensor([[0.0, 0.1, 0.0], [0.2, 0.4, 0.2], [0.0, 0.1, 0.0]])
    cube = asymmetric_kernel(2, 3, 2)
    volumes = [Blur((2, 4, 5, 3), cube, boundary=b, sigma_y=0.05) for b in BOUNDARIES]
    # The last has too many measurements for an eigendecomposition: solved by conjugate gradients.
    return [
        singular,
        *paths,
        Blur(shape, cross, boundary="symmetric"),
        *volumes,
        Blur((1, 6, 10, 11), cube, boundary="replicate"),
    ]


@cases_of(CircularConvolution, 1)
def _() -> list[CircularConvolution]:
    return [CircularConvolution((3, 8, 11), asymmetric_kernel(3, 4))]


@cases_of(PaddedConvolution, 5)
def _() -> list[PaddedConvolution]:
    # The last has too many measurements for an eigendecomposition: solved by conjugate gradients.
    kernel = asymmetric_kernel(3, 4)
    small = [PaddedConvolution((3, 8, 11), kernel, boundary) for boundary in ("reflect", "symmetric", "replicate", "valid")]
    return [*small, PaddedConvolution((1, 24, 24), kernel, "zero")]


@cases_of(DecimatedConvolution, 3)
def _() -> list[DecimatedConvolution]:
    kernel = torch.rand(3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    box = torch.full((1, 3), 1 / 3, dtype=torch.float64)  # On a width of 6, it removes some frequencies completely.
    return [
        DecimatedConvolution((2, 6, 8), kernel, stride=(3, 2), offset=(1, 0), sigma_y=0.05),
        DecimatedConvolution((1, 4, 6), box, stride=(2, 1), offset=(0, 0)),
        DecimatedConvolution((1, 9), kernel[0], stride=(3,), offset=(2,)),
    ]


@cases_of(CosineConvolution, 2)
def _() -> list[CosineConvolution]:
    cross = torch.tensor([[0.0, 0.1, 0.0], [0.2, 0.4, 0.2], [0.0, 0.1, 0.0]], dtype=torch.float64)
    # The mean over a ring has positive and negative gains.
    return [
        CosineConvolution((3, 8, 11), cross),
        CosineConvolution((1, 7, 10), torch.ones(5, 3).double() - torch.tensor([[0], [0], [1], [0], [0]])),
    ]


@cases_of(Separable, 1)
def _() -> list[Separable]:
    g = torch.Generator().manual_seed(0)
    left, right = (torch.randn(*shape, generator=g, dtype=torch.float64) for shape in ((5, 8), (12, 12)))
    right[-1] = right[0]  # Singular: y repeats a column.
    return [Separable((3, 8, 12), left, right, sigma_y=0.05)]


@cases_of(SubsampledConvolution, 11)
def _() -> list[SubsampledConvolution]:
    g = torch.Generator().manual_seed(0)
    line, image, volume = (torch.rand(*size, generator=g, dtype=torch.float64) for size in ((3,), (3, 4), (2, 1, 3)))
    large = torch.rand(9, 10, generator=g, dtype=torch.float64)
    large[4, 5] += 30
    firm = image + 9 * (torch.arange(12) == 6).reshape(3, 4)
    return [
        SubsampledConvolution((2, 12), line, stride=2, boundary="circular", sigma_y=0.05),
        SubsampledConvolution((2, 11), line, stride=3, boundary="reflect", offset=1, sigma_y=0.05),
        SubsampledConvolution((2, 6, 8), image, stride=(3, 2), boundary="circular"),
        SubsampledConvolution((1, 7, 9), image, stride=2, boundary="reflect"),
        SubsampledConvolution((2, 6, 7), image, stride=(1, 4), boundary="zero", offset=(0, 3)),
        SubsampledConvolution((1, 4, 3, 6), volume, stride=(2, 1, 3), boundary="circular"),
        SubsampledConvolution((1, 3, 3, 4), volume, stride=2, boundary="zero"),
        SubsampledConvolution((1, 9, 12), large, stride=3, boundary="circular", offset=(2, 1)),
        SubsampledConvolution((1, 10, 11), large, stride=(1, 2), boundary="reflect"),
        SubsampledConvolution((1, 10, 12), large, stride=1, boundary="zero"),
        SubsampledConvolution(
            (1, 23, 26), firm, stride=1, boundary="reflect"
        ),  # Too many measurements for an eigendecomposition.
    ]


@cases_of(VaryingBlur, 7)
def _() -> list[VaryingBlur]:
    kernels = torch.rand(2, 3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    kernels[:, 1, 2] += 6
    ramp = torch.linspace(0.2, 0.8, 11, dtype=torch.float64).expand(8, 11)
    small = [VaryingBlur((2, 8, 11), kernels, torch.stack([ramp, 1 - ramp]), boundary=b, sigma_y=0.05) for b in BOUNDARIES]
    large = torch.linspace(0, 1, 24, dtype=torch.float64).expand(24, 24)
    return [*small, VaryingBlur((1, 24, 24), kernels, torch.stack([large, 1 - large]), boundary="reflect")]


def asymmetric_kernel(*sides: int) -> Tensor:
    """Return a nonseparable kernel without symmetry whose large central weight makes the convolution well conditioned."""
    kernel = torch.rand(*sides, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    kernel[tuple(side // 2 for side in sides)] += kernel.numel()
    return kernel / kernel.sum()
