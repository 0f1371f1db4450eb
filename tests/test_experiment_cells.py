"""A cell of an experiment, trained and judged in a small form: what it is led to, judged by and kept as."""

from dataclasses import replace

import numpy as np
import pytest

import infalign_edu as ia
from infalign_edu import theory
from infalign_edu.rl import evaluation
from infalign_edu.rl.experiments import runner
from infalign_edu.rl.experiments.cells import CellScore, aim, lab, run, table, training_reward
from infalign_edu.rl.experiments.design import Cell, Setting

GOLD, PROCEDURES = "gold:helpfulness", ("standard", "best-of-4")
SETTING = Setting(PROCEDURES, heldout_prompts=4, training_prompts=8, evaluation_samples=6, steps=4, later_steps=2, prompts_per_step=2)
CELL = Cell("exp:10", 0.05, 0, reward=GOLD, K=8)


@pytest.fixture(scope="module")
def shared():
    return lab(0, GOLD, SETTING)


@pytest.fixture(scope="module")
def found():
    return run((replace(CELL, kl=0.1), CELL), SETTING)


def test_cells_of_a_group_go_on_from_the_smallest_kl(found):
    assert [one.cell.kl for one in found] == [0.05, 0.1]
    for one in found:
        assert one.win_rates.shape == (3, 2, 4) and np.all((one.win_rates >= 0) & (one.win_rates <= 1))
        assert (one.kl == one.cell.kl) == one.matched and one.kl > 0 and np.isnan(one.said)


def test_theory_stands_beside_a_cell_at_the_kl_it_has(found, shared):
    for one in found:
        phi, beta, at = aim(one.cell, shared)
        assert beta == one.beta == at(one.cell.kl)
        assert beta == pytest.approx(theory.beta_for_kl(ia.transform("exp:10"), one.cell.kl) / phi.scale)
        assert one.theory == {p: evaluation.theory_at(phi, one.kl, ia.procedure(p)) for p in PROCEDURES}
        assert one.theory["best-of-4"] > one.theory["standard"] > 0.5


def test_a_cell_is_a_function_of_its_seed_and_is_kept_whole(found, tmp_path):
    (again,) = run((CELL,), SETTING)
    assert again.kl == found[0].kl and np.array_equal(again.win_rates, found[0].win_rates)
    runner.store(tmp_path, again, SETTING, {"commit": "c", "command": "d"})
    kept = runner.stored(tmp_path, CELL, SETTING)
    assert np.array_equal(kept["rates"], again.win_rates) and float(kept["kl"]) == again.kl and kept["matched"] == str(again.matched)
    assert runner.stored(tmp_path, replace(CELL, seed=1), SETTING) is None
    with pytest.raises(ValueError, match="must be made with.*steps=5.*; remove it"):
        runner.stored(tmp_path, CELL, replace(SETTING, steps=5))


def test_a_control_knows_nothing_of_the_reward_and_no_theory_of_it(shared):
    (blind,) = run((replace(CELL, control="random"),), replace(SETTING, steps=2))
    assert all(np.isnan(rate) for rate in blind.theory.values())
    prompts, responses = shared.data.training[:2] * 50, [f"answer {i}" for i in range(100)]
    noise = training_reward(shared, "random")(prompts, responses)
    assert abs(np.mean(noise)) < 0.4 and 0.7 < np.std(noise) < 1.3
    assert training_reward(shared, "") is shared.data.reward
    with pytest.raises(ValueError, match="control must be random or empty, got 'all'"):
        training_reward(shared, "all")


def test_tables_are_a_cell_s_own_shifted_or_of_all_prompts(shared):
    own = table(shared, CELL).reference_rewards
    assert own.shape == (8, 8) and np.array_equal(table(shared, replace(CELL, table="rotated")).reference_rewards, np.roll(own, 7, 0))
    pooled = table(shared, replace(CELL, table="pooled")).reference_rewards
    assert (pooled == pooled[0]).all() and sorted(pooled[0]) == sorted(own.ravel())
    assert table(shared, replace(CELL, table="fresh")).K == 128 and table(shared, replace(CELL, K=0)).K == 48
    with pytest.raises(ValueError, match="table must be one of own, fresh, stale, rotated, pooled, got 'new'"):
        table(shared, replace(CELL, table="new"))


def test_what_is_trained_on_is_the_transformed_quantile_or_the_shaped_reward(shared):
    responses = [f"it is {i}" for i in range(6)]
    phi, _, _ = aim(CELL, shared)
    scores = CellScore(CELL, shared, phi)(np.array([1, 3]), responses)
    u = table(shared, CELL).take([1, 3])(scores.rewards).clip(1 / 16, 1)
    assert np.array_equal(scores.calibrated, u) and np.allclose(scores.transformed, phi(u))
    fresh = CellScore(replace(CELL, table="fresh", K=4), shared, phi)(np.array([1, 3]), responses)
    assert set(np.unique(fresh.calibrated * 8)) <= {1, 2, 4, 6, 8} and np.array_equal(fresh.rewards, scores.rewards)
    raw = replace(CELL, transform="raw")
    shape, beta, at = aim(raw, shared)
    assert beta == pytest.approx(at(0.05)) and shape.kl(beta) == pytest.approx(0.05, abs=1e-6)
    shaped = CellScore(raw, shared, shape)(np.array([1, 3]), responses)
    order = np.argsort(shaped.rewards, axis=1)
    assert np.all(np.diff(np.take_along_axis(shaped.transformed, order, 1)) >= 0)
