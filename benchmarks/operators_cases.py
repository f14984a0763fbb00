"""Operators and other implementations of the same measurements, written from the formulas, timed by ``operators.py``.

A case is made for a given image side in pixels. Every implementation has the input and output of the operator, in float32, with
everything that does not depend on the image prepared in advance; a string instead of an implementation gives the reason why it
is not run. Implementations known to need more than 8 GB are not run.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import kornia
import numpy as np
import scipy.fft
import scipy.linalg
import scipy.ndimage
import scipy.sparse
import torch
import torch.nn.functional as F
import torchvision.transforms.functional as TF
from torch import Tensor

from invdiff import operators
from invdiff.operators import LinearOperator, Operator, gaussian_kernel, motion_kernel

__all__ = ["CASES", "Case", "Way"]

Way = Callable[[Tensor], Tensor]
# Borders, and what torch and SciPy call them.
PAD = {"circular": "circular", "replicate": "replicate", "reflect": "reflect", "zero": "constant"}
SCIPY: Mapping[str, Any] = {"circular": "wrap", "replicate": "nearest", "reflect": "mirror", "zero": "constant"}
TAPS, LAM, LEVELS, ANGLES = 61, 0.1, 16, 60
LARGEST = 8e9  # bytes


@dataclass(frozen=True, eq=False)
class Case:
    """One operator, and other ways to the same.

    Attributes:
        op: The operator.
        others: What gives the same result, by name; or why it is not run.
        ours: What is timed. Default: the operator.
        shape: Of one ``x``. Default: that of the operator.
        tolerance: Largest difference of the others from ours, relative, in the norms of results and of gradients.
        note: What there is to say where ours is slow.
    """

    op: Operator
    others: Mapping[str, Way | str]
    ours: Way | None = None
    shape: tuple[int, ...] | None = None
    tolerance: float = 2e-5
    note: str = ""


def random(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0), dtype=dtype)


def ready(op: Any) -> Any:
    """Return the operator as samplers move it: in the dtype of the data."""
    return op.to(dtype=torch.float32)


def identity(px: int) -> Case:
    return Case(ready(operators.Identity((3, px, px))), {"copy": torch.clone})


def mask(px: int) -> Case:
    seen = random(px, px) < 0.3
    number, missing, picture = seen.float(), ~seen, torch.zeros(())
    rows, columns = seen.nonzero(as_tuple=True)

    def indexing(x: Tensor) -> Tensor:
        y = torch.zeros_like(x)
        y[..., rows, columns] = x[..., rows, columns]
        return y

    return Case(
        ready(operators.Mask(seen, (3, px, px))),
        {
            "product": lambda x: x * number,
            "masked_fill": lambda x: x.masked_fill(missing, 0),
            "where": lambda x: torch.where(seen, x, picture),
            "indexing": indexing,
        },
        note="a product would keep the NaN of what is missing",
    )


def crop(px: int) -> Case:
    start, side = px // 8, px // 2
    inside = slice(start, start + side)
    return Case(
        ready(operators.Crop((3, px, px), top=start, left=start, height=side, width=side)),
        {
            "slices": lambda x: x[..., inside, inside],
            "slices, copied": lambda x: x[..., inside, inside].contiguous(),
            "torchvision": lambda x: TF.crop(x, start, start, side, side),
        },
    )


def gaussian_blur(px: int, *, boundary: str) -> Case:
    sigma = (TAPS - 1) / 8
    kernel = gaussian_kernel(sigma, TAPS)
    line = kernel.sum(0)
    rows = torch.from_numpy(scipy.ndimage.convolve1d(np.eye(px), line.numpy(), axis=0, mode=SCIPY[boundary])).float()
    across, mode = line.float(), PAD[boundary]

    def two_lines(x: Tensor) -> Tensor:
        channels = padded(x, boundary, TAPS // 2).flatten(0, 1).unsqueeze(1)
        return F.conv2d(F.conv2d(channels, across[None, None, :, None]), across[None, None, None]).reshape(x.shape)

    def two_lines_by_groups(x: Tensor) -> Tensor:
        x = padded(x, boundary, TAPS // 2)
        x = F.conv2d(x, across[None, None, :, None].repeat(3, 1, 1, 1), groups=3)
        return F.conv2d(x, across[None, None, None].repeat(3, 1, 1, 1), groups=3)

    others: dict[str, Way | str] = {
        "direct": direct_convolution(kernel, boundary),
        "two 1-D": two_lines,
        "two 1-D, groups": two_lines_by_groups,
        "matrices": lambda x: rows @ x @ rows.mT,
        "Fourier": fourier_convolution(kernel, boundary, px),
        "kornia": lambda x: kornia.filters.gaussian_blur2d(x, (TAPS, TAPS), (sigma, sigma), border_type=mode),
    }
    if boundary == "reflect":
        others["torchvision"] = lambda x: TF.gaussian_blur(x, [TAPS, TAPS], [sigma, sigma])
    why = "Fourier transforms are as fast up to about 384 px"
    return Case(ready(operators.Blur((3, px, px), kernel, boundary=boundary)), others, note=why)


def motion_blur(px: int, *, boundary: str) -> Case:
    kernel = motion_kernel(31, 30.0)
    flipped, mode = kernel.flip((0, 1)).float(), PAD[boundary]
    return Case(
        ready(operators.Blur((3, px, px), kernel, boundary=boundary)),
        {
            "direct": direct_convolution(kernel, boundary),
            "Fourier": fourier_convolution(kernel, boundary, px),
            "kornia": lambda x: kornia.filters.filter2d(x, flipped[None], border_type=mode),
        },
    )


def direct_convolution(kernel: Tensor, boundary: str) -> Way:
    taps, reach = kernel.flip((0, 1)).float(), len(kernel) // 2

    def convolve(x: Tensor) -> Tensor:
        return F.conv2d(padded(x, boundary, reach), taps.repeat(x.shape[1], 1, 1, 1), groups=x.shape[1])

    return convolve


def fourier_convolution(kernel: Tensor, boundary: str, px: int) -> Way:
    size = len(kernel)
    margin = 0 if boundary == "circular" else size // 2
    side = px if boundary == "circular" else scipy.fft.next_fast_len(px + 2 * margin, real=True)
    picture = F.pad(kernel, (0, side - size, 0, side - size)).roll((-(size // 2), -(size // 2)), (0, 1))
    spectrum = torch.fft.rfft2(picture).to(torch.complex64)

    def convolve(x: Tensor) -> Tensor:
        x = padded(x, boundary, margin)
        blurred = torch.fft.irfft2(spectrum * torch.fft.rfft2(x, s=(side, side)), s=(side, side))
        return blurred[..., margin : margin + px, margin : margin + px]

    return convolve


def padded(x: Tensor, boundary: str, margin: int) -> Tensor:
    return F.pad(x, (margin,) * 4, PAD[boundary]) if margin else x


def varying_blur(px: int) -> Case:
    kernels = torch.stack([gaussian_kernel((5.0, 2.0), 31, angle=angle) for angle in (0.0, 45.0, 90.0, 135.0)])
    ramp = torch.linspace(0, 1, px, dtype=torch.float64)
    weights = torch.stack([a.outer(b) for a in (ramp, 1 - ramp) for b in (ramp, 1 - ramp)])
    shares = weights.float()

    def sums(convolutions: Sequence[Way]) -> Way:
        def blur(x: Tensor) -> Tensor:
            return sum((convolve(w * x) for convolve, w in zip(convolutions, shares, strict=True)), torch.zeros(()))

        return blur

    return Case(
        ready(operators.VaryingBlur((3, px, px), kernels, weights, boundary="reflect")),
        {
            "direct": sums([direct_convolution(kernel, "reflect") for kernel in kernels]),
            "Fourier": sums([fourier_convolution(kernel, "reflect", px) for kernel in kernels]),
        },
        note="a transform for each kernel",
    )


def area(px: int) -> Case:
    taps = torch.full((3, 1, 4, 4), 1 / 16)
    return Case(
        ready(operators.Downsample((3, px, px), 4)),
        {
            "avg_pool2d": lambda x: F.avg_pool2d(x, 4),
            "interpolate": lambda x: F.interpolate(x, scale_factor=0.25, mode="area"),
            "mean of blocks": lambda x: x.unflatten(-1, (-1, 4)).unflatten(-3, (-1, 4)).mean((-3, -1)),
            "strided conv2d": lambda x: F.conv2d(x, taps, stride=4, groups=3),
        },
    )


def bicubic(px: int, *, size: Callable[[int], int], op: Callable[[int], Operator]) -> Case:
    small = size(px)
    pixels = torch.eye(px, dtype=torch.float64)[None, None]
    matrix = F.interpolate(pixels, (small, px), mode="bicubic", antialias=True)[0, 0].float()
    return Case(
        ready(op(px)),
        {
            "interpolate": lambda x: F.interpolate(x, (small, small), mode="bicubic", antialias=True),
            "torchvision": lambda x: TF.resize(x, [small, small], TF.InterpolationMode.BICUBIC, antialias=True),
            "matrices": lambda x: matrix @ x @ matrix.mT,
        },
        note="overhead of tiles and of the adjoint, at this size",
    )


def downsample_bicubic(px: int) -> Case:
    return bicubic(px, size=lambda n: n // 4, op=lambda n: operators.Downsample((3, n, n), 4, kernel="bicubic"))


def resize(px: int) -> Case:
    return bicubic(
        px,
        size=lambda n: n * 5 // 8,
        op=lambda n: operators.Resize((3, n, n), (n * 5 // 8, n * 5 // 8), kernel="bicubic"),
    )


def grey(px: int) -> Case:
    weights = torch.tensor([0.299, 0.587, 0.114])
    return Case(
        ready(operators.ChannelMix.gray((3, px, px))),
        {
            "1 x 1 conv2d": lambda x: F.conv2d(x, weights[None, :, None, None]),
            "weighted channels": lambda x: 0.299 * x[:, :1] + 0.587 * x[:, 1:2] + 0.114 * x[:, 2:],
            "product and sum": lambda x: (weights[:, None, None] * x).sum(1, keepdim=True),
            "einsum": lambda x: torch.einsum("c,bchw->bhw", weights, x).unsqueeze(1),
            "kornia": kornia.color.rgb_to_grayscale,
        },
    )


def channel_mix(px: int) -> Case:
    matrix = random(8, 3, dtype=torch.float64)
    weights = matrix.float()
    return Case(
        ready(operators.ChannelMix((3, px, px), matrix)),
        {
            "1 x 1 conv2d": lambda x: F.conv2d(x, weights[:, :, None, None]),
            "matrix": lambda x: (weights @ x.flatten(2)).unflatten(2, x.shape[2:]),
            "einsum": lambda x: torch.einsum("kc,bchw->bkhw", weights, x),
        },
    )


def channel_mix_solve(px: int) -> Case:
    matrix = random(8, 3, dtype=torch.float64)
    op = ready(operators.ChannelMix((3, px, px), matrix))
    inverse = torch.linalg.inv(matrix @ matrix.mT + LAM * torch.eye(8, dtype=torch.float64)).float()
    others = {
        "matrix": lambda v: (inverse @ v.flatten(2)).unflatten(2, v.shape[2:]),
        "1 x 1 conv2d": lambda v: F.conv2d(v, inverse[:, :, None, None]),
    }
    why = "the inverse itself would lose digits at a small lambda"
    return Case(op, others, ours=partial(op.solve, lam=LAM), shape=op.out_shape, note=why)


def mosaic(px: int) -> Case:
    tile = torch.tensor([[0, 1], [1, 2]]).repeat(px // 2, px // 2)
    chosen = (tile == torch.arange(3).reshape(3, 1, 1)).float()

    def indexing(x: Tensor) -> Tensor:
        y = torch.empty_like(x[:, :1])
        for row, column, colour in ((0, 0, 0), (0, 1, 1), (1, 0, 1), (1, 1, 2)):
            y[:, 0, row::2, column::2] = x[:, colour, row::2, column::2]
        return y

    return Case(
        ready(operators.Mosaic((3, px, px))),
        {
            "product and sum": lambda x: (chosen * x).sum(1, keepdim=True),
            "einsum": lambda x: torch.einsum("chw,bchw->bhw", chosen, x).unsqueeze(1),
            "gather": lambda x: x.gather(1, tile.expand(len(x), 1, -1, -1)),
            "indexing": indexing,
            "where": lambda x: torch.where(tile == 1, x[:, 1], torch.where(tile == 0, x[:, 0], x[:, 2])).unsqueeze(1),
        },
    )


def hadamard(px: int) -> Case:
    op = ready(operators.Hadamard.random((3, px, px), px * px // 2, seed=0))
    signs, rows, size = op.basis.signs, op.keep, px * px
    matrix = torch.from_numpy(scipy.linalg.hadamard(px)).float() / px**0.5

    def butterflies(x: Tensor) -> Tensor:
        x, half = x.flatten(2) * signs, 1
        while half < size:
            even, odd = x.reshape(len(x), 3, -1, 2, half).unbind(-2)
            x, half = torch.stack([even + odd, even - odd], -2), 2 * half
        return x.reshape(len(x), 3, size)[..., rows] / px

    others: dict[str, Way | str] = {
        "butterflies": butterflies,
        "matrices": lambda x: (matrix @ (x * signs.reshape(px, px)) @ matrix).flatten(2)[..., rows],
        "one matrix": f"{2e-9 * size**2:.0f} GB",
    }
    if 2 * size**2 < LARGEST:
        whole = torch.from_numpy(scipy.linalg.hadamard(size, dtype=np.float32))[rows] / px
        others["one matrix"] = lambda x: (x.flatten(2) * signs) @ whole.mT
    return Case(op, others)


def random_convolution(px: int) -> Case:
    op = ready(operators.RandomConvolution((3, px, px), px * px // 4, seed=0))
    spectrum, pixels = op.basis.spectrum, op.pixels

    def fourier(x: Tensor) -> Tensor:
        return torch.fft.irfft2(spectrum * torch.fft.rfft2(x), s=(px, px)).flatten(2)

    others = {
        "Fourier, indexing": lambda x: fourier(x)[..., pixels],
        "Fourier, take": lambda x: fourier(x).index_select(2, pixels),
    }
    return Case(op, others)


def fourier_mask(px: int) -> Case:
    seen = random(px, px) < 0.3
    number, corner = seen.float(), torch.fft.ifftshift(seen).float()
    return Case(
        ready(operators.FourierMask((3, px, px), seen)),
        {
            "shifts": lambda x: torch.view_as_real(number * centred_fourier(x)),
            "one shift": lambda x: torch.view_as_real(
                torch.fft.fftshift(corner * torch.fft.fft2(torch.fft.ifftshift(x, (-2, -1)), norm="ortho"), (-2, -1))
            ),
        },
    )


def centred_fourier(x: Tensor) -> Tensor:
    axes = (-2, -1)
    spectrum: Tensor = torch.fft.fftshift(torch.fft.fft2(torch.fft.ifftshift(x, axes), norm="ortho"), axes)
    return spectrum


def mri(px: int, *, coils: int) -> Case:
    seen = operators.cartesian_mask(px, px, acceleration=4, center_fraction=0.08, seed=0)
    maps = None if coils == 1 else operators.birdcage_maps(coils, px, px)
    number, sensitivities = seen.float(), torch.ones(()) if maps is None else maps.to(torch.complex64)
    signs = torch.where(torch.arange(px) % 2 == 0, 1.0, -1.0)
    board = signs.unsqueeze(1) * signs  # What the shifts are, for sides that four divides.

    def complex_image(x: Tensor) -> Tensor:
        return torch.complex(x[:, 0], x[:, 1]).unsqueeze(1)

    return Case(
        ready(operators.MRI((2, px, px), seen, coil_maps=maps)),
        {
            "shifts": lambda x: torch.view_as_real(number * centred_fourier(sensitivities * complex_image(x))),
            "signs": lambda x: torch.view_as_real(
                board * number * torch.fft.fft2(sensitivities * (board * complex_image(x)), norm="ortho")
            ),
            "columns": lambda x: measured_columns(sensitivities * complex_image(x), seen[0]),
        },
        note="a complex transform for each coil",
    )


def measured_columns(x: Tensor, chosen: Tensor) -> Tensor:
    """Transform along the rows, and along those columns alone that are measured."""
    lines = torch.fft.fftshift(torch.fft.fft(torch.fft.ifftshift(x, -1), norm="ortho"), -1)[..., chosen]
    lines = torch.fft.fftshift(torch.fft.fft(torch.fft.ifftshift(lines, -2), dim=-2, norm="ortho"), -2)
    y = lines.new_zeros(x.shape)
    y[..., chosen] = lines
    return torch.view_as_real(y)


class SciPyProduct(torch.autograd.Function):
    """The product with a sparse matrix, and its derivative with the transpose, by SciPy."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, matrix: scipy.sparse.csr_array, transpose: scipy.sparse.csr_array) -> Tensor:
        ctx.transpose = transpose
        return torch.from_numpy(np.ascontiguousarray((matrix @ x.detach().numpy().T).T))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return torch.from_numpy(np.ascontiguousarray((ctx.transpose @ gradients[0].numpy().T).T)), None, None


