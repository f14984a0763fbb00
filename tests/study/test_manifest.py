"""The manifest: one entry for each item, whatever has been torn, and one file when all writers have ended."""

from __future__ import annotations

import json

import pytest

from invdiff.study.manifest import MANIFEST, Manifest, read_manifest

HEADER = {"command": "solve"}


def entry(name, **facts):
    return {"name": name, "state": "done", **facts}


def lines(folder):
    return [json.loads(line) for line in (folder / MANIFEST).read_text().splitlines()]


def test_later_entries_replace_earlier_ones(tmp_path):
    with Manifest(tmp_path, writer=None, header=HEADER) as manifest:
        for one in (entry("b"), entry("a", state="failed"), entry("a")):
            manifest.add(one)
        assert manifest.entries["a"] == entry("a")
    assert lines(tmp_path) == [HEADER, entry("a"), entry("b")]


def test_one_file_when_the_writers_have_ended(tmp_path):
    with Manifest(tmp_path, writer="0-of-2", header=HEADER) as first:
        first.add(entry("b"))
        with Manifest(tmp_path, writer="1-of-2", header=HEADER) as second:
            second.add(entry("a"))
            assert set(read_manifest(tmp_path)) == {"a", "b"}
        assert sorted(path.name for path in tmp_path.iterdir()) == ["manifest.0-of-2.jsonl", MANIFEST]
        first.add(entry("c"))
    assert [path.name for path in tmp_path.iterdir()] == [MANIFEST]
    assert lines(tmp_path) == [HEADER, entry("a"), entry("b"), entry("c")]


def test_a_part_without_whole_is_merged_by_the_next_run(tmp_path):
    (tmp_path / "manifest.3-of-4.jsonl").write_text(json.dumps(HEADER) + "\n" + json.dumps(entry("x")) + "\n")
    with Manifest(tmp_path, writer=None, header=HEADER) as manifest:
        assert set(manifest.entries) == {"x"}
    assert [path.name for path in tmp_path.iterdir()] == [MANIFEST]


def test_a_torn_line_is_no_entry_and_spoils_none(tmp_path):
    whole = json.dumps(HEADER) + "\n" + json.dumps(entry("a")) + "\n"
    for end in range(1, len(json.dumps(entry("b")))):
        (tmp_path / MANIFEST).write_text(whole + json.dumps(entry("b"))[:end])
        with Manifest(tmp_path, writer=None, header=HEADER) as manifest:
            assert set(manifest.entries) == {"a"}
            manifest.add(entry("c"))
        assert set(read_manifest(tmp_path)) == {"a", "c"}


@pytest.mark.parametrize("content", [b"", b"\x00\xff\n", b"[1]\n{}\n3\n", b"[" * 10**5, b'{"name": 3}\n'])
def test_what_is_no_manifest_has_no_entries(tmp_path, content):
    (tmp_path / MANIFEST).write_bytes(content)
    with Manifest(tmp_path, writer=None, header=HEADER) as manifest:
        assert manifest.entries == {}
        manifest.add(entry("a"))
    assert lines(tmp_path) == [HEADER, entry("a")]


def test_two_writers_of_one_name(tmp_path):
    with (
        Manifest(tmp_path, writer=None, header=HEADER),
        pytest.raises(ValueError, match="another run is writing its results there"),
        Manifest(tmp_path, writer=None, header=HEADER),
    ):
        pass
