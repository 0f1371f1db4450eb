"""The textbook fixed point: what it visits is exact, whatever it is worth as a solver."""

import numpy as np
import pytest

from infalign_edu import theory
from infalign_edu.theory.lesson import fixed_point, naive_fixed_point


def test_the_start_is_the_reference_and_the_first_step_is_its_own_transform():
    seen = fixed_point("best-of-4", 0.3, 1)
    assert [seen.win_rate[0], seen.objective[0], seen.residual[0]] == pytest.approx([0.5, 0.5, 16 / 7 * 7 / 8 / 0.3], abs=1e-9)
    first = theory.tilt(lambda u: 16 / 7 * u**7, 0.3)  # Phi' = g(u)^2 = 16 u^6; E Phi under the reference is 2/7
    assert [seen.win_rate[1], seen.kl[1]] == pytest.approx([first.win_rate("best-of-4"), first.kl], abs=1e-10)
    assert np.abs(seen.cdf[1] - first.cdf(seen.u)).max() < 1e-10


@pytest.mark.parametrize(
    ("shown", "beta", "theirs"),
    [("best-of-4", 0.3, "best-of-4"), ("worst-of-16", 0.01, "worst-of-16"), ("worst-of-8", 0.1, "best-of-8"),
     ("worst-of-8", 0.1, "standard"), ("best-of-8", 0.1, "worst-of-8")],
)  # fmt: skip
def test_every_certified_policy_is_where_the_iteration_stays(shown, beta, theirs):
    for policy in theory.optimum(shown, beta, theirs).stationary:
        seen = fixed_point(shown, beta, 1, reference_procedure=theirs, start=policy.policy.log_density)
        assert seen.residual.max() < 1e-6
        assert seen.objective == pytest.approx([policy.objective] * 2, abs=1e-8)


@pytest.mark.parametrize(("shown", "theirs"), [("worst-of-32", "worst-of-32"), ("worst-of-8", "best-of-8"), ("best-of-3", "standard")])
def test_levels_take_the_steps_that_the_gradient_of_the_finite_problem_takes(shown, theirs):
    for levels in (2, 5, 16):
        toy, policy = theory.FiniteProblem(np.full(levels, 1 / levels), np.arange(float(levels))), np.full(levels, 1 / levels)
        seen = fixed_point(shown, 0.1, 6, reference_procedure=theirs, levels=levels)
        for t in range(7):
            assert seen.win_rate[t] == pytest.approx(toy.win_rate(policy, shown, theirs), abs=1e-12)
            assert seen.kl[t] == pytest.approx(toy.kl(policy), abs=1e-9)
            assert seen.cdf[t] == pytest.approx(np.cumsum(policy), abs=1e-12)
            policy = toy.reference * np.exp(toy.gradient(policy, shown, theirs) / 0.1)
            policy /= policy.sum()


def test_the_barrier_of_the_binary_reward_lies_where_the_third_policy_is():
    toy = theory.FiniteProblem([0.5, 0.5], [0.0, 1.0])
    middle = toy.infalign("worst-of-32", 0.1).stationary[2].policy[0]
    for start, ends in ((middle + 0.005, 0.5), (middle - 0.005, 0.9306853)):
        seen = fixed_point("worst-of-32", 0.1, 60, levels=2, start=np.log([start, 1 - start]))
        assert seen.objective[-1] == pytest.approx(ends, abs=1e-6)


def test_worst_of_n_climbs_at_every_step():
    assert (np.diff(fixed_point("worst-of-16", 0.05, 30).objective) > -1e-12).all()


def test_a_step_of_nothing_keeps_everything_and_damping_mixes_transforms():
    still = fixed_point("best-of-4", 0.3, 3, 0.0, start=lambda u: 3 * u)
    assert np.ptp(still.objective) == 0 and np.ptp(still.transform, axis=0).max() == 0
    half, full = (fixed_point("best-of-4", 0.3, 1, size, start=lambda u: 3 * u) for size in (0.5, 1.0))
    assert half.transform[1] == pytest.approx((0.9 * half.u + full.transform[1]) / 2, abs=1e-12)


def test_the_two_cycle_of_the_notebook_is_what_naive_fixed_point_returns():
    seen, path = naive_fixed_point("best-of-4", 0.3, 7), fixed_point("best-of-4", 0.3, 7)
    assert seen.objective.shape == (7,) and np.array_equal(seen.objective, path.objective[1:]) and seen.u.ndim == 1


@pytest.mark.parametrize(
    ("change", "says"),
    [({"step_size": 1.5}, r"step_size must be a number in \[0, 1\], got 1.5"), ({"levels": 1}, "levels must be an integer of at least 2"),
     ({"beta": 0.0}, "beta must be a positive number"), ({"start": [0.0, 1.0]}, "start must be one finite log density"),
     ({"start": lambda u: u * np.nan}, "start must be one finite"), ({"steps": -1}, "steps must be an integer of at least 0")],
)  # fmt: skip
def test_bad_settings_are_named(change, says):
    with pytest.raises(ValueError, match=says):
        fixed_point(**{"shown": "best-of-4", "beta": 0.3, **change})


def test_a_step_that_was_not_taken_is_no_step():
    with pytest.raises(ValueError, match="a step from 0 to 3, got 4"):
        fixed_point("best-of-2", 0.5, 3).after(4)
