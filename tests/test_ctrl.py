"""The pipeline end to end on the embedded model, small: what it writes is what it measured, and nothing is lost."""

import json
import math
import os
import re
import shutil
import signal
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from own_procedure import Careless

import infalign_edu as ia
from infalign_edu import cli, theory
from infalign_edu.lm.datasets import load_prompts
from infalign_edu.lm.models import load
from infalign_edu.rl import ctrl, evaluation
from infalign_edu.rl.data import prepare
from infalign_edu.rl.runs import Interrupted
from infalign_edu.rl.trainer import Trainer

SMALL = {
    "steps": 6,
    "warmup": 5,
    "prompts_per_step": 4,
    "samples_per_prompt": 8,
    "training_prompts": 20,
    "reference_samples": 12,
    "heldout_prompts": 10,
    "evaluation_samples": 6,
    "snapshots": 3,
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return ctrl.align(ia.CTRLConfig(out=str(tmp_path_factory.mktemp("runs") / "whole"), **SMALL))


def without_time(report):
    return {k: v for k, v in report.items() if k not in ("seconds",)}


def test_report_json_holds_what_it_promises(run):
    report = json.loads((run.folder / "report.json").read_text())
    assert report == run.report
    assert set(report["win_rates"]) == {"standard", "best-of-4", "worst-of-4"}
    for rate in report["win_rates"].values():
        assert 0 <= rate["mean"] <= 1 and rate["stderr"] > 0 and rate["interval"][0] < rate["mean"] < rate["interval"][1]
    assert report["kl"] > 0 and list(report["runs"]) == ["identity", "exp:10"]
    assert report["heldout_prompts"] == 10 and report["evaluation_samples"] == 6 and report["base_samples"] == 18
    assert any("One seed" in note for note in report["notes"]) and any("plumbing" in note for note in report["notes"])


def test_lift_share_is_measured_over_theory_at_the_measured_kl(run):
    for name, found in run.report["runs"].items():
        phi = ia.standardize(ia.transform(name))
        policy = theory.tilt(phi, theory.beta_for_kl(phi, found["kl"]))
        assert policy.kl == pytest.approx(found["kl"], abs=1e-6)
        for shown, expected in found["theory"].items():
            assert expected == pytest.approx(policy.win_rate(ia.procedure(shown)), abs=1e-6)
        share = (found["win_rates"]["best-of-4"]["mean"] - 0.5) / (found["theory"]["best-of-4"] - 0.5)
        assert found["lift_share"] == pytest.approx(share, abs=1e-9)


def test_beta_comes_from_the_target_kl(run):
    for name, found in run.report["runs"].items():
        assert theory.tilt(ia.standardize(ia.transform(name)), found["beta"]).kl == pytest.approx(0.6, abs=1e-6)


def test_comparison_is_at_matched_kl_inside_both_paths(run):
    (c,) = run.report["comparisons"]
    assert c["kl"] == pytest.approx(np.mean([found["kl"] for found in run.report["runs"].values()]))
    for found in run.report["runs"].values():
        seen = [point["kl"] for point in found["path"]]
        assert min(seen) <= c["kl"] <= max(seen) + 1e-12
    share = c["difference"]["mean"] / c["theory_difference"]
    assert c["transform_gain_share"] == pytest.approx(share) == run.report["transform_gain_share"]
    low, high = c["transform_gain_share_interval"]
    assert low < share < high


def test_calibration_training_and_evaluation_share_no_prompt(run):
    config = replace(ia.CTRLConfig(**SMALL), reward="gold:helpfulness")
    data = prepare(config, load("embedded"))
    heldout = set(load_prompts("embedded").where(split="heldout").prompts)
    assert not set(data.training) & set(data.heldout) and set(data.heldout) <= heldout
    assert not set(data.training) & heldout
    assert ia.EmpiricalCalibrator.load(run.folder / "calibration.npz").reference_rewards.shape == (20, 12)


def test_both_runs_are_led_to_the_same_kl_and_compared_there():
    """Policies explored after the run are evaluated until the path has the KL between two of them, and no longer."""
    table = {"a": {20: 0.5, 21: 0.55, 22: 0.7, 23: 0.9}, "b": {20: 0.7, 21: 0.66, 22: 0.65, 23: 0.64}}

    def rate(kl):
        return ia.PromptMean(np.full(3, 0.5 + kl / 4))

    def explore(run, final_kl, kl):
        assert final_kl == pytest.approx(table[run.name][20])
        yield from ((step, found) for step, found in table[run.name].items() if step > 20)

    def sample(policy):
        return SimpleNamespace(kl=ia.PromptMean(np.full(3, policy)), win_rate=lambda *_: rate(policy))

    for name, seen, reached in (("a", [20, 21, 22], True), ("b", [20, 21, 22, 23], False)):
        final = table[name][20]
        found = SimpleNamespace(
            trained=SimpleNamespace(name=name), samples=sample(final), path=[(20, final, rate(final))]
        )
        evaluation.reach(found, 0.6, explore, sample, None, None)
        assert [step for step, *_ in found.path] == seen
        if reached:
            matched = evaluation.at_matched_kl(0.6, found.path)
            assert matched.steps == (21, 22) and matched.win_rate.mean == pytest.approx(0.65)
        else:
            with pytest.raises(ValueError, match="KL 0.600 lies outside the path"):
                evaluation.at_matched_kl(0.6, found.path)


def test_metrics_are_one_json_line_a_step(run):
    for part in ("identity", "exp_10"):
        rows = [json.loads(line) for line in (run.folder / part / "metrics.jsonl").read_text().splitlines()]
        assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6]
        assert rows[0]["kl"] == pytest.approx(0, abs=1e-5)  # the policy starts as the reference
        assert all(math.isfinite(value) for row in rows for value in row.values())
        assert len(list((run.folder / part / "snapshots").iterdir())) == 3


