r"""Counts behind an absorber as files hold them: flats, darks and the gain of the detector, in photons.

A detector gives :math:`N = D + g\, k`, with :math:`D` its value in the dark and :math:`g` the gain, units of INPUT per photon.
:math:`k` is Poisson distributed around :math:`I e^{-z}`, with :math:`I = (F - D) / g` from a flat :math:`F`, and :math:`z` the
line integral. Where flats are repeated, their variance tells the gain: it is that of the readout, plus :math:`g\,(F - D)`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from invdiff.operators import TransmissionNoise

from .arrays import Arrays, one_number, real_numbers

__all__ = ["Counts", "line_integrals"]

Array = NDArray[np.float64]

NO_COUNT = 0.01  # share of counts that may be 0 or less, if they are no photons
REPEATED = 3  # flats, or darks, whose variance tells the gain, or the readout noise
LEAST_GAIN = 1e-9  # relative to the flats: below it they do not fluctuate


@dataclass(frozen=True)
class Counts:
    """Photons, float64 ``(angles, detectors)``.

    Attributes:
        measured: Measured ones, with the background; they need not be whole numbers.
        flat: Expected ones without an object and without the background, above 0.
        background: Expected ones without light; readout noise counts as one of its variance.
    """

    measured: Tensor
    flat: Tensor
    background: Tensor

    @property
    def T(self) -> Self:  # noqa: N802
        return type(self)(self.measured.T, self.flat.T, self.background.T)

    def binned(self, count: int) -> Self:
        """Return the sums over ``count`` neighboring detectors; those left over at the end are dropped."""
        parts = (part[:, : part.shape[1] // count * count] for part in (self.measured, self.flat, self.background))
        return type(self)(*(part.reshape(len(part), -1, count).sum(2) for part in parts))

    def integrals(self) -> Tensor:
        """Return the line integrals that stand for them, see :class:`~invdiff.operators.TransmissionNoise`."""
        return TransmissionNoise(self.flat, background=self.background).integrals(self.measured)

    def deviations(self) -> Tensor:
        r"""Return the standard deviations of their logarithms, :math:`\sqrt k / (k - b)`, of half a photon where fewer are."""
        light = (self.measured - self.background).clamp(min=0.5)
        return (light + self.background).sqrt() / light


def line_integrals(values: Array, arrays: Arrays, notes: list[str]) -> tuple[Array, Counts | None]:
    r"""Return :math:`-\log((N - D) / (F - D))` of a sinogram of counts, and the counts in photons if their gain is known.

    Without ``flat`` the sinogram holds line integrals, which are returned as they are. The gain is that of ``gain``, or told by
    the variance of repeated flats, or 1 if all values are whole numbers.

    Args:
        values: The array ``sinogram``.
        arrays: All arrays, of which ``flat``, ``dark`` and ``gain`` are used.
        notes: Messages for the user are added to it.

    Raises:
        ValueError: If an array has an invalid shape or invalid values, or they do not fit each other.
    """
    if "flat" not in arrays:
        for name in ("dark", "gain"):
            if name in arrays:
                raise ValueError(
                    f"ct: `{name}` belongs to counts: give the counts without an object too, as `flat` or by --flat."
                )
        return values, None
    flat, dark = (_reference(arrays, name, values.shape, notes) for name in ("flat", "dark"))
    try:
        counts, open_beam, dark = np.broadcast_arrays(values - dark, flat - dark, dark)
    except ValueError:
        raise ValueError(
            f"ct: flat and dark have shapes {flat.shape} and {dark.shape}, expected one number, or one for each detector, the "
            f"last axis of the sinogram {values.shape}."
        ) from None
    if counts.shape != values.shape or not (open_beam > 0).all():
        raise ValueError(
            f"ct: flat must exceed dark and have no more values than the sinogram, got {flat.shape} and {dark.shape}."
        )
    gain = _gain(values, arrays, notes)
    if gain is not None:
        readout = _variance(arrays, "dark", values.shape)
        background = dark.clip(min=0) / gain if readout is None else np.full(values.shape, readout / gain**2)
        photons = Counts(*(torch.tensor(part) for part in (counts / gain + background, open_beam / gain, background)))
        return photons.integrals().numpy(), photons
    dead = counts <= 0
    if dead.mean() > NO_COUNT:
        raise ValueError(f"ct: {dead.mean():.1%} of the counts have no logarithm: they do not exceed `dark` or 0.")
    if dead.any():
        least = counts[~dead].min()
        counts = np.where(dead, least, counts)
        notes.append(f"{int(dead.sum())} counts without light are taken as {least:.4g}, the least other one")
    return np.asarray(-np.log(counts / open_beam), dtype=np.float64), None


def _gain(values: Array, arrays: Arrays, notes: list[str]) -> float | None:
    """Return the units of the sinogram per photon, or ``None`` if nothing tells them."""
    if "gain" in arrays:
        gain = one_number(arrays, "gain")
        if gain <= 0:
            raise ValueError(f"ct: gain must be positive, units of the counts per photon, got {gain:g}.")
        return gain
    variance = _variance(arrays, "flat", values.shape)
    if variance is not None:
        light = float(real_numbers(arrays, "flat").mean()) - float(
            real_numbers(arrays, "dark").mean() if "dark" in arrays else 0
        )
        gain = (variance - (_variance(arrays, "dark", values.shape) or 0.0)) / light
        if gain > LEAST_GAIN * light:
            notes.append(f"noise: of photons, {gain:.3g} counts each by the variance of the flats (change it with --gain)")
            return gain
    if (values == values.round()).all() and values.max() > 1:
        notes.append("noise: of photons, one for each count (change it with --gain)")
        return 1.0
    return None


def _variance(arrays: Arrays, name: str, shape: tuple[int, ...]) -> float | None:
    """Return the variance within detectors of repeated references, each divided by its mean, or ``None`` if they are not."""
    given: Array = real_numbers(arrays, name).numpy() if name in arrays else np.zeros(())
    if given.ndim != 2 or given.shape[1] != shape[1] or len(given) < REPEATED or len(given) == shape[0]:
        return None
    level = given.mean(1, keepdims=True)
    steady = given * (level.mean() / level) if (level > 0).all() else given  # the source, or the exposure, fluctuates too
    return float(steady.var(0, ddof=1).mean())


def _reference(arrays: Arrays, name: str, shape: tuple[int, ...], notes: list[str]) -> Array:
    """Return counts without an object, or without light, that broadcast to those of a sinogram; 0 if the file has none."""
    given: Array = real_numbers(arrays, name).numpy() if name in arrays else np.zeros(())
    if given.shape == shape[:1] != shape[1:]:  # detectors first, or one number for each projection
        return given[:, None]
    if given.ndim == 2 and given.shape[1] == shape[1] and len(given) not in (1, shape[0]):
        notes.append(f"`{name}` is the mean of {len(given)} measurements")
        return np.asarray(given.mean(0))
    return given
