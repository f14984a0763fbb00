"""Fit the detector of ``invdiff.damage`` to photographs with synthetic damage.

    python benchmarks/mask_fit.py photos/ *.tar --minutes 60

First the network, then the weights of what the prior is surprised at in the places that the network suspects. Every 40th
photograph is left out of both, and used for the figures that are printed.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from mask_damage import KINDS, damaged
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

import invdiff
from invdiff.damage import KINDS as CLASSES
from invdiff.damage.detection import SUSPECT, inputs, suspected
from invdiff.damage.network import FEATURES, Detector
from invdiff.damage.prediction import prediction
from invdiff.damage.surprise import SIGNS, judged, signs
from invdiff.damage.weights import FILE
from invdiff.priors import ScoreModel
from invdiff.training.data import load_images
from invdiff.training.optimiser import MuonAdamW

CLASS = {"scratches": 1, "cracks": 1, "dust": 2, "stamp": 3, "overlay": 3}  # 0: no damage
LEFT_OUT = 40
BATCH, SIDE, RATE, AVERAGE = 8, 128, 3e-3, 0.01
SIDE_WITH_PRIOR = 160


class Photographs:
    """Photographs of a folder or archive, as arrays ``(H, W, 3)`` spanning 0..1."""

    def __init__(self, sources: list[Path], *, smallest: int) -> None:
        self.images, _ = load_images(sources, smallest=smallest, channels=3)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> NDArray[np.float64]:
        offset, height, width = (int(n[index]) for n in (self.images.offsets, self.images.heights, self.images.widths))
        return self.images.pixels[offset : offset + 3 * height * width].view(height, width, 3).numpy() / 255


def crop(photo: NDArray[np.float64], rng: np.random.Generator, size: int) -> NDArray[np.float64]:
    """Return a random crop, often enlarged, gray, noisy or of other brightness, since people's pictures are."""
    if rng.random() < 0.35:
        sides = [int(side * rng.uniform(1, 2)) for side in photo.shape[1::-1]]
        photo = np.asarray(Image.fromarray((photo * 255).astype(np.uint8)).resize(sides, Image.Resampling.BICUBIC)) / 255
    top, left = (rng.integers(side - size + 1) for side in photo.shape[:2])
    photo = photo[top : top + size, left : left + size]
    if rng.random() < 0.5:
        photo = photo[:, ::-1]
    tint = rng.random()
    if tint < 0.23:
        photo = (photo.mean(-1, keepdims=True) * np.array((1, 1, 1) if tint < 0.15 else (1, 0.9, 0.75))).clip(0, 1)
    photo = photo ** rng.uniform(0.7, 1.4)
    return (photo + rng.normal(0, rng.uniform(0, 0.05), photo.shape)).clip(0, 1) if rng.random() < 0.25 else photo


def case(photos: Photographs, indices: NDArray[np.int64], rng: np.random.Generator, size: int) -> tuple[Tensor, Tensor]:
    """Return a picture ``(3, H, W)`` with up to two kinds of damage, and the class of every pixel."""
    picture = crop(photos[rng.choice(indices)], rng, size)
    classes = np.zeros(picture.shape[:2], np.int64)
    kinds = rng.choice(list(KINDS), rng.choice(3, p=(0.15, 0.45, 0.4)), replace=False)
    quality = None if rng.random() < 0.5 else int(rng.integers(75, 98))
    for number, kind in enumerate(kinds):
        picture, mask = damaged(picture, kind, rng, jpeg=quality if number == len(kinds) - 1 else None)
        classes[mask] = CLASS[kind]
    if rng.random() < 0.15:
        picture = (picture + rng.normal(0, rng.uniform(0, 0.03), picture.shape)).clip(0, 1)
    return torch.from_numpy(picture * 2 - 1).float().permute(2, 0, 1), torch.from_numpy(classes)


def fit(net: Detector, batches: Iterator[tuple[Tensor, Tensor]], minutes: float) -> int:
    """Minimize cross entropy and one minus Dice's coefficient of all damage; leave the average of the weights in ``net``."""
    weights, start, step = list(net.parameters()), time.time(), 0
    optimizer, average = MuonAdamW(net, rate=RATE), [weight.detach().clone() for weight in weights]
    while (done := (time.time() - start) / 60 / minutes) < 1:
        x, classes = next(batches)
        with torch.autocast("cpu", torch.bfloat16):
            logits = net(x.contiguous(memory_format=torch.channels_last)).float()
        p, truth = 1 - logits.softmax(1)[:, 0], (classes > 0).float()
        dice = (2 * (p * truth).sum() + 50) / ((p + truth).sum() + 50)
        loss = 5 * F.cross_entropy(logits, classes) + 0.5 * (1 - dice)
        net.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step(RATE * min(1, (step + 1) / 30, max(0.01, 1.4 * (1 - done))))
        step += 1
        with torch.no_grad():
            for mean, weight in zip(average, weights, strict=True):
                mean.lerp_(weight, max(AVERAGE, 1 / step))
        if step % 100 == 0:
            print(f"step {step}, loss {float(loss.detach()):.3f}, {100 * done:.0f} %", flush=True)
    with torch.no_grad():
        for mean, weight in zip(average, weights, strict=True):
            weight.copy_(mean)
    return step


