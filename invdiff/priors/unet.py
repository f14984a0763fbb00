"""The network of the bundled prior: a small, fully convolutional U-Net for images of any size."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["UNet"]


class UNet(nn.Module):
    r"""Residual U-Net conditioned on the noise level, without normalisation and without attention.

    Nothing in it looks at the whole image (no group statistics, no attention), so what it was trained on as small
    crops it does on images of any size, and far-away pixels do not influence each other. Images whose sides are no
    multiple of ``2 ** (len(widths) - 1)`` are padded by their border and cropped back.

    Args:
        channels: Image channels.
        widths: Feature channels per resolution, finest first.
        blocks: Residual blocks per resolution, on the way down and again on the way up; the coarsest has no way up.
        embedding: Features of the noise level.
    """

    def __init__(
        self,
        *,
        channels: int = 3,
        widths: Sequence[int] = (32, 64, 128, 192),
        blocks: Sequence[int] = (1, 1, 1, 3),
        embedding: int = 128,
    ) -> None:
        super().__init__()
        if len(widths) != len(blocks):
            raise ValueError(f"UNet: widths and blocks need one entry per resolution, got {len(widths)} and {len(blocks)}.")
        self.config: dict[str, Any] = {
            "channels": channels,
            "widths": list(widths),
            "blocks": list(blocks),
            "embedding": embedding,
        }
        self.noise = NoiseEmbedding(embedding)
        self.first = nn.Conv2d(channels, widths[0], 3, padding=1)
        stages = list(zip(widths, blocks, strict=True))
        self.down = nn.ModuleList(Stage(width, count, embedding) for width, count in stages)
        self.up = nn.ModuleList(Stage(width, count, embedding) for width, count in stages[:-1])
        self.shrink = nn.ModuleList(nn.Conv2d(a, b, 2, stride=2) for a, b in itertools.pairwise(widths))
        self.grow = nn.ModuleList(nn.ConvTranspose2d(b, a, 2, stride=2) for a, b in itertools.pairwise(widths))
        self.last = nn.Conv2d(widths[0], channels, 3, padding=1)
        nn.init.zeros_(self.last.weight)

    def forward(self, x: Tensor, c_noise: Tensor) -> Tensor:
        """Map ``x`` of shape ``(B, C, H, W)`` and ``c_noise`` of shape ``(B,)`` to an image like ``x``."""
        height, width = x.shape[-2:]
        stride = 2 ** len(self.shrink)
        x = F.pad(x, (0, -width % stride, 0, -height % stride), mode="replicate")
        emb = self.noise(c_noise).to(x.dtype)
        h = self.first(x.contiguous(memory_format=torch.channels_last))
        skips = []
        for stage, shrink in zip(self.down, self.shrink, strict=False):
            h = stage(h, emb)
            skips.append(h)
            h = shrink(h)
        h = self.down[-1](h, emb)
        for stage, grow in zip(reversed(self.up), reversed(self.grow), strict=True):
            h = stage(grow(h) + skips.pop(), emb)
        output: Tensor = self.last(F.silu(h))
        return output[..., :height, :width]


class Stage(nn.Module):
    """A chain of residual blocks at one resolution."""

    def __init__(self, width: int, blocks: int, embedding: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(width, embedding) for _ in range(blocks))

    def forward(self, h: Tensor, emb: Tensor) -> Tensor:
        for block in self.blocks:
            h = block(h, emb)
        return h


class Block(nn.Module):
    """Two convolutions around a scale and shift by the noise level; the identity at initialisation."""

    def __init__(self, width: int, embedding: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        self.film = nn.Linear(embedding, 2 * width)
        for parameter in self.conv2.parameters():
            nn.init.zeros_(parameter)

    def forward(self, h: Tensor, emb: Tensor) -> Tensor:
        scale, shift = self.film(emb)[..., None, None].chunk(2, dim=1)
        inner = self.conv1(F.silu(h))
        change: Tensor = self.conv2(F.silu(torch.addcmul(shift, inner, 1 + scale)))
        return h + change


class NoiseEmbedding(nn.Module):
    """Sines and cosines of the noise level, then two linear layers."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.features = features
        self.mlp = nn.Sequential(nn.Linear(features, features), nn.SiLU(), nn.Linear(features, features), nn.SiLU())

    def forward(self, c_noise: Tensor) -> Tensor:
        # c_noise = log(sigma) / 4 spans about (-1.6, 1.1): periods from much longer to a fraction of that.
        frequencies = torch.logspace(-1, 1, self.features // 2, device=c_noise.device) * math.pi
        angles = c_noise[:, None].float() * frequencies
        waves = torch.cat([angles.sin(), angles.cos()], dim=1)
        embedded: Tensor = self.mlp(waves.to(next(self.mlp.parameters()).dtype))
        return embedded
