"""A method: an algorithm with its default and published settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from invdiff.methods.algorithm import Algorithm

if TYPE_CHECKING:
    from invdiff.methods.steps.rule import StepRule

__all__ = ["Method", "Preset", "adopt_method"]


@dataclass(frozen=True)
class Preset:
    """Published settings of a method for one kind of measurement.

    Attributes:
        settings: Arguments of :class:`~invdiff.PosteriorSampler`.
        source: Publication or code they are taken from, and any changes.
    """

    settings: Mapping[str, Any]
    source: str


@dataclass(frozen=True)
class Method:
    """A posterior sampler, fully specified except for the prior and the measurement.

    Attributes:
        algorithm: Called as ``algorithm(score, op, y, **options)``: a guidance, followed by a step rule, or a sampler or
            particle method with its own loop.
        rule: A name of :data:`invdiff.methods.RULES` or a step rule. ``None``: the algorithm's own step or loop.
        steps: Default number of steps.
        spacing: Spacing of the time grid, see :func:`invdiff.schedules.time_grid`.
        ratio_max: Noise-to-signal ratio to start from. Default: the schedule's largest.
        ratio_min: Noise-to-signal ratio of the last evaluation. Default: chosen from the noise of the measurement.
        options: Options of the algorithm.
        paper: Reference.
        presets: Published settings by kind of measurement (:func:`invdiff.presets.kind_of`), or ``"any"``.
        name: Name reported in ``post.method``. The table of methods fills in ``name`` and ``summary``.
        summary: One line for the list of methods.

    Raises:
        TypeError: If ``algorithm`` is not a subclass of :class:`~invdiff.methods.algorithm.Algorithm`.
    """

    algorithm: type[Algorithm]
    rule: str | StepRule | None = None
    steps: int = 100
    spacing: str = "log-snr"
    ratio_max: float | None = None
    ratio_min: float | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    paper: str = ""
    presets: Mapping[str, Preset] = field(default_factory=dict)
    name: str = ""
    summary: str = ""

    def __post_init__(self) -> None:
        if not _is_algorithm(self.algorithm):
            raise TypeError(
                "Method: algorithm must be a class derived from a guidance, Sampler or ParticleMethod, got "
                f"{self.algorithm!r}. A name is given by name=..."
            )
        if not self.name:
            object.__setattr__(self, "name", self.algorithm.__name__)

    @property
    def needs(self) -> tuple[str, ...]:
        """Properties required of the measurement, keys of :data:`invdiff.methods.requirements.NEEDS`."""
        return self.algorithm.needs

    @property
    def one_operator(self) -> bool:
        """Whether items with different operators are run one after the other."""
        return self.algorithm.one_operator

    @property
    def starts_high(self) -> bool:
        """Whether it starts from the largest noise level of a network rather than from a level suited to photographs."""
        return self.algorithm.starts_high

    @property
    def follows_rules(self) -> bool:
        """Whether it can be run with a step rule."""
        return self.algorithm.follows_rules


def adopt_method(name: str, thing: Any, *, summary: str = "") -> Method:
    """Return ``thing``, a :class:`Method` or the class of an algorithm, as a method with the given name.

    A bare class runs with its own step or loop, or with the rule ``ddpm`` if it has neither.

    Args:
        name: Name of the method.
        thing: The object found under that name.
        summary: One-line summary. Default: its own, or the first line of the docstring of its algorithm.

    Raises:
        TypeError: If it is neither.
    """
    if _is_algorithm(thing):
        thing = Method(thing, rule=None if thing.own_step else "ddpm")
    if not isinstance(thing, Method):
        what = name or f"method {thing!r:.80}"
        raise TypeError(
            f"{what}: expected a Method, or a class derived from ConditionalDenoiser, Correction, Transition, Sampler or "
            f"ParticleMethod (invdiff.methods), got {type(thing).__name__}."
        )
    first_line = (thing.algorithm.__doc__ or "").strip().partition("\n")[0].rstrip(".")
    return replace(thing, name=name, summary=summary or thing.summary or first_line)


def _is_algorithm(thing: Any) -> bool:
    return isinstance(thing, type) and issubclass(thing, Algorithm)
