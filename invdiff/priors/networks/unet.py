"""The network of the bundled prior: a small, fully convolutional U-Net for images of any size."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from invdiff.priors.networks.parts import in_parts
from invdiff.priors.noise_maps import BANDS, NoiseMaps
from invdiff.priors.score_model import Reach

__all__ = ["UNet"]


CONTEXT = 2.5  # in pixels of the coarsest resolution


class UNet(nn.Module):
    r"""Residual U-Net conditioned on the noise level, without normalization and without attention.

    No layer depends on the whole image (no group statistics, no attention). A network trained on small crops therefore
    works the same way on images of any size, and distant pixels do not influence each other. Images whose sides are not
    multiples of ``2 ** (len(widths) - 1)`` are padded by repeating the border, and the output is cropped back.

    Args:
        channels: Image channels.
        widths: Feature channels per resolution, finest first.
        blocks: Residual blocks per resolution in the encoder, and again in the decoder; the coarsest is in the encoder only.
        embedding: Features of the noise level.
        maps: Features of the maps that describe noise varying with the pixel or the frequency
            (:mod:`invdiff.priors.noise_maps`). They shift and scale every block at every pixel and are initialized to zero
            effect, so that a network with new maps computes the same function as before. 0: white noise only.

    Attributes:
        side: Largest side of the squares in which larger images are evaluated one after another, with the same output up to
            rounding and the memory of one square; ``None``: whole images.
    """

    side: int | None = None

    def __init__(
        self,
        *,
        channels: int = 3,
        widths: Sequence[int] = (32, 64, 128, 192),
        blocks: Sequence[int] = (1, 1, 1, 3),
        embedding: int = 128,
        maps: int = 0,
    ) -> None:
        super().__init__()
        if len(widths) != len(blocks):
            raise ValueError(f"UNet: widths and blocks need one entry per resolution, got {len(widths)} and {len(blocks)}.")
        self.config: dict[str, Any] = {
            "channels": channels,
            "widths": list(widths),
            "blocks": list(blocks),
            "embedding": embedding,
            "maps": maps,
        }
        self.noise = NoiseEmbedding(embedding)
        self.first = nn.Conv2d(channels, widths[0], 3, padding=1)
        stages = list(zip(widths, blocks, strict=True))
        self.down = nn.ModuleList(Stage(width, count, embedding, maps) for width, count in stages)
        self.up = nn.ModuleList(Stage(width, count, embedding, maps) for width, count in stages[:-1])
        self.shrink = nn.ModuleList(nn.Conv2d(a, b, 2, stride=2) for a, b in itertools.pairwise(widths))
        self.grow = nn.ModuleList(nn.ConvTranspose2d(b, a, 2, stride=2) for a, b in itertools.pairwise(widths))
        self.last = nn.Conv2d(widths[0], channels, 3, padding=1)
        nn.init.zeros_(self.last.weight)
        if maps:
            self.map_first = nn.Conv2d(3 * channels, widths[0], 3, padding=1, bias=False)
            self.map_levels = nn.ModuleList(nn.Conv2d(2 * channels, maps, 1, bias=False) for _ in widths)
            self.map_bands = nn.Linear(BANDS + 1, embedding, bias=False)
            for layer in (self.map_first, self.map_bands):
                nn.init.zeros_(layer.weight)

    @property
    def reach(self) -> Reach:
        """How far the network looks, to the accuracy of :class:`~invdiff.priors.score_model.Reach`, as measured."""
        stride = 2 ** len(self.shrink)
        return Reach(context=math.ceil(CONTEXT * stride), stride=stride)

    @property
    def margin(self) -> int:
        """Pixels around a square, of whole strides, beyond which nothing changes the output in it."""
        *blocks, coarsest = self.config["blocks"]
        first, stride = 0, 2 ** len(blocks)  # first row that the output from row 0 on depends on, at the resolution of a stage
        for level, count in enumerate(blocks):  # Back through the decoder, whose finest stage is followed by a convolution.
            first = (first - 2 * int(count) - (level == 0)) // 2
        first -= 2 * int(coarsest)
        for count in reversed(blocks):  # Back through the encoder, to the first convolution.
            first = 2 * first - 2 * int(count)
        margin: int = -((first - 1) // stride) * stride
        return margin

    def forward(self, x: Tensor, c_noise: Tensor, maps: NoiseMaps | None = None) -> Tensor:
        """Map ``x`` of shape ``(B, C, H, W)`` and ``c_noise`` of shape ``(B,)`` to an image of the shape of ``x``.

        ``maps`` describe where the noise is below the level of ``c_noise``; without them the noise is white.
        """
        if self.side is None or max(x.shape[-2:]) <= self.side:
            return self._whole(x, c_noise, maps)

        def network(x: Tensor, *parts: Tensor) -> Tensor:
            return self._whole(x, c_noise, None if maps is None else NoiseMaps(parts[0], parts[1], maps.bands))

        inputs = (x,) if maps is None else (x, maps.shift, maps.levels)
        return in_parts(network, inputs, side=self.side, margin=self.margin, stride=2 ** len(self.shrink))

    def _whole(self, x: Tensor, c_noise: Tensor, maps: NoiseMaps | None) -> Tensor:
        height, width = x.shape[-2:]
        emb = self.noise(c_noise).to(x.dtype)
        h = self.first(self._padded(x))
        local: list[Tensor | None] = [None] * len(self.down)
        if maps is not None:
            levels = self._padded(maps.levels)
            h = h + self.map_first(torch.cat([self._padded(maps.shift), levels], 1))
            emb = emb if maps.bands is None else emb + self.map_bands(maps.bands.to(emb.dtype))
            local = self._local(levels)
        skips = []
        for stage, shrink, m in zip(self.down, self.shrink, local, strict=False):
            h = stage(h, emb, m)
            skips.append(h)
            h = shrink(h)
        h = self.down[-1](h, emb, local[-1])
        for stage, grow, m in zip(reversed(self.up), reversed(self.grow), reversed(local[:-1]), strict=True):
            h = stage(grow(h) + skips.pop(), emb, m)
        output: Tensor = self.last(F.silu(h))
        return output[..., :height, :width]

    def _padded(self, x: Tensor) -> Tensor:
        """Pad ``x`` by repeating the border until its sides can be halved at every change of resolution."""
        stride = 2 ** len(self.shrink)
        right, below = -x.shape[-1] % stride, -x.shape[-2] % stride
        padded = F.pad(x, (0, right, 0, below), mode="replicate") if right or below else x
        return padded.contiguous(memory_format=torch.channels_last)

    def _local(self, levels: Tensor) -> list[Tensor | None]:
        """Return the features of the noise level maps at every resolution, finest first."""
        features: list[Tensor | None] = []
        for embed in self.map_levels:
            levels = F.avg_pool2d(levels, 2) if features else levels
            features.append(F.silu(embed(4 * levels)))
        return features


class Stage(nn.Module):
    """A chain of residual blocks at one resolution."""

    def __init__(self, width: int, blocks: int, embedding: int, maps: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(width, embedding, maps) for _ in range(blocks))

    def forward(self, h: Tensor, emb: Tensor, m: Tensor | None) -> Tensor:
        for block in self.blocks:
            h = block(h, emb, m)
        return h


class Block(nn.Module):
    """Two convolutions around a scale and shift by the noise level and its maps; the identity at initialization."""

    def __init__(self, width: int, embedding: int, maps: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        self.film = nn.Linear(embedding, 2 * width)
        for parameter in self.conv2.parameters():
            nn.init.zeros_(parameter)
        if maps:
            self.map_film = nn.Conv2d(maps, 2 * width, 1, bias=False)
            nn.init.zeros_(self.map_film.weight)

    def forward(self, h: Tensor, emb: Tensor, m: Tensor | None) -> Tensor:
        scale, shift = self.film(emb)[..., None, None].chunk(2, dim=1)
        inner = self.conv1(F.silu(h))
        if m is not None:
            more_scale, more_shift = self.map_film(m).chunk(2, dim=1)
            scale, shift = scale + more_scale, shift + more_shift
        change: Tensor = self.conv2(F.silu(torch.addcmul(shift, inner, 1 + scale)))
        return h + change


class NoiseEmbedding(nn.Module):
    """Sines and cosines of the noise level, then two linear layers."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.features = features
        self.mlp = nn.Sequential(nn.Linear(features, features), nn.SiLU(), nn.Linear(features, features), nn.SiLU())

    def forward(self, c_noise: Tensor) -> Tensor:
        # c_noise = log(sigma) / 4 spans about (-1.6, 1.1): periods from much longer than this range to a fraction of it.
        frequencies = torch.logspace(-1, 1, self.features // 2, device=c_noise.device) * math.pi
        angles = c_noise[:, None].float() * frequencies
        waves = torch.cat([angles.sin(), angles.cos()], dim=1)
        embedded: Tensor = self.mlp(waves.to(next(self.mlp.parameters()).dtype))
        return embedded
