"""Network priors: one wrapper turns every parametrization into a denoiser."""

from __future__ import annotations

import contextlib
import copy
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from invdiff.noise_covariance import NoiseCovariance
from invdiff.priors.compiled import CompiledNetwork
from invdiff.priors.digest import digest, stamp
from invdiff.priors.networks.checkpointing import recompute_blocks
from invdiff.priors.networks.fill import KERNELS
from invdiff.priors.networks.unet import UNet
from invdiff.priors.noise_maps import NoiseMaps, edm_denoise_pivot
from invdiff.priors.score_model import Reach, ScoreModel
from invdiff.schedules import Schedule

__all__ = ["PARAMETRIZATIONS", "NetworkPrior", "edm_denoise", "from_network", "frozen_view"]

# Each maps (x_t, output, alpha_t, sigma_t) to x0_hat for a path x_t = alpha_t x_0 + sigma_t eps.
PARAMETRIZATIONS: Mapping[str, Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]] = {
    "eps": lambda x_t, eps, alpha_t, sigma_t: (x_t - sigma_t * eps) / alpha_t,
    "-eps": lambda x_t, minus_eps, alpha_t, sigma_t: (x_t + sigma_t * minus_eps) / alpha_t,
    "x0": lambda x_t, x0, alpha_t, sigma_t: x0,
    # v = alpha_t eps - sigma_t x_0; on variance-preserving schedules the denominator is 1.
    "v": lambda x_t, v, alpha_t, sigma_t: (alpha_t * x_t - sigma_t * v) / (alpha_t**2 + sigma_t**2),
    # u = eps - x_0; on the straight path the denominator is 1.
    "velocity": lambda x_t, u, alpha_t, sigma_t: (x_t - sigma_t * u) / (alpha_t + sigma_t),
    "score": lambda x_t, s, alpha_t, sigma_t: (x_t + sigma_t**2 * s) / alpha_t,
}


def edm_denoise(
    net: Callable[[Tensor, Tensor], Tensor],
    x: Tensor,
    sigma: Tensor,
    *,
    sigma_data: float,
    trained: tuple[float, float] | None = None,
) -> Tensor:
    r"""Denoise with a raw EDM network: :math:`c_\text{skip} x + c_\text{out} F(c_\text{in} x, \tfrac14 \log \sigma)`.

    Args:
        net: :math:`F`, called with ``(B, *event)`` and ``(B,)``.
        x: Clean data plus noise, ``(B, *event)``.
        sigma: Standard deviation of the noise, a scalar or ``(B,)``.
        sigma_data: Standard deviation of the clean data.
        trained: Smallest and largest noise level of the training. The level passed to the network is clamped to this range,
            because a network without normalization returns arbitrary values at levels it was not trained on.

    References:
        Karras et al., 2022, https://arxiv.org/abs/2206.00364, table 1
    """
    sigma = sigma.to(x).reshape(-1, *(1,) * (x.ndim - 1))
    scale = (sigma**2 + sigma_data**2).sqrt()
    level = sigma if trained is None else sigma.clamp(*trained)
    output = net(x / scale, (level.log() / 4).flatten().expand(x.shape[0]))
    return (sigma_data / scale) ** 2 * x + sigma * sigma_data / scale * output.to(x.dtype)


