"""A network that is evaluated in squares has the output and the gradient of the whole image."""

from __future__ import annotations

import pytest
import torch
from helpers import randn

from invdiff import load_prior
from invdiff.operators import Mask
from invdiff.priors import NetworkPrior, UNet, from_network
from invdiff.priors.networks.parts import parts_of
from invdiff.schedules import EDM


def network(*, widths: tuple[int, ...] = (4, 4, 8), blocks: tuple[int, ...] = (1, 2, 1)) -> UNet:
    net = UNet(widths=widths, blocks=blocks, embedding=8, maps=4)
    g = torch.Generator().manual_seed(0)
    for weight in net.parameters():
        weight.data = 0.3 * torch.randn(weight.shape, generator=g)
    return net.double()


def prior(net: UNet) -> NetworkPrior:
    found = from_network(net, EDM(), predicts="edm", event_shape=(3, None, None))
    found.noise_kinds = frozenset({"pixel"})
    return found


@pytest.mark.parametrize(
    ("size", "side", "margin", "stride"), [(300, 100, 20, 4), (301, 96, 13, 8), (64, 64, 20, 4), (1, 64, 3, 2)]
)
def test_parts_cover_the_side_once(size: int, side: int, margin: int, stride: int) -> None:
    covered = []
    for part in parts_of(size, side, margin=margin, stride=stride):
        read, kept = range(size)[part.read], range(size)[part.read][part.kept]
        assert len(read) <= side
        assert read[0] % stride == kept[0] % stride == 0
        assert read[0] == 0 or kept[0] - read[0] >= margin
        assert read[-1] == size - 1 or read[-1] - kept[-1] >= margin
        covered += kept
    assert covered == [*range(size)]


@pytest.mark.parametrize("blocks", [(1, 1), (1, 2, 1), (2, 1, 1)])
def test_the_margin_is_what_the_network_looks(blocks: tuple[int, ...]) -> None:
    net, side = network(widths=(4, 4, 4)[: len(blocks)], blocks=blocks), 160
    margin, stride = net.margin, 2 ** (len(blocks) - 1)
    x = randn(1, 3, side, side).requires_grad_()
    reached = []
    for row in range(80, 80 + stride):  # The output of a whole stride depends on what lies within the margin of the stride.
        (grad,) = torch.autograd.grad(net(x, torch.zeros(1).double())[..., row, row].sum(), x)
        reached += grad[0].abs().sum((0, 2)).nonzero().flatten().tolist()
    first, last = 80 - min(reached), max(reached) - (80 + stride - 1)
    assert margin - stride < max(first, last) <= margin


def test_output_and_gradient_of_the_whole_image() -> None:
    whole = prior(network())
    parts = whole.in_parts(whole.smallest_part or 0)
    assert (whole.side, parts.side, parts.describe()["side"]) == (None, whole.smallest_part, whole.smallest_part)
    x, v, t = randn(2, 3, 190, 203, seed=1).requires_grad_(), randn(2, 3, 190, 203, seed=2), torch.tensor(0.7)
    outputs = [score.denoise(x, t) for score in (whole, parts)]
    torch.testing.assert_close(*outputs)
    grads = [torch.autograd.grad(output, x, v, retain_graph=True)[0] for output in outputs]
    torch.testing.assert_close(*grads)
    torch.testing.assert_close(torch.autograd.grad(outputs[1], x, v)[0], grads[0])  # again, from the same graph
    with torch.no_grad():
        mask = Mask(torch.rand(190, 203, generator=torch.Generator().manual_seed(0)) < 0.5, (3, 190, 203), sigma_y=0.1)
        pivot = mask.pivot(x, 0.7, mask(x))
        assert pivot is not None
        torch.testing.assert_close(whole.denoise_pivot(*pivot), parts.denoise_pivot(*pivot))


def test_refused() -> None:
    with pytest.raises(ValueError, match="may look at the whole image"):
        from_network(lambda x, t: x, EDM(), predicts="edm").in_parts(64)
    natural = load_prior("natural")
    assert isinstance(natural, NetworkPrior)
    with pytest.raises(ValueError, match="at least 480 pixels"):
        natural.in_parts(256)
