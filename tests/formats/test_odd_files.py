"""Files that are valid, and not as most are: other byte orders, axes, types and conventions."""

# What h5py and nibabel return is a union of classes, and a file holds pictures or arrays: the tests know which.
# pyright: reportAttributeAccessIssue=false, reportIndexIssue=false, reportOperatorIssue=false, reportArgumentType=false
# pyright: reportCallIssue=false

from __future__ import annotations

import numpy as np
import pytest
from formats.written_files import ct, pictures

import invdiff
from invdiff import formats

pytestmark = pytest.mark.filterwarnings("ignore::invdiff.posterior.MisfitWarning")

FAST = {"problem": "denoise", "noise": 0.02, "steps": 2, "samples": 2}


def changed(tmp_path, change, **options):
    """A CT image, changed by a function of its data set."""
    import pydicom

    made = ct(tmp_path, **options)
    data = pydicom.dcmread(made.path)
    change(data)
    pydicom.dcmwrite(made.path, data, implicit_vr=False, little_endian=data.file_meta.TransferSyntaxUID[-1] != "2", **FORCED)
    return made


FORCED = {"force_encoding": True}


def big_endian(data):
    data.PixelData = data.pixel_array.astype(">u2").tobytes()
    data.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.2"


def padding_of_another_sign(data):
    stored = data.pixel_array.astype(np.int16) - 1024
    stored[:2, :3] = -2000
    del data.PixelPaddingValue
    data.add_new("PixelPaddingValue", "US", 65536 - 2000)
    data.PixelData, data.PixelRepresentation, data.BitsStored, data.HighBit = stored.tobytes(), 1, 16, 15
    data.RescaleIntercept = "0"


class TestDICOM:
    @pytest.mark.parametrize("change", [big_endian, padding_of_another_sign])
    def test_values_and_padding(self, change, tmp_path):
        made = changed(tmp_path, change)
        _, stack = formats.opened(made.path)
        np.testing.assert_array_equal(stack.picture(0), made.values[0])
        values, _ = made.back(invdiff.restore(made.path, **FAST).save(tmp_path / "out") / "mean.dcm")
        np.testing.assert_array_equal(np.isnan(values), np.isnan(made.values))
        assert np.nanmean(np.abs(values - made.values)) < 40

    def test_floats_stay_floats(self, tmp_path):
        import pydicom

        def floats(data):
            for name in (
                "BitsStored",
                "HighBit",
                "PixelRepresentation",
                "RescaleSlope",
                "RescaleIntercept",
                "PixelPaddingValue",
            ):
                delattr(data, name)
            data.FloatPixelData, data.BitsAllocated = (pictures(1, low=0, high=0.5)[0, 0]).astype("<f4").tobytes(), 32
            del data.PixelData

        made = changed(tmp_path, floats)
        mean = pydicom.dcmread(invdiff.restore(made.path, **FAST).save(tmp_path / "out") / "mean.dcm").pixel_array
        assert np.abs(mean - pictures(1, low=0, high=0.5)[0, 0]).mean() < 0.02

    def test_planes_of_a_dose_keep_their_places(self, tmp_path):
        import pydicom

        def dose(data):
            data.GridFrameOffsetVector = [0, 3, 6, 9]

        made = changed(tmp_path, dose, count=4)
        for numbers, offsets, place in (((2, 3), [0, 3], 18.5), ((0, 1, 2, 3), [0, 3, 6, 9], 12.5)):
            kind, stack = formats.opened(made.path)
            kind.write(
                tmp_path / "part.dcm",
                (stack.picture(k).astype(np.float32) for k in numbers),
                stack,
                formats.Written("mean", numbers),
            )
            part = pydicom.dcmread(tmp_path / "part.dcm")
            assert part.GridFrameOffsetVector == offsets
            assert part.ImagePositionPatient[2] == place

    def test_more_frames_than_bytes_are_refused_at_once(self, tmp_path):
        made = changed(tmp_path, lambda data: setattr(data, "NumberOfFrames", 2_000_000_000), count=2)
        with pytest.raises(ValueError, match="2000000000 frames"):
            formats.opened(made.path)


