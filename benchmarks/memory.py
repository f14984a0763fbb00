"""Measure time and memory of a gradient through a large network, by precision and with activation checkpointing.

    python benchmarks/memory.py [--size 256]

The network has the shapes of the FFHQ model of DPS (94 million weights, random). Each row runs in its own process: one call of
the prior with the gradient of its output with respect to its input, after an untimed warm-up call at 64 x 64 pixels. Peak
memory is that of the process above its memory with the weights loaded.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

from loading import WRITTEN
from tabulate import tabulate

WAYS = {
    "float32": {"precision": "float32"},
    "float32, checkpointing": {"precision": "float32", "checkpointing": True},
    "bfloat16": {"precision": "bfloat16"},
    "bfloat16, checkpointing": {"precision": "bfloat16", "checkpointing": True},
}
MEASURED = """
import resource, sys, time
import torch
from invdiff.priors import load_prior
prior = load_prior(sys.argv[1], **{settings})

def gradient(side):
    x_t = torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(0)).requires_grad_()
    torch.autograd.grad(prior.denoise(x_t, torch.tensor(300.0)).sum(), x_t)

gradient(64)
sum(float(weight.sum()) for weight in prior.net.parameters())
before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
gradient({size})
print(time.perf_counter() - started, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--size", type=int, default=256, help="side in pixels (default: %(default)s)")
    options = parser.parse_args()
    rows: list[tuple[str, str, str]] = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ffhq.pt"
        subprocess.run([sys.executable, "-c", WRITTEN, str(path)], check=True)
        for name, settings in WAYS.items():
            command = [sys.executable, "-c", MEASURED.format(settings=settings, size=options.size), str(path)]
            seconds, peak = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
            rows.append((name, f"{float(seconds):.1f}", f"{float(peak):,.0f}"))
            print(*rows[-1], file=sys.stderr)
    print(tabulate(rows, ("way", "seconds", "peak memory, MiB"), tablefmt="pipe", disable_numparse=True))


if __name__ == "__main__":
    main()
