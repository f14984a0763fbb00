"""Restoration of image files: from a file to operator and measurement, and from samples to pictures and records.

Shared by the command line, notebooks and programs. In one call, or step by step::

    result = invdiff.restore("photo.png", problem="inpaint", mask="m.png")
    result.save("filled")

    measured = restoration.read("photo.png", "inpaint", mask="m.png")
    posterior = PosteriorSampler(score, measured.op).run(measured.y, num_samples=4)
    pictures = measured.finish(posterior.samples[:, 0])
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from invdiff.restoration.inputs import Measured, read
    from invdiff.restoration.job import Job, prepare, restore
    from invdiff.restoration.pictures import write
    from invdiff.restoration.proposal import Proposal, propose_mask
    from invdiff.restoration.result import Restoration
    from invdiff.restoration.volume import restore_volume

__all__ = [
    "Job",
    "Measured",
    "Proposal",
    "Restoration",
    "prepare",
    "propose_mask",
    "read",
    "restore",
    "restore_volume",
    "write",
]

# Names are loaded on first use, so that the command line answers --help without importing torch.
_PLACES = {
    **dict.fromkeys(("Measured", "read"), "inputs"),
    **dict.fromkeys(("Job", "prepare", "restore"), "job"),
    **dict.fromkeys(("Proposal", "propose_mask"), "proposal"),
    "Restoration": "result",
    "restore_volume": "volume",
    "write": "pictures",
}


def __getattr__(name: str) -> Any:
    if name in _PLACES:
        return getattr(importlib.import_module(f"invdiff.restoration.{_PLACES[name]}"), name)
    raise AttributeError(f"module 'invdiff.restoration' has no attribute {name!r}")
