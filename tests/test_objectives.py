import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from infalign_edu.rl import objectives


def test_rloo_advantage_is_the_reward_minus_the_mean_of_the_others():
    rewards = torch.tensor(np.random.default_rng(0).normal(size=(5, 6)))
    for p, i in itertools.product(range(5), range(6)):
        others = torch.cat([rewards[p, :i], rewards[p, i + 1 :]])
        assert objectives.rloo_advantages(rewards)[p, i] == pytest.approx(float(rewards[p, i] - others.mean()))


@given(st.lists(st.floats(-100, 100), min_size=2, max_size=8), st.floats(-50, 50), st.floats(0.1, 10))
def test_rloo_ignores_a_constant_and_keeps_the_scale(rewards, shift, scale):
    r = torch.tensor([rewards], dtype=torch.float64)
    a = objectives.rloo_advantages(r)
    assert float(a.sum()) == pytest.approx(0, abs=1e-9)
    assert objectives.rloo_advantages(r + shift).numpy() == pytest.approx(a.numpy(), abs=1e-9)
    assert objectives.rloo_advantages(scale * r).numpy() == pytest.approx(scale * a.numpy(), abs=1e-8)


def test_rloo_needs_two_samples():
    with pytest.raises(ValueError, match="at least 2 for a leave-one-out baseline, got 1"):
        objectives.rloo_advantages(torch.zeros(3, 1))


def test_kl_reward_sign_and_direction():
    """A response that the policy likes more than the reference does is fined, by beta a nat."""
    reward = objectives.kl_regularized_rewards(
        torch.tensor([0.0, 0.0]), torch.tensor([-1.0, -4.0]), torch.tensor([-3.0, -1.0]), beta=0.5
    )
    assert reward.tolist() == pytest.approx([-1.0, 1.5])


def test_expected_gradient_is_the_gradient_of_the_objective():
    """Enumerating every pair of draws, the RLOO gradient equals d/d theta of E[Phi] - beta KL(pi || pi_ref), exactly."""
    beta, phi = 0.3, torch.tensor([0.2, 1.5, -0.7, 0.4], dtype=torch.float64)
    reference = torch.tensor([0.1, 0.4, 0.3, 0.2], dtype=torch.float64).log()
    theta = torch.tensor([0.3, -0.2, 0.5, 0.0], dtype=torch.float64, requires_grad=True)

    log_policy = theta.log_softmax(0)
    objective = (log_policy.exp() * (phi - beta * (log_policy - reference))).sum()
    (exact,) = torch.autograd.grad(objective, theta)

    expected = torch.zeros_like(exact)
    for i, j in itertools.product(range(4), repeat=2):
        log_policy, draws = theta.log_softmax(0), torch.tensor([i, j])
        picked = log_policy[draws]
        rewards = objectives.kl_regularized_rewards(phi[draws], picked.detach(), reference[draws], beta)
        loss = objectives.policy_gradient_loss(picked, objectives.rloo_advantages(rewards[None]).flatten())
        (gradient,) = torch.autograd.grad(loss, theta)
        expected -= gradient * picked.detach().sum().exp()
    assert expected.numpy() == pytest.approx(exact.numpy(), abs=1e-12)


def test_exact_kl_over_whole_responses_by_the_chain_rule():
    """Weighted over all responses, the per-token KL sums to KL(pi || pi_ref) of responses."""
    rng = np.random.default_rng(1)

    def random_policy():
        first, second = rng.normal(size=3), rng.normal(size=(3, 3))
        return [torch.tensor(x).log_softmax(-1) for x in (first, second)]

    (p1, p2), (q1, q2) = random_policy(), random_policy()
    joint_p, joint_q = p1[:, None] + p2, q1[:, None] + q2
    whole = float((joint_p.exp() * (joint_p - joint_q)).sum())
    rows = torch.tensor(list(itertools.product(range(3), repeat=2)))
    tables = [torch.stack([first.expand(9, 3), second[rows[:, 0]]], dim=1) for first, second in ((p1, p2), (q1, q2))]
    per_row = objectives.exact_kl(*tables, torch.ones(9, 2, dtype=torch.bool))
    assert float((joint_p.exp().flatten() * per_row).sum()) == pytest.approx(whole, abs=1e-12)


def test_padding_counts_for_nothing():
    mask = torch.tensor([[True, False]])
    log_p, log_q = torch.randn(1, 2, 4).log_softmax(-1), torch.randn(1, 2, 4).log_softmax(-1)
    alone = objectives.exact_kl(log_p[:, :1], log_q[:, :1], mask[:, :1])
    assert objectives.exact_kl(log_p, log_q, mask).tolist() == pytest.approx(alone.tolist())
    assert objectives.sequence_logprobs(torch.tensor([[-1.0, float("nan")]]), mask).tolist() == [-1.0]
