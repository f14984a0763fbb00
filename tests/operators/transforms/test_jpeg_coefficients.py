"""The coefficients of JPEG files: against scipy's transform, libjpeg's encoder and decoder, and figures by hand."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.fft
import torch
from cases import build
from helpers import randn
from operator_checks import Planted, check_adjoint, check_precondition, check_solve, check_svd
from PIL import Image
from skimage import data
from torch import Tensor
from torch.testing import assert_close

from invdiff.operators import GaussianNoise, JPEGCoefficients, LinearOperator, RoundingNoise, whiten
from invdiff.problems import Dejpeg

SIZES = [(48, 64), (37, 50), (41, 33)]  # whole units; odd ones; with blocks of luma beyond the image


def photograph(height: int, width: int, channels: int = 3) -> Image.Image:
    part = Image.fromarray(data.chelsea()).crop((100, 60, 100 + width, 60 + height))
    return part if channels == 3 else part.convert("L")


def tensor(image: Image.Image, dtype: torch.dtype = torch.float64) -> Tensor:
    values = torch.from_numpy(np.array(image)).to(dtype)
    return torch.atleast_3d(values).permute(2, 0, 1).unsqueeze(0) / 127.5 - 1


def test_blocks_are_those_of_scipy() -> None:
    op, x = JPEGCoefficients((3, 16, 24), "4:4:4"), randn(1, 3, 16, 24)
    planes = torch.einsum("ck,bkhw->bchw", op.mix, x)
    blocks = planes.reshape(3, 2, 8, 3, 8).permute(0, 2, 4, 1, 3)  # plane, row and column in a block, block
    expected = scipy.fft.dctn(blocks.numpy(), axes=(1, 2), norm="ortho").reshape(1, 192, 2, 3)
    assert_close(op(x), torch.from_numpy(expected), rtol=1e-12, atol=1e-12)


def test_a_flat_picture_by_hand() -> None:
    x = torch.tensor([0.5, -0.25, 0.75], dtype=torch.float64).reshape(1, 3, 1, 1).expand(1, 3, 16, 16)
    y = JPEGCoefficients((3, 16, 16), "4:2:0")(x).reshape(6, 64)
    luma = 0.299 * 0.5 - 0.587 * 0.25 + 0.114 * 0.75
    blue, red = (0.75 - luma) / 1.772, (0.5 - luma) / 1.402
    expected = 8 * torch.tensor([luma, luma, luma, luma, blue, red], dtype=torch.float64)
    assert_close(y[:, 0], expected, rtol=1e-12, atol=1e-12)
    assert_close(y[:, 1:], torch.zeros(6, 63, dtype=torch.float64), rtol=0, atol=1e-12)


def test_blocks_of_luma_come_row_by_row_and_frequencies_by_rows() -> None:
    x = torch.zeros(1, 3, 16, 32, dtype=torch.float64)
    ramp = torch.cos(torch.pi / 8 * (torch.arange(8, dtype=torch.float64) + 0.5))
    x[..., :8, 24:] = ramp  # to the right, in the upper right block of the second unit
    y = JPEGCoefficients((3, 16, 32), "4:2:0")(x)
    luma = y[:, :256].reshape(4, 64, 1, 2)
    assert luma.abs().amax() == luma[1, 1, 0, 1].abs() > 1
    assert luma.abs().sum() == pytest.approx(float(luma[1, 1, 0, 1]), abs=1e-12)


@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0"])
@pytest.mark.parametrize("size", SIZES)
def test_rounded_they_are_what_libjpeg_writes(tmp_path, subsampling: str, size: tuple[int, int]) -> None:
    """Borders included; but for values so near to the middle of a step that 8 bits of color decide."""
    image = photograph(*size)
    for quality, share in ((10, 0.998), (50, 0.985), (75, 0.97)):
        image.save(tmp_path / "a.jpg", quality=quality, subsampling=subsampling)
        problem, y = Dejpeg.from_file(tmp_path / "a.jpg")
        op = problem.operator((3, *size))
        assert isinstance(op.noise, RoundingNoise)
        step = torch.as_tensor(op.noise.step).float()
        steps_off = ((op.measure(tensor(image), seed=0).float() - y) / step).abs()
        assert (steps_off < 1e-3).float().mean() > share
        assert steps_off.max() < 1.001


@pytest.mark.parametrize("size", SIZES)
def test_gray(tmp_path, size: tuple[int, int]) -> None:
    image = photograph(*size, channels=1)
    image.save(tmp_path / "a.jpg", quality=30)
    problem, y = Dejpeg.from_file(tmp_path / "a.jpg")
    found = problem.operator((1, *size)).measure(tensor(image), seed=0)
    assert ((found.float() - y).abs() < 1e-4).float().mean() > 0.998


@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0"])
@pytest.mark.parametrize("size", SIZES)
def test_decoded_they_are_what_libjpeg_shows(subsampling: str, size: tuple[int, int], tmp_path) -> None:
    photograph(*size).save(tmp_path / "a.jpg", quality=20, subsampling=subsampling)
    problem, y = Dejpeg.from_file(tmp_path / "a.jpg")
    gap = 127.5 * (problem.preview(y) - tensor(Image.open(tmp_path / "a.jpg"), torch.float32)).abs()
    assert gap.max() < 3.5  # three planes of 8 bits, and the rounding of the interpolation
    assert gap.mean() < 0.6


def test_what_is_missing() -> None:
    op = JPEGCoefficients((3, 17, 33), "4:2:0")  # 3 rows and 5 columns of blocks of luma, of 4 and 6
    assert op.out_shape == (384, 2, 3)
    assert op.dof == 64 * (3 * 5 + 2 * 2 * 3)
    y = op.measure(randn(2, 3, 17, 33), seed=0)
    assert (y[:, ~op.measured] == 0).all()
    assert (op(randn(2, 3, 17, 33))[:, op.measured] != 0).any()


def test_laws_at_a_size_that_is_solved_by_iterations() -> None:
    for op in (JPEGCoefficients((3, 33, 17), "4:2:0"), JPEGCoefficients((3, 32, 32), "4:2:0")):
        check_adjoint(op)
        check_solve(op)
        check_precondition(op)
    assert JPEGCoefficients((3, 32, 32), "4:2:0").closed_form
    assert not JPEGCoefficients((3, 33, 17), "4:2:0").closed_form


def test_a_gray_picture_of_whole_blocks_is_only_turned() -> None:
    op, x = JPEGCoefficients((1, 16, 8), "4:2:0"), randn(2, 1, 16, 8)
    assert op.gram_scale == 1
    assert_close(op.pinv(op(x)), x, rtol=1e-12, atol=1e-12)
    assert_close(op.decode(op(x)), x.clamp(-1, 1), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("law", [check_adjoint, check_solve])
def test_laws_catch_a_thousandth(law) -> None:
    for op in build(JPEGCoefficients)[:4]:
        law(op)
        with pytest.raises(AssertionError):
            law(Planted(op, **{law.__name__.removeprefix("check_"): 1.001}))


def test_whitened_by_the_steps() -> None:
    op = Dejpeg(quality=25, subsampling="4:4:4").operator((3, 8, 8))
    assert isinstance(op.noise, RoundingNoise)
    op.noise = GaussianNoise(torch.as_tensor(op.noise.step) / 12**0.5)
    whitened = whiten(op)
    assert isinstance(whitened, LinearOperator)
    check_svd(whitened)


@pytest.mark.parametrize(
    ("shape", "subsampling", "message"),
    [((2, 8, 8), "4:4:4", "3 channels .RGB. or 1 .gray., got 2"), ((3, 8, 8), "4:1:1", "unknown subsampling '4:1:1'")],
)
def test_bad_input(shape: tuple[int, ...], subsampling: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        JPEGCoefficients(shape, subsampling)
