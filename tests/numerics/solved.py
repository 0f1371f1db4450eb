"""Theory: tilted policies, optima with their certificates, enumerable problems, finite samples."""

from __future__ import annotations

import numpy as np
import torch

import infalign_edu as ia
from infalign_edu import theory
from infalign_edu.theory import finite as exact
from infalign_edu.theory import lesson, optimal
from infalign_edu.theory.continuous import tilt
from infalign_edu.theory.solver.levels import Levels

from . import close, fuzz, log_uniform, probabilities, rewards, rises, rule, transform, whole

T = np.concatenate([[0.0, 1e-300, 1e-12], np.linspace(0.01, 0.99, 12), [1 - 1e-12, 1.0]])


@fuzz(fast=60)
def tilted(rng: np.random.Generator, n: int) -> None:
    for i in range(n):
        phi, beta = transform(rng), log_uniform(rng, 1e-3, 1e3)
        policy, flatter = tilt(phi, beta), tilt(phi, 2 * beta)
        assert np.isfinite(policy.kl) and policy.kl >= 0 and policy.kl >= flatter.kl * (1 - 1e-9)
        F = policy.cdf(T)
        probabilities(F)
        rises(F, 1e-13)
        close(F + policy.survival(T), 1)
        assert (F[0], F[-1]) == (0, 1) and (policy.density(T) >= 0).all() and 0 <= sum(policy.end_mass) <= 1
        rises(policy.log_density(T[1:-1]), 1e-9)  # an increasing transform
        if isinstance(phi, ia.Log):
            a = 1 / beta
            close(policy.kl, np.log1p(a) - a / (1 + a), 1e-7)
        if isinstance(phi, ia.Identity):
            close(policy.kl, tilted_kl(1 / beta), 1e-9)
        if i % 8 == 0:
            p = rule(rng, finite=True)
            W = policy.win_rate(p)
            probabilities(W)
            assert W >= 0.5 - 1e-9  # best ranks are more likely, whatever the procedure
            top = max(1.0, float(phi(np.array(1.0))))  # exp(t) may be larger than any beta
            close(tilt(phi, 1e9 * top).win_rate(p), 0.5, 1e-4)


def tilted_kl(a: float) -> float:
    """KL of exp(a u) / Z on [0, 1], in a form that keeps its digits."""
    if a < 1e-2:
        return a**2 / 24 - a**4 / 960 + a**6 / 36288
    return a / -np.expm1(-a) - 1 - (a + np.log(-np.expm1(-a) / a))


@fuzz(fast=10)
def temperatures(rng: np.random.Generator, n: int) -> None:
    for _ in range(n):
        phi, kl = transform(rng), log_uniform(rng, 1e-5, 5)
        try:
            beta = theory.beta_for_kl(phi, kl)
        except ValueError as error:  # a table may be flat at its top: then there is a most
            assert isinstance(phi, ia.Tabulated) and "kl must be one that some beta reaches" in str(error)
            continue
        close(tilt(phi, beta).kl, kl, 1e-7)
        curve = theory.frontier(phi, "best-of-4", [beta, beta / 2, beta / 4])
        rises(curve.kl)
        probabilities(curve.win_rate)


@fuzz(fast=300)
def roots(rng: np.random.Generator, n: int) -> None:
    for _ in range(n):
        scale, power = log_uniform(rng, 1e-9, 1e9), log_uniform(rng, 0.1, 3)
        kl = log_uniform(rng, 1e-6, 1e3)
        beta = theory.solve_for_kl(lambda b, s=scale, p=power: s * b**-p, kl, log_uniform(rng, 1e-6, 1e6))
        close(scale * beta**-power / kl, 1, 1e-9)


@fuzz(fast=20)
def efficiencies(rng: np.random.Generator, n: int) -> None:
    for _ in range(n):
        phi, p = transform(rng), rule(rng, most=256)
        if isinstance(phi, (ia.Log, ia.Tabulated)):
            phi = ia.Identity()
        assert 0 <= theory.efficiency(phi, p) <= 1 + 1e-9  # both rise
    for N in (1, 2, 8, 64):
        close(theory.efficiency(ia.Power(2 * N - 1), ia.BestOfN(N)), 1, 1e-9)


