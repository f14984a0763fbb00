"""K-space in the HDF5 files of fastMRI, and reconstructions as its tools read them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from invdiff.formats import hdf5
from invdiff.formats.format import Format, Scan, Stack, Written
from invdiff.formats.mr_header import anonymized, cropped, encoding_of, without_oversampling
from invdiff.io.limits import check_array

__all__ = ["FastMRI"]

RESULTS = "reconstruction"  # and reconstruction_rss, reconstruction_esc: what the files hold besides the measurement


@dataclass(frozen=True, eq=False)
class FastMRIHeader:
    """What is carried through.

    Attributes:
        attributes: Attributes of the file.
        document: The XML of ISMRMRD; empty if there is none.
        size: Height and width of the reconstruction.
    """

    attributes: Mapping[str, Any]
    document: bytes
    size: tuple[int, int]


class FastMRI(Format):
    """Single- and multi-coil k-space of fastMRI: ``kspace``, ``mask`` and ``ismrmrd_header``.

    ``kspace`` is complex, ``(slices, coils, H, W)`` or ``(slices, H, W)``, with the readout along H, and frequency 0 and the
    origin of the image in the center. The readout is measured with twice the field of view of the reconstruction: the excess is
    cut off. Along W, where frequencies are missing, the results are cut to the reconstruction instead.

    Results have the dataset ``reconstruction``, ``(slices, H, W)``, as submissions to fastMRI have, the same XML header and
    the same attributes, with ``max`` and ``norm`` of this reconstruction. Its pixels are magnitudes of the unitary transform,
    as those of ``reconstruction_rss``.

    References:
        Zbontar et al., fastMRI, 2018, https://arxiv.org/abs/1811.08839
    """

    name = "fastMRI"
    extra = "mri"
    modules = ("h5py", "ismrmrd")
    suffixes = (".h5",)
    suffix = ".h5"
    reads = "k-space of one or several coils, slice by slice"
    writes = "reconstruction, with the XML header and the attributes"

    def recognizes(self, head: bytes, path: Path) -> bool:
        return hdf5.is_hdf5(head) and hdf5.has(path, "kspace")

    def open(self, path: Path) -> Scan:
        with hdf5.opened(path) as file:
            kspace = hdf5.dataset(file, "kspace", largest=None)
            shape, kind = kspace.shape, kspace.dtype.kind
            if kind != "c" or len(shape) not in (3, 4) or 0 in shape:
                raise ValueError(
                    f"kspace must be complex, (slices, coils, H, W) or (slices, H, W), got {kspace.dtype} of shape {shape}"
                )
            check_array(shape[1:])
            mask = hdf5.values(hdf5.dataset(file, "mask")) if "mask" in file else None
            document = _text(hdf5.values(hdf5.dataset(file, "ismrmrd_header"))) if "ismrmrd_header" in file else b""
            attributes = {str(name): value for name, value in file.attrs.items()}
        if mask is not None and shape[-1] not in (mask.shape or (0,)):
            raise ValueError(f"mask has shape {mask.shape}, expected ({shape[-1]},), the columns of kspace {shape}")
        height, width, notes = int(shape[-2]), int(shape[-1]), list[str]()
        if document:
            encoding = encoding_of(document)
            height, width = min(height, encoding.shown[0]), min(width, encoding.shown[1])
        if height < shape[-2]:
            notes.append(f"the readout covers {shape[-2] / height:.3g} times the field of view of the reconstruction: cut off")
        if width < shape[-1]:
            notes.append(f"results are the central {width} of {shape[-1]} columns, as the header says")

        def arrays(k: int) -> dict[str, NDArray[Any]]:
            with hdf5.opened(path) as file:
                values = hdf5.values(hdf5.dataset(file, "kspace", largest=None), k)
            values = values[None] if values.ndim == 2 else values
            center = np.array("center")
            found = {"kspace": without_oversampling(values, height, -2), "zero_frequency": center, "origin": center}
            return found if mask is None else found | {"mask": mask}

        header = FastMRIHeader(attributes, document, (height, width))
        return Scan(shape[0], arrays, header=header, notes=tuple(notes))

    def write(self, path: Path, pictures: Iterable[NDArray[np.float32]], of: Stack | Scan, written: Written) -> None:
        header = of.header
        with hdf5.created(path) as file:
            found, largest, energy = None, 0.0, 0.0
            for k, picture in enumerate(pictures):
                shown = cropped(np.asarray(picture, np.float32)[0], header.size)
                if found is None:
                    found = file.create_dataset(RESULTS, (len(written.numbers), *shown.shape), np.float32)
                found[k] = shown
                largest, energy = max(largest, float(shown.max())), energy + float(np.square(shown, dtype=np.float64).sum())
            if header.document:
                file.create_dataset(
                    "ismrmrd_header", data=np.bytes_(anonymized(header.document) if written.anonymize else header.document)
                )
            for name, value in header.attributes.items():
                if name != "patient_id" or not written.anonymize:
                    file.attrs[name] = {"max": largest, "norm": energy**0.5}.get(name, value)
            file.attrs["invdiff"] = f"{written.what}: {written.command}"


def _text(values: NDArray[Any]) -> bytes:
    """Return a scalar dataset of text as bytes."""
    value = values.reshape(-1)[0] if values.size == 1 else None
    if isinstance(value, str):
        return value.encode()
    if isinstance(value, bytes):
        return value
    raise ValueError("ismrmrd_header must be one text")
