"""Benchmark color denoising: ``python benchmarks/denoising.py FOLDER --prior natural``.

Mean PSNR of one evaluation of a prior's denoiser, compared with BM3D (the authors' package ``bm3d``) and scikit-image's
non-local means. Every color photograph of the folder, uncropped, gets Gaussian noise that is not clipped, the same for all
denoisers; all denoisers are given its standard deviation. For each noise level, non-local means uses the patch size and
strength from a list that give the best mean over all photographs, selected with knowledge of the truth. The table is printed;
finished results are kept in the JSON file and not computed again, so that a new prior costs only its own evaluations.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.metadata
import itertools
import json
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from skimage.restoration import denoise_nl_means
from tabulate import tabulate
from torch import Tensor
from tqdm import tqdm

from invdiff.io.images import atomic_write, list_images, read_image
from invdiff.metrics import psnr
from invdiff.priors import load_prior
from invdiff.priors.load import PRECISIONS
from invdiff.priors.network import NetworkPrior

Array = NDArray[np.float64]
Denoiser = Callable[[Tensor, float], Tensor]  # (3, H, W) spanning [-1, 1] and the noise's standard deviation there
PATCHES, DISTANCE = (3, 5), 11  # Non-local means: sides of a patch; patches are sought at most this many pixels away.
STRENGTHS = (0.3, 0.4, 0.5, 0.6, 0.8, 1.0)  # its "h", in standard deviations of the noise


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="photographs; gray ones are left out")
    parser.add_argument("--prior", action="append", help="name or file of a prior; repeatable (default: natural)")
    parser.add_argument("--sigma", type=float, nargs="+", default=[15, 25, 50], help="on the 0..255 scale (default: 15 25 50)")
    parser.add_argument(
        "--precision", choices=PRECISIONS, default="auto", help="precision of the network (default: %(default)s)"
    )
    parser.add_argument("--out", type=Path, default=Path("benchmarks/denoising.json"), help="(default: %(default)s)")
    options = parser.parse_args()
    names = options.prior or ["natural"]

    priors = {name: load_prior(name, precision=options.precision) for name in names}
    try:
        families = {"BM3D": bm3d()} | {"non-local means": non_local_means()} | {name: network(priors[name]) for name in names}
    except ModuleNotFoundError as error:
        parser.error(f"{error}: BM3D is compared with and no dependency of invdiff. Run: pip install bm3d")
    photographs = [path for path in list_images(options.folder) if len(read_image(path).pixels) == 3]
    if not photographs:
        parser.error(f"{options.folder} holds no colour photographs")
    store = options.out
    store.parent.mkdir(parents=True, exist_ok=True)
    done: dict[str, dict[str, dict[str, float]]] = json.loads(store.read_text()) if store.exists() else {}

    variants = {key: denoise for family in families.values() for key, denoise in family.items()}
    cases: dict[float, list[str]] = {sigma: [] for sigma in options.sigma}
    with tqdm(total=len(photographs) * len(cases) * len(variants), unit=" figures", disable=None) as bar:
        for path in photographs:
            clean = torch.from_numpy(read_image(path).pixels).float()
            digest = hashlib.sha256(clean.numpy().tobytes()).hexdigest()
            for sigma, keys in cases.items():
                case = f"{path.name}, {digest[:12]}, sigma {sigma:g}"
                keys.append(case)
                noisy = clean + 2 * sigma / 255 * noise(case, clean)
                for key, denoise in variants.items():
                    figures = done.setdefault(key, {})
                    if case not in figures:
                        figures[case] = measure(denoise, noisy, 2 * sigma / 255, clean)
                        with atomic_write(store) as part:
                            part.write_text(json.dumps(done, indent=1) + "\n")
                    bar.update()

    arguments = "".join(f" --prior {name}" for name in names) + " --sigma" + "".join(f" {sigma:g}" for sigma in cases)
    what = ", ".join(
        [f"{len(photographs)} photographs"]
        + [f"{name} {prior.describe()['sha256'][:12]} in {prior.autocast or torch.float32}" for name, prior in priors.items()]
    )
    machine = f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}"
    command = f"python benchmarks/denoising.py FOLDER{arguments}"
    print(f"`{command}`; {what}; {machine}.\n\n{summarise(families, cases, done)}")


def noise(case: str, like: Tensor) -> Tensor:
    """Return standard normal noise that belongs to a photograph and a noise level, whatever else is in the folder."""
    seed = int.from_bytes(hashlib.sha256(case.encode()).digest()[:16])
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(like.shape)).to(like)


def bm3d() -> dict[str, Denoiser]:
    """Return BM3D with the defaults of its package: profile "np", in opponent colours."""
    import bm3d as package  # type: ignore[import-untyped,unused-ignore]

    profile = package.BM3DProfile()
    profile.num_threads = 1  # With more, results vary from run to run.
    denoise = on_unit_scale(lambda y, sigma: package.bm3d_rgb(y, sigma, profile, colorspace="opp"))
    return {f"bm3d {importlib.metadata.version('bm3d')}, profile np, colours opp": denoise}


def non_local_means() -> dict[str, Denoiser]:
    def variant(patch: int, h: float) -> Denoiser:
        return on_unit_scale(
            lambda y, sigma: denoise_nl_means(
                y,
                patch_size=patch,
                patch_distance=DISTANCE,
                h=h * sigma,
                sigma=sigma,
                fast_mode=True,
                preserve_range=True,
                channel_axis=-1,
            )
        )

    name = f"scikit-image {importlib.metadata.version('scikit-image')}, distance {DISTANCE}"
    return {f"{name}, patch {patch}, h {h:g} sigma": variant(patch, h) for patch, h in itertools.product(PATCHES, STRENGTHS)}


def on_unit_scale(denoise: Callable[[Array, float], Array]) -> Denoiser:
    """Return a denoiser of (H, W, C) arrays on the 0..1 scale as one of tensors."""

    def wrapped(x: Tensor, sigma: float) -> Tensor:
        unit = ((x + 1) / 2).double().permute(1, 2, 0).contiguous().numpy()
        return torch.from_numpy(denoise(unit, sigma / 2)).permute(2, 0, 1).to(x) * 2 - 1

    return wrapped


def network(prior: NetworkPrior) -> dict[str, Denoiser]:
    def denoise(x: Tensor, sigma: float) -> Tensor:
        t = prior.schedule.time(sigma)
        alpha_t, _ = prior.levels(t, x)
        return prior.denoise(alpha_t * x[None], t)[0]

    return {f"prior {prior.describe()['sha256']}, {prior.autocast or torch.float32}": denoise}


@torch.no_grad()
def measure(denoise: Denoiser, noisy: Tensor, sigma: float, clean: Tensor) -> dict[str, float]:
    """Denoise one photograph; the seconds are of processor time, summed over threads, so that other work counts less."""
    started = time.process_time()
    denoised = denoise(noisy, sigma)
    seconds = time.process_time() - started
    return {
        "PSNR": round(float(psnr(denoised[None], clean[None])), 4),
        "seconds": round(seconds, 2),
        "megapixels": clean[0].numel() / 1e6,
    }


def summarise(
    families: Mapping[str, Mapping[str, Denoiser]],
    cases: Mapping[float, Sequence[str]],
    done: Mapping[str, Mapping[str, Mapping[str, float]]],
) -> str:
    """Return the Markdown table: means over the photographs, each family at its best variant for every noise level."""

    def mean(variant: str, sigma: float) -> float:
        return float(np.mean([done[variant][case]["PSNR"] for case in cases[sigma]]))

    best = {
        family: {sigma: max((mean(variant, sigma), variant) for variant in variants)[1] for sigma in cases}
        for family, variants in families.items()
    }
    lines, choices = [], []
    for family, variants in families.items():
        figures = [done[best[family][sigma]][case] for sigma in cases for case in cases[sigma]]
        pace = sum(figure["seconds"] for figure in figures) / sum(figure["megapixels"] for figure in figures)
        means = [mean(best[family][sigma], sigma) for sigma in cases]
        leads = [mine - mean(best["BM3D"][sigma], sigma) for mine, sigma in zip(means, cases, strict=True)]
        lead = None if family == "BM3D" else ", ".join(f"{value:+.2f}" for value in leads)
        lines.append([family, *means, lead, pace])
        if len(variants) > 1:
            chosen = "; ".join(f"sigma {sigma:g}: {variant}" for sigma, variant in best[family].items())
            choices.append(f"\n\nThe best of {len(variants)} settings of {family}: {chosen}.")
    headers = [
        "denoiser, PSNR in dB",
        *(f"sigma {sigma:g}" for sigma in cases),
        "lead over BM3D",
        "processor seconds per megapixel",
    ]
    formats = ("", *(".2f" for _ in cases), "", ".1f")
    return tabulate(lines, headers, tablefmt="github", floatfmt=formats, missingval="-") + "".join(choices)


if __name__ == "__main__":
    main()
