"""Layers of the two U-Nets of EDM: convolutions that resample, residual blocks, the encoder and decoder.

The names and shapes of weights are those of the published checkpoints (training/networks.py of
https://github.com/NVlabs/edm). Layers are built uninitialized, because weights are loaded into them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["Block", "ResampledConv", "check_sides", "group_norm", "ladder", "one_hot", "resample", "waves"]

MAX_PERIOD = 10_000  # longest period of an embedding, divided by 2 pi
GROUPS, SMALLEST_GROUP = 32, 4


def check_sides(network: str, x: Tensor, resolutions: int) -> None:
    """Raise a ValueError if the sides of ``x`` cannot be halved ``resolutions - 1`` times."""
    stride = 2 ** (resolutions - 1)
    height, width = x.shape[-2:]
    if height % stride or width % stride:
        raise ValueError(
            f"{network}: the sides of an image must be multiples of {stride}, got height {height}, width {width}. "
            "Crop or pad the image to a multiple first."
        )


def waves(time: Tensor, count: int, *, slowest: bool) -> tuple[Tensor, Tensor]:
    r"""Return the cosines and sines of :math:`t \, 10000^{-k / n}`, :math:`k = 0, \dots, c - 1`, each ``(B, c)``.

    Args:
        time: ``(B,)``; angles are computed in at least float32.
        count: :math:`c`.
        slowest: Whether the last frequency is :math:`10000^{-1}`, which is :math:`n = c - 1`; otherwise :math:`n = c`.
    """
    steps = torch.arange(count, dtype=torch.float32, device=time.device) / (count - slowest)
    time = time.to(torch.promote_types(time.dtype, torch.float32))
    # A power of a base below 1, as in the training: at time 999 its rounding matters.
    angles = torch.outer(time, ((1 / MAX_PERIOD) ** steps).to(time.dtype))
    return angles.cos(), angles.sin()


def one_hot(label: Tensor | None, classes: int, like: Tensor) -> Tensor:
    """Return the one-hot label, ``(B, classes)``, in the dtype of ``like``; zeros for no label, and for negative ones."""
    if label is None:
        return like.new_zeros(len(like), classes)
    return F.one_hot(label.clamp(min=0), classes).to(like.dtype) * (label >= 0).to(like.dtype)[:, None]


def group_norm(channels: int, eps: float) -> nn.GroupNorm:
    """Return a normalization over 32 groups, or fewer if a group would have less than 4 channels."""
    return nn.GroupNorm(max(1, min(GROUPS, channels // SMALLEST_GROUP)), channels, eps=eps)


def resample(x: Tensor, taps: Tensor, way: str, padding: int | None = None) -> Tensor:
    """Double (``way="up"``) or halve (``"down"``) the sides of ``x`` with a filter ``(1, 1, n, n)`` of unit sum.

    ``padding`` is the number of zeros on each side; the default makes the sides exactly twice or half as long.
    """
    padding = (taps.shape[-1] - 1) // 2 if padding is None else padding
    channels = x.shape[1]
    each = taps.to(x.dtype).expand(channels, 1, -1, -1)
    if way == "down":
        return F.conv2d(x, each, stride=2, padding=padding, groups=channels)
    return F.conv_transpose2d(x, 4 * each, stride=2, padding=padding, groups=channels)  # three of four inputs are zeros


class ResampledConv(nn.Module):
    """A convolution of an image whose sides are doubled or halved first.

    Args:
        inputs: Channels in.
        outputs: Channels out.
        kernel: Side of the convolution kernel; 0 only resamples, and has no weights.
        way: ``up`` or ``down``.
        taps: Length of the resampling filter.
        late: Whether to filter the output of the convolution instead of its input. The results differ only at the border,
            where the convolution then includes zeros further out.
    """

    weight: nn.Parameter | None
    bias: nn.Parameter | None
    resample_filter: Tensor

    def __init__(self, inputs: int, outputs: int, kernel: int, *, way: str, taps: int, late: bool = False) -> None:
        super().__init__()
        self.way, self.late = way, late
        self.register_parameter("weight", nn.Parameter(torch.empty(outputs, inputs, kernel, kernel)) if kernel else None)
        self.register_parameter("bias", nn.Parameter(torch.empty(outputs)) if kernel else None)
        self.register_buffer("resample_filter", torch.empty(1, 1, taps, taps))

    def forward(self, x: Tensor) -> Tensor:
        taps = self.resample_filter
        if self.weight is None or self.bias is None:
            return resample(x, taps, self.way)
        border = self.weight.shape[-1] // 2
        if not self.late:
            return F.conv2d(resample(x, taps, self.way), self.weight, self.bias, padding=border)
        wide = F.conv2d(x, self.weight, padding=border + (taps.shape[-1] - 1) // 2)
        return resample(wide, taps, self.way, padding=0) + self.bias[:, None, None]


class Block(nn.Module):
    r"""Residual block conditioned on the noise level, followed by attention over all pixels if it has heads.

    .. math:: h = \gamma\, (s(x) + f_1(\mathrm{silu}(m(f_0(\mathrm{silu}(x)))))), \qquad
        \text{out} = \gamma\, (h + \mathrm{attention}(h))

    with convolutions :math:`f_0, f_1` of normalized inputs, :math:`s` the identity or a projection, and :math:`m` a
    normalization, either after a shift by the noise level or before a scale and a shift by it.

    Args:
        inputs: Channels in.
        outputs: Channels out.
        embedding: Features of the noise level.
        way: ``up`` or ``down`` to resample; the empty string keeps the sides.
        taps: Length of the resampling filter.
        heads: Attention heads; 0: no attention.
        scaled: Whether the noise level scales as well as shifts.
        project: Whether a resampled skip connection is projected even if its channels do not change.
        gain: :math:`\gamma`.
        eps: Constant added to the variance in the normalizations.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        embedding: int,
        *,
        way: str = "",
        taps: int,
        heads: int,
        scaled: bool,
        project: bool,
        gain: float,
        eps: float,
    ) -> None:
        super().__init__()
        self.heads, self.scaled, self.gain = heads, scaled, gain
        self.norm0 = group_norm(inputs, eps)
        self.conv0 = ResampledConv(inputs, outputs, 3, way=way, taps=taps) if way else nn.Conv2d(inputs, outputs, 3, padding=1)
        self.affine = nn.Linear(embedding, (1 + scaled) * outputs)
        self.norm1 = group_norm(outputs, eps)
        self.conv1 = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.skip: nn.Module = nn.Identity()
        if way:
            self.skip = ResampledConv(inputs, outputs, int(project or inputs != outputs), way=way, taps=taps)
        elif inputs != outputs:
            self.skip = nn.Conv2d(inputs, outputs, 1)
        if heads:
            self.norm2 = group_norm(outputs, eps)
            self.qkv = nn.Conv2d(outputs, 3 * outputs, 1)
            self.proj = nn.Conv2d(outputs, outputs, 1)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        h = self.conv0(F.silu(self.norm0(x)))
        level = self.affine(emb)[..., None, None]
        if self.scaled:
            scale, shift = level.chunk(2, dim=1)
            h = self.norm1(h) * (1 + scale) + shift
        else:
            h = self.norm1(h + level)
        h = self.gain * (self.skip(x) + self.conv1(F.silu(h)))
        attended: Tensor = self.gain * (h + self.proj(self.attend(self.norm2(h)))) if self.heads else h
        return attended

    def attend(self, h: Tensor) -> Tensor:
        # Channels of qkv: for each head and each of its features, a query, a key and a value.
        split = self.qkv(h).flatten(2).unflatten(1, (self.heads, -1, 3))
        query, key, value = split.permute(3, 0, 1, 4, 2).contiguous()  # each (B, heads, pixels, features)
        mixed = F.scaled_dot_product_attention(query, key, value)
        return mixed.mT.reshape(h.shape)


