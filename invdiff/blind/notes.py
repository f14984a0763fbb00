"""Sentences about kernels that were not found, or that explain nothing."""

from __future__ import annotations

import math

from torch import Tensor

from invdiff.blind.families import ParametricFamily
from invdiff.blind.free import SearchedKernels
from invdiff.blind.parametric import Estimate, block_sums

__all__ = ["notes_on_free", "notes_on_parameters"]

CLEAR = 3.0  # Standard errors, from the scatter of the blocks of the picture
EDGE = 0.02  # Share of the weight of a kernel in its outermost pixels


def notes_on_parameters(estimate: Estimate, family: ParametricFamily, unblurred: Tensor | None) -> tuple[str, ...]:
    """Return what must be said about estimated parameters.

    Args:
        estimate: The estimate.
        family: The family of kernels.
        unblurred: Negative log evidence of no blur of every place, like ``estimate.evidence``; ``None``: it is not considered.
    """
    found = []
    if unblurred is not None and _clearly_lower(unblurred, estimate.evidence):
        found.append(
            "no kernel explains the picture: without any blur it is more probable than with the best kernel of "
            f"{family!r}. It is sharp, or its blur is of another family."
        )
    if estimate.at_bound:
        index = family.names.index(estimate.at_bound)
        low, high = family.bounds[index]
        found.append(
            f"{estimate.at_bound} is at the end of its range, {low:g} to {high:g}: the blur is beyond it, or of another family."
        )
    elif not estimate.determined:
        found.append(f"the picture does not tell {' and '.join(family.names)}: it is too smooth or too noisy.")
    return tuple(found)


def notes_on_free(found: SearchedKernels) -> tuple[str, ...]:
    """Return what must be said about a kernel that was looked for on the simplex."""
    kernel, notes = found.kernels[0], []
    if found.evidence >= 0:
        notes.append(
            "no kernel explains the picture: without any blur it is at least as probable as with the kernel that was found. It "
            "is sharp, or too smooth or too noisy to tell."
        )
    inner = float(kernel[1:-1, 1:-1].sum())
    if 1 - inner > EDGE:
        notes.append(
            f"the kernel reaches the edge of its {kernel.shape[1]} x {kernel.shape[0]} pixels: the blur is larger. Use a "
            "larger FreeFamily(size=...)."
        )
    return tuple(notes)


def _clearly_lower(one: Tensor, other: Tensor) -> bool:
    """Return whether the blocks of a picture agree that the first negative log evidence is lower."""
    first, second = block_sums([one, other])
    differences = first - second
    return float(differences.sum()) < -CLEAR * float(differences.std()) * math.sqrt(len(differences))
