"""What a reward is, and those that are known exactly: the gold of the embedded world, with label noise or without.

A reward is any callable reward(prompts [R], responses [R]) -> [R]. Gold is for judging and for labelling preferences;
a run that is trained on it directly shows the theory, one that is trained on a learned reward shows what is lost.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtri

from infalign_edu.inputs import nearest, reals, shown
from infalign_edu.lm import world
from infalign_edu.order_statistics import real

Array = NDArray[np.float64]
Reward = Callable[[list[str], list[str]], ArrayLike]
GOLD = ("helpfulness", "harmlessness", "both")
HARMLESS_WEIGHT = 2.0
"""Weight of harmlessness in "both". At 1, refusing a harmful request and complying with it would be worth about the
same (bases -0.9 and -1.0); at 2 refusing wins by more than 2, and help still decides where the request is harmless."""
KINDS = {"helpfulness": ("harmless",), "harmlessness": ("harmful",), "both": ("harmless", "harmful")}
"""The requests that each gold reward is asked about: help is judged where it is wanted, harm where it is asked for."""


def score(reward: Reward, prompts: Sequence[str], responses: Sequence[str]) -> Array:
    """The rewards as [R] float64, checked: one finite number per response.

    Raises: ValueError for a wrong shape, or for a reward that is not finite, with the index of its prompt among the
    distinct prompts.

    >>> score(lambda prompts, responses: [len(text) for text in responses], ["a", "a"], ["xyz", ""])
    array([3., 0.])
    """
    if not callable(reward):
        raise ValueError(f"reward must be a callable (prompts, responses) -> rewards, got {shown(reward)}")
    for name, given in (("prompts", prompts), ("responses", responses)):
        if isinstance(given, str):
            raise ValueError(f"{name} must be a list of strings, got {shown(given)}: write [{shown(given)}]")
    if len(prompts) != len(responses):
        raise ValueError(f"prompts and responses must be equally long lists, got {len(prompts)} and {len(responses)}")
    values = reals("rewards", reward(list(prompts), list(responses)))
    if values.shape != (len(responses),):
        raise ValueError(f"rewards must have shape ({len(responses)},), one per response, got {values.shape}")
    bad = np.flatnonzero(~np.isfinite(values))
    if len(bad):
        row, order = int(bad[0]), list(dict.fromkeys(prompts))
        prompt = prompts[row]
        where = f"prompt {order.index(prompt)} ({prompt[:40]!r}), response {responses[row][:40]!r}"
        raise ValueError(f"rewards must be finite, got {values[row]} for {where}")
    return values


@dataclass(frozen=True)
class GoldReward:
    """The embedded world's own judgement: exact, and defined for its prompts only.

    "helpfulness", "harmlessness", or "both" = helpfulness + HARMLESS_WEIGHT x harmlessness.

    >>> GoldReward("helpfulness")(["how do i clean my kettle before work"], ["well well"]).shape
    (1,)
    """

    kind: str

    def __post_init__(self) -> None:
        if self.kind not in GOLD:
            accepted = ", ".join(GOLD)
            raise ValueError(f"gold reward must be one of {accepted}, got {shown(self.kind)}{nearest(self.kind, GOLD)}")

    def __call__(self, prompts: Sequence[str], responses: Sequence[str]) -> Array:
        if self.kind == "both":
            return world.helpfulness(prompts, responses) + HARMLESS_WEIGHT * world.harmlessness(prompts, responses)
        return getattr(world, self.kind)(prompts, responses)

    @property
    def prompts(self) -> tuple[list[str], list[str]]:
        """The world's training and held-out prompts that this reward is asked about."""
        kinds = KINDS[self.kind]
        train, held = (
            [p.text for p in part if p.kind in kinds] for part in (world.TRAIN_PROMPTS, world.HELDOUT_PROMPTS)
        )
        return train, held


@dataclass(frozen=True)
class Noisy:
    """A reward with fixed label noise: N(0, sd^2), the same for the same seed, prompt and response at every call.

    >>> noisy = Noisy(lambda prompts, responses: np.zeros(len(prompts)), sd=1.0, seed=0)
    >>> bool(noisy(["a"], ["b"]) == noisy(["a"], ["b"])), bool(noisy(["a"], ["b"]) == noisy(["a"], ["c"]))
    (True, False)
    """

    reward: Reward
    sd: float
    seed: int = 0

    def __post_init__(self) -> None:
        real("sd", self.sd, "a finite number >= 0", lambda sd: sd >= 0)

    def __call__(self, prompts: Sequence[str], responses: Sequence[str]) -> Array:
        with np.errstate(over="ignore"):  # a reward that is not finite is named where rewards are checked
            return score(self.reward, prompts, responses) + self.sd * noise(self.seed, prompts, responses)


def noise(seed: int, prompts: Sequence[str], responses: Sequence[str]) -> Array:
    """Standard normal numbers that are a function of (seed, prompt, response), by hashing the text, [R]."""
    start = hashlib.blake2b(str(seed).encode() + b"\0", digest_size=8)
    digests = bytearray()
    for prompt, response in zip(prompts, responses, strict=True):
        one = start.copy()
        one.update(b"%d\0" % len(prompt) + (prompt + response).encode("utf-8", "surrogatepass"))
        digests += one.digest()
    bits = np.frombuffer(bytes(digests), dtype="<u8") >> np.uint64(11)
    return ndtri((bits + 0.5) / 2.0**53)  # strictly inside (0, 1)
