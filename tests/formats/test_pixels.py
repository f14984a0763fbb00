"""Laws of formats with units: a file of its own library is read, solved and written, and read back by that library."""

# What pydicom, nibabel and astropy return is a union of classes: the tests know which.
# pyright: reportAttributeAccessIssue=false, reportOptionalMemberAccess=false, reportArgumentType=false

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from formats.written_files import AFFINE, FILES, HEIGHT, WIDTH, ct, ct_back, cube, fits, imagej, nifti

import invdiff
from invdiff import formats
from invdiff.formats.window import window_of
from invdiff.io.source import Source

# Steps are too few, and INPUTs without the noise they are said to have, for a misfit that is right.
pytestmark = pytest.mark.filterwarnings("ignore::invdiff.posterior.MisfitWarning")

SIGMA = 0.02  # noise, of the window
FAST = {"problem": "denoise", "noise": SIGMA, "steps": 3, "samples": 3}


@pytest.fixture(params=FILES, ids=lambda make: make.__name__)
def made(request, tmp_path):
    return request.param(tmp_path)


def held(path):
    kind, found = formats.opened(path)
    assert isinstance(found, formats.Stack)
    return kind, found


def says(error):
    """One clear line."""
    text = str(error)
    assert text
    assert "\n" not in text
    assert len(text) < 400


class TestReading:
    def test_values_are_those_of_the_library(self, made):
        _, stack = held(made.path)
        assert stack.shape == made.values.shape
        for k in range(stack.count):
            np.testing.assert_allclose(stack.picture(k), made.values[k], rtol=1e-6)
        assert stack.unit == made.unit

    def test_pictures_are_read_in_any_order(self, made):
        _, stack = held(made.path)
        for k in (stack.count - 1, 0, stack.count - 1):
            np.testing.assert_allclose(stack.picture(k), made.values[k], rtol=1e-6)

    def test_it_is_told_by_its_content(self, made, tmp_path):
        other = tmp_path / "without.ending"
        other.write_bytes(made.path.read_bytes())
        assert formats.format_of(other) is formats.format_of(made.path)

    def test_truncated_files_have_one_clear_line(self, made, tmp_path):
        content = made.path.read_bytes()
        for part in (0.02, 0.3, 0.6, 0.9):
            cut = tmp_path / f"cut{made.path.suffix}"
            cut.write_bytes(content[: math.ceil(part * len(content))])
            try:
                if formats.format_of(cut) is None:
                    continue  # so little is left that it is of no format; the reader of images says so
                _, stack = held(cut)
                found = [stack.picture(k) for k in range(stack.count)]
            except ValueError as error:
                says(error)
            else:  # what is left is whole
                for k, values in enumerate(found):
                    np.testing.assert_allclose(values, made.values[k], rtol=1e-6)

    def test_flipped_bits_raise_nothing_but_errors_of_values(self, made, tmp_path):
        content, generator = made.path.read_bytes(), np.random.default_rng(0)
        for _ in range(25):
            damaged = np.frombuffer(content, np.uint8).copy()
            damaged[generator.integers(0, min(len(damaged), 3000), 4)] = generator.integers(0, 256, 4)
            path = tmp_path / f"bad{made.path.suffix}"
            path.write_bytes(damaged.tobytes())
            try:
                if formats.format_of(path) is not None:
                    _, stack = held(path)
                    stack.picture(0)
            except (ValueError, OSError) as error:
                says(error)


