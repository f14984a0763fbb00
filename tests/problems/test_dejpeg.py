"""JPEG files: read to the last coefficient, refused where they are of another kind, and restored."""

from __future__ import annotations

import io
from typing import Any, cast

import numpy as np
import pytest
import scipy.fft
import torch
from helpers import randn
from PIL import Image, ImageOps, JpegImagePlugin
from skimage import data
from torch.testing import assert_close

from invdiff import PosteriorSampler
from invdiff.operators import GaussianNoise, JPEGCoefficients, RoundingNoise
from invdiff.priors import Gaussian
from invdiff.problems import Dejpeg
from invdiff.problems.jpeg_file import JPEGFile, read_jpeg

PHOTOGRAPH = Image.fromarray(data.chelsea()).crop((100, 60, 193, 131))  # 93 x 71


def planes(file: JPEGFile) -> list[np.ndarray]:
    """The planes of a file as any decoder has them before it rounds and interpolates."""
    found = []
    for component in file.components:
        rows, columns, _ = component.coefficients.shape
        blocks = (component.coefficients * component.table).reshape(rows, columns, 8, 8).astype(float)
        pixels = scipy.fft.idctn(blocks, axes=(2, 3), norm="ortho").transpose(0, 2, 1, 3).reshape(8 * rows, 8 * columns)
        found.append((pixels + 128).clip(0, 255))
    return found


@pytest.mark.parametrize("quality", [10, 75, 100])
@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"optimize": True},
        {"progressive": True},
        {"restart_marker_blocks": 2},
        {"progressive": True, "restart_marker_rows": 1},
    ],
    ids=str,
)
def test_against_libjpeg(tmp_path, quality, subsampling, options):
    PHOTOGRAPH.save(tmp_path / "a.jpg", quality=quality, subsampling=subsampling, **options)
    file = read_jpeg(tmp_path / "a.jpg")
    with Image.open(tmp_path / "a.jpg") as image:
        assert isinstance(image, JpegImagePlugin.JpegImageFile)
        assert [component.table.tolist() for component in file.components] == [
            image.quantization[layer[3]] for layer in image.layer
        ]
        image.draft("YCbCr", None)
        expected = np.asarray(image).astype(float)
    assert file.size == (71, 93)
    for k, plane in enumerate(planes(file)):
        if k == 0 or subsampling == "4:4:4":  # else libjpeg has interpolated
            assert np.abs(plane[:71, :93] - expected[..., k]).max() < 1.01


def test_progressive_files_hold_the_same(tmp_path):
    PHOTOGRAPH.save(tmp_path / "a.jpg", quality=40)
    PHOTOGRAPH.save(tmp_path / "b.jpg", quality=40, progressive=True)
    (first, y), (second, again) = (Dejpeg.from_file(tmp_path / name) for name in ("a.jpg", "b.jpg"))
    assert torch.equal(y, again)
    assert first.size == second.size == (71, 93)


def test_grey(tmp_path):
    PHOTOGRAPH.convert("L").save(tmp_path / "a.jpg", quality=40)
    problem, y = Dejpeg.from_file(tmp_path / "a.jpg")
    assert y.shape == (1, 64, 9, 12)
    shown = problem.preview(y)
    expected = torch.from_numpy(np.array(Image.open(tmp_path / "a.jpg"))).float() / 127.5 - 1
    assert (shown[0, 0] - expected).abs().max() < 1.5 / 127.5
    coloured, y_colour = problem.in_color(y)
    assert_close(coloured.preview(y_colour), shown.expand(-1, 3, -1, -1), rtol=0, atol=1e-6)
    grey = (0.3 * randn(1, 1, 71, 93, seed=1)).clamp(-1, 1)
    narrow, wide = (p.operator((c, 71, 93)) for p, c in ((problem, 1), (coloured, 3)))
    assert_close(wide.measure(grey.expand(-1, 3, -1, -1), seed=0)[:, :64], narrow.measure(grey, seed=0))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    PHOTOGRAPH.save(tmp_path / "a.jpg", quality=90, exif=exif)
    problem, y = Dejpeg.from_file(tmp_path / "a.jpg")
    expected = np.array(ImageOps.exif_transpose(Image.open(tmp_path / "a.jpg")))
    upright = problem.upright(problem.preview(y))[0].permute(1, 2, 0)
    assert (127.5 * (upright + 1) - torch.from_numpy(expected)).abs().max() < 3.5


