"""Cases that mutation testing asked for: each is one that a changed formula, bound or message once survived."""

import re

import numpy as np
import pytest
import torch
from own_procedure import Careless
from scipy import special

import infalign_edu as ia
from infalign_edu import calibration, order_statistics, procedures, theory, transforms
from infalign_edu.mixtures import Mixture
from infalign_edu.theory import finite_samples, lesson, sequences
from infalign_edu.theory.decoders import SequenceSpace
from infalign_edu.theory.sequences import SequenceProblem
from infalign_edu.theory.solver import levels
from infalign_edu.winrate import PromptMean

ROWS = [[1.0, 2.0, 3.0], [4.0, 6.0, 5.0]]
FOUR = SequenceProblem(np.full((2, 2), 0.25), [[0.0, 1.0], [2.0, 3.0]])
SPACE = SequenceSpace(np.full((2, 2), 0.25), [[0.0, 1.0], [2.0, 3.0]])


# Every argument is named in its error, with the value.
@pytest.mark.parametrize(("call", "told"), [
    (lambda: calibration.unbiased_power([0], K=4, m=-1), "m must be an integer of at least 0, got -1"),
    (lambda: calibration.unbiased_power([0], K=0, m=0), "K must be an integer of at least 1, got 0"),
    (lambda: calibration.reward_kl([0.5] * 9, bins=0), "bins must be an integer of at least 1, got 0"),
    (lambda: finite_samples.bernstein(ia.Identity(), 0), "K must be an integer of at least 1, got 0"),
    (lambda: finite_samples.calibration_cost(ia.Identity(), "best-of-2", 4, -1.0), "kl must be"),
    (lambda: finite_samples.dkw_band(0), "K must be an integer of at least 1, got 0"),
    (lambda: finite_samples.dkw_band(8, 0.0), "delta must lie in (0, 1), got 0.0"),
    (lambda: finite_samples.dkw_band(8, 1.0), "delta must lie in (0, 1), got 1.0"),
    (lambda: finite_samples.best_of_n_kl_bound(0), "n must be an integer of at least 1, got 0"),
    (lambda: finite_samples.best_of_n_kl_estimate([-1.0], 0), "n must be an integer of at least 1, got 0"),
    (lambda: finite_samples.best_of_n_kl_estimate([0.5], 2), "log_probability must be at most 0, got 0.5"),
    (lambda: theory.beta_for_kl(ia.Identity(), 0.0), "kl must be"),
    (lambda: theory.optimal_beta_for_kl("best-of-2", -1.0), "kl must be"),
    (lambda: theory.tilt(ia.Identity(), 0.0), "beta must be"),
    (lambda: lesson.fixed_point("best-of-2", 0.5, steps=-1), "steps must be an integer of at least 0, got -1"),
    (lambda: lesson.naive_fixed_point("best-of-2", 0.5, steps=0), "steps must be an integer of at least 1, got 0"),
    (lambda: lesson.fixed_point("best-of-2", 0.5, steps=3).after(9), "step must be a step from 0 to 3, got 9"),
    (lambda: SPACE.blockwise(0, 1), "block must be an integer of at least 1, got 0"),
    (lambda: SPACE.blockwise(1, 0), "draws must be an integer of at least 1, got 0"),
    (lambda: SPACE.value(-1), "length must be an integer of at least 0, got -1"),
    (lambda: SPACE.tree_search(0), "draws must be an integer of at least 1, got 0"),
    (lambda: SPACE.tree_search(2, 0), "beams must be an integer of at least 1, got 0"),
    (lambda: SPACE.tree_search(2, 3), "beams must be 1 or 2, got 3"),
    (lambda: SPACE.soft_best_of(0, 1.0), "n must be an integer of at least 1, got 0"),
    (lambda: SPACE.soft_best_of(2, 0.0), "temperature must be at least 0.006, 1/500 of the reward range, and positive, got 0.0"),
    (lambda: SPACE.rejection(np.nan, 2), "threshold must be a finite number, got nan"),
    (lambda: SPACE.rejection(0.0, 0), "cap must be an integer of at least 1, got 0"),
    (lambda: order_statistics.count("n", 2.5), "n must be an integer of at least 1, got 2.5"),
    (lambda: order_statistics.rank_probabilities_from_pdf(Rule(2.5)), "max_n must be an integer of at least 1, got 2.5"),
    (lambda: order_statistics.rank_probabilities_from_pdf(object()), "procedure must have a largest number of draws"),
    (lambda: transforms.Tabulated([0.0, 0.5, 0.5, 1.0], [0, 1, 2, 3]), "u must increase strictly from 0 to 1, got"),
    (lambda: transforms.Tabulated([0.0, 0.5], [0, 1]), "u must increase strictly from 0 to 1, got"),
    (lambda: transforms.Tabulated([0.25, 0.5, 1.0], [0, 1, 2]), "u must increase strictly from 0 to 1, got"),
    (lambda: transforms.Tabulated([[0.0, 1.0], [0.0, 1.0]], [[0, 1], [0, 1]]), "u and phi must be equally long, two points"),
    (lambda: transforms.Tabulated([0.0], [0.0]), "u and phi must be equally long, two points"),
    (lambda: ia.win_rate(ROWS, ROWS).interval(0.0), "level must"),
    (lambda: ia.win_rate(ROWS, ROWS).interval(1.0), "level must"),
    (lambda: ia.win_rate(ROWS, ROWS).interval("x"), "level must be a number strictly between 0 and 1, got 'x'"),
    (lambda: ia.win_rate(ROWS, [[np.nan, 1.0], [1.0, 1.0]]), "reference_rewards must"),
    (lambda: ia.judged_win_rate(ROWS, ROWS, ROWS, [[1.0]]), "reference"),
    (lambda: PromptMean(["a"]), "per_prompt must"),
    (lambda: calibration.unbiased_power(["a"], K=4, m=1), "below must"),
    (lambda: calibration.reward_kl(["a"]), "calibrated must"),
    (lambda: ia.BestOfN(2).select(["a", "b"], np.random.default_rng(0)), "rewards must"),
    (lambda: Mixture([1], ["best-of-2"]).select(1.0, np.random.default_rng(0)), "best-of-2"),
    (lambda: ia.procedure("best-of-poisson-2").select(1.0, np.random.default_rng(0)), "best-of-poisson-2"),
    (lambda: finite_samples.bernstein(lambda u: np.full(np.shape(u), "a"), 4)(0.5), "transform must"),
    (lambda: finite_samples.unbiased_polynomial(["a", 1.0], [0], 4), "coefficients must"),
    (lambda: finite_samples.dkw_band(8, "x"), "delta must be a number in (0, 1), got 'x'"),
    (lambda: finite_samples.best_of_n_kl_estimate(["a"], 2), "log_probability must"),
    (lambda: finite_samples.mismatch([], ["standard"], 0.4), "trained must"),
    (lambda: finite_samples.mismatch(["standard"], [], 0.4), "used must"),
    (lambda: lesson.fixed_point("best-of-2", 0.5, start=["a"]), "start must"),
    (lambda: theory.optimal_frontier("best-of-2", [0.5, -1.0]), "beta must"),
    (lambda: transforms.Tabulated([0.0, 1.0], ["a", "b"]), "phi must"),
    (lambda: transforms.graded_quadrature(order=0), "order must"),
    (lambda: FOUR.win_rate(np.full((2, 2), 0.5), FOUR.blockwise(1, 2)), "policy must"),
])  # fmt: skip
def test_an_error_names_the_argument_and_its_value(call, told):
    with pytest.raises(ValueError, match=re.escape(told)):
        call()


