"""Layers of the score-SDE networks (NCSN++, DDPM++, DDPM), with the parameter names of the authors' checkpoints."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = [
    "Attention",
    "Combine",
    "FourierFeatures",
    "Resample",
    "ResidualBlock",
    "add",
    "group_norm",
    "positional_features",
    "resize",
]

FIR = (1.0, 3.0, 3.0, 1.0)  # one axis of the separable filter, as in every published configuration


def group_norm(channels: int, *, smallest_group: int) -> nn.GroupNorm:
    """Return a normalization over 32 groups, or fewer if a group would have less than ``smallest_group`` channels."""
    return nn.GroupNorm(min(channels // smallest_group, 32), channels, eps=1e-6)


def resize(x: Tensor, direction: str, *, fir: bool) -> Tensor:
    """Double (``up``) or halve (``down``) the sides of ``x``: by the filter :data:`FIR`, or by copies and means of pixels."""
    if not fir:
        return F.avg_pool2d(x, 2) if direction == "down" else F.interpolate(x, scale_factor=2, mode="nearest")
    if direction == "down":
        return F.conv2d(x, _fir_kernel(x), stride=2, padding=1, groups=x.shape[1])
    # Three of four input pixels of the filter are zeros: a gain of four keeps the brightness.
    return F.conv_transpose2d(x, 4 * _fir_kernel(x), stride=2, padding=1, groups=x.shape[1])


def positional_features(label: Tensor, features: int) -> Tensor:
    """Return sines and cosines of ``label``, shape ``(B,)``, as ``(B, features)`` in at least float32."""
    half = features // 2
    positions = torch.arange(half, dtype=torch.float32, device=label.device)
    frequencies = torch.exp(positions * -(math.log(10000) / (half - 1)))
    angles = label.to(torch.promote_types(label.dtype, torch.float32))[:, None] * frequencies
    return F.pad(torch.cat([angles.sin(), angles.cos()], dim=1), (0, features % 2))


class FourierFeatures(nn.Module):
    """Sines and cosines of the logarithm of a noise level at random frequencies ``W``, which are not trained."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.W = nn.Parameter(torch.empty(features))

    def forward(self, sigma: Tensor) -> Tensor:
        """Map ``(B,)`` to ``(B, 2 features)`` in at least float32, since angles reach thousands of radians."""
        dtype = torch.promote_types(sigma.dtype, torch.float32)
        angles = sigma.to(dtype).log()[:, None] * self.W.to(dtype) * (2 * math.pi)
        return torch.cat([angles.sin(), angles.cos()], dim=1)


class PixelLinear(nn.Module):
    """The same linear map of the channels at every pixel; the weight is ``(in, out)``."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.W = nn.Parameter(torch.empty(inputs, outputs))
        self.b = nn.Parameter(torch.empty(outputs))

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.W.t()[:, :, None, None], self.b)


class ResidualBlock(nn.Module):
    """Two convolutions and a shift by the noise level, added to the input.

    Args:
        inputs: Channels of the input.
        outputs: Channels of the output.
        embedding: Features of the noise level.
        kind: ``biggan``, which resizes inside the block, or ``ddpm``, which does not. Their shortcuts differ only in name.
        direction: ``up`` or ``down`` to resize inside a ``biggan`` block; the empty string keeps the sides.
        fir: Whether to resize by the filter :data:`FIR`.
        skip_rescale: Whether to divide the sum by the square root of two.
        smallest_group: Fewest channels of a normalization group.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        embedding: int,
        kind: str,
        direction: str = "",
        fir: bool,
        skip_rescale: bool,
        smallest_group: int,
    ) -> None:
        super().__init__()
        self.GroupNorm_0 = group_norm(inputs, smallest_group=smallest_group)
        self.Conv_0 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.Dense_0 = nn.Linear(embedding, outputs)
        self.GroupNorm_1 = group_norm(outputs, smallest_group=smallest_group)
        self.Conv_1 = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.shortcut = ""
        if kind == "biggan" and (inputs != outputs or direction):
            self.shortcut, self.Conv_2 = "Conv_2", nn.Conv2d(inputs, outputs, 1)
        elif kind == "ddpm" and inputs != outputs:
            self.shortcut, self.NIN_0 = "NIN_0", PixelLinear(inputs, outputs)
        self.direction, self.fir, self.skip_rescale = direction, fir, skip_rescale

    def forward(self, x: Tensor, emb: Tensor | None) -> Tensor:
        h = F.silu(self.GroupNorm_0(x))
        if self.direction:
            h, x = (resize(z, self.direction, fir=self.fir) for z in (h, x))
        h = self.Conv_0(h)
        if emb is not None:
            h = h + self.Dense_0(F.silu(emb))[:, :, None, None]
        h = self.Conv_1(F.silu(self.GroupNorm_1(h)))
        return add(getattr(self, self.shortcut)(x) if self.shortcut else x, h, rescale=self.skip_rescale)


