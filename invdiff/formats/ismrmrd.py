"""Cartesian scans in the HDF5 files of ISMRMRD, and images as its tools read them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from invdiff.formats import hdf5
from invdiff.formats.format import Format, Scan, Stack, Written
from invdiff.formats.mr_header import Encoding, anonymized, cropped, encoding_of, ismrmrd, without_oversampling
from invdiff.io.limits import check_array

__all__ = ["ISMRMRD"]

GROUP = "dataset"
IMAGES = "invdiff"
PICTURES = ("slice", "contrast", "phase", "repetition", "set")  # counters of acquisitions that belong to different pictures
# Numbers of the flags of acquisitions, counted from 1.
NOISE, CALIBRATION, CALIBRATION_AND_IMAGING, REVERSE = 19, 20, 21, 22
NOT_IMAGING = (23, 24, 26, 27, 28, 29, 30, 31)  # navigators, phase correction, feedback, dummies, phase stabilization
APART = ("separate", "external")  # calibration lines with another contrast than the image
COUNTERS = (*PICTURES, "average", "kspace_encode_step_1", "kspace_encode_step_2")
READ = (
    *("flags", "idx", "active_channels", "number_of_samples", "center_sample", "sample_time_us", "encoding_space_ref"),
    *("discard_pre", "discard_post"),
)
MOST_ACQUISITIONS = 2**22


class ISMRMRD(Format):
    r"""Cartesian acquisitions of ISMRMRD, version 1: k-space of every slice, contrast, phase, repetition and set.

    Lines are put at their phase encoding step, averages are averaged, and the excess field of view of the readout is cut off.
    With partial Fourier and acceleration, lines are missing; nothing is made up for them. An asymmetric echo leaves the readout
    as it is, because part of its frequencies is missing too; the results are cut instead.

    Noise acquisitions give the covariance :math:`\Psi` of the coils, by which k-space is whitened: :math:`L^{-1} k` with
    :math:`\Psi = L L^*`, scaled so that the real and the imaginary part of one average have noise of standard deviation 1. The
    noise of a sample is inversely proportional to its duration, and the receiver's noise bandwidth is taken from the header.

    Results are images of ISMRMRD in ``/dataset/invdiff``, with the position and the directions of the acquisitions, beside the
    XML header.

    References:
        Inati et al., ISMRM Raw data format, 2017, https://doi.org/10.1002/mrm.26089
        Pruessmann et al., Advances in sensitivity encoding with arbitrary k-space trajectories, 2001,
        https://doi.org/10.1002/mrm.1241 (appendix A: whitening)
    """

    name = "ISMRMRD"
    extra = "mri"
    modules = ("h5py", "ismrmrd")
    suffixes = (".h5", ".mrd")
    suffix = ".h5"
    reads = "Cartesian k-space, whitened by its noise scan"
    writes = "images with the geometry of the acquisitions"

    def recognizes(self, head: bytes, path: Path) -> bool:
        return hdf5.is_hdf5(head) and hdf5.has(path, f"{GROUP}/xml", f"{GROUP}/data")

    def open(self, path: Path) -> Scan:
        with hdf5.opened(path) as file:
            document = _first_text(hdf5.values(hdf5.dataset(file, f"{GROUP}/xml"), slice(0, 1)))
            heads = _heads(hdf5.dataset(file, f"{GROUP}/data", largest=MOST_ACQUISITIONS))
        acquisitions = _Acquisitions(path, document, heads)
        numbers = acquisitions.pictures
        notes = acquisitions.notes
        return Scan(len(numbers), acquisitions.arrays, axis="slice", header=acquisitions, notes=notes)

    def write(self, path: Path, pictures: Iterable[NDArray[np.float32]], of: Stack | Scan, written: Written) -> None:
        package, scan = ismrmrd(), of.header
        with package.Dataset(str(path), GROUP, mode="w") as file:
            file.write_xml_header(anonymized(scan.document) if written.anonymize else scan.document)
            for number, picture in zip(written.numbers, pictures, strict=True):
                shown = cropped(np.asarray(picture, np.float32)[0], scan.size)
                first = package.Acquisition(scan.heads[scan.pictures[number][0]])
                image = package.Image.from_array(shown, acquisition=first, transpose=False)
                image.field_of_view = scan.encoding.field_of_view
                image.image_type, image.image_index = package.IMTYPE_MAGNITUDE, number + 1
                image.attribute_string = package.Meta(
                    {"DataRole": "Image", "ImageComment": written.what, "Software": written.command}
                ).serialize()
                file.append_image(IMAGES, image)


@dataclass(frozen=True, eq=False)
class _Acquisitions:
    """The acquisitions of a file: their headers; samples are read when they are asked for.

    Attributes:
        path: The file.
        document: The XML header.
        heads: Headers of all acquisitions, a structured array.
    """

    path: Path
    document: bytes
    heads: NDArray[Any]
    found: dict[str, Any] = field(default_factory=dict)

    @cached_property
    def encoding(self) -> Encoding:
        numbers = np.unique(self.heads["encoding_space_ref"][self.imaging])
        if len(numbers) != 1:
            raise ValueError(f"its acquisitions use {len(numbers)} encodings, expected one; split the file")
        encoding = encoding_of(self.document, int(numbers[0]))
        if encoding.trajectory.lower() != "cartesian":
            raise ValueError(
                f"its trajectory is {encoding.trajectory}, and only Cartesian ones are gridded here; "
                "invdiff.operators.from_mrpro takes the Fourier operator of mrpro for it"
            )
        if encoding.encoded[2] > 1 or (self.heads["idx"]["kspace_encode_step_2"][self.imaging] > 0).any():
            raise ValueError("it is measured in 3D, with two phase encodings; transform it along one of them to slices first")
        return encoding

    @cached_property
    def imaging(self) -> NDArray[np.intp]:
        """Numbers of the acquisitions of the image."""
        flags = self.heads["flags"]
        beside = np.zeros(len(flags), bool)
        for number in (NOISE, *NOT_IMAGING):
            beside |= _is_set(flags, number)
        parallel = encoding_of(self.document).header.encoding[0].parallelImaging
        if parallel is not None and getattr(parallel.calibrationMode, "value", None) in APART:
            beside |= _is_set(flags, CALIBRATION) & ~_is_set(flags, CALIBRATION_AND_IMAGING)
        kept = np.flatnonzero(~beside)
        if not len(kept):
            raise ValueError("it has no acquisitions of an image, only of noise, calibration or navigation")
        return kept

    @cached_property
    def pictures(self) -> list[NDArray[np.intp]]:
        """Numbers of the acquisitions of every picture, in the order of :data:`PICTURES`."""
        counters = np.stack([self.heads["idx"][name][self.imaging] for name in PICTURES], 1)
        _, which = np.unique(counters, axis=0, return_inverse=True)
        which = which.reshape(-1)
        order = np.argsort(which, kind="stable")
        return [self.imaging[part] for part in np.split(order, np.flatnonzero(np.diff(which[order])) + 1)]

    @cached_property
    def shape(self) -> tuple[int, int, int]:
        """Coils, rows along the phase encoding, and columns along the readout, of k-space as it is given."""
        coils = np.unique(self.heads["active_channels"][self.imaging])
        if len(coils) != 1 or coils[0] < 1:
            raise ValueError(f"its acquisitions have {', '.join(map(str, coils[:4]))} coils, expected the same number in all")
        rows, columns = self.encoding.encoded[1], self.encoding.encoded[0]
        check_array((int(coils[0]), rows, columns))
        return int(coils[0]), rows, self.encoding.image[0] if self.is_symmetric else columns

    @cached_property
    def is_symmetric(self) -> bool:
        """Whether every readout covers all its frequencies."""
        heads = self.heads[self.imaging]
        first, count = _readouts(heads)
        start = self.encoding.encoded[0] // 2 - heads["center_sample"].astype(int) + first
        return bool(((start == 0) & (count == self.encoding.encoded[0])).all())

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of results."""
        return self.encoding.image[1], self.encoding.image[0]

    @cached_property
    def notes(self) -> tuple[str, ...]:
        heads, (_, rows, columns) = self.heads[self.imaging], self.shape
        said = []
        lines = len(np.unique(heads["idx"]["kspace_encode_step_1"]))
        said += [f"{lines} of {rows} phase encoding steps are measured"] if lines < rows else []
        averages = len(np.unique(heads["idx"]["average"]))
        said += [f"{averages} averages are averaged"] if averages > 1 else []
        if columns < self.encoding.encoded[0]:
            said.append(f"the readout covers {self.encoding.encoded[0] / columns:.3g} times the field of view: cut off")
        if not self.is_symmetric:
            said.append("the echo is asymmetric: the frequencies of the readout that are missing are taken as not measured")
        if self.whitening is not None:
            said.append(f"the coils are whitened by {self.noise_samples} samples of noise, which are the noise level too")
        return tuple(said)

    @property
    def noise_samples(self) -> int:
        return int(self.heads["number_of_samples"][_is_set(self.heads["flags"], NOISE)].astype(int).sum())

    @cached_property
    def whitening(self) -> NDArray[np.complex128] | None:
        """The matrix that makes the noise of the coils white, with standard deviation 1 of both parts."""
        heads, coils = self.heads, self.shape[0]
        scans = np.flatnonzero(_is_set(heads["flags"], NOISE) & (heads["active_channels"] == coils))
        if not len(scans) or heads["number_of_samples"][scans].astype(int).sum() < 2 * coils:
            return None
        with hdf5.opened(self.path) as file:
            data = hdf5.dataset(file, f"{GROUP}/data", largest=None)
            samples = np.concatenate([_samples(data, int(k), heads[k]) for k in scans], 1).astype(np.complex128)
        cov = samples @ samples.conj().T / samples.shape[1]
        durations = float(heads["sample_time_us"][scans[0]]), float(heads["sample_time_us"][self.imaging[0]])
        shorter = durations[0] / durations[1] if min(durations) > 0 else 1.0
        system = self.encoding.header.acquisitionSystemInformation
        bandwidth = getattr(system, "relativeReceiverNoiseBandwidth", None) or 1.0
        try:
            root: NDArray[np.complex128] = np.linalg.cholesky(cov * shorter / bandwidth / 2)
        except np.linalg.LinAlgError:
            raise ValueError(
                "the noise of its coils has no covariance of full rank: a coil without noise is switched off"
            ) from None
        return np.asarray(np.linalg.inv(root), np.complex128)

    def arrays(self, k: int) -> Mapping[str, NDArray[Any]]:
        """Return k-space of picture k, ``(coils, phase, readout)``, and what is known of it."""
        (coils, rows, columns), (wide, *_) = self.shape, self.encoding.encoded
        kspace, counts = np.zeros((coils, rows, wide), np.complex64), np.zeros((rows, wide))
        heads = self.heads[self.pictures[k]]
        with hdf5.opened(self.path) as file:
            data = hdf5.dataset(file, f"{GROUP}/data", largest=None)
            for number, head in zip(self.pictures[k], heads, strict=True):
                row = int(head["idx"]["kspace_encode_step_1"]) - self.encoding.center + rows // 2
                samples, middle = _samples(data, int(number), head), int(head["center_sample"]) - int(head["discard_pre"])
                if _is_set(head["flags"], REVERSE):
                    samples, middle = samples[:, ::-1], samples.shape[1] - 1 - middle
                start = wide // 2 - middle
                if not 0 <= row < rows or start < 0 or start + samples.shape[1] > wide:
                    raise ValueError(
                        f"acquisition {number} lies outside the grid of {rows} x {wide}: step {row}, samples {start} to "
                        f"{start + samples.shape[1]}"
                    )
                kspace[:, row, start : start + samples.shape[1]] += samples
                counts[row, start : start + samples.shape[1]] += 1
        kspace /= np.maximum(counts, 1).astype(np.float32)
        center = np.array("center")
        found: dict[str, NDArray[Any]] = {"zero_frequency": center, "origin": center}
        if self.whitening is not None:
            kspace = np.tensordot(self.whitening, kspace, 1).astype(np.complex64)
            found["noise_std"] = np.array(np.median(counts[counts > 0]) ** -0.5)
        mask = counts > 0
        if columns < wide:
            kspace, mask = without_oversampling(kspace, columns, -1), mask[:, :columns]
        return found | {"kspace": kspace, "mask": mask}


