"""Temperatures, KLs, transforms and policies that theory is asked about."""

from __future__ import annotations

import numpy as np
import torch

from infalign_edu import theory
from infalign_edu.theory.lesson import fixed_point

from . import Case, inf, nan, right, wrong

NUMBERS = (0, -1, nan, inf, None, "0.5", [0.5], np.array([0.5, 0.6]), True, 1j, 10**400)


def identity(u: np.ndarray) -> np.ndarray:
    return u


def step(u: np.ndarray) -> np.ndarray:
    return (u > 0.5) * 1.0


def temperatures() -> list[Case]:
    """beta and kl, wherever they are asked for."""
    asked = {
        "tilt": ("beta", lambda b: theory.tilt(identity, b)),
        "optimum": ("beta", lambda b: theory.optimum("best-of-4", b)),
        "unique": ("beta", lambda b: theory.unique("worst-of-4", b, "best-of-4")),
        "naive_fixed_point": ("beta", lambda b: theory.naive_fixed_point("best-of-4", b)),
        "rlhf": ("beta", lambda b: theory.FiniteProblem([0.5, 0.5], [0, 1]).rlhf([0, 1], b)),
        "infalign": ("beta", lambda b: theory.FiniteProblem([0.5, 0.5], [0, 1]).infalign("best-of-4", b)),
        "beta_for_kl": ("kl", lambda kl: theory.beta_for_kl(identity, kl)),
        "optimal_beta_for_kl": ("kl", lambda kl: theory.optimal_beta_for_kl("best-of-4", kl)),
        "solve_for_kl": ("kl", lambda kl: theory.solve_for_kl(lambda beta: 1 / beta, kl, 1.0)),
        "calibration_cost": ("kl", lambda kl: theory.calibration_cost(identity, "best-of-4", 4, kl)),
        "mismatch": ("kl", lambda kl: theory.mismatch(["standard"], ["standard"], kl)),
    }
    shown = {nan: "nan", "0.5": "'0.5'", 10**400: "1000"}
    return [
        *[wrong(f"{name} at {str(number)[:12]!r}", lambda f=f, n=number: f(n), field, "positive number",
                shown.get(number, str(number)) if not isinstance(number, (list, np.ndarray)) else "0.5")
          for name, (field, f) in asked.items() for number in NUMBERS],
        wrong("frontier at 0", lambda: theory.frontier(identity, "best-of-4", [1.0, 0.0]), "beta", "got 0.0"),
        wrong("frontier at a letter", lambda: theory.frontier(identity, "best-of-4", "a"), "beta", "got 'a'"),
        wrong("optimal frontier at -1", lambda: theory.optimal_frontier("best-of-4", [-1]), "beta", "got -1"),
        right("frontier at nothing", lambda: theory.frontier(identity, "best-of-4", []).kl, []),
        right("optimal frontier at nothing", lambda: theory.optimal_frontier("best-of-4", []).kl, []),
    ]  # fmt: skip


def reaches() -> list[Case]:
    """KLs and temperatures that are far away."""
    return [
        wrong("a KL beyond log 2", lambda: theory.beta_for_kl(step, 1.0), "kl", "below 0.693147", "got 1.0"),
        right("a KL below log 2", lambda: theory.tilt(step, theory.beta_for_kl(step, 0.5)).kl, 0.5),
        wrong("KL of a constant", lambda: theory.beta_for_kl(lambda u: 0 * u, 0.5), "kl", "got 0.5"),
        wrong("10^6 nats", lambda: theory.beta_for_kl(identity, 1e6), "kl", "below 64", "got 1000000.0"),
        wrong("10^6 nats, optimal", lambda: theory.optimal_beta_for_kl("best-of-4", 1e6), "kl", "below 64", "1000000.0"),
        wrong("10^6 nats, standard", lambda: theory.optimal_beta_for_kl("standard", 1e6), "kl", "below 64", "1000000.0"),
        right("50 nats", lambda: np.log(theory.beta_for_kl(identity, 50.0)), -51.0),
        right("50 nats, standard", lambda: np.log(theory.optimal_beta_for_kl("standard", 50.0)), -51.0),
        right("the steepest optimum", lambda: theory.optimal_frontier("best-of-4", [1e-20, 1e-10]).kl.round(6),
              [43.437997, 20.413295]),
        right("the flattest optimum", lambda: theory.optimal_frontier("worst-of-4", [1e300]).win_rate, [0.5]),
        wrong("a KL that never moves", lambda: theory.solve_for_kl(lambda beta: 1.0, 0.5, 1.0), "kl", "got 0.5"),
        wrong("a KL that is nan", lambda: theory.solve_for_kl(lambda beta: nan, 0.5, 1.0), "kl", "got 0.5"),
        right("a guess that is none", lambda: theory.solve_for_kl(lambda beta: 1 / beta, 0.25, nan), 4.0),
    ]  # fmt: skip


