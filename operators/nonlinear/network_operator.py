"""A neural network as the measurement operator, for degradations that are only known as a trained model."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor, nn

from ..core.noise import Noise, noise_of
from ..core.operator import Operator
from ..core.trial import checked_call, try_function
from ..core.validation import event_shape

__all__ = ["NetworkOperator"]


class NetworkOperator(Operator):
    r"""A trained network as the measurement operator, such as a learned nonlinear blur.

    .. math:: y = f_\theta(x) + n, \qquad n \sim \mathcal{N}(0, \sigma_y^2 I)

    The operator keeps a frozen copy in evaluation mode (no dropout, stored statistics). The given network is not changed, and
    later changes to it do not affect the operator. The copy computes in the dtype and on the device of ``x``; to avoid the
    conversion at every call, move the operator once.

    Args:
        network: :math:`f_\theta`: takes ``(B, *in_shape)``, in image units (images span [-1, 1]), and returns one real tensor
            whose first axis is the batch. Tried on random items, two at a time.
        in_shape: Shape of one ``x``, without the batch axis.
        sigma_y: Noise standard deviation, in the units of ``y``. Zero: no noise.
        noise: A noise model, instead of ``sigma_y``.

    Raises:
        TypeError: If ``network`` is not a module or does not return a real tensor.
        ValueError: If the first axis of the returned tensor is not the batch, or if the network mixes the items of a batch, is
            random, or has no gradient.

    References:
        Tran et al., Explore Image Deblurring via Encoded Blur Kernel Space, 2021, https://arxiv.org/abs/2104.00317
    """

    def __init__(
        self, network: nn.Module, in_shape: Sequence[int], *, sigma_y: float = 0.0, noise: Noise | None = None
    ) -> None:
        if not isinstance(network, nn.Module):
            raise TypeError(
                f"NetworkOperator: network must be a torch.nn.Module, got {type(network).__name__}. "
                "For any other callable use Function."
            )
        self.network = copy.deepcopy(network).eval().requires_grad_(False)
        self.in_shape, self.noise = event_shape("NetworkOperator", in_shape), noise_of(sigma_y, noise)
        weight = next((w for w in self.network.parameters() if w.is_floating_point()), torch.zeros(()))
        zeros = torch.zeros(1, *self.in_shape, device=weight.device, dtype=weight.dtype)
        self.out_shape = tuple(checked_call("NetworkOperator", self.forward, zeros).shape[1:])
        device, dtype = weight.device, weight.dtype
        try_function("NetworkOperator", self.forward, self.in_shape, device=device, dtype=dtype, linear=False)

    def forward(self, x: Tensor) -> Tensor:
        weights = {**dict(self.network.named_parameters()), **dict(self.network.named_buffers())}
        state = {n: w.to(x) if w.is_floating_point() else w.to(x.device) for n, w in weights.items()}
        y: Tensor = torch.func.functional_call(self.network, state, (x,))
        return y

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Self:
        moved = super().to(device, dtype)
        moved.network = copy.deepcopy(self.network).to(device, dtype)
        return moved
