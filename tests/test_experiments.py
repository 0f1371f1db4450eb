"""The experiments' runner: grids, paired intervals, verdicts, and a sweep that goes on where it was stopped."""

import csv
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest

from infalign_edu.rl.experiments import cells, pairs
from infalign_edu.rl.experiments import runner as run

ROOT = Path(__file__).parents[1]
CONFIGS = sorted(path.stem for path in (ROOT / "infalign_edu" / "rl" / "experiments").glob("*.toml"))


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("quick", [False, True])
def test_every_config_is_a_grid_of_distinct_cells_whose_pairs_exist(name, quick):
    config = run.load(name, quick)
    grid, shown = run.cells(config), run.setting(config).procedures
    assert len(grid) == len(set(grid)) == len({cell.name for cell in grid})
    done = {cell: {"matched": "True", "rates": np.zeros((2, len(shown), 3)), "theory": np.zeros(len(shown)),
                   "commit": "", "command": ""} for cell in grid}  # fmt: skip
    found = {row["claim"] for row in pairs.comparisons(config.get("pairs", []), done, shown)}
    assert quick or found == {pair["claim"] for pair in config["pairs"]}
    assert not quick or found
    assert not quick or config["shows"]


def test_the_headline_grid_is_the_one_that_a_claim_needs():
    grid = run.cells(run.load("frontiers", False))
    for transform in ("raw", "identity", "exp:10", "exp:-10", "log"):
        seeds = {(c.seed, c.kl) for c in grid if c.transform == transform and not c.control}
        assert seeds == {(s, kl) for s in range(5) for kl in (0.4, 0.8)}


def test_the_interval_covers_when_seeds_and_prompts_both_vary():
    rng, hits, draws = np.random.default_rng(0), 0, 400
    for _ in range(draws):
        d = rng.normal(0, 1, (5, 1)) + rng.normal(0, 2, (1, 40)) + rng.normal(0, 3, (5, 40))
        _, low, high = pairs.interval(d)
        hits += low <= 0 <= high
    assert 0.92 <= hits / draws <= 0.99


def test_an_interval_over_prompts_alone_would_miss_the_noise_of_seeds():
    rng, narrow = np.random.default_rng(1), 0
    for _ in range(200):
        d = rng.normal(0, 1, (5, 1)) + rng.normal(0, 0.1, (5, 40))
        mean = d.mean()
        half = 1.96 * d.mean(0).std(ddof=1) / 40**0.5
        narrow += abs(mean) <= half
    assert narrow / 200 < 0.2


def test_one_seed_is_a_paired_t_interval_over_prompts():
    d = np.random.default_rng(2).normal(0.3, 1, (1, 50))
    mean, low, high = pairs.interval(d)
    half = 2.009575 * d.std(ddof=1) / 50**0.5
    assert (low, high) == pytest.approx((mean - half, mean + half), abs=1e-6)


@pytest.mark.parametrize(
    "low, high, seeds, wanted, told",
    [(0.01, 0.05, 5, 1, "confirmed"), (0.01, 0.05, 2, 1, "indicative"), (-0.01, 0.05, 5, 1, "tied"),
     (-0.05, -0.01, 5, 1, "contradicted"), (-0.05, -0.01, 2, 1, "indicative, contradicted"),
     (-0.05, -0.01, 5, -1, "confirmed"), (0.01, 0.05, 1, 1, "one seed"),
     (-0.05, -0.01, 1, 1, "one seed, contradicted")],
)  # fmt: skip
def test_verdicts(low, high, seeds, wanted, told):
    assert pairs.verdict(low, high, seeds, wanted) == told


def test_a_pair_differs_in_what_it_names_and_only_there():
    a, b = (cells.Cell(transform=name, kl=0.4, seed=0) for name in ("exp:10", "identity"))
    other = cells.Cell(transform="identity", kl=0.8, seed=0)
    rates = {a: 0.75, b: 0.7, other: 0.1}
    done = {cell: {"matched": "True", "rates": np.full((2, 1, 4), rate), "theory": np.array([rate]), "commit": "c",
                   "command": "d"} for cell, rate in rates.items()}  # fmt: skip
    asked = [{"claim": "x", "policy": {"transform": "exp:10"}, "baseline": {"transform": "identity"}, "shown": ["s"]}]
    rows = pairs.comparisons(asked, done, ["s"])
    assert [row["difference"] for row in rows] == ["0.0500", "0.0500"] and rows[0]["policy"] == "exp:10"
    done[a]["matched"] = "False"
    assert pairs.comparisons(asked, done, ["s"]) == []


def test_policies_are_interpolated_and_never_extrapolated():
    path = [(10, 0.3, np.full((2, 1, 3), 0.6), 0.0), (20, 0.5, np.full((2, 1, 3), 0.8), 0.0)]
    kl, rates, matched = cells.at(path, 0.4)
    assert (kl, matched) == (0.4, True) and rates == pytest.approx(0.7)
    kl, rates, matched = cells.at(path, 0.7)
    assert (kl, matched) == (0.5, False) and rates == pytest.approx(0.8)


