"""Finite responses with ties: enumeration, differences, closed forms, a second solver, mutants that must fail."""

import itertools
import sys
import types
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

import infalign_edu as ia
from infalign_edu.theory import finite
from infalign_edu.theory.finite import FiniteProblem
from infalign_edu.theory.solver import levels
from infalign_edu.theory.solver.levels import Levels

NAMES = [
    "standard",
    "best-of-4",
    "worst-of-4",
    "best-of-16",
    "worst-of-16",
    "2nd-best-of-4",
    "top-2-of-8",
    "best-of-poisson-3.0",
    "0.5*best-of-8+0.5*worst-of-8",
]


class Careless:
    """An own procedure: looks at two draws, takes the better one half of the time."""

    max_n = 2

    def cdf(self, t):
        return 0.5 * t + 0.5 * t**2

    def pdf(self, t):
        return 0.5 + t


def example(seed: int = 0, S: int = 7, values: int = 4) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A reference, tied rewards and another policy, all random. Shape: three times [S]."""
    rng = np.random.default_rng(seed)
    return rng.dirichlet(np.ones(S)), rng.integers(0, values, S).astype(float), rng.dirichlet(np.ones(S))


def by_enumeration(policy: np.ndarray, reward: np.ndarray, rank: int, n: int) -> np.ndarray:
    """Distribution of the rank-th best of n draws, every tuple of draws and every order of its ties weighed."""
    shown = np.zeros(len(policy))
    for draws in itertools.product(range(len(policy)), repeat=n):
        orders = [order for order in itertools.permutations(draws) if all(np.diff(reward[list(order)]) <= 0)]
        for order in orders:
            shown[order[rank - 1]] += policy[list(draws)].prod() / len(orders)
    return shown


def slope_by_differences(win_rate: Callable[[np.ndarray], float], policy: np.ndarray, h: float = 1e-5) -> np.ndarray:
    """Central differences of W((1-h) policy + h delta_y). Shape: [S] -> [S]."""
    eye = np.eye(len(policy))
    return np.array([(win_rate((1 - h) * policy + h * e) - win_rate((1 + h) * policy - h * e)) / (2 * h) for e in eye])


@pytest.mark.parametrize(("name", "rank", "n"), [("best-of-3", 1, 3), ("worst-of-3", 3, 3), ("2nd-best-of-3", 2, 3)])
def test_decode_is_what_enumeration_of_all_draws_gives(name, rank, n):
    reference, reward, policy = example(S=5, values=3)
    shown = FiniteProblem(reference, reward).decode(policy, name)
    np.testing.assert_allclose(shown, by_enumeration(policy, reward, rank, n), atol=1e-14)


def test_decode_of_mixtures_and_top_m_averages_what_it_mixes():
    reference, reward, policy = example()
    toy = FiniteProblem(reference, reward)
    ranks = [toy.decode(policy, ia.KthBest(k=k, n=4)) for k in (1, 2, 3, 4)]
    np.testing.assert_allclose(toy.decode(policy, "top-2-of-4"), (ranks[0] + ranks[1]) / 2, atol=1e-14)
    np.testing.assert_allclose(sum(ranks) / 4, policy, atol=1e-14)
    np.testing.assert_allclose(
        toy.decode(policy, Careless()), (policy + toy.decode(policy, "best-of-2")) / 2, atol=1e-14
    )


def test_calibrated_reward_and_win_rate_by_pairs():
    reference, reward, policy = example()
    toy = FiniteProblem(reference, reward)
    beats = (reward[:, None] > reward) + 0.5 * (reward[:, None] == reward)  # [S, S]
    np.testing.assert_allclose(toy.calibrated, beats @ reference, atol=1e-15)
    for p, q in (("best-of-4", None), ("worst-of-4", "best-of-2"), ("top-2-of-8", "standard")):
        expected = toy.decode(policy, p) @ beats @ toy.decode(reference, q or p)
        assert toy.win_rate(policy, p, q) == pytest.approx(expected, abs=1e-14)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(NAMES))
def test_the_reference_wins_half_and_better_policies_more(seed, name):
    reference, reward, _ = example(seed)
    toy = FiniteProblem(reference, reward)
    assert toy.win_rate(reference, name) == pytest.approx(0.5, abs=1e-13)
    better = toy.rlhf(reward, beta=1.0).policy
    assert toy.win_rate(better, name) > 0.5 or len(set(reward)) == 1


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 12))
def test_best_of_n_and_worst_of_n_are_one_thing_upside_down(seed, n):
    reference, reward, policy = example(seed)
    best, worst = FiniteProblem(reference, reward), FiniteProblem(reference, -reward)
    assert best.win_rate(policy, ia.BestOfN(n)) == pytest.approx(1 - worst.win_rate(policy, ia.WorstOfN(n)), abs=1e-13)
    np.testing.assert_allclose(
        best.gradient(policy, ia.BestOfN(n)), -worst.gradient(policy, ia.WorstOfN(n)), atol=1e-12
    )


@pytest.mark.parametrize("name", [*NAMES, Careless()])
@pytest.mark.parametrize("other", [None, "best-of-2"])
def test_gradient_is_the_derivative_of_the_win_rate(name, other):
    reference, reward, policy = example(3)
    toy = FiniteProblem(reference, reward)
    slope = slope_by_differences(lambda pi: toy.win_rate(pi, name, other), policy)
    np.testing.assert_allclose(toy.gradient(policy, name, other), slope, atol=1e-7)
    assert policy @ toy.gradient(policy, name, other) == pytest.approx(0, abs=1e-14)


def test_one_draw_is_rlhf_on_the_calibrated_reward():
    reference, reward, _ = example(1)
    toy = FiniteProblem(reference, reward)
    solution, plain = toy.infalign("best-of-1", beta=0.2), toy.rlhf(toy.calibrated, beta=0.2)
    np.testing.assert_allclose(solution.policy, plain.policy, atol=1e-13)
    assert (solution.certified, len(solution.stationary)) == ("global", 1)
    assert solution.objective == pytest.approx(0.2 * np.log(reference @ np.exp(toy.calibrated / 0.2)), abs=1e-13)
    t = 5.0  # without ties: W = 1/(1-e^-t) - 1/t, KL = t W - log((e^t - 1)/t)
    dense = FiniteProblem(np.full(20_000, 5e-5), np.arange(20_000)).infalign("standard", beta=1 / t)
    assert dense.win_rate == pytest.approx(1 / (1 - np.exp(-t)) - 1 / t, abs=1e-8)
    assert dense.kl == pytest.approx(t * dense.win_rate - np.log(np.expm1(t) / t), abs=1e-7)


def test_rlhf_is_stable_and_says_no():
    toy = FiniteProblem([0.25, 0.25, 0.5, 0.0], [0.0, 1.0, 2.0, 3.0])
    logs = toy.rlhf(ia.Log()(toy.calibrated), beta=0.5)
    np.testing.assert_allclose(logs.policy, toy.reference * toy.calibrated**2 / (toy.reference @ toy.calibrated**2))
    huge = toy.rlhf([-np.inf, 1e306, 1e306, 1e308], beta=1e-3)
    np.testing.assert_allclose(huge.policy, [0, 1 / 3, 2 / 3, 0], atol=1e-15)
    assert huge.kl == pytest.approx(-np.log(0.75)) and huge.residual < 1e-12
    small = toy.rlhf([0.0, 0.741, 0.0, 0.0], beta=1e-3)  # e^-741 has two digits as a float, and its logarithm no more
    assert 0 < small.policy[0] < np.finfo(float).tiny and small.residual < 1e-12
    for bad in ([-np.inf] * 4, [0, 0, np.inf, 0], [0, np.nan, 0, 0], [0.0, 1.0]):
        with pytest.raises(ValueError, match="transformed_reward must"):
            toy.rlhf(bad, beta=0.1)


def test_worst_of_n_has_a_trap_at_the_reference_and_the_scan_sees_past_it():
    toy = FiniteProblem([0.5, 0.5], [0.0, 1.0])
    solution = toy.infalign("worst-of-32", beta=0.1)
    far, near, saddle = solution.stationary
    assert solution.certified == "stationary" and all(s.residual < 1e-10 for s in solution.stationary)
    assert solution.objective == far.objective == pytest.approx(1 - 0.1 * np.log(2), abs=1e-8)
    assert np.log10(far.policy[0]) == pytest.approx(-69.5, abs=0.1)  # exp(-160): 16 (half of 32) over beta, in nats
    assert near.policy[0] == pytest.approx(0.5, abs=1e-6) and near.objective == pytest.approx(0.5, abs=1e-6)
    assert saddle.objective < near.objective
    policy = toy.reference  # plain mirror ascent from the reference stays where it is
    for _ in range(200):
        policy = toy.reference * np.exp(toy.gradient(policy, "worst-of-32") / 0.1)
        policy = policy / policy.sum()
    assert policy[0] == pytest.approx(near.policy[0], abs=1e-12)


# W* and KL* of the continuous theory, from an independent shooting solver
CONTINUOUS = [
    ("best-of-2", 0.1, 0.907248, 1.096990),
    ("best-of-4", 0.3, 0.840137, 0.370072),
    ("best-of-32", 0.1, 0.983092, 0.343761),
    ("worst-of-2", 0.1, 0.950000, 1.013609),
    ("worst-of-4", 0.1, 0.975000, 0.683601),
    ("worst-of-32", 0.1, 0.996875, 0.150790),
]


@pytest.mark.parametrize(("name", "beta", "win_rate", "kl"), CONTINUOUS)
def test_many_responses_reach_the_continuous_theory(name, beta, win_rate, kl):
    S = 100_000
    solution = FiniteProblem(np.full(S, 1 / S), np.random.default_rng(0).permutation(S)).infalign(name, beta)
    assert solution.win_rate == pytest.approx(win_rate, abs=6e-6)
    assert solution.kl == pytest.approx(kl, abs=3e-5)
    assert solution.residual < 1e-10 and solution.policy.sum() == pytest.approx(1, abs=1e-10)
    assert solution.certified == ("global" if name.startswith("best") else "stationary")


def test_problems_with_several_optima_list_them():
    dense = FiniteProblem(np.full(4000, 1 / 4000), np.arange(4000))
    mixed = dense.infalign("0.5*best-of-8+0.5*worst-of-8", beta=0.1)
    np.testing.assert_allclose([s.objective for s in mixed.stationary], [0.6617, 0.6330, 0.6309], atol=1e-4)
    crossed = dense.infalign("worst-of-8", beta=0.1, reference_procedure="best-of-8")
    np.testing.assert_allclose([s.objective for s in crossed.stationary[:2]], [0.4856, 0.00008], atol=1e-4)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(NAMES), st.sampled_from([None, "best-of-2"]), st.floats(-2.5, 0.5))
def test_a_second_solver_never_finds_more(seed, name, other, log_beta):
    """BFGS on the logits, from four starts: another parametrisation, another method, no better optimum."""
    beta = 10**log_beta
    reference, reward, _ = example(seed, S=5)
    toy = FiniteProblem(reference, reward)
    solution = toy.infalign(name, beta, other)

    def loss(logits):
        policy = np.exp(logits - logits.max())
        policy /= policy.sum()
        kl = toy.kl(policy)
        slope = toy.gradient(policy, name, other) - beta * (np.log(np.maximum(policy, 1e-300) / reference) - kl)
        return beta * kl - toy.win_rate(policy, name, other), -policy * slope

    starts = [np.log(reference) + t * toy.calibrated for t in (0.0, 3.0, 30.0, 1 / beta)]
    challenger = -min(minimize(loss, start, jac=True, method="BFGS").fun for start in starts)
    assert challenger <= solution.objective + 1e-9
    if solution.certified == "global" and beta > 0.02:
        assert challenger == pytest.approx(solution.objective, abs=1e-5)


@pytest.mark.parametrize("name", [*NAMES, Careless()])
def test_first_order_conditions_hold_by_differences(name):
    reference, reward, _ = example(5, S=6, values=6)
    toy = FiniteProblem(reference, reward)
    solution, plain = toy.infalign(name, beta=1.0), toy.rlhf(toy.calibrated, beta=1.0)
    slope = slope_by_differences(lambda pi: toy.win_rate(pi, name), solution.policy)
    assert np.ptp(np.log(solution.policy / reference) - slope) < 1e-6
    assert solution.objective == pytest.approx(toy.win_rate(solution.policy, name) - toy.kl(solution.policy))
    assert solution.objective >= toy.win_rate(plain.policy, name) - plain.kl - 1e-12


def test_ties_split_by_the_reference_and_zeros_stay_zero():
    whole = FiniteProblem([0.4, 0.6], [0.0, 1.0]).infalign("best-of-4", 0.2)
    split = FiniteProblem([0.1, 0.3, 0.2, 0.4, 0.0], [0.0, 0.0, 1.0, 1.0, 0.5]).infalign("best-of-4", 0.2)
    np.testing.assert_allclose(split.policy[:4], np.repeat(whole.policy, 2) * [1 / 4, 3 / 4, 1 / 3, 2 / 3], atol=1e-14)
    assert split.policy[4] == 0 and split.objective == pytest.approx(whole.objective, abs=1e-14)
    outside = FiniteProblem([1.0, 0.0], [0.0, 1.0])
    assert outside.kl([0.5, 0.5]) == np.inf
    assert outside.infalign("worst-of-4", 0.1).policy.tolist() == [1.0, 0.0]


@pytest.mark.parametrize("n", [2, 4, 32])
def test_concavity_bound_is_the_closed_form(n):
    scores = np.array([0.1, 0.4, 0.9])
    game = Levels(ia.WorstOfN(n), 1.0, np.array([0.2, 0.3, 0.5]), scores)
    assert game.concave_from() == pytest.approx(0.8 * (n - 1) * (1 - 1 / n) ** (n - 1), rel=1e-4)
    for convex in (ia.BestOfN(n), ia.TopM(m=2, n=n), ia.BestOfPoisson(3.0)):
        assert Levels(convex, 1.0, game.mass, scores).concave_from() < 1e-9


def test_monte_carlo_agrees_within_four_standard_errors():
    rng = np.random.default_rng(7)
    reference, reward, policy = example(2)
    toy, M = FiniteProblem(reference, reward), 40_000
    for name in ("best-of-4", "worst-of-4", "2nd-best-of-4", "top-2-of-8", "0.5*best-of-4+0.5*worst-of-4"):
        p = ia.procedure(name)
        y, z = (reward[rng.choice(len(pi), size=(M, p.max_n), p=pi)] for pi in (policy, reference))
        y, z = (np.take_along_axis(r, p.select(r, rng)[:, None], axis=1)[:, 0] for r in (y, z))
        wins = (y > z) + 0.5 * (y == z)
        assert abs(wins.mean() - toy.win_rate(policy, p)) < 4 * wins.std() / np.sqrt(M)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: FiniteProblem([0.5, 0.6], [0, 1]), r"reference must be >= 0 and sum to 1"),
        (lambda: FiniteProblem([1.5, -0.5], [0, 1]), r"reference must be >= 0"),
        (lambda: FiniteProblem([0.5, 0.5], [0, np.nan]), r"reward must hold numbers, got nan"),
        (lambda: FiniteProblem([0.5, 0.5], [0, 1, 2]), r"reference must hold one number a response, shape \(3,\)"),
        (lambda: FiniteProblem([], []), r"reward must hold one number"),
        (lambda: FiniteProblem([0.5, 0.5], [0, 1]).decode([1.0], "standard"), r"policy must hold one number"),
        (lambda: FiniteProblem([0.5, 0.5], [0, 1]).infalign("best-of-2", 0), r"beta must be a positive number, got 0"),
        (lambda: FiniteProblem([0.5, 0.5], [0, 1]).infalign("best", 1), r"procedure must be .* got 'best'"),
    ],
)
def test_errors_name_the_field(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_no_policy_without_a_certificate(monkeypatch):
    monkeypatch.setattr(Levels, "polish", lambda self, tilt: (tilt, 1e-3))
    with pytest.raises(RuntimeError, match="could not certify a root, residual 1.0e-03"):
        FiniteProblem([0.5, 0.5], [0.0, 1.0]).infalign("best-of-2", 0.1)


def core_checks(problem: type[FiniteProblem]) -> None:
    """The few values that a wrong exponent, sign, index or beta can't all meet."""
    reference, reward, policy = example(4, S=5, values=3)
    toy, beta = problem(reference, reward), 0.3
    beats = (reward[:, None] > reward) + 0.5 * (reward[:, None] == reward)
    np.testing.assert_allclose(toy.calibrated, beats @ reference, atol=1e-12)
    assert toy.kl(policy) == pytest.approx(np.sum(policy * np.log(policy / reference)))
    plain = toy.rlhf(reward, beta)
    np.testing.assert_allclose(plain.policy / plain.policy.sum(), plain.policy, atol=1e-12)
    assert np.ptp(np.log(plain.policy / reference) - reward / beta) < 1e-10
    assert plain.objective == pytest.approx(beta * np.log(reference @ np.exp(reward / beta)))
    for name, rank, n in (("best-of-3", 1, 3), ("worst-of-3", 3, 3)):
        shown = [by_enumeration(pi, reward, rank, n) for pi in (policy, reference)]
        np.testing.assert_allclose(toy.decode(policy, name), shown[0], atol=1e-12)
        assert toy.win_rate(policy, name) == pytest.approx(shown[0] @ beats @ shown[1])
        slope = slope_by_differences(lambda pi, name=name: toy.win_rate(pi, name), policy)
        np.testing.assert_allclose(toy.gradient(policy, name), slope, atol=1e-7)
        solution = toy.infalign(name, beta)
        slope = slope_by_differences(lambda pi, name=name: toy.win_rate(pi, name), solution.policy)
        assert np.ptp(np.log(solution.policy / reference) - slope / beta) < 1e-6
        assert solution.objective == pytest.approx(toy.win_rate(solution.policy, name) - beta * toy.kl(solution.policy))


