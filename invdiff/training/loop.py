r"""The training loop of a prior, resumable at any step.

The network learns the denoiser :math:`D(x + \sigma \varepsilon, \sigma) \approx E[x \mid x + \sigma \varepsilon]` with the
preconditioning, loss weight and log-normal noise levels of Karras et al., 2022 (https://arxiv.org/abs/2206.00364, table 1).
Step ``n`` draws its crops and its noise from generators seeded by ``(seed, n)``, so an interrupted and resumed run uses the
same random numbers as an uninterrupted one.
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
DECAY = 0.7  # share of the steps over which the learning rate falls to zero
AVERAGE = 0.9995  # decay of the moving average of the weights, after its warm-up
LARGEST_VALIDATION = 128  # pixels
BAR_EVERY = 50  # steps between losses on the progress bar: reading one synchronizes with the GPU
ASK_EVERY = 10  # steps between the points at which several processes agree on whether to stop


@dataclass(frozen=True)
class Report:
    """Progress of a training run.

    Attributes:
        step: Completed steps.
        loss: Mean loss since the previous report.
        psnr: Denoising PSNR in dB of the averaged weights on the held-out images, by noise level on the 0..255 scale.
        crops_per_second: Speed since the previous report.
        conditional: PSNR in dB of the posterior mean from one call of a network with noise maps, by name of the operator; see
            :func:`~invdiff.training.validation.conditional_psnr`. Empty for other networks.
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

    At every report the averaged weights are written to ``out``, and eight of their samples to the folder
    ``<stem of out>-samples``. The checkpoint is ``out`` with the suffix ``.ckpt``. On Ctrl-C or SIGTERM the current step is
    finished and saved.

    Under ``torchrun`` every process computes its share of each batch, and rank 0 writes the files.

    Args:
        images: Training images; some are held out for validation.
        out: The ``.safetensors`` file to write.
        settings: Training settings. A checkpoint made with other settings or other images is refused; only ``steps`` may
            change, and the learning-rate schedule follows the new value.
        init: Network to start from, if there is no checkpoint. Its architecture takes precedence over the settings, except for
            the noise maps, which must agree.
        device: Device to train on.
        compile_network: Whether to compile the network, which takes a minute or two and makes steps on a GPU faster.
        resume: Whether to continue from an existing checkpoint. Otherwise it is replaced at the first save.
        report_every: Steps between reports.
        save_seconds: Seconds between checkpoints.
        on_report: Function called with every report.
        samples: Whether to write sample grids.
        progress: Whether to show a progress bar.

    Returns:
        The facts for a model card, such as steps, images seen, hours, hardware, PSNR and its history. Empty unless rank 0.

    Raises:
        ValueError: If a setting is invalid, an image is smaller than the crop, no images are left for training, the checkpoint
            belongs to another run, ``init`` does not match the settings or the images, or training diverged.
        OSError: If a file cannot be written. The last good checkpoint is kept.
        KeyboardInterrupt: After a stop by a signal, once the state has been saved.
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
            run.save(checkpoint, settings, digest)  # first: weights without a checkpoint look like another run
            save_prior(run.average, out, sigma_data=settings.sigma_data, facts=facts(step))
            if samples:
                picture = out.with_name(f"{out.stem}-samples") / f"step-{step:07d}.png"
                picture.parent.mkdir(exist_ok=True)
                write_samples(picture, run.average, size=settings.crop, sigma_data=settings.sigma_data, seed=settings.seed)
            if on_report is not None:
                on_report(Report(step, loss, psnr, speed, known))

        if run.step == settings.steps and ranks.first:  # finished before, or stopped after the last step
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
    """State of a training run: everything that changes from step to step and is saved in the checkpoint."""

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
        with torch.random.fork_rng(devices=[]):  # Weights are initialized from the global generator, whose state is restored.
            torch.manual_seed(settings.seed)
            shape: dict[str, Any] = {"widths": settings.widths, "blocks": settings.blocks, "maps": settings.maps}
            net = UNet(channels=channels, **shape) if init is None else init
        if net.config["maps"] != settings.maps:
            raise ValueError(
                f"train: the prior to start from has {net.config['maps']} noise-map features, but the settings ask for "
                f"{settings.maps}; call `grow(net, ..., maps={settings.maps})` first."
            )
        if net.config["channels"] != channels:
            raise ValueError(
                f"train: the prior to start from has {net.config['channels']} channels, the images have {channels}."
            )
        net = copy.deepcopy(net).train().requires_grad_()
        return cls(net.to(device, memory_format=torch.channels_last), settings.rate)  # type: ignore[call-overload,unused-ignore]

    def check(self) -> None:
        """Raise ``ValueError`` if the weights are not finite, so that they never replace good ones."""
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
                os.fsync(file.fileno())  # otherwise a power failure could leave an empty file under the new name
            os.replace(part, path)
        except (OSError, RuntimeError) as error:  # torch's own writer raises RuntimeError when a disk is full
            part.unlink(missing_ok=True)
            raise OSError(
                f"{path}: the checkpoint of step {self.step} could not be written ({first_line(error)}); the previous one "
                "is kept. Free some disk space and run the same command again to continue from it."
            ) from error

    def load(self, path: Path, settings: Settings, digest: str) -> None:
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
            theirs, images = state["settings"], state["images"]
            step, seen, seconds, history, hardware = (state[n] for n in ("step", "seen", "seconds", "history", "hardware"))
        except (RuntimeError, LookupError, TypeError, ValueError, EOFError, pickle.UnpicklingError) as error:
            # The message of torch advises loading such a file unsafely, which would run the code in it.
            pickled = isinstance(error, pickle.UnpicklingError)
            reason = "it contains more than tensors and numbers, and was not loaded" if pickled else first_line(error)
            raise ValueError(
                f"{path}: is damaged or not a checkpoint of `invdiff train` ({reason}). Move it away to start from scratch."
            ) from error
        changed = settings.differences(theirs)
        changed += ["the images differ"] if images != digest else []
        if changed:
            raise ValueError(
                f"{path} belongs to another run: {'; '.join(changed)}. Use its settings to continue it, move it away to start "
                "from scratch, or start from its weights with --init and another --out."
            )
        if step > settings.steps:
            raise ValueError(f"{path} is already at step {step:,}, expected at least as many steps, got {settings.steps:,}.")
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
    """Take one optimizer step and return its loss; ``law`` draws the noise covariances for a network with noise maps."""
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
    """Return the learning rate: warm-up over min(200, steps / 10) steps, constant, linear decay to 0 over the last 70 %."""
    return peak * min(1.0, (step + 1) / min(WARM_UP, max(1, steps / 10)), (steps - step) / (steps * DECAY))


