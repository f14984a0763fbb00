"""Summary of a run, printed by ``invdiff solve``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from invdiff.io.printable import printable

__all__ = ["summary"]

NUMBERED = re.compile(r"sample-\d+")


def summary(record: Mapping[str, Any]) -> str:
    """Return a summary of the record of a run in a few aligned lines."""
    residual, metrics, options = record["residual"], record["metrics"], record["options"]
    work = f"{record['nfe']:g} network evaluations and {record['nvjp']:g} gradients each"
    lines = {
        "method": f"{record['method']}, {options['steps']} steps ({options['rule']})",
        "samples": f"{len(residual)} in {record['timing']['seconds']['sample']:.1f} s, {work}",
    }
    if record["residual_expected"]:
        ratio = sum(residual) / len(residual) / record["residual_expected"]
        right = "1 or below is right for the rounding of a JPEG" if record["rounded"] else "1 is right"
        lines["misfit"] = f"{ratio:.2f} times its expected value under the noise ({right})"
    if "instrument" in record:
        lines["blur"] = _instrument(record["instrument"])
    if metrics:
        lines["PSNR"] = f"{metrics['psnr_mean']:.2f} dB for the mean, {metrics['psnr_samples']:.2f} dB for single samples"
    if len(residual) > 1 and "spread" in record:
        lines["spread"] = _spread(record["spread"])
    lines |= _pictures(record)
    lines["results"] = record["output"]
    width = max(9, *(len(name) + 1 for name in lines))
    return "\n".join(f"{name:<{width}}{printable(line)}" for name, line in lines.items())


def _pictures(record: Mapping[str, Any]) -> dict[str, str]:
    """Return what the pictures are that one would keep, by name of the file."""
    chosen = record["best"]
    suffix = NUMBERED.sub("", chosen, count=1)
    if len(record["residual"]) == 1:
        return {f"best{suffix}": f"the only sample, and so is mean{suffix}; no std.png: it needs two samples or more"}
    return {
        f"best{suffix}": f"keep this for a sharp picture: one of the plausible ones, the closest to all others ({chosen})",
        f"mean{suffix}": "keep this for the least error on average: the average of the samples, a little smooth",
        "std.png": "bright where the samples differ and the program is guessing",
    }


def _instrument(found: Mapping[str, Any]) -> str:
    """Return the estimated parameters of the instrument in words: "radius 3.1 px, 90 % interval 2.9 to 3.4"."""
    if not found["parameters"]:
        return f"a kernel of {found['size'][1]} x {found['size'][0]} pixels, {found['kernel']}"
    return "; ".join(
        f"{name} {value['estimate']:.3g} {value['unit']}, {found['probability'] * 100:.0f} % interval "
        f"{value['interval'][0]:.3g} to {value['interval'][1]:.3g}"
        for name, value in found["parameters"].items()
    )


def _spread(spread: Mapping[str, Any]) -> str:
    maps = f"low and high are the ends of {spread['level']:.0%} intervals"
    if "file" not in spread:
        return f"{maps}, not calibrated"
    promise = "the guarantee does not hold for this run" if spread["differences"] else "guaranteed on average over images"
    return f"calibrated on {spread['images']} images, std times {spread['std_factor']:.2f}; {maps}; {promise}"
