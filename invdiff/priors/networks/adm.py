"""The U-Net of OpenAI's guided-diffusion and improved-diffusion, with the original parameter names and shapes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["ADM", "ATTENTION_ORDERS"]

ATTENTION_ORDERS = ("legacy", "new")
GROUPS = 32  # groups of every normalization


class ADM(nn.Module):
    r"""Residual U-Net with attention and a sinusoidal embedding of the time step, in evaluation mode (without dropout).

    Level :math:`l` has ``round(multipliers[l] * width)`` features at :math:`2^{-l}` of the image's sides. It has ``blocks``
    residual blocks in the encoder and ``blocks + 1`` in the decoder, each followed by attention if :math:`2^l` is in
    ``attention``. The middle has two more blocks around one attention. Every output of the encoder is a skip connection to the
    decoder.

    Args:
        channels: Image channels.
        width: Base number of features, scaled by the multipliers. It is also the number of sines and cosines of the time.
        multipliers: Features per level, finest first, in units of ``width``. The features of each level must be a multiple of
            32.
        blocks: Residual blocks per level.
        attention: Downsampling factors at which there is attention.
        heads: Number of attention heads. Give either this or ``head_channels``.
        head_channels: Features per attention head. Give either this or ``heads``.
        heads_up: Number of attention heads in the decoder. Default: ``heads``.
        attention_order: Order of queries, keys and values in their weights: ``legacy`` head by head, ``new`` all queries first.
        scale_shift: Whether the time scales and shifts the output of a block's second normalization; otherwise it is added to
            the input of that normalization.
        updown: Whether the resolution changes inside residual blocks.
        conv_resample: Without ``updown``, whether the resolution changes in separate convolutions, or else without weights.
        learned_variance: Whether there are twice as many outputs as channels, the second half for the variance.
        classes: Number of classes of a class-conditional network; ``None``: not class-conditional.

    References:
        Dhariwal & Nichol, Diffusion Models Beat GANs on Image Synthesis, 2021, https://arxiv.org/abs/2105.05233,
        https://github.com/openai/guided-diffusion/blob/main/guided_diffusion/unet.py
    """

    def __init__(
        self,
        *,
        channels: int,
        width: int,
        multipliers: Sequence[float],
        blocks: int,
        attention: Sequence[int],
        heads: int | None = None,
        head_channels: int | None = None,
        heads_up: int | None = None,
        attention_order: str = "legacy",
        scale_shift: bool = True,
        updown: bool = False,
        conv_resample: bool = True,
        learned_variance: bool = True,
        classes: int | None = None,
    ) -> None:
        super().__init__()
        if (heads is None) == (head_channels is None) or (heads is None and heads_up is not None):
            raise ValueError(
                "ADM: expected heads (and heads_up, where it differs) or head_channels, "
                f"got heads={heads}, head_channels={head_channels}, heads_up={heads_up}."
            )
        if attention_order not in ATTENTION_ORDERS:
            raise ValueError(f"ADM: attention_order must be one of {', '.join(ATTENTION_ORDERS)}, got {attention_order!r}.")
        self.config: dict[str, Any] = {
            "channels": channels,
            "width": width,
            "multipliers": list(multipliers),
            "blocks": blocks,
            "attention": list(attention),
            "heads": heads,
            "head_channels": head_channels,
            "heads_up": heads_up,
            "attention_order": attention_order,
            "scale_shift": scale_shift,
            "updown": updown,
            "conv_resample": conv_resample,
            "learned_variance": learned_variance,
            "classes": classes,
        }
        self.width, self.classes, self.stride = width, classes, 2 ** (len(multipliers) - 1)
        embedding = 4 * width
        features = [round(multiplier * width) for multiplier in multipliers]
        attentive = [2**level in attention for level in range(len(features))]

        def residual(h: int, out: int, *, to: str = "same") -> Residual:
            return Residual(h, out, embedding, scale_shift=scale_shift, to=to)

        def attend(h: int, heads: int | None) -> Attention:
            return Attention(h, _heads(h, heads, head_channels), order=attention_order)

        def resample(h: int, *, to: str) -> nn.Module:
            if updown:
                return residual(h, h, to=to)
            return Downsample(h, conv=conv_resample) if to == "half" else Upsample(h, conv=conv_resample)

        self.time_embed = nn.Sequential(nn.Linear(width, embedding), nn.SiLU(), nn.Linear(embedding, embedding))
        if classes is not None:
            # Zeros: drawing its usual initial values takes seconds on the meta device.
            self.label_emb = nn.Embedding(classes, embedding, _weight=torch.zeros(classes, embedding))

        h = features[0]
        self.input_blocks = nn.ModuleList([Stage([nn.Conv2d(channels, h, 3, padding=1)])])
        skips = [h]
        for level, out in enumerate(features):
            for _ in range(blocks):
                self.input_blocks.append(Stage([residual(h, out), *([attend(out, heads)] if attentive[level] else [])]))
                h = out
                skips.append(h)
            if level < len(features) - 1:
                self.input_blocks.append(Stage([resample(h, to="half")]))
                skips.append(h)
        self.middle_block = Stage([residual(h, h), attend(h, heads), residual(h, h)])
        self.output_blocks = nn.ModuleList()
        for level, out in reversed(list(enumerate(features))):
            for block in range(blocks + 1):
                stage = Stage([residual(h + skips.pop(), out)])
                h = out
                if attentive[level]:
                    stage.append(attend(h, heads_up or heads))
                if level > 0 and block == blocks:
                    stage.append(resample(h, to="double"))
                self.output_blocks.append(stage)
        outputs = 2 * channels if learned_variance else channels
        self.out = nn.Sequential(GroupNorm(h), nn.SiLU(), nn.Conv2d(h, outputs, 3, padding=1))

    def forward(self, x: Tensor, time: Tensor, label: Tensor | None = None) -> Tensor:
        """Evaluate the network; the output is ``(B, C, H, W)``, or ``(B, 2 C, H, W)`` with a learned variance.

        Args:
            x: Noisy images, ``(B, C, H, W)``. Their sides must be multiples of ``2 ** (len(multipliers) - 1)``.
            time: Step on the scale of the training (0 to 999 for 1000 steps), fractions allowed; shape ``(B,)``.
            label: Classes, integers of shape ``(B,)``, if and only if the network is class-conditional.
        """
        if x.shape[-2] % self.stride or x.shape[-1] % self.stride:
            raise ValueError(
                f"ADM: the image's sides must be multiples of {self.stride}, got height {x.shape[-2]}, width {x.shape[-1]}. "
                "Crop or pad the image first."
            )
        if (label is None) != (self.classes is None):
            given = "none" if label is None else "one"
            raise ValueError(
                f"ADM: a label is needed if and only if the network has classes, got {given} for classes={self.classes}."
            )
        emb: Tensor = self.time_embed(waves(time, self.width).to(next(self.time_embed.parameters()).dtype))
        if label is not None:
            emb = emb + self.label_emb(label)
        h, skips = x, []
        for stage in self.input_blocks:
            h = stage(h, emb)
            skips.append(h)
        h = self.middle_block(h, emb)
        for stage in self.output_blocks:
            h = stage(torch.cat([h, skips.pop()], dim=1), emb)
        output: Tensor = self.out(h)
        return output


def waves(time: Tensor, features: int) -> Tensor:
    """Embed ``time``, shape ``(B,)``, as cosines, then sines, at frequencies from 1 down to 1/10000: ``(B, features)``."""
    half = features // 2
    # Frequencies in float32, as in the training: at step 1000 their rounding is no longer small.
    index = torch.arange(half, dtype=torch.float32, device=time.device)
    angles = _wide(time)[:, None] * torch.exp(-math.log(10000) * index / half)
    return F.pad(torch.cat([angles.cos(), angles.sin()], dim=1), (0, features % 2))


def _heads(features: int, heads: int | None, head_channels: int | None) -> int:
    count = heads if head_channels is None else features // head_channels
    if not count or features % count or (head_channels is not None and features % head_channels):
        raise ValueError(f"ADM: {features} features of an attention layer cannot be split into {heads=} or {head_channels=}.")
    return count


def _wide(x: Tensor) -> Tensor:
    """Return ``x`` in at least float32 precision."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


