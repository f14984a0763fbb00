"""Selection of the device for ``--device``."""

from __future__ import annotations

import torch

__all__ = ["pick_device"]


def pick_device(name: str) -> torch.device:
    """Return the device of a name after a test allocation; ``auto`` selects a GPU if there is one.

    Raises:
        ValueError: If the device cannot be used.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"--device {name} cannot be used here ({reason}): expected auto, cpu, cuda, cuda:1, ...") from error
    return device
