"""Settings of a run, its trainer, its tables; and what learners hand to `check`."""

from __future__ import annotations

import contextlib
import io

import numpy as np
import torch

import infalign_edu as ia
from infalign_edu.classroom import checks
from infalign_edu.classroom.exercises import find
from infalign_edu.rl import algorithms, objectives, shaping, toy
from infalign_edu.rl.tables import Tables
from infalign_edu.rl.trainer import Scores, Trainer

from . import Case, inf, nan, right, wrong
from .models import policy

FIELDS = {
    "beta": (nan, 0, -1, "a", True, inf, 1e-400, [1], 1e31, 1e-31), "target_kl": (nan, 0, -0.1, "x", 1e-300), "steps": (0, -1, 1.5, nan, "3", True),
    "seed": (-1, 1.5, "a", nan), "reward_noise": (nan, -1, "a", None), "lora_rank": (-1, 1.5), "snapshots": (0, "a"),
    "samples_per_prompt": (1, 0), "evaluation_samples": (3, 0), "base_samples": (2,), "preference_pairs": (5,), "warmup": (-1, 0),
    "max_new_tokens": (0, 1.5), "micro_batch": (0, -1), "threads": (0, 10**6), "learning_rate": (0, nan, 1e300), "reference_samples": (0,),
    "training_prompts": (0,), "heldout_prompts": (-3,), "prompts_per_step": (0,), "model": (None, 5), "device": (None, 5),
    "dtype": (5,), "out": (None, 5, ""), "compare": (5,), "prompts": (None,),
}  # fmt: skip
NAMES = {
    ("procedure", "bst-of-4"): "did you mean 'best-of-4'", ("procedure", None): "None", ("procedure", 4): "got 4",
    ("procedure", "best-of-poisson-3"): "largest number of draws", ("procedure", "best-of-0"): "n must be", ("transform", 5): "got 5",
    ("transform", "exq:10"): "did you mean 'exp:10'", ("transform", "exp:a"): "'exp:a'", ("transform", "optimall"): "'optimal'",
    ("compare", "exp:10,,bogus"): "'bogus'", ("algorithm", "rlo"): "did you mean 'rloo'", ("algorithm", "bonbon:1"): "'bonbon:1'",
    ("algorithm", "ppo:3"): "'ppo:3'", ("algorithm", None): "None", ("algorithm", "PPO"): "did you mean 'ppo'",
}  # fmt: skip


def settings() -> list[Case]:
    """Every field of `CTRLConfig` with values that it can't take."""
    return [
        *[wrong(f"{name}={value!r}", lambda n=name, v=value: ia.CTRLConfig(**{n: v}), name, repr(value))
          for name, values in FIELDS.items() for value in values],
        *[wrong(f"{name}={value!r}", lambda n=name, v=value: ia.CTRLConfig(**{n: v}), says) for (name, value), says in NAMES.items()],
        wrong("beta and target_kl", lambda: ia.CTRLConfig(beta=1.0, target_kl=2.0), "beta or target_kl", "1.0", "2.0"),
        wrong("a field that is none", lambda: ia.CTRLConfig(betta=1.0), "betta"),
        *[wrong(f"align of {given!r}", lambda given=given: ia.align(given), "config must be settings", f"got {given!r}")
          for given in (3, None, {"beta": 0.1})],
        right("a huge seed", lambda: ia.CTRLConfig(seed=2**70).seed == 2**70, True),
        right("NumPy's numbers", lambda: ia.CTRLConfig(beta=np.float64(0.1)).beta, 0.1),
        *[wrong(f"algorithm {a!r}", lambda a=a: algorithms.algorithm(a), "algorithm must be rloo") for a in ("", "bonbon:", None, 5, dict)],
    ]  # fmt: skip


def moving() -> tuple[object, object]:
    trained = policy().copy()
    reference = trained.copy()
    trained.model.requires_grad_(True)
    return trained, reference


def trainer(**changes: object) -> float:
    """KL of a first step with some settings changed: 0 where nothing was wrong."""
    trained, reference = moving()
    score = changes.pop("score", lambda i, r: Scores(*3 * (np.arange(len(r) * 1.0).reshape(len(i), -1),)))
    options = {"beta": 0.1, "steps": 2, "prompts_per_step": 1, "samples_per_prompt": 2, "micro_batch": 4} | changes
    prompts, who = options.pop("prompts", ["w0"]), options.pop("policy", trained)
    return Trainer(who, reference, prompts, score, **options).advance()["kl"]


def training() -> list[Case]:
    """The loop's own settings and scores."""
    bad = {"beta": (nan, 0, "a", None), "samples_per_prompt": (1, 2.5), "steps": (0, -1, 1.5), "prompts_per_step": (0,),
           "learning_rate": (nan, -1, 0), "micro_batch": (0,), "seed": (-1, 1.5)}  # fmt: skip
    scores = {"of nan": np.full((1, 2), nan), "for five": np.ones((1, 5)), "in one row": np.ones(2), "of inf": np.full((1, 2), inf)}
    return [
        *[wrong(f"trainer {f}={v!r}", lambda f=f, v=v: trainer(**{f: v}), *((f, repr(v)) if f != "seed" else ()))
          for f, values in bad.items() for v in values],
        wrong("trainer without prompts", lambda: trainer(prompts=[]), "prompts", "none"),
        wrong("trainer of one string", lambda: trainer(prompts="w0 w1"), "prompts", "write ['w0 w1']"),
        wrong("trainer of a frozen policy", lambda: trainer(policy=moving()[1]), "policy", "frozen"),
        wrong("trainer by a wrong name", lambda: trainer(algorithm="rlo"), "did you mean 'rloo'"),
        *[wrong(f"scores {name}", lambda t=t: trainer(score=lambda i, r: Scores(t, t, t)), "must be") for name, t in scores.items()],
        right("a first step", lambda: round(trainer(), 6), 0.0),
        wrong("one sample a prompt", lambda: objectives.rloo_advantages(torch.ones(2, 1)), "samples_per_prompt", "got 1"),
    ]  # fmt: skip


