"""Every algorithm's expected update, summed over all draws in a world of 3^2 responses: zero where theory says, only there."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.stats import binom

import infalign_edu as ia
from infalign_edu.lm.table import PrefixTable
from infalign_edu.rl import objectives
from infalign_edu.rl.algorithms import NAMES, algorithm, parse
from infalign_edu.rl.algorithms import distillation as bonbon
from infalign_edu.rl.algorithms import quantile_regression as qrpo
from infalign_edu.rl.algorithms.distillation import BoNBoN
from infalign_edu.rl.algorithms.grpo import GRPO, fixed_point, group_advantages, k3
from infalign_edu.rl.algorithms.ppo import PPO, clipped_loss, generalized_advantages, token_rewards
from infalign_edu.rl.algorithms.preference import DPO, IPO, dpo_loss, ipo_loss
from infalign_edu.rl.algorithms.quantile_regression import QRPO
from infalign_edu.rl.algorithms.rloo import RLOO, Batch, Rows
from infalign_edu.theory.finite import FiniteProblem

WORDS, LENGTH, S, BETA = 3, 2, 9, 0.6
TOKENS = torch.tensor(list(itertools.product(range(WORDS), repeat=LENGTH)))  # [S, LENGTH], in order
RNG = np.random.default_rng(5)
REFERENCE = RNG.dirichlet(4 * np.ones(S))
REWARD = np.array([0.3, -1.0, 2.0, 0.3, 0.7, -1.0, 1.1, -0.2, 0.3])  # with ties
PROBLEM = FiniteProblem(REFERENCE, REWARD)
PHI = np.exp(PROBLEM.calibrated)
LOG_Z = float(np.log(REFERENCE @ np.exp(PHI / BETA)))
OPTIMUM = PROBLEM.rlhf(PHI, BETA).policy
ELSEWHERE = RNG.dirichlet(4 * np.ones(S))


def tilted(exponent):
    p = REFERENCE * np.exp(exponent)
    return p / p.sum()


def table(p):
    """Free logits for every prefix, in double precision, that make the responses' probabilities p."""
    model = PrefixTable(WORDS, LENGTH).double()
    prefixes = [p.reshape(WORDS**t, WORDS, -1).sum(-1) for t in range(LENGTH)]
    with torch.no_grad():
        model.table.copy_(torch.tensor(np.log(np.concatenate(prefixes))))
    return model


def token_logprobs(model):
    return model(TOKENS[:, :-1]).log_softmax(-1).gather(-1, TOKENS[..., None])[..., 0]  # [S, LENGTH]


def expected(algo, p, M=2, phi=PHI, beta=BETA, values=None):
    """d/d logits of the mean loss over all draws of M responses, weighted by their exact probability. Shape: [states, 3]."""
    model, reference = table(p), token_logprobs(table(REFERENCE)).detach()
    now = token_logprobs(model)
    source, drawn = (REFERENCE, reference) if algo.source == "reference" else (p, now.detach())
    values = torch.zeros(S, LENGTH).double() if values is None else values
    mask, phi, reward = torch.ones(M, LENGTH, dtype=torch.bool), torch.tensor(phi), torch.tensor(REWARD)
    total = torch.zeros(()).double()
    for draw in itertools.product(range(S), repeat=M):
        i = torch.tensor(draw)
        batch = Batch(reward[i][None], phi[i][None], drawn[i].sum(1), reference[i].sum(1), drawn[i], reference[i],
                      mask, values[i], torch.zeros(M, 0), beta)  # fmt: skip
        loss = algo.loss(Rows(now[i], mask, algo.targets(batch), M, beta))
        total = total + np.prod(source[list(draw)]) * loss
    return torch.autograd.grad(total, model.table)[0].numpy()


def ascent(p, phi=PHI, beta=BETA):
    """The exact gradient of J = E[Phi] - beta KL(pi || pi_ref) in the same logits."""
    model = table(p)
    log_p = token_logprobs(model).sum(1)
    J = (log_p.exp() * (torch.tensor(phi) - beta * (log_p - torch.tensor(np.log(REFERENCE))))).sum()
    return torch.autograd.grad(J, model.table)[0].numpy()