def tomography(px: int, *, build: Callable[[int], LinearOperator]) -> Case:
    op: Any = build(px)
    rays = op.rays
    parts = rays.starts, rays.columns, rays.values
    matrix = scipy.sparse.csr_array((parts[2].numpy(), parts[1].numpy(), parts[0].numpy()), shape=rays.shape)
    transpose = matrix.T.tocsr()
    compressed = torch.sparse_csr_tensor(*parts, size=rays.shape, check_invariants=False)
    others: dict[str, Way | str] = {
        "SciPy": lambda x: SciPyProduct.apply(x.flatten(1), matrix, transpose).reshape(-1, *op.out_shape),
        "torch CSR": lambda x: (compressed @ x.flatten(1).mT).mT.reshape(-1, *op.out_shape),
        "torch COO": f"{40e-9 * matrix.nnz:.0f} GB",
    }
    if 40 * matrix.nnz < LARGEST / 4:  # To be sorted, they are held several times over.
        listed = compressed.to_sparse_coo().coalesce()
        others["torch COO"] = lambda x: torch.sparse.mm(listed, x.flatten(1).mT).mT.reshape(-1, *op.out_shape)
    return Case(ready(op), others, note=f"reads {matrix.nnz / 1e6:.0f} million lengths, forward and back")


