"""Masks, crops, channel mixes and mosaics."""

from __future__ import annotations

import math
from typing import Any

import kornia.color
import numpy as np
import pytest
import torch
from helpers import norm, randn
from PIL import Image
from skimage import data
from torch import Tensor
from torch.testing import assert_close

from invdiff.operators import (
    ChannelMix,
    Crop,
    GaussianNoise,
    LinearOperator,
    Mask,
    Matrix,
    Mosaic,
    box_mask,
)
from invdiff.operators.sampling.mosaic import BAYER_PATTERNS


class TestMask:
    mask = torch.tensor([[1, 0, 1], [0, 0, 1]])

    def test_missing_entries_are_zero_and_free_of_noise(self) -> None:
        op = Mask(self.mask, sigma_y=0.5)
        y = op.measure(randn(2, 2, 3), seed=0)
        assert (y[:, self.mask == 0] == 0).all()
        assert (y[:, self.mask == 1] != 0).all()
        assert (op.measured, op.dof) == (3, 3)

    def test_ignores_what_is_missing(self) -> None:
        x = randn(1, 2, 3)
        holes = torch.where(self.mask.bool(), x, math.nan)
        op = Mask(self.mask)
        assert torch.equal(op(holes), op(x))
        assert torch.equal(op.measure(holes, seed=0), op.measure(x, seed=0))
        assert torch.equal(op.prox(x, holes, 0.1), op.prox(x, op(x), 0.1))

    @pytest.mark.parametrize(
        "mask", [mask.bool(), mask.float(), mask.numpy(), mask.numpy().astype(bool), mask[None], mask.expand(4, 2, 3)]
    )
    def test_broadcasts_over_channels(self, mask: Tensor | np.ndarray) -> None:
        op = Mask(mask, (4, 2, 3))
        assert op.in_shape == (4, 2, 3)
        assert op.measured == 12
        assert_close(op(randn(1, 4, 2, 3)), randn(1, 4, 2, 3) * self.mask)

    def test_takes_the_shape_of_the_mask(self) -> None:
        assert Mask(self.mask).in_shape == (2, 3)

    def test_keeps_its_own_copy(self) -> None:
        mask = self.mask.bool()
        op = Mask(mask)
        mask.fill_(True)
        assert op.dof == int(op.mask.sum()) == 3

    @pytest.mark.parametrize(
        ("mask", "in_shape", "message"),
        [
            (torch.tensor([0, 255, 128]), None, "got also 128, 255. Compare it with a threshold"),
            (torch.tensor([1.0, math.nan]), None, "got also nan"),
            (torch.zeros(2, 3), None, "every entry is missing"),
            (torch.ones(2, 3), (3, 2, 4), r"shape \(2, 3\) does not broadcast to in_shape \(3, 2, 4\)"),
            (torch.ones(1, 3, 2, 3), (3, 2, 3), "does not broadcast"),
            (torch.tensor(1), None, "in_shape must hold positive integers"),
        ],
    )
    def test_rejects(self, mask: Tensor, in_shape: tuple[int, ...] | None, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            Mask(mask, in_shape)


class TestCrop:
    @pytest.mark.parametrize("lead", [(), (3,), (2, 3)])
    def test_agrees_with_pillow(self, lead: tuple[int, ...]) -> None:
        x = randn(2, *lead, 8, 9, dtype=torch.float32)
        op = Crop((*lead, 8, 9), top=1, left=3, height=5, width=4)
        planes = [Image.fromarray(plane.numpy()).crop((3, 1, 7, 6)) for plane in x.reshape(-1, 8, 9)]
        expected = torch.stack([torch.from_numpy(np.array(plane)) for plane in planes])
        assert torch.equal(op(x), expected.reshape(2, *lead, 5, 4))

    def test_pinv_surrounds_with_zeros(self) -> None:
        op = Crop((3, 4), top=1, left=2, height=2, width=1)
        y = torch.tensor([[[5.0], [7.0]]])
        assert torch.equal(op.pinv(y), torch.tensor([[[0.0, 0, 0, 0], [0, 0, 5, 0], [0, 0, 7, 0]]]))

    def test_gives_what_a_mask_gives(self) -> None:
        mask = ~box_mask(6, 7, top=1, left=2, box_height=3, box_width=4)
        crop, masked = Crop((2, 6, 7), top=1, left=2, height=3, width=4), Mask(mask, (2, 6, 7))
        x, z = randn(2, 2, 6, 7), randn(2, 2, 6, 7, seed=1)
        assert crop.dof == masked.dof
        assert_close(crop.prox(z, crop(x), 0.3), masked.prox(z, masked(x), 0.3))

    def test_rejects_shapes_and_kinds(self) -> None:
        with pytest.raises(ValueError, match=r"Crop: in_shape must end in \(H, W\), without the batch axis, got \(5,\)"):
            Crop((5,), top=0, left=0, height=1, width=1)
        half: Any = 0.5
        with pytest.raises(TypeError, match=r"Crop: top, left, height and width .* must be integers, got 0, 0, 1 and 0\.5"):
            Crop((3, 4, 5), top=0, left=0, height=1, width=half)


class TestChannelMix:
    def test_gray_agrees_with_pillow(self) -> None:
        photograph = data.astronaut()[::8, ::8]
        x = torch.tensor(photograph).movedim(-1, 0)[None].double()
        gray = torch.from_numpy(np.array(Image.fromarray(photograph).convert("L"))).double()
        # Pillow rounds to whole numbers, and its weights to 16 bits.
        assert (ChannelMix.gray((3, 64, 64))(x)[0, 0] - gray).abs().max() <= 0.5 + 3 * 255 * 2**-16

    def test_gray_agrees_with_kornia(self) -> None:
        x = randn(2, 3, 5, 6)
        assert_close(ChannelMix.gray((3, 5, 6))(x), kornia.color.rgb_to_grayscale(x), atol=1e-14, rtol=0)

    def test_gray_keeps_the_range_of_images(self) -> None:
        x = torch.tensor([-1.0, 1.0], dtype=torch.float64).reshape(2, 1, 1, 1).expand(2, 3, 2, 2)
        assert_close(ChannelMix.gray((3, 2, 2))(x), x[:, :1], atol=1e-15, rtol=0)

    def test_by_hand(self) -> None:
        op = ChannelMix((2, 1, 2), torch.tensor([[1.0, 2.0], [0.0, 1.0], [3.0, -1.0]]))
        x = torch.tensor([[[[1.0, 10.0]], [[2.0, 20.0]]]])
        assert torch.equal(op(x), torch.tensor([[[[5.0, 50.0]], [[2.0, 20.0]], [[1.0, 10.0]]]]))
        row = ChannelMix((2, 1, 2), torch.tensor([[3.0, 4.0]]))
        assert_close(row.solve(torch.tensor([[[[26.0, 52.0]]]]), 1.0), torch.tensor([[[[1.0, 2.0]]]]))
        assert_close(row.pinv(torch.tensor([[[[25.0, 50.0]]]])), torch.tensor([[[[3.0, 6.0]], [[4.0, 8.0]]]]))

    @pytest.mark.parametrize("space", [(), (4,), (3, 2), (2, 1, 3)])
    def test_is_the_matrix_on_every_pixel(self, space: tuple[int, ...]) -> None:
        matrix, x = randn(5, 3), randn(2, 3, *space, seed=1)
        op, pixel, per_item = ChannelMix((3, *space), matrix), Matrix(matrix), torch.tensor([0.1, 7.0], dtype=torch.float64)
        rows = x.reshape(2, 3, -1).mT
        y = op(x)
        assert_close(y.reshape(2, 5, -1).mT, rows @ matrix.T)
        assert_close(op.pinv(y).reshape(2, 3, -1).mT, y.reshape(2, 5, -1).mT @ torch.linalg.pinv(matrix).T)
        solved = op.solve(y, per_item.reshape(-1, *(1,) * (y.ndim - 1))).reshape(2, 5, -1).mT
        for i in range(2):
            assert_close(solved[i], pixel.solve(y[i].reshape(5, -1).T, float(per_item[i])))

    @pytest.mark.parametrize("shape", [(3, 5), (5, 3), (4, 4)])
    def test_pinv_keeps_small_singular_values(self, shape: tuple[int, int]) -> None:
        u, _, vt = torch.linalg.svd(randn(*shape), full_matrices=False)
        matrix = (u * torch.logspace(0, -6, min(shape), dtype=torch.float64)) @ vt
        x = randn(2, min(shape), 7, seed=1)
        x = x if shape[0] >= shape[1] else vt.T @ x  # Of what is not measured nothing comes back.
        op = ChannelMix((shape[1], 7), matrix)
        assert (norm(op.pinv(op(x)) - x) < 1e-9 * norm(x)).all()

    @pytest.mark.parametrize("lam", [1e-6, 1e-2])
    @pytest.mark.parametrize("shape", [(40, 5), (3, 3), (3, 5)])
    def test_solve_holds_in_float32(self, shape: tuple[int, int], lam: float) -> None:
        u, _, vt = torch.linalg.svd(randn(*shape), full_matrices=False)
        op = ChannelMix((shape[1], 7), (u * torch.logspace(0, -2, min(shape), dtype=torch.float64)) @ vt)
        y = op(randn(2, shape[1], 7, seed=1))
        exact, rounded = op.adjoint(op.solve(y, lam)), op.adjoint(op.solve(y.float(), lam)).double()
        assert (norm(rounded - exact) < 2e-5 * norm(exact)).all()

    def test_knows_rows_that_are_orthogonal_and_equally_long(self) -> None:
        rotation = torch.linalg.qr(randn(4, 4)).Q
        for matrix in (torch.tensor([[3.0, 4.0]]), 2 * rotation, rotation[:3]):
            op, y = ChannelMix((matrix.shape[1], 6), matrix), randn(2, len(matrix), 6)
            assert op.gram_scale is not None
            assert_close(op(op.adjoint(y)), op.gram_scale * y)
        for matrix in (rotation[:, :3], torch.diag(torch.tensor([1.0, 1.001])), torch.ones(2, 2)):
            assert ChannelMix((matrix.shape[1], 6), matrix).gram_scale is None

    def test_keeps_its_own_copy(self) -> None:
        matrix = torch.ones(1, 2, dtype=torch.float64)
        op = ChannelMix((2, 3), matrix)
        matrix.zero_()
        assert (op(torch.ones(1, 2, 3)) == 2).all()

    @pytest.mark.parametrize(
        ("matrix", "error", "message"),
        [
            (torch.ones(3, 2), ValueError, r"one column per channel, 3 for in_shape \(3, 4, 5\), got shape \(3, 2\)"),
            (torch.ones(3), ValueError, r"matrix must be two-dimensional and not empty, got shape \(3,\)"),
            (torch.zeros(2, 3), ValueError, "matrix holds only zeros, so nothing is measured"),
            (torch.full((1, 3), torch.nan), ValueError, "matrix must be finite, got 3 NaN or infinite values of 3"),
            (torch.ones(1, 3, dtype=torch.complex64), TypeError, r"matrix must be real, got torch\.complex64"),
        ],
    )
    def test_rejects(self, matrix: Tensor, error: type[Exception], message: str) -> None:
        with pytest.raises(error, match=f"ChannelMix: .*{message}"):
            ChannelMix((3, 4, 5), matrix)

    def test_gray_rejects_what_is_not_color(self) -> None:
        with pytest.raises(ValueError, match=r"one column per channel, 1 for in_shape \(1, 4, 5\), got shape \(1, 3\)"):
            ChannelMix.gray((1, 4, 5))


class TestMosaic:
    @pytest.mark.parametrize(
        ("pattern", "rows"),
        [("RGGB", ["RGR", "GBG"]), ("BGGR", ["BGB", "GRG"]), ("GRBG", ["GRG", "BGB"]), ("GBRG", ["GBG", "RGR"])],
    )
    def test_by_hand(self, pattern: str, rows: list[str]) -> None:
        levels = torch.tensor([1.0, 2.0, 3.0]).reshape(1, 3, 1, 1).expand(1, 3, 3, 3)
        expected = torch.tensor([[{"R": 1.0, "G": 2.0, "B": 3.0}[color] for color in row] for row in [*rows, rows[0]]])
        y = Mosaic((3, 3, 3), pattern)(levels)
        assert torch.equal(y[0, 0], expected)
        back = Mosaic((3, 3, 3), pattern).pinv(y)
        assert torch.equal(back[0], torch.stack([torch.where(expected == k, expected, 0) for k in (1, 2, 3)]))

    @pytest.mark.parametrize("size", [(6, 8), (5, 7), (1, 4), (1, 1)])
    @pytest.mark.parametrize(("pattern", "name"), zip(BAYER_PATTERNS, ("BG", "RG", "GB", "GR"), strict=True))
    def test_agrees_with_kornia(self, pattern: str, name: str, size: tuple[int, int]) -> None:
        x = randn(2, 3, *size)
        assert torch.equal(Mosaic((3, *size), pattern)(x), kornia.color.rgb_to_raw(x, kornia.color.CFA[name]))

    def test_svd_is_a_choice_of_coordinates(self) -> None:
        op, x = Mosaic((3, 4, 6), "RGGB"), randn(2, 3, 4, 6)
        assert op.svd is not None
        assert torch.equal(op.svd.singular, op.mask.double())
        assert torch.equal(op.svd.measured(op(x)), op.pinv(op(x)))

    def test_rejects(self) -> None:
        with pytest.raises(ValueError, match=r"Mosaic: in_shape must be \(3, H, W\), red, green and blue, got \(1, 4, 6\)"):
            Mosaic((1, 4, 6), "RGGB")
        with pytest.raises(ValueError, match="Mosaic: unknown pattern 'rggb', expected one of RGGB, BGGR, GRBG, GBRG"):
            Mosaic((3, 4, 6), "rggb")


@pytest.mark.parametrize(
    "build",
    [
        lambda **n: Crop((2, 3), top=0, left=0, height=1, width=1, **n),
        lambda **n: Mosaic((3, 2, 2), "RGGB", **n),
        lambda **n: ChannelMix((2,), torch.ones(1, 2), **n),
        lambda **n: ChannelMix.gray((3,), **n),
    ],
)
def test_takes_sigma_or_a_noise_model(build: Any) -> None:
    op: LinearOperator = build(noise=GaussianNoise(0.2))
    assert op.sigma_y == 0.2
    assert build(sigma_y=0.1).sigma_y == 0.1
    assert build().sigma_y == 0
    with pytest.raises(ValueError, match="Give sigma_y or noise, not both"):
        build(sigma_y=0.1, noise=GaussianNoise(0.2))


@pytest.mark.parametrize(
    "op",
    [
        Crop((3, 64, 64), top=8, left=8, height=40, width=48),
        Mosaic((3, 64, 64), "RGGB"),
        ChannelMix.gray((3, 64, 64)),
        ChannelMix((4, 40, 40), torch.ones(9, 4)),
    ],
    ids=lambda op: type(op).__name__,
)
def test_has_a_decomposition_at_any_size(op: LinearOperator) -> None:
    svd, x, y = op.svd, randn(2, *op.in_shape), randn(2, *op.out_shape, seed=1)
    assert svd is not None
    s = svd.singular
    assert_close(svd.measured(op(x)), s * svd.analyze(x))
    assert_close(svd.synthesize(torch.where(s > 0, svd.measured(y) / torch.where(s > 0, s, 1), 0)), op.pinv(y))
