"""The format of the files of results: PNG, or what is asked for, as far as it can hold them."""

from __future__ import annotations

from dataclasses import dataclass

from invdiff.formats.origin import Origin
from invdiff.io.images import Picture
from invdiff.io.metadata import stripped
from invdiff.problems import OptionError

__all__ = ["FORMATS", "QUALITY", "FileFormat", "file_format"]

SUFFIXES = {"png": ".png", "jpg": ".jpg", "tiff": ".tif", "webp": ".webp"}
FORMATS = (*SUFFIXES, "input")
OF_INPUT = {"PNG": "png", "JPEG": "jpg", "TIFF": "tiff", "WEBP": "webp"}  # by Picture.format
DEEP, TRANSPARENT = ("png", "tiff"), ("png", "tiff", "webp")
QUALITY = 95


@dataclass(frozen=True)
class FileFormat:
    """How samples, mean and intervals are written; figures are always PNG files.

    Attributes:
        wanted: What was asked for, one of :data:`FORMATS`.
        suffix: Suffix of the files.
        bits: Bits per channel, 8 or 16.
        alpha: Whether they hold the alpha channel, if there is one.
        quality: Quality of JPEG files, 1 to 100; ``None`` for other files.
        notes: What the files do not hold, for the user.
        strip: Whether EXIF data are left out, except for the resolution.
        origin: The file whose format, units and header the files have; ``None``: image files.
        anonymize: Whether what tells who was measured is left out of that header.
    """

    wanted: str
    suffix: str
    bits: int
    alpha: bool
    quality: int | None
    notes: tuple[str, ...] = ()
    strip: bool = False
    origin: Origin | None = None
    anonymize: bool = False

    def names(self, stem: str, count: int = 1) -> tuple[str, ...]:
        """Return the names of the files of ``count`` pictures."""
        return (f"{stem}{self.suffix}",) if self.origin is None else self.origin.kind.files(stem, count)

    def exif(self, of: Picture) -> bytes | None:
        """Return the EXIF data that are written with a picture."""
        return stripped(of.exif) if self.strip else of.exif


def file_format(
    picture: Picture,
    channels: int,
    wanted: str | None = None,
    *,
    quality: int | None = None,
    strip: bool = False,
    anonymize: bool = False,
) -> FileFormat:
    """Return the format of the files of results.

    Args:
        picture: Mode of the results: bit depth, alpha channel, and the format of INPUT.
        channels: Channels of the results; with neither 1 nor 3 they fit in TIFF files only, which then take the place of PNG.
        wanted: One of :data:`FORMATS`; ``"input"``: that of INPUT, or PNG if there is none that is written. Default:
            ``"input"`` for files with units, such as DICOM, and PNG for others.
        quality: Quality of JPEG files, 1 to 100. Default: 95.
        strip: Whether to leave out EXIF data, except for the resolution.
        anonymize: Whether to leave out what tells who was measured; implies ``strip``.

    Raises:
        OptionError: If it is none of these, or the files cannot hold the channels.
    """
    origin, strip = picture.origin, strip or anonymize
    if wanted is None:
        wanted = "png" if origin is None or not origin.kind.writes else "input"
    if wanted not in FORMATS:
        raise OptionError(f"--format: {wanted!r} is not one of {', '.join(FORMATS)}.")
    if quality is not None and (isinstance(quality, bool) or quality not in range(1, 101)):
        raise OptionError(f"--format-quality: expected a whole number from 1 to 100, got {quality!r}.")
    notes, kind = list[str](), wanted
    if wanted == "input" and origin is not None and origin.kind.writes:
        if quality is not None:
            raise OptionError(f"--format-quality is for JPEG files, and the results are {origin.kind.name} files.")
        return FileFormat(wanted, origin.kind.suffix, 16, False, None, (), strip, origin, anonymize)
    if wanted == "input":
        kind = OF_INPUT.get(picture.format, "png")
        if picture.format not in OF_INPUT:
            what = f"a {picture.format} file" if picture.format else "no image file"
            notes.append(f"--format input: INPUT is {what}, so that the results are PNG files")
    if quality is not None and kind != "jpg":
        raise OptionError("--format-quality is for JPEG files: add --format jpg, or leave it out.")
    if channels not in (1, 3):
        if kind not in ("png", "tiff"):
            raise OptionError(f"--format {wanted}: only TIFF files hold results of {channels} channels. Leave it out.")
        kind = "tiff"
    bits, alpha = picture.bits, True
    if bits == 16 and kind not in DEEP:
        bits = 8
        notes.append(f"--format {wanted}: {kind.upper()} files hold 8 of the 16 bits of a channel; png and tiff hold all")
    if picture.alpha is not None and kind not in TRANSPARENT:
        alpha = False
        notes.append(f"--format {wanted}: JPEG files hold no transparency: the alpha channel is not written; png holds it")
    if kind == "jpg" and quality is None:
        quality = QUALITY
    return FileFormat(wanted, SUFFIXES[kind], bits, alpha, quality, tuple(notes), strip)
