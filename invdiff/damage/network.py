"""The networks that mark damage: small U-Nets that see a picture and its thin structures."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["STRIDE", "Detector", "thin_structures"]

WIDTHS = (24, 32, 48)  # features per resolution, each half of the one before
FOLD = 2  # side of the blocks of pixels that are folded into channels: the first resolution is half that of the picture
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


def thin_structures(x: Tensor, *, size: int = 7) -> Tensor:
    """Return the white and the black top-hat of the mean over channels, ``(B, 2, H, W)``: what is thinner than ``size`` pixels.

    Args:
        x: Pictures, ``(B, C, H, W)``.
        size: Side of the square of the opening and the closing, odd.
    """
    gray = x.mean(1, keepdim=True)
    return torch.cat([gray - _opened(gray, size), -_opened(-gray, size) - gray], 1)


def _opened(x: Tensor, size: int) -> Tensor:
    return F.max_pool2d(-F.max_pool2d(-x, size, 1, size // 2), size, 1, size // 2)