class NetworkPrior(ScoreModel):
    """A prior whose denoiser is a network, created by :func:`from_network`, which documents the arguments.

    :func:`from_network` copies the module, so the original is not modified; no gradients of its weights are computed. The
    network computes in its own precision; inputs and outputs keep the dtype of ``x_t``.

    Attributes:
        dtype: Dtype of the weights as they were given; ``None``: the network has none.
        of_user: Whether the network came from :func:`from_network` and not from a checkpoint of a known family.
    """

    of_user: bool = False
    learned = True

    def __init__(
        self,
        net: Callable[[Tensor, Tensor], Tensor],
        schedule: Schedule,
        *,
        predicts: str,
        time: Callable[[Tensor], Tensor],
        event_shape: tuple[int | None, ...] | None,
        sigma_data: float,
        stride: int,
        autocast: torch.dtype | None,
        checkpointing: bool,
        file: Path | None,
        facts: Mapping[str, Any],
        compiled: bool = False,
        noise_kinds: Iterable[str] = (),
        reach: Reach | None = None,
    ) -> None:
        self.reach = reach
        self.noise_kinds = frozenset(noise_kinds)
        self.schedule, self.predicts, self.time, self.stride = schedule, predicts, time, stride
        self.event_shape, self.sigma_data, self.autocast = event_shape, sigma_data, autocast
        self.checkpointing, self.file, self.facts = checkpointing, file, dict(facts)
        self.stamp = None if file is None else stamp(file)
        self.sha256: str | None = None  # of the file that was read, where it is known
        self.net = net  # a module belongs to this prior alone
        self.dtype = next((weight.dtype for weight in self.weights if weight.is_floating_point()), None)  # before autocast
        if isinstance(net, nn.Module):
            if autocast is not None:
                _keep_kernels_in(net, autocast)
            if checkpointing:
                recompute_blocks(net)
        elif compiled:
            raise TypeError(f"from_network: compiled=True needs a module, got {type(net).__name__}. Compile it yourself.")
        self.compiled = CompiledNetwork(net) if compiled and isinstance(net, nn.Module) else None

    def _summary(self) -> Sequence[str]:
        channels, *sides = self.event_shape or (None,)
        if len(sides) != 2:
            size = list(super()._summary())
        else:
            size = ["any size" if None in sides else f"{sides[1]} x {sides[0]} pixels"]
            size.append(f"{'any' if channels is None else channels} channel{'s' * (channels != 1)}")
        name = type(self.net).__name__ if self.file is None else repr(self.file.stem)
        count = sum(weight.numel() for weight in self.net.parameters()) if isinstance(self.net, nn.Module) else 0
        read = "" if self.file is None else self.sha256 or digest(self.file, self.stamp)
        weights = [f"{count / 1e6:.1f} M parameters"] if count else []
        return (name, *size, *weights, *([f"sha256 {read[:8]}"] if read and not read.startswith("unknown") else []))

    def denoise(self, x_t: Tensor, t: Tensor) -> Tensor:
        alpha_t, sigma_t = self.levels(t, x_t)
        if self.predicts == "edm":
            return edm_denoise(self._call, x_t / alpha_t, sigma_t / alpha_t, sigma_data=self.sigma_data, trained=self._trained)
        time = torch.as_tensor(self.time(torch.as_tensor(t).to(x_t)), device=x_t.device).expand(x_t.shape[0])
        return PARAMETRIZATIONS[self.predicts](x_t, self._call(x_t, time), alpha_t, sigma_t)

    def denoise_pivot(self, mu: Tensor, cov: NoiseCovariance) -> Tensor:
        if cov.kind not in self.noise_kinds:
            return super().denoise_pivot(mu, cov)
        return edm_denoise_pivot(self._call, mu, cov, sigma_data=self.sigma_data, trained=self._trained)

    @property
    def _trained(self) -> tuple[float, float]:
        """Smallest and largest noise-to-signal ratio of the schedule."""
        return float(self.schedule.ratio(self.schedule.t_min)), float(self.schedule.ratio(self.schedule.t_max))

    def _call(self, x: Tensor, time: Tensor, maps: NoiseMaps | None = None) -> Tensor:
        dtype = torch.float32 if self.autocast else self.dtype or x.dtype
        casting = torch.autocast(x.device.type, self.autocast) if self.autocast else contextlib.nullcontext()
        asked = _pad_to(x, self.stride)
        with casting:
            extra = () if maps is None else (maps.to(dtype),)
            # Whole times are for a network that looks them up in a table.
            time = time.to(dtype) if time.is_floating_point() else time
            result: Any = (self.compiled or self.net)(asked.to(dtype), time, *extra)
        output: Tensor = result if isinstance(result, Tensor) else _tensor_in(result)
        if not output.is_floating_point():
            raise TypeError(f"from_network: the network must return real floating-point numbers, got {output.dtype}.")
        if output.shape != asked.shape:
            twice = output.shape == (len(asked), 2 * asked.shape[1], *asked.shape[2:])
            hint = " If its second half is a variance, give lambda x, t: net(x, t).chunk(2, 1)[0]." if twice else ""
            shapes = f"{tuple(asked.shape)} to {tuple(output.shape)}"
            raise ValueError(f"from_network: the network mapped {shapes}, expected the same shape.{hint}")
        return output[tuple(slice(n) for n in x.shape)].to(x.dtype)

    @property
    def weights(self) -> Iterator[Tensor]:
        """The parameters and buffers of the network, if it is a module."""
        return itertools.chain(self.net.parameters(), self.net.buffers()) if isinstance(self.net, nn.Module) else iter(())

    def to(self, device: torch.device | str | None = None) -> Self:
        if device is None or all(weight.device == torch.empty(0, device=device).device for weight in self.weights):
            return self
        moved = self.with_network(frozen_view(cast(nn.Module, self.net), device=device))
        moved.error_model = None if self.error_model is None else self.error_model.to(device)
        return moved

    def with_network(self, net: nn.Module) -> Self:
        """Return the prior with another network that is called and trained alike, such as a copy on another device."""
        changed = copy.copy(self)
        changed.net, changed.compiled = net, None if self.compiled is None else self.compiled.of(net)
        return changed

    @property
    def smallest_part(self) -> int | None:
        """Smallest sensible side in pixels for :meth:`in_parts`; ``None``: the network is no :class:`~invdiff.priors.UNet`."""
        return next((3 * net.margin for net in self._divisible), None)

    @property
    def side(self) -> int | None:
        """Side in pixels of the squares in which the network is evaluated; ``None``: whole images."""
        return next((net.side for net in self._divisible), None)

    @property
    def _divisible(self) -> list[UNet]:
        return [layer for layer in self.net.modules() if isinstance(layer, UNet)] if isinstance(self.net, nn.Module) else []

    def in_parts(self, side: int) -> Self:
        """Return the prior with a network that is evaluated in squares, one after another.

        Neighboring squares overlap by twice the pixels that the network looks: the output is that of the whole image, up to
        rounding, unlike that of :class:`~invdiff.priors.Tiled`. The memory is that of a square. More is computed, since
        squares overlap, and gradients evaluate every square again. With the margin :math:`m` of the network, 160 pixels for
        ``natural``, a large image is computed :math:`(s / (s - 2 m))^2` times: 2.1 times with squares of 1024 pixels.

        Args:
            side: Side of the squares in pixels, with what overlaps.

        Raises:
            ValueError: If the network is not known to look no further than some pixels, or ``side`` is too small.
        """
        if self.smallest_part is None:
            raise ValueError(f"in_parts: a {type(self.net).__name__} may look at the whole image. Use priors.Tiled.")
        if side < self.smallest_part:
            raise ValueError(f"in_parts: side must be at least {self.smallest_part} pixels for this network, got {side}.")
        divided = self.with_network(frozen_view(cast(nn.Module, self.net)))
        for layer in divided._divisible:
            layer.side = side
        return divided

    def describe(self) -> dict[str, Any]:
        origin = {} if self.file is None else {"file": self.file.name, "sha256": self.sha256 or digest(self.file, self.stamp)}
        about = {"predicts": self.predicts, "autocast": str(self.autocast), "checkpointing": self.checkpointing}
        about |= {} if self.side is None else {"side": self.side}
        # False where it was wanted and failed.
        compiled = {} if self.compiled is None else {"compiled": not self.compiled.failures}
        facts = {} if self.error_model is None else self.error_model.facts
        measured = {"error_model": {name: fact for name, fact in facts.items() if not name.endswith("_rms")}} if facts else {}
        return super().describe() | about | compiled | self.facts | origin | measured


