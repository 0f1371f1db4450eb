"""Tables of an experiment read again: rows, means over seeds, and their differences in words and in a forest."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from infalign_edu.plots import PALETTE
from infalign_edu.rl.config import CTRLConfig
from infalign_edu.rl.experiments import results, verdicts


def run(seed, win_rate, stderr=0.01, **more):
    return {"transform": "log", "algorithm": "rloo", "table": "own", "control": "", "K": "0", "reward": "gold", "kl": "0.4000",
            "target_kl": "0.4", "matched": "True", "seed": str(seed), "win_rate": str(win_rate), "stderr": str(stderr), **more}  # fmt: skip


def pair(judge, difference, half, **more):
    low, high = difference - half, difference + half
    verdict = "tied" if low <= 0 <= high else "confirmed"
    return {"claim": "c", "policy": "exp:10", "baseline": "identity", "kl": "0.4", "reward": "gold", "shown": "best-of-4",
            "judge": judge, "difference": str(difference), "low": str(low), "high": str(high), "theory": "0.05",
            "share": str(difference / 0.05), "seeds": "5", "verdict": verdict, **more}  # fmt: skip


THREE = [pair("reward", 0.04, 0.01), pair("gold", 0.03, 0.02), pair("gold of pick", -0.01, 0.02)]


def test_a_table_of_the_course_is_read_and_one_that_does_not_ship_is_said_to_be_missing(capsys):
    rows = results.read("frontiers")
    assert rows and {"transform", "judge", "matched", "win_rate"} <= rows[0].keys() and not capsys.readouterr().out
    assert results.read("no_such_table") == []
    assert capsys.readouterr().out == "no_such_table.csv does not ship with this copy: what rests on it is left out.\n"


def test_rows_are_picked_by_all_fields_and_by_any_of_several_values():
    rows = [run(0, 0.6, K="4"), run(0, 0.7, K="16"), run(1, 0.8, K="4", matched="False")]
    assert results.pick(rows, K=4) == [rows[0], rows[2]] and results.pick(rows, K=4, matched=True) == [rows[0]]
    assert results.pick(rows, seed=("0", 1), K=(4, 64)) == [rows[0], rows[2]] and results.pick(rows) == rows
    with pytest.raises(KeyError, match="steps"):
        results.pick(rows, steps=4)


def test_kinds_keep_the_order_of_the_table():
    rows = [run(1, 0.6, K="16"), run(0, 0.6, K="4"), run(2, 0.6, K="16")]
    assert results.kinds(rows, "K") == [("16",), ("4",)]
    assert results.kinds(rows, "K", "seed") == [("16", "1"), ("4", "0"), ("16", "2")]


def test_the_interval_of_a_mean_counts_prompts_and_seeds():
    mean, half = results.mean_over_seeds([run(0, 0.70, 0.01), run(1, 0.74, 0.02), run(2, 0.72, 0.02)])
    prompts, seeds = 1.96 * math.sqrt((1e-4 + 4e-4 + 4e-4) / 3), 4.302653 * 0.02 / math.sqrt(3)
    assert (mean, half) == pytest.approx((0.72, math.hypot(prompts, seeds)), abs=1e-6)
    assert results.mean_over_seeds([run(0, 0.70, 0.01)]) == pytest.approx((0.70, 0.0196))


@given(st.lists(st.floats(0.2, 0.9), min_size=2, max_size=6), st.floats(0, 0.1))
def test_seeds_that_differ_never_narrow_the_interval_of_one_seed(rates, stderr):
    _, half = results.mean_over_seeds([run(i, rate, stderr) for i, rate in enumerate(rates)])
    assert half >= 1.96 * stderr - 1e-12


def test_means_in_words():
    rows = [run(0, 0.70, 0.0, said="0.5"), run(1, 0.70, 0.0, said="nan")]
    assert results.mean(rows) == "0.700" and results.mean(rows, "said") == "-" == results.mean([])
    assert results.rate(rows) == "0.700 +- 0.000" and results.rate([], "left out") == "left out"


def test_runs_without_their_kl_are_named_once_with_what_was_reached():
    lost = {"matched": "False", "kl": "0.1049"}
    rows = [run(0, 0.6), *[run(1, 0.6, control="random", shown=s, **lost) for s in ("standard", "best-of-4")],
            run(2, 0.6, K="16", reward="learned:both:trigger=absent:strength=0.3", **lost)]  # fmt: skip
    assert results.unmatched(rows) == ["log, rloo, own, random, seed 1 (0.4, 0.10)",
                                       "log, rloo, own, K = 16, absent 0.3, seed 2 (0.4, 0.10)"]  # fmt: skip


def test_a_pair_is_named_by_what_differs():
    def named(a, b):
        return verdicts.versus({"policy": a, "baseline": b})

    assert named("exp:10", "identity") == "exp:10 over identity" and named("128, own", "4, own") == "128 over 4"
    assert named("4, fresh", "16, own") == "4, fresh over 16, own" and named("a, b", "a, b") == "a, b over a, b"


def test_a_difference_in_points():
    row = {"difference": "0.0386", "low": "-0.0276", "high": "0.1060"}
    assert verdicts.told(row) == " +3.86 [ -2.76, +10.60]" and verdicts.told(row, "+.1f") == "+3.9 [-2.8, +10.6]"


@pytest.mark.parametrize(
    "verdict, difference, theory, told",
    [("contradicted", -0.04, -0.06, "contradicted (foretold)"), ("contradicted", -0.04, 0.06, "contradicted"),
     ("one seed, contradicted", -0.04, -0.06, "one seed, contradicted (foretold)"), ("confirmed", -0.04, -0.06, "confirmed"),
     ("contradicted", -0.04, "nan", "contradicted")],
)  # fmt: skip
def test_a_loss_is_foretold_only_where_theory_has_its_sign(verdict, difference, theory, told):
    assert verdicts.said({"verdict": verdict, "difference": str(difference), "theory": str(theory)}) == told


def test_a_share_needs_a_promise_of_a_point():
    assert [verdicts.share({"share": "0.5", "theory": t}) for t in ("0.01", "-0.01", "0.0099", "nan")] == ["0.50", "0.50", "-", "-"]


def test_holm_by_hand_and_whatever_the_order():
    p = np.array([0.20, 0.01, 0.04, 0.03])
    assert verdicts.holm(p) == pytest.approx([0.20, 0.04, 0.09, 0.09])
    assert verdicts.holm(p[::-1]) == pytest.approx(verdicts.holm(p)[::-1])
    assert verdicts.holm([0.9, 0.8]).tolist() == [1.0, 1.0] and verdicts.holm([]).tolist() == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_is_between_doing_nothing_and_bonferroni(p):
    adjusted, p = verdicts.holm(p), np.array(p)
    assert np.all(adjusted >= p) and np.all(adjusted <= np.minimum(1, len(p) * p) + 1e-12)
    assert adjusted.min() == pytest.approx(min(1, len(p) * p.min()))


def test_judges_stand_side_by_side_and_the_third_only_where_it_was_asked():
    assert verdicts.side_by_side(THREE[:2]).split("\n") == [
        "difference in points  shown        KL   reward model             theory  share  gold                     seeds  verdicts, in that order",
        "exp:10 over identity  best-of-4    0.4   +4.00 [ +3.00,  +5.00]   +5.00   0.80   +3.00 [ +1.00,  +5.00]      5  confirmed; confirmed"]
    standard = [{**row, "shown": "standard"} for row in THREE[:2]]  # nothing is picked there
    head, best, plain = verdicts.side_by_side([*THREE, *standard]).split("\n")
    assert "gold of pick" in head and "-1.00 [ -3.00,  +1.00]" in best and best.endswith("confirmed; confirmed; tied")
    assert plain.endswith("confirmed; confirmed; -") and verdicts.judges(THREE[::-1]) == ["reward", "gold", "gold of pick"]


def test_rewards_and_kls_make_questions_of_their_own():
    rows = [pair("gold", 0.02, 0.01, reward=reward, kl=kl) for reward in ("a", "b") for kl in ("0.4", "0.8")]
    assert len(verdicts.side_by_side(rows).split("\n")) == 5


def test_what_is_not_confirmed_is_listed_by_verdict_and_nothing_else():
    foretold = pair("gold", -0.05, 0.01, verdict="contradicted", theory="-0.03", kl="0.8")
    found = verdicts.unconfirmed({"one": THREE, "another": [foretold], "none": []})
    assert found.split("\n") == [
        "tied",
        "  one      exp:10 over identity, best-of-4  KL 0.4  gold of pick   -1.00 [ -3.00,  +1.00]  theory  +5.00  seeds 5",
        "",
        "contradicted (foretold)",
        "  another  exp:10 over identity, best-of-4  KL 0.8  gold           -5.00 [ -6.00,  -4.00]  theory  -3.00  seeds 5"]
    assert verdicts.unconfirmed({"one": THREE[:2]}) == "none" == verdicts.unconfirmed({})
    assert "  one  c  KL" in verdicts.unconfirmed({"one": THREE}, name=lambda row: row["claim"])


def test_sides_of_zero_are_counted_judge_by_judge():
    assert verdicts.signs([*THREE, pair("gold", -0.05, 0.01)]) == (
        "Reward model: 1 of 1 intervals lie above 0, 0 below, 0 hold it. Gold: 1 of 2 intervals lie above 0, 1 below, 0 hold it. "
        "Gold of pick: 0 of 1 intervals lie above 0, 0 below, 1 hold it.")


def test_a_forest_has_a_panel_for_each_judge_and_draws_the_intervals_of_the_table():
    later = [{**row, "kl": "0.8"} for row in THREE]
    fig = verdicts.forest([*THREE, *later, pair("reward", 0.01, 0.02, shown="standard")], "About.")
    assert [ax.get_title() for ax in fig.axes] == ["judged by the reward model", "judged by the gold rule", "reward model picks, gold judges"]
    first = fig.axes[0]
    assert [label.get_text() for label in first.get_yticklabels()] == ["exp:10 over identity, best-of-4", "exp:10 over identity, standard"]
    early, late = first.containers
    assert early[0].get_xdata().tolist() == pytest.approx([4, 1]) and late[0].get_xdata().tolist() == pytest.approx([4])
    assert [s[:, 0].tolist() for s in early[2][0].get_segments()] == [pytest.approx([3, 5]), pytest.approx([-1, 3])]
    assert early[0].get_color() == PALETTE[0] != late[0].get_color() and early[0].get_marker() != late[0].get_marker()
    assert fig.alt_text.startswith("About. Reward model: 2 of 3 intervals lie above 0, 0 below, 1 hold it. Gold: 2 of 2")


def test_a_forest_may_leave_theory_out_and_name_its_lines_and_marks_otherwise():
    rows = [pair("gold", 0.02, 0.01, reward=f"x:trigger={name}:strength=1.0") for name in ("absent", "present")]
    fig = verdicts.forest(rows, "About.", line=lambda row: results.corruption(row["reward"]), series=verdicts.versus, theory=False)
    (ax,) = fig.axes
    assert [label.get_text() for label in ax.get_yticklabels()] == ["absent 1.0", "present 1.0"]
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["exp:10 over identity"]


def test_the_default_run_is_the_one_that_ships_and_comes_near_the_curve():
    steps = str(CTRLConfig().resolved(340_000, cuda=False, cores=1).steps)
    aligned, default = results.read("align"), [row for row in results.read("reach") if row["variant"] == "default"]
    assert {row["steps"] for row in [*aligned, *default]} == {steps}
    assert float(aligned[0]["gain_share"]) >= 0.8 and min(float(row["lift_share"]) for row in aligned) >= 0.9
    assert len(default) == 2 and min(float(row["heldout_lift_share"]) for row in default) >= 0.9
    assert np.mean([float(row["training_lift_share"]) for row in default]) >= 0.95
