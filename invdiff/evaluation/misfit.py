"""The misfit of restored images, computed again from simulated measurements and their operator."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from invdiff.evaluation.restored import without_suffix
from invdiff.restoration.checks import find_problem
from invdiff.restoration.inputs import Measured, read
from invdiff.restoration.recorded import read_recorded

__all__ = ["Measurements"]

OPERATOR, IMAGES = "operator.json", "images.jsonl"  # of `invdiff simulate`


class Measurements:
    """The measurements of ``invdiff simulate``, with the operator that made them.

    Args:
        folder: The folder that it wrote.

    Raises:
        OptionError: If it has no operator of such a run, or a file that the operator needs is missing or differs.
        OSError: If it cannot be read.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        record = read_recorded(folder / OPERATOR, command="simulate", option="--measurements", folders=[folder])
        settings = {name: record.value(name) for name in record.arguments}
        self.problem, self.noise = find_problem(settings.pop("problem")), settings.pop("noise", None)
        names = {option.name for option in self.problem.options}
        self.options = {name: value for name, value in settings.items() if name in names}
        self._paths = {without_suffix(Path(name)): path for name, path in _lines(folder / IMAGES).items()}
        self._stems = Counter(name.rpartition("/")[2] for name in self._paths)

    def chi_square(self, name: str, images: Sequence[Tensor]) -> float | None:
        r"""Return the mean over images of :math:`\chi^2`, squared misfit over noise variance, divided by its expectation.

        It is 1 for the truth, and for exact posterior samples, on average; a mean of samples has less.

        Args:
            name: Name of the pair, a path without suffix, or its last part if only one measurement has it.
            images: Restored images, ``(1, C, H, W)``, spanning [-1, 1].

        Returns:
            The ratio; ``None`` for exact data.

        Raises:
            ValueError: If there is no such measurement, or it is one of an image of another shape.
        """
        task = self._measured(name)
        if task.observed.sigma_y == 0:
            return None
        results = torch.cat([image.float() for image in images])
        if tuple(results.shape[1:]) != tuple(task.observed.in_shape):
            raise ValueError(f"{name}: expected images of shape {task.observed.in_shape}, got {tuple(results.shape[1:])}.")
        residual = task.residual(results)
        return sum(residual) / len(residual) / float(task.observed.dof)

    def _measured(self, name: str) -> Measured:
        path = self._paths.get(name)
        if path is None and self._stems[stem := name.rpartition("/")[2]] == 1:
            path = next(path for other, path in self._paths.items() if other.rpartition("/")[2] == stem)
        if path is None:
            raise ValueError(f"{self.folder}: no measurement of {name} is listed in its {IMAGES}.")
        return read(self.folder / path, self.problem, noise=self.noise, channels=1, **self.options)


def _lines(path: Path) -> dict[str, str]:
    """Return the path of each measurement by the name of its image."""
    found: dict[str, str] = {}
    for text in path.read_text(encoding="utf-8").splitlines():
        line = _parsed(text)
        measurement = line.get("measurement")
        inside = isinstance(measurement, str) and not Path(measurement).is_absolute() and ".." not in Path(measurement).parts
        if line.get("state") == "done" and inside and isinstance(line.get("name"), str):
            found[line["name"]] = str(measurement)
    return found


def _parsed(text: str) -> Mapping[str, Any]:
    try:
        line = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return line if isinstance(line, dict) else {}
