"""The rows and columns of ``images.py``: degradations of photographs, and restoration methods with their settings."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from skimage import restoration
from torch import Tensor

from invdiff.methods import METHODS
from invdiff.methods.guidance import MMPS
from invdiff.operators import GaussianNoise, Mosaic, Operator, gaussian_kernel
from invdiff.posterior.recommended import recommended, starting_ratio
from invdiff.priors import ScoreModel
from invdiff.problems import Deblur, Dejpeg, Demosaic, Inpaint, Problem, SuperResolution

__all__ = ["CLASSICAL", "COLUMNS", "NEW", "OLD", "ROWS", "Case", "cases", "centre", "in_full", "settings_of"]

Array = NDArray[np.float64]
Restorer = Callable[[Tensor], Tensor]  # from y (1, *out_shape) to the judged part of the image (1, C, h, w)

ROWS = ("text", "random", "hole", "levin", "levin-cut", "gaussian", "gaussian-cut", "x2", "x4", "demosaic", "dejpeg")
MISSING = 0.7  # share of the pixels of "random"
HOLE = 64  # pixels of the side of "hole", at most half that of the picture
NOISE = 0.02  # of the blurs, on the 0..1 scale
GAUSSIAN = 2.0  # standard deviation of "gaussian", in pixels
PATTERN, QUALITY = "RGGB", 10
WIENER = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0)  # regularisation, skimage's "balance"
RICHARDSON_LUCY = (3, 5, 10, 20, 40)  # iterations

CLASSICAL, OLD, NEW = "classical", "old-default", "new-default"
COLUMNS = (CLASSICAL, OLD, NEW, "exact-score", "ddnm", "ddnm+", "ddrm", "dps")
# What `invdiff solve` ran before, spelled out, so that it stays what it was whatever the defaults of the library become.
FROZEN = {
    "method": "mmps",
    "rule": "matched",
    "steps": 16,
    "spacing": "log-snr",
    "ratio_max": 10.0,
    "rtol": 1e-2,
    "exact_up_to": 8,
    "root_iterations": 2,
}


@dataclass(frozen=True, eq=False)
class Case:
    """One row of the table, for pictures of one size.

    Attributes:
        problem: The task.
        about: What the measurement depends on, for the record: numbers, names, digests.
        noise: Its standard deviation on the 0..1 scale.
        iterations: GMRES iterations of the old default.
        classical: Classical restorers by name; those that differ after the comma are one with several parameters.
        known: Boolean, broadcastable to ``(C, H, W)``: values that are known exactly.
        cut: ``(h, w)`` of a kernel beyond whose reach from the border the picture is judged.
    """

    problem: Problem
    about: Mapping[str, Any]
    noise: float = 0.0
    iterations: int = 4
    classical: Mapping[str, Restorer] = field(default_factory=dict)
    known: Tensor | None = None
    cut: tuple[int, int] = (1, 1)

    def measurement(self, clean: Tensor) -> Operator:
        """Return the measurement of clean pictures ``(B, C, H, W)`` that fit the problem."""
        return self.problem.operator((clean.shape[1], clean.shape[2], clean.shape[3]), noise=GaussianNoise(2 * self.noise))

    def judged(self, x: Tensor) -> Tensor:
        """Return the part of pictures ``(..., H, W)`` that is judged: where ``y`` was recorded."""
        (rows, columns), (height, width) = self.cut, x.shape[-2:]
        top, left = (rows - 1) // 2, (columns - 1) // 2
        return x[..., top : top + height - rows + 1, left : left + width - columns + 1]


def cases(shape: Sequence[int], *, mask: NDArray[np.bool_], kernel: Array) -> Mapping[str, Case]:
    """Return the rows for pictures of ``shape`` ``(3, H, W)``.

    Args:
        shape: Of the picture.
        mask: Text, true where a pixel is known; repeated to cover the picture, of which it then has the centre.
        kernel: Of the camera shake.
    """
    _, height, width = shape
    tiled = np.tile(mask, (-(-height // mask.shape[0]), -(-width // mask.shape[1])))
    text = centre(torch.from_numpy(tiled), (height, width))
    scattered = torch.from_numpy(np.random.default_rng([height, width]).random((height, width)) >= MISSING)  # of the size alone
    side = min(HOLE, height // 2, width // 2)
    whole = torch.ones(height, width, dtype=torch.bool)
    centre(whole, (side, side)).fill_(False)
    mosaic = Mosaic((3, height, width), PATTERN)
    jpeg = Dejpeg(quality=QUALITY)
    blurs = {"levin": kernel, "gaussian": np.asarray(gaussian_kernel(GAUSSIAN), dtype=np.float64)}
    return {
        "text": _inpaint(text, {"mask": _digest(mask)}),
        "random": _inpaint(scattered, {"missing": MISSING}),
        "hole": _inpaint(whole, {"side": side}),
        **{name: _blur(values, "circular") for name, values in blurs.items()},
        # The blurred picture was larger: what its border saw is not in it, and part of it is unknown too.
        **{f"{name}-cut": _blur(values, "valid") for name, values in blurs.items()},
        **{f"x{factor}": _enlarge(factor) for factor in (2, 4)},
        "demosaic": Case(
            Demosaic(PATTERN), {"pattern": PATTERN}, classical={"bilinear": partial(bilinear, mosaic)}, known=mosaic.mask.bool()
        ),
        "dejpeg": Case(jpeg, {"quality": QUALITY}, iterations=6, classical={"as decoded": jpeg.preview}),
    }


def settings_of(column: str, case: Case, score: ScoreModel, op: Operator) -> dict[str, Any] | None:
    """Return what :class:`~invdiff.PosteriorSampler` is built with, nothing for classical restorers; ``None``: no such method.

    The new default, and methods by their names, are set as ``invdiff solve`` sets them.
    """
    if column == CLASSICAL:
        return {}
    if column == OLD:
        # An option that came later: the covariance was that of the network's Jacobian when there was no other.
        later = {"covariance": "jacobian"} if "covariance" in inspect.signature(MMPS).parameters else {}
        return {**FROZEN, "max_iterations": case.iterations, **later}
    if column == NEW:
        settings = recommended(score, op)  # The records do not name mmps, to which options belong.
        return {name: value for name, value in settings.items() if (name, value) != ("method", "mmps")}
    if column not in METHODS:
        return None
    start = starting_ratio(score, op, METHODS[column])
    return {"method": column} | ({} if start is None else {"ratio_max": start})


def in_full(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings with the defaults of the method beneath them: what a result depends on, for the record."""
    method = METHODS.get(settings.get("method", "auto"), METHODS["mmps"])
    options = {
        name: parameter.default
        for name, parameter in inspect.signature(method.algorithm).parameters.items()
        if isinstance(parameter.default, int | float | str)
    }
    own = {"steps": method.steps, "rule": str(method.rule), "spacing": method.spacing, **method.options}
    return {**options, **own, **settings}