@torch.no_grad()
def asked(net: Detector, score: ScoreModel, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the probabilities of the classes for one picture, what the prior sees there, and where it was asked."""
    found = net(inputs(x)).softmax(1)
    probability = 1 - found[:, :1]
    hidden = suspected(probability)
    if not hidden.any() or hidden.all():
        return found, found.new_zeros(1, SIGNS, *x.shape[2:]), torch.zeros_like(hidden)
    seen = signs(x, prediction(score, x, hidden), hidden, probability)
    return found, seen, hidden & (probability > SUSPECT)


def fit_surprise(net: Detector, score: ScoreModel, cases: Iterator[tuple[Tensor, Tensor]], count: int) -> Tensor:
    """Return the weights of logistic regression on the suspected pixels of ``count`` cases, ``(SIGNS,)``."""
    rows, truths = list[Tensor](), list[Tensor]()
    for _ in range(count):
        x, classes = next(cases)
        _, seen, where = asked(net, score, x)
        rows.append(seen[0][:, where[0, 0]].T)
        truths.append((classes > 0)[where[:, 0]].float())
    seen, truth = torch.cat(rows).double(), torch.cat(truths).double()
    scale = seen.square().mean(0).sqrt()
    weights = torch.zeros(SIGNS, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([weights], max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = F.binary_cross_entropy_with_logits(seen / scale @ weights, truth) + 1e-4 * weights.square().sum()
        value.backward()  # type: ignore[no-untyped-call]
        return value

    optimizer.step(loss)  # type: ignore[arg-type]
    return (weights.detach() / scale).float()


def check(net: Detector, weights: Tensor, score: ScoreModel, photos: Photographs, left: NDArray[np.int64]) -> None:
    """Print precision and recall on the photographs that were left out, without and with the prior."""
    rng = np.random.default_rng(7)
    parts: dict[str, list[Tensor]] = {"network": [], "with the prior": []}
    truths = list[Tensor]()
    for index in left:
        photo = photos[index][:SIDE_WITH_PRIOR, :SIDE_WITH_PRIOR]
        picture, mask = damaged(photo, str(rng.choice(list(KINDS))), rng)
        found, seen, where = asked(net, score, torch.from_numpy(picture * 2 - 1).float().permute(2, 0, 1)[None])
        parts["network"].append(1 - found[0, 0])
        parts["with the prior"].append(1 - torch.where(where, judged(weights, found, seen), found)[0, 0])
        truths.append(torch.from_numpy(mask))
    truth = torch.stack(truths)
    for name, probabilities in parts.items():
        p = torch.stack(probabilities)
        for level in (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8):
            hits = int(((p > level) & truth).sum())
            precision, recall = hits / max(int((p > level).sum()), 1), hits / int(truth.sum())
            f1 = 2 * precision * recall / max(precision + recall, 1e-9)
            print(f"{name}, above {level}: precision {precision:.3f}, recall {recall:.3f}, F1 {f1:.3f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sources", nargs="+", type=Path, help="folders and tar archives of photographs")
    parser.add_argument("--minutes", type=float, default=60.0, help="of fitting the network (default: %(default)s)")
    parser.add_argument("--network", type=Path, help="continue with the network in this file, kept from an earlier run")
    parser.add_argument("--keep", type=Path, help="keep the network here before the prior is asked")
    parser.add_argument("--cases", type=int, default=200, help="pictures on which the prior is asked (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=FILE, help="(default: %(default)s)")
    given = parser.parse_args()
    photos = Photographs(given.sources, smallest=192)
    numbers = np.arange(len(photos))
    left = numbers[::LEFT_OUT]
    kept = np.setdiff1d(numbers, left)
    rng = np.random.default_rng(1)
    torch.manual_seed(0)

    def batches(count: int, side: int) -> Iterator[tuple[Tensor, Tensor]]:
        while True:
            x, classes = (
                torch.stack(part) for part in zip(*(case(photos, kept, rng, side) for _ in range(count)), strict=True)
            )
            yield x, classes

    net = Detector(3 + FEATURES, 1 + len(CLASSES)).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if given.network is None:
        net.out.bias.data.view(net.classes, -1)[0] = 4.0  # damage is rare
    else:
        net.load_state_dict(torch.load(given.network))
    steps = fit(net, ((inputs(x), classes) for x, classes in batches(BATCH, SIDE)), given.minutes) if given.minutes else 0
    if given.keep is not None:
        torch.save(net.state_dict(), given.keep)
    net.eval().requires_grad_(False)
    score = invdiff.load_prior("natural")
    weights = fit_surprise(net, score, batches(1, SIDE_WITH_PRIOR), given.cases)
    print("weights of the signs:", weights.tolist())
    check(net, weights, score, photos, left)
    facts = {"classes": ["none", *CLASSES], "photographs": len(kept), "steps": steps, "batch": BATCH, "cases": given.cases}
    tensors = {name: value.half().contiguous() for name, value in net.state_dict().items()} | {"surprise": weights}
    save_file(tensors, given.out, {"facts": json.dumps(facts)})


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
