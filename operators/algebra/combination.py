"""The base class of operators made of other operators, and the noise of their combinations."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import reduce
from typing import Generic, TypeVar

import torch
from torch import Tensor

from ..core.noise import GaussianNoise, Noise
from ..core.operator import LinearOperator, Operator

__all__ = ["Combination", "Part", "deviations_of", "is_exact", "name_in_formula", "noise_of_sum", "scaled_noise", "weight_for"]

Part = TypeVar("Part", bound=Operator)

MOST_NAMES = 4  # Maximum number of parts named in a formula.
LONGEST_NESTED = 50  # Maximum length of a formula within a formula, in characters.


class Combination(Operator, Generic[Part]):
    """An operator made of other operators.

    Args:
        parts: The other operators.
        in_shape: Shape of one ``x``.
        out_shape: Shape of one ``y``.
        noise: The noise of ``y``.
    """

    def __init__(self, parts: Sequence[Part], in_shape: tuple[int, ...], out_shape: tuple[int, ...], noise: Noise) -> None:
        self.parts = tuple(parts)
        self.in_shape, self.out_shape, self.noise = in_shape, out_shape, noise
        self.device = next((part.device for part in parts if part.device is not None), None)
        self.dtype = next((part.dtype for part in parts if part.dtype is not None), None)
        self.surrogate = any(part.surrogate for part in parts)

    @property
    def formula(self) -> str:
        """Formula of the combination in terms of its parts, for ``repr``."""
        return self._names(", ")

    def _names(self, symbol: str) -> str:
        names = [name_in_formula(part) for part in self.parts[:MOST_NAMES]]
        return symbol.join([*names, *(["..."] if len(self.parts) > MOST_NAMES else [])])

    def _summary(self) -> Sequence[str]:
        return (self.formula,)


def name_in_formula(op: Operator) -> str:
    """Return the text for ``op`` in the formula of an operator that contains it."""
    nested = f"({op.formula})" if isinstance(op, Combination) else ""
    return nested if 0 < len(nested) <= LONGEST_NESTED else type(op).__name__


def weight_for(op: LinearOperator, lam: Tensor | float) -> Tensor | float:
    """Reshape a ``lam`` with one number per item so that it broadcasts to measurements of ``op``; else return it as it is."""
    return lam.reshape(-1, *(1,) * len(op.out_shape)) if isinstance(lam, Tensor) and lam.ndim else lam


def is_exact(op: Operator) -> bool:
    """Return whether ``op`` has no noise."""
    return isinstance(op.noise, GaussianNoise) and op.noise.sigma == 0


def deviations_of(noise: GaussianNoise) -> Tensor:
    """Return the standard deviations of the entries of ``y``: a scalar if it is the same for all."""
    return torch.tensor(noise.sigma, dtype=torch.float64) if noise.deviations is None else noise.deviations


def scaled_noise(noise: Noise, factor: float) -> GaussianNoise:
    """Return the noise of ``factor * y``.

    Raises:
        ValueError: If the noise is not independent Gaussian.
    """
    if not isinstance(noise, GaussianNoise):
        raise ValueError(
            f"A measurement with {noise!r} cannot be scaled: only independent Gaussian noise can. Scale the operator without "
            "its noise, and set the noise of the result by Identity(out_shape, noise=...) @ (factor * op)."
        )
    return GaussianNoise(abs(factor) * deviations_of(noise))


def noise_of_sum(terms: Sequence[Operator]) -> Noise:
    """Return the noise of the sum of independent measurements.

    Raises:
        ValueError: If there is no noise model for the sum.
    """
    noisy = [term for term in terms if not is_exact(term)]
    if not noisy:
        return GaussianNoise(0.0)
    known = "The noise of a sum is known only"
    advice = "Add the operators without their noise, and set the noise of the sum by Identity(out_shape, noise=...) @ (A + B)."
    for term in noisy:
        if not term.complete:
            raise ValueError(
                f"{known} if the noisy terms measure every entry, but {type(term).__name__} measures {term.dof} of "
                f"{math.prod(term.out_shape)}. {advice}"
            )
    noises = [term.noise for term in noisy]
    if len(noises) == 1 and noises[0].gaussian:
        return noises[0]
    independent = [noise for noise in noises if isinstance(noise, GaussianNoise)]
    if len(independent) < len(noises):
        raise ValueError(f"{known} if it is independent and Gaussian, got {', '.join(map(repr, noises))}. {advice}")
    return GaussianNoise(reduce(torch.add, (deviations_of(noise) ** 2 for noise in independent)).sqrt())