def functions() -> list[Case]:
    """Transforms that are none, and what a tilted policy is asked."""
    bad = {
        "a name": ("identity", "'identity'"), "None": (None, "None"), "nan": (lambda u: u * nan, "below infinity"),
        "three numbers": (lambda u: np.ones(3), "shape (3,)"), "text": (lambda u: "a", "'a'"), "complex": (lambda u: u * 1j, "real"),
        "nothing but -inf": (lambda u: np.full(np.shape(u), -inf), "finite somewhere"),
        "too steep at 1": (lambda u: 1 / np.maximum(1 - u, 1e-300) ** 2, "integral"),
    }  # fmt: skip
    policy = theory.tilt(identity, 1.0)
    return [
        *[wrong(f"tilt by {name}", lambda f=f: theory.tilt(f, 1.0), "transform", says) for name, (f, says) in bad.items()],
        wrong("tilt by -log u", lambda: theory.tilt(lambda u: -np.log(u), 1.0), "finite integral", "beta = 1.0"),
        wrong("win rate under a typo", lambda: policy.win_rate("bets-of-4"), "procedure", "did you mean 'best-of-4'"),
        wrong("cdf at 2", lambda: policy.cdf(2), "t must lie in [0, 1]", "2.0"),
        wrong("density at a letter", lambda: policy.density("a"), "t must hold", "'a'"),
        wrong("efficiency of a constant", lambda: theory.efficiency(lambda u: 0 * u, "best-of-4"), "transform", "constant"),
        wrong("efficiency under a typo", lambda: theory.efficiency(identity, "x"), "procedure", "'x'"),
        wrong("optimum under a typo", lambda: theory.optimum("wrost-of-4", 0.3), "did you mean 'worst-of-4'"),
        wrong("optimum under None", lambda: theory.optimum(None, 0.3), "procedure", "None"),
        wrong("optimum against a typo", lambda: theory.optimum("best-of-4", 0.3, "bogus"), "procedure", "'bogus'"),
        *[wrong(f"{steps!r} steps", lambda s=steps: theory.naive_fixed_point("best-of-4", 0.3, s), "steps", repr(steps))
          for steps in (0, 1.5, -1, "4")],
        *[wrong(f"step size {s!r}", lambda s=s: theory.naive_fixed_point("best-of-4", 0.3, 4, s), "step_size", repr(s))
          for s in (2, -0.1, nan, "1")],
        wrong("start of another length", lambda: fixed_point("standard", 0.3, levels=4, start=[0.0]), "start", "(1,)"),
        wrong("start in letters", lambda: fixed_point("standard", 0.3, levels=2, start=["a", "b"]), "start", "'a'"),
        wrong("one level", lambda: fixed_point("standard", 0.3, levels=1), "levels", "got 1"),
    ]  # fmt: skip


def samples() -> list[Case]:
    """What finite samples do."""
    return [
        *[wrong(f"bernstein K={K!r}", lambda K=K: theory.bernstein(identity, K), "K must be", repr(K)) for K in (0, 1.5, "4")],
        wrong("bernstein of a name", lambda: theory.bernstein("identity", 4), "transform", "'identity'"),
        wrong("bernstein of nan", lambda: theory.bernstein(lambda u: u * nan, 4), "transform"),
        wrong("bernstein at 2", lambda: theory.bernstein(identity, 4)(2), "t must lie in [0, 1]", "2.0"),
        right("bernstein K=1", lambda: theory.bernstein(identity, 1)(0.3), 0.3),
        wrong("cost of K=-4", lambda: theory.calibration_cost(identity, "best-of-4", -4, 0.1), "K", "-4"),
        *[wrong(f"band at delta {d!r}", lambda d=d: theory.dkw_band(5, d), "delta", repr(d)) for d in (0, 1.5, nan, "a", None)],
        wrong("band of K=0", lambda: theory.dkw_band(0), "K", "got 0"),
        wrong("bound of n=0", lambda: theory.best_of_n_kl_bound(0), "n must be", "got 0"),
        right("bound of n=1", lambda: theory.best_of_n_kl_bound(1), 0.0),
        *[wrong(f"KL estimate at {v!r}", lambda v=v: theory.best_of_n_kl_estimate(v, 4), "log_probability", v if v != "a" else "'a'")
          for v in (1.0, nan, "a")],
        right("KL estimate of what never comes", lambda: theory.best_of_n_kl_estimate(-inf, 4), np.log(4) - 0.75),
        right("KL estimate of nothing", lambda: theory.best_of_n_kl_estimate([], 4), []),
        wrong("polynomial above K", lambda: theory.unbiased_polynomial([1, 2, 3], [1], 1), "m must be at most K = 1"),
        *[wrong(f"polynomial {c!r}", lambda c=c: theory.unbiased_polynomial(c, [1], 1), "coefficients", repr(c))
          for c in ([], [nan], [[1, 2]])],
        wrong("mismatch of one name", lambda: theory.mismatch("standard", ["standard"], 0.5), "trained", "'standard'"),
        wrong("mismatch of none", lambda: theory.mismatch(["standard"], [], 0.5), "used", "[]"),
    ]  # fmt: skip


