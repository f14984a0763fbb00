"""The header of a scan of magnetic resonance imaging, in the XML of ISMRMRD, and what it says about the grid of k-space."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from invdiff.io.errors import one_line

__all__ = ["Encoding", "anonymized", "centered", "cropped", "encoding_of", "ismrmrd", "without_oversampling"]

AXES = (-2, -1)


@dataclass(frozen=True)
class Encoding:
    """The grids of k-space and of the image, with the axes readout, phase and slice.

    Attributes:
        encoded: Samples of k-space.
        image: Pixels of the image at the resolution of k-space: ``encoded``, times the ratio of the fields of view.
        shown: Pixels of the image that the scanner would show, which may be interpolated.
        field_of_view: Field of view of ``image``, in mm; 0 if it is not known.
        center: Number of the phase encoding step of frequency 0, counted from 0.
        trajectory: ``"cartesian"``, ``"radial"``, ...
        header: The header as ``ismrmrd.xsd.ismrmrdHeader``.
    """

    encoded: tuple[int, int, int]
    image: tuple[int, int, int]
    shown: tuple[int, int, int]
    field_of_view: tuple[float, float, float]
    center: int
    trajectory: str
    header: Any


def ismrmrd() -> Any:
    """Return the package ``ismrmrd``, imported without its change of the filters of warnings."""
    with warnings.catch_warnings():
        import ismrmrd as package
        import ismrmrd.xsd

    return package


def encoding_of(document: bytes, number: int = 0) -> Encoding:
    """Return the grids that a header describes.

    Args:
        document: The XML document.
        number: Number of the encoding in it, counted from 0.

    Raises:
        ValueError: If it is damaged, declares entities, or lacks the encoding: the reason.
    """
    if b"<!" in document.replace(b"<!--", b""):
        raise ValueError("its XML header declares a document type or entities, which no header needs; it is not read")
    try:
        header = ismrmrd().xsd.CreateFromDocument(document)
    except Exception as error:  # of the parser and of the types in it
        raise ValueError(f"its XML header is damaged ({one_line(error).splitlines()[0]:.80})") from error
    if not 0 <= number < len(header.encoding):
        raise ValueError(f"its XML header has {len(header.encoding)} encodings, and number {number} is used")
    one = header.encoding[number]
    encoded, shown = one.encodedSpace, one.reconSpace
    sizes = tuple(int(getattr(encoded.matrixSize, axis)) for axis in "xyz")
    wanted = tuple(int(getattr(shown.matrixSize, axis)) for axis in "xyz")
    if min(*sizes, *wanted) < 1:
        raise ValueError(f"its XML header has a grid of {sizes} samples and {wanted} pixels, expected positive numbers")
    wide = tuple(float(getattr(encoded.fieldOfView_mm, axis)) for axis in "xyz")
    seen = tuple(float(getattr(shown.fieldOfView_mm, axis)) for axis in "xyz")
    known = all(np.isfinite(v) and v > 0 for v in (*wide, *seen))
    image = tuple(
        min(n, max(1, round(n * s / w))) if known else min(n, m) for n, m, w, s in zip(sizes, wanted, wide, seen, strict=True)
    )
    limits = one.encodingLimits.kspace_encoding_step_1 if one.encodingLimits is not None else None
    center = sizes[1] // 2 if limits is None else int(limits.center)
    field = tuple(w * n / m if known else 0.0 for w, n, m in zip(wide, image, sizes, strict=True))
    kind = getattr(one.trajectory, "value", one.trajectory)
    return Encoding(_three(sizes), _three(image), _three(wanted), _three(field), center, str(kind), header)


def anonymized(document: bytes) -> bytes:
    """Return a header without what tells who was measured, where, when and by whom."""
    header = encoding_of(document).header
    for name in ("subjectInformation", "studyInformation", "measurementInformation"):
        setattr(header, name, None)
    if header.acquisitionSystemInformation is not None:
        for name in ("institutionName", "stationName", "deviceID", "deviceSerialNumber"):
            setattr(header.acquisitionSystemInformation, name, None)
    return str(ismrmrd().xsd.ToXML(header)).encode("ascii")


def without_oversampling(kspace: NDArray[Any], size: int, axis: int) -> NDArray[Any]:
    """Return k-space of the central ``size`` pixels along an axis whose frequencies are all measured.

    White noise keeps its level: both transforms are unitary, and the noise of the pixels is white too.

    Args:
        kspace: Complex ``(..., H, W)``, with frequency 0 and the origin of the image in the center.
        size: Pixels that are kept.
        axis: -2 or -1.
    """
    if kspace.shape[axis] <= size:
        return kspace
    image = np.fft.fftshift(np.fft.ifft(np.fft.ifftshift(kspace, axis), axis=axis, norm="ortho"), axis)
    kept = np.take(image, centered(kspace.shape[axis], size), axis)
    return np.fft.fftshift(np.fft.fft(np.fft.ifftshift(kept, axis), axis=axis, norm="ortho"), axis).astype(kspace.dtype)


def centered(length: int, size: int) -> NDArray[np.intp]:
    """Return the indices of the ``size`` pixels around pixel ``length // 2``, the origin, which becomes ``size // 2``."""
    first = length // 2 - size // 2
    return np.arange(first, first + size)


def cropped(picture: NDArray[Any], size: tuple[int, int]) -> NDArray[Any]:
    """Return the center of a picture ``(..., H, W)``, at most of ``size``."""
    for axis, side in zip(AXES, size, strict=True):
        if picture.shape[axis] > side:
            picture = np.take(picture, centered(picture.shape[axis], side), axis)
    return picture


def _three(values: tuple[Any, ...]) -> tuple[Any, Any, Any]:
    first, second, third = values
    return first, second, third
