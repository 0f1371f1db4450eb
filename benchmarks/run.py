"""Speed against peers: prints each row as it is done and keeps it in data/runs/bench.csv.

    python benchmarks/run.py                     the table (about twenty minutes on one core)
    python benchmarks/run.py --only sampling     rows whose name starts so; may be given more than once
    python benchmarks/run.py --quick             small sizes, a minute or two, to runs/quick/bench.csv
    python benchmarks/run.py --long              also the race to 90 % of the lift, and torch.compile (ten minutes)
    python benchmarks/run.py --notebooks         also every notebook, from the first cell to the last

Every ratio is taken against a peer in the same run, in turns, in CPU time on one thread, after a check that both
compute the same. A row that is done is kept when the run is stopped; rows of an earlier run stay, with their commit.
How time and memory grow is a table of its own, data/runs/bench_growth.csv.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch and NumPy are imported
os.environ.setdefault("HF_HUB_OFFLINE", "1")
ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402

from benchmarks import growth, table  # noqa: E402
from benchmarks.rows import choices, course, lift, method, sampling, training, trl_peer  # noqa: E402
from benchmarks.table import Row  # noqa: E402

Bench = Callable[[], list[Row]]


def benches(options: argparse.Namespace) -> dict[str, Bench]:
    """Every bench by the name of its first row, in the order of the table."""
    quick, pairs = options.quick, options.pairs
    found: dict[str, Bench] = {}

    def add(name: str, work: Callable[[], Row]) -> None:
        found[name] = lambda: [work()]

    sizes = (training.TINY,) if quick else training.SIZES
    if trl_peer.installed():
        for size in sizes:
            add(f"rl-step-{size.name}", partial(training.step, size, max(pairs, 2 if quick else 9)))
            add(f"rl-update-{size.name}", partial(training.update, size, pairs))
        add(f"rl-memory-{sizes[-1].name}", partial(training.memory_row, sizes[-1], 1 if quick else 3))
        if options.long:
            found["lift"] = partial(lift.race, quick)
    else:
        print("TRL is not installed: no rows of training (pip install 'infalign-edu[trl]')", flush=True)
    for size in sizes:
        add(f"sampling-{size.name}", partial(sampling.sampling, size, pairs, *((2, 4) if quick else ())))
    add("sampling-memory", partial(sampling.bounded, sizes[0], 1 if quick else 3, 8 if quick else sampling.BASE))
    betas = method.BETAS[::50] if quick else method.BETAS
    for name in choices.CHOICES:
        add(f"choice-{name}", partial(choices.step, name, 1 if quick else pairs, "tiny" if quick else "embedded"))
    if options.long:
        found["choice-compile"] = partial(choices.compiled, pairs)
    add("frontier", partial(method.frontier, pairs, betas))
    few = {"prompts": 2, "resamples": 50} if quick else {}
    for way in ("loop", "numpy"):
        add(f"win-rate-{way}", partial(method.bootstrap, pairs, way, **few))
    add("win-rate-large", partial(method.large, pairs, **({"prompts": 8} if quick else {})))
    for way in ("loop", "compare"):
        add(f"calibration-{way}", partial(method.calibration, pairs, way, *((250, 40) if quick else ())))
    add("import", partial(course.imported, pairs))
    add("first-plot", partial(course.first_plot, pairs))
    add("slider", course.sliders)
    if options.notebooks:
        found["notebook"] = course.notebooks
    return found


def run(options: argparse.Namespace, chosen: dict[str, Bench]) -> Iterator[tuple[Row, dict[str, str]]]:
    """Every row of the benches with its cells, those of the machine included, as it is done."""
    command = "python benchmarks/run.py" + "".join(f" {argument}" for argument in options.given)
    for bench in chosen.values():
        machine = table.machine(command)  # the load before the bench, not the one it makes
        for row in bench():
            yield row, row.cells() | machine


def grown(options: argparse.Namespace) -> None:
    """Prints every curve of growth and keeps it."""
    rows: list[dict[str, str]] = []
    for curve in growth.curves(options.quick):
        about = table.machine("")
        rows.append(curve.cells() | {name: about[name] for name in ("cpu", "cores", "load", "commit")})
        one = rows[-1]
        print(f"{one['what']:<28} {one['measure']:<7} against {one['against']:<18} x^{one['exponent']} "
              f"(r2 {one['r2']}): {one['costs']} {one['unit']} at {one['sizes']}", flush=True)  # fmt: skip
        table.write(options.out.with_name("bench_growth.csv"), rows, growth.COLUMNS)


def parsed(arguments: Sequence[str]) -> argparse.Namespace:
    """The options. Raises: SystemExit for those that can't be used."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", action="append", metavar="NAME", help="rows whose name starts so, or growth")
    parser.add_argument("--quick", action="store_true", help="small sizes, to runs/quick")
    parser.add_argument("--long", action="store_true", help="also the race to 90 %% of the lift, and torch.compile")
    parser.add_argument("--notebooks", action="store_true", help="also every notebook")
    parser.add_argument("--pairs", type=int, help="pairs of each ratio; default 5, with --quick 2")
    parser.add_argument("--out", type=Path, help="the table; default data/runs/bench.csv")
    options = parser.parse_args(arguments)
    options.given = list(arguments)
    options.pairs = options.pairs or (2 if options.quick else 5)
    options.out = options.out or ROOT / ("runs/quick" if options.quick else "data/runs") / "bench.csv"
    for name in options.only or ():
        options.long |= "lift".startswith(name) or "choice-compile".startswith(name)
        options.notebooks |= name.startswith("notebook")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    options = parsed(sys.argv[1:] if arguments is None else arguments)
    torch.set_num_threads(1)
    known = benches(options)
    wanted = tuple(options.only or ("",))
    chosen = {name: bench for name, bench in known.items() if name.startswith(wanted)}
    if not chosen and not "growth".startswith(wanted):
        raise SystemExit(f"--only must be the beginning of one of {', '.join(known)}, growth, got {options.only}")
    new: list[dict[str, str]] = []
    for _, cells in run(options, chosen):
        print(table.shown(cells), flush=True)
        new.append(cells)
        old = [] if options.quick else table.read(options.out)  # read anew: another run may have added rows
        table.write(options.out, table.merged(old, new, list(known)))
    if "growth".startswith(wanted):
        grown(options)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit("stopped; the rows that were printed are kept")