class TestResults:
    def test_they_are_read_back_in_their_units_with_their_header(self, made, tmp_path):
        result = invdiff.restore(made.path, slice=1, **FAST)
        folder = result.save(tmp_path / "out")
        kind, _ = held(made.path)
        origin = result.measured.picture.origin
        assert origin is not None
        truth, step = made.values[0], origin.window.half * 2 * SIGMA
        for name in ("mean", "best", "sample-1"):
            values, header = made.back(folder / f"{name}{kind.suffix}")
            assert values.shape[1:] == truth.shape
            if name == "mean":
                assert header == made.header or made.values.shape[0] > 1
            away = values[0] - truth
            # Within the noise: a result that ignored INPUT would be off by a third of the window, 16 times as much.
            assert np.sqrt(np.nanmean(away**2)) < 1.5 * step + 1

    def test_the_spread_has_the_same_units(self, made, tmp_path):
        result = invdiff.restore(made.path, slice=1, **FAST)
        folder = result.save(tmp_path / "out")
        kind, _ = held(made.path)
        values, _ = made.back(folder / f"std{kind.suffix}")
        half = result.measured.picture.origin.window.half
        expected = half * result.samples.std(0).double().numpy()
        if values.shape[1] != expected.shape[0]:  # of colors, their root mean square
            expected = np.sqrt((expected**2).mean(0, keepdims=True))
        rounding = 0.51 if kind.name in ("animated GIF, PNG, WebP", "video") else 1e-4 * expected.max()
        np.testing.assert_allclose(values[0], expected, atol=rounding)

    def test_equal_runs_write_equal_files(self, made, tmp_path):
        for name in ("one", "two"):
            invdiff.restore(made.path, slice=1, **FAST).save(tmp_path / name)
        kind, _ = held(made.path)
        same = [(tmp_path / name / f"mean{kind.suffix}").read_bytes() for name in ("one", "two")]
        assert same[0] == same[1] or kind.name == "video"  # whose container holds random numbers

    def test_the_record_has_window_and_unit(self, made, tmp_path):
        result = invdiff.restore(made.path, slice=1, **FAST)
        window = window_of(held(made.path)[1])
        record = json.loads((result.save(tmp_path / "out") / "run.json").read_text())["origin"]
        assert record["unit"] == made.unit
        assert record["window"] == [window.low, window.high]
        assert record["window_from"] == window.told_by

    def test_a_given_window_is_used(self, made):
        low, high = np.nanmin(made.values) - 0.1, np.nanmax(made.values) + 0.2
        result = invdiff.restore(made.path, slice=1, black=low, white=high, **FAST)
        assert result.record["origin"]["window"] == [low, high]
        known = ~np.isnan(made.values[0])
        pixels = result.measured.measurement[0].double().numpy()
        values = low + (high - low) * (pixels + 1) / 2
        np.testing.assert_allclose(values[known], made.values[0][known], atol=1e-6 * (high - low))

    def test_images_are_written_if_asked_for(self, made, tmp_path):
        folder = invdiff.restore(made.path, slice=1, **FAST).save(tmp_path / "out", format="png")
        assert (folder / "mean.png").exists()