class Rule:
    def __init__(self, n, pdf=np.ones_like):
        self.max_n, self.pdf = n, pdf


@pytest.mark.parametrize("pdf", [
    lambda t: 2 * np.ones_like(t),  # rises to 2: the ranks' probabilities sum to 2
    lambda t: 1 + 3 * (2 * t - 1),  # -1 and 2: one rank has a negative chance
    lambda t: np.exp(t) / (np.e - 1),  # integrates to 1, but is no polynomial
    lambda t: 1 + 0.3 * np.cos(5 * np.arccos(2 * t - 1)),  # nearest to it among those of two ranks is 1, a rule; it is not 1
])  # fmt: skip
def test_a_pdf_that_is_no_rule_on_ranks(pdf):
    with pytest.raises(ValueError, match="is no rule on the ranks of 2 draws"):
        order_statistics.rank_probabilities_from_pdf(Rule(2, pdf))


def test_rank_probabilities_have_no_negative_rounding_and_sum_to_one():
    found = order_statistics.rank_probabilities_from_pdf(Rule(12, lambda t: 12 * t**11))
    assert (found >= 0).all() and found.sum() == pytest.approx(1, abs=1e-15) and found[0] == pytest.approx(1, abs=1e-8)
    whole = order_statistics.rank_probabilities_from_pdf(Rule(1, lambda t: np.ones(t.shape, dtype=int)))
    assert whole.dtype == np.float64 and whole.tolist() == [1.0]


def test_a_table_that_was_taken_keeps_what_it_was_made_of():
    table = ia.EmpiricalCalibrator(ROWS, {"key": "x"})
    assert table.take([1]).metadata == {"key": "x"} and table.take([1]).reference_rewards.tolist() == [[4.0, 5.0, 6.0]]


def test_reward_kl_at_the_edges():
    assert calibration.reward_kl([0, 1], bins=2) == pytest.approx(-0.25)  # as many values as bins, both ends of [0, 1]
    assert calibration.reward_kl([1] * 4, bins=2) == pytest.approx(np.log(2) - 1 / 8)


def test_unbiased_power_of_a_table():
    found = calibration.unbiased_power([[0, 1], [2, 4]], K=4, m=2)
    assert found.shape == (2, 2) and found == pytest.approx(np.array([[0, 0], [1, 6]]) / 6)
    assert calibration.unbiased_power([[1, 3]], K=4, m=3) == pytest.approx(np.array([[0, 0.25]]))


@pytest.mark.parametrize(("k", "name"), [(1, "1st"), (2, "2nd"), (3, "3rd"), (4, "4th"), (11, "11th"), (12, "12th"),
                                         (13, "13th"), (14, "14th"), (21, "21st"), (22, "22nd"), (23, "23rd"), (101, "101st"),
                                         (111, "111th"), (112, "112th"), (113, "113th"), (114, "114th")])  # fmt: skip
def test_ordinals(k, name):
    assert str(procedures.KthBest(k=k, n=120)) == f"{name}-best-of-120" or k == 1
    assert procedures._ordinal(k) == name
    assert ia.procedure(f"{name}-best-of-120").k == k


def test_mixtures_are_equal_by_what_they_hold():
    one, other = (ia.procedure(f"{w}*standard+{1 - w}*best-of-4") for w in (0.25, 0.5))
    assert isinstance(one, Mixture) and one != other and one != "0.25*standard+0.75*best-of-4"
    assert one == ia.procedure(str(one)) and str(one) == "0.25*standard+0.75*best-of-4"


def test_numbers_in_names_are_as_short_as_they_can_be():
    assert str(ia.transform("exp:10.0")) == "exp:10" and str(ia.transform("power:0.1")) == "power:0.1"
    exact = 10 / 3
    assert str(transforms.Power(exact)) == f"power:{exact!r}"


def test_the_interval_of_one_prompt_says_nothing():
    low, high = PromptMean(np.array([0.7])).interval()
    assert np.isnan(low) and np.isnan(high)
    low, high = PromptMean(np.array([0.4, 0.6])).interval(0.5)  # t with one degree of freedom: its quartile is 1
    assert (low, high) == pytest.approx((0.4, 0.6))


def test_bernstein_of_both_ends_and_of_many_points():
    blurred = finite_samples.bernstein(lambda u: np.log(u) - np.log1p(-u), 4)  # infinite at either end
    at = np.array([1 / 8, 1 / 4, 1 / 2, 3 / 4, 7 / 8])
    phi = np.log(at / (1 - at))
    assert blurred([0.0, 0.5, 1.0]) == pytest.approx([phi[0], 0.0, phi[-1]], abs=1e-12)
    square = finite_samples.bernstein(lambda u: u**2, 1999)
    u = np.linspace(0, 1, 2500).reshape(50, 50)  # in blocks of 1,000 points
    assert square(u) == pytest.approx(u**2 + u * (1 - u) / 1999, abs=1e-11)
    whole = finite_samples.bernstein(lambda u: (u * 4).astype(int), 4)(0.5)  # whole numbers are numbers too
    assert float(whole) == pytest.approx(2.0)


