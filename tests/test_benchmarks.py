"""What the benchmarks check before they time anything, and how they keep their books; no second is compared here."""

import csv
import math
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks import gpu, growth, run, table  # noqa: E402
from benchmarks.rows import course, lift, memory, method, sampling, training, trl_peer  # noqa: E402
from benchmarks.table import Check, Row  # noqa: E402
from infalign_edu.procedures import BestOfN, WorstOfN  # noqa: E402

needs_trl = pytest.mark.skipif(not trl_peer.installed(), reason="TRL is not installed")


def test_ratio_is_taken_within_pairs_and_its_quartiles_are_told():
    row = Row("a", "sorting", "peer", "s", (1.0, 2.0, 4.0, 1.0, 10.0), (3.0, 8.0, 4.0, 2.0, 50.0), target=2.5)
    assert row.ratios == (3.0, 4.0, 1.0, 2.0, 5.0) and row.median == 3.0 and row.met
    cells = row.cells()
    assert [cells[name] for name in ("ours", "peer", "ratio", "quarter", "three_quarters", "lowest", "highest")] == [
        "2", "4", "3", "2", "4", "1", "5"
    ]  # the medians' own ratio would be 2
    assert cells["pairs"] == "5" and cells["met"] == "yes" and "check" not in cells


def test_rates_turn_the_ratio_around_and_a_bound_looks_at_our_own_figure():
    rate = Row("a", "", "peer", "tokens a s", (30.0,), (10.0,), target=3.5, higher=True)
    assert rate.median == 3.0 and rate.met is False
    bound = Row("a", "", "", "s", (0.4, 0.6, 0.45), target=0.5, bound=True)
    assert bound.met and math.isnan(bound.median) and "ratio" not in bound.cells()
    assert Row("a", "", "", "s", (1.0,)).met is None


def test_a_failed_check_stops_the_bench_nan_included():
    assert Check("gap", 1.0, 1.0).passed().found == 1.0
    for found in (1.1, math.nan):
        with pytest.raises(AssertionError, match="gap must be at most 1, got"):
            Check("gap", found, 1.0).passed()


def test_both_sides_take_turns_and_are_timed_by_the_clock_given(monkeypatch):
    now, order = [0.0], []

    def works(name, seconds):
        def work():
            order.append(name)
            now[0] += seconds

        return work

    ours, peer = table.in_turns(works("a", 2.0), works("b", 6.0), 3, clock=lambda: now[0])
    assert (ours, peer) == ((2.0,) * 3, (6.0,) * 3) and "".join(order) == "ab" + "abbaab"