@torch.inference_mode(False)
def frozen_view(net: nn.Module, *, device: torch.device | str | None = None) -> nn.Module:
    """Return ``net`` in evaluation mode with the same weights and without gradients of them, which saves a sixth of the time.

    The weights share memory with those of ``net``, unless they are moved to another device.
    """
    memo: dict[int, Any] = {}
    for weight in itertools.chain(net.parameters(), net.buffers()):
        view = (weight.clone() if weight.is_inference() else weight.detach()).to(device)
        memo[id(weight)] = nn.Parameter(view, requires_grad=False) if isinstance(weight, nn.Parameter) else view
    for value in (value for layer in net.modules() for value in vars(layer).values()):
        if isinstance(value, Tensor) and not value.is_leaf:  # Left over from a forward pass, such as by weight_norm.
            memo[id(value)] = value.detach()
    try:
        return copy.deepcopy(net, memo).eval()
    except (TypeError, RuntimeError) as error:
        raise ValueError(
            f"from_network: this module cannot be copied ({error}). Pass a function instead: lambda x, time: net(x, time)."
        ) from error


def _keep_kernels_in(net: nn.Module, dtype: torch.dtype) -> None:
    """Store the weights of convolutions and linear layers in the autocast dtype, to which every call would convert them.

    This halves their memory and does not change the results.
    """
    for layer in net.modules():
        weight = layer._parameters.get("weight") if isinstance(layer, KERNELS) else None
        if weight is not None and weight.is_floating_point():
            layer._parameters["weight"] = nn.Parameter(weight.to(dtype), requires_grad=False)


def _tensor_in(output: Any) -> Tensor:
    """Return the tensor in the result of a network that is not a tensor itself: ``sample`` of an output object of diffusers."""
    sample = getattr(output, "sample", None)
    if isinstance(sample, Tensor):
        return sample
    hint = "lambda x, t: net(x, t)[0]" if isinstance(output, Sequence) else "a function that returns the tensor in it"
    raise TypeError(f"from_network: the network must return a tensor, got {type(output).__name__}. Give {hint}.")


