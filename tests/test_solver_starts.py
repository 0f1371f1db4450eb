"""Where the solvers begin: near enough to every stationary policy, and to no other. What follows is certified elsewhere."""

from itertools import pairwise

import numpy as np
import pytest
from scipy.integrate import solve_ivp
from scipy.special import logsumexp

import infalign_edu as ia
from infalign_edu import theory
from infalign_edu.theory.solver import shooting, stationary
from infalign_edu.theory.solver.levels import COARSE, Levels
from infalign_edu.theory.solver.shooting import Pair, Shots, all_starts, shoot

HALVES = "0.5*best-of-16+0.5*worst-of-16"
PAIRS = [("worst-of-8", "best-of-8", 0.1), ("worst-of-4", "worst-of-4", 0.3), ("2nd-best-of-8", "standard", 0.05),
         ("0.5*best-of-8+0.5*worst-of-8", "best-of-4", 0.1), ("worst-of-8", "best-of-8", 0.03),
         ("top-2-of-8", "worst-of-4", 0.02), (HALVES, HALVES, 0.05)]  # fmt: skip
NUMBERS = [3, 1, 1, 1, 3, 1, 3]  # of stationary policies


def pair(ours: str, theirs: str, beta: float) -> Pair:
    return Pair(ia.procedure(ours), ia.procedure(theirs), beta)


def integrated(problem: Pair, start: float) -> float:
    """The miss of one shot, by a library's integrator with ten digits."""
    falls = [lambda s, y: y[0], lambda s, y: y[1] - shooting._FROZEN]
    for fall in falls:
        fall.terminal = True
    found = solve_ivp(lambda s, y: problem.rates(np.array([s]), y[:, None])[:, 0], (0, 2), [1.0, start], method="LSODA",
                      rtol=1e-10, atol=1e-12, events=falls, max_step=0.1)
    return found.y[0, -1] if found.y[0, -1] > 1e-13 else found.t[-1] - 2


@pytest.mark.parametrize("case", [PAIRS[0], PAIRS[1], PAIRS[5]])
def test_shots_end_where_a_library_says(case):
    problem = pair(*case)
    most = np.log1p(problem.g_ref.max() / problem.beta)
    shots = shoot(problem, np.append(1e-6, np.linspace(0, most, 8)[1:]), 1e-4)
    right = np.array([integrated(problem, start) for start in shots.start])
    assert (np.sign(shots.miss) == np.sign(right)).all()
    assert shots.miss[right > 0] == pytest.approx(right[right > 0], abs=5e-4)
    assert np.abs(shots.miss - right).max() < shooting._WIDEST  # u where F reached 0, at the end of that step
    fine = shoot(problem, shots.start, 1e-7)
    assert fine.miss[right > 0] == pytest.approx(right[right > 0], abs=1e-6)
    assert len(shots.path) < 60 and len(fine.path) < 250


@pytest.mark.parametrize(("case", "number"), list(zip(PAIRS, NUMBERS, strict=True)))
def test_a_guess_is_the_policy_that_it_leads_to(case, number):
    problem = pair(*case)
    shots = all_starts(problem, 1e-6, 1e-6, 96)
    assert shots.start.size == number and (np.diff(shots.start) > 0).all() and np.abs(shots.miss).max() < 1e-6
    for i in range(number):
        panels, guess = stationary._guess(shots.path[..., i], problem)
        log_f, F, converged = stationary._newton(panels, guess, problem, 40)
        assert converged and panels.width.max() < 0.2 and len(panels.near) < 60
        assert np.append(panels.start, 1)[1:] == pytest.approx(panels.start + panels.width, abs=1e-15)
        assert np.abs(panels.cumulative(np.exp(guess)) - F).max() < 2e-4
        miss = np.abs(guess - log_f)
        assert miss[log_f > -3].max() < 1e-3 and miss[log_f > -35].max() < 0.05
        assert (miss < 2e-3 * np.maximum(10, np.abs(log_f))).all()
        assert shots.start[i] == pytest.approx(log_f[-1, -1], abs=0.1 * max(1, abs(log_f[-1, -1])))