def parallel_beam(px: int) -> LinearOperator:
    return operators.ParallelBeamCT((1, px, px), np.linspace(0, 180, ANGLES, endpoint=False))


def fan_beam(px: int) -> LinearOperator:
    return operators.FanBeamCT(
        (1, px, px),
        np.linspace(0, 360, ANGLES, endpoint=False),
        source_distance=2.0 * px,
        detector_distance=0.0,
        detectors=math.ceil(1.5 * px),
        detector_spacing=1.0,
    )


def differences(px: int) -> Case:
    taps = torch.zeros(2, 1, 2, 2)
    taps[:, 0, 0, 0], taps[0, 0, 1, 0], taps[1, 0, 0, 1] = -1, 1, 1

    def convolve(x: Tensor) -> Tensor:
        channels = F.pad(x, (0, 1, 0, 1), "circular").flatten(0, 1).unsqueeze(1)
        return F.conv2d(channels, taps).unflatten(0, (-1, 3)).transpose(1, 2)

    def diff(x: Tensor) -> Tensor:
        return torch.stack([x.diff(dim=-2, append=x[..., :1, :]), x.diff(dim=-1, append=x[..., :1])], 1)

    return Case(
        ready(operators.FiniteDifferences((3, px, px))),
        {
            "roll": lambda x: torch.stack([x.roll(-1, -2) - x, x.roll(-1, -1) - x], 1),
            "diff": diff,
            "conv2d": convolve,
        },
        note="what is differentiated by its adjoint costs a tenth of a millisecond more",
    )


