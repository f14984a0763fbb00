"""Which method ``auto`` takes: what the particles themselves show, within a budget."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from invdiff.methods import METHODS
from invdiff.methods.algorithm import Algorithm
from invdiff.methods.divergence import DivergenceError
from invdiff.methods.guidance.exact_score import fits
from invdiff.methods.method import Method, adopt_method
from invdiff.methods.options import suggestion
from invdiff.methods.particles import MMTSMC
from invdiff.methods.steps import sample_prior
from invdiff.operators import LinearOperator, Operator
from invdiff.posterior.result import Posterior
from invdiff.priors import ScoreModel

__all__ = ["BUDGET", "Choice", "Pilot", "choose_method", "fly", "single_chain"]

BUDGET = 6000  # vector-Jacobian products of the network for a sample: 100 steps with 8 numbers of an image measured
GROUP = 16  # particles that compete, and samples of one measurement from which they are worth while
LARGE_GROUP = 64  # where the small ones disagree. Larger still is no better: what is left of a group are relatives.
GROUP_NUMBERS = 2**20  # of x in a large group at most: it is held in memory whole
LARGEST_MEASURED = 256  # numbers, whose covariance every particle computes and decomposes
LEAST_STEPS = 20  # fewer are too coarse for weights

# The pilot: groups and steps just enough to tell weights that matter from constant ones.
PILOT_GROUP = 8
PILOT_STEPS = 10
PILOT_MEASUREMENTS = 4  # simulated, each seen by two groups
KEPT = 0.75  # share of the particles that has to last for weights not to matter
AGREEMENT = 0.5  # standard deviation of the log evidence of a group; its variance falls as the group grows


@dataclass(frozen=True)
class Pilot:
    """What small groups of particles showed on simulated measurements.

    Attributes:
        kept: Share of the particles of a group that are left after all resampling, the least of the groups; 1 where the weights
            stay constant, and a chain does what the particles do.
        disagreement: Standard deviation of the log evidence by a group, from two groups each that saw the same.
        evaluations: Network evaluations it took, all together.
        products: Vector-Jacobian products of the network, likewise.
    """

    kept: float
    disagreement: float
    evaluations: float
    products: float


@dataclass(frozen=True)
class Choice:
    """A method, and why it was taken.

    Attributes:
        method: The method.
        why: In words; nothing for a method that was named.
        pilot: What it was decided by, where a pilot was flown.
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
    particles: bool = True,
    chain: Method | None = None,
    pilot: Callable[[], Pilot | None] | None = None,
) -> Choice:
    """Return the method of a name; ``"auto"`` decides as follows.

    ============================================ ===================================================================
    what holds                                   method
    ============================================ ===================================================================
    particles cost more than the budget          ``chain``
    nonlinear, or noise that is not Gaussian     ``mm-tsmc`` in groups of 64
    fewer than 16 samples of a measurement       ``chain``: there is no group to fill
    the pilot's weights are nearly constant      ``chain``: it is the same without weights; no iterations are broken off if
                                                 ``x`` is so small that particles would know the covariance by eigenvectors
    they are not                                 ``mm-tsmc`` in groups of 16, or of 64 where as small ones disagree
    ============================================ ===================================================================

    Particles take as many steps as the budget pays for, up to the method's own number, and at least 20.

    Args:
        method: A name, one in a file, ``"auto"``, a method, or the class of an algorithm.
        op: The measurement.
        num_samples: Samples wanted of one measurement.
        steps: Steps, where they are given.
        budget: Vector-Jacobian products of the network that a sample may take, its share of the pilot among them. Groups are
            whole: what the last one draws beyond the samples wanted comes on top.
        particles: Whether particle methods may be chosen.
        chain: What a single chain runs, of :func:`single_chain`. Default: ``mmps``.
        pilot: Returns what a pilot shows, or nothing if it diverges (:func:`fly`); asked only where it decides.

    Raises:
        ValueError: If there is no such method.
        TypeError: If ``method`` is neither a name nor a method.
    """
    if method != "auto":
        return Choice(_named(method))

    chain = chain or METHODS["mmps"]
    measured = int(torch.as_tensor(op.dof).max())
    if not particles:
        return Choice(chain, "a rule or options are those of a chain")
    linear = isinstance(op, LinearOperator) and op.noise.gaussian
    if linear and num_samples < GROUP:
        return Choice(chain, f"fewer than {GROUP} samples of a measurement")
    flown = PILOT_MEASUREMENTS * 2 * PILOT_GROUP * PILOT_STEPS if linear else 0
    # A group is drawn whole: what fewer samples may take has to pay for all of its particles.
    paid = budget if linear else budget * min(1.0, num_samples / LARGE_GROUP)
    affordable = _steps(op, measured, steps, paid, flown=flown / num_samples)
    if not affordable:
        return Choice(chain, f"particles would take more than the budget of {budget:g} products")

    def groups(particles: int) -> Method:
        options = {"particles": particles, "largest": max(64, measured)}
        return replace(METHODS["mm-tsmc"], steps=affordable, options=options)

    if not linear:
        return Choice(groups(LARGE_GROUP), "nonlinear, or noise that is not Gaussian")
    seen = None if pilot is None else pilot()
    if seen is None:
        return Choice(chain, "there is no pilot, or its particles diverged")
    if seen.kept >= KEPT:
        chain = _exact_chain(chain, op, measured, steps, budget)
        return Choice(chain, f"weights hardly matter: {seen.kept:.0%} or more of a pilot's particles last", seen)
    possible = num_samples >= 4 * LARGE_GROUP and LARGE_GROUP * torch.Size(op.in_shape).numel() <= GROUP_NUMBERS
    agree = seen.disagreement * (PILOT_GROUP / GROUP) ** 0.5 <= AGREEMENT
    why = f"weights matter: {seen.kept:.0%} of a pilot's particles last, log evidence within {seen.disagreement:.2g}"
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
            f"Unknown method {method!r}, expected one of {', '.join(known)}, one in a file, such as mine.py:Name, or a Method."
            f"{suggestion(method, known)}"
        )
    return METHODS.find(method)