def finite() -> list[Case]:
    """Enumerable problems: distributions, rewards, decoders."""
    F, S = theory.FiniteProblem, theory.SequenceProblem
    ok, four = F([0.25, 0.25, 0.5], [0.0, 1.0, 1.0]), np.full((2, 2), 0.25)
    space = S(four, [[0.0, 1.0], [2.0, 3.0]])
    problems = {
        "lengths": ([0.5, 0.5], [1.0], "reference", "(2,)"), "sum": ([0.5, 0.6], [1, 2], "reference", "sum 1.1"),
        "negative": ([-0.5, 1.5], [1, 2], "reference", "-0.5"), "nan": ([nan, 0.5], [1, 2], "reference", "nan"),
        "reward nan": ([0.5, 0.5], [nan, 2], "reward", "nan"), "empty": ([], [], "reward", "(0,)"),
        "letters": ([0.5, 0.5], ["a", "b"], "reward", "'a'"), "ragged": ([0.5, 0.5], [[1], [1, 2]], "reward", "[1, 2]"),
        "None": (None, None, "reward", "None"), "table": ([[0.5, 0.5]], [[1.0, 2.0]], "reward", "(1, 2)"),
    }  # fmt: skip
    spaces = {
        "sum": (np.full((2, 2), 0.3), np.zeros((2, 2)), "reference", "1.2"), "nan": (four, [[nan, 0], [0, 0]], "reward", "nan"),
        "inf": (four, [[inf, 0], [0, 0]], "reward", "inf"), "shape": (four, [1.0, 2.0], "(2, 2)", "(2,)"),
        "size": (np.full((40, 40), 1 / 1600), np.zeros((40, 40)), "1024", "(40, 40)"), "letters": ("a", "b", "reference", "'a'"),
        "zero": ([[0.5, 0.5], [0, 0]], np.zeros((2, 2)), "reference must be positive", "0.0"),
    }  # fmt: skip
    decoders = {
        "a name": ("best-of-4", "decode", "'best-of-4'"), "None": (None, "decode", "None"),
        "twice pi": (lambda pi: 2 * pi, "decode(reference)", "sum 2.0"),
        "a constant": (lambda pi: torch.full((2, 2), 0.25, dtype=torch.float64), "decode", "differentiable"),
        "NumPy": (lambda pi: np.full((2, 2), 0.25), "decode", "differentiable"),
    }  # fmt: skip
    return [
        *[wrong(f"problem: {name}", lambda p=p, r=r: F(p, r), *says) for name, (p, r, *says) in problems.items()],
        *[wrong(f"space: {name}", lambda p=p, r=r: S(p, r), *says) for name, (p, r, *says) in spaces.items()],
        *[wrong(f"decoder: {name}", lambda d=d: space.win_rate(space.reference, d), *says) for name, (d, *says) in decoders.items()],
        right("infinite rewards", lambda: F([0.5, 0.5], [inf, -inf]).calibrated, [0.75, 0.25]),
        right("one response", lambda: F([1.0], [1.0]).infalign("best-of-4", 0.1).policy, [1.0]),
        right("one level", lambda: F([0.5, 0.5], [1.0, 1.0]).infalign("worst-of-8", 1e-3).policy, [0.5, 0.5]),
        right("huge rewards", lambda: ok.rlhf([0, 1e300, -1e300], 1e-3).policy, [0.0, 1.0, 0.0]),
        wrong("policy of another length", lambda: ok.decode([1.0], "best-of-2"), "policy", "(3,)", "(1,)"),
        wrong("policy that sums to 3", lambda: ok.decode([1, 1, 1], "best-of-2"), "policy", "sum 3.0"),
        wrong("KL of letters", lambda: ok.kl("abc"), "policy", "'abc'"),
        wrong("reward +inf", lambda: ok.rlhf([inf, 0, 0], 0.1), "transformed_reward", "inf"),
        wrong("reward -inf everywhere", lambda: ok.rlhf([-inf] * 3, 0.1), "transformed_reward", "-inf"),
        wrong("InfAlign under a typo", lambda: ok.infalign("bst-of-4", 0.1), "did you mean 'best-of-4'"),
        wrong("blocks of 0", lambda: space.blockwise(0, 2), "block", "got 0"),
        wrong("blocks of 1.5", lambda: space.blockwise(1.5, 2), "block", "1.5"),
        wrong("-2 draws", lambda: space.blockwise(1, -2), "draws", "-2"),
        wrong("three beams", lambda: space.tree_search(2, 3), "beams", "got 3"),
        wrong("cold soft best-of", lambda: space.soft_best_of(2, 0), "temperature", "got 0"),
        wrong("temperature nan", lambda: space.soft_best_of(2, nan), "temperature", "nan"),
        wrong("threshold nan", lambda: space.rejection(nan, 2), "threshold", "nan"),
        wrong("cap 0", lambda: space.rejection(1.0, 0), "cap", "got 0"),
        wrong("prefixes beyond the end", lambda: space.value(3), "length", "got 3"),
        wrong("half a prefix", lambda: space.value(0.5), "length", "0.5"),
        wrong("policy of two", lambda: space.win_rate([0.5, 0.5], lambda pi: pi), "policy", "(2, 2)", "(2,)"),
    ]  # fmt: skip


def cases() -> list[Case]:
    return [*temperatures(), *reaches(), *functions(), *samples(), *finite()]
