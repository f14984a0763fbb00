"""Values of command-line options: valid ones, the ends of their ranges, what lies beyond, and what is no value at all."""

from __future__ import annotations

from numpy.random import Generator

from invdiff.problems import PROBLEMS, Option

__all__ = ["COMMON", "NEEDED", "QUICK", "TEXTS", "any_value", "fitting", "picture_problem", "wild"]

QUICK = ("--prior", "prior.safetensors", "--precision", "float32", "--steps", "2", "--samples", "2")

# Arguments that make a problem of a picture or a simulation complete, by problem.
NEEDED: dict[str, list[str]] = {
    "inpaint": ["--mask", "mask.png"],
    "outpaint": ["--margin", "2"],
    "denoise": ["--noise", "0.1"],
    "deblur": ["--kernel", "gaussian:0.5"],
    "defocus": ["--radius", "1.5"],
    "motion-deblur": ["--length", "3", "--angle", "30"],
    "sr": ["--factor", "2"],
    "demosaic": ["--pattern", "RGGB"],
    "declip": ["--clip-high", "0.9"],
    "dequantize": ["--levels", "8"],
    "dejpeg": ["--jpeg-quality", "40", "--simulate"],
    "compressed-sensing": ["--ratio", "0.3", "--noise", "0.1", "--simulate"],
    "phase-retrieval": ["--codes", "2", "--noise", "0.1", "--simulate"],
    "mri": ["--acceleration", "2", "--noise", "0.1", "--simulate"],
    "ct": ["--angles", "5", "--noise", "0.1", "--simulate"],
    "operator": ["--operator", "own.py:Mirrored", "--noise", "0.1"],
}

COSTLY = ("angles", "codes", "coils")  # what a large number of takes long, and is no mistake

WILD = (
    "",
    "-1",
    "0",
    "nan",
    "inf",
    "-inf",
    "1e300",
    "1e-300",
    "99999999999999999999",
    "0x10",
    "1,2",
    "½",
    "٣",
    "text",
    "=",
    "\x1b[1m",
)

# Options of `invdiff solve` for every problem, with values that are valid, at a limit, or wrong.
COMMON: dict[str, tuple[str, ...]] = {
    "--noise": (
        *("0", "0.02", "auto", "poisson:40", "poisson:40,0.01", "poisson:0", "poisson:nan", "laplace:0.1", "student:0.1,3"),
        *(
            "student:0.1",
            "student:0.1,1e-300",
            "laplace:1e300",
            "1e-320",
            "1e-30",
            "1e38",
            "1e300",
            "uniform:3",
            "auto:3",
            ":",
            "40",
        ),
    ),
    "--samples": ("1", "2", "3"),
    "--method": (
        *(
            "auto",
            "mmps",
            "dps",
            "ddrm",
            "pigdm",
            "handover",
            "exact-score",
            "mcg-diff",
            "tds",
            "fps",
            "red-diff",
            "snips",
            "daps",
        ),
        *(
            "repaint",
            "ilvr",
            "ddnm",
            "diffpir",
            "pnp-dm",
            "langevin",
            "unconditional",
            "mmsp",
            "own.py:Mirrored",
            "own.py:",
            ":",
        ),
    ),
    "--steps": ("1", "2", "3", "99999999999999999999"),
    "--rule": ("ddpm", "ddim", "heun", "matched", "euler"),
    "--quality": ("fast",),
    "--preset": ("paper",),
    "--option": (
        *(
            "zeta=0.5",
            "zeta=",
            "zeta",
            "=3",
            "zetta=0.5",
            "eta=1e300",
            "eta=-1",
            "max_iterations=0",
            "max_iterations=1.5",
            "ratio_max=0",
        ),
        *(
            "ratio_max=1e-300",
            "ratio_max=1e300",
            "products=-1",
            "particles=0",
            "products=1",
            "ratio_min=100",
            "root_iterations=0",
        ),
    ),
    "--prior-option": ("heads=8", "heads", "label=1", "device=cpu", "x=y=z", "tile=3"),
    "--precision": ("float32", "bfloat16", "float16", "float64"),
    "--device": ("cpu", "cuda:99", "tpu", "meta", "", "cpu:7", "mps"),
    "--tile": ("2", "8", "16", "64", "1"),
    "--overlap": ("0", "2", "8", "1000"),
    "--seed": ("0", "4294967296", "18446744073709551615", "99999999999999999999999"),
    "--first-sample": ("0", "4", "1000000000", "99999999999999999999"),
    "--chunk": ("1", "2", "99999999999999999999"),
    "--intervals": ("90", "50", "33"),
    "--calibration": ("natural", "mask.png", "missing.json", "."),
    "--black": ("0", "0.1", "2", "-1"),
    "--white": ("1", "255", "0", "4095", "-1"),
    "--simulate": (),
    "--npz": (),
    "--json": (),
    "--checkpointing": (),
    "--overwrite": (),
    "--nonsense": ("1",),
}


