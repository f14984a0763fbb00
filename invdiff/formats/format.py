"""What a file of a trade holds, and the interface of its format: one file a format, by content, read by its own library."""

from __future__ import annotations

import importlib.util
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

__all__ = ["Array", "Format", "Grid", "Scan", "Stack", "Written"]

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Stack:
    """Pictures in the units of a file: one, or the slices of a volume, the pages of a stack, the frames of a clip.

    Attributes:
        shape: ``(N, C, H, W)``; N is 1 for a picture.
        picture: Reads picture k, counted from 0, ``(C, H, W)``, float64, in the units of the file and NaN where nothing was
            measured; it reads no more of the file than its library must.
        axis: What N counts: ``"slice"``, ``"page"``, ``"frame"``, ``"plane"``.
        unit: Unit of the values, such as ``"HU"``; empty if the file states none.
        window: Values that its header shows as black and white; ``None`` if it states none.
        calibrated: Whether the window is that of the instrument, to be taken whatever the values are.
        problems: Names of the only problems that take such pictures; empty: any.
        limits: Smallest and largest value that a result in this format can hold; values beyond are clipped.
        header: What :meth:`Format.write` carries through to results; its type is known to the format alone.
        notes: What was taken for granted when the file was read, for the user.
    """

    shape: tuple[int, int, int, int]
    picture: Callable[[int], Array]
    axis: str = "slice"
    unit: str = ""
    window: tuple[float, float] | None = None
    calibrated: bool = False
    problems: tuple[str, ...] = ()
    limits: tuple[float, float] = (-float("inf"), float("inf"))
    header: Any = None
    notes: tuple[str, ...] = ()

    @property
    def count(self) -> int:
        """Number of pictures."""
        return self.shape[0]


@dataclass(frozen=True, eq=False)
class Scan:
    """Measured arrays of a file, from which images are reconstructed: k-space, a sinogram.

    Attributes:
        count: Number of slices, each reconstructed by itself.
        arrays: Reads the arrays of slice k, counted from 0, by the names that the problem reads.
        axis: What ``count`` counts.
        unit: Unit of the pixels of results; empty if none is known.
        header: What :meth:`Format.write` carries through to results.
        notes: What was taken for granted when the file was read, for the user.
    """

    count: int
    arrays: Callable[[int], Mapping[str, NDArray[Any]]]
    axis: str = "slice"
    unit: str = ""
    header: Any = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Grid:
    """Where the pixels of a result lie in those of INPUT.

    The center of pixel ``(i, j)`` of the result is at ``((i + 0.5) / scale - 0.5 - top, (j + 0.5) / scale - 0.5 - left)`` in
    pixels of INPUT.

    Attributes:
        scale: Pixels of the result along a side of one pixel of INPUT: 2 for an enlargement by 2.
        top: Rows of INPUT that the result adds above it.
        left: Columns that it adds on the left.
    """

    scale: float = 1.0
    top: float = 0.0
    left: float = 0.0


@dataclass(frozen=True)
class Written:
    """What a file of results holds.

    Attributes:
        what: ``"mean"``, ``"standard deviation"``, ``"sample 1"``, ...; for descriptions in the header.
        numbers: Pictures of INPUT that it holds, counted from 0, in their order.
        grid: Where its pixels lie in those of INPUT.
        anonymize: Whether what tells who was measured is left out.
        command: What made it, such as ``"invdiff 0.1.0, mmps"``.
        group: A number that all files of one run and kind share, for identifiers of series.
    """

    what: str
    numbers: Sequence[int] = (0,)
    grid: Grid = Grid()
    anonymize: bool = False
    command: str = "invdiff"
    group: str = ""


class Format(ABC):
    """A format of files.

    Attributes:
        name: Name for people: ``"DICOM"``.
        extra: Extra of the package that installs what it needs, as in ``pip install "invdiff[medical]"``; empty if none.
        modules: Modules that it imports.
        suffixes: Suffixes that such files have, for folders; reading goes by the content.
        suffix: Suffix of files that are written; empty if none are.
        reads: What is read, in a few words.
        writes: What is written, in a few words; empty if nothing is.
    """

    name: ClassVar[str]
    extra: ClassVar[str] = ""
    modules: ClassVar[tuple[str, ...]] = ()
    suffixes: ClassVar[tuple[str, ...]] = ()
    suffix: ClassVar[str] = ""
    reads: ClassVar[str] = ""
    writes: ClassVar[str] = ""

    @abstractmethod
    def recognizes(self, head: bytes, path: Path) -> bool:
        """Return whether a file is of this format, without the modules.

        Args:
            head: Its first :data:`~invdiff.io.kinds.HEAD` bytes, or all of it.
            path: The file, for formats whose first bytes do not tell.
        """

    @abstractmethod
    def open(self, path: Path) -> Stack | Scan:
        """Return what a file holds; pixels and arrays are read when they are asked for.

        Raises:
            ValueError: If it is damaged or not supported: the reason, which does not name the file.
        """

    def write(self, path: Path, pictures: Iterable[NDArray[np.float32]], of: Stack | Scan, written: Written) -> None:
        """Write pictures ``(C, H, W)`` in the units of ``of``, one after another, with its header.

        Args:
            path: The file.
            pictures: As many as ``written.numbers``.
            of: What INPUT holds.
            written: What they are.
        """
        raise NotImplementedError(f"{self.name} files are not written")

    def files(self, stem: str, count: int) -> tuple[str, ...]:
        """Return the names of the files that :meth:`write` makes of ``count`` pictures at the path ``stem`` and the suffix."""
        return (f"{stem}{self.suffix}",)

    @property
    def missing(self) -> tuple[str, ...]:
        """The modules that are not installed."""
        return tuple(name for name in self.modules if not _is_installed(name))


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False
