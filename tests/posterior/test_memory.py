"""Memory that runs out, and memory that is saved: the samples stay what they are."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from cases import build
from helpers import randn
from torch import Tensor, nn
from torch.testing import assert_close

from invdiff import PosteriorSampler
from invdiff.operators import Matrix
from invdiff.posterior.memory import halve_when_full, out_of_memory
from invdiff.priors import Gaussian, ScoreModel, UNet, from_network
from invdiff.schedules import EDM

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")
FULL = (
    "[enforce fail at alloc_cpu.cpp:118] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes."
)
ERRORS = [torch.OutOfMemoryError("CUDA out of memory."), RuntimeError(FULL), MemoryError()]
PRIOR = build(Gaussian)[0]
OP = Matrix(randn(3, 6, seed=9), sigma_y=0.2)


class Small(ScoreModel):
    """A prior on a device that holds so many rows."""

    def __init__(self, rows: int, error: BaseException) -> None:
        self.rows, self.error, self.asked = rows, error, 0
        self.schedule, self.event_shape = PRIOR.schedule, PRIOR.event_shape

    def denoise(self, x_t: Tensor, t: Tensor) -> Tensor:
        self.asked = max(self.asked, len(x_t))
        if len(x_t) > self.rows:
            raise self.error
        return PRIOR.denoise(x_t, t)


class TestChunks:
    @pytest.mark.parametrize("error", ERRORS, ids=lambda e: type(e).__name__)
    @pytest.mark.parametrize("rows", [1, 2, 3, 5])
    @pytest.mark.parametrize("method", ["mmps", "daps"])
    def test_halved_and_drawn_again_with_the_same_result(self, error: BaseException, rows: int, method: str) -> None:
        y, settings = randn(2, 3), {"method": method, "steps": 4}
        crowded = PosteriorSampler(Small(rows, error), OP, **settings).run(y, num_samples=5, chunk=7)  # type: ignore[arg-type]
        roomy = PosteriorSampler(PRIOR, OP, **settings).run(y, num_samples=5, chunk=7)  # type: ignore[arg-type]
        assert_close(crowded.samples, roomy.samples)
        assert_close(crowded.residual, roomy.residual)
        assert (crowded.nfe, crowded.nvjp) == (roomy.nfe, roomy.nvjp)

    def test_one_that_does_not_fit_says_what_to_do(self) -> None:
        with pytest.raises(MemoryError, match=r"mmps: the memory of cpu does not hold one sample of 6 values.*checkpointing"):
            PosteriorSampler(Small(0, ERRORS[0]), OP, method="mmps", steps=4).run(randn(2, 3), num_samples=2)

    def test_other_errors_are_left_alone(self) -> None:
        with pytest.raises(RuntimeError, match="no kernel"):
            PosteriorSampler(Small(0, RuntimeError("no kernel")), OP, method="mmps", steps=4).run(randn(2, 3), num_samples=2)

    def test_every_item_once_and_in_order(self) -> None:
        worked: list[list[int]] = []

        def work(chunk: Any) -> list[int]:
            if len(chunk) > 2:
                raise MemoryError
            worked.append(list(chunk))
            return worked[-1]

        results = halve_when_full([[0, 1, 2, 3, 4], [5, 6, 7], [8]], work, device=CPU)
        assert list(itertools.chain(*results)) == list(range(9))
        assert max(map(len, worked)) == 2

    def test_what_the_allocator_really_says(self) -> None:
        with pytest.raises(RuntimeError) as error:
            torch.empty(2**60, dtype=torch.uint8)
        assert out_of_memory(error.value)
        assert out_of_memory(RuntimeError("could not create a primitive"))  # oneDNN's only words
        assert not out_of_memory(RuntimeError("size mismatch"))


def wild(net: nn.Module) -> nn.Module:
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.2, generator=torch.Generator().manual_seed(0))
    return net.eval()


class TestCheckpointing:
    def test_gradients_are_the_same_and_less_is_kept(self) -> None:
        net = wild(UNet(widths=(8, 16), blocks=(3, 3), embedding=16))
        x_t, v = randn(2, 3, 16, 16, dtype=torch.float32).requires_grad_(), randn(2, 3, 16, 16, seed=1, dtype=torch.float32)
        products, kept = [], []
        for checkpointing in (False, True):
            prior = from_network(net, EDM(), predicts="edm", checkpointing=checkpointing)
            sizes: list[int] = []
            with torch.autograd.graph.saved_tensors_hooks(lambda saved, s=sizes: s.append(saved.numel()) or saved, lambda s: s):
                x0_hat = prior.denoise(x_t, torch.tensor(0.5))
            products.append([x0_hat.detach()] + [torch.autograd.grad(x0_hat, x_t, k * v, retain_graph=True)[0] for k in (1, 2)])
            kept.append(sum(sizes))
            assert prior.describe()["checkpointing"] == checkpointing
        for ours, expected in zip(*products, strict=True):
            assert_close(ours, expected)
        assert kept[1] < 0.6 * kept[0]

    def test_the_module_given_is_left_alone(self) -> None:
        net = wild(UNet(widths=(4, 8), blocks=(1, 1), embedding=8))
        from_network(net, EDM(), predicts="edm", checkpointing=True, autocast=torch.bfloat16)
        assert all("forward" not in vars(module) for module in net.modules())
        assert all(p.dtype == torch.float32 and p.requires_grad for p in net.parameters())


class TestPrecision:
    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_kernels_are_kept_in_the_precision_they_are_used_in(self, dtype: torch.dtype) -> None:
        net = wild(UNet(widths=(4, 8), blocks=(1, 1), embedding=8))
        prior = from_network(net, EDM(), predicts="edm", autocast=dtype)
        kept = {p.ndim > 1: p.dtype for p in prior.net.parameters()}  # type: ignore[attr-defined]
        assert kept == {True: dtype, False: torch.float32}
        x_t = randn(1, 3, 8, 8, dtype=torch.float32)
        with torch.autocast("cpu", dtype):
            raw = net(x_t / (0.5**2 + 0.5**2) ** 0.5, torch.full((1,), 0.5).log() / 4)
        expected = 0.5 * x_t + 0.5 * 0.5 / 0.5**0.5 * raw.float()
        assert_close(prior.denoise(x_t, torch.tensor(0.5)), expected, rtol=1e-5, atol=1e-5)