def fitting(problem: str) -> list[str]:
    """Return the arguments that a problem needs."""
    return list(NEEDED.get(problem, ()))


def picture_problem(rng: Generator) -> list[str]:
    """Return a problem on pictures with what it needs, sometimes to be simulated."""
    names = [name for name in NEEDED if name != "operator"]
    chosen = str(rng.choice(names))
    arguments = ["--problem", chosen, *fitting(chosen)]
    if chosen == "dejpeg" and rng.random() < 0.5:
        arguments = ["--problem", "dejpeg"]
    if chosen in ("denoise", "deblur", "sr", "inpaint") and rng.random() < 0.2:
        arguments += ["--noise", "auto"]
    if "--simulate" not in arguments and rng.random() < 0.2:
        arguments += ["--simulate"]
    return arguments


def wild(rng: Generator) -> list[str]:
    """Return one to three options with values that may be anything, and their values."""
    problem = str(rng.choice(list(PROBLEMS)))
    arguments = ["--problem", problem, *fitting(problem)]
    own = list(PROBLEMS[problem].options)
    for _ in range(int(rng.integers(1, 4))):
        if own and rng.random() < 0.5:
            option = own[int(rng.integers(len(own)))]
            arguments += [option.flag, any_value(rng, option)]
        else:
            flag = str(rng.choice(list(COMMON)))
            values = COMMON[flag] + (WILD if rng.random() < 0.3 else ())
            arguments += [flag, str(rng.choice(values))] if COMMON[flag] else [flag]
    return arguments


def any_value(rng: Generator, option: Option) -> str:
    """Return a value for a declared option: within its range, at the ends of it, just outside, or nothing of the kind."""
    if rng.random() < 0.25:
        return str(rng.choice(WILD))
    if option.kind == "FILE":
        return str(rng.choice(["mask.png", "in.png", "missing.png", ".", "own.py", "prior.safetensors"]))
    if option.kind == "TEXT":
        return str(rng.choice(TEXTS))
    if isinstance(option.kind, tuple):
        return str(rng.choice([*option.kind, option.kind[0].swapcase(), option.kind[0][:-1]]))
    low = 0.0 if option.minimum is None else option.minimum
    high = 6.0 if option.maximum is None else option.maximum
    many = 100 if option.name in COSTLY else 1e4
    numbers = [low, high, low - 1, high + 1, (low + high) / 2, low + 1, low + 1e-6, 3, 5, many]
    number = numbers[int(rng.integers(len(numbers)))]
    return str(int(number)) if option.kind == "INTEGER" and rng.random() < 0.9 else f"{number:g}"


TEXTS = (
    *(
        "gaussian:1",
        "gaussian:0",
        "gaussian:-1",
        "gaussian:1e-300",
        "gaussian:nan",
        "gaussian:",
        "gaussian:1,2",
        "gaussian:1e300",
    ),
    *("gauss:1", "Gaussian:1", "motion:5,45", "motion:4,45", "motion:5", "motion:-5,45", "motion:1e300,0", "motion:3,1e300"),
    *(
        "own.py:Mirrored",
        "own.py:missing",
        "own.py:",
        "own.py",
        ":Mirrored",
        "missing.py:Mirrored",
        "os:getcwd",
        "own.py:number",
    ),
    *("red", "#ffffff", "#fff", "rgb(255,0,0)", "rgb(999,0,0)", "hsl(0,100%,50%)", "hsl(nan,1%,1%)", "#12345", "transparent"),
    *(
        "kernels.npz:a",
        "kernels.npz:zz",
        "kernels.npz",
        "kernels.npz:",
        "mask.png",
        "in.png",
        ".",
        "missing.npz:a",
        "prior.safetensors",
    ),
)
