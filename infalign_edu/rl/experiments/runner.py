"""The runner of the paper's experiments at classroom scale: a grid of cells -> data/runs/NAME.csv and NAME_pairs.csv.

    python experiments/run.py frontiers [--quick] [--jobs 2]

NAME.toml beside this file says what is trained, on which seeds, and which pairs are compared. A stopped or killed sweep
goes on with the next group of cells; the group that was in training is done again. NAME.csv has a row for each cell,
procedure and judge; NAME_pairs.csv the paired differences, with intervals over prompts and seeds. Both are written anew
after each group, whole, beside the cells as long as some are missing: half a table never replaces a whole one. --quick
takes the config's small form, writes to runs/quick/, and prints what that can and can't show; `quick` is the same for
notebooks, a cell at a time.
"""

from __future__ import annotations

import argparse
import csv
import io
import itertools
import multiprocessing
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from infalign_edu import atomic
from infalign_edu.rl.experiments.cells import run
from infalign_edu.rl.experiments.design import JUDGES, Cell, Found, Setting, cells, groups, load, setting
from infalign_edu.rl.experiments.pairs import comparisons

ROOT = Path(__file__).parents[3]


def commit() -> str:
    """The commit that is run, with a + where the working tree differs."""
    told = subprocess.run(["git", "describe", "--always", "--dirty=+"], cwd=ROOT, capture_output=True, text=True)
    return told.stdout.strip() or "unknown"


def store(folder: Path, found: Found, shared: Setting, about: dict[str, str]) -> None:
    """Keeps a judged cell as one .npz, whole or not at all."""
    told = {"kl": found.kl, "matched": found.matched, "beta": found.beta, "steps": found.steps, "said": found.said,
            "cpu_seconds": round(found.cpu_seconds, 1), "setting": shared, **about}  # fmt: skip
    names = np.array([f"{key}={value}" for key, value in told.items()])
    theory = np.array(list(found.theory.values()))
    atomic.write_arrays(folder / f"{found.cell.name}.npz", rates=found.win_rates, theory=theory, about=names)


def stored(folder: Path, cell: Cell, shared: Setting) -> dict[str, Any] | None:
    """A judged cell read back, None if it has not been run; one of an earlier version does not say its setting.

    Raises: ValueError naming a file that is damaged or was made with another setting.
    """
    file, again = folder / f"{cell.name}.npz", "remove it, and the same command makes it again"
    if not file.exists():
        return None
    try:
        saved = atomic.read_arrays(file)
        about = dict(str(entry).split("=", 1) for entry in saved.pop("about"))
    except (KeyError, ValueError) as error:
        told = str(error) if str(file) in str(error) else f"{str(file)!r} must hold what `store` wrote"
        raise ValueError(f"cell {told}; {again}") from None
    if (made := about.get("setting", str(shared))) != str(shared):
        raise ValueError(f"cell {str(file)!r} must be made with {shared}, got {made}; {again}")
    return about | saved