def test_the_band_of_dkw():
    assert finite_samples.dkw_band(50, 0.1) == pytest.approx(np.sqrt(np.log(20) / 100))


def test_best_of_n_kl_of_a_sure_response():
    assert finite_samples.best_of_n_kl_estimate([0, -1], 3)[0] == pytest.approx(0, abs=1e-15)


@pytest.mark.parametrize("u", [2.0**-70, 2.0**-62, 2.0**-60, 1e-9, 0.2, 0.25, 0.5, 0.7, 0.75, 1.0])
def test_tails_hold_their_mass(u):
    left = theory.tilt(lambda u: -np.log(u), 2.0)  # f = u^(-1/2) / 2, F = sqrt(u): 1e-9 of the mass is below 2^-60
    assert float(left.cdf(u)) == pytest.approx(np.sqrt(u), rel=1e-11)
    assert float(left.survival(u)) == pytest.approx(1 - np.sqrt(u), rel=1e-9, abs=1e-12)
    right = theory.tilt(lambda u: -np.log1p(-u), 2.0)
    away = min(max(u, 2.0**-40), 1 - 2.0**-40)
    assert float(right.survival(1 - away)) == pytest.approx(np.sqrt(away), rel=1e-5)
    assert float(right.cdf(1 - away)) == pytest.approx(1 - np.sqrt(away), rel=1e-6)


def test_cdf_at_the_edges_of_panels_and_knots():
    kinked = transforms.Tabulated([0.0, 0.3, 0.6, 1.0], [0.0, 0.0, 1.0, 1.0])
    policy = theory.tilt(kinked, 0.5)
    inner = 0.5 * (np.exp(2.0) - 1) * 0.3
    mass = 0.3 + inner + 0.4 * np.exp(2.0)
    for u, below in ((0.0, 0.0), (0.3, 0.3), (0.6, 0.3 + inner), (0.5, 0.3 + 0.15 * (np.exp(4 / 3) - 1)), (1.0, mass)):
        assert float(policy.cdf(u)) == pytest.approx(below / mass, abs=1e-13)
        assert float(policy.survival(u)) == pytest.approx(1 - below / mass, abs=1e-13)
    grid = np.array([[0.0, 0.1], [0.5, 0.5000001]])
    assert policy.cdf(grid).shape == (2, 2) and (np.diff(policy.cdf(grid).ravel()) > 0).all()


def test_efficiency_does_not_feel_the_scale_and_sees_kinks():
    exact = np.sqrt(7.0 * 3) * 2 / 9 * 9 / (2 * np.sqrt(7.0 * 3))  # 1: best-of-1's R0 is u itself
    assert theory.efficiency(lambda u: u, "standard") == pytest.approx(exact, abs=1e-12)
    for size in (1e-150, 1e150):
        assert theory.efficiency(lambda u, size=size: size * u, "best-of-4") == pytest.approx(0.745356, abs=1e-6)
    a = 0.3  # Phi = [u >= a]: its correlation with u is sqrt(3 a (1 - a))
    assert theory.efficiency(lambda u: (u >= a) * 1.0, "standard") == pytest.approx(np.sqrt(3 * a * (1 - a)), abs=1e-9)
    ramp = transforms.Tabulated([0.0, a, 1.0], [0.0, 0.0, 1.0])
    mean, square = (1 - a) / 2, (1 - a) / 3
    cross = (1 - a) * (2 + a) / 6 - mean / 2
    assert theory.efficiency(ramp, "standard") == pytest.approx(cross / np.sqrt((square - mean**2) / 12), abs=1e-11)


def test_a_history_is_cut_at_a_step():
    whole = lesson.fixed_point("best-of-2", 0.5, steps=3, levels=4)
    assert whole.u == pytest.approx([1 / 8, 3 / 8, 5 / 8, 7 / 8])
    for step in (0, 1, 3):
        cut = whole.after(step)
        assert np.array_equal(cut.u, whole.u) and np.array_equal(cut.kl, whole.kl[step:]) and len(cut.cdf) == 4 - step
        assert np.array_equal(cut.transform, whole.transform[step:]) and np.array_equal(cut.residual, whole.residual[step:])


@pytest.mark.parametrize("u", [2.0**-90, 2.0**-62, 2.0**-60, 2.0**-44, 1e-9, 0.25, 0.5, 0.75, 1.0])
def test_a_tail_that_holds_more_than_half_of_all_mass(u):
    policy = theory.tilt(lambda u: -np.log(u), 1 / 0.99)  # F = u^0.01: two thirds below 2^-60
    assert float(policy.cdf(u)) == pytest.approx(u**0.01, rel=1e-9)
    assert float(policy.survival(u)) == pytest.approx(1 - u**0.01, rel=1e-8, abs=1e-12)


@pytest.mark.parametrize("b", [0.005, 0.02, 0.1, 0.5])
def test_win_rates_count_what_lies_below_the_first_panel(b):
    """F = u^b: W of best-of-N is int u^N dF^N = b / (1 + b); 1 - W of worst-of-N is - int (1 - u)^N d(1 - u^b)^N."""
    policy = theory.tilt(lambda u: -np.log(u), 1 / (1 - b))
    for N in (2, 4, 30):
        assert policy.win_rate(ia.BestOfN(N)) == pytest.approx(b / (1 + b), rel=1e-10)
    for N in (2, 4):
        k = np.arange(1, N + 1)
        lost = ((-1.0) ** (k - 1) * special.comb(N, k) * b * k * special.beta(b * k, N + 1)).sum()
        assert policy.win_rate(ia.WorstOfN(N)) == pytest.approx(1 - lost, abs=1e-12)


EDGES = np.concatenate([[0], np.sort(np.random.default_rng(0).uniform(size=200)), [1]])
TABLE = transforms.Tabulated(EDGES, np.sort(np.random.default_rng(1).normal(size=202)))
MESHES = [(lambda u: u, 0.1, 102), (lambda u: u, 1e-8, 402), (ia.Exponential(10), 0.5, 203), (TABLE, 0.1, 303), (np.log, 0.5, 102),
          (transforms.Tabulated([0.0, 0.3, 0.6, 1.0], [0.0, 0.0, 1.0, 1.0]), 0.5, 104), (ia.Power(0.1), 0.1, 102),
          (lambda u: 1e8 + u, 0.1, 102), (lambda u: u - 1e9, 1.0, 102), (lambda u: -np.log(u), 2.0, 161),
          (lambda u: np.sin(40 * u), 0.2, 169), (lambda u: (u > 0.3) * 1.0, 0.1, 151), (lambda u: (u > 1e-6) * 1.0, 0.1, 151), (lambda u: -np.sqrt(1 - u), 0.1, 107),
          (lambda u: -np.log1p(-u), 2.0, 110), (lambda u: -1e4 * (u - 0.37) ** 2, 0.01, 527)]  # fmt: skip