def test_table_has_every_column_and_keeps_rows_that_were_not_run_again(tmp_path):
    place = table.machine("python benchmarks/run.py")
    assert {*Row("a", "w", "p", "s", (1.0,), (2.0,), Check("c", 0, 1), 1.0).cells(), *place} == set(table.COLUMNS)
    assert place["cpu"] and int(place["cores"]) == os.cpu_count() and float(place["load"]) >= 0
    old = [{"name": "a", "ours": "1"}, {"name": "gone", "ours": "2"}, {"name": "b", "ours": "3"}]
    table.write(tmp_path / "t.csv", table.merged(old, [{"name": "b", "ours": "9"}], ["b", "a"]))
    with (tmp_path / "t.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == list(table.COLUMNS)
    assert [(row["name"], row["ours"]) for row in rows] == [("b", "9"), ("a", "1"), ("gone", "2")]


def test_a_stopped_run_has_kept_the_rows_it_finished(tmp_path, monkeypatch):
    def stop():
        raise KeyboardInterrupt

    known = {"one": lambda: [Row("one", "", "", "s", (1.0,))], "two": stop}
    monkeypatch.setattr(run, "benches", lambda options: known)
    with pytest.raises(KeyboardInterrupt):
        run.main(["--out", str(tmp_path / "b.csv")])
    (row,) = table.read(tmp_path / "b.csv")
    assert row["name"] == "one" and row["command"].startswith("python benchmarks/run.py --out")


def test_only_takes_the_beginning_of_a_name_and_names_what_there_is():
    options = run.parsed(["--only", "notebook", "--only", "li"])
    assert options.notebooks and options.long and options.pairs == 5
    assert options.out == ROOT / "data" / "runs" / "bench.csv" and run.parsed(["--quick"]).out.parent.name == "quick"
    with pytest.raises(SystemExit, match="beginning of one of .*sampling-2x64.*growth"):
        run.main(["--only", "speed"])


@needs_trl
def test_log_probabilities_and_gradients_are_those_of_trl():
    check = training.agreement(training.TINY)
    assert check.found < 2e-6 and check.limit == 1e-5


@needs_trl
def test_the_check_feels_a_wrong_gradient(monkeypatch):
    look = trl_peer.look
    monkeypatch.setattr(trl_peer, "look", lambda made, rollouts, a: look(made, rollouts, a * 1.001))
    with pytest.raises(AssertionError, match="differ by must be at most 1e-05"):
        training.agreement(training.TINY)


@needs_trl
def test_a_step_and_an_update_are_paired_with_trl_and_see_the_same_prompts(monkeypatch):
    asked, phi = [], training.phi

    def noted(prompts, responses):
        asked.append(sorted(prompts))
        return phi(prompts, responses)

    monkeypatch.setattr(training, "phi", noted)
    row = training.step(training.TINY, 2)
    assert len(row.ours) == len(row.peer) == 2 and min(row.ours + row.peer) > 0
    assert len(asked) == 2 * (2 + training.WARM) and asked[::2] == asked[1::2]  # TRL's, ours, TRL's, ...
    assert asked[0] != asked[2]
    assert len(training.update(training.TINY, 1).ratios) == 1


def test_sampled_log_probabilities_are_the_models_and_the_check_feels_a_change():
    policy = training.model(training.TINY)
    rollouts = policy.sample(sampling.asked(3), 2, seed=0)
    assert sampling.agreement(policy, rollouts).found < 1e-6
    wrong = SimpleNamespace(**vars(rollouts) | {"logprobs": rollouts.logprobs - 1e-3})
    with pytest.raises(AssertionError, match="log-probabilities differ"):
        sampling.agreement(policy, wrong)


def test_tokens_of_the_peer_are_counted_to_the_end_of_each_response():
    eos, ids = 2, torch.tensor([[5, 7]])
    drawn = torch.tensor([[5, 7, 9, 2, 2, 2], [5, 7, 9, 9, 9, 9], [5, 7, 2, 0, 0, 0]])  # 2, 4 and 1 tokens
    model = SimpleNamespace(generate=lambda *_, **__: drawn)
    policy = SimpleNamespace(model=model, stops=[eos], max_new_tokens=4, tokenizer=SimpleNamespace(pad_token_id=0),
                             encode=lambda prompts: (ids, torch.ones_like(ids, dtype=torch.bool)))
    assert sampling.generated(policy, ["a"], 3) == 2 + 4 + 1


def test_prompts_of_the_comparison_have_one_length():
    assert {len(prompt.split()) for prompt in sampling.asked(700)} == {training.WORDS} and len(sampling.asked(700)) == 700
    assert {len(prompt.split()) for prompt in training.our_trainer(training.TINY).prompts} == {training.WORDS}


def test_solver_for_any_problem_agrees_where_it_converges_and_tells_where_not():
    row = method.frontier(1, np.array([0.1, 0.3]))
    assert row.check.found < 1e-8 and "fails on 0 of them" in row.what
    win_rate, kl = method.boundary_value_problem(BestOfN(4), 0.3)
    assert (round(win_rate, 6), round(kl, 6)) == (0.840137, 0.370072)
    assert method.boundary_value_problem(WorstOfN(4), 0.1) is None


@pytest.mark.parametrize("way", ["loop", "numpy"])
def test_bootstrap_estimates_the_same_win_rate(way):
    policy, reference = method.rewards(4, 12)
    exact = method.win_rate(policy, reference, "best-of-3").per_prompt
    peer = {"loop": method.loop, "numpy": method.at_once}[way](policy, reference, 3, 3000, np.random.default_rng(0))
    # draws with replacement: its mean is that of the plug-in estimate, near the exact one but not equal to it
    assert np.abs(peer - exact).max() < 0.06
    assert method.exactness().found < 1e-15


def test_peers_of_calibration_agree_with_ties():
    rng = np.random.default_rng(0)
    values, reference = rng.integers(0, 5, (3, 7)).astype(float), np.sort(rng.integers(0, 5, (3, 4)).astype(float), 1)
    wanted = [[(sum(z < r for z in zs) + 0.5 * sum(z == r for z in zs)) / 4 for r in row]
              for row, zs in zip(values, reference, strict=True)]
    assert method.per_prompt(reference, values).tolist() == method.compared(reference, values).tolist() == wanted
    assert method.calibration(1, "compare", prompts=300, M=5, K=4).check.found == 0


@pytest.mark.parametrize(("exponent", "constant"), [(0.0, 2.0), (0.5, 1e-3), (1.0, 1.0), (2.5, 7.0)])
def test_exponents_of_known_power_laws(exponent, constant):
    sizes = [3, 10, 40, 200]
    fit = growth.fitted(sizes, [constant * size**exponent for size in sizes])
    assert fit.exponent == pytest.approx(exponent, abs=1e-9) and fit.constant == pytest.approx(constant)


def test_a_power_law_needs_two_sizes_and_positive_costs():
    for sizes, costs in (([4], [1.0]), ([1, 2], [0.0, 1.0])):
        with pytest.raises(ValueError, match="two sizes and positive costs"):
            growth.fitted(sizes, costs)


def test_a_curve_tells_memory_that_numpy_held():
    held = {4: np.zeros(0)}

    def work(size):
        return lambda: held.update({4: np.ones(size * 2**17)})  # a megabyte for each

    time, space = growth.measured("ones", "megabytes", (8, 16, 32), work, True, 1)
    assert time.measure == "time" and space.costs == pytest.approx((8.0, 16.0, 32.0), abs=0.2)
    cells = space.cells()
    assert set(cells) <= set(growth.COLUMNS) and cells["sizes"] == "8 16 32" and cells["exponent"] == "1.00"


def test_peak_memory_is_of_the_process_alone():
    held = np.ones(2**26)  # half a gigabyte here, none in a process that this one starts
    code = "from benchmarks.rows import memory; memory.tell()"
    told = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert memory.now() > held.nbytes / 2**20 > float(told.split()[1]) > 1
    with pytest.raises(RuntimeError, match="benchmarks.rows.nothing.* failed: .*No module named"):
        memory.peak("benchmarks.rows.nothing")


def test_import_and_first_plot_run_in_a_process_of_their_own():
    assert min(course.process(course.IMPORT)) > 0 and min(course.process(course.PLOT)) > 0
    with pytest.raises(RuntimeError, match="1 / 0 failed: ZeroDivisionError"):
        course.process("1 / 0")
    assert course.sliders().ours[0] == max(float(row["median_ms"]) for row in table.read(
        ROOT / "data" / "runs" / "slider_latency.csv"))


def test_first_time_at_a_level():
    points = [(0.0, 0.5), (10.0, 0.7), (20.0, 0.9)]
    assert lift.first(points, 0.5) == 0.0 and lift.first(points, 0.8) == pytest.approx(15.0)
    assert lift.first(points, 0.95) is None


def test_gpu_says_in_one_line_what_it_lacks(capsys):
    if not torch.cuda.is_available():
        assert gpu.main([]) == 2
    assert gpu.main(["--device", "cpu"]) == 2
    assert all(len(line) < 120 for line in capsys.readouterr().out.splitlines())


def test_bytes_that_decoding_must_read():
    policy = training.model(training.TINY)  # 2 layers of 16, float32: 2 x 2 x 16 x 4 = 256 bytes of cache a token
    lengths = torch.tensor([1, 3])  # the second row runs two steps, with 11 and 12 tokens held
    assert gpu.decoded_bytes(policy, 10, lengths) == 2 * policy.parameters * 4 + (11 + 12) * 256


@needs_trl
def test_gpu_script_runs_its_path_on_a_cpu(tmp_path):
    assert gpu.main(["--device", "cpu", "--quick", "--out", str(tmp_path / "gpu.csv")]) == 0
    rows = table.read(tmp_path / "gpu.csv")
    assert [row["name"] for row in rows] == ["gpu-sampling", "gpu-roofline", "gpu-step"]
    assert list(rows[0]) == list(gpu.COLUMNS) and {row["dtype"] for row in rows} == {"float32"}
    assert float(rows[1]["ours"]) > 0 and rows[2]["peer"]