def ladder(
    sizes: Sequence[int],
    widths: Sequence[int],
    blocks: int,
    *,
    first: nn.Conv2d,
    block: Callable[..., Block],
    attention: Sequence[int],
    attends_once: bool,
) -> tuple[nn.ModuleDict, nn.ModuleDict]:
    """Return the encoder and the decoder of a U-Net; each decoder block takes one output of the encoder.

    Args:
        sizes: Side of the image at each resolution, halved each time. The names of layers begin with it.
        widths: Channels at each resolution.
        blocks: Blocks per resolution in the encoder; the decoder has one more.
        first: The layer before all blocks.
        block: Called as ``block(inputs, outputs, way=..., attention=...)``.
        attention: Sizes at which blocks have attention.
        attends_once: Whether only the last block at each of these sizes has attention in the decoder.
    """
    enc, dec = nn.ModuleDict(), nn.ModuleDict()
    enc[f"{sizes[0]}x{sizes[0]}_conv"] = first
    width = first.out_channels
    skips = [width]
    for level, (size, outputs) in enumerate(zip(sizes, widths, strict=True)):
        if level:
            enc[f"{size}x{size}_down"] = block(width, width, way="down", attention=False)
            skips.append(width)
        for i in range(blocks):
            enc[f"{size}x{size}_block{i}"] = block(width, outputs, way="", attention=size in attention)
            width = outputs
            skips.append(width)
    for size, outputs in zip(reversed(sizes), reversed(widths), strict=True):
        if size == sizes[-1]:
            dec[f"{size}x{size}_in0"] = block(width, width, way="", attention=True)
            dec[f"{size}x{size}_in1"] = block(width, width, way="", attention=False)
        else:
            dec[f"{size}x{size}_up"] = block(width, width, way="up", attention=False)
        for i in range(blocks + 1):
            attend = size in attention and (i == blocks or not attends_once)
            dec[f"{size}x{size}_block{i}"] = block(width + skips.pop(), outputs, way="", attention=attend)
            width = outputs
    return enc, dec
