"""Image quality relative to a reference: one value per item of the batch.

Images span [-1, 1]. Values outside this range are clipped first, as when an image is written to a file: the metrics describe
the image as displayed.
"""

from __future__ import annotations

import functools
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

__all__ = [
    "WeightsMissingError",
    "dists",
    "find_dists_weights",
    "find_lpips_weights",
    "find_weights",
    "load_weights",
    "lpips",
    "ms_ssim",
    "psnr",
    "ssim",
]

SSIM_WINDOW = 11
MS_SSIM_MIN_SIZE = 161  # The window of 11 pixels fits into the fifth scale, a sixteenth of the image.
DISTS_LAYERS = ("relu1_2", "relu2_2", "relu3_3", "relu4_3", "relu5_3")
DISTS_CHANNELS = [3, 64, 128, 256, 512, 512]  # of the image and of these layers
LPIPS_MIN_SIZE = 31  # In smaller images the second pooling of AlexNet has an empty output.


class WeightsMissingError(RuntimeError):
    """Weights that a metric needs are not on this machine; the message names the file and where to put it."""


def psnr(x: Tensor, reference: Tensor) -> Tensor:
    r"""Return the peak signal-to-noise ratio :math:`10 \log_{10} (2^2 / \mathrm{MSE})` in dB, ``(B,)``.

    The mean is taken over channels and pixels; the peak is 2, the span of [-1, 1]. Identical images give infinity.

    Args:
        x: Images, ``(B, C, H, W)``.
        reference: Reference images, ``(B, C, H, W)``.
    """
    x, reference = _prepared("psnr", x, reference)
    return 10 * (4 / (x - reference).square().flatten(1).mean(1)).log10()


def ssim(x: Tensor, reference: Tensor) -> Tensor:
    r"""Return the structural similarity, ``(B,)``; identical images give 1.

    The constants are those of the paper: Gaussian window of 11 x 11 pixels with standard deviation 1.5, :math:`K_1 = 0.01`,
    :math:`K_2 = 0.03`, on the 0..1 scale of image files (the means of the formula are not invariant to a shift), at the
    resolution of the image (no downsampling), averaged over channels and over the positions where the window lies inside the
    image. The result equals ``skimage.metrics.structural_similarity`` of the images on the 0..1 scale with ``data_range=1``,
    ``gaussian_weights=True``, ``sigma=1.5`` and ``use_sample_covariance=False``.

    Args:
        x: Images, ``(B, C, H, W)``, at least 11 pixels high and wide.
        reference: Reference images, ``(B, C, H, W)``.

    References:
        Wang et al., Image Quality Assessment: From Error Visibility to Structural Similarity, 2004,
        https://doi.org/10.1109/TIP.2003.819861
    """
    x, reference = _prepared("ssim", x, reference, SSIM_WINDOW)
    import piq

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        similarity = piq.ssim(
            (x + 1) / 2,
            (reference + 1) / 2,
            kernel_size=SSIM_WINDOW,
            kernel_sigma=1.5,
            data_range=1.0,
            reduction="none",
            downsample=False,
        )
    return torch.as_tensor(similarity)


def ms_ssim(x: Tensor, reference: Tensor) -> Tensor:
    r"""Return the multi-scale structural similarity, ``(B,)``; identical images give 1.

    The product over five scales, each half as fine as the one before, of the contrast and structure terms of :func:`ssim` (at
    the coarsest scale the whole of it) with the exponents of the paper, averaged over channels. The result equals
    ``piq.multi_scale_ssim`` of the images on the 0..1 scale with its defaults.

    Args:
        x: Images, ``(B, C, H, W)``, at least 161 pixels high and wide.
        reference: Reference images, ``(B, C, H, W)``.

    References:
        Wang et al., Multi-Scale Structural Similarity for Image Quality Assessment, 2003,
        https://doi.org/10.1109/ACSSC.2003.1292216
    """
    x, reference = _prepared("ms-ssim", x, reference, MS_SSIM_MIN_SIZE)
    import piq

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        similarity = piq.multi_scale_ssim((x + 1) / 2, (reference + 1) / 2, data_range=1.0, reduction="none")
    return torch.as_tensor(similarity)


