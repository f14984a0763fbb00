"""The choice of a method by ``auto``: particles or a single chain, from a pilot run and a budget."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from invdiff.methods import METHODS
from invdiff.methods.algorithm import Algorithm
from invdiff.methods.divergence import DivergenceError
from invdiff.methods.method import Method, adopt_method
from invdiff.methods.options import suggestion
from invdiff.methods.particles import MMTSMC
from invdiff.methods.steps import sample_prior
from invdiff.operators import LinearOperator, Operator
from invdiff.posterior.result import Posterior
from invdiff.priors import ScoreModel

__all__ = ["BUDGET", "Choice", "Pilot", "choose_method", "fly"]

BUDGET = 6000  # vector-Jacobian products per sample: 100 steps for an image with 8 measured values
GROUP = 16  # particles per group, and the number of samples of one measurement from which particles are considered
LARGE_GROUP = 64  # used if small groups disagree. Even larger groups are no better: their samples share few ancestors.
GROUP_NUMBERS = 2**20  # maximum number of entries of x in a large group, which must fit in memory as a whole
LARGEST_MEASURED = 256  # measurement dimension for particles at most: each computes and decomposes a covariance this large
LEAST_STEPS = 20  # with fewer, the weights are too inaccurate

# The pilot run: just enough groups and steps to distinguish relevant weights from constant ones.
PILOT_GROUP = 8
PILOT_STEPS = 10
PILOT_MEASUREMENTS = 4  # simulated, with two groups each
KEPT = 0.75  # share of particles that must be left for the weights to count as constant
AGREEMENT = 0.5  # largest standard deviation of the log evidence of a group; its variance decreases with the group size


@dataclass(frozen=True)
class Pilot:
    """Result of the pilot run of small groups of particles on simulated measurements.

    Attributes:
        kept: Share of the initial particles of a group with descendants after all resampling, the minimum over the groups. It
            is 1 if the weights stay constant, so that a single chain gives the same samples.
        disagreement: Standard deviation of the log evidence of a group, estimated from pairs of groups that share a
            measurement.
        evaluations: Total network evaluations of the pilot.
        products: Total vector-Jacobian products of the network in the pilot.
    """

    kept: float
    disagreement: float
    evaluations: float
    products: float


@dataclass(frozen=True)
class Choice:
    """A method, and the reason for its choice.

    Attributes:
        method: The method.
        why: The reason, in words; empty for a method chosen by name.
        pilot: Result of the pilot run, if any.
    """

    method: Method
    why: str = ""
    pilot: Pilot | None = None


def choose_method(
    method: str | Method | type[Algorithm],
    op: Operator,
    *,
    num_samples: int = 1,
    steps: int | None = None,
    budget: float = BUDGET,
    only_chain: str = "",
    chain: Method | None = None,
    pilot: Callable[[], Pilot | None] | None = None,
) -> Choice:
    """Return the method with the given name; ``"auto"`` chooses as follows.

    ============================================ ===================================================================
    condition                                    method
    ============================================ ===================================================================
    ``only_chain`` is given                      ``chain``
    particles cost more than the budget          ``chain``
    nonlinear, or noise that is not Gaussian     ``mm-tsmc`` in groups of 64
    fewer than 16 samples per measurement        ``chain``: too few to fill a group
    no pilot, or it diverges                     ``chain``
    weights of the pilot nearly constant         ``chain``: the same without weights. If ``x`` is so small that particles
                                                 would use eigenvectors of the covariance, the chain also solves exactly
    weights of the pilot not constant            ``mm-tsmc`` in groups of 16, or of 64 if groups of 16 disagree
    ============================================ ===================================================================

    Particles take as many steps as the budget allows, up to the default of the method, and at least 20.

    Args:
        method: A name, a name in a file (``mine.py:Name``), ``"auto"``, a method, or the class of an algorithm.
        op: The measurement.
        num_samples: Samples per measurement.
        steps: Number of steps, if given.
        budget: Vector-Jacobian products of the network per sample, including its share of the pilot. Groups are drawn whole:
            the samples of the last group beyond ``num_samples`` cost extra.
        only_chain: Why particles are out of the question, in words. Default: they may be chosen.
        chain: Method of a single chain, from :func:`~invdiff.posterior.recommended`. Default: ``mmps``.
        pilot: Returns the result of the pilot run, or ``None`` if it diverges (:func:`fly`). Called only if the choice depends
            on it.

    Raises:
        ValueError: If the method does not exist.
        TypeError: If ``method`` is neither a name nor a method.
    """
    if method != "auto":
        return Choice(_named(method))

    chain = chain or METHODS["mmps"]
    measured = int(torch.as_tensor(op.dof).max())
    if only_chain:
        return Choice(chain, only_chain)
    linear = isinstance(op, LinearOperator) and op.noise.gaussian
    if linear and num_samples < GROUP:
        return Choice(chain, f"fewer than {GROUP} samples per measurement")
    flown = PILOT_MEASUREMENTS * 2 * PILOT_GROUP * PILOT_STEPS if linear else 0
    # A group is drawn whole: the budget of fewer samples must pay for all particles of a group.
    paid = budget if linear else budget * min(1.0, num_samples / LARGE_GROUP)
    affordable = _steps(op, measured, steps, paid, flown=flown / num_samples)
    if not affordable:
        return Choice(chain, f"particles would exceed the budget of {budget:g} vector-Jacobian products per sample")

    def groups(particles: int) -> Method:
        options = {"particles": particles, "largest": max(64, measured)}
        return replace(METHODS["mm-tsmc"], steps=affordable, options=options)

    if not linear:
        return Choice(groups(LARGE_GROUP), "nonlinear, or noise that is not Gaussian")
    seen = None if pilot is None else pilot()
    if seen is None:
        return Choice(chain, "no pilot run, or its particles diverged")
    if seen.kept >= KEPT:
        chain = _exact_chain(chain, op, measured, steps, budget)
        return Choice(chain, f"weights hardly matter: at least {seen.kept:.0%} of the pilot's particles are left", seen)
    possible = num_samples >= 4 * LARGE_GROUP and LARGE_GROUP * torch.Size(op.in_shape).numel() <= GROUP_NUMBERS
    agree = seen.disagreement * (PILOT_GROUP / GROUP) ** 0.5 <= AGREEMENT
    why = f"weights matter: {seen.kept:.0%} of the pilot's particles are left, log evidence within {seen.disagreement:.2g}"
    return Choice(groups(LARGE_GROUP if possible and not agree else GROUP), why, seen)


def _named(method: str | Method | type[Algorithm]) -> Method:
    if isinstance(method, Method):
        return method
    if isinstance(method, type):
        return adopt_method(method.__name__, method)
    if not isinstance(method, str):
        raise TypeError(f"method must be a name, a Method or the class of an algorithm, got {type(method).__name__}.")
    if method not in METHODS and ":" not in method:
        known = ["auto", *METHODS]
        raise ValueError(
            f"Unknown method {method!r}, expected one of {', '.join(known)}, a name in a file (mine.py:Name), or a Method."
            f"{suggestion(method, known)}"
        )
    return METHODS.find(method)


def _exact_chain(chain: Method, op: Operator, measured: int, steps: int | None, budget: float) -> Method:
    """Return ``chain`` with exact square root and solve, if particles would use eigenvectors and the budget allows it."""
    numel = torch.Size(op.in_shape).numel()
    by_eigenvectors = MMTSMC.products(numel, measured) == numel
    if not by_eigenvectors or (numel + measured) * (steps or chain.steps) > budget:
        return chain
    return replace(chain, options={"root_iterations": numel, "exact_up_to": torch.Size(op.out_shape).numel()})


def _steps(op: Operator, measured: int, steps: int | None, budget: float, *, flown: float) -> int:
    """Return the number of steps within the budget, or 0 if the given steps, or the minimum, exceed it."""
    if measured > LARGEST_MEASURED:
        return 0
    products = MMTSMC.products(torch.Size(op.in_shape).numel(), measured)
    paid = budget / products - flown
    if steps is not None:
        return steps if steps <= paid else 0
    own = METHODS["mm-tsmc"].steps
    return int(min(own, paid)) if paid >= LEAST_STEPS else 0


def fly(
    score: ScoreModel, op: Operator, draw: Callable[[Operator, Tensor, Method], Posterior], *, device: torch.device | str
) -> Pilot | None:
    """Run small groups of particles on simulated measurements. Return ``None`` if they diverge.

    The measurements are simulated so that the choice is a property of the prior and the operator: the same for every item,
    independent of the rest of the batch, and for every seed.

    Args:
        score: The prior.
        op: The measurement. If items have different operators, the first ones are used.
        draw: Called as ``draw(op, y, method)``: draws one group of samples for each measurement.
        device: Device to compute on.
    """
    method = replace(METHODS["mm-tsmc"], steps=PILOT_STEPS, options={"particles": PILOT_GROUP, "largest": LARGEST_MEASURED})
    op = op.take([b % (op.items or 1) for b in range(PILOT_MEASUREMENTS)]).to(device, torch.float32)
    try:
        x_0 = sample_prior(score, op.in_shape, PILOT_MEASUREMENTS, seed=0, steps=PILOT_STEPS, device=device)
        y, twice = op.measure(x_0, seed=0), [b // 2 for b in range(2 * PILOT_MEASUREMENTS)]
        if not y.isfinite().all():
            return None
        post = draw(op.take(twice), y[twice], method)
    except DivergenceError:
        return None
    assert post.particles is not None
    difference = post.particles.log_evidence[::2] - post.particles.log_evidence[1::2]
    count = post.samples.shape[0] * post.samples.shape[1]
    evaluations = post.nfe * count + PILOT_MEASUREMENTS * (2 * PILOT_STEPS - 1)  # The true images are drawn with Heun's steps.
    kept = float(post.particles.ancestors.min()) / PILOT_GROUP
    return Pilot(kept, float(difference.square().mean() / 2) ** 0.5, evaluations, post.nvjp * count)
