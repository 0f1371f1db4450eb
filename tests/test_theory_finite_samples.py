"""Finite samples: Bernstein transforms, unbiased polynomials, bands, KL of best-of-n, N used against N trained."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import comb

from infalign_edu.calibration import unbiased_power
from infalign_edu.theory.continuous import beta_for_kl, tilt
from infalign_edu.theory.finite_samples import (
    bernstein,
    best_of_n_kl_bound,
    best_of_n_kl_estimate,
    calibration_cost,
    dkw_band,
    mismatch,
    unbiased_polynomial,
)
from infalign_edu.transforms import Exponential, Identity, Log

U = np.linspace(0, 1, 11)


@pytest.mark.parametrize("K", [1, 4, 16, 100, 1000])
def test_bernstein_of_an_exponential(K: int) -> None:
    exact = (1 - U + U * np.exp(10.0 / K)) ** K
    assert bernstein(Exponential(10.0), K)(U) == pytest.approx(exact, rel=1e-11)
    assert bernstein(Identity(), K)(U) == pytest.approx(U, abs=1e-12)


def test_bernstein_is_the_mean_over_fresh_draws_and_survives_log_zero() -> None:
    rng, K = np.random.default_rng(3), 6
    below = (rng.random((200_000, K)) < 0.3).mean(axis=1)
    phi = np.log(np.maximum(below, 1 / (2 * K)))
    assert abs(phi.mean() - float(bernstein(Log(), K)(0.3))) < 4 * phi.std() / np.sqrt(phi.size)
    assert float(bernstein(Log(), K)(0.0)) == pytest.approx(np.log(1 / 12))


@pytest.mark.parametrize(
    ("K", "kl", "points"),
    [(100, 0.370072, 0.035), (100, 0.890859, 0.078), (16, 0.370072, 0.34), (16, 0.890859, 0.56), (4, 0.370072, 2.2)],
)
def test_what_few_reference_draws_cost(K: int, kl: float, points: float) -> None:
    assert 100 * calibration_cost(Exponential(10.0), "best-of-4", K, kl) == pytest.approx(points, rel=0.03)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 12), st.integers(0, 12), st.floats(0, 1))
def test_powers_are_unbiased_whatever_u(K: int, m: int, u: float) -> None:
    k = np.arange(K + 1)
    if m > K:
        with pytest.raises(ValueError, match="m must be at most K"):
            unbiased_power(k, K, m)
        return
    chance = comb(K, k) * u**k * (1 - u) ** (K - k)
    assert chance @ unbiased_power(k, K, m) == pytest.approx(u**m, abs=1e-12)
    assert unbiased_power(k, K, m) == pytest.approx(comb(k, m) / comb(K, m), abs=1e-14)


def test_polynomials_and_ties() -> None:
    K, u, k = 9, 0.37, np.arange(10)
    chance = comb(K, k) * u**k * (1 - u) ** (K - k)
    coefficients = [0.5, -1.0, 0.0, 2.0]
    assert chance @ unbiased_polynomial(coefficients, k, K) == pytest.approx(np.polyval(coefficients[::-1], u))
    # two levels, half the mass each: for the upper one P(z < y) = 1/2 is estimated, while C = 3/4
    below = [sum(draw) for draw in itertools.product([0, 1], repeat=4)]
    assert np.mean(unbiased_power(below, 4, 2)) == pytest.approx(0.5**2)


def test_dkw_band_covers_and_is_not_lavish() -> None:
    rng, K = np.random.default_rng(0), 50
    draws = np.sort(rng.random((4000, K)), axis=1)
    rank = np.arange(K + 1) / K
    gap = np.maximum(rank[1:] - draws, draws - rank[:-1]).max(axis=1)
    missed = (gap > dkw_band(K, 0.1)).mean()
    assert 0.05 < missed < 0.1 + 4 * np.sqrt(0.09 / 4000)
    with pytest.raises(ValueError, match="delta must lie in"):
        dkw_band(10, 1.5)


@pytest.mark.parametrize("n", [2, 4, 16, 100])
def test_best_of_n_kl_bound_is_met_without_atoms(n: int) -> None:
    assert tilt(Log(), 1 / (n - 1)).kl == pytest.approx(best_of_n_kl_bound(n), abs=1e-12)


def test_best_of_n_kl_estimate_lies_between_the_truth_and_the_bound_on_average() -> None:
    rng = np.random.default_rng(1)
    for size, n, error in ((1000, 4, 1e-4), (50, 8, 1e-2), (2, 16, 0.05)):
        p = np.sort(rng.dirichlet(np.ones(size)))
        F = np.cumsum(p)
        shown = F**n - np.append(0, F[:-1]) ** n
        exact = float(np.sum(shown * np.log(shown / p)))
        estimate = float(shown @ best_of_n_kl_estimate(np.log(p), n))
        assert exact <= estimate + 1e-12 <= best_of_n_kl_bound(n) + 1e-9
        assert estimate - exact < error
    with pytest.raises(ValueError, match="log_probability must be at most 0"):
        best_of_n_kl_estimate([0.1], 4)


def test_mismatch_is_best_on_its_diagonal() -> None:
    names = ["standard", "best-of-4", "best-of-16", "worst-of-4"]
    table = mismatch(names, names, kl=0.5)
    assert (table <= np.diag(table) + 1e-12).all()
    assert table[0, 0] == pytest.approx(tilt(Identity(), beta_for_kl(Identity(), 0.5)).win_rate("standard"), abs=1e-9)
    assert table[1, 3] < table[0, 3]  # training for best-of-N hurts the user who sees the worst
