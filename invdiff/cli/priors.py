"""``invdiff priors``: list the bundled priors; inspect, convert and measure checkpoints."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from invdiff.cli.prior_options import check_text, given_options, prior_option
from invdiff.io.printable import printable

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["priors"]

WIDTH = 100  # characters of the last column
LONGEST = 1000  # characters of an entry
CARD = 2**16  # bytes of a model card in which its summary and license are looked for
LISTED = ("assumed", "parts", "options")
AS_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
SOURCE = click.argument("source", metavar="FILE")
DTYPES = ("float32", "bfloat16", "float16")


class _Priors(click.Group):
    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        if self.get_command(ctx, args[0]) is None and not args[0].startswith("-"):
            ctx.fail(f"No such command {args[0]!r}. For a checkpoint: invdiff priors inspect {args[0]}")
        return super().resolve_command(ctx, args)


@click.group(cls=_Priors, invoke_without_command=True)
@AS_JSON
@click.pass_context
def priors(ctx: click.Context, as_json: bool) -> None:
    """List the bundled diffusion priors, or inspect, convert and measure checkpoints for `invdiff solve --prior`.

    \b
    Checkpoint formats are detected from the file contents and loaded without executing code:
      guided-diffusion, improved-diffusion   state dicts, .pt
      EDM                                    pickles, .pkl
      score-SDE (NCSN++, DDPM++)             checkpoints, .pth
      diffusers (UNet2DModel)                folders and hub ids; pip install "invdiff[diffusers]"
      Stable Diffusion, Flux, DeepFloyd IF,
      unCLIP, DiT, latent diffusion          folders and hub ids of diffusers; pip install "invdiff[text]"
      invdiff                                .safetensors of `invdiff train` and `invdiff priors convert`

    \b
    Examples:
      invdiff priors
      invdiff priors inspect ffhq_10m.pt
      invdiff priors convert ffhq_10m.pt --out ffhq.safetensors
      invdiff priors measure ffhq_10m.pt faces/
    """
    if ctx.invoked_subcommand is None:
        from invdiff.priors.save import BUNDLED

        _show([_describe(name, {}) for name in BUNDLED], as_json, many=True)


@priors.command(short_help="Describe a checkpoint and the settings assumed for it.")
@SOURCE
@prior_option
@AS_JSON
def inspect(source: str, prior_option: Sequence[str], as_json: bool) -> None:
    """Describe the checkpoint FILE (or folder, or hub id): network, size, schedule, parameters, digest.

    Settings that the file does not determine are listed under "assumed", with the names by which --prior-option changes them.
    Of a pipeline, its parts and its options are listed.

    \b
    Examples:
      invdiff priors inspect 256x256_diffusion_uncond.pt
      invdiff priors inspect 64x64_diffusion.pt --prior-option label=207
      invdiff priors inspect edm-ffhq-64x64-uncond-vp.pkl --json
      invdiff priors inspect stable-diffusion-v1-5/
    """
    _show([_describe(source, given_options(prior_option))], as_json, many=False)


@priors.command(short_help="Write a checkpoint as safetensors.")
@SOURCE
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), required=True, help="The file to write, .safetensors.")
@prior_option
@click.option("--dtype", type=click.Choice(DTYPES), help="Precision of the weights. Default: unchanged.")
@click.option("--overwrite", is_flag=True, help="Replace an existing file.")
def convert(source: str, out: Path, prior_option: Sequence[str], dtype: str | None, overwrite: bool) -> None:
    """Write the checkpoint FILE as safetensors, which is safe to share, fast to load and self-describing.

    The values of --prior-option are written into the file and need not be given again. --dtype float16 halves the size of a
    float32 file.

    \b
    Examples:
      invdiff priors convert ffhq_10m.pt --out ffhq.safetensors
      invdiff priors convert 64x64_diffusion.pt --prior-option label=207 --out dogs.safetensors --dtype float16
    """
    if out.suffix != ".safetensors":
        raise click.UsageError(f"--out {out}: expected a name that ends in .safetensors.")
    check_text(out)
    import dataclasses

    import torch

    from invdiff.io.paths import check_output, refuse_inputs
    from invdiff.priors.digest import digest, stamp
    from invdiff.priors.load import built, locate, pipeline_in, read_checkpoint
    from invdiff.priors.save import KEY, read_metadata, save_checkpoint

    path = locate(source)
    if pipeline_in(path) is not None:
        raise click.UsageError(f"{source}: is a pipeline of several networks, which is used as a folder and not converted.")
    refuse_inputs([out], [path], "Choose another name with --out.")
    if path.is_dir() and path.resolve() in out.resolve().parents:
        raise click.UsageError(f"--out {out}: lies in {path}, which is one checkpoint. Choose a place outside of it.")
    if out.exists() and not overwrite:
        raise click.UsageError(f"--out {out}: the file exists. Choose another name or give --overwrite.")
    check_output(
        out,
        option="--out",
        ours=lambda file: "converted_from" in read_metadata(file).get(KEY, {}).get("facts", {}),
        what="a prior of `invdiff priors convert`",
    )
    before = stamp(path)
    checkpoint = read_checkpoint(path, given_options(prior_option))
    built(checkpoint, path)  # Fails if weights and spec do not match, before anything is written.
    spec = checkpoint.spec
    converted = {"converted_from": path.name, "converted_sha256": digest(path, before)} | dict(spec.facts)
    checkpoint = dataclasses.replace(checkpoint, spec=dataclasses.replace(spec, facts=converted))
    out.parent.mkdir(parents=True, exist_ok=True)
    save_checkpoint(checkpoint, out, dtype=None if dtype is None else getattr(torch, dtype))
    for note in checkpoint.notes:
        click.echo(printable(note), err=True)
    for name, value in spec.assumed.items():
        click.echo(printable(f"assumed {name}: {value}"), err=True)
    click.echo(printable(f"{out}: {out.stat().st_size / 2**20:,.1f} MiB, sha256 {digest(out)}"))


@priors.command(short_help="Measure a prior's error, for faster and better calibrated samples.")
@click.argument("source", metavar="PRIOR")
@click.argument("images", metavar="[FOLDER_OR_TAR]...", type=click.Path(path_type=Path), nargs=-1)
@click.option("--crops", type=click.IntRange(min=1), default=48, show_default=True, help="Number of image crops, or samples.")
@click.option("--size", type=click.IntRange(min=8), help="Side of the crops in pixels. Default: the prior's size, or 96.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Random seed of crops, samples, noise.")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="Default: PRIOR.errors.safetensors beside PRIOR.")
@prior_option
@click.option("--device", default="auto", show_default=True, help="cpu, cuda, cuda:1, ...; auto uses a GPU if there is one.")
def measure(
    source: str,
    images: tuple[Path, ...],
    crops: int,
    size: int | None,
    seed: int,
    out: Path | None,
    prior_option: Sequence[str],
    device: str,
) -> None:
    """Measure the error of the denoiser of PRIOR by frequency, color and noise level, on clean images.

    The images are read from folders and tar archives, as by `invdiff train`. They should be from the domain of the prior,
    preferably its training images. Without any, samples of the prior itself are used. The result is written beside the prior,
    where `invdiff solve` finds it. It is valid for this version of the file only: measure again after the prior changes. An
    earlier result is replaced.

    \b
    Examples:
      invdiff priors measure natural photos/
      invdiff priors measure mine.safetensors photos.tar --crops 100
      invdiff priors measure ffhq_10m.pt --crops 16
    """
    import sys

    from tabulate import tabulate

    from invdiff.io.paths import attempt, check_output
    from invdiff.priors import load_prior, measure_error, save_error_model
    from invdiff.priors.errors.files import KEY, errors_beside
    from invdiff.priors.load import locate, pipeline_in
    from invdiff.priors.save import read_metadata
    from invdiff.restoration.device import pick_device

    if out is not None and out.suffix != ".safetensors":
        raise click.UsageError(f"--out {out}: expected a name that ends in .safetensors.")
    path, given, where, bar = locate(source), given_options(prior_option), pick_device(device), sys.stderr.isatty()
    if pipeline_in(path) is not None:
        raise click.UsageError(f"{source}: is a pipeline, whose error depends on the prompt or class. It is not measured.")
    beside, out = out is None, out or errors_beside(path)
    check_text(out)
    if not out.parent.is_dir():
        raise FileNotFoundError(f"--out {out}: the folder {out.parent} does not exist.")
    check_output(
        out,
        option="--out",
        inputs=(path, *images),
        # Beside the prior the name is taken for this purpose, and a damaged file is replaced.
        ours=lambda file: KEY in (known := read_metadata(file)) or (beside and not known),
        what="a measured error of `invdiff priors measure`",
    )
    prior = load_prior(source, device=where, errors=False, **given).to(where)
    event = prior.event_shape or ()
    size = size or next((side for side in event[1:] if side is not None), 96)
    if images:
        clean = _crops(images, channels=event[0] if event else None, crops=crops, size=size, seed=seed, progress=bar)
    else:
        from invdiff.methods.steps import sample_prior
        from invdiff.priors import adapt

        click.echo(f"drawing {crops} samples of the prior", err=True)
        shape = (event[0] or 1 if event else 3, size, size)
        clean = sample_prior(adapt(prior, shape)[0], shape, crops, seed=seed, device=where)
    facts = {"images": [image.name for image in images] or "samples of the prior"}
    model = measure_error(prior, clean.to(where), seed=seed, facts=facts, progress=bar)
    message = attempt(lambda file: save_error_model(model, file, prior=path, given=given), out)
    if message is not None:
        raise OSError(message)
    rows = zip(model.levels.tolist(), model.facts["error_rms"], model.facts["claimed_rms"], strict=True)
    headers = ["noise level", "error RMS", "predicted"]
    click.echo(tabulate(list(rows), headers=headers, floatfmt=".4f"))
    click.echo(f"{out}: {out.stat().st_size / 2**10:,.0f} KiB, of {crops} images of {size} x {size} pixels")


def _crops(images: Sequence[Path], *, channels: int | None, crops: int, size: int, seed: int, progress: bool) -> Tensor:
    """Return crops of the images in folders and tar archives, ``(crops, C, size, size)``."""
    import torch

    from invdiff.training import load_images

    loaded, skipped = load_images(images, smallest=size, channels=channels if channels in (1, 3) else None, progress=progress)
    if skipped:
        click.echo(printable(f"skipped {len(skipped):,} files, such as {skipped[0]}"), err=True)
    return loaded.crops(crops, size, torch.Generator().manual_seed(seed))


def _describe(source: str, given: Mapping[str, str]) -> dict[str, Any]:
    from invdiff.priors.checkpoints.assumptions import LabelNeededError
    from invdiff.priors.digest import digest
    from invdiff.priors.load import built, locate, pipeline_in, read_checkpoint
    from invdiff.priors.save import BUNDLED

    path, needed = locate(source), None
    if (index := pipeline_in(path)) is not None:
        from invdiff.priors.pipelines.describe import describe_pipeline

        return describe_pipeline(path, index, given)
    try:
        checkpoint = read_checkpoint(path, given)
    except ValueError as error:
        if not isinstance(error.__cause__, LabelNeededError):
            raise
        needed = str(error.__cause__)
        checkpoint = read_checkpoint(path, {**given, "label": "0"})
    built(checkpoint, path)  # Checks that weights and spec match.
    spec, weights = checkpoint.spec, checkpoint.weights
    # The history of the training is in the model card.
    facts = {name: value for name, value in spec.facts.items() if name not in ("history", "settings")}
    card = path.with_suffix(".md")
    text = card.read_bytes()[:CARD].decode(errors="replace") if card.is_file() else ""
    lines = [line.strip(" #*-") for line in text.splitlines()]
    license_line = next((line for line in lines if line.lower().startswith(("licence:", "license:"))), "")
    described = {
        "name": source if source in BUNDLED else path.name,
        "what": facts.pop("summary", None) or next(filter(None, lines), None),
        "family": facts.pop("family", "invdiff"),
        "architecture": spec.architecture,
        "config": dict(spec.config),
        "channels": spec.event_shape[0],
        "size": None if None in spec.event_shape else list(spec.event_shape[1:]),
        "predicts": spec.predicts,
        "schedule": {k: v for k, v in spec.schedule.items() if k != "betas"},
        "label": needed or spec.label,
        "parameters": sum(weight.numel() for weight in weights.values()),
        "dtypes": sorted({str(weight.dtype).removeprefix("torch.") for weight in weights.values()}),
        "license": facts.pop("license", None) or license_line.partition(":")[2].strip(" *"),
        "card": str(card) if text else None,
        "file": str(path),
        "sha256": digest(path),
    }
    facts = {name: value for name, value in facts.items() if name not in described}
    return described | facts | {"notes": list(checkpoint.notes), "assumed": dict(spec.assumed)}


def _show(found: Sequence[dict[str, Any]], as_json: bool, *, many: bool) -> None:
    from tabulate import tabulate

    if as_json:
        click.echo(json.dumps(found if many else found[0], indent=2))
        return
    for number, prior in enumerate(found):
        shown = {name: value for name, value in prior.items() if value not in (None, "", {}, [])}
        rows = [(name.replace("_", " "), _readable(value)) for name, value in shown.items() if name not in LISTED]
        for title in LISTED:  # one entry a line
            entries = [f"{name}: {_readable(value)}" for name, value in shown.get(title, {}).items()]
            rows += [(title if k == 0 else "", entry) for k, entry in enumerate(entries)]
        wrapped = [
            (printable(name), textwrap.fill(printable(text[:LONGEST]), WIDTH, break_on_hyphens=False, break_long_words=False))
            for name, text in rows
        ]
        click.echo(("\n" if number else "") + tabulate(wrapped, tablefmt="plain", disable_numparse=True))


def _readable(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name}: {_readable(item)}" for name, item in value.items() if item not in (None, []))
    if isinstance(value, list):
        return " ".join(map(_readable, value))
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