def mutated(module: types.ModuleType, old: str, new: str) -> types.ModuleType:
    """The module with one text replaced, loaded under another name."""
    source = Path(module.__file__).read_text(encoding="utf-8")
    assert old in source, f"{old!r} is no longer in {module.__name__}: write the mutant anew"
    copy = types.ModuleType(module.__name__ + "_mutant")
    sys.modules[copy.__name__] = copy
    try:
        exec(compile(source.replace(old, new, 1), copy.__name__, "exec"), copy.__dict__)
    finally:
        del sys.modules[copy.__name__]
    return copy


MUTANTS = [
    ("procedures", "self.n * unit(t) ** (self.n - 1)", "self.n * unit(t) ** self.n"),
    ("procedures", "self.n * (1 - unit(t)) ** (self.n - 1)", "self.n * (1 - unit(t)) ** self.n"),
    ("procedures", "return unit(t) ** self.n", "return unit(t) ** (self.n - 1)"),
    ("finite", "(G[1:] + G[:-1]) / 2", "G[1:]"),
    ("finite", "rise = np.diff(scores)", "rise = -np.diff(scores)"),
    ("finite", ".pdf(F[1:-1])", ".pdf(F[:-2])"),
    ("finite", "return R - pi @ R", "return R + pi @ R"),
    ("finite", "(r - top) / beta, -np.inf", "(r - top), -np.inf"),
    ("finite", "- beta * kl)\n", "+ beta * kl)\n"),
    ("finite", "Solution(policy, win - beta * kl", "Solution(policy, win - kl"),
    ("finite", "Levels(p, beta, ", "Levels(p, 1.0, "),
    ("levels", "np.diff(self.scores) * self.p.pdf(F))]) / self.beta", "np.diff(self.scores) * self.p.pdf(F))])"),
    ("levels", "tilt = np.concatenate([[0.0], np.cumsum(np", "tilt = -np.concatenate([[0.0], np.cumsum(np"),
    ("levels", "np.cumsum(np.diff(self.scores) * self.p.pdf(F))", "np.cumsum(np.diff(self.scores) * self.p.cdf(F))"),
]


def test_the_core_checks_pass_on_the_code_itself():
    core_checks(FiniteProblem)
    core_checks(mutated(finite, "def infalign", "def infalign").FiniteProblem)


@pytest.mark.parametrize(("where", "old", "new"), MUTANTS, ids=[f"{w}: {n}" for w, _, n in MUTANTS])
def test_mutants_fail_the_core_checks(where, old, new):
    from infalign_edu import procedures

    if where == "finite":
        mutant = mutated(finite, old, new)
    else:
        mutant = mutated(finite, "def infalign", "def infalign")
        broken = mutated({"procedures": procedures, "levels": levels}[where], old, new)
        name = {"procedures": "procedure", "levels": "Levels"}[where]
        setattr(mutant, name, getattr(broken, name))
    with pytest.raises((AssertionError, RuntimeError, ValueError)):
        core_checks(mutant.FiniteProblem)