FOLDS = [("worst-of-8", "best-of-8", 0.3745361, -1), ("worst-of-4", "best-of-4", 0.3608276, -1),
         ("worst-of-4", "best-of-4", 0.2848877, 1)]  # fmt: skip


@pytest.mark.parametrize(("ours", "theirs", "fold", "side"), FOLDS)
def test_two_policies_about_to_meet_are_both_found(ours, theirs, fold, side):
    """At a fold two stationary policies become one and vanish: one in 10,000 before it there are three, after it one."""
    assert len(theory.optimum(ours, fold * (1 + side * 1e-4), theirs).stationary) == 3
    assert len(theory.optimum(ours, fold * (1 - side * 1e-4), theirs).stationary) == 1


@pytest.mark.parametrize("case", [(HALVES.replace("0.5", "0.455", 1).replace("0.5", "0.545"), None, 0.0422), (
    "0.15*best-of-8+0.85*worst-of-93", "best-of-poisson-53.6", 0.0109)])
def test_policies_that_a_rough_shot_leads_past_are_found(case):
    """Shots that only bracket a policy lead Newton's method elsewhere: closer ones are needed."""
    ours, theirs, beta = case
    best = theory.optimum(ours, beta, theirs)
    assert len(best.stationary) % 2 == 1 and best.residual < 1e-8


def test_where_a_miss_changes_its_sign_or_dips():
    start, path = np.arange(12.0), np.zeros((1, 3, 12))
    miss = np.array([0.3, 0.05, 0.2, -0.2, -0.001, -0.3, -0.3, -0.05, -0.05, -0.5, -0.2, -0.4])
    shots = Shots(start, miss, path)
    crossed, *dips = shooting._intervals(shots, 0.01, dips=True)
    assert crossed.tolist() == [2, 3] and [d.tolist() for d in dips] == [[0, 2], [3, 5], [6, 8]]
    assert [i.tolist() for i in shooting._intervals(shots, 0.01, dips=False)] == [[2, 3]]
    assert shooting._intervals(shots, 0.2, dips=False) == []  # one side is close enough
    assert len(shooting._intervals(shots, 0.199, dips=False)) == 1
    crossing = Shots(np.arange(3.0), np.array([0.3, 0.05, -0.2]), np.zeros((1, 3, 3)))  # the smallest stands before a change
    assert [i.tolist() for i in shooting._intervals(crossing, 0.01, dips=True)] == [[1, 2]]
    many = Shots(np.arange(41.0), np.tile([0.3, 0.05], 21)[:41], np.zeros((1, 3, 41)))
    assert [i.tolist() for i in shooting._intervals(many, 0.01, dips=True)] == [[2 * i, 2 * i + 2] for i in range(12)]


@pytest.mark.parametrize("close", [1e-2, 1e-4, 1e-7])
def test_starts_close_in_on_every_root(close, monkeypatch):
    """A made-up miss with roots at .8, 1.2 and 1.2001: each is found, and of the two shots around it the better one."""
    roots, told = np.array([0.8, 1.2, 1.2001]), []

    def made_up(problem: Pair, start: np.ndarray, tolerance: float) -> Shots:
        told.append(tolerance)
        miss = (0.8 - start) * (start - 1.2) * (start - 1.2001)
        return Shots(start, miss, np.stack([start, miss, miss])[None])

    monkeypatch.setattr(shooting, "shoot", made_up)
    problem = pair("worst-of-4", "best-of-4", 1.0)  # starts reach log(1 + 4 / beta) = 1.61
    found = all_starts(problem, 1e-3, close, 96)
    assert found.start == pytest.approx(roots, abs=max(7 * close, 1e-4)) and np.abs(found.miss).max() < close
    assert (found.path[0] == [found.start, found.miss, found.miss]).all() and set(told) == {1e-3}
    assert len(told) <= 9


