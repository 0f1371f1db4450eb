"""Exercises of `13_scaling_out`: a reward all processes agree on, and where a KL by the token leads.

What a run costs is asked in `run_cost`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from infalign_edu.classroom.exercise import Arguments, Exercise, Mistake
from infalign_edu.classroom.exercises import run_cost

Array = NDArray[np.float64]
NOTEBOOK = "13_scaling_out"


def _slice(rng: np.random.Generator, prompts: int | None = None) -> Arguments:
    """A process's slice: prompts in no order, with a reward above and one below its whole row, and a tie."""
    prompts, K = prompts or int(rng.integers(3, 6)), int(rng.integers(4, 9))
    tables = rng.normal(size=(prompts, K)).round(1) + 4.0 * rng.permutation(prompts)[:, None]  # rows far apart
    rows = rng.integers(0, prompts, size=int(rng.integers(6, 10)))
    rows[:4] = prompts - 1
    rewards = tables[rows].mean(axis=1) + rng.normal(size=len(rows))
    rewards[0], rewards[1] = tables[rows[0]].min() - 1, tables[rows[1]].max() + 1
    rewards[2] = tables[rows[2], 1]  # a tie
    return tables, rows, rewards


def _keyed(
    tables: Array, rows: NDArray[np.intp], rewards: Array, tie: float = 0.5, more: int = 0, low: float = 0.5,
    high: float = 0.0, counts: bool = False,
) -> Array:  # fmt: skip
    own, K = tables[rows], tables.shape[1]
    below, equal = (own < rewards[:, None]).sum(axis=1), (own == rewards[:, None]).sum(axis=1)
    share = (below + tie * equal) / (1 if counts else K + more)
    return np.maximum(np.minimum(share, 1 - high / K) if high else share, low / K)


def _batch(tables: Array, rows: NDArray[np.intp], rewards: Array, own: bool = False, floor: bool = True) -> Array:
    beside = rows == rows[:, None] if own else np.ones((len(rows), len(rows)), dtype=bool)  # who is compared with whom
    below, equal = beside & (rewards < rewards[:, None]), beside & (rewards == rewards[:, None])
    share = (below.sum(1) + 0.5 * equal.sum(1)) / beside.sum(1)
    return np.maximum(share, floor / (2 * tables.shape[1]))


def _pooled(tables: Array, rows: Array, rewards: Array) -> Array:
    every = tables.ravel()
    u = ((every < rewards[:, None]).sum(1) + 0.5 * (every == rewards[:, None]).sum(1)) / every.size
    return np.clip(u, 1 / (2 * tables.shape[1]), 1.0)


