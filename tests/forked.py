"""The command in processes that can be killed: forked from one that has imported everything, so that each starts at once.

Commands may be run in that process itself first, so that what only a first run costs is paid once.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

SERVER = """
import json, os, signal, sys
import invdiff.cli
for name in ("solve", "train", "calibrate", "evaluate", "priors"):
    __import__(f"invdiff.cli.{name}")
import invdiff.priors, invdiff.restoration.job, invdiff.training.loop, invdiff.training.card, invdiff.diagnostics
import matplotlib.figure, matplotlib.backends.backend_agg, skimage.data, scipy.stats, tqdm, tabulate
from invdiff.methods import METHODS
[METHODS[name] for name in METHODS]

def run(job):
    os.chdir(job["folder"])
    for number, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(job[name], os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell in the background has its children ignore it
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    if job["kill"] is not None:
        replace, calls = os.replace, [0]
        def counted(*arguments):
            calls[0] += 1
            if calls[0] == job["kill"]:
                os.kill(os.getpid(), signal.SIGKILL)
            return replace(*arguments)
        os.replace = counted
    try:
        invdiff.cli.main(job["arguments"], prog_name="invdiff")
    except SystemExit as end:
        return end.code or 0
    return 0

print("ready", flush=True)
for line in sys.stdin:
    job = json.loads(line)
    if "wait" in job:
        print(os.waitstatus_to_exitcode(os.waitpid(job["wait"], 0)[1]), flush=True)
        continue
    if "here" in job:
        home, kept = os.getcwd(), (os.dup(1), os.dup(2))
        code = run(job)
        sys.stdout.flush()
        [os.dup2(stream, number) for number, stream in enumerate(kept, 1)]
        os.chdir(home)
        print(code, flush=True)
        continue
    pid = os.fork()
    if not pid:
        code = 1
        try:
            code = run(job)
            sys.stdout.flush()
        finally:
            os._exit(code)
    print(pid, flush=True)
"""


class Ended(NamedTuple):
    """How a process ended: its exit code, negative for a signal that killed it, and what it printed."""

    code: int
    out: str
    err: str


class Server:
    """Starts commands; use it as a context manager."""

    def __init__(self, scratch: Path) -> None:
        self.scratch, self.started = scratch, 0
        self.process = subprocess.Popen(
            [sys.executable, "-c", SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "ready\n"  # so that the first command does not take longer than the others

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(30)
        assert self.process.stdout is not None
        self.process.stdout.close()

    def _ask(self, **job: Any) -> int:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(job) + "\n")
        return int(self.process.stdout.readline())

    def start(self, *arguments: object, folder: Path, kill: int | None = None) -> int:
        """Start ``invdiff ARGUMENTS`` in a folder and return its process; ``kill``: it kills itself at that move of a file."""
        return self._ask(**self._job(arguments, folder), kill=kill)

    def warm(self, *arguments: object, folder: Path) -> None:
        """Run a command in the process that the others are forked from."""
        assert self._ask(**self._job(arguments, folder), kill=None, here=True) == 0

    def _job(self, arguments: tuple[object, ...], folder: Path) -> dict[str, Any]:
        self.started += 1
        names = {name: str(self.scratch / f"{self.started}.{name}") for name in ("out", "err")}
        return {"arguments": [str(argument) for argument in arguments], "folder": str(folder), **names}

    def wait(self, process: int) -> Ended:
        """Wait for the end of the process that was started last."""
        code = self._ask(wait=process)
        return Ended(code, *((self.scratch / f"{self.started}.{name}").read_text() for name in ("out", "err")))

    def run(self, *arguments: object, folder: Path, kill: int | None = None) -> Ended:
        """Run a command to its end."""
        return self.wait(self.start(*arguments, folder=folder, kill=kill))

    @staticmethod
    def wait_for_handlers(process: int) -> None:
        """Wait until a command handles SIGTERM: on Linux the system says so, elsewhere it takes less than a second."""
        status, deadline = Path(f"/proc/{process}/status"), time.monotonic() + 60
        if not status.exists():
            time.sleep(1)
            return
        while time.monotonic() < deadline:
            caught = next((line for line in status.read_text().splitlines() if line.startswith("SigCgt:")), "SigCgt: 0")
            if int(caught.split()[1], 16) >> (signal.SIGTERM - 1) & 1 or "State:\tZ" in status.read_text():
                return
            time.sleep(0.005)

    @staticmethod
    def send(process: int, number: int) -> None:
        """Send a signal; a process that has ended is not waited for yet, so that its number is not taken."""
        os.kill(process, number)


SIGNALS = (signal.SIGINT, signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM), getattr(signal, "SIGKILL", signal.SIGTERM))
