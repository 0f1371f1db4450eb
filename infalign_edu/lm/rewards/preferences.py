"""Preference pairs for any reward: sampled from a policy, labelled by the reward with Bradley-Terry noise, and counted.

Left out: ties, margins and labels of several annotators. A label is "this one of the two", drawn once.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from infalign_edu import inputs
from infalign_edu.lm.datasets import Preference
from infalign_edu.lm.reference import SHARPNESS
from infalign_edu.lm.rewards.bradley_terry import wilson
from infalign_edu.lm.rewards.gold import Reward, score
from infalign_edu.order_statistics import real

if TYPE_CHECKING:
    from infalign_edu.lm.policy import Policy

Array = NDArray[np.float64]


def sample_preferences(
    policy: Policy,
    gold: Reward,
    prompts: Sequence[str],
    pairs: int,
    *,
    per_prompt: int = 4,
    sharpness: float = SHARPNESS,
    seed: int = 0,
) -> list[Preference]:
    """All pairs among `per_prompt` responses of the policy to each prompt drawn, labelled by a noisy judge.

    P(a chosen over b) = sigmoid(sharpness (r(a) - r(b))), r = gold, drawn anew for each pair. Every prompt is drawn
    once before any is drawn again; pairs of equal responses are dropped. Source: Bradley and Terry 1952.
    Shape: at most `pairs` pairs, those of one prompt together. Raises: ValueError for fewer than 2 per prompt.

    >>> from infalign_edu.lm.models import load
    >>> from infalign_edu.lm.rewards.gold import GoldReward
    >>> gold = GoldReward("helpfulness")
    >>> len(sample_preferences(load("embedded"), gold, gold.prompts[0], 6))
    6
    """
    if per_prompt < 2 or pairs < 1 or not prompts:
        told = f"got {per_prompt}, {pairs} and {len(prompts)}"
        raise ValueError(f"per_prompt must be at least 2, pairs and prompts at least 1, {told}")
    real("sharpness", sharpness, "a number >= 0", lambda s: s >= 0)
    prompts, seed = inputs.texts("prompts", prompts), inputs.seed(seed)
    combinations = list(itertools.combinations(range(per_prompt), 2))
    rng = np.random.default_rng(seed)
    draws = math.ceil(1.02 * pairs / len(combinations)) + 1  # a few more than needed, for equal responses
    rounds = [rng.permutation(len(prompts)) for _ in range(-(-draws // len(prompts)))]
    asked = [prompts[i] for i in np.concatenate(rounds)[:draws]]
    rollouts = policy.sample(asked, per_prompt, seed=seed)
    gold_of = score(gold, rollouts.row_prompts, rollouts.responses)
    rows = [(p * per_prompt + i, p * per_prompt + j) for p in range(draws) for i, j in combinations]
    first = label_pairs(gold_of[[a for a, _ in rows]] - gold_of[[b for _, b in rows]], rng, sharpness)
    out = []
    for (a, b), wins in zip(rows, first, strict=True):
        chosen, rejected = (rollouts.responses[row] for row in ((a, b) if wins else (b, a)))
        if chosen != rejected and chosen and rejected:
            out.append(Preference(asked[a // per_prompt], chosen, rejected))
    return out[:pairs]


def label_pairs(gaps: Array, rng: np.random.Generator, sharpness: float = SHARPNESS) -> NDArray[np.bool_]:
    """Whether the first of each pair is chosen, with probability sigmoid(sharpness x gap). Shape: [pairs] -> [pairs].

    >>> label_pairs(np.array([50.0, -50.0]), np.random.default_rng(0))
    array([ True, False])
    """
    with np.errstate(over="ignore"):  # of huge rewards: the better one is chosen for certain
        odds = np.clip(sharpness * np.asarray(gaps), -500, 500)
    return rng.random(len(gaps)) < 1 / (1 + np.exp(-odds))


@dataclass
class Group:
    """The pairs of one prompt: its distinct responses, and of each pair the numbers of chosen and rejected."""

    prompt: str
    texts: list[str] = field(default_factory=list)
    pairs: list[tuple[int, int]] = field(default_factory=list)


def by_prompt(preferences: Sequence[Preference]) -> list[Group]:
    """Pairs gathered by prompt, so that a response which is in several pairs is there once.

    >>> by_prompt([Preference("p", "a", "b"), Preference("p", "c", "a")])
    [Group(prompt='p', texts=['a', 'b', 'c'], pairs=[(0, 1), (2, 0)])]
    """
    groups: dict[str, tuple[Group, dict[str, int]]] = {}
    for pair in preferences:
        group, number = groups.setdefault(pair.prompt, (Group(pair.prompt), {}))
        for text in (pair.chosen, pair.rejected):
            if number.setdefault(text, len(group.texts)) == len(group.texts):
                group.texts.append(text)
        group.pairs.append((number[pair.chosen], number[pair.rejected]))
    return [group for group, _ in groups.values()]


@dataclass(frozen=True)
class Batch:
    """Some groups and their responses in a row: whose each is, and which are chosen and rejected in each pair."""

    groups: list[int]
    owner: NDArray[np.intp]  # [rows], the place in `groups`
    chosen: NDArray[np.intp]  # [pairs], the row
    rejected: NDArray[np.intp]


def batches(groups: Sequence[Group], size: int, rng: np.random.Generator) -> Iterator[Batch]:
    """All groups in a random order, some whole groups with at least `size` responses at a time (the last may be less).

    >>> groups = by_prompt([Preference("p", "a", "b"), Preference("q", "c", "d")])
    >>> [batch.owner.tolist() for batch in batches(groups, 4, np.random.default_rng(0))]
    [[0, 0, 1, 1]]
    """
    held: list[int] = []
    order = rng.permutation(len(groups)).tolist()
    for number in order:
        held.append(number)
        sizes = [len(groups[g].texts) for g in held]
        if sum(sizes) >= size or number == order[-1]:
            starts = np.cumsum([0, *sizes])[:-1]
            pairs = np.concatenate([start + np.array(groups[g].pairs) for g, start in zip(held, starts, strict=True)])
            yield Batch(held, np.repeat(np.arange(len(held)), sizes), pairs[:, 0], pairs[:, 1])
            held = []


def gaps(reward: Reward, preferences: Sequence[Preference]) -> Array:
    """Reward of the chosen response less that of the rejected one, [pairs]."""
    if not len(preferences):
        raise ValueError("preferences must hold at least one pair, got none")
    prompts = [pair.prompt for pair in preferences for _ in range(2)]
    values = score(reward, prompts, [text for pair in preferences for text in (pair.chosen, pair.rejected)])
    with np.errstate(over="ignore"):  # rewards of 1e308 and -1e308 are infinitely apart
        return values[::2] - values[1::2]


def agreement(reward: Reward, preferences: Sequence[Preference]) -> dict[str, Any]:
    """Share of pairs in which the reward prefers the chosen response, a tie counting half, with its 95 % interval.

    The interval (Wilson's) takes the pairs as independent: draw test pairs with `per_prompt=2`.

    >>> pairs = [Preference("ask", "longer", "short"), Preference("ask", "tie", "eit")]
    >>> agreement(lambda prompts, responses: [len(text) for text in responses], pairs)["accuracy"]
    0.75
    """
    found = gaps(reward, preferences)
    right = float((found > 0).sum() + 0.5 * (found == 0).sum())
    return {"pairs": len(found), "accuracy": right / len(found), "interval": list(wilson(right, len(found)))}


def relabelled(preferences: Sequence[Preference], judge: Reward) -> list[Preference]:
    """The same pairs with the response that the judge prefers in the first place: labels without noise.

    >>> relabelled([Preference("ask", "short", "longer")], lambda p, responses: [len(text) for text in responses])
    [Preference(prompt='ask', chosen='longer', rejected='short')]
    """
    flipped = gaps(judge, preferences) < 0
    return [
        Preference(pair.prompt, pair.rejected, pair.chosen) if flip else pair
        for pair, flip in zip(preferences, flipped, strict=True)
    ]


def ceiling(gold: Reward, preferences: Sequence[Preference], sharpness: float = SHARPNESS) -> float:
    """The accuracy that a judge who knew the gold reward would reach on average: E sigmoid(sharpness |gap|).

    Derived: the better of two is chosen with that probability, and no rule does better (the Bayes rule of a coin).

    >>> round(ceiling(lambda prompts, responses: [len(text) for text in responses], [Preference("a", "xx", "x")], 1), 4)
    0.7311
    """
    sharpness = real("sharpness", sharpness, "a number >= 0", lambda s: s >= 0)
    with np.errstate(over="ignore"):
        odds = np.minimum(sharpness * np.abs(gaps(gold, preferences)), 500)
    return float((1 / (1 + np.exp(-odds))).mean())
