"""Measure time and memory of loading a checkpoint: ``load_prior`` compared with ``torch.load`` itself.

    python benchmarks/loading.py

A network with the shapes of the FFHQ model of DPS (94 million weights, random) is written by ``torch.save`` and converted by
``invdiff priors convert``. Each way of loading runs in its own processes, in turn, and reads every weight once, because mapped
files take no time and memory before. Peak memory is that of the process above its memory after the imports. One thread.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from tabulate import tabulate

WRITTEN = """
import sys, torch
from invdiff.priors.networks.adm import ADM
net = ADM(channels=3, width=128, multipliers=[1, 1, 2, 2, 4, 4], blocks=1, attention=[16], head_channels=64, updown=True)
torch.save(net.state_dict(), sys.argv[1])
"""
WAYS = {
    "torch.load": ("pt", "weights = torch.load(path, weights_only=True, map_location='cpu').values()"),
    "load_prior, .pt": ("pt", "weights = load_prior(path, precision='float32').net.parameters()"),
    "safetensors' load_file": ("safetensors", "weights = load_file(path).values()"),
    "load_prior, .safetensors": ("safetensors", "weights = load_prior(path, precision='float32').net.parameters()"),
}
MEASURED = """
import resource, sys, time
import torch
from safetensors.torch import load_file
from invdiff.priors import load_prior, from_network
import invdiff.priors.networks.adm, invdiff.priors.checkpoints.guided_diffusion, torch.nested
torch.set_num_threads(1)
path = sys.argv[1]
before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
{way}
total = sum(float(weight.sum()) for weight in weights)
seconds = time.perf_counter() - started
print(seconds, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--rounds", type=int, default=5, help="repetitions (default: %(default)s)")
    options = parser.parse_args()
    measured: dict[str, list[tuple[float, float]]] = {name: [] for name in WAYS}
    with tempfile.TemporaryDirectory() as folder:
        files = {suffix: Path(folder) / f"ffhq.{suffix}" for suffix in ("pt", "safetensors")}
        # Not in this process: the peak memory of a process begins with that of the one that started it.
        subprocess.run([sys.executable, "-c", WRITTEN, str(files["pt"])], check=True)
        convert = [sys.executable, "-m", "invdiff", "priors", "convert", str(files["pt"]), "--out", str(files["safetensors"])]
        subprocess.run(convert, check=True, capture_output=True)
        sizes = {suffix: path.stat().st_size / 2**20 for suffix, path in files.items()}
        for _ in range(options.rounds):
            for name, (suffix, way) in WAYS.items():
                command = [sys.executable, "-c", MEASURED.format(way=way), str(files[suffix])]
                seconds, peak = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
                measured[name].append((float(seconds), float(peak)))
    rows = []
    for name, runs in measured.items():
        suffix, reference = WAYS[name][0], statistics.median(s for s, _ in measured["torch.load"])
        seconds, peak = statistics.median(s for s, _ in runs), max(p for _, p in runs)
        rows.append(
            (name, f"{sizes[suffix]:.0f}", f"{seconds:.2f}", f"{seconds / reference:.2f}", f"{peak / sizes[suffix]:.2f}")
        )
    print(
        tabulate(rows, ("way", "MiB", "seconds", "of torch.load", "peak memory / size"), tablefmt="pipe", disable_numparse=True)
    )


if __name__ == "__main__":
    main()