@pytest.mark.parametrize(("phi", "beta", "most"), MESHES)
def test_a_mesh_has_no_more_panels_than_it_needs(phi, beta, most):
    """Kinks that are known cost a panel each, digits that rounding took are not looked for; halved, nothing changes."""
    policy = theory.tilt(phi, beta)
    assert len(policy._panels.near) <= most + 5
    finer = policy._panels.split(np.full(len(policy._panels.near), True))
    mass = finer.integral(np.exp(policy._evaluate(finer) - policy.log_normaliser)) + sum(policy.end_mass)
    rounding = np.finfo(float).eps * abs(policy._level.top / beta)
    assert mass == pytest.approx(1, abs=1e-11 + 4 * rounding)


@pytest.mark.parametrize("name", ["best-of-poisson-1.5.2", ".*standard+.5*best-of-2"])
def test_a_number_that_is_none_is_told_by_the_name_that_holds_it(name):
    with pytest.raises(ValueError, match=f"got {re.escape(repr(name))}"):
        ia.procedure(name)


@pytest.mark.parametrize("width", [1.5, 3.0])
def test_a_sliver_of_mass_with_none_beside_it(width):
    sliver = theory.tilt(lambda u: np.where((u < width * 2.0**-60) | (u > 0.5), 0.0, -np.inf), 1.0)  # f = 2 in both
    assert sliver.kl == pytest.approx(np.log(2), abs=1e-14)
    assert sliver.cdf([2.0**-62, 2.0**-61, 2.0**-60]) == pytest.approx([2.0**-61, 2.0**-60, 2.0**-59], rel=1e-12, abs=0)


def test_a_climb_learns_from_its_last_moves():
    """A quadratic of eight scales from .01 to 1: plain steps of a half would take thousands."""
    pace, goal, seen = np.geomspace(0.01, 1, 8), np.linspace(-1, 1, 8), []

    def at(x):
        gap = pace * (goal - x)
        seen.append(x)
        return x, -0.5 * float(gap @ (goal - x)), gap

    x, value, gap = sequences._climb(at, np.zeros(8))
    assert x == pytest.approx(goal, abs=1e-11) and abs(value) < 1e-20 and gap < 1e-11 and len(seen) < 15


def test_the_number_of_steps_that_a_fixed_point_takes_by_itself():
    assert len(lesson.fixed_point("standard", 0.5).kl) == 41 and len(lesson.naive_fixed_point("standard", 0.5).kl) == 40


def test_a_parameter_is_kept_as_a_plain_number():
    assert type(procedures.BestOfPoisson(3).mu) is float
    assert type(transforms.Power(np.float32(2)).k) is float and type(transforms.Exponential(np.int64(3)).t) is float
    with pytest.raises(ValueError, match="k must be a finite positive number, got 0"):
        transforms.Power(0)


def test_a_mixture_draws_as_often_as_its_parts_say():
    mixed = Mixture([0.25, 0.75], ["best-of-poisson-3", "best-of-4"])
    own = ia.procedure("best-of-poisson-3").draws_probability
    for n in (1, 3, 4):
        assert mixed.draws_probability(n) == pytest.approx(0.25 * own(n) + 0.75 * (n == 4))
    assert Mixture([0.5, 0.5], ["best-of-2", "worst-of-2"]).draws_probability(2) == 1
    rng = np.random.default_rng(0)
    drawn = np.array([mixed.draws(rng) for _ in range(4000)])
    assert np.mean(drawn == 4) == pytest.approx(0.75 + 0.25 * own(4), abs=0.03)
    assert [mixed.draws(np.random.default_rng(7)) for _ in range(2)] == [mixed.draws(np.random.default_rng(7))] * 2


@pytest.mark.parametrize("name", ["0.5*best-of-3+0.5*worst-of-3", "best-of-poisson-3", "best-of-3", "2nd-best-of-3"])
@pytest.mark.parametrize("shape", [(3,), (5, 3), (2, 4, 3), (2, 1, 2, 3)])
def test_one_response_is_shown_for_each_row_whatever_the_rows(name, shape):
    shown = ia.procedure(name).select(np.arange(np.prod(shape)).reshape(shape), np.random.default_rng(0))
    assert shown.shape == shape[:-1] and (shown >= 0).all() and (shown < 3).all()


def test_a_frontier_against_a_reference_that_is_used_in_another_way():
    phi, betas = ia.transform("exp:5"), [20.0, 50.0]
    found = theory.frontier(phi, "best-of-4", betas, "best-of-2")
    assert found.win_rate == pytest.approx([theory.tilt(phi, b).win_rate("best-of-4", "best-of-2") for b in betas], abs=1e-12)
    assert abs(found.win_rate - theory.frontier(phi, "best-of-4", betas).win_rate).min() > 1e-3


@pytest.mark.parametrize(("ours", "theirs", "betas"), [
    ("best-of-4", "best-of-2", [0.2, 0.5]),  # one curve
    ("2nd-best-of-4", "best-of-2", [0.2, 0.5]),  # one optimum a beta
    ("best-of-4", "worst-of-2", [0.2, 0.5]),
    ("best-of-3", "best-of-2", [2e-6, 0.5]),  # one beta is too small for the mesh of the other
])  # fmt: skip
def test_an_optimal_frontier_is_one_optimum_after_the_other(ours, theirs, betas):
    found = theory.optimal_frontier(ours, betas, theirs)
    best = [theory.optimum(ours, b, theirs) for b in betas]
    assert found.beta == pytest.approx(betas)
    assert found.kl == pytest.approx([b.kl for b in best], abs=1e-8)
    assert found.win_rate == pytest.approx([b.win_rate for b in best], abs=1e-9)
    kl = best[1].kl
    beta = theory.optimal_beta_for_kl(ours, kl, theirs)
    assert beta == pytest.approx(betas[1], rel=1e-6)


