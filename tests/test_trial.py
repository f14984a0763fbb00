"""Trials of what users give: networks, functions, operators. What is sound passes; each fault is named."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from cases import over, selected
from helpers import randn
from latent_problem import decoded_for
from torch import Tensor, nn
from torch.testing import assert_close

from invdiff import PosteriorSampler
from invdiff.methods import METHODS
from invdiff.methods.steps import sample_prior
from invdiff.operators import (
    Blur,
    Function,
    GaussianNoise,
    Identity,
    LinearFunction,
    LinearOperator,
    Mask,
    Matrix,
    NetworkOperator,
    Noise,
    Operator,
    PoissonNoise,
    per_item,
)
from invdiff.operators.core.try_operator import is_of_user, try_noise, try_operator
from invdiff.priors import Gaussian, Gray, PerChannel, Rescaled, ScoreModel, Tiled, from_network, load_prior
from invdiff.priors.trial import is_of_user as is_prior_of_user
from invdiff.priors.trial import try_prior
from invdiff.random import Streams
from invdiff.schedules import EDM, VP, DiscreteBetas

pytestmark = pytest.mark.filterwarnings("ignore::invdiff.posterior.MisfitWarning")  # two steps

SHAPE = (1, 6, 6)
PRIOR = Gaussian(torch.zeros(SHAPE), torch.full(SHAPE, 0.3))
MASK = Mask(torch.ones(SHAPE), sigma_y=0.1)


def convolutions() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.SiLU(), nn.Conv2d(8, 1, 3, padding=1)).requires_grad_(False)


NET = convolutions()
NORMALIZED = nn.Sequential(nn.BatchNorm2d(1), NET).train()
DROPOUT = nn.Dropout(0.3).train()
MEMORY = torch.zeros(4, *SHAPE)


class Table(nn.Module):
    """A network whose times are the rows of a table."""

    def __init__(self) -> None:
        super().__init__()
        self.levels = nn.Embedding(1000, 1)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        return x * self.levels(time).reshape(-1, 1, 1, 1)


def overwrites(x: Tensor) -> Tensor:
    return torch.sin(3 * x, out=MEMORY[: len(x)]) if not x.requires_grad else torch.sin(3 * x)


def reuses(x: Tensor) -> Tensor:
    MEMORY[: len(x)] = torch.sin(3 * x.detach())
    return MEMORY[: len(x)]


# Faults of a map: name, map, what the error says.
MIXING: dict[str, Callable[[Tensor], Tensor]] = {
    "mean over the batch": lambda x: NET(x) - x.mean(),
    "maximum over the batch": lambda x: NET(x) / x.abs().max(),
    "batch normalization": lambda x: NORMALIZED(x),
    "difference to the first": lambda x: NET(x - 0.5 * x[:1]),
    "difference to the last": lambda x: NET(x - 0.5 * x[-1:]),
    "sum along the batch": lambda x: NET(x).cumsum(0),
    "attention over the batch": lambda x: (x.flatten(1) @ x.flatten(1).mT / 36).softmax(-1).mm(x.flatten(1)).reshape(x.shape),
    "a value of the first": lambda x: NET(x) * (1 + x[0, 0, 0, 0]),
    "mean of the last layer": lambda x: NET(x) - NET(x).mean((0, 2, 3), keepdim=True),
}
RANDOM: dict[str, Callable[[Tensor], Tensor]] = {
    "dropout": lambda x: NET(DROPOUT(x)),
    "noise": lambda x: NET(x) + 1e-3 * torch.randn_like(x),
    "random choice": lambda x: NET(x) * (1 + 0.01 * torch.randint(0, 1000, ())),
}
WITHOUT_GRADIENT: dict[str, Callable[[Tensor], Tensor]] = {
    "no_grad": torch.no_grad()(lambda x: NET(x)),
    "inference mode": torch.inference_mode()(lambda x: NET(x)),
    "detached input": lambda x: NET(x.detach()),
    "detached result": lambda x: NET(x).detach(),
    "numpy": lambda x: torch.from_numpy(np.tanh(x.numpy())),
    "detached numpy": lambda x: torch.from_numpy(np.tanh(x.detach().numpy())),
    "list": lambda x: torch.tensor(x.tanh().tolist()).to(x),
    "data": lambda x: NET(x.data),
    "rounding": lambda x: (40 * x).round() / 40,
    "bytes": lambda x: (100 * x).to(torch.int8).to(x) / 100,
    "sign": torch.sign,
    "a tenth detached": lambda x: 0.9 * x + 0.1 * x.detach(),
    "partly detached": lambda x: torch.tanh(x) + torch.sin(3 * x).detach(),
    "detached weight": lambda x: x * (3 * x).sigmoid().detach() * (1 + x.sin().detach()),
    "wrong gradient": lambda x: Tripled.apply(x),
}
OTHER: dict[str, tuple[Callable[[Tensor], Any], str]] = {
    "in place": (lambda x: NET(x.mul_(1.1)), "changes its argument in place"),
    "in place, part": (lambda x: NET(x.clamp_(-0.5, 0.5)), "changes its argument in place"),
    "overwrites": (reuses, "overwrites its earlier results|no gradient|differentiates the network"),
}
SOUND: dict[str, Callable[[Tensor], Tensor]] = {
    "network": lambda x: NET(x),
    "identity": lambda x: x,
    "copy": torch.clone,
    "constant": lambda x: torch.ones_like(x),
    "zero": torch.zeros_like,
    "clip": lambda x: x.clamp(-0.3, 0.3),
    "absolute value": torch.abs,
    "maximum of the item": lambda x: x / x.abs().amax((1, 2, 3), keepdim=True),
    "mean of the item": lambda x: x - x.mean((1, 2, 3), keepdim=True),
    "normalized": lambda x: nn.functional.group_norm(x, 1),
    "sorted": lambda x: x.flatten(1).sort(1).values.reshape(x.shape),
    "median": lambda x: x - x.flatten(1).median(1).values.reshape(-1, 1, 1, 1),
    "products of the item": lambda x: x @ x,
    "spectrum": lambda x: torch.fft.fft2(x, norm="ortho").abs(),
    "steep": lambda x: torch.tanh(20 * x),
    "bfloat16": lambda x: (x.bfloat16() * 3).sin().to(x.dtype),
    "half": lambda x: (x.half() * 3).sin().to(x.dtype),
    "straight-through rounding": lambda x: x + ((40 * x).round() / 40 - x).detach(),
    "pool": lambda x: nn.functional.interpolate(nn.functional.max_pool2d(x, 2), scale_factor=2),
}


class Tripled(torch.autograd.Function):
    """The identity, with three times its gradient."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return 1.0 * x

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None: ...

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return 3 * gradients[0]