class Page(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.images, self.links, self.tags = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.tags.append(tag)
        self.links += [v for k, v in attrs.items() if k in ("src", "href") and not v.startswith("data:")]
        if tag == "img":
            self.images.append(attrs)


def test_report_html_stands_alone_and_says_what_its_figures_show(run):
    text = (run.folder / "report.html").read_text()
    page = Page(text)
    assert page.links == [] and "script" not in page.tags
    assert len(page.images) == 2 and all(len(image["alt"]) > 60 for image in page.images)
    assert f"{run.report['win_rates']['best-of-4']['mean']:.3f}" in text


def test_a_script_shaped_response_is_shown_as_text(run, tmp_path, monkeypatch):
    monkeypatch.setattr("infalign_edu.lm.policy.Policy.decode", lambda *a: ["<script>alert(1)</script>"] * len(a[1]))
    own = ia.CTRLConfig(out=str(tmp_path / "r"), **SMALL | {"steps": 1}, reward=lambda p, r: np.arange(len(r)) % 7)
    text = (ctrl.align(own).folder / "report.html").read_text()
    assert "<script" not in text and "&lt;script&gt;alert(1)" in text


@pytest.mark.skipif(not shutil.which("chromium"), reason="no chromium on this machine: see README.md")
def test_the_report_in_a_real_browser(run, tmp_path):
    """Both figures are drawn, nothing is fetched, and a script in a response would be neither run nor allowed."""
    from playwright.sync_api import sync_playwright

    page_file = tmp_path / "report.html"
    hostile = "<script>document.title = 'hacked'</script><h1>"
    page_file.write_text((run.folder / "report.html").read_text().replace("<h1>", hostile, 1))
    flags = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
             "--disable-component-update", "--disable-sync"]  # fmt: skip
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=shutil.which("chromium"), args=flags)
        page = browser.new_page()
        asked, said = [], []
        page.on("request", lambda request: asked.append(request.url))
        page.on("console", lambda message: said.append(message.text))
        page.goto(page_file.as_uri())
        widths = page.eval_on_selector_all("img", "images => images.map(image => image.naturalWidth)")
        title, rows = page.title(), page.locator("table tr").count()
        browser.close()
    assert len(widths) == 2 and min(widths) > 300 and rows > 20
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []
    assert title == "exp:10 for best-of-4" and any("Content Security Policy" in text for text in said)


def stop_after(monkeypatch, step):
    """As Ctrl-C would, during the given step of training."""
    advance = Trainer.advance

    def interrupted(self):
        if self.step == step - 1:
            os.kill(os.getpid(), signal.SIGINT)
        return advance(self)

    monkeypatch.setattr(Trainer, "advance", interrupted)