def true_values(p):
    """V of the token rewards at both states of every response, from all continuations. Shape: [S, LENGTH]."""
    log_p, log_q = (token_logprobs(table(x)).detach().numpy() for x in (p, REFERENCE))
    paid = -BETA * (log_p - log_q) + np.stack([0 * PHI, PHI], 1)
    to_go = paid[:, ::-1].cumsum(1)[:, ::-1]
    last = (p * to_go[:, 1]).reshape(WORDS, WORDS).sum(1) / p.reshape(WORDS, WORDS).sum(1)
    return torch.tensor(np.stack([np.full(S, p @ to_go[:, 0]), last.repeat(WORDS)], 1))


CLAIMS = {  # algorithm, where its expected update vanishes, samples a prompt
    "rloo": (RLOO(), OPTIMUM, 2),
    "ppo": (PPO(smoothing=1.0), OPTIMUM, 1),
    "dpo": (DPO(), OPTIMUM, 2),
    "dpo on-policy": (DPO(source="policy"), OPTIMUM, 2),
    "qrpo": (QRPO(log_z=lambda beta: LOG_Z), OPTIMUM, 1),
    "qrpo on-policy": (QRPO("policy", log_z=lambda beta: LOG_Z), OPTIMUM, 1),
    "ipo": (IPO(), tilted(PROBLEM.calibrated / BETA), 2),
    "ipo scaled": (IPO(scale=2.5), tilted(2.5 * PROBLEM.calibrated / BETA), 2),
    "bonbon": (BoNBoN(n=2), bonbon.optimum(PROBLEM, 2, 0.005), 2),
    "bonbon half": (BoNBoN(n=3, alpha=0.5), bonbon.optimum(PROBLEM, 3, 0.5), 3),
    "bonbon likelihood": (BoNBoN(n=2, alpha=1.0), PROBLEM.decode(REFERENCE, "best-of-2"), 3),
    "bonbon contrast": (BoNBoN(n=2, alpha=0.0), tilted(2 * PROBLEM.calibrated), 2),
    "grpo without deviation": (GRPO(normalize=False), fixed_point(REFERENCE, PHI, 2 * BETA, WORDS), 2),
    "grpo corrected": (
        GRPO(normalize=False, corrected=True), fixed_point(REFERENCE, PHI, 2 * BETA, WORDS, corrected=True), 2
    ),  # fmt: skip
    "grpo without either": (GRPO(normalize=False, kl_in_loss=False), OPTIMUM, 2),
}


@pytest.mark.parametrize("name", CLAIMS)
def test_the_expected_update_vanishes_at_the_claimed_policy_and_nowhere_near(name):
    algo, claimed, M = CLAIMS[name]
    assert np.abs(expected(algo, claimed, M)).max() < 1e-10
    nearby = claimed * np.exp(0.2 * np.random.default_rng(1).normal(size=S))
    assert np.abs(expected(algo, nearby / nearby.sum(), M)).max() > 1e-3


def test_the_claimed_policies_differ_where_they_should():
    for name in ("ipo", "bonbon", "bonbon contrast", "grpo without deviation", "grpo corrected"):
        claimed = CLAIMS[name][1]
        assert claimed @ np.log(claimed / OPTIMUM) > 0.005, name
    best = PROBLEM.decode(REFERENCE, "best-of-2")
    for name in ("bonbon", "bonbon contrast"):
        assert best @ np.log(best / CLAIMS[name][1]) > 0.005, name


@pytest.mark.parametrize("p", [REFERENCE, ELSEWHERE], ids=["at the reference", "elsewhere"])
def test_policy_gradients_are_the_gradient_of_the_objective_exactly(p):
    exact = ascent(p)
    assert expected(RLOO(), p) == pytest.approx(-exact, abs=1e-12)
    assert expected(GRPO(normalize=False, kl_in_loss=False, token_mean=False), p) == pytest.approx(
        -exact / 2, abs=1e-12
    )
    assert expected(QRPO("policy", log_z=lambda beta: 0.7), p, M=1) == pytest.approx(-2 * BETA * exact, abs=1e-12)
    assert expected(PPO(smoothing=1.0), p, M=1) == pytest.approx(-exact, abs=1e-12)


