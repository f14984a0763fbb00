"""What the page shows of one item: its pictures, maps, directions and figures, ready to become JSON."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from invdiff.io.figures import largest_shown
from invdiff.io.images import Picture, read_image
from invdiff.report.contents import Item
from invdiff.report.evaluations import Evaluation
from invdiff.report.inputs import find_read
from invdiff.report.pictures import coded, data_uri, reduced, shown, unit_pixels
from invdiff.report.private import private
from invdiff.report.settings import facts, record_text, tables
from invdiff.report.statistics import directions, numbers, standard_deviation

if TYPE_CHECKING:
    from invdiff.restoration.inputs import Measured

__all__ = ["describe"]

HELD = ("mask", "kernel")  # pictures of the problem itself
MAPS = ("std", "width", "residual", "error")


def describe(item: Item, *, side: int, inputs: Path | None, evaluations: Sequence[Evaluation] = ()) -> dict[str, Any]:
    """Return what the page shows of an item.

    Args:
        item: The results.
        side: Longest side of its pictures in the page.
        inputs: Folder of the INPUTs, or INPUT, if they are not where they were.
        evaluations: Figures of images.

    Raises:
        ValueError: If a picture is damaged, or the results hold none.
        OSError: If a file cannot be read.
    """
    return _Description(item, side, inputs).as_json(evaluations)


class _Description:
    """Parts of the description of an item, with sentences on what is missing."""

    def __init__(self, item: Item, side: int, inputs: Path | None) -> None:
        self.item, self.side, self.inputs = item, side, inputs
        self.missing: list[str] = []
        self.pictures: list[dict[str, Any]] = []
        self.maps: list[dict[str, Any]] = []
        self.figures: list[dict[str, str]] = []
        self.small: dict[int, NDArray[np.uint8]] = {}
        self.size: tuple[int, int] | None = None
        self.channels = 0
        spread = item.record.get("spread")
        self.spread: dict[str, Any] = spread if isinstance(spread, dict) else {}
        self.source = find_read(item, "input", inputs)

    def as_json(self, evaluations: Sequence[Evaluation]) -> dict[str, Any]:
        item = self.item
        mean = read_image(item.pictures["mean"]) if "mean" in item.pictures else None
        deviation = self._samples()
        if mean is None and self.size is None:
            raise ValueError(f"{item.folder}: holds neither samples nor a mean, so there is nothing to show.")
        if mean is not None:
            self.size, self.channels = _size(mean.pixels), len(mean.pixels)
        measured = self._measured()
        truth = self._truth(measured)
        self._measurement(measured)
        if truth is not None:
            self._picture("truth", "Truth", Picture(truth))
        if mean is not None:
            self._picture("mean", "Mean of the samples", mean)
        else:
            self.missing.append("The mean was not kept.")
        for number, pixels in self.small.items():
            best = ", closest to all others" if number == item.best and len(self.small) > 1 else ""
            self._pixels(f"sample-{number}", f"Sample {number}{best}", pixels, self.size or pixels.shape[:2], sample=number)
        for role in HELD:
            if role in item.pictures:
                self._picture(role, role.capitalize(), read_image(item.pictures[role]))
        self._std(deviation)
        self._width()
        self._residual(measured)
        self._error(mean, truth)
        height, width = self.size or (0, 0)
        own = [table for evaluation in evaluations if (table := evaluation.table_of(*self._names())) is not None]
        return {
            "name": item.name,
            "size": [width, height],
            "pictures": self.pictures,
            "maps": sorted(self.maps, key=lambda shown: MAPS.index(shown["id"])),
            "figures": self.figures,
            "directions": self._directions(),
            "notes": [*map(_text, private(item.record["notes"])), *self._changes()],
            "missing": private(self.missing),
            "facts": facts(item),
            "tables": [*tables(item), *own],
            "record": record_text(item),
            "problem": str(item.arguments.get("problem")),
            "summary": self._summary(),
            "gray": self.channels == 1,
        }

    def _names(self) -> tuple[str, ...]:
        """Return the names by which an evaluation may know the item."""
        alone = self.item.folder.name if "/" not in self.item.name else ""
        names = [name for name in (self.item.input_name, self.item.name, alone) if name]
        return tuple(dict.fromkeys([*names, *(name.removesuffix(PurePosixPath(name).suffix) for name in names)]))

    def _summary(self) -> dict[str, str]:
        """Return a few figures for the table of all items."""
        residual, expected, metrics = (self.item.record.get(name) for name in ("residual", "residual_expected", "metrics"))
        found = {}
        deviation = next((shown for shown in self.maps if shown["id"] == "std"), None)
        if deviation is not None:
            found["mean std"] = f"{deviation['numbers']['mean']:g}"
        if (
            isinstance(expected, int | float)
            and expected > 0
            and residual
            and all(isinstance(r, int | float) for r in residual)
        ):
            found["misfit / expected"] = f"{sum(residual) / len(residual) / expected:.3f}"
        if isinstance(metrics, dict) and isinstance(metrics.get("psnr_mean"), int | float):
            found["PSNR of mean [dB]"] = f"{metrics['psnr_mean']:.2f}"
        return found

    def _changes(self) -> list[str]:
        changed = self.item.changed()
        return [f"Changed after the run that wrote it: {', '.join(changed)}."] if changed else []

    def _picture(self, key: str, label: str, picture: Picture) -> None:
        self._pixels(key, label, shown(picture, self.side), _size(picture.pixels))

    def _pixels(
        self, key: str, label: str, pixels: NDArray[np.uint8], size: Sequence[int], *, sample: int | None = None
    ) -> None:
        height, width = size
        entry = {"id": key, "label": label, "source": data_uri(pixels), "size": [width, height]}
        self.pictures.append(entry if sample is None else {**entry, "sample": sample, "best": sample == self.item.best})

    def _samples(self) -> NDArray[np.float32] | None:
        """Read the samples one after another; return the standard deviation on the 0..1 scale."""

        def pixels() -> Iterator[NDArray[np.float64]]:
            for number, path in self.item.samples.items():
                picture = read_image(path)
                self.small[number], self.size = shown(picture, self.side), _size(picture.pixels)
                self.channels = len(picture.pixels)
                yield picture.pixels

        if len(self.item.samples) < 2:
            for _ in pixels():
                pass
            kept = "Only one sample was drawn" if self.small else "The samples were not kept"
            needs = "it takes two or more to show their differences, their principal directions, and how a region varies"
            self.missing.append(f"{kept}: {needs}.")
            return None
        return standard_deviation(pixels()) * np.float32(0.5)

    def _measured(self) -> Measured | str:
        """Return the measurement, made again from the record, or why it cannot be."""
        from invdiff.report.again import measured_again

        try:
            return measured_again(self.item, self.source, self.inputs)
        except (ValueError, TypeError, KeyError, OSError, RuntimeError) as error:
            return " ".join(str(error).split()).rstrip(".")

    def _truth(self, measured: Measured | str) -> NDArray[np.float64] | None:
        from invdiff.report.again import truth_of

        truth = None if isinstance(measured, str) else truth_of(measured)
        if truth is None and self.item.simulated:
            self.missing.append(f"The truth is not shown: {measured}.")
        return truth

    def _measurement(self, measured: Measured | str) -> None:
        """Add the picture of the measurement: as it was written, as INPUT, or as comparison.png shows it."""
        from invdiff.report.again import picture_measured

        picture = None
        if "measurement" in self.item.pictures:
            picture = read_image(self.item.pictures["measurement"])
        elif self.source is not None and not self.item.simulated:
            picture = _readable(self.source)
        if not isinstance(measured, str) and (picture is None or _size(picture.pixels) != self.size):
            again = picture_measured(measured)
            if picture is None or _size(again) == self.size:
                picture = Picture(again)
        if picture is not None:
            self._picture("measurement", "Measurement", picture)
        elif self.item.simulated:
            self.missing.append("The measurement is not shown: it is no picture, and could not be made again.")
        else:
            self.missing.append(
                "The measurement is not shown: INPUT was not found as the run read it (--inputs gives its folder)."
            )

    def _map(self, key: str, label: str, values: NDArray[Any], *, caption: str, signed: bool = False) -> None:
        limit = largest_shown(np.abs(values).astype(np.float64))
        code = coded(reduced(values, self.side), -limit if signed else 0.0, limit)
        self.maps.append({
            "id": key,
            "label": label,
            **asdict(code),
            "colors": "diverging" if signed else "heat",
            "above": bool(np.abs(values).max() > limit),
            "caption": caption,
            "numbers": numbers(values, signed=signed),
        })  # fmt: skip

    def _std(self, deviation: NDArray[np.float32] | None) -> None:
        factor = self.spread.get("std_factor")
        factor = float(factor) if isinstance(factor, int | float) else 1.0
        if deviation is not None:
            calibrated = f", times {factor:g} by calibration" if factor != 1 else ""
            count = len(self.small)
            caption = f"Standard deviation of the {count} samples{calibrated}. Bright: they differ, the program is guessing."
            self._map("std", "Standard deviation", factor * deviation, caption=caption)
        elif "std" in self.item.pictures:
            path = self.item.pictures["std"]
            self.figures.append({
                "label": "Standard deviation",
                "source": data_uri(shown(read_image(path), self.side)),
                "caption": f"{path.name}, as the run drew it: without the samples it cannot be drawn again.",
            })  # fmt: skip

    def _width(self) -> None:
        if not {"low", "high"} <= self.item.pictures.keys():
            return
        low, high = (read_image(self.item.pictures[name]).pixels for name in ("low", "high"))
        if low.shape != high.shape:
            raise ValueError(f"{self.item.folder}: low and high differ in size, expected the ends of one interval.")
        level = self.spread.get("level")
        share = f"{100 * level:g} % " if isinstance(level, int | float) else ""
        caption = (
            f"Upper minus lower end of the {share}interval of each pixel, as low and high hold it, cut at black and white."
        )
        self._map("width", "Interval width", np.abs(high - low).mean(0) / 2, caption=caption)

    def _residual(self, measured: Measured | str) -> None:
        from invdiff.report.again import residual_of

        try:
            if isinstance(measured, str):
                raise ValueError(measured)
            residual = residual_of(self.item, measured)
        except (ValueError, OSError, RuntimeError) as error:
            self.missing.append(f"No residual is shown: {' '.join(str(error).split()).rstrip('.')}.")
            return
        noise = f"noise has {residual.noise:.3g}" if residual.noise else "the data are taken as exact"
        caption = (
            "Measurement minus what the mean predicts of it. "
            f"Root mean square {residual.root_mean_square:.3g}; {noise}. Structure here is what the mean does not explain."
        )
        self._map("residual", "Residual", residual.values, caption=caption, signed=True)

    def _error(self, mean: Picture | None, truth: NDArray[np.float64] | None) -> None:
        if mean is None or truth is None or mean.pixels.shape != truth.shape:
            return
        values = (mean.pixels - truth) / 2
        caption = f"Mean minus truth. Root mean square {float((values**2).mean()) ** 0.5:.3g}."
        self._map("error", "Error of the mean", values.mean(0), caption=caption, signed=True)

    def _directions(self) -> list[dict[str, Any]]:
        small = [unit_pixels(pixels) for pixels in self.small.values()]
        found = directions(np.stack(small)) if len(small) > 1 else []
        if len(small) > 1 and not found:
            self.missing.append("The samples are equal: there is no direction in which they differ.")
        parts = [(float(np.abs(direction.step).max()), direction) for direction in found]
        return [
            {**asdict(coded(direction.step, -largest, largest)), "share": round(direction.share, 4)}
            for largest, direction in parts
        ]


def _size(pixels: NDArray[Any]) -> tuple[int, int]:
    return pixels.shape[-2], pixels.shape[-1]


def _readable(path: Path) -> Picture | None:
    """Return the picture in a file, or ``None`` if it holds other data."""
    try:
        return read_image(path)
    except (ValueError, OSError):
        return None


def _text(note: Any) -> str:
    return note if isinstance(note, str) else str(note)
