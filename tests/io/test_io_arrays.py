"""Files of arrays that are damaged, or hold something else."""

from __future__ import annotations

import io
import zipfile

import numpy as np
import pytest

from invdiff.io import numpy_headers
from invdiff.io.images import read_arrays


def saved(**arrays):
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def with_member(name, content):
    file = io.BytesIO(saved(kspace=np.ones((4, 4))))
    with zipfile.ZipFile(file, "a") as archive:
        archive.writestr(name, content)
    return file.getvalue()


WHOLE = saved(kspace=np.arange(4096.0))
HUGE = (
    b"\x93NUMPY\x01\x00v\x00"
    + b"{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000, 1000000), }".ljust(117)
    + b"\n"
)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        pytest.param(with_member("readme.txt", "hello"), "the member 'readme.txt' is no NumPy array", id="text"),
        pytest.param(with_member("mask.npy", "hello"), "the member 'mask' is no NumPy array|damaged", id="text as array"),
        pytest.param(with_member("mask.npy", HUGE), "declares an array of shape", id="a header that asks for everything"),
        pytest.param(saved(kspace=np.array([None, {}])), "holds pickled objects", id="objects"),
        pytest.param(saved(kspace=np.ones(3), mask=np.array({})), "holds pickled objects", id="an object beside"),
        pytest.param(
            saved(KSPACE=np.ones(3)), "has no array 'kspace', got KSPACE. Rename 'KSPACE' to 'kspace'", id="another name"
        ),
        pytest.param(saved(), "has no array 'kspace', got none", id="no arrays"),
        pytest.param(WHOLE[:-30], "damaged", id="cut off at the end"),
        pytest.param(WHOLE[: len(WHOLE) // 2], "damaged", id="half"),
        pytest.param(WHOLE[:2000] + b"\0\0\0\0" + WHOLE[2004:], "damaged", id="changed bytes"),
        pytest.param(b"PK\x05\x06" + bytes(18), "has no array 'kspace'", id="empty zip"),
        pytest.param(b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull", id="a pointer"),
        pytest.param(b"1.0, 2.0, 3.0\n", "does not begin as one; expected a NumPy file", id="a table"),
    ],
)
def test_each_is_one_line_with_the_name(tmp_path, content, words):
    path = tmp_path / "scan.npz"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=words) as caught:
        read_arrays(path, "kspace")
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_what_is_small_and_unpacks_to_much(tmp_path, monkeypatch):
    """Zeros deflate to a thousandth; the size comes from the directory of the file, before anything is unpacked."""
    np.savez_compressed(tmp_path / "scan.npz", kspace=np.zeros(2**20))
    assert (tmp_path / "scan.npz").stat().st_size < 2**14
    monkeypatch.setattr(numpy_headers, "LARGEST", 2**22)
    with pytest.raises(ValueError, match="expected at most 4194304"):
        read_arrays(tmp_path / "scan.npz", "kspace")
    monkeypatch.setattr(numpy_headers, "LARGEST", 2**31)
    assert read_arrays(tmp_path / "scan.npz", "kspace")["kspace"].shape == (2**20,)  # no memory to speak of
    monkeypatch.setattr(numpy_headers, "SMALL", 2**22)
    with pytest.raises(ValueError, match=r"scan\.npz.*unpack to 8 MiB from 0\.01 MiB, more than measured numbers do"):
        read_arrays(tmp_path / "scan.npz", "kspace")
    np.savez_compressed(tmp_path / "scan.npz", kspace=np.random.default_rng(0).random(2**20) * (np.arange(2**20) % 16 == 0))
    assert read_arrays(tmp_path / "scan.npz", "kspace")["kspace"].shape == (2**20,)  # one in 16 is measured


def test_an_npy_file_of_another_suffix(tmp_path):
    np.save(tmp_path / "scan.npy", np.ones(3))
    (tmp_path / "scan.npy").rename(tmp_path / "scan.npz")
    assert read_arrays(tmp_path / "scan.npz", "kspace")["kspace"].shape == (3,)