def test_any_value_leaves_ppo_unbiased_at_lambda_1_and_only_the_true_one_below():
    wrong = torch.tensor(RNG.normal(size=(WORDS + 1, 1)))[[0] * S + [1 + s // WORDS for s in range(S)]].view(2, S).T
    exact = -ascent(ELSEWHERE)
    for smoothing, values, unbiased in [(1.0, wrong, True), (0.5, wrong, False), (0.5, true_values(ELSEWHERE), True)]:
        found = expected(PPO(smoothing=smoothing), ELSEWHERE, M=1, values=values)
        assert (np.abs(found - exact).max() < 1e-12) == unbiased, smoothing
    assert np.abs(expected(PPO(smoothing=0.5), ELSEWHERE, M=1) - exact).max() > 0.01  # V = 0 is wrong too


def test_ppo_pays_token_by_token_what_rloo_pays_at_the_end():
    mask = torch.tensor([[True, True, True], [True, True, False]])
    log_p, log_q = (-torch.rand(2, 3).double() * mask for _ in range(2))
    phi = torch.tensor([2.0, -1.0]).double()
    paid = token_rewards(phi, log_p, log_q, mask, 0.3)
    assert paid.sum(1).tolist() == pytest.approx(
        objectives.kl_regularized_rewards(phi, log_p.sum(1), log_q.sum(1), 0.3).tolist()
    )
    assert paid[0, :2].tolist() == pytest.approx((-0.3 * (log_p - log_q))[0, :2].tolist()) and paid[1, 2] == 0


@pytest.mark.parametrize("smoothing", [0.0, 0.7, 1.0])
def test_generalized_advantages_against_their_definition(smoothing):
    rng = np.random.default_rng(0)
    rewards, values, lengths = rng.normal(size=(4, 5)), rng.normal(size=(4, 5)), [5, 3, 1, 4]
    mask = torch.tensor([[t < n for t in range(5)] for n in lengths])
    found = generalized_advantages(torch.tensor(rewards) * mask, torch.tensor(values), mask, smoothing).numpy()
    for row, n in enumerate(lengths):
        V = np.append(values[row, :n], 0.0)
        delta = rewards[row, :n] + V[1:] - V[:-1]
        wanted = [sum(smoothing ** (s - t) * delta[s] for s in range(t, n)) for t in range(n)]
        assert found[row, :n] == pytest.approx(wanted) and not found[row, n:].any()
        if smoothing == 1.0:  # the return minus V
            assert found[row, :n] == pytest.approx(rewards[row, :n][::-1].cumsum()[::-1] - V[:-1])
        if smoothing == 0.0:  # the error of one step
            assert found[row, :n] == pytest.approx(delta)


def test_the_clipped_loss_stops_where_a_ratio_has_gone_far_enough_in_the_wanted_direction():
    ratio = torch.tensor([[1.5, 1.5, 0.5, 0.5, 1.1, 0.9]])
    advantages = torch.tensor([[1.0, -1.0, 1.0, -1.0, 2.0, -2.0]])
    log_ratio = ratio.log().requires_grad_(True)
    loss = clipped_loss(log_ratio, torch.zeros(1, 6), advantages, torch.ones(1, 6).bool(), clip=0.2)
    assert loss.item() == pytest.approx(-(1.2 - 1.5 + 0.5 - 0.8 + 2.2 - 1.8))
    (gradient,) = torch.autograd.grad(loss.sum(), log_ratio)
    assert gradient[0].tolist() == pytest.approx([0, 1.5, -0.5, 0, -2.2, 1.8])


def test_group_deviation_makes_grpo_blind_to_the_scale_of_phi():
    """With M = 2 it is blind to everything but the order."""
    once, seven = (expected(GRPO(), ELSEWHERE, M=3, phi=scale * PHI) for scale in (1, 7))
    assert once == pytest.approx(seven, abs=1e-3) and np.abs(once).max() > 0.05
    plain = [expected(GRPO(normalize=False, kl_in_loss=False), ELSEWHERE, M=2, phi=scale * PHI) for scale in (1, 7)]
    assert np.abs(plain[0] - plain[1]).max() > 0.1
    assert np.abs(expected(GRPO(), OPTIMUM, M=3)).max() > 0.01
    a = group_advantages(torch.tensor([[1.0, 5.0], [2.0, 2.5]]))
    assert a.numpy() == pytest.approx(np.array([[-1, 1], [-1, 1]]), abs=1e-3)


def test_k3_has_the_mean_of_one_kl_and_the_gradient_of_the_other():
    logits, q = torch.tensor([0.3, -0.5, 1.0]).double().requires_grad_(True), torch.tensor([0.2, 0.5, 0.3]).double()
    log_p = logits.log_softmax(0)
    p = log_p.exp().detach()
    mean = (p * k3(log_p, q.log())).sum()
    assert mean.item() == pytest.approx((p * (log_p - q.log())).sum().item())
    (found,) = torch.autograd.grad(mean, logits, retain_graph=True)
    (reverse,) = torch.autograd.grad((q * (q.log() - log_p)).sum(), logits, retain_graph=True)
    (forward,) = torch.autograd.grad((log_p.exp() * (log_p - q.log())).sum(), logits)
    assert found.tolist() == pytest.approx(reverse.tolist()) != pytest.approx(forward.tolist(), abs=1e-2)
    assert (k3(log_p, q.log()) > 0).all()


def test_the_token_mean_weighs_short_responses_more():
    rows = Rows(torch.zeros(2, 4).double(), torch.tensor([[True] * 4, [True] + [False] * 3]),
                {"advantages": torch.ones(2), "old": torch.zeros(2, 4), "reference": torch.zeros(2, 4)}, 2, 0.1)  # fmt: skip
    assert float(GRPO().loss(rows)) == pytest.approx(-1.0)
    assert float(GRPO(token_mean=False).loss(rows)) == pytest.approx(-2.5)


def test_grpo_fixed_point_of_one_token_by_hand_and_of_a_constant():
    """Two answers, Phi 0 and 1, beta 1: lambda^2 - 2 lambda + 1/2 = 0."""
    root = 1 + math.sqrt(0.5)
    assert fixed_point(np.array([0.5, 0.5]), np.array([0.0, 1.0]), 1.0, 2) == pytest.approx(
        [0.5 / root, 0.5 / (root - 1)]
    )
    assert fixed_point(REFERENCE, np.ones(S), BETA, WORDS) == pytest.approx(REFERENCE)
    assert fixed_point(REFERENCE, np.ones(S), BETA, WORDS, corrected=True) == pytest.approx(REFERENCE)
    one = fixed_point(REFERENCE, PHI, BETA, S, corrected=True)  # responses of a single token: nothing comes later
    assert one == pytest.approx(OPTIMUM) and fixed_point(REFERENCE, PHI, BETA, S) != pytest.approx(OPTIMUM, abs=0.01)
    deviated = fixed_point(REFERENCE, PHI, BETA, WORDS, normalize=True)
    s = np.sqrt(deviated @ (PHI - deviated @ PHI) ** 2)
    assert deviated == pytest.approx(fixed_point(REFERENCE, PHI, BETA * s, WORDS), abs=1e-9)
    with pytest.raises(ValueError, match="must hold 2\\^length numbers, got 9 and 9"):
        fixed_point(REFERENCE, PHI, BETA, 2)


def test_dpo_with_hard_labels_has_no_minimum_and_soft_labels_fit_every_pair():
    gaps = torch.linspace(-20, 20, 9, requires_grad=True)
    (slope,) = torch.autograd.grad(dpo_loss(gaps, torch.ones(9), 0.4), gaps)
    assert (slope < 0).all()
    phi = torch.tensor([0.3, -1.2])
    fit = torch.tensor([float(phi[0] - phi[1]) / 0.4], requires_grad=True)
    (slope,) = torch.autograd.grad(dpo_loss(fit, (phi[:1] - phi[1:]).sigmoid(), 0.4), fit)
    assert float(slope) == pytest.approx(0, abs=1e-7)


def test_ipo_loss_is_the_published_one_when_the_preferred_response_comes_first():
    gaps = torch.tensor([0.3, 2.0, -1.0])
    assert float(ipo_loss(gaps, torch.ones(3), 0.1)) == pytest.approx(float(((gaps - 1 / (2 * 0.1)) ** 2).mean()))
    assert float(ipo_loss(-gaps, torch.zeros(3), 0.1)) == pytest.approx(float(ipo_loss(gaps, torch.ones(3), 0.1)))
    assert float(ipo_loss(gaps, torch.full((3,), 0.5), 0.1)) == pytest.approx(float((gaps**2).mean()))  # ties half


@pytest.mark.parametrize("algo", [DPO(), IPO(), BoNBoN(n=3)], ids=str)
def test_the_order_in_which_a_prompts_samples_come_is_nothing_to_the_loss(algo):
    rng = np.random.default_rng(3)
    phi, now, reference = (torch.tensor(rng.normal(size=(2, 5))) for _ in range(3))
    losses = []
    for order in (np.arange(5), np.array([3, 1, 4, 0, 2])):
        mine = phi[:, order], reference[:, order].flatten()
        none = torch.zeros(10, 1)
        batch = Batch(mine[0], mine[0], mine[1], mine[1], none, none, none.bool(), none, none, BETA)
        rows = Rows(now[:, order].reshape(10, 1), ~none.bool(), algo.targets(batch), 5, BETA)
        losses.append(float(algo.loss(rows)))
    assert losses[0] == pytest.approx(losses[1], rel=1e-12)


def test_ipo_learns_the_identity_whatever_increasing_transform_it_is_given():
    for phi in (PHI, PROBLEM.calibrated, 50 * PHI**3):
        assert np.abs(expected(IPO(), CLAIMS["ipo"][1], phi=phi)).max() < 1e-10
    assert np.abs(expected(IPO(), CLAIMS["ipo"][1], phi=-PHI)).max() > 0.1
    for phi in (ia.Identity(), ia.standardize(ia.Identity())):  # beta then means what it means for RLOO
        assert IPO().told(phi).scale == pytest.approx(float(phi(1.0) - phi(0.0)))
    assert IPO().told(ia.standardize(ia.Exponential(10.0))).scale == pytest.approx(math.sqrt(12), rel=1e-6)


@pytest.mark.parametrize(("M", "n"), [(5, 2), (6, 4), (4, 4)])
def test_best_and_worst_weights_count_all_subsets(M, n):
    count = np.zeros((M, M))
    for subset in itertools.combinations(range(M), n):
        count[subset[0], subset[-1]] += 1
    found = bonbon.best_worst_weights(M, n)
    assert found == pytest.approx(count / count.sum())
    assert found.sum(0) == pytest.approx(ia.BestOfN(n).rank_weights(M))


def test_bonbon_contrast_is_the_mean_gap_of_best_of_n():
    u = (np.arange(4000) + 0.5) / 4000
    for n in (2, 4, 8):
        best, worst = ia.BestOfN(n).pdf(u), ia.WorstOfN(n).pdf(u)
        assert bonbon.contrast(n) == pytest.approx((n - 1) * ((best - worst) * np.log(u)).mean(), rel=2e-3)


def test_bonbon_joint_of_best_and_worst_by_enumeration():
    mass = np.array([0.2, 0.5, 0.3])
    count = np.zeros((3, 3))
    for draw in itertools.product(range(3), repeat=3):
        count[max(draw), min(draw)] += mass[list(draw)].prod()
    assert bonbon.best_and_worst(mass, 3) == pytest.approx(count, abs=1e-12)


def test_bonbon_leads_past_best_of_4_for_the_default_alpha():
    """What the documentation says: near best-of-4, not at it, and at a KL of its own."""
    problem = FiniteProblem(np.full(200, 1 / 200), np.arange(200.0))
    best = problem.decode(problem.reference, "best-of-4")
    found = bonbon.optimum(problem, 4, 0.005)
    assert problem.kl(best) == pytest.approx(math.log(4) - 3 / 4, abs=2e-3)
    assert problem.kl(found) == pytest.approx(0.854, abs=1e-3)
    assert found @ np.log(found / best) == pytest.approx(0.054, abs=1e-3)
    assert bonbon.optimum(problem, 4, 1.0) == pytest.approx(best, abs=1e-9)


def test_bonbon_needs_n_samples():
    with pytest.raises(ValueError, match="samples_per_prompt must be at least N = 4 with N of at least 2, got 3"):
        bonbon.best_worst_weights(3, 4)
    with pytest.raises(ValueError, match="N = 1"):
        bonbon.best_worst_weights(3, 1)


def test_partition_function_in_closed_form_and_of_an_estimated_quantile():
    for beta in (0.05, 0.3, 2.0):
        assert qrpo.log_partition(ia.Identity(), beta) == pytest.approx(
            math.log(beta) + 1 / beta + math.log(-math.expm1(-1 / beta))
        )
        assert qrpo.log_partition(ia.Log(), beta) == pytest.approx(-math.log(1 + 1 / beta))
    K, beta, phi = 6, 2.0, ia.Exponential(2.0)
    u = (np.arange(4000) + 0.5) / 4000
    draws = binom.pmf(np.arange(K + 1)[:, None], K, u).mean(1)  # how often k of K fall below a fresh sample
    levels = (np.arange(K + 1) / K).clip(1 / (2 * K))
    assert qrpo.log_partition(phi, beta, K) == pytest.approx(math.log(draws @ np.exp(phi(levels) / beta)), abs=1e-6)
    assert qrpo.log_partition(phi, beta, 20_000) == pytest.approx(qrpo.log_partition(phi, beta), abs=1e-3)
    told = QRPO().told(phi, 6)
    assert told.log_z(beta) == qrpo.log_partition(phi, beta, 6) != qrpo.log_partition(phi, beta)
    assert np.abs(expected(QRPO(log_z=lambda beta: LOG_Z + 0.1), OPTIMUM, M=1)).max() > 1e-3  # a wrong Z is seen


def test_kl_of_the_policy_from_samples_of_the_reference():
    """Weighted by how often the policy comes by, the next tokens' KLs sum to that of whole responses."""
    tables = [table(p)(TOKENS[:, :-1]).log_softmax(-1).detach() for p in (ELSEWHERE, REFERENCE)]
    weights = objectives.prefix_weights(*(token_logprobs(table(p)).detach() for p in (ELSEWHERE, REFERENCE)))
    found = objectives.exact_kl(*tables, torch.ones(S, LENGTH).bool(), weights).numpy()
    whole = ELSEWHERE @ np.log(ELSEWHERE / REFERENCE)
    assert REFERENCE @ found == pytest.approx(whole) and whole > 0.05
    assert REFERENCE @ objectives.exact_kl(*tables, torch.ones(S, LENGTH).bool()).numpy() != pytest.approx(
        whole, rel=1e-2
    )


def test_names():
    assert [algorithm(name).name for name in NAMES] == list(NAMES)
    assert algorithm("bonbon:8") == BoNBoN(n=8) and algorithm(own := PPO(epochs=5)) is own
    for bad in ("reinforce", "", "bonbon:", "bonbon:1", "rloo:2", "bonbon:four"):
        with pytest.raises(ValueError, match="algorithm must be rloo, ppo, grpo, dpo, ipo, bonbon, qrpo or bonbon:N"):
            parse(bad)
    with pytest.raises(ValueError, match="algorithm must be .*, got 'reinforce'"):
        ia.CTRLConfig(algorithm="reinforce")
    small = {name: ia.CTRLConfig(algorithm=name).resolved(1000, False, 2).learning_rate for name in NAMES}
    assert small["rloo"] == small["grpo"] == 1.5e-3 and small["dpo"] == small["qrpo"] == 7.5e-4 > small["bonbon"]
    assert ia.CTRLConfig(algorithm="dpo", learning_rate=1e-3).resolved(1000, False, 2).learning_rate == 1e-3
    assert "algorithm dpo" in ia.CTRLConfig(algorithm="dpo").describe()
    assert "algorithm" not in ia.CTRLConfig().describe() and ia.CTRLConfig().identity()["algorithm"] == "rloo"
