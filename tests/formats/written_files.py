"""Files of each format of pixels, written by its own library, with what is in them; and how results are read back by it."""

# What pydicom, nibabel and astropy return is a union of classes: the tests know which.
# pyright: reportAttributeAccessIssue=false, reportOptionalMemberAccess=false, reportArgumentType=false

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

HEIGHT, WIDTH = 20, 24
AFFINE = np.array([[-2.0, 0.1, 0, 30], [0.1, 1.5, 0, -20], [0, 0, 3, 5], [0, 0, 0, 1]])


@dataclass(frozen=True)
class Written:
    """A file.

    Attributes:
        path: The file.
        values: Its pictures in their units as they are shown, ``(N, C, H, W)``; NaN where unmeasured.
        unit: Their unit.
        back: Reads a file of results by the library: pictures as they are shown, ``(N, C, H, W)``, and what must not change.
        header: What must not change.
    """

    path: Path
    values: Array
    unit: str
    back: Callable[[Path], tuple[Array, Any]]
    header: Any


def pictures(count: int, channels: int = 1, *, low: float, high: float, seed: int = 0) -> Array:
    """Return smooth pictures ``(N, C, H, W)`` between two values."""
    y, x = np.mgrid[:HEIGHT, :WIDTH] / 8.0
    phases = np.random.default_rng(seed).uniform(0, 6, (count, channels, 1, 1))
    waves = np.sin(x + phases) * np.cos(y - 0.3 * phases)
    unit = (waves - waves.min()) / np.ptp(waves)
    return low + (high - low) * unit


def ct(folder: Path, *, name: str = "ct.dcm", position: float = 12.5, count: int | None = None, seed: int = 0) -> Written:
    """A CT image of 12 bits with padding, or a multi-frame one."""
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

    values = np.rint(pictures(count or 1, low=-900, high=700, seed=seed))
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.SOPClassUID, data.SOPInstanceUID = CTImageStorage, f"1.2.3.{seed + 1}"
    data.StudyInstanceUID, data.SeriesInstanceUID, data.FrameOfReferenceUID = "1.2.3.90", "1.2.3.91", "1.2.3.92"
    data.file_meta.MediaStorageSOPClassUID, data.file_meta.MediaStorageSOPInstanceUID = data.SOPClassUID, data.SOPInstanceUID
    data.PatientName, data.PatientID, data.PatientBirthDate = "Doe^Jane", "ID-4711", "19700102"
    data.InstitutionName, data.StudyDate, data.ReferringPhysicianName = "St. Elsewhere", "20200304", "Who^Doctor"
    data.Modality, data.SeriesDescription, data.KVP, data.ImageType = "CT", "Thorax", "120", ["ORIGINAL", "PRIMARY", "AXIAL"]
    data.Rows, data.Columns, data.SamplesPerPixel, data.PhotometricInterpretation = HEIGHT, WIDTH, 1, "MONOCHROME2"
    data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 16, 12, 11, 0
    data.RescaleSlope, data.RescaleIntercept, data.RescaleType, data.PixelPaddingValue = "1", "-1024", "HU", 0
    data.PixelSpacing, data.SliceThickness = ["0.5", "0.75"], "2"
    data.ImagePositionPatient, data.ImageOrientationPatient = ["-10", "-20", str(position)], ["1", "0", "0", "0", "1", "0"]
    if count is not None:
        data.NumberOfFrames = count
    stored = (values[:, 0] + 1024).astype(np.uint16)
    stored[:, :2, :3] = 0
    values[:, :, :2, :3] = np.nan
    data.PixelData = stored.tobytes()
    data["PixelData"].VR = "OW"
    data.save_as(folder / name, enforce_file_format=True)
    return Written(folder / name, values, "HU", ct_back, ct_back(folder / name)[1])


def ct_back(path: Path) -> tuple[Array, Any]:
    import pydicom

    data = pydicom.dcmread(path)
    stored = data.pixel_array.reshape(-1, 1, data.Rows, data.Columns).astype(float)
    values = stored * float(data.RescaleSlope) + float(data.RescaleIntercept)
    if data.get("PixelPaddingValue") is not None:
        values[stored == data.PixelPaddingValue] = np.nan
    kept = ("PatientName", "PatientID", "StudyInstanceUID", "FrameOfReferenceUID", "PixelSpacing", "ImagePositionPatient")
    return values, [str(data.get(name)) for name in (*kept, "ImageOrientationPatient", "SliceThickness", "KVP", "RescaleType")]


