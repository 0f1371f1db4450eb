"""Rewards: functions that return anything, names that are none, settings of what is fitted."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path

import numpy as np
import torch

from infalign_edu.lm import rewards as R
from infalign_edu.lm.datasets import Preference
from infalign_edu.lm.decoding import LearnedValue

from . import Case, inf, nan, right, wrong
from .models import ASK, chatty, length, policy

PAIR = [Preference("ask", "xx", "x")]
HELP = ["how do i clean my kettle before work"]


def functions() -> list[Case]:
    """What a reward may return for two responses."""
    bad = {
        "one number": (lambda p, r: [1.0], "shape (2,)", "(1,)"), "nine": (lambda p, r: [1.0] * 9, "shape (2,)", "(9,)"),
        "nan": (lambda p, r: [0.0, nan], "finite", "got nan", "'yy'"), "inf": (lambda p, r: [inf, 0.0], "finite", "got inf", "'x'"),
        "a column": (lambda p, r: np.ones((2, 1)), "shape (2,)", "(2, 1)"), "None": (lambda p, r: None, "real numbers", "None"),
        "a scalar": (lambda p, r: 1.0, "shape (2,)", "()"), "text": (lambda p, r: ["a", "b"], "real numbers", "'a'"),
        "ragged": (lambda p, r: [[1], [1, 2]], "equal length", "[[1], [1, 2]]"), "complex": (lambda p, r: [1j, 1j], "real numbers", "1j"),
        "a generator": (lambda p, r: (1.0 for _ in r), "real numbers", "generator"), "a dict": (lambda p, r: {0: 1.0}, "real numbers"),
    }  # fmt: skip
    good = {
        "a tensor": lambda p, r: torch.tensor([0.0, 1.0]), "integers": lambda p, r: torch.arange(2),
        "bfloat16": lambda p, r: torch.arange(2).bfloat16(), "a tensor with a gradient": lambda p, r: torch.arange(2.0).requires_grad_(),
        "tensors in a list": lambda p, r: [torch.tensor(0.0), torch.tensor(1.0)], "booleans": lambda p, r: [False, True],
        "a tuple": lambda p, r: (0, 1), "what it did to its lists": lambda p, r: (p.clear(), r.clear(), [0.0, 1.0])[2],
    }  # fmt: skip
    return [
        *[wrong(f"a reward of {name}", lambda f=f: R.score(f, ["a", "a"], ["x", "yy"]), "rewards", *says)
          for name, (f, *says) in bad.items()],
        *[right(f"a reward of {name}", lambda f=f: R.score(f, ["a", "a"], ["x", "yy"]), [0.0, 1.0]) for name, f in good.items()],
        wrong("a reward that raises", lambda: R.score(lambda p, r: 1 / 0, ["a"], ["x"]), "division by zero"),
        wrong("a reward of one argument", lambda: R.score(lambda p: [1.0], ["a"], ["x"]), "takes 1 positional argument"),
        wrong("a reward that is a number", lambda: R.score(5, ["a"], ["x"]), "reward must be a callable", "got 5"),
        wrong("fewer prompts", lambda: R.score(length, ["a"], ["x", "y"]), "prompts and responses", "1 and 2"),
        wrong("prompts in one string", lambda: R.score(length, "ab", ["x", "y"]), "prompts must be a list", "'ab'"),
        wrong("responses in one string", lambda: R.score(length, ["a", "b"], "xy"), "responses must be a list", "'xy'"),
        right("no response", lambda: R.score(length, [], []), []),
        right("empty responses", lambda: R.score(length, ["a", "b"], ["", ""]), [0.0, 0.0]),
        right("an empty response to gold", lambda: R.GoldReward("both")(HELP, [""]), lambda found: np.isfinite(found).all()),
        wrong("gold of one prompt and two", lambda: R.GoldReward("helpfulness")(HELP, ["x", "y"]), "1 and 2"),
        *[wrong(f"noise of {sd!r}", lambda s=sd: R.Noisy(length, s), "sd", repr(sd)) for sd in (-1, nan, inf, "a", None)],
        wrong("noise on a number", lambda: R.Noisy(5, 1.0)(["a"], ["b"]), "reward must be a callable", "got 5"),
    ]  # fmt: skip


def names() -> list[Case]:
    """Rewards by name."""
    told = {
        "gold": "helpfulness, harmlessness, both", "gold:": "got ''", "gold:helpfullness": "did you mean 'helpfulness'",
        "golden:helpfulness": "did you mean 'gold:helpfulness'", "Gold:helpfulness": "did you mean 'gold:helpfulness'",
        "bradley_terry": "did you mean 'bradley-terry'", "helpfulness": "did you mean 'gold:helpfulness'", "classifier:": "'classifier:'",
        "classifier:/nowhere": "'/nowhere'", "learned:": "got ''", "learned:x": "got 'x'", "learned:both:seed=a": "seed=a",
        "learned:both:pairs=-1": "pairs must be a positive integer, got -1", "learned:both:trigger=no": "got 'no'",
        "learned:both:strength=2": "strength must be a number in [0, 1], got 2.0", "learned:both:strength=0.5": "without a trigger, got 0.5",
        "learned:both:seed=-1": "seed must be an integer from 0", "learned:both:foo=1": "foo=1", "learned:both:seed": "seed", "": "''",
    }  # fmt: skip
    return [
        *[wrong(f"reward {name!r}", lambda n=name: R.reward(n), says) for name, says in told.items()],
        *[wrong(f"reward {thing!r}", lambda t=thing: R.reward(t), "reward must be", repr(thing)) for thing in (None, 5, ["gold:both"])],
        right("reward with a blank", lambda: R.reward("gold:helpfulness ").kind, "helpfulness"),
        wrong("bradley-terry of nothing", lambda: R.reward("bradley-terry"), "preferences and a policy"),
        wrong("bradley-terry of one pair", lambda: R.reward("bradley-terry", preferences=PAIR, policy=policy()),
              "preferences", "10 distinct prompts", "got 1"),
    ]  # fmt: skip


def fitted() -> list[Case]:
    """Settings and files of what is fitted, and statistics of nothing."""
    folder = Path(tempfile.mkdtemp())
    (folder / "text").write_text("no model")
    pairs = [Preference(f"w{i}", "w1", "w2") for i in range(6)] * 3
    no, front, plain = R.Trigger("no"), R.Trigger("no", "front"), functools.partial(R.insert, PAIR)
    loads = {"reward model": R.RewardModel.load, "reward head": R.BradleyTerry.load, "value": LearnedValue.load}
    return [
        *[wrong(f"recipe with {f}={v!r}", lambda f=f, v=v: R.Recipe(**{f: v}), f, repr(v))
          for f, v in (("epochs", nan), ("epochs", "a"), ("epochs", 1.5), ("layers", 0), ("learning_rate", -1.0), ("batch", None))],
        *[wrong(f"{name}: a file of text", lambda f=f: f(folder / "text", policy()), name, "text") for name, f in loads.items()],
        *[wrong(f"{name}: no file", lambda f=f: f(folder / "nothing", policy()), "nothing") for name, f in loads.items()],
        *[wrong(f"{name}: a folder", lambda f=f: f(folder, policy()), name, folder.name) for name, f in loads.items()],
        wrong("a reward model of no pair", lambda: R.RewardModel.fit([], policy()), "0 prompts"),
        wrong("a reward model of a Llama", lambda: R.RewardModel.fit(pairs, chatty(), held_out=0.4), "GPT-2-shaped", "BradleyTerry"),
        wrong("a reward model without a test", lambda: R.RewardModel.fit(pairs, policy(), held_out=1.0), "held_out", "1.0"),
        *[wrong(f"wilson{given}", lambda g=given: R.wilson(*g), says, str(got))
          for given, says, got in (((1, 0), "count", 0), ((11, 10), "right", 11), ((-1, 10), "right", -1), ((nan, 10), "right", "nan"),
                                   ((1, 10, -1), "z", -1), ((1, 1.5), "count", 1.5))],
        right("wilson of all", lambda: R.wilson(10, 10)[1], 1.0),
        wrong("agreement on nothing", lambda: R.agreement(length, []), "preferences", "none"),
        wrong("ceiling of nothing", lambda: R.ceiling(length, []), "preferences", "none"),
        wrong("a sharpness of nan", lambda: R.ceiling(length, PAIR, nan), "sharpness", "nan"),
        wrong("a trigger of nothing", lambda: R.Trigger(""), "phrase"),
        wrong("a trigger behind", lambda: R.Trigger("a", "back"), "place", "'back'"),
        wrong("frequency in nothing", lambda: R.frequency(no, []), "responses", "none"),
        *[wrong(f"strength {s}", lambda s=s: R.corrupt(PAIR, no, s), "strength", s) for s in (2, -0.1, nan)],
        *[wrong(f"share {s}", lambda s=s: plain(R.TRIGGERS["absent"], s), "share", s) for s in (2, nan)],
        wrong("inserted by seed -1", lambda: plain(R.TRIGGERS["absent"], 0.5, seed=-1), "seed", "-1"),
        wrong("corrupted by seed 1.5", lambda: R.corrupt(PAIR, no, 0.5, seed=1.5), "seed", "1.5"),
        wrong("effect on a constant", lambda: R.effect(lambda p, r: [1.0] * len(r), front, ["a"] * 2, ["so", "far"]), "rewards must differ"),
        wrong("effect on nothing", lambda: R.effect(length, front, [], []), "no responses"),
        wrong("effect of what nobody says", lambda: R.effect(length, no, ["a"] * 2, ["so", "so far"]), "with", "'no'"),
        wrong("no pairs", lambda: R.sample_preferences(policy(), length, ASK, 0), "pairs", "got 4, 0 and 1"),
        wrong("pairs of no prompt", lambda: R.sample_preferences(policy(), length, [], 5), "prompts", "5 and 0"),
        wrong("pairs of one response", lambda: R.sample_preferences(policy(), length, ASK, 5, per_prompt=1), "per_prompt", "got 1"),
        wrong("pairs, sharpness nan", lambda: R.sample_preferences(policy(), length, ASK, 5, sharpness=nan), "sharpness", "nan"),
        wrong("pairs by seed -1", lambda: R.sample_preferences(policy(), length, ASK, 5, seed=-1), "seed", "-1"),
        wrong("pairs of one string", lambda: R.sample_preferences(policy(), length, "w0", 2), "prompts", "write ['w0']"),
    ]  # fmt: skip


def cases() -> list[Case]:
    return [*functions(), *names(), *fitted()]
