"""RL against the exact optimum on 6^4 responses: `python experiments/toy_curves.py` writes the table.

Every run is judged by enumeration 20 times on its way. A part that is run again replaces its rows, so the command in a
row makes that row again.
"""

from __future__ import annotations

import argparse
import csv
import io
from pathlib import Path

import torch

from infalign_edu.atomic import write_text
from infalign_edu.rl.toy import TRANSFORMS, ToyWorld, curve

TABLE = Path(__file__).parents[1] / "data" / "runs" / "toy_curves.csv"
MODELS, SEEDS = ("table", "transformer"), range(5)
Row = dict[str, str]


def run(world: ToyWorld, transform: str, model: str, seed: int) -> list[Row]:
    """The rows of one training run."""
    target = world.target(transform)
    command = f"python experiments/toy_curves.py --transform '{transform}' --model {model} --seed {seed}"
    rows = []
    for point in curve(world.trainer(target, model, seed=seed), target):
        numbers = {name: f"{value:.6g}" for name, value in point.items()}
        rows.append({"transform": transform, "model": model, "seed": str(seed), **numbers, "command": command})
    return rows


def place(row: Row) -> tuple[int, int, int]:
    """Where the run of a row stands in the table."""
    return TRANSFORMS.index(row["transform"]), MODELS.index(row["model"]), int(row["seed"])


def save(new: list[Row]) -> None:
    """Puts the rows of one run in the place of its old ones; the table is moved there whole."""
    old = list(csv.DictReader(TABLE.open(newline=""))) if TABLE.exists() else []
    rows = sorted([row for row in old if place(row) != place(new[0])] + new, key=place)
    text = io.StringIO()
    writer = csv.DictWriter(text, list(new[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(TABLE, text.getvalue())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--transform", choices=TRANSFORMS, help="one transform; default all")
    parser.add_argument("--model", choices=MODELS, help="one model; default both")
    parser.add_argument("--seed", type=int, help=f"one seed; default 0 to {max(SEEDS)}")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    world = ToyWorld()
    for seed in SEEDS if asked.seed is None else [asked.seed]:
        for model in MODELS if asked.model is None else [asked.model]:
            for transform in TRANSFORMS if asked.transform is None else [asked.transform]:
                rows = run(world, transform, model, seed)
                save(rows)
                gap = float(rows[-1]["objective_optimum"]) - float(rows[-1]["objective"])
                print(f"{transform:<20} {model:<12} seed {seed}  KL(pi || pi*) {float(rows[-1]['kl_to_optimum']):.5f}  "
                      f"gap {gap:.5f}  {float(rows[-1]['cpu_seconds']):.1f} s", flush=True)


if __name__ == "__main__":
    main()
