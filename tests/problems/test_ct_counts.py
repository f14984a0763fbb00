"""Tomography of counts, fan beams and lengths: noise that follows from the counts, and images in physical units."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest
import torch
from skimage.data import shepp_logan_phantom
from skimage.transform import resize
from torch.testing import assert_close

from invdiff import PosteriorSampler
from invdiff.operators import FanBeamCT, GaussianNoise, ParallelBeamCT, TransmissionNoise
from invdiff.posterior import chi_square
from invdiff.priors import Gaussian
from invdiff.problems import OptionError, ReconstructCT
from invdiff.problems.opposites import center_of_opposites
from invdiff.restoration.inputs import read

SIDE, WHITE = 48, 0.05
ANGLES = np.arange(60) * 3.0
FAN = {"source_distance": 90.0, "detector_distance": 40.0, "detectors": 80, "detector_spacing": 1.2}


@functools.cache
def phantom(side: int = SIDE) -> Any:
    image = np.roll(resize(shepp_logan_phantom(), (side, side), anti_aliasing=True), (2, 3), (0, 1))
    return image * (np.hypot(*np.mgrid[-1 : 1 : side * 1j, -1 : 1 : side * 1j]) < 0.9)


def integrals(**more: Any) -> Any:
    return WHITE * ParallelBeamCT((1, SIDE, SIDE), ANGLES, **more)(torch.from_numpy(phantom())[None, None])[0, 0].numpy()


def counted(flat: float, *, gain: float = 1.0, dark: float = 0.0) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    values = dark + gain * rng.poisson(flat * np.exp(-integrals()))
    place = {"size": np.array([SIDE, SIDE]), "axis": np.array([(SIDE - 1) / 2] * 2)}
    return {"sinogram": values, "angles": ANGLES, "flat": np.array(dark + gain * flat), **place}


def built(arrays: Any, *, scale: float | None = WHITE) -> tuple[ReconstructCT, torch.Tensor]:
    return ReconstructCT.from_arrays(arrays, scale=scale)


def truth() -> torch.Tensor:
    return torch.from_numpy(2 * phantom() - 1)[None, None]


class TestNoise:
    @pytest.mark.parametrize("flat", [8.0, 1e2, 1e4])
    @pytest.mark.parametrize("gain", [1.0, 0.25])
    def test_the_truth_explains_the_counts(self, flat, gain):
        """Pearson's chi-square is 1 for any number of counts, and not for another object or another gain."""
        arrays = counted(flat, gain=gain) | ({} if gain == 1 else {"gain": np.array(gain)})
        problem, y = built(arrays)
        op = problem.operator((1, SIDE, SIDE))
        assert isinstance(op.noise, TransmissionNoise)
        assert float(chi_square(op, truth().float(), y)) / y.numel() == pytest.approx(1, abs=5 * (2 / y.numel()) ** 0.5 + 0.03)
        assert float(chi_square(op, -truth().float(), y)) / y.numel() > 1.3

    @pytest.mark.parametrize("kind", ["poisson", "gaussian"])
    def test_the_gradient_is_that_of_the_counts(self, kind):
        problem, y = built(counted(1e4) | {"likelihood": np.array(kind)})
        op = problem.operator((1, SIDE, SIDE))
        assert isinstance(op.noise, TransmissionNoise if kind == "poisson" else GaussianNoise)
        x = truth().float().requires_grad_()
        expected = 1e4 * torch.exp(-WHITE / 2 * problem._rays((1, SIDE, SIDE))(x + 1))
        counts = torch.from_numpy(counted(1e4)["sinogram"])
        (right,) = torch.autograd.grad((torch.xlogy(counts, expected) - expected).sum(), x)
        (found,) = torch.autograd.grad(op.noise.log_likelihood(y, op(x)).sum(), x)
        gap = (found - right).norm() / right.norm()
        assert gap < (1e-3 if kind == "poisson" else 0.05)

    def test_gain_of_repeated_flats(self):
        rng = np.random.default_rng(1)
        arrays = counted(1e4, gain=0.3, dark=50.0)
        arrays["flat"] = 50 + 0.3 * rng.poisson(1e4, (40, arrays["sinogram"].shape[1])) * rng.uniform(0.9, 1.1, (40, 1))
        arrays["dark"] = 50 + rng.normal(0, 1.2, (40, arrays["sinogram"].shape[1]))
        problem, _ = built(arrays)
        assert problem.counts is not None
        assert float(problem.counts.flat.mean()) == pytest.approx(1e4, rel=0.15)
        assert float(problem.counts.background.mean()) == pytest.approx((1.2 / 0.3) ** 2, rel=0.3)
        assert any("by the variance of the flats" in note for note in problem.notes)

    def test_a_dark_level_is_a_background(self):
        problem, _ = built(counted(100.0, dark=7) | {"dark": np.array(7.0)})
        assert problem.counts is not None
        assert (problem.counts.background == 7).all()
        assert_close(problem.counts.measured.numpy(), counted(100.0, dark=7)["sinogram"].astype(float))

    def test_transmissions_are_no_photons(self):
        """Their number of photons is not known, so that the noise is to be given."""
        arrays = counted(1e4)
        problem, y = built({**arrays, "sinogram": (arrays["sinogram"] + 0.5) / 1e4, "flat": np.array(1.0)})
        assert problem.counts is None
        assert problem.operator((1, SIDE, SIDE)).noise.sigma == 0
        assert_close(y, built(arrays)[1], rtol=1e-2, atol=1e-2)

    @pytest.mark.parametrize("noise", [None, 0.1])
    def test_none_needs_to_be_given(self, tmp_path, noise):
        np.savez(tmp_path / "scan.npz", **counted(1e4))
        given = read(tmp_path / "scan.npz", "ct", noise=noise, channels=1, scale=WHITE)
        assert isinstance(given.observed.noise, TransmissionNoise if noise is None else GaussianNoise)
        assert not any("noise 0" in note for note in given.notes)

    def test_under_a_color_prior(self, tmp_path):
        np.savez(tmp_path / "scan.npz", **counted(1e3))
        given = read(tmp_path / "scan.npz", "ct", channels=3, scale=WHITE)
        x = truth().float()
        one = given.observed.noise.log_likelihood(given.measurement, given.observed(x)).sum()
        three = given.op.noise.log_likelihood(given.y, given.op(x.expand(1, 3, -1, -1))).sum()
        assert_close(three, one, rtol=1e-4, atol=1e-2)

    @pytest.mark.parametrize("kind", ["poisson", "gaussian"])
    def test_samples_explain_the_counts(self, kind):
        """Under a prior that hardly knows anything; the same samples of other counts would not."""
        prior = Gaussian.stationary(torch.full((1, 16, 16), -0.5), torch.full((1, 16, 9), 0.2))
        rays = ParallelBeamCT((1, 16, 16), np.arange(20) * 9.0)
        image = torch.from_numpy(phantom(16)).float()[None, None]
        counts = np.random.default_rng(0).poisson(400 * np.exp(-0.1 * rays(image)[0, 0].numpy()))
        arrays = {"sinogram": counts, "flat": np.array(400.0), "angles": np.arange(20) * 9.0}
        arrays |= {"size": np.array([16, 16]), "axis": np.array([7.5, 7.5])}
        problem, y = built(arrays | {"likelihood": np.array(kind)}, scale=0.1)
        op = problem.operator((1, 16, 16))
        post = PosteriorSampler(prior, op, method="mmps", steps=20).run(y, num_samples=4, seed=0)
        samples = post.samples[:, 0]
        other = torch.from_numpy(np.random.default_rng(1).permutation(counts.ravel()).reshape(counts.shape)).double()
        noise: Any = op.noise
        shuffled = TransmissionNoise(noise.flat, scale=noise.scale).integrals(other) if kind == "poisson" else y.flip(-1, -2)
        right = chi_square(op, samples, y.expand(4, *op.out_shape)).mean() / y.numel()
        wrong = chi_square(op, samples, shuffled.float().expand(4, *op.out_shape)).mean() / y.numel()
        assert 0.4 < float(right) < 1.1
        assert float(wrong) > 2


