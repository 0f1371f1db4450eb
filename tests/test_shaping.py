"""Rewards without calibration: the shapes, the beta of a KL, and the win rate that tilting K samples reaches."""

import numpy as np
import pytest
from scipy.special import softmax

import infalign_edu as ia
from infalign_edu import theory
from infalign_edu.rl.shaping import SHAPES, Shaped, log_sigmoid, raw, z_score

RNG = np.random.default_rng(0)
TABLE = RNG.normal(size=(12, 200)) * np.linspace(0.5, 2, 12)[:, None] + np.arange(12)[:, None]
EVERY = np.arange(12)


def test_shapes_are_what_their_equations_say():
    r, reference = np.array([[1.0, 4.0]]), np.array([[0.0, 2.0, 4.0]])
    assert np.array_equal(raw(r, reference), r)
    assert z_score(r, reference)[0] == pytest.approx((r[0] - 2) / np.sqrt(8 / 3))
    centre = np.quantile(reference, 0.85)
    assert log_sigmoid(r, reference)[0] == pytest.approx(-np.log1p(np.exp(-(r[0] - centre))))
    assert np.isfinite(z_score(r, np.ones((1, 3)))).all()


@pytest.mark.parametrize("name", SHAPES)
def test_a_shape_has_unit_variance_under_the_reference_and_its_beta_gives_the_kl(name):
    phi = Shaped(name, TABLE)
    assert phi(TABLE, EVERY).std() == pytest.approx(1.0)
    assert phi(TABLE[[3, 1]], np.array([3, 1])) == pytest.approx(phi(TABLE, EVERY)[[3, 1]])
    for kl in (0.05, 0.4, 0.9):
        assert phi.kl(phi.beta_for_kl(kl)) == pytest.approx(kl, abs=1e-8)
    assert phi.beta_for_kl(0.2) > phi.beta_for_kl(0.8)


def test_the_kl_and_the_win_rate_are_those_of_the_tilted_samples():
    phi = Shaped("z-score", TABLE)
    beta = phi.beta_for_kl(0.5)
    tilted = softmax(phi(TABLE, EVERY) / beta, axis=1)
    assert phi.kl(beta) == pytest.approx((tilted * np.log(tilted * 200)).sum(1).mean())
    brute = np.mean([
        sum(p * ((r > row).mean() + 0.5 * (r == row).mean()) for p, r in zip(policy, row, strict=True))
        for policy, row in zip(tilted, TABLE, strict=True)
    ])  # fmt: skip
    assert phi.win_rate(0.5, "standard") == pytest.approx(brute)


def test_only_the_raw_reward_sees_how_prompts_differ():
    loud = TABLE * np.where(EVERY < 6, 1, 10)[:, None]
    same = [Shaped("z-score", table)(table, EVERY) for table in (TABLE, loud)]
    assert same[0] == pytest.approx(same[1])
    assert Shaped("raw", loud)(loud, EVERY)[:6].std() < 0.3 * Shaped("raw", TABLE)(TABLE, EVERY)[:6].std()


def test_no_shape_beats_the_calibrated_reward_in_standard_win_rate():
    normal = RNG.normal(size=(30, 400)) * RNG.uniform(0.3, 3, size=30)[:, None]
    identity = theory.tilt(ia.Identity(), theory.beta_for_kl(ia.Identity(), 0.4)).win_rate("standard")
    for name in SHAPES:
        assert Shaped(name, normal).win_rate(0.4, "standard") < identity + 0.004


def test_a_kl_that_k_samples_cannot_reach_is_named():
    with pytest.raises(ValueError, match="kl must lie between 0 and"):
        Shaped("raw", TABLE[:, :2]).beta_for_kl(0.8)
    with pytest.raises(ValueError, match="shape must be one of raw, z-score, log-sigmoid, got 'log'"):
        Shaped("log", TABLE)
