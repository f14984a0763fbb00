"""Distances between two sets of images, by the features of an Inception network: FID and KID."""

from __future__ import annotations

import functools
from pathlib import Path

import torch
from torch import Tensor, nn

from invdiff.metrics import find_weights, load_weights

__all__ = ["FEW", "features", "find_inception_weights", "frechet_distance", "kernel_distance"]

FEW = 5000  # images; the Fréchet distance of fewer is far above that of many, by an amount that depends on their number
SUBSET = 1000
# The blocks in which TensorFlow's network differs from torchvision's.
BLOCKS: dict[str, tuple[str, tuple[int, ...]]] = {
    "Mixed_5b": ("FIDInceptionA", (192, 32)),
    "Mixed_5c": ("FIDInceptionA", (256, 64)),
    "Mixed_5d": ("FIDInceptionA", (288, 64)),
    "Mixed_6b": ("FIDInceptionC", (768, 128)),
    "Mixed_6c": ("FIDInceptionC", (768, 160)),
    "Mixed_6d": ("FIDInceptionC", (768, 160)),
    "Mixed_6e": ("FIDInceptionC", (768, 192)),
    "Mixed_7b": ("FIDInceptionE1", (1280,)),
    "Mixed_7c": ("FIDInceptionE2", (2048,)),
}


def find_inception_weights() -> Path:
    """Return the file of weights that :func:`features` needs, or raise ``WeightsMissingError``."""
    from piq.feature_extractors import fid_inception

    return find_weights("fid, kid", "Inception", fid_inception.FID_WEIGHTS_URL)


@torch.no_grad()
def features(image: Tensor) -> Tensor:
    """Return the features of images, ``(B, 2048)``: of the last average pooling, of the images scaled to 299 x 299 pixels.

    The network is that of the original FID, with TensorFlow's weights, as ``piq.feature_extractors.InceptionV3``. Nothing is
    downloaded: the weights are read from the checkpoint folder of ``torch.hub``.

    Args:
        image: Images ``(B, C, H, W)`` in [-1, 1], beyond which they are clipped, with one or three channels.

    Raises:
        WeightsMissingError: If the weights are missing.
        ValueError: If the images have another number of channels.
    """
    if image.ndim != 4 or image.shape[1] not in (1, 3):
        raise ValueError(f"fid, kid: expected images (B, C, H, W) of one or three channels, got {tuple(image.shape)}.")
    network = _inception(find_inception_weights())
    unit = ((image.float().clamp(-1, 1) + 1) / 2).expand(-1, 3, -1, -1)
    return torch.as_tensor(network(unit)[0]).flatten(1)


def frechet_distance(x: Tensor, y: Tensor) -> float:
    r"""Return the Fréchet inception distance of two sets of features, ``(n, d)`` and ``(m, d)``, two rows or more each.

    .. math:: \|\mu_x - \mu_y\|^2 + \operatorname{tr} \Sigma_x + \operatorname{tr} \Sigma_y
        - 2 \operatorname{tr} (\Sigma_x \Sigma_y)^{1/2}

    With :math:`\Sigma_x = R_x^\top R_x` from a QR decomposition of the centered features, the last trace is the sum of the
    singular values of :math:`R_x R_y^\top`: exact also for fewer images than features, where the covariances are singular, and
    a thousand times as fast there as the iteration of ``piq.FID``, whose value it equals.

    References:
        Heusel et al., GANs Trained by a Two Time-Scale Update Rule Converge to a Local Nash Equilibrium, 2017,
        https://arxiv.org/abs/1706.08500
    """
    _check(x, y)
    x, y = x.double(), y.double()
    mean_x, mean_y = x.mean(0), y.mean(0)
    root_x, root_y = (
        torch.linalg.qr((rows - mean) / (len(rows) - 1) ** 0.5, mode="r").R for rows, mean in ((x, mean_x), (y, mean_y))
    )
    traces = root_x.square().sum() + root_y.square().sum() - 2 * torch.linalg.svdvals(root_x @ root_y.T).sum()
    return float((mean_x - mean_y).square().sum() + traces)


def kernel_distance(x: Tensor, y: Tensor, *, seed: int = 0) -> float:
    """Return the kernel inception distance of two sets of features, ``(n, d)`` and ``(m, d)``, two rows or more each.

    The unbiased squared maximum mean discrepancy with the cubic polynomial kernel, by ``piq.KID``: of all features up to 1,000
    images, of more the mean over 50 subsets of 1,000. It may be negative.

    Args:
        x: Features of one set.
        y: Features of as many images of the other set.
        seed: Random seed of the subsets.

    References:
        Bińkowski et al., Demystifying MMD GANs, 2018, https://arxiv.org/abs/1801.01401
    """
    import piq

    _check(x, y)
    if len(x) != len(y):
        raise ValueError(f"kid: expected two sets of as many images, got {len(x)} and {len(y)}.")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # piq draws from the global generator
        return float(piq.KID(average=len(x) > SUBSET, subset_size=SUBSET)(x.double(), y.double()))


def _check(x: Tensor, y: Tensor) -> None:
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1] or min(len(x), len(y)) < 2:
        raise ValueError(f"fid, kid: expected features of two images or more on either side, got {len(x)} and {len(y)}.")


@functools.cache
def _inception(weights: Path) -> nn.Module:
    from piq.feature_extractors import InceptionV3, fid_inception
    from torchvision.models import inception_v3

    state = load_weights("fid, kid", weights)

    class Inception(InceptionV3):  # type: ignore[misc]
        """The network of piq, whose own method would download the weights."""

        @staticmethod
        def fid_inception_v3() -> nn.Module:
            network: nn.Module = inception_v3(num_classes=1008, aux_logits=False, weights=None, init_weights=False)
            for name, (kind, sizes) in BLOCKS.items():
                setattr(network, name, getattr(fid_inception, kind)(*sizes))
            network.load_state_dict(state, assign=True)
            return network

    try:
        with torch.device("meta"):  # no memory, and no random numbers, for what is overwritten at once
            network: nn.Module = Inception()
    except (RuntimeError, TypeError, AttributeError) as error:
        raise ValueError(f"fid, kid: {weights} holds no weights of the Inception network of FID; download it again.") from error
    return network.eval()
