"""K-space of fastMRI: read, restored, and written as its tools read it."""

# What h5py and nibabel return is a union of classes, and a file holds pictures or arrays: the tests know which.
# pyright: reportAttributeAccessIssue=false, reportIndexIssue=false, reportOperatorIssue=false, reportArgumentType=false
# pyright: reportCallIssue=false

from __future__ import annotations

import h5py
import numpy as np
import pytest
from mr_files import coil_images, disk, header, image_of, kspace_of, padded

from invdiff.formats.fastmri import FastMRI
from invdiff.formats.format import Written
from invdiff.formats.registry import format_of, opened

SIZE = (20, 24)  # readout and phase


def write(path, *, coils=3, mask=True, xml=True, shown=None, slices=2):
    """A file as of fastMRI, with twice the field of view along the readout."""
    images = coil_images(disk(*SIZE), coils) if coils else disk(*SIZE)
    kspace = np.stack([(k + 1) * kspace_of(padded(images, (2 * SIZE[0], SIZE[1]))) for k in range(slices)])
    columns = np.arange(SIZE[1]) % 2 == 0
    with h5py.File(path, "w") as file:
        file["kspace"] = (kspace * columns if mask else kspace).astype(np.complex64)
        if mask:
            file["mask"] = columns.astype(np.float32)
        if xml:
            file["ismrmrd_header"] = np.bytes_(header((40, 24), shown or SIZE).toXML().encode())
        file.attrs.update({"acquisition": "CORPD_FBK", "max": 3.0, "norm": 5.0, "patient_id": "abc"})
    return images


@pytest.mark.parametrize("coils", [0, 3])
def test_slices_without_oversampling(tmp_path, coils):
    images = write(tmp_path / "a.h5", coils=coils, mask=False)
    kind, scan = opened(tmp_path / "a.h5")
    assert isinstance(kind, FastMRI)
    assert scan.count == 2
    for k in range(2):
        arrays = scan.arrays(k)
        assert arrays["kspace"].shape == (coils or 1, *SIZE)
        np.testing.assert_allclose(image_of(arrays["kspace"]), (k + 1) * images.reshape(-1, *SIZE), atol=1e-6)
        assert {str(arrays[name]) for name in ("zero_frequency", "origin")} == {"center"}
    assert any("readout covers 2 times" in note for note in scan.notes)


def test_the_mask_is_that_of_the_columns(tmp_path):
    write(tmp_path / "a.h5")
    arrays = opened(tmp_path / "a.h5")[1].arrays(0)
    np.testing.assert_array_equal(arrays["mask"], np.arange(24) % 2 == 0)
    assert (arrays["kspace"][..., 1::2] == 0).all()


def test_without_a_header_nothing_is_cut(tmp_path):
    write(tmp_path / "a.h5", xml=False)
    assert opened(tmp_path / "a.h5")[1].arrays(0)["kspace"].shape == (3, 40, 24)


def test_results_have_the_header(tmp_path):
    write(tmp_path / "a.h5", shown=(20, 18))
    kind, scan = opened(tmp_path / "a.h5")
    pictures = [np.arange(480, dtype=np.float32).reshape(1, 20, 24) + k for k in range(2)]
    kind.write(tmp_path / "out.h5", pictures, scan, Written("mean", (0, 1), command="invdiff 1, mmps"))
    with h5py.File(tmp_path / "out.h5") as out, h5py.File(tmp_path / "a.h5") as given:
        expected = np.stack(pictures)[:, 0, :, 3:21]
        np.testing.assert_array_equal(out["reconstruction"][()], expected)
        assert out["ismrmrd_header"][()] == given["ismrmrd_header"][()]
        assert {name: out.attrs[name] for name in ("acquisition", "patient_id")} == {
            "acquisition": "CORPD_FBK",
            "patient_id": "abc",
        }
        assert out.attrs["max"] == expected.max()
        assert out.attrs["norm"] == pytest.approx(np.linalg.norm(expected.astype(float)))
        assert "mean" in out.attrs["invdiff"]
    kind.write(tmp_path / "b.h5", pictures, scan, Written("mean", (0, 1), anonymize=True))
    assert not any(word in (tmp_path / "b.h5").read_bytes() for word in (b"Jane Roe", b"A clinic", b"patient_id"))


def test_what_does_not_fit_is_told_in_one_line(tmp_path):
    path = tmp_path / "a.h5"
    for values, reason in (
        (np.zeros((2, 3, 4), np.float32), "must be complex"),
        (np.zeros((3, 4), np.complex64), "must be complex"),
        (np.zeros((0, 3, 4), np.complex64), "must be complex"),
    ):
        with h5py.File(path, "w") as file:
            file["kspace"] = values
        with pytest.raises(ValueError, match=reason) as caught:
            opened(path)
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)
    write(path)
    with h5py.File(path, "r+") as file:
        del file["mask"]
        file["mask"] = np.ones(7)
    with pytest.raises(ValueError, match="mask has shape"):
        opened(path)


def test_values_in_another_file_are_not_read(tmp_path):
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["secret"] = np.ones((1, 4, 4), np.complex64)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["kspace"] = h5py.ExternalLink("other.h5", "secret")
    assert format_of(tmp_path / "a.h5") is None
    layout = h5py.VirtualLayout((1, 4, 4), np.complex64)
    layout[0] = h5py.VirtualSource(tmp_path / "other.h5", "secret", (1, 4, 4))[0]
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_virtual_dataset("kspace", layout)
    with pytest.raises(ValueError, match="in other files"):
        opened(tmp_path / "a.h5")


def test_truncated_anywhere(tmp_path):
    write(tmp_path / "a.h5")
    content, part = (tmp_path / "a.h5").read_bytes(), tmp_path / "part.h5"
    for share in np.linspace(0.02, 0.999, 12):
        part.write_bytes(content[: int(share * len(content))])
        if format_of(part) is not None:
            with pytest.raises(ValueError):
                opened(part)[1].arrays(1)