def named(faults: dict[str, Any]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("fault", faults.values(), ids=faults.keys())


class Own(Operator):
    """An operator of a user's class."""

    def __init__(self, function: Callable[[Tensor], Tensor], *, sigma_y: float = 0.1) -> None:
        self.in_shape, self.noise, self.function = SHAPE, GaussianNoise(sigma_y), function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


class OwnPrior(ScoreModel):
    """A prior of a user's class."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        self.schedule, self.event_shape, self.function = EDM(), SHAPE, function

    def denoise(self, x_t: Tensor, t: Tensor) -> Tensor:
        return self.function(x_t)


def wrapped(function: Callable[[Tensor], Any], **options: Any) -> ScoreModel:
    return from_network(lambda x, time: function(x), VP(), **options)


def sample(score: ScoreModel, op: Operator, method: str = "sda") -> Tensor:
    y = op.measure(PRIOR.sample(2, seed=0), seed=1)
    return PosteriorSampler(score, op, method=method, steps=2).run(y).samples


# Where a map is given: as a function, an operator, a network, a prior.
PLACES: dict[str, Callable[[Callable[[Tensor], Tensor]], Any]] = {
    "Function": lambda f: Function(f, SHAPE, sigma_y=0.1),
    "operator": lambda f: PosteriorSampler(PRIOR, Own(f), method="sda", steps=2),
    "composed operator": lambda f: PosteriorSampler(PRIOR, MASK @ (2 * Own(f, sigma_y=0)), method="sda", steps=2),
    "operator per item": lambda f: PosteriorSampler(PRIOR, per_item([Own(f), Own(f)]), method="sda", steps=2),
    "network": lambda f: PosteriorSampler(wrapped(f), Identity(SHAPE, sigma_y=0.1), method="sda", steps=2),
    "network for edm": lambda f: PosteriorSampler(wrapped(f, predicts="edm"), Identity(SHAPE, sigma_y=0.1), steps=2),
    "rescaled network": lambda f: PosteriorSampler(Rescaled(wrapped(f), (0, 1)), Identity(SHAPE, sigma_y=0.1), steps=2),
    "prior": lambda f: PosteriorSampler(OwnPrior(f), Identity(SHAPE, sigma_y=0.1), method="sda", steps=2),
}
PLACE = pytest.mark.parametrize("place", PLACES.values(), ids=PLACES.keys())


@PLACE
class TestEveryPlace:
    @named(MIXING)
    def test_mixing(self, place: Callable[..., Any], fault: Callable[[Tensor], Tensor]) -> None:
        with pytest.raises(ValueError, match="mixes the items of a batch"):
            place(fault)

    @named(RANDOM)
    def test_randomness(self, place: Callable[..., Any], fault: Callable[[Tensor], Tensor]) -> None:
        with pytest.raises(ValueError, match="is random: two calls with the same input differ"):
            place(fault)

    @named(WITHOUT_GRADIENT)
    def test_gradients(self, place: Callable[..., Any], fault: Callable[[Tensor], Tensor]) -> None:
        with pytest.raises(ValueError, match="no gradient, or a wrong one"):
            place(fault)

    @named(OTHER)
    def test_others(self, place: Callable[..., Any], fault: tuple[Callable[[Tensor], Any], str]) -> None:
        if fault[0] is not reuses and place is PLACES["network for edm"]:
            return  # It gets a scaled copy.
        with pytest.raises(ValueError, match=fault[1]):
            place(fault[0])

    @pytest.mark.filterwarnings("ignore:from_network")
    @named(SOUND)
    def test_what_is_sound_passes(self, place: Callable[..., Any], fault: Callable[[Tensor], Tensor]) -> None:
        place(fault)


@over("op", selected(Operator), rest="quick")
def test_every_operator_passes(op: Operator) -> None:
    try_operator(op)
    assert not is_of_user(op)  # So that nobody waits for it.


@over("noise", selected(Noise), rest="quick")
def test_every_noise_passes(noise: Noise) -> None:
    try_noise(noise, (2, 3))


@pytest.mark.parametrize("detached", [False, True])
def test_a_noise_of_a_user(detached: bool) -> None:
    class Wide(Noise):
        sigma = 0.3

        def add(self, clean: Tensor, streams: Streams) -> Tensor:
            return clean + self.sigma * streams.normal(clean.shape[1:], dtype=clean.dtype)

        def log_likelihood(self, y: Tensor, clean: Tensor) -> Tensor:
            return -((y - (clean.detach() if detached else clean)) / self.sigma).square() / 2

        def variance(self, y: Tensor, clean: Tensor) -> Tensor:
            return torch.full_like(clean, self.sigma**2)

    op = Identity(SHAPE, noise=Wide())
    if detached:
        with pytest.raises(ValueError, match=r"Wide\.log_likelihood: the function has no gradient, or a wrong one"):
            PosteriorSampler(PRIOR, op, method="daps", steps=2)
    else:
        assert sample(PRIOR, op, "daps").isfinite().all()


@over("prior", selected(ScoreModel), rest="quick")
def test_every_analytic_prior_passes(prior: ScoreModel) -> None:
    assert try_prior(prior, [side or 1 for side in prior.event_shape or ()]) == ""
    assert not is_prior_of_user(prior)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_bundled_prior_passes(precision: str) -> None:
    prior = load_prior("natural", precision=precision)
    assert not is_prior_of_user(prior)
    for score, shape in ((prior, (3, 32, 32)), (Gray(prior), (1, 32, 32)), (Tiled(prior, tile=16), (3, 40, 24))):
        assert try_prior(score, shape) == ""


class TestMethods:
    """A network without a gradient serves the methods that take none."""

    network = wrapped(torch.no_grad()(lambda x: NET(x)))

    @pytest.mark.filterwarnings("ignore:from_network")
    @pytest.mark.filterwarnings("ignore::invdiff.posterior.MisfitWarning")  # two steps
    @pytest.mark.parametrize("method", [m for m in METHODS if m not in ("repaint", "snips", "unconditional")])
    def test_every_method(self, method: str) -> None:
        exact, few = "exact" in METHODS[method].needs, method == "mm-tsmc"
        mask = torch.zeros(SHAPE) if few else torch.ones(SHAPE)
        mask[0, :2] = 1
        op, score = decoded_for(method, Mask(mask, sigma_y=0.0 if exact else 0.1)), self.network
        if method in ("exact-score", "handover"):
            return  # They need a prior with an error model, or one that denoises pivots.
        if METHODS[method].algorithm.differentiates:
            with pytest.raises(
                ValueError, match=rf"^{method} differentiates the network, .* need no gradient .*: .*ddnm, .*daps"
            ):
                PosteriorSampler(score, op, method=method, steps=2)
        else:
            assert sample(score, op, method).isfinite().all()

    @pytest.mark.filterwarnings("ignore:from_network")
    def test_an_option_can_need_it(self) -> None:
        op = Identity(SHAPE, sigma_y=0.1)
        PosteriorSampler(self.network, op, method="langevin", steps=2)
        with pytest.raises(ValueError, match="langevin differentiates the network"):
            PosteriorSampler(self.network, op, method="langevin", likelihood="sda", steps=2)

    def test_auto_names_what_it_chose(self) -> None:
        with pytest.raises(ValueError, match="mmps differentiates the network"):
            PosteriorSampler(self.network, Identity(SHAPE, sigma_y=0.1))


class TestNetworks:
    def test_is_tried_once(self) -> None:
        calls: list[int] = []

        def net(x: Tensor, time: Tensor) -> Tensor:
            calls.append(len(x))
            return 0 * x

        prior, op = from_network(net, EDM()), Identity((4, 300), sigma_y=0.1)
        PosteriorSampler(prior, op, method="sda", steps=2)
        assert sum(calls[:3]) == 6
        count = len(calls)
        PosteriorSampler(prior, op, method="sda", steps=2)
        assert len(calls) == count

    @pytest.mark.parametrize(
        ("output", "error", "message"),
        [
            (lambda x: (x, x), TypeError, r"must return a tensor, got tuple\. Give lambda x, t: net\(x, t\)\[0\]"),
            (lambda x: [x], TypeError, r"must return a tensor, got list\. Give lambda x, t: net\(x, t\)\[0\]"),
            (lambda x: {"x": x}, TypeError, "must return a tensor, got dict"),
            (lambda x: x.detach().numpy(), TypeError, "must return a tensor, got ndarray"),
            (lambda x: None, TypeError, "must return a tensor, got NoneType"),
            (lambda x: torch.cat([x, x], 1), ValueError, r"expected the same shape.*chunk\(2, 1\)\[0\]"),
            (lambda x: x[:, :, 1:], ValueError, "expected the same shape"),
            (lambda x: x.flatten(1), ValueError, "expected the same shape"),
            (lambda x: x * torch.nan, ValueError, "returns values that are not finite"),
            (lambda x: x / 0, ValueError, "returns values that are not finite"),
        ],
    )
    def test_outputs(self, output: Callable[[Tensor], Any], error: type[Exception], message: str) -> None:
        with pytest.raises(error, match=message):
            PosteriorSampler(wrapped(output), Identity(SHAPE, sigma_y=0.1), method="daps", steps=2)

    def test_output_objects_of_diffusers(self) -> None:
        x, t = randn(2, *SHAPE, dtype=torch.float32), torch.tensor(0.5)
        assert_close(wrapped(lambda x: SimpleNamespace(sample=NET(x))).denoise(x, t), wrapped(lambda x: NET(x)).denoise(x, t))

    def test_a_network_in_training_mode_is_put_in_evaluation_mode(self) -> None:
        class Dropping(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.body = nn.Sequential(nn.BatchNorm2d(1), nn.Dropout(0.5), NET)

            def forward(self, x: Tensor, time: Tensor) -> Tensor:
                return self.body(x)

        assert try_prior(from_network(Dropping().train(), VP()), SHAPE) == ""

    def test_whole_times_stay_whole(self) -> None:
        prior, x = from_network(Table(), DiscreteBetas.linear(), time=lambda t: t.round().long()), randn(2, *SHAPE)
        for t in (torch.tensor(3.4), torch.tensor([3.4, 900.2])):
            table = cast(Table, prior.net).levels.weight[t.round().long(), 0].reshape(-1, 1, 1, 1)
            alpha_t, sigma_t = prior.levels(t, x)
            assert_close(prior.denoise(x, t), (x - sigma_t * table * x) / alpha_t, rtol=1e-4, atol=1e-4)
        half = from_network(Table().bfloat16(), DiscreteBetas.linear(), time=lambda t: t.round().long())
        assert half.denoise(x.float(), torch.tensor(997.0)).isfinite().all()  # In bfloat16 the time would be 996.

    def test_a_small_image_is_tried_where_any_size_is_taken(self) -> None:
        shapes: list[tuple[int, ...]] = []

        def net(x: Tensor, time: Tensor) -> Tensor:
            shapes.append(tuple(x.shape[1:]))
            return 0 * x

        for event, stride, expected in (((3, None, None), 1, (3, 64, 64)), ((None, None, None), 48, (3, 96, 96))):
            shapes.clear()
            try_prior(from_network(net, EDM(), event_shape=event, stride=stride), (3, 500, 400))
            assert set(shapes) == {expected}

    def test_a_network_that_takes_no_small_image_is_tried_at_full_size(self) -> None:
        def net(x: Tensor, time: Tensor) -> Tensor:
            return nn.functional.pad(x, (70, 70, 70, 70), mode="reflect")[..., 70:-70, 70:-70]

        assert try_prior(from_network(net, EDM(), event_shape=(1, None, None)), (1, 80, 90)) == ""


class TestFunctions:
    def test_a_linear_function_of_numpy_with_its_adjoint(self) -> None:
        """Neither is differentiated, under any noise."""
        twice = lambda x: torch.from_numpy(2 * x.numpy())  # noqa: E731
        op = LinearFunction(twice, SHAPE, adjoint=twice, noise=PoissonNoise(0.1, offset=-3.0))
        for method in ("daps", "mmps", "pnp-dm"):
            assert sample(PRIOR, op, method).isfinite().all()
        with pytest.raises(ValueError, match=r"LinearFunction: .*no gradient, or a wrong one.* or give its adjoint"):
            LinearFunction(twice, SHAPE)

    def test_a_declared_surrogate(self) -> None:
        with pytest.raises(ValueError, match="declare a gradient that is meant to differ by surrogate=True"):
            Function(Tripled.apply, SHAPE)
        op = Function(Tripled.apply, SHAPE, surrogate=True, sigma_y=0.1)
        assert op.surrogate
        assert (2 * op).surrogate
        PosteriorSampler(PRIOR, op, method="sda", steps=2)

    @pytest.mark.parametrize("build", [Function, LinearFunction])
    def test_dtype_is_kept(self, build: Callable[..., Operator]) -> None:
        with pytest.raises(TypeError, match=r"must keep dtype and device, got torch\.float64 on cpu .* y\.to\(x\)"):
            build(lambda x: 2 * x.double(), SHAPE)

    @pytest.mark.parametrize("domain", [torch.log, torch.sqrt, lambda x: x.log1p().sqrt(), lambda x: ((x + 1) / 2).sqrt()])
    def test_functions_of_positive_values(self, domain: Callable[[Tensor], Tensor]) -> None:
        assert Function(domain, SHAPE).out_shape == SHAPE

    def test_network_operators(self) -> None:
        class Rounding(nn.Module):
            def forward(self, x: Tensor) -> Tensor:
                return x.round()

        with pytest.raises(ValueError, match=r"NetworkOperator: .*no gradient, or a wrong one"):
            NetworkOperator(Rounding(), SHAPE)
        assert NetworkOperator(NORMALIZED, SHAPE).out_shape == SHAPE  # In evaluation mode.


class TestOwnLinearOperators:
    class Broken(LinearOperator):
        def __init__(self, fault: str) -> None:
            self.in_shape, self.noise, self.fault = SHAPE, GaussianNoise(0.1), fault

        def forward(self, x: Tensor) -> Tensor:
            return 2 * x.roll(1, -1) + (0.01 if self.fault == "offset" else 0.0)

        def adjoint(self, y: Tensor) -> Tensor:
            shift, factor = (1 if self.fault == "shift" else -1), (2.01 if self.fault == "factor" else 2.0)
            neighbor = 0.1 * y.flip(0) if self.fault == "mixing adjoint" and len(y) > 1 else 0
            return (factor * y.roll(shift, -1))[..., (1 if self.fault == "shape" else 0) :] + neighbor

    class Closed(Broken):
        """The same with closed forms, since the rows are orthogonal with squared norm 4."""

        closed_form = True

        def __init__(self, fault: str) -> None:
            super().__init__(fault)
            self.gram_scale = 2.0 if fault == "gram_scale" else 4.0

        def keep_measured(self, y: Tensor) -> Tensor:
            return y * (y > 0) if self.fault == "keep_measured" else y

        def solve(self, v: Tensor, lam: Tensor | float) -> Tensor:
            return v / (4 + (0.0 if self.fault == "solve" else lam))

        def pinv(self, y: Tensor) -> Tensor:
            return self.adjoint(y) / (2 if self.fault == "pinv" else 4)

    @pytest.mark.parametrize("fault", ["gram_scale", "keep_measured", "solve", "pinv", ""])
    def test_closed_forms(self, fault: str) -> None:
        op = self.Closed(fault)
        if not fault:
            PosteriorSampler(PRIOR, op, steps=2)
            return
        with pytest.raises(ValueError, match=f"Closed: .*{fault}"):
            PosteriorSampler(PRIOR, op, steps=2)

    @pytest.mark.parametrize(
        ("fault", "message"),
        [
            ("offset", "Broken: forward is not linear"),
            ("shift", "Broken: adjoint is not the adjoint of forward"),
            ("factor", "Broken: adjoint is not the adjoint of forward"),
            ("shape", "Broken: adjoint must return shape"),
            ("mixing adjoint", "Broken: adjoint is random, or mixes the items of a batch"),
            ("", ""),
        ],
    )
    def test_faults(self, fault: str, message: str) -> None:
        op = self.Broken(fault)
        for one in (op, Mask(torch.ones(SHAPE), sigma_y=0.1) @ _exact(op), per_item([op, op])):
            if not fault:
                PosteriorSampler(PRIOR, one, steps=2)
                continue
            with pytest.raises(ValueError, match=message.removeprefix("Broken: ")):
                PosteriorSampler(PRIOR, one, steps=2)


def _exact(op: Operator) -> Operator:
    op = type(op)(op.fault)  # type: ignore[attr-defined,call-arg]
    op.noise = GaussianNoise(0.0)
    return op


MODES: dict[str, Callable[[], Any]] = {
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "no_grad": torch.no_grad,
    "inference mode": torch.inference_mode,
    "enable_grad": torch.enable_grad,
}


@pytest.mark.filterwarnings("ignore:from_network")
@pytest.mark.filterwarnings("ignore::invdiff.posterior.MisfitWarning")  # two steps
@pytest.mark.parametrize("mode", MODES.values(), ids=MODES.keys())
@pytest.mark.parametrize("kind", ["matrix", "blur", "function", "network", "own"])
def test_modes_of_the_caller_change_nothing(kind: str, mode: Callable[[], Any]) -> None:
    weight = randn(20, 36, dtype=torch.float32) / 6

    def build() -> tuple[ScoreModel, Operator]:
        ops: dict[str, Callable[[], Operator]] = {
            "matrix": lambda: Matrix(weight, sigma_y=0.1) @ LinearFunction(lambda x: x.flatten(1), SHAPE),
            "blur": lambda: Blur(SHAPE, torch.eye(3) / 3, sigma_y=0.1),
            "function": lambda: Function(lambda x: (x.flatten(1) @ weight.mT).tanh(), SHAPE, sigma_y=0.1),
            "network": lambda: NetworkOperator(nn.Sequential(nn.Flatten(), nn.Linear(36, 5)), SHAPE, sigma_y=0.1),
            "own": lambda: Own(lambda x: (x.flatten(1) @ weight.mT).tanh()),
        }
        torch.manual_seed(0)
        return (from_network(lambda x, time: NET(x), VP()) if kind in ("blur", "own") else PRIOR), ops[kind]()

    def run() -> Tensor:
        score, op = build()
        y = op.measure(torch.linspace(-0.5, 0.5, 36).reshape(1, *SHAPE), seed=1)
        assert y.dtype == torch.float32
        post = PosteriorSampler(score, op, method="mmps", steps=2).run(y, num_samples=2)
        assert post.samples.dtype == post.residual.dtype == post.mean.dtype == torch.float32
        return post.samples.clone()

    expected = run()
    with mode():
        inside = run()
    assert_close(inside.clone(), expected, rtol=1e-5, atol=1e-5)


def test_samples_of_a_prior_are_float32_inside_autocast() -> None:
    prior = Gaussian(torch.zeros(8), torch.eye(8))
    expected = sample_prior(prior, (8,), 2, seed=0, steps=3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(sample_prior(prior, (8,), 2, seed=0, steps=3), expected)


@pytest.mark.parametrize("kind", ["matrix", "blur"])
def test_the_default_dtype_changes_nothing(kind: str) -> None:
    weight = randn(20, 36, dtype=torch.float32) / 6
    op: Operator = Matrix(weight, sigma_y=0.1) @ LinearFunction(lambda x: x.flatten(1), SHAPE, dtype=torch.float32)
    op = op if kind == "matrix" else Blur(SHAPE, torch.eye(3) / 3, sigma_y=0.1)
    y = op.measure(PRIOR.sample(1, seed=0), seed=1)
    runs = []
    for dtype in (torch.float32, torch.float64):
        torch.set_default_dtype(dtype)
        try:
            runs.append(PosteriorSampler(PRIOR, op, steps=2).run(y).samples)
        finally:
            torch.set_default_dtype(torch.float32)
    assert runs[1].dtype == torch.float32
    assert_close(*runs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("convert", [Tensor.long, lambda x: x + 0j], ids=["whole", "complex"])
def test_networks_return_real_numbers(convert: Callable[[Tensor], Tensor]) -> None:
    score = from_network(lambda x, time: convert(NET(x)), VP())
    with pytest.raises(TypeError, match=r"from_network: the network must return real floating-point numbers, got torch\."):
        PosteriorSampler(score, Identity(SHAPE, sigma_y=0.1), method="daps", steps=2)


def test_one_number_for_each_image_has_an_axis() -> None:
    op = Function(lambda x: x.flatten(1).mean(1), SHAPE, sigma_y=0.1)
    with pytest.raises(ValueError, match=r"an axis besides the batch, also for one number: y\[:, None\]"):
        PosteriorSampler(PRIOR, op, method="mmps", steps=2)


def test_small_gradients_in_half_precision() -> None:
    score = from_network(lambda x, time: 1e-4 * x, VP(), event_shape=SHAPE)
    assert try_prior(from_network(lambda x, time: (1e-4 * x.half()).to(x.dtype), VP()), SHAPE) == try_prior(score, SHAPE) == ""


def test_per_channel_and_gray_adapters_reach_the_network() -> None:
    bad = from_network(lambda x, time: x - x.mean(), VP(), event_shape=(1, None, None))
    with pytest.raises(ValueError, match="mixes the items"):
        PosteriorSampler(PerChannel(bad), Identity((3, 8, 8), sigma_y=0.1), method="daps", steps=2)
    with pytest.raises(ValueError, match="mixes the items"):
        PosteriorSampler(bad, Identity((3, 8, 8), sigma_y=0.1), method="daps", steps=2)