class Stage(nn.ModuleList):
    """A sequence of layers. Its residual blocks also get the time embedding."""

    def forward(self, h: Tensor, emb: Tensor) -> Tensor:
        for layer in self:
            h = layer(h, emb) if isinstance(layer, Residual) else layer(h)
        return h


class GroupNorm(nn.GroupNorm):
    """Group normalization, computed in at least float32."""

    def __init__(self, features: int) -> None:
        super().__init__(GROUPS, features)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        h = F.group_norm(_wide(input), self.num_groups, _wide(self.weight), _wide(self.bias), self.eps)
        return h.to(input.dtype)


class Residual(nn.Module):
    """Two convolutions with a shortcut; ``to`` is the change of resolution: ``half``, ``double`` or ``same``."""

    def __init__(self, features: int, out: int, embedding: int, *, scale_shift: bool, to: str) -> None:
        super().__init__()
        self.scale_shift = scale_shift
        self.resample = {"half": Downsample(out, conv=False), "double": Upsample(out, conv=False), "same": nn.Identity()}[to]
        self.in_layers = nn.Sequential(GroupNorm(features), nn.SiLU(), nn.Conv2d(features, out, 3, padding=1))
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(embedding, 2 * out if scale_shift else out))
        # The identity replaces the dropout of the training, so that the convolution keeps its name.
        self.out_layers = nn.Sequential(GroupNorm(out), nn.SiLU(), nn.Identity(), nn.Conv2d(out, out, 3, padding=1))
        self.skip_connection = nn.Identity() if features == out else nn.Conv2d(features, out, 1)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        norm, act, conv = self.in_layers
        h = conv(self.resample(act(norm(x))))
        told = self.emb_layers(emb)[..., None, None].to(h.dtype)
        norm, act, _, conv = self.out_layers
        if self.scale_shift:
            scale, shift = told.chunk(2, dim=1)
            h = norm(h) * (1 + scale) + shift
        else:
            h = norm(h + told)
        change: Tensor = conv(act(h))
        shortcut: Tensor = self.skip_connection(self.resample(x))
        return shortcut + change


