"""Nothing lands on another device than its input, and little is waited for: held against a simulated GPU."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from cases import chosen_device, over, selected
from helpers import randn
from method_runs import HALF, PRIOR, SHAPE, measured, problem, run
from operator_checks import check_kind, inputs, outputs
from simulated_device import DEVICE, SimulatedDevice, WrongDeviceError, on_cpu, simulated_device
from torch import Tensor
from torch.testing import assert_close

from invdiff import PosteriorSampler
from invdiff.linalg import conjugate_gradients, least_squares
from invdiff.methods import METHODS, ConditionalDenoiser, Correction, Method
from invdiff.methods.denoised import Denoised
from invdiff.methods.divergence import INTERVAL, DivergenceError
from invdiff.methods.samplers import DAPS
from invdiff.operators import Function, LinearOperator, Mask, Operator
from invdiff.priors import ScoreModel, UNet, from_network
from invdiff.random import Draw, PlacedNoise, Streams, generator
from invdiff.schedules import EDM

# How often a step waits for the GPU, at most, and why. No line: never, but for the check of every few states.
WAITS: dict[str, tuple[int, str]] = {
    "mmps": (4, "GMRES looks at its residual before every further product, and Krylov spectra check their eigenvectors"),
    "exact-score": (1, "the exact prior of this test decomposes a matrix; a network does not"),
    "handover": (2, "as mmps and exact-score, one after the other"),
    "tds": (1, "the effective sample size decides what is computed next"),
    "mcg-diff": (1, "likewise"),
    "fps-smc": (1, "likewise"),
    "mm-tsmc": (6, "likewise; and Krylov spectra check their eigenvectors"),
}


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Iterator[SimulatedDevice]:
    if chosen_device().type != "cpu":
        pytest.skip("the simulated device is compared with the CPU")
    for solver in (conjugate_gradients, least_squares):  # A few iterations show on which device they are, as well as many.
        monkeypatch.setitem(solver.__kwdefaults__ or {}, "max_iterations", 3)
    with simulated_device() as there:
        yield there


class TestOperators:
    @over("op", selected(Operator))
    def test_follow_their_input(self, op: Operator, device: SimulatedDevice) -> None:
        for moved in (op, op.to(DEVICE)):
            for dtype in (torch.float32, torch.float64):
                check_kind(moved, dtype, DEVICE)

    @over("op", selected(Operator))
    def test_agree_with_the_cpu_and_stay_there(self, op: Operator, device: SimulatedDevice) -> None:
        if isinstance(op, LinearOperator):
            _ = op.svd  # A run has asked for it before it moves the operator.
        moved, x, v = op.to(DEVICE), inputs(op), outputs(op)
        there = x.to(DEVICE), v.to(DEVICE)
        for _ in range(2):  # What is computed on first use has been moved by the second.
            device.uploads.clear()
            for result, expected in zip(results(moved, *there), results(op, x, v), strict=True):
                assert result.device == DEVICE
                assert_close(on_cpu(result), expected, rtol=1e-9, atol=1e-9 * float(expected.abs().amax()))
        assert not device.uploads


def results(op: Operator, x: Tensor, v: Tensor) -> list[Tensor]:
    found = [op(x), op.keep_measured(v), op.jacobian(x)(x), op.jacobian(x).adjoint(v)]
    if isinstance(op, LinearOperator):
        found += [op.adjoint(v), op.solve(v, 0.1), op.pinv(v), op.prox(x, v, 0.1), op.precondition(v, 0.1)]
        if op.svd is not None:
            found += [op.svd.synthesize(op.svd.analyze(x)), op.svd.measured(v) * op.svd.singular.to(v)]
    return found


@over("prior", selected(ScoreModel))
def test_priors_move(prior: ScoreModel, device: SimulatedDevice) -> None:
    shape = tuple(int(side or 1) for side in prior.event_shape or ())
    x, v, t = randn(2, *shape, dtype=torch.float32), randn(2, *shape, seed=1, dtype=torch.float32), torch.tensor(0.3)
    moved = prior.to(DEVICE)
    device.uploads.clear()
    found = Denoised(moved, x.to(DEVICE), t, differentiable=True)
    expected = Denoised(prior, x, t, differentiable=True)
    for result, like in ((found.x0_hat, expected.x0_hat), (found.vjp(v.to(DEVICE)), expected.vjp(v))):
        assert (result.device, result.dtype) == (DEVICE, torch.float32)
        assert_close(on_cpu(result), like)
    assert set(device.uploads) <= {"outside the library"}
    assert set(device.reads) <= {"outside the library"}


@pytest.mark.filterwarnings("ignore:misfit")
@pytest.mark.parametrize("name", METHODS)
class TestMethods:
    def test_run_as_on_the_cpu_and_seldom_wait(self, name: str, device: SimulatedDevice) -> None:
        op, counts = problem(name), list[tuple[Counter[str], Counter[str]]]()
        for steps in (INTERVAL // 2, INTERVAL):
            device.reads.clear()
            device.uploads.clear()
            samples = run(name, op, DEVICE, steps)
            counts.append((device.reads.copy(), device.uploads.copy()))
        assert (samples.device, samples.dtype) == (DEVICE, torch.float32)
        assert torch.equal(on_cpu(samples), run(name, op, "cpu", INTERVAL))
        reads, uploads = (more - less for more, less in zip(counts[1], counts[0], strict=True))
        assert not uploads
        allowed, _ = WAITS.get(name, (0, ""))
        assert reads.total() <= allowed * (INTERVAL - INTERVAL // 2), reads

    def test_nonlinear(self, name: str, device: SimulatedDevice) -> None:
        op = Function(torch.tanh, SHAPE, sigma_y=0.1)
        options = {"langevin_steps": 3} if name in ("daps", "pnp-dm") else {}
        try:
            expected = run(name, op, "cpu", 3, **options)
        except ValueError:
            return  # Not for this method.
        assert torch.equal(on_cpu(run(name, op, DEVICE, 3, **options)), expected)


@pytest.mark.filterwarnings("ignore:misfit", "ignore:from_network")
@pytest.mark.parametrize("name", ["dps", "pigdm", "diffpir", "exact-score"])
def test_runs_with_a_network_never_wait_within_a_step(name: str, device: SimulatedDevice) -> None:
    net = UNet(channels=1, widths=(4, 8), blocks=(1, 1), embedding=8, maps=4 if name == "exact-score" else 0)
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.1, generator=torch.Generator().manual_seed(0))
    prior = from_network(net, EDM(), predicts="edm")
    prior.noise_kinds = frozenset({"pixel"})
    op, counts = Mask(HALF, sigma_y=0.1), list[tuple[Counter[str], Counter[str]]]()
    y, samples = measured(op), list[Tensor]()
    for steps, where in ((INTERVAL // 2, DEVICE), (INTERVAL, DEVICE), (INTERVAL, "cpu")):
        device.reads.clear()
        device.uploads.clear()
        sampler = PosteriorSampler(prior, op, method=name, steps=steps)
        samples.append(on_cpu(sampler.run(y.to(where), num_samples=2).samples))
        counts.append((device.reads.copy(), device.uploads.copy()))
    assert torch.equal(*samples[1:])
    for more, less in zip(counts[1], counts[0], strict=True):
        assert not more - less


class TestDivergence:
    """States are looked at every few steps. What comes out is what comes out on a CPU."""

    class Wild(Correction):
        """Throws one item away in step ``when``: just out of bounds, or for ever."""

        far, when = 1.5e4, 3

        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            self.calls = 0

        def correct(self, x_s: Tensor, at: Denoised, s: Tensor, draw: Draw) -> Tensor:
            self.calls += 1
            which = (self.y[:, :1, :1, :1] > 7) & (self.calls == self.when)
            return torch.where(which, x_s + self.far, x_s)

    def run(self, cls: type[Correction], where: torch.device | str, steps: int = 11) -> tuple[Tensor, float, int]:
        op, seen = Mask(torch.ones(SHAPE), sigma_y=0.1), list[int]()
        y = op.measure(PRIOR.sample(3, seed=1), seed=2)
        y[2, 0, 0, 0] = 8
        post = PosteriorSampler(PRIOR, op, method=Method(cls, name="wild", rule="ddpm"), steps=steps).run(
            y.to(where), num_samples=2, callback=lambda step: seen.append(step.number), chunk=3
        )
        return on_cpu(post.samples), post.nfe, len(seen)

    @pytest.mark.filterwarnings("ignore:misfit")
    def test_backs_off_as_on_the_cpu(self, device: SimulatedDevice) -> None:
        expected, nfe, _ = self.run(self.Wild, "cpu")
        found, count, _ = self.run(self.Wild, DEVICE)
        assert torch.equal(found, expected)
        assert count == nfe

    @pytest.mark.parametrize("when", [1, 3, INTERVAL, INTERVAL + 1, 11])
    def test_names_the_same_step_and_row(self, when: int, device: SimulatedDevice) -> None:
        wild = type("Wild", (self.Wild,), {"far": float("nan"), "when": when})
        errors = []
        for where in ("cpu", DEVICE):
            with pytest.raises(DivergenceError) as error:
                self.run(wild, where)
            errors.append((str(error.value), error.value.step, error.value.row))
        assert errors[0] == errors[1]
        assert errors[0][1] == when

    def test_of_samplers_too(self, device: SimulatedDevice) -> None:
        class Lost(DAPS):
            def follow_ode(self, x_t: Tensor, t: Tensor) -> Tensor:
                return x_t.new_full(x_t.shape, torch.nan) if float(t) < 0.5 else super().follow_ode(x_t, t)

        op, errors = Mask(HALF, sigma_y=0.1), []
        for where in ("cpu", DEVICE):
            with pytest.raises(DivergenceError) as error:
                run(Method(Lost, name="lost"), op, where, 11)
            errors.append(str(error.value))
        assert errors[0] == errors[1]


class TestStreams:
    def test_numbers_of_a_row_do_not_depend_on_the_batch(self, device: SimulatedDevice) -> None:
        together = Streams([generator(0, "sample", b, 0, device=DEVICE) for b in range(3)])
        alone = Streams([generator(0, "sample", 1, 0, device=DEVICE)])
        for event in ((6,), (1, 80, 80), (6,)):
            assert torch.equal(on_cpu(together.normal(event))[1:2], on_cpu(alone.normal(event)))
        assert not device.uploads
        assert not device.reads

    def test_placed_noise_is_that_of_the_cpu(self, device: SimulatedDevice) -> None:
        here, there = (Streams([PlacedNoise(0, 0, k, sides=(40, 50), device=d) for k in range(2)]) for d in ("cpu", DEVICE))
        for event in ((3, 40, 50), (7,)):
            assert torch.equal(on_cpu(there.normal(event)), here.normal(event))


class TestTheLawsCatch:
    """What breaks the rules is seen."""

    @pytest.mark.parametrize(
        "fault",
        [
            lambda x: x + torch.ones(x.shape[1:]),
            lambda x: torch.stack([x, torch.zeros(x.shape)]),
            lambda x: x @ torch.eye(x.shape[-1], dtype=x.dtype),
            lambda x: torch.cat([x, torch.tensor([0.0]).expand(len(x), *x.shape[1:])]),
            lambda x: x + torch.randn(x.shape[1:], generator=torch.Generator(), device=x.device),
            lambda x: x + torch.randn(x.shape[1:], generator=torch.Generator(x.device)),
        ],
    )
    def test_tensors_of_the_wrong_device(self, fault: Callable[[Tensor], Tensor], device: SimulatedDevice) -> None:
        with pytest.raises(WrongDeviceError):
            fault(torch.zeros(2, *SHAPE, device=DEVICE))

    @pytest.mark.parametrize(
        "read",
        [
            lambda x: float(x.sum()),
            lambda x: bool((x > 0).any()),
            lambda x: x.tolist(),
            lambda x: x.cpu(),
            lambda x: x[x > 0],
            lambda x: x.nonzero(),
            lambda x: torch.equal(x, x),
            lambda x: torch.linalg.cholesky(torch.eye(3, device=x.device)),
        ],
    )
    def test_reads(self, read: Callable[[Tensor], object], device: SimulatedDevice) -> None:
        read(torch.zeros(3, device=DEVICE))
        assert device.reads.total() >= 1

    def test_operators_that_keep_a_tensor(self, device: SimulatedDevice) -> None:
        mine = torch.rand(SHAPE)
        with pytest.raises(WrongDeviceError):
            check_kind(Function(lambda x: mine * x, SHAPE), torch.float32, DEVICE)

    @pytest.mark.filterwarnings("ignore:misfit")
    @pytest.mark.parametrize("wrong", [lambda x: x + torch.zeros(SHAPE), lambda x: x * float(x.sum() / x.sum())])
    def test_methods(self, wrong: Callable[[Tensor], Tensor], device: SimulatedDevice) -> None:
        class Wrong(ConditionalDenoiser):
            def posterior_mean(self, at: Denoised) -> Tensor:
                return wrong(at.x0_hat)

        try:
            device.reads.clear()
            run(Method(Wrong, name="wrong", rule="ddpm"), Mask(HALF, sigma_y=0.1), DEVICE, 5)
        except WrongDeviceError:
            return
        assert device.reads.total() >= 5
