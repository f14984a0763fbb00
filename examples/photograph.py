"""Inpaint a photograph: python examples/photograph.py --size 256"""

import argparse
from pathlib import Path

import torch
import torch.nn.functional as F
from skimage import data

import invdiff
from invdiff import operators
from invdiff.io.figures import comparison_panel
from invdiff.io.images import read_mask


def main(arguments=None):
    parser = argparse.ArgumentParser(description="Inpaint the pixels of a photograph that a mask covers.")
    parser.add_argument("--size", type=int, default=192, help="side in pixels")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--samples", type=int, default=2)
    parser.add_argument("--out", default="photograph.png")
    options = parser.parse_args(arguments)
    size = (options.size, options.size)
    photograph = torch.from_numpy(data.astronaut()).permute(2, 0, 1)[None] / 127.5 - 1  # images span [-1, 1]
    x = F.interpolate(photograph, size=size, mode="bilinear", antialias=True)
    known = torch.from_numpy(read_mask(Path(__file__).with_name("mask.png")))  # False where the file is white
    mask = F.interpolate(known[None, None].float(), size=size)[0]

    op = operators.Mask(mask, tuple(x.shape[1:]), sigma_y=0.01)
    y, score = op.measure(x, seed=0), invdiff.load_prior("natural")
    post = invdiff.PosteriorSampler(score, op, steps=options.steps).run(y, num_samples=options.samples, seed=0)

    tiles = {"truth": x, "measured": y, "mean": post.mean} | {f"sample {k + 1}": x for k, x in enumerate(post.samples[:2])}
    comparison_panel(options.out, {title: image[0].numpy() for title, image in tiles.items()}, std=post.std[0].numpy())
    print(f"{post.method}: {options.samples} samples in {post.seconds:.0f} s, see {options.out}")


if __name__ == "__main__":
    main()
