"""The base class of all algorithms: a prior, a measurement, and the declared properties of the algorithm."""

from __future__ import annotations

from abc import ABC
from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor

from invdiff.methods.denoised import Denoised
from invdiff.methods.options import options_of
from invdiff.methods.requirements import check_declared, check_needs
from invdiff.operators import Operator
from invdiff.priors import ScoreModel

__all__ = ["Algorithm"]


class Algorithm(ABC):  # noqa: B024 (its kinds have abstract methods)
    r"""An algorithm that samples :math:`p(x_0 | y)`: the base of guidance, samplers and particle methods.

    Options are keyword-only arguments of the constructor of a subclass.

    Args:
        score: The prior.
        op: The measurement, with its noise model.
        y: Measurement, ``(B, *op.out_shape)``, one row per sample.

    Attributes:
        needs: Properties required of the measurement, keys of :data:`invdiff.methods.requirements.NEEDS`.
        any_noise: Whether it accepts noise other than white Gaussian noise.
        one_operator: Whether all rows must share one operator. If so, items with different operators
            (:func:`invdiff.operators.algebra.per_item`) are run one after the other.
        own_step: Whether the algorithm has its own step or loop, which it uses when no rule is given.
        follows_rules: Whether it can be run with a step rule.
        can_draw: Whether it can draw from its approximation of :math:`p(x_0 | x_t, y)`, for rules that follow draws.
        differentiates: Whether it takes vector-Jacobian products of the network. Only then is the autograd graph kept.
        starts_high: Whether it works well when started from the largest noise level of a network. Methods that differentiate
            the network do not.
        in_windows: Whether samples may be computed in windows of an image around missing entries, where the measurement gives
            exactly what surrounds them: nothing but the prior and the solves relates a place to distant ones.
        passes_options_to: The algorithm that receives the options collected by ``**`` in the constructor.

    Raises:
        ValueError: If the measurement lacks what the algorithm needs. On the definition of a subclass: if ``needs`` has an
            unknown name.
        TypeError: On the definition of a subclass: if ``needs`` is not a tuple of names.
    """

    needs: ClassVar[tuple[str, ...]] = ()
    any_noise: ClassVar[bool] = False
    one_operator: ClassVar[bool] = False
    own_step: ClassVar[bool] = False
    follows_rules: ClassVar[bool] = False
    can_draw: ClassVar[bool] = False
    differentiates: ClassVar[bool] = False
    starts_high: ClassVar[bool] = False
    in_windows: ClassVar[bool] = False
    passes_options_to: ClassVar[type[Algorithm] | None] = None

    def __init_subclass__(cls, **arguments: Any) -> None:
        super().__init_subclass__(**arguments)
        check_declared(cls.__name__, cls.needs)

    def __init__(self, score: ScoreModel, op: Operator, y: Tensor) -> None:
        check_needs(type(self).__name__, op, self.needs, any_noise=self.any_noise, one_operator=self.one_operator)
        self.score, self.op, self.y = score, op, y

    @classmethod
    def relative_cost(cls, ratio: float, options: Mapping[str, Any]) -> float:
        """Return the time of a step at a noise-to-signal ratio relative to other steps, for estimates of the time of a run.

        Args:
            ratio: The noise-to-signal ratio at the start of the step.
            options: Options of the algorithm.
        """
        return 1.0

    def at(self, x_t: Tensor, t: Tensor) -> Denoised:
        """Return the state ``x_t`` at time ``t`` as the loop passes it to the algorithm. The network runs on first use."""
        return Denoised(self.score, x_t, t, differentiable=self.differentiates)

    def __repr__(self) -> str:
        options = {name: getattr(self, name) for name in options_of(type(self)) if hasattr(self, name)}
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in options.items())})"