KEYED = Exercise(
    name="keyed-quantile",
    notebook=NOTEBOOK,
    goal="The calibrated rewards of one process's slice of a batch, each by the table of its own prompt.",
    difficulty=1,
    minutes=8,
    points=2,
    answer=_keyed,
    inputs=_slice,
    corners=(lambda rng: _slice(rng, 1), lambda rng: _slice(rng, 4)),
    mistakes=(
        Mistake(
            "That is the quantile within the slice. Another process has another slice, so the same response would get "
            "another reward there; and the slice comes from the policy, which moves. Count in the prompt's own table.",
            _batch,
        ),
        Mistake(
            "You rank a response among the slice's other responses to its prompt. Those come from the policy, and the "
            "rest of them may lie on another process: the table's row is the same everywhere.",
            lambda tables, rows, rewards: _batch(tables, rows, rewards, own=True),
        ),
        Mistake(
            "tables is not used in yours: you rank the slice within itself. Count in the prompt's own row.",
            lambda tables, rows, rewards: _batch(tables, rows, rewards, floor=False),
        ),
        Mistake(
            "You count in all tables at once. Then an easy prompt's worst answer beats a hard prompt's best one.",
            _pooled,
        ),
        Mistake(
            "You take the i-th row for the i-th response. A slice holds any prompts in any order: rows[i] says which.",
            lambda tables, rows, rewards: _keyed(tables, np.arange(len(rows)) % len(tables), rewards),
        ),
        Mistake(
            "Two things are missing: equal rewards, which count one half each, and the floor, without which a response "
            "below its whole table gets 0.",
            lambda tables, rows, rewards: _keyed(tables, rows, rewards, tie=0.0, low=0.0),
        ),
        Mistake(
            "Equal rewards count for nothing in yours. Each is worth one half, so that a response and its twin win "
            "against each other half of the time.",
            lambda tables, rows, rewards: _keyed(tables, rows, rewards, tie=0.0),
        ),
        Mistake(
            "Equal rewards count in full in yours (<=). Each is worth one half: beside its twin a response wins half "
            "of the time, not always.",
            lambda tables, rows, rewards: _keyed(tables, rows, rewards, tie=1.0),
        ),
        Mistake(
            "That is a count. Another table may have another K: give the share, the count divided by K.",
            lambda tables, rows, rewards: _keyed(tables, rows, rewards, counts=True),
        ),
        Mistake(
            "The floor is half a sample, 1/(2K). At 1/K a response below all K would be worth as much as one that "
            "beats a sample.",
            lambda tables, rows, rewards: _keyed(tables, rows, rewards, low=1.0),
        ),
        Mistake(
            "You cut off the top as well. Above the whole table the quantile is 1, where every transform is finite; "
            "only the bottom needs a floor.",
            lambda tables, rows, rewards: _keyed(tables, rows, rewards, high=0.5),
        ),
        Mistake(
            "A response below its whole table gets 0, and log 0 would forbid it for good: keep it at 1/(2K) at least.",
            lambda tables, rows, rewards: _keyed(tables, rows, rewards, low=0.0),
        ),
        Mistake(
            "That is the share of the table *above* the reward: it makes the worst response the best one.",
            lambda tables, rows, rewards: _keyed(-tables, rows, -rewards),
        ),
        Mistake(
            "You divide by K + 1. The reward is held against K samples and is not one of them.",
            lambda tables, rows, rewards: _keyed(tables, rows, rewards, more=1),
        ),
    ),
    hints=(
        "Which K numbers is the reward of response i held against, and does it matter who else is in the slice?",
        "`tables[rows]` has one row of K numbers for each response; compare it with `rewards[:, None]`.",
        "u = (number below + half the number equal) / K, from the prompt's own row, then np.maximum(u, 1/(2K)).",
    ),
)


def _two_tokens(rng: np.random.Generator, beta: float | None = None) -> Arguments:
    words = int(rng.integers(2, 5))
    reference = rng.dirichlet(np.full(words**2, 2.0)).reshape(words, words)
    return reference, rng.normal(size=(words, words)) + rng.uniform(0.5, 1.5), beta or float(rng.uniform(0.4, 1.5))


def _tilt(weight: Array) -> Array:
    return weight / weight.sum(axis=-1, keepdims=True)


def _by_token(
    reference: Array, phi: Array, beta: float, first: float | None = None, value: str = "policy", tilted: bool = True,
    known: tuple[bool, bool] = (True, True), whole: bool = True,
) -> Array:  # fmt: skip
    """Each token's own optimum; `first` another beta for the first token, `value` what it is worth.

    `known`: whether the first, the second token starts from the reference; `whole`: whether the first one sums to 1.
    """
    start, after = reference.sum(axis=1), _tilt(reference)
    second = _tilt((after if known[1] else 1.0) * np.exp(phi / beta)) if tilted else after
    soft = beta * np.log((after * np.exp(phi / beta)).sum(axis=1))
    worth = {"policy": (second * phi).sum(axis=1), "reference": (after * phi).sum(axis=1), "soft": soft,
             "best": phi.max(axis=1), "even": phi.mean(axis=1), "none": np.zeros(len(phi)),
             "joint": (_tilt((reference * np.exp(phi / beta)).ravel()) * phi.ravel()).reshape(phi.shape).sum(axis=1),
             }[value]  # fmt: skip
    weight = (start if known[0] else 1.0) * np.exp(worth / (first or beta))
    return (_tilt(weight) if whole else weight)[:, None] * second