class TestNIfTI:
    def test_a_part_of_the_second_volume_lies_where_it_does(self, tmp_path):
        import nibabel

        values = np.arange(12.0).reshape(1, 1, 4, 3) * 100 + np.random.default_rng(0).random((12, 10, 4, 3))
        nibabel.Nifti1Image(values.astype(np.float32), np.diag([2, -2, 3, 1])).to_filename(tmp_path / "in.nii.gz")
        kind, stack = formats.opened(tmp_path / "in.nii.gz")
        for numbers, expected, place in (
            ((5, 6), values[:, :, 1:3, 1], 3.0),
            (range(12), values, 0.0),
        ):
            kind.write(
                tmp_path / "out.nii.gz",
                (stack.picture(k).astype(np.float32) for k in numbers),
                stack,
                formats.Written("mean", numbers),
            )
            found = nibabel.load(tmp_path / "out.nii.gz")
            np.testing.assert_allclose(found.get_fdata(), expected, rtol=1e-6)
            assert found.affine[2, 3] == place

    def test_a_pair_is_refused_before_sampling(self, tmp_path):
        import nibabel

        nibabel.Nifti1Pair(np.random.default_rng(0).random((8, 9, 2)), np.eye(4)).to_filename(tmp_path / "a.hdr")
        with pytest.raises(ValueError, match="pair"):
            formats.opened(tmp_path / "a.hdr")

    @pytest.mark.parametrize(("name", "other"), [("a.nii.gz", "b"), ("a.nii.gz", "b.nii"), ("a.nii", "b.mnc")])
    def test_names_do_not_matter(self, name, other, tmp_path):
        import nibabel

        values = np.random.default_rng(0).random((8, 9, 2)).astype(np.float32)
        nibabel.Nifti1Image(values, np.diag([1, -1, 1, 1])).to_filename(tmp_path / name)
        (tmp_path / name).rename(tmp_path / other)
        np.testing.assert_array_equal(formats.opened(tmp_path / other)[1].picture(1)[0], values[:, :, 1].T)


def scaled(header):
    header["PC1_1"], header["PC2_2"], header["CRPIX1"], header["CRPIX2"] = -0.01, 0.02, 8.0, 9.0


def without_reference(header):
    header["CDELT1"], header["CDELT2"] = -0.01, 0.02


def distorted(header):
    header["CTYPE1"], header["CTYPE2"], header["CRPIX1"], header["CRPIX2"] = "RA---TAN-SIP", "DEC--TAN-SIP", 8.0, 9.0
    header["CD1_1"], header["CD1_2"], header["CD2_1"], header["CD2_2"] = -0.01, 0.002, 0.003, 0.02
    header["A_ORDER"], header["B_ORDER"], header["A_2_0"], header["B_1_1"] = 2, 2, 1e-3, 2e-3


