r"""The training of a prior: one network, from images to weights, resumable at any step.

The network learns the denoiser :math:`D(x + \sigma \varepsilon, \sigma) \approx E[x \mid x + \sigma \varepsilon]` with the
preconditioning, loss weight and log-normal noise levels of Karras et al., 2022 (https://arxiv.org/abs/2206.00364,
table 1). Step ``n`` draws its crops and its noise from generators seeded by ``(seed, n)``: a run that was killed and
resumed sees what an uninterrupted one sees.
"""

from __future__ import annotations

import contextlib
import copy
import math
import os
import pickle
import platform
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from invdiff.io.codecs import first_line
from invdiff.noise_covariance import NoiseCovariance
from invdiff.operators.core.svd import CoordinateSVD
from invdiff.priors.networks.unet import UNet
from invdiff.priors.noise_maps import edm_input
from invdiff.priors.save import save_prior
from invdiff.training.data import Images
from invdiff.training.distributed import Ranks
from invdiff.training.levels import noise_levels
from invdiff.training.loss import pivot_loss, white_loss
from invdiff.training.noise_law import NoiseLaw, share_of
from invdiff.training.optimiser import MuonAdamW
from invdiff.training.settings import Settings
from invdiff.training.validation import conditional_psnr, denoising_psnr, write_samples

__all__ = ["Report", "train"]

WARM_UP = 200  # steps, but not more than a tenth of all
DECAY = 0.7  # share of the steps over which the learning rate falls to nothing
AVERAGE = 0.9995  # decay of the moving average of the weights, once it has been running for long
LARGEST_VALIDATION = 128  # pixels
BAR_EVERY = 50  # steps between losses on the bar: reading one waits for the GPU
ASK_EVERY = 10  # steps between the moments at which several processes agree on whether to stop


@dataclass(frozen=True)
class Report:
    """How far a training is.

    Attributes:
        step: Steps done.
        loss: Mean loss since the report before.
        psnr: Denoising PSNR in dB of the averaged weights on the held-out images, by noise level on the 0..255 scale.
        crops_per_second: Speed since the report before.
        conditional: PSNR in dB of the posterior mean by one call of a network with maps, by what was measured; see
            :func:`~invdiff.training.validation.conditional_psnr`.
    """

    step: int
    loss: float
    psnr: Mapping[int, float]
    crops_per_second: float
    conditional: Mapping[str, float] = field(default_factory=dict)


