"""Put weights from a file into a network, after checking that they fit and are finite real numbers."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

__all__ = ["KERNELS", "check_fit", "check_stored", "fill"]

KERNELS = (nn.Linear, nn.modules.conv._ConvNd)  # layers whose weights may be kept in half precision
SHARED = 2  # how many times as many numbers as are stored the weights may have in all: some networks use weights twice


def fill(net: nn.Module, weights: Mapping[str, Tensor], *, kernels: torch.dtype | None = None) -> None:
    """Let ``net`` have the weights, in float32. Those that are float32 already are not copied.

    Args:
        net: The network; its own weights, which may be on the meta device, are replaced.
        weights: Its state dict.
        kernels: Dtype of the weights of convolutions and linear layers, where it is another.

    Raises:
        ValueError: If a tensor is missing, unexpected or of another shape, not finite, or no real number.
    """
    check_fit(net, weights)
    half = {f"{name}.weight" for name, layer in net.named_modules() if isinstance(layer, KERNELS)} if kernels else set()
    net.load_state_dict(
        {name: _usable(name, value, kernels if kernels and name in half else torch.float32) for name, value in weights.items()},
        assign=True,
    )


def check_fit(net: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Check that weights are those of a network, by names and shapes, and no more numbers than are stored.

    Raises:
        ValueError: As :func:`fill`.
    """
    expected = {key: value.shape for key, value in net.state_dict().items()}
    gaps = {
        "{} of {} tensors are missing (the file may be cut off)": expected.keys() - weights.keys(),
        "{} tensors are unexpected beside its {}": weights.keys() - expected.keys(),
        "{} of {} have other shapes": {k for k in expected.keys() & weights.keys() if expected[k] != weights[k].shape},
    }
    for phrase, keys in gaps.items():
        if keys:
            raise ValueError(f"{phrase.format(len(keys), len(expected))}, such as {min(keys):.100}")
    _check_storages(weights)


def check_stored(weights: Mapping[str, Tensor]) -> None:
    """Check that weights are finite real numbers, as many as are stored; whole numbers are tables.

    Raises:
        ValueError: If they are not.
    """
    _check_storages(weights)
    for name, value in weights.items():
        if value.is_floating_point():
            _usable(name, value, value.dtype)


def _check_storages(weights: Mapping[str, Tensor]) -> None:
    storages = [(value.untyped_storage(), value.itemsize) for value in weights.values()]
    stored = {storage.data_ptr(): storage.nbytes() // size for storage, size in storages}
    asked, held = sum(value.numel() for value in weights.values()), sum(stored.values())
    if asked > SHARED * held:
        raise ValueError(f"its {asked:,} numbers share {held:,} that are stored")


def _usable(name: str, value: Tensor, dtype: torch.dtype) -> Tensor:
    if not value.is_floating_point():
        kind = str(value.dtype).removeprefix("torch.")
        raise ValueError(f"{name:.100} is of type {kind}, perhaps quantized; expected floating point")
    found = value.to(dtype)
    # The sum is finite for finite weights of ordinary size, and takes no memory.
    if not found.sum(dtype=torch.float32).isfinite() and not found.isfinite().all():
        raise ValueError(f"{name:.100} is not finite (NaN or infinite): the training diverged, or the file is damaged")
    return found
