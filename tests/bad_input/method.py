"""Rewards, procedures, transforms: what the method is called with."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import torch

import infalign_edu as ia
from infalign_edu.calibration import reward_kl
from infalign_edu.inputs import label
from infalign_edu.order_statistics import rank_weights
from infalign_edu.transforms import graded_quadrature

from . import Case, inf, nan, right, wrong

T = [[1.0, 2.0, 3.0, 4.0]]
RNG = np.random.default_rng(0)
C = ia.EmpiricalCalibrator
SHAPE = "must be a [prompts, samples] table with at least one entry, got shape"
TABLES = {  # rewards that are no finite table: what the line says after the field
    "nan": ([[1, nan]], ("finite, got nan for prompt 0, sample 1",)),
    "inf": ([[1, 2], [inf, 3]], ("finite, got inf for prompt 1, sample 0",)),
    "minus inf": ([[-inf, 1]], ("finite, got -inf for prompt 0, sample 0",)),
    "empty": ([], (SHAPE, "(0,)")),
    "no sample": ([[], []], (SHAPE, "(2, 0)")),
    "a number": (3.0, (SHAPE, "()")),
    "one row": ([1.0, 2.0], (SHAPE, "(2,)")),
    "three axes": ([[[1.0, 2.0]]], (SHAPE, "(1, 1, 2)")),
    "ragged": ([[1, 2], [1]], ("real numbers in rows of equal length", "[[1, 2], [1]]")),
    "objects": (np.array([[1.0, "a"]], dtype=object), ("real numbers", "'a'")),
    "letters": ([["a", "b"]], ("real numbers", "'a'")),
    "numbers as text": ([["1", "2"]], ("real numbers", "'1'")),
    "None": ([[None, 1.0]], ("real numbers", "None")),
    "complex": ([[1 + 2j, 3]], ("real numbers", "(1+2j)")),
    "beyond float64": ([[10**400, 1]], ("real numbers", "float64")),
    "bytes": (b"abc", ("real numbers", "b'abc'")),
    "a dict": ({"a": 1}, ("real numbers", "{'a': 1}")),
    "a generator": ((x for x in (1.0, 2.0)), ("real numbers", "generator")),
    "dates": (np.array([["2020-01-01"]], dtype="datetime64[D]"), ("real numbers", "2020")),
    "a mask": (np.ma.array([[1.0, 2.0]], mask=[[False, True]]), ("masked array", "1 missing")),
}


def tables() -> list[Case]:
    """Each bad table where a reference, a policy, and rewards to calibrate are asked for."""
    cases = []
    for name, (table, says) in TABLES.items():
        cases += [
            wrong(f"calibrate by {name}", lambda t=table: C(t), "reference_rewards", *says),
            wrong(f"calibrate {name}", lambda t=table: C(T)(t), "rewards", *says),
            wrong(f"win rate of {name}", lambda t=table: ia.win_rate(t, T), "policy_rewards", *says),
            wrong(f"judged by {name}", lambda t=table: ia.judged_win_rate(T, t, T, T), "policy_judged", *says),
        ]
    return cases


def odd_tables() -> list[Case]:
    """Tables that are unusual and right."""
    return [
        right("K = 1", lambda: C([[1.0]])([[0.0, 1.0, 2.0]]), [[0.0, 0.5, 1.0]]),
        right("one sample each", lambda: ia.win_rate([[1.0]], [[1.0]]).per_prompt, [0.5]),
        right("constant rewards", lambda: ia.win_rate([[5.0] * 4], [[5.0] * 4], "best-of-3").per_prompt, [0.5]),
        right("constant reference", lambda: C([[5.0] * 3])([[5.0, 4.0, 6.0]]), [[0.5, 0.0, 1.0]]),
        right("huge rewards", lambda: C([[-1e300, 1e300]])([[0.0, 1.7e308]]), [[0.5, 1.0]]),
        right("denormals", lambda: C([[0.0, 5e-324]])([[5e-324, -5e-324]]), [[0.75, 0.0]]),
        right("booleans", lambda: C([[True, False]])([[True]]), [[0.75]]),
        right("big integers", lambda: C([[2**62, 2**63]])([[2**63]]), [[0.75]]),
        right("integers in objects", lambda: C(np.array([[1, 2]], dtype=object))([[2]]), [[0.75]]),
        right("fractions", lambda: C([[Fraction(1, 3), Fraction(2, 3)]])([[0.5]]), [[0.5]]),
        right("float16", lambda: C(np.array([[1, 2]], dtype=np.float16))([[2]]), [[0.75]]),
        right("uint8", lambda: C(np.array([[1, 2]], dtype=np.uint8))([[0]]), [[0.0]]),
        right("torch bfloat16", lambda: C(torch.tensor([[1.0, 2.0]]).bfloat16())([[2.0]]), [[0.75]]),
        right("torch with a gradient", lambda: C(torch.tensor([[1.0, 2.0]], requires_grad=True))([[2.0]]), [[0.75]]),
        right("a full mask array", lambda: C(np.ma.array([[1.0, 2.0]]))([[2.0]]), [[0.75]]),
        right("N = samples", lambda: ia.win_rate(T, T, "best-of-4").per_prompt, [0.5]),
        wrong("N > samples", lambda: ia.win_rate(T, T, "best-of-5"), "policy_rewards", "at least 5", "got 4"),
        wrong("N > reference samples", lambda: ia.win_rate([[1.0] * 8], T, "best-of-5"), "reference_rewards", "got 4"),
        wrong("Kth-best of too many", lambda: ia.win_rate(T, T, "2nd-best-of-8"), "at least 8", "2nd-best-of-8"),
        wrong("draws without limit", lambda: ia.win_rate(T, T, "best-of-poisson-3"), "max_n", "best-of-poisson-3.0"),
        wrong("other prompts", lambda: ia.win_rate(T, T + T), "same prompts", "1 and 2"),
        wrong("judged in another shape", lambda: ia.judged_win_rate(T, [[1.0]], T, T), "policy_judged", "(1, 1)"),
        wrong("judged other prompts", lambda: ia.judged_win_rate(T, T, T + T, T + T), "same prompts", "1 and 2"),
        wrong("rows of another table", lambda: C(T)([[1.0], [2.0]]), "one row a prompt (1)", "got 2"),
    ]


def calibrators() -> list[Case]:
    """Everything else that calibration and its estimates are asked for."""
    two = C([[1.0], [2.0]])
    return [
        wrong("a seed for a generator", lambda: C(T).randomized([[1.0]], 0), "rng", "np.random.default_rng", "got 0"),
        wrong("no generator", lambda: C(T).randomized([[1.0]], None), "rng", "got None"),
        *[wrong(f"save to {path!r}", lambda path=path: two.save(path), "path must name a file", f"got {path!r}")
          for path in ("", "/", 3, None)],
        *[wrong(f"load {path!r}", lambda path=path: C.load(path), "path must name a file", f"got {path!r}")
          for path in ("", "/", 3, None)],
        wrong("load a file that is not there", lambda: C.load("none.npz"), "'none.npz' does not exist"),
        wrong("take beyond", lambda: two.take([5]), "prompts", "from 0 to 1", "[5]"),
        wrong("take before", lambda: two.take([-1]), "prompts", "from 0 to 1", "[-1]"),
        wrong("take by a short mask", lambda: two.take([True]), "prompts", "[True]"),
        wrong("take by a mask of nothing", lambda: two.take([False, False]), "prompts", "[False, False]"),
        wrong("take none", lambda: two.take([]), "prompts", "[]"),
        wrong("take half a prompt", lambda: two.take([0.5]), "prompts", "[0.5]"),
        wrong("take a number", lambda: two.take(1), "prompts", "got 1"),
        right("take by a mask", lambda: two.take([False, True])([[2.0]]), [[0.5]]),
        wrong("PromptMean of none", lambda: ia.PromptMean(np.array([])), "per_prompt", "(0,)"),
        wrong("PromptMean of a table", lambda: ia.PromptMean(np.ones((2, 2))), "per_prompt", "(2, 2)"),
        wrong("PromptMean of None", lambda: ia.PromptMean(None), "per_prompt", "None"),
        right("PromptMean of lists", lambda: (ia.PromptMean([0.5, 0.7]) - ia.PromptMean([0.1, 0.2])).mean, 0.45),
        wrong("less a number", lambda: ia.PromptMean([0.5]) - 0.5, "PromptMean", "float"),
        *[wrong(f"level {level}", lambda p=level: ia.PromptMean([0.1, 0.2]).interval(p), "level", level)
          for level in (0, 1.5, nan, "0.9", None)],
        *[wrong(f"power m={m} of K={K}", lambda m=m, K=K: ia.unbiased_power([1], K, m), field, got)
          for m, K, field, got in ((5, 4, "m", "got 5"), (-1, 4, "m", "-1"), (0, 0, "K", "0"), (0, nan, "K", "nan"))],
        *[wrong(f"{k} below", lambda k=k: ia.unbiased_power([k], 4, 1), "below", k) for k in (1.5, nan, 5, -1, "a")],
        right("power of nothing", lambda: ia.unbiased_power([], 4, 1), []),
        right("power 0", lambda: ia.unbiased_power([0], 4, 0), [1.0]),
        wrong("quantiles outside", lambda: reward_kl(np.full(99, 1.5)), "calibrated", "1.5"),
        wrong("quantiles nan", lambda: reward_kl(np.full(99, nan)), "calibrated", "nan"),
        wrong("few quantiles", lambda: reward_kl([0.5]), "calibrated", "50 bins", "got 1"),
        wrong("no bins", lambda: reward_kl([0.5], 0), "bins", "got 0"),
        wrong("quantiles in letters", lambda: reward_kl(["x"] * 60), "calibrated", "'x'"),
    ]  # fmt: skip


NAMES = {
    "bets-of-4": "did you mean 'best-of-4'", "Best-of-4": "did you mean 'best-of-4'", "best_of_8": "did you mean 'best-of-8'",
    "bestof4": "did you mean 'best-of-4'", "standrad": "did you mean 'standard'", "worst-of": "did you mean 'worst-of-4'",
    "best-of--1": "'best-of--1'", "best-of-4.5": "'best-of-4.5'", "": "''", "best-of-poisson-": "best-of-poisson-",
    "best-of-0": "n must be an integer of at least 1, got 0", "5th-best-of-4": "k must be at most n = 4, got 5",
    "0th-best-of-4": "k must be an integer of at least 1, got 0", "top-9-of-8": "m must be at most n = 8, got 9",
    "best-of-poisson--1": "mu must be a finite number >= 0, got -1.0", "best-of-poisson-nan": "mu", "best-of-poisson-1e9": "mu",
    "0.5*standard": "weights must be non-negative and sum to 1, got [0.5]", "nan*standard+0.5*best-of-4": "weights",
    "-0.5*standard+1.5*best-of-4": "weights", "0.5*bogus+0.5*standard": "got 'bogus'",
    "best-of-99999999999999999999": "n must be at most 1,000,000",
}  # fmt: skip


def procedures() -> list[Case]:
    """Procedures by name, by number, and what they are asked."""
    best = ia.BestOfN(4)
    things = {"None": None, "4": 4, "b'best-of-4'": b"best-of-4", "['best-of-4']": ["best-of-4"], "BestOfN": ia.BestOfN}
    return [
        *[wrong(f"procedure {name!r}", lambda n=name: ia.procedure(n), says) for name, says in NAMES.items()],
        *[wrong(f"procedure {name}", lambda p=thing: ia.procedure(p), "procedure must be", name)
          for name, thing in things.items()],
        wrong("procedure of 100,000 letters", lambda: ia.procedure("x" * 100_000), "procedure must be", "'xxx"),
        right("procedure with blanks", lambda: str(ia.procedure(" best-of-4\n")), "best-of-4"),
        right("a million draws", lambda: ia.procedure("best-of-1000000").rank_weights(1_000_000)[-1], 1.0),
        wrong("win rate under None", lambda: ia.win_rate(T, T, None), "procedure must be", "None"),
        wrong("win rate under 4", lambda: ia.win_rate(T, T, 4), "procedure must be", "got 4"),
        *[wrong(f"BestOfN({n!r})", lambda n=n: ia.BestOfN(n), "n must be an integer", repr(n))
          for n in (0, -1, 1.5, nan, None, "4", True, [4])],
        *[wrong(f"WorstOfN({n!r})", lambda n=n: ia.WorstOfN(n), "n must be an integer", repr(n)) for n in (0, -1, 2.5)],
        right("BestOfN of a NumPy integer", lambda: ia.BestOfN(np.int64(4)).n, 4),
        wrong("10^30 draws", lambda: ia.BestOfN(10**30), "n must be at most 1,000,000"),
        wrong("mu in text", lambda: ia.BestOfPoisson("3"), "mu", "'3'"),
        *[wrong(f"probabilities {p}", lambda p=p: ia.theory.FiniteProblem(p, [0, 1]), "reference must be >= 0 and sum to 1", "got minimum")
          for p in ([1.5e308, 1.5e308], [inf, -inf], [inf, 1.0])],
        wrong("mixture of huge weights", lambda: ia.Mixture([1.5e308, 1.5e308], ["standard"] * 2), "weights must be non-negative and sum to 1"),
        wrong("mixture of nothing", lambda: ia.Mixture([], []), "weights"),
        wrong("mixture weights in text", lambda: ia.Mixture("a", [ia.Standard()]), "weights", "'a'"),
        wrong("mixture of a number", lambda: ia.Mixture([1.0], [4]), "procedure must be", "got 4"),
        wrong("mixture of one", lambda: ia.Mixture([1.0], ia.Standard()), "procedures", "list"),
        right("mixture of names", lambda: ia.Mixture([0.5, 0.5], ["standard", "best-of-4"]).max_n, 4),
        *[wrong(f"cdf at {t!r}", lambda t=t: best.cdf(t), "t must", t)
          for t in (1.5, -0.1, nan, "a", None, 1j)],
        right("cdf at nothing", lambda: best.cdf([]), []),
        right("cdf at a rounding above 1", lambda: best.cdf(1 + 1e-12), 1.0),
        wrong("choice among too few", lambda: best.select([1.0, 2.0], RNG), "best-of-4", "(2,)"),
        wrong("choice with a nan", lambda: ia.BestOfN(2).select([1.0, nan], RNG), "rewards", "nan"),
        wrong("choice among letters", lambda: ia.BestOfN(2).select(["a", "b"], RNG), "rewards", "'a'"),
        wrong("choice by a seed", lambda: ia.BestOfN(2).select([1.0, 2.0], 0), "rng", "got 0"),
        wrong("draws by a seed", lambda: ia.BestOfPoisson(2.0).draws(0), "rng", "got 0"),
        right("choice among infinities", lambda: ia.BestOfN(2).select([-inf, inf], RNG), 1),
        wrong("a mixture that never draws 2", lambda: ia.procedure("0.5*standard+0.5*best-of-4").select([1.0, 2.0], RNG),
              "never draws 2"),
        wrong("ranks of too few", lambda: best.rank_weights(3), "M", "at least 4", "got 3"),
        wrong("ranks of a fraction", lambda: best.rank_weights(4.5), "M", "4.5"),
        wrong("ranks of an object", lambda: rank_weights(object(), 3), "procedure", "max_n"),
    ]  # fmt: skip


class Own:
    """A procedure as a user writes it; each case spoils one of its names."""

    max_n = 2

    def __init__(self, **spoiled: object) -> None:
        vars(self).update(spoiled)

    def cdf(self, t):
        return 0.5 * np.asarray(t) + 0.5 * np.asarray(t) ** 2

    def pdf(self, t):
        return 0.5 + np.asarray(t)

    def __str__(self) -> str:
        return "own"


def own_procedures() -> list[Case]:
    """Laws that are none, wherever a procedure is taken; steps of a pdf are no fault."""
    flat = np.ones_like
    laws = {
        "a pdf of best-of-2": ({"pdf": lambda t: 2 * t}, "pdf must be the slope of cdf"), "a pdf twice": ({"pdf": lambda t: 1 + 2 * t}, "pdf must be the slope"),
        "a pdf below 0": ({"pdf": lambda t: 3 - 4 * t}, "pdf must be the slope of cdf"), "a pdf of nan": ({"pdf": lambda t: t * nan}, "pdf must give one finite number"),
        "a pdf of one number": ({"pdf": lambda t: 1.0}, "pdf must give one finite number"), "a pdf in text": ({"pdf": lambda t: "a"}, "pdf must hold real numbers, got 'a'"),
        "a cdf to 2": ({"cdf": lambda t: 2 * t, "pdf": lambda t: 2 * flat(t)}, "cdf must rise from 0 to 1, got 0 at 0, 2 at 1"),
        "a cdf from 0.2": ({"cdf": lambda t: 0.2 + 0.8 * t, "pdf": lambda t: 0.8 * flat(t)}, "cdf must rise from 0 to 1, got 0.2 at 0, 1 at 1"),
        "a cdf to 0.9": ({"cdf": lambda t: 0.9 * t, "pdf": lambda t: 0.9 * flat(t)}, "cdf must rise from 0 to 1, got 0 at 0, 0.9 at 1"),
        "a cdf that falls": ({"cdf": lambda t: 1 - t, "pdf": lambda t: -flat(t)}, "cdf must rise from 0 to 1, got 1 at 0, 0 at 1"),
        "a cdf that dips": ({"cdf": lambda t: t + 0.3 * np.sin(2 * np.pi * t)}, "cdf must rise", "a least step of -0.0"),
        "a bump in its pdf": ({"pdf": lambda t: 0.5 + t + 0.1 * ((t > 0.5) & (t < 0.52))}, "pdf must be the slope of cdf, got 1.1 at t = 0.501"),
        "a pdf above 1 alone": ({"cdf": lambda t: t**9, "pdf": lambda t: np.where(t > 0.8, 5.0, 9 * t**8)}, "pdf must be the slope of cdf"),
        "a pdf 1.0025 for 1": ({"cdf": lambda t: t, "pdf": lambda t: 1.0025 * flat(t)}, "got 1 at t = ", "for a slope of 1"),
        "max_n in text": ({"max_n": "a"}, "max_n must be an integer of at least 1, got 'a'"), "max_n 0": ({"max_n": 0}, "max_n must be", "got 0"),
    }  # fmt: skip
    taken = {
        "procedure": ia.procedure, "a mixture": lambda p: ia.Mixture([0.5, 0.5], [p, "standard"]), "an optimum": lambda p: ia.theory.optimum(p, 0.3),
        "a tilt": lambda p: ia.theory.tilt(ia.Identity(), 0.3).win_rate(p), "levels": lambda p: ia.theory.FiniteProblem([0.5, 0.5], [0, 1]).infalign(p, 0.3),
        "a win rate": lambda p: ia.win_rate([[1.0, 2.0]], [[1.0, 2.0]], p), "an efficiency": lambda p: ia.theory.efficiency(ia.Identity(), p),
        "settings": lambda p: ia.CTRLConfig(procedure=p),
    }  # fmt: skip
    half = Own(cdf=lambda t: np.maximum(2 * t - 1, 0), pdf=lambda t: np.where(t > 0.5, 2.0, 0.0))  # the better half: a step
    return [
        *[wrong(f"{name} for {ask}", lambda f=f, s=spoiled: f(Own(**s)), "procedure own: ", *says)
          for ask, f in taken.items() for name, (spoiled, *says) in laws.items()],
        right("a procedure with a step", lambda: ia.procedure(half) is half, True),
        right("a pdf to three digits", lambda: ia.procedure(Own(cdf=lambda t: t**9, pdf=lambda t: 9.0045 * t**8)).max_n, 2),
        right("a procedure of one's own", lambda: ia.procedure(Own()).max_n, 2),
    ]  # fmt: skip


def transforms() -> list[Case]:
    """Transforms by name, as tables, and as functions that do not do what a transform does."""
    names = {"exp": "'exp'", "exp:": "'exp:'", "exp:a": "'exp:a'", "exp:0": "got 0.0", "exp:nan": "got nan",
             "exp:701": "[-700, 700]", "power:0": "got 0.0", "power:-1": "got -1.0", "log:3": "'log:3'",
             "exq:10": "did you mean 'exp:10'", "powr:3": "did you mean 'power:3'", "Identity": "did you mean 'identity'",
             "": "''", "exp:1:2": "'exp:1:2'"}  # fmt: skip
    tabulated = {
        "nan": ([0, 1], [0, nan], "phi", "nan"), "huge": ([0, 1], [-1.7e308, 1.7e308], "phi must be finite, at most 1e300", "-1.7e+308"), "one point": ([0], [0], "u and phi", "(1,)"),
        "disorder": ([0, 0.5, 0.4, 1], [0] * 4, "u must increase", "0.4"), "ends": ([0.1, 1], [0, 1], "u must", "0.1"),
        "lengths": ([0, 1], [0], "u and phi", "(1,)"), "letters": (["a", "b"], [0, 1], "u must hold", "'a'"),
        "u nan": ([0, nan, 1], [0, 1, 2], "u must increase", "nan"), "ragged": ([0, [1]], [0, 1], "u must hold", "[0, [1]]"),
    }  # fmt: skip
    functions = {
        "constant": (lambda u: 0 * u + 3, "constant"), "nan": (lambda u: u * nan, "finite"), "number": (lambda u: 1.0, "one"),
        "three": (lambda u: np.ones(3), "one finite value"), "text": (lambda u: "a", "'a'"), "complex": (lambda u: u * 1j, "real"),
        "1/u": (lambda u: 1 / u, "finite variance"), "a tangent": (lambda u: np.tan(np.pi * (u - 0.5)), "finite variance"),
        "a peak at 1": (ia.Power(1e12), "finite variance that floats resolve"),
    }  # fmt: skip
    return [
        *[wrong(f"transform {name!r}", lambda n=name: ia.transform(n), "transform", says) for name, says in names.items()],
        wrong("transform None", lambda: ia.transform(None), "transform must be", "None"),
        wrong("transform 3", lambda: ia.transform(3), "transform must be", "got 3"),
        wrong("Exponential in text", lambda: ia.Exponential("10"), "t must be", "'10'"),
        wrong("Power negative", lambda: ia.Power(-1), "k must be", "-1"),
        *[wrong(f"tabulated {name}", lambda u=u, phi=phi: ia.Tabulated(u, phi), *says)
          for name, (u, phi, *says) in tabulated.items()],
        *[wrong(f"standardize {name}", lambda f=f: ia.standardize(f), "transform", says)
          for name, (f, says) in functions.items()],
        *[wrong(f"a transform of {name}", lambda f=f, g=g: g(f), "transform <lambda> must give", says)
          for g in (ia.transform, lambda f: ia.CTRLConfig(transform=f))
          for name, (f, says) in {
              "its largest": (lambda u: u / np.max(u), "the same number for the same u"), "its ranks": (lambda u: np.argsort(u, None).reshape(np.shape(u)) / 99, "the same number"),
              "chance": (lambda u: RNG.random(np.shape(u)), "the same number for the same u"),
              "a little chance": (lambda u: 1e-9 * RNG.random(np.shape(u)), "the same number for the same u"),
              "its size": (lambda u: np.where(np.abs(u - 0.5) < 0.01, np.size(u), 1e3 * u), "got 100 and 50 for u = 0.505"),
              "its mean": (lambda u: np.mean(u), "one number for each u, got shape ()"),
              "a line": (lambda u: np.ravel(u), "one number for each u, got shape (50,) for (5, 10)"),
          }.items()],
        wrong("a polynomial in two lines", lambda: ia.standardize(np.poly1d([0])), "transform 0 is constant"),
        right("a polynomial's name on one line", lambda: "\n" in label(np.poly1d([1.0, 0.0, 2.0])), False),
        right("a transform with a hole", lambda: callable(ia.transform(lambda u: np.where(np.asarray(u) > 0.5, nan, u))), True),
        wrong("standardize a name", lambda: ia.standardize("identity"), "transform", "ia.transform", "'identity'"),
        wrong("identity above 1", lambda: ia.Identity()(1.1), "t must lie in [0, 1]", "1.1"),
        wrong("log below 0", lambda: ia.Log()(-1), "t must lie in [0, 1]", "-1"),
        right("log of 0", lambda: ia.Log()(0.0) == -inf, True),
        wrong("no panels", lambda: graded_quadrature(0), "panels", "got 0"),
        wrong("panels beyond floats", lambda: graded_quadrature(2000), "panels", "2000"),
        wrong("no order", lambda: graded_quadrature(order=0), "order", "got 0"),
    ]  # fmt: skip


def cases() -> list[Case]:
    return [*tables(), *odd_tables(), *calibrators(), *procedures(), *own_procedures(), *transforms()]
