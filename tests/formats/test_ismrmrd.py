"""Scans of ISMRMRD: written by its library, read, restored, written, and read by its library."""

# What h5py and nibabel return is a union of classes, and a file holds pictures or arrays: the tests know which.
# pyright: reportAttributeAccessIssue=false, reportIndexIssue=false, reportOperatorIssue=false, reportArgumentType=false
# pyright: reportCallIssue=false

from __future__ import annotations

import h5py
import numpy as np
import pytest
from mr_files import coil_images, disk, header, image_of, kspace_of, padded, write_scan

from invdiff.formats.format import Written
from invdiff.formats.ismrmrd import ISMRMRD
from invdiff.formats.mr_header import ismrmrd
from invdiff.formats.registry import format_of, opened

SIZE = (24, 20)  # phase and readout


def measured(coils=3, size=SIZE):
    return kspace_of(padded(coil_images(disk(*size), coils), (size[0], 2 * size[1])))


def scan(path, **options):
    options = {"head": header((2 * SIZE[1], SIZE[0]), SIZE[::-1])} | options
    write_scan(path, options.pop("kspaces", [measured()]), **options)
    return opened(path)


def test_readout_oversampling_is_taken_off(tmp_path):
    kind, found = scan(tmp_path / "a.h5", kspaces=[measured(), 2 * measured()])
    assert isinstance(kind, ISMRMRD)
    assert found.count == 2
    for k in range(2):
        arrays = found.arrays(k)
        assert arrays["kspace"].shape == (3, *SIZE)
        np.testing.assert_allclose(image_of(arrays["kspace"]), (k + 1) * coil_images(disk(*SIZE), 3), atol=1e-6)
        assert arrays["mask"].all()
    assert any("readout covers 2 times" in note for note in found.notes)


def test_lines_that_are_missing_stay_missing(tmp_path):
    rows = [*range(0, 10, 3), *range(8, 20)]  # accelerated, and partial Fourier
    _, found = scan(tmp_path / "a.h5", rows=rows)
    arrays = found.arrays(0)
    expected = np.zeros(SIZE[0], bool)
    expected[rows] = True
    assert (arrays["mask"] == expected[:, None]).all()
    assert (arrays["kspace"][:, ~expected] == 0).all()
    assert any(f"{expected.sum()} of 24 phase encoding steps" in note for note in found.notes)


def test_the_step_of_frequency_0_is_that_of_the_header(tmp_path):
    """The first six steps are left out and counted from there."""
    full = measured()
    _, found = scan(tmp_path / "a.h5", kspaces=[full[:, 6:]], head=header((40, 24), (20, 24), center=6))
    arrays = found.arrays(0)
    assert arrays["mask"][:6].sum() == 0
    np.testing.assert_allclose(arrays["kspace"][:, 6:], of_the_middle(full)[:, 6:], atol=1e-6)


def of_the_middle(full):
    return kspace_of(image_of(full)[..., 10:30])


def test_an_asymmetric_echo_keeps_the_readout(tmp_path):
    full = measured()
    _, found = scan(tmp_path / "a.h5", skip=9)
    arrays = found.arrays(0)
    assert arrays["kspace"].shape == (3, 24, 40)
    assert (arrays["mask"] == (np.arange(40) >= 9)).all()
    np.testing.assert_allclose(arrays["kspace"][..., 9:], full[..., 9:], atol=1e-6)


def test_averages_and_noise_scan(tmp_path):
    """K-space is whitened by the noise scan: what is left over the noise-free scan has the level that the file tells."""
    generator, level = np.random.default_rng(1), 0.05
    samples = level * (generator.normal(size=(3, 4000)) + 1j * generator.normal(size=(3, 4000)))
    samples *= 0.8**0.5  # the receiver's bandwidth in the header
    _, noisy = scan(tmp_path / "a.h5", averages=2, noise=samples, noise_level=level)
    _, clean = scan(tmp_path / "b.h5", averages=2, noise=samples)
    arrays, exact = noisy.arrays(0), clean.arrays(0)
    error = (arrays["kspace"] - exact["kspace"])[..., arrays["mask"]]
    found = np.sqrt([np.mean(error.real**2), np.mean(error.imag**2)])
    np.testing.assert_allclose(float(arrays["noise_std"]), 0.5**0.5)
    np.testing.assert_allclose(found, float(arrays["noise_std"]), rtol=0.05)
    assert any("2 averages" in note for note in noisy.notes)
    assert any("whitened" in note for note in noisy.notes)


