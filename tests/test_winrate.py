import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

import infalign_edu as ia

tied = st.integers(-2, 3).map(float)
PROCEDURES = ["standard", "best-of-2", "best-of-3", "worst-of-2", "worst-of-3", "2nd-best-of-3", "top-2-of-3",
              "0.3*best-of-3+0.7*worst-of-2"]  # fmt: skip


def shown_values(rewards, procedure):
    """Every reward the procedure may show, with its probability, by going through every subset of the samples."""
    p = ia.procedure(procedure)
    parts = zip(p.weights, p.procedures, strict=True) if isinstance(p, ia.Mixture) else [(1.0, p)]
    values = []
    for weight, part in parts:
        subsets = list(itertools.combinations(rewards, part.max_n))
        for subset in subsets:
            best_first = sorted(subset, reverse=True)
            for k, chance in enumerate(part.rank_probabilities):
                values.append((best_first[k], weight * chance / len(subsets)))
    return values


def brute_force(policy, reference, procedure, reference_procedure=None):
    ours, theirs = shown_values(policy, procedure), shown_values(reference, reference_procedure or procedure)
    return sum(p * q * ((a > b) + 0.5 * (a == b)) for a, p in ours for b, q in theirs)


@settings(max_examples=30)
@given(arrays(float, (2, 5), elements=tied), arrays(float, (2, 6), elements=tied), st.sampled_from(PROCEDURES))
def test_against_every_subset_with_ties(policy, reference, procedure):
    found = ia.win_rate(policy, reference, procedure).per_prompt
    expected = [brute_force(a, b, procedure) for a, b in zip(policy, reference, strict=True)]
    assert found == pytest.approx(expected, abs=1e-12)


def test_two_procedures_against_every_subset():
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 5, (1, 6)).astype(float), rng.integers(0, 5, (1, 7)).astype(float)
    found = ia.win_rate(a, b, "best-of-3", "worst-of-2").mean
    assert found == pytest.approx(brute_force(a[0], b[0], "best-of-3", "worst-of-2"), abs=1e-13)


@given(arrays(float, (3, 6), elements=tied), st.sampled_from(PROCEDURES))
def test_a_policy_against_itself_wins_half(rewards, procedure):
    assert ia.win_rate(rewards, rewards, procedure).per_prompt == pytest.approx(0.5, abs=1e-12)


@pytest.mark.parametrize("procedure", PROCEDURES)
def test_a_better_policy_wins_more_than_half_whatever_the_procedure(procedure):
    rng = np.random.default_rng(1)
    reference, policy = rng.normal(size=(40, 30)), rng.normal(0.7, 1, size=(40, 30))
    assert ia.win_rate(policy, reference, procedure).interval(0.999)[0] > 0.5
    assert ia.win_rate(reference, policy, procedure).interval(0.999)[1] < 0.5


@given(arrays(float, (1, 5), elements=tied), arrays(float, (1, 6), elements=tied), st.integers(1, 5))
def test_worst_of_n_is_best_of_n_with_both_sides_turned_over(a, b, n):
    worst, best = ia.win_rate(a, b, ia.WorstOfN(n)), ia.win_rate(-a, -b, ia.BestOfN(n))
    assert worst.mean == pytest.approx(1 - best.mean, abs=1e-12)


@pytest.mark.parametrize("name", ["best-of-4", "worst-of-4"])
def test_unbiased_where_the_plug_in_is_not(name):
    """Policy u^(1/2), so F = u^2, against the uniform reference: the mean over many small tables is the exact W."""
    p, rng = ia.procedure(name), np.random.default_rng(2)
    M = 5
    policy, reference = np.sqrt(rng.random((60_000, M))), rng.random((60_000, M))
    u = (np.arange(400_000) + 0.5) / 400_000
    exact = 1 - float((p.cdf(u**2) * p.pdf(u)).mean())
    estimate = ia.win_rate(policy, reference, p)
    assert abs(estimate.mean - exact) < 4 * estimate.stderr
    below = (policy[:, None, :] <= reference[:, :, None]).mean(-1)  # plug-in: G of the empirical CDF
    plug_in = 1 - (p.cdf(below) * p.rank_weights(M)[np.argsort(np.argsort(reference, 1), 1)]).sum(1)
    assert abs(plug_in.mean() - exact) > 10 * estimate.stderr


def test_half_ties_when_everything_ties():
    assert ia.win_rate(np.zeros((2, 8)), np.zeros((2, 8)), "best-of-4").per_prompt.tolist() == [0.5, 0.5]


def test_order_of_samples_and_monotone_scales_do_not_matter():
    rng = np.random.default_rng(3)
    a, b = rng.normal(size=(5, 9)), rng.normal(size=(5, 9))
    plain = ia.win_rate(a, b, "2nd-best-of-4").per_prompt
    assert np.array_equal(plain, ia.win_rate(rng.permuted(a, axis=1), b[:, ::-1], "2nd-best-of-4").per_prompt)
    assert np.array_equal(plain, ia.win_rate(np.exp(a), np.exp(b), "2nd-best-of-4").per_prompt)


