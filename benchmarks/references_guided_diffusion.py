"""Write reference outputs of the authors' networks: ``python benchmarks/references_guided_diffusion.py GUIDED IMPROVED``.

``GUIDED`` and ``IMPROVED`` are clones of https://github.com/openai/guided-diffusion and
https://github.com/openai/improved-diffusion. The file ``tests/data/guided_diffusion.safetensors`` gets inputs, times, labels
and outputs of small networks, whose random weights depend on their names (``filled`` of ``tests/helpers.py``); and for these
and for common published networks, at their true size, the configuration and the fingerprint of the authors' weights.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

ROOT = Path(__file__).resolve().parents[1]
IMAGENET = {"width": 256, "multipliers": [1, 1, 2, 2, 4, 4], "blocks": 2, "attention": [8, 16, 32], "updown": True}
IMPROVED = {"width": 128, "multipliers": [1, 2, 3, 4], "blocks": 3, "attention": [4, 8], "heads": 4, "code": "improved"}
LARGE: dict[str, dict[str, Any]] = {
    "ffhq-256": {"width": 128, "multipliers": [1, 1, 2, 2, 4, 4], "blocks": 1, "attention": [16], "updown": True},
    "imagenet-256": IMAGENET,
    "imagenet-256-classes": IMAGENET | {"classes": 1000},
    "imagenet-512": IMAGENET | {"multipliers": [0.5, 1, 1, 2, 2, 4, 4], "attention": [16, 32, 64], "classes": 1000},
    "imagenet-128": IMAGENET | {"multipliers": [1, 1, 2, 3, 4], "attention": [4, 8, 16], "heads": 4, "classes": 1000},
    "imagenet-64": {"width": 192, "multipliers": [1, 2, 3, 4], "blocks": 3, "attention": [2, 4, 8], "updown": True}
    | {"attention_order": "new", "classes": 1000},
    "improved-imagenet-64": IMPROVED,
    "improved-imagenet-64-classes": IMPROVED | {"width": 192, "classes": 1000},
    "improved-cifar-10": IMPROVED | {"multipliers": [1, 2, 2, 2], "attention": [2, 4]},
    "improved-lsun-256": IMPROVED
    | {"multipliers": [1, 1, 2, 2, 4, 4], "blocks": 2, "attention": [16], "heads": 1, "scale_shift": False},
    "defaults-64": IMPROVED | {"blocks": 2, "learned_variance": False, "code": "guided"},
    "grey": {"channels": 1, "width": 64, "multipliers": [1, 2, 4], "blocks": 2, "attention": [4], "heads": 4},
    "no-weights-between": {
        "width": 64,
        "multipliers": [1, 2, 4],
        "blocks": 1,
        "attention": [2],
        "heads": 4,
        "conv_resample": False,
    },
    "no-attention": {"width": 64, "multipliers": [1, 1.5, 2], "blocks": 2, "attention": [], "updown": True},
    "fractions": {"width": 128, "multipliers": [0.25, 0.75, 1.25], "blocks": 2, "attention": [1, 2], "heads": 4},
    "one-level": {"width": 32, "multipliers": [2], "blocks": 3, "attention": [], "heads": 4},
    "ten-classes": {"width": 64, "multipliers": [1, 2], "blocks": 1, "attention": [2], "classes": 10, "updown": True},
}
SMALL: dict[str, dict[str, Any]] = {
    "like-ffhq": {"width": 32, "multipliers": [1, 1, 2], "blocks": 1, "attention": [4], "head_channels": 16, "updown": True},
    "like-imagenet": {"width": 32, "multipliers": [1, 1, 2], "blocks": 2, "attention": [2, 4]}
    | {"head_channels": 16, "updown": True, "classes": 5},
    "fraction": {"width": 64, "multipliers": [0.5, 1], "blocks": 1, "attention": [2], "heads": 4, "updown": True},
    "new-order": {"width": 32, "multipliers": [1, 2], "blocks": 1, "attention": [1, 2], "heads": 2, "attention_order": "new"},
    "added-time": {"width": 32, "multipliers": [1, 1], "blocks": 1, "attention": [2], "heads": 1, "scale_shift": False},
    "no-weights-between": {
        "width": 32,
        "multipliers": [1, 2],
        "blocks": 1,
        "attention": [],
        "heads": 4,
        "conv_resample": False,
    },
    "grey": {
        "channels": 1,
        "width": 32,
        "multipliers": [1],
        "blocks": 1,
        "attention": [],
        "heads": 4,
        "learned_variance": False,
    },
    "heads-up": {"width": 32, "multipliers": [1, 1], "blocks": 1, "attention": [2], "heads": 2, "heads_up": 4},
    "improved": IMPROVED | {"width": 32, "multipliers": [1, 2], "blocks": 1, "attention": [2], "classes": 3},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("guided", type=Path, help="clone of openai/guided-diffusion")
    parser.add_argument("improved", type=Path, help="clone of openai/improved-diffusion")
    parser.add_argument("--out", type=Path, default=ROOT / "tests/data/guided_diffusion.safetensors")
    options = parser.parse_args()
    sys.path[:0] = [str(options.guided), str(options.improved), str(ROOT / "tests")]
    helpers = importlib.import_module("helpers")  # of the tests
    tensors: dict[str, Tensor] = {}
    described: dict[str, dict[str, Any]] = {"small": {}, "large": {}}
    for name, case in LARGE.items():
        with torch.device("meta"):
            shapes = {key: tuple(value.shape) for key, value in authors_network(**complete(case)).state_dict().items()}
        described["large"][name] = {"config": ours(case), "fingerprint": helpers.fingerprint(shapes)}
    for seed, (name, case) in enumerate(SMALL.items()):
        net = authors_network(**complete(case)).eval()
        shapes = {key: tuple(value.shape) for key, value in net.state_dict().items()}
        net.load_state_dict(helpers.filled(shapes))
        config = ours(case)
        side = 8 if name != "like-imagenet" else 16
        x = helpers.randn(2, config["channels"], side, 2 * side, seed=seed, dtype=torch.float32)
        times = torch.tensor([3.5, 721.0])
        labels = torch.tensor([0, config["classes"] - 1]) if config["classes"] else None
        with torch.no_grad():
            output = net(x, times, labels)
        tensors |= {f"{name}.x": x, f"{name}.time": times, f"{name}.output": output}
        tensors |= {} if labels is None else {f"{name}.label": labels}
        described["small"][name] = {"config": config, "fingerprint": helpers.fingerprint(shapes)}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    safetensors.torch.save_file(tensors, options.out, metadata={"cases": json.dumps(described)})
    print(f"{options.out}: {options.out.stat().st_size / 1e3:.0f} kB, {len(SMALL)} outputs, {len(LARGE)} fingerprints")


def complete(case: dict[str, Any]) -> dict[str, Any]:
    """Return every argument of ``ADM``, and whose code makes the network."""
    rest = {"channels": 3, "heads": None, "head_channels": None, "heads_up": None, "attention_order": "legacy"}
    rest |= {"scale_shift": True, "updown": False, "conv_resample": True, "learned_variance": True, "classes": None}
    rest |= {"code": "guided"} if case.get("heads") or case.get("head_channels") else {"code": "guided", "head_channels": 64}
    return rest | case


def ours(case: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in complete(case).items() if name != "code"}


def authors_network(
    *,
    code: str,
    channels: int,
    width: int,
    multipliers: list[float],
    blocks: int,
    attention: list[int],
    heads: int | None,
    head_channels: int | None,
    heads_up: int | None,
    attention_order: str,
    scale_shift: bool,
    updown: bool,
    conv_resample: bool,
    learned_variance: bool,
    classes: int | None,
) -> nn.Module:
    """Return the network of the authors' code, ``guided`` or ``improved``."""
    arguments: dict[str, Any] = {
        "in_channels": channels,
        "out_channels": 2 * channels if learned_variance else channels,
        "model_channels": width,
        "channel_mult": multipliers,
        "num_res_blocks": blocks,
        "attention_resolutions": attention,
        "num_heads": heads or 1,
        "num_heads_upsample": heads_up or -1,
        "use_scale_shift_norm": scale_shift,
        "num_classes": classes,
    }
    if code == "guided":
        arguments |= {
            "image_size": None,
            "num_head_channels": head_channels or -1,
            "resblock_updown": updown,
            "conv_resample": conv_resample,
            "use_new_attention_order": attention_order == "new",
        }
    net: nn.Module = importlib.import_module(f"{code}_diffusion.unet").UNetModel(**arguments)
    return net


if __name__ == "__main__":
    main()
