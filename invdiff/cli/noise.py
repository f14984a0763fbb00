"""``--noise``: a level, a law, or ``auto``."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from invdiff.operators import Noise

__all__ = ["NOISE", "NoiseChoice"]

LAWS = {
    "gaussian": ("SIGMA",),
    "poisson": ("PEAK", "SIGMA"),
    "laplace": ("SCALE",),
    "student": ("SCALE", "DOF"),
}
OPTIONAL = {"poisson": 1}  # how many of the last numbers may be left out
EXPECTED = "expected a standard deviation such as 0.02, auto, poisson:PEAK[,SIGMA], laplace:SCALE or student:SCALE,DOF"


@dataclass(frozen=True)
class NoiseChoice:
    """What ``--noise`` says, pixels spanning 0..1.

    Attributes:
        law: A key of ``LAWS``, or ``auto``: Gaussian, of a level that INPUT tells.
        numbers: Its numbers.
    """

    law: str
    numbers: tuple[float, ...] = ()

    @property
    def none(self) -> bool:
        """Whether the data are exact."""
        return self.law == "gaussian" and self.numbers == (0.0,)

    @property
    def level(self) -> float | None:
        """Standard deviation of Gaussian noise of known level."""
        return self.numbers[0] if self.law == "gaussian" else None

    def model(self) -> Noise:
        """Return the law in the units of images that span [-1, 1], where black is -1."""
        from invdiff.operators import GaussianNoise, LaplaceNoise, PoissonGaussianNoise, PoissonNoise, StudentNoise

        first, *rest = self.numbers
        if self.law == "poisson":
            gain = 2 / first
            return PoissonGaussianNoise(gain, offset=-1.0, sigma=2 * rest[0]) if rest else PoissonNoise(gain, offset=-1.0)
        if self.law == "student":
            return StudentNoise(2 * first, dof=rest[0])
        return LaplaceNoise(2 * first) if self.law == "laplace" else GaussianNoise(2 * first)

    def plain(self) -> float | str:
        """Return it as it is written at the command line; a level as a number."""
        if self.level is not None:
            return self.level
        return f"{self.law}:{','.join(f'{n:g}' for n in self.numbers)}" if self.numbers else self.law


class NoiseType(click.ParamType):  # type: ignore[type-arg,unused-ignore]  # generic in new versions of click alone
    """The type of ``--noise``."""

    name = "noise"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> NoiseChoice:
        if isinstance(value, NoiseChoice):
            return value
        text = str(value)
        law, colon, arguments = text.partition(":")
        if not colon:
            law, arguments = ("auto", "") if text == "auto" else ("gaussian", text)
        if law == "auto" and not colon:
            return NoiseChoice("auto")
        try:
            numbers = tuple(float(number) for number in arguments.split(","))
        except ValueError:
            numbers = ()
        if law not in LAWS or not len(LAWS[law]) - OPTIONAL.get(law, 0) <= len(numbers) <= len(LAWS[law]):
            self.fail(f"{text!r}: {EXPECTED}.", param, ctx)
        if not all(math.isfinite(number) and number >= 0 for number in numbers):
            self.fail(f"{text!r}: expected finite numbers, 0 or larger.", param, ctx)
        if law != "gaussian" and 0 in numbers:
            self.fail(f"{text!r}: expected numbers above 0; for exact data --noise 0.", param, ctx)
        return NoiseChoice(law, numbers)


NOISE = NoiseType()
