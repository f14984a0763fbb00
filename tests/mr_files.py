"""Files of magnetic resonance imaging for tests, written by their own libraries: a disk with a phase, in several coils."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from invdiff.formats.mr_header import ismrmrd
from invdiff.operators import birdcage_maps

Complex = NDArray[np.complex128]
AXES = (-2, -1)


def disk(height: int, width: int) -> Complex:
    """Return a complex image ``(H, W)`` off the center, with a smooth phase."""
    rows, columns = np.mgrid[:height, :width]
    y, x = (rows - height * 0.45) / height, (columns - width * 0.55) / width
    inside = ((y / 0.35) ** 2 + (x / 0.3) ** 2 < 1) * 0.6 + ((y - 0.1) ** 2 + x**2 < 0.01) * 0.4
    return inside * np.exp(1j * (0.8 + 2 * y + x))


def coil_images(image: Complex, coils: int) -> Complex:
    return birdcage_maps(coils, *image.shape).numpy() * image


def kspace_of(images: Complex) -> Complex:
    shifted = np.fft.ifftshift(images, axes=AXES)
    return np.fft.fftshift(np.fft.fft2(shifted, norm="ortho"), axes=AXES)


def image_of(kspace: Complex) -> Complex:
    shifted = np.fft.ifftshift(kspace, axes=AXES)
    return np.fft.fftshift(np.fft.ifft2(shifted, norm="ortho"), axes=AXES)


def padded(image: Complex, size: tuple[int, int]) -> Complex:
    """Return an image ``(..., H, W)`` in the middle of a larger field of view."""
    found = np.zeros((*image.shape[:-2], *size), image.dtype)
    top, left = (side // 2 - small // 2 for side, small in zip(size, image.shape[-2:], strict=True))
    found[..., top : top + image.shape[-2], left : left + image.shape[-1]] = image
    return found


def header(
    encoded: tuple[int, int], shown: tuple[int, int], *, trajectory: str = "cartesian", center: int | None = None
) -> Any:
    """Return a header of ISMRMRD with square pixels of 1 mm; sizes are readout and phase encoding."""
    xsd = ismrmrd().xsd

    def space(size: tuple[int, int]) -> Any:
        return xsd.encodingSpaceType(
            matrixSize=xsd.matrixSizeType(x=size[0], y=size[1], z=1),
            fieldOfView_mm=xsd.fieldOfViewMm(x=float(size[0]), y=float(size[1]), z=5.0),
        )

    steps = xsd.limitType(minimum=0, maximum=encoded[1] - 1, center=encoded[1] // 2 if center is None else center)
    return xsd.ismrmrdHeader(
        experimentalConditions=xsd.experimentalConditionsType(H1resonanceFrequency_Hz=63_500_000),
        subjectInformation=xsd.subjectInformationType(patientName="Jane Roe", patientID="7"),
        acquisitionSystemInformation=xsd.acquisitionSystemInformationType(
            institutionName="A clinic", systemFieldStrength_T=1.5, relativeReceiverNoiseBandwidth=0.8
        ),
        encoding=[
            xsd.encodingType(
                encodedSpace=space(encoded),
                reconSpace=space(shown),
                encodingLimits=xsd.encodingLimitsType(kspace_encoding_step_1=steps),
                trajectory=xsd.trajectoryType(trajectory),
            )
        ],
    )


def write_scan(
    path: Path,
    kspaces: list[Complex],
    *,
    head: Any,
    rows: list[int] | None = None,
    averages: int = 1,
    noise: Complex | None = None,
    noise_level: float = 0.0,
    skip: int = 0,
) -> None:
    """Write slices of k-space ``(coils, phase, readout)`` line by line.

    Args:
        path: The file.
        kspaces: Slices.
        head: Header.
        rows: Rows that are measured.
        averages: Times that every line is measured.
        noise: Samples of a noise scan, ``(coils, samples)``.
        noise_level: Noise of both parts, in every measured sample.
        skip: First samples of every readout that are not measured.
    """
    package, generator = ismrmrd(), np.random.default_rng(0)
    with package.Dataset(str(path), "dataset", mode="w") as file:
        file.write_xml_header(head.toXML().encode())
        if noise is not None:
            one = package.Acquisition.from_array(noise.astype(np.complex64))
            one.setFlag(package.ACQ_IS_NOISE_MEASUREMENT)
            one.sample_time_us = 5.0
            file.append_acquisition(one)
        for number, kspace in enumerate(kspaces):
            for average in range(averages):
                for row in range(kspace.shape[1]) if rows is None else rows:
                    line = kspace[:, row, skip:]
                    added = generator.normal(size=(2, *line.shape))
                    one = package.Acquisition.from_array((line + noise_level * (added[0] + 1j * added[1])).astype(np.complex64))
                    one.center_sample, one.sample_time_us = kspace.shape[2] // 2 - skip, 5.0
                    one.idx.kspace_encode_step_1, one.idx.slice, one.idx.average = row, number, average
                    one.position, one.read_dir = (1.0, 2.0, 3.0 + 5 * number), (0.0, 1.0, 0.0)
                    one.phase_dir, one.slice_dir = (1.0, 0.0, 0.0), (0.0, 0.0, -1.0)
                    one.acquisition_time_stamp = 1000 + number
                    file.append_acquisition(one)
