"""The DDPM++ and NCSN++ U-Nets in the version of EDM."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from invdiff.priors.networks.edm_layers import Block, ResampledConv, check_sides, group_norm, ladder, one_hot, waves

__all__ = ["SongUNet"]

EPS = 1e-6


class SongUNet(nn.Module):
    r"""Residual U-Net conditioned on the noise level, and on a class if it has classes: DDPM++ and NCSN++.

    Args:
        size: Side of the training images in pixels. It determines the names of layers; other image sizes work as well.
        channels: Image channels.
        outputs: Output channels.
        classes: Number of classes; 0: not class-conditional.
        augmentations: Length of the augmentation vector used in training. It is not used in sampling.
        first: Channels of the first layer.
        widths: Channels per resolution, finest first.
        blocks: Residual blocks per resolution.
        attention: Image sides at which blocks have attention.
        frequencies: Frequencies of the noise level embedding, each with a sine and a cosine.
        fourier: Whether the frequencies are stored with the weights (NCSN++) instead of a fixed sequence (DDPM++).
        embedding: Features of the noise level.
        encoder: How the image itself enters at each resolution: ``standard`` (not at all), ``skip`` (downsampled and added)
            or ``residual`` (convolved and added).
        decoder: ``standard`` computes the output from the finest features, ``skip`` as a sum of images of each resolution.
        taps: Length of the resampling filter.

    References:
        Song et al., Score-Based Generative Modeling through SDEs, 2021, https://arxiv.org/abs/2011.13456, appendix H
        Karras et al., 2022, https://arxiv.org/abs/2206.00364, appendix F
    """

    def __init__(
        self,
        *,
        size: int,
        channels: int = 3,
        outputs: int = 3,
        classes: int = 0,
        augmentations: int = 0,
        first: int = 128,
        widths: Sequence[int] = (128, 256, 256, 256),
        blocks: int = 4,
        attention: Sequence[int] = (16,),
        frequencies: int = 64,
        fourier: bool = False,
        embedding: int = 512,
        encoder: str = "standard",
        decoder: str = "standard",
        taps: int = 2,
    ) -> None:
        super().__init__()
        if encoder not in ("standard", "skip", "residual") or decoder not in ("standard", "skip"):
            raise ValueError(
                "SongUNet: expected the encoder standard, skip or residual and the decoder standard or skip, "
                f"got {encoder!r} and {decoder!r}."
            )
        self.config: dict[str, Any] = {
            "size": size,
            "channels": channels,
            "outputs": outputs,
            "classes": classes,
            "augmentations": augmentations,
            "first": first,
            "widths": list(widths),
            "blocks": blocks,
            "attention": list(attention),
            "frequencies": frequencies,
            "fourier": fourier,
            "embedding": embedding,
            "encoder": encoder,
            "decoder": decoder,
            "taps": taps,
        }
        self.classes, self.blocks, self.frequencies, self.encoder = classes, blocks, frequencies, encoder
        self.sizes = [size >> level for level in range(len(widths))]

        if fourier:
            self.map_noise = RandomWaves(frequencies)
        if classes:
            self.map_label = nn.Linear(classes, 2 * frequencies)
        if augmentations:
            self.map_augment = nn.Linear(augmentations, 2 * frequencies, bias=False)
        self.map_layer0 = nn.Linear(2 * frequencies, embedding)
        self.map_layer1 = nn.Linear(embedding, embedding)

        def block(inputs: int, outputs: int, *, way: str, attention: bool) -> Block:
            return Block(
                inputs,
                outputs,
                embedding,
                way=way,
                taps=taps,
                heads=int(attention),
                scaled=False,
                project=True,
                gain=0.5**0.5,
                eps=EPS,
            )

        self.enc, self.dec = ladder(
            self.sizes,
            widths,
            blocks,
            first=nn.Conv2d(channels, first, 3, padding=1),
            block=block,
            attention=attention,
            attends_once=True,
        )
        carried = channels  # channels of the input pyramid
        for at, width in zip(self.sizes[1:], widths, strict=False):
            if encoder == "skip":
                self.enc[f"{at}x{at}_aux_down"] = ResampledConv(channels, channels, 0, way="down", taps=taps)
                self.enc[f"{at}x{at}_aux_skip"] = nn.Conv2d(channels, width, 1)
            elif encoder == "residual":
                self.enc[f"{at}x{at}_aux_residual"] = ResampledConv(carried, width, 3, way="down", taps=taps, late=True)
                carried = width
        # Sizes at which an output image is computed, coarsest first.
        self.images = self.sizes[::-1] if decoder == "skip" else self.sizes[:1]
        for at, width in zip(self.sizes, widths, strict=True):
            if at in self.images:
                self.dec[f"{at}x{at}_aux_norm"] = group_norm(width, EPS)
                self.dec[f"{at}x{at}_aux_conv"] = nn.Conv2d(width, outputs, 3, padding=1)
                if at != self.images[0]:
                    self.dec[f"{at}x{at}_aux_up"] = ResampledConv(outputs, outputs, 0, way="up", taps=taps)

    def forward(self, x: Tensor, time: Tensor, label: Tensor | None = None) -> Tensor:
        """Map ``x`` of shape ``(B, C, H, W)``, ``time`` and ``label`` of shape ``(B,)`` to ``(B, outputs, H, W)``.

        Without a label, the one-hot class is zero.
        """
        check_sides("SongUNet", x, len(self.sizes))
        emb = self.embed(time, label)
        h = self.enc[f"{self.sizes[0]}x{self.sizes[0]}_conv"](x)
        skips, beside = [h], x
        for at in self.sizes:
            if at != self.sizes[0]:
                h = self.enc[f"{at}x{at}_down"](h, emb)
                if self.encoder == "skip":
                    beside = self.enc[f"{at}x{at}_aux_down"](beside)
                    h = h + self.enc[f"{at}x{at}_aux_skip"](beside)
                elif self.encoder == "residual":
                    h = beside = (h + self.enc[f"{at}x{at}_aux_residual"](beside)) * 0.5**0.5
                skips.append(h)
            for i in range(self.blocks):
                h = self.enc[f"{at}x{at}_block{i}"](h, emb)
                skips.append(h)

        output = x
        for at in reversed(self.sizes):
            for name in ("in0", "in1") if at == self.sizes[-1] else ("up",):
                h = self.dec[f"{at}x{at}_{name}"](h, emb)
            for i in range(self.blocks + 1):
                h = self.dec[f"{at}x{at}_block{i}"](torch.cat([h, skips.pop()], dim=1), emb)
            if at in self.images:
                image = self.dec[f"{at}x{at}_aux_conv"](F.silu(self.dec[f"{at}x{at}_aux_norm"](h)))
                output = image if at == self.images[0] else image + self.dec[f"{at}x{at}_aux_up"](output)
        return output

    def embed(self, time: Tensor, label: Tensor | None) -> Tensor:
        cosines, sines = self.map_noise(time) if "map_noise" in self._modules else waves(time, self.frequencies, slowest=True)
        emb = torch.cat([sines, cosines], dim=1).to(self.map_layer0.weight.dtype)
        if self.classes:
            # Scaled so that the mean square over the classes is 1.
            emb = emb + self.map_label(math.sqrt(self.classes) * one_hot(label, self.classes, emb))
        return F.silu(self.map_layer1(F.silu(self.map_layer0(emb))))


class RandomWaves(nn.Module):
    """Cosines and sines at frequencies drawn at random before training."""

    freqs: Tensor

    def __init__(self, count: int) -> None:
        super().__init__()
        self.register_buffer("freqs", torch.empty(count))

    def forward(self, time: Tensor) -> tuple[Tensor, Tensor]:
        angles = torch.outer(time, (2 * math.pi * self.freqs).to(time.dtype))
        return angles.cos(), angles.sin()
