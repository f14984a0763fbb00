"""``invdiff calibrate``: test whether posterior samples are calibrated, on images with known truth."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from invdiff.cli.messages import MESSAGE_OPTIONS, is_quiet, log_settings, message_options, note, shows_bars
from invdiff.cli.method_options import method_options
from invdiff.cli.prior_options import PRIOR_OPTIONS, SHORT_OPTIONS, load
from invdiff.cli.problem_options import ProblemCommand
from invdiff.cli.solve import SAMPLER, solve
from invdiff.restoration.limits import LIMITS

if TYPE_CHECKING:
    from invdiff.diagnostics import Calibration
    from invdiff.problems import Problem

__all__ = ["calibrate"]

# Options shared with `invdiff solve`; HELP replaces help texts that mention INPUT.
SHARED = (*("problem", "noise", *SAMPLER, *PRIOR_OPTIONS, *SHORT_OPTIONS, "device", "output", "overwrite"),)
HELP = {
    "noise": "Standard deviation of the noise to add, pixels spanning 0..1 (required, above 0 unless --save is given).",
    "quality": "Use the value intended for `invdiff solve`. Default: balanced.",
    "output": "Folder for the results. Default: invdiff-out/calibration-PROBLEM.",
}
RECORD, PLOT = "calibration.json", "calibration.png"
SECTIONS = {
    "Problem": ("problem",),
    "Noise": ("noise",),
    "Crops and samples": ("size", "cases", "samples", "seed"),
    "Sampler": (*SAMPLER, "device"),
    "Prior": (*PRIOR_OPTIONS, *SHORT_OPTIONS),
    "Output": ("output", "overwrite", "save", "as_json", *MESSAGE_OPTIONS),
}
EPILOG = """\b
Examples:
  invdiff calibrate photos/ --problem sr --factor 2 --noise 0.02
  invdiff calibrate photos/ --problem inpaint --mask m.png --noise 0.02 --samples 16 --size 64
  invdiff calibrate cells/ --problem deblur --kernel psf.png --noise 0.05 --prior cells.safetensors -o checked
  invdiff calibrate photos/ --problem sr --factor 2 --noise 0.02 --method dps --option zeta=0.5 --cases 100
  invdiff calibrate photos/ --problem inpaint --mask m.png --samples 8 --save calibration.json
  invdiff solve photo.png --problem inpaint --mask hole.png --samples 8 --calibration calibration.json