class TestVolumes:
    def test_all_slices_are_in_one_file(self, made, tmp_path, invdiff):
        if made.values.shape[0] == 1:
            return
        out = tmp_path / "out"
        invdiff("solve", made.path, "--problem", "denoise", "--noise", SIGMA, "--steps", 2, "--samples", 2, "-o", out)
        kind, stack = held(made.path)
        values, header = made.back(out / f"mean{kind.suffix}")
        assert values.shape == made.values.shape
        assert header == made.header
        window = window_of(stack)
        for k in range(stack.count):
            away = values[k] - made.values[k]
            assert np.sqrt(np.nanmean(away**2)) < 3 * SIGMA * 2 * window.half + 1
            nearest = min(range(stack.count), key=lambda j: np.nanmean((values[k] - made.values[j]) ** 2))
            assert nearest == k

    def test_a_slice_is_the_same_alone_and_in_a_range(self, tmp_path, invdiff):
        made = nifti(tmp_path)
        for name, numbers in (("one", "2"), ("two", "2:3")):
            arguments = ("--problem", "denoise", "--noise", SIGMA, "--steps", 2, "--samples", 2, "-o", tmp_path / name)
            invdiff("solve", made.path, "--slice", numbers, *arguments)
        alone, _ = made.back(tmp_path / "one" / "sample-1.nii.gz")
        both, header = made.back(tmp_path / "two" / "sample-1.nii.gz")
        np.testing.assert_array_equal(alone[0], both[0])
        assert len(both) == 2
        moved = AFFINE.copy()
        moved[:3, 3] += AFFINE[:3, 2]
        np.testing.assert_allclose(header[0], moved, atol=1e-4)

    def test_coupled_slices_are_more_alike(self, tmp_path, invdiff):
        made = nifti(tmp_path)
        steps = {}
        for name, coupling in (("free", ()), ("coupled", ("--coupling", 0.2))):
            arguments = ("--problem", "denoise", "--noise", 0.1, "--steps", 3, "--samples", 2, "-o", tmp_path / name)
            invdiff("solve", made.path, *coupling, *arguments)
            values, header = made.back(tmp_path / name / "sample-1.nii.gz")
            assert header == made.header
            steps[name] = np.abs(np.diff(values, axis=0)).mean()
            away = [np.abs(values - made.values.mean()).mean(), np.abs(values - made.values).mean()]
            assert away[1] < 0.7 * away[0]  # not without INPUT
        assert steps["coupled"] < 0.9 * steps["free"]

    @pytest.mark.parametrize("text", ["0", "4:2", "x", "1:9", "-1"])
    def test_wrong_slices_have_one_line(self, text, tmp_path, invdiff):
        made = nifti(tmp_path)
        done = invdiff("solve", made.path, "--problem", "denoise", "--noise", "0.1", "--slice", text, code=2)
        assert "--slice" in done.output

    def test_a_series_is_sorted_by_position(self, tmp_path, invdiff):
        folder = tmp_path / "series"
        folder.mkdir()
        places = {"b.dcm": 30.0, "c.dcm": 10.0, "a.dcm": 20.0}
        made = {ct(folder, name=name, position=z, seed=int(z)).path.name: z for name, z in places.items()}
        _, stack = held(folder)
        assert [header.ImagePositionPatient[2] for header in stack.header.datasets] == sorted(made.values())
        out = tmp_path / "out"
        arguments = ("--problem", "denoise", "--noise", SIGMA, "--steps", 2, "--samples", 2, "-o", out)
        invdiff("solve", folder, "--slice", "all", *arguments)
        found = [ct_back(out / f"mean-{k:04d}.dcm") for k in (1, 2, 3)]
        assert [header[5] for _, header in found] == ["[-10, -20, 10.0]", "[-10, -20, 20.0]", "[-10, -20, 30.0]"]
        for (values, _), k in zip(found, range(3), strict=True):
            assert np.sqrt(np.nanmean((values[0] - stack.picture(k)) ** 2)) < 3 * SIGMA * 1600

    def test_planes_of_a_range_keep_their_frequencies(self, tmp_path):
        made = cube(tmp_path)
        kind, stack = held(made.path)
        kind.write(
            tmp_path / "part.fits",
            (stack.picture(k).astype(np.float32) for k in (2, 3)),
            stack,
            formats.Written("mean", (2, 3)),
        )
        from astropy.io import fits as library

        with library.open(tmp_path / "part.fits") as units:
            assert units[0].header["CRPIX3"] == -1.0


class TestUnmeasured:
    def test_nan_is_filled_by_inpainting(self, tmp_path):
        made = fits(tmp_path)
        result = invdiff.restore(made.path, problem="inpaint", steps=3, samples=2)
        values, _ = made.back(result.save(tmp_path / "out") / "mean.fits")
        hidden = np.isnan(made.values)
        assert hidden.any()
        assert np.isfinite(values).all()
        np.testing.assert_allclose(values[~hidden], made.values[~hidden], rtol=1e-3, atol=2e-6)

    @pytest.mark.parametrize("options", [{"problem": "denoise"}, {"problem": "deblur", "kernel": "gaussian:0.7"}])
    def test_it_has_no_part_in_the_misfit(self, options, tmp_path):
        made = fits(tmp_path)
        result = invdiff.restore(made.path, noise=0.05, steps=3, samples=2, **options)
        known = int((~np.isnan(made.values)).sum())
        assert result.measured.observed.dof == known
        assert not bool((result.measured.measurement[0].numpy()[np.isnan(made.values[0])]).any())

    def test_padding_stays_padding(self, tmp_path):
        made = ct(tmp_path)
        values, _ = made.back(invdiff.restore(made.path, **FAST).save(tmp_path / "out") / "mean.dcm")
        np.testing.assert_array_equal(np.isnan(values), np.isnan(made.values))


