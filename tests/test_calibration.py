import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

import infalign_edu as ia
from infalign_edu import theory
from infalign_edu.calibration import MANY, reward_kl

tied = st.integers(-4, 4).map(float)
tables = arrays(float, array_shapes(min_dims=2, max_dims=2, max_side=9), elements=tied)


def brute_force(reference, rewards):
    below = (reference[:, None, :] < rewards[:, :, None]).mean(-1)
    return below + 0.5 * (reference[:, None, :] == rewards[:, :, None]).mean(-1)


@given(tables, st.sampled_from([5, MANY]), st.data())
def test_quantiles_against_every_pair(reference, many, data):
    rewards = data.draw(arrays(float, (len(reference), many), elements=tied))
    assert ia.EmpiricalCalibrator(reference)(rewards) == pytest.approx(brute_force(reference, rewards), abs=1e-15)


@given(tables)
def test_the_reference_calibrated_on_itself_has_mean_one_half(reference):
    assert ia.EmpiricalCalibrator(reference)(reference).mean(1) == pytest.approx(0.5, abs=1e-12)


@given(tables, st.data())
def test_any_increasing_change_of_scale_per_prompt_leaves_it_alone(reference, data):
    rewards = data.draw(arrays(float, (len(reference), 4), elements=tied))
    scale = np.exp(np.arange(len(reference)))[:, None]

    def stretch(table):
        return scale * table**3 - 7

    plain, stretched = ia.EmpiricalCalibrator(reference), ia.EmpiricalCalibrator(stretch(reference))
    assert np.array_equal(plain(rewards), stretched(stretch(rewards)))


def test_better_rewards_never_have_a_lower_quantile():
    rng = np.random.default_rng(0)
    u = ia.EmpiricalCalibrator(rng.normal(size=(7, 33)))(np.sort(rng.normal(size=(7, 50)), axis=1))
    assert (np.diff(u, axis=1) >= 0).all() and u.min() >= 0 and u.max() <= 1


def test_fresh_reference_samples_are_uniform_up_to_the_noise_of_k():
    rng = np.random.default_rng(1)
    K, M = 400, 400
    u = ia.EmpiricalCalibrator(rng.gumbel(size=(60, K)))(rng.gumbel(size=(60, M)))
    bound = math.sqrt(math.log(2 / 1e-6) / (2 * K)) + math.sqrt(math.log(2 / 1e-6) / (2 * M))  # DKW on both sides
    assert all(np.abs(np.sort(row) - (np.arange(M) + 0.5) / M).max() < bound for row in u)


@pytest.mark.parametrize("draw", [lambda rng, n: rng.normal(size=n), lambda rng, n: rng.integers(0, 3, n).astype(float)])
def test_randomized_quantiles_are_exactly_uniform_even_for_few_samples_and_ties(draw):
    rng = np.random.default_rng(9)
    u = ia.EmpiricalCalibrator(draw(rng, (20_000, 3))).randomized(draw(rng, (20_000, 1)), rng)
    share = np.histogram(u, bins=np.linspace(0, 1, 11))[0] / u.size
    assert share == pytest.approx(0.1, abs=4 * math.sqrt(0.09 / u.size))


def test_counts_with_ties_and_values_beyond_the_reference():
    below, equal = ia.EmpiricalCalibrator([[1.0, 2, 2, 4], [5, 5, 5, 5]]).counts([[0, 2, 3, 9], [4, 5, 6, 5]])
    assert below.tolist() == [[0, 1, 3, 4], [0, 0, 4, 0]] and equal.tolist() == [[0, 2, 0, 0], [0, 4, 0, 4]]


def test_take_keeps_the_rows_that_were_asked_for():
    rng = np.random.default_rng(2)
    reference, rewards = rng.normal(size=(6, 10)), rng.normal(size=(6, 3))
    chosen = [4, 0, 4]
    assert np.array_equal(ia.EmpiricalCalibrator(reference).take(chosen)(rewards[chosen]),
                          ia.EmpiricalCalibrator(reference)(rewards)[chosen])  # fmt: skip


def test_save_and_load_give_the_same_calibrator(tmp_path):
    C = ia.EmpiricalCalibrator(np.random.default_rng(3).normal(size=(4, 8)), {"reward": "gold", "K": 8})
    C.save(tmp_path / "deep" / "table.npz")
    again = ia.EmpiricalCalibrator.load(tmp_path / "deep" / "table.npz")
    assert np.array_equal(again.reference_rewards, C.reference_rewards) and again.metadata == C.metadata
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["table.npz"]