class Attention(nn.Module):
    """Single-head self-attention over the pixels, added to the input."""

    def __init__(self, channels: int, *, skip_rescale: bool, smallest_group: int) -> None:
        super().__init__()
        self.GroupNorm_0 = group_norm(channels, smallest_group=smallest_group)
        self.NIN_0, self.NIN_1, self.NIN_2, self.NIN_3 = (PixelLinear(channels, channels) for _ in range(4))
        self.skip_rescale = skip_rescale

    def forward(self, x: Tensor) -> Tensor:
        h = self.GroupNorm_0(x)
        query, key, value = (part(h).flatten(2) for part in (self.NIN_0, self.NIN_1, self.NIN_2))  # (B, C, HW)
        weights = (query.transpose(1, 2) @ key * x.shape[1] ** -0.5).softmax(dim=-1)
        h = (value @ weights.transpose(1, 2)).unflatten(2, x.shape[2:])
        return add(x, self.NIN_3(h), rescale=self.skip_rescale)


class Resample(nn.Module):
    """Double or halve the sides, with a convolution if ``convolve``.

    Raises:
        ValueError: For a filter with a convolution in upsampling, which the authors' code cannot compute and no network has.
    """

    def __init__(self, inputs: int, outputs: int, *, direction: str, convolve: bool, fir: bool) -> None:
        super().__init__()
        if convolve and fir and direction == "up":
            raise ValueError(
                "NCSNpp: filters with a convolution in upsampling (fir=True with progressive='residual', or with "
                "resblock_type='ddpm' and resamp_with_conv=True) exist in no published network. Expected fir=False."
            )
        stride, padding = (2, 0) if direction == "down" else (1, 1)
        if convolve:
            layer = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=padding)
            self.add_module("Conv2d_0" if fir else "Conv_0", layer)
        self.direction, self.convolve, self.fir = direction, convolve, fir

    def forward(self, x: Tensor) -> Tensor:
        if not self.convolve:
            return resize(x, self.direction, fir=self.fir)
        if self.fir:  # padded once, before both, enough for the filter and the convolution
            x = F.conv2d(x, _fir_kernel(x), padding=2, groups=x.shape[1])
            filtered: Tensor = self.get_submodule("Conv2d_0")(x)
            return filtered
        x = F.pad(x, (0, 1, 0, 1)) if self.direction == "down" else resize(x, "up", fir=False)
        output: Tensor = self.get_submodule("Conv_0")(x)
        return output


class Combine(nn.Module):
    """Map the image at a coarser resolution to features, and add them to the features of the network or concatenate them."""

    def __init__(self, inputs: int, outputs: int, *, method: str) -> None:
        super().__init__()
        self.Conv_0 = nn.Conv2d(inputs, outputs, 1)
        self.method = method

    def forward(self, image: Tensor, h: Tensor) -> Tensor:
        features: Tensor = self.Conv_0(image)
        return features + h if self.method == "sum" else torch.cat([features, h], dim=1)


def add(x: Tensor, h: Tensor, *, rescale: bool) -> Tensor:
    """Return ``x + h``, divided by the square root of two if ``rescale``, which preserves the variance."""
    return (x + h) / math.sqrt(2) if rescale else x + h


def _fir_kernel(x: Tensor) -> Tensor:
    """Return the filter with unit sum as a depthwise kernel ``(C, 1, 4, 4)`` for ``x``."""
    axis = x.new_tensor(FIR)
    kernel = torch.outer(axis, axis) / axis.sum() ** 2
    return kernel.expand(x.shape[1], 1, len(FIR), len(FIR))