def test_a_frontier_of_no_betas_is_empty():
    for found in (theory.optimal_frontier("best-of-4", []), theory.optimal_frontier("2nd-best-of-4", [])):
        assert found.beta.shape == found.kl.shape == found.win_rate.shape == (0,)


def test_rlhf_says_how_well_its_policy_solves_its_equation():
    toy = theory.FiniteProblem([0.2, 0.3, 0.5], [0.0, 1.0, 2.0])
    for beta in (0.3, 2.0):
        found = toy.rlhf([0.0, 1.0, 3.0], beta, "best-of-2")
        assert found.residual < 1e-14 and found.certified == "global"
        assert found.win_rate == pytest.approx(toy.win_rate(found.policy, "best-of-2"), abs=1e-15)


def test_blocks_of_two_among_four_tokens_choose_twice():
    """By hand: best of two blocks of two tokens, by the mean reward that follows, twice."""
    rng = np.random.default_rng(4)
    pi, reward = rng.dirichlet(np.ones(16)).reshape(4, 4), rng.normal(size=(4, 4))  # [first block, second block]
    reference = rng.dirichlet(np.ones(16)).reshape(4, 4)

    def best_of_two(p, value):
        beaten = (value[None, :] < value[:, None]) @ p
        return (beaten + p) ** 2 - beaten**2

    first = best_of_two(pi.sum(1), (reference * reward).sum(1) / reference.sum(1))
    exact = np.stack([first[i] * best_of_two(pi[i] / pi[i].sum(), reward[i]) for i in range(4)])
    toy = SequenceProblem(reference.reshape(2, 2, 2, 2), reward.reshape(2, 2, 2, 2))
    shown = toy.blockwise(block=2, draws=2)(torch.tensor(pi.reshape(2, 2, 2, 2))).numpy()
    assert shown.reshape(4, 4) == pytest.approx(exact, abs=1e-12)


def test_the_best_policy_of_a_decoder_says_that_it_is_stationary():
    assert FOUR.optimum(FOUR.soft_best_of(2, 1.0), 1.0).certified == "stationary"


@pytest.mark.parametrize("phi", [lambda u: -np.log(u), lambda u: -np.log1p(-u)])
def test_nothing_is_lost_at_an_end_where_most_of_the_mass_is(phi):
    policy = theory.tilt(phi, 1 / 0.99)
    assert policy.cdf([0.0, 1.0]).tolist() == [0.0, 1.0] and policy.survival([0.0, 1.0]).tolist() == [1.0, 0.0]


@pytest.mark.parametrize("size", [1e-15, 1.0, 1e9])
def test_values_of_prefixes_keep_their_digits_whatever_the_size_of_rewards(size):
    rng = np.random.default_rng(0)
    reference, reward = rng.dirichlet(np.ones(8)).reshape(2, 2, 2), rng.normal(size=(2, 2, 2))
    space = SequenceSpace(reference, size * reward)
    for length, axes in ((0, (0, 1, 2)), (1, (1, 2)), (2, (2,)), (3, ())):
        exact = (reference * reward).sum(axes) / reference.sum(axes)
        assert space.value(length) == pytest.approx(size * exact.ravel(), rel=1e-9)
    assert SequenceSpace(reference, np.zeros((2, 2, 2))).value(1).tolist() == [0.0, 0.0]


def test_one_beam_is_a_choice_at_each_token():
    rng = np.random.default_rng(2)
    space = SequenceSpace(rng.dirichlet(np.ones(8)).reshape(2, 2, 2), rng.normal(size=(2, 2, 2)))
    pi = torch.tensor(rng.dirichlet(np.ones(8)).reshape(2, 2, 2))
    assert torch.equal(space.tree_search(3, 1)(pi), space.blockwise(1, 3)(pi))
    assert not torch.allclose(space.blockwise(2, 3)(pi), space.blockwise(1, 3)(pi), atol=1e-3)


# What a second run of mutation testing asked for.
@pytest.mark.parametrize(("call", "told"), [
    (lambda: calibration.EmpiricalCalibrator([["a"]]), "reference_rewards must hold real numbers"),
    (lambda: Mixture(["a", "b"], [ia.Standard(), ia.BestOfN(2)]), "weights must hold real numbers"),
    (lambda: theory.beta_for_kl(ia.Identity(), "a"), "kl must be"),
    (lambda: theory.continuous.solve_for_kl(lambda beta: beta, -1.0, 1.0), "kl must be"),
    (lambda: theory.FiniteProblem([0.5, 0.5], ["a", "b"]), "reward must hold real numbers"),
    (lambda: theory.FiniteProblem([0.5, 0.5], [0.0, 1.0]).kl([0.5, 0.6]), "policy must"),
    (lambda: SequenceSpace([["a"]], [[0.0]]), "reference must hold real numbers"),
    (lambda: SequenceSpace([[1.0]], [["a"]]), "reward must hold real numbers"),
    (lambda: ia.judged_win_rate(ROWS, ROWS, [["a"]], ROWS), "reference_rewards must hold real numbers"),
    (lambda: ia.judged_win_rate(ROWS, ROWS, ROWS, [["a"]]), "reference_judged must hold real numbers"),
    (lambda: ia.judged_win_rate(ROWS, ROWS, [[1.0]], [[1.0]], "best-of-2"), "reference_rewards must hold at least 2"),
    (lambda: SPACE.soft_best_of(2, 3 / 500.5), "temperature must be at least 0.006"),
])  # fmt: skip
def test_what_is_wrong_is_called_by_its_name(call, told):
    with pytest.raises(ValueError, match=f"^{re.escape(told)}"):
        call()


def test_soft_best_of_takes_the_least_temperature():
    assert SPACE.soft_best_of(2, 3 / 500) is not None


def test_own_procedures_in_a_mixture_draw_their_largest_number():
    mixed = Mixture([0.25, 0.75], [Careless(), ia.BestOfN(3)])
    assert [mixed.draws_probability(n) for n in (1, 2, 3)] == [0.0, 0.25, 0.75]


def test_poisson_draws_at_least_one():
    shown = ia.BestOfPoisson(1.5)
    assert [shown.draws_probability(n) for n in (-1, 0)] == [0.0, 0.0]
    assert shown.draws_probability(1) == pytest.approx(np.exp(-1.5)) and shown.draws_probability(2) == pytest.approx(1.5 * np.exp(-1.5))


