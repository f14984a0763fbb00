"""The decoder of a latent prior as an operator: images from latent codes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..core.operator import Operator
from ..core.trial import checked_call, try_function
from ..core.validation import event_shape

__all__ = ["Decoder"]


class Decoder(Operator):
    r"""The decoder of a latent model, :math:`x = D(z)`, without noise. ``op @ decoder`` measures the decoded image.

    Args:
        decode: :math:`D`: takes ``(B, *in_shape)`` and returns images ``(B, C, H, W)`` that span [-1, 1], or any items, in the
            dtype and on the device of ``z``. Each item must depend only on its own ``z``. Tried on random items, two at a time.
        in_shape: Shape of one ``z``, without the batch axis.
        encode: :math:`E`, the encoder, from images to latents, for methods that need it.
        rows: Items that are decoded at a time, where no gradient is followed. Default: all.
        device: Device of the trial. Default: the CPU.
        dtype: Dtype of the trial. Default: torch's default dtype.
        checked: Whether ``decode`` and ``encode`` are known to be as described, so that only the shape is found out.

        out_shape: Shape of one image, if it is known and ``decode`` is ``checked``; otherwise one is decoded.

    Raises:
        TypeError: If ``decode`` or ``encode`` does not return a real tensor.
        ValueError: If ``decode`` mixes the items of a batch, is random or has no gradient, or ``encode`` returns another shape.
    """

    def __init__(
        self,
        decode: Callable[[Tensor], Tensor],
        in_shape: Sequence[int],
        *,
        encode: Callable[[Tensor], Tensor] | None = None,
        rows: int | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        checked: bool = False,
        out_shape: Sequence[int] | None = None,
    ) -> None:
        if rows is not None and rows < 1:
            raise ValueError(f"Decoder: rows must be at least 1, got {rows}.")
        self.decode, self.encode, self.rows = decode, encode, rows
        self.in_shape, self.device, self.dtype = event_shape("Decoder", in_shape), device, dtype
        if checked and out_shape is not None:
            self.out_shape = event_shape("Decoder", out_shape)
            return
        zeros = torch.zeros(1, *self.in_shape, device=device or "cpu", dtype=dtype)
        with torch.no_grad():
            image = checked_call("Decoder", decode, zeros)
        self.out_shape = tuple(image.shape[1:])
        if checked:
            return
        try_function("Decoder", decode, self.in_shape, device=device, dtype=dtype, linear=False)
        if encode is not None:
            code = checked_call("Decoder: encode", encode, image)
            if tuple(code.shape[1:]) != self.in_shape:
                raise ValueError(
                    f"Decoder: encode must map images {self.out_shape} to latents {self.in_shape}, got {tuple(code.shape[1:])}."
                )

    def _summary(self) -> Sequence[str]:
        return (getattr(self.decode, "__qualname__", type(self.decode).__name__).rpartition(".")[2],)

    def forward(self, x: Tensor) -> Tensor:
        if self.rows is None or len(x) <= self.rows or (torch.is_grad_enabled() and x.requires_grad):
            return self.decode(x)
        return torch.cat([self.decode(part) for part in torch.split(x, self.rows)])