def _generators(seed: int, step: int, device: torch.device) -> tuple[torch.Generator, torch.Generator]:
    """Return the CPU generator of a step's crops and noise levels, and the generator of its noise on ``device``."""
    states = np.random.SeedSequence(seed, spawn_key=(step,)).generate_state(2, np.uint32)
    crops, noise = torch.Generator(), torch.Generator(device)
    return crops.manual_seed(int(states[0])), noise.manual_seed(int(states[1]))


@contextlib.contextmanager
def _stop_signals() -> Iterator[threading.Event]:
    """Yield an event that is set by Ctrl-C and SIGTERM, so that a step is always completed."""
    stop, before = threading.Event(), dict[int, Any]()

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def handle(*_: object) -> None:
        stop.set()
        restore()  # a second signal does not wait for the end of the step

    if threading.current_thread() is not threading.main_thread():  # Only the main thread can install signal handlers.
        yield stop
        return
    before |= {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        restore()


def _placed(images: Images, device: str) -> Images:
    """Return the images with their pixels on the device, if they take less than half of its free memory."""
    if not device.startswith("cuda"):
        return images
    free, _ = torch.cuda.mem_get_info(device)
    return images.to(device) if images.pixels.nbytes < free / 2 else images


def _compiled(net: UNet, settings: Settings, device: str) -> nn.Module:
    """Return the compiled network, or with a warning the network itself if compiling fails (no C compiler or backend)."""
    compiled: nn.Module = torch.compile(net)  # type: ignore[assignment]
    x = torch.zeros(1, net.config["channels"], settings.crop, settings.crop, device=device)
    white = NoiseCovariance(CoordinateSVD(torch.ones(()), x.shape[1:]), torch.ones_like(x))
    asked = edm_input(x, white, sigma_data=settings.sigma_data)
    try:
        with torch.autocast(x.device.type, torch.bfloat16, enabled=settings.bf16):
            compiled(*(asked if settings.maps else asked[:2])).sum().backward()
    except Exception as error:  # every backend raises its own exceptions
        warnings.warn(f"torch.compile failed ({first_line(error)}); training without it.", stacklevel=2)
        return net
    finally:
        net.zero_grad(set_to_none=True)
    return compiled


def _hardware(device: str, count: int) -> str:
    if device.startswith("cuda"):
        return f"{count} x {torch.cuda.get_device_name(device)}"
    return f"{torch.get_num_threads() * count} threads, {platform.machine()}"