def encoded(image: Image.Image = PHOTOGRAPH, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", **options)
    return file.getvalue()


def with_frame(content: bytes, marker: int) -> bytes:
    at = content.index(b"\xff\xc0")
    return content[: at + 1] + bytes([marker]) + content[at + 2 :]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (encoded(PHOTOGRAPH.convert("CMYK")), "JPEG of CMYK, expected grayscale or YCbCr"),
        (encoded(keep_rgb=True), "JPEG of RGB"),
        (with_frame(encoded(), 0xC9), "arithmetically coded, expected a baseline"),
        (encoded()[:-2], "ends early"),
        (encoded()[:300] + b"\xff\xd9", "is damaged"),
        (b"\x89PNG", "is not a JPEG file"),
        (b"\xff\xd8\xff\xd9", "holds no image"),
        (encoded().replace(b"\x03\x01\x22\x00", b"\x03\x01\x22\x07"), "is damaged"),
    ],
    ids=["CMYK", "RGB", "arithmetic", "cut", "no data", "PNG", "empty", "no such table"],
)
def test_what_cannot_be_read(tmp_path, content, message):
    (tmp_path / "a.jpg").write_bytes(content)
    with pytest.raises(ValueError, match=f"a.jpg: .*{message}"):
        read_jpeg(tmp_path / "a.jpg")


def test_damage_is_reported_never_another_exception(tmp_path):
    whole, seeded = encoded(quality=50, progressive=True), np.random.default_rng(0)
    for _ in range(30):
        damaged = bytearray(whole)
        for at in seeded.integers(2, len(whole), 3):
            damaged[at] = seeded.integers(256)
        (tmp_path / "a.jpg").write_bytes(bytes(damaged))
        try:
            read_jpeg(tmp_path / "a.jpg")
        except ValueError as error:
            assert str(error).startswith(str(tmp_path / "a.jpg"))  # noqa: PT017 - some damage goes unnoticed


def test_a_subsampling_that_is_not_known(tmp_path):
    content = encoded(quality=50, subsampling="4:4:4")
    at = content.index(b"\xff\xc0") + 4 + 6 + 1
    (tmp_path / "a.jpg").write_bytes(content[:at] + b"\x41" + content[at + 1 :])
    with pytest.raises(ValueError, match=r"factors are \[\(1, 4\), .*expected those of 4:4:4|is damaged"):
        Dejpeg.from_file(tmp_path / "a.jpg")