class TestFITS:
    @pytest.mark.parametrize("state", [scaled, without_reference, distorted])
    @pytest.mark.parametrize("grid", [formats.Grid(2.0), formats.Grid(1.0, 3.0, 2.0), formats.Grid()])
    def test_pixels_lie_where_they_did(self, state, grid, tmp_path):
        from astropy.io import fits
        from astropy.wcs import WCS

        header = fits.Header({"CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CRVAL1": 10.0, "CRVAL2": 20.0})
        state(header)
        fits.PrimaryHDU(np.random.default_rng(0).random((16, 18)), header).writeto(tmp_path / "in.fits")
        kind, stack = formats.opened(tmp_path / "in.fits")
        below = 3 if grid.top else -2 if grid == formats.Grid() else 0  # rows cropped at the lower end of the picture
        height, width = (int(grid.scale * (n + a)) for n, a in ((16, grid.top + below), (18, 2 * grid.left)))
        picture = np.zeros((1, height, width), np.float32)
        kind.write(tmp_path / "out.fits", [picture], stack, formats.Written("mean", (0,), grid))
        old, new = (WCS(fits.getheader(tmp_path / name)) for name in ("in.fits", "out.fits"))
        for x, y in ((0, 0), (5, 3), (width - 1, height - 1)):
            place = (x + 0.5) / grid.scale - 0.5 - grid.left, (y + 0.5) / grid.scale - 0.5 - below
            np.testing.assert_allclose(new.all_pix2world(x, y, 0), old.all_pix2world(*place, 0), atol=1e-8)

    def test_planes_of_four_axes(self, tmp_path):
        from astropy.io import fits

        header = fits.Header({f"CRPIX{k}": 1.0 for k in (3, 4)} | {f"CRVAL{k}": 5.0 for k in (3, 4)})
        fits.PrimaryHDU(np.random.default_rng(0).random((2, 3, 8, 9)), header).writeto(tmp_path / "in.fits")
        kind, stack = formats.opened(tmp_path / "in.fits")
        planes = (stack.picture(k).astype(np.float32) for k in (4, 5))
        kind.write(tmp_path / "out.fits", planes, stack, formats.Written("mean", (4, 5)))
        found = fits.getheader(tmp_path / "out.fits")
        assert (found["CRPIX3"], found["CRPIX4"]) == (0.0, 0.0)  # of planes 2 and 3 of the second cube


class TestStacks:
    @pytest.mark.parametrize("kind", [np.int16, np.uint32, np.int8, np.float16])
    def test_integers_never_wrap_around(self, kind, tmp_path):
        import tifffile

        ends = np.iinfo(kind) if np.dtype(kind).kind in "iu" else np.finfo(kind)
        pages = np.where(np.random.default_rng(0).random((5, 8, 9)) > 0.5, ends.max, ends.min).astype(kind)
        tifffile.imwrite(tmp_path / "in.tif", pages, photometric="minisblack")
        form, stack = formats.opened(tmp_path / "in.tif")
        given = (np.clip(stack.picture(k) * 1.1, *stack.limits).astype(np.float32) for k in range(5))
        if kind == np.float16:
            given = (stack.picture(k).astype(np.float32) for k in range(5))
        form.write(tmp_path / "out.tif", given, stack, formats.Written("mean", range(5)))
        found = tifffile.imread(tmp_path / "out.tif")
        assert found.dtype == kind
        np.testing.assert_array_equal(found[pages == ends.max], ends.max)

    def test_times_of_volumes_keep_both_axes(self, tmp_path):
        import tifffile

        pages = np.rint(pictures(6, low=0, high=255)).astype(np.uint8).reshape(2, 3, 20, 24)
        tifffile.imwrite(tmp_path / "in.tif", pages, imagej=True, metadata={"axes": "TZYX", "spacing": 2.0, "unit": "um"})
        kind, stack = formats.opened(tmp_path / "in.tif")
        whole = (stack.picture(k).astype(np.float32) for k in range(6))
        kind.write(tmp_path / "out.tif", whole, stack, formats.Written("mean", range(6)))
        with tifffile.TiffFile(tmp_path / "out.tif") as file:
            assert file.series[0].axes == "TZYX"
            np.testing.assert_array_equal(file.asarray(), pages)

    def test_colors_of_imagej_have_a_map_of_the_spread(self, tmp_path):
        import tifffile

        pages = np.rint(np.moveaxis(pictures(2, 3, low=0, high=255), 1, -1)).astype(np.uint8)
        tifffile.imwrite(tmp_path / "in.tif", pages, imagej=True, metadata={"axes": "ZYXS"})
        folder = invdiff.restore(tmp_path / "in.tif", slice=1, **FAST).save(tmp_path / "out")
        assert tifffile.imread(folder / "std.tif").shape == (20, 24, 3)

    def test_durations_of_webp(self, tmp_path):
        from PIL import Image

        frames = [Image.fromarray(np.full((8, 9, 3), value, np.uint8)) for value in (0, 90, 200)]
        frames[0].save(tmp_path / "a.webp", save_all=True, append_images=frames[1:], duration=[40, 80, 120], lossless=True)
        assert formats.opened(tmp_path / "a.webp")[1].header.durations == (40, 80, 120)