@pytest.mark.slow
def test_a_sweep_runs_stops_and_goes_on(tmp_path):
    tree = tmp_path / "tree"
    shutil.copytree(ROOT / "infalign_edu", tree / "infalign_edu")
    (tree / "data").mkdir()
    (tree / "data" / "embedded").symlink_to(ROOT / "data" / "embedded")
    (tree / "infalign_edu" / "rl" / "experiments" / "small.toml").write_text("""
seeds = [0]
kl = 0.05
procedures = ["standard", "best-of-2"]
steps = 4
heldout_prompts = 6
training_prompts = 12
evaluation_samples = 4
cells = [
    { transform = ["identity", "raw", "optimal"], reward = "gold:helpfulness" },
    { transform = "exp:10", control = "random", reward = "gold:helpfulness" },
    { transform = "exp:10", table = ["own", "fresh", "rotated", "pooled"], K = 8, reward = "gold:helpfulness" },
    { transform = "identity", algorithm = "dpo", reward = "gold:helpfulness" },
]
pairs = []
""")
    command = [sys.executable, "-m", "infalign_edu.rl.experiments.runner", "small"]
    subprocess.run(command, cwd=tree, check=True, capture_output=True, timeout=600)
    first = (tree / "data" / "runs" / "small.csv").read_text()
    table = list(csv.DictReader(first.splitlines()))
    assert len(table) == 9 * 2 * 3 and {row["command"] for row in table} == {"python experiments/run.py small"}
    assert all(0 <= float(row["win_rate"]) <= 1 and float(row["cpu_seconds"]) > 0 for row in table)
    gone = next((tree / "runs" / "experiments" / "small").glob("raw*.npz"))
    gone.unlink()
    subprocess.run(command, cwd=tree, check=True, capture_output=True, timeout=600)
    again = list(csv.DictReader((tree / "data" / "runs" / "small.csv").read_text().splitlines()))
    assert [row["win_rate"] for row in again] == [row["win_rate"] for row in table]


def test_half_a_table_never_replaces_a_whole_one(tmp_path):
    """A sweep of one seed, or one that was stopped, leaves the shipped table of all seeds as it is."""
    config, out, folder = run.load("frontiers", True), tmp_path / "data", tmp_path / "cells"
    grid, shared = run.cells(config), run.setting(config)
    rates, theory = np.full((1, len(shared.procedures), 3), 0.5), dict.fromkeys(shared.procedures, 0.5)

    def after(*done):
        for cell in done:
            run.store(folder, run.Found(cell, 0.4, True, 0.1, 9, rates, theory, np.nan, 1.0), shared, {"commit": "", "command": ""})
        run.summarise(config, folder, out, "frontiers")
        return len(list(csv.DictReader((folder / "frontiers.csv").open()))) // len(shared.procedures)

    out.mkdir()
    (out / "frontiers.csv").write_text("the whole table")
    assert after(grid[0]) == 1 and after(*grid[1:-1]) == len(grid) - 1
    assert (out / "frontiers.csv").read_text() == "the whole table" and not (out / "frontiers_pairs.csv").exists()
    run.store(folder, run.Found(grid[-1], 0.4, True, 0.1, 9, rates, theory, np.nan, 1.0), shared, {"commit": "", "command": ""})
    run.summarise(config, folder, out, "frontiers")
    assert not list(folder.glob("*.csv"))  # the half ones are gone
    assert len(list(csv.DictReader((out / "frontiers.csv").open()))) == len(grid) * len(shared.procedures)
    assert (out / "frontiers_pairs.csv").exists()


@pytest.mark.parametrize(("line", "says"), [
    ("frontier", "experiment must be one of algorithms, frontiers"), ("frontiers --quick --jobs 0", "jobs must be at least 1, got 0"),
    ("frontiers --quick --seeds 0 7", "seeds must be among [0], got [7]"), ("frontiers --seeds -1", "seeds must be among [0, 1, 2, 3, 4], got [-1]"),
])  # fmt: skip
def test_a_wrong_command_is_one_line_and_nothing_is_written(line, says, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(run, "ROOT", tmp_path)
    with pytest.raises(SystemExit) as end:
        run.main(line.split())
    told = capsys.readouterr().err.splitlines()
    assert end.value.code == 2 and len(told) == 1 and told[0].startswith("experiments: ") and says in told[0]
    assert not list(tmp_path.rglob("*.csv"))


def test_a_wrong_name_is_told_what_there_is(monkeypatch):
    with pytest.raises(ValueError, match="experiment must be one of algorithms, .*frontiers"):
        run.load("frontier", False)
    assert tomllib.loads((ROOT / "infalign_edu" / "rl" / "experiments" / "frontiers.toml").read_text())["seeds"] == [0, 1, 2, 3, 4]