def _heads(data: Any) -> NDArray[Any]:
    """Return the headers of all acquisitions, without their samples."""
    names = data.dtype.names or ()
    if data.ndim != 1 or "head" not in names or "data" not in names:
        raise ValueError(f"{GROUP}/data must hold acquisitions of ISMRMRD, got {data.dtype!s:.80}")
    heads = hdf5.values(data, "head")
    if (
        not len(heads)
        or not set(READ) <= set(heads.dtype.names or ())
        or not set(COUNTERS) <= set(heads["idx"].dtype.names or ())
    ):
        raise ValueError(f"{GROUP}/data has no headers of ISMRMRD, version 1")
    return heads


def _samples(data: Any, number: int, head: Any) -> NDArray[np.complex64]:
    """Return the samples of an acquisition, ``(coils, samples)``, without those to be discarded."""
    coils, length = int(head["active_channels"]), int(head["number_of_samples"])
    values = np.asarray(hdf5.values(data, number)["data"].item())
    if values.dtype.kind != "f" or values.size != 2 * coils * length:
        raise ValueError(f"acquisition {number} has {values.size} numbers, expected {coils} coils of {length} complex samples")
    if not np.isfinite(values).all():
        raise ValueError(f"acquisition {number} has values that are NaN or infinite")
    samples = values.astype(np.float32).view(np.complex64).reshape(coils, length)
    first, last = int(head["discard_pre"]), length - int(head["discard_post"])
    if not 0 <= first < last:
        raise ValueError(f"acquisition {number} discards all of its {length} samples")
    return samples[:, first:last]


def _readouts(heads: NDArray[Any]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the first sample that is kept and the number of samples, of every acquisition."""
    first = heads["discard_pre"].astype(np.int64)
    return first, heads["number_of_samples"].astype(np.int64) - first - heads["discard_post"].astype(np.int64)


def _is_set(flags: Any, number: int) -> Any:
    return (np.asarray(flags) >> np.uint64(number - 1)) & np.uint64(1) > 0


def _first_text(values: NDArray[Any]) -> bytes:
    value = values.reshape(-1)[0] if values.size else b""
    document = value.encode() if isinstance(value, str) else value
    if not isinstance(document, bytes) or not document:
        raise ValueError(f"{GROUP}/xml must hold one text, the header")
    return document