@fuzz(fast=400)
def curves(rng: np.random.Generator, n: int) -> None:
    """The optimum of best against best, and worst against worst, at 20 betas each."""
    for _ in range(max(1, n // 20)):
        N, M, kind = whole(rng, 1, 1024), whole(rng, 1, 1024), rng.choice([ia.BestOfN, ia.WorstOfN])
        beta = np.sort([log_uniform(rng, 1e-3, 1e3) for _ in range(20)])
        found = theory.optimal_frontier(kind(N), beta, kind(M))
        probabilities(found.win_rate)
        assert np.isfinite(found.kl).all() and (found.kl >= 0).all()
        rises(-found.kl, 1e-12)
        rises(-found.win_rate, 1e-12)
        same = theory.optimal_frontier(kind(N), beta)
        assert (same.win_rate >= 0.5 - 1e-12).all()
        gain = same.win_rate - beta * same.kl
        close(np.maximum(gain, 0.5), gain, 1e-12)  # never below the reference
        if N == 1:
            close(same.kl, [tilted_kl(1 / b) for b in beta], 1e-9)


@fuzz(fast=12)
def optima(rng: np.random.Generator, n: int) -> None:
    """Certified, better than the reference and than four transforms at the same beta."""
    uncertified = 0
    for _ in range(n):
        p, beta = rule(rng, most=32), log_uniform(rng, 2e-2, 1e3)
        theirs = rule(rng, most=32) if rng.random() < 0.3 else p
        try:
            best = theory.optimum(p, beta, theirs)
        except RuntimeError as error:
            assert "has no certificate" in str(error)
            uncertified += 1
            continue
        assert best.residual <= optimal.TOLERANCE and abs(best.balance_gap) < 1e-6 * max(1, beta) and best.kl >= 0
        assert best.certified == ("global" if theory.unique(p, beta, theirs) else "stationary")
        probabilities([best.win_rate, best.policy.win_rate(p, theirs)])
        close(best.objective, best.win_rate - beta * best.kl)
        values = best.transform(T)
        assert np.isfinite(values).all() and abs(values[0]) < 1e-9
        rises(values, 1e-9)
        u = (np.arange(2000) + 0.5) / 2000
        assert best.objective >= float((p.pdf(u) * theirs.cdf(u)).mean()) - 1e-4  # the reference itself
        for phi in (ia.Identity(), ia.Exponential(5.0)):
            rival = tilt(phi, beta * rng.uniform(0.5, 2))
            assert best.objective >= rival.win_rate(p, theirs) - beta * rival.kl - 1e-7 or len(best.stationary) > 1
    assert uncertified <= 1 + n // 50, uncertified


@fuzz(fast=10)
def optimal_temperatures(rng: np.random.Generator, n: int) -> None:
    for _ in range(n):
        p, kl = rng.choice([ia.BestOfN, ia.WorstOfN])(whole(rng, 1, 256)), log_uniform(rng, 1e-5, 4)
        try:
            beta = theory.optimal_beta_for_kl(p, kl)
        except ValueError as error:  # worst-of-N's KL grows like -log(beta) / N: 3 nats at 1e-280, N = 212
            assert isinstance(p, ia.WorstOfN) and kl > 2 and "kl must be one that some beta reaches" in str(error)
            continue
        close(theory.optimal_frontier(p, [beta]).kl[0] / kl, 1, 1e-6)


def problem(rng: np.random.Generator, most: int = 12) -> theory.FiniteProblem:
    S = whole(rng, 1, most)
    reference = rng.dirichlet(np.full(S, log_uniform(rng, 0.2, 5)))
    if S > 2 and rng.random() < 0.3:
        reference[rng.integers(S)] = 0
    return theory.FiniteProblem(reference / reference.sum(), rewards(rng, S))


@fuzz(fast=150)
def enumerated(rng: np.random.Generator, n: int) -> None:
    for _ in range(n):
        toy, p, q = problem(rng), rule(rng), rule(rng)
        S, beta = len(toy.reward), log_uniform(rng, 1e-3, 1e3)
        policy = exact.numbers("policy", rng.dirichlet(np.ones(S)), (S,), probabilities=True)
        policy = np.where(toy.reference > 0, policy, 0)
        policy /= policy.sum()
        shown = toy.decode(policy, p)
        assert shown.min() >= 0
        close(shown.sum(), 1)
        probabilities(toy.calibrated)
        close(toy.calibrated @ toy.reference, 0.5)
        close(toy.win_rate(toy.reference, p), 0.5)
        W = toy.win_rate(policy, p, q)
        assert -1e-12 <= W <= 1 + 1e-12 and toy.kl(policy) >= 0 and toy.kl(toy.reference) < 1e-12
        close(shown @ theory.FiniteProblem(toy.decode(toy.reference, q), toy.reward).calibrated, W, 1e-8)
        R = toy.gradient(policy, p)
        assert np.isfinite(R).all() and abs(policy @ R) < 1e-9
        close(toy.decode(policy, "standard"), toy.decode(policy, "best-of-1"))
        found = toy.rlhf(toy.calibrated, beta, p)
        assert found.residual < 1e-9 and found.kl >= 0 and np.isfinite(found.objective)
        assert found.objective >= policy @ toy.calibrated - beta * toy.kl(policy) - 1e-9


@fuzz(fast=10)
def stationary(rng: np.random.Generator, n: int) -> None:
    """InfAlign on enumerable responses: certified, no random policy does better, and those that Newton's method finds from
    random starts are among the stationary ones."""
    for _ in range(n):
        toy, p, beta = problem(rng), rule(rng, most=1024), log_uniform(rng, 1e-3, 1e3)
        best = toy.infalign(p, beta)
        assert best.residual <= exact.TOLERANCE and best.kl >= 0
        close(best.policy.sum(), 1)
        assert best.objective >= 0.5 - 1e-9
        for _ in range(5):
            other = np.where(toy.reference > 0, toy.reference * np.exp(rng.normal(size=len(toy.reward)) * 3), 0)
            other /= other.sum()
            assert best.objective >= toy.win_rate(other, p) - beta * toy.kl(other) - 1e-9 or best.certified == "stationary"
        on = toy._mass > 0
        game = Levels(p, beta, toy._mass[on], toy._scores(p)[on])
        for _ in range(3 if on.sum() > 1 else 0):
            F = np.sort(rng.beta(*np.exp(rng.uniform(-2, 2, 2)), on.sum() - 1))
            tilt, residual = game.polish(np.log(np.diff(F, prepend=0, append=1).clip(1e-300) / game.mass))
            if residual < 1e-9:
                policy = (toy.reference * np.exp(np.append(tilt, 0))[np.cumsum(on)[toy._level] - 1])
                assert min(np.abs(policy - s.policy).max() for s in best.stationary) < 1e-6, (p, beta)


@fuzz(fast=150)
def samples(rng: np.random.Generator, n: int) -> None:
    u = np.sort(rng.uniform(size=9))
    for _ in range(n):
        K, phi = whole(rng, 1, 4096), transform(rng)
        if K <= 256:
            blurred = theory.bernstein(phi, K)(u)
            rises(blurred, 1e-9 * max(1, np.abs(blurred).max()))
            inside = phi(np.array([0.5 / K, 1.0])) if isinstance(phi, ia.Log) else phi(np.array([0.0, 1.0]))
            assert (blurred >= inside[0] - 1e-9 * abs(inside[0]) - 1e-12).all() and (blurred <= inside[1] + 1e-9 * abs(inside[1]) + 1e-12).all()
            close(theory.bernstein(ia.Identity(), K)(u), u)
        c = rng.normal(size=min(K, whole(rng, 1, 6)) + 1)
        close(theory.unbiased_polynomial(c, [0, K], K), [c[0], c.sum()])
        band = theory.dkw_band(K, float(rng.uniform(1e-6, 1 - 1e-6)))
        assert 0 < band < 3 and theory.dkw_band(K + 1, 0.05) < theory.dkw_band(K, 0.05)
        N = whole(rng, 1, 1024)
        bound = theory.best_of_n_kl_bound(N)
        assert bound >= 0 and theory.best_of_n_kl_bound(N + 1) > bound
        estimate = theory.best_of_n_kl_estimate(-np.array([0.0, 5e-324, 1e-12, log_uniform(rng, 1e-9, 1e3), 1e300]), N)
        assert np.isfinite(estimate).all() and (estimate >= -1e-9).all() and (estimate <= bound * (1 + 1e-9) + 1e-9).all()


@fuzz(fast=1)
def costs(rng: np.random.Generator, n: int) -> None:
    for _ in range(n):
        phi, p = ia.Exponential(log_uniform(rng, 1, 20)), ia.BestOfN(whole(rng, 1, 16))
        assert abs(theory.calibration_cost(phi, p, whole(rng, 2, 256), log_uniform(rng, 1e-2, 0.5))) < 0.5
    table = theory.mismatch(["standard", "best-of-8", "worst-of-4"], ["standard", "best-of-8", "worst-of-4"], log_uniform(rng, 0.05, 1.5))
    assert (np.diag(table) >= table.max(0) - 1e-9).all()


@fuzz(fast=20)
def lessons(rng: np.random.Generator, n: int) -> None:
    for _ in range(n):
        p, beta, steps = rule(rng, most=64), log_uniform(rng, 1e-2, 1e3), whole(rng, 1, 4)
        levels = whole(rng, 2, 20) if rng.random() < 0.5 else None
        seen = lesson.fixed_point(p, beta, steps, float(rng.uniform()), levels=levels)
        assert len(seen.objective) == steps + 1 == len(seen.after(0).kl) and np.isfinite(seen.residual).all()
        assert (seen.kl >= -1e-9).all() and (seen.win_rate > -1e-9).all() and (seen.win_rate < 1 + 1e-9).all()
        rises(seen.cdf[-1])
    close(theory.naive_fixed_point("standard", 0.5, 2).residual[-1], 0, 1e-9)


@fuzz(fast=15)
def sequences(rng: np.random.Generator, n: int) -> None:
    """Decoders that look inside: distributions, best-of-b at full blocks, 1/2 for the reference, R of mean 0."""
    for _ in range(n):
        V, length, b = int(rng.integers(2, 4)), int(rng.integers(1, 4)), int(rng.integers(1, 6))
        reward = rng.integers(0, 4, V**length).astype(float) if rng.random() < 0.5 else rng.normal(size=V**length)
        reference = rng.dirichlet(np.ones(V**length)).clip(1e-9)
        toy = theory.SequenceProblem((reference / reference.sum()).reshape((V,) * length), reward.reshape((V,) * length))
        pi = torch.tensor(rng.dirichlet(np.ones(V**length)).reshape(toy.shape))
        decoders = [toy.blockwise(int(rng.integers(1, length + 1)), b), toy.tree_search(b), toy.tree_search(b, 1),
                    toy.soft_best_of(b, log_uniform(rng, 0.1, 10)), toy.rejection(float(rng.normal()), b)]  # fmt: skip
        for decode in decoders:
            shown = decode(pi).numpy()
            assert shown.min() >= -1e-12
            close(shown.sum(), 1)
        close(toy.blockwise(length, b)(pi).numpy().ravel(), toy.flat.decode(pi.numpy().ravel(), ia.BestOfN(b)), 1e-9)
        decode = decoders[rng.integers(5)]
        close(toy.win_rate(toy.reference, decode), 0.5)
        close(toy.objective(pi, decode, 0.1), toy.win_rate(pi, decode) - 0.1 * toy.flat.kl(pi.numpy().ravel()))
        R = toy.gradient(pi, decode)
        assert np.isfinite(R).all() and abs((R * pi.numpy()).sum()) < 1e-9
        assert np.isfinite(toy.value(length)).all() and toy.value(0).shape == (1,)


@fuzz(fast=1)
def sequence_optima(rng: np.random.Generator, n: int) -> None:
    for _ in range(n):
        reference = rng.dirichlet(np.ones(4)).clip(1e-3)
        toy = theory.SequenceProblem((reference / reference.sum()).reshape(2, 2), rng.normal(size=(2, 2)))
        best = toy.optimum(toy.soft_best_of(2, 1.0), log_uniform(rng, 0.2, 10))
        assert best.residual <= exact.TOLERANCE and best.objective >= 0.5 - 1e-9 and best.kl >= 0
