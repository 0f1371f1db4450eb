"""The default pipeline run, as the table that notebook 08 shows.

    python experiments/align.py [--seed 0] [--report RUN/report.json]

Writes data/runs/align.csv, one row a transform; another seed than 0 writes data/runs/align-seed-N.csv. With --report a
finished run is read instead of made. README's figure and claims rest on five seeds: see experiments/claims.py.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import tempfile
from pathlib import Path
from typing import Any

import infalign_edu as ia
from infalign_edu import atomic

DATA = Path(__file__).parents[1] / "data"


def rows(report: dict[str, Any], command: str) -> list[dict[str, Any]]:
    """One row a transform, with the comparison of the two repeated in each."""
    (compared,) = report["comparisons"]
    low, high = compared["transform_gain_share_interval"]
    shared = {
        "matched_kl": compared["kl"],
        "gain": compared["difference"]["mean"],
        "gain_low": compared["difference"]["interval"][0],
        "gain_high": compared["difference"]["interval"][1],
        "theory_gain": compared["theory_difference"],
        "gain_share": compared["transform_gain_share"],
        "gain_share_low": low,
        "gain_share_high": high,
        "heldout_prompts": report["heldout_prompts"],
        "samples": report["evaluation_samples"],
        "base_samples": report["base_samples"],
        "seed": report["config"]["seed"],
        "seconds": report["seconds"],
        "command": command,
    }
    return [
        {
            "transform": name,
            "beta": run["beta"],
            "steps": run["steps"],
            "kl": run["kl"],
            **{f"{key}{end}": run["win_rates"][shown][value]
               for key, shown in (("standard", "standard"), ("best_of_4", "best-of-4"), ("worst_of_4", "worst-of-4"))
               for end, value in (("", "mean"), ("_stderr", "stderr"))},
            "theory": run["theory"]["best-of-4"],
            "lift_share": run["lift_share"],
            **shared,
        }
        for name, run in report["runs"].items()
    ]  # fmt: skip


def main() -> None:
    """Runs or reads the pipeline and writes the table."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--report", type=Path)
    chosen = options.parse_args()
    if chosen.report:
        report = json.loads(chosen.report.read_text(encoding="utf-8"))
    else:
        with tempfile.TemporaryDirectory() as folder:
            report = ia.align(ia.CTRLConfig(seed=chosen.seed, out=str(Path(folder) / "run"))).report
    table = rows(report, f"python -m infalign_edu align --seed {report['config']['seed']}")
    text = io.StringIO()
    writer = csv.DictWriter(text, list(table[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(table)
    seed = report["config"]["seed"]
    atomic.write_text(DATA / "runs" / (f"align-seed-{seed}.csv" if seed else "align.csv"), text.getvalue())


if __name__ == "__main__":
    main()
