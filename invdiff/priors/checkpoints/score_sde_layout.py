"""Infer the network of a score-SDE checkpoint from the names and shapes of its state dict."""

from __future__ import annotations

import itertools
import re
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from invdiff.priors.networks.ncsnpp import NCSNpp
from invdiff.priors.networks.skeleton import skeleton

__all__ = ["layout"]

Shapes = Mapping[str, tuple[int, ...]]


def layout(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return the arguments of :class:`NCSNpp` that names and shapes determine; ``fir`` is ``None`` if they do not.

    Each entry of ``all_modules`` is encoded as a letter, see :func:`_letter`. Blocks and attention, ``b`` and ``a``, form runs:
    one per resolution of the encoder and one per resolution of the decoder. The run of the coarsest resolution contains both
    and, between them, the middle ``bab``. Modules between two runs change the resolution or belong to the pyramids.

    Raises:
        ValueError: If the names and shapes are not those of a network of this family.
    """
    modules: dict[int, dict[str, tuple[int, ...]]] = defaultdict(dict)
    for name, tensor in tensors.items():
        if found := re.fullmatch(r"all_modules\.(\d+)\.(.+)", name):
            modules[int(found[1])][found[2]] = tuple(tensor.shape)
    if not modules or max(modules) > 2 * len(modules):  # Few modules have no parameters.
        raise _unknown(f"it has only {len(modules)} of its layers")
    listed: list[Shapes] = [modules.get(i, {}) for i in range(max(modules) + 1)]
    letters = "".join(map(_letter, listed))
    head, runs = re.match(r"(f?)(ll)?v(?=b)", letters), list(re.finditer(r"[ab]+", letters))
    if head is None or len(runs) % 2 == 0 or not all(run[0].startswith("b") for run in runs):
        raise _unknown(f"the order of its layers is {letters}")
    if "sigmas" not in tensors or tensors["sigmas"].numel() < 2:
        raise _unknown("it has no table of noise levels, sigmas")

    levels = (len(runs) + 1) // 2
    middle = runs[levels - 1][0]
    gaps = [letters[a.end() : b.start()] for a, b in itertools.pairwise(runs)] + [letters[runs[-1].end() :]]
    builds_up = levels > 1 and "n" in gaps[levels - 1]
    nf, channels = listed[head.end() - 1]["weight"][:2]
    inputs, widths = [[listed[run.start()]["Conv_0.weight"][axis] for run in runs[:levels]] for axis in (1, 0)]
    biggan = any("Conv_2.weight" in module for module in listed)
    resamplings = [module for module, letter in zip(listed, letters, strict=True) if letter == "s"]
    convolutions = {name.split(".")[0] for module in resamplings for name in module}
    fir = convolutions == {"Conv2d_0"} if convolutions else None
    config: dict[str, Any] = {
        "channels": channels,
        "nf": nf,
        "ch_mult": [width // max(nf, 1) for width in widths],
        "num_res_blocks": (middle.count("b") - 3) // 2,  # R in the encoder, 2 in the middle, R + 1 in the decoder
        "attention": [i for i, run in enumerate(runs[: levels - 1]) if "a" in run[0]] + [levels - 1] * middle.endswith("a"),
        "resblock_type": "biggan" if biggan else "ddpm",
        "resamp_with_conv": biggan or levels == 1 or bool(listed[runs[0].end()]),
        "progressive": ("residual" if gaps[-1] == "snv" else "output_skip") if builds_up else "none",
        "progressive_input": {"c": "input_skip", "s": "residual"}.get(gaps[0][1:], "none"),
        "progressive_combine": "cat" if "c" in gaps[0] and inputs[1] == 2 * widths[0] else "sum",
        "embedding": "fourier" if head[1] else "positional",
        "conditional": head[2] is not None,
        "num_scales": tensors["sigmas"].numel(),
    }
    _check(tensors, config | {"fir": fir is True})
    return config | {"fir": fir}


def _letter(module: Shapes) -> str:
    """Return the letter of a module.

    ``f``: Fourier features, ``l``: linear, ``v``: convolution, ``n``: normalization, ``a``: attention, ``b``: residual block,
    ``r``: residual block that resizes, ``s``: any other module that resizes, with or without parameters, ``c``: combination,
    ``?``: unknown.
    """
    if "Conv_1.weight" in module and "Conv_0.weight" in module:
        shortcut = module.get("Conv_2.weight", (0, 1))
        return "r" if shortcut[0] == shortcut[1] else "b"
    if "Conv_0.weight" in module:
        return "c" if module["Conv_0.weight"][-1] == 1 else "s"
    for name, letter in (("W", "f"), ("NIN_3.W", "a"), ("Conv2d_0.weight", "s")):
        if name in module:
            return letter
    if "weight" in module:
        return {1: "n", 2: "l", 4: "v"}.get(len(module["weight"]), "?")
    return "?" if module else "s"


def _check(tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> None:
    try:
        net = skeleton(lambda: NCSNpp(**config), len(tensors))
        expected = {name: tuple(tensor.shape) for name, tensor in net.state_dict().items()}
    except (RuntimeError, ZeroDivisionError, ValueError) as error:
        raise _unknown("its layers are too narrow") from error
    came = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    for name in sorted(expected.keys() | came.keys()):
        if expected.get(name) != came.get(name):
            raise _unknown(f"{name} is {came.get(name, 'missing')}, where {expected.get(name, 'nothing')} is expected")


def _unknown(reason: str) -> ValueError:
    return ValueError(f"is not an NCSN++, DDPM++ or DDPM of score-SDE, or damaged: {reason}. Download it again, or convert it.")