def test_a_failed_save_leaves_the_old_table_whole(tmp_path, monkeypatch):
    path = tmp_path / "table.npz"
    ia.EmpiricalCalibrator([[1.0, 2.0]]).save(path)
    before = path.read_bytes()

    def full(*args, **kwargs):
        raise OSError("No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(OSError, match="No space"):
        ia.EmpiricalCalibrator([[3.0, 4.0]]).save(path)
    assert path.read_bytes() == before and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ia.EmpiricalCalibrator([1.0, 2.0]), r"must be a \[prompts, samples\] table"),
        (lambda: ia.EmpiricalCalibrator([[]]), "at least one entry"),
        (lambda: ia.EmpiricalCalibrator([[1.0, np.nan]]), "finite, got nan for prompt 0, sample 1"),
        (lambda: ia.EmpiricalCalibrator([[1.0], [2.0]])([[1.0]]), r"one row a prompt \(2\), got 1 rows"),
        (lambda: ia.EmpiricalCalibrator([[1.0]])([[np.inf]]), "rewards must be finite, got inf"),
        (lambda: ia.EmpiricalCalibrator.load("/nowhere/table.npz"), "'/nowhere/table.npz' does not exist"),
        (lambda: ia.unbiased_power([1], K=4, m=5), "m must be at most K = 4, got 5"),
        (lambda: ia.unbiased_power([7], K=4, m=2), r"below must hold integers in \[0, 4\]"),
    ],
)
def test_bad_input_is_one_clear_error(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("content", [b"", b"not a zip", b"PK\x03\x04 cut short"])
def test_a_damaged_table_is_named(tmp_path, content):
    path = tmp_path / "table.npz"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="table.npz.* can't be read"):
        ia.EmpiricalCalibrator.load(path)


def test_a_pickled_table_is_refused(tmp_path):
    np.savez(tmp_path / "table.npz", reference_rewards=np.array([[{"a": 1}]], dtype=object), metadata="{}")
    with pytest.raises(ValueError, match="can't be read"):
        ia.EmpiricalCalibrator.load(tmp_path / "table.npz")


@pytest.mark.parametrize(("K", "m", "u"), [(4, 2, 0.3), (16, 7, 0.8), (5, 5, 0.6), (3, 0, 0.1)])
def test_unbiased_power_has_the_right_mean_over_the_binomial(K, m, u):
    k = np.arange(K + 1)
    chance = np.array([math.comb(K, j) * u**j * (1 - u) ** (K - j) for j in k])
    assert chance @ ia.unbiased_power(k, K, m) == pytest.approx(u**m, abs=1e-12)
    if m > 1:  # the plug-in estimate is not
        assert abs(chance @ (k / K) ** m - u**m) > 1e-3


@given(st.integers(1, 12), st.data())
def test_unbiased_power_is_a_ratio_of_binomials(K, data):
    m, k = data.draw(st.integers(0, K)), np.arange(K + 1)
    exact = [math.comb(int(j), m) / math.comb(K, m) for j in k]
    assert ia.unbiased_power(k, K, m) == pytest.approx(exact, abs=1e-13)


@pytest.mark.parametrize("spec", ["identity", "exp:10", "log"])
def test_the_reward_sees_all_of_the_kl_of_a_tilted_policy(spec):
    phi = ia.transform(spec)
    tilted = theory.tilt(phi, theory.beta_for_kl(phi, 0.6))
    u = np.interp(np.random.default_rng(0).random(200_000), tilted.cdf(np.linspace(0, 1, 5001)), np.linspace(0, 1, 5001))
    assert reward_kl(u, bins=200) == pytest.approx(0.6, abs=0.01)


def test_the_kl_that_a_reward_sees_is_not_lifted_by_chance():
    rng = np.random.default_rng(1)
    found = [reward_kl(rng.random(200), bins=20) for _ in range(400)]
    assert abs(np.mean(found)) < 4 * np.std(found) / 20  # without the correction 19 / 400, ten of these away
    assert reward_kl(np.full(1000, 0.5), bins=10) == pytest.approx(np.log(10) - 9 / 2000)


@pytest.mark.parametrize(
    ("values", "message"),
    [([0.5, 1.2] * 50, r"must lie in \[0, 1\], got values from 0.5 to 1.2"), ([0.5], "each of 50 bins, got 1"),
     ([np.nan] * 60, "must lie in")],
)  # fmt: skip
def test_rewards_that_were_not_calibrated_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        reward_kl(values)


def test_no_one_is_told_to_remove_a_folder(tmp_path):
    """The advice for a damaged table is to remove it; a folder that was named by mistake may hold anything."""
    (tmp_path / "table.npz").write_text("damaged")
    with pytest.raises(ValueError, match="can't be read: .*; remove it to have it made again$"):
        ia.EmpiricalCalibrator.load(tmp_path / "table.npz")
    with pytest.raises(ValueError, match="can't be read: .*Is a directory: '[^']*'$"):
        ia.EmpiricalCalibrator.load(tmp_path)
