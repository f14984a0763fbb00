"""Fit the networks of ``invdiff.damage`` to photographs with synthetic damage.

    python benchmarks/mask_fit.py first photos/ *.tar --out first.pt --minutes 20
    python benchmarks/mask_fit.py second photos/ *.tar --first first.pt --out invdiff/damage/detectors.safetensors --minutes 20

The first network sees pictures and their thin structures. The second starts as a copy of it and sees as well what the prior expects
in the places that the first suspects. Every 40th picture is left out, for :func:`check`.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

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
from invdiff.damage.detection import first_inputs, second_inputs, suspected
from invdiff.damage.network import Detector
from invdiff.damage.prediction import prediction
from invdiff.training.data import load_images

CLASS = {"scratches": 1, "cracks": 1, "dust": 2, "stamp": 3, "overlay": 3}  # 0: no damage
LEFT_OUT = 40
BATCH, RATE, AVERAGE = 4, 2e-3, 0.01
INPUTS = {"first": 5, "second": 10}


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
    kinds = rng.choice(list(KINDS), rng.choice(3, p=(0.2, 0.55, 0.25)), replace=False)
    quality = None if rng.random() < 0.5 else int(rng.integers(75, 98))
    for number, kind in enumerate(kinds):
        picture, mask = damaged(picture, kind, rng, jpeg=quality if number == len(kinds) - 1 else None)
        classes[mask] = CLASS[kind]
    if rng.random() < 0.15:
        picture = (picture + rng.normal(0, rng.uniform(0, 0.03), picture.shape)).clip(0, 1)
    return torch.from_numpy(picture * 2 - 1).float().permute(2, 0, 1), torch.from_numpy(classes)


def fit(net: Detector, batches: Iterator[tuple[Tensor, Tensor]], minutes: float, rate: float) -> int:
    """Minimize cross entropy and one minus Dice's coefficient of all damage; leave the average of the weights in ``net``."""
    weights, start, step = list(net.parameters()), time.time(), 0
    optimizer, average = torch.optim.Adam(weights, rate), [weight.detach().clone() for weight in weights]
    while (done := (time.time() - start) / 60 / minutes) < 1:
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1, (step + 1) / 150, max(0.02, 1.5 * (1 - done)))
        x, classes = next(batches)
        with torch.autocast("cpu", torch.bfloat16):
            logits = net(x.contiguous(memory_format=torch.channels_last)).float()
        p, truth = 1 - logits.softmax(1)[:, 0], (classes > 0).float()
        dice = (2 * (p * truth).sum() + 50) / ((p + truth).sum() + 50)
        loss = 5 * F.cross_entropy(logits, classes) + 0.5 * (1 - dice)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
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


def second_from(first: Detector) -> Detector:
    """Return the second network as a copy of the first, blind to its other inputs at the start."""
    net = Detector(INPUTS["second"], first.classes)
    own, given = net.state_dict(), first.state_dict()
    for name, weight in given.items():
        if own[name].shape == weight.shape:
            own[name].copy_(weight)
        else:  # the first layer; channels are folded in groups of one input each
            own[name].zero_()
            own[name][:, : weight.shape[1]] = weight
    return net


@torch.no_grad()
def judged_inputs(first: Detector, score: Any, x: Tensor) -> Tensor:
    """Return the inputs of the second network for pictures ``(B, 3, H, W)``."""
    probability = 1 - first(first_inputs(x)).softmax(1)[:, :1]
    hidden = suspected(probability)
    expected = torch.cat([prediction(score, x[k : k + 1], hidden[k : k + 1]) for k in range(len(x))])
    return second_inputs(x, expected, probability, hidden)


def check(name: str, marked: Callable[[Tensor], Tensor], photos: Photographs, indices: NDArray[np.int64], size: int) -> None:
    """Print the best F1 and its threshold over the left out photographs."""
    rng, found = np.random.default_rng(7), list[tuple[Tensor, Tensor]]()
    for index in indices:
        photo = photos[index][:size, :size]
        picture, mask = damaged(photo, str(rng.choice(list(KINDS))), rng)
        found.append((marked(torch.from_numpy(picture * 2 - 1).float().permute(2, 0, 1)[None])[0], torch.from_numpy(mask)))
    p, truth = (torch.stack(part) for part in zip(*found, strict=True))
    for level in (0.2, 0.3, 0.4, 0.5, 0.6, 0.7):
        hits = int(((p > level) & truth).sum())
        precision, recall = hits / max(int((p > level).sum()), 1), hits / int(truth.sum())
        print(f"{name}: above {level}: precision {precision:.3f}, recall {recall:.3f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("which", choices=("first", "second"))
    parser.add_argument("sources", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--first", type=Path)
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--cases", type=int, default=500, help="cases with predictions of the prior, for the second network")
    given = parser.parse_args()
    size = 192 if given.which == "first" else 160
    photos = Photographs(given.sources, smallest=192)
    numbers = np.arange(len(photos))
    left, kept = numbers[::LEFT_OUT], np.setdiff1d(numbers, numbers[::LEFT_OUT])
    rng = np.random.default_rng(1)
    torch.manual_seed(0)
    first = Detector(INPUTS["first"], 1 + len(CLASSES))
    if given.which == "first":
        first.out.bias.data.view(first.classes, -1)[0] = 4.0  # damage is rare

        def fresh() -> Iterator[tuple[Tensor, Tensor]]:
            while True:
                x, classes = (torch.stack(part) for part in zip(*(case(photos, kept, rng, size) for _ in range(BATCH)), strict=True))
                yield first_inputs(x), classes

        steps = fit(first.to(memory_format=torch.channels_last), fresh(), given.minutes, RATE)
        check("first", lambda x: 1 - first(first_inputs(x)).softmax(1)[:, 0], photos, left, size)
        torch.save({"weights": first.state_dict(), "steps": steps, "photographs": len(kept)}, given.out)
        return
    before = torch.load(given.first)
    first.load_state_dict(before["weights"])
    first.requires_grad_(False)
    score = invdiff.load_prior("natural")
    x, classes = (torch.stack(part) for part in zip(*(case(photos, kept, rng, size) for _ in range(given.cases)), strict=True))
    start = time.time()
    inputs = torch.cat([judged_inputs(first, score, part) for part in x.split(1)])
    print(f"{given.cases} cases in {time.time() - start:.0f} s", flush=True)

    def stored() -> Iterator[tuple[Tensor, Tensor]]:
        while True:
            chosen = torch.from_numpy(rng.choice(len(inputs), BATCH, replace=False))
            some, truth = inputs[chosen], classes[chosen]
            for axes in ((-1,), (-2,)):
                if rng.random() < 0.5:
                    some, truth = some.flip(*axes), truth.flip(*axes)
            yield some, truth

    second = second_from(first)
    steps = fit(second.to(memory_format=torch.channels_last), stored(), given.minutes, RATE / 2)
    check("first", lambda x: 1 - first(first_inputs(x)).softmax(1)[:, 0], photos, left, size)
    check("second", lambda x: 1 - second(judged_inputs(first, score, x)).softmax(1)[:, 0], photos, left, size)
    facts = {
        "classes": ["none", *CLASSES],
        "photographs": before["photographs"],
        "first": {"channels": INPUTS["first"], "steps": before["steps"], "batch": BATCH},
        "second": {"channels": INPUTS["second"], "steps": steps, "batch": BATCH, "cases": given.cases},
    }
    tensors = {
        f"{name}.{key}": value.half().contiguous()
        for name, net in (("first", first), ("second", second))
        for key, value in net.state_dict().items()
    }
    save_file(tensors, given.out, {"facts": json.dumps(facts)})


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
