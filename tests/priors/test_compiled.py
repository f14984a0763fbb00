"""A compiled network computes what the network does, and where compiling fails the network answers."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from helpers import randn
from torch import Tensor, nn
from torch.testing import assert_close

from invdiff import PosteriorSampler
from invdiff.operators import Mask
from invdiff.priors import NetworkPrior, UNet, from_network, load_prior, save_prior
from invdiff.priors.compiled import CompiledNetwork
from invdiff.schedules import EDM

FAST = {"backend": "aot_eager"}  # All but the kernels, which take a minute.
T = torch.tensor(0.5)
# PyTorch looks at the gradient of every input that it compiles for, and hides its own warning of that.
pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")


class Small(nn.Module):
    """The least that has activations and blocks: compiling takes seconds."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.Conv2d(3, 3, 3, padding=1) for _ in range(2))

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        for block in self.blocks:
            x = torch.sin(block(x) + time[:, None, None, None])
        return x


def wild() -> nn.Module:
    net = Small()
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.5, generator=torch.Generator().manual_seed(0))
    return net.eval()


@pytest.fixture(autouse=True)
def forget() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def pair(how: dict[str, Any], **options: Any) -> tuple[NetworkPrior, NetworkPrior]:
    net = wild()
    plain, compiled = (from_network(net, EDM(), predicts="edm", compiled=c, **options) for c in (False, True))
    assert isinstance(compiled.net, nn.Module)
    compiled.compiled = CompiledNetwork(compiled.net, **how)
    return plain, compiled


def results(prior: NetworkPrior, count: int, side: int) -> list[Tensor]:
    """Return the denoised images, and two products of one graph, the second after the network was called elsewhere."""
    x_t, v = randn(count, 3, side, side, dtype=torch.float32), randn(count, 3, side, side, seed=1, dtype=torch.float32)
    with torch.no_grad():
        found = [prior.denoise(x_t, T)]
    x_t.requires_grad_()
    x0_hat = prior.denoise(x_t, T)
    found += torch.autograd.grad(x0_hat, x_t, v, retain_graph=True)
    with torch.no_grad():
        found.append(prior.denoise(v, T))
    return [*found, *torch.autograd.grad(x0_hat, x_t, 2 * v, retain_graph=True)]


@pytest.mark.parametrize(
    "options", [{}, {"autocast": torch.bfloat16}, {"checkpointing": True}], ids=["float32", "bfloat16", "checkpointing"]
)
def test_agrees_to_rounding_for_every_shape(options: dict[str, Any]) -> None:
    plain, compiled = pair(FAST, **options)
    tolerance = 0.05 if "autocast" in options else 1e-5
    for count, side in ((2, 16), (1, 18)):
        for ours, expected in zip(results(compiled, count, side), results(plain, count, side), strict=True):
            assert_close(ours, expected, rtol=tolerance, atol=tolerance)
    assert compiled.describe()["compiled"] is True
    assert "compiled" not in plain.describe()


@pytest.mark.slow
def test_kernels_agree_to_rounding() -> None:
    plain, compiled = pair({})
    for ours, expected in zip(results(compiled, 2, 16), results(plain, 2, 16), strict=True):
        assert_close(ours, expected, rtol=1e-4, atol=1e-4)
    assert compiled.describe()["compiled"] is True


def no_backend(*_: Any) -> Callable[..., Any]:
    raise OSError("no C compiler\nwas found")


@pytest.mark.parametrize("differentiated", [False, True])
def test_falls_back_with_a_warning(differentiated: bool) -> None:
    plain, compiled = pair({"backend": no_backend})
    x_t = randn(2, 3, 16, 16, dtype=torch.float32).requires_grad_(differentiated)
    with pytest.warns(UserWarning, match=r"torch.compile failed \(.*no C compiler.*\); the network runs without it"):
        found = compiled.denoise(x_t, T)
    assert torch.equal(found, plain.denoise(x_t, T))
    compiled.denoise(x_t, T)  # without another warning
    assert compiled.describe()["compiled"] is False


def test_errors_of_the_network_are_not_those_of_compiling() -> None:
    class Broken(nn.Module):
        def forward(self, x: Tensor, time: Tensor) -> Tensor:
            return x.reshape(7)

    compiled = CompiledNetwork(Broken(), **FAST)
    with pytest.raises(RuntimeError, match="shape"):
        compiled(torch.zeros(2, 3), T)
    assert not compiled.failures


def test_memory_that_does_not_suffice_is_reported_as_such() -> None:
    def full(*_: Any) -> Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    compiled = CompiledNetwork(wild())
    compiled._run = full
    with pytest.raises(torch.OutOfMemoryError):
        compiled(torch.zeros(1, 3, 8, 8), T)
    assert not compiled.failures


def test_copies() -> None:
    plain, compiled = pair(FAST)
    expected = results(plain, 2, 16)
    _ = results(compiled, 2, 16)
    for other in (copy.deepcopy(compiled), compiled.to("cpu")):
        assert_close(results(other, 2, 16), expected)
    assert compiled.compiled is not None
    assert not pickle.loads(pickle.dumps(compiled.compiled)).failures


def test_moved_priors_tell_of_failures() -> None:
    _, compiled = pair({"backend": no_backend})
    moved = compiled.to("meta")
    assert moved is not compiled
    assert moved.compiled is not None
    moved.compiled.failures.append("no backend of this device")
    assert compiled.describe()["compiled"] is False


@pytest.mark.filterwarnings("ignore:misfit")
def test_whole_runs(tmp_path: Any) -> None:
    path = tmp_path / "tiny.safetensors"
    save_prior(UNet(widths=(4,), blocks=(1,), embedding=8), path, sigma_data=0.5, facts={})
    op = Mask(torch.rand(16, 16, generator=torch.Generator().manual_seed(0)) < 0.5, (3, 16, 16), sigma_y=0.1)
    y = op.measure(randn(1, 3, 16, 16, dtype=torch.float32), seed=0)
    samples = []
    for compiled in (False, True):
        prior = load_prior(path, precision="float32", compiled=compiled)
        if compiled:
            assert isinstance(prior.net, nn.Module)
            prior.compiled = CompiledNetwork(prior.net, **FAST)
        for method in ("dps", "diffpir"):
            posterior = PosteriorSampler(prior, op, method=method, steps=3).run(y, num_samples=2)
            assert posterior.origin["prior"].get("compiled", False) is compiled
            samples.append(posterior.samples)
    for ours, expected in zip(samples[2:], samples[:2], strict=True):
        assert_close(ours, expected, rtol=1e-3, atol=1e-3)


def test_functions_are_refused() -> None:
    with pytest.raises(TypeError, match="compiled=True needs a module, got function"):
        from_network(lambda x, time: x, EDM(), compiled=True)
