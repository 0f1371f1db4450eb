"""Tilted policies: closed forms, both tails, layers thinner than a float, symmetry, Monte Carlo, small-KL law."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infalign_edu.procedures import procedure
from infalign_edu.theory.continuous import beta_for_kl, efficiency, frontier, tilt
from infalign_edu.transforms import Exponential, Identity, Log, Power, Tabulated, standardize


@pytest.mark.parametrize("t", [1e-3, 0.1, 1.0, 10.0, 1e3, 1e8, -2.0])
def test_identity_has_its_closed_form(t: float) -> None:
    policy = tilt(lambda u: np.sign(t) * u, 1 / abs(t))
    small = abs(t) < 0.01
    win_rate = 0.5 + t / 12 - t**3 / 720 if small else 1 / -np.expm1(-t) - 1 / t
    kl = np.log(abs(t)) - 1 if abs(t) > 100 else t * win_rate - np.log(np.expm1(t) / t)
    assert policy.win_rate("standard") == pytest.approx(win_rate, abs=1e-12)
    assert policy.kl == pytest.approx(t**2 / 24 - t**4 / 960 if small else kl, abs=3e-12)
    u = np.array([0.0, 1e-9, 0.3, 0.9, 1.0])
    if abs(t) < 100:
        assert policy.cdf(u) == pytest.approx(np.expm1(t * u) / np.expm1(t), rel=1e-12, abs=1e-300)


@pytest.mark.parametrize("beta", [0.01, 0.25, 1.0, 100.0])
def test_log_is_a_power_law_in_both_tails(beta: float) -> None:
    policy, a = tilt(Log(), beta), 1 + 1 / beta
    u = np.array([1e-12, 1e-3, 0.2, 0.5, 0.9])
    assert policy.density(u) == pytest.approx(a * u ** (a - 1), rel=1e-10, abs=0)
    assert policy.cdf(u) == pytest.approx(u**a, rel=1e-10, abs=0)
    near_one = 1 - 2.0 ** -np.arange(3.0, 45.0, 7)
    assert policy.survival(near_one) == pytest.approx(-np.expm1(a * np.log(near_one)), rel=1e-9, abs=0)
    assert policy.win_rate("standard") == pytest.approx(a / (a + 1), abs=1e-12)
    assert policy.kl == pytest.approx(np.log(a) - 1 + 1 / a, abs=1e-12)
    assert policy.win_rate("best-of-3", "standard") == pytest.approx(3 * a / (3 * a + 1), abs=1e-12)


@pytest.mark.parametrize(
    ("transform", "beta", "kl", "win_rate"),
    [  # forty and more digits with mpmath
        (Exponential(10.0), 0.1, 13.6051611059093853, 0.999999545996580002),
        (Exponential(20.0), 0.1, 24.298317366135806, 0.999999999989694232),
        (Exponential(300.0), 0.01, 309.308952660644292, 1.0),
        (Power(127), 0.01, 8.42905142096727392, 0.999919640285150092),
        (Exponential(10.0), 5000.0, 1.1504756709655732, 0.822463729709091617),
        (Exponential(-10.0), 0.001, 0.989310502568799089, 0.84608853522403226),
    ],
)
def test_steep_transforms_against_many_digits(transform, beta: float, kl: float, win_rate: float) -> None:
    policy = tilt(transform, beta)
    assert policy.kl == pytest.approx(kl, abs=1e-10)
    assert policy.win_rate("standard") == pytest.approx(win_rate, abs=1e-11)


def test_steps_kinks_and_atoms_at_minus_infinity() -> None:
    q = 0.7 * np.exp(1 / 0.1) / (0.7 * np.exp(1 / 0.1) + 0.3)
    step = tilt(lambda u: (u > 0.3) * 1.0, 0.1)
    assert step.kl == pytest.approx(q * np.log(q / 0.7) + (1 - q) * np.log((1 - q) / 0.3), abs=1e-11)
    assert step.win_rate("standard") == pytest.approx(q * 0.65 + (1 - q) * 0.15, abs=1e-11)
    cut = tilt(lambda u: np.where(u < 0.5, -np.inf, 0.0), 1.0)
    assert cut.kl == pytest.approx(np.log(2), abs=1e-12)
    assert cut.cdf([0.25, 0.75]) == pytest.approx([0.0, 0.5], abs=1e-12)
    knots = np.linspace(0, 1, 7)
    table = Tabulated(knots, knots**2)
    assert tilt(table, 0.2).kl == pytest.approx(tilt(lambda u: np.interp(u, knots, knots**2), 0.2).kl, abs=1e-11)
    peak = tilt(lambda u: -((u - 0.3) ** 2), 1e-8)
    assert peak.kl == pytest.approx(-0.5 * np.log(2 * np.pi * np.e * 0.5e-8), abs=1e-9)
    constant = tilt(lambda u: 3.0, 0.1)
    assert constant.kl == pytest.approx(0, abs=1e-15)


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.floats(-8, 8), st.floats(0.02, 50))
def test_best_and_worst_mirror_each_other(n: int, m: int, t: float, beta: float) -> None:
    ours = tilt(lambda u: np.sin(t * u), beta).win_rate(f"best-of-{n}", f"best-of-{m}")
    mirrored = tilt(lambda u: np.sin(t * (1 - u)), beta).win_rate(f"worst-of-{n}", f"worst-of-{m}")
    assert ours + mirrored == pytest.approx(1, abs=1e-11)


@pytest.mark.parametrize("name", ["best-of-5", "worst-of-5", "3rd-best-of-7", "top-2-of-8", "best-of-poisson-4.0"])
def test_win_rate_is_the_other_integral_too(name: str) -> None:
    shown, policy = procedure(name), tilt(Exponential(3.0), 2.0)
    x, w = np.polynomial.legendre.leggauss(200)
    u = 0.5 * (x + 1)
    below = 0.5 * w @ (shown.cdf(policy.cdf(u)) * shown.pdf(u))
    assert policy.win_rate(name) == pytest.approx(1 - below, abs=1e-11)
    assert tilt(lambda u: 0 * u, 1.0).win_rate(name) == pytest.approx(0.5, abs=1e-12)


def test_win_rate_by_monte_carlo() -> None:
    rng, policy = np.random.default_rng(7), tilt(Identity(), 0.4)
    t = 1 / 0.4
    shown = np.log1p(rng.random((100_000, 4)) * np.expm1(t)) / t  # inverse CDF of the tilted policy
    reference = rng.random((100_000, 3))
    for name, rank, against in (("best-of-4", np.max, "worst-of-3"), ("worst-of-4", np.min, "best-of-3")):
        other = np.min if against.startswith("worst") else np.max
        won = rank(shown, axis=1) > other(reference, axis=1)
        assert abs(won.mean() - policy.win_rate(name, against)) < 4 * won.std() / np.sqrt(won.size)


@pytest.mark.parametrize("kl", [1e-8, 0.37, 3.0, 20.0])
@pytest.mark.parametrize("transform", [Identity(), Log(), Exponential(10.0), standardize(Exponential(-10.0))])
def test_beta_for_kl_inverts_kl(transform, kl: float) -> None:
    assert tilt(transform, beta_for_kl(transform, kl)).kl == pytest.approx(kl, rel=1e-9)


@pytest.mark.filterwarnings("error")
def test_beta_of_the_steepest_transform_is_found_without_a_warning() -> None:
    assert tilt(Exponential(700.0), beta_for_kl(Exponential(700.0), 0.5)).kl == pytest.approx(0.5, abs=1e-11)


def test_frontier_holds_what_tilt_says_and_kl_falls_with_beta() -> None:
    found = frontier(Identity(), "best-of-4", [0.1, 0.3, 1.0])
    policy = tilt(Identity(), 0.3)
    assert (found.kl[1], found.win_rate[1]) == (policy.kl, policy.win_rate("best-of-4"))
    assert (np.diff(found.kl) < 0).all() and found.beta.tolist() == [0.1, 0.3, 1.0]


@pytest.mark.parametrize("n", [1, 2, 4, 8, 16, 32])
def test_efficiency_of_the_identity(n: int) -> None:
    assert efficiency(Identity(), f"best-of-{n}") == pytest.approx(np.sqrt(3 * (4 * n - 1)) / (2 * n + 1), abs=1e-12)
    assert efficiency(Power(2 * n - 1), f"best-of-{n}") == pytest.approx(1, abs=1e-12)
    assert efficiency(Exponential(2.0), f"best-of-{n}") == pytest.approx(
        efficiency(Exponential(-2.0), f"worst-of-{n}"), abs=1e-12
    )


@pytest.mark.parametrize("transform", [Identity(), Log(), Exponential(8.0), Exponential(-5.0)])
@pytest.mark.parametrize("name", ["best-of-4", "worst-of-8", "2nd-best-of-6"])
def test_small_kl_law(transform, name: str) -> None:
    shown = procedure(name)
    u = (np.arange(200_000) + 0.5) / 200_000
    law = np.cumsum(shown.pdf(u) ** 2) / 200_000
    kl = 1e-7
    gain = tilt(transform, beta_for_kl(transform, kl)).win_rate(name) - 0.5
    assert gain / np.sqrt(2 * kl * law.var()) == pytest.approx(efficiency(transform, name), abs=3e-3)


def test_clear_errors() -> None:
    with pytest.raises(ValueError, match="beta must be a positive number, got -0.1"):
        tilt(Identity(), -0.1)
    with pytest.raises(ValueError, match="must have a finite integral"):
        tilt(lambda u: -np.log(u), 0.5)
    with pytest.raises(ValueError, match="must be a number below infinity"):
        tilt(lambda u: np.full_like(u, np.nan), 0.5)
    with pytest.raises(ValueError, match=r"kl must be one that some beta reaches \(below 0.693147 here\)"):
        beta_for_kl(lambda u: (u > 0.5) * 1.0, 1.0)
    with pytest.raises(ValueError, match="must not be constant"):
        efficiency(lambda u: 0 * u, "best-of-4")
