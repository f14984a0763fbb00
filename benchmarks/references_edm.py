"""Write reference outputs of EDM networks: ``python benchmarks/references_edm.py FOLDER``.

FOLDER is a clone of https://github.com/NVlabs/edm, whose code is executed here and is not part of this project. Networks of
several configurations are filled with random weights that depend only on the names of the weights, so that they need not be
stored; inputs, times and outputs go to ``tests/data/edm.safetensors``. A small network is also pickled in the format of its
authors, to ``tests/data/edm_tiny.pkl``, with other text in place of the source code that such files contain.
"""

from __future__ import annotations

import argparse
import importlib
import json
import pickle
import sys
import types
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from invdiff.schedules import DiscreteBetas

DATA = Path(__file__).parents[1] / "tests" / "data"
sys.path.insert(0, str(DATA.parent))

from helpers import filled, fingerprint  # noqa: E402  # pyright: ignore[reportMissingImports]

SIZE, CLASSES = 16, 5
ADM = {"model_type": "DhariwalUNet", "model_channels": 64, "channel_mult": [1, 2], "num_blocks": 1, "attn_resolutions": [8]}
DDPM = {"model_type": "SongUNet", "model_channels": 16, "channel_mult": [1, 2], "num_blocks": 1, "attn_resolutions": [8]}
NCSN = {
    **DDPM,
    "embedding_type": "fourier",
    "channel_mult_noise": 2,
    "encoder_type": "residual",
    "resample_filter": [1, 3, 3, 1],
}
DEEP = {"channel_mult": [1, 2, 2], "num_blocks": 2}
# Preconditioning, its options, and the noise levels that are asked.
CASES: dict[str, tuple[str, dict[str, Any], tuple[float, float]]] = {
    "ddpmpp": ("EDMPrecond", DDPM, (0.02, 3.0)),
    "ddpmpp-deep": ("EDMPrecond", DDPM | DEEP | {"attn_resolutions": [16, 4], "channel_mult_emb": 2}, (0.3, 70.0)),
    "ddpmpp-labels": ("EDMPrecond", DDPM | {"label_dim": CLASSES, "augment_dim": 9, "label_dropout": 0.1}, (0.02, 3.0)),
    "ddpmpp-vp": ("VPPrecond", DDPM, (0.01, 40.0)),
    "ddpmpp-vp-slow": ("VPPrecond", DDPM | {"beta_d": 9.0, "beta_min": 0.2, "M": 500}, (0.05, 5.0)),
    "ncsnpp": ("EDMPrecond", NCSN | DEEP, (0.02, 3.0)),
    "ncsnpp-ve": ("VEPrecond", NCSN, (0.03, 50.0)),
    "ncsnpp-ve-labels": ("VEPrecond", NCSN | {"label_dim": CLASSES, "augment_dim": 9}, (0.3, 5.0)),
    "skip": ("EDMPrecond", NCSN | DEEP | {"encoder_type": "skip", "decoder_type": "skip"}, (0.02, 3.0)),
    "skip-two-taps": ("EDMPrecond", DDPM | {"encoder_type": "skip", "decoder_type": "skip", "label_dim": 2}, (0.1, 1.0)),
    "adm": ("EDMPrecond", ADM | {"label_dim": CLASSES, "augment_dim": 9}, (0.02, 3.0)),
    "adm-sigma": ("EDMPrecond", ADM | {"attn_resolutions": [16], "sigma_data": 1.0}, (0.1, 10.0)),
    "adm-iddpm": ("iDDPMPrecond", ADM | {"label_dim": CLASSES, "channel_mult": [2, 1]}, (0.0, 0.0)),
}
STEPS = (3, 700)  # of the discrete preconditioning, in place of noise levels


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="a clone of https://github.com/NVlabs/edm")
    sys.path.insert(0, str(parser.parse_args().folder))
    sys.modules.setdefault("requests", types.ModuleType("requests"))  # theirs download with it, which is not wanted here
    networks = importlib.import_module("training.networks")

    tensors: dict[str, Tensor] = {}
    cases: dict[str, Any] = {}
    for number, (name, (kind, options, sigmas)) in enumerate(CASES.items()):
        arguments = {"img_resolution": SIZE, "img_channels": 3, **options}
        net = getattr(networks, kind)(**arguments).eval()
        weights = filled({key: tuple(value.shape) for key, value in net.model.state_dict().items()})
        net.model.load_state_dict(weights)
        cases[name] = {
            "preconditioning": kind,
            "arguments": arguments,
            "fingerprint": fingerprint({key: tuple(value.shape) for key, value in weights.items()}),
            "label": 3 % options["label_dim"] if "label_dim" in options else None,
        }
        levels = torch.tensor(sigmas)
        if kind == "iDDPMPrecond":
            # Theirs are rounded along the way, and the network is told the step whose level is nearest.
            levels = DiscreteBetas.cosine(net.M, net.C_2, 1 - net.C_1).ratio(torch.tensor(STEPS)).float()
            tensors[f"{name}.table"] = net.u
        generator = torch.Generator().manual_seed(number)
        x0 = torch.rand(2, 3, SIZE, SIZE, generator=generator) * 2 - 1
        noise = torch.randn(x0.shape, generator=generator)
        found = evaluate(net, x0, noise, levels, cases[name]["label"])
        tensors |= {f"{name}.{key}": value.contiguous() for key, value in found.items()}

    torch.manual_seed(0)
    tiny = networks.EDMPrecond(
        img_resolution=8,
        img_channels=3,
        model_type="SongUNet",
        model_channels=8,
        channel_mult=[1],
        channel_mult_emb=2,
        num_blocks=1,
        attn_resolutions=[],
        augment_dim=9,
        dropout=0.13,
    )
    for module in [tiny, *tiny.modules()]:
        type(module)._orig_module_src = "raise SystemExit('source code of a checkpoint was run')"  # in place of theirs
    tiny = tiny.eval().requires_grad_(False)
    with (DATA / "edm_tiny.pkl").open("wb") as file:
        pickle.dump({"ema": tiny, "loss_fn": None, "augment_pipe": None, "dataset_kwargs": {"path": "tiny.zip"}}, file)
    generator = torch.Generator().manual_seed(100)
    x0, noise = torch.randn(2, 2, 3, 8, 8, generator=generator)
    found = evaluate(tiny, x0, noise, torch.tensor([0.1, 3.0]), None)
    tensors |= {f"tiny.{key}": value.contiguous() for key, value in found.items()}
    save_file(tensors, DATA / "edm.safetensors", metadata={"cases": json.dumps(cases)})


@torch.no_grad()
def evaluate(net: Any, x0: Tensor, noise: Tensor, levels: Tensor, label: int | None) -> dict[str, Tensor]:
    """Return what the preconditioned network makes of ``x0`` with noise, and what the network within does at other times."""
    noisy = x0 + levels.reshape(-1, 1, 1, 1) * noise
    classes = None if label is None else torch.eye(net.label_dim)[[label]]
    time = torch.tensor([0.7, 503.25])
    return {
        "noisy": noisy,
        "sigma": levels,
        "denoised": net(noisy, levels, classes),
        "time": time,
        "output": net.model(noisy, time, None if classes is None else classes.expand(2, -1)),
        **({} if classes is None or label != 3 else {"unlabelled": net.model(noisy[:1], time[:1], 0 * classes)[0]}),
    }


if __name__ == "__main__":
    main()
