"""Ranks, calibration, win rates, transforms: all that needs NumPy only."""

from __future__ import annotations

import tempfile
from types import SimpleNamespace

import numpy as np

import infalign_edu as ia
from infalign_edu import order_statistics as order
from infalign_edu.calibration import finite_table, reward_kl
from infalign_edu.transforms import graded_quadrature

from . import close, fuzz, log_uniform, probabilities, rewards, rises, rule, transform, whole


@fuzz(fast=150)
def calibrated(rng: np.random.Generator, n: int) -> None:
    for _ in range(n):
        P, K, M = whole(rng, 1, 8), whole(rng, 1, 4096), whole(rng, 1, 64)
        if P * K * M > 200_000:
            P = M = 1
        both = rewards(rng, P, K + M)
        reference, asked = finite_table("rewards", both[:, :K]), both[:, K:]
        C = ia.EmpiricalCalibrator(reference)
        below, equal = C.counts(asked)
        assert (below == (reference[:, None] < asked[..., None]).sum(-1)).all()
        assert (equal == (reference[:, None] == asked[..., None]).sum(-1)).all()
        u = C(asked)
        probabilities(u)
        close(u, (below + 0.5 * equal) / K)
        close(ia.EmpiricalCalibrator(-reference)(-asked), 1 - u)  # best of all is worst of none
        rises(C(np.sort(asked, axis=1)), 0.0)
        probabilities(C.randomized(asked, rng))
        some = rng.integers(0, P, 3)
        close(C.take(some)(asked[some]), u[some])
        assert (C.prompts, C.K) == (P, K)


