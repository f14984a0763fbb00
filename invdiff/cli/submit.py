"""``invdiff submit``: the shares of ``invdiff solve FOLDER`` as an array of Slurm jobs."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from invdiff.io.printable import printable

if TYPE_CHECKING:
    import submitit

__all__ = ["SolveShare", "submit"]

CLUSTERS = ("slurm", "local")
MISSING = "invdiff submit needs the package submitit: pip install 'invdiff[slurm]'."

EPILOG = """\b
Examples:
  invdiff submit --jobs 20 --hours 4 -- album --problem dejpeg -o restored
  invdiff submit --jobs 8 --gpus 1 --partition gpu -- album --problem sr --factor 4 --noise 0.01 -o large
  invdiff submit --jobs 2 --cluster local --wait -- album --problem denoise --noise auto -o restored
"""


class SolveShare:
    """One share of ``invdiff solve FOLDER``, run in a job; a job that is stopped before its end is queued again.

    Args:
        arguments: Arguments of ``invdiff solve``.
        count: Number of shares.
    """

    def __init__(self, arguments: Sequence[str], count: int) -> None:
        self.arguments, self.count = list(arguments), count

    def __call__(self, number: int) -> int:
        """Run the share and return the exit code: 1 if pictures failed."""
        command = [sys.executable, "-m", "invdiff", "solve", *self.arguments, "--shard", f"{number}/{self.count}"]
        return subprocess.run(command, check=False).returncode  # noqa: S603 - the program itself

    def checkpoint(self, number: int) -> submitit.helpers.DelayedSubmission:
        """Return what is queued if the time of the job is over, or it is preempted: the same share, which goes on."""
        import submitit

        return submitit.helpers.DelayedSubmission(self, number)


@click.command(epilog=EPILOG, context_settings={"ignore_unknown_options": True, "max_content_width": 110, "show_default": True})
@click.argument("arguments", metavar="-- FOLDER [OPTION OF SOLVE]...", nargs=-1, type=click.UNPROCESSED)
@click.option("--jobs", type=click.IntRange(min=1), required=True, help="Number of jobs.")
@click.option(
    "--hours",
    type=click.FloatRange(0, min_open=True),
    default=4.0,
    help="Time of a job; it is queued again if it needs more.",
)
@click.option("--partition", help="Slurm partition.")
@click.option("--cpus", type=click.IntRange(min=1), default=4, help="Processor cores of a job.")
@click.option("--memory", type=click.FloatRange(0, min_open=True), default=16.0, help="Memory of a job in GB.")
@click.option("--gpus", type=click.IntRange(min=0), default=0, help="GPUs of a job.")
@click.option(
    "--slurm",
    "extra",
    multiple=True,
    metavar="NAME=VALUE",
    help="Further option of sbatch, such as account=physics. Repeatable.",
)
@click.option(
    "--logs", type=click.Path(file_okay=False, path_type=Path), default=Path("invdiff-jobs"), help="Folder for the logs."
)
@click.option("--cluster", type=click.Choice(CLUSTERS), default="slurm", help="local: processes of this machine, for a test.")
@click.option("--wait", is_flag=True, help="Wait for the end of all jobs; the exit code is 1 if one failed.")
def submit(
    arguments: tuple[str, ...],
    jobs: int,
    hours: float,
    partition: str | None,
    cpus: int,
    memory: float,
    gpus: int,
    extra: tuple[str, ...],
    logs: Path,
    cluster: str,
    wait: bool,
) -> None:
    """Restore a folder by an array of Slurm jobs, each with a share of the pictures.

    What follows -- are the arguments of `invdiff solve`. They are checked before anything is submitted. All jobs write to one
    folder on a file system that they share. The same command submitted again does what is missing.
    """
    check(arguments)
    further = parameters(extra)
    try:
        import submitit
    except ImportError:
        raise click.ClickException(MISSING) from None
    settings: dict[str, Any] = {"name": "invdiff", "timeout_min": max(1, round(60 * hours))}
    settings |= {"cpus_per_task": cpus, "mem_gb": memory, **({"gpus_per_node": gpus} if gpus else {})}
    if cluster == "slurm":
        settings |= {} if partition is None else {"slurm_partition": partition}
        settings |= {"slurm_additional_parameters": further} if further else {}
    try:
        executor = submitit.AutoExecutor(folder=logs / "%j", cluster=cluster)
        executor.update_parameters(**settings)
        submitted = executor.map_array(SolveShare(arguments, jobs), list(range(jobs)))
    except (RuntimeError, OSError, subprocess.SubprocessError) as error:
        raise click.ClickException(f"the jobs could not be submitted: {' '.join(str(error).split())}") from error
    click.echo(printable(f"{jobs} jobs: {submitted[0].job_id} to {submitted[-1].job_id}; logs in {logs}"))
    if wait:
        failed = [str(job.job_id) for job in submitted if ended(job) != 0]
        if failed:
            raise click.ClickException(
                f"{len(failed)} of {jobs} jobs failed: {', '.join(failed[:10])}. Their logs are in {logs}."
            )


def check(arguments: Sequence[str]) -> None:
    """Raise a usage error if the arguments are none of ``invdiff solve`` for a folder."""
    from invdiff.cli.solve import solve

    with solve.make_context("invdiff solve", list(arguments)) as context:
        sources, output = context.params["sources"], context.params["output"]
        if len(sources) != 1 or not sources[0].is_dir():
            raise click.UsageError("expected one folder after --, and the options of `invdiff solve`.")
        if output is None:
            raise click.UsageError("-o is missing: the folder for the results, which all jobs can write.")
        if context.params["shard"] is not None:
            raise click.UsageError("--shard is set for each job. Leave it out.")


def parameters(texts: Sequence[str]) -> dict[str, str]:
    """Return the options of sbatch by name."""
    found = {name: value for name, _, value in (text.partition("=") for text in texts)}
    if not all(name and value for name, value in found.items()):
        raise click.UsageError("--slurm: expected NAME=VALUE, such as account=physics.")
    return found


def ended(job: submitit.Job[int]) -> int:
    """Wait for the end of a job and return its exit code."""
    try:
        return job.result()
    except Exception as error:  # whatever has become of it
        click.echo(printable(f"{job.job_id}: {' '.join(str(error).split())[:500]}"), err=True)
        return 1
