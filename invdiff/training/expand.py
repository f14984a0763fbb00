"""Grow a network into a larger one that initially computes the same function."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from invdiff.priors.networks.unet import UNet

__all__ = ["grow"]


def grow(net: UNet, *, widths: Sequence[int], blocks: Sequence[int], seed: int, maps: int | None = None) -> UNet:
    """Return a network with more blocks, or more and coarser resolutions, that computes the same function as ``net``.

    New blocks are initialized as identities. If coarser resolutions are added, the blocks of the formerly coarsest resolution
    are distributed over its downsampling path and its new upsampling path, and the contribution from the coarser resolutions is
    initialized to zero. Noise maps added to a network without them are initialized to zero as well.

    Args:
        net: The network to grow; it is not changed.
        widths: Features per resolution. The first ones must be those of ``net``.
        blocks: Blocks per resolution, not fewer than in ``net``. At the formerly coarsest resolution half as many suffice, if
            coarser ones are added.
        seed: Random seed of the new weights.
        maps: Features of the noise maps. 0: the noise maps of ``net`` are dropped; the function is unchanged for white noise.
            Default: as in ``net``.

    Raises:
        ValueError: If ``net`` does not fit into the larger network, or has a different, nonzero number of noise-map features.
    """
    old_widths, old_blocks = net.config["widths"], net.config["blocks"]
    last = len(old_widths) - 1
    deeper = len(widths) > len(old_widths)
    room = [count * (2 if deeper and level == last else 1) for level, count in enumerate(blocks)]
    if list(widths[: last + 1]) != old_widths or len(blocks) != len(widths) or any(map(int.__lt__, room, old_blocks)):
        raise ValueError(
            f"grow: widths {list(widths)} and blocks {list(blocks)} are too small for a network of widths {old_widths} and "
            f"blocks {old_blocks}: widths must begin with the same values, and no resolution may have fewer blocks."
        )
    maps = net.config["maps"] if maps is None else maps
    if maps and net.config["maps"] not in (0, maps):
        raise ValueError(f"grow: the network has {net.config['maps']} noise-map features, expected 0 or {maps}.")
    with torch.random.fork_rng(devices=[]):  # Weights are initialized from the global generator, whose state is restored.
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
    """Copy the blocks of ``old`` from ``start`` on, as many as ``new`` has; other blocks of ``new`` stay identities."""
    chain = list(old.get_submodule("blocks").children())[start:]
    for block, target in zip(chain, new.get_submodule("blocks").children(), strict=False):
        weights = target.state_dict()
        # Only weights that both blocks have: one of them may lack noise maps.
        target.load_state_dict(weights | {name: weight for name, weight in block.state_dict().items() if name in weights})
