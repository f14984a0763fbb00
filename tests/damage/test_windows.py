"""Networks see a picture through windows, and say what they would say of the whole."""

from __future__ import annotations

import pytest
import torch

from invdiff.damage.detection import MARGIN, inputs
from invdiff.damage.network import STRIDE, Detector, thin_structures
from invdiff.damage.windows import cut, windows


@pytest.mark.parametrize("size", [(1, 5), (8, 8), (64, 40), (65, 41), (200, 33)])
def test_cores_cover_every_pixel_once(size):
    covered = torch.zeros(size, dtype=torch.int64)
    for part in windows(*size, core=32, margin=16, stride=STRIDE):
        seen = cut(torch.arange(size[0] * size[1]).reshape(1, *size), part)
        assert all(
            side % STRIDE == 0 and start % STRIDE == 0 for side, (start, _) in zip(seen.shape[2:], part.seen, strict=True)
        )
        torch.testing.assert_close(seen[0, 0][part.inner], torch.arange(size[0] * size[1]).reshape(size)[part.core])
        covered[part.core] += 1
    assert (covered == 1).all()


def test_a_network_says_in_windows_what_it_says_of_the_whole():
    torch.manual_seed(0)
    net = Detector(9, 2).double().requires_grad_(False)
    torch.nn.init.normal_(net.out.weight)
    x = torch.rand(3, 264, 104, dtype=torch.float64)
    whole = net(inputs(x[None]))[0]
    for part in windows(264, 104, core=64, margin=MARGIN, stride=STRIDE):
        seen = net(inputs(cut(x, part)))[0]
        torch.testing.assert_close(seen[:, *part.inner], whole[:, *part.core])


def test_thin_structures_are_bright_and_dark_lines():
    x = torch.zeros(1, 1, 60, 60)
    x[..., 5:9, :] = 1  # a bright line of four pixels
    x[..., 20:22, :] = -1  # a dark line
    x[..., 45:60, :] = 0.5  # a bright half
    white, black, _, _, bright, dark = thin_structures(x)[0]
    assert (white[5:9] == 4).all()
    assert (black[20:22] == 4).all()
    assert (bright[6:8, 10:-10] > 0.5).all()
    assert (dark[20:22, 10:-10] > 0.5).all()
    white[5:9] = black[20:22] = 0
    assert white.abs().max() == 0
    assert black.abs().max() == 0
    assert bright[40:].abs().max() < 1e-4
    assert dark[40:].abs().max() < 1e-4