def single_chain(score: ScoreModel, op: Operator) -> Method:
    """Return what samples each for itself: ``mmps``, or ``handover`` under a network that was measured and knows the noise."""
    if score.error_model is not None and fits(score, op, imputing=True):
        return replace(METHODS["handover"], rule="matched", steps=METHODS["mmps"].steps)
    return METHODS["mmps"]


def _exact_chain(chain: Method, op: Operator, measured: int, steps: int | None, budget: float) -> Method:
    """Return a chain that is not approximate where particles would not be: square root by eigenvectors, solve by the matrix."""
    numel = torch.Size(op.in_shape).numel()
    by_eigenvectors = MMTSMC.products(numel, measured) == numel
    if not by_eigenvectors or (numel + measured) * (steps or chain.steps) > budget:
        return chain
    return replace(chain, options={"root_iterations": numel, "exact_up_to": torch.Size(op.out_shape).numel()})


def _steps(op: Operator, measured: int, steps: int | None, budget: float, *, flown: float) -> int:
    """Return how many steps the particles can take, or 0 if those given, or the least, are too many."""
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
    """Return what small groups of particles show on simulated measurements, or nothing if they diverge.

    Simulated, so that what is decided is a property of the prior and the measurement: the same for every item, whatever else
    is in the batch, and for every seed.

    Args:
        score: The prior.
        op: The measurement. Where items have operators of their own, the first ones are taken.
        draw: Draws as many samples as a group has particles, of each of some measurements, with a method.
        device: Where to compute.
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
    evaluations = post.nfe * count + PILOT_MEASUREMENTS * (2 * PILOT_STEPS - 1)  # Heun's steps draw the truths.
    kept = float(post.particles.ancestors.min()) / PILOT_GROUP
    return Pilot(kept, float(difference.square().mean() / 2) ** 0.5, evaluations, post.nvjp * count)
