"""Write reference outputs of score-SDE networks, from the authors' code: ``python benchmarks/references_score_sde.py FOLDER``.

FOLDER is a clone of https://github.com/yang-song/score_sde_pytorch. Writes ``tests/data/score_sde.safetensors``: for small
networks the inputs, the raw outputs and the posterior means by Tweedie's formula with the authors' score function; for every
published configuration the names and shapes of its state dict. Weights are those of ``tests/helpers.filled``. The resizing
filters are the authors' own fallback that needs no compiler.
"""

from __future__ import annotations

import argparse
import importlib
import json
import re
import sys
import types
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))
from helpers import filled, fingerprint, randn  # noqa: E402  # pyright: ignore[reportMissingImports]

from invdiff.priors.networks.ncsnpp import NCSNpp  # noqa: E402

SMALL: dict[str, Any] = {"nf": 16, "ch_mult": [1, 2, 1], "num_res_blocks": 1, "attention": [1]}
SKIPS: dict[str, Any] = {"progressive": "output_skip", "progressive_input": "input_skip"}
VE: dict[str, Any] = {"scale_by_sigma": True, "centered": False, "fir": True, "embedding": "fourier"}
CENTERED: dict[str, Any] = {"centered": True, "skip_rescale": False}
DDPM: dict[str, Any] = {"resblock_type": "ddpm", "skip_rescale": False, "smallest_group": 1, "nf": 32}
# What differs from SMALL and from the defaults of our NCSNpp; the process; what a file of it must be read with.
CASES: dict[str, tuple[dict[str, Any], str, dict[str, Any]]] = {
    "ddpmpp": ({}, "vp", {}),
    "ddpmpp_table": ({"num_res_blocks": 2, "attention": [1, 2], "channels": 1}, "vp table", {"continuous": False}),
    "ddpmpp_subvp": ({"attention": [], "conditional": False}, "subvp", {"sde": "subvp"}),
    "ncsnpp_vp": ({"fir": True, "progressive_input": "residual"}, "vp", {"sde": "vp"}),
    "ncsnpp_ve": (VE | {"progressive_input": "residual"}, "ve", {}),
    "ncsnpp_ve_table": (VE | {"progressive_input": "residual", "embedding": "positional", "told": "sigma"}, "ve table", {}),
    "ncsnpp_sum": (VE | SKIPS, "ve", {}),
    "ncsnpp_cat": (VE | SKIPS | {"progressive_combine": "cat", "ch_mult": [2, 1, 1]}, "ve", {}),
    "ncsnpp_centered": (VE | SKIPS | CENTERED, "ve", CENTERED),
    "residual_out": (
        VE | {"fir": False, "progressive": "residual", "progressive_input": "residual", "resblock_type": "ddpm"},
        "ve",
        {},
    ),
    "ddpm_blocks_fir": (VE | SKIPS | {"resblock_type": "ddpm", "resamp_with_conv": False}, "ve", {}),
    "ddpm_blocks_means": (
        {"resblock_type": "ddpm", "resamp_with_conv": False},
        "vp",
        {"model": "ncsnpp", "continuous": True},
    ),
    "ddpm": (DDPM, "vp table", {}),
    "ddpm_ve": (DDPM | {"scale_by_sigma": True, "centered": False, "told": "sigma"}, "ve table", {"sde": "ve"}),
}
SIDE, SIGMA_MIN, SIGMA_MAX = 16, 0.01, 50.0
TIMES = (300, 800)  # of two images, in thousandths of the time of the SDE, or indices into a table of a thousand

OURS = {"channels", "attention", "smallest_group", "embedding", "centered", "told"}  # which the authors call otherwise
INPUT = randn(2, 3, SIDE, SIDE, seed=1, dtype=torch.float32)


class ConfigDict(dict[str, Any]):
    """What the authors' code asks of ``ml_collections``."""

    def __getattr__(self, name: str) -> Any:
        return self[name]

    def __setattr__(self, name: str, value: Any) -> None:
        self[name] = value


def import_authors(folder: Path) -> tuple[Any, Any]:
    """Return the authors' modules ``models.utils`` and ``sde_lib``, their extension replaced by their own fallback."""
    collections = types.ModuleType("ml_collections")
    collections.ConfigDict = ConfigDict  # type: ignore[attr-defined]
    op = types.ModuleType("op")
    source = (folder / "op/upfirdn2d.py").read_text()
    native: dict[str, Any] = {"torch": torch, "F": F}
    exec(source[source.index("def upfirdn2d(") :], native)
    op.upfirdn2d = native["upfirdn2d"]  # type: ignore[attr-defined]
    sys.modules |= {"ml_collections": collections, "op": op}
    sys.path.insert(0, str(folder))
    for name in ("models.ncsnpp", "models.ddpm"):
        importlib.import_module(name)
    # Their upsampling without a filter gives the mode where the factor belongs, which torch refuses.
    plain = types.SimpleNamespace(**vars(F))
    plain.interpolate = lambda x, size, mode: F.interpolate(x, size, mode=mode)
    sys.modules["models.layerspp"].F = plain  # type: ignore[attr-defined]
    return importlib.import_module("models.utils"), importlib.import_module("sde_lib")