def test_correlated_coils_are_made_white(tmp_path):
    generator = np.random.default_rng(1)
    mix = generator.normal(size=(3, 3)) + 1j * generator.normal(size=(3, 3))
    samples = mix @ (generator.normal(size=(3, 20000)) + 1j * generator.normal(size=(3, 20000)))
    _, found = scan(tmp_path / "a.h5", noise=samples)
    white = found.header.whitening @ samples * (0.8**-0.5)
    np.testing.assert_allclose(white @ white.conj().T / 20000, 2 * np.eye(3), atol=1e-6)


def test_results_have_the_geometry(tmp_path):
    kind, found = scan(tmp_path / "a.h5", kspaces=[measured(), measured()])
    pictures = [np.full((1, *SIZE), k, np.float32) + np.arange(SIZE[1], dtype=np.float32) for k in (1, 2)]
    written = Written("mean", (0, 1), command="invdiff 1, mmps")
    kind.write(tmp_path / "out.h5", pictures, found, written)
    package = ismrmrd()
    with package.Dataset(str(tmp_path / "out.h5"), "dataset", mode="r") as file:
        assert file.read_xml_header() == found.header.document
        assert file.number_of_images("invdiff") == 2
        for k in range(2):
            image = file.read_image("invdiff", k)
            np.testing.assert_array_equal(image.data[0, 0], pictures[k][0])
            assert tuple(image.position) == (1.0, 2.0, 3.0 + 5 * k)
            assert (tuple(image.read_dir), tuple(image.slice_dir)) == ((0.0, 1.0, 0.0), (0.0, 0.0, -1.0))
            assert tuple(image.field_of_view) == (20.0, 24.0, 5.0)
            assert (image.slice, image.acquisition_time_stamp) == (k, 1000 + k)
            assert (image.image_type, image.image_index) == (package.IMTYPE_MAGNITUDE, k + 1)
            assert image.meta["ImageComment"] == "mean"


def test_anonymized_results_do_not_tell_who(tmp_path):
    kind, found = scan(tmp_path / "a.h5")
    assert b"Jane Roe" in found.header.document
    kind.write(tmp_path / "out.h5", [np.ones((1, *SIZE), np.float32)], found, Written("mean", anonymize=True))
    content = (tmp_path / "out.h5").read_bytes()
    assert not any(word in content for word in (b"Jane Roe", b"A clinic"))
    with ismrmrd().Dataset(str(tmp_path / "out.h5"), "dataset", mode="r") as file:
        assert ismrmrd().xsd.CreateFromDocument(file.read_xml_header()).encoding[0].encodedSpace.matrixSize.x == 40


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"head": header((40, 24), (20, 24), trajectory="radial")}, "trajectory is radial"),
        ({"head": header((40, 12), (20, 12))}, "lies outside the grid"),
    ],
)
def test_what_is_not_supported_is_told_in_one_line(tmp_path, change, reason):
    with pytest.raises(ValueError, match=reason) as caught:
        scan(tmp_path / "a.h5", **change)[1].arrays(0)
    assert "\n" not in str(caught.value)


def test_entities_of_the_header_are_not_read(tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("10")
    scan(tmp_path / "a.h5")
    with h5py.File(tmp_path / "a.h5", "r+") as file:
        text = file["dataset/xml"][0].decode()
        start = text.index("<ismrmrdHeader")
        entity = f'<!DOCTYPE x [<!ENTITY e SYSTEM "{secret.as_uri()}">]>'
        file["dataset/xml"][0] = (text[:start] + entity + text[start:].replace("<x>40</x>", "<x>&e;</x>")).encode()
    with pytest.raises(ValueError, match="declares a document type"):
        opened(tmp_path / "a.h5")


def test_truncated_anywhere(tmp_path):
    scan(tmp_path / "a.h5")
    content = (tmp_path / "a.h5").read_bytes()
    refused = 0
    for share in np.linspace(0.02, 0.999, 12):
        part = tmp_path / "part.h5"
        part.write_bytes(content[: int(share * len(content))])
        if format_of(part) is None:
            refused += 1
            continue
        with pytest.raises(ValueError):
            opened(part)[1].arrays(0)
        refused += 1
    assert refused == 12