def _pad_to(x: Tensor, stride: int) -> Tensor:
    """Pad the last two axes of ``x`` to multiples of ``stride`` by repeating the border."""
    height, width = (-n % stride for n in x.shape[-2:]) if stride > 1 else (0, 0)
    return F.pad(x, (0, width, 0, height), mode="replicate") if height or width else x


def from_network(
    net: Callable[[Tensor, Tensor], Tensor],
    schedule: Schedule,
    *,
    predicts: str = "eps",
    time: Callable[[Tensor], Tensor] = lambda t: t,
    event_shape: tuple[int | None, ...] | None = None,
    sigma_data: float = 0.5,
    stride: int = 1,
    autocast: torch.dtype | None = None,
    checkpointing: bool = False,
    compiled: bool = False,
    file: Path | None = None,
    facts: Mapping[str, Any] | None = None,
    reach: Reach | None = None,
) -> NetworkPrior:
    r"""Wrap a network, or any callable, as a prior.

    ======== ================================================= ============================================================
    predicts the network returns                               :math:`E[x_0 | x_t]`
    ======== ================================================= ============================================================
    eps      the noise :math:`\varepsilon`                      :math:`(x_t - \sigma_t \varepsilon) / \alpha_t`
    -eps     :math:`-\varepsilon`, the score times             as for eps
             :math:`\sigma_t`
    x0       the clean data                                    the output itself
    v        :math:`\alpha_t \varepsilon - \sigma_t x_0`         :math:`(\alpha_t x_t - \sigma_t v)/(\alpha_t^2 + \sigma_t^2)`
    velocity :math:`\varepsilon - x_0`                          :math:`(x_t - \sigma_t u) / (\alpha_t + \sigma_t)`
    score    :math:`\nabla \log p_t(x_t)`                       :math:`(x_t + \sigma_t^2 s) / \alpha_t`
    edm      :math:`F` of :func:`edm_denoise`, evaluated at    the form with :math:`c_\text{skip}` and :math:`c_\text{out}`
             :math:`x_t / \alpha_t` and :math:`\varsigma_t`
    ======== ================================================= ============================================================

    Args:
        net: Called as ``net(x_t, time)`` with ``(B, *event)`` and ``(B,)``; returns a tensor, or an output object of diffusers.
            A module is copied, except for its weights, which stay shared. The copy is in evaluation mode, and hooks that store
            something store it in the copy. Modules inside a function are used as they are: put them in evaluation mode.
        schedule: The schedule the network was trained with.
        predicts: Output of the network, see above.
        time: Maps the schedule's time to the network's time input, such as ``lambda t: 999 * t`` for :class:`VP`, whose time
            ends at 1. The time of :class:`DiscreteBetas` is the index in the table already. Whole numbers stay whole:
            ``lambda t: t.round().long()``. Not used by ``edm``.
        event_shape: Shape of one item, ``None`` for axes of any size. Default: any shape.
        sigma_data: Standard deviation of the data, for ``edm``.
        stride: Factor that image sides must be multiples of. Other images are padded by repeating their border, and the
            result is cropped back.
        autocast: Compute the network under autocast to this dtype. Default: in the dtype of its weights.
        checkpointing: Keep, for gradients, only the inputs and outputs of each block, and recompute the rest: a third more
            time and far less memory. A block is a module in a ``ModuleList`` or ``ModuleDict``.
        compiled: Call the network as ``torch.compile`` makes it, :class:`~invdiff.priors.compiled.CompiledNetwork`, and with a
            warning as it is where that fails.
        file: The file of the weights, for reports.
        facts: Entries about the network for reports.
        reach: How far a fully convolutional network looks, :class:`invdiff.priors.Reach`, so that it can be evaluated on
            windows of an image. Default: the whole image may matter.
    """
    if predicts not in {*PARAMETRIZATIONS, "edm"}:
        raise ValueError(f"from_network: unknown predicts={predicts!r}, expected one of {', '.join(PARAMETRIZATIONS)}, edm.")
    prior = NetworkPrior(
        frozen_view(net) if isinstance(net, nn.Module) else net,
        schedule,
        predicts=predicts,
        time=time,
        event_shape=event_shape,
        sigma_data=sigma_data,
        stride=stride,
        autocast=autocast,
        checkpointing=checkpointing,
        compiled=compiled,
        file=file,
        facts=facts or {},
        reach=reach,
    )
    prior.of_user = True
    return prior