def color_dicom(folder: Path) -> Written:
    """An RGB image of ultrasound."""
    import pydicom

    made = ct(folder, name="color.dcm")
    data = pydicom.dcmread(made.path)
    values = np.rint(pictures(1, 3, low=10, high=240))
    for name in ("RescaleSlope", "RescaleIntercept", "RescaleType", "PixelPaddingValue"):
        delattr(data, name)
    data.SamplesPerPixel, data.PhotometricInterpretation, data.PlanarConfiguration, data.Modality = 3, "RGB", 0, "US"
    data.BitsAllocated, data.BitsStored, data.HighBit = 8, 8, 7
    data.PixelData = np.moveaxis(values[0], 0, -1).astype(np.uint8).tobytes()
    data["PixelData"].VR = "OB"
    data.save_as(made.path)

    def back(path: Path) -> tuple[Array, Any]:
        data = pydicom.dcmread(path)
        array = data.pixel_array.astype(float)
        if data.get("RescaleSlope") is not None:
            array = array * float(data.RescaleSlope)
        shown = np.moveaxis(array, -1, 0)[None] if array.ndim == 3 else array[None, None]
        return shown, [str(data.get(name)) for name in ("PatientName", "PixelSpacing", "StudyInstanceUID")]

    return Written(made.path, values, "", back, back(made.path)[1])


def nifti(folder: Path, *, name: str = "brain.nii.gz") -> Written:
    """A volume of three slices with an oblique affine whose second axis points to anterior."""
    import nibabel

    values = np.rint(pictures(3, low=50, high=1800))
    array = values[:, 0, ::-1].transpose(2, 1, 0)
    image = nibabel.Nifti1Image(array.astype(np.int16), AFFINE)
    image.header.set_xyzt_units("mm", "sec")
    image.to_filename(folder / name)

    def back(path: Path) -> tuple[Array, Any]:
        image: Any = nibabel.load(path)
        data = image.get_fdata()
        shown = data.transpose(2, 1, 0)[:, None, ::-1]
        return shown, [image.affine.round(5).tolist(), image.header.get_xyzt_units(), int(image.header["sform_code"])]

    return Written(folder / name, values, "", back, back(folder / name)[1])


def plain_nifti(folder: Path) -> Written:
    return nifti(folder, name="plain.nii")


def fits(folder: Path) -> Written:
    """An image of fluxes with world coordinates and values that are NaN, in an extension."""
    from astropy.io import fits as library
    from astropy.wcs import WCS

    values = pictures(1, low=-1e-4, high=3e-2).astype(np.float32)
    values[:, :, 5:7, 9:12] = np.nan
    wcs = WCS(naxis=2)
    wcs.wcs.crpix, wcs.wcs.cdelt, wcs.wcs.crval, wcs.wcs.ctype = [8, 9], [-0.01, 0.02], [83.6, 22.0], ["RA---TAN", "DEC--TAN"]
    header = wcs.to_header()
    header["BUNIT"], header["OBSERVER"], header["EXPTIME"] = "Jy/beam", "J. Doe", 12.5
    primary = library.PrimaryHDU()
    primary.header["TELESCOP"] = "none"
    path = folder / "crab.fits"
    library.HDUList([primary, library.ImageHDU(values[0, 0, ::-1], header)]).writeto(path)

    def back(path: Path) -> tuple[Array, Any]:
        with library.open(path) as units:
            data, header = units[1].data.astype(float), units[1].header
            sky = WCS(header).pixel_to_world_values(3, 4)
            facts = [np.round(sky, 6).tolist(), header["BUNIT"], header["EXPTIME"], units[0].header["TELESCOP"]]
        return data[None, None, ::-1], facts

    return Written(path, values.astype(float), "Jy/beam", back, back(path)[1])


