"""The restoration of a folder of pictures, one after another, of which a second run does only what is missing or changed."""

from __future__ import annotations

import contextlib
import errno
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from invdiff.io.errors import one_line
from invdiff.posterior.misfit import unwarned
from invdiff.priors import ScoreModel
from invdiff.problems import OptionError
from invdiff.restoration.batch import batches, run_together
from invdiff.restoration.checks import find_problem
from invdiff.restoration.earlier import Results
from invdiff.restoration.job import TAKEN, Job, prepare
from invdiff.restoration.keep import kept_parts
from invdiff.restoration.pictures import COMMAND, RECORD
from invdiff.restoration.record import plain
from invdiff.restoration.result import Restoration
from invdiff.study.companions import Companions
from invdiff.study.identity import file_facts, prior_digest
from invdiff.study.listing import PICTURES, Item, Listing, list_items
from invdiff.study.manifest import MANIFEST, Manifest, merge_manifests
from invdiff.study.placing import Workspace, check_replaceable, workspace
from invdiff.study.plan import Plan, Task
from invdiff.study.shares import Share
from invdiff.study.tars import Tars

__all__ = ["Done", "Study", "Watcher"]

STOPPING = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EPIPE)  # errors that the next item would have too
ARRAYS = frozenset({".npy", ".npz", ".mat", ".h5", ".hdf5"})


class Watcher:
    """What is told of a study while it runs; every method may be overridden.

    Attributes:
        shows_steps: Whether each item has a progress bar of its own.
    """

    shows_steps = False

    def begins(self, items: Sequence[Item]) -> None:
        """Items are begun."""

    def estimate(self, items: Sequence[Item], seconds: float) -> None:
        """The items under way are expected to take so many seconds in all."""

    def was_done(self, item: Item) -> None:
        """The results of an item were there already."""

    def is_done(self, item: Item, restored: Restoration, seconds: float) -> None:
        """An item is done."""

    def failed(self, item: Item, error: Exception) -> None:
        """An item has failed."""


@dataclass
class Done:
    """What a process has done.

    Attributes:
        made: Number of items that were restored.
        kept: Number of items whose results were there already.
        failed: Errors of those that failed, by name.
        seconds: Wall time.
    """

    made: int = 0
    kept: int = 0
    failed: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0