def test_starts_reach_as_far_as_a_solution_can_be(monkeypatch):
    seen = []
    monkeypatch.setattr(shooting, "shoot", lambda problem, start, tolerance: seen.append(start) or Shots(
        start, np.where(start < 0.5, 1.0, -1.0), np.zeros((1, 3, start.size))))
    all_starts(pair("worst-of-4", "best-of-4", 1.0), 1e-4, 2.0, lanes=30)
    assert seen[0][0] == 0 and 0 < seen[0][1] < 1e-13 and np.log(5) < seen[0][-1] < 1.01 * np.log(5)
    assert 35 <= seen[0].size <= 43 and np.diff(seen[0]).max() < 0.06


def test_noise_around_a_solution_is_not_followed(monkeypatch):
    """F(0) jumps by some 1e-5 from one start to the next here: asked for 1e-6, its sign changes between any two starts close enough."""
    noisy, asked = pair("worst-of-4", ia.BestOfPoisson(769.3455015799889), 0.21086717265010738), []
    monkeypatch.setattr(shooting, "shoot", lambda problem, start, told: asked.append(start.size) or shoot(problem, start, told))
    all_starts(noisy, 1e-6, 1e-6, 192)
    assert sum(asked) < 5000 and len(asked) > 4
    monkeypatch.undo()
    assert len(theory.optimum("worst-of-4", 0.21086717265010738, ia.BestOfPoisson(769.3455015799889)).stationary) == 3


def test_the_only_policy_is_polished_once(monkeypatch):
    """At mu = 953 hundreds of shots around it look like solutions, and the first guess, the reference, is too far."""
    polish, results = stationary.polish, []
    monkeypatch.setattr(stationary, "polish", lambda *given, **more: results.append(polish(*given, **more)) or results[-1])
    extreme = ia.BestOfPoisson(952.91287368304)
    assert theory.optimum(extreme, 0.8551292422105353).certified == "global"
    assert results[0] is None and sum(found is not None for found in results) == 1 and len(results) < 9


def test_joined_shots_stay_where_they_ended():
    one = Shots(np.array([1.0, 3.0]), np.array([0.1, 0.3]), np.arange(12.0).reshape(2, 3, 2))
    two = Shots(np.array([2.0]), np.array([0.2]), np.full((1, 3, 1), 7.0))
    for both in (one.join(two), two.join(one)):
        assert both.start.tolist() == [1, 2, 3] and both.miss.tolist() == [0.1, 0.2, 0.3]
        assert (both.path[:, :, 1] == 7).all() and both.path.shape == (2, 3, 3)
        assert (both.path[:, :, [0, 2]] == one.path).all()


@pytest.mark.parametrize(("case", "number"), list(zip(PAIRS, NUMBERS, strict=True)))
def test_polished_policies_carry_their_own_numbers_the_best_first(case, number):
    """The win rate and the KL by which policies are told apart and sorted are those that are integrated anew."""
    ours, theirs, beta = case
    policies = stationary.stationary_policies(pair(*case), unique=False)
    certified = theory.optimum(ours, beta, theirs).stationary
    assert len(policies) == len(certified) == number
    for rough, exact in zip(policies, certified, strict=True):
        assert rough.win_rate == pytest.approx(exact.win_rate, abs=1e-10)
        assert rough.kl == pytest.approx(exact.kl, abs=1e-9)
    assert all(a.win_rate - beta * a.kl >= b.win_rate - beta * b.kl for a, b in pairwise(policies))


@pytest.mark.parametrize(("ours", "theirs", "beta"), [("best-of-4", "best-of-4", 0.1), ("worst-of-4", "standard", 0.5)])
def test_a_split_panel_keeps_its_polynomial(ours, theirs, beta, monkeypatch):
    """After panels were split Newton's method goes on where it was: fewer steps than at first."""
    step, newton, counts = stationary._newton_step, stationary._newton, []
    monkeypatch.setattr(stationary, "_newton", lambda *given: counts.append(0) or newton(*given))
    monkeypatch.setattr(stationary, "_newton_step", lambda *given: counts.__setitem__(-1, counts[-1] + 1) or step(*given))
    near = np.array([0.0, 0.1, 0.2, 0.3, 0.4, 0.4, 0.3, 0.2, 0.1, 0.0])
    coarse = stationary.Panels(np.arange(10) >= 5, near, near + 0.1)
    best = theory.optimum(ours, beta, theirs)
    found = stationary.polish(coarse, 1.1 * best.policy.log_density(coarse.u), pair(ours, theirs, beta))
    assert found is not None and len(counts) > 2 and max(counts[1:]) < counts[0], counts
    assert found.win_rate == pytest.approx(best.win_rate, abs=1e-10)


