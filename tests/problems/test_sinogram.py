"""Sinograms in the conventions of files: whatever they are, the picture is that which was measured."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest
import torch
from skimage.data import shepp_logan_phantom
from skimage.transform import radon, resize
from torch.testing import assert_close

from invdiff.operators import FanBeamCT, ParallelBeamCT
from invdiff.problems import OptionError, ReconstructCT, sinogram
from invdiff.restoration.inputs import read

ANGLES = np.arange(60) * 3.0


def phantom(side):
    """The Shepp-Logan phantom a little off the center, so that no mirror image is the same."""
    image = np.roll(resize(shepp_logan_phantom(), (side, side), anti_aliasing=True), (2, 3), (0, 1))
    rows, columns = (places - side // 2 for places in np.ogrid[:side, :side])
    return np.where(rows**2 + columns**2 <= (side // 2 - 1) ** 2, image, 0)


@functools.cache
def radon_of(side, angles, circle):
    return radon(phantom(side), theta=np.array(angles), circle=circle).T


def measured(side, *, angles=ANGLES, noise=0.0, circle=True):
    """The sinogram of scikit-image, transposed to (angles, detectors)."""
    values = radon_of(side, tuple(angles), circle)
    return values + noise * np.random.default_rng(0).normal(size=values.shape)


def shown(arrays):
    """The filtered backprojection of a file, and its problem."""
    problem, y = ReconstructCT.from_arrays(arrays, scale=1.0)
    return (problem.preview(y)[0, 0].numpy() + 1) / 2, problem


def psnr(image, truth):
    return -10 * np.log10(np.mean((image - truth) ** 2))


class TestScikitImage:
    @pytest.mark.parametrize("side", [64, 65])
    @pytest.mark.parametrize("noise", [0.0, 0.3])
    @pytest.mark.parametrize(
        "given",
        [
            pytest.param(lambda s: {"sinogram": s, "angles": ANGLES}, id="transposed by hand"),
            pytest.param(lambda s: {"sinogram": s}, id="no angles"),
            pytest.param(lambda s: {"sinogram": s.T, "angles": ANGLES}, id="as it comes"),
            pytest.param(lambda s: {"sinogram": s.T}, id="as it comes, no angles"),
            pytest.param(lambda s: {"sinogram": s, "angles": np.radians(ANGLES)}, id="radians"),
            pytest.param(lambda s: {"sinogram": s.T, "angles": np.radians(ANGLES)}, id="radians, as it comes"),
        ],
    )
    def test_the_picture_is_in_its_place(self, side, noise, given):
        """Half a pixel, by which the axis of even sides is off the center, would cost 4 dB."""
        image, problem = shown(given(measured(side, noise=noise)))
        assert psnr(image, phantom(side)) > (25.5 if noise == 0 else 23.5)
        assert problem.center == side // 2
        assert problem.axis == (side // 2, side // 2)

    @pytest.mark.parametrize("side", [64, 65])
    def test_as_many_detectors_as_angles(self, side):
        angles = np.arange(side) * 180 / side
        image, problem = shown({"sinogram": measured(side, angles=angles).T})
        assert psnr(image, phantom(side)) > 25.5
        assert any("transposed" in note for note in problem.notes)

    @pytest.mark.parametrize("side", [64, 65])
    def test_all_rays_through_the_square(self, side):
        image, _ = shown({"sinogram": measured(side, circle=False), "angles": ANGLES, "size": np.array([side, side])})
        assert psnr(image, phantom(side)) > 25.5

    def test_a_whole_turn_without_angles(self):
        image, problem = shown({"sinogram": measured(64, angles=np.arange(90) * 4.0)})
        assert psnr(image, phantom(64)) > 24.5
        assert problem.angles[1] == 4
        assert any("whole turn" in note for note in problem.notes)

    def test_a_whole_turn_in_radians(self):
        image, _ = shown({"sinogram": measured(64, angles=np.arange(90) * 4.0), "angles": np.radians(np.arange(90) * 4.0)})
        assert psnr(image, phantom(64)) > 24.5

    def test_few_small_angles_are_degrees_but_noted(self):
        problem, _ = ReconstructCT.from_arrays({"sinogram": measured(64)[:4], "angles": ANGLES[:4] / 3}, scale=1.0)
        assert problem.angles == [0.0, 1.0, 2.0, 3.0]
        assert any("np.degrees" in note for note in problem.notes)


class TestRotation:
    @pytest.mark.parametrize("left", [0, 7, 24])
    @pytest.mark.parametrize("way", ["told", "found", "option"])
    def test_a_shifted_axis(self, tmp_path, left, way):
        """Detectors that see the object on one side: the center of rotation is told, or found from the centers of mass."""
        side = 65
        values = np.pad(measured(side, noise=0.1), ((0, 0), (left, 24 - left)))
        center = left + side // 2
        arrays: dict[str, Any] = {"sinogram": values, "angles": ANGLES, "size": np.array([side, side])}
        arrays |= {"center": np.array(center)} if way == "told" else {}
        np.savez(tmp_path / "scan.npz", **arrays)
        options = {"center": center} if way == "option" else {}
        given = read(tmp_path / "scan.npz", "ct", noise=0.1, channels=1, scale=1, **options)
        problem = given.problem
        assert isinstance(problem, ReconstructCT)
        assert problem.center == pytest.approx(center, abs=0.05)
        assert any("rotation axis" in note for note in given.notes) == (way == "found")
        image = (problem.preview(given.measurement)[0, 0].numpy() + 1) / 2
        assert psnr(image, phantom(side)) > 25

    def test_the_middle_would_double_the_picture(self):
        values = np.pad(measured(65), ((0, 0), (0, 24)))
        image, _ = shown({"sinogram": values, "angles": ANGLES, "size": np.array([65, 65]), "center": np.array(44.0)})
        assert psnr(image, phantom(65)) < 18

    @pytest.mark.parametrize("center", [30.2, 33.75])
    def test_fractions_of_a_detector_are_found(self, center):
        image = torch.from_numpy(phantom(64))[None, None]
        values = ParallelBeamCT((1, 64, 64), ANGLES, detectors=70, center=center)(image)[0, 0].numpy()
        problem, _ = ReconstructCT.from_arrays({"sinogram": values, "angles": ANGLES, "size": np.array([64, 64])}, scale=1.0)
        assert problem.center == pytest.approx(center, abs=0.05)

    def test_a_simulation_has_the_center_of_its_option(self):
        given = read(phantom(24), "ct", noise=0.1, simulate=True, angles=5, center=20, channels=1)
        assert isinstance(given.problem, ReconstructCT)
        assert given.problem.center == 20
        arrays = given.problem.to_arrays(given.measurement)
        again, y = ReconstructCT.from_arrays(arrays, scale=1.0)
        assert again.center == 20
        assert_close(y, given.measurement, rtol=1e-4, atol=1e-4)

    def test_what_is_centered_stays_so(self):
        problem = ReconstructCT.evenly(40, (64, 64))
        y = problem.operator((1, 64, 64))(torch.from_numpy(2 * phantom(64) - 1).float()[None, None])
        arrays = {name: value for name, value in problem.to_arrays(y).items() if name in ("sinogram", "angles")}
        again, _ = ReconstructCT.from_arrays(arrays, scale=1.0)
        assert again.center == problem.center
        assert not again.notes


class TestCounts:
    def counts(self, side=64, level=1e5):
        return np.random.default_rng(0).poisson(level * np.exp(-0.02 * measured(side)))

    @pytest.mark.parametrize("flat", [np.array(1e5), np.full(64, 1e5), np.full((60, 64), 1e5)], ids=["one", "row", "each"])
    @pytest.mark.parametrize("dark", [None, 100])
    def test_their_logarithm_is_taken_on_request(self, flat, dark):
        extra = {} if dark is None else {"dark": np.array(dark)}
        arrays = {"sinogram": self.counts() + (dark or 0), "flat": flat + (dark or 0), "angles": ANGLES, **extra}
        problem, y = ReconstructCT.from_arrays(arrays, scale=0.02)
        assert psnr((problem.preview(y)[0, 0].numpy() + 1) / 2, phantom(64)) > 24

    def test_by_an_option(self, tmp_path):
        np.savez(tmp_path / "scan.npz", sinogram=self.counts(), angles=ANGLES)
        given = read(tmp_path / "scan.npz", "ct", noise=0.1, channels=1, flat=1e5, scale=0.02)
        assert psnr((given.problem.preview(given.measurement)[0, 0].numpy() + 1) / 2, phantom(64)) > 24

    @pytest.mark.parametrize("level", [1.0, 1e5])
    def test_values_that_look_like_counts_are_noted(self, level):
        counts = self.counts() * level / 1e5
        problem, _ = ReconstructCT.from_arrays({"sinogram": counts, "angles": ANGLES}, scale=None)
        note = next(note for note in problem.notes if "look like counts" in note)
        assert float(note.split("--flat ")[1]) == pytest.approx(level, rel=0.02)

    def test_a_few_dead_detectors(self):
        counts = 0.3 * self.counts()
        counts[0, :3] = 0
        problem, y = ReconstructCT.from_arrays({"sinogram": counts, "flat": np.array(3e4), "angles": ANGLES}, scale=0.02)
        assert y.isfinite().all()
        assert any("3 counts without light" in note for note in problem.notes)


class TestDoubts:
    """What is not converted, because the data do not tell what it is, is said."""

    @pytest.mark.parametrize(
        ("values", "note"),
        [
            (lambda: measured(64)[np.random.default_rng(0).permutation(60)], "check the order"),
            (lambda: -measured(64), "sums of all projections are negative"),
            (lambda: measured(64)[:, 14:-14], "reach beyond the detectors"),
            (lambda: measured(64) * np.linspace(1, 3, 60)[:, None], "sums of the projections vary by"),
            (
                lambda: FanBeamCT(
                    (1, 64, 64), ANGLES * 2, source_distance=90, detector_distance=0, detectors=90, detector_spacing=1
                )(torch.from_numpy(phantom(64))[None, None])[0, 0].numpy(),
                "fan beam",
            ),
        ],
        ids=["shuffled", "negative", "cut off", "drift", "fan beam"],
    )
    def test_each_has_a_note(self, values, note):
        problem, _ = ReconstructCT.from_arrays({"sinogram": values(), "angles": ANGLES}, scale=1.0)
        assert any(note in each for each in problem.notes)

    def test_wrong_angles_for_a_half_turn(self):
        problem, _ = ReconstructCT.from_arrays({"sinogram": measured(64), "angles": 2 * ANGLES}, scale=1.0)
        assert any("check the order of the angles" in note for note in problem.notes)


class TestNames:
    @pytest.mark.parametrize(
        ("arrays", "message"),
        [
            ({"theta": ANGLES}, "unknown array `theta`, expected sinogram, angles, .*Did you mean `angles`"),
            ({"Angles": ANGLES}, "unknown array `Angles`.*Did you mean `angles`"),
            ({"angles": ANGLES[:-1]}, r"60 rows needs 60 angles, got an array of shape \(59,\)"),
            ({"angles": np.array(3.0)}, "needs 60 angles"),
            ({"angles": np.full(60, np.nan)}, "angles must hold finite real numbers.*60 values that are NaN"),
            ({"angles": np.array(["a"] * 60)}, "angles must hold finite real numbers"),
            ({"center": np.array([1.0, 2.0])}, "center must be 1 number, got 2"),
            ({"center": np.array(64.0)}, "center must be a detector from 0 to 63"),
            ({"axis": np.array(3.0)}, "axis must be 2 numbers, got 1"),
            ({"flat": np.array(0.0)}, "flat must exceed dark"),
            ({"flat": np.ones(7)}, "flat and dark have shapes"),
            ({"flat": np.array(1.0)}, "counts have no logarithm"),
            ({"dark": np.array(1.0)}, "without an object too"),
            ({"sinogram": np.ones((2, 60, 64))}, r"one slice, such as sinogram\[0\]"),
            ({"sinogram": np.array(1.0)}, r"\(angles, detectors\), got shape \(\)"),
            ({"sinogram": np.zeros((0, 64))}, "finite real numbers"),
            ({"sinogram": 1j * np.ones((60, 64))}, "finite real numbers, got complex128"),
            ({"sinogram": np.ones((1, 20_000))}, "Give its `size`"),
        ],
    )
    def test_each_is_one_line_with_the_name(self, tmp_path, arrays, message):
        path = tmp_path / "scan.npz"
        np.savez(path, **{"sinogram": np.where(np.arange(64) < 60, measured(64), 0) - 1e-3, **arrays})
        with pytest.raises(ValueError, match=message) as caught:
            read(path, "ct", noise=0.1, channels=1)
        assert str(caught.value).startswith(str(path))
        assert "\n" not in str(caught.value)

    def test_rays_that_no_memory_holds(self, monkeypatch):
        monkeypatch.setattr(sinogram, "_memory", lambda: 2.0**20)
        with pytest.raises(ValueError, match="Average neighboring detectors"):
            ReconstructCT.from_arrays({"sinogram": measured(64), "angles": ANGLES}, scale=1.0)

    def test_an_option_of_measured_data_is_none_of_a_simulation(self):
        with pytest.raises(OptionError, match="describes a measured INPUT"):
            read(None, "ct", noise=0.1, angles=4, simulate=True, flat=5.0)


class TestLittleIsKnown:
    @pytest.mark.parametrize("angles", [np.arange(40) * 3.0, np.arange(30) * 3.0])
    def test_limited_angles_in_radians_follow_the_centers_of_mass(self, angles):
        values = measured(65, angles=angles)
        problem, _ = ReconstructCT.from_arrays({"sinogram": values, "angles": np.radians(angles)}, scale=1.0)
        assert problem.angles == pytest.approx(angles)
        assert any("radians: converted" in note for note in problem.notes)

    def test_a_large_offset_in_much_noise_is_found(self):
        """The standard error of 0.15 detectors would leave the axis 12 detectors off, which doubles every edge."""
        values = np.pad(measured(65), ((0, 0), (0, 24)))
        values += 1.5 * np.random.default_rng(0).normal(size=values.shape)
        problem, _ = ReconstructCT.from_arrays({"sinogram": values, "angles": ANGLES}, scale=1.0)
        assert problem.center == pytest.approx(32, abs=0.6)

    @pytest.mark.parametrize("offset", [0.3, 0.4, 0.65])
    def test_only_half_a_detector_is_that_of_scikit_image(self, offset):
        image = torch.from_numpy(phantom(64))[None, None]
        values = ParallelBeamCT((1, 64, 64), ANGLES, detectors=70, center=34.5 + offset)(image)[0, 0].numpy()
        problem, _ = ReconstructCT.from_arrays({"sinogram": values, "angles": ANGLES}, scale=1.0)
        assert problem.center == pytest.approx(34.5 + offset, abs=0.05)

    def test_detectors_first_are_of_scikit_image_in_any_noise(self):
        problem, _ = ReconstructCT.from_arrays({"sinogram": measured(64, noise=1.5).T}, scale=1.0)
        assert (problem.center, problem.axis) == (32, (32, 32))

    def test_a_center_that_the_data_do_not_tell_is_noted(self):
        problem, _ = ReconstructCT.from_arrays({"sinogram": measured(65)[::12], "angles": ANGLES[::12]}, scale=1.0)
        assert any("the data do not tell" in note for note in problem.notes)

    def test_an_axis_beside_the_center_of_the_image_is_noted(self):
        """The sinogram of all rays through an even square may be scikit-image's, with its axis half a pixel off the center."""
        arrays = {"sinogram": measured(64, circle=False), "angles": ANGLES, "size": np.array([64, 64])}
        problem, _ = ReconstructCT.from_arrays(arrays, scale=1.0)
        assert any("`axis`" in note for note in problem.notes)
        problem, _ = ReconstructCT.from_arrays({**arrays, "axis": np.array([31.5, 31.5])}, scale=1.0)
        assert problem.axis == (31.5, 31.5)
        assert not any("`axis`" in note for note in problem.notes)

    def test_angles_in_a_column(self):
        problem, _ = ReconstructCT.from_arrays({"sinogram": measured(65), "angles": ANGLES[:, None]}, scale=1.0)
        assert problem.angles == pytest.approx(ANGLES)

    @pytest.mark.parametrize(("first", "several"), [("angles", False), ("angles", True), ("detectors", False)])
    def test_references_as_scanners_write_them(self, first, several):
        """Repeated flats are averaged, and flats follow the detectors where these come first."""
        flat, dark = 1e4 + 1e3 * np.sin(np.arange(65)), 50 + np.arange(65) % 7
        counts = dark + (flat - dark) * np.exp(-0.03 * measured(65))
        arrays = {"sinogram": counts if first == "angles" else counts.T, "angles": ANGLES, "dark": dark}
        arrays["flat"] = np.stack([flat - 10, flat, flat + 10]) if several else flat
        assert_close(sinogram.sinogram_of(arrays).values.numpy(), 0.03 * measured(65), rtol=1e-6, atol=1e-6)
