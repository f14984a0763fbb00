"""K-space of complex images: magnitude and phase come back, the noise is found, and maps are estimated by ESPIRiT."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers import randn
from mr_files import coil_images, disk, kspace_of
from torch.testing import assert_close

from invdiff.operators import MRI, birdcage_maps
from invdiff.priors import Complex, Gaussian
from invdiff.problems import ReconstructMRI
from invdiff.problems.coil_maps import espirit_maps, suits_espirit
from invdiff.restoration.inputs import read

SIZE, COILS = (32, 40), 4
MAPS = birdcage_maps(COILS, *SIZE).numpy()
TOLD = {"zero_frequency": np.array("center"), "origin": np.array("center")}


def noisy(level, seed=0):
    generator = np.random.default_rng(seed)
    return kspace_of(coil_images(disk(*SIZE), COILS)) + level * sum(
        part * generator.normal(size=(COILS, *SIZE)) for part in (1, 1j)
    )


def given(kspace=None, **arrays):
    return {"kspace": kspace_of(coil_images(disk(*SIZE), COILS)) if kspace is None else kspace, **TOLD, **arrays}


@pytest.mark.parametrize("maps", [None, "true", "without a phase"], ids=str)
def test_the_image_that_explains_the_data_has_the_magnitude_and_the_phase(maps):
    arrays = given() if maps is None else given(coil_maps=MAPS * (np.exp(0.7j) if maps == "true" else 1))
    problem, y = ReconstructMRI.from_arrays(arrays, scale=0.5)
    op = problem.operator(problem.image_shape(y.shape[1:]))
    assert isinstance(op, MRI)
    x = op.pinv(y.double())
    inside = np.abs(disk(*SIZE)) > 0
    magnitude = (problem.pictured(x)[0, 0] + 1).numpy() / 2 * 0.5
    scaled = torch.linalg.vector_norm(problem.coil_maps, dim=0).numpy()
    np.testing.assert_allclose(magnitude * scaled, np.abs(disk(*SIZE)), atol=0.02 if maps is None else 1e-6)
    phase = problem.derived(x)["phase"].pixels[0] * np.pi
    turned = np.exp(1j * phase[inside]) * disk(*SIZE)[inside].conj()
    if maps is None:  # only up to the phase of a virtual coil, which is smooth
        return
    assert np.abs(np.angle(turned * (np.exp(0.7j) if maps == "true" else 1))).max() < 1e-3


def test_the_image_is_nearly_real_after_the_phase_of_the_maps():
    problem, y = ReconstructMRI.from_arrays(given(noisy(0.003)), scale=None)
    op = problem.operator((2, *SIZE))
    assert isinstance(op, MRI)
    x = op.pinv(y.double())
    assert x[0, 1].square().mean() < 0.05 * (x[0, 0] + 1).square().mean()
    assert problem.widths is not None
    inside = torch.from_numpy(np.abs(disk(*SIZE)) > 0.5)
    assert problem.widths[inside].mean() > 5 * problem.widths[~inside].mean()


def test_prior_and_channels():
    problem, _ = ReconstructMRI.from_arrays(given(), scale=None)
    gray = Gaussian(torch.zeros(1, *SIZE), torch.ones(1, *SIZE))
    score = problem.prior(gray)
    assert isinstance(score, Complex)
    assert score.event_shape == (2, *SIZE)
    real, y = ReconstructMRI.from_arrays(given(image=np.array("real")), scale=None)
    assert real.prior(gray) is gray
    assert (real.own_channels, y.shape) == (False, (1, 1, COILS, *SIZE, 2))
    assert real.derived(torch.zeros(2, 1, *SIZE)) == {}
    simulated = ReconstructMRI.simulated(SIZE, acceleration=2, center_fraction=0.2, coils=2, seed=0)
    assert not simulated.own_channels


@pytest.mark.parametrize("level", [0.05, 0.1])
@pytest.mark.parametrize("image", ["complex", "real"])
def test_noise_is_found_in_the_outermost_frequencies(level, image):
    measured = read(given(noisy(level)), "mri", scale=1.0, channels=1, image=image)
    assert measured.observed.sigma_y / 2 == pytest.approx(level, rel=0.15)
    assert any("outermost frequencies" in note for note in measured.notes)


def test_noise_that_a_file_tells_is_taken():
    measured = read(given(noise_std=np.array(0.03)), "mri", scale=2.0, channels=1)
    assert measured.observed.sigma_y == pytest.approx(0.03)
    assert read(given(noise_std=np.array(0.03)), "mri", noise=0.1, channels=1).observed.sigma_y == pytest.approx(0.2)


def test_written_measurements_are_read_again():
    problem, y = ReconstructMRI.from_arrays(given(), scale=0.5)
    again, y_again = ReconstructMRI.from_arrays(problem.to_arrays(y), scale=0.5)
    assert_close(y_again, y, rtol=1e-4, atol=1e-4)
    assert again.own_channels


def test_black_where_all_maps_are_0():
    maps = MAPS * (np.abs(disk(*SIZE)) > 0)
    problem, y = ReconstructMRI.from_arrays(given(coil_maps=maps), scale=1.0)
    op = problem.operator((2, *SIZE))
    x = problem.finish(randn(3, 2, *SIZE, seed=1), y, op)
    outside = torch.from_numpy(np.abs(disk(*SIZE)) == 0)
    assert (problem.pictured(x)[:, 0, outside] == -1).all()
    assert torch.equal(x[..., ~outside], randn(3, 2, *SIZE, seed=1)[..., ~outside])
    assert_close(op(x), op(randn(3, 2, *SIZE, seed=1)))


class TestESPIRiT:
    def test_maps_explain_the_coil_images(self):
        kspace, mask = torch.from_numpy(kspace_of(coil_images(disk(*SIZE), COILS))), torch.ones(SIZE, dtype=torch.bool)
        maps = espirit_maps(kspace, mask).numpy()
        inside = np.abs(disk(*SIZE)) > 0
        shares = np.abs((maps.conj() * MAPS).sum(0)[inside])
        assert shares.min() > 0.98

    def test_few_frequencies(self):
        mask = torch.zeros(SIZE, dtype=torch.bool)
        mask[:, 17:24] = True
        assert not suits_espirit(mask)
        kspace = torch.from_numpy(kspace_of(coil_images(disk(*SIZE), COILS)))
        with pytest.raises(ValueError, match="needs 7 x 7 measured frequencies"):
            espirit_maps(kspace * mask[:, :1], torch.zeros_like(mask))
        problem, _ = ReconstructMRI.from_arrays(given((kspace * mask).numpy()), scale=None)
        assert not any("ESPIRiT" in note for note in problem.notes)
        asked, _ = ReconstructMRI.from_arrays(given((kspace * mask).numpy(), maps_from=np.array("espirit")), scale=None)
        assert problem.coil_maps is not None
        assert asked.coil_maps is not None
        assert not torch.equal(problem.coil_maps, asked.coil_maps)

    def test_an_object_larger_than_the_field_of_view_takes_the_other_maps(self):
        """Its ends lie on one another, and are seen by the coils in different proportions."""
        left, right = np.random.default_rng(0).random((2, *SIZE))
        folded = kspace_of(MAPS * left + MAPS.conj()[[2, 3, 0, 1]] * np.array([1, -1, 1, 1])[:, None, None] * right)
        notes = " ".join(ReconstructMRI.from_arrays(given(folded), scale=None)[0].notes)
        assert "larger than the field of view" in notes
        assert "larger than" not in " ".join(ReconstructMRI.from_arrays(given(), scale=None)[0].notes)
