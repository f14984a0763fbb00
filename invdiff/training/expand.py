"""A larger network that starts as the same function as a smaller one."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from invdiff.priors.networks.unet import UNet

__all__ = ["grow"]


def grow(net: UNet, *, widths: Sequence[int], blocks: Sequence[int], seed: int, maps: int | None = None) -> UNet:
    """Return a network with more blocks, or more resolutions below the coarsest, that computes what ``net`` computes.

    New blocks are identities at first. Where resolutions are added, the blocks of the coarsest one are laid out along its
    way down and its new way up, and what comes up from below begins as zero. So do maps of noise in a network that has none.

    Args:
        net: The network to start from; it is not changed.
        widths: Features per resolution, beginning with those of ``net``.
        blocks: Blocks per resolution, none fewer than ``net`` has; half as many are enough where the way up is new.
        seed: Of the weights of what is new.
        maps: Features of the maps of noise. 0: those of ``net`` are left out, and in white noise the function stays what it is.
            Default: as ``net`` has them.

    Raises:
        ValueError: If the larger network has no room for the smaller one, or another number of maps than it has.
    """
    old_widths, old_blocks = net.config["widths"], net.config["blocks"]
    last = len(old_widths) - 1
    deeper = len(widths) > len(old_widths)
    room = [count * (2 if deeper and level == last else 1) for level, count in enumerate(blocks)]
    if list(widths[: last + 1]) != old_widths or len(blocks) != len(widths) or any(map(int.__lt__, room, old_blocks)):
        raise ValueError(
            f"grow: widths {list(widths)} and blocks {list(blocks)} have no room for a network of widths {old_widths} and "
            f"blocks {old_blocks}: widths must begin with the same numbers, and no resolution have fewer blocks."
        )
    maps = net.config["maps"] if maps is None else maps
    if maps and net.config["maps"] not in (0, maps):
        raise ValueError(f"grow: the network has {net.config['maps']} features of maps of noise, expected 0 or {maps}.")
    with torch.random.fork_rng(devices=[]):  # Initial weights come from the global generator, which is given back.
        torch.manual_seed(seed)
        shape = {"widths": widths, "blocks": blocks, "embedding": net.config["embedding"], "maps": maps}
        grown = UNet(channels=net.config["channels"], **shape)
    pairs: list[tuple[nn.Module, nn.Module]] = [(net.noise, grown.noise), (net.first, grown.first), (net.last, grown.last)]
    pairs += [*zip(net.shrink, grown.shrink, strict=False), *zip(net.grow, grown.grow, strict=False)]
    if maps and net.config["maps"]:
        pairs += [(net.map_first, grown.map_first), (net.map_bands, grown.map_bands)]
        pairs += zip(net.map_levels, grown.map_levels, strict=False)
    for module, target in pairs:
        target.load_state_dict(module.state_dict())
    for level in range(last + 1):
        place = blocks[level]
        _copy(net.down[level], 0, grown.down[level])
        if level < last:
            _copy(net.up[level], 0, grown.up[level])
        elif deeper:
            _copy(net.down[level], place, grown.up[level])
    if deeper:
        for level in range(last, len(widths) - 1):
            for parameter in grown.grow[level].parameters():
                nn.init.zeros_(parameter)
    return grown


def _copy(old: nn.Module, start: int, new: nn.Module) -> None:
    """Copy the blocks of ``old`` from ``start`` on, as many as ``new`` has; the rest of ``new`` stays the identity."""
    chain = list(old.get_submodule("blocks").children())[start:]
    for block, target in zip(chain, new.get_submodule("blocks").children(), strict=False):
        weights = target.state_dict()
        # What both have: one of them may be without maps.
        target.load_state_dict(weights | {name: weight for name, weight in block.state_dict().items() if name in weights})
