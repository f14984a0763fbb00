"""K-space in the conventions of files: whatever they are, the problem and the measurement are the same."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from skimage.data import page, shepp_logan_phantom
from skimage.transform import resize
from torch.testing import assert_close

from invdiff.operators import birdcage_maps, cartesian_mask
from invdiff.problems import OptionError, ReconstructMRI
from invdiff.problems.coil_maps import CALIBRATION, centered_block, estimated_maps, middle
from invdiff.restoration.inputs import read

AXES = (-2, -1)


def phantom(size):
    """The Shepp-Logan phantom a little off the center, so that no mirror image is the same."""
    return np.roll(resize(shepp_logan_phantom(), size, anti_aliasing=True), (2, 3), (0, 1))


def coils_of(count, size):
    """Sensitivities with a smooth phase of the image."""
    rows, columns = np.meshgrid(*(np.linspace(-1, 1, side) for side in size), indexing="ij")
    return birdcage_maps(count, *size).numpy() * np.exp(1j * (0.8 * rows + 0.5 * columns**2))


def transform(images, *, zero_frequency="center", origin="center"):
    """K-space of images in a convention of files."""
    if origin == "center":
        images = np.fft.ifftshift(images, axes=AXES)
    kspace = np.fft.fft2(images, norm="ortho")
    return np.fft.fftshift(kspace, axes=AXES) if zero_frequency == "center" else kspace


def noise(shape, level, seed=0):
    return (
        level / 2**0.5 * (np.random.default_rng(seed).normal(size=(2, *shape)) * np.array([1, 1j]).reshape(2, 1, 1, 1)).sum(0)
    )


def psnr(image, truth):
    return -10 * np.log10(np.mean((np.asarray(image) - truth) ** 2))


SIZES = pytest.mark.parametrize("size", [(64, 64), (65, 48), (63, 65)], ids=str)
CONVENTIONS = pytest.mark.parametrize(
    ("zero_frequency", "origin"), [("center", "center"), ("center", "corner"), ("corner", "center"), ("corner", "corner")]
)


class TestConventions:
    @SIZES
    @CONVENTIONS
    @pytest.mark.parametrize("count", [1, 4])
    @pytest.mark.parametrize("told", [False, True])
    def test_all_give_the_same_measurement(self, size, zero_frequency, origin, count, told):
        """As the data tell, and as the file says; every second column measured, with noise."""
        mask = cartesian_mask(*size, acceleration=2, center_fraction=0.2, seed=0).numpy()
        images = coils_of(count, size) * phantom(size) if count > 1 else phantom(size)[None].astype(complex)
        kept = transform(images) + noise((count, *size), 0.02)
        in_image = np.fft.fftshift(np.fft.ifft2(np.fft.ifftshift(kept, axes=AXES), norm="ortho"), axes=AXES)
        given = transform(in_image, zero_frequency=zero_frequency, origin=origin)
        given = given * (mask if zero_frequency == "center" else np.fft.ifftshift(mask))
        says = {"zero_frequency": np.array(zero_frequency), "origin": np.array(origin)} if told else {}
        one, y_one = ReconstructMRI.from_arrays(
            {"kspace": kept * mask, "zero_frequency": np.array("center"), "origin": np.array("center")}, scale=1.0
        )
        two, y_two = ReconstructMRI.from_arrays({"kspace": given, **says}, scale=1.0)
        assert torch.equal(one.mask, two.mask)
        assert_close(y_two, y_one, rtol=1e-4, atol=1e-4)
        assert_close(two.preview(y_two), one.preview(y_one), rtol=1e-4, atol=1e-4)
        noted = " ".join(two.notes)
        assert ("frequency 0 in the corner" in noted) == (not told and zero_frequency == "corner")
        assert ("into quadrants: corrected" in noted) == (not told and origin == "corner")

    def test_a_factor_that_alternates_is_an_origin_in_the_corner(self):
        kspace = transform(phantom((64, 64)))
        signs = (-1.0) ** np.add.outer(np.arange(64), np.arange(64))
        one, two = (ReconstructMRI.from_arrays({"kspace": k}, scale=1.0)[1] for k in (kspace, kspace * signs))
        assert_close(one, two, rtol=1e-4, atol=1e-4)

    def test_an_option_takes_the_place_of_what_the_data_tell(self, tmp_path):
        kspace = transform(phantom((32, 32)), origin="corner")
        np.save(tmp_path / "k.npy", kspace)
        kept = read(tmp_path / "k.npy", "mri", noise=0.01, channels=1, origin="center")
        cut = np.asarray(kept.problem.preview(kept.measurement)[0, 0])
        told = read(tmp_path / "k.npy", "mri", noise=0.01, channels=1)
        whole = np.asarray(told.problem.preview(told.measurement)[0, 0])
        np.testing.assert_allclose(np.fft.fftshift(cut), whole, atol=0.05)
        assert any("--origin center" in note for note in told.notes)
        assert not any("origin" in note for note in kept.notes)

    def test_data_that_do_not_tell_are_noted(self):
        kspace = noise((1, 32, 32), 1.0)
        notes = " ".join(ReconstructMRI.from_arrays({"kspace": kspace}, scale=1.0)[0].notes)
        assert "the data do not tell" in notes
        assert "corrected" not in notes

    @pytest.mark.parametrize("corner", [(57, 190), (0, 190), (24, 10), (40, 230), (12, 120)])
    @pytest.mark.parametrize("size", [(121, 51), (134, 89), (91, 61), (67, 126)])
    def test_lines_of_text_are_not_taken_for_a_cut(self, corner, size):
        """White between lines at the border and a line in the middle look like a cut, but there are larger jumps."""
        rows, columns = (slice(start, start + side) for start, side in zip(corner, size, strict=True))
        image = page()[rows, columns] / 255
        problem, _ = ReconstructMRI.from_arrays({"kspace": transform(image)}, scale=1.0)
        assert not any("into quadrants: corrected" in note for note in problem.notes)

    def test_only_one_axis_of_frequencies_is_shifted(self):
        kspace = transform(phantom((48, 64)))
        one, two = (ReconstructMRI.from_arrays({"kspace": k}, scale=1.0)[1] for k in (kspace, np.fft.ifftshift(kspace, axes=0)))
        assert_close(one, two, rtol=1e-4, atol=1e-4)

    @pytest.mark.parametrize("axis", [1, 2])
    @pytest.mark.parametrize("known", [False, True])
    def test_coils_that_are_not_the_first_axis(self, axis, known):
        size, maps = (48, 64), coils_of(4, (48, 64))
        kspace = transform(maps * phantom(size))
        arrays = {"coil_maps": maps} if known else {}
        expected, y = ReconstructMRI.from_arrays({"kspace": kspace, **arrays}, scale=1.0)
        moved = {name: np.moveaxis(value, 0, axis) for name, value in {"kspace": kspace, **arrays}.items()}
        problem, again = ReconstructMRI.from_arrays(moved, scale=1.0)
        assert_close(again, y)
        assert_close(problem.coil_maps, expected.coil_maps)
        assert any(f"coils along axis {axis}" in note for note in problem.notes)

    def test_many_coils_of_a_small_picture_stay_first(self):
        kspace = transform(coils_of(32, (24, 24)) * phantom((24, 24)))
        problem, y = ReconstructMRI.from_arrays({"kspace": kspace}, scale=1.0)
        assert y.shape == (1, 32, 24, 24, 2)
        assert not any("coils along" in note for note in problem.notes)

    def test_the_norm_of_the_transform_is_the_scale(self):
        kspace = transform(phantom((64, 64)))
        one, two = (ReconstructMRI.from_arrays({"kspace": k}, scale=None) for k in (kspace, 64 * kspace))
        assert two[0].scale == pytest.approx(64 * one[0].scale)
        assert_close(one[1], two[1], rtol=1e-4, atol=1e-4)
        wrong, _ = ReconstructMRI.from_arrays({"kspace": 64 * kspace}, scale=1.0)
        assert any("norm='ortho'" in note for note in wrong.notes)


class TestMask:
    @pytest.mark.parametrize("shape", [(40,), (1, 40), (1, 1, 40), (1, 40, 1), (1, 1, 40, 1), (40, 1)], ids=str)
    @pytest.mark.parametrize("kind", [bool, np.float32, np.uint8])
    @pytest.mark.parametrize("height", [32, 40])
    def test_one_value_for_each_column(self, shape, kind, height):
        """As fastMRI has them, for full k-space and for one that is 0 elsewhere; ``(N, 1)`` of a square selects rows."""
        if shape == (height, 1):
            return
        mask = cartesian_mask(height, 40, acceleration=2, center_fraction=0.2, seed=0)
        kspace = transform(phantom((height, 40)))
        for values in (kspace, kspace * mask.numpy()):
            given = {"kspace": values, "mask": mask[0].numpy().astype(kind).reshape(shape)}
            problem, y = ReconstructMRI.from_arrays(given, scale=1.0)
            assert torch.equal(problem.mask, mask)
            expected = ReconstructMRI.from_arrays({"kspace": kspace * mask.numpy(), "mask": mask.numpy()}, scale=1.0)[1]
            assert_close(y, expected)

    def test_rows_of_a_square(self):
        rows = np.arange(32)[:, None] % 2 == 0
        problem, _ = ReconstructMRI.from_arrays({"kspace": transform(phantom((32, 32))), "mask": rows}, scale=1.0)
        assert torch.equal(problem.mask, torch.from_numpy(rows).expand(32, 32))

    def test_columns_that_are_zero_were_not_measured(self):
        kspace = transform(phantom((32, 32)))
        kspace[:, 28:] = 0
        problem, _ = ReconstructMRI.from_arrays({"kspace": kspace, "mask": np.ones((32, 32))}, scale=1.0)
        assert not problem.mask[:, 28:].any()
        assert problem.mask[:, :28].all()
        assert any("taken as not measured" in note for note in problem.notes)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda mask: ~mask, "invert the mask"),
            (lambda mask: mask & False, "mask is 0 everywhere"),
            (lambda mask: mask[:, :-1], r"mask has shape \(32, 39\), expected \(32, 40\)"),
            (lambda mask: 255.0 * np.ones(mask.shape), "must hold 0 and 1"),
            (lambda mask: np.where(mask, np.nan, 0), "finite real numbers.*NaN"),
            (lambda mask: mask.astype(str), "finite real numbers"),
        ],
    )
    def test_what_cannot_be(self, change, message):
        mask = cartesian_mask(32, 40, acceleration=2, center_fraction=0.2, seed=0).numpy()
        with pytest.raises(ValueError, match=message):
            ReconstructMRI.from_arrays({"kspace": transform(phantom((32, 40))) * mask, "mask": change(mask)}, scale=1.0)

    def test_a_mask_with_frequency_0_in_the_corner(self):
        mask = np.abs(np.arange(40) - 20) < 6
        with pytest.raises(ValueError, match=r"Apply np.fft.fftshift to the mask"):
            ReconstructMRI.from_arrays({"kspace": transform(phantom((32, 40))), "mask": np.fft.ifftshift(mask)}, scale=1.0)


class TestCalibration:
    @pytest.mark.parametrize(
        ("mask", "reach"),
        [
            (cartesian_mask(320, 320, acceleration=4, center_fraction=0.08, seed=0), (15, 12)),  # columns
            (cartesian_mask(320, 320, acceleration=4, center_fraction=0.08, seed=0).T, (12, 15)),  # rows
            (torch.ones(320, 320, dtype=torch.bool), (15, 15)),
            (torch.ones(20, 21, dtype=torch.bool), (10, 10)),
        ],
    )
    def test_the_largest_rectangle_up_to_the_limit(self, mask, reach):
        assert centered_block(mask, CALIBRATION) == reach
        assert bool(middle(mask, reach).all())

    @pytest.mark.parametrize("seed", range(4))
    def test_random_and_radial_masks(self, seed):
        """No rectangle around the center without a gap is larger."""
        generator = torch.Generator().manual_seed(seed)
        mask = torch.rand(40, 33, generator=generator) < 0.5
        rows, columns = torch.meshgrid(torch.arange(40) - 20, torch.arange(33) - 16, indexing="ij")
        mask |= rows**2 + 2 * columns**2 < 60 + 20 * seed  # disc
        if seed % 2:
            mask |= (torch.atan2(rows.double(), columns.double()) * 6).remainder(torch.pi) < 0.6  # spokes
        best = centered_block(mask)
        assert bool(middle(mask, best).all())
        whole = [(i, j) for i in range(21) for j in range(17) if middle(mask, (i, j)).all()]
        assert middle(mask, best).numel() == max(middle(mask, reach).numel() for reach in whole)

    def test_a_block_that_is_too_small_is_noted(self):
        kspace = transform(coils_of(4, (48, 64)) * phantom((48, 64)))
        for center in (3, 11):
            mask = (np.abs(np.arange(64) - 32) <= center // 2) | (np.arange(64) % 3 == 0)
            problem, _ = ReconstructMRI.from_arrays({"kspace": kspace, "mask": mask}, scale=1.0)
            assert any("estimated from" in note for note in problem.notes) == (center == 3)

    def test_maps_follow_the_coils_along_the_columns_too(self):
        """From one row of k-space, as with the block of 1 x 25, this image has 33 dB."""
        size = (320, 320)
        maps, image = coils_of(8, size), phantom(size)
        mask = cartesian_mask(*size, acceleration=4, center_fraction=0.08, seed=0)
        kspace = torch.from_numpy(transform(maps * image))
        found = estimated_maps(kspace * mask, mask).numpy()
        assert psnr((found.conj() * maps * image).sum(0).real, image) > 60

    def test_more_data_are_no_worse(self):
        """With all frequencies and noise of 0.03 the maps must not be those of the noise: 33.4 dB, 26.6 from all of them."""
        size = (320, 320)
        maps, image = coils_of(8, size), phantom(size)
        kspace = torch.from_numpy(transform(maps * image) + noise((8, *size), 0.03))
        problem, y = ReconstructMRI.from_arrays({"kspace": kspace.numpy(), "image": np.array("real")}, scale=1.0)
        assert psnr((problem.preview(y)[0, 0] + 1) / 2, image) > 33.2


class TestGivenMaps:
    size = (48, 64)

    def arrays(self, *, noise_level=0.0):
        maps, image = coils_of(4, self.size), phantom(self.size)
        return {"kspace": transform(maps * image) + noise((4, *self.size), noise_level), "coil_maps": maps}, image

    @pytest.mark.parametrize("noise_level", [0.0, 0.1])
    def test_maps_with_the_phase_of_the_image_are_kept(self, noise_level):
        arrays, _ = self.arrays(noise_level=noise_level)
        problem, _ = ReconstructMRI.from_arrays(arrays, scale=1.0)
        assert_close(problem.coil_maps, torch.from_numpy(arrays["coil_maps"]))
        assert not any("coil" in note for note in problem.notes)

    @pytest.mark.parametrize("coils", [1, 4])
    def test_maps_without_it_get_it(self, coils):
        """As ESPIRiT gives them: relative to the first coil. The imaginary part of the image would be lost."""
        arrays, image = self.arrays()
        if coils == 1:
            phase = arrays["coil_maps"][:1] / np.abs(arrays["coil_maps"][:1])
            arrays = {"kspace": transform(phase * image), "coil_maps": np.ones((1, *self.size))}
        else:
            arrays["coil_maps"] = arrays["coil_maps"] * np.exp(-1j * np.angle(arrays["coil_maps"][:1]))
        problem, y = ReconstructMRI.from_arrays(arrays, scale=1.0)
        assert psnr((problem.preview(y)[0, 0] + 1) / 2, image) > 40
        assert any("lack the phase" in note for note in problem.notes)

    @pytest.mark.parametrize(
        "change", [lambda maps: maps[::-1].copy(), lambda maps: np.roll(maps, 24, 1)], ids=["order", "place"]
    )
    def test_maps_of_something_else_are_noted(self, change):
        arrays, _ = self.arrays()
        problem, _ = ReconstructMRI.from_arrays({**arrays, "coil_maps": change(arrays["coil_maps"])}, scale=1.0)
        assert any("check the order of the coils" in note for note in problem.notes)


class TestNames:
    """A file that says something else than it should is refused, by its name and in one line."""

    @pytest.mark.parametrize(
        ("arrays", "message"),
        [
            ({"sens_maps": np.ones((1, 16, 16))}, "unknown array `sens_maps`, expected kspace, mask, .*mean `coil_maps`"),
            ({"Mask": np.ones((16, 16))}, "unknown array `Mask`.*Did you mean `mask`"),
            ({"note": np.array("text")}, "unknown array `note`"),
            ({"origin": np.array("middle")}, "origin must be center or corner, got 'middle'"),
            ({"origin": np.array(1)}, "origin must be center or corner"),
            ({"coil_maps": np.array("x")}, "coil_maps must be complex"),
            ({"coil_maps": np.full((1, 16, 16), np.nan)}, "finite coil_maps"),
            ({"coil_maps": np.zeros((1, 16, 16))}, "coil_maps must be finite and not 0"),
            ({"mask": np.array(3)}, "mask must hold 0 and 1|mask has shape"),
            ({"mask": np.zeros((0, 16))}, "finite real numbers"),
            ({"kspace": np.array(1j)}, r"expected finite k-space.*got shape \(\)"),
            ({"kspace": np.zeros((0, 16), complex)}, "finite k-space"),
            ({"kspace": np.ones((2, 16, 16))}, r"np.moveaxis\(k, 0, -1\)"),
            ({"kspace": np.ones((3, 2, 16, 16), complex)}, r"one slice, such as kspace\[0\]"),
            ({"kspace": np.full((16, 16), np.inf + 0j)}, "256 values are NaN or infinite"),
            ({"kspace": np.zeros((16, 16), [("r", "f4"), ("i", "f4")])}, "must be complex"),
        ],
    )
    def test_each_is_one_line_with_the_name(self, tmp_path, arrays, message):
        path = tmp_path / "scan.npz"
        np.savez(path, **{"kspace": transform(phantom((16, 16))), **arrays})
        with pytest.raises(ValueError, match=message) as caught:
            read(path, "mri", noise=0.01, channels=1)
        assert str(caught.value).startswith(str(path))
        assert "\n" not in str(caught.value)

    def test_k_space_in_another_case(self, tmp_path):
        np.savez(tmp_path / "scan.npz", KSpace=np.ones((4, 4)))
        with pytest.raises(ValueError, match="has no array 'kspace', got KSpace"):
            read(tmp_path / "scan.npz", "mri", noise=0.01)

    def test_integers_with_real_and_imaginary_part(self):
        kspace = np.asarray(np.rint(1000 * transform(phantom((32, 32)))), dtype=np.complex128)
        pairs = np.stack([kspace.real, kspace.imag], -1).astype(np.int16)
        one, two = (ReconstructMRI.from_arrays({"kspace": k}, scale=1000.0)[1] for k in (kspace, pairs))
        assert_close(one, two)

    @pytest.mark.parametrize("option", ["origin", "zero_frequency"])
    def test_options_of_measured_data_are_none_of_a_simulation(self, option):
        options: dict[str, Any] = {option: "corner"}
        with pytest.raises(OptionError, match="describes a measured INPUT"):
            read(None, "mri", noise=0.01, acceleration=2, simulate=True, **options)