class Attention(nn.Module):
    """Self-attention over all pixels, with a shortcut."""

    def __init__(self, features: int, heads: int, *, order: str) -> None:
        super().__init__()
        self.heads, self.order = heads, order
        self.norm = GroupNorm(features)
        self.qkv = nn.Conv1d(features, 3 * features, 1)
        self.proj_out = nn.Conv1d(features, features, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = x.flatten(2)
        qkv = self.qkv(self.norm(h)).mT  # (B, pixels, features)
        if self.order == "legacy":
            q, k, v = qkv.unflatten(2, (self.heads, 3, -1)).permute(3, 0, 2, 1, 4)
        else:
            q, k, v = qkv.unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(q, k, v)  # (B, heads, pixels, features of a head)
        change: Tensor = self.proj_out(attended.mT.flatten(1, 2))
        return x + change.reshape(x.shape)


class Downsample(nn.Module):
    """Halve the resolution."""

    def __init__(self, features: int, *, conv: bool) -> None:
        super().__init__()
        self.op = nn.Conv2d(features, features, 3, stride=2, padding=1) if conv else nn.AvgPool2d(2)

    def forward(self, h: Tensor) -> Tensor:
        halved: Tensor = self.op(h)
        return halved


class Upsample(nn.Module):
    """Double the resolution."""

    def __init__(self, features: int, *, conv: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(features, features, 3, padding=1) if conv else nn.Identity()

    def forward(self, h: Tensor) -> Tensor:
        doubled: Tensor = self.conv(F.interpolate(h, scale_factor=2, mode="nearest"))
        return doubled
