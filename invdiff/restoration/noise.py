"""Specification of the noise: a level, a distribution, ``auto``, ``file``, or a noise model."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from invdiff.problems.options import OptionError

if TYPE_CHECKING:
    from invdiff.operators import Noise
    from invdiff.problems import Problem

__all__ = ["FROM_INPUT", "RESOLUTION", "NoiseChoice", "noise_choice"]

KINDS = {
    "gaussian": ("SIGMA",),
    "poisson": ("PEAK", "SIGMA"),
    "laplace": ("SCALE",),
    "student": ("SCALE", "DOF"),
}
FROM_INPUT = ("auto", "file")
OPTIONAL = {"poisson": 1}  # number of trailing parameters that may be left out
RESOLUTION = 1e-7  # distance of 32-bit numbers near 1: smaller noise is lost in the rounding of the pixels
EXPECTED = "expected a standard deviation such as 0.02, auto, file, poisson:PEAK[,SIGMA], laplace:SCALE or student:SCALE,DOF"


@dataclass(frozen=True)
class NoiseChoice:
    """A noise specification, pixels spanning 0..1.

    Attributes:
        kind: A key of ``KINDS``; ``auto``: Gaussian, with a level estimated from INPUT; ``file``: likewise, from what the file
            says about its rounding, too; ``model``: the model in ``given``.
        numbers: Parameters of the distribution.
        given: Noise model, in the units of images that span [-1, 1].
    """

    kind: str
    numbers: tuple[float, ...] = ()
    given: Noise | None = None

    @property
    def none(self) -> bool:
        """Whether the data are exact: the level is 0, or below what 32-bit pixels can represent."""
        return self.level is not None and self.level < RESOLUTION

    @property
    def level(self) -> float | None:
        """Standard deviation, if the noise is Gaussian with a known level; otherwise ``None``."""
        if self.given is not None:
            return self.given.sigma / 2 if self.given.white else None
        return self.numbers[0] if self.kind == "gaussian" else None

    def model(self) -> Noise | None:
        """Return the noise model in the units of images that span [-1, 1], where black is -1; ``None`` for exact data."""
        from invdiff.operators import GaussianNoise, LaplaceNoise, PoissonGaussianNoise, PoissonNoise, StudentNoise

        if self.none or self.given is not None:
            return None if self.none else self.given
        first, *rest = self.numbers
        if self.kind == "poisson":
            gain = 2 / first
            return PoissonGaussianNoise(gain, offset=-1.0, sigma=2 * rest[0]) if rest else PoissonNoise(gain, offset=-1.0)
        if self.kind == "student":
            return StudentNoise(2 * first, dof=rest[0])
        return LaplaceNoise(2 * first) if self.kind == "laplace" else GaussianNoise(2 * first)

    def plain(self) -> float | str:
        """Return the specification as written at the command line; a level as a number."""
        if self.level is not None:
            return self.level
        if self.given is not None:
            return repr(self.given)
        return f"{self.kind}:{','.join(f'{n:g}' for n in self.numbers)}" if self.numbers else self.kind


def noise_choice(value: Any, problem: type[Problem] | None = None, *, simulated: bool = False) -> NoiseChoice:
    """Parse a noise specification: a number, text such as ``"poisson:40"``, or a noise model.

    Args:
        value: The specification; ``None``: the default of the problem, and 0 in a simulation.
        problem: The problem, for its default.
        simulated: Whether a clean image is degraded first.

    Raises:
        OptionError: If the value is none of these, or a number in it is out of range.
    """
    if value is None:
        return NoiseChoice("gaussian", (0.0,)) if simulated or problem is None else noise_choice(problem.default_noise)
    if isinstance(value, NoiseChoice):
        return value
    if hasattr(value, "log_likelihood"):  # a noise model, recognized without importing the operators
        return NoiseChoice("model", given=value)
    text = str(value)
    kind, colon, arguments = text.partition(":")
    if not colon:
        kind, arguments = (text, "") if text in FROM_INPUT else ("gaussian", text)
    if kind in FROM_INPUT and not colon:
        return NoiseChoice(kind)
    try:
        numbers = tuple(float(number) for number in arguments.split(","))
    except ValueError:
        numbers = ()
    if kind not in KINDS or not len(KINDS[kind]) - OPTIONAL.get(kind, 0) <= len(numbers) <= len(KINDS[kind]):
        raise OptionError(f"{text!r}: {EXPECTED}.")
    if not all(math.isfinite(number) and number >= 0 for number in numbers):
        raise OptionError(f"{text!r}: expected finite numbers of at least 0.")
    if kind != "gaussian" and 0 in numbers:
        raise OptionError(f"{text!r}: expected numbers above 0; for exact data use --noise 0.")
    if kind != "gaussian" and _smallest(kind, *numbers) < RESOLUTION:
        raise OptionError(f"{text!r}: this noise is below {RESOLUTION:g}, less than rounding; for exact data use --noise 0.")
    return NoiseChoice(kind, numbers)


def _smallest(kind: str, first: float, *others: float) -> float:
    """Return the scale of the noise that is not Gaussian, for photons at white."""
    if kind == "poisson":
        return math.hypot(first**-0.5, *others)
    return first
