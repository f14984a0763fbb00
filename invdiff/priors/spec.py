"""The specification that turns the weights of a network into a prior, as plain data that fit a file's metadata."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from invdiff.noise_covariance import NOISE_KINDS
from invdiff.priors.labels import ConditionedNetwork
from invdiff.priors.network import PARAMETRIZATIONS, NetworkPrior
from invdiff.priors.networks.fill import fill
from invdiff.priors.networks.skeleton import skeleton
from invdiff.schedules import EDM, VP, Cosine, DiscreteBetas, RectifiedFlow, Schedule, SubVP

__all__ = ["ARCHITECTURES", "SCHEDULES", "Checkpoint", "NetworkSpec", "build_network", "build_prior"]

# Module and class of each architecture; only the one that a file names is imported.
ARCHITECTURES: Mapping[str, tuple[str, str]] = {
    "UNet": ("invdiff.priors.networks.unet", "UNet"),
    "ADM": ("invdiff.priors.networks.adm", "ADM"),
    "SongUNet": ("invdiff.priors.networks.song", "SongUNet"),
    "DhariwalUNet": ("invdiff.priors.networks.dhariwal", "DhariwalUNet"),
    "NCSNpp": ("invdiff.priors.networks.ncsnpp", "NCSNpp"),
    "UNet2DModel": ("invdiff.priors.networks.unet2d", "DiffusersUNet"),
}

SCHEDULES: Mapping[str, Callable[..., Schedule]] = {
    "linear-betas": DiscreteBetas.linear,
    "scaled-linear-betas": DiscreteBetas.scaled_linear,
    "cosine-betas": DiscreteBetas.cosine,
    "betas": DiscreteBetas,
    "vp": VP,
    "sub-vp": SubVP,
    "cosine": Cosine,
    "edm": EDM,
    "rectified-flow": RectifiedFlow,
}


MOST_STEPS = 100_000  # largest length of a table of betas
MOST_PIXELS = 4096  # longest side of the images of a network; smaller images are extended to it


@dataclass(frozen=True)
class NetworkSpec:
    r"""How to build a network and how to evaluate it.

    Attributes:
        architecture: A name in :data:`ARCHITECTURES`.
        config: Arguments of its constructor.
        event_shape: Shape of one item; ``None`` for an axis of any size. A network trained at one size has that size here.
        predicts: Output of the network, see :func:`~invdiff.priors.from_network`.
        schedule: ``{"name": one of SCHEDULES, **its arguments}``, in units of data that span [-1, 1].
        time_scale: The time input of the network is ``time_scale * t``.
        time_log: Whether the time input is the natural logarithm of ``time_scale * t`` instead.
        sigma_data: Standard deviation of the data, for ``predicts="edm"``.
        label: Class to sample, for class-conditional networks.
        unit_range: Whether the network was trained on data that span [0, 1], with the noise added there, and predicts the
            score.
        noise_kinds: The kinds of noise in :data:`~invdiff.noise_covariance.NOISE_KINDS` it was trained on besides white noise.
        facts: Entries for reports, such as the family.
        assumed: Value and reason of every default that the file does not determine, by the name of the option that changes it.

    Raises:
        ValueError: If a number is out of its range.
    """

    architecture: str
    config: Mapping[str, Any]
    event_shape: tuple[int | None, ...]
    predicts: str
    schedule: Mapping[str, Any]
    time_scale: float = 1.0
    time_log: bool = False
    sigma_data: float = 0.5
    label: int | None = None
    unit_range: bool = False
    noise_kinds: Sequence[str] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)
    assumed: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        channels, *sides = self.event_shape or (0,)
        if len(sides) != 2 or any(side is not None and not 1 <= side <= MOST_PIXELS for side in sides):
            shape = f"{tuple(self.event_shape)}"
            raise ValueError(f"its images have the shape {shape:.80}, expected channels and two sides of up to {MOST_PIXELS:,}")
        if channels is not None and channels < 1:
            raise ValueError(f"its images have {channels} channels")
        for name in ("time_scale", "sigma_data"):
            value = getattr(self, name)
            if isinstance(value, bool) or not 0 < value < math.inf:
                raise ValueError(f"its {name} is {value!r:.80}, expected a positive number")
        classes = self.config.get("classes", self.config.get("num_class_embeds")) or 0
        if self.label is None or self.config.get("class_embed_type") == "timestep":
            return
        if not isinstance(classes, int) or isinstance(self.label, bool) or not 0 <= self.label < classes:
            has = f"{classes!r:.80} classes, from 0" if classes else "no classes"
            raise ValueError(f"its label is {self.label!r:.80}, and the network has {has}")

    def to_json(self) -> dict[str, Any]:
        """Return the spec as plain data."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: object) -> NetworkSpec:
        """Return the spec that :meth:`to_json` wrote.

        Raises:
            ValueError: If the data are not a spec, or name something unsupported.
        """
        needed = {"architecture", "config", "event_shape", "predicts", "schedule"}
        if not isinstance(data, dict) or not needed <= data.keys() <= KINDS.keys():
            raise ValueError("it does not describe a network and its schedule in a supported form")
        wrong = next((name for name, value in data.items() if not isinstance(value, KINDS[name])), None)
        if wrong is None and not all(side is None or type(side) is int for side in data["event_shape"]):
            wrong = "event_shape"
        if wrong is None and not all(isinstance(text, str) for text in data.get("assumed", {}).values()):
            wrong = "assumed"
        if wrong is not None:
            raise ValueError(f"its {wrong} is {data[wrong]!r:.80}")
        if data["architecture"] not in ARCHITECTURES:
            raise ValueError(f"its architecture is {data['architecture']!r:.80}, expected one of {', '.join(ARCHITECTURES)}")
        if data["predicts"] not in {*PARAMETRIZATIONS, "edm"}:
            raise ValueError(f"its predicts is {data['predicts']!r:.80}, expected one of {', '.join(PARAMETRIZATIONS)}, edm")
        if not all(kind in list(NOISE_KINDS) for kind in data.get("noise_kinds", ())):
            raise ValueError(f"its noise_kinds are {data['noise_kinds']!r:.80}, expected some of {', '.join(NOISE_KINDS)}")
        spec = cls(**{**data, "event_shape": tuple(data["event_shape"]), "noise_kinds": tuple(data.get("noise_kinds", ()))})
        spec.make_schedule()
        return spec

    def make_schedule(self) -> Schedule:
        """Return the schedule.

        Raises:
            ValueError: If the name is unknown, or the arguments are invalid.
        """
        arguments = dict(self.schedule)
        name = arguments.pop("name", None)
        make = SCHEDULES.get(name) if isinstance(name, str) else None
        if make is None:
            raise ValueError(f"it names an unknown schedule, expected one of {', '.join(SCHEDULES)}")
        if not 0 < arguments.get("steps", 1) <= MOST_STEPS:
            raise ValueError(f"its schedule has {arguments['steps']} steps, expected at most {MOST_STEPS:,}")
        try:
            if not all(math.isfinite(value) for value in arguments.values() if isinstance(value, float)):
                raise ValueError("a number is not finite")
            return make(**arguments)
        except (TypeError, ValueError) as error:
            raise ValueError(f"its schedule {self.schedule!r:.200} is invalid ({error})") from error