class TestBins:
    def test_photons_add_up(self):
        one, two = built(counted(100.0))[0], built(counted(100.0) | {"bin": np.array(2)})[0]
        assert one.counts is not None
        assert two.counts is not None
        pairs = one.counts.measured.reshape(60, -1, 2).sum(2)
        assert_close(two.counts.measured, pairs)
        assert float(two.counts.flat[0, 0]) == 200

    @pytest.mark.parametrize("bins", [2, 3])
    def test_the_picture_stays_in_its_place(self, bins):
        values = integrals(detectors=72, center=33.3)
        side = SIDE // bins
        arrays = {"sinogram": values, "angles": ANGLES, "bin": np.array(bins), "size": np.array([side, side])}
        small = torch.from_numpy(phantom()).reshape(side, bins, side, bins).mean((1, 3))
        for more in ({}, {"center": np.array(33.3)}):
            problem, y = built(arrays | more, scale=bins * WHITE)
            assert problem.center == pytest.approx((33.3 - (bins - 1) / 2) / bins, abs=0.05)
            shown = (problem.preview(y)[0, 0] + 1) / 2
            assert float((shown - small).square().mean()) < 0.01

    @pytest.mark.parametrize("bins", [0, 100])
    def test_out_of_range(self, bins):
        with pytest.raises(ValueError, match="bin must be from 1"):
            built({"sinogram": integrals(), "angles": ANGLES, "bin": np.array(bins)})


