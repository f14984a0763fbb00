"""``invdiff solve``: a measured image in, posterior samples out."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    import torch

    from invdiff.cli.task import Task
    from invdiff.posterior import Posterior

# Written out because the help must not import torch; a test holds them to the registries.
PROBLEM_NAMES = ("inpaint", "deblur", "sr")
METHOD_NAMES = ("auto", "mmps", "pigdm", "dps")

EPILOG = """\b
Examples:
  invdiff solve --problem inpaint --mask m.png            degrade and solve a bundled photograph
  invdiff solve photo.png --problem inpaint --mask m.png  fill what is white in m.png
  invdiff solve photo.png --problem inpaint               fill what is transparent
  invdiff solve blurred.png --problem deblur --kernel psf.png --noise 0.01
  invdiff solve small.jpg --problem sr --factor 2 --noise 0.01 --samples 8 -o large
  invdiff solve photo.png --problem deblur --kernel gaussian:2 --noise 0.02 --simulate
"""


@click.command(epilog=EPILOG, context_settings={"max_content_width": 110})
@click.argument("source", metavar="[INPUT]", type=click.Path(path_type=Path), required=False)
@click.option("--problem", required=True, type=click.Choice(PROBLEM_NAMES), help="What happened to the image.")
@click.option("--mask", type=click.Path(path_type=Path), help="Image as large as INPUT, white where pixels are to be filled (inpaint).")
@click.option("--mask-keep", type=click.Choice(("black", "white")), default="black", show_default=True, help="Colour of the pixels to keep.")
@click.option("--kernel", metavar="FILE|gaussian:SIGMA|motion:SIZE,ANGLE", help="Blur kernel: an image, .npy, or .npz:name (deblur).")
@click.option("--boundary", type=click.Choice(("reflect", "zero", "circular")), default="reflect", show_default=True, help="What the blur saw beyond the border (deblur).")
@click.option("--factor", type=click.IntRange(min=2), help="How many times smaller INPUT is than the image (sr).")
@click.option("--downsampling", type=click.Choice(("bicubic", "area")), default="bicubic", show_default=True, help="How it was made smaller (sr).")
@click.option("--noise", type=float, default=0.0, show_default=True, help="Standard deviation of the noise in INPUT, pixels spanning 0..1. 0: exact.")
@click.option("--simulate", is_flag=True, help="INPUT is clean: degrade it, solve, and compare.")
@click.option("--samples", type=click.IntRange(min=1), default=4, show_default=True, help="Posterior samples to draw.")
@click.option("--method", type=click.Choice(METHOD_NAMES), default="auto", show_default=True, help="Sampler; see `invdiff methods`.")
@click.option("--steps", type=click.IntRange(min=1), help="Steps of the reverse diffusion. Default: the problem's or method's own.")
@click.option("--rule", type=click.Choice(("ddpm", "ddim", "heun")), help="Step rule. Default: the problem's or method's own.")
@click.option("--option", "options", multiple=True, metavar="NAME=VALUE", help="Option of the method, such as zeta=0.5. Repeatable.")
@click.option("--prior", default="natural", show_default=True, help="Bundled prior or .safetensors file; see `invdiff priors`.")
@click.option("--precision", type=click.Choice(("auto", "float32", "bfloat16")), default="auto", show_default=True, help="Of the network; auto takes bfloat16 where the processor has units for it.")
@click.option("--device", default="auto", show_default=True, help="cpu, cuda, cuda:1, ...; auto takes a GPU if there is one.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of the samples and of simulated noise.")
@click.option("--chunk", type=click.IntRange(min=1), help="Samples worked on at a time. Default: what fits the memory.")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Folder for the results. Default: invdiff-out/NAME-PROBLEM.")
@click.option("--overwrite", is_flag=True, help="Replace files of the same name in the output folder.")
@click.option("--npz", is_flag=True, help="Also write the samples as floats, posterior.npz.")
@click.option("--json", "as_json", is_flag=True, help="Print run.json instead of a summary.")
@click.pass_context
def solve(context: click.Context, source: Path | None, **settings: Any) -> None:
    """Draw samples of what the measured image INPUT may have looked like.

    INPUT is an image file (PNG, JPEG, TIFF, WebP; 8 or 16 bits; grey, RGB, RGBA) or an .npy array. Without INPUT a bundled photograph
    is degraded and solved. The output folder holds every sample, their mean, the map of their standard deviation,
    a panel to compare, and run.json, from which the run can be repeated.
    """
    run(source, **settings)


def run(
    source: Path | None,
    *,
    problem: str,
    noise: float,
    simulate: bool,
    samples: int,
    method: str,
    steps: int | None,
    rule: str | None,
    options: tuple[str, ...],
    prior: str,
    precision: str,
    device: str,
    seed: int,
    chunk: int | None,
    output: Path | None,
    overwrite: bool,
    npz: bool,
    as_json: bool,
    **files: Any,
) -> None:
    """Solve one image; the arguments are those of the command."""
    # Imported here: `invdiff solve --help` answers without torch.
    from invdiff.cli.output import output_folder, peak_memory, versions, write_record, write_results
    from invdiff.cli.task import make_task
    from invdiff.posterior import PosteriorSampler
    from invdiff.priors import load_prior

    where = _device(device)
    task = make_task(problem, source, simulate=simulate, noise=noise, seed=seed, **files)
    score = load_prior(prior, precision=precision)
    settings: dict[str, Any] = dict(task.problem.recommended) if method == "auto" else {}
    settings |= {"method": method} | {name: value for name, value in (("steps", steps), ("rule", rule)) if value is not None}
    sampler = PosteriorSampler(score, task.op, **settings, **_options(options))
    with output_folder(output, task.name, overwrite=overwrite) as (part, target):
        for note in task.notes:
            click.echo(note, err=True)
        post = sampler.run(task.y.to(where), num_samples=samples, seed=seed, chunk=chunk, progress=sys.stderr.isatty())
        results = task.problem.finish(post.samples[:, 0].cpu(), task.y.expand(samples, -1, -1, -1), task.op)
        results = results.mean(1, keepdim=True) if task.grey else results
        record = {
            "problem": problem,
            "input": None if source is None else _identity(source),
            "arguments": {"noise": noise, "simulate": simulate or source is None, "samples": samples, "seed": seed}
            | {name: str(value) if isinstance(value, Path) else value for name, value in files.items()},
            "files": {name: _identity(value) for name, value in files.items() if isinstance(value, Path)},
            "method": post.method,
            "options": dict(post.options),
            "prior": score.describe(),
            "device": str(where),
            "versions": dict(versions()),
            "nfe": post.nfe,
            "nvjp": post.nvjp,
            "seconds": round(post.seconds, 2),
            "peak_memory_mib": dict(peak_memory(where)),
            "residual": [round(float(r), 3) for r in post.residual[:, 0]],
            "residual_expected": post.dof if task.op.sigma_y > 0 else 0,
            "metrics": _metrics(task, results),
            "output": str(target),
        }
        write_results(part, task, post, results, arrays=npz)
        write_record(part, record)
    click.echo(json.dumps(record, indent=2) if as_json else _summary(record, task, post))


def _device(name: str) -> torch.device:
    import torch

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device {name!r} is not to be had here: {str(error).splitlines()[0]}") from error
    return device


def _options(texts: tuple[str, ...]) -> dict[str, float | int]:
    options: dict[str, float | int] = {}
    for text in texts:
        name, _, value = text.partition("=")
        try:
            number = float(value)
        except ValueError:
            raise click.BadParameter(f"{text!r}: expected NAME=NUMBER, such as zeta=0.5.", param_hint="--option") from None
        options[name] = int(number) if number.is_integer() and "." not in value else number
    return options


def _identity(path: Path) -> dict[str, str]:
    import hashlib

    return {"path": str(path), "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}


def _metrics(task: Task, results: torch.Tensor) -> dict[str, float] | None:
    """Compare with the truth, where it is known."""
    from invdiff.metrics import psnr

    if task.clean is None:
        return None
    truth = task.clean.expand_as(results)
    figures = {
        "psnr_mean": psnr(results.mean(0, keepdim=True).clamp(-1, 1), truth[:1]),
        "psnr_samples": psnr(results.clamp(-1, 1), truth),
    }
    return {name: round(float(value.mean()), 3) for name, value in figures.items()}


def _summary(record: dict[str, Any], task: Task, post: Posterior) -> str:
    lines = [
        f"{post.method}, {record['options']['steps']} steps ({record['options']['rule']}): {len(post.samples)} samples in {post.seconds:.1f} s, "
        f"{post.nfe:g} network evaluations and {post.nvjp:g} gradients each"
    ]
    if task.op.sigma_y > 0:
        lines.append(f"misfit over what the noise explains: {float(post.residual.mean()) / post.dof:.2f} (1 is right)")
    if record["metrics"]:
        figures = record["metrics"]
        lines.append(f"PSNR of the mean {figures['psnr_mean']:.2f} dB, of single samples {figures['psnr_samples']:.2f} dB")
    return "\n".join([*lines, f"results in {record['output']}"])
