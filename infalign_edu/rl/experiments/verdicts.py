"""Paired differences in words and in pictures: what NAME_pairs.csv says, question by question and judge by judge.

What a difference allows one to say was decided when it was made (`pairs.verdict`); here it is only told, and nothing is
left out of it: a row that is not confirmed is printed like one that is. Points are hundredths of a win rate.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from infalign_edu import plots
from infalign_edu.rl.experiments.design import JUDGES
from infalign_edu.rl.experiments.results import Row, kinds, pick

PROMISED = 0.01  # the least gain in theory, a point, of which a share is told
TITLES = {
    "reward": "judged by the reward model",
    "gold": "judged by the gold rule",
    "gold of pick": "reward model picks, gold judges",
}


def points(text: str, form: str = "+6.2f") -> str:
    """A share as points.

    >>> points("-0.0123"), points("0.5", "+.1f")
    (' -1.23', '+50.0')
    """
    return f"{100 * float(text):{form}}"


def told(row: Row, form: str = "+6.2f") -> str:
    """The difference of a pair and its interval, in points.

    >>> told({"difference": "0.02", "low": "-0.01", "high": "0.05"}, "+.1f")
    '+2.0 [-1.0, +5.0]'
    """
    return f"{points(row['difference'], form)} [{points(row['low'], form)}, {points(row['high'], form)}]"


def versus(row: Row) -> str:
    """The two sides of a pair, named by what differs between them.

    >>> versus({"policy": "exp:10, own", "baseline": "exp:10, stale"})
    'own over stale'
    """
    sides = list(zip(row["policy"].split(", "), row["baseline"].split(", "), strict=True))
    apart = [pair for pair in sides if pair[0] != pair[1]] or sides
    return " over ".join(", ".join(side) for side in zip(*apart, strict=True))


def question(row: Row) -> str:
    """A pair and the procedure under which it is shown."""
    return f"{versus(row)}, {row['shown']}"


def said(row: Row) -> str:
    """The verdict of a pair; a loss that theory foretold for this procedure is named as one.

    >>> said({"verdict": "contradicted", "difference": "-0.04", "theory": "-0.06"})
    'contradicted (foretold)'
    """
    foretold = "contradicted" in row["verdict"] and float(row["difference"]) * float(row["theory"]) > 0
    return row["verdict"] + (" (foretold)" if foretold else "")


def share(row: Row) -> str:
    """Measured over promised gain, or a dash where theory promises less than a point.

    >>> share({"share": "0.541", "theory": "0.07"}), share({"share": "3.1", "theory": "0.002"})
    ('0.54', '-')
    """
    return f"{float(row['share']):.2f}" if abs(float(row["theory"])) >= PROMISED else "-"


def holm(p: ArrayLike) -> np.ndarray:
    """Adjusted p-values of m questions: those below 0.05 stand even as some of m, whatever the questions share.

    Source: Holm 1979, Scandinavian Journal of Statistics 6. Sorted, the i-th smallest becomes the largest of
    (m + 1 - j) p_j over j <= i, and at most 1. Shape: p [m] -> [m], in the order given.

    >>> holm([0.01, 0.04, 0.03]).round(2).tolist()
    [0.03, 0.06, 0.06]
    """
    values = np.asarray(p, dtype=float)
    order = np.argsort(values)
    adjusted = np.empty_like(values)
    adjusted[order] = np.maximum.accumulate((len(values) - np.arange(len(values))) * values[order]).clip(max=1.0)
    return adjusted


def judges(rows: Sequence[Row]) -> list[str]:
    """The judges of a table, in the order of JUDGES."""
    return [judge for judge in JUDGES if pick(rows, judge=judge)]


def side_by_side(rows: Sequence[Row]) -> str:
    """A line for each question, the judges beside each other; a dash where one was not asked."""
    present, same = judges(rows), ("claim", "policy", "baseline", "kl", "reward", "shown")
    wide = 2 + max(20, *(len(versus(row)) for row in rows))
    heads = [f"{'reward model' if judge == 'reward' else judge:<25}" for judge in present]
    heads[0] += "theory  share  "
    lines = [f"{'difference in points':<{wide}}{'shown':<13}KL   {''.join(heads)}seeds  verdicts, in that order"]
    for key in kinds(rows, *same):
        asked = {row["judge"]: row for row in pick(rows, **dict(zip(same, key, strict=True)))}
        row = next(iter(asked.values()))
        cells = [f"{told(asked[judge]) if judge in asked else '-':<25}" for judge in present]
        cells[0] += f"{points(row['theory'])}  {share(row):>5}  "
        cells += [f"{row['seeds']:>5}  ", "; ".join(said(asked[judge]) if judge in asked else "-" for judge in present)]
        lines.append(f"{versus(row):<{wide}}{row['shown']:<13}{row['kl']:<5}{''.join(cells)}")
    return "\n".join(lines)


def unconfirmed(tables: Mapping[str, Sequence[Row]], name: Callable[[Row], str] = question) -> str:
    """Every row that is not confirmed, as it stands in the files, sorted by its verdict."""
    rows = [(table, row) for table, found in tables.items() for row in found if said(row) != "confirmed"]
    columns = zip(*((table, name(row), row["judge"]) for table, row in rows), strict=True)
    wide = [max(map(len, column)) for column in columns]
    lines = []
    for verdict in dict.fromkeys(said(row) for _, row in rows):
        lines += ["", verdict]
        for table, row in rows:
            if said(row) == verdict:
                lines.append(
                    f"  {table:<{wide[0]}}  {name(row):<{wide[1]}}  KL {row['kl']:<4} {row['judge']:<{wide[2]}}  "
                    f"{told(row)}  theory {points(row['theory'])}  seeds {row['seeds']}"
                )
    return "\n".join(lines[1:]) or "none"


def signs(rows: Sequence[Row]) -> str:
    """On which side of 0 the intervals lie, judge by judge.

    >>> signs([{"judge": "gold", "low": "0.1", "high": "0.2"}, {"judge": "gold", "low": "-0.1", "high": "0.2"}])
    'Gold: 1 of 2 intervals lie above 0, 0 below, 1 hold it.'
    """
    told_of = []
    for judge in judges(rows):
        low, high = (np.array([float(row[end]) for row in pick(rows, judge=judge)]) for end in ("low", "high"))
        held = f"{np.sum(high < 0)} below, {np.sum((low <= 0) & (high >= 0))} hold it."
        who = "Reward model" if judge == "reward" else judge.capitalize()
        told_of.append(f"{who}: {np.sum(low > 0)} of {len(low)} intervals lie above 0, {held}")
    return " ".join(told_of)


def forest(
    rows: Sequence[Row],
    about: str,
    *,
    line: Callable[[Row], str] = question,
    series: Callable[[Row], str] = lambda row: f"KL {row['kl']}",
    theory: bool = True,
) -> Any:
    """Differences with intervals, a panel for each judge, a line for each question, a mark for each series.

    `about` opens the alternative text, which goes on with the sides of 0 on which the intervals lie.
    """
    lines = list(dict.fromkeys(map(line, rows)))
    panels: dict[str, dict[str, list[np.ndarray]]] = {}
    columns = ("difference", "low", "high", *(["theory"] if theory else []))
    for judge in judges(rows):
        panel = panels.setdefault(TITLES[judge], {})
        for name in dict.fromkeys(map(series, rows)):
            if found := [row for row in pick(rows, judge=judge) if series(row) == name]:
                places = np.array([lines.index(line(row)) for row in found])
                panel[name] = [places, *(100 * np.array([float(row[column]) for row in found]) for column in columns)]
    return plots.forest(panels, lines, x="difference of win rates  [points]", alt=f"{about} {signs(rows)}")