class TestDejpeg:
    def test_qualities_are_those_of_libjpeg(self):
        problem = Dejpeg(quality=50)
        assert problem.tables[0][:4].tolist() == [16, 11, 10, 16]  # the first of ITU-T T.81, table K.1
        assert problem.tables[1][:4].tolist() == problem.tables[2][:4].tolist() == [17, 18, 24, 47]  # and of K.2
        assert Dejpeg(quality=100).tables[0].unique().tolist() == [1]

    def test_simulated_is_what_a_file_holds(self, tmp_path):
        image = PHOTOGRAPH.crop((0, 0, 80, 64))
        image.save(tmp_path / "a.jpg", quality=25)
        _, y = Dejpeg.from_file(tmp_path / "a.jpg")
        x = torch.from_numpy(np.array(image)).double().permute(2, 0, 1).unsqueeze(0) / 127.5 - 1
        problem = Dejpeg(quality=25)
        assert_close(problem.fit(x), x, rtol=0, atol=0)
        simulated = problem.operator((3, 64, 80)).measure(x, seed=0)
        assert ((simulated - y).abs() < 1e-4).double().mean() > 0.995

    def test_finish_at_borders_comes_near(self):
        problem = Dejpeg(quality=20, size=(21, 35))
        op = problem.operator((3, 21, 35))
        y, sample = op.measure(randn(1, 3, 21, 35, seed=1), seed=0), randn(1, 3, 21, 35, seed=2)
        assert isinstance(op.noise, RoundingNoise)
        half = op.noise.step / 2

        def beyond(x):
            return op.keep_measured(((op(x) - y).abs() - half).clamp(min=0)).square().sum()

        assert beyond(problem.finish(sample, y, op)) < 0.1 * beyond(sample)

    def test_solves(self):
        """Under a smooth Gaussian prior the mean is nearer to the truth than what a viewer shows."""
        i = torch.arange(16.0, dtype=torch.float64)
        rows = torch.exp(-((i - i.unsqueeze(1)) ** 2) / 18) + 1e-4 * torch.eye(16, dtype=torch.float64)
        prior = Gaussian(torch.zeros(1, 16, 16, dtype=torch.float64), 0.1 * torch.kron(rows, rows))
        problem, x = Dejpeg(quality=10), prior.sample(6, seed=0)
        op = problem.operator((1, 16, 16))
        y = op.measure(x, seed=0)
        post = PosteriorSampler(prior, op, method="mmps", steps=2, max_iterations=20, rtol=1e-3).run(y, num_samples=8)
        mean = problem.finish(post.mean, y, op)
        assert (mean - x).square().mean() < 0.8 * (problem.preview(y) - x).square().mean()

    def test_sizes(self):
        problem = Dejpeg(quality=10)
        assert problem.image_shape((384, 2, 3)) == (3, 32, 48)
        assert problem.image_shape((64, 2, 3)) == (1, 16, 24)
        assert Dejpeg(quality=10, size=(17, 33)).image_shape((384, 2, 3)) == (3, 17, 33)
        assert problem.fit(randn(1, 3, 37, 50)).shape == (1, 3, 32, 48)
        assert isinstance(problem.operator((3, 16, 16)), JPEGCoefficients)

    @pytest.mark.parametrize(
        ("build", "message"),
        [
            (lambda: Dejpeg(), "either quality or tables"),
            (lambda: Dejpeg(quality=10, tables=[[1] * 64]), "either quality or tables"),
            (lambda: Dejpeg(quality=0), "between 1 and 100, got 0"),
            (lambda: Dejpeg(tables=[[0] * 64]), "64 integers from 1 to 65535"),
            (lambda: Dejpeg(tables=[[1] * 63]), "got 1 with 63 values"),
            (lambda: Dejpeg(quality=10, subsampling="4:1:1"), "unknown subsampling '4:1:1'"),
            (lambda: Dejpeg(quality=10, orientation=9), "orientation must be between 1 and 8"),
            (lambda: Dejpeg(quality=10).operator((3, 16, 16), noise=GaussianNoise(0.1)), "rounding is the only noise"),
            (lambda: Dejpeg(quality=10, size=(16, 16)).operator((3, 16, 32)), "32 x 16 pixels, expected 16 x 16"),
            (lambda: Dejpeg(quality=10).image_shape((3, 16, 16)), "3 coefficients per unit, expected 64"),
            (lambda: Dejpeg(quality=10, size=(16, 16)).image_shape((384, 2, 2)), "no measurement of shape"),
            (lambda: Dejpeg(quality=10).fit(randn(1, 3, 15, 40)), "40 x 15 pixels, expected at least 16 x 16"),
            (lambda: Dejpeg(quality=10).fit(randn(1, 2, 16, 16)), "has 2 channels"),
            (lambda: Dejpeg(quality=10).in_color(randn(1, 384, 1, 1)), "only grayscale measurements"),
        ],
    )
    def test_what_cannot_be(self, build, message):
        with pytest.raises(ValueError, match=message):
            build()

    def test_kind_of_quality(self):
        with pytest.raises(TypeError, match=r"an integer, got 7\.5"):
            Dejpeg(quality=cast(Any, 7.5))
