"""``invdiff train``: train a prior on a folder of images."""

from __future__ import annotations

import math
import os
import shlex
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from invdiff.cli.messages import is_quiet, log, log_settings, message_options, note, shows_bars
from invdiff.cli.prior_options import check_text
from invdiff.io.printable import printable
from invdiff.io.signals import Stopped

if TYPE_CHECKING:
    from invdiff.training import Report

__all__ = ["train"]

EPILOG = """\b
Examples:
  invdiff train photos/ --out mine.safetensors --steps 1000        minutes on a CPU, as a test
  invdiff train photos/ --out mine.safetensors --init natural      start from the bundled prior
  invdiff train photos/ --out mine.safetensors --init natural --noise-maps --late-crop 128     for --method exact-score
  invdiff train scans.tar --out ct.safetensors --channels 1 --flips all --license CC0-1.0
  torchrun --nproc-per-node 4 --no-python invdiff train photos/ --out mine.safetensors --batch 256
  invdiff solve x.png --problem sr --factor 2 --prior mine.safetensors

Training is resumable: after an interruption, the same command continues from the last checkpoint and yields the same weights.
"""
FLIPS = ("none", "horizontal", "all")  # written out because the help must not import torch
NETWORK = {"widths": (32, 64, 128, 192, 256), "blocks": (1, 1, 1, 2, 2)}
MAPS = 32  # features of the maps of noise
SHOWN = 20  # number of skipped files that are listed


def _numbers(context: click.Context, param: click.Parameter, value: str | None) -> tuple[int, ...] | None:
    if value is None:
        return None
    try:
        numbers = tuple(int(number) for number in value.split(","))
    except ValueError:
        numbers = ()
    if not numbers or min(numbers) < 1:
        raise click.BadParameter(f"{value!r} is not a list of positive whole numbers such as 32,64,128.")
    return numbers


def _positive(context: click.Context, param: click.Parameter, value: float) -> float:
    if not (math.isfinite(value) and value > 0):
        raise click.BadParameter(f"{value} is not a positive number.")
    return value