@pytest.mark.parametrize(("shown", "rises"), [
    (ia.BestOfN(3), True), (ia.TopM(2, 5), True), (ia.BestOfPoisson(2.0), True), (ia.Standard(), True),
    (ia.WorstOfN(3), False), (ia.KthBest(2, 4), False),
    (Mixture([0.5, 0.5], [ia.BestOfN(4), ia.TopM(2, 8)]), True),
    (Mixture([0.5, 0.5], [ia.BestOfN(4), ia.WorstOfN(2)]), False),
])  # fmt: skip
def test_which_densities_are_known_to_rise(shown, rises):
    assert theory.optimal._rises(shown) is rises


def test_a_procedure_of_unknown_form_is_not_known_to_rise():
    assert theory.optimal._rises(Rule(2)) is False


def test_a_frontier_keeps_the_reference_procedure_where_the_mass_is_near_1():
    """f falls from 1 like exp(-3 (1 - u) / beta), so against best-of-3 W = E u^3 = 1 - beta; against itself 1 - beta / 3."""
    beta = theory.optimal.STEEP / 2
    found = theory.optimal_frontier("standard", [beta, 0.3], "best-of-3")
    assert 1 - found.win_rate[0] == pytest.approx(beta, rel=1e-3)
    one = theory.optimum("standard", 0.3, "best-of-3")
    assert (found.win_rate[1], found.kl[1]) == (pytest.approx(one.win_rate, abs=1e-9), pytest.approx(one.kl, rel=1e-7))


@pytest.mark.parametrize(("first", "asked"), [(1, [1000]), (2, [1000, 4000]), (3, [1000])])
def test_finer_levels_are_scanned_only_where_an_even_number_of_roots_was_seen(first, asked, monkeypatch):
    """An even number means that merged levels hid one: of 5,000 levels 1,000 are looked at, and then 4,000."""
    three = np.array([[-1.0, 0.0], [0.0, 0.0], [0.0, -1.0]])
    wide, calls = levels.Levels(ia.Standard(), 1.0, np.full(5000, 1 / 5000), np.zeros(5000)), []
    monkeypatch.setattr(wide, "scan", lambda coarse: calls.append(coarse) or three[: first if coarse == 1000 else 3])
    monkeypatch.setattr(wide, "polish", lambda tilt: (tilt.repeat(2500), 0.0))
    assert len(wide.stationary()) == (3 if first == 2 else first) and calls == asked


def test_a_root_that_is_found_twice_is_returned_once(monkeypatch):
    three = levels.Levels(ia.Standard(), 1.0, np.array([0.2, 0.3, 0.5]), np.array([0.0, 0.5, 1.0]))
    one = three.stationary()
    monkeypatch.setattr(three, "scan", lambda coarse: [one[0][0], one[0][0] + 1e-13, one[0][0]])
    assert len(three.stationary()) == len(one) == 1


@pytest.mark.parametrize(("name", "meant"), [
    ("aptimal", ""), ("optimum", ", did you mean 'optimal'?"), ("exp10", ", did you mean 'exp:10'?"),
    ("exp:abc", ", did you mean 'exp:10'?"), ("pwer:7", ", did you mean 'power:7'?"), ("log:abc", ", did you mean 'log'?"),
])  # fmt: skip
def test_the_nearest_transform_is_named(name, meant):
    told = f"transform must be identity, log, exp:T, power:K or a callable, got {name!r}{meant}"
    with pytest.raises(ValueError, match=f"^{re.escape(told)}$"):
        ia.transform(name)


def test_counts_are_whole_numbers_for_few_rewards_and_for_many():
    rng = np.random.default_rng(5)
    reference, many = rng.integers(0, 6, (3, 20)).astype(float), rng.integers(-1, 7, (3, 40)).astype(float)
    found = calibration.EmpiricalCalibrator(reference)
    for values in (many, many[:, :4]):
        below, equal = found.counts(values)
        assert below.dtype.kind == equal.dtype.kind == "i"
        assert np.array_equal(below, (reference[:, None] < values[..., None]).sum(-1))
        assert np.array_equal(equal, (reference[:, None] == values[..., None]).sum(-1))


@pytest.mark.parametrize("M", [3, 40])
def test_the_reference_keeps_its_own_procedure_with_as_many_samples(M):
    """Best-of-2 of the policy against one sample of the reference, by counting all pairs; ties count half."""
    rng = np.random.default_rng(6)
    policy, reference = rng.integers(0, 9, (2, M)), rng.integers(0, 9, (2, M))
    for i, (a, b) in enumerate(zip(policy, reference, strict=True)):
        best = np.array([max(a[j], a[k]) for j in range(M) for k in range(j)])
        exact = ((best[:, None] > b) + 0.5 * (best[:, None] == b)).mean()
        assert ia.win_rate(policy, reference, "best-of-2", "standard").per_prompt[i] == pytest.approx(exact)


def test_nobody_draws_nothing():
    assert [ia.procedure("best-of-poisson-0").draws_probability(n) for n in (-1, 0, 1, 2)] == [0, 0, 1, 0]


# Certificates.
def test_a_unique_policy_is_claimed_from_the_proven_beta_on():
    """Against ranks 1/4 and 3/4 worst-of-2 has g = 2 (1 - t), -g' = 2, so beta_0 = (3/4 - 1/4) max t (1-t) 2 = 1/4."""
    toy = theory.FiniteProblem([0.5, 0.5], [0.0, 1.0])
    assert toy.infalign("worst-of-2", 0.25 * 1.002, "standard").certified == "global"
    assert toy.infalign("worst-of-2", 0.25 * 0.999, "standard").certified == "stationary"
    assert toy.infalign("best-of-2", 1e-3).certified == toy.infalign("best-of-2", 5e-10).certified == "global"


def test_a_kl_over_which_the_optimum_jumps_is_refused():
    """Crossed best and worst: at one beta the best policy leaves the reference's side, and its KL grows by 2 nats."""
    with pytest.raises(ValueError, match="^kl must be one that the optimum takes, got 1.0, over which it jumps at beta = 0.2"):
        theory.optimal_beta_for_kl("worst-of-8", 1.0, "best-of-8")
    assert theory.optimal_frontier("worst-of-8", [theory.optimal_beta_for_kl("worst-of-8", 3.5, "best-of-8")], "best-of-8").kl[
        0] == pytest.approx(3.5, rel=1e-6)


