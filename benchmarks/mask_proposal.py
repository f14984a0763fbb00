"""Benchmark the proposal of masks: ``python benchmarks/mask_proposal.py FOLDER``.

The center of every photograph of the folder gets synthetic damage of each kind (``mask_damage.py``), drawn at random from a
fixed seed. Printed per kind and detector: precision and recall of the marked pixels over all photographs together, F1, and
precision and recall with a tolerance of one pixel; for the photographs as they are, the share of the pixels that is marked.
With ``--scratch MASK``, a mask of real scratches is painted in white over the photographs that are large enough.

Compared with: white and black top-hats above Otsu's threshold, and above a fixed quantile; Frangi's filter, and Sato's, above a
fixed quantile. The quantiles are those of the best F1 on other photographs, found with ``--choose``.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import numpy as np
import torch
from mask_damage import KINDS, damaged
from numpy.typing import NDArray
from scipy import ndimage
from skimage import filters, morphology
from tabulate import tabulate
from tqdm import tqdm

import invdiff
from invdiff.damage import SENSITIVITY, find_damage
from invdiff.io.images import list_images, read_image, read_mask

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]
SIDE = 160  # of the crops
QUANTILES = {"top-hat": 0.96, "Frangi": 0.97, "Sato": 0.97}  # found with --choose on training photographs
OPACITY = 0.85  # of the white over real scratches


def top_hat(picture: Array) -> Array:
    gray = picture.mean(-1)
    return np.maximum(morphology.white_tophat(gray, np.ones((7, 7))), morphology.black_tophat(gray, np.ones((7, 7))))


def ridges(picture: Array, ridge: Callable[..., Array]) -> Array:
    gray = picture.mean(-1)
    return np.maximum(*(ridge(gray, sigmas=(1, 1.5, 2), black_ridges=black) for black in (True, False)))


RESPONSES: Mapping[str, Callable[[Array], Array]] = {
    "top-hat": top_hat,
    "Frangi": partial(ridges, ridge=filters.frangi),
    "Sato": partial(ridges, ridge=filters.sato),
}


def proposed(picture: Array, *, score: invdiff.priors.ScoreModel | None, sensitivity: float = SENSITIVITY) -> Mask:
    x = torch.from_numpy(picture * 2 - 1).float().permute(2, 0, 1)
    return find_damage(x, score, sensitivity=sensitivity).mask


def detectors(score: invdiff.priors.ScoreModel) -> dict[str, Callable[[Array], Mask]]:
    def above(name: str, picture: Array) -> Mask:
        response = RESPONSES[name](picture)
        return np.asarray(response > np.quantile(response, QUANTILES[name]))

    def otsu(picture: Array) -> Mask:
        response = top_hat(picture)
        return np.asarray(response > filters.threshold_otsu(response))

    return {
        "top-hat, Otsu": otsu,
        **{f"{name}, quantile {level:g}": partial(above, name) for name, level in QUANTILES.items()},
        "invdiff, no prior": partial(proposed, score=None),
        "invdiff": partial(proposed, score=score),
    }


def figures(pairs: list[tuple[Mask, Mask]]) -> dict[str, float]:
    """Return precision, recall and F1 of pairs of marked and true masks, and precision and recall within one pixel."""

    def share(parts: list[tuple[int, int]]) -> float:
        return sum(a for a, _ in parts) / max(sum(b for _, b in parts), 1)

    def near(mask: Mask) -> Mask:
        return ndimage.binary_dilation(mask, np.ones((3, 3), bool))

    precision = share([(int((found & truth).sum()), int(found.sum())) for found, truth in pairs])
    recall = share([(int((found & truth).sum()), int(truth.sum())) for found, truth in pairs])
    return {
        "precision": precision,
        "recall": recall,
        "F1": 2 * precision * recall / max(precision + recall, 1e-9),
        "precision 1 px": share([(int((found & near(truth)).sum()), int(found.sum())) for found, truth in pairs]),
        "recall 1 px": share([(int((near(found) & truth).sum()), int(truth.sum())) for found, truth in pairs]),
    }


def photographs(folder: Path, count: int | None) -> list[Array]:
    """Return the centers of the photographs, ``(H, W, 3)`` spanning 0..1; gray ones in three equal channels."""
    found = []
    for path in list_images(folder)[:count]:
        pixels = np.moveaxis((read_image(path).pixels + 1) / 2, 0, -1)
        top, left = (max((side - SIDE) // 2, 0) for side in pixels.shape[:2])
        found.append(
            np.broadcast_to(
                pixels[top : top + SIDE, left : left + SIDE], (*pixels[top : top + SIDE, left : left + SIDE].shape[:2], 3)
            )
        )
    return found


def cases(photos: list[Array]) -> dict[str, list[tuple[Array, Mask]]]:
    rng = np.random.default_rng(18)
    return {
        kind: [damaged(photo, kind, rng, jpeg=(None, 92)[number % 2]) for number, photo in enumerate(photos)] for kind in KINDS
    }


def choose(photos: list[Array]) -> None:
    """Print F1 of every quantile of the filters, and of every sensitivity, over all kinds together."""
    pairs = [pair for kind in cases(photos).values() for pair in kind]
    for name, response in RESPONSES.items():
        found = [response(picture) for picture, _ in pairs]
        for level in (0.95, 0.96, 0.97, 0.98, 0.985, 0.99, 0.995):
            marked = [(r > np.quantile(r, level), truth) for r, (_, truth) in zip(found, pairs, strict=True)]
            print(f"{name}, quantile {level}: F1 {figures(marked)['F1']:.3f}", flush=True)
    score = invdiff.load_prior("natural")
    for sensitivity in (0.2, 0.3, 0.4, 0.5, 0.6, 0.7):
        marked = [(proposed(picture, score=score, sensitivity=sensitivity), truth) for picture, truth in tqdm(pairs)]
        clean = np.mean([proposed(photo, score=score, sensitivity=sensitivity).mean() for photo in photos])
        print(f"sensitivity {sensitivity}: {figures(marked)}, clean {clean:.4f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="photographs")
    parser.add_argument("--count", type=int, help="use the first photographs alone")
    parser.add_argument("--choose", action="store_true", help="compare settings, to choose them on other photographs")
    parser.add_argument("--scratch", type=Path, help="a mask of real scratches, black where they are")
    given = parser.parse_args()
    photos = photographs(given.folder, given.count)
    if given.choose:
        choose(photos)
        return
    known = detectors(invdiff.load_prior("natural"))
    sets = cases(photos)
    if given.scratch is not None:
        real = ~read_mask(given.scratch, keep="white")
        sets["real scratches"] = []
        for photo in photos:
            height, width = photo.shape[:2]
            if height == width == SIDE:
                top, left = ((side - SIDE) // 2 for side in real.shape)
                mask = real[top : top + SIDE, left : left + SIDE]
                opacity = OPACITY * ndimage.gaussian_filter(mask.astype(float), 0.5)[..., None]
                sets["real scratches"].append((photo * (1 - opacity) + opacity, mask))
    rows = []
    for kind, pairs in sets.items():
        for name, detector in known.items():
            found = figures([(detector(picture), truth) for picture, truth in tqdm(pairs, desc=f"{kind}, {name}", leave=False)])
            rows.append({"damage": kind, "detector": name} | {key: f"{value:.2f}" for key, value in found.items()})
    print(tabulate(rows, headers="keys", tablefmt="github", disable_numparse=True))
    print()
    shares = {name: [float(detector(photo).mean()) for photo in photos] for name, detector in known.items()}
    clean = [
        {
            "detector": name,
            "mean": f"{np.mean(values):.2%}",
            "median": f"{np.median(values):.2%}",
            "largest": f"{max(values):.2%}",
        }
        for name, values in shares.items()
    ]
    print(tabulate(clean, headers="keys", tablefmt="github", disable_numparse=True))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