def test_standard_error_and_interval():
    rng = np.random.default_rng(4)
    found = ia.win_rate(rng.normal(size=(50, 8)), rng.normal(size=(50, 8)), "best-of-2")
    assert found.stderr == pytest.approx(found.per_prompt.std(ddof=1) / np.sqrt(50))
    low, high = found.interval(0.95)
    assert (high - low) / 2 == pytest.approx(2.009575 * found.stderr, rel=1e-5)  # Student t, 49 degrees of freedom
    assert (low + high) / 2 == pytest.approx(found.mean)
    assert np.isnan(ia.win_rate([[1.0]], [[0.0]]).stderr) and np.isnan(ia.win_rate([[1.0]], [[0.0]]).interval()).all()


def test_paired_differences():
    rng = np.random.default_rng(5)
    base = rng.normal(size=(30, 8))
    a, b = ia.win_rate(rng.normal(0.5, 1, (30, 8)), base), ia.win_rate(rng.normal(size=(30, 8)), base)
    assert (a - b).mean == pytest.approx(a.mean - b.mean) and len((a - b).per_prompt) == 30
    with pytest.raises(ValueError, match="same prompts, got 30 and 1"):
        a - ia.win_rate([[1.0]], [[0.0]])


def test_intervals_cover():
    """Over 400 repetitions the 95 % interval over prompts holds the true 1/2 about 95 % of the time."""
    rng = np.random.default_rng(6)
    hits = 0
    for _ in range(400):
        low, high = ia.win_rate(rng.normal(size=(25, 6)), rng.normal(size=(25, 6)), "best-of-4").interval(0.95)
        hits += low <= 0.5 <= high
    assert 0.92 < hits / 400 < 0.98


def shown_chances(rewards, procedure):
    """How often each response is shown: every subset in every order of responses whose rewards are equal."""
    p = ia.procedure(procedure)
    parts = zip(p.weights, p.procedures, strict=True) if isinstance(p, ia.Mixture) else [(1.0, p)]
    chances, orders = np.zeros(len(rewards)), list(itertools.permutations(range(len(rewards))))
    for (weight, part), order in itertools.product(parts, orders):
        subsets = list(itertools.combinations(range(len(rewards)), part.max_n))
        for subset in subsets:
            best_first = sorted(subset, key=lambda i: (rewards[i], order[i]), reverse=True)
            for k, chance in enumerate(part.rank_probabilities):
                chances[best_first[k]] += weight * chance / len(subsets) / len(orders)
    return chances


@settings(max_examples=30)
@given(*[arrays(float, (1, 4), elements=tied)] * 4, st.sampled_from(PROCEDURES))
def test_picked_by_one_reward_and_judged_by_another_against_every_subset(r, g, s, h, procedure):
    w, v = shown_chances(r[0], procedure), shown_chances(s[0], procedure)
    won = (g[0][:, None] > h[0]) + 0.5 * (g[0][:, None] == h[0])
    assert ia.judged_win_rate(r, g, s, h, procedure).mean == pytest.approx(w @ won @ v, abs=1e-12)


@given(arrays(float, (3, 6), elements=tied), arrays(float, (3, 5), elements=tied), st.sampled_from(PROCEDURES))
def test_one_reward_in_both_roles_is_the_win_rate(a, b, procedure):
    expected = ia.win_rate(a, b, procedure).per_prompt
    assert ia.judged_win_rate(a, a, b, b, procedure).per_prompt == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ia.judged_win_rate([[1.0]], [[1.0, 2.0]], [[1.0]], [[1.0]]), r"policy_judged must have the shape of"),
        (lambda: ia.judged_win_rate([[1.0]], [[1.0]], [[1.0]] * 2, [[1.0]] * 2), "same prompts, got 1 and 2 rows"),
        (lambda: ia.win_rate([[1.0] * 3], [[1.0] * 4], "best-of-4"), "policy_rewards must hold at least 4 samples"),
        (lambda: ia.win_rate([[1.0] * 4], [[1.0] * 3], "worst-of-4"), "reference_rewards must hold at least 4 samples"),
        (lambda: ia.win_rate([[1.0]], [[1.0]], "best-of-poisson-2"), "must have a largest number of draws"),
        (lambda: ia.win_rate([[1.0], [2.0]], [[1.0]]), "same prompts, got 2 and 1 rows"),
        (lambda: ia.win_rate([[np.nan]], [[1.0]]), "policy_rewards must be finite"),
        (lambda: ia.win_rate([1.0], [[1.0]]), r"policy_rewards must be a \[prompts, samples\] table"),
        (lambda: ia.win_rate([[1.0]], [[1.0]], "nonsense"), "procedure must be"),
        (lambda: ia.win_rate([[1.0]], [[1.0]]).interval(1.0), "level must lie strictly between 0 and 1"),
    ],
)
def test_bad_input_is_one_clear_error(make, message):
    with pytest.raises(ValueError, match=message):
        make()