@pytest.mark.parametrize("t", [0.1, 3.0, 1000.0])
def test_the_residual_of_a_policy_that_is_none(t):
    """Standard against standard asks for Phi = u; trained on 1.1 u it is off by .1 u / beta, up to a constant.

    The constant is the mean under f, and where log f is below -100 the miss counts relative to |log f| / 100.
    """
    found = theory.optimal._certify(ia.Standard(), ia.Standard(), 1 / t, lambda u: 1.1 * u)
    s = 1.1 * t
    u = np.append(1 - np.geomspace(1e-13, 1, 100_001), np.linspace(0, 1, 100_001))
    log_f = np.log(s) + s * (u - 1) - np.log(-np.expm1(-s))
    mean = 1 / -np.expm1(-s) - 1 / s
    off = 0.1 * t * np.abs(u - mean) / np.maximum(1, np.abs(log_f) / 100)
    assert found.residual == pytest.approx(off[log_f > -700].max(), rel=5e-3)
    assert found.objective == pytest.approx(found.win_rate - found.kl / t, rel=1e-12)


@pytest.mark.parametrize(("theirs", "beta"), [("standard", 2e-6), ("best-of-3", 3e-6)])
def test_the_balance_counts_what_lies_beyond_the_last_panel(theirs, beta):
    """3e-8 and 6e-8 of all mass lie within 2^-44 of 1: it is part of int g_ref f du = beta (f(1) - f(0))."""
    best = theory.optimum("standard", beta, theirs)
    assert best.policy.end_mass[1] > 2e-8 and abs(best.balance_gap) < 1e-10


def test_where_a_proof_says_that_there_is_one_policy():
    with pytest.raises(ValueError, match=r"^beta must be a positive number, got -1$"):
        theory.unique("worst-of-4", -1)
    own, mixed = Careless(), Mixture([0.5, 0.5], ["standard", "worst-of-8"])
    assert theory.unique(own, 1e9) is False  # g is known at points only
    assert theory.unique(mixed, 10.0) and not theory.unique(mixed, 0.01)
    assert theory.unique("2nd-best-of-4", 10.0) and not theory.unique("2nd-best-of-4", 0.01)


def test_a_policy_shown_as_it_is_has_its_transform_written_down():
    theirs = ia.procedure("best-of-3")
    assert theory.optimum("standard", 0.3, theirs).transform == theirs.cdf


def test_one_policy_is_looked_for_where_one_is_known(monkeypatch):
    told, found = [], theory.optimal.stationary_policies
    monkeypatch.setattr(theory.optimal, "stationary_policies", lambda problem, one: told.append(one) or found(problem, one))
    theory.optimum("best-of-4", 0.3), theory.optimum("2nd-best-of-4", 0.05)
    assert told == [True, False]


@pytest.mark.parametrize("other", [(0.1, 0.1), (0.1, -0.1), (1e-7, 0.0), (0.0, 1e-7)])
def test_what_does_not_lie_on_the_one_curve_is_no_answer(other, monkeypatch):
    right = theory.optimum("best-of-4", 0.3)

    class Curve:
        def win_rate_and_kl(self, beta):
            return right.win_rate + other[0], right.kl + other[1]

    monkeypatch.setattr(theory.optimal, "power_curve", lambda *given: Curve())
    with pytest.raises(RuntimeError, match="has no certificate"):
        theory.optimum("best-of-4", 0.3)


@pytest.mark.parametrize(("climbs", "objective"), [
    ([(0.6, 0.0), (0.7, 1.0)], None), ([(0.6, 0.0), (0.5, 1.0)], 0.6), ([(0.6, 0.0), (0.6 + 5e-10, 1.0)], 0.6),
    ([(0.6, 0.0), (0.6 + 5e-9, 1.0)], None), ([(0.6, 1.0)], None), ([(0.6, 1e-9), (0.7, 1e-7)], None),
])  # fmt: skip
def test_a_better_policy_without_a_certificate_is_told(climbs, objective, monkeypatch):
    """(objective, residual) of the climbs from the starts: the best must be certified."""
    left = iter([*climbs, *[climbs[-1]] * 6])
    monkeypatch.setattr(theory.sequences, "_climb", lambda at, start: (np.log(np.full(4, 0.25)), *next(left)))
    decode = FOUR.blockwise(1, 2)
    if objective is None:
        with pytest.raises(RuntimeError, match=r"^optimum\(beta=0.5\) could not certify its best policy; larger beta"):
            FOUR.optimum(decode, 0.5)
    else:
        assert FOUR.optimum(decode, 0.5).objective == objective


def test_a_start_without_a_finite_gradient_is_no_answer():
    """Above .9 this decode has no derivative: the steepest starts lie there, the optimum does not."""
    seen = []

    def decode(pi):
        shown = pi * 1.0
        if shown.requires_grad and pi.max() > 0.9:
            seen.append(shown.register_hook(lambda gradient: gradient * np.inf))
        return shown

    best, plain = FOUR.optimum(decode, beta=0.5), FOUR.optimum(lambda pi: pi * 1.0, beta=0.5)
    assert best.residual < 1e-8 and best.policy == pytest.approx(plain.policy, abs=1e-9) and best.policy.max() < 0.9 and seen


def test_where_no_gradient_is_finite_one_error_says_so():
    """The derivative of sqrt grows without bound where a probability underflows."""
    with pytest.raises(RuntimeError, match=r"^optimum\(beta=0.001\) could not certify its best policy; larger beta is"):
        FOUR.optimum(lambda pi: pi.sqrt() / pi.sqrt().sum(), beta=1e-3)


# Bounds that somebody may well stand on.
def test_a_prompt_beyond_the_table_is_refused():
    table = calibration.EmpiricalCalibrator(ROWS)
    assert table.take([1, 0]).reference_rewards.tolist() == [sorted(ROWS[1]), sorted(ROWS[0])]
    for rows in ([2], [0, 2], [-1], [True], [0.0]):
        with pytest.raises(ValueError, match=r"^prompts must be a list of at least one whole number from 0 to 1, got"):
            table.take(rows)


def test_a_share_of_nothing_is_a_share():
    mixed = Mixture([0.0, 1.0], ["best-of-2", "worst-of-3"])
    assert mixed.cdf([0.25, 0.5]) == pytest.approx(ia.WorstOfN(3).cdf([0.25, 0.5]))


