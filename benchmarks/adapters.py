r"""Check the linear physics of deepinv, wrapped by ``from_deepinv``, with operator tests: ``python benchmarks/adapters.py``.

Requires deepinv. Every class of ``deepinv.physics.LinearPhysics`` that can be built from the arguments below is built, at the
first image shape that it accepts. All comparisons are in float32, with relative tolerances: the adjoint relative to
:math:`|A x| |y|`, the solve at a hundredth of the largest eigenvalue of :math:`A A^\top` relative to :math:`|v|`, and the
pseudo-inverse by :math:`A A^+ A x` relative to :math:`|A x|`.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import textwrap
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from tabulate import tabulate

from invdiff.linalg import dot, norm
from invdiff.operators import LinearOperator, Operator, from_deepinv, gaussian_kernel

SHAPES = [(3, 16, 16), (1, 16, 16), (2, 16, 16)]
ARGUMENTS: dict[str, Any] = {"m": 100, "angles": 12, "img_width": 16, "filter": gaussian_kernel(1.0, 5).float()[None, None]}


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        deepinv: Any = importlib.import_module("deepinv")
        classes = sorted(set(subclasses(deepinv.physics.LinearPhysics)), key=lambda cls: cls.__name__)
        lines = [line for cls in classes if (line := judged(cls)) is not None]
    headers = ["deepinv.physics", "x", "y", "adjoint", "solve", "pseudo-inverse", "remark"]
    print(f"`python benchmarks/adapters.py`; deepinv {deepinv.__version__}, torch {torch.__version__}.\n")
    print(tabulate(lines, headers, tablefmt="github", floatfmt=".0e", missingval="-"))


def subclasses(base: type) -> Iterator[type]:
    for child in base.__subclasses__():
        yield from (child, *subclasses(child))


def judged(cls: type) -> list[Any] | None:
    """Return the row of a class; None for those that cannot be built of so little."""
    parameters = inspect.signature(cls).parameters
    for shape in SHAPES:
        known = {**ARGUMENTS, "img_size": shape}
        try:
            physics = cls(**{name: value for name, value in known.items() if name in parameters})
            assert physics.A(torch.rand(1, *shape)).isfinite().all()
        except Exception:  # Whatever it is that this class lacks, or dislikes about the shape.
            continue
        remark = ""
        try:
            try:
                op = from_deepinv(physics, shape, sigma_y=0.0)
            except ValueError:
                op, remark = from_deepinv(physics, shape, sigma_y=0.0, autodiff=True), "its A_adjoint is none: autodiff=True"
        except (RuntimeError, TypeError) as error:
            return [cls.__name__, shape, None, None, None, None, textwrap.shorten(str(error), 80, placeholder=" ...")]
        return [cls.__name__, shape, op.out_shape, *laws(op), remark]
    return None


def laws(op: Operator) -> list[float]:
    assert isinstance(op, LinearOperator)
    g = torch.Generator().manual_seed(0)
    x, v = (torch.randn(3, *shape, generator=g) for shape in (op.in_shape, op.out_shape))
    assert op.svd is not None
    lam = 0.01 * float(op.svd.singular.amax()) ** 2
    w, a_x = op.solve(v, lam), op(x)
    gaps = [
        (dot(a_x, v) - dot(x, op.adjoint(v))).abs() / (norm(a_x) * norm(v)),
        norm(op(op.adjoint(w)) + lam * w - v) / norm(v),
        norm(op(op.pinv(a_x)) - a_x) / norm(a_x),
    ]
    return [float(gap.max()) for gap in gaps]


if __name__ == "__main__":
    main()
