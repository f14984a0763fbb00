"""The networks that mark damage: small U-Nets that see a picture and its thin structures."""

from __future__ import annotations

import functools
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["FEATURES", "STRIDE", "Detector", "thin_structures"]

WIDTHS = (24, 32, 48)  # features per resolution, each half of the one before
FOLD = 2  # side of the blocks of pixels that are folded into channels: the first resolution is half that of the picture
THIN = 7  # pixels
AROUND = 41  # side of the surroundings, pixels
LINE, ANGLES = 11, 8
FEATURES = 6  # of thin_structures
STRIDE = FOLD * 2 ** (len(WIDTHS) - 1)


class Detector(nn.Module):
    """A U-Net without normalization layers, so that what it says of a place depends on the surroundings alone.

    Args:
        channels: Number of input channels.
        classes: Number of output channels, the logits of the classes.
    """

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.channels, self.classes = channels, classes
        before = (channels * FOLD**2, *WIDTHS)
        self.down = nn.ModuleList(_Block(a, b) for a, b in zip(before, WIDTHS, strict=False))
        self.bottom = _Block(WIDTHS[-1], WIDTHS[-1], dilation=2)
        self.up = nn.ModuleList(_Block(a + b, a) for a, b in zip(WIDTHS[-2::-1], WIDTHS[:0:-1], strict=True))
        self.out = nn.Conv2d(WIDTHS[0], classes * FOLD**2, 1)
        for name, weight in self.named_parameters():  # keeps the scale of the features without normalization layers
            if name.startswith("out.") or weight.ndim == 1:
                nn.init.zeros_(weight)
            else:
                nn.init.kaiming_normal_(weight, nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """Return logits ``(B, classes, H, W)`` of inputs ``(B, channels, H, W)``, sides multiples of :data:`STRIDE`."""
        x, kept = F.pixel_unshuffle(x, FOLD), list[Tensor]()
        for number, block in enumerate(self.down):
            x = block(x if number == 0 else F.max_pool2d(x, 2))
            kept.append(x)
        x = x + self.bottom(x)
        for block, skip in zip(self.up, kept[-2::-1], strict=True):
            wide = F.interpolate(x, scale_factor=2.0, mode="nearest")
            x = block(torch.cat([skip, wide], 1))
        return F.pixel_shuffle(self.out(x), FOLD)


class _Block(nn.Sequential):
    def __init__(self, channels: int, width: int, *, dilation: int = 1) -> None:
        layers = [nn.Conv2d(a, width, 3, padding=dilation, dilation=dilation) for a in (channels, width)]
        super().__init__(layers[0], nn.SiLU(), layers[1], nn.SiLU())


def thin_structures(x: Tensor) -> Tensor:
    """Return what is thin in pictures, ``(B, 6, H, W)``, of the mean over channels and about of unit scale.

    The white and the black top-hat, what is brighter or darker than its surroundings and thinner than 7 pixels; both relative
    to their mean over the surroundings, which is large in texture; and both averaged along lines of 11 pixels in the best of
    eight directions, minus the average over all directions.

    Args:
        x: Pictures, ``(B, C, H, W)``, spanning [-1, 1].
    """
    gray = x.mean(1, keepdim=True)
    hats = torch.cat([gray - _opened(gray), -_opened(-gray) - gray], 1)
    around = _mean(hats.sum(1, keepdim=True), AROUND)
    relative = hats / (around + 0.05)
    lines = F.conv2d(relative.flatten(0, 1)[:, None], _lines().to(x), padding=LINE // 2)
    oriented = (lines.amax(1) - lines.mean(1)).reshape(hats.shape)
    return torch.cat([4 * hats, relative, 2 * oriented], 1)


def _opened(x: Tensor) -> Tensor:
    return _largest(-_largest(-x, THIN), THIN)


def _largest(x: Tensor, side: int) -> Tensor:
    half = side // 2
    return F.max_pool2d(F.max_pool2d(x, (side, 1), 1, (half, 0)), (1, side), 1, (0, half))


def _mean(x: Tensor, side: int) -> Tensor:
    half = side // 2
    rows = F.avg_pool2d(x, (side, 1), 1, (half, 0), count_include_pad=False)
    return F.avg_pool2d(rows, (1, side), 1, (0, half), count_include_pad=False)


@functools.cache
def _lines() -> Tensor:
    """Return averages along lines through the center, ``(ANGLES, 1, LINE, LINE)``."""
    places = torch.arange(LINE, dtype=torch.float64) - LINE // 2
    rows, columns = torch.meshgrid(places, places, indexing="ij")
    angles = torch.arange(ANGLES, dtype=torch.float64)[:, None, None] * (math.pi / ANGLES)
    across = (rows * angles.cos() - columns * angles.sin()).abs()
    inside = (rows**2 + columns**2).sqrt() <= LINE / 2
    weights = (1 - across).clamp(min=0) * inside
    return (weights / weights.sum((1, 2), keepdim=True))[:, None]
