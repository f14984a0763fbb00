"""Tasks whose measurement is no picture: their files, and what is read out of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from cases import build, selected
from helpers import randn
from numpy.testing import assert_allclose
from skimage.data import shepp_logan_phantom
from skimage.transform import radon, resize
from torch.testing import assert_close

from invdiff.operators import GaussianNoise, Hadamard, birdcage_maps
from invdiff.problems import ArrayProblem, CompressedSensing, ReconstructCT, ReconstructMRI, RetrievePhase
from invdiff.problems.coil_maps import estimated_maps

EVERY = pytest.mark.parametrize(
    "problem",
    [pytest.param(case, id=f"{case.cls.name}-{case.index}") for case in selected(ArrayProblem)],
)


def picture(size, *, seed=0):
    """A grey picture on the 0..1 scale, dark at its borders."""
    rows, columns = (np.hanning(side + 2)[1:-1] for side in size)
    return (np.outer(rows, columns) * np.random.default_rng(seed).uniform(0.5, 1.0, size)).astype(np.float64)


@EVERY
def test_what_is_written_is_read_again(problem):
    x = torch.from_numpy(2 * picture(problem.size) - 1).float()[None, None]
    op = problem.operator((1, *problem.size))
    y = op.measure(x, seed=0)
    arrays = problem.to_arrays(y)
    again, y_again = type(problem).from_arrays(arrays, scale=1.0)
    assert again.size == problem.size
    assert_close(y_again, y, rtol=1e-5, atol=1e-5)
    other = again.operator((1, *again.size))
    z = randn(2, 1, *problem.size, seed=3).float()
    assert_close(other(z), op(z), rtol=1e-4, atol=1e-5)


@EVERY
def test_units(problem):
    """A file holds the measurement of an image that is 0 where it is black, times the scale."""
    op = problem.operator((1, *problem.size))
    y = op(torch.from_numpy(2 * picture(problem.size) - 1).float()[None, None])
    arrays = problem.to_arrays(y)
    louder = {**arrays, problem.measured: 7.0 * arrays[problem.measured]}
    assert_close(type(problem).from_arrays(louder, scale=7.0)[1], y, rtol=1e-4, atol=1e-5)
    black = problem.to_arrays(op(torch.full((1, *op.in_shape), -1.0)))[problem.measured]
    assert_allclose(np.abs(black), 0, atol=1e-5)


@EVERY
def test_noise_is_that_of_the_0_to_1_scale(problem):
    """A standard deviation of 0.1 on [-1, 1] is one of 0.05 in a file."""
    op = problem.operator((1, *problem.size), noise=GaussianNoise(0.1))
    x = torch.from_numpy(2 * picture(problem.size) - 1).float()[None, None]
    noisy, exact = problem.to_arrays(op.measure(x, seed=0)), problem.to_arrays(op(x))
    gap = noisy[problem.measured] - exact[problem.measured]
    gap = gap[gap != 0]
    gap = np.concatenate([gap.real.ravel(), gap.imag.ravel()]) if np.iscomplexobj(gap) else gap.ravel()
    assert abs(gap.std() / 0.05 - 1) < 4.5 / np.sqrt(2 * len(gap))


def test_units_of_each():
    image = picture((16, 24))
    x = torch.from_numpy(2 * image - 1).float()[None, None]
    mri = ReconstructMRI(torch.ones(16, 24, dtype=torch.bool))
    kspace = mri.to_arrays(mri.operator((1, 16, 24))(x))["kspace"][0]
    expected = np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(image), norm="ortho"))
    assert_allclose(kspace, expected, atol=1e-5)
    ct = ReconstructCT([0.0, 90.0], (16, 24))
    sinogram = ct.to_arrays(ct.operator((1, 16, 24))(x))["sinogram"]
    assert_allclose(sinogram.sum(1), image.sum(), rtol=2e-3)  # detectors are points a pixel apart
    codes = RetrievePhase.coded(2, (16, 24), seed=0)
    magnitudes = codes.to_arrays(codes.operator((1, 16, 24))(x))["magnitudes"]
    assert_allclose((magnitudes**2).sum((-2, -1)).ravel(), (image**2).sum(), rtol=1e-4)  # masks of magnitude one


class TestMRI:
    def test_bare_k_space_tells_its_mask_and_its_maps(self):
        size, coils = (32, 40), 4
        rows, columns = np.meshgrid(*(np.linspace(-1, 1, side) for side in size), indexing="ij")
        phase = np.exp(1j * (0.8 * rows + 0.5 * columns**2))
        image, maps = picture(size) ** 0.2, birdcage_maps(coils, *size).numpy() * phase
        known = ReconstructMRI.simulated(size, acceleration=2, center_fraction=0.4, coils=1, seed=0)
        full = np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(maps * image, axes=(-2, -1)), norm="ortho"), axes=(-2, -1))
        kspace = full * known.mask.numpy()
        problem, y = ReconstructMRI.from_arrays({"kspace": kspace, "image": np.array("real")}, scale=None)
        assert torch.equal(problem.mask, known.mask)
        assert problem.coil_maps is not None
        assert problem.coil_maps.shape == (coils, *size)
        # The maps are those of the coils where there is something to see, and the image real: little is left over.
        found = (problem.coil_maps * torch.from_numpy(maps).conj()).sum(0)
        seen = torch.from_numpy(image) > 0.6
        assert float(found.real[seen].min()) > 0.98
        x = torch.from_numpy(2 * image / problem.scale - 1).float()[None, None]
        without_phase = ReconstructMRI(problem.mask, problem.coil_maps.abs().to(problem.coil_maps.dtype))
        gap, wrong = (task.operator((1, *size))(x) - y for task in (problem, without_phase))
        assert float(gap.norm() / y.norm()) < 0.15
        assert float(wrong.norm() / y.norm()) > 0.3
        assert 0.7 < problem.scale < 1.3

    def test_real_and_imaginary_part_as_last_axis(self):
        arrays = build(ReconstructMRI)[1].to_arrays(torch.randn(1, 1, 3, 16, 24, 2))
        split = {**arrays, "kspace": torch.view_as_real(torch.from_numpy(arrays["kspace"])).numpy()}
        one, two = (ReconstructMRI.from_arrays(a, scale=1.0)[1] for a in (arrays, split))
        assert_close(one, two)

    @pytest.mark.parametrize("mask", [torch.ones(9, 8), torch.eye(8).flip(0), torch.zeros(9, 8)])
    def test_middle_without_a_gap(self, mask):
        mask = mask.bool()
        mask[mask.shape[0] // 2, 4] = True
        kspace = torch.complex(*(randn(2, *mask.shape, seed=s) for s in (0, 1))) * mask
        maps = estimated_maps(kspace, mask)
        assert_close(torch.linalg.vector_norm(maps, dim=0), torch.ones(mask.shape, dtype=torch.float64))

    @pytest.mark.parametrize(
        ("arrays", "message"),
        [
            ({"kspace": np.zeros((4, 4))}, "must be complex"),
            ({"kspace": np.array([["a"]])}, "must be complex or floating point"),
            ({"kspace": np.zeros((4, 4), complex)}, "0 everywhere"),
            ({"kspace": np.full((4, 4), np.nan + 0j)}, "finite"),
            ({"kspace": np.ones((1, 2, 4, 4), complex)}, "finite k-space"),
            ({"kspace": np.diag([1j, 1j, 0, 1j])}, "frequency 0, in the center"),
            ({"kspace": np.ones((4, 4), complex), "mask": np.ones((4, 5))}, "mask has shape"),
            ({"kspace": np.ones((4, 4), complex), "coil_maps": np.ones((2, 4, 4), complex)}, "coil_maps has shape"),
        ],
    )
    def test_what_cannot_be(self, arrays, message):
        with pytest.raises(ValueError, match=message):
            ReconstructMRI.from_arrays(arrays, scale=None)


class TestCT:
    def test_a_sinogram_of_scikit_image(self):
        """Its values and angles are ours; its centre of even sides is half a pixel off."""
        image = resize(shepp_logan_phantom(), (65, 65), anti_aliasing=True)
        sinogram = radon(image, theta=np.arange(60) * 3.0, circle=True).T
        problem, y = ReconstructCT.from_arrays({"sinogram": 5 * sinogram}, scale=None)
        assert problem.size == (65, 65)
        assert abs(problem.scale / 5 - np.quantile(image, 0.995)) < 0.15
        x = torch.from_numpy(2 * image * 5 / problem.scale - 1).float()[None, None]
        ours = problem.operator((1, 65, 65))(x)
        assert float((ours - y).norm() / (ours - ours.mean()).norm()) < 0.05
        shown = (problem.preview(y)[0, 0] + 1) / 2 * problem.scale / 5
        inside = np.hypot(*np.meshgrid(*[np.arange(65) - 32] * 2)) < 30
        assert np.sqrt(np.mean((shown.numpy() - image)[inside] ** 2)) < 0.08

    def test_backprojection_of_a_disc(self):
        rows, columns = np.meshgrid(*[np.arange(48) - 23.5] * 2, indexing="ij")
        disc = (np.hypot(rows, columns) < 15).astype(float)
        problem = ReconstructCT.evenly(90, (48, 48))
        y = problem.operator((1, 48, 48))(torch.from_numpy(2 * disc - 1).float()[None, None])
        shown = (problem.preview(y)[0, 0].numpy() + 1) / 2
        assert abs(shown[np.hypot(rows, columns) < 12].mean() - 1) < 0.02
        assert abs(shown[(np.hypot(rows, columns) > 18) & (np.hypot(rows, columns) < 23)].mean()) < 0.02

    @pytest.mark.parametrize(
        ("arrays", "message"),
        [
            ({"sinogram": np.zeros(4)}, "sinogram"),
            ({"sinogram": np.full((3, 4), np.inf)}, "sinogram"),
            ({"sinogram": np.ones((3, 4)), "angles": np.ones(4)}, "angles, got an array of shape"),
            ({"sinogram": np.ones((3, 4)), "size": np.array(4)}, "two positive integers"),
            ({"sinogram": np.ones((3, 4)), "size": np.array([4, -4])}, "two positive integers"),
            ({"sinogram": np.ones((3, 4)), "size": np.array([10**6, 10**6])}, "two positive integers"),
            ({"sinogram": np.array([["a", "b"]])}, "finite real numbers"),
        ],
    )
    def test_what_cannot_be(self, arrays, message):
        with pytest.raises(ValueError, match=message):
            ReconstructCT.from_arrays(arrays, scale=1.0)
        with pytest.raises(ValueError, match="at least one angle"):
            ReconstructCT.evenly(0, (4, 4))

    def test_the_dark_has_no_white(self):
        with pytest.raises(ValueError, match="has no bright pixels"):
            ReconstructCT.from_arrays({"sinogram": np.zeros((3, 4))}, scale=None)

    @pytest.mark.parametrize("problem", [*selected(ReconstructCT), *selected(ReconstructMRI)], ids=str)
    def test_channels_that_are_no_colours_are_refused_before_the_work(self, problem):
        with pytest.raises(ValueError, match="expected a grayscale or an RGB picture, got 2"):
            problem.fit(randn(1, 2, 16, 24))


class TestCompressedSensing:
    def test_rows_of_ones_own_choice(self):
        rows, x = np.array([0, 3, 7, 200]), torch.rand(1, 1, 16, 16)
        y = Hadamard((1, 16, 16), torch.from_numpy(rows))((x + 1) / 2)[0]
        problem, internal = CompressedSensing.from_arrays(
            {"y": y.numpy(), "rows": rows, "size": np.array([16, 16])}, scale=None
        )
        assert_close(internal, problem.operator((1, 16, 16))(x), rtol=1e-4, atol=1e-5)
        assert "rows" in problem.to_arrays(internal)

    def test_sides_become_powers_of_two(self):
        problem = CompressedSensing.share(0.5, (20, 35), sensing="hadamard", seed=0)
        assert problem.size == (16, 32)
        assert problem.count == 256
        assert problem.fit(randn(1, 3, 20, 35)).shape == (1, 3, 16, 32)

    @pytest.mark.parametrize(
        ("arrays", "message"),
        [
            ({"y": np.zeros(4)}, "does not describe the measurement"),
            ({"y": np.full(4, np.nan), "size": [2, 2], "rows": [0, 1, 2, 3]}, "finite real numbers"),
            ({"y": np.zeros(4), "size": np.array([4, 4]), "rows": np.array([0, 1, 2, 99])}, "rows|keep"),
            ({"y": np.zeros(4), "size": np.array([4, 4]), "rows": np.array([0, 1])}, "y has 4 values"),
            ({"y": np.zeros(4), "size": np.array([4, 4]), "sensing": np.array("foo"), "seed": np.array(0)}, "got 'foo'"),
        ],
    )
    def test_what_cannot_be(self, arrays, message):
        with pytest.raises(ValueError, match=message):
            CompressedSensing.from_arrays(arrays, scale=None)
        with pytest.raises(ValueError, match="ratio must lie"):
            CompressedSensing.share(1.5, (4, 4), sensing="hadamard", seed=0)


class TestPhaseRetrieval:
    def test_colours_come_channel_by_channel(self):
        problem = RetrievePhase.coded(2, (16, 24), seed=0)
        op = problem.operator((3, 16, 24))
        y = op(randn(1, 3, 16, 24).float())
        assert problem.to_arrays(y)["magnitudes"].shape == (3, 2, 1, 16, 24)
        assert_close(RetrievePhase.from_arrays(problem.to_arrays(y), scale=None)[1], y)

    @pytest.mark.parametrize(
        ("arrays", "message"),
        [
            ({"magnitudes": np.zeros((4, 4))}, "does not describe the measurement"),
            ({"magnitudes": np.array(["a"])}, "finite real numbers"),
            ({"magnitudes": np.zeros((4, 4)), "masks": np.ones((4, 4))}, r"numeric array \(K, H, W\)"),
            ({"magnitudes": np.zeros((4, 4)), "oversampling": np.array(2.0), "size": np.array([4, 4])}, "of shape"),
        ],
    )
    def test_what_cannot_be(self, arrays, message):
        with pytest.raises(ValueError, match=message):
            RetrievePhase.from_arrays(arrays, scale=None)
        with pytest.raises(ValueError, match="exactly one of oversampling and masks"):
            RetrievePhase((4, 4))