def centre(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Return a view of the centre of ``x`` ``(..., H, W)``, of ``size`` ``(h, w)`` or less."""
    height, width = (min(one, side) for one, side in zip(size, x.shape[-2:], strict=True))
    top, left = (x.shape[-2] - height) // 2, (x.shape[-1] - width) // 2
    return x[..., top : top + height, left : left + width]


def _digest(values: NDArray[Any]) -> str:
    return hashlib.sha256(np.ascontiguousarray(values).tobytes()).hexdigest()[:12]


def _inpaint(known: Tensor, about: Mapping[str, Any]) -> Case:
    return Case(Inpaint(known), about, classical={"biharmonic": partial(biharmonic, known.numpy())}, known=known)


def _enlarge(factor: int) -> Case:
    about = {"factor": factor, "kernel": "bicubic"}
    return Case(SuperResolution(factor), about, classical={"bicubic": partial(bicubic, factor)})


def _blur(kernel: Array, boundary: str) -> Case:
    # The Wiener filter is itself circular; where the picture is not, both see it mirrored beyond its border.
    rows, columns = kernel.shape
    around = ("wrap", (rows, columns)) if boundary == "circular" else ("symmetric", (rows, columns))
    whole = ("wrap", (0, 0)) if boundary == "circular" else around
    classical = {
        f"Wiener, balance {balance:g}": partial(deconvolve, partial(_wiener, kernel, balance), *whole) for balance in WIENER
    }
    classical |= {
        f"Richardson-Lucy, {count} steps": partial(deconvolve, partial(_richardson_lucy, kernel, count), *around)
        for count in RICHARDSON_LUCY
    }
    about = {"kernel": _digest(kernel), "boundary": boundary, "noise": NOISE}
    problem = Deblur(kernel, boundary=boundary)
    return Case(problem, about, NOISE, 6, classical, cut=(rows, columns) if boundary == "valid" else (1, 1))


def _unit(y: Tensor) -> Array:
    """Return pictures ``(1, C, H, W)`` spanning [-1, 1] as an array ``(H, W, C)`` on the 0..1 scale."""
    unit: Array = ((y[0] + 1) / 2).double().permute(1, 2, 0).numpy()
    return unit


def _picture(unit: Array) -> Tensor:
    return torch.from_numpy(unit).permute(2, 0, 1).float()[None] * 2 - 1


def biharmonic(known: NDArray[np.bool_], y: Tensor) -> Tensor:
    return _picture(restoration.inpaint_biharmonic(_unit(y), ~known, channel_axis=-1))


def deconvolve(restore: Callable[[Array], Array], mode: str, margin: tuple[int, int], y: Tensor) -> Tensor:
    """Return ``restore`` of every colour, continued beyond the border by ``margin`` in the ``mode`` of ``numpy.pad``."""
    unit, (rows, columns) = _unit(y), margin
    height, width, _ = unit.shape
    padded = np.pad(unit, ((rows, rows), (columns, columns), (0, 0)), mode=mode)  # type: ignore[call-overload]
    restored = np.stack([restore(padded[..., c]) for c in range(padded.shape[-1])], -1)
    return _picture(restored[rows : rows + height, columns : columns + width])


def _wiener(kernel: Array, balance: float, y: Array) -> Array:
    restored: Array = restoration.wiener(y, kernel, balance)
    return restored


def _richardson_lucy(kernel: Array, count: int, y: Array) -> Array:
    restored: Array = restoration.richardson_lucy(y.clip(0, 1), kernel, count)
    return restored


def bicubic(factor: int, y: Tensor) -> Tensor:
    unit = _unit(y)
    size = (unit.shape[1] * factor, unit.shape[0] * factor)
    channels = [Image.fromarray(unit[..., c].astype(np.float32)).resize(size, Image.Resampling.BICUBIC) for c in range(3)]
    return _picture(np.stack([np.asarray(channel, dtype=np.float64) for channel in channels], -1))


def bilinear(mosaic: Mosaic, y: Tensor) -> Tensor:
    """Return every colour as the weighted mean of its nearest measured values; what is measured stays."""
    tent = torch.tensor([1.0, 2.0, 1.0])
    window = torch.outer(tent, tent).expand(3, 1, 3, 3)
    mask, values = mosaic.mask.float().expand(1, *mosaic.in_shape), mosaic.adjoint(y)
    between = F.conv2d(values, window, padding=1, groups=3) / F.conv2d(mask, window, padding=1, groups=3)
    return torch.where(mask.bool(), values, between)