def train(
    images: Images,
    out: Path,
    settings: Settings,
    *,
    init: UNet | None = None,
    device: str = "cpu",
    compile_network: bool = False,
    resume: bool = True,
    report_every: int = 500,
    save_seconds: float = 120.0,
    on_report: Callable[[Report], None] | None = None,
    samples: bool = True,
    progress: bool = False,
) -> dict[str, Any]:
    """Train a prior, continuing from the checkpoint beside ``out`` if there is one.

    At every report the averaged weights so far are written to ``out``, and eight samples of them to the folder
    ``<out's stem>-samples``. The checkpoint is ``out`` with the suffix ``.ckpt``. On Ctrl-C and on SIGTERM the step under way
    is finished and saved.

    Under ``torchrun`` every process computes its share of each batch, and the first one writes.

    Args:
        images: What to train on; some are held out.
        out: The ``.safetensors`` file to write.
        settings: What decides the weights. A checkpoint made with others, or on other images, is refused; only ``steps`` may
            change, and the learning rate follows the new plan.
        init: Network to start from, if there is no checkpoint. Its architecture wins over that of the settings.
        device: Where to train.
        compile_network: Whether to compile the network: a minute or two of preparation for faster steps on a GPU.
        resume: Whether to continue from a checkpoint. If not, it is replaced at the first save.
        report_every: Steps between reports.
        save_seconds: Seconds between checkpoints.
        on_report: Called with every report.
        samples: Whether to write sample grids.
        progress: Whether to show a bar.

    Returns:
        The facts a model card needs: steps, images seen, hours, hardware, PSNR and its history.

    Raises:
        ValueError: If a number makes no sense, an image is smaller than the crop, too few are left after the held-out ones,
            the checkpoint is of another run, or training diverged.
        OSError: If a file cannot be written. The last good checkpoint stays.
        KeyboardInterrupt: After a stop by signal, once the state is saved.
    """
    largest = settings.largest_crop
    smallest = int(torch.minimum(images.heights, images.widths).min()) if len(images) else largest
    if smallest < largest:
        raise ValueError(f"train: an image has a side of {smallest} pixels, less than the crop of {largest}.")
    validation = settings.validation or min(16, max(1, len(images) // 10))
    if len(images) <= validation:
        raise ValueError(f"train: {len(images)} images leave none to train on after {validation} for validation.")
    digest = images.digest()
    training, held_out = images.split(validation)
    side = min(LARGEST_VALIDATION, int(torch.minimum(held_out.heights, held_out.widths).min()))
    training, clean = _placed(training, device), held_out.centres(side).to(device)

    with Ranks(device) as ranks, _stop_signals() as stop:
        run = _Run.start(settings, images.channels, device, init)
        checkpoint = out.with_suffix(".ckpt")
        out.parent.mkdir(parents=True, exist_ok=True)
        if resume and checkpoint.exists():
            run.load(checkpoint, settings, digest)
        ranks.require_same(images=digest, checkpoints=run.step)
        run.note_hardware(_hardware(device, ranks.count))
        shares = {stage.batch: ranks.share(stage.batch) for stage in settings.stages}
        law = NoiseLaw(settings, images.channels) if settings.maps else None
        network = ranks.wrap(_compiled(run.net, settings, device) if compile_network else run.net)

        def facts(step: int) -> dict[str, Any]:
            return {
                "steps": step,
                "images_seen": run.seen,
                "hours": round(run.hours(), 3),
                "hardware": "; ".join(run.hardware),
                "software": f"torch {torch.__version__}",
                "photographs": len(training),
                "parameters": sum(p.numel() for p in run.net.parameters()),
                "psnr": {str(level): value for level, value in run.history[-1]["psnr"].items()},
                "history": run.history,
                "settings": settings.plain(),
            }

        def report(step: int, loss: float, speed: float) -> None:
            psnr = denoising_psnr(run.average, clean, sigma_data=settings.sigma_data)
            entry = {"step": step, "loss": round(loss, 5) if math.isfinite(loss) else None, "psnr": psnr}
            known = conditional_psnr(run.average, clean, sigma_data=settings.sigma_data) if settings.maps else {}
            run.history.append(entry | ({"conditional": known} if known else {}))
            run.save(checkpoint, settings, digest)  # first: weights without a checkpoint look like those of another run
            save_prior(run.average, out, sigma_data=settings.sigma_data, facts=facts(step))
            if samples:
                picture = out.with_name(f"{out.stem}-samples") / f"step-{step:07d}.png"
                picture.parent.mkdir(exist_ok=True)
                write_samples(picture, run.average, size=settings.crop, sigma_data=settings.sigma_data, seed=settings.seed)
            if on_report is not None:
                on_report(Report(step, loss, psnr, speed, known))

        if run.step == settings.steps and ranks.first:  # finished before, or stopped right here
            if not run.history or run.history[-1]["step"] != run.step:
                report(run.step, math.nan, math.nan)
            save_prior(run.average, out, sigma_data=settings.sigma_data, facts=facts(run.step))
        losses: list[Tensor] = []
        saved = reported = time.monotonic()
        seen = run.seen
        bar = tqdm(
            range(run.step, settings.steps),
            initial=run.step,
            total=settings.steps,
            desc="train",
            unit=" steps",
            disable=not (progress and ranks.first),
        )
        for step in bar:
            share = shares[settings.stage(step).batch]
            losses.append(_step(network, run, training, settings, law, step, share, torch.device(device)))
            asked = ranks.count == 1 or (step + 1) % ASK_EVERY == 0
            done, stopping = step + 1 == settings.steps, asked and ranks.any(stop.is_set())
            if (step + 1) % BAR_EVERY == 0:
                bar.set_postfix(loss=f"{float(torch.stack(losses[-BAR_EVERY:]).mean()):.4f}")
            if (step + 1) % report_every == 0 or done:
                loss = ranks.mean(torch.stack(losses).mean())
                if ranks.first:
                    report(step + 1, loss, (run.seen - seen) / (time.monotonic() - reported))
                losses, reported, seen = [], time.monotonic(), run.seen
            if ranks.first and (stopping or time.monotonic() - saved > save_seconds):
                run.save(checkpoint, settings, digest)
                saved = time.monotonic()
            if stopping and not done:
                raise KeyboardInterrupt
        return facts(settings.steps) if ranks.first else {}


class _Run:
    """What changes from step to step, and goes into the checkpoint."""

    def __init__(self, net: UNet, rate: float) -> None:
        self.net, self.average = net, copy.deepcopy(net).requires_grad_(False).eval()
        self.optimiser = MuonAdamW(net, rate=rate)
        self.step = self.seen = 0
        self.seconds, self.started = 0.0, time.monotonic()
        self.history: list[dict[str, Any]] = []
        self.hardware: list[str] = []

    def note_hardware(self, hardware: str) -> None:
        self.hardware += [] if hardware in self.hardware else [hardware]

    @classmethod
    def start(cls, settings: Settings, channels: int, device: str, init: UNet | None) -> _Run:
        with torch.random.fork_rng(devices=[]):  # Initial weights come from the global generator, which is given back.
            torch.manual_seed(settings.seed)
            shape: dict[str, Any] = {"widths": settings.widths, "blocks": settings.blocks, "maps": settings.maps}
            net = UNet(channels=channels, **shape) if init is None else init
        if net.config["maps"] != settings.maps:
            raise ValueError(
                f"train: the prior to start from has {net.config['maps']} features of maps of noise, the settings say "
                f"{settings.maps}: `grow(net, ..., maps={settings.maps})` first."
            )
        if net.config["channels"] != channels:
            raise ValueError(f"train: the prior to start from has {net.config['channels']} channels, the images {channels}.")
        net = copy.deepcopy(net).train().requires_grad_()
        return cls(net.to(device, memory_format=torch.channels_last), settings.rate)  # type: ignore[call-overload,unused-ignore]

    def check(self) -> None:
        """Raise if the weights are not finite, so that they never replace good ones."""
        if not all(bool(p.isfinite().all()) for p in self.net.parameters()):
            raise ValueError(f"train: weights are not finite at step {self.step:,}: training diverged. Try a smaller rate.")

    def save(self, path: Path, settings: Settings, digest: str) -> None:
        self.check()
        state = {
            "net": self.net.state_dict(),
            "average": self.average.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "step": self.step,
            "seen": self.seen,
            "seconds": self.hours() * 3600,
            "history": self.history,
            "hardware": self.hardware,
            "settings": settings.plain(),
            "images": digest,
        }
        part = path.with_name(f".{path.name}.part")
        try:
            with part.open("wb") as file:
                torch.save(state, file)
                file.flush()
                os.fsync(file.fileno())  # or a power cut could leave the new name with nothing behind it
            os.replace(part, path)
        except (OSError, RuntimeError) as error:  # torch's own writer raises RuntimeError when a disk is full
            part.unlink(missing_ok=True)
            raise OSError(
                f"{path}: the checkpoint of step {self.step} could not be written ({first_line(error)}); the one before is "
                "kept. Make room and run the same command again to continue from it."
            ) from error

    def load(self, path: Path, settings: Settings, digest: str) -> None:
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
            theirs, images = state["settings"], state["images"]
            step, seen, seconds, history, hardware = (state[n] for n in ("step", "seen", "seconds", "history", "hardware"))
        except (RuntimeError, LookupError, TypeError, ValueError, EOFError, pickle.UnpicklingError) as error:
            # torch's own words advise to run the code in such a file.
            pickled = isinstance(error, pickle.UnpicklingError)
            reason = "it holds something other than tensors and numbers, which was not run" if pickled else first_line(error)
            raise ValueError(
                f"{path}: is damaged or no checkpoint of `invdiff train` ({reason}). Move it away to start anew."
            ) from error
        changed = settings.differences(theirs)
        changed += ["the images are others"] if images != digest else []
        if changed:
            raise ValueError(
                f"{path} is of another run: {'; '.join(changed)}. Repeat its settings to continue it, move it away to start "
                "anew, or start from its weights with --init and another --out."
            )
        if step > settings.steps:
            raise ValueError(f"{path} is at step {step:,} already, expected more steps than {settings.steps:,}.")
        self.net.load_state_dict(state["net"])
        self.average.load_state_dict(state["average"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.step, self.seen, self.seconds, self.history, self.hardware = step, seen, seconds, history, hardware

    def hours(self) -> float:
        return (self.seconds + time.monotonic() - self.started) / 3600


def _step(
    network: nn.Module,
    run: _Run,
    images: Images,
    settings: Settings,
    law: NoiseLaw | None,
    step: int,
    share: slice,
    device: torch.device,
) -> Tensor:
    """Take one optimiser step and return its loss; ``law`` is that of noise for a network with maps."""
    batch, crop, late = settings.stage(step)
    crop_generator, noise_generator = _generators(settings.seed, step, device)
    x = images.crops(batch, crop, crop_generator, flips=settings.flips, part=share).to(device)
    options: dict[str, Any] = {"sigma_data": settings.sigma_data, "bf16": settings.bf16}
    if law is None:
        sigma = noise_levels(settings, batch, crop_generator, late=late)[share].to(device)
        noise = torch.randn((batch, *x.shape[1:]), generator=noise_generator, device=device)[share]
        loss = white_loss(network, x, noise, sigma, **options)
    else:
        drawn = share_of(law.draw(batch, crop, crop_generator, late=late), share, device)
        noise = torch.randn((batch, *x.shape[1:]), generator=noise_generator, device=device)[share]
        loss = pivot_loss(network, x, noise, drawn, **options)
    run.net.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    nn.utils.clip_grad_norm_(run.net.parameters(), 1.0)
    run.optimiser.step(learning_rate(step, settings.steps, settings.rate))
    with torch.no_grad():
        decay = min(AVERAGE, (1 + step) / (10 + step))
        for mean, weight in zip(run.average.parameters(), run.net.parameters(), strict=True):
            mean.lerp_(weight, 1 - decay)
    run.step, run.seen = step + 1, run.seen + batch
    return loss.detach()


def learning_rate(step: int, steps: int, peak: float) -> float:
    """Warm up over 200 steps or a tenth of all, stay, and fall linearly to nothing over the last 70 %."""
    return peak * min(1.0, (step + 1) / min(WARM_UP, max(1, steps / 10)), (steps - step) / (steps * DECAY))


def _generators(seed: int, step: int, device: torch.device) -> tuple[torch.Generator, torch.Generator]:
    """Return the generator of a step's crops and levels, on the CPU, and that of its noise, where the images are."""
    states = np.random.SeedSequence(seed, spawn_key=(step,)).generate_state(2, np.uint32)
    crops, noise = torch.Generator(), torch.Generator(device)
    return crops.manual_seed(int(states[0])), noise.manual_seed(int(states[1]))


@contextlib.contextmanager
def _stop_signals() -> Iterator[threading.Event]:
    """Yield an event that is set by Ctrl-C and SIGTERM, so that a step is never torn."""
    stop, before = threading.Event(), dict[int, Any]()

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def handle(*_: object) -> None:
        stop.set()
        restore()  # a second one does not wait

    if threading.current_thread() is not threading.main_thread():  # Only the main thread may ask for signals.
        yield stop
        return
    before |= {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        restore()


def _placed(images: Images, device: str) -> Images:
    """Return the images with their pixels on the device, if they take less than half of what is free there."""
    if not device.startswith("cuda"):
        return images
    free, _ = torch.cuda.mem_get_info(device)
    return images.to(device) if images.pixels.nbytes < free / 2 else images


def _compiled(net: UNet, settings: Settings, device: str) -> nn.Module:
    """Return the network compiled, or as it is, with a warning, where that fails: no C compiler, or no backend."""
    compiled: nn.Module = torch.compile(net)  # type: ignore[assignment]
    x = torch.zeros(1, net.config["channels"], settings.crop, settings.crop, device=device)
    white = NoiseCovariance(CoordinateSVD(torch.ones(()), x.shape[1:]), torch.ones_like(x))
    asked = edm_input(x, white, sigma_data=settings.sigma_data)
    try:
        with torch.autocast(x.device.type, torch.bfloat16, enabled=settings.bf16):
            compiled(*(asked if settings.maps else asked[:2])).sum().backward()
    except Exception as error:  # every backend has its own
        warnings.warn(f"torch.compile does not work here ({first_line(error)}); training without it.", stacklevel=2)
        return net
    finally:
        net.zero_grad(set_to_none=True)
    return compiled


def _hardware(device: str, count: int) -> str:
    if device.startswith("cuda"):
        return f"{count} x {torch.cuda.get_device_name(device)}"
    return f"{torch.get_num_threads() * count} threads, {platform.machine()}"