NUMBER = (int, float)
# The type of each entry in plain data.
KINDS: Mapping[str, type | tuple[type, ...]] = {
    "architecture": str,
    "config": dict,
    "event_shape": (list, tuple),
    "predicts": str,
    "schedule": dict,
    "time_scale": NUMBER,
    "time_log": bool,
    "sigma_data": NUMBER,
    "label": (int, type(None)),
    "unit_range": bool,
    "noise_kinds": (list, tuple),
    "facts": dict,
    "assumed": dict,
}


@dataclass(frozen=True)
class Checkpoint:
    """The content of a checkpoint file.

    Attributes:
        spec: How to build and evaluate the network.
        weights: State dict of the network, in the precision of the file.
        notes: Messages for the user, such as which of two sets of weights was read.
    """

    spec: NetworkSpec
    weights: Mapping[str, Tensor]
    notes: Sequence[str] = ()


def build_network(checkpoint: Checkpoint) -> nn.Module:
    """Build the network with the weights of the checkpoint. Weights that are float32 already are not copied.

    Raises:
        ValueError: If the weights do not fit the architecture, are not finite, or are no real numbers.
    """
    spec, weights = checkpoint.spec, checkpoint.weights
    module, name = ARCHITECTURES[spec.architecture]
    try:
        make = getattr(importlib.import_module(module), name)
        net: nn.Module = skeleton(lambda: make(**spec.config), len(weights))
        fill(net, weights)
    except ImportError:
        raise
    except Exception as error:  # A description of another form fails wherever it is first used.
        reason = " ".join(str(error).split())[:300].rstrip(".") or type(error).__name__
        if not isinstance(error, ValueError):
            reason = f"it cannot be built from its description ({type(error).__name__}: {reason:.160})"
        raise ValueError(f"the weights do not fit the architecture {spec.architecture}: {reason}.") from error
    if spec.architecture == "UNet":  # It computes in this memory format. Weights of other networks are not copied.
        net = net.to(memory_format=torch.channels_last)  # type: ignore[call-overload,unused-ignore]
    return net.eval().requires_grad_(False)


def build_prior(
    checkpoint: Checkpoint,
    *,
    autocast: torch.dtype | None = None,
    checkpointing: bool = False,
    compiled: bool = False,
    file: Path | None = None,
    facts: Mapping[str, Any] | None = None,
) -> NetworkPrior:
    """Return the prior of a checkpoint; see :func:`~invdiff.priors.from_network` for the arguments."""
    spec = checkpoint.spec

    def time(t: Tensor) -> Tensor:
        return (spec.time_scale * t).log() if spec.time_log else spec.time_scale * t

    network = build_network(checkpoint)
    return NetworkPrior(
        ConditionedNetwork(network, labels=(spec.label,), unit_range=spec.unit_range).eval(),
        spec.make_schedule(),
        predicts=spec.predicts,
        time=time,
        event_shape=spec.event_shape,
        sigma_data=spec.sigma_data,
        stride=1,
        autocast=autocast,
        checkpointing=checkpointing,
        compiled=compiled,
        file=file,
        facts=spec.facts if facts is None else facts,
        noise_kinds=spec.noise_kinds,
        reach=getattr(network, "reach", None),
    )