class TestFan:
    @pytest.mark.parametrize("curved", [False, True])
    @pytest.mark.parametrize("unit", [1.0, 0.7])
    def test_the_picture_in_its_units(self, curved, unit):
        """All lengths in units of which a pixel takes ``unit``: attenuation is per unit."""
        angles = np.arange(90) * 4.0
        rays = FanBeamCT((1, SIDE, SIDE), angles, **FAN, curved=curved)  # type: ignore[arg-type]
        values = WHITE * rays(torch.from_numpy(phantom())[None, None])[0, 0].numpy()
        lengths = {name: np.array(unit * FAN[name]) for name in ("source_distance", "detector_distance", "detector_spacing")}
        arrays = {"sinogram": values, "angles": angles, "pixel_size": np.array(unit), "size": np.array([SIDE, SIDE])}
        arrays |= lengths | {"geometry": np.array("fan"), "detector_shape": np.array("curved" if curved else "flat")}
        problem, y = built(arrays, scale=WHITE / unit)
        assert_close(problem.operator((1, SIDE, SIDE))(truth().float()), y, rtol=1e-4, atol=1e-3)
        shown = (problem.preview(y)[0, 0].numpy() + 1) / 2
        assert np.mean((shown - phantom()) ** 2) < 3e-3
        assert problem.unit == "1/mm"
        again, other = built(problem.to_arrays(y), scale=WHITE / unit)
        assert_close(other, y, rtol=1e-4, atol=1e-3)
        assert again.fan == problem.fan

    def test_the_pixels_are_as_wide_as_the_fan_at_the_axis(self):
        arrays = {name: np.array(FAN[name]) for name in ("source_distance", "detector_distance", "detector_spacing")}
        problem, _ = built({"sinogram": np.ones((9, 20)), **arrays})
        assert problem.pixel_size == pytest.approx(1.2 * 90 / 130)
        assert problem.angles[1] == 40
        assert any("evenly spaced over a whole turn" in note for note in problem.notes)

    @pytest.mark.parametrize(
        ("arrays", "message"),
        [
            ({"geometry": np.array("fan")}, "needs `source_distance` and `detector_distance` and `detector_spacing`"),
            ({"geometry": np.array("cone")}, "geometry must be parallel or fan, got 'cone'"),
            ({"source_distance": np.array(-3.0), "detector_distance": np.array(1.0)}, "source_distance must be positive"),
            ({"source_distance": np.array(3.0), "detector_distance": np.array(1.0)}, "corners of the image are up to 36"),
            ({"pixel_size": np.array(0.0)}, "pixel_size must be positive"),
            ({"mu_water": np.array(0.0)}, "mu_water must be positive"),
            ({"gain": np.array(1.0)}, "`gain` belongs to counts"),
            ({"flat": np.array(9.0), "gain": np.array(-1.0)}, "gain must be positive"),
        ],
    )
    def test_bad_geometry(self, arrays, message):
        needed = {"detector_spacing": np.array(1.0)} if "source_distance" in arrays else {}
        with pytest.raises(ValueError, match=message):
            built({"sinogram": integrals(), "angles": ANGLES, **needed, **arrays})

    def test_an_option_of_measured_data_is_none_of_a_simulation(self):
        with pytest.raises(OptionError, match="describes a measured INPUT"):
            read(None, "ct", noise=0.1, angles=4, simulate=True, source_distance=50.0)


