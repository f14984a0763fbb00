"""The model card: a Markdown file beside the weights that documents data, network and training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tabulate import tabulate

from invdiff.io.images import atomic_write
from invdiff.training.data import Images
from invdiff.training.outputs import signed
from invdiff.training.settings import Settings

__all__ = ["write_card"]

KINDS = (
    "pixels (masks, mosaics)",
    "frequencies (circular blur)",
    "singular vectors of a decimation",
)


def write_card(
    path: Path,
    facts: Mapping[str, Any],
    images: Images,
    *,
    sources: Sequence[str],
    skipped: int,
    licenses: Sequence[str],
    command: str,
) -> None:
    """Write the card as Markdown, with a digest in the last line by which it is told from one that was edited.

    Args:
        path: The ``.md`` file.
        facts: Facts about the training, as returned by :func:`invdiff.training.train`.
        images: All images, including the held-out ones.
        sources: Folders and archives that the images come from.
        skipped: Number of files that could not be used.
        licenses: Known licenses of the images.
        command: Command line that started the training.
    """
    settings, history = facts["settings"], facts["history"]
    mean, std = images.moments()
    sides = (
        f"{int(images.widths.min())} to {int(images.widths.max())} x {int(images.heights.min())} to {int(images.heights.max())}"
    )
    columns = [*history[-1]["psnr"], *history[-1].get("conditional", {})]
    rows = [
        [
            f"{entry['step']:,}",
            "" if entry["loss"] is None else f"{entry['loss']:.4f}",
            *entry["psnr"].values(),
            *entry.get("conditional", {}).values(),
        ]
        for entry in history
    ]
    architecture: list[list[Any]] = [
        ["Architecture", f"residual U-Net, widths {_list(settings['widths'])}, blocks {_list(settings['blocks'])}"],
        ["Weights", f"{facts['parameters']:,}, half precision"],
        ["Channels", images.channels],
        ["Domain", "images spanning [-1, 1], of any height and width"],
        ["Noise levels", f"0.002 to 80, EDM preconditioning with data standard deviation {settings['sigma_data']:g}"],
    ]
    if settings["maps"]:
        kinds = f"white, or varying between {', between '.join(KINDS)}"
        architecture.append(["Kinds of noise", f"{kinds}: {settings['maps']} noise-map features"])
    data: list[list[Any]] = [
        ["Images", f"{facts['photographs']:,}, and {len(images) - facts['photographs']:,} held out; {skipped:,} files skipped"],
        ["Sources", ", ".join(sources)],
        ["Sizes", f"{sides} pixels"],
        ["Pixels", f"mean {mean:.3f}, standard deviation {std:.3f} on the [-1, 1] scale"],
        ["License of the images", "; ".join(licenses) or "not given"],
    ]
    training: list[list[Any]] = [
        ["Steps", f"{facts['steps']:,} of {settings['batch']} crops of {settings['crop']} pixels{_late(settings)}"],
        ["Images seen", f"{facts['images_seen']:,} crops"],
        ["Started from", settings["init"] or "random weights"],
        ["Precision", "bfloat16 network, float32 weights" if settings["bf16"] else "float32"],
        ["Hardware", f"{facts['hardware']}, {facts['hours']:.2f} hours"],
        ["Software", facts["software"]],
    ]
    text = "\n\n".join(
        [
            f"A diffusion prior of {images.channels}-channel images.",
            f"# {path.stem}",
            _table(architecture),
            "## Data",
            _table(data),
            "## Training",
            f"```sh\n{command}\n```",
            _table(training),
            "Denoising PSNR in dB on the centers of the held-out images, by noise level on the 0..255 scale"
            f"{'; then the PSNR of E[x0 | y] from one network call' if settings['maps'] else ''}:",
            tabulate(rows, ["step", "loss", *columns], tablefmt="github", floatfmt=".2f"),
        ]
    )
    with atomic_write(path) as part:
        part.write_text(signed(text), encoding="utf-8", newline="\n")


def _late(settings: Mapping[str, Any]) -> str:
    """Return the note about the larger crops of the last third of the steps, or an empty string."""
    if settings["late_crop"] is None:
        return ""
    _, late = Settings(**settings).stages
    return f"; in the last third {late.batch} crops of {late.crop} pixels"


def _list(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers))


def _table(rows: Sequence[Sequence[Any]]) -> str:
    return tabulate(rows, headers=["", ""], tablefmt="github", disable_numparse=True)