class TestGeometry:
    """Pixels of a result that is larger lie where they belong."""

    def test_of_dicom(self, tmp_path):
        import pydicom

        made = ct(tmp_path)
        for name, options in {"sr": {"factor": 2}, "outpaint": {"margin": 3}}.items():
            result = invdiff.restore(made.path, problem=name, noise=0.02, steps=2, samples=2, **options)
            old, new = (pydicom.dcmread(path) for path in (made.path, result.save(tmp_path / name) / "mean.dcm"))
            for data in (old, new):
                data.spacing = np.array(data.PixelSpacing, dtype=float)
            middles = [
                np.array(data.ImagePositionPatient, dtype=float)[:2]
                + data.spacing[::-1] * (np.array([data.Columns, data.Rows]) - 1) / 2
                for data in (old, new)
            ]
            np.testing.assert_allclose(middles[0], middles[1], atol=1e-6)
            sides = [np.array([data.Rows, data.Columns]) * data.spacing for data in (old, new)]
            grown = 6 * old.spacing if name == "outpaint" else 0.0
            np.testing.assert_allclose(sides[0] + grown, sides[1], atol=1e-6)

    def test_of_nifti(self, tmp_path):
        import nibabel

        made = nifti(tmp_path)
        for name, options in {"sr": {"factor": 2}, "outpaint": {"margin": 3}}.items():
            result = invdiff.restore(made.path, problem=name, slice=2, noise=0.02, steps=2, samples=2, **options)
            new = nibabel.load(result.save(tmp_path / name) / "mean.nii.gz")
            middles = [
                nibabel.affines.apply_affine(affine, [(width - 1) / 2, (height - 1) / 2, k])
                for affine, (width, height), k in ((AFFINE, (WIDTH, HEIGHT), 1), (new.affine, new.shape[:2], 0))
            ]
            np.testing.assert_allclose(middles[0], middles[1], atol=1e-4)

    def test_of_fits(self, tmp_path):
        from astropy.io import fits as library
        from astropy.wcs import WCS

        made = fits(tmp_path)
        for name, options in {"denoise": {}, "outpaint": {"margin": 3}, "inpaint": {}}.items():
            result = invdiff.restore(made.path, problem=name, noise=0.02, steps=2, samples=2, **options)
            sky = []
            for path in (made.path, result.save(tmp_path / name) / "mean.fits"):
                with library.open(path) as units:
                    height, width = units[1].shape
                    sky.append(WCS(units[1].header).pixel_to_world_values((width - 1) / 2, (height - 1) / 2))
            np.testing.assert_allclose(sky[0], sky[1], atol=1e-9)

    def test_an_enlarged_stack_has_smaller_pixels(self, tmp_path):
        made = imagej(tmp_path)
        result = invdiff.restore(made.path, problem="sr", factor=2, slice=1, noise=0.02, steps=2, samples=2)
        _, header = made.back(result.save(tmp_path / "out") / "mean.tif")
        assert header == [0.3, "um", 8.0]


