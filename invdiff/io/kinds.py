"""Names of kinds of files that are no supported images, told by their content."""

from __future__ import annotations

import re

from invdiff.io.heif import coding_of, what_is_missing

__all__ = ["HEAD", "kind_of"]

HEAD = 4096  # bytes at the beginning of a file that tell its kind
CONVERT = "convert it to PNG or TIFF"
ARRAY = "save its array as .npy"
LIGHT = "only --problem declip takes linear light; convert it to PNG or TIFF"
DEVELOP = "develop it to a 16-bit TIFF, by --problem demosaic or a raw converter"

STARTS: tuple[tuple[bytes, str, str], ...] = (
    (b"GIF8", "a GIF image", CONVERT),
    (b"SIMPLE  =", "a FITS file", f"{ARRAY} (astropy.io.fits.getdata), on the 0..1 scale"),
    (b"\x93NUMPY", "a NumPy array", "give its name the ending .npy"),
    (b"\x00\x00\x00\x0cjP  ", "a JPEG 2000 image", CONVERT),
    (b"\xff\x4f\xff\x51", "a JPEG 2000 codestream", CONVERT),
    (b"\x00\x00\x00\x0cJXL ", "a JPEG XL image", CONVERT),
    (b"\xff\x0a", "a JPEG XL codestream", CONVERT),
    (b"\x76\x2f\x31\x01", "an OpenEXR image", LIGHT),
    (b"#?RADIANCE", "a Radiance HDR image", LIGHT),
    (b"8BPS", "a Photoshop file", CONVERT),
    (b"gimp xcf", "a GIMP file", CONVERT),
    (b"%PDF", "a PDF document", "export the image in it to PNG or TIFF"),
    (b"%!PS", "a PostScript file", "export the image in it to PNG or TIFF"),
    (b"\xc5\xd0\xd3\xc6", "an EPS file", "export the image in it to PNG or TIFF"),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file", f"{ARRAY} or .npz (h5py reads it)"),
    (b"CDF\x01", "a NetCDF file", f"{ARRAY} (xarray reads it)"),
    (b"CDF\x02", "a NetCDF file", f"{ARRAY} (xarray reads it)"),
    (b"MATLAB 5.0 MAT-file", "a MATLAB file", f"{ARRAY} (scipy.io.loadmat reads it)"),
    (b"NRRD0", "an NRRD file", f"{ARRAY} (pynrrd reads it)"),
    (b"ISMRMRD", "an ISMRMRD file", f"{ARRAY} or .npz"),
    (b"qoif", "a QOI image", CONVERT),
    (b"\x01\xda\x00", "an SGI image", CONVERT),
    (b"\x01\xda\x01", "an SGI image", CONVERT),
    (b"\x0a\x05\x01", "a PCX image", CONVERT),
    (b"\x59\xa6\x6a\x95", "a Sun raster image", CONVERT),
    (b"DDS ", "a DDS texture", CONVERT),
    (b"\xabKTX ", "a KTX texture", CONVERT),
    (b"icns", "an Apple icon", CONVERT),
    (b"\x00\x00\x01\x00", "a Windows icon", CONVERT),
    (b"BPG\xfb", "a BPG image", CONVERT),
    (b"FLIF", "a FLIF image", CONVERT),
    (b"AT&TFORM", "a DjVu document", "export the image in it to PNG or TIFF"),
    (b"II\xbc\x01", "a JPEG XR image", CONVERT),
    (b"FUJIFILMCCD-RAW", "a RAW camera file", DEVELOP),
    (b"IIRO", "a RAW camera file", DEVELOP),
    (b"IIRS", "a RAW camera file", DEVELOP),
    (b"MMOR", "a RAW camera file", DEVELOP),
    (b"IIU\0", "a RAW camera file", DEVELOP),
    (b"\x00MRM", "a RAW camera file", DEVELOP),
    (b"FOVb", "a RAW camera file", DEVELOP),
    (b"PK\x03\x04", "a ZIP archive (.npz files are)", "give its name the ending .npz, or unpack it"),
    (b"PK\x05\x06", "an empty ZIP archive", "give an image"),
    (b"\x1f\x8b", "a gzip archive (.nii.gz files are)", "unpack it, and convert the image in it"),
    (b"BZh", "a bzip2 archive", "unpack it"),
    (b"\xfd7zXZ\0", "an xz archive", "unpack it"),
    (b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive", "unpack it"),
    (b"Rar!", "a RAR archive", "unpack it"),
    (b"\x1a\x45\xdf\xa3", "a Matroska or WebM video", "extract a frame as PNG"),
    (b"version https://git-lfs", "a pointer of Git LFS, not the file itself", "fetch the file with git lfs pull"),
)
BRANDS = {  # of the container of MPEG-4, at byte 8
    b"crx ": ("a RAW camera file", DEVELOP),
}
NIFTI = "a NIfTI file", f"{ARRAY} (nibabel.load(...).get_fdata()), one slice at a time, on the 0..1 scale"
DICOM = "a DICOM file", f"{ARRAY} (pydicom.dcmread(...).pixel_array), on the 0..1 scale"
SVG = "an SVG drawing", "export it to PNG"
NETPBM = re.compile(rb"P[1-7fF][ \t\r\n]")


def kind_of(head: bytes) -> str | None:
    """Return what a file is and what to do with it, for use after its name; ``None`` if it is of no kind that is known here.

    Args:
        head: The first :data:`HEAD` bytes of the file, or all of it.
    """
    if coding_of(head) is not None:
        return what_is_missing(head)
    found = _find(head)
    return None if found is None else f"is {found[0]}, which is not supported: {found[1]}"


def _find(head: bytes) -> tuple[str, str] | None:
    if head[128:132] == b"DICM":  # the 128 bytes before it are free, and may hold the header of a TIFF file
        return DICOM
    if head[344:347] in (b"n+1", b"ni1") or head[4:7] == b"n+2" or head[:4] in (b"\x5c\x01\0\0", b"\0\0\x01\x5c"):
        return NIFTI
    if head[4:8] == b"ftyp":
        return BRANDS.get(head[8:12], ("an MPEG-4 or QuickTime file", "extract a frame as PNG"))
    if head[:4] == b"RIFF" and head[8:12] != b"WEBP":
        return "an AVI or WAV file", "extract a frame as PNG"
    if NETPBM.match(head):
        return "a PBM, PGM, PPM or PFM image", CONVERT
    if head[:4] in (b"II*\0", b"MM\0*") and head[8:10] == b"CR":
        return "a RAW camera file", DEVELOP
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<svg", b"<?xml")) and b"<svg" in text:
        return SVG
    if text.startswith((b"<!doctype html", b"<html")):
        return "a web page", "download the image itself"
    return next(((name, advice) for start, name, advice in STARTS if head.startswith(start)), None)