def differences_solve(px: int) -> Case:
    """With the eigenvectors of second differences, cosines, once as a matrix and once by Fourier transforms."""
    op = ready(operators.FiniteDifferences((3, px, px), boundary="replicate"))
    cosines = torch.from_numpy(scipy.fft.dct(np.eye(px), axis=0, norm="ortho"))
    line = 4 * torch.sin(torch.pi / (2 * px) * torch.arange(px, dtype=torch.float64)) ** 2
    gram = line.unsqueeze(1) + line
    inverse = torch.where(gram > 0, 1 / torch.where(gram > 0, gram, 1), 0).float()
    shifted, matrix = (1 / (gram + LAM)).float(), cosines.float()
    phases = torch.polar(torch.full((px,), (1 / (2 * px)) ** 0.5), -torch.pi / (2 * px) * torch.arange(px))
    phases[0] = (1 / (4 * px)) ** 0.5
    unphased = torch.zeros(px + 1, dtype=torch.complex64)
    unphased[:px] = 1 / phases.abs() * torch.polar(torch.ones(px), torch.pi / (2 * px) * torch.arange(px))

    def differ(x: Tensor) -> Tensor:
        return torch.stack([F.pad(x.diff(dim=-2), (0, 0, 0, 1)), F.pad(x.diff(dim=-1), (0, 1))], 1)

    def differ_back(y: Tensor) -> Tensor:
        down, right = y.unbind(1)
        return -F.pad(down[..., :-1, :], (0, 0, 1, 1)).diff(dim=-2) - F.pad(right[..., :-1], (1, 1)).diff(dim=-1)

    def by_matrix(x: Tensor, weights: Tensor) -> Tensor:
        return matrix.mT @ (weights * (matrix @ x @ matrix.mT)) @ matrix

    def cosine(x: Tensor) -> Tensor:
        return (phases * torch.fft.rfft(torch.cat([x, x.flip(-1)], -1))[..., :px]).real

    def cosine_back(c: Tensor) -> Tensor:
        return torch.fft.irfft(unphased * F.pad(c, (0, 1)), n=2 * px)[..., :px]

    def by_fourier(x: Tensor, weights: Tensor) -> Tensor:
        c = weights * cosine(cosine(x).mT).mT
        return cosine_back(cosine_back(c.mT).mT)

    def solve(v: Tensor, divide: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        x = divide(differ_back(v), inverse)
        return differ(divide(x, shifted)) + (v - differ(x)) / LAM

    return Case(
        op,
        {"cosine matrix": partial(solve, divide=by_matrix), "cosines by Fourier": partial(solve, divide=by_fourier)},
        ours=partial(op.solve, lam=LAM),
        shape=op.out_shape,
        note="two solves of two axes; beyond 512 px by Fourier transforms",
    )


def cumulative_sum(px: int) -> Case:
    lower = torch.ones(px, px).tril()
    return Case(
        ready(operators.CumulativeSum((3, px, px), -2)),
        {"cumsum": lambda x: x.cumsum(-2), "matrix": lambda x: lower @ x},
    )


def subsampled_convolution(px: int, *, size: int, stride: int) -> Case:
    kernel = random(size, size, dtype=torch.float64)
    kernel /= kernel.sum()
    taps, convolve = kernel.flip((0, 1)).float(), fourier_convolution(kernel, "reflect", px)

    def strided(x: Tensor) -> Tensor:
        return F.conv2d(padded(x, "reflect", size // 2), taps.repeat(3, 1, 1, 1), stride=stride, groups=3)

    def strided_apart(x: Tensor) -> Tensor:
        channels = padded(x, "reflect", size // 2).flatten(0, 1).unsqueeze(1)
        return F.conv2d(channels, taps[None, None], stride=stride).unflatten(0, (-1, 3)).squeeze(2)

    return Case(
        ready(operators.SubsampledConvolution((3, px, px), kernel, stride=stride, boundary="reflect")),
        {
            "strided conv2d, groups": strided,
            "strided conv2d": strided_apart,
            "Fourier, every s-th": lambda x: convolve(x)[..., ::stride, ::stride],
        },
        note="by groups is faster for small images alone",
    )


def jpeg(px: int) -> Case:
    """JPEG as in the class, sides being multiples of 16: chroma smoothed and halved, blocks transformed and rounded."""
    quality = 50.0
    cosines = torch.from_numpy(scipy.fft.dct(np.eye(8), axis=0, norm="ortho")).float()
    luma, chroma = (soft_floor((table * soft_floor(torch.tensor(200 - 2 * quality)) + 50) / 100) for table in standard_tables())
    edge = math.exp(-2) / (1 + 2 * math.exp(-2))
    smooth = torch.tensor([edge, 1 - 2 * edge, edge])
    colours = torch.tensor([[0.299, 0.587, 0.114], [-0.299, -0.587, 0.886], [0.701, -0.587, -0.114]])
    colours[1] *= 0.564
    colours[2] *= 0.713
    back = torch.tensor([[1, 0, 1.403], [1, -0.344, -0.714], [1, 1.773, 0]])

    def store(plane: Tensor, table: Tensor) -> Tensor:
        blocks = plane.unflatten(-1, (-1, 8)).unflatten(-3, (-1, 8)).transpose(-3, -2)
        c = cosines @ blocks @ cosines.mT / table
        whole = c.detach().round()
        c = (whole + (c - whole) ** 3) * table
        return (cosines.mT @ c @ cosines).transpose(-3, -2).flatten(-4, -3).flatten(-2)

    def codec(x: Tensor) -> Tensor:
        x = 127.5 * (colours @ (x + 1).flatten(2)).unflatten(2, x.shape[2:])
        soft = F.pad(x[:, 1:], (1, 1, 1, 1), "reflect").flatten(0, 1).unsqueeze(1)
        soft = F.conv2d(F.conv2d(soft, smooth[None, None, None]), smooth[None, None, :, None])
        small = F.avg_pool2d(soft, 2).unflatten(0, (-1, 2)).squeeze(2)
        light = store(x[:, :1] - 128, luma) + 128
        tints = F.interpolate(store(small - 0.5, chroma) + 0.5, scale_factor=2, mode="bilinear", align_corners=False)
        z = (back @ torch.cat([light, tints], 1).flatten(2) / 255).unflatten(2, x.shape[2:]) * 255
        above, below = (z - 255).clamp(min=0), z.clamp(max=0)
        z = z.clamp(0, 255) + 0.02 * (1 - (-above).exp()) + 0.02 * (below.exp() - 1)
        return z / 127.5 - 1

    return Case(
        ready(operators.JPEG((3, px, px), quality)),
        {
            "kornia": lambda x: 2 * kornia.enhance.jpeg_codec_differentiable((x + 1) / 2, torch.tensor([quality])) - 1,
            "blocks": codec,
        },
        tolerance=5e-3,  # Coefficients halfway between two whole numbers go either way.
        note="kornia's codec; one of our own gains at 256 px, B = 1 only",
    )


def soft_floor(x: Tensor) -> Tensor:
    return x.floor() + (x - 0.5 - x.floor()) ** 3


def standard_tables() -> tuple[Tensor, Tensor]:
    """Return the tables of libjpeg at quality 50, luma and chroma."""
    from io import BytesIO

    from PIL import Image

    stored = BytesIO()
    Image.new("RGB", (16, 16)).save(stored, "JPEG", quality=50)
    image: Any = Image.open(stored)
    luma, chroma = image.quantization.values()
    return torch.tensor(luma).reshape(8, 8), torch.tensor(chroma).reshape(8, 8)


def clip(px: int) -> Case:
    return Case(
        ready(operators.Clip((3, px, px), -1.0, 1.0, gain=2.0)),
        {
            "clamp": lambda x: (2 * x).clamp(-1, 1),
            "hardtanh": lambda x: F.hardtanh(2 * x),
            "within": lambda x: 2 * x.clamp(-0.5, 0.5),
        },
        note="hardtanh has the derivative 0 at the ends themselves",
    )


class StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, step: float) -> Tensor:
        return ((x + 1) / step).round_().clamp_(0, LEVELS - 1).mul_(step).sub_(1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0], None


def quantise(px: int) -> Case:
    step = 2 / (LEVELS - 1)

    def surrogate(x: Tensor) -> Tensor:
        return x + (((x + 1) / step).round().clamp(0, LEVELS - 1) * step - 1 - x).detach()

    return Case(
        ready(operators.Quantize((3, px, px), LEVELS, low=-1.0, high=1.0)),
        {"detached": surrogate, "own derivative": lambda x: StraightThrough.apply(x, step)},
        tolerance=1e-3,  # Values halfway between two levels go either way.
        note="a derivative of its own needs rules for forward mode and vmap",
    )


def gamma(px: int, *, exponent: float) -> Case:
    toe = 1 / 512  # Where the curve is steeper than the power is followed.

    def below_one(x: Tensor) -> Tensor:
        u = (x + 1) / 2
        start = toe**exponent * (u / toe) * ((2 - exponent) - (1 - exponent) * u / toe)
        return 2 * torch.where(u < toe, start, u.clamp(min=toe) ** exponent) - 1

    above_one: dict[str, Way | str] = {
        "power": lambda x: 2 * ((x + 1) / 2) ** exponent - 1,
        "kornia": lambda x: 2 * kornia.enhance.adjust_gamma((x + 1) / 2, exponent) - 1,
    }
    others = above_one if exponent > 1 else {"power, toe": below_one}
    why = "a plain power is NaN below black"
    return Case(ready(operators.Gamma((3, px, px), exponent)), others, note=why)


def phase_retrieval(px: int) -> Case:
    margin = px // 4

    def shifts(x: Tensor) -> Tensor:
        return torch.fft.fftshift(torch.fft.fft2(F.pad(x, (margin,) * 4), norm="ortho").abs(), (-2, -1))

    def half(x: Tensor) -> Tensor:
        z = torch.fft.rfft2(F.pad(x, (margin,) * 4), norm="ortho").abs()
        left = z[..., 1:-1].flip((-2, -1)).roll(1, -2)
        return torch.fft.fftshift(torch.cat([z, left], -1), (-2, -1))

    return Case(ready(operators.PhaseRetrieval((3, px, px), oversampling=2.0)), {"shifts": shifts, "half spectrum": half})


def coded_diffraction(px: int) -> Case:
    op = ready(operators.CodedDiffraction.random((3, px, px), 4, seed=0))
    masks = op.masks.unsqueeze(1)
    signs = torch.where(torch.arange(px) % 2 == 0, 1.0, -1.0)
    board = masks * signs.unsqueeze(1) * signs
    return Case(
        op,
        {
            "shifts": lambda x: centred_fourier(masks * x.unsqueeze(1)).abs(),
            "one shift": lambda x: torch.fft.fftshift(torch.fft.fft2(masks * x.unsqueeze(1), norm="ortho").abs(), (-2, -1)),
            "signs": lambda x: torch.fft.fft2(board * x.unsqueeze(1), norm="ortho").abs(),
        },
        note="a complex transform for each mask",
    )


def magnitude(px: int) -> Case:
    return Case(ready(operators.Magnitude((3, px, px))), {"abs": torch.abs, "x sign x": lambda x: x * x.detach().sign()})


CASES: Mapping[str, Callable[[int], Case]] = {
    "Identity": identity,
    "Mask, 30 %": mask,
    "Crop, a quarter": crop,
    **{f"Blur, gaussian, {boundary}": partial(gaussian_blur, boundary=boundary) for boundary in PAD},
    **{f"Blur, motion, {boundary}": partial(motion_blur, boundary=boundary) for boundary in PAD},
    "VaryingBlur, 4 kernels": varying_blur,
    "Downsample, area x4": area,
    "Downsample, bicubic x4": downsample_bicubic,
    "Resize, bicubic 5/8": resize,
    "ChannelMix.grey": grey,
    "ChannelMix, 8 of 3": channel_mix,
    "ChannelMix.solve, 8 of 3": channel_mix_solve,
    "Mosaic": mosaic,
    "Hadamard, half": hadamard,
    "RandomConvolution, a quarter": random_convolution,
    "FourierMask, 30 %": fourier_mask,
    "MRI, 1 coil": partial(mri, coils=1),
    "MRI, 8 coils": partial(mri, coils=8),
    "FiniteDifferences": differences,
    "FiniteDifferences.solve": differences_solve,
    "CumulativeSum": cumulative_sum,
    "SubsampledConvolution, 9 x 9, stride 4": partial(subsampled_convolution, size=9, stride=4),
    "SubsampledConvolution, 31 x 31, stride 2": partial(subsampled_convolution, size=31, stride=2),
    "JPEG, quality 50": jpeg,
    "Clip": clip,
    f"Quantize, {LEVELS} levels": quantise,
    "Gamma, 2.2": partial(gamma, exponent=2.2),
    "Gamma, 1 / 2.2": partial(gamma, exponent=1 / 2.2),
    "PhaseRetrieval": phase_retrieval,
    "CodedDiffraction, 4 masks": coded_diffraction,
    "Magnitude": magnitude,
    f"ParallelBeamCT, {ANGLES} angles": partial(tomography, build=parallel_beam),
    f"FanBeamCT, {ANGLES} angles": partial(tomography, build=fan_beam),
}