def their_config(config: dict[str, Any], process: str) -> ConfigDict:
    """Return the authors' configuration of one of ours."""
    model = ConfigDict(
        {
            k: v
            for k, v in config.items()
            if k not in {"channels", "attention", "smallest_group", "embedding", "centered", "told"}
        },
        name="ddpm" if config["smallest_group"] == 1 else "ncsnpp",
        attn_resolutions=[SIDE >> level for level in config["attention"]],
        embedding_type=config["embedding"],
        fir_kernel=[1, 3, 3, 1],
        dropout=0.1,
        init_scale=0.0,
        fourier_scale=16,
        nonlinearity="swish",
        sigma_min=SIGMA_MIN,
        sigma_max=SIGMA_MAX,
    )
    data = ConfigDict(image_size=SIDE, num_channels=config["channels"], centered=config["centered"])
    return ConfigDict(model=model, data=data, training=ConfigDict(continuous="table" not in process))


def our_config(theirs: ConfigDict) -> dict[str, Any]:
    """Return our configuration of one of the authors' published ones."""
    model, ddpm = theirs.model, theirs.model.name == "ddpm"
    levels = [theirs.data.image_size >> i for i in range(len(model.ch_mult))]
    ve, positional = theirs.training.sde == "vesde", ddpm or model.embedding_type == "positional"
    changed = {
        "channels": theirs.data.num_channels,
        "ch_mult": list(model.ch_mult),
        "attention": [i for i, side in enumerate(levels) if side in model.attn_resolutions],
        "centered": theirs.data.centered,
        "embedding": "positional" if positional else "fourier",
        "told": "sigma" if ve and positional else "label",
    }
    if ddpm:
        changed |= {"resblock_type": "ddpm", "fir": False, "skip_rescale": False, "smallest_group": 1}
    defaults = NCSNpp(nf=4, ch_mult=[1]).config
    return {key: changed.get(key, model.get(key, default)) for key, default in defaults.items()}


def state_shapes(net: torch.nn.Module) -> dict[str, list[int]]:
    return {name: list(tensor.shape) for name, tensor in net.state_dict().items()}


def references(utils: Any, sde_lib: Any, name: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return tensors and a description of one case."""
    changed, process, given = CASES[name]
    config = NCSNpp(**(SMALL | changed)).config
    theirs = their_config(config, process)
    net = utils.get_model(theirs.model.name)(theirs).eval()
    shapes = state_shapes(net)
    steps = config["num_scales"]
    net.load_state_dict(filled(shapes) | {"sigmas": net.sigmas})
    sde = {
        "ve": sde_lib.VESDE(SIGMA_MIN, SIGMA_MAX, steps),
        "vp": sde_lib.VPSDE(0.1, 20.0, steps),
        "subvp": sde_lib.subVPSDE(0.1, 20.0, steps),
    }[process.split()[0]]
    table = "table" in process
    t = torch.tensor(TIMES) / (steps - 1 if table else steps)  # of the SDE, which for ve runs against the table
    x_t = INPUT[:, : config["channels"]]
    label, time = 999 * t, t
    if "ve" in process:
        sigma = sde.marginal_prob(x_t, t)[1]
        label = torch.tensor([steps - 1 - i for i in TIMES]) if table else sigma
        time = sigma * (1 if config["centered"] else 2)
        alpha, std = torch.ones(2), sigma
    elif table:
        label, time = torch.tensor(TIMES), torch.tensor(TIMES).float()
        alpha, std = sde.sqrt_alphas_cumprod[label], sde.sqrt_1m_alphas_cumprod[label]
    else:
        mean, std = sde.marginal_prob(torch.ones_like(x_t), t)
        alpha = mean[:, 0, 0, 0]
    seen = x_t if config["centered"] else (x_t + 1) / 2
    with torch.no_grad():
        output = net(seen, label)
        score = utils.get_score_fn(sde, net, continuous=not table)(seen, t)
    x_0 = (seen + std[:, None, None, None] ** 2 * score) / alpha[:, None, None, None]
    x_0 = x_0 if config["centered"] else 2 * x_0 - 1
    tensors = {"t": time, "label": label.float(), "output": output, "x_0": x_0}
    facts = {"config": config, "given": given | {"image_size": SIDE}, "fingerprint": fingerprint(shapes)}
    return {f"{name}.{key}": value.float().contiguous() for key, value in tensors.items()}, facts


def published(utils: Any, folder: Path) -> dict[str, Any]:
    """Return of every published configuration what a reader must find, and the digest of its names and shapes."""
    found = {}
    for path in sorted(folder.glob("configs/**/*.py")):
        name = str(path.relative_to(folder / "configs").with_suffix(""))
        if re.match(r"default|ve/ncsn|vp/ddpm/cifar10_unconditional", name):  # the last does not build
            continue
        theirs = importlib.import_module(f"configs.{name.replace('/', '.')}").get_config()
        with torch.no_grad():
            net = utils.get_model(theirs.model.name)(theirs)
        found[name] = {
            "config": our_config(theirs),
            "fingerprint": fingerprint(state_shapes(net)),
            "image_size": theirs.data.image_size,
            "sde": theirs.training.sde.removesuffix("sde"),
            "continuous": theirs.training.continuous,
            "sigmas": [theirs.model.sigma_max, theirs.model.sigma_min],
            "decay": theirs.model.ema_rate,
        }
        print(name, flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="a clone of the authors' repository")
    folder = parser.parse_args().folder
    utils, sde_lib = import_authors(folder)
    tensors = {"x_t": INPUT}
    cases: dict[str, Any] = {}
    for name in CASES:
        values, cases[name] = references(utils, sde_lib, name)
        tensors |= values
        print(name, {key.partition(".")[2]: round(float(value.abs().max()), 4) for key, value in values.items()})
    metadata = {"cases": json.dumps(cases), "published": json.dumps(published(utils, folder))}
    save_file(tensors, ROOT / "tests/data/score_sde.safetensors", metadata=metadata)


if __name__ == "__main__":
    main()