@pytest.mark.parametrize("step", [1, 3, 5])
def test_ctrl_c_and_resume_give_the_uninterrupted_report(run, tmp_path, monkeypatch, step):
    config = ia.CTRLConfig(out=str(tmp_path / "stopped"), **SMALL)
    with monkeypatch.context() as patch:
        stop_after(patch, step)
        with pytest.raises(Interrupted, match=f"stopped after step {step} of 6; go on with --resume"):
            ctrl.align(config)
    resumed = ctrl.align(replace(config, resume=True))
    assert without_time(resumed.report) == without_time(run.report)


def test_a_killed_run_goes_on_from_its_last_whole_state(run, tmp_path, monkeypatch):
    """A kill between checkpoints: later metrics and a half-written line are dropped and the steps done again."""
    config = ia.CTRLConfig(out=str(tmp_path / "killed"), **SMALL)
    advance = Trainer.advance

    def killed(self):
        if self.step == 3:
            raise RuntimeError("killed")
        return advance(self)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "advance", killed)
        with pytest.raises(RuntimeError, match="killed"):
            ctrl.align(config)
    metrics = tmp_path / "killed" / "identity" / "metrics.jsonl"
    metrics.write_text(metrics.read_text() + '{"step": 4, "k')
    assert without_time(ctrl.align(replace(config, resume=True)).report) == without_time(run.report)


def test_a_finished_run_resumes_to_the_same_report(run):
    again = ctrl.align(ia.CTRLConfig(out=str(run.folder), resume=True, **SMALL))
    assert without_time(again.report) == without_time(run.report)


def test_a_calibration_table_can_be_used_again_and_only_where_it_fits(run, tmp_path):
    table = str(run.folder / "calibration.npz")
    again = ctrl.align(ia.CTRLConfig(out=str(tmp_path / "again"), calibration=table, **SMALL))
    assert again.report["kl"] == run.report["kl"]
    with pytest.raises(ValueError, match="was made for other prompts, another reward or another model"):
        ctrl.align(ia.CTRLConfig(out=str(tmp_path / "other"), calibration=table, reward="gold:harmlessness", **SMALL))


def test_run_folders_are_not_mixed_up(run, tmp_path):
    with pytest.raises(ValueError, match="already holds a run: add --resume"):
        ctrl.align(ia.CTRLConfig(out=str(run.folder), **SMALL))
    with pytest.raises(ValueError, match="learning_rate must be 0.0015 to resume .*, got 0.5"):
        ctrl.align(ia.CTRLConfig(out=str(run.folder), resume=True, learning_rate=0.5, **SMALL))
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="can't be written"):
        ctrl.align(ia.CTRLConfig(out=str(tmp_path / "file" / "run"), **SMALL))


def test_a_folder_in_use_is_refused(tmp_path):
    with ctrl.RunFolder(tmp_path / "run").open({"a": 1}, resume=False):
        with pytest.raises(ValueError, match="is in use by another process"):
            with ctrl.RunFolder(tmp_path / "run").open({"a": 1}, resume=True):
                pass


def test_a_damaged_checkpoint_is_named(run, tmp_path):
    config = ia.CTRLConfig(out=str(tmp_path / "r"), **SMALL | {"steps": 1})
    ctrl.align(config)
    state = tmp_path / "r" / "exp_10" / "state.safetensors"
    state.write_bytes(state.read_bytes()[:1000])
    with pytest.raises(ValueError, match="checkpoint '.*state.safetensors' can't be read"):
        ctrl.align(replace(config, resume=True))


def test_own_procedure_transform_and_reward(tmp_path):
    def square(u):
        return np.asarray(u) ** 2

    def length(prompts, responses):
        return [len(r) + 0.001 * len(p) for p, r in zip(prompts, responses, strict=True)]

    own = ia.CTRLConfig(out=str(tmp_path / "r"), procedure=Careless(), transform=square, reward=length, **SMALL)
    report = ctrl.align(own).report
    assert report["procedure"] == "careless" and report["transform"] == "square" and report["reward"] == "length"
    assert set(report["win_rates"]) == {"standard", "best-of-4", "worst-of-4", "careless"}


@pytest.mark.parametrize(("procedure", "transform"), [("worst-of-4", "log"), ("best-of-2", "optimal")])
def test_other_procedures_and_transforms(tmp_path, procedure, transform):
    report = ctrl.align(ia.CTRLConfig(out=str(tmp_path / "r"), procedure=procedure, transform=transform, **SMALL)).report
    assert procedure in report["win_rates"] and list(report["runs"]) == [transform] and report["comparisons"] == []


