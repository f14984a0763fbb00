"""The properties that algorithms require of a measurement, and the errors for missing ones."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from invdiff.operators import LinearOperator, Mask, Operator
from invdiff.operators.algebra.combination import Combination
from invdiff.operators.algebra.decoded import measured_image

__all__ = ["NEEDS", "check_declared", "check_needs"]


def _has_svd(op: Operator) -> bool:
    return isinstance(op, LinearOperator) and op.svd is not None


def _has_encoder(op: Operator) -> bool:
    parts = measured_image(op)
    return parts is not None and parts.decoder.encode is not None


def _of_linear_image(op: Operator) -> bool:
    parts = measured_image(op)
    return parts is not None and isinstance(parts.image, LinearOperator)


def _is_inpainting(op: Operator) -> bool:
    parts = measured_image(op)
    if parts is None:
        return isinstance(op, Mask)
    return isinstance(parts.image, Mask) and _has_encoder(op) and len(op.in_shape) == len(parts.image.in_shape) == 3


# property: (test of an operator, its name in the error message, advice if it is missing)
NEEDS: Mapping[str, tuple[Callable[[Operator], bool], str, str]] = {
    "linear": (
        lambda op: isinstance(op, LinearOperator),
        "a linear operator",
        "Use 'mmps' or 'dps' for nonlinear operators, or LinearFunction if the function is in fact linear.",
    ),
    "svd": (
        _has_svd,
        "an operator with a known singular value decomposition",
        "Masks, downsampling, circular or separable blur and small matrices have one; 'mmps' does not need it.",
    ),
    "mask": (lambda op: isinstance(op, Mask), "a Mask", "Use 'ddnm' or 'mmps' for other operators."),
    "latent": (
        lambda op: measured_image(op) is not None,
        "a latent prior",
        "Use priors.LatentPrior(score, decode), or 'mmps' or 'dps' for priors of images.",
    ),
    "linear-image": (
        _of_linear_image,
        "a latent prior and an operator that is linear in the image",
        "Use 'mmps', 'dps' or 'daps', which take any operator under a latent prior.",
    ),
    "encoder": (
        _has_encoder,
        "a latent prior with an encoder",
        "Give it one: LatentPrior(score, decode, encode=...), or use 'mmps' or 'dps', which need none.",
    ),
    "inpainting": (
        _is_inpainting,
        "a Mask: of x, or of images under a latent prior with an encoder, with codes of shape (c, h, w)",
        "Use 'mmps' or 'diffpir' for other operators.",
    ),
    "noise": (
        lambda op: op.sigma_y > 0,
        "noise in the measurement (sigma_y > 0)",
        "Give the operator a small sigma_y, or use 'mmps', which takes exact data.",
    ),
    "exact": (
        lambda op: op.sigma_y == 0,
        "exact data (sigma_y = 0), because it would reproduce the noise as signal",
        "Use 'mmps', or set sigma_y = 0 if reproducing the noise is acceptable.",
    ),
}


def check_declared(name: str, needs: Any) -> None:
    """Raise an error unless ``needs``, as declared by the algorithm ``name``, is a tuple of keys of ``NEEDS``.

    Raises:
        TypeError: If it is not a tuple or list of names.
        ValueError: If a name is unknown.
    """
    if not isinstance(needs, tuple | list):
        raise TypeError(f'{name}: needs must be a tuple of names, such as ("linear",), got {needs!r}.')
    for need in needs:
        if need not in NEEDS:
            near = difflib.get_close_matches(str(need), NEEDS, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"{name}: needs has the unknown name {need!r}, expected some of {', '.join(NEEDS)}.{hint}")


def check_needs(name: str, op: Operator, needs: Sequence[str], *, any_noise: bool, one_operator: bool) -> None:
    """Raise a ``ValueError`` that names the first of ``needs``, keys of ``NEEDS``, which ``op`` lacks.

    Args:
        name: Name of the algorithm, for the message.
        op: The measurement.
        needs: Required properties, in the order of the checks.
        any_noise: Whether the algorithm accepts noise other than white Gaussian noise.
        one_operator: Whether all rows must share one operator.
    """
    if one_operator and op.items is not None:
        raise ValueError(
            f"{name} needs one operator shared by all rows, got a different one for each of {op.items} items. Run them one "
            "after the other with op.take([b]), as PosteriorSampler does."
        )
    if not (any_noise or op.noise.white):
        hint = "see invdiff.operators.whiten" if op.noise.gaussian else "use 'mmps', which takes any noise"
        raise ValueError(f"{name} needs white Gaussian noise, got {op.noise!r}: {hint}.")
    for need in needs:
        present, what, advice = NEEDS[need]
        if not present(op):
            noise = f" with sigma_y = {op.sigma_y:g}" if need in ("noise", "exact") else ""
            formula = f" ({op.formula})" if isinstance(op, Combination) else ""
            raise ValueError(f"{name} needs {what}, got {type(op).__name__}{formula}{noise}. {advice}")
