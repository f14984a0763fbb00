"""Recovery of an image rounded to few levels."""

from __future__ import annotations

from torch import Tensor

from invdiff.operators import Identity, Noise, Operator, RoundingNoise, temper

from .options import Option
from .problem import Problem

__all__ = ["Dequantize"]


class Dequantize(Problem):
    """Recover the values of an image that was rounded to few levels per channel.

    Args:
        levels: Number of levels per channel, including black and white; at least 2.

    Raises:
        ValueError: If there are fewer than two levels.
    """

    name = "dequantize"
    options = (
        Option(
            name="levels",
            kind="INTEGER",
            minimum=2,
            maximum=65536,
            needed="yes",
            help="Number of levels per channel, including black and white.",
        ),
    )
    needs = "--levels, the number of levels per channel of INPUT"
    accepts_noise = "rounding"
    measures = "Identity"
    misfit_causes = "a wrong --levels"

    def __init__(self, levels: int) -> None:
        if levels < 2:
            raise ValueError(f"Dequantize: levels must be at least 2, got {levels}.")
        self.levels = levels

    @property
    def step(self) -> float:
        """Distance between neighboring levels, images spanning [-1, 1]."""
        return 2 / (self.levels - 1)

    def operator(self, shape: tuple[int, int, int], *, noise: Noise | None = None) -> Operator:
        if noise is not None and noise.sigma:
            raise ValueError(f"Dequantize: rounding is the only noise in this problem, got {noise!r}. Leave noise out.")
        return Identity(shape, noise=RoundingNoise(self.step, offset=-1.0))

    def in_channels(self, op: Operator, y: Tensor, channels: int) -> tuple[Operator, Tensor]:
        own, height, width = op.in_shape
        return Identity((channels, height, width), noise=temper(op.noise, channels // own)), y

    def finish(self, x: Tensor, y: Tensor, op: Operator) -> Tensor:
        return x.clamp(y - self.step / 2, y + self.step / 2)
