"""Activation checkpointing of any network: blocks drop their activations and recompute them for gradients."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

__all__ = ["recompute_blocks"]

LISTS = (nn.ModuleList, nn.ModuleDict)


def recompute_blocks(net: nn.Module) -> None:
    """Enable activation checkpointing of the blocks of ``net``, in place. Blocks are the modules in its innermost lists."""
    for block in list(_blocks(net)):
        # Patched on the instance, so that networks that test the type of their blocks still work.
        block.forward = functools.partial(_recomputed, block.forward)


def _blocks(module: nn.Module) -> Iterator[nn.Module]:
    for child in module.children():
        inside = list(_blocks(child))
        if inside or not isinstance(module, LISTS) or isinstance(child, LISTS):
            yield from inside
        else:
            yield child


def _recomputed(forward: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
    tensors = (a for a in (*arguments, *named.values()) if isinstance(a, Tensor))
    if not torch.is_grad_enabled() or not any(t.requires_grad for t in tensors):
        return forward(*arguments, **named)
    return checkpoint(forward, *arguments, use_reentrant=False, preserve_rng_state=False, **named)