@torch.no_grad()
def lpips(x: Tensor, reference: Tensor) -> Tensor:
    """Return the learned perceptual distance LPIPS (version 0.1, AlexNet), ``(B,)``; identical images give 0.

    Gray images are repeated to three channels. Nothing is downloaded: the weights of AlexNet are read from the checkpoint
    folder of ``torch.hub``; the linear weights come with the package ``lpips``.

    Args:
        x: Images, ``(B, C, H, W)`` with one or three channels, at least 31 pixels high and wide.
        reference: Reference images, ``(B, C, H, W)``.

    Raises:
        WeightsMissingError: If the weights of AlexNet are missing.

    References:
        Zhang et al., The Unreasonable Effectiveness of Deep Features as a Perceptual Metric, 2018,
        https://arxiv.org/abs/1801.03924
    """
    x, reference = _prepared("lpips", x, reference, LPIPS_MIN_SIZE)
    if x.shape[1] not in (1, 3):
        raise ValueError(f"lpips: expected images of one or three channels, got {x.shape[1]}.")
    network = _lpips_network(find_lpips_weights(), x.device)
    colour, colour_reference = (image.float().expand(-1, 3, -1, -1) for image in (x, reference))
    distance: Tensor = network(colour, colour_reference)
    return distance.flatten().to(x.dtype)


@torch.no_grad()
def dists(x: Tensor, reference: Tensor) -> Tensor:
    """Return the distance of structure and texture DISTS (VGG-16), ``(B,)``; identical images give 0.

    Gray images are repeated to three channels; images of more than 256 pixels on the shorter side are scaled down to 256. The
    result equals ``piq.DISTS`` of the images on the 0..1 scale. Nothing is downloaded: the two files of weights are read from
    the checkpoint folder of ``torch.hub``.

    Args:
        x: Images, ``(B, C, H, W)`` with one or three channels.
        reference: Reference images, ``(B, C, H, W)``.

    Raises:
        WeightsMissingError: If the weights of VGG-16 or those of the distance are missing.

    References:
        Ding et al., Image Quality Assessment: Unifying Structure and Texture Similarity, 2020,
        https://arxiv.org/abs/2004.07728
    """
    x, reference = _prepared("dists", x, reference)
    if x.shape[1] not in (1, 3):
        raise ValueError(f"dists: expected images of one or three channels, got {x.shape[1]}.")
    network = _dists_network(*find_dists_weights(), x.device)
    colour, colour_reference = (((image.float() + 1) / 2).expand(-1, 3, -1, -1) for image in (x, reference))
    distance: Tensor = network(colour, colour_reference)
    return distance.flatten().to(x.dtype)


def _prepared(name: str, x: Tensor, reference: Tensor, size: int = 1) -> tuple[Tensor, Tensor]:
    if x.ndim != 4 or x.shape != reference.shape:
        raise ValueError(
            f"{name}: expected two batches of images of equal shape (B, C, H, W), got {tuple(x.shape)} and "
            f"{tuple(reference.shape)}."
        )
    if min(x.shape[2:]) < size or not x.shape[1]:
        raise ValueError(f"{name}: expected images of at least {size} x {size} pixels, got {x.shape[2]} x {x.shape[3]}.")
    dtype = torch.promote_types(torch.promote_types(x.dtype, reference.dtype), torch.float32)  # half precision is too coarse
    if not dtype.is_floating_point or not (x.dtype.is_floating_point and reference.dtype.is_floating_point):
        raise TypeError(f"{name}: expected floating-point images spanning [-1, 1], got {x.dtype} and {reference.dtype}.")
    if not (x.isfinite().all() and reference.isfinite().all()):
        raise ValueError(f"{name}: expected finite images, got NaN or infinite values.")
    return x.to(dtype).clamp(-1, 1), reference.to(dtype).clamp(-1, 1)


