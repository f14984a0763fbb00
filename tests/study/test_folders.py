"""``invdiff solve FOLDER``: every picture once, with its own mask; what fails is named; a second run does what is missing."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import sys
import tarfile
import time
from pathlib import Path

import numpy as np
import pytest
from forked import Server

from invdiff.io.images import read_image, write_image
from invdiff.io.paths import sha256_of
from invdiff.restoration import result
from invdiff.study.identity import item_seed
from invdiff.study.manifest import read_manifest

NAMES = ("a.png", "b.png", "sub/a.png", "sub/deep/c.png")
INPAINT = ("--problem", "inpaint", "--mask", "masks", "--noise", 0.02)


def fill(folder: Path, names=NAMES) -> Path:
    draw = np.random.default_rng(0)
    for number, name in enumerate(names):
        size = (12, 16) if number % 2 else (16, 12)
        for kind in ("album", "masks"):
            (folder / kind / name).parent.mkdir(parents=True, exist_ok=True)
        write_image(folder / "album" / name, draw.uniform(-1, 1, (3, *size)))
        write_image(folder / "masks" / name, np.where(draw.uniform(size=(1, *size)) < 0.3, 1.0, -1.0))
    return folder


@pytest.fixture
def album(tmp_path, invdiff):
    return fill(tmp_path)


def digests(folder: Path) -> dict[str, str]:
    """Of all files but the manifest, which has times."""
    found = {str(path.relative_to(folder)): sha256_of(path) for path in folder.rglob("*") if path.is_file()}
    return {name: digest for name, digest in found.items() if name != "manifest.jsonl"}


def records(folder: Path) -> dict[str, dict]:
    paths = sorted(folder.rglob("run.json"))
    return {str(path.parent.relative_to(folder)): json.loads(path.read_text()) for path in paths}


def times(folder: Path) -> dict[str, int]:
    return {str(path.parent.relative_to(folder)): path.stat().st_mtime_ns for path in sorted(folder.rglob("run.json"))}


class TestFolder:
    def test_every_picture_has_its_own_results_mask_and_seed(self, solve, album):
        out = solve("album", *INPAINT, "-o", "out").stdout
        assert "restored  4 in" in out
        found = records(album / "out")
        assert list(found) == ["a", "b", "sub/a", "sub/deep/c"]
        for name, record in found.items():
            files = {key: sha256_of(album / kind / f"{name}.png") for key, kind in (("input", "album"), ("mask", "masks"))}
            assert {key: record["files"][key]["sha256"] for key in files} == files
            assert record["arguments"]["seed"] == item_seed(0, f"{name}.png")
        assert len({record["arguments"]["seed"] for record in found.values()}) == 4
        manifest = read_manifest(album / "out")
        assert [entry["state"] for entry in manifest.values()] == ["done"] * 4
        assert [entry["folder"] for entry in manifest.values()] == list(found)
        assert str(album) not in (album / "out" / "manifest.jsonl").read_text()

    def test_results_are_those_of_a_run_of_its_own(self, solve, album):
        solve("album", *INPAINT, "-o", "out")
        seed = item_seed(0, "sub/a.png")
        solve("album/sub/a.png", *INPAINT[:2], "--mask", "masks/sub/a.png", "--noise", 0.02, "--seed", seed, "-o", "alone")
        alone, together = digests(album / "alone"), digests(album / "out" / "sub" / "a")
        assert {name: alone[name] for name in alone if name != "run.json"} == {
            name: together[name] for name in together if name != "run.json"
        }

    def test_one_mask_for_all_and_a_default_folder(self, solve, album):
        for name in NAMES:  # of one size
            write_image(album / "album" / name, np.random.default_rng(1).uniform(-1, 1, (3, 16, 12)))
        solve("album", "--problem", "inpaint", "--mask", "masks/a.png")
        assert list(records(album / "invdiff-out" / "album-inpaint")) == ["a", "b", "sub/a", "sub/deep/c"]

    def test_names_that_would_share_a_folder(self, solve, album):
        shutil.copy(album / "album" / "a.png", album / "album" / "a.bmp.png")
        shutil.copy(album / "album" / "a.png", album / "album" / "sub.png")
        write_image(album / "album" / "b.bmp", np.zeros((3, 12, 16)))
        solve("album", "--problem", "denoise", "--noise", 0.1, "-o", "out")
        assert list(records(album / "out")) == ["a", "a.bmp", "b.bmp", "b.png", "sub/a", "sub/deep/c", "sub.png"]

    def test_what_is_no_picture(self, solve, album):
        """Other files are counted, results of earlier runs and hidden files are not looked at, and masks are no pictures."""
        (album / "album" / "notes.txt").write_text("mine")
        (album / "album" / ".hidden.png").write_bytes(b"nothing")
        shutil.move(album / "masks", album / "album" / "masks")
        at = ("album", *INPAINT[:2], "--mask", "album/masks", "--noise", 0.02)
        solve(*at, "-o", "album/out")
        out = solve(*at, "-o", "album/second").stdout
        assert "restored  4 in" in out
        assert "ignored   1 other files" in out

    def test_arrays(self, solve, invdiff, album):
        for number in range(2):
            np.save(album / f"{number}.npy", np.random.default_rng(number).uniform(0, 1, (16, 16)).astype(np.float32))
            (album / "scans").mkdir(exist_ok=True)
            solve(f"{number}.npy", "--problem", "ct", "--angles", 8, "--noise", 0.5, "--simulate", "-o", f"o{number}")
            shutil.copy(next((album / f"o{number}").glob("measurement.np*")), album / "scans" / f"{number}.npz")
        solve("scans", "--problem", "ct", "--noise", 0.5, "-o", "out")
        assert list(records(album / "out")) == ["0", "1"]


class TestFailures:
    def test_are_named_and_do_not_stop_the_rest(self, solve, album):
        (album / "album" / "b.png").write_bytes(b"\x89PNG nothing")
        (album / "masks" / "sub" / "deep" / "c.png").unlink()
        ended = solve("album", *INPAINT, "-o", "out", code=1)
        assert "2 of 4 pictures failed." in ended.stderr
        assert "album/b.png: is damaged" in ended.stderr
        assert "sub/deep/c.png: --mask: masks holds no file of this name, sub/deep/c" in ended.stderr
        assert list(records(album / "out")) == ["a", "sub/a"]
        manifest = read_manifest(album / "out")
        assert manifest["b.png"]["state"] == "failed"
        assert "is damaged" in manifest["b.png"]["error"]
        assert not (album / "out" / "sub" / "deep").exists()
        fill(album)
        before = times(album / "out")
        assert "kept      2 were there" in solve("album", *INPAINT, "-o", "out").stdout
        assert before.items() <= times(album / "out").items()
        assert {entry["state"] for entry in read_manifest(album / "out").values()} == {"done"}

    def test_wrong_settings_fail_at_once(self, solve, album):
        ended = solve("album", "--problem", "sr", "-o", "out", code=2)
        assert "--factor" in ended.stderr
        assert not (album / "out").exists() or list((album / "out").iterdir()) == [album / "out" / "manifest.jsonl"]

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (("empty", "-o", "out"), "empty: expected files .arw, .avi, .avif, .bmp"),
            (("album", "-o", "album"), "album: the results would be among the pictures"),
            (("album", "-o", "masks"), "masks is not empty and has no manifest.jsonl"),
            (("album", "-o", "album/a.png"), "a.png is a file, expected a folder"),
        ],
    )
    def test_folders_in_the_way(self, solve, album, arguments, message):
        (album / "empty").mkdir()
        before = digests(album)
        assert message in solve(*arguments, "--problem", "denoise", "--noise", 0.1, code=1).stderr
        assert digests(album) == before

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (("album", "album/a.png"), "album is a folder"),
            (("album", "--shard", "2/2"), "the last one is 1/2"),
            (("album", "--shard", "1"), "expected I/N"),
            (("album", "--keep", "all"), "expected some of samples,best"),
            (("album/a.png", "--shard", "0/2"), "--shard is for a folder"),
            (("album/a.png", "--batch", "2"), "--batch is for a folder"),
        ],
    )
    def test_usage(self, solve, album, arguments, message):
        assert message in solve(*arguments, "--problem", "denoise", "--noise", 0.1, "-o", "out", code=2).stderr
        assert not (album / "out").exists()

    def test_a_full_disk_stops_the_run_and_the_next_one_goes_on(self, solve, album, monkeypatch):
        solve("album", *INPAINT, "-o", "whole")
        write, calls = result.write, [0]

        def full(*arguments, **settings):
            calls[0] += 1
            if calls[0] == 3:
                write(*arguments, **settings)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "x.png")
            return write(*arguments, **settings)

        monkeypatch.setattr(result, "write", full)
        ended = solve("album", *INPAINT, "-o", "out", code=1)
        assert "No space left on device" in ended.stderr
        assert "2 of 4 pictures are done; the same command goes on." in ended.stderr
        assert list(records(album / "out")) == ["a", "b"]
        assert not list((album / "out").glob(".*"))
        monkeypatch.setattr(result, "write", write)
        solve("album", *INPAINT, "-o", "out")
        assert digests(album / "out") == digests(album / "whole")


class TestSecondRun:
    def test_does_nothing_if_nothing_changed(self, solve, album):
        solve("album", *INPAINT, "-o", "out")
        before, manifest = times(album / "out"), (album / "out" / "manifest.jsonl").read_bytes()
        assert "kept      4 were there" in solve("album", *INPAINT, "-o", "out").stdout
        assert times(album / "out") == before
        assert (album / "out" / "manifest.jsonl").read_bytes() == manifest

    def test_without_a_manifest_or_with_a_torn_one(self, solve, album):
        solve("album", *INPAINT, "-o", "out")
        before, path = times(album / "out"), album / "out" / "manifest.jsonl"
        lines = path.read_bytes().splitlines(keepends=True)
        path.write_bytes(b"".join(lines[:3]) + lines[3][:40])
        assert "kept      4 were there" in solve("album", *INPAINT, "-o", "out").stdout
        assert len(path.read_text().splitlines()) == 5
        assert times(album / "out") == before

    @pytest.mark.parametrize("change", ["picture", "mask", "prior", "settings", "overwrite", "gone"])
    def test_does_what_has_changed(self, solve, album, tiny_prior, change):
        shutil.copy(tiny_prior, "mine.safetensors")
        more = ("-o", "out", "--prior", "mine.safetensors")
        solve("album", *INPAINT, *more)
        before, again = times(album / "out"), ()
        if change in ("picture", "mask"):
            path = album / ("album" if change == "picture" else "masks") / "sub" / "a.png"
            write_image(path, read_image(path).pixels[:, ::-1])
        elif change == "prior":
            (album / "mine.safetensors").write_bytes(rewritten(tiny_prior))
        elif change == "gone":
            shutil.rmtree(album / "out" / "sub" / "a")
        else:
            again = {"settings": ("--seed", 1), "overwrite": ("--overwrite",)}[change]
        solve("album", *INPAINT, *more, *again)
        changed = {name for name, time in times(album / "out").items() if before.get(name) != time}
        assert changed == (set(before) if change in ("prior", "settings", "overwrite") else {"sub/a"})
        assert not list((album / "out").glob(".*"))

    def test_an_array_in_a_file_counts_by_its_name_and_the_file(self, solve, album):
        wide, narrow = (np.outer(np.hanning(size), np.hanning(size)) for size in (7, 5))
        np.savez(album / "kernels.npz", wide=wide, narrow=narrow)
        at = ("album", "--problem", "deblur", "--noise", 0.02, "-o", "out", "--kernel")
        for kernel, kept in (("wide", 0), ("wide", 4), ("narrow", 0), ("narrow", 4)):
            assert ("kept      4" in solve(*at, f"kernels.npz:{kernel}").stdout) == bool(kept)
        np.savez(album / "kernels.npz", wide=wide, narrow=wide)
        assert "kept" not in solve(*at, "kernels.npz:narrow").stdout

    def test_kernels_in_a_folder(self, solve, album):
        for number, name in enumerate(NAMES):
            path = (album / "kernels" / name).with_suffix(".npy")
            path.parent.mkdir(parents=True, exist_ok=True)
            np.save(path, np.outer(*[np.hanning(5 + 2 * (number % 2))] * 2))
        at = ("album", "--problem", "deblur", "--noise", 0.02, "-o", "out", "--kernel", "kernels")
        solve(*at)
        for name, record in records(album / "out").items():
            assert record["files"]["kernel"]["sha256"] == sha256_of(album / "kernels" / f"{name}.npy")
        np.save(album / "kernels" / "b.npy", np.ones((3, 3)))
        assert "kept      3" in solve(*at).stdout

    def test_does_not_replace_what_somebody_changed(self, solve, album):
        solve("album", *INPAINT, "-o", "out")
        (album / "out" / "a" / "notes.txt").write_text("mine")
        write_image(album / "out" / "b" / "mean.png", np.zeros((3, 12, 16)))
        before = digests(album / "out")
        ended = solve("album", *INPAINT, "-o", "out", "--seed", 1, code=1)
        assert "out/a/notes.txt was not written by this program: move it away to keep it" in ended.stderr
        assert "out/b/mean.png was changed after the run that wrote it" in ended.stderr
        now = digests(album / "out")
        assert {name: now[name] for name in before if name[:2] in ("a/", "b/")} == {
            name: before[name] for name in before if name[:2] in ("a/", "b/")
        }
        assert now["sub/a/mean.png"] != before["sub/a/mean.png"]


def rewritten(prior: Path) -> bytes:
    """Return the file of a prior with another byte in its weights."""
    content = bytearray(prior.read_bytes())
    content[-3] ^= 1
    return bytes(content)


class TestKeep:
    def test_only_what_is_asked_for(self, solve, album):
        solve("album", *INPAINT, "-o", "out", "--keep", "mean,quantiles", "--samples", 3, "--npz")
        names = {path.name for path in (album / "out" / "a").iterdir()}
        quantiles = {"quantile-05.png", "quantile-50.png", "quantile-95.png"}
        assert names == {"mean.png", "mask.png", "run.json", "posterior.npz", *quantiles}
        with np.load(album / "out" / "a" / "posterior.npz") as arrays:
            assert set(arrays) == {"mean", "quantile-05", "quantile-50", "quantile-95", "measurement", "weights"}
        solve("album/a.png", *INPAINT[:2], "--mask", "masks/a.png", "--noise", 0.02, "-o", "a", "--npz", "--samples", 3)
        solve("album/a.png", *INPAINT[:2], "--mask", "masks/a.png", "--noise", 0.02, "-o", "q", "--npz", "--samples", 3,
              "--keep", "quantiles,std")  # fmt: skip
        with np.load(album / "a" / "posterior.npz") as whole, np.load(album / "q" / "posterior.npz") as kept:
            for name, q in (("quantile-05", 0.05), ("quantile-50", 0.5), ("quantile-95", 0.95)):
                np.testing.assert_allclose(kept[name], np.quantile(whole["samples"], q, axis=0), atol=1e-6)
            np.testing.assert_allclose(kept["std"], whole["samples"].std(0, ddof=1), atol=1e-6)

    def test_samples_can_be_drawn_again(self, solve, album):
        solve("album", *INPAINT, "-o", "out")
        solve("album", *INPAINT, "-o", "few", "--keep", "best")
        seed = records(album / "few")["b"]["arguments"]["seed"]
        solve("album/b.png", *INPAINT[:2], "--mask", "masks/b.png", "--noise", 0.02, "-o", "again", "--seed", seed)
        assert sha256_of(album / "again" / "sample-2.png") == sha256_of(album / "out" / "b" / "sample-2.png")


def test_batches_give_the_same_samples_up_to_rounding(solve, album):
    names = [f"{number}.png" for number in range(5)]
    fill(album / "more", names)
    at = ("more/album", *INPAINT[:2], "--mask", "more/masks", "--noise", 0.02, "--npz")
    solve(*at, "-o", "one")
    solve(*at, "-o", "many", "--batch", 3)
    for name in names:
        one, many = (np.load(album / folder / name[0] / "posterior.npz")["samples"] for folder in ("one", "many"))
        np.testing.assert_allclose(one, many, atol=1e-4)
    assert records(album / "one")["3"]["files"] == records(album / "many")["3"]["files"]


def test_shares_do_everything_once(solve, album):
    solve("album", *INPAINT, "-o", "whole")
    done = []
    for number in range(3):
        solve("album", *INPAINT, "-o", "out", "--shard", f"{number}/3")
        done.append(set(records(album / "out")) - set().union(*done))
    assert all(done)
    assert digests(album / "out") == digests(album / "whole")
    assert [path.name for path in (album / "out").glob("manifest*")] == ["manifest.jsonl"]
    assert "kept      4 were there" in solve("album", *INPAINT, "-o", "out").stdout


class TestTars:
    @staticmethod
    def unpacked(out: Path, to: Path) -> dict[str, str]:
        """Return the digests of the files in the tar files, by the name that they have outside."""
        for path in out.glob("results-*.tar"):
            with tarfile.open(path) as tar:
                for member in tar:
                    folder, _, name = member.name.rpartition("/")
                    stem, _, file = name.partition(".")
                    target = to / folder / stem.replace("%2E", ".") / file
                    target.parent.mkdir(parents=True, exist_ok=True)
                    content = tar.extractfile(member)
                    assert content is not None
                    target.write_bytes(content.read())
        return digests(to)

    def test_hold_the_same_files(self, solve, album):
        shutil.copy(album / "album" / "a.png", album / "album" / "a.b.png")
        shutil.copy(album / "masks" / "a.png", album / "masks" / "a.b.png")
        solve("album", *INPAINT, "-o", "folders")
        out = solve("album", *INPAINT, "-o", "out", "--tar", 2).stdout
        assert "restored  5 in" in out
        names = [*(f"results-00000{number}.tar" for number in range(3)), "manifest.jsonl"]
        assert sorted(path.name for path in (album / "out").iterdir()) == sorted(names)
        assert self.unpacked(album / "out", album / "unpacked") == digests(album / "folders")
        before = digests(album / "out")
        (album / "out" / "manifest.jsonl").write_text("{}\n")
        assert "kept      5 were there" in solve("album", *INPAINT, "-o", "out", "--tar", 2).stdout
        assert digests(album / "out") == before

    def test_failures_come_later(self, solve, album):
        good = (album / "album" / "b.png").read_bytes()
        solve("album", *INPAINT, "-o", "whole", "--tar", 4)
        (album / "album" / "b.png").write_bytes(b"nothing")
        solve("album", *INPAINT, "-o", "out", "--tar", 4, code=1)
        (album / "album" / "b.png").write_bytes(good)
        assert "kept      3 were there" in solve("album", *INPAINT, "-o", "out", "--tar", 4).stdout
        assert digests(album / "out") == digests(album / "whole")

    def test_of_somebody_else(self, solve, album):
        solve("album", *INPAINT, "-o", "out", "--tar", 4)
        (album / "out" / "results-000000.tar").write_bytes(b"mine" * 1000)
        assert "was not written by this program" in solve("album", *INPAINT, "-o", "out", "--tar", 4, code=1).stderr
        assert (album / "out" / "results-000000.tar").read_bytes() == b"mine" * 1000


@pytest.mark.skipif(sys.platform == "win32", reason="needs fork and signals")
class TestKilled:
    @pytest.fixture(scope="class")
    def server(self, tmp_path_factory, tiny_prior):
        first = fill(tmp_path_factory.mktemp("first"))
        with Server(tmp_path_factory.mktemp("printed")) as server:
            server.warm(*self.command(tiny_prior, "-o", "out"), folder=first)
            yield server

    @staticmethod
    def command(tiny_prior, *more):
        few = ("--prior", tiny_prior, "--precision", "float32", "--steps", 2, "--samples", 2, "--keep", "mean,best")
        return ("solve", "album", *INPAINT, *few, *more)

    @pytest.mark.slow
    def test_at_any_move_of_a_file(self, server, album, tiny_prior):
        """Killed at every move, of new results and of those that replace others: what is in place is whole, and the next run
        does the rest."""
        command = self.command(tiny_prior, "-o", "out")
        assert server.run(*self.command(tiny_prior, "-o", "whole"), folder=album).code == 0
        whole = {name: digest for name, digest in digests(album / "whole").items() if not name.endswith("run.json")}
        move = code = 0
        while move == 0 or code:
            move += 1
            shutil.rmtree(album / "out", ignore_errors=True)
            code = server.run(*command, folder=album, kill=move).code
            assert code in (0, -signal.SIGKILL)
            complete(album / "out")
            replaced = move % 3 == 0 and code
            if replaced:  # killed again while it replaces what is there
                assert server.run(*command, "--overwrite", folder=album, kill=move).code in (0, -signal.SIGKILL)
                complete(album / "out")
            assert server.run(*command, folder=album).code == 0
            assert {name: digest for name, digest in digests(album / "out").items() if not name.endswith("run.json")} == whole
            assert not list((album / "out").rglob(".*"))
        assert move > 12

    def test_asked_to_stop(self, server, album, tiny_prior):
        process = server.start(*self.command(tiny_prior, "-o", "out", "--steps", 10**4), folder=album)
        deadline = time.monotonic() + 60
        while not list(album.glob("out/.*")) and time.monotonic() < deadline:
            time.sleep(0.01)
        server.send(process, signal.SIGTERM)
        ended = server.wait(process)
        assert ended.code == 128 + signal.SIGTERM
        assert ended.err.splitlines()[-1] == "Stopped by SIGTERM. 0 of 4 pictures are done; the same command goes on."
        assert not (album / "out").exists() or [path.name for path in (album / "out").iterdir()] == ["manifest.jsonl"]


def complete(out: Path) -> None:
    """Check that every folder of results outside of hidden ones is complete."""
    for record in out.rglob("run.json"):
        if not any(part.startswith(".") for part in record.relative_to(out).parts):
            outputs = json.loads(record.read_text())["outputs"]
            assert {path.name for path in record.parent.iterdir()} == {"run.json", *outputs}
            assert all(sha256_of(record.parent / name) == digest for name, digest in outputs.items())
