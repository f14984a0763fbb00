"""The record of a run in words: its settings, and its tables."""

from __future__ import annotations

import json
import re
from typing import Any

from invdiff.problems import PROBLEMS
from invdiff.report.contents import Item
from invdiff.report.private import private

__all__ = ["facts", "record_text", "tables"]

DIGITS = 4
DIGEST = re.compile(r"[0-9a-f]{64}")
SHA = 12  # characters of a digest that are shown
LEFT_OUT = ("outputs", "output", "notes")  # of the record as text
NAMES = {"nfe": "network evaluations per sample", "nvjp": "gradients per sample"}
RUN = (
    "seed",
    "first_sample",
    "chunk",
    "device",
    "precision",
    "tile",
    "overlap",
    "windows",
    "quality",
    "preset",
    "intervals",
    "calibration",
)
PRIOR = ("name", "file", "sha256", "parameters", "predicts", "schedule", "images_seen", "license")


def record_text(item: Item) -> str:
    """Return the record of a run as JSON, without its lists of files and of numbers of the training."""
    record = {name: value for name, value in item.record.items() if name not in LEFT_OUT}
    prior = {name: value for name, value in item.record["prior"].items() if not isinstance(value, list | dict)}
    return json.dumps(private({**record, "prior": prior}), indent=1, ensure_ascii=False)


def facts(item: Item) -> list[dict[str, Any]]:
    """Return the settings of a run in groups of pairs of name and value."""
    record, arguments = private(item.record), private(item.arguments)
    problem = str(arguments.get("problem"))
    own = [option.name for option in PROBLEMS.find(problem).options] if problem in PROBLEMS.lines else []
    groups = {
        "Problem": {
            "problem": f"{problem}: {PROBLEMS.lines[problem][1]}" if problem in PROBLEMS.lines else problem,
            "INPUT": arguments.get("input") or "a bundled picture",
            "simulated": "yes: INPUT is the truth" if item.simulated else "no",
            **{name.replace("_", " "): arguments.get(name) for name in own},
            "noise": arguments.get("noise"),
            "noise level (0..1 scale)": record.get("noise_level"),
        },
        "Sampler": {
            "method": record.get("method"),
            "samples": arguments.get("samples"),
            **record["options"],
            **{name.replace("_", " "): arguments.get(name) for name in RUN},
        },
        "Prior": {name.replace("_", " "): _short(record["prior"].get(name)) for name in PRIOR},
        "Cost": {
            **{words: record.get(name) for name, words in NAMES.items()},
            "seconds": record.get("seconds"),
        },
        "Versions": dict(record.get("versions") or {}),
        "Files read": {
            name: f"{file.get('path')}, sha256 {_short(file.get('sha256'))}"
            for name, file in record["files"].items()
            if isinstance(file, dict)
        },
    }
    pairs = {
        title: [[name, _text(value)] for name, value in group.items() if _is_said(value)] for title, group in groups.items()
    }
    return [{"title": title, "pairs": group} for title, group in pairs.items() if group]


def tables(item: Item) -> list[dict[str, Any]]:
    """Return what is measured of a run as tables: a title, the heads of the columns, rows of text, and a note."""
    record, found = item.record, list[dict[str, Any]]()
    metrics = record.get("metrics")
    if isinstance(metrics, dict) and metrics:
        words = {"psnr_mean": "PSNR of the mean [dB]", "psnr_samples": "PSNR of single samples, on average [dB]"}
        rows = [[words.get(str(name), str(name)), _text(value)] for name, value in metrics.items()]
        found.append(_table("Against the truth", ["figure", "value"], rows, ""))
    instrument = record.get("instrument")
    if isinstance(instrument, dict) and isinstance(instrument.get("parameters"), dict) and instrument["parameters"]:
        rows = [
            [
                str(name),
                f"{_text(value.get('estimate'))} {value.get('unit')}",
                " to ".join(map(_text, value.get("interval") or [])),
            ]
            for name, value in instrument["parameters"].items()
        ]
        share = f"{100 * float(instrument.get('probability') or 0):.0f} % interval"
        found.append(_table("Estimated blur", ["parameter", "estimate", share], rows, ""))
    found += _misfit(item)
    return found


def _misfit(item: Item) -> list[dict[str, Any]]:
    residual, expected = item.record["residual"], item.record.get("residual_expected")
    if not all(isinstance(value, int | float) for value in residual) or not any(residual):
        return []
    first = item.arguments.get("first_sample") or 0
    if isinstance(expected, int | float) and expected > 0:
        heads = ["sample", "misfit", "misfit / expected"]
        rows = [[str(first + k + 1), _text(value), f"{value / expected:.3f}"] for k, value in enumerate(residual)]
        note = f"Sum of squares of measurement minus prediction, divided by the noise variance; {expected:g} is expected."
        if item.record.get("rounded"):
            note += " Of the rounding of a JPEG file, a ratio of 1 or below is right."
        return [_table("Misfit of the samples", heads, rows, note)]
    rows = [[str(first + k + 1), _text(value)] for k, value in enumerate(residual)]
    return [_table("Misfit of the samples", ["sample", "misfit"], rows, "Sum of squares of measurement minus prediction.")]


def _table(title: str, heads: list[str], rows: list[list[str]], note: str) -> dict[str, Any]:
    return {"title": title, "heads": heads, "rows": rows, "note": note}


def _is_said(value: Any) -> bool:
    return value is not None and value not in ("", [], {}) and not isinstance(value, dict)


def _short(value: Any) -> Any:
    """Return the beginning of a digest; other values as they are."""
    return f"{value[:SHA]}..." if isinstance(value, str) and DIGEST.fullmatch(value) else value


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.0f}" if 10**DIGITS <= abs(value) < 1e9 else f"{value:.{DIGITS}g}"
    if isinstance(value, list):
        return ", ".join(map(_text, value))
    return str(value)