def test_optimal_is_trained_at_the_beta_of_the_win_rate_objective():
    config = ia.CTRLConfig(transform="optimal", beta=0.3)
    aim = ctrl.objective(config, "optimal")
    best = theory.optimum("best-of-4", 0.3)
    trained = theory.tilt(aim.transform, aim.beta)
    assert trained.kl == pytest.approx(best.kl, abs=1e-5) and best.kl == pytest.approx(0.370072, abs=1e-6)
    assert trained.win_rate("best-of-4") == pytest.approx(0.840137, abs=1e-5)


def test_a_learned_reward_is_fitted_on_other_prompts_and_reported(tmp_path, monkeypatch):
    monkeypatch.setenv("INFALIGN_CACHE", str(tmp_path / "cache"))
    config = ia.CTRLConfig(
        out=str(tmp_path / "r"), preferences="embedded", transform="exp:10", preference_pairs=300, **SMALL
    )
    report = ctrl.align(config).report
    assert report["reward"] == "bradley-terry fitted on embedded"
    assert 0.5 < report["reward_report"]["accuracy"] <= 1


def test_a_policy_that_did_not_move_has_no_share_of_anything(tmp_path):
    report = ctrl.align(ia.CTRLConfig(out=str(tmp_path / "r"), learning_rate=1e-30, **SMALL | {"steps": 1})).report
    assert report["kl"] < 1e-9 and report["lift_share"] is None and report["transform_gain_share"] is None
    assert report["win_rates"]["best-of-4"]["mean"] == pytest.approx(0.5, abs=0.2)
    assert "lift share" in (tmp_path / "r" / "report.html").read_text()


def test_a_reward_that_breaks_is_one_clear_error(tmp_path):
    with pytest.raises(ValueError, match="finite, got nan"):
        ctrl.align(ia.CTRLConfig(out=str(tmp_path / "r"), reward=lambda p, r: [math.nan] * len(r), **SMALL))


def test_prompts_of_ones_own(tmp_path):
    prompts = tmp_path / "p.jsonl"
    texts = load_prompts("embedded").where(kind="harmless").prompts[:9]
    prompts.write_text("".join(json.dumps({"prompt": text}) + "\n" for text in texts) + "{broken\n")
    with pytest.raises(ValueError, match=r"p.jsonl, line 10: not valid JSON"):
        ctrl.align(ia.CTRLConfig(out=str(tmp_path / "a"), prompts=str(prompts), **SMALL))
    config = ia.CTRLConfig(out=str(tmp_path / "b"), prompts=str(prompts), skip_bad_lines=True, transform="log", **SMALL)
    report = ctrl.align(config).report
    assert report["training_prompts"] + report["heldout_prompts"] <= 9
    assert any("1 lines of" in note and "not valid JSON" in note for note in report["notes"])