@fuzz(fast=4)
def kept_tables(rng: np.random.Generator, n: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(n):
            C = ia.EmpiricalCalibrator(rewards(rng, whole(rng, 1, 5), whole(rng, 1, 300)), {"key": "a"})
            C.save(f"{folder}/a.npz")
            assert (ia.EmpiricalCalibrator.load(f"{folder}/a.npz").reference_rewards == C.reference_rewards).all()


@fuzz(fast=150)
def unbiased_powers(rng: np.random.Generator, n: int) -> None:
    from scipy.stats import binom

    for _ in range(n):
        K = whole(rng, 1, 4096)
        m = min(K, whole(rng, 1, 48)) if rng.random() < 0.9 else 0
        k = np.unique(np.append(rng.integers(0, K + 1, 60), [0, K])) if K > 60 else np.arange(K + 1)
        power = ia.unbiased_power(k, K, m)
        probabilities(power)
        rises(power)
        assert power[-1] == 1 and (power[0] == 0 or m == 0)
        if K <= 60:
            u = rng.uniform()
            close(power @ binom.pmf(k, K, u), u**m)


@fuzz(fast=150)
def seen_kl(rng: np.random.Generator, n: int) -> None:
    for _ in range(n):
        bins, count = whole(rng, 1, 64), whole(rng, 64, 2000)
        u = rng.beta(log_uniform(rng, 0.1, 10), log_uniform(rng, 0.1, 10), count)
        kl, shift = reward_kl(u, bins), (bins - 1) / (2 * count)
        assert -shift - 1e-12 <= kl <= np.log(bins) - shift + 1e-12
    close(reward_kl((np.arange(1000) + 0.5) / 1000, 10), -9 / 2000)


@fuzz(fast=60)
def win_rates(rng: np.random.Generator, n: int) -> None:
    for _ in range(n):
        p = rule(rng, most=1024 if rng.random() < 0.05 else 48, finite=True)
        least = p.max_n
        P, M, K = whole(rng, 1, 4), least + whole(rng, 1, 40) - 1, least + whole(rng, 1, 40) - 1
        both = rewards(rng, P, M + K)
        a, b = both[:, :M], both[:, M:]
        W = ia.win_rate(a, b, p)
        probabilities(W.per_prompt)
        close(ia.win_rate(a, a, p).per_prompt, 0.5)
        close(W.per_prompt + ia.win_rate(b, a, p).per_prompt, 1)
        close(ia.win_rate(a, b, p, "standard").per_prompt, ia.win_rate(a, b, p, "best-of-1").per_prompt)
        close(ia.win_rate(a, b, "standard").per_prompt, (ia.EmpiricalCalibrator(b)(a)).mean(1))
        close(ia.judged_win_rate(a, a, b, b, p).per_prompt, W.per_prompt)
        N = least
        close(ia.win_rate(a, b, ia.BestOfN(N)).per_prompt, 1 - ia.win_rate(-a, -b, ia.WorstOfN(N)).per_prompt)
        judged = ia.judged_win_rate(a, rewards(rng, P, M), b, rewards(rng, P, K), p).per_prompt
        probabilities(judged)
        means(W)


def means(found: ia.PromptMean) -> None:
    """Of a mean over prompts: the interval is around it, a paired difference with itself is 0."""
    assert found.per_prompt.min() - 1e-12 <= found.mean <= found.per_prompt.max() + 1e-12
    assert (found - found).mean == 0
    if len(found.per_prompt) > 1:
        (low, high), (inner, outer) = found.interval(0.99), found.interval(0.5)
        assert found.stderr >= 0 and low <= inner <= found.mean + 1e-12 and found.mean - 1e-12 <= outer <= high
    else:
        assert np.isnan(found.stderr) and np.isnan(found.interval()).all()


@fuzz(fast=100)
def ranks(rng: np.random.Generator, n: int) -> None:
    for _ in range(n):
        p = rule(rng, most=1024 if rng.random() < 0.2 else 48, finite=True)
        N = p.max_n
        M = N + whole(rng, 1, 4096 - N) - 1 if N < 4096 else N
        w = order.rank_weights(p, M)
        assert w.shape == (M,) and np.isfinite(w).all() and w.min() >= 0
        close(w.sum(), 1, 1e-11)
        best, worst = ia.BestOfN(N).rank_weights(M), ia.WorstOfN(N).rank_weights(M)
        close(best, worst[::-1], 1e-12)
        rises(best, 1e-12)
        chances = rng.dirichlet(np.ones(min(N, 8)))
        close(order.subset_rank_weights(chances, M).sum(), 1, 1e-11)
        if isinstance(p, order.RankMixture):
            close(p.rank_probabilities.sum(), 1)
            assert p.draws(rng) == N and p.draws_probability(N) == 1.0 and p.draws_probability(N + 1) == 0.0


@fuzz(fast=200)
def chosen(rng: np.random.Generator, n: int) -> None:
    for i in range(n):
        p = rule(rng, most=64) if i else ia.BestOfPoisson(3.0)
        count = p.draws(rng)
        assert count >= 1 and p.draws_probability(count) > 0
        table = rewards(rng, 3, count)
        shown = p.select(table, rng)
        assert shown.shape == (3,) and (shown >= 0).all() and (shown < count).all()
        k = rng.integers(1, count + 1, 3)
        at = order.kth_best(order.last_axis(table, count, "a rule"), k, rng)
        assert (np.take_along_axis(table, at[:, None], 1)[:, 0] == [np.sort(row)[::-1][i - 1] for row, i in zip(table, k, strict=True)]).all()
        if isinstance(p, ia.BestOfN):
            assert (np.take_along_axis(table, shown[:, None], 1)[:, 0] == table.max(1)).all()


@fuzz(fast=100)
def laws(rng: np.random.Generator, n: int) -> None:
    u, weight = graded_quadrature(50, 24)
    for _ in range(n):
        p, t = rule(rng, most=1024 if rng.random() < 0.2 else 48), np.sort(np.concatenate([[0.0, 5e-324, 1e-12, 1 - 1e-12, 1.0], rng.uniform(size=8)]))
        G, g = p.cdf(order.unit(t)), p.pdf(t)
        probabilities(G)
        rises(G, 1e-14)
        assert G[0] == 0 and G[-1] > 1 - 1e-12 and np.isfinite(g).all() and g.min() >= 0
        if (p.max_n or 1) <= 64:
            close(weight @ p.pdf(u), 1, 1e-8)
            close((weight * u) @ p.pdf(u), 1 - weight @ p.cdf(u), 1e-8)  # E t = int (1 - G)
        N = whole(rng, 1, 1024)
        close(ia.BestOfN(N).cdf(t), 1 - ia.WorstOfN(N).cdf(1 - t), 1e-9)
        close(ia.KthBest(1, N).cdf(t), ia.BestOfN(N).cdf(t))
        close(ia.TopM(N, N).cdf(t), t)
        close(order.beta_pdf(t[1:-1], N, 1), ia.BestOfN(N).pdf(t[1:-1]), 1e-8)
        assert ia.procedure(str(p)) == p
        total = sum(p.draws_probability(i) for i in range(1, 40)) if (p.max_n or 99) < 40 else 1.0
        close(total, 1)


@fuzz(fast=60)
def ranks_from_a_density(rng: np.random.Generator, n: int) -> None:
    for _ in range(n):
        N = whole(rng, 1, 12)
        chances = rng.dirichlet(np.ones(N))

        def pdf(t: np.ndarray, N: int = N, chances: np.ndarray = chances) -> np.ndarray:
            return sum(c * order.beta_pdf(t, N - k, k + 1) for k, c in enumerate(chances))

        close(order.rank_probabilities_from_pdf(SimpleNamespace(max_n=N, pdf=pdf)), chances, 1e-6)


@fuzz(fast=300)
def shapes(rng: np.random.Generator, n: int) -> None:
    u, weight = graded_quadrature()
    t = np.concatenate([[0.0, 5e-324], np.sort(rng.uniform(size=20)), [1.0]])
    for _ in range(n):
        phi = transform(rng)
        values = phi(t)
        assert np.isfinite(values[1:]).all() and (np.isfinite(values[0]) or isinstance(phi, ia.Log))
        rises(values)
        if not isinstance(phi, ia.Tabulated) or np.ptp(phi.phi) > 0:
            scaled = ia.standardize(phi)
            close([weight @ scaled(u), weight @ scaled(u) ** 2], [0, 1], 1e-7)
        if not isinstance(phi, ia.Tabulated):
            assert str(ia.transform(str(phi))) == str(phi)
        steep = ia.Exponential(float(rng.choice([-1, 1])) * log_uniform(rng, 1e-3, 700))
        assert np.isfinite(ia.standardize(steep)(t)).all()
        low, high = whole(rng, 1, 60), whole(rng, 1, 20)
        close(graded_quadrature(low, high)[1].sum(), 1)


@fuzz(fast=300)
def single_numbers(rng: np.random.Generator, n: int) -> None:
    for _ in range(n):
        value = log_uniform(rng, 1e-300, 1e300)
        assert order.real("x", value, "any", lambda v: v > 0) == value
        assert order.count("n", whole(rng, 1, 10**9)) >= 1