# Finitely many levels.
def game(shown: str, beta: float, mass: list[float], against: str = "standard") -> Levels:
    m = np.array(mass) / np.sum(mass)
    return Levels(ia.procedure(shown), beta, m, np.asarray(ia.procedure(against).cdf(np.cumsum(m) - m / 2)))


def equals(shown: str, beta: float, S: int) -> Levels:
    """S responses, as likely as each other and all of another reward, against the same procedure."""
    toy = theory.FiniteProblem(np.full(S, 1 / S), np.arange(S))
    return Levels(ia.procedure(shown), beta, toy._mass, toy._scores(ia.procedure(shown)))


GAMES = [game("worst-of-3", 0.014, [1, 2, 3, 2, 2], "best-of-3"), game("worst-of-16", 0.0104, [1] * 40, "best-of-8"),
         game("standard", 0.01, [1, 1, 1998]), game("best-of-4", 0.1, [2, 3, 5]), game("worst-of-8", 0.2, [5, 1]),
         game("worst-of-12", 0.016, [1] * 12, "best-of-12"), game("worst-of-30", 0.004, [3, 1, 2] * 20, "best-of-20"),
         game("standard", 1e3, [1, 1]),
         # roots that are a hundredth of a nat apart: the middle rank is shown often, so R rises and falls steeply
         equals("23rd-best-of-31", 0.009, 4), equals("22nd-best-of-24", 0.00096, 5), equals("26th-best-of-31", 0.0089, 3),
         equals("21st-best-of-25", 0.00053, 4), equals("500th-best-of-1000", 0.05, 4),
         # before the first root level 2 reaches 1 first, after the second level 3
         Levels(ia.KthBest(52, 409), 0.0431, np.array([0.838, 0.16, 0.002]), np.array([0.011, 0.511, 1.0]))]  # fmt: skip


def roots(levels: Levels) -> int:
    """How often F_L - 1 changes its sign over log f_1, one level after the other, by the formula in `levels`."""
    most = 2 * float(levels.p.pdf(np.linspace(0, 1, 999)).max() / levels.beta) + 50
    lows = np.unique(np.concatenate([np.geomspace(1e-12, most, 20_001), np.linspace(0, most, 200_001)[1:]]))
    tilt, F = -lows, levels.mass[0] * np.exp(-lows)
    for k in range(1, len(levels.mass)):
        rise = (levels.scores[k] - levels.scores[k - 1]) * levels.p.pdf(np.minimum(F, 1.0)) / levels.beta
        tilt = np.minimum(tilt + rise, 600.0)
        F = F + levels.mass[k] * np.exp(tilt)
    signs = np.concatenate([[True], F > 1])
    return int((signs[1:] != signs[:-1]).sum())


@pytest.mark.parametrize("levels", GAMES)
def test_a_scan_closes_in_on_every_root(levels):
    tilts = levels.scan()
    assert len(tilts) == roots(levels) == len(levels.stationary()) and len(tilts) % 2 == 1
    for tilt in tilts:
        assert logsumexp(tilt, b=levels.mass) == pytest.approx(0, abs=1e-11)
        policy, residual = levels.polish(tilt)
        assert tilt == pytest.approx(policy, abs=1e-10) and residual < 1e-11


def test_some_of_these_games_have_several_policies():
    assert sorted(roots(levels) for levels in GAMES) == [1, 1, 1, 1, *[3] * 8, 5, 7]