@pytest.mark.parametrize("make", [lambda n: ia.procedure(f"best-of-poisson-{n}"), ia.BestOfN])
def test_a_million_draws_and_no_more(make):
    assert make(1_000_000).cdf(1.0) == 1
    with pytest.raises(ValueError, match="must be at most 1,000,000, got 1000001"):
        make(1_000_001)


def test_as_many_sequences_as_are_allowed_and_no_more():
    most = theory.decoders.MOST
    assert SequenceSpace(np.full(most, 1 / most), np.zeros(most)).reference.size == most
    with pytest.raises(ValueError, match=f"{most}"):
        SequenceSpace(np.full(most + 1, 1 / (most + 1)), np.zeros(most + 1))


def test_soft_best_of_at_its_least_temperature_and_without_one():
    """Rewards of 0 to 500 allow 500 / 500 = 1 exactly; equal rewards allow any temperature but 0."""
    wide, flat = (SequenceSpace(np.full((2, 2), 0.25), reward) for reward in ([[0.0, 1.0], [2.0, 500.0]], np.ones((2, 2))))
    pi = torch.full((2, 2), 0.25, dtype=torch.float64)
    assert wide.soft_best_of(2, 1.0)(pi).sum().item() == pytest.approx(1)
    assert flat.soft_best_of(2, 1e-9)(pi).numpy() == pytest.approx(pi.numpy())
    with pytest.raises(ValueError, match=r"^temperature must be .*, got 0\.0$"):
        flat.soft_best_of(2, 0.0)


def test_a_reward_at_the_threshold_passes():
    """Rejection until a reward of at least 2: of four equal sequences two pass, so one time in eight three tries fail."""
    shown = SPACE.rejection(2.0, 3)(torch.full((2, 2), 0.25, dtype=torch.float64)).numpy()
    assert shown == pytest.approx(np.array([[1, 1], [7, 7]]) / 16)


def test_a_level_without_probability_is_never_shown():
    toy = theory.FiniteProblem([0.25, 0.25, 0.5], [0.0, 1.0, 2.0])
    for p in ("best-of-3", "worst-of-3", "2nd-best-of-3"):
        shown = toy.decode([0.5, 0.0, 0.5], p)
        assert shown[1] == 0 and shown.sum() == pytest.approx(1)
    assert toy.kl([0.5, 0.0, 0.5]) == pytest.approx(0.5 * np.log(2))


@pytest.mark.parametrize("beta", [0, 0.0, -1.0, np.nan])
def test_every_optimum_wants_a_positive_beta(beta):
    toy = theory.FiniteProblem([0.5, 0.5], [0.0, 1.0])
    for call in (lambda: FOUR.optimum(FOUR.blockwise(1, 2), beta), lambda: toy.infalign("best-of-2", beta),
                 lambda: theory.optimum("best-of-2", beta), lambda: theory.tilt(ia.Identity(), beta)):  # fmt: skip
        with pytest.raises(ValueError, match=f"^beta must be a positive number, got {beta}$"):
            call()


def test_a_thousand_panels_and_no_more():
    assert transforms.graded_quadrature(1000)[1].sum() == pytest.approx(1)
    with pytest.raises(ValueError, match="^panels must be at most 1000"):
        transforms.graded_quadrature(1001)
    with pytest.raises(ValueError, match="^panels must be an integer of at least 1, got 0"):
        transforms.graded_quadrature(0)


def test_levels_of_unequal_mass_are_not_merged_while_they_are_few():
    mass = np.array([0.9, 0.02, 0.02, 0.02, 0.02, 0.01, 0.01])
    assert levels.Levels(ia.Standard(), 1.0, mass, np.arange(7) / 7)._merge(7).tolist() == list(range(7))


def test_probabilities_are_made_to_sum_to_one():
    toy = theory.FiniteProblem([0.5, 0.5 + 9e-10], [0.0, 1.0])
    assert toy.reference.sum() == pytest.approx(1, abs=1e-15)
    with pytest.raises(ValueError, match="^reference must "):
        theory.FiniteProblem([0.5, 0.5 + 2e-9], [0.0, 1.0])


@pytest.mark.parametrize(("shown", "beta"), [("best-of-4", 0.3), ("worst-of-8", 0.1), ("0.5*best-of-8+0.5*worst-of-8", 0.1)])
def test_an_optimal_transform_starts_at_nothing_and_names_its_edges(shown, beta):
    phi = theory.optimum(shown, beta).transform
    assert phi([0.0])[0] == pytest.approx(0, abs=1e-13)
    assert phi.knots[0] == 0 and phi.knots[-1] == 1 and (np.diff(phi.knots) > 0).all()
    assert len(phi.knots) == len(phi.panels.near) + 1


@pytest.mark.parametrize("name", ["1e-1*standard+9E-1*best-of-2", "0.1*standard+.9*best-of-2", "1E-1*standard+9e-1*best-of-2"])
def test_shares_are_numbers_however_they_are_written(name):
    assert ia.procedure(name) == Mixture([0.1, 0.9], ["standard", "best-of-2"])


def test_poisson_draws_have_one_policy_at_any_beta():
    assert theory.unique("best-of-poisson-3", 0.01) and not theory.unique("2nd-best-of-3", 0.01, "standard")


def test_the_best_decoder_policy_lists_all_that_were_found():
    best = FOUR.optimum(FOUR.blockwise(1, 2), 0.1)
    assert isinstance(best.stationary, tuple) and best.stationary[0].objective == best.objective
    assert all(a.objective >= b.objective for a, b in zip(best.stationary, best.stationary[1:], strict=False))


def test_a_share_of_a_share_is_a_mixture_of_its_own():
    with pytest.raises(ValueError, match=r"^weights must be non-negative and sum to 1, got \[0\.5\]$"):
        ia.procedure("0.5*0.5*best-of-2+0.5*standard")
    assert ia.procedure("0.5*1*best-of-2+0.5*standard").cdf(0.5) == 0.375


@pytest.mark.parametrize("shown", ["best-of-4", "worst-of-4", "standard"])
def test_a_poisson_reference_is_on_no_curve(shown):
    best = theory.optimum(shown, 0.3, "best-of-poisson-2")
    assert best.residual < 1e-9 and abs(best.balance_gap) < 1e-9