def test_floats_that_are_whole_multiples_of_a_step_are_floats(tmp_path):
    pixels = np.zeros((16, 16))
    pixels[4:9, 5:11] = 0.2  # 13107 of 65535
    result = invdiff.restore(pixels, **FAST)
    assert abs(float(result.measured.measurement.max()) - (2 * 0.2 - 1)) < 1e-6


class TestBombs:
    def test_deflated_data_sets_are_not_unpacked(self, tmp_path):
        import pydicom

        made = ct(tmp_path)
        data = pydicom.dcmread(made.path)
        data.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1.99"
        data.save_as(made.path, enforce_file_format=True)
        with pytest.raises(ValueError, match="deflated"):
            formats.opened(made.path)

    def test_chunks_larger_than_the_dataset_are_refused(self, tmp_path):
        import h5py

        from invdiff.formats import hdf5

        with h5py.File(tmp_path / "a.h5", "w") as file:
            file.create_dataset("x", (4, 4), maxshape=(None, None), chunks=(2**15, 2**14), dtype="u1", compression="gzip")
        with hdf5.opened(tmp_path / "a.h5") as file, pytest.raises(ValueError, match="declares"):
            hdf5.dataset(file, "x")


def test_anonymous_fits_files_have_no_texts(tmp_path):
    from astropy.io import fits

    header = fits.Header({"OBSERVER": "Jane Doe", "EMAIL": "doe@x", "EXPTIME": 3.0})
    header.add_history("/home/doe")
    header.add_comment("by Doe")
    fits.PrimaryHDU(np.random.default_rng(0).random((16, 18)), header).writeto(tmp_path / "in.fits")
    invdiff.restore(tmp_path / "in.fits", **FAST).save(tmp_path / "out", anonymize=True)
    content = (tmp_path / "out" / "mean.fits").read_bytes().lower()
    assert b"doe" not in content
    assert b"invdiff" in content
    assert b"EXPTIME" in content.upper()


def test_empty_slices_do_not_end_a_volume(tmp_path, request):
    import nibabel
    from skimage import data

    picture = data.camera()[100:228, 150:278] / 255.0 + np.random.default_rng(0).normal(0, 0.05, (128, 128))
    volume = np.stack([np.zeros_like(picture), picture, np.zeros_like(picture)], -1).astype(np.float32)
    nibabel.Nifti1Image(volume, np.eye(4)).to_filename(tmp_path / "in.nii.gz")
    arguments = ("--problem", "denoise", "--noise", "auto", "--steps", 1, "--samples", 1, "-o", tmp_path / "out")
    request.getfixturevalue("invdiff")("solve", tmp_path / "in.nii.gz", *arguments)
    assert nibabel.load(tmp_path / "out" / "mean.nii.gz").shape == volume.shape


def test_a_slice_that_cannot_be_restored_is_left_as_it_is(tmp_path, invdiff):
    import nibabel
    from formats.written_files import AFFINE, HEIGHT, WIDTH, nifti

    made = nifti(tmp_path)
    holes = np.zeros((WIDTH, HEIGHT, 3), np.uint8)
    holes[3:6, 4:8, 0] = 1
    nibabel.Nifti1Image(holes, AFFINE).to_filename(tmp_path / "mask.nii.gz")
    arguments = (
        "--problem",
        "inpaint",
        "--mask",
        tmp_path / "mask.nii.gz",
        "--steps",
        2,
        "--samples",
        2,
        "-o",
        tmp_path / "out",
    )
    said = invdiff("solve", made.path, *arguments).output
    assert "slice 2 is left as it is" in said
    values, _ = made.back(tmp_path / "out" / "mean.nii.gz")
    np.testing.assert_allclose(values[1:], made.values[1:])
    assert not np.allclose(values[0], made.values[0])
