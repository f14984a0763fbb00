"""Files of k-space from the command line: solved in a few steps, and read by their own libraries, with the header of INPUT."""

# What h5py and nibabel return is a union of classes, and a file holds pictures or arrays: the tests know which.
# pyright: reportAttributeAccessIssue=false, reportIndexIssue=false, reportOperatorIssue=false, reportArgumentType=false
# pyright: reportCallIssue=false

from __future__ import annotations

import json

import h5py
import numpy as np
import pytest
from mr_files import coil_images, disk, header, kspace_of, padded, write_scan
from PIL import Image

from invdiff.cli import main
from invdiff.formats.mr_header import ismrmrd

SIZE = (40, 32)  # phase and readout
ROWS = sorted({*range(0, 40, 3), *range(12, 28)})


@pytest.fixture
def scan(tmp_path):
    """Two slices, accelerated, with a noise scan; the second is twice as bright."""
    generator, level = np.random.default_rng(1), 0.02
    samples = level * 0.8**0.5 * (generator.normal(size=(3, 4000)) + 1j * generator.normal(size=(3, 4000)))
    kspace = kspace_of(padded(coil_images(disk(*SIZE), 3), (SIZE[0], 2 * SIZE[1])))
    write_scan(
        tmp_path / "scan.h5",
        [kspace, 2 * kspace],
        head=header((2 * SIZE[1], SIZE[0]), (SIZE[1], SIZE[0])),
        rows=ROWS,
        noise=samples,
        noise_level=level,
    )
    return tmp_path / "scan.h5"


def solve(*arguments):
    with pytest.raises(SystemExit) as left:
        main(["solve", *map(str, arguments), "--problem", "mri", "--steps", "4", "--samples", "2"])
    return left.value.code


def test_ismrmrd(scan, tmp_path):
    assert solve(scan, "--slice", "2", "-o", tmp_path / "out") == 0
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert record["noise_level"] == pytest.approx(1 / record["origin"]["window"][1], rel=1e-3)  # white noise of 1
    assert any("noise scan" in note for note in record["notes"])
    with ismrmrd().Dataset(str(tmp_path / "out" / "mean.h5"), "dataset", mode="r") as file:
        image = file.read_image("invdiff", 0)
        assert (image.slice, tuple(image.position)) == (1, (1.0, 2.0, 8.0))
        mean = image.data[0, 0]
    with ismrmrd().Dataset(str(tmp_path / "out" / "std.h5"), "dataset", mode="r") as file:
        assert file.read_image("invdiff", 0).meta["ImageComment"] == "standard deviation"
    assert mean.shape == SIZE
    assert np.corrcoef(mean.ravel(), np.abs(disk(*SIZE)).ravel())[0, 1] > 0.9
    with Image.open(tmp_path / "out" / "phase.png") as phase:
        assert phase.size == SIZE[::-1]
        assert phase.mode.startswith("I")


def test_fastmri(tmp_path):
    images = coil_images(disk(32, 40), 3)
    columns = np.isin(np.arange(40), ROWS)
    with h5py.File(tmp_path / "scan.h5", "w") as file:
        file["kspace"] = (kspace_of(padded(images, (64, 40)))[None] * columns).astype(np.complex64)
        file["mask"] = columns.astype(np.float32)
        file["ismrmrd_header"] = np.bytes_(header((64, 40), (32, 36)).toXML().encode())
        file.attrs["acquisition"] = "AXT2"
    assert solve(tmp_path / "scan.h5", "--noise", "0.01", "-o", tmp_path / "out", "--anonymize") == 0
    with h5py.File(tmp_path / "out" / "mean.h5") as file:
        mean = file["reconstruction"][0]
        assert (mean.shape, file.attrs["acquisition"]) == ((32, 36), "AXT2")
        assert b"Jane Roe" not in file["ismrmrd_header"][()]
    assert np.corrcoef(mean.ravel(), np.abs(disk(32, 40))[:, 2:38].ravel())[0, 1] > 0.9
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert record["noise_level"] == 0.01


def test_a_slice_that_is_not_there_is_one_line(scan, tmp_path, capsys):
    assert solve(scan, "--slice", "3", "-o", tmp_path / "out") == 2
    assert capsys.readouterr().err.strip() == "Error: --slice 3: INPUT holds 2, counted from 1."


def test_both_slices_in_one_file(scan, tmp_path):
    assert solve(scan, "--slice", "1:2", "-o", tmp_path / "out") == 0
    assert sorted(path.name for path in (tmp_path / "out").glob("phase*")) == ["phase-0001.png", "phase-0002.png"]
    with ismrmrd().Dataset(str(tmp_path / "out" / "mean.h5"), "dataset", mode="r") as file:
        means = [file.read_image("invdiff", k).data[0, 0] for k in range(file.number_of_images("invdiff"))]
    one, two = (float(mean[np.abs(disk(*SIZE)) > 0.5].mean()) for mean in means)
    assert two / one == pytest.approx(2, abs=0.2)