class TestDICOM:
    def test_results_are_derived_images(self, tmp_path):
        import pydicom

        made = ct(tmp_path)
        folder = invdiff.restore(made.path, **FAST).save(tmp_path / "out")
        old, found = pydicom.dcmread(made.path), [pydicom.dcmread(path) for path in sorted(folder.glob("*.dcm"))]
        assert len({data.SOPInstanceUID for data in (old, *found)}) == 1 + len(found)
        assert len({data.SeriesInstanceUID for data in (old, *found)}) == 1 + len(found)
        for data in found:
            assert data.ImageType[0] == "DERIVED"
            assert data.SourceImageSequence[0].ReferencedSOPInstanceUID == old.SOPInstanceUID
            assert data.file_meta.MediaStorageSOPInstanceUID == data.SOPInstanceUID
            assert len(data.SOPInstanceUID) <= 64
            named = {element.keyword for element in data if element.tag.group == 0x0010}
            assert named == {element.keyword for element in old if element.tag.group == 0x0010}

    def test_anonymous_results_tell_nothing(self, tmp_path):
        import pydicom

        made = ct(tmp_path)
        folder = invdiff.restore(made.path, **FAST).save(tmp_path / "out", anonymize=True)
        old = pydicom.dcmread(made.path)
        secrets = [b"Doe", b"4711", b"19700102", b"Elsewhere", b"20200304", b"Who^", b"Thorax", b"1.2.3.9"]
        for path in folder.glob("*.dcm"):
            content = path.read_bytes()
            assert not [secret for secret in secrets if secret in content]
            data = pydicom.dcmread(path)
            assert data.PatientIdentityRemoved == "YES"
            assert data.PixelSpacing == old.PixelSpacing
        kept = made.back(folder / "mean.dcm")[0]
        plain = made.back(invdiff.restore(made.path, **FAST).save(tmp_path / "plain") / "mean.dcm")[0]
        np.testing.assert_array_equal(kept, plain)

    def test_real_files_of_pydicom(self):
        """Of its own test data, those within its package: every one is read, or has one clear line."""
        from pathlib import Path

        import pydicom.data

        read = 0
        for path in sorted(Path(pydicom.data.__file__).parent.glob("test_files/*.dcm")):
            try:
                kind = formats.format_of(path)
                if kind is None:
                    continue
                _, stack = held(path)
                values = stack.picture(0)
            except ValueError as error:
                says(error)
            else:
                read += 1
                assert values.shape == stack.shape[1:]
                known = values[~np.isnan(values)]
                assert known.size == 0 or stack.limits[0] <= known.min() <= known.max() <= stack.limits[1]
        assert read > 50


class TestWhatIsMissing:
    def test_an_extra_is_named(self, made, monkeypatch, tmp_path):
        kind = formats.format_of(made.path)
        assert kind is not None
        if not kind.extra:
            return
        monkeypatch.setattr(type(kind), "modules", ("no_such_module",))
        with pytest.raises(ValueError, match=rf'pip install "invdiff\[{kind.extra}\]"'):
            formats.opened(made.path)

    def test_formats_are_listed(self, invdiff):
        listed = {row["format"] for row in json.loads(invdiff("formats", "--json").stdout)}
        assert {each.name for each in formats.FORMATS} <= listed


class TestMasksAndKernels:
    def test_the_slice_of_a_mask_is_that_of_the_volume(self, tmp_path):
        import nibabel

        made = nifti(tmp_path)
        holes = np.zeros((WIDTH, HEIGHT, 3), np.uint8)
        holes[3:6, 4:8, 1] = 1
        nibabel.Nifti1Image(holes, AFFINE).to_filename(tmp_path / "mask.nii.gz")
        result = invdiff.restore(made.path, problem="inpaint", mask=tmp_path / "mask.nii.gz", slice=2, steps=2, samples=2)
        assert int((~result.measured.problem.mask).sum()) == 12
        with pytest.raises(ValueError, match="nothing to fill"):
            invdiff.restore(made.path, problem="inpaint", mask=tmp_path / "mask.nii.gz", slice=1, steps=2, samples=2)

    def test_a_kernel_may_be_an_image_of_fits(self, tmp_path):
        from astropy.io import fits as library

        kernel = np.outer([1, 2, 1], [1, 3, 1.5])
        library.PrimaryHDU(kernel[::-1]).writeto(tmp_path / "psf.fits")
        np.testing.assert_allclose(Source(tmp_path / "psf.fits").kernel(), kernel / kernel.sum())
