"""Noise schedules."""

from __future__ import annotations

from invdiff.priors.adapters.rescaled import ScaledNoise
from invdiff.schedules import EDM, VE, VP, Cosine, DiscreteBetas, RectifiedFlow, SubVP

from .registry import cases_of


@cases_of(VP, 1)
def _() -> list[VP]:
    return [VP()]


@cases_of(SubVP, 1)
def _() -> list[SubVP]:
    return [SubVP()]


@cases_of(Cosine, 1)
def _() -> list[Cosine]:
    return [Cosine()]


@cases_of(VE, 1)
def _() -> list[VE]:
    return [VE()]


@cases_of(EDM, 1)
def _() -> list[EDM]:
    return [EDM()]


@cases_of(RectifiedFlow, 1)
def _() -> list[RectifiedFlow]:
    return [RectifiedFlow()]


@cases_of(DiscreteBetas, 3)
def _() -> list[DiscreteBetas]:
    return [DiscreteBetas.linear(100, 1e-3, 0.2), DiscreteBetas.scaled_linear(100, 1e-3, 0.2), DiscreteBetas.cosine(60)]


@cases_of(ScaledNoise, 1)
def _() -> list[ScaledNoise]:
    return [ScaledNoise(VP(), 2.0)]
