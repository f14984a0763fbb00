"""Recovery of saturated values."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from invdiff.formats.color_spaces import SRGB
from invdiff.formats.exr import EXR, LINEAR, Attributes
from invdiff.formats.format import Array, Stack
from invdiff.formats.origin import Origin
from invdiff.formats.window import Window
from invdiff.io.images import Picture
from invdiff.operators import Clip, Noise, Operator

from .options import Option, OptionError
from .problem import Given, Problem, pixels_of

__all__ = ["Declip"]

STOPS = 2.0
SLACK = 1e-3  # share of the clipping level by which values of half precision may exceed it
HALF_STEP = 1 / 255  # half an 8-bit step: the clipping level rarely coincides with one of the 256 values


class Declip(Problem):
    r"""Recover values that are too bright or too dark for the range of a sensor.

    Without noise, values inside the range are known exactly, and those at its ends are known to lie at or beyond them. A value
    within half an 8-bit step of an end counts as saturated.

    **Linear light** (OpenEXR, Radiance, ``transfer="linear"``): a value :math:`v` is encoded as :math:`f(v / s)` with the curve
    of sRGB, since the prior knows pictures encoded for a display, and white of the prior :math:`s = 2^h v_\max` lies :math:`h`
    stops above the clipping level :math:`v_\max`, which leaves room for what was clipped. Noise is that of encoded values.
    Results are linear light again, in OpenEXR files, in which values exceed the clipping level.

    Args:
        low: Lower clipping level, images spanning [-1, 1]: smaller values are measured as this one. :math:`-\infty`: none.
        high: Upper clipping level: larger values are measured as this one. :math:`\infty`: none.
        white: Linear light at white of the prior, :math:`s`; ``None``: pictures encoded for a display.

    Raises:
        ValueError: If ``low`` is not below ``high``, or both are infinite.
    """

    name = "declip"
    options = (
        Option(
            name="clip_low", kind="NUMBER", needed="any", help="Lower clipping level, pixels spanning 0..1, or in linear light."
        ),
        Option(
            name="clip_high",
            kind="NUMBER",
            needed="any",
            help="Upper clipping level, pixels spanning 0..1, or in linear light.",
        ),
        Option(
            name="transfer",
            kind=("display", "linear"),
            help="What pixels are: encoded for a display, or linear light, with results as OpenEXR. Default: linear for "
            "OpenEXR and Radiance files, display for others.",
        ),
        Option(
            name="headroom",
            kind="NUMBER",
            minimum=0.5,
            maximum=8,
            help=f"How far above --clip-high results in linear light may reach, in stops (factors of 2). Default: {STOPS:g}.",
        ),
    )
    needs = "--clip-low, --clip-high or both, the levels at which INPUT is clipped"
    exact_is_usual = True
    measures = "Clip"
    misfit_causes = "a wrong --clip-low or --clip-high"

    def __init__(self, low: float, high: float, *, white: float | None = None) -> None:
        if not low < high or (math.isinf(low) and math.isinf(high)):
            raise ValueError(f"Declip: low must be below high, and one of them finite, got low={low:g} and high={high:g}.")
        self.low, self.high, self.white = low, high, white
        if white is not None:  # the prior has room above the clipping level, where samples of mmps leave its range
            self.recommended = {"method": "dps", "steps": 150}

    @classmethod
    def from_options(cls, options: Mapping[str, Any], *, size: tuple[int, int]) -> Self:
        low, high = options["clip_low"], options["clip_high"]
        if options["headroom"] is not None:
            raise OptionError("--headroom is for linear light: OpenEXR and Radiance files, and others with --transfer linear.")
        if low is not None and high is not None and low >= high:
            raise ValueError(f"--clip-low {low:g} and --clip-high {high:g}: low must be below high, pixels spanning 0..1.")
        return cls(-math.inf if low is None else 2 * low - 1, math.inf if high is None else 2 * high - 1)

    @classmethod
    def of_picture(cls, picture: Picture, options: Mapping[str, Any], *, source: str) -> Given:
        origin = picture.origin
        linear = origin is not None and isinstance(origin.contents, Stack) and origin.contents.unit == LINEAR
        if not linear and options["transfer"] != "linear":
            return super().of_picture(picture, options, source=source)
        if linear and options["transfer"] == "display":
            raise OptionError("--transfer display: the file holds linear light. Leave it out.")
        light = (picture.pixels + 1) / 2 if origin is None else origin.window.values(picture.pixels)
        low, high = options["clip_low"], options["clip_high"]
        if high is not None and not high > max(low or 0.0, 0.0):
            raise OptionError(f"--clip-high {high:g}: expected a level of linear light above 0 and above --clip-low.")
        brightest = float(light.max())
        if high is not None and brightest > high * (1 + SLACK):
            raise OptionError(
                f"--clip-high {high:g}: the values of INPUT reach {brightest:g}, where they are not clipped at it."
            )
        white = brightest if high is None else high * 2.0 ** (options["headroom"] or STOPS)
        if not white > 0:
            raise ValueError(f"{source}: none of its values is above 0, so that nothing is to be recovered.")
        ends = (2 * float(SRGB.encode(np.array(end / white))) - 1 if end is not None else None for end in (low, high))
        below, above = ends
        problem = cls(-math.inf if below is None else below, math.inf if above is None else above, white=white)
        note = (
            f"linear light, encoded by the curve of sRGB with white at {white:.4g}; results are OpenEXR files of linear light"
        )
        written = replace(picture, origin=_as_exr(picture), icc=None)
        encoded = replace(picture, pixels=2 * SRGB.encode(light / white) - 1)
        return Given(problem, pixels_of(encoded), written, (note,))

    def upright(self, x: Tensor) -> Tensor:
        """Return linear light, 0..1 as [-1, 1], if INPUT is."""
        return x if self.white is None else _mapped(x, lambda values: SRGB.decode(values) * (self.white or 1.0))

    def shown(self, x: Tensor) -> Tensor:
        return x if self.white is None else _mapped(x, lambda light: SRGB.encode(light / (self.white or 1.0)))

    def operator(self, shape: tuple[int, int, int], *, noise: Noise | None = None) -> Operator:
        return Clip(shape, self.low, self.high, noise=noise)

    def finish(self, x: Tensor, y: Tensor, op: Operator) -> Tensor:
        if op.sigma_y > 0:
            return x
        bright, dark = y >= self.high - HALF_STEP, y <= self.low + HALF_STEP
        return torch.where(bright, torch.maximum(x, y), torch.where(dark, torch.minimum(x, y), y))


def _mapped(x: Tensor, function: Callable[[Array], Array]) -> Tensor:
    """Return pictures that span [-1, 1] after a function of values that span 0..1."""
    return torch.from_numpy(2 * function((x.double().numpy() + 1) / 2) - 1).to(x.dtype)


def _as_exr(picture: Picture) -> Origin:
    """Return what results in linear light are written as: OpenEXR files, with the attributes of INPUT if it is one.

    Raises:
        ValueError: If OpenEXR is not installed.
    """
    kind, window = EXR(), Window(0.0, 1.0, "reconstruction")
    if kind.missing:
        raise ValueError(f'results in linear light are OpenEXR files, which need OpenEXR: pip install "invdiff[{kind.extra}]"')
    if picture.origin is not None:
        return Origin(kind, picture.origin.contents, 0, window)
    held = Stack((1, *picture.pixels.shape), lambda k: picture.pixels, "picture", LINEAR, header=Attributes({}))
    return Origin(kind, held, 0, window)
