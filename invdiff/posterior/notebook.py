"""The HTML representation of posterior samples in notebooks."""

from __future__ import annotations

import base64
import html
import io
from typing import TYPE_CHECKING

import torch
from PIL import Image
from torch import Tensor

if TYPE_CHECKING:
    from invdiff.posterior.result import Posterior

__all__ = ["posterior_html"]

LARGEST = 4  # maximum number of items shown
GAP = 4  # pixels between mean and standard deviation
SMALLEST_SIDE = 128  # Smaller images are enlarged.


def posterior_html(post: Posterior) -> str:
    """Return the summary, and for images of 1 or 3 channels the mean and the standard deviation side by side, as PNG."""
    text = f"<p><code>{html.escape(repr(post))}</code></p>"
    if post.samples.ndim != 5 or post.samples.shape[2] not in (1, 3):
        return text
    pictures = []
    for mean, std in zip(post.mean[:LARGEST], post.std[:LARGEST], strict=True):
        parts, caption = [(mean + 1) / 2], "mean"
        if bool(std.isfinite().all()):
            largest = float(std.max())
            parts.append(std / (largest or 1.0))
            caption = f"mean; standard deviation, white is {largest:.3g}"
        alt = html.escape(caption, quote=True)
        image = f'<img alt="{alt}" src="data:image/png;base64,{_png(parts)}">'
        pictures.append(f"<figure>{image}<figcaption>{alt}</figcaption></figure>")
    return text + "".join(pictures)


def _png(parts: list[Tensor]) -> str:
    """Return images ``(C, H, W)`` in [0, 1] side by side as a PNG in base64."""
    gap = torch.ones_like(parts[0][..., :GAP])
    joined = torch.cat([part for image in parts for part in (image, gap)][:-1], -1)
    pixels = (255 * joined.detach().cpu().float().clamp(0, 1)).round().to(torch.uint8)
    array = pixels[0].numpy() if len(pixels) == 1 else pixels.permute(1, 2, 0).numpy()
    picture = Image.fromarray(array)
    scale = max(1, SMALLEST_SIDE // max(1, min(parts[0].shape[-2:])))
    picture = picture.resize((picture.width * scale, picture.height * scale), Image.Resampling.NEAREST)
    file = io.BytesIO()
    picture.save(file, format="PNG")
    return base64.b64encode(file.getvalue()).decode("ascii")
