"""Degrade photographs and restore them: ``python benchmarks/images.py FOLDER --kernel KERNEL``.

Prints one table for every row of ``images_cases.py`` (text, randomly missing pixels, a hole, two blurs, each circular and
cropped from a larger blurred image, super-resolution, mosaics, JPEG), with one line per method: classical restorers, the
previous default of ``invdiff solve`` (``old-default``), its present default (``new-default``), and methods by name, each with
its own steps. The metrics are those of ``images_judge.py``. For a classical restorer, the best of a list of parameters is used,
selected with knowledge of the truth for the mean over all photographs.

Photographs named by ``--used`` were used to choose settings, the others never: every mean is given over all photographs and
over the unused ones. Finished cells are kept in the JSON file under a digest of all their settings and not computed again.
``--redo`` recomputes the named methods, which is necessary when their code changed but their settings did not; ``--tables``
computes nothing. ``--check`` reports which criteria of ``images_tables.py`` the new default meets, and exits with 1 if one
fails.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import platform
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from images_cases import CLASSICAL, COLUMNS, NEW, OLD, ROWS, Case, cases, centre, in_full, settings_of
from images_judge import classical_figures, judge
from images_tables import Cells, check_table, details, overview
from torch import Tensor
from tqdm import tqdm

import invdiff
from invdiff.io.figures import comparison_panel
from invdiff.io.images import atomic_write, list_images, read_image, read_kernel, read_mask
from invdiff.priors import load_prior
from invdiff.priors.load import PRECISIONS
from invdiff.priors.network import NetworkPrior

HERE = Path(__file__).parent
USED = ("kingfisher", "lighthouse", "parrots", "treefrog")
REFUSED = "does not apply"
PHOTOGRAPHS = ("kingfisher", "lagoon", "lighthouse", "market", "parrots", "portrait", "treefrog", "traffic")


def main() -> None:
    options = arguments()
    photographs = pick(options.folder, options.photographs)
    score = load_prior(options.prior, precision=options.precision, device=options.device)
    rows = [row for row in ROWS if row in (options.only or ROWS)]
    methods = [column for column in COLUMNS if column in options.methods]
    cells = fill(score, photographs, rows, methods, options)

    names = [path.stem for path in photographs]
    held_out = [name for name in names if not name.startswith(tuple(options.used))]
    print(f"`{command(options)}`; {machine(score)}.\n")
    print(f"{len(names)} photographs, the centre {options.size} x {options.size} pixels or less: {', '.join(names)}.")
    print(f"Never used for a choice, {len(held_out)}: {', '.join(held_out) or 'none'}. Means: all / never used.\n")
    print(overview(cells, rows, methods, names, held_out))
    for row in rows:
        print(f"\n### {row}\n\n{details(row, cells, methods, names, held_out, options.samples)}")
    if options.check:
        table, passed = check_table(cells, rows, methods, names, held_out, options.samples)
        print(f"\n### Criteria\n\n{table}")
        sys.exit(0 if passed else 1)


def fill(
    score: NetworkPrior, photographs: Sequence[Path], rows: Sequence[str], methods: Sequence[str], options: argparse.Namespace
) -> dict[tuple[str, str], Cells]:
    """Return the cells of every row and method by photograph, from the JSON file or computed and put there."""
    done: dict[str, Any] = json.loads(options.out.read_text()) if options.out.exists() else {"settings": {}, "cells": {}}
    if "cells" not in done:
        sys.exit(f"{options.out} was not written by this script. Give another --out.")
    mask, kernel = read_mask(options.mask), read_kernel(options.kernel)
    cells: dict[tuple[str, str], Cells] = {(row, method): {} for row in rows for method in methods}
    with tqdm(total=len(photographs) * len(rows) * len(methods), unit=" cells", disable=None) as bar:
        for path in photographs:
            clean = centre(colour(path), (options.size, options.size))
            available = cases(clean.shape[1:], mask=mask, kernel=kernel)
            photograph = f"{path.stem} {hashlib.sha256(clean.numpy().tobytes()).hexdigest()[:8]}"
            for row, method in itertools.product(rows, methods):
                bar.set_postfix_str(f"{path.stem}, {row}, {method}")
                case = available[row]
                sampler = settings_of(method, case, score, case.measurement(case.problem.fit(clean)))
                record = record_of(score, case, clean, method, sampler, options.samples)
                digest = hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()[:12]
                key = f"{row}/{photograph}/{method}/{digest}"
                # A refusal costs nothing to ask for again, and the library may have learned since.
                refused = done["cells"].get(key, {}).get("why") == REFUSED
                wanted = key not in done["cells"] or refused or method in options.redo
                if sampler is None:
                    cells[row, method][path.stem] = {"why": "no such method"}
                elif wanted and not options.tables:
                    panel = options.panels / f"{path.stem}-{row}-{method}.png" if options.panels else None
                    done["cells"][key] = restore(score, case, clean, method, sampler, options.samples, panel)
                    done["settings"][digest] = record
                    options.out.parent.mkdir(parents=True, exist_ok=True)
                    with atomic_write(options.out) as part:
                        part.write_text(json.dumps(done, indent=1) + "\n")
                if key in done["cells"]:
                    cells[row, method][path.stem] = done["cells"][key]
                bar.update()
    return cells


def record_of(
    score: NetworkPrior, case: Case, clean: Tensor, method: str, sampler: Mapping[str, Any] | None, samples: int
) -> dict[str, Any]:
    """Return all that a cell depends on but the photograph."""
    record = {"size": list(clean.shape[-2:]), "measurement": dict(case.about)}
    if method == CLASSICAL or sampler is None:
        return {**record, "restorers": list(case.classical)}
    return {**record, **described(score), "samples": samples, "sampler": in_full(sampler)}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="photographs")
    parser.add_argument("--kernel", required=True, help="camera-shake kernel: image, .npy, or .npz:name")
    parser.add_argument(
        "--mask", type=Path, default=HERE.parent / "examples" / "mask.png", help="text, white = fill (default: the example's)"
    )
    parser.add_argument(
        "--size", type=int, default=256, help="largest side; center crop of larger images (default: %(default)s)"
    )
    parser.add_argument("--samples", type=int, default=6, help="samples, at least 2 (default: %(default)s)")
    parser.add_argument(
        "--photographs",
        nargs="+",
        metavar="NAME",
        default=list(PHOTOGRAPHS),
        help=f"name prefixes, or the number to take from this list: {' '.join(PHOTOGRAPHS)} (default: all of them)",
    )
    parser.add_argument(
        "--used",
        nargs="*",
        metavar="NAME",
        default=list(USED),
        help=f"photographs used to choose settings (default: {' '.join(USED)})",
    )
    parser.add_argument("--only", nargs="+", choices=ROWS, metavar="ROW", help=f"rows: {', '.join(ROWS)} (default: all)")
    parser.add_argument(
        "--methods",
        nargs="+",
        choices=COLUMNS,
        metavar="METHOD",
        default=[column for column in COLUMNS if column != "dps"],
        help=f"{', '.join(COLUMNS)} (default: all but dps, which takes 1,000 gradients per sample)",
    )
    parser.add_argument("--redo", nargs="+", choices=COLUMNS, metavar="METHOD", default=[], help="compute these again")
    parser.add_argument("--prior", default="natural", help="name or file (default: %(default)s)")
    parser.add_argument(
        "--precision", choices=PRECISIONS, default="auto", help="precision of the network (default: %(default)s)"
    )
    parser.add_argument("--device", default="cpu", help="of the network and the samplers (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=HERE / "images.json", help="(default: benchmarks/images.json)")
    parser.add_argument("--tables", action="store_true", help="compute nothing, print the tables of the saved results")
    parser.add_argument("--check", action="store_true", help="report which criteria hold")
    parser.add_argument("--panels", type=Path, help="folder for comparison panels")
    options = parser.parse_args()
    if options.samples < 2:
        parser.error("--samples must be at least 2, to estimate the standard deviation")
    if options.check and not {OLD, NEW} <= set(options.methods):
        parser.error(f"--check holds {NEW} to {OLD}: --methods lacks one of them")
    return options


def pick(folder: Path, wanted: Sequence[str]) -> list[Path]:
    """Return the photographs whose names begin as wanted."""
    if len(wanted) == 1 and wanted[0].isdigit():
        wanted = PHOTOGRAPHS[: int(wanted[0])]
    there, found = list_images(folder), []
    for name in wanted:
        photographs = [path for path in there if path.stem.startswith(name)]
        if not photographs:
            sys.exit(f"{folder} holds no photograph {name!r}: name others with --photographs.")
        found += photographs
    return found


def colour(path: Path) -> Tensor:
    """Return a photograph ``(1, 3, H, W)``, a grey one with three equal colours."""
    pixels = torch.from_numpy(read_image(path).pixels).float()
    return pixels.expand(3, -1, -1)[None]


def restore(
    score: NetworkPrior,
    case: Case,
    clean: Tensor,
    method: str,
    sampler: Mapping[str, Any],
    samples: int,
    panel: Path | None,
) -> dict[str, Any]:
    """Restore one photograph by one method, and return the figures, or why there are none."""
    problem, clean = case.problem, case.problem.fit(clean)
    op = case.measurement(clean)
    y, truth, device = op.measure(clean, seed=0), case.judged(clean), next(iter(score.weights)).device
    if method == CLASSICAL:
        return {name: classical_figures(restorer(y), truth) for name, restorer in case.classical.items()}
    wall, processor = time.perf_counter(), time.process_time()
    try:
        run = invdiff.PosteriorSampler(score, op, **sampler).run
        post = run(y.to(device), num_samples=samples, seed=0, progress=sys.stderr.isatty())
    except invdiff.DivergenceError as error:
        return {"why": "diverged", "message": str(error)}
    except ValueError as error:
        return {"why": REFUSED, "message": str(error)}
    wall, processor = time.perf_counter() - wall, time.process_time() - processor
    results = case.judged(problem.finish(post.samples[:, 0].cpu(), y.expand(samples, *y.shape[1:]), op))
    if panel is not None:
        panel.parent.mkdir(parents=True, exist_ok=True)
        tiles = {"truth": truth[0], "measured": problem.preview(y)[0], "mean": results.mean(0), "sample": results[0]}
        comparison_panel(panel, {title: tile.numpy() for title, tile in tiles.items()}, std=results.std(0).numpy())
    return judge(results, truth, known=case.known) | {
        "misfit": round(float(post.residual.mean()) / float(torch.as_tensor(post.dof)), 4) if op.sigma_y else None,
        "forwards": post.nfe,
        "VJPs": post.nvjp,
        "seconds": round(wall, 1),
        "processor": round(processor, 1),
        "ran": f"{post.method}, {post.options['rule']}, {post.options['steps']} steps",
    }


def command(options: argparse.Namespace) -> str:
    """Return what made the tables, without the paths."""
    parts = ["python benchmarks/images.py FOLDER --kernel KERNEL", f"--size {options.size} --samples {options.samples}"]
    parts.append(f"--photographs {' '.join(options.photographs)}")
    parts += [f"--only {' '.join(options.only)}"] if options.only else []
    return " ".join([*parts, f"--methods {' '.join(options.methods)}"])


def described(score: NetworkPrior) -> dict[str, str]:
    return {"prior": score.describe()["sha256"], "precision": str(score.autocast or torch.float32)}


def machine(score: NetworkPrior) -> str:
    threads, prior = torch.get_num_threads(), described(score)
    return (
        f"prior {prior['prior'][:12]} in {prior['precision']}; {platform.machine()}, {threads} "
        f"thread{'s' if threads > 1 else ''}, torch {torch.__version__}"
    )


if __name__ == "__main__":
    main()
