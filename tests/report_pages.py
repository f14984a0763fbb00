"""What tests of reports share: the sizes and names of their pictures, and the data of a page read back."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

__all__ = ["HEIGHT", "HOSTILE", "WIDTH", "data_of", "decoded", "picture"]

HEIGHT, WIDTH = 20, 32
HOSTILE = "<img src=x onerror=alert(1)>.png"


def data_of(page: Path) -> dict[str, Any]:
    """Return the data in a page."""
    text = page.read_text(encoding="utf-8")
    start = text.index('<script type="application/json" id="data">')
    data: dict[str, Any] = json.loads(text[text.index(">", start) + 1 : text.index("</script>", start)])
    return data


def decoded(source: str) -> NDArray[np.uint8]:
    """Return the pixels of a data URI, ``(H, W, 3)``."""
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2]))).convert("RGB"))


def picture(item: dict[str, Any], key: str) -> NDArray[np.float64]:
    """Return a picture of an item on the 0..1 scale."""
    return decoded(next(one["source"] for one in item["pictures"] if one["id"] == key)) / 255