def tables() -> list[Case]:
    """Shaped rewards, keyed tables, the toy world."""
    table, of = np.random.default_rng(0).normal(size=(4, 16)), Tables.of
    shaped, one = shaping.Shaped("raw", table), of(["a"], {0: [1.0]})
    return [
        wrong("shape rw", lambda: shaping.Shaped("rw", table), "shape must be one of", "did you mean 'raw'"),
        wrong("shape of nan", lambda: shaping.Shaped("raw", np.array([[nan, 1.0]])), "reference", "nan"),
        *[wrong(f"shaped KL {kl}", lambda kl=kl: shaped.beta_for_kl(kl), "kl", kl) for kl in (100, 0, nan)],
        *[wrong(f"shaped beta {b}", lambda b=b: shaped.kl(b), "beta", b) for b in (0, -1, nan)],
        wrong("KL of a constant reward", lambda: shaping.Shaped("raw", np.ones((2, 4))).beta_for_kl(0.1), "kl", "0.1"),
        wrong("another id", lambda: of(["a"], {0: [1.0], 1: [2.0]}), "rewards", "'1'"),
        wrong("ragged tables", lambda: of(["a", "b"], {0: [1.0], 1: [2.0, 3.0]}), "K for every prompt", "[1, 2]"),
        wrong("tables of nan", lambda: of(["a"], {0: [nan]}), "finite", "nan"),
        wrong("tables of a string", lambda: of("hi", {0: [1.0], 1: [2.0]}), "prompts", "'hi'"),
        wrong("tables of nothing", lambda: of([], {}), "prompts", "0 of 0"),
        wrong("digits for rewards", lambda: of(["a"], {0: "12"}), "reference_rewards", "'12'"),
        wrong("an id without a table", lambda: one.calibrated([7], [1.0]), "prompt_id", "got 7"),
        wrong("rewards for two", lambda: one.calibrated([0], [1.0, 2.0]), "rewards", "1 ids", "(2,)"),
        wrong("a reward of nan", lambda: one.calibrated([0], [nan]), "finite", "nan"),
        wrong("no table there", lambda: Tables.load("/nowhere/a.npz", ["a"]), "/nowhere/a.npz"),
        right("tables of K=1", lambda: one.calibrated([0, 0], [0.0, 2.0]), [0.5, 1.0]),
        *[wrong(f"toy world {k}={v}", lambda k=k, v=v: toy.ToyWorld(**({"words": 3, "length": 2} | {k: v})), k, str(v))
          for k, v in (("words", 1), ("words", 2.5), ("length", 0), ("seed", -1), ("seed", 1.5))],
        wrong("toy model", lambda: toy.ToyWorld(words=3, length=2).policy("tabel"), "table or transformer", "'tabel'"),
        wrong("toy target", lambda: toy.ToyWorld(words=3, length=2).target("idntity"), "did you mean 'identity'"),
        wrong("toy KL", lambda: toy.ToyWorld(words=3, length=2).target("identity", kl=-1), "kl", "-1"),
    ]  # fmt: skip


def said(function: object, name: str = "best-of-n-density") -> str:
    with contextlib.redirect_stdout(io.StringIO()) as out:
        checks.check(name, function)
    return out.getvalue()


def classroom() -> list[Case]:
    """Answers that are none: a verdict in words, never an error."""
    answers = {
        "a number": (5, "you gave int"), "None": (None, "you gave NoneType"), "no argument": (lambda: 1, "raised TypeError"),
        "text": (lambda u, n: "a", "not yet"), "an error": (lambda u, n: 1 / 0, "raised ZeroDivisionError"),
        "ragged": (lambda u, n: [[1], [1, 2]], "not yet"), "nan": (lambda u, n: u * nan, "not finite"),
        "another shape": (lambda u, n: torch.tensor(1.0), "shape"), "an exit": (lambda u, n: exit(), "raised SystemExit"),
        "a generator": (lambda u, n: (x for x in u), "not yet"), "an object": (lambda u, n: object(), "not yet"),
        "nothing": (lambda u, n: None, "to do"), "its input": (lambda u, n: u.__imul__(2), "changes its input"),
    }  # fmt: skip
    return [
        *[right(f"an answer of {name}", lambda f=f: said(f), lambda found, says=says: says in found and "Traceback" not in found)
          for name, (f, says) in answers.items()],
        *[wrong(f"exercise {name!r}", lambda n=name: find(n), "exercise must be one of", repr(name)) for name in ("", None, 5)],
        wrong("an exercise with a slip", lambda: said(len, "best-of-n-densty"), "best-of-n-density", "'best-of-n-densty'"),
        wrong("a hint for none", lambda: checks.hint("zzz"), "exercise", "'zzz'"),
        wrong("a file that does not ship", lambda: ia.shipped("runs/nothing.csv"), "'runs/nothing.csv'"),
        wrong("a name of nothing", lambda: ia.bestofn, "bestofn"),
    ]  # fmt: skip


def cases() -> list[Case]:
    return [*settings(), *training(), *tables(), *classroom()]