def find_weights(metric: str, what: str, url: str) -> Path:
    """Return the file of weights that a metric reads, or raise ``WeightsMissingError``.

    Args:
        metric: Name of the metric, for the message.
        what: What the weights are of.
        url: Where the file can be had. It has the same name in the checkpoint folder of ``torch.hub``.
    """
    path = Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]
    if not path.is_file():
        raise WeightsMissingError(f"{metric}: the {what} weights are missing: download {url} and save it as {path}")
    return path


def find_lpips_weights() -> Path:
    """Return the file of the AlexNet weights that :func:`lpips` needs, or raise ``WeightsMissingError``."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from lpips.pretrained_networks import tv  # torchvision's models, which lpips itself would load

    return find_weights("lpips", "AlexNet", tv.AlexNet_Weights.IMAGENET1K_V1.url)


def find_dists_weights() -> tuple[Path, Path]:
    """Return the files that :func:`dists` needs, of VGG-16 and of the distance, or raise ``WeightsMissingError``."""
    import piq
    from torchvision.models import VGG16_Weights

    found, missing = [], []
    for what, url in (("VGG-16", VGG16_Weights.IMAGENET1K_V1.url), ("DISTS", piq.DISTS._weights_url)):
        try:
            found.append(find_weights("dists", what, url))
        except WeightsMissingError as error:
            missing.append(str(error))
    if missing:
        raise WeightsMissingError("; ".join(missing))
    return found[0], found[1]


def load_weights(metric: str, path: Path) -> dict[str, Any]:
    """Return the tensors of a file of weights, without executing anything in it.

    Raises:
        ValueError: If the file is damaged or holds something else.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # zipfile, pickle and torch raise their own exceptions.
        raise ValueError(f"{metric}: {path} is damaged or holds no weights; download it again.") from error
    if not isinstance(state, dict):
        raise ValueError(f"{metric}: {path} is damaged or holds no weights; download it again.")
    return state


@functools.cache
def _lpips_network(weights: Path, device: torch.device) -> nn.Module:
    import lpips as package

    state = load_weights("lpips", weights)
    # By default lpips would let torchvision download the backbone. The random initialization, which is overwritten at
    # once, must not advance the global generator.
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        network: nn.Module = package.LPIPS(net="alex", pnet_rand=True, verbose=False)
    try:
        # lpips cuts AlexNet's `features` into slices that keep the indices of the layers: slice2.3.bias is features.3.bias.
        for name, value in network.get_submodule("net").state_dict().items():
            value.copy_(state[f"features.{name.partition('.')[2]}"])
    except (KeyError, TypeError, RuntimeError) as error:
        raise ValueError(f"lpips: {weights} holds no weights of torchvision's AlexNet; download it again.") from error
    return network.to(device).eval()


@functools.cache
def _dists_network(vgg: Path, distance: Path, device: torch.device) -> nn.Module:
    import piq
    from piq.perceptual import VGG16_LAYERS, ContentLoss
    from torchvision.models import vgg16

    state, factors = load_weights("dists", vgg), load_weights("dists", distance)
    with torch.device("meta"):  # no memory, and no random numbers, for what is overwritten at once
        features = vgg16(init_weights=False).features
    try:
        features.load_state_dict({name: state[f"features.{name}"] for name in features.state_dict()}, assign=True)
    except (KeyError, RuntimeError) as error:
        raise ValueError(f"dists: {vgg} holds no weights of torchvision's VGG-16; download it again.") from error
    try:
        weights: list[Any] = [part for name in ("alpha", "beta") for part in torch.split(factors[name], DISTS_CHANNELS, dim=1)]
    except (KeyError, TypeError, RuntimeError) as error:
        raise ValueError(f"dists: {distance} holds no weights of DISTS; download it again.") from error
    # The constructor of piq.DISTS would download; that of its base class takes the network and the weights as they are.
    network: nn.Module = piq.DISTS.__new__(piq.DISTS)
    layers = [VGG16_LAYERS[layer] for layer in DISTS_LAYERS]
    options = {"replace_pooling": True, "reduction": "none", "allow_layers_weights_mismatch": True}
    ContentLoss.__init__(network, features.to(device), layers=layers, weights=weights, **options)
    return network.eval()
