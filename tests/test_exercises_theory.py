"""The answers of the exercises on transforms, optima, toy RL and CTRL are what the library computes."""

import numpy as np
import pytest
import torch

import infalign_edu as ia
from infalign_edu import theory
from infalign_edu.classroom.exercises import find
from infalign_edu.rl import evaluation, objectives
from infalign_edu.rl.toy import ToyWorld

MIDDLES = (np.arange(4000) + 0.5) / 4000


def cases(name, seed=0):
    return [(find(name).answer(*case), case) for case in find(name).cases(seed)]


@pytest.mark.parametrize("name", ["identity", "exp:5", "exp:-10"])
def test_tilted_density_is_the_one_of_the_policy(name):
    phi = ia.standardize(ia.transform(name))
    f = find("tilted-density").answer(phi(MIDDLES), 0.7)
    assert f == pytest.approx(theory.tilt(phi, 0.7).density(MIDDLES), rel=1e-4)


def test_dividing_by_the_standard_deviation_again_and_again_leads_where_the_lesson_says():
    target = ToyWorld(words=3, length=2).target("exp:10")
    policy, next_policy = target.problem.reference, find("divided-by-std").answer
    for _ in range(300):
        policy = next_policy(target.problem.reference, target.phi, target.beta, policy)
    assert policy == pytest.approx(target.group_std_optimum(), abs=1e-6)
    assert np.abs(policy - target.optimum.policy).max() > 0.005


def test_distilled_win_rate_is_the_one_of_the_tilted_policy():
    for value, (beta, n, n_reference) in cases("distilled-win-rate"):
        policy = theory.tilt(ia.Log(), beta)
        assert value == pytest.approx(policy.win_rate(ia.BestOfN(n), ia.BestOfN(n_reference)), abs=1e-9)


@pytest.mark.parametrize("n", [1, 2, 4])
def test_small_kl_share_is_the_efficiency(n):
    phi = ia.Exponential(-3.0)
    falling = find("small-kl-share").answer(MIDDLES, -phi(MIDDLES), n)
    assert falling == pytest.approx(-theory.efficiency(phi, ia.BestOfN(n)), abs=1e-5) and falling < 0


def test_optimal_slope_is_the_one_of_the_mixture():
    for value, (u, F, share, n) in cases("optimal-slope"):
        shown = ia.Mixture([share, 1 - share], [ia.BestOfN(n), ia.WorstOfN(n)])
        assert value == pytest.approx(shown.pdf(F) * shown.pdf(u), abs=1e-9)


def test_damped_step_rests_at_the_optimum_and_only_there():
    best = theory.optimum("best-of-4", 0.3)
    phi = best.transform(MIDDLES)
    step = find("damped-step").answer
    assert step(phi, 4, 0.3, 0.5) == pytest.approx(phi, abs=1e-4)
    assert np.abs(step(MIDDLES, 4, 0.3, 0.5) - MIDDLES).max() > 0.1
    assert np.abs(step(phi, 4, 0.5, 0.5) - phi).max() > 0.05


def test_local_improvement_tilts_the_reference_by_the_gradient():
    for value, (p, p_ref, n, beta) in cases("local-improvement"):
        problem = theory.FiniteProblem([p_ref, 1 - p_ref], [0.0, 1.0])
        for log_odds, chance in zip(value, p, strict=True):
            R = problem.gradient([chance, 1 - chance], ia.BestOfN(n))
            assert log_odds == pytest.approx(np.log(p_ref / (1 - p_ref)) + (R[0] - R[1]) / beta, abs=1e-9)


def test_advantages_gradient_and_kl_are_those_of_the_loop():
    for value, (rewards,) in cases("rloo-advantages"):
        assert value == pytest.approx(objectives.rloo_advantages(torch.tensor(rewards)).numpy(), abs=1e-9)
    for value, (logits, samples, advantages) in cases("policy-gradient"):
        weights = torch.tensor(logits, requires_grad=True)
        logprobs = weights.log_softmax(0)[torch.tensor(samples)]
        objectives.policy_gradient_loss(logprobs, torch.tensor(advantages)).backward()
        assert value == pytest.approx(-weights.grad.numpy(), abs=1e-9)
    for value, (p, q, mask) in cases("response-kl"):
        assert value == pytest.approx(objectives.exact_kl(*map(torch.tensor, (p, q, mask))).numpy(), abs=1e-9)


def test_ctrl_reward_is_the_pipelines():
    for value, (rewards, reference) in cases("ctrl-reward"):
        calibrator = ia.EmpiricalCalibrator(reference)
        u = calibrator(rewards).clip(1 / (2 * calibrator.K), 1.0)
        assert value == pytest.approx(ia.standardize(ia.Log())(u), abs=1e-6)


def test_interval_and_matched_gain_are_those_of_the_evaluation():
    for (low, high), (wins, t) in cases("prompt-interval"):
        rates = ia.PromptMean(wins.mean(1))
        assert (low, high) == pytest.approx((rates.mean - t * rates.stderr, rates.mean + t * rates.stderr))
    for value, (kl, *runs) in cases("matched-gain"):
        paths = [[(i, k, ia.PromptMean(np.array([w]))) for i, (k, w) in enumerate(zip(*run, strict=True))]
                 for run in (runs[:2], runs[2:])]
        first, second = (evaluation.at_matched_kl(kl, path).win_rate.mean for path in paths)
        assert value == pytest.approx(second - first)
