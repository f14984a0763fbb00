"""What a family of pipelines finds in a folder: a network, how it is called, and its conditions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from invdiff.priors.checkpoints.diffusers_scheduler import Training
from invdiff.priors.pipelines.autoencoder import Autoencoder
from invdiff.priors.pipelines.prompted import Call

__all__ = ["Found"]


@dataclass(frozen=True)
class Found:
    """Attributes:
    net: The network.
    call: Evaluates it, as in :class:`~invdiff.priors.pipelines.prompted.Prompted`.
    condition: Of the conditional prior, one row each.
    without: Of the unconditional one, or of what is to be avoided; ``None``: guidance is not possible.
    training: Schedule and output of the network.
    event_shape: Of one item of the network, a code or an image.
    autoencoder: Of codes; ``None``: the network denoises images.
    windows: Whether larger images may be denoised through windows.
    facts: Entries for reports.
    notes: Messages for the user.
    """

    net: nn.Module
    call: Call
    condition: Mapping[str, Tensor]
    without: Mapping[str, Tensor] | None
    training: Training
    event_shape: tuple[int, int, int]
    autoencoder: Autoencoder | None = None
    windows: bool = True
    facts: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
