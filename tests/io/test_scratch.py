"""Hidden folders for what is not complete yet, atomic writing, and signals."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from invdiff.io import scratch as module
from invdiff.io.images import atomic_write
from invdiff.io.scratch import COMPLETE, LOCK, Scratch, hidden, sweep
from invdiff.io.signals import STOPPING, Stopped, held_back, raise_when_stopped

KILLED = """
import os, signal, sys
from pathlib import Path
from invdiff.io.images import atomic_write
from invdiff.io.scratch import Scratch
Scratch(Path(sys.argv[1])).take()
with atomic_write(sys.argv[2]) as part:
    part.write_text("half")
    print("ready", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def killed(tmp_path):
    """Leave the hidden folders of a process that was killed, and check that they are untouched while it lives."""

    def kill(folder: Path, file: Path) -> None:
        command = [sys.executable, "-c", KILLED, str(folder), str(file)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            before = sorted(tmp_path.rglob("*"))
            sweep(folder.parent)
            sweep(file.parent)
            assert not Scratch(folder).take()
            assert sorted(tmp_path.rglob("*")) == before
            process.kill()

    return kill


class TestScratch:
    def test_taken_once(self, tmp_path):
        one, two = Scratch(hidden(tmp_path / "a" / "out")), Scratch(hidden(tmp_path / "a" / "out"))
        assert one.take()
        assert not two.take()
        two.release()  # of what it does not have
        assert one.folder.is_dir()
        one.release()
        assert list(tmp_path.iterdir()) == []
        assert two.take()
        two.release()
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL")
    def test_what_a_killed_process_left(self, tmp_path, killed):
        folder = hidden(tmp_path / "out")
        killed(folder, tmp_path / "file.txt")
        assert len(list(tmp_path.iterdir())) == 2
        sweep(tmp_path)
        assert list(tmp_path.iterdir()) == []
        killed(folder, tmp_path / "file.txt")
        again = Scratch(folder)
        assert again.take()
        again.release()
        with atomic_write(tmp_path / "other.txt") as part:
            part.write_text("whole")
        assert [path.name for path in tmp_path.iterdir()] == ["other.txt"]

    @pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL")
    def test_complete_results_are_not_dropped(self, tmp_path, killed):
        folder = hidden(tmp_path / "out")
        killed(folder, tmp_path / "file.txt")
        (folder / COMPLETE).mkdir()
        sweep(tmp_path)
        assert (folder / COMPLETE).exists()
        finished = []
        sweep(tmp_path, finished.append)
        assert finished == [folder]
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize("content", ["no lock", "link", "file"])
    def test_what_is_not_ours_is_left_alone(self, tmp_path, content):
        folder = hidden(tmp_path / "out")
        (tmp_path / "theirs").mkdir()
        (tmp_path / "theirs" / LOCK).touch()
        if content == "link":
            folder.symlink_to(tmp_path / "theirs")
        elif content == "file":
            folder.write_text("theirs")
        else:
            folder.mkdir()
            (folder / "theirs").touch()
        before = sorted(tmp_path.rglob("*"))
        sweep(tmp_path)
        assert not Scratch(folder).take()
        assert sorted(tmp_path.rglob("*")) == before

    def test_file_systems_without_locks(self, tmp_path, monkeypatch):
        """Nothing is taken for a leftover there."""

        class Without:
            LOCK_EX = LOCK_NB = 0

            @staticmethod
            def flock(*arguments):
                raise OSError(errno.ENOLCK, "No locks available")

        monkeypatch.setattr(module, "fcntl", Without)
        one = Scratch(hidden(tmp_path / "out"))
        assert one.take()
        sweep(tmp_path)
        assert not Scratch(one.folder).take()
        one.release()
        assert list(tmp_path.iterdir()) == []

    def test_long_names(self, tmp_path):
        for name in ("x" * 255, "é" * 127, "x"):
            assert len(os.fsencode(hidden(tmp_path / name).name)) <= 255
        assert hidden(tmp_path / ("x" * 250)) != hidden(tmp_path / ("x" * 251))


class TestAtomicWrite:
    def test_errors_name_the_file(self, tmp_path):
        with pytest.raises(OSError, match="No space") as error, atomic_write(tmp_path / "a.txt") as part:
            raise OSError(errno.ENOSPC, "No space left on device", str(part))
        assert error.value.filename == str(tmp_path / "a.txt")
        assert list(tmp_path.iterdir()) == []

    def test_long_names(self, tmp_path):
        path = tmp_path / ("x" * 251 + ".txt")
        with atomic_write(path) as part:
            part.write_text("whole")
        assert path.read_text() == "whole"

    @pytest.mark.skipif(sys.platform == "win32", reason="has no umask")
    def test_permissions_follow_the_umask(self, tmp_path):
        before = os.umask(0o027)
        try:
            with atomic_write(tmp_path / "a.txt") as part:
                part.write_text("whole")
                part.chmod(0o600)  # as safetensors does
        finally:
            os.umask(before)
        assert (tmp_path / "a.txt").stat().st_mode & 0o777 == 0o640

    def test_many_at_once(self, tmp_path):
        """Writers of one file in several threads never share a name: in the end it is whole."""

        def write(number: int) -> None:
            for _ in range(20):
                with atomic_write(tmp_path / "a.txt") as part, part.open("w") as file:
                    file.writelines(f"{number}\n" for _ in range(200))

        threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
        [thread.start() for thread in threads]
        [thread.join() for thread in threads]
        assert len(set((tmp_path / "a.txt").read_text().split())) == 1
        assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


@pytest.fixture
def from_a_terminal():
    """Let signals act as they do in a terminal: under ``nohup`` SIGHUP is ignored, and in the background of a script SIGINT."""
    before = {number: signal.getsignal(number) for number in STOPPING}
    for number in STOPPING:
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    yield
    for number, earlier in before.items():
        signal.signal(number, earlier)


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")
@pytest.mark.usefixtures("from_a_terminal")
class TestSignals:
    @pytest.mark.parametrize("number", STOPPING)
    def test_held_back_until_the_end(self, number):
        done = []
        with pytest.raises(KeyboardInterrupt), raise_when_stopped(), held_back():  # noqa: PT012
            with held_back():
                signal.raise_signal(number)
                done.append("inner")
            done.append("outer")
        assert done == ["inner", "outer"]

    @pytest.mark.parametrize("number", STOPPING[1:])
    def test_stopped(self, number):
        before = signal.getsignal(number)
        with pytest.raises(Stopped) as stopped, raise_when_stopped():
            signal.raise_signal(number)
        assert stopped.value.number == number
        assert str(stopped.value) == f"Stopped by {number.name}."
        assert signal.getsignal(number) is before

    def test_nohup_is_respected(self):
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        with raise_when_stopped(), held_back():
            signal.raise_signal(signal.SIGHUP)

    def test_other_threads(self):
        seen = []

        def work() -> None:
            with raise_when_stopped(), held_back():
                seen.append(True)

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        assert seen == [True]
