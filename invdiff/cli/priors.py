"""``invdiff priors``: the bundled priors, what a checkpoint holds, and its conversion into a safe file."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from invdiff.cli.prior_options import given_options, prior_option

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["priors"]

WIDTH = 100  # characters of the last column
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
    """List the bundled diffusion priors, or look into checkpoints: what `invdiff solve --prior` takes.

    \b
    A checkpoint is told by its content, and reading one runs no code of it:
      guided-diffusion, improved-diffusion   state dicts, .pt
      EDM                                    pickles, .pkl
      score-SDE (NCSN++, DDPM++)             checkpoints, .pth
      diffusers (UNet2DModel)                folders and hub ids; pip install "invdiff[diffusers]"
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


@priors.command(short_help="Say what a checkpoint is, and what it does not say.")
@SOURCE
@prior_option
@AS_JSON
def inspect(source: str, prior_option: Sequence[str], as_json: bool) -> None:
    """Say what the checkpoint FILE (or folder, or hub id) is: network, size, schedule, parameters, digest.

    What the file does not say stands under "assumed", by the name under which --prior-option changes it.

    \b
    Examples:
      invdiff priors inspect 256x256_diffusion_uncond.pt
      invdiff priors inspect 64x64_diffusion.pt --prior-option label=207
      invdiff priors inspect edm-ffhq-64x64-uncond-vp.pkl --json
    """
    _show([_describe(source, given_options(prior_option))], as_json, many=False)


@priors.command(short_help="Write a checkpoint as safetensors.")
@SOURCE
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), required=True, help="The file to write, .safetensors.")
@prior_option
@click.option("--dtype", type=click.Choice(DTYPES), help="Of the weights. Default: as they are; float16 halves the file.")
@click.option("--overwrite", is_flag=True, help="Replace an earlier file.")
def convert(source: str, out: Path, prior_option: Sequence[str], dtype: str | None, overwrite: bool) -> None:
    """Write the checkpoint FILE as safetensors: safe to share, fast to load, and it says everything itself.

    What --prior-option gives is written into the file and need not be given again.

    \b
    Examples:
      invdiff priors convert ffhq_10m.pt --out ffhq.safetensors
      invdiff priors convert 64x64_diffusion.pt --prior-option label=207 --out dogs.safetensors --dtype float16
    """
    if out.suffix != ".safetensors":
        raise click.UsageError(f"--out {out}: expected a name that ends in .safetensors.")
    if out.exists() and not overwrite:
        raise click.UsageError(f"--out {out}: exists. Choose another name or give --overwrite.")
    import dataclasses

    import torch

    from invdiff.priors.digest import digest
    from invdiff.priors.load import locate, read_checkpoint
    from invdiff.priors.save import save_checkpoint
    from invdiff.priors.spec import build_network

    path = locate(source)
    checkpoint = read_checkpoint(path, given_options(prior_option))
    build_network(checkpoint)  # What does not fit together is not written.
    spec = checkpoint.spec
    converted = {"converted_from": path.name, "converted_sha256": digest(path)} | dict(spec.facts)
    checkpoint = dataclasses.replace(checkpoint, spec=dataclasses.replace(spec, facts=converted))
    out.parent.mkdir(parents=True, exist_ok=True)
    save_checkpoint(checkpoint, out, dtype=None if dtype is None else getattr(torch, dtype))
    for name, value in spec.assumed.items():
        click.echo(f"assumed {name}: {value}", err=True)
    click.echo(f"{out}: {out.stat().st_size / 2**20:,.1f} MiB, sha256 {digest(out)}")