RESTING = Exercise(
    name="token-by-token",
    notebook=NOTEBOOK,
    goal="The policy over responses of two tokens at which each token alone is best, its own KL paid and no other.",
    difficulty=3,
    minutes=15,
    points=2,
    answer=_by_token,
    inputs=_two_tokens,
    corners=(lambda rng: _two_tokens(rng, 0.2), lambda rng: _two_tokens(rng, 5.0)),
    mistakes=(
        Mistake(
            "That is pi_ref exp(Phi / beta), the optimum of the whole response: there the first token is charged for "
            "the KL that the second one will spend. Here nobody charges it.",
            lambda reference, phi, beta: _by_token(reference, phi, beta, value="soft"),
        ),
        Mistake(
            "The first token is worth what the *reference* would make of it. But the second token is drawn from the "
            "policy, so average Phi over the tilted second token.",
            lambda reference, phi, beta: _by_token(reference, phi, beta, value="reference"),
        ),
        Mistake(
            "Your first token is worth the best that can follow it. What follows is drawn, not chosen: take the mean.",
            lambda reference, phi, beta: _by_token(reference, phi, beta, value="best"),
        ),
        Mistake(
            "The first token is worth the plain mean over the words that may follow it in yours. They are not equally "
            "likely: the second token is drawn from the tilted policy.",
            lambda reference, phi, beta: _by_token(reference, phi, beta, value="even"),
        ),
        Mistake(
            "Q(a) is an average over b *given* a: the weights along a row have to sum to 1 before Phi is averaged.",
            lambda reference, phi, beta: _by_token(reference, phi, beta, value="joint"),
        ),
        Mistake(
            "Your first token stays at the reference. It earns Phi as well, on average over what follows it.",
            lambda reference, phi, beta: _by_token(reference, phi, beta, value="none"),
        ),
        Mistake(
            "Your second token stays at the reference. Start there: after a given first token it is a problem of one "
            "token, with a known answer.",
            lambda reference, phi, beta: _by_token(reference, phi, beta, value="reference", tilted=False),
        ),
        Mistake(
            "beta is missing at the first token: its tilt is exp(Q / beta), as the second one's.",
            lambda reference, phi, beta: _by_token(reference, phi, beta, first=1.0),
        ),
        Mistake(
            "beta multiplies where it divides. A large beta makes the KL dear: it must keep the policy at home.",
            lambda reference, phi, beta: _by_token(reference, phi, 1 / beta),
        ),
        Mistake(
            "beta is nowhere in yours, so any price of the KL would lead to the same policy.",
            lambda reference, phi, beta: _by_token(reference, phi, 1.0),
        ),
        Mistake(
            "Your first token forgets how likely the reference says it: its tilt has to be multiplied by that.",
            lambda reference, phi, beta: _by_token(reference, phi, beta, known=(False, True)),
        ),
        Mistake(
            "Your second token forgets the reference: it is a softmax of Phi / beta and of nothing else.",
            lambda reference, phi, beta: _by_token(reference, phi, beta, known=(True, False)),
        ),
        Mistake(
            "Your first token's probabilities do not sum to 1, nor do those of the responses.",
            lambda reference, phi, beta: _by_token(reference, phi, beta, whole=False),
        ),
        Mistake(
            "You take columns for first tokens. A row is a first token, and what can follow it stands along that row.",
            lambda reference, phi, beta: _by_token(reference.T, phi.T, beta).T,
        ),
        Mistake(
            "You give the second token's probabilities. Asked for is the whole response: times that of the first.",
            lambda reference, phi, beta: _tilt(reference * np.exp(phi / beta)),
        ),
    ),
    hints=(
        "Begin with the last token. After a given first token, which policy is best for E[Phi] - beta KL?",
        "pi(b | a) is proportional to pi_ref(b | a) exp(Phi(a, b) / beta). What is a first token a worth, on average "
        "over b from that, if nobody counts the KL of b?",
        "Q(a) = sum over b of pi(b | a) Phi(a, b); pi(a) is proportional to pi_ref(a) exp(Q(a) / beta); multiply.",
    ),
)


EXERCISES = (KEYED, RESTING, *run_cost.EXERCISES)
