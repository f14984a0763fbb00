"""Write images for the visual assessment of a prior: ``python benchmarks/look.py FOLDER --panels DIR``.

Unconditional samples at 128 and 256 pixels, and posterior samples of photographs with a 64 x 64 hole in the center of their
central 128 x 128 pixels: the content of the hole must come from the prior. There are no metrics; look at the images.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

import invdiff
from invdiff.io.figures import comparison_panel, tile_grid
from invdiff.io.images import list_images, read_image
from invdiff.methods.steps import sample_prior
from invdiff.posterior.recommended import recommended_chain
from invdiff.priors import load_prior
from invdiff.problems import Inpaint

SIZES = {128: 8, 256: 4}  # side in pixels: samples
CROP, HOLE = 128, 64  # pixels
STEPS = 50


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="photographs; color ones of at least 128 pixels are used")
    parser.add_argument("--panels", type=Path, required=True, help="folder for the images")
    parser.add_argument("--prior", default="natural", help="(default: %(default)s)")
    parser.add_argument("--count", type=int, default=6, help="photographs with a hole (default: %(default)s)")
    parser.add_argument("--samples", type=int, default=4, help="samples per photograph (default: %(default)s)")
    options = parser.parse_args()
    options.panels.mkdir(parents=True, exist_ok=True)

    score = load_prior(options.prior)
    for size, count in tqdm(SIZES.items(), desc="unconditional", disable=None):
        samples = sample_prior(score, (3, size, size), count, seed=0, steps=STEPS)
        tile_grid(options.panels / f"unconditional-{size}.png", samples.numpy(), columns=4)

    known = np.ones((CROP, CROP), dtype=bool)
    edge = (CROP - HOLE) // 2
    known[edge:-edge, edge:-edge] = False
    problem, rows = Inpaint(known), []
    for path in tqdm(list_images(options.folder), desc="holes", disable=None):
        pixels = torch.from_numpy(read_image(path).pixels).float()
        if len(pixels) != 3 or min(pixels.shape[1:]) < CROP or len(rows) == options.count:
            continue
        top, left = (pixels.shape[1] - CROP) // 2, (pixels.shape[2] - CROP) // 2
        clean = pixels[None, :, top : top + CROP, left : left + CROP]
        op = problem.operator((3, CROP, CROP))
        y = op.measure(clean, seed=0)
        settings = {
            **recommended_chain(score, op),
            "steps": STEPS,
            "ratio_max": score.largest_ratio(),
        }  # a hole needs all noise levels
        post = invdiff.PosteriorSampler(score, op, **settings).run(y, num_samples=options.samples, seed=0)
        results = problem.finish(post.samples[:, 0], y.expand(options.samples, *y.shape[1:]), op)
        tiles = {"truth": clean[0], "measured": problem.preview(y)[0]}
        tiles |= {f"sample {number + 1}": sample for number, sample in enumerate(results)}
        comparison_panel(
            options.panels / f"hole-{path.stem}.png",
            {title: tile.numpy() for title, tile in tiles.items()},
            std=results.std(0).numpy() if options.samples > 1 else None,
        )
        rows.append(torch.cat([clean, problem.preview(y), results[:4]]))
    if not rows:
        parser.error(f"{options.folder} holds no colour photograph of at least {CROP} x {CROP} pixels")
    tile_grid(options.panels / "holes.png", torch.cat(rows).numpy(), columns=2 + min(4, options.samples))


if __name__ == "__main__":
    main()
