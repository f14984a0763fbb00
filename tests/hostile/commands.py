"""The kinds of cases, and the case of a number."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.random import Generator

from hostile import checkpoints
from hostile.case import Case, Made
from hostile.files import OWN, good_mask, good_picture
from hostile.folders import evaluations_case, folders_case, outputs_case
from hostile.measurements import arrays_case, kernels_case, masks_case, pictures_case
from hostile.misplaced import bombs_case, roles_case
from hostile.settings import calibrations_case, checkpoints_case, options_case, places_case
from hostile.training import trainings_case

__all__ = ["KINDS", "case", "name_of"]

KINDS: dict[str, Callable[[Generator], Made]] = {
    "pictures": pictures_case,
    "masks": masks_case,
    "kernels": kernels_case,
    "arrays": arrays_case,
    "options": options_case,
    "checkpoints": checkpoints_case,
    "evaluations": evaluations_case,
    "calibrations": calibrations_case,
    "folders": folders_case,
    "outputs": outputs_case,
    "places": places_case,
    "bombs": bombs_case,
    "roles": roles_case,
    "trainings": trainings_case,
}
# Half of the cases read pictures, arrays, options and checkpoints, where most of the code is.
ORDER = (*KINDS, "pictures", "arrays", "options", "checkpoints", "kernels", "masks", "pictures", "arrays", "options", "roles")


def name_of(number: int) -> str:
    """Return the name of a case: its kind and its number."""
    return f"{ORDER[number % len(ORDER)]}-{number:03d}"


def case(number: int) -> Case:
    """Return the case of a number."""
    kind = ORDER[number % len(ORDER)]
    files, arguments, suspects = KINDS[kind](np.random.default_rng([17, number]))
    common = {
        "in.png": good_picture(),
        "mask.png": good_mask(),
        "prior.safetensors": checkpoints.tiny(),
        "own.py": OWN.encode(),
    }
    return Case(number, kind, {**common, **files}, tuple(arguments), tuple(suspects))
