"""The step rules by name."""

from __future__ import annotations

from collections.abc import Mapping

from invdiff.methods.steps.ddim import DDIM
from invdiff.methods.steps.heun import Heun
from invdiff.methods.steps.matched import Matched
from invdiff.methods.steps.rule import StepRule

__all__ = ["RULES"]

RULES: Mapping[str, StepRule] = {"ddpm": DDIM(eta=1.0), "ddim": DDIM(eta=0.0), "heun": Heun(), "matched": Matched()}