class TestUnits:
    @pytest.mark.parametrize(("pixel", "unit"), [(None, ""), (0.5, "1/mm")])
    def test_attenuation_is_per_length(self, pixel, unit):
        arrays = {"sinogram": integrals(), "angles": ANGLES} | ({} if pixel is None else {"pixel_size": np.array(pixel)})
        problem, y = built(arrays, scale=None)
        plain, _ = built({"sinogram": integrals(), "angles": ANGLES}, scale=None)
        assert problem.scale == pytest.approx(plain.scale / (pixel or 1), rel=1e-4)
        assert problem.unit == unit
        assert_close(problem.preview(y), plain.preview(built({"sinogram": integrals(), "angles": ANGLES}, scale=None)[1]))

    def test_hounsfield_units(self):
        arrays = {"sinogram": integrals(), "angles": ANGLES, "pixel_size": np.array(1.0), "mu_water": np.array(0.02)}
        problem, _ = built(arrays)
        assert (problem.window.low, problem.window.high, problem.unit) == (-1000, pytest.approx(1500), "HU")


class TestOpposites:
    @pytest.mark.parametrize("center", [22.5, 30.2, 35.75])
    @pytest.mark.parametrize("turn", [180.0, 360.0])
    def test_of_a_part_of_an_object(self, center, turn):
        """The middle of the detectors would be 27.5. The two are not exactly opposite in half a turn."""
        angles = np.arange(180) * turn / 180
        wide = ParallelBeamCT((1, SIDE, SIDE), angles, detectors=56, detector_spacing=0.6, center=center)
        values = wide(torch.from_numpy(phantom())[None, None])[0, 0].numpy()
        values += 0.02 * np.random.default_rng(0).normal(size=values.shape)
        assert center_of_opposites(values, angles.tolist()) == pytest.approx(center, abs=0.35 if turn == 180 else 0.1)
        problem, _ = built({"sinogram": values, "angles": angles, "detector_spacing": np.array(0.6)})
        assert problem.center == pytest.approx(center, abs=0.35 if turn == 180 else 0.1)
        assert any("as opposite projections say" in note for note in problem.notes)

    def test_noise_does_not_move_the_axis(self):
        """A detector beside the middle, the projections of a noisy object fit better now and then; that is no evidence."""
        for seed in range(30):
            values = integrals(detectors=49) + 0.4 * np.random.default_rng(seed).normal(size=(60, 49))
            found = center_of_opposites(values, ANGLES.tolist())
            assert found is None or found == pytest.approx(24, abs=0.5)

    def test_nothing_is_told_by_noise_or_by_a_few_angles(self):
        noise = np.random.default_rng(0).normal(size=(60, 50))
        assert center_of_opposites(noise, ANGLES.tolist()) is None
        assert center_of_opposites(integrals()[:30], ANGLES[:30].tolist()) is None
        assert center_of_opposites(np.zeros((60, 50)), ANGLES.tolist()) is None
