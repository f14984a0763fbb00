"""Options of a pipeline, as Python values or as text from the command line."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from invdiff.io.images import read_image
from invdiff.priors.checkpoints import diffusers_scheduler

__all__ = ["GUIDED", "SCHEDULER", "TEXT", "UNIVERSAL", "Options"]

MOST_PIXELS = 8192  # longest side for which a network is evaluated at once
SCHEDULER = diffusers_scheduler.OPTIONS
UNIVERSAL: Mapping[str, str] = {
    "image_size": "sides of the images for which the network is evaluated, such as 512 or 512x768: others through windows",
    **SCHEDULER,
}
GUIDED: Mapping[str, str] = {
    "guidance_scale": "scale of classifier-free guidance: 1 is the conditional prior, more follows the condition more closely",
    "guidance_interval": "noise-to-signal ratios between which guidance acts, such as 0.2,3",
    "guidance_rescale": "share, from 0 to 1, of an estimate rescaled to the contrast of the conditional one",
}
TEXT: Mapping[str, str] = {
    "prompt": "text that describes the image; may be empty",
    "negative_prompt": "text that describes what the image is not, for guidance; default: empty, or as the pipeline has it",
    **GUIDED,
}


class Options:
    """The values that were given.

    Args:
        given: Values by name; ``None`` is not given.
        known: Options of the pipeline, with their descriptions.
        family: Name of the pipeline, for errors.

    Raises:
        ValueError: If one is unknown.
    """

    def __init__(self, given: Mapping[str, Any], known: Mapping[str, str], family: str) -> None:
        self.given = {name: value for name, value in given.items() if value is not None}
        for name in self.given:
            if name not in known:
                raise ValueError(f"{family} has no option {name!r:.80}, expected some of {', '.join(known)}.")
        acting = next((name for name in ("guidance_interval", "guidance_rescale") if name in self.given), None)
        if acting is not None and "guidance_scale" not in self.given:
            raise ValueError(f"{acting} is an option of guidance: give a guidance_scale too, such as 2.")

    @property
    def scheduler(self) -> dict[str, Any]:
        """Those of the scheduler."""
        return {name: value for name, value in self.given.items() if name in SCHEDULER}

    @property
    def prompt(self) -> str:
        """The prompt.

        Raises:
            ValueError: If there is none.
        """
        if not isinstance(self.given.get("prompt"), str):
            raise ValueError(
                'the prior is conditioned on a text. Give a prompt, such as "a photograph of a cat", or an empty one: '
                'prompt="..." in Python, --prompt at the command line.'
            )
        return str(self.given["prompt"])

    @property
    def negative(self) -> str | None:
        """The negative prompt, if there is one."""
        if "negative_prompt" not in self.given:
            return None
        if not isinstance(self.given["negative_prompt"], str):
            raise ValueError(f"negative_prompt={self.given['negative_prompt']!r:.80}: expected a text.")
        if "guidance_scale" not in self.given:
            raise ValueError("negative_prompt acts through guidance: give a guidance_scale too, such as 5.")
        return str(self.given["negative_prompt"])

    def number(self, name: str, default: float, low: float, high: float) -> float:
        """Return a number in a range."""
        value = self.given.get(name, default)
        try:
            number = float(value)
        except (TypeError, ValueError):
            number = math.nan
        if isinstance(value, bool) or not low <= number <= high:
            raise ValueError(f"{name}={value!r:.80}: expected a number from {low:g} to {high:g}.")
        return number

    def whole(self, name: str, default: int, low: int, high: int) -> int:
        """Return a whole number in a range."""
        number = self.number(name, default, low, high)
        if number != int(number):
            raise ValueError(f"{name}={self.given[name]!r:.80}: expected a whole number from {low} to {high}.")
        return int(number)

    def sides(self, stored: int | tuple[int, int] | None, factor: int, unit: int) -> tuple[int, int]:
        """Return the height and width of images in pixels.

        Args:
            stored: Sides of the items of the network, if they are known.
            factor: Pixels per number of an item along each side.
            unit: What the sides must be multiples of, in pixels.
        """
        default = None if stored is None else [factor * side for side in ([stored] if isinstance(stored, int) else stored)]
        value = self.given.get("image_size", default)
        if value is None:
            raise ValueError(
                "the folder does not say for which size its network was trained. Give it as image_size=..., such as 512."
            )
        texts = value.lower().split("x") if isinstance(value, str) else value if isinstance(value, list | tuple) else [value]
        try:
            sides = [int(text) for text in texts]
        except (TypeError, ValueError):
            sides = []
        if len(sides) not in (1, 2) or any(not unit <= side <= MOST_PIXELS or side % unit for side in sides):
            raise ValueError(
                f"image_size={value!r:.80}: expected a multiple of {unit} up to {MOST_PIXELS}, or two for height x width."
            )
        return sides[0], sides[-1]

    def tensor(self, name: str) -> Tensor | None:
        """Return a tensor, or the picture in a file as a tensor ``(C, H, W)`` that spans [-1, 1]; ``None``: nothing was given.

        Raises:
            ValueError: If something else was given.
        """
        value = self.given.get(name)
        if isinstance(value, str | os.PathLike):
            return torch.from_numpy(read_image(value).pixels).float()
        if value is not None and not isinstance(value, Tensor):
            raise ValueError(f"{name}: expected a tensor or the path of a picture, got {type(value).__name__}.")
        return value
