"""Projections in the Data Exchange layout: written by h5py, solved row by row, and read back with their header."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from skimage.data import shepp_logan_phantom
from skimage.transform import resize
from torch import from_numpy

from invdiff import formats
from invdiff.formats import Scan
from invdiff.formats.data_exchange import DataExchange
from invdiff.formats.format import Written
from invdiff.operators import ParallelBeamCT, TransmissionNoise
from invdiff.restoration.inputs import read

SIDE, ANGLES, CENTER = 32, np.arange(24) * 7.5, 14.25
GAIN, LIGHT, DARK = 2.5, 4000.0, 90.0
DETECTOR = "measurement/instrument/detector"


def hdf5(path: Path, mode: str = "r") -> Any:
    return h5py.File(path, mode)  # pyright: ignore[reportArgumentType]


def integrals() -> Any:
    """Line integrals of two slices, ``(angles, rows, detectors)``, with the axis beside the middle of the detectors."""
    image = np.roll(resize(shepp_logan_phantom(), (SIDE, SIDE), anti_aliasing=True), (1, 2), (0, 1))
    image *= np.hypot(*np.mgrid[-1 : 1 : SIDE * 1j, -1 : 1 : SIDE * 1j]) < 0.8
    rays = ParallelBeamCT((1, SIDE, SIDE), ANGLES, detectors=SIDE, center=CENTER)
    slices = np.stack([image, image.T])[:, None]
    return 0.08 * rays(from_numpy(slices))[:, 0].numpy().transpose(1, 0, 2)


def written(path: Path, *, units: str = "degrees", axes: str = "theta:y:x", **more: Any) -> Path:
    """Write counts of a camera with a gain, with flats and darks that are repeated."""
    rng = np.random.default_rng(0)

    def camera(photons: Any) -> Any:
        return DARK + GAIN * rng.poisson(photons) + rng.normal(0, 3, np.shape(photons))

    order = [["theta", "y", "x"].index(name) for name in axes.split(":")]
    with hdf5(path, "w") as file:
        file["implements"] = "exchange:measurement"
        file.attrs["creator"] = "a beamline"
        counts = camera(LIGHT * np.exp(-integrals())).astype(np.float32).transpose(order)
        file.create_dataset("exchange/data", data=counts, compression="gzip").attrs["axes"] = axes
        file["exchange/data_white"] = camera(np.full((20, 2, SIDE), LIGHT)).astype(np.float32)
        file["exchange/data_dark"] = camera(np.zeros((20, 2, SIDE))).astype(np.float32)
        file["exchange/theta"] = np.radians(ANGLES) if units == "radians" else ANGLES
        file["exchange/theta"].attrs["units"] = units
        file["measurement/sample/name"] = "Jane's tooth"
        file["measurement/instrument/monochromator/energy"] = 27.4
        file["measurement/instrument/monochromator/energy"].attrs["units"] = "keV"
        for name, (value, unit) in more.items():
            place = file.require_group("measurement/instrument")
            place[name] = value
            place[name].attrs["units"] = unit
    return path


def held(path: Path) -> Scan:
    kind, scan = formats.opened(path)
    assert kind.name == "Data Exchange"
    assert isinstance(scan, Scan)
    return scan


def length(value: float, unit: str) -> dict[str, Any]:
    return {"detection_system/objective/resolution": (value, unit)}


class TestReading:
    @pytest.mark.parametrize("units", ["degrees", "radians"])
    @pytest.mark.parametrize("axes", ["theta:y:x", "y:theta:x"])
    def test_a_row_is_a_slice(self, tmp_path, units, axes):
        scan = held(written(tmp_path / "a.h5", units=units, axes=axes))
        assert (scan.count, scan.axis, scan.unit) == (2, "slice", "1/pixel")
        for row in (0, 1):
            arrays = scan.arrays(row)
            assert arrays["sinogram"].shape == (24, SIDE)
            assert arrays["flat"].shape == arrays["dark"].shape == (20, SIDE)
            np.testing.assert_allclose(arrays["angles"], ANGLES)
            transmission = (arrays["sinogram"] - DARK) / (GAIN * LIGHT)
            np.testing.assert_allclose(transmission, np.exp(-integrals()[:, row]), atol=0.1)

    @pytest.mark.parametrize("row", [0, 1])
    def test_gain_center_and_noise_are_those_of_the_camera(self, tmp_path, row):
        given = read(written(tmp_path / "a.h5"), "ct", page=row + 1, channels=1)
        problem: Any = given.problem
        assert problem.center == pytest.approx(CENTER, abs=0.1)
        assert isinstance(given.observed.noise, TransmissionNoise)
        counts = problem.counts
        assert float(counts.flat.mean()) == pytest.approx(LIGHT, rel=0.1)  # 640 values tell the gain to 6 %
        assert float(counts.background.mean()) == pytest.approx((3 / GAIN) ** 2, rel=0.3)
        assert not any("noise 0" in note for note in given.notes)

    @pytest.mark.parametrize(
        ("more", "spacing"),
        [
            (length(5.0, "um"), 5e-4),
            (length(0.005, "mm"), 5e-4),
            ({"detector/x_pixel_size": (6.5, "microns")}, 6.5e-4),
            ({"detector/x_pixel_size": (6.5, "microns"), "detection_system/objective/magnification": (5.0, "")}, 1.3e-4),
            (length(5.0, "furlongs"), None),
            (length(-5.0, "um"), None),
        ],
    )
    def test_lengths(self, tmp_path, more, spacing):
        scan = held(written(tmp_path / "a.h5", **more))
        assert scan.unit == ("1/pixel" if spacing is None else "1/cm")
        arrays = scan.arrays(0)
        assert ("detector_spacing" in arrays) == (spacing is not None)
        if spacing is not None:
            assert float(arrays["detector_spacing"]) == pytest.approx(spacing)
            given = read(tmp_path / "a.h5", "ct", page=1, channels=1, bin=2)
            problem: Any = given.problem
            assert problem.pixel_size == pytest.approx(2 * spacing)
            plain: Any = read(written(tmp_path / "b.h5"), "ct", page=1, channels=1, bin=2).problem
            assert problem.scale == pytest.approx(plain.scale / (2 * spacing), rel=1e-4)

    def test_without_flats_it_holds_line_integrals(self, tmp_path):
        with hdf5(tmp_path / "a.h5", "w") as file:
            file["exchange/data"] = integrals()
        assert set(held(tmp_path / "a.h5").arrays(1)) == {"sinogram"}

    def test_as_many_flats_as_projections_are_repeated_ones(self, tmp_path):
        with hdf5(tmp_path / "a.h5", "w") as file:
            file["exchange/data"] = 100 * np.exp(-integrals())
            file["exchange/data_white"] = np.full((24, 2, SIDE), 100.0)
        assert held(tmp_path / "a.h5").arrays(0)["flat"].shape == (SIDE,)


class TestWriting:
    def test_solved_with_its_header(self, solve, tmp_path):
        path = written(tmp_path / "a.h5", **length(5.0, "um"))
        solve(path, "--problem", "ct", "--page", 2, "-o", "out")
        record = json.loads((tmp_path / "out" / "run.json").read_text())
        assert "1/cm" in json.dumps(record)
        for name in ("mean", "std", "sample-1"):
            with hdf5(tmp_path / "out" / f"{name}.h5") as file:
                data = file["exchange/data"]
                assert data.shape == (1, SIDE, SIDE)
                assert (data.attrs["units"], data.attrs["axes"]) == ("1/cm", "z:y:x")
                assert np.isfinite(data[:]).all()
                assert file["process/invdiff/rows"][:].tolist() == [1]
                assert file.attrs["creator"] == "a beamline"
                energy = file["measurement/instrument/monochromator/energy"]
                assert (energy[()], energy.attrs["units"]) == (27.4, "keV")
                assert file["measurement/sample/name"][()] == b"Jane's tooth"
                assert "theta" not in file["exchange"]
                if name == "mean":
                    # The tiny prior is noise, and the data have 24 angles: the level is that of the object.
                    assert 0.2 < np.quantile(data[:], 0.995) * 5e-4 / 0.08 < 5

    def test_hounsfield_units(self, solve, tmp_path):
        path = written(tmp_path / "a.h5", **length(5.0, "um"))
        solve(path, "--problem", "ct", "--page", 1, "--mu-water", 100, "-o", "out")
        with hdf5(tmp_path / "out" / "mean.h5") as file:
            assert file["exchange/data"].attrs["units"] == "HU"
            assert file["exchange/data"][:].min() < -500

    def test_anonymous(self, tmp_path):
        path = written(tmp_path / "a.h5")
        kind, scan = formats.opened(path)
        pictures = [np.full((1, 3, 4), k, np.float32) for k in (5, 6)]
        kind.write(tmp_path / "b.h5", iter(pictures), scan, Written("mean", (0, 1), anonymize=True))
        with hdf5(tmp_path / "b.h5") as file:
            assert file["exchange/data"][:, 0, 0].tolist() == [5, 6]
            assert "creator" not in file.attrs
            assert "sample" not in file["measurement"]
            assert file["measurement/instrument/monochromator/energy"][()] == 27.4

    def test_results_are_no_projections(self, tmp_path):
        kind, scan = formats.opened(written(tmp_path / "a.h5"))
        kind.write(tmp_path / "b.h5", [np.zeros((1, 3, 4), np.float32)], scan, Written("mean"))
        with pytest.raises(ValueError, match=r"b\.h5: Data Exchange: exchange/data holds slices"):
            formats.opened(tmp_path / "b.h5")

    def test_colors_are_refused(self, tmp_path):
        kind, scan = formats.opened(written(tmp_path / "a.h5"))
        with pytest.raises(ValueError, match="one channel"):
            kind.write(tmp_path / "b.h5", [np.zeros((3, 3, 4), np.float32)], scan, Written("mean"))


class TestBad:
    @pytest.mark.parametrize("share", [0.02, 0.1, 0.3, 0.6, 0.9, 0.99])
    def test_truncated(self, tmp_path, invdiff, share):
        path = written(tmp_path / "a.h5")
        data = path.read_bytes()
        path.write_bytes(data[: int(share * len(data))])
        result = invdiff("solve", path, "--problem", "ct", "--page", 1, "-o", "out", code=1)
        assert len(result.stderr.strip().splitlines()) == 1
        assert str(path) in result.stderr

    def test_damaged_values(self, tmp_path):
        path = written(tmp_path / "a.h5")
        data = bytearray(path.read_bytes())
        with hdf5(path) as file:
            chunk = file["exchange/data"].id.get_chunk_info(0)
        data[chunk.byte_offset : chunk.byte_offset + chunk.size] = bytes(chunk.size)
        path.write_bytes(data)
        with pytest.raises(ValueError, match="'/exchange/data' are damaged or truncated"):
            held(path).arrays(0)

    @pytest.mark.parametrize(
        ("name", "value", "message"),
        [
            ("theta", ANGLES[:-1], r"theta has shape \(23,\).*each of 24 projections"),
            ("data_white", np.ones((3, 2, 5)), r"data_white has shape \(3, 2, 5\)"),
            ("data", np.ones((3, 5)), r"data has shape \(3, 5\), expected"),
            ("data", np.ones((3, 5, 4), complex), "expected real numbers"),
            ("data", h5py.ExternalLink("b.h5", "/x"), "link to another file, b.h5"),
            ("data", h5py.SoftLink("/outside/x"), "link to another file, b.h5"),
            ("data", h5py.SoftLink("/exchange/data"), "a link to itself"),
            ("data", h5py.SoftLink("/measurement"), "is a group, expected a dataset"),
        ],
    )
    def test_each_is_one_line(self, tmp_path, name, value, message):
        path = written(tmp_path / "a.h5")
        with hdf5(tmp_path / "b.h5", "w") as file:
            file["x"] = np.ones((24, 2, SIDE))
        with hdf5(path, "r+") as file:
            file["outside"] = h5py.ExternalLink("b.h5", "/")
            del file["exchange"][name]
            file["exchange"][name] = value
        with pytest.raises(ValueError, match=message) as caught:
            formats.opened(path)
        assert str(caught.value).startswith(f"{path}: Data Exchange: ")
        assert "\n" not in str(caught.value)

    def test_links_of_the_header_are_not_followed(self, tmp_path):
        path = written(tmp_path / "a.h5")
        with hdf5(tmp_path / "b.h5", "w") as file:
            file["x"] = 1.0
        with hdf5(path, "r+") as file:
            file["measurement/other"] = h5py.ExternalLink("b.h5", "/x")
        assert not any("other" in name for name in held(path).header.members)

    def test_other_files_are_not_its_own(self, tmp_path):
        with hdf5(tmp_path / "a.h5", "w") as file:
            file["kspace"] = np.ones(3)
        assert not DataExchange().recognizes((tmp_path / "a.h5").read_bytes()[:4096], tmp_path / "a.h5")