def cube(folder: Path) -> Written:
    """A cube of integers with a scale and a value for what was not measured."""
    from astropy.io import fits as library

    values = np.rint(pictures(4, low=10, high=20000))
    stored = values[:, 0, ::-1].astype(np.int32)
    stored[1, 3, 4] = -999
    unit = library.PrimaryHDU(stored)
    unit.header["BLANK"], unit.header["CTYPE3"], unit.header["CRPIX3"], unit.header["CRVAL3"] = -999, "FREQ", 1.0, 1e9
    unit.writeto(folder / "cube.fits")
    values[1, 0, HEIGHT - 4, 4] = np.nan

    def back(path: Path) -> tuple[Array, Any]:
        with library.open(path) as units:
            data, header = np.atleast_3d(units[0].data.astype(float)), units[0].header
            return data[:, None, ::-1], [header["CTYPE3"], header["CRVAL3"]]

    return Written(folder / "cube.fits", values, "", back, ["FREQ", 1e9])


def imagej(folder: Path) -> Written:
    """A stack of ImageJ, of 16 bits."""
    import tifffile

    values = np.rint(pictures(3, low=100, high=3900))
    path = folder / "cells.tif"
    tifffile.imwrite(
        path,
        values[:, 0].astype(np.uint16),
        imagej=True,
        resolution=(4.0, 2.0),
        metadata={"axes": "ZYX", "spacing": 0.3, "unit": "um"},
    )

    def back(path: Path) -> tuple[Array, Any]:
        with tifffile.TiffFile(path) as file:
            data = file.asarray().astype(float).reshape(-1, 1, *file.pages.first.shape)
            described: Any = file.imagej_metadata
            tags: Any = file.pages.first
            across = tags.tags[282].value
            return data, [described["spacing"], described["unit"], across[0] / across[1]]

    return Written(path, values, "", back, back(path)[1])


def ome(folder: Path) -> Written:
    """A stack of OME, in color, of 8 bits."""
    import tifffile

    values = np.rint(pictures(2, 3, low=5, high=250))
    path = folder / "time.ome.tif"
    metadata = {"axes": "TYXS", "PhysicalSizeX": 0.2, "PhysicalSizeXUnit": "µm"}
    tifffile.imwrite(path, np.moveaxis(values, 1, -1).astype(np.uint8), ome=True, photometric="rgb", metadata=metadata)

    def back(path: Path) -> tuple[Array, Any]:
        with tifffile.TiffFile(path) as file:
            data = file.asarray().astype(float).reshape(-1, HEIGHT, WIDTH, 3)
            sizes = tifffile.xml2dict(str(file.ome_metadata))["OME"]["Image"]["Pixels"]
        return np.moveaxis(data, -1, 1), [sizes["PhysicalSizeX"], sizes["PhysicalSizeXUnit"]]

    return Written(path, values, "", back, back(path)[1])


def gif(folder: Path) -> Written:
    """An animated GIF of one color more than gray."""
    from PIL import Image

    gray = np.rint(pictures(3, low=10, high=240)).repeat(3, 1)
    frames = [Image.fromarray(np.moveaxis(each, 0, -1).astype(np.uint8)).convert("L") for each in gray]
    path = folder / "clip.gif"
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=70, loop=0)

    def back(path: Path) -> tuple[Array, Any]:
        with Image.open(path) as image:
            shown, durations = [], []
            for k in range(getattr(image, "n_frames", 1)):
                image.seek(k)
                shown.append(np.moveaxis(np.asarray(image.convert("RGB"), dtype=float), -1, 0))
                durations.append(image.info["duration"])
            return np.stack(shown), durations[0]

    return Written(path, gray, "", back, 70)


def video(folder: Path) -> Written:
    """A lossless video."""
    import av

    values = np.rint(pictures(4, 3, low=10, high=240))
    path = folder / "clip.mkv"
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("ffv1", rate=12)
        stream.height, stream.width, stream.pix_fmt = HEIGHT, WIDTH, "bgr0"
        for each in values:
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(np.moveaxis(each, 0, -1).astype(np.uint8)), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())

    def back(path: Path) -> tuple[Array, Any]:
        with av.open(str(path)) as container:
            frames = [np.moveaxis(frame.to_ndarray(format="rgb24").astype(float), -1, 0) for frame in container.decode(video=0)]
            return np.stack(frames), int(container.streams.video[0].average_rate or 0)

    return Written(path, values, "", back, 12)


FILES: Sequence[Callable[[Path], Written]] = (
    ct,
    color_dicom,
    nifti,
    plain_nifti,
    fits,
    cube,
    imagej,
    ome,
    gif,
    video,
)
