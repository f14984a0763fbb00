"""Networks that take a condition besides the noisy items, and two conditions of one network in a single call."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Self, cast

from torch import nn

from invdiff.priors.network import NetworkPrior
from invdiff.priors.score_model import ScoreModel

__all__ = ["Conditional", "pair_of", "parts_of"]


class Conditional(nn.Module, ABC):
    """A network ``net`` with a condition, called as ``module(x, time)``; or with several, for equal parts of a batch."""

    net: nn.Module

    @abstractmethod
    def joined(self, other: Any) -> Self:
        """Return the network with its conditions and those of ``other``, of the same class, for batches twice as long."""

    @abstractmethod
    def parts(self) -> Sequence[Self]:
        """Return the network with each condition alone."""


def pair_of(one: ScoreModel, other: ScoreModel) -> NetworkPrior | None:
    """Return a prior of the same network with the conditions of both, for batches twice as long; ``None`` for two networks."""
    if not isinstance(one, NetworkPrior) or not isinstance(other, NetworkPrior):
        return None
    first, second = one.net, other.net
    if not isinstance(first, Conditional) or not isinstance(second, type(first)) or first.net is not second.net:
        return None
    return one.with_network(first.joined(second).eval())


def parts_of(pair: NetworkPrior, like: Sequence[ScoreModel]) -> list[NetworkPrior]:
    """Return the priors of the single conditions of a pair, with everything else as in ``like``."""
    net = pair.net
    assert isinstance(net, Conditional)
    return [cast(NetworkPrior, prior).with_network(part.eval()) for prior, part in zip(like, net.parts(), strict=True)]
