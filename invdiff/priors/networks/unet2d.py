"""The U-Net of diffusers with the call signature used here: ``net(x, time[, label])`` returns a tensor."""

from __future__ import annotations

import importlib
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["DiffusersUNet", "StepTable", "unet2d_model"]

MOST_PADDING = 8  # pixels; diffusers has 0 and 1


def unet2d_model() -> Any:
    """Return the class ``diffusers.UNet2DModel``.

    Raises:
        ImportError: If diffusers is not installed.
    """
    try:
        return importlib.import_module("diffusers").UNet2DModel
    except ImportError as error:
        reason = "" if getattr(error, "name", None) == "diffusers" else f" ({' '.join(str(error).split())[:200]})"
        raise ImportError(f'Networks of diffusers need diffusers{reason}: pip install "invdiff[diffusers]"') from error


class DiffusersUNet(nn.Module):
    """A ``UNet2DModel`` with the same layer names and the same computation.

    Times are never rounded, so times between training steps are allowed.

    Args:
        negated: Whether to return the negative of the model's output.
        config: Arguments of ``UNet2DModel``.

    Raises:
        ImportError: If diffusers is not installed.
        ValueError: If ``config`` is invalid.

    References:
        https://huggingface.co/docs/diffusers/api/models/unet2d
    """

    def __init__(self, *, negated: bool = False, **config: Any) -> None:
        super().__init__()
        self.config = {"negated": negated, **config}
        self.negated = negated
        if config.get("downsample_padding", 1) not in range(
            MOST_PADDING + 1
        ):  # It is added to images, and no weight bounds it.
            raise ValueError(f"downsample_padding is {config['downsample_padding']!r:.80}, expected 0 to {MOST_PADDING}")
        model = unet2d_model()(**config)
        if isinstance(model.time_proj, nn.Embedding):
            model.time_proj = StepTable(model.time_proj.num_embeddings, model.time_proj.embedding_dim)
        for name, layer in model.named_children():
            self.add_module(name, layer)
        # Only the bound method holds the model: as a submodule it would prefix the names of its layers.
        self.compute = model.forward
        self.stride = 2 ** (len(model.down_blocks) - 1)

    def forward(self, x: Tensor, time: Tensor, label: Tensor | None = None) -> Tensor:
        """Map ``x`` of shape ``(B, C, H, W)``, ``time`` of shape ``(B,)`` and classes ``(B,)`` to ``(B, C_out, H, W)``.

        Raises:
            ValueError: If ``H`` or ``W`` is not a multiple of ``2 ** (levels - 1)``.
        """
        height, width = x.shape[-2:]
        if height % self.stride or width % self.stride:
            raise ValueError(
                f"DiffusersUNet: the sides of the image must be multiples of {self.stride}, got height {height}, "
                f"width {width}. Crop or pad the image first."
            )
        output: Tensor = self.compute(x, time, label, return_dict=False)[0]
        return -output if self.negated else output


class StepTable(nn.Module):
    """A learned embedding of the training steps, linear between the steps and constant beyond the ends.

    It replaces the ``nn.Embedding`` of ``time_embedding_type="learned"``, which supports integer steps only.
    """

    def __init__(self, steps: int, features: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(steps, features))

    def forward(self, time: Tensor) -> Tensor:
        time = time.float().clamp(0, len(self.weight) - 1)  # Lower precision could not distinguish all steps.
        below, above = self.weight[time.floor().long()], self.weight[time.ceil().long()]
        return torch.lerp(below.float(), above.float(), time.frac()[:, None]).to(self.weight.dtype)