@pytest.mark.parametrize("levels", GAMES)
def test_nothing_happens_between_two_starts(levels):
    low, path = levels._starts(levels.mass, levels.scores)
    assert low[0] == 0 and (np.diff(low) > 0).all()
    assert (path == levels._shoot(low, levels.mass, levels.scores)[0]).all()
    steepest = (levels.scores[-1] - levels.scores[0]) * levels.p.pdf(np.linspace(0, 1, 5001)).max() / levels.beta
    assert steepest < low[-1] < 1.02 * steepest + 2 and path[-1, -1] < 0  # nothing of 1 is reached from the last
    if levels.unique:
        assert low.size == 300
        return
    moved = np.abs(np.diff(np.minimum(path, 0), axis=1)).max(axis=0)
    assert moved.max() <= 0.5 and low.size < 25_000
    crossing = path[-1, 1:] * path[-1, :-1] < 0
    assert (moved[crossing] <= 1e-3).all() and (moved > 1e-3).any()
    first = (path < 0).sum(axis=0)
    assert (first[1:] == first[:-1])[moved > 1e-3].all()
    assert (np.minimum(abs(path[-1, 1:]), abs(path[-1, :-1])) >= 4 * moved)[moved > 1e-3].all()


def test_the_best_policy_is_found_between_two_steep_slopes():
    """Of three policies the best is the one that a grid of a quarter of a nat does not see."""
    found = theory.FiniteProblem(np.full(4, 0.25), np.arange(4)).infalign("23rd-best-of-31", 0.009)
    assert [s.objective for s in found.stationary] == pytest.approx([0.99345120, 0.99334971, 0.99320949], abs=1e-8)


def test_a_jump_of_the_procedure_is_not_halved_for_ever():
    """g falls from 1.8 to .9 at once, so two neighbours stay more than half a nat apart however close they are."""

    class Jump(ia.Standard):
        def pdf(self, t):
            return np.where(np.asarray(t) < 0.02, 1.8, 0.9)

    mass = np.full(12, 1 / 12)
    low, path = Levels(Jump(), 0.1, mass, np.arange(12) / 11)._starts(mass, np.arange(12) / 11)
    assert np.abs(np.diff(np.minimum(path, 0))).max() > 0.5 and low.size < 1000 and 1e-13 < np.diff(low).min() < 1e-11


def test_starts_stop_where_they_are_too_many(monkeypatch):
    steep = game("worst-of-30", 0.0004, [3, 1, 2] * 4, "best-of-20")
    monkeypatch.setattr("infalign_edu.theory.solver.levels.MOST", 0)
    assert 1500 < steep._starts(steep.mass, steep.scores)[0].size <= 3000
    monkeypatch.setattr("infalign_edu.theory.solver.levels.MOST", 12 * 7000)
    assert 3000 < steep._starts(steep.mass, steep.scores)[0].size <= 7000


@pytest.mark.parametrize("coarse", [10, 100])
def test_merged_levels_share_mass_and_number(coarse):
    """Half of a group's size is its probability, half its number of levels: neither is above two shares of `coarse`."""
    mass = np.random.default_rng(0).dirichlet(np.full(500, 0.3))
    group = Levels(ia.Standard(), 1.0, mass, np.arange(500) / 500)._merge(coarse)
    assert group[0] == 0 and set(np.diff(group)) == {0, 1} and coarse / 3 < group[-1] + 1 <= coarse
    first = np.flatnonzero(np.diff(group, prepend=-1))
    inside = np.add.reduceat(np.where(np.diff(group, prepend=-1) > 0, 0, mass), first)  # a group's first level may be large
    assert inside.max() <= 2 / coarse and np.bincount(group).max() <= 2 * 500 / coarse + 1


def test_few_levels_are_not_merged():
    assert Levels(ia.Standard(), 1.0, np.full(7, 1 / 7), np.arange(7) / 7)._merge(7).tolist() == list(range(7))


def test_merged_levels_lead_to_all_policies():
    levels = game("worst-of-8", 0.05, [1] * (3 * COARSE), "best-of-8")
    tilts = levels.scan()
    assert len(tilts) == 3 and all(abs(logsumexp(tilt, b=levels.mass)) < 0.05 for tilt in tilts)
    assert len(levels.stationary()) == 3
