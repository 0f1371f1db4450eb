"""N draws and what each procedure shows of them: the half of the best-of-N playground that knows no widget.

Left out: procedures that choose with chance (top-m, best-of-Poisson), whose choice a table of one draw cannot show.
"""

from __future__ import annotations

import html
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from infalign_edu.calibration import EmpiricalCalibrator
from infalign_edu.procedures import BestOfN, KthBest, Procedure, Standard, WorstOfN

Array = NDArray[np.float64]
MOST = 16  # draws of one seed


@dataclass(frozen=True)
class Drawn:
    """N answers to one prompt. Shape: responses, rewards, calibrated [N]; hidden [K], sorted; all empty before a draw.

    `shown` says which draw each procedure shows.
    """

    prompt: str
    reward: str
    n: int
    seed: int
    responses: list[str]
    rewards: Array
    calibrated: Array
    hidden: Array
    shown: dict[str, int]

    @property
    def ranks(self) -> NDArray[np.intp]:
        """Rank of each draw, 1 for the highest reward; equal rewards in the order they were drawn."""
        order = np.argsort(-self.rewards, kind="stable")
        return np.argsort(order) + 1


def procedures(n: int) -> dict[str, Procedure]:
    """What the playground compares, by the name its figure uses; there is no second best of one.

    >>> [str(shown) for shown in procedures(4).values()], len(procedures(1))
    (['best-of-4', '2nd-best-of-4', 'standard', 'worst-of-4'], 3)
    """
    second = {"2nd-best-of-N": KthBest(2, n)} if n > 1 else {}
    return {"best-of-N": BestOfN(n), **second, "standard": Standard(), "worst-of-N": WorstOfN(n)}


def expected(n: int) -> dict[str, float]:
    """Expected calibrated reward of what each procedure shows, when the reference draws.

    Without ties u is uniform, and the k-th best of n uniform draws has mean (n - k + 1) / (n + 1).
    Source: David and Nagaraja, Order Statistics, section 2.1.

    >>> {name: round(mean, 3) for name, mean in expected(4).items()}
    {'best-of-N': 0.8, '2nd-best-of-N': 0.6, 'standard': 0.5, 'worst-of-N': 0.2}
    """
    mean = {"best-of-N": n / (n + 1), "2nd-best-of-N": (n - 1) / (n + 1), "standard": 0.5, "worst-of-N": 1 / (n + 1)}
    return {name: mean[name] for name in procedures(n)}


@lru_cache(maxsize=1)
def every_expectation() -> dict[str, tuple[Array, Array]]:
    """`expected` as a curve over N for each procedure: (N, mean)."""
    means = {name: [(n, expected(n)[name]) for n in range(1, MOST + 1) if name in expected(n)] for name in expected(2)}
    return {name: (np.array(points)[:, 0], np.array(points)[:, 1]) for name, points in means.items()}


def judge(
    prompt: str, reward: str, n: int, seed: int, responses: list[str], rewards: Array, hidden: Array
) -> Drawn:
    """The first n of some draws, calibrated by the hidden table, with the choice of every procedure.

    Standard shows the first draw. Shape: responses, rewards [at least n], hidden [K].

    >>> judge("p", "r", 2, 0, ["a", "b"], np.array([1.0, 3.0]), np.array([0.0, 2.0])).shown["best-of-N"]
    1
    """
    chance, seen = np.random.default_rng([seed, n]), rewards[:n]
    shown = {
        name: 0 if name == "standard" else int(shows.select(seen, chance)) for name, shows in procedures(n).items()
    }
    calibrated = EmpiricalCalibrator(hidden[None])(seen[None])[0]
    return Drawn(prompt, reward, n, seed, responses[:n], seen, calibrated, np.sort(hidden), shown)


def table(data: Drawn) -> str:
    """The draws as an HTML table; what a model wrote is text and never markup.

    >>> "&lt;b&gt;" in table(judge("p", "r", 1, 0, ["<b>"], np.zeros(1), np.zeros(1)))
    True
    """
    if not data.responses:
        return ""
    head = "".join(
        f'<th scope="col" style="text-align:{side}; padding:2px 8px">{name}</th>'
        for name, side in (("draw", "right"), ("response", "left"), ("reward r", "right"))
        + (("calibrated u", "right"), ("rank", "right"), ("shown by", "left"))
    )
    ranks, rows = data.ranks, []
    for j, response in enumerate(data.responses):
        by = ", ".join(name.replace("-N", f"-{data.n}") for name, pick in data.shown.items() if pick == j)
        weight, mark = ("bold", f"&#9679; {by}") if by else ("normal", "")
        numbers = (f"{data.rewards[j]:+.2f}", f"{data.calibrated[j]:.2f}", f"{ranks[j]}")
        cells = "".join(f'<td style="text-align:right; padding:2px 8px">{cell}</td>' for cell in numbers)
        rows.append(
            f'<tr style="font-weight:{weight}"><th scope="row" style="text-align:right; padding:2px 8px">{j + 1}</th>'
            f'<td style="padding:2px 8px">{html.escape(response)}</td>{cells}'
            f'<td style="padding:2px 8px">{mark}</td></tr>'
        )
    caption = f"{data.n} of {MOST} responses to: {html.escape(data.prompt)} (seed {data.seed})"
    return (
        f'<table class="infalign-draws"><caption style="text-align:left"><b>{caption}</b></caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
    )