"""


@click.command(
    cls=ProblemCommand,
    sections=SECTIONS,
    simulated=True,
    epilog=EPILOG,
    context_settings={"max_content_width": 110, "show_default": True},
)
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--size", type=click.IntRange(8, LIMITS["tile"]), default=64, help="Side of the square crops, in pixels.")
@click.option(
    "--cases",
    type=click.IntRange(2, LIMITS["samples"]),
    help="Number of crops. Default: one per image; more are correlated.",
)
@click.option("--samples", type=click.IntRange(min=1), default=8, help="Number of posterior samples per crop.")
@click.option("--seed", type=click.IntRange(min=0), default=0, help="Random seed of crops, noise and samples.")
@click.option(
    "--save",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Learn interval widths and add them to this file, one entry per problem, for `invdiff solve --calibration`.",
)
@click.option("--json", "as_json", is_flag=True, help="Print calibration.json instead of a table.")
@message_options
def calibrate(folder: Path, output: Path | None, overwrite: bool, as_json: bool, save: Path | None, **settings: Any) -> None:
    """Test on the clean images of FOLDER whether the standard deviation of posterior samples can be trusted.

    A crop of each image is degraded according to --problem and sampled. If prior and sampler are correct, the truth has the
    same distribution as the samples: its rank among them is uniform, and 90 % intervals cover it in 90 % of the cases. The
    misfit to the data and the posterior density are ranked as well; a sampler that ignores the data fails these tests.

    The images must not have been used to train the prior, and should resemble those it will be used for. A rejection means that
    prior and sampler together do not describe them; it does not say which of the two is wrong. More cases are worth more than
    more samples: with 50 images or more, errors of a few percent are detected.

    The output folder holds calibration.png (histograms of the ranks with 99 % bands, observed against nominal coverage) and
    calibration.json.

    With --save the standard deviation is corrected as well: the file states how many standard deviations of the samples give
    the right coverage, with a guarantee for new images (conformal risk control). Use the same --samples as for `invdiff solve`.
    Exact data and rounding are then allowed; only values that they do not determine are tested.
    """
    # Imported here, so that `invdiff calibrate --help` answers without torch.
    from invdiff import PosteriorSampler, diagnostics
    from invdiff.cli.crops import cut_crops
    from invdiff.io.paths import refuse_inputs, same_file
    from invdiff.io.printable import printable
    from invdiff.restoration.calibration_file import (
        by_image,
        check_images,
        check_target,
        keep_entry,
        make_entry,
        settings_of,
        width_table,
    )
    from invdiff.restoration.checks import check_options, complete, find_problem
    from invdiff.restoration.device import pick_device
    from invdiff.restoration.earlier import Results, write_record
    from invdiff.restoration.files import FilesRead, code_files, prior_files
    from invdiff.restoration.folder import output_folder
    from invdiff.restoration.noise import noise_choice
    from invdiff.restoration.record import to_json
    from invdiff.restoration.sampling import sampler_arguments

    log_settings("calibrate", {"folder": folder, "output": output, "save": save, **settings})
    files = FilesRead()
    files.add(code_files(settings))
    kind = find_problem(settings["problem"])
    noise = settings["noise"] = noise_choice(settings["noise"], kind, simulated=True)
    values = complete(kind, {option.name: settings[option.name] for option in kind.options}, simulated=True)
    check_options(kind, values, noise, has_input=False, simulated=True)
    _check(settings, kind, saving=save is not None)
    option = method_options(settings["option"], settings["method"])
    files.add(kind.files(values))
    inputs = (*files.paths, *prior_files(settings["prior"]))
    if save is not None:
        refuse_inputs([save], inputs, "Choose another file with --save.")
        check_target(save, kind.name, overwrite=overwrite)
    device = pick_device(settings["device"])
    score = load(settings, device)
    if score.latent:
        raise click.UsageError(
            "--prior: calibration of latent priors, whose images are not compared by codes, is not supported."
        )
    (channels, *_) = score.image_shape or (3,)
    problem = kind.from_options(values, size=(settings["size"], settings["size"]))
    crops, sources, notes = cut_crops(
        folder, channels=channels or 3, size=settings["size"], cases=settings["cases"], seed=settings["seed"]
    )
    if save is not None:
        check_images(sources)
    clean = problem.fit(crops)
    clean = clean.expand(-1, crops.shape[1], -1, -1)  # Problems without color give one channel, repeated for the prior.
    op = problem.operator((clean.shape[1], clean.shape[2], clean.shape[3]), noise=noise.model())
    sampler = PosteriorSampler(score, op, **sampler_arguments(problem, settings, option))
    setup = settings_of(problem, sampler, settings, files.digests)
    files.check()
    notes = [*sampler.notes, *notes]
    if not op.noise.white or op.sigma_y == 0:
        notes.append("no Gaussian noise above 0: the misfit is not tested, and values that are known exactly are left out")
    for text in notes:
        note(text)
    results = Results("calibrate", RECORD, (PLOT,), (*inputs, folder))
    with output_folder(output, f"calibration-{kind.name}", results, overwrite=overwrite) as place:
        if save is not None and any(same_file(save, place.folder / name) for name in (RECORD, PLOT)):
            raise ValueError(f"--save {save}: this run writes its {save.name} there. Choose another name.")
        report = diagnostics.calibrate(
            sampler,
            clean.to(device),
            num_samples=settings["samples"],
            seed=settings["seed"],
            finish=lambda x, y: problem.finish(x, y, op),
            progress=shows_bars(),
        )
        entry = None
        if save is not None:
            entry = make_entry(
                by_image(report.deviations, sources),
                settings=setup,
                prior=sampler.score.describe(),
                size=clean.shape[2:],
            )
        record = {
            "arguments": {"folder": folder} | settings,
            "files": files.digests,
            "prior": sampler.score.describe(),
            "crops": sources,
            "notes": notes,
            **_figures(report),
            **({} if entry is None else {"spread": entry, "saved": save}),
        }

        def write(part: Path, target: Path) -> dict[str, Any]:
            write_record(part, results, record)  # first: the figure matters less if the disk fills
            _plot(part / PLOT, report)
            return write_record(part, results, record)

        failed: Exception | None = None
        try:
            record = place.fill(write)
        except (OSError, ValueError) as error:  # The calibration is saved and shown all the same.
            failed = error
    if save is not None and entry is not None:
        keep_entry(save, kind.name, entry, overwrite=overwrite, instead=place.folder)
    parts = [_table(report), _sentences(report), *([] if entry is None else [width_table(entry)])]
    where = [printable(f"results: {place.folder}")] if failed is None else []
    where += [] if save is None else [printable(f"saved: {save}")]
    if as_json or not is_quiet():
        click.echo(to_json(record) if as_json else "\n\n".join([*parts, "\n".join(where)]).strip())
    if failed is not None:
        raise failed


def _check(settings: Mapping[str, Any], kind: type[Problem], *, saving: bool) -> None:
    from invdiff.restoration.checks import check_limits

    check_limits(settings)
    if settings["noise"].level is None:
        raise click.UsageError("--noise must be a standard deviation: the misfit to the data is tested against Gaussian noise.")
    if saving and settings["samples"] < 2:
        raise click.UsageError("--save needs --samples 2 or more: a single sample has no standard deviation.")
    if saving:
        return
    if kind.accepts_noise == "rounding":
        raise click.UsageError(
            f"--problem {kind.name} has no Gaussian noise, which the test of the misfit requires; "
            "with --save this test is left out."
        )
    if settings["noise"].none:
        raise click.UsageError(
            "--noise must be above 0: without noise the measured values are known exactly, and the coverage of their intervals "
            "is meaningless. For 8-bit files --noise 0.01 is small. With --save only values that are not measured are tested."
        )


def _figures(report: Calibration) -> dict[str, Any]:
    from dataclasses import asdict

    return {
        "method": report.method,
        "cases": report.cases,
        "num_samples": report.num_samples,
        "passed": report.passed,
        "verdict": report.verdict,
        "p_value": report.p_value,
        "threshold": report.threshold,
        "p_values": report.p_values,
        "rank_tests": {name: asdict(test) for name, test in report.rank_tests.items()},
        "coverage": [asdict(c) for c in report.coverage],
        "expected_coverage": [asdict(c) for c in report.expected_coverage],
        "residual": None if report.residual is None else asdict(report.residual),
        "ranks": {name: [round(float(rank), 6) for rank in ranks] for name, ranks in report.ranks.items()},
    }


def _plot(path: Path, report: Calibration) -> None:
    from invdiff.io.figures import calibration_plot

    calibration_plot(
        path,
        {name: ranks.cpu().numpy() for name, ranks in report.ranks.items()},
        [(c.level, c.observed, c.error) for c in report.coverage],
        titles={name: f"p = {test.p_value:.2g}" for name, test in report.rank_tests.items()},
        expected=[(c.level, c.observed, c.error) for c in report.expected_coverage],
    )


def _table(report: Calibration) -> str:
    from tabulate import tabulate

    rows = [
        (f"rank of the {name}", f"{(1 + test.shift) / 2:.2f}", "0.50", test.p_value) for name, test in report.rank_tests.items()
    ]
    rows += [
        (f"{c.level:.0%} intervals cover", f"{c.observed:.1%} +- {c.error:.1%}", f"{c.level:.1%}", c.p_value)
        for c in report.coverage
        if f"{c.level:.0%} intervals" in report.p_values
    ]
    if report.residual is not None:
        seen = f"{report.residual.ratio:.2f} +- {report.residual.error:.2f}"
        rows.append(("misfit over its expected value", seen, "1.00", report.residual.p_value))
    lines = [[name, seen, right, f"{p:.2g}{' *' if p < report.threshold else ''}"] for name, seen, right, p in rows]
    return tabulate(
        lines, headers=["", "observed", "expected", "p"], disable_numparse=True, colalign=("left", "right", "right", "left")
    )


def _sentences(report: Calibration) -> str:
    return "\n".join(f"- {sentence}" for sentence in report.verdict)


def _as_in_solve() -> list[click.Parameter]:
    shared = []
    for parameter in solve.params:
        if parameter.name in SHARED:
            parameter = copy.copy(parameter)
            if isinstance(parameter, click.Option) and parameter.name in HELP:
                parameter.help = HELP[parameter.name]
                parameter.show_default = parameter.name != "noise"  # It is required here.
            shared.append(parameter)
    return shared


calibrate.params[1:1] = _as_in_solve()
