"""The head finds a preference that is there, does not find one that is not, and says which of the two it is."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize
from tiny_policy import tiny

from infalign_edu.lm.datasets import Preference
from infalign_edu.lm.rewards import bradley_terry as bt
from infalign_edu.lm.rewards.bradley_terry import BradleyTerry, wilson

torch.set_num_threads(1)
RNG = np.random.default_rng(0)


def sentence(n: int) -> str:
    return " ".join(f"w{i}" for i in RNG.integers(0, 6, n))


def pairs(count: int, informative: bool) -> list[Preference]:
    """Pairs in which the response with more w1 is preferred, or any."""
    out = []
    while len(out) < count:
        prompt, a, b = sentence(3), sentence(6), sentence(6)
        if a.count("w1") != b.count("w1"):
            better = a.count("w1") > b.count("w1") if informative else RNG.random() < 0.5
            out.append(Preference(prompt, *((a, b) if better else (b, a))))
    return out


@pytest.fixture(scope="module")
def fitted() -> tuple[BradleyTerry, list[Preference]]:
    data = pairs(400, True)
    return BradleyTerry.fit(data, tiny().copy()), data


def test_a_clear_preference_is_found_and_generalises(fitted):
    head, _ = fitted
    report = head.report()
    assert report["accuracy"] > 0.9
    assert report["distinguishable_from_chance"] is True
    assert report["training_pairs"] + report["held_out_pairs"] == 400
    assert report["interval"] == list(wilson(report["accuracy"] * report["held_out_pairs"], report["held_out_pairs"]))
    fresh = pairs(100, True)
    prompts = [p.prompt for p in fresh]
    margins = head(prompts, [p.chosen for p in fresh]) - head(prompts, [p.rejected for p in fresh])
    assert margins.shape == (100,)
    assert (margins > 0).mean() > 0.85


def test_coin_flips_are_called_chance():
    report = BradleyTerry.fit(pairs(400, False), tiny().copy()).report()
    low, high = report["interval"]
    assert low < 0.5 < high
    assert report["distinguishable_from_chance"] is False
    assert report["log_loss_cross_validated"] > np.log(2) - 0.01


def test_the_reward_does_not_move_with_the_policy_it_trains(fitted):
    _, data = fitted
    policy = tiny()
    head = BradleyTerry.fit(data[:100], policy)
    before = head(["w1"], ["w2 w3"])
    with torch.no_grad():
        policy.model.transformer.wte.weight += 1.0
    assert head(["w1"], ["w2 w3"]) == before


def test_saved_and_loaded_heads_agree(fitted, tmp_path):
    head, _ = fitted
    path = tmp_path / "head.npz"
    head.save(path)
    again = BradleyTerry.load(path, tiny().copy())
    np.testing.assert_allclose(again(["w1"], ["w2 w3"]), head(["w1"], ["w2 w3"]), atol=1e-6)
    assert again.report() == head.report()
    with pytest.raises(ValueError, match="must be used with the model it was fitted on, got tiny"):
        BradleyTerry.load(path, tiny(seed=1))
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ValueError, match="must be a file that BradleyTerry.save wrote"):
        BradleyTerry.load(path, tiny())
    np.savez(path, weights=np.array([object()], dtype=object))  # an array that only a pickle can hold
    with pytest.raises(ValueError, match="must be a file that BradleyTerry.save wrote"):
        BradleyTerry.load(path, tiny())


def test_length_is_one_more_feature(fitted):
    _, data = fitted
    head = BradleyTerry.fit(data[:100], tiny().copy(), length=True)
    assert head.weights.shape == (33,)
    assert head(["w1"], ["w2 w3"]).shape == (1,)


def test_the_fit_is_the_minimum(fitted):
    for rows, columns, l2 in ((300, 20, 1e-3), (40, 80, 1e-2), (40, 80, 10.0)):
        gaps = RNG.normal(size=(rows, columns)) + 0.2

        def objective(w, gaps=gaps, l2=l2):
            loss, slope = bt._loss(w, gaps)
            return loss + l2 / 2 * w @ w, slope + l2 * w

        start = np.zeros(columns)
        found = minimize(objective, start, jac=True, method="BFGS", options={"gtol": 1e-9})
        np.testing.assert_allclose(bt._fit(gaps, l2), found.x, atol=1e-5)


def test_the_loss_is_minus_the_log_likelihood():
    gaps, w = np.array([[1.0, 2.0], [0.0, -1.0]]), np.array([0.5, 0.25])
    expected = -np.mean([np.log(1 / (1 + np.exp(-1.0))), np.log(1 / (1 + np.exp(0.25)))])
    assert bt._loss(w, gaps)[0] == pytest.approx(expected)
    assert np.isfinite(bt._loss(w * 1e4, gaps)[0])


def test_one_prompt_is_on_one_side_only():
    data = [Preference(f"p{i % 20}", f"a{i}", f"b{i}") for i in range(100)]
    train, test = bt._rows(data, [0.75, 0.25], 0)
    assert not {data[i].prompt for i in train} & {data[i].prompt for i in test}
    assert sorted([*train, *test]) == list(range(100))


@given(st.integers(1, 2000), st.floats(0, 1))
def test_wilson_contains_the_share_and_stays_inside(count, share):
    right = round(share * count)
    low, high = wilson(right, count)
    assert -1e-12 <= low <= right / count + 1e-12
    assert right / count - 1e-12 <= high <= 1 + 1e-12


def test_wilson_solves_its_quadratic():
    low, high = wilson(37, 60)  # the shares p at which 37 of 60 is 1.96 standard errors away
    for p in (low, high):
        assert abs(37 / 60 - p) == pytest.approx(1.959964 * np.sqrt(p * (1 - p) / 60))


def test_too_few_pairs():
    with pytest.raises(ValueError, match="at least 10 distinct prompts, got 50 pairs"):
        BradleyTerry.fit([Preference("p", "a", f"b{i}") for i in range(50)], tiny())
