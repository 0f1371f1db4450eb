"""The table of an experiment read again, from the CSV files in data/runs: its rows, and means over seeds.

A row is a dict of texts, as it stands in the file: NAME.csv has one for each run, procedure and judge, NAME_pairs.csv
one for each difference (`verdicts` puts those into words). A file that does not ship gives no rows and a sentence, so
that a notebook leaves out what rests on it. Left out: numbers in place of texts; each reader takes those it needs.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.stats import t as student

from infalign_edu.shipped import shipped

Row = dict[str, str]


def read(name: str) -> list[Row]:
    """The rows of a table that ships with the course; none, and a printed sentence, where it does not ship.

    >>> read("nothing")
    nothing.csv does not ship with this copy: what rests on it is left out.
    []
    """
    try:
        with shipped(f"runs/{name}.csv").open(newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))
    except FileNotFoundError:
        print(f"{name}.csv does not ship with this copy: what rests on it is left out.")
        return []


def pick(rows: Sequence[Row], **fields: Any) -> list[Row]:
    """The rows whose fields have these values, compared as text; a tuple lists several that will do.

    >>> pick([{"K": "4", "matched": "True"}, {"K": "16", "matched": "False"}], K=(4, 16), matched=True)
    [{'K': '4', 'matched': 'True'}]
    """
    wanted = {name: value if isinstance(value, tuple) else (value,) for name, value in fields.items()}
    accepted = {name: {str(value) for value in values} for name, values in wanted.items()}
    return [row for row in rows if all(row[name] in values for name, values in accepted.items())]


def kinds(rows: Sequence[Row], *names: str) -> list[tuple[str, ...]]:
    """What stands in these columns, each combination once, in the order of the table.

    >>> kinds([{"K": "4", "seed": "0"}, {"K": "4", "seed": "1"}, {"K": "16", "seed": "0"}], "K")
    [('4',), ('16',)]
    """
    return list(dict.fromkeys(tuple(row[name] for name in names) for row in rows))


def mean_over_seeds(rows: Sequence[Row]) -> tuple[float, float]:
    """Mean win rate and half width of its 95 % interval, a row a seed.

    Derived: 1.96^2 mean(stderr^2) + t^2 var(seeds)/S, as if seeds were judged on the same prompts; a little too wide,
    since the noise of prompts is in the variance of seeds as well. One seed: prompts alone.

    >>> mean, half = mean_over_seeds([{"win_rate": "0.7", "stderr": "0.0"}, {"win_rate": "0.8", "stderr": "0.0"}])
    >>> round(mean, 3), round(half, 3)
    (0.75, 0.635)
    """
    rates = np.array([float(row["win_rate"]) for row in rows])
    half = 1.96 * math.sqrt(np.mean([float(row["stderr"]) ** 2 for row in rows]))
    if len(rows) > 1:
        half = math.hypot(half, student.ppf(0.975, len(rows) - 1) * rates.std(ddof=1) / math.sqrt(len(rows)))
    return float(rates.mean()), half


def mean(rows: Sequence[Row], column: str = "win_rate", none: str = "-") -> str:
    """The mean of a column in three digits, or the word for none.

    >>> mean([{"said": "0.25"}, {"said": "0.5"}], "said"), mean([]), mean([{"said": "nan"}], "said")
    ('0.375', '-', '-')
    """
    value = np.mean([float(row[column]) for row in rows]) if rows else np.nan
    return none if np.isnan(value) else f"{value:.3f}"


def rate(rows: Sequence[Row], none: str = "-") -> str:
    """Mean win rate over seeds with the half of its interval, or the word for none.

    >>> rate([{"win_rate": "0.7", "stderr": "0.01"}]), rate([], "left out")
    ('0.700 +- 0.020', 'left out')
    """
    return "{:.3f} +- {:.3f}".format(*mean_over_seeds(rows)) if rows else none


def corruption(reward: str) -> str:
    """What was done to the preferences that a reward model was fitted on: trigger and strength.

    >>> corruption("learned:helpfulness:seed=0:trigger=absent:strength=0.3"), corruption("learned:helpfulness")
    ('absent 0.3', 'clean')
    """
    _, _, options = reward.partition("trigger=")
    return options.replace(":strength=", " ") or "clean"


def unmatched(rows: Sequence[Row]) -> list[str]:
    """The runs of a table that were never led to their KL, each once, with the KL that was wanted and the one reached.

    >>> unmatched([{"transform": "log", "algorithm": "dpo", "table": "own", "control": "", "K": "0", "reward": "gold",
    ...             "seed": "2", "target_kl": "0.4", "kl": "0.1031", "matched": "False"}])
    ['log, dpo, own, seed 2 (0.4, 0.10)']
    """
    lost = []
    for row in pick(rows, matched=False):
        about = [row[name] for name in ("transform", "algorithm", "table", "control")]
        about += [f"K = {row['K']}"] * (row["K"] != "0") + [corruption(row["reward"])] * ("trigger=" in row["reward"])
        about += [f"seed {row['seed']} ({row['target_kl']}, {float(row['kl']):.2f})"]
        lost.append(", ".join(filter(None, about)))
    return list(dict.fromkeys(lost))
