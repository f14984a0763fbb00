"""More grey levels than a picture was left with."""

from __future__ import annotations

from torch import Tensor

from invdiff.operators import Identity, Noise, Operator, RoundingNoise, temper

from .options import Option
from .problem import Problem, photographs

__all__ = ["Dequantize"]


class Dequantize(Problem):
    """Recover what was between the few levels that a picture was rounded to.

    Args:
        levels: How many levels every channel has, black and white included; at least 2.

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
            help="Levels of a channel, black and white included.",
        ),
    )
    needs = "--levels, how many a channel of INPUT has"
    accepts_noise = "rounding"
    measures = "Identity"
    recommended = photographs(max_iterations=4)

    def __init__(self, levels: int) -> None:
        if levels < 2:
            raise ValueError(f"Dequantize: levels must be at least 2, got {levels}.")
        self.levels = levels

    @property
    def step(self) -> float:
        """Between one level and the next, images spanning [-1, 1]."""
        return 2 / (self.levels - 1)

    def operator(self, shape: tuple[int, int, int], *, noise: Noise | None = None) -> Operator:
        if noise is not None and noise.sigma:
            raise ValueError(f"Dequantize: rounding is all the noise there is, expected no other, got {noise!r}.")
        return Identity(shape, noise=RoundingNoise(self.step, offset=-1.0))

    def in_channels(self, op: Operator, y: Tensor, channels: int) -> tuple[Operator, Tensor]:
        own, height, width = op.in_shape
        return Identity((channels, height, width), noise=temper(op.noise, channels // own)), y

    def finish(self, x: Tensor, y: Tensor, op: Operator) -> Tensor:
        return x.clamp(y - self.step / 2, y + self.step / 2)
