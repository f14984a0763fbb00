r"""Denoising networks for noise that varies with the pixel or the frequency: preconditioning and conditioning maps.

.. math:: D(\mu; \Sigma) = c_\text{skip}(S)\, \mu + c_\text{out}(S)\, F\big(c_\text{in}(S)\, \mu;\; \text{maps}\big), \qquad
    S = \Sigma^{1/2}

with the preconditioning of Karras et al. (2022) as functions of the *matrix* of noise levels: pixel by pixel under a mask,
frequency by frequency under a circular blur. For white noise it reduces to theirs, and the maps are zero.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from invdiff.linalg import over_items
from invdiff.noise_covariance import NoiseCovariance

__all__ = ["BANDS", "MAP_KINDS", "NoiseMaps", "band_levels", "edm_denoise_pivot", "edm_input", "edm_target", "noise_maps"]

MAP_KINDS = ("pixel", "frequency", "decimation")  # kinds of noise that maps describe
EDGES = (0.015, 0.03, 0.06, 0.1, 0.17, 0.26, 0.4)  # between the bands, in cycles per pixel
BANDS = len(EDGES) + 1
SCALE = 4.0  # divides logarithms of levels, as in the noise embedding of EDM


@dataclass(frozen=True, eq=False)
class NoiseMaps:
    r"""Noise conditioning of a network, besides the largest level :math:`s_\text{max}`. All maps are 0 for white noise.

    Attributes:
        shift: :math:`(c_\text{skip}(S) - c_\text{skip}(s_\text{max}))\, \mu`, ``(B, C, H, W)``: the part of the skip connection
            due to entries with less noise than the largest level.
        levels: :math:`\tfrac14 \log (s_{ij} / s_\text{max})` for the standard deviation of every entry, and the difference of
            its skip coefficient, :math:`c_\text{skip}(s_{ij}) - c_\text{skip}(s_\text{max})`: ``(B, 2 C, H, W)``.
        bands: :math:`\tfrac14 \log (s / s_\text{max})` of radial frequency bands, and a 1 that marks them as present,
            ``(B, 9)``; ``None`` if the noise is independent from pixel to pixel.
    """

    shift: Tensor
    levels: Tensor
    bands: Tensor | None

    def to(self, dtype: torch.dtype) -> NoiseMaps:
        """Return the maps in the precision of the network."""
        return NoiseMaps(self.shift.to(dtype), self.levels.to(dtype), None if self.bands is None else self.bands.to(dtype))

    @staticmethod
    def cat(parts: Sequence[NoiseMaps]) -> NoiseMaps:
        """Concatenate the maps of several batches. Missing bands become zeros, which mark them as absent."""
        bands = [m.levels.new_zeros(len(m.levels), BANDS + 1) if m.bands is None else m.bands for m in parts]
        return NoiseMaps(torch.cat([m.shift for m in parts]), torch.cat([m.levels for m in parts]), torch.cat(bands))


def noise_maps(mu: Tensor, cov: NoiseCovariance, *, sigma_data: float) -> NoiseMaps:
    r"""Return the conditioning maps for noise of covariance ``cov`` on ``mu``."""
    largest, each = over_items(cov.largest, mu), cov.pixel_levels().expand(len(mu), *mu.shape[1:])
    skip = _skip(sigma_data)
    shift = cov.apply(skip, mu) - skip(largest) * mu
    levels = torch.cat([(each / largest).log() / SCALE, skip(each) - skip(largest)], 1)
    bands = None
    if cov.kind != "pixel":
        relative = band_levels(cov, mu.shape[-2:]).log() - cov.largest.log()[:, None]
        bands = torch.nn.functional.pad(relative / SCALE, (0, 1), value=1.0).expand(len(mu), -1)
    return NoiseMaps(shift, levels, bands)


def band_levels(cov: NoiseCovariance, sides: Sequence[int]) -> Tensor:
    """Return the geometric mean of the noise levels in every radial frequency band, over all channels, ``(B, 8)``.

    Bands that contain no frequency, as in small images, get the largest level.

    Args:
        cov: Covariance of the noise.
        sides: Size of the images, ``(H, W)``.
    """
    levels = cov.frequency_levels()
    band = _bands(*sides, levels.device)
    logs = levels.log().mean(1).flatten(1)
    total = logs.new_zeros(len(logs), BANDS).index_add(1, band, logs)
    count = logs.new_zeros(BANDS).index_add(0, band, torch.ones_like(logs[0]))
    return torch.where(count > 0, total / count.clamp(min=1), cov.largest.log()[:, None]).exp()


@functools.lru_cache(maxsize=16)
@torch.inference_mode(False)  # Cached tensors must be usable in later gradients.
def _bands(height: int, width: int, device: torch.device) -> Tensor:
    """Return the band of every frequency of an image."""
    rows, columns = torch.fft.fftfreq(height), torch.fft.rfftfreq(width)
    radius = (rows[:, None] ** 2 + columns**2).sqrt()
    return torch.bucketize(radius, torch.tensor(EDGES)).flatten().to(device)


def edm_denoise_pivot(
    net: Callable[[Tensor, Tensor, NoiseMaps], Tensor],
    mu: Tensor,
    cov: NoiseCovariance,
    *,
    sigma_data: float,
    trained: tuple[float, float],
) -> Tensor:
    r"""Return :math:`D(\mu; \Sigma)` of a raw EDM network conditioned on maps.

    Args:
        net: :math:`F`, called with :math:`c_\text{in}(S)\, \mu`, with :math:`\tfrac14 \log s_\text{max}` of every item,
            ``(B,)``, and with the maps.
        mu: Clean data plus noise, ``(B, C, H, W)``.
        cov: :math:`\Sigma`, of a kind in :data:`MAP_KINDS`.
        sigma_data: Standard deviation of the clean data.
        trained: Smallest and largest level of the training. Levels are clamped to this range, so exact data count as very
            precise data.
    """
    cov = cov.clamp(*trained)
    output = net(*edm_input(mu, cov, sigma_data=sigma_data))
    return cov.apply(_skip(sigma_data), mu) + cov.apply(_out(sigma_data), output.to(mu.dtype))


def edm_input(mu: Tensor, cov: NoiseCovariance, *, sigma_data: float) -> tuple[Tensor, Tensor, NoiseMaps]:
    r"""Return the inputs of :math:`F`: :math:`c_\text{in}(S)\, \mu`, :math:`\tfrac14 \log s_\text{max}`, and the maps."""
    time = (cov.largest.log() / SCALE).expand(len(mu))
    return cov.apply(lambda s: (s**2 + sigma_data**2).rsqrt(), mu), time, noise_maps(mu, cov, sigma_data=sigma_data)


def edm_target(x: Tensor, mu: Tensor, cov: NoiseCovariance, *, sigma_data: float) -> Tensor:
    r"""Return the training target of :math:`F` for ``mu``, which is ``x`` plus noise.

    .. math:: c_\text{out}(S)^{-1} (x - c_\text{skip}(S)\, \mu)
    """
    out = _out(sigma_data)
    return cov.apply(lambda s: 1 / out(s), x - cov.apply(_skip(sigma_data), mu))


def _skip(sigma_data: float) -> Callable[[Tensor], Tensor]:
    return lambda s: sigma_data**2 / (s**2 + sigma_data**2)


def _out(sigma_data: float) -> Callable[[Tensor], Tensor]:
    return lambda s: s * sigma_data * (s**2 + sigma_data**2).rsqrt()
