"""Kernels that do not explain the spectrum of the picture are noticed before sampling; right ones are not."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from skimage import data

from invdiff.operators import Blur
from invdiff.operators.blur.kernels import defocus_kernel, gaussian_kernel, motion_kernel
from invdiff.restoration import read
from invdiff.restoration.kernel_check import check_kernel

KERNELS = {
    "gaussian": gaussian_kernel(1.5),
    "disc": defocus_kernel(3.0),
    "line": motion_kernel(9, 30.0),
    "wide": gaussian_kernel(3.0),
}
PICTURES = {"cat": data.chelsea()[60:230, 110:280], "rocket": data.rocket()[100:270, 200:370]}
SIGMA = 0.02


def measured(picture, kernel, sigma_y=SIGMA):
    x = torch.from_numpy(PICTURES[picture].copy()).permute(2, 0, 1).float()[None] / 127.5 - 1
    return Blur(tuple(x.shape[1:]), kernel, boundary="valid", sigma_y=sigma_y).measure(x, seed=0)[0]


def verdict_on(y, kernel, sigma_y=SIGMA):
    verdict = check_kernel(y, kernel, sigma_y)
    assert verdict is not None
    return verdict


@pytest.mark.parametrize("picture", PICTURES)
@pytest.mark.parametrize("name", KERNELS)
def test_right_kernels_pass(picture, name):
    assert not verdict_on(measured(picture, KERNELS[name]), KERNELS[name]).wrong


@pytest.mark.parametrize("picture", PICTURES)
@pytest.mark.parametrize(("true", "given"), [("gaussian", "wide"), ("gaussian", "line"), ("line", "wide"), ("disc", "line")])
def test_wrong_kernels_do_not(picture, true, given):
    verdict = verdict_on(measured(picture, KERNELS[true]), KERNELS[given])
    assert verdict.wrong
    assert verdict.better


def test_noise_that_is_far_too_low_is_noticed():
    y = measured("cat", KERNELS["gaussian"], sigma_y=0.1)
    assert verdict_on(y, KERNELS["gaussian"], 0.01).wrong
    assert not verdict_on(y, KERNELS["gaussian"], 0.1).wrong


def test_only_the_shape_of_the_kernel_counts():
    y, kernel = measured("cat", KERNELS["line"]), KERNELS["line"]
    moved = torch.nn.functional.pad(kernel, (4, 0, 0, 2))
    gains = [verdict_on(y, given).gain for given in (kernel, 3 * kernel, kernel.flip(0, 1))]
    assert gains == pytest.approx([gains[0]] * 3, abs=1e-6)
    assert not verdict_on(y, moved).wrong


@pytest.mark.parametrize("side", [8, 31, 60])
def test_small_pictures_have_no_verdict(side):
    kernel = torch.ones(21, 21) / 441
    assert check_kernel(torch.zeros(3, side, side), kernel, SIGMA) is None


def test_constant_pictures_have_no_verdict():
    assert check_kernel(torch.full((3, 64, 64), 0.3), KERNELS["gaussian"], SIGMA) is None


def test_large_pictures_are_looked_at_in_part():
    y = torch.randn(1, 2000, 1500, generator=torch.Generator().manual_seed(0))
    assert check_kernel(y, KERNELS["gaussian"], 1.0) is not None


class TestNotes:
    def note(self, kernel, **options):
        y = measured("cat", KERNELS["gaussian"]).numpy() / 2 + 0.5
        notes = read(y.clip(0, 1), "deblur", kernel=kernel, noise=SIGMA / 2, **options).notes
        return [note for note in notes if note.startswith("kernel: ")]

    def test_a_guessed_kernel(self):
        (note,) = self.note("motion:9,30")
        assert "the kernel or the noise is wrong" in note
        assert note.endswith("Without --kernel it is estimated from INPUT.")

    def test_a_right_one(self):
        assert not self.note("gaussian:1.5")

    def test_an_unknown_one(self):
        assert not self.note(None)

    def test_a_simulation_knows_its_kernel(self):
        y = np.asarray(PICTURES["cat"] / 255, dtype=np.float32).transpose(2, 0, 1)
        notes = read(y, "deblur", kernel="gaussian:4", noise=SIGMA / 2, simulate=True).notes
        assert not any(note.startswith("kernel: ") for note in notes)
