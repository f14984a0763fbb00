"""Your own operators, from plain functions: python examples/own_operator.py --size 128"""

import argparse

import torch.nn.functional as F
from skimage import data
from torch import from_numpy

import invdiff
from invdiff import operators
from invdiff.metrics import psnr


def stripes(x):  # two rows out of four, summed over the colours: linear
    return x.unflatten(-2, (-1, 4))[..., :2, :].sum(1)


def camera(x):  # half the pixels, and the response v^(1/2.2): not linear
    return (F.avg_pool2d((x + 1) / 2, 2).clamp(min=0) + 0.01) ** (1 / 2.2)  # 0.01: the slope at 0 would be infinite


def main(arguments=None):
    parser = argparse.ArgumentParser(description="Solve inverse problems with your own operators.")
    parser.add_argument("--size", type=int, default=128, help="side in pixels, a multiple of 4")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--samples", type=int, default=2)
    options = parser.parse_args(arguments)
    photograph = from_numpy(data.coffee()).permute(2, 0, 1)[None, :, :, :400] / 127.5 - 1  # images span [-1, 1]
    x = F.interpolate(photograph, size=(options.size, options.size), mode="bilinear", antialias=True)
    score, shape = invdiff.load_prior("natural"), tuple(x.shape[1:])
    for op in (operators.LinearFunction(stripes, shape, sigma_y=0.05), operators.Function(camera, shape, sigma_y=0.02)):
        y = op.measure(x, seed=0)
        post = invdiff.PosteriorSampler(score, op, steps=options.steps).run(y, num_samples=options.samples, seed=0)
        misfit = float(post.residual.mean()) / post.dof
        print(f"{op.function.__name__}: PSNR of the mean {float(psnr(post.mean, x)):.1f} dB, misfit {misfit:.2f} (1 is right)")


if __name__ == "__main__":
    main()