@priors.command(short_help="Measure the error of a prior, which makes `solve` faster and its spread right.")
@click.argument("source", metavar="PRIOR")
@click.argument("images", metavar="[FOLDER_OR_TAR]...", type=click.Path(path_type=Path), nargs=-1)
@click.option("--crops", type=click.IntRange(min=1), default=48, show_default=True, help="Crops of the images, or samples.")
@click.option("--size", type=click.IntRange(min=8), help="Their side in pixels. Default: that of the prior, or 96.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of crops, samples and noise.")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="Default: PRIOR.errors.safetensors beside it.")
@prior_option
@click.option("--device", default="auto", show_default=True, help="cpu, cuda, cuda:1, ...; auto takes a GPU if there is one.")
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
    """Measure how far the denoiser of PRIOR is off, by frequency, colour and noise level, on clean images.

    The images are those of folders and tars, as `invdiff train` reads them: of the kind the prior is for, best the ones it
    was trained on. Without any, samples of the prior itself. What is found is written beside the prior, where `invdiff solve`
    finds it, and belongs to this very file: a prior that changes has to be measured anew. An earlier measurement is replaced.

    \b
    Examples:
      invdiff priors measure natural photos/
      invdiff priors measure mine.safetensors photos.tar --crops 100
      invdiff priors measure ffhq_10m.pt --crops 16
    """
    import sys

    from tabulate import tabulate

    from invdiff.priors import load_prior, measure_error, save_error_model
    from invdiff.priors.errors.files import errors_beside
    from invdiff.priors.load import locate
    from invdiff.restoration.device import pick_device

    if out is not None and out.suffix != ".safetensors":
        raise click.UsageError(f"--out {out}: expected a name that ends in .safetensors.")
    path, given, where, bar = locate(source), given_options(prior_option), pick_device(device), sys.stderr.isatty()
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
    out = out or errors_beside(path)
    save_error_model(model, out, prior=path, given=given)
    rows = zip(model.levels.tolist(), model.facts["error_rms"], model.facts["claimed_rms"], strict=True)
    headers = ["noise level", "error RMS", "claimed"]
    click.echo(tabulate(list(rows), headers=headers, floatfmt=".4f"))
    click.echo(f"{out}: {out.stat().st_size / 2**10:,.0f} KiB, of {crops} images of {size} x {size} pixels")


def _crops(images: Sequence[Path], *, channels: int | None, crops: int, size: int, seed: int, progress: bool) -> Tensor:
    """Return crops of folders and tars, ``(crops, C, size, size)``."""
    import torch

    from invdiff.training import load_images

    loaded, skipped = load_images(images, smallest=size, channels=channels if channels in (1, 3) else None, progress=progress)
    if skipped:
        click.echo(f"skipped {len(skipped):,} files, such as {skipped[0]}", err=True)
    return loaded.crops(crops, size, torch.Generator().manual_seed(seed))


def _describe(source: str, given: Mapping[str, str]) -> dict[str, Any]:
    from invdiff.priors.checkpoints.assumptions import LabelNeededError
    from invdiff.priors.digest import digest
    from invdiff.priors.load import locate, read_checkpoint
    from invdiff.priors.save import BUNDLED
    from invdiff.priors.spec import build_network

    path, needed = locate(source), None
    try:
        checkpoint = read_checkpoint(path, given)
    except ValueError as error:
        if not isinstance(error.__cause__, LabelNeededError):
            raise
        needed = str(error.__cause__)
        checkpoint = read_checkpoint(path, {**given, "label": "0"})
    try:
        build_network(checkpoint)  # or the description would be of what does not exist
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    spec, weights = checkpoint.spec, checkpoint.weights
    # The course of the training is for the card.
    facts = {name: value for name, value in spec.facts.items() if name not in ("history", "settings")}
    card = path.with_suffix(".md")
    text = card.read_text(encoding="utf-8") if card.is_file() else ""
    lines = [line.strip(" #*-") for line in text.splitlines()]
    licence = next((line for line in lines if line.lower().startswith(("licence:", "license:"))), "")
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
        "licence": facts.pop("licence", None) or licence.partition(":")[2].strip(" *"),
        "card": str(card) if text else None,
        "file": str(path),
        "sha256": digest(path),
    }
    facts = {name: value for name, value in facts.items() if name not in described}
    return described | facts | {"assumed": dict(spec.assumed)}


def _show(found: Sequence[dict[str, Any]], as_json: bool, *, many: bool) -> None:
    from tabulate import tabulate

    if as_json:
        click.echo(json.dumps(found if many else found[0], indent=2))
        return
    for number, prior in enumerate(found):
        rows = [(name.replace("_", " "), _readable(value)) for name, value in prior.items() if value not in (None, "", {}, [])]
        assumed = [("assumed" if k == 0 else "", f"{name}: {why}") for k, (name, why) in enumerate(prior["assumed"].items())]
        rows = [row for row in rows if row[0] != "assumed"] + assumed
        wrapped = [(name, textwrap.fill(text, WIDTH, break_on_hyphens=False, break_long_words=False)) for name, text in rows]
        click.echo(("\n" if number else "") + tabulate(wrapped, tablefmt="plain", disable_numparse=True))


def _readable(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name}: {_readable(item)}" for name, item in value.items() if item not in (None, []))
    if isinstance(value, list):
        return " ".join(map(_readable, value))
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
