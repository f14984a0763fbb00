"""Priors, networks, random numbers and methods on the device of ``--device``: what they compute on the CPU, there."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from cases import over, selected
from helpers import randn
from method_runs import problem, run
from simulated_device import DEVICE as SIMULATED
from torch import nn
from torch.testing import assert_close

from invdiff import PosteriorSampler
from invdiff.methods import METHODS
from invdiff.methods.denoised import Denoised
from invdiff.operators import Mask
from invdiff.priors import ScoreModel, UNet, from_network
from invdiff.random import PlacedNoise, Streams, generator
from invdiff.schedules import EDM

STEPS = 4
BFLOAT16 = 0.02  # relative error of a few roundings to 8 bits


def shape_of(prior: ScoreModel) -> tuple[int, ...]:
    return tuple(int(side or 1) for side in prior.event_shape or ())


@over("prior", selected(ScoreModel))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_priors_follow_their_input(prior: ScoreModel, dtype: torch.dtype, device: torch.device) -> None:
    x, v = (randn(2, *shape_of(prior), seed=seed, dtype=dtype) for seed in (0, 1))
    found, expected = (
        Denoised(prior.to(there), x.to(there), torch.tensor(0.3), differentiable=True)
        for there in (device, torch.device("cpu"))
    )
    for result, like in ((found.x0_hat, expected.x0_hat), (found.vjp(v.to(device)), expected.vjp(v))):
        assert (result.device.type, result.dtype) == (device.type, dtype)
        assert_close(result.cpu(), like.cpu(), rtol=1e-4, atol=1e-4)


def wild() -> UNet:
    net = UNet(widths=(4, 8), blocks=(1, 1), embedding=8)
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.2, generator=torch.Generator().manual_seed(0))
    return net.eval()


@pytest.mark.parametrize(
    "options",
    [{}, {"checkpointing": True}, {"autocast": torch.bfloat16}],
    ids=["float32", "checkpointing", "bfloat16"],
)
class TestNetworks:
    def test_agree_with_the_cpu(self, options: dict[str, Any], device: torch.device) -> None:
        if device == SIMULATED and options:
            pytest.skip("the simulated device has no autocast, nor the state that checkpoints keep")
        x, v = (randn(2, 3, 10, 12, seed=seed, dtype=torch.float32) for seed in (0, 1))
        exact = from_network(wild(), EDM(), predicts="edm")
        moved = from_network(wild(), EDM(), predicts="edm", **options).to(device)
        found, expected = (
            Denoised(prior, x.to(there), torch.tensor(0.5), differentiable=True)
            for prior, there in ((moved, device), (exact, torch.device("cpu")))
        )
        tolerance = BFLOAT16 if "autocast" in options else 1e-4
        for result, like in ((found.x0_hat, expected.x0_hat), (found.vjp(v.to(device)), expected.vjp(v))):
            assert (result.device.type, result.dtype) == (device.type, torch.float32)
            gap = (result.cpu() - like).norm() / like.norm()
            assert gap < tolerance

    @pytest.mark.filterwarnings("ignore:misfit", "ignore:from_network")
    def test_sample(self, options: dict[str, Any], device: torch.device) -> None:
        if device == SIMULATED and options:
            pytest.skip("the simulated device has no autocast, nor the state that checkpoints keep")
        prior = from_network(wild(), EDM(), predicts="edm", **options)
        op = Mask(torch.rand(10, 12, generator=torch.Generator().manual_seed(0)) < 0.5, (3, 10, 12), sigma_y=0.1)
        y = op.measure(randn(1, 3, 10, 12, dtype=torch.float32), seed=0).to(device)
        for method in ("dps", "diffpir"):
            samples = PosteriorSampler(prior, op, method=method, steps=2).run(y, num_samples=2).samples
            assert (samples.device.type, samples.dtype) == (device.type, torch.float32)
            assert samples.isfinite().all()


class TestRandomNumbers:
    def test_of_a_row_do_not_depend_on_the_batch(self, device: torch.device) -> None:
        together = Streams([generator(0, "sample", b, 0, device=device) for b in range(3)])
        alone = Streams([generator(0, "sample", 1, 0, device=device)])
        for event in ((6,), (1, 80, 80), (6,)):
            drawn = together.normal(event)
            assert drawn.device.type == device.type
            assert torch.equal(drawn[1:2].cpu(), alone.normal(event).cpu())

    def test_placed_noise_is_that_of_the_cpu(self, device: torch.device) -> None:
        here, there = (Streams([PlacedNoise(0, 0, k, sides=(40, 50), device=d) for k in range(2)]) for d in ("cpu", device))
        for event in ((3, 40, 50), (7,)):
            assert torch.equal(there.normal(event).cpu(), here.normal(event))

    def test_placed_noise_is_not_overwritten(self, device: torch.device) -> None:
        """The memory that a copy starts from may be used again only when the copy has been made."""
        source = PlacedNoise(0, 0, 0, sides=(256, 256), device=device)
        drawn = [source.normal((256, 256)) for _ in range(8)]
        again = PlacedNoise(0, 0, 0, sides=(256, 256))
        for noise in drawn:
            assert torch.equal(noise.cpu(), again.normal((256, 256)))


@pytest.mark.filterwarnings("ignore:misfit")
@pytest.mark.parametrize("name", METHODS)
class TestMethods:
    def test_samples_are_there_and_follow_the_measurement(self, name: str, device: torch.device) -> None:
        op = problem(name)
        samples = [run(name, op, device, STEPS, seed=seed) for seed in (1, 5)]
        for found in samples:
            assert (found.device.type, found.dtype) == (device.type, torch.float32)
            assert found.isfinite().all()
        one, other = (found.cpu().mean(0).flatten(1) for found in samples)
        apart = (one - other).norm(dim=1) > 1e-3 * other.norm(dim=1)
        assert apart.all() or name == "unconditional"

    def test_the_same_seed_gives_the_same_samples(self, name: str, device: torch.device) -> None:
        op = problem(name)
        first, again = (run(name, op, device, STEPS).cpu() for _ in range(2))
        assert_close(first, again, rtol=1e-4, atol=1e-4)  # A GPU may add in any order.

    def test_the_measurement_decides(self, name: str, device: torch.device) -> None:
        """An operator that is on the device already gives what one that is moved there gives."""
        op = problem(name)
        for moved, given in zip(run(name, op.to(device), device, STEPS), run(name, op, device, STEPS), strict=True):
            assert_close(moved.cpu(), given.cpu(), rtol=1e-4, atol=1e-4)
