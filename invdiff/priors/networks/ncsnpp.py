"""The networks of score-SDE: NCSN++, DDPM++ and DDPM."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from invdiff.priors.networks.ncsnpp_layers import (
    Attention,
    Combine,
    FourierFeatures,
    Resample,
    ResidualBlock,
    add,
    group_norm,
    positional_features,
    resize,
)

__all__ = ["NCSNpp"]


class NCSNpp(nn.Module):
    r"""Residual U-Net with attention, conditioned on the noise level, with optional pyramids of the image.

    The layers are one flat list, ``all_modules``, in the order in which they are used.

    Args:
        channels: Image channels.
        nf: Base number of feature channels.
        ch_mult: Feature channels at each resolution in units of ``nf``, finest first.
        num_res_blocks: Residual blocks per resolution in the encoder; the decoder has one more.
        attention: Resolutions with attention, 0 the finest. The middle of the coarsest always has attention.
        resblock_type: ``biggan`` resizes in residual blocks, ``ddpm`` between them.
        resamp_with_conv: Whether ``ddpm`` resizes with a convolution.
        fir: Whether to resize by the filter [1, 3, 3, 1] instead of copies and means of pixels.
        skip_rescale: Whether to divide sums with a shortcut by the square root of two.
        smallest_group: Fewest channels of a normalization group: 4 in NCSN++ and DDPM++, 1 in DDPM.
        progressive: How the output is built up: ``none``, ``output_skip`` (the sum of an image per resolution) or
            ``residual`` (features per resolution).
        progressive_input: How downsampled copies of the input enter: ``none``, ``input_skip`` (an image per resolution) or
            ``residual`` (features per resolution).
        progressive_combine: How ``input_skip`` joins them with the features: ``sum`` or ``cat``.
        embedding: ``fourier`` features of the noise level, or ``positional`` features of a label.
        conditional: Whether the network is conditioned on the noise level at all.
        num_scales: Length of the table of noise levels :math:`\sigma_0 > \dots > \sigma_{N-1}` in the file.
        scale_by_sigma: Whether to divide the output by the noise level.
        centered: Whether images span [-1, 1]; otherwise [0, 1].
        told: Meaning of ``time``. ``label`` is the input of the authors' network: the noise level with ``fourier``, and 999 t
            or an index into the table with ``positional``. ``sigma`` is the noise level, which ``positional`` converts to that
            index, interpolating between two levels of the table.

    References:
        Song et al., Score-Based Generative Modeling through SDEs, 2021, https://arxiv.org/abs/2011.13456, appendix H;
        https://github.com/yang-song/score_sde_pytorch
    """

    sigmas: Tensor

    def __init__(
        self,
        *,
        channels: int = 3,
        nf: int = 128,
        ch_mult: Sequence[int] = (1, 2, 2, 2),
        num_res_blocks: int = 4,
        attention: Sequence[int] = (1,),
        resblock_type: str = "biggan",
        resamp_with_conv: bool = True,
        fir: bool = False,
        skip_rescale: bool = True,
        smallest_group: int = 4,
        progressive: str = "none",
        progressive_input: str = "none",
        progressive_combine: str = "sum",
        embedding: str = "positional",
        conditional: bool = True,
        num_scales: int = 1000,
        scale_by_sigma: bool = False,
        centered: bool = True,
        told: str = "label",
    ) -> None:
        super().__init__()
        if smallest_group < 1:
            raise ValueError(f"NCSNpp: smallest_group must be at least 1, got {smallest_group}.")
        self.config: dict[str, Any] = {
            "channels": channels,
            "nf": nf,
            "ch_mult": list(ch_mult),
            "num_res_blocks": num_res_blocks,
            "attention": list(attention),
            "resblock_type": resblock_type,
            "resamp_with_conv": resamp_with_conv,
            "fir": fir,
            "skip_rescale": skip_rescale,
            "smallest_group": smallest_group,
            "progressive": progressive,
            "progressive_input": progressive_input,
            "progressive_combine": progressive_combine,
            "embedding": embedding,
            "conditional": conditional,
            "num_scales": num_scales,
            "scale_by_sigma": scale_by_sigma,
            "centered": centered,
            "told": told,
        }
        self.nf, self.levels, self.blocks, self.attention = nf, len(ch_mult), num_res_blocks, frozenset(attention)
        self.biggan, self.fir, self.skip_rescale = resblock_type == "biggan", fir, skip_rescale
        self.pyramid_out, self.pyramid_in = progressive, progressive_input
        self.fourier, self.conditional = embedding == "fourier", conditional
        self.scale_by_sigma, self.centered, self.told = scale_by_sigma, centered, told
        self.register_buffer("sigmas", torch.empty(num_scales))

        rescaled: dict[str, Any] = {"skip_rescale": skip_rescale, "smallest_group": smallest_group}
        block: Callable[..., nn.Module] = partial(ResidualBlock, embedding=4 * nf, kind=resblock_type, fir=fir, **rescaled)
        attend: Callable[[int], nn.Module] = partial(Attention, **rescaled)
        norm = partial(group_norm, smallest_group=smallest_group)
        conv = partial(nn.Conv2d, kernel_size=3, padding=1)
        resample = partial(Resample, fir=fir)

        def between(width: int, direction: str) -> nn.Module:
            if self.biggan:
                return block(width, width, direction=direction)
            return resample(width, width, direction=direction, convolve=resamp_with_conv)

        modules: list[nn.Module] = [FourierFeatures(nf)] if self.fourier else []
        if conditional:
            modules += [nn.Linear(2 * nf if self.fourier else nf, 4 * nf), nn.Linear(4 * nf, 4 * nf)]
        modules.append(conv(channels, nf))
        width, image, skips = nf, channels, [nf]
        for level, multiple in enumerate(ch_mult):
            for _ in range(num_res_blocks):
                modules.append(block(width, nf * multiple))
                width = nf * multiple
                modules += [attend(width)] if level in self.attention else []
                skips.append(width)
            if level < self.levels - 1:
                modules.append(between(width, "down"))
                if progressive_input == "input_skip":
                    modules.append(Combine(channels, width, method=progressive_combine))
                    width *= 2 if progressive_combine == "cat" else 1
                elif progressive_input == "residual":
                    modules.append(resample(image, width, direction="down", convolve=True))
                    image = width
                skips.append(width)
        modules += [block(width, width), attend(width), block(width, width)]
        for level in reversed(range(self.levels)):
            below = width
            for _ in range(num_res_blocks + 1):
                modules.append(block(width + skips.pop(), nf * ch_mult[level]))
                width = nf * ch_mult[level]
            modules += [attend(width)] if level in self.attention else []
            if progressive == "output_skip":
                modules += [norm(width), conv(width, channels)]
            elif progressive == "residual" and level == self.levels - 1:
                modules += [norm(width), conv(width, width)]
            elif progressive == "residual":
                modules.append(resample(below, width, direction="up", convolve=True))
            modules += [between(width, "up")] if level else []
        if progressive != "output_skip":
            modules += [norm(width), conv(width, channels)]
        self.all_modules = nn.ModuleList(modules)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """Map ``x`` of shape ``(B, C, H, W)`` and ``time`` of shape ``(B,)`` to an image of the shape of ``x``.

        Raises:
            ValueError: If the sides of ``x`` are not multiples of ``2 ** (len(ch_mult) - 1)``.
        """
        stride = 2 ** (self.levels - 1)
        if x.shape[-2] % stride or x.shape[-1] % stride:
            raise ValueError(
                f"NCSNpp: sides must be multiples of {stride}, got {x.shape[-2]} x {x.shape[-1]}. Crop or pad the image first."
            )
        layers = iter(self.all_modules)
        sigma, emb = self._embed(layers, time)
        x = x if self.centered else 2 * x - 1
        skips = [next(layers)(x)]
        image = x
        for level in range(self.levels):
            for _ in range(self.blocks):
                h = next(layers)(skips[-1], emb)
                skips.append(next(layers)(h) if level in self.attention else h)
            if level < self.levels - 1:
                h = self._between(layers, skips[-1], emb)
                if self.pyramid_in == "input_skip":
                    image = resize(image, "down", fir=self.fir)
                    h = next(layers)(image, h)
                elif self.pyramid_in == "residual":
                    h = image = add(next(layers)(image), h, rescale=self.skip_rescale)
                skips.append(h)

        h = next(layers)(skips[-1], emb)
        h = next(layers)(h)
        h = next(layers)(h, emb)

        output = h  # the output pyramid, which starts at the coarsest resolution
        for level in reversed(range(self.levels)):
            for _ in range(self.blocks + 1):
                h = next(layers)(torch.cat([h, skips.pop()], dim=1), emb)
            h = next(layers)(h) if level in self.attention else h
            coarsest = level == self.levels - 1
            if self.pyramid_out == "output_skip":
                detail = _normed(layers, h)
                output = detail if coarsest else resize(output, "up", fir=self.fir) + detail
            elif self.pyramid_out == "residual" and coarsest:
                output = _normed(layers, h)
            elif self.pyramid_out == "residual":
                h = output = add(next(layers)(output), h, rescale=self.skip_rescale)
            h = self._between(layers, h, emb) if level else h
        output = output if self.pyramid_out == "output_skip" else _normed(layers, h)
        return output / sigma[:, None, None, None] if self.scale_by_sigma else output

    def _embed(self, layers: Iterator[nn.Module], time: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the noise level and its features."""
        if self.fourier:
            sigma, emb = time, next(layers)(time)
        else:
            # In float64: float32 rounding of an index near a thousand would change the angle.
            first, rate = self.sigmas[0].double(), (self.sigmas[-1].double() / self.sigmas[0]).log() / (len(self.sigmas) - 1)
            label = (time.double() / first).log() / rate if self.told == "sigma" else time
            sigma = time if self.told == "sigma" else (first * (rate * time).exp()).to(time)
            emb = positional_features(label, self.nf)
        if not self.conditional:
            return sigma, None
        emb = next(layers)(emb.to(self.sigmas.dtype))
        return sigma, next(layers)(F.silu(emb))

    def _between(self, layers: Iterator[nn.Module], h: Tensor, emb: Tensor | None) -> Tensor:
        resized: Tensor = next(layers)(h, emb) if self.biggan else next(layers)(h)
        return resized


def _normed(layers: Iterator[nn.Module], h: Tensor) -> Tensor:
    norm, conv = next(layers), next(layers)
    output: Tensor = conv(F.silu(norm(h)))
    return output
