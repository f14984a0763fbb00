"""``invdiff solve`` for a folder: a bar over all pictures, what failed, and a summary."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
from tqdm.auto import tqdm

from invdiff.cli.duration import duration
from invdiff.cli.messages import debug, is_quiet, note, shows_bars
from invdiff.cli.method_options import method_options
from invdiff.cli.prior_options import given_options, load
from invdiff.io.errors import one_line
from invdiff.io.printable import printable
from invdiff.io.signals import Stopped
from invdiff.posterior.draw import chunk_size
from invdiff.restoration.checks import find_problem
from invdiff.restoration.device import pick_device
from invdiff.restoration.record import to_json
from invdiff.restoration.result import Restoration
from invdiff.study.listing import Item
from invdiff.study.manifest import MANIFEST
from invdiff.study.run import Done, Study, Watcher
from invdiff.study.shares import Share, find_share

__all__ = ["solve_folder"]

SHORT = 5.0  # seconds below which no estimate is printed
LONG = 10.0  # seconds of a first picture in which what is done only once, such as the start of the network, does not count
NAMED = 10  # failures in the last message
BAR = "{percentage:3.0f}%|{bar}| {remaining} left; {desc}"


class Bar(Watcher):
    """A progress bar over all items on a terminal, and messages on stderr."""

    def __init__(self, items: Sequence[Item], share: Share) -> None:
        self.items, self.share = items, share
        self.shows_steps = shows_bars()
        self.left = sum(item.cost for item in items)
        self.count, self.failures, self._told, self._made = 0, 0, False, False
        self._bar = tqdm(total=self.left or 1, disable=not self.shows_steps, bar_format=BAR, smoothing=0, leave=False)

    def begins(self, items: Sequence[Item]) -> None:
        more = f" and {len(items) - 1} more" if len(items) > 1 else ""
        self._bar.set_description_str(f"{self.count + 1:,} of {len(self.items):,}: {printable(items[0].name)}{more}")

    def estimate(self, items: Sequence[Item], seconds: float) -> None:
        if seconds >= LONG or self._made:
            self._tell(seconds / max(1, sum(item.cost for item in items)))

    def was_done(self, item: Item) -> None:
        self.left -= item.cost
        self.count += 1
        self._bar.total = max(1, (self._bar.total or 0) - item.cost)  # not counted: it says nothing of the time of the others

    def is_done(self, item: Item, restored: Restoration, seconds: float) -> None:
        for text in restored.notes:
            if text.startswith("misfit"):
                self._say(f"{item.name}: {text}")
        debug(f"{item.name}: {seconds:.2f} s")
        if seconds >= LONG or self._made:
            self._tell(seconds / max(1, item.cost))
        self._made = True
        self._pass(item)

    def failed(self, item: Item, error: Exception) -> None:
        message = one_line(error)
        self._say(f"failed: {message if item.name in message else f'{item.name}: {message}'}")
        self.failures += 1
        self._pass(item)

    def close(self) -> None:
        self._bar.close()

    def _pass(self, item: Item) -> None:
        self.left -= item.cost
        self.count += 1
        self._bar.update(item.cost)

    def _tell(self, seconds_per_cost: float) -> None:
        """Print an estimate of the time of all items that are left, once."""
        seconds, count = seconds_per_cost * self.left / self.share.count, len(self.items) - self.count
        if not self._told and seconds > SHORT and self.share.number == 0:
            pictures = "1 picture" if count == 1 else f"{count:,} pictures"
            self._say(f"estimate: {pictures}, about {duration(seconds)}")
        self._told = True

    @staticmethod
    def _say(text: str) -> None:
        note(text)


def solve_folder(
    source: Path,
    settings: Mapping[str, Any],
    output: Path | None,
    writing: Mapping[str, Any],
    *,
    overwrite: bool,
    shard: str | None,
    batch: int | None,
    tar: int | None,
    as_json: bool,
) -> None:
    """Restore the pictures of a folder, and print a summary.

    Args:
        source: The folder.
        settings: Options that all pictures share.
        output: Folder of all results; ``None``: ``invdiff-out/NAME-PROBLEM``.
        writing: Options of the files of results.
        overwrite: Whether to do all pictures again.
        shard: Share of this process, ``I/N``, or ``None`` for that of the environment.
        batch: Pictures of one size that are sampled together, or ``None`` for the default of the device.
        tar: Pictures whose results are packed in one tar file, or ``None``.
        as_json: Whether to print the summary as JSON.

    Raises:
        OptionError: If an option is wrong.
        click.ClickException: At the end, if a picture failed.
    """
    share, kind = find_share(shard), find_problem(settings["problem"])
    device = pick_device(_device_of_rank(settings["device"], share))
    settings = {**settings, "device": str(device)}
    name = source.resolve().name or "pictures"
    out = output if output is not None else Path("invdiff-out") / f"{name}-{kind.name}"
    option, prior_option = method_options(settings["option"], settings["method"]), given_options(settings["prior_option"])
    study = Study(
        source, out, settings, writing, option=option, prior_option=prior_option, overwrite=overwrite, batch=batch or 1, tar=tar
    )
    score = load(settings, device)
    if batch is None and device.type != "cpu":
        (channels, *sides) = score.image_shape or (3, None, None)
        shape = (channels or 3, *(side or 256 for side in sides))
        study.batch = max(1, chunk_size(shape, device) // settings["samples"])
    items = study.listing.items
    if share.count > 1 and (share.where != "torchrun" or share.number == 0):
        which = (
            f"share {share.number} of {share.count}, counted from 0" if share.where != "torchrun" else f"{share.count} ranks"
        )
        note(f"{which} ({share.where})")
    bar = Bar(items, share)
    try:
        done = study.run(share, score, bar)
    except (KeyboardInterrupt, OSError) as error:
        raise _with_hint(error, bar, out) from error
    finally:
        bar.close()
    every = share.gather(asdict(done))
    if every is not None:
        study.finish()
        _report(study, out, [Done(**each) for each in every], as_json=as_json)


def _device_of_rank(device: str, share: Share) -> str:
    """Return the GPU of this rank of a machine, if it is to be selected and there are several."""
    import os

    import torch

    local = os.environ.get("LOCAL_RANK", "")
    if device == "auto" and share.where == "torchrun" and local.isdigit() and torch.cuda.device_count() > 1:
        return f"cuda:{int(local) % torch.cuda.device_count()}"
    return device


def _with_hint(error: BaseException, bar: Bar, out: Path) -> BaseException:
    failed = f", {bar.failures:,} failed" if bar.failures else ""
    hint = f"{bar.count - bar.failures:,} of {len(bar.items):,} pictures are done{failed}; the same command goes on."
    if isinstance(error, KeyboardInterrupt):
        return Stopped(error.number if isinstance(error, Stopped) else 2, hint)
    text = one_line(error) if isinstance(error, Exception) else str(error)
    return OSError(f"{out}: {text.rstrip('.')}. {hint}")


def _report(study: Study, out: Path, every: Sequence[Done], *, as_json: bool) -> None:
    failed = dict(sorted((name, text) for each in every for name, text in each.failed.items()))
    made, kept = sum(each.made for each in every), sum(each.kept for each in every)
    seconds = max(each.seconds for each in every)
    if as_json:
        facts = {"made": made, "kept": kept, "failed": failed, "seconds": round(seconds, 2), "output": str(out)}
        click.echo(to_json(facts))
    elif not is_quiet():
        lines = {"restored": f"{made:,} in {duration(seconds)}"}
        if kept:
            lines["kept"] = f"{kept:,} were there already"
        if failed:
            lines["failed"] = f"{len(failed):,}, named below and in {MANIFEST}"
        if study.listing.others:
            lines["ignored"] = f"{study.listing.others:,} other files"
        lines["results"] = printable(str(out))
        click.echo("\n".join(f"{name:<10}{text}" for name, text in lines.items()))
    if failed:
        total = made + kept + len(failed)
        named = [text if name in text else f"{name}: {text}" for name, text in list(failed.items())[:NAMED]]
        more = f" And {len(failed) - NAMED:,} more." if len(failed) > NAMED else ""
        raise click.ClickException(
            f"{len(failed):,} of {total:,} pictures failed. {' '.join(_ended(text) for text in named)}{more}"
        )


def _ended(text: str) -> str:
    return text if text.endswith((".", "!", "?")) else f"{text}."