@click.command(epilog=EPILOG, context_settings={"max_content_width": 110, "show_default": True})
@click.argument("sources", metavar="FOLDER_OR_TAR...", type=click.Path(path_type=Path), nargs=-1, required=True)
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), required=True, help="The .safetensors file to write.")
@click.option("--steps", type=click.IntRange(min=1), default=20000, help="Total number of optimizer steps.")
@click.option("--batch", type=click.IntRange(min=1), default=16, help="Crops per step, summed over all devices.")
@click.option("--crop", type=click.IntRange(min=8), default=64, help="Side of the random crops in pixels.")
@click.option(
    "--late-crop", type=click.IntRange(min=8), help="Side of the crops in the last third, with fewer crops and more high noise."
)
@click.option("--rate", type=float, default=3e-3, callback=_positive, help="Largest learning rate.")
@click.option("--widths", callback=_numbers, help="Network features per resolution. Default: 32,64,128,192,256.")
@click.option("--blocks", callback=_numbers, help="Residual blocks per resolution. Default: 1,1,1,2,2.")
@click.option("--init", help="Prior to start from, `natural` or a file. Blocks and resolutions may be added.")
@click.option(
    "--noise-maps/--no-noise-maps",
    default=None,
    show_default=False,
    help="Also train for masks, mosaics, circular blur, decimation (method exact-score). Default: as --init.",
)
@click.option("--channels", type=click.Choice(("1", "3")), help="Convert all images to gray or RGB. Default: unchanged.")
@click.option("--side", type=click.IntRange(min=8), help="Downscale larger images to this shorter side. Default: unchanged.")
@click.option(
    "--flips", type=click.Choice(FLIPS), default="horizontal", help="Random flips of crops; all: the 8 symmetries of a square."
)
@click.option("--validation", type=click.IntRange(min=1), help="Number of held-out images. Default: a tenth, at most 16.")
@click.option("--license", multiple=True, help="License or credit of the images, for the model card. Repeatable.")
@click.option("--report-every", type=click.IntRange(min=1), help="Steps between reports. Default: a twentieth of --steps.")
@click.option(
    "--precision",
    type=click.Choice(("auto", "float32", "bfloat16")),
    default="auto",
    help="Precision of the network; auto uses bfloat16 if the processor has units for it.",
)
@click.option("--device", default="auto", help="cpu, cuda, cuda:1, ...; auto uses a GPU if there is one.")
@click.option(
    "--compile/--no-compile", "compiled", default=None, help="Use torch.compile. Default: on a GPU.", show_default=False
)
@click.option("--seed", type=click.IntRange(min=0), default=0, help="Random seed of weights, crops and noise.")
@click.option("--overwrite", is_flag=True, help="Start over, replacing the files of an earlier training in --out.")
@message_options
def train(sources: tuple[Path, ...], out: Path, overwrite: bool, **options: Any) -> None:
    """Train a diffusion prior on all images in folders and tar archives.

    All image formats of `invdiff solve` are read, with any number of channels and any size not below that of the crops. Files
    that cannot be read are listed and skipped. Besides the weights, the command writes the checkpoint to continue from (.ckpt),
    a model card (.md) and a folder of samples of the prior during training.
    """
    _check_out(out, overwrite)
    log_settings("train", {"sources": " ".join(map(str, sources)), "out": out, **options})
    # Imported here, so that `invdiff train --help` does not import torch.
    from invdiff.priors import UNet
    from invdiff.priors.load import assumptions, has_bfloat16_units, load_network
    from invdiff.priors.save import BUNDLED
    from invdiff.restoration.device import pick_device
    from invdiff.training import Settings, load_images
    from invdiff.training import train as run
    from invdiff.training.card import write_card
    from invdiff.training.distributed import local_device
    from invdiff.training.expand import grow
    from invdiff.training.outputs import SKIPPED, Outputs

    outputs = Outputs(out)
    read = [*sources, *([] if options["init"] is None else [BUNDLED.get(options["init"], Path(options["init"]))])]
    outputs.check(read, resume=not overwrite)
    device = pick_device(local_device(options["device"]))
    first, bar = int(os.environ.get("RANK", "0")) == 0, shows_bars()
    net, sigma_data = None, 0.5
    shape: dict[str, Any] = {name: options[name] or default for name, default in NETWORK.items()}
    shape["maps"] = MAPS if options["noise_maps"] else 0
    if options["init"] is not None:
        first_net, spec = load_network(options["init"])
        for text in assumptions(Path(options["init"]), spec) if first else ():
            note(text)
        if not isinstance(first_net, UNet):
            raise ValueError(
                f"--init {options['init']}: its network is {spec.architecture}, expected a prior trained by `invdiff train`."
            )
        net, sigma_data = first_net, spec.sigma_data
        shape = {name: options[name] or tuple(net.config[name]) for name in NETWORK}
        wanted = net.config["maps"] > 0 if options["noise_maps"] is None else options["noise_maps"]
        shape["maps"] = (net.config["maps"] or MAPS) if wanted else 0
        net = grow(net, **shape, seed=options["seed"])
    channels = None if options["channels"] is None else int(options["channels"])
    precision = options["precision"]
    names = ("steps", "batch", "crop", "late_crop", "rate", "flips", "validation", "seed", "init")
    given = {name: options[name] for name in names}
    settings = Settings(
        **given,
        **shape,
        sigma_data=sigma_data,
        bf16=precision == "bfloat16" or (precision == "auto" and has_bfloat16_units(device)),
    )
    images, skipped = load_images(
        sources, smallest=settings.largest_crop, channels=channels, side=options["side"], progress=bar and first
    )
    if first:
        _say_skipped(skipped, outputs.skipped, heading=SKIPPED)
        say(f"{len(images):,} images with {images.channels} channels; training on {device}")
    try:
        facts = run(
            images,
            out,
            settings,
            init=net,
            device=str(device),
            compile_network=device.type == "cuda" if options["compiled"] is None else options["compiled"],
            resume=not overwrite,
            report_every=options["report_every"] or max(1, options["steps"] // 20),
            on_report=_Table(),
            progress=bar,
        )
    except KeyboardInterrupt as error:
        there = f"continues from {outputs.checkpoint}" if outputs.checkpoint.exists() else "starts over"
        number = error.number if isinstance(error, Stopped) else signal.SIGINT
        raise Stopped(number, f"The same command {there}." if first else "") from error
    if first:
        write_card(
            outputs.card,
            facts,
            images,
            sources=[str(source) for source in sources],
            skipped=len(skipped),
            licenses=options["license"],
            command=shlex.join(["invdiff", *sys.argv[1:]]),
        )
        seen, hours = facts["images_seen"], facts["hours"]
        say(f"{out}: {facts['steps']:,} steps, {seen:,} crops, {hours:.2f} h. Card: {outputs.card}")


def say(text: str) -> None:
    """Print a line of the report on stdout, and log it."""
    log(text)
    if not is_quiet():
        click.echo(printable(text))


class _Table:
    """Print one aligned line per report, under one heading."""

    def __init__(self) -> None:
        self.headed = False

    def __call__(self, report: Report) -> None:
        from tqdm import tqdm

        if not self.headed and not is_quiet():
            levels = "".join(f"{f'sigma {level}':>11}" for level in report.psnr)
            names = "".join(f"{name:>8}" for name in report.conditional)
            what = "PSNR in dB of denoising, and of E[x0 | y] from one evaluation" if names else "denoising PSNR in dB"
            tqdm.write(f"{'step':>9} {'loss':>8} {'crops/s':>8}{levels}{names}   ({what})")
            self.headed = True
        values = "".join(f"{value:11.2f}" for value in report.psnr.values())
        values += "".join(f"{value:8.2f}" for value in report.conditional.values())
        line = f"{report.step:>9,} {report.loss:8.4f} {report.crops_per_second:8.0f}{values}"
        log(line)
        if is_quiet():
            return
        tqdm.write(line)
        sys.stdout.flush()  # so that a log file shows it at once


def _check_out(out: Path, overwrite: bool) -> None:
    if out.suffix != ".safetensors":
        raise click.BadParameter(f"{out}: the name must end in .safetensors.", param_hint="--out")
    check_text(out)
    if out.exists() and not out.with_suffix(".ckpt").exists() and not overwrite:
        raise click.UsageError(
            f"{out} exists and no checkpoint of its training is beside it. Choose another --out or give --overwrite."
        )


def _say_skipped(skipped: Sequence[str], path: Path, *, heading: str) -> None:
    """List the first skipped files on stderr, and all of them in a file if there are more."""
    for line in skipped[:SHOWN]:
        note(f"skipped {line}")
    where = ""
    if len(skipped) > SHOWN:
        from invdiff.io.images import atomic_write

        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as part:
            part.write_text("\n".join([heading, *skipped, ""]), encoding="utf-8", errors="backslashreplace")
        where = f"; all of them are listed in {path}"
    if skipped:
        note(f"skipped {len(skipped)} files{where}")