def rows(cell: Cell, found: dict[str, Any], procedures: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    """The CSV rows of one cell: one for each procedure and judge."""
    about = {name: found[name] for name in ("matched", "beta", "steps", "said", "cpu_seconds", "commit", "command")}
    for (j, judge), (i, shown) in itertools.product(enumerate(JUDGES[: len(found["rates"])]), enumerate(procedures)):
        per_prompt = found["rates"][j, i]
        yield {
            **{f"target_{k}" if k == "kl" else k: v for k, v in asdict(cell).items() if k not in ("steps",)},
            "shown": shown,
            "judge": judge,
            "kl": f"{float(found['kl']):.4f}",
            "win_rate": f"{per_prompt.mean():.4f}",
            "stderr": f"{per_prompt.std(ddof=1) / len(per_prompt) ** 0.5:.4f}",
            "theory": f"{found['theory'][i]:.4f}",
            **about,
        }


def write(path: Path, table: list[dict[str, Any]]) -> None:
    """A table as CSV, whole or not at all."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(table[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(table)
    atomic.write_text(path, text.getvalue())


def summarise(config: dict[str, Any], folder: Path, out: Path, name: str) -> None:
    """Writes the two CSV files from the cells that are done: to `out` when all are, else to `folder`."""
    shared, grid = setting(config), cells(config)
    done = {cell: found for cell in grid if (found := stored(folder, cell, shared))}
    out = out if len(done) == len(grid) else folder
    if done:
        write(
            out / f"{name}.csv", [row for cell, found in done.items() for row in rows(cell, found, shared.procedures)]
        )
    if compared := comparisons(config.get("pairs", []), done, shared.procedures):
        write(out / f"{name}_pairs.csv", compared)
    for half in folder.glob(f"{name}*.csv") if out != folder else ():
        with atomic.writing(half):
            half.unlink()


def quick(name: str, part: int) -> dict[str, float]:
    """One cell of an experiment's small form, run here and now: its KL, and its win rates by procedure.

    Example:
        >>> quick("frontiers", 0)["best-of-4"]   # doctest: +SKIP
        0.74
    """
    config = load(name, quick=True)
    shared, grid = setting(config), cells(config)
    if not 0 <= part < len(grid):
        raise ValueError(f"part must be between 0 and {len(grid) - 1} for {name}, got {part}")
    (found,) = run((grid[part],), shared)
    rates = dict(zip(shared.procedures, found.win_rates[0].mean(-1), strict=True))
    return {"kl": found.kl, **{shown: float(rate) for shown, rate in rates.items()}}


def sweep(name: str, config: dict[str, Any], folder: Path, out: Path, asked: argparse.Namespace) -> None:
    """Runs the groups that are not done yet, in processes of their own, and writes the tables after each."""
    if asked.jobs < 1:
        raise ValueError(f"jobs must be at least 1, got {asked.jobs}")
    if unknown := sorted({*(asked.seeds or ())} - {*config["seeds"]}):
        raise ValueError(f"seeds must be among {config['seeds']}, got {unknown}")
    about = {"command": f"python experiments/run.py {name}" + " --quick" * asked.quick, "commit": commit()}
    shared = setting(config)
    waiting = [group for group in groups(cells(config)) if any(stored(folder, cell, shared) is None for cell in group)]
    waiting = [group for group in waiting if not asked.seeds or group[0].seed in asked.seeds]
    spawn = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(asked.jobs, spawn, initializer=end_with_parent)
    with pool, tqdm(total=len(waiting), desc=name) as bar:
        try:
            for future in as_completed([pool.submit(run, group, shared) for group in waiting]):
                for found in future.result():
                    store(folder, found, shared, about)
                summarise(config, folder, out, name)
                bar.update()
        except BaseException as stop:
            pool.shutdown(cancel_futures=True)
            if isinstance(stop, KeyboardInterrupt):
                sys.exit(f"stopped: {bar.n} of {bar.total} groups of cells done; the same command goes on")
            raise
    summarise(config, folder, out, name)


def end_with_parent() -> None:
    """Lets a worker end as soon as the sweep that started it has: killed, it can't tell its workers to."""
    parent = multiprocessing.parent_process()
    if parent is not None:

        def watch() -> None:
            parent.join()
            os._exit(1)

        threading.Thread(target=watch, daemon=True).start()


def main(arguments: list[str] | None = None) -> None:
    """Runs the cells that are not done yet, and writes the tables; a mistake ends in one line and status 2."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("name", help="a config beside this file: frontiers, ...")
    options.add_argument("--quick", action="store_true", help="the small form, in minutes")
    options.add_argument("--jobs", type=int, default=1, help="groups of cells at a time, one core each")
    options.add_argument("--seeds", type=int, nargs="*", help="only these seeds")
    asked = options.parse_args(arguments)
    folder = ROOT / "runs" / ("quick" if asked.quick else "experiments") / asked.name
    out = ROOT / "runs" / "quick" if asked.quick else ROOT / "data" / "runs"
    try:
        config = load(asked.name, asked.quick)
        with atomic.held(folder, "sweep"):
            for table in (f"{asked.name}.csv", f"{asked.name}_pairs.csv"):
                atomic.clear(out, table)
            sweep(asked.name, config, folder, out, asked)
    except (ValueError, OSError, BrokenProcessPool) as error:
        print(f"experiments: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)
    if asked.quick:
        print(config["shows"])


if __name__ == "__main__":
    main()
