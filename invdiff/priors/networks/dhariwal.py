"""The ADM U-Net in the version of EDM."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from invdiff.priors.networks.edm_layers import Block, check_sides, group_norm, ladder, one_hot, waves

__all__ = ["DhariwalUNet"]

EPS = 1e-5
HEAD = 64  # channels of an attention head; with fewer channels there is no attention


class DhariwalUNet(nn.Module):
    """Residual U-Net whose features are scaled and shifted by the noise level and the class.

    Args:
        size: Side of the training images in pixels. It determines the names of layers; other image sizes work as well.
        channels: Image channels.
        outputs: Output channels.
        classes: Number of classes; 0: not class-conditional.
        augmentations: Length of the augmentation vector used in training. It is not used in sampling.
        frequencies: Frequencies of the noise level embedding, each with a sine and a cosine.
        widths: Channels per resolution, finest first.
        blocks: Residual blocks per resolution.
        attention: Image sides at which blocks have attention, one head per 64 channels.
        embedding: Features of the noise level.

    References:
        Dhariwal & Nichol, Diffusion Models Beat GANs on Image Synthesis, 2021, https://arxiv.org/abs/2105.05233
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
        frequencies: int = 96,
        widths: Sequence[int] = (192, 384, 576, 768),
        blocks: int = 3,
        attention: Sequence[int] = (32, 16, 8),
        embedding: int = 768,
    ) -> None:
        super().__init__()
        self.config: dict[str, Any] = {
            "size": size,
            "channels": channels,
            "outputs": outputs,
            "classes": classes,
            "augmentations": augmentations,
            "frequencies": frequencies,
            "widths": list(widths),
            "blocks": blocks,
            "attention": list(attention),
            "embedding": embedding,
        }
        self.classes, self.blocks, self.frequencies = classes, blocks, frequencies
        self.sizes = [size >> level for level in range(len(widths))]

        if augmentations:
            self.map_augment = nn.Linear(augmentations, 2 * frequencies, bias=False)
        self.map_layer0 = nn.Linear(2 * frequencies, embedding)
        self.map_layer1 = nn.Linear(embedding, embedding)
        if classes:
            self.map_label = nn.Linear(classes, embedding, bias=False)

        def block(inputs: int, outputs: int, *, way: str, attention: bool) -> Block:
            return Block(
                inputs,
                outputs,
                embedding,
                way=way,
                taps=2,
                heads=outputs // HEAD if attention else 0,
                scaled=True,
                project=False,
                gain=1.0,
                eps=EPS,
            )

        first = nn.Conv2d(channels, widths[0], 3, padding=1)
        self.enc, self.dec = ladder(
            self.sizes, widths, blocks, first=first, block=block, attention=attention, attends_once=False
        )
        self.out_norm = group_norm(widths[0], EPS)
        self.out_conv = nn.Conv2d(widths[0], outputs, 3, padding=1)

    def forward(self, x: Tensor, time: Tensor, label: Tensor | None = None) -> Tensor:
        """Map ``x`` of shape ``(B, C, H, W)``, ``time`` and ``label`` of shape ``(B,)`` to ``(B, outputs, H, W)``.

        Without a label, the class embedding is zero.
        """
        check_sides("DhariwalUNet", x, len(self.sizes))
        emb = torch.cat(waves(time, self.frequencies, slowest=False), dim=1).to(self.map_layer0.weight.dtype)
        emb = self.map_layer1(F.silu(self.map_layer0(emb)))
        if self.classes:
            emb = emb + self.map_label(one_hot(label, self.classes, emb))
        emb = F.silu(emb)

        h = self.enc[f"{self.sizes[0]}x{self.sizes[0]}_conv"](x)
        skips = [h]
        for at in self.sizes:
            if at != self.sizes[0]:
                h = self.enc[f"{at}x{at}_down"](h, emb)
                skips.append(h)
            for i in range(self.blocks):
                h = self.enc[f"{at}x{at}_block{i}"](h, emb)
                skips.append(h)
        for at in reversed(self.sizes):
            for name in ("in0", "in1") if at == self.sizes[-1] else ("up",):
                h = self.dec[f"{at}x{at}_{name}"](h, emb)
            for i in range(self.blocks + 1):
                h = self.dec[f"{at}x{at}_block{i}"](torch.cat([h, skips.pop()], dim=1), emb)
        output: Tensor = self.out_conv(F.silu(self.out_norm(h)))
        return output
