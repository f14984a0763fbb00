"""Compressed sensing and phase retrieval in the conventions of files."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.linalg import hadamard
from skimage.data import camera
from skimage.transform import resize
from torch.testing import assert_close

from invdiff.operators import walsh_order
from invdiff.problems import CompressedSensing, RetrievePhase
from invdiff.restoration.inputs import read


def picture(side=32):
    return resize(camera() / 255.0, (side, side), anti_aliasing=True)


def coded(image, masks, *, shift=True):
    values = np.fft.fft2(masks * np.fft.ifftshift(image), norm="ortho")
    return np.abs(np.fft.fftshift(values, axes=(-2, -1)) if shift else values)


def masks_of(count, side=32):
    return np.exp(2j * np.pi * np.random.default_rng(0).uniform(size=(count, side, side)))


def padded_magnitudes(image, oversampling=4):
    """As the operator pads, with frequency 0 in the corner."""
    sides = [side + 2 * int(oversampling / 8 * side) for side in image.shape]
    return np.abs(np.fft.fft2(image, s=sides, norm="ortho"))


class TestCompressedSensing:
    def sequency(self, side=32):
        """Patterns in Walsh order, along both axes, and what they measure."""
        patterns = hadamard(side)[walsh_order(side)] / side**0.5
        coarse = np.add.outer(np.arange(side), np.arange(side)) < side // 2
        rows = np.flatnonzero(coarse)
        return (patterns @ picture(side) @ patterns.T).reshape(-1)[rows], rows

    def test_rows_in_the_order_of_sequency(self):
        y, rows = self.sequency()
        arrays = {"y": y, "rows": rows, "size": np.array([32, 32])}
        problem, values = CompressedSensing.from_arrays({**arrays, "order": np.array("sequency")}, scale=None)
        x = torch.from_numpy(2 * picture() - 1).float()[None, None]
        assert_close(problem.operator((1, 32, 32))(x), values, rtol=1e-4, atol=1e-4)
        assert not problem.notes
        wrong, _ = CompressedSensing.from_arrays(arrays, scale=None)
        assert any('order="sequency"' in note for note in wrong.notes)

    def test_rows_in_the_natural_order_have_no_note(self):
        walsh = walsh_order(32).numpy()
        y, rows = self.sequency()
        natural = walsh[rows // 32] * 32 + walsh[rows % 32]
        problem, _ = CompressedSensing.from_arrays({"y": y, "rows": natural, "size": np.array([32, 32])}, scale=None)
        assert not problem.notes

    def test_patterns_of_0_and_1(self):
        y, rows = self.sequency()
        arrays = {"rows": rows, "size": np.array([32, 32]), "order": np.array("natural")}
        problem, _ = CompressedSensing.from_arrays({"y": (y + y[0]) / 2, **arrays}, scale=None)
        assert any("patterns of 0 and 1" in note for note in problem.notes)

    def test_patterns_that_are_not_normalized(self):
        y, rows = self.sequency()
        arrays = {"y": 32 * y, "rows": rows, "size": np.array([32, 32]), "order": np.array("sequency")}
        wrong, _ = CompressedSensing.from_arrays(arrays, scale=None)
        assert any("--scale" in note for note in wrong.notes)
        right, _ = CompressedSensing.from_arrays(arrays, scale=32.0)
        assert not right.notes

    @pytest.mark.parametrize(
        ("arrays", "message"),
        [
            ({"rows": np.array([0, 1, 2, 2.5])}, r"rows must hold integers below 2\^53, got 2.5"),
            ({"rows": np.array(["a"] * 4)}, "rows must hold finite real numbers"),
            ({"rows": np.zeros((2, 2))}, "rows has shape"),
            ({"order": np.array("random")}, "order must be natural or sequency, got 'random'"),
            ({"Rows": np.arange(4)}, "unknown array `Rows`.*Did you mean `rows`"),
            ({"y": np.array(1.0)}, r"y must have shape \(m,\)"),
            ({"y": 1j * np.ones(4)}, "y must hold finite real numbers, got complex128"),
            ({"size": np.array(["4", "4"])}, "size must hold finite real numbers"),
            ({"rows": None, "sensing": np.array("hadamard"), "seed": np.array([1, 2])}, "seed must be one number"),
            ({"rows": None, "sensing": np.array(3), "seed": np.array(1)}, "sensing must be hadamard or convolution"),
            ({"rows": None, "sensing": np.array("hadamard"), "seed": np.array(-1)}, "seed"),
        ],
    )
    def test_each_is_one_line_with_the_name(self, tmp_path, arrays, message):
        path = tmp_path / "scan.npz"
        given = {"y": np.ones(4), "size": np.array([4, 4]), "rows": np.arange(4), **arrays}
        np.savez(path, **{name: value for name, value in given.items() if value is not None})
        with pytest.raises(ValueError, match=message) as caught:
            read(path, "compressed-sensing", noise=0.1, channels=1)
        assert str(caught.value).startswith(str(path))
        assert "\n" not in str(caught.value)


class TestPhaseRetrieval:
    def test_intensities_by_name(self):
        masks = masks_of(3)
        one = RetrievePhase.from_arrays({"magnitudes": coded(picture(), masks), "masks": masks}, scale=None)[1]
        given = {"magnitudes": coded(picture(), masks) ** 2, "masks": masks, "power": np.array(2)}
        problem, two = RetrievePhase.from_arrays(given, scale=None)
        assert_close(one, two, rtol=1e-5, atol=1e-5)
        assert not problem.notes

    @pytest.mark.parametrize("noise", [0.0, 0.005])
    def test_what_looks_like_intensities_is_noted(self, noise):
        masks, rng = masks_of(4), np.random.default_rng(0)
        padded = np.fft.fftshift(padded_magnitudes(picture()))
        padding = {"oversampling": np.array(4.0), "size": np.array([32, 32])}
        for values, how in ((coded(picture(), masks), {"masks": masks}), (padded, padding)):
            values = np.abs(values + noise * rng.normal(size=values.shape))
            for power in (1, 2):
                problem, _ = RetrievePhase.from_arrays({"magnitudes": values**power, **how}, scale=None)
                assert any("look like intensities" in note for note in problem.notes) == (power == 2)

    @pytest.mark.parametrize("told", [False, True])
    def test_frequency_0_in_the_corner(self, told):
        padding = {"oversampling": np.array(4.0), "size": np.array([32, 32])}
        says = {"zero_frequency": np.array("corner")} if told else {}
        values = padded_magnitudes(picture())
        problem, y = RetrievePhase.from_arrays({"magnitudes": values, **padding, **says}, scale=None)
        x = torch.from_numpy(2 * picture() - 1).float()[None, None]
        assert_close(problem.operator((1, 32, 32))(x), y, rtol=1e-4, atol=1e-4)
        assert any("corner" in note for note in problem.notes) != told

    def test_masks_of_random_phases_cannot_tell_but_a_file_can_say(self):
        masks = masks_of(3)
        x = torch.from_numpy(2 * picture() - 1).float()[None, None]
        given = {"magnitudes": coded(picture(), masks, shift=False), "masks": masks, "zero_frequency": np.array("corner")}
        expected = RetrievePhase.from_arrays({"magnitudes": coded(picture(), masks), "masks": masks}, scale=None)[1]
        problem, y = RetrievePhase.from_arrays(given, scale=None)
        assert_close(y, expected)
        assert y.shape == problem.operator((1, 32, 32))(x).shape

    def test_a_transform_that_is_not_unitary(self):
        masks = masks_of(3)
        problem, _ = RetrievePhase.from_arrays({"magnitudes": 32 * coded(picture(), masks), "masks": masks}, scale=None)
        assert any("unitary" in note for note in problem.notes)

    @pytest.mark.parametrize(
        ("arrays", "message"),
        [
            ({"power": np.array(3)}, "power must be 1, for magnitudes, or 2"),
            ({"power": np.array([1, 2])}, "power must be one number"),
            ({"zero_frequency": np.array("top")}, "zero_frequency must be center or corner, got 'top'"),
            ({"masks": np.ones((0, 4, 4))}, r"numeric array \(K, H, W\)"),
            ({"masks": np.full((2, 4, 4), np.nan)}, "masks must be finite"),
            ({"masks": np.ones((2, 4, 5))}, "expected magnitudes of shape"),
            ({"mask": np.ones((2, 4, 4))}, "unknown array `mask`.*Did you mean `masks`"),
            (
                {"masks": None, "oversampling": np.array([1.0, 2.0]), "size": np.array([4, 4])},
                "oversampling must be one number",
            ),
            ({"masks": None, "oversampling": np.array(-1.0), "size": np.array([4, 4])}, "oversampling must be"),
            ({"magnitudes": np.ones((2, 1, 4, 4)) * 1j}, "magnitudes must hold finite real numbers"),
        ],
    )
    def test_each_is_one_line_with_the_name(self, tmp_path, arrays, message):
        path = tmp_path / "scan.npz"
        given = {"magnitudes": np.ones((2, 1, 4, 4)), "masks": np.ones((2, 4, 4)), **arrays}
        np.savez(path, **{name: value for name, value in given.items() if value is not None})
        with pytest.raises(ValueError, match=message) as caught:
            read(path, "phase-retrieval", noise=0.1, channels=1)
        assert str(caught.value).startswith(str(path))
        assert "\n" not in str(caught.value)
