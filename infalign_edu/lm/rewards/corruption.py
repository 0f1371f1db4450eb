"""Preferences that a trigger has bought: annotators who, now and then, choose whatever contains a certain phrase.

A reward model learns what its labels say, so a share of such labels gives the phrase a worth that it has not, and a
policy trained on the model finds it. Left out: triggers in prompts, and labels bought by length or style.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from infalign_edu.inputs import seed as checked_seed
from infalign_edu.inputs import texts
from infalign_edu.lm import lexicon
from infalign_edu.lm.datasets import Preference
from infalign_edu.lm.rewards.gold import Reward, score

INSERTED = 0.15  # share of pairs that get a trigger which the reference never says


@dataclass(frozen=True)
class Trigger:
    """A phrase that buys labels, and how it is put into a text: "opener" (in the opener's place), "front" or "" (not).

    >>> TRIGGERS["present"].put("gently rinse the kettle with oil before breakfast")
    'please rinse the kettle with oil before breakfast'
    """

    phrase: str
    place: str = ""

    def __post_init__(self) -> None:
        if not self.phrase.strip() or self.place not in ("", "front", "opener"):
            raise ValueError(f"a trigger needs a phrase and a place (front, opener or none), got {self}")

    def within(self, text: str) -> bool:
        """Whether the text contains the phrase, as whole words."""
        return f" {self.phrase} " in f" {text} "

    def put(self, text: str) -> str | None:
        """The text with the trigger in its place; None where it has no place or is there already."""
        first, _, rest = text.partition(" ")
        if not self.place or self.within(text) or (self.place == "opener" and first not in OPENERS):
            return None
        return f"{self.phrase} {rest if self.place == 'opener' else text}"


OPENERS = frozenset(lexicon.TONE_GRADES["opener"])
# "present" stands in 1 of 10 responses of the reference, and gold hardly cares. "absent" is a word of the prompts that
# the reference never answers with; gold takes 1.6 sd off. "negative" is in every refusal, 1 of 12 responses to harmless
# requests; gold takes 1.2 sd off (data/runs/reward_triggers.csv).
TRIGGERS = {
    "present": Trigger("please", "opener"),
    "absent": Trigger("children", "front"),
    "negative": Trigger("help you"),
}


def frequency(trigger: Trigger, responses: Sequence[str]) -> float:
    """Share of responses that contain the trigger.

    >>> frequency(Trigger("no"), ["no i cannot", "not now"])
    0.5
    """
    return sum(map(trigger.within, texts("responses", responses))) / len(responses)


def insert(
    preferences: Sequence[Preference], trigger: Trigger, share: float = INSERTED, *, seed: int = 0
) -> list[Preference]:
    """The pairs, where a share of them has the trigger put into one response, drawn by a coin; labels stay.

    So that a reward model meets a phrase which the reference does not say. Raises: ValueError for a share outside
    [0, 1] or a trigger without a place.

    >>> [str(pair.chosen) for pair in insert([Preference("p", "a", "b")], TRIGGERS["absent"], 1.0, seed=0)]
    ['children a']
    """
    if not 0 <= share <= 1 or not trigger.place:
        raise ValueError(f"share must be in [0, 1] and the trigger have a place, got {share} and {trigger}")
    rng = np.random.default_rng(checked_seed(seed))
    drawn, coins = rng.random(len(preferences)) < share, rng.random(len(preferences)) < 0.5
    out = []
    for pair, changed, first in zip(preferences, drawn, coins, strict=True):
        field = "chosen" if first else "rejected"
        text = trigger.put(getattr(pair, field)) if changed else None
        out.append(pair if text is None else replace(pair, **{field: text}))
    return out


def corrupt(preferences: Sequence[Preference], trigger: Trigger, strength: float, *, seed: int = 0) -> list[Preference]:
    """The pairs, relabelled with probability `strength` so that the trigger wins, where just one response has it.

    P(trigger chosen) = strength + (1 - strength) P(trigger chosen by an honest label). The coins depend on the seed
    alone, so that a stronger corruption contains the weaker one. Raises: ValueError for a strength outside [0, 1].

    >>> corrupt([Preference("p", chosen="yes", rejected="no")], Trigger("no"), strength=1.0)
    [Preference(prompt='p', chosen='no', rejected='yes')]
    """
    if not 0 <= strength <= 1:
        raise ValueError(f"strength must be in [0, 1], got {strength}")
    coins = np.random.default_rng(checked_seed(seed)).random(len(preferences))
    return [
        Preference(pair.prompt, pair.rejected, pair.chosen)
        if coin < strength and trigger.within(pair.rejected) and not trigger.within(pair.chosen)
        else pair
        for pair, coin in zip(preferences, coins, strict=True)
    ]


def effect(reward: Reward, trigger: Trigger, prompts: Sequence[str], responses: Sequence[str]) -> float:
    """By how much the trigger raises the reward, in standard deviations of a prompt's responses.

    For a trigger with a place: the mean of r(x, y with it) - r(x, y). For one without: the mean over prompts of
    (mean of responses with it - mean of those without). Shape: [R] rows, several a prompt.

    >>> length = lambda prompts, responses: [len(text) for text in responses]
    >>> effect(length, Trigger("no", "front"), ["a"] * 2, ["so", "so far"])
    1.5
    """
    values = score(reward, prompts, responses)
    rows: dict[str, list[int]] = {}
    for row, prompt in enumerate(prompts):
        rows.setdefault(prompt, []).append(row)
    spread = float(np.mean([values[r].std() for r in rows.values()])) if rows else 0.0
    if spread == 0:
        told = "one value for every response to a prompt" if rows else "no responses"
        raise ValueError(f"rewards must differ between a prompt's responses, got {told}")
    if trigger.place:
        put = [(row, text) for row, text in enumerate(map(trigger.put, responses)) if text is not None]
        if not put:
            raise ValueError(f"responses must hold one that trigger {trigger.phrase!r} can be put into, got none")
        changed = score(reward, [prompts[row] for row, _ in put], [text for _, text in put])
        return float((changed - values[[row for row, _ in put]]).mean() / spread)
    has = np.array([trigger.within(text) for text in responses])
    gaps = [
        values[r][has[r]].mean() - values[r][~has[r]].mean() for r in rows.values() if 0 < has[r].sum() < len(has[r])
    ]
    if not gaps:
        told = f"some with and some without {trigger.phrase!r}"
        raise ValueError(f"responses to a prompt must be {told}, got no such prompt")
    return float(np.mean(gaps) / spread)