class Study:
    """A folder of pictures, to be restored with common settings.

    Args:
        source: The folder.
        out: Folder of all results, in which every item has its own.
        settings: Settings, as in :func:`~invdiff.restoration.job.prepare`; files of the problem may be folders with one for
            each item, paired by name.
        writing: ``npz``, ``format``, ``format_quality``, ``strip`` and ``keep``, as in :meth:`Restoration.save
            <invdiff.restoration.result.Restoration.save>`.
        option: Options of the method.
        prior_option: Options of a checkpoint.
        overwrite: Whether to do all items again.
        batch: Items of one size that are sampled together.
        tar: Items whose results are packed in one tar file, see :class:`~invdiff.study.tars.Tars`; ``None``: none are.

    Raises:
        OptionError: If a setting is wrong.
        ValueError: If there are no items, or the folder of results is in the way.
        OSError: If a folder cannot be read.
    """

    def __init__(
        self,
        source: Path,
        out: Path,
        settings: Mapping[str, Any],
        writing: Mapping[str, Any],
        *,
        option: Mapping[str, Any],
        prior_option: Mapping[str, Any],
        overwrite: bool = False,
        batch: int = 1,
        tar: int | None = None,
    ) -> None:
        self.source, self.out, self.settings = source, out, dict(settings)
        self.writing = {**writing, "keep": kept_parts(writing["keep"])}
        self.option, self.prior_option, self.overwrite, self.batch = dict(option), dict(prior_option), overwrite, batch
        kind = find_problem(settings["problem"], taken=TAKEN)
        values = {option.name: settings.get(option.name) for option in kind.options}
        self.companions = Companions(kind.files(values))
        arrays = kind.reads == "arrays" and not settings["simulate"]
        self.listing = self._listed(ARRAYS if arrays else PICTURES)
        self.tars = None if tar is None else Tars(out, self.listing.items, tar)

    def _listed(self, suffixes: frozenset[str]) -> Listing:
        if self.out.exists() and self.out.samefile(self.source):
            raise ValueError(f"{self.out}: the results would be among the pictures. Choose another folder with -o.")
        listing = list_items(self.source, suffixes, leave_out=(self.out, *self.companions.paths))
        if not listing.items:
            kinds = ", ".join(sorted(suffixes))
            others = f"; it holds {listing.others} other files" if listing.others else ""
            raise ValueError(f"{self.source}: expected files {kinds} in this folder or those in it{others}.")
        return listing

    def run(self, share: Share, score: ScoreModel, watcher: Watcher) -> Done:
        """Restore the items of this process.

        Args:
            share: Which items these are.
            score: The prior.
            watcher: Is told what happens.

        Raises:
            OptionError: If the first item shows that the settings are wrong.
            OSError: If the disk is full, or cannot be written.
            KeyboardInterrupt: If the process was asked to stop. All that is done is kept.
        """
        started, done = time.monotonic(), Done()
        self._check_out()
        try:
            with (
                workspace(self.out, share.writer or "study") as place,
                Manifest(self.out, writer=share.writer, header=self._header()) as manifest,
            ):
                every = (place, manifest, score, done, watcher)
                if self.tars is None:
                    self._do_all(share.take(self.listing.items), None, *every)
                else:
                    for unit in share.take(self.tars.units):
                        self._do_all(self.tars.members[unit.name], unit.name, *every)
                        self.tars.pack(unit.name, place)
        finally:
            done.seconds = time.monotonic() - started
        return done

    def finish(self) -> None:
        """Make one manifest, once all processes that know of each other have ended their work."""
        with contextlib.suppress(OSError):
            merge_manifests(self.out, self._header())

    def _check_out(self) -> None:
        if self.out.exists() and not self.out.is_dir():
            raise ValueError(f"{self.out} is a file, expected a folder for the results. Choose another with -o.")
        if not self.out.exists() or any(self.out.glob("manifest*.jsonl")):
            return
        if any(not path.name.startswith(".") for path in self.out.iterdir()):
            raise ValueError(f"{self.out} is not empty and has no {MANIFEST} of an earlier run: choose another folder with -o.")

    def _header(self) -> dict[str, Any]:
        from importlib.metadata import version

        common = {name: plain(value) for name, value in {**self.settings, **self.writing}.items()}
        for name, path in {**self.companions.shared, **self.companions.folders}.items():
            common[name] = path.name
        return {"invdiff": version("invdiff"), "command": COMMAND, "settings": common}

    def _is_packed(self, name: str | None, task: Task) -> bool:
        return self.tars is not None and name is not None and self.tars.holds(name, task.item, task.key)

    @cached_property
    def plan(self) -> Plan:
        """What is to be made of each item."""
        calibration, further = self.settings["calibration"], dict[str, Any]()
        if isinstance(calibration, Path) and calibration.is_file():
            further["calibration"] = file_facts(calibration)
        prior = prior_digest(self.settings["prior"])
        return Plan(self.out, self.settings, self.writing, self.companions, prior, further)

    def _do_all(
        self,
        items: Iterable[Item],
        packed: str | None,
        place: Workspace,
        manifest: Manifest,
        score: ScoreModel,
        done: Done,
        watcher: Watcher,
    ) -> None:
        for tasks in self._groups(items, manifest, done, watcher, packed):
            self._do(tasks, place, manifest, score, done, watcher)

    def _groups(
        self, items: Iterable[Item], manifest: Manifest, done: Done, watcher: Watcher, packed: str | None
    ) -> Iterator[list[Task]]:
        """Yield the tasks of items that are not done yet, as many at a time as may be sampled together.

        ``packed`` is the name of the tar file in which the results of earlier runs may be.
        """
        plan, group = self.plan, list[Task]()
        for item in items:
            known = manifest.entries.get(item.name)
            try:
                task = plan.task(item, known)
                if not self.overwrite and (plan.is_done(task, known) or self._is_packed(packed, task)):
                    if known is None or known.get("key") != task.key:  # killed before it was written down
                        manifest.add(task.entry("done"))
                    done.kept += 1
                    watcher.was_done(item)
                    continue
            except (OSError, ValueError) as error:
                self._fail(item, error, manifest, done, watcher)
                continue
            group.append(task)
            if len(group) == self.batch:
                yield group
                group = []
        if group:
            yield group

    def _do(
        self, tasks: list[Task], place: Workspace, manifest: Manifest, score: ScoreModel, done: Done, watcher: Watcher
    ) -> None:
        jobs: dict[int, tuple[Task, Job]] = {}
        for task in tasks:
            try:
                check_replaceable(task.target, Results(COMMAND, RECORD), self.companions.paths)
                job = prepare(task.item.path, task.settings, option=self.option, prior_option=self.prior_option, score=score)
                jobs[id(job)] = task, job
            except Exception as error:
                if isinstance(error, OptionError) and not (done.made or done.kept or done.failed):
                    raise  # the settings are wrong, for all items
                self._fail(task.item, error, manifest, done, watcher, task)
        for batch in batches([job for _, job in jobs.values()], self.batch):
            self._run([(jobs[id(job)][0], job) for job in batch], place, manifest, done, watcher)

    def _run(self, batch: list[tuple[Task, Job]], place: Workspace, manifest: Manifest, done: Done, watcher: Watcher) -> None:
        items, started = [task.item for task, _ in batch], time.monotonic()
        watcher.begins(items)
        try:
            with unwarned():  # they are notes in the records
                every = run_together(
                    [job for _, job in batch],
                    option=self.option,
                    progress=watcher.shows_steps,
                    report=lambda seconds, _: watcher.estimate(items, seconds),
                )
        except Exception as error:
            if len(batch) > 1:  # one by one: only the cause of the error fails
                for one in batch:
                    self._run([one], place, manifest, done, watcher)
                return
            self._fail(items[0], error, manifest, done, watcher, batch[0][0])
            return
        for (task, job), restored in zip(batch, every, strict=True):
            try:
                self._write(task, job, restored, place)
            except Exception as error:
                self._fail(task.item, error, manifest, done, watcher, task)
                continue
            seconds = (time.monotonic() - started) / len(batch)
            manifest.add(task.entry("done", timing={"seconds": round(seconds, 2)}))
            done.made += 1
            watcher.is_done(task.item, restored, seconds)

    def _write(self, task: Task, job: Job, restored: Restoration, place: Workspace) -> None:
        files = job.file_format(
            self.writing["format"],
            quality=self.writing["format_quality"],
            strip=self.writing.get("strip", False),
            anonymize=self.writing.get("anonymize", False),
        )
        with place.part() as part:
            restored.write(part, task.target, npz=self.writing["npz"], files=files, keep=self.writing["keep"], key=task.key)
            place.place(part, task.target)

    def _fail(
        self,
        item: Item,
        error: Exception,
        manifest: Manifest,
        done: Done,
        watcher: Watcher,
        task: Task | None = None,
    ) -> None:
        """Write down that an item has failed; raise the error if the next items would fail too."""
        if isinstance(error, OSError) and error.errno in STOPPING:
            raise error
        message = one_line(error)
        done.failed[item.name] = message
        facts = {"error": message}
        none = {"name": item.name, "folder": item.folder, "state": "failed", "input": {}, "files": {}}
        manifest.add({**none, **facts} if task is None else task.entry("failed", **facts))
        watcher.failed(item, error)