def test_command_line_is_the_library(run, tmp_path, capsys):
    options = [f"--{k.replace('_', '-')}={v}" for k, v in SMALL.items()]
    assert cli.main(["align", f"--out={tmp_path / 'r'}", *options]) == 0
    assert without_time(json.loads((tmp_path / "r" / "report.json").read_text())) == without_time(run.report)
    printed = capsys.readouterr().out
    assert "embedded: " in printed and "lift share" in printed and "report.html" in printed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--beta", "-0.1"], "beta must be a positive number, got -0.1"),
        (["--beta", "0.1", "--target-kl", "0.5"], "give beta or target_kl, not both"),
        (["--procedure", "best-of-many"], "procedure must be standard, best-of-N"),
        (["--procedure", "best-of-poisson-2"], "must have a largest number of draws to be evaluated"),
        (["--transform", "cube"], "transform must be identity, log"),
        (["--samples-per-prompt", "1"], "samples_per_prompt must be an integer of at least 2, got 1"),
        (["--evaluation-samples", "3"], "evaluation_samples must be at least 4"),
        (["--model", "/nowhere"], "model must be embedded, smollm2"),
        (["--prompts", "/nowhere.jsonl"], "a file that exists, got /nowhere.jsonl"),
        (["--reward", "kindness"], "reward must be gold:KIND"),
        (["--steps", "0"], "steps must be a positive integer, got 0"),
        (["--reward-noise", "-1"], "reward_noise must be a number >= 0"),
        (["--dtype", "float8"], "dtype must be auto or one of"),
    ],
)
def test_a_command_line_user_sees_one_line_and_exit_code_2(arguments, message, tmp_path, capsys):
    assert cli.main(["align", "--out", str(tmp_path / "r"), *arguments]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("infalign_edu: ") and message in error
    assert not (tmp_path / "r" / "report.json").exists()


def test_ctrl_c_on_the_command_line_is_exit_code_130(tmp_path, monkeypatch, capsys):
    stop_after(monkeypatch, 2)
    options = [f"--{k.replace('_', '-')}={v}" for k, v in SMALL.items()]
    assert cli.main(["align", f"--out={tmp_path / 'r'}", *options]) == 130
    assert "stopped after step 2 of 6; go on with --resume" in capsys.readouterr().err


def test_every_option_has_a_line_of_help(capsys):
    with pytest.raises(SystemExit):
        cli.main(["align", "--help"])
    told = capsys.readouterr().out
    for name in ia.CTRLConfig.__dataclass_fields__:
        assert re.search(rf"--{name.replace('_', '-')}\b", told)


def test_a_run_goes_on_with_the_same_own_objects_only(tmp_path):
    """Every lambda has the same name, and an object of a class without one has another address in every process."""

    class Bent:
        def __init__(self, power):
            self.power = power

        def __call__(self, u):
            return np.asarray(u) ** self.power

    class Graded(Careless):
        def __init__(self, share):
            self.share = share

        def cdf(self, t):
            return (1 - self.share) * np.asarray(t) + self.share * np.asarray(t) ** 2

        def pdf(self, t):
            return 1 - self.share + 2 * self.share * np.asarray(t)

    def config(**changes):
        own = {"procedure": Graded(0.5), "transform": Bent(2), "reward": lambda p, r: [len(text) for text in r]}
        return ia.CTRLConfig(**SMALL | {"out": str(tmp_path / "r")} | own | changes)

    ctrl.align(config())
    again = ctrl.align(config(resume=True))
    assert again.report["transform"] == "Bent" and list(again.report["runs"]) == ["Bent"]
    for name, other in (("transform", Bent(3)), ("procedure", Graded(0.4)), ("reward", lambda p, r: [-len(text) for text in r])):
        with pytest.raises(ValueError, match=rf"^{name} must be '\S+ [0-9a-f]{{12}}' to resume .*, got '\S+ [0-9a-f]{{12}}'$"):
            ctrl.align(config(resume=True, **{name: other}))
    table = str(tmp_path / "r" / "calibration.npz")
    with pytest.raises(ValueError, match="was made for other prompts, another reward or another model"):
        ctrl.align(config(out=str(tmp_path / "other"), calibration=table, reward=lambda p, r: [0.0] * len(r)))


def test_the_readmes_own_procedure_has_a_name(tmp_path):
    """It has no `__str__`; a report must not show where it lay in memory."""
    readme = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    given: dict = {}
    exec(readme.split("## Bring your own\n\n```python\n")[1].split("```")[0], given)  # noqa: S102
    config = replace(given["config"], out=str(tmp_path / "r"), **{k: v for k, v in SMALL.items() if k != "out"})
    run = ctrl.align(config)
    assert run.report["procedure"] == "Careless" and run.report["transform"] == "hinge" and run.report["reward"] == "brevity"
    assert set(run.report["win_rates"]) == {"standard", "best-of-4", "worst-of-4", "Careless"}
    assert " object at " not in (run.folder / "report.json").read_text() + (run.folder / "report.html").read_text()


def test_an_object_that_a_name_stands_for_is_that_name():
    named = ia.CTRLConfig(procedure="best-of-4", transform="exp:10").identity()
    assert ia.CTRLConfig(procedure=ia.BestOfN(4), transform=ia.Exponential(10)).identity() == named
    best = theory.optimum("best-of-4", 0.3).transform
    first, second = (ia.CTRLConfig(transform=phi).identity()["transform"] for phi in (best, theory.optimum("best-of-4", 0.2).transform))
    assert first.startswith("OptimalTransform ") and first != second
    assert first == ia.CTRLConfig(transform=theory.optimum("best-of-4", 0.3).transform).identity()["transform"]
