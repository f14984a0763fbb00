r"""A mosaic of a camera as the prior takes it: white-balanced, encoded for display, with the noise of every pixel."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import scipy
import torch
from numpy.typing import NDArray
from torch import Tensor

from invdiff.formats.camera_raw import Camera
from invdiff.formats.color_spaces import COLOR_SPACES, SRGB, ColorSpace, rgb_to_rgb
from invdiff.formats.format import Array
from invdiff.operators import GaussianNoise, Noise
from invdiff.operators.noise.poisson import PhotonNoise

from .photon_transfer import photon_transfer

__all__ = ["RawMosaic"]

CURVE = SRGB  # between light and what the prior takes
SATURATED = 0.99  # share of the range from black to white from which a pixel is saturated
BEYOND = 0.1  # how far above white a saturated pixel is taken to be, and the standard deviation; encoded values spanning 0..1
SMOOTHING = 1.0  # standard deviation in pixels of one color


@dataclass(frozen=True, eq=False)
class RawMosaic:
    r"""Light :math:`v` behind a Bayer filter, encoded as :math:`f(g_c v)` with the gains :math:`g_c` of the white balance.

    A prior of photographs knows values encoded for a display, and a sensor measures light: :math:`f` is the curve of sRGB. To
    first order, the noise of an encoded value is Gaussian with the standard deviation

    .. math:: \sigma = f'(g_c \bar v)\, g_c \sqrt{S \bar v + O}

    where the level :math:`\bar v` is a mean of neighbors of the same color, not the noisy value itself. The bias of second
    order, :math:`f'' \sigma_v^2 / 2`, is subtracted.

    A saturated pixel is known to be at least at white. It is measured as 0.1 above white with a standard deviation of 0.1, and
    samples below white are raised to it.

    Attributes:
        camera: What the camera says.
        mosaic: The mosaic ``(H, W)`` in the units of the sensor.
        space: Color space of results.
    """

    camera: Camera
    mosaic: Array
    space: ColorSpace

    @cached_property
    def light(self) -> Array:
        """Light on the 0..1 scale, not white-balanced, ``(H, W)``."""
        return self.camera.light(self.mosaic)

    @cached_property
    def gains(self) -> Array:
        """Factor of every pixel, ``(H, W)``."""
        gains: Array = np.array(self.camera.gains)[self.camera.colors(*self.mosaic.shape)]
        return gains

    @cached_property
    def saturated(self) -> NDArray[np.bool_]:
        """Whether pixels are saturated, ``(H, W)``."""
        return self.light >= SATURATED

    @property
    def step(self) -> float:
        """Rounding step of the light."""
        return 1 / (self.camera.white - min(self.camera.black))

    @cached_property
    def estimate(self) -> tuple[tuple[float, float], ...] | str:
        """:math:`S` and :math:`O` of the three colors, estimated; or the reason why they cannot be."""
        try:
            return (photon_transfer(self.light, step=self.step),) * 3
        except ValueError as error:
            return str(error)

    @cached_property
    def level(self) -> Array:
        """Mean of neighbors of the same color, 0 at least, ``(H, W)``."""
        level = np.empty_like(self.light)
        for top in (0, 1):
            for left in (0, 1):
                plane = self.light[top::2, left::2]
                level[top::2, left::2] = scipy.ndimage.gaussian_filter(plane, SMOOTHING, mode="nearest")
        return np.maximum(level, 0)

    def encoded(self) -> Tensor:
        """Return the measurement, ``(1, 1, H, W)``, spanning [-1, 1] from black to the white of a gray card."""
        known, gains = self.camera.noise or self.estimate, self.gains
        values = CURVE.encode(gains * self.light)
        if not isinstance(known, str):
            values = values - self._bias(self.variance(known))
        values = np.where(self.saturated, CURVE.encode(gains) + BEYOND, values)
        return torch.from_numpy(2 * values - 1).float()[None, None]

    def _bias(self, variance: Array) -> Array:
        r"""Return :math:`f''(g v)\, g^2 \sigma_v^2 / 2`, for a power :math:`p` with :math:`f'' = (p - 1) f' / (g v)`."""
        light = self.gains * self.level
        second = (1 / CURVE.gamma - 1) * CURVE.derivative(light) / np.maximum(light, CURVE.toe)
        return np.where(light > CURVE.toe, second, 0) * self.gains**2 * variance / 2

    def variance(self, noise: tuple[tuple[float, float], ...]) -> Array:
        """Return the variance of the light of every pixel, ``(H, W)``."""
        slopes, offsets = np.array(noise)[self.camera.colors(*self.mosaic.shape)].transpose(2, 0, 1)
        variance: Array = slopes * self.level + np.maximum(offsets, self.step**2 / 12)
        return variance

    def noise(self, noise: tuple[tuple[float, float], ...]) -> GaussianNoise:
        """Return the noise of :meth:`encoded`, given :math:`S` and :math:`O` of the three colors."""
        deviations = CURVE.derivative(self.gains * self.level) * self.gains * np.sqrt(self.variance(noise))
        deviations = np.where(self.saturated, BEYOND, deviations)
        return GaussianNoise(torch.from_numpy(2 * deviations).float()[None])

    def as_noise(self, noise: Noise | None) -> Noise:
        """Return the noise of :meth:`encoded`, given a noise model of the light on the 0..1 scale, as images span [-1, 1].

        Raises:
            ValueError: If it is neither Gaussian nor that of photons.
        """
        if isinstance(noise, GaussianNoise) and noise.shape:
            return noise
        if noise is None or (isinstance(noise, GaussianNoise) and noise.white):
            return self.noise(((0.0, 0.0 if noise is None else (noise.sigma / 2) ** 2),) * 3)
        if isinstance(noise, PhotonNoise):
            return self.noise(((noise.gain / 2, (noise.readout / 2) ** 2),) * 3)
        raise ValueError(
            f"demosaic: a RAW mosaic takes a standard deviation, poisson:PEAK[,SIGMA], auto or file, got {noise!r}."
        )

    def noise_of_input(self, *, estimated: bool) -> tuple[Noise, str]:
        """Return the noise that the file states or, if it states none, the estimated one, and a note on it.

        Raises:
            ValueError: If it cannot be estimated: the reason alone.
        """
        stated = None if estimated else self.camera.noise
        known = self.estimate if stated is None else stated
        if isinstance(known, str):
            raise ValueError(known)
        where = "estimated from the mosaic" if stated is None else "as the noise profile of the file says"
        numbers = ", ".join(dict.fromkeys(f"{slope:.3g} v + {offset:.3g}" for slope, offset in known))
        return self.noise(known), f"noise: variance {numbers} at light v from black, 0, to white, 1, {where}"

    def raised(self, x: Tensor) -> Tensor:
        """Return samples ``(B, 3, H, W)`` in which saturated pixels are at least at white."""
        colors = torch.from_numpy(self.camera.colors(*self.mosaic.shape))
        there = torch.from_numpy(self.saturated) & (colors == torch.arange(3)[:, None, None])
        white = torch.from_numpy(2 * CURVE.encode(np.array(self.camera.gains)) - 1).to(x)[:, None, None]
        return torch.where(there.to(x.device), torch.maximum(x, white), x)

    def developed(self, x: Tensor) -> Tensor:
        """Return samples ``(B, 3, H, W)`` in the color space of results, upright, 0..1 as [-1, 1]."""
        light = CURVE.decode((x.double().numpy() + 1) / 2)
        if self.space.primaries is not None:
            srgb = COLOR_SPACES["srgb"].primaries
            assert srgb is not None
            light = np.einsum("ij,bjhw->bihw", rgb_to_rgb(srgb, self.space.primaries) @ self.camera.to_srgb, light)
        values = light if self.space.curve is None else self.space.curve.encode(light)
        turned = np.rot90(values, self.camera.turns, (2, 3))
        return torch.from_numpy(np.ascontiguousarray(2 * turned - 1)).to(x.dtype)

    def shown(self, x: Tensor) -> Tensor:
        """Return results ``(..., C, H, W)`` encoded as sRGB, if they are linear."""
        if self.space.curve is not None:
            return x
        return torch.from_numpy(2 * SRGB.encode((x.double().numpy() + 1) / 2) - 1).to(x.dtype)
