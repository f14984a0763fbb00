"""The model card: what a prior was made of, written beside its weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tabulate import tabulate

from invdiff.images import atomic_write
from invdiff.training.data import Images

__all__ = ["write_card"]


def write_card(
    path: Path,
    facts: Mapping[str, Any],
    images: Images,
    *,
    sources: Sequence[str],
    skipped: int,
    licences: Sequence[str],
    command: str,
) -> None:
    """Write the card as Markdown.

    Args:
        path: The ``.md`` file.
        facts: What :func:`invdiff.training.train` returns.
        images: The images, with those held out.
        sources: Where they came from.
        skipped: Files that could not be used.
        licences: What is known of the rights in them.
        command: How the training was started.
    """
    settings, history = facts["settings"], facts["history"]
    mean, std = images.moments()
    sides = (
        f"{int(images.widths.min())} to {int(images.widths.max())} x {int(images.heights.min())} to {int(images.heights.max())}"
    )
    levels = list(history[-1]["psnr"])
    rows = [
        [f"{entry['step']:,}", "" if entry["loss"] is None else f"{entry['loss']:.4f}", *entry["psnr"].values()]
        for entry in history
    ]
    architecture: list[list[Any]] = [
        ["Architecture", f"residual U-Net, widths {_list(settings['widths'])}, blocks {_list(settings['blocks'])}"],
        ["Weights", f"{facts['parameters']:,}, half precision"],
        ["Channels", images.channels],
        ["Domain", "images spanning [-1, 1], of any height and width"],
        ["Noise levels", f"0.002 to 80 by the preconditioning of EDM, data standard deviation {settings['sigma_data']:g}"],
    ]
    data: list[list[Any]] = [
        ["Images", f"{facts['photographs']:,}, and {len(images) - facts['photographs']:,} held out; {skipped:,} files skipped"],
        ["Sources", ", ".join(sources)],
        ["Sizes", f"{sides} pixels"],
        ["Pixels", f"mean {mean:.3f}, standard deviation {std:.3f} on the [-1, 1] scale"],
        ["Licence of the images", "; ".join(licences) or "not given"],
    ]
    training: list[list[Any]] = [
        ["Steps", f"{facts['steps']:,} of {settings['batch']} crops of {settings['crop']} pixels"],
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
            "Denoising PSNR in dB on the centres of the held-out images, noise on the 0..255 scale:",
            tabulate(rows, ["step", "loss", *levels], tablefmt="github", floatfmt=".2f"),
        ]
    )
    with atomic_write(path) as part:
        part.write_text(text + "\n", encoding="utf-8")


def _list(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers))


def _table(rows: Sequence[Sequence[Any]]) -> str:
    return tabulate(rows, headers=["", ""], tablefmt="github", disable_numparse=True)
