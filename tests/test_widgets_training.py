"""The training monitor: it shows what is in a run folder, and its buttons start, stop and resume a real job."""

import asyncio
import json
import os
import select
import signal
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

import infalign_edu as ia
from infalign_edu import theory
from infalign_edu.classroom.widgets import TrainingMonitor, job, run_view, runs
from infalign_edu.rl.config import CTRLConfig
from infalign_edu.rl.runs import RunFolder

TINY = {"training_prompts": 20, "reference_samples": 12, "heldout_prompts": 10, "evaluation_samples": 6,
        "prompts_per_step": 4, "samples_per_prompt": 8, "snapshots": 3}  # fmt: skip
KEYS = ("kl", "calibrated", "transformed")


def row(step):
    return {"step": step, "kl": 0.01 * step, "calibrated": 0.5 + 0.005 * step, "transformed": 0.02 * step}


def written(folder, steps, **fields):
    """A run folder as `align` leaves it after some steps."""
    config = CTRLConfig(**{"transform": "exp:10", "steps": 40, "out": str(folder), **fields})
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config.identity()))
    part = RunFolder(folder).part(list(config.transforms)[-1])
    for step in range(1, steps + 1):
        part.append(row(step))
    return part


def report(folder):
    rate = {"mean": 0.81, "interval": [0.75, 0.87]}
    content = {"procedure": "best-of-4", "kl": 0.51, "win_rates": {"best-of-4": rate}}
    (folder / "report.json").write_text(json.dumps(content))


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", ["identity", "log", "exp:10", "exp:-10", "power:7", "optimal"])
def test_the_plan_is_what_the_pipeline_trains_for(name):
    from infalign_edu.rl.ctrl import objective

    aim = objective(CTRLConfig(transform=name, target_kl=0.5), name)
    plan = runs.plan("best-of-4", name, None, 0.5)
    policy = theory.tilt(aim.transform, aim.beta)
    assert plan.beta == pytest.approx(aim.beta, rel=1e-9)
    assert plan.kl == pytest.approx(0.5, abs=1e-5) and plan.win_rate == pytest.approx(policy.win_rate("best-of-4"))
    u = (np.arange(400_000) + 0.5) / 400_000
    f = policy.density(u)
    assert plan.calibrated == pytest.approx(np.mean(u * f), abs=1e-4)
    assert plan.transformed == pytest.approx(np.mean(np.asarray(aim.transform(u)) * f), abs=2e-3)


def test_nothing_is_written_before_start_is_pressed(here):
    monitor = TrainingMonitor()
    assert list(here.iterdir()) == [] and monitor.data.state == "no run" and monitor.error is None
    assert "No run yet" in monitor.text and "theory expects KL 0.600 nats" in monitor.text
    assert (monitor.start_button.disabled, monitor.stop_button.disabled, monitor.resume_button.disabled) == (False, True, True)


@pytest.mark.parametrize(("control", "value", "field"), [
    ("procedure", "worst-of-4", "win_rate"), ("transform", "log", "calibrated"), ("target_kl", 1.1, "kl"),
    ("steps", 90, None), ("seed", 3, None),
])  # fmt: skip
def test_moving_a_control_changes_what_start_would_train(here, control, value, field):
    monitor = TrainingMonitor()
    before, text = monitor.data, monitor.text
    monitor.controls[control].value = value
    assert monitor.error is None and monitor.text != text and getattr(monitor.data.next, control) == value
    if field:
        assert abs(getattr(monitor.data.next_plan, field) - getattr(before.next_plan, field)) > 0.01
        assert monitor.data.next_plan.kl == pytest.approx(1.1 if control == "target_kl" else 0.6)


def test_curves_are_the_metrics_and_their_running_means(tmp_path):
    written(tmp_path / "r", 12)
    monitor = TrainingMonitor(tmp_path / "r")
    panels = run_view.curves(monitor.data)
    for key, panel in zip(KEYS, panels, strict=True):
        values = [row(step)[key] for step in range(1, 13)]
        assert panel[run_view.STEP][0].tolist() == list(range(1, 13)) and panel[run_view.STEP][1].tolist() == values
        steps, means = panel[run_view.SMOOTH]
        assert steps.tolist() == [8, 9, 10, 11, 12] and means[-1] == pytest.approx(np.mean(values[4:]))
        assert panel["theory"][0].tolist() == [0, 40] and panel["theory"][1][0] == getattr(monitor.data.plan, key)
    drawn = monitor.live._lines[0][run_view.STEP].get_ydata()
    assert drawn.tolist() == [row(step)["kl"] for step in range(1, 13)]


def test_it_follows_a_job_that_was_started_elsewhere(tmp_path):
    part = written(tmp_path / "r", 3)
    monitor = TrainingMonitor(tmp_path / "r")
    image = monitor.image.value
    assert monitor.data.state == "a run of another process" and monitor.bar.value == 3 and monitor.bar.max == 40
    with part.metrics_file.open("a") as handle:
        handle.write(json.dumps(row(4)) + "\n" + '{"step": 5, "k')
    monitor.poll()
    assert monitor.data.run.steps == 4 and monitor.image.value != image and monitor.error is None
    with pytest.raises(RuntimeError, match="stop a job of another process where it was started"):
        monitor.stop()
    for step in range(5, 41):
        part.metrics_file.write_text("".join(json.dumps(row(s)) + "\n" for s in range(1, step + 1)))
    report(tmp_path / "r")
    monitor.poll()
    assert monitor.data.state == "finished" and "win rate under best-of-4 0.810 [0.750, 0.870]" in monitor.text
    assert "over the last 8, KL 0.365 nats" in monitor.text and monitor.resume_button.disabled


def test_a_look_at_an_unchanged_folder_draws_nothing(tmp_path, monkeypatch):
    part = written(tmp_path / "r", 3)
    monitor = TrainingMonitor(tmp_path / "r")
    monitor.poll()
    drawn = []
    monkeypatch.setattr(monitor, "draw", lambda data: drawn.append(data) or b"again")
    monitor.poll()
    assert drawn == []
    part.append(row(4))
    monitor.poll()
    assert len(drawn) == 1


def test_of_a_run_that_compares_the_latest_transform_is_shown(tmp_path):
    part = written(tmp_path / "r", 2, transform="exp:-10", compare="identity")
    RunFolder(tmp_path / "r").part("identity").append(row(1))
    found = runs.progress(tmp_path / "r")
    assert found.transform == "exp:-10" and found.steps == 2
    part.metrics_file.unlink()
    assert runs.progress(tmp_path / "r").transform == "identity"


def test_a_run_with_an_own_transform_is_shown_without_theory(tmp_path):
    written(tmp_path / "r", 2)
    saved = json.loads((tmp_path / "r" / "config.json").read_text()) | {"transform": "exp 10", "reward": "length"}
    (tmp_path / "r" / "config.json").write_text(json.dumps(saved))
    monitor = TrainingMonitor(tmp_path / "r")
    assert monitor.error is None and monitor.data.plan is None and "2 of some steps done;" in monitor.text
    assert "theory" not in run_view.curves(monitor.data)[0]


def test_arguments_give_the_configuration_back():
    from infalign_edu.cli import parser

    config = CTRLConfig(transform="exp:-10", target_kl=0.3, standardize=False, skip_bad_lines=True, steps=7, seed=3)
    options = vars(parser().parse_args(["align", *runs.arguments(config.identity())]))
    options.pop("command")
    assert CTRLConfig(**options) == config


def test_settings_that_cannot_be_trained_are_an_error_on_the_page(here):
    monitor = TrainingMonitor(**TINY, model="no/such model")
    monitor.settings["samples_per_prompt"] = 1
    monitor.start_button.click()
    assert "samples_per_prompt must be an integer of at least 2, got 1" in monitor.message.value
    assert monitor.job is None and list(here.iterdir()) == [] and monitor.image.value[1:4] == b"PNG"
    monitor.resume_button.click()
    assert "there is no run to resume yet" in monitor.message.value


def until(monitor, done):
    """Polls until `done`; waits on the job itself in between, and fails the test when the job has ended without it."""
    for _ in range(2000):
        monitor.poll()
        if done(monitor.data):
            return
        running = monitor.job
        assert running is not None, monitor.text
        try:
            running.process.wait(0.1)
        except subprocess.TimeoutExpired:
            continue
    pytest.fail("the job takes too long")


def test_a_job_that_fails_says_why_in_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    monitor = TrainingMonitor(tmp_path / "file" / "run", **TINY)
    monitor.start_button.click()
    assert monitor.data.state == "running" and monitor.error is None and not monitor.stop_button.disabled
    monitor.job.process.wait(120)
    with pytest.raises(RuntimeError, match=r"^infalign_edu: out '.*file/run' can't be written: Not a directory; mend this or choose"):
        monitor.poll()
    assert monitor.job is None and monitor.data.state == "no run" and not monitor.start_button.disabled


def test_the_page_follows_by_itself_and_shows_a_failure(tmp_path, monkeypatch):
    monkeypatch.setattr(job, "_JOB", "import sys; print('50 %\\rinfalign_edu: <no> room', file=sys.stderr); sys.exit(2)")
    monkeypatch.setattr("infalign_edu.classroom.widgets.training.EVERY", 0.01)

    async def page():
        monitor = TrainingMonitor(tmp_path / "r", **TINY)
        monitor.start_button.click()
        await asyncio.wait_for(monitor._task, 60)
        return monitor

    monitor = asyncio.run(page())
    assert "RuntimeError: infalign_edu: &lt;no&gt; room</div>" in monitor.message.value and monitor.job is None


WAITING = job._JOB.partition("from infalign_edu")[0] + "open(sys.argv[-1], 'w')\nwhile True: time.sleep(0.01)"


def test_closing_the_widget_ends_its_job(tmp_path, monkeypatch):
    monkeypatch.setattr(job, "_JOB", WAITING.replace("open(sys.argv[-1], 'w')\n", ""))
    for close in (TrainingMonitor.close, lambda monitor: monitor.box.close()):
        monitor = TrainingMonitor(tmp_path / "r", **TINY)
        monitor.start()
        process = monitor.job.process
        assert process.poll() is None
        close(monitor)
        assert process.wait(20) != 0 and monitor.job.stopping


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_job_does_not_outlive_a_kernel_that_is_killed(tmp_path):
    """The job holds a pipe open for writing: reading it ends when the job does."""
    os.mkfifo(tmp_path / "alive")
    code = f"""import os, signal, sys
from infalign_edu.classroom.widgets import job
job._JOB = {WAITING.replace("open(", "kept = open(")!r}
job.Job([{str(tmp_path / "alive")!r}])
sys.stdin.read()
os.kill(os.getpid(), signal.{"SIGKILL"})"""
    kernel = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE)
    with (tmp_path / "alive").open("rb", buffering=0) as alive:  # opens when the job does
        assert not select.select([alive], [], [], 0.3)[0]  # both live
        kernel.stdin.close()
        assert kernel.wait(20) == -signal.SIGKILL
        assert select.select([alive], [], [], 20)[0] and alive.read(1) == b""


def test_examples_are_of_the_newest_weights_and_script_shaped_responses_are_text(tmp_path, monkeypatch):
    from infalign_edu.lm.models import load
    from infalign_edu.rl.ctrl import trainable

    hostile = "<script>alert(1)</script>"
    part, policy = written(tmp_path / "r", 9, reward="gold:helpfulness"), trainable(load("embedded", device="cpu"))
    weights = {f"policy.{name}": p.detach() for name, p in policy.model.named_parameters()}
    part.snapshot(weights, 4)
    monitor = TrainingMonitor(tmp_path / "r")
    monitor.look()
    same = runs.examples(tmp_path / "r", runs.newest_snapshot(tmp_path / "r"))
    assert len(same) == 4 and all(one.before == one.after and one.rewards[0] == one.rewards[1] for one in same)
    assert "policy after step 4" in monitor.table.value and same[0].after in monitor.table.value
    part.snapshot({name: w * 0.5 for name, w in weights.items()}, 8)
    moved = runs.examples(tmp_path / "r", runs.newest_snapshot(tmp_path / "r"))
    assert [one.before for one in moved] == [one.before for one in same] and moved[0].after != same[0].after
    monkeypatch.setattr("infalign_edu.lm.policy.Policy.decode", lambda self, tokens, mask: [hostile] * len(mask))
    monitor.look()
    assert "policy after step 8" in monitor.table.value and "<script" not in monitor.table.value
    assert monitor.table.value.count("&lt;script&gt;alert(1)") == 8


@pytest.mark.slow
def test_started_stopped_and_resumed_is_the_uninterrupted_run(here):
    """The real pipeline as a job: what the monitor shows at the end is what `align` gives in one piece."""
    monitor = TrainingMonitor(**TINY)
    monitor.controls["steps"].value, monitor.controls["seed"].value = 30, 5
    monitor.start_button.click()
    assert monitor.folder == (monitor.folder.parent / "monitor-1") and monitor.data.state == "running"
    with pytest.raises(RuntimeError, match="a job is running: stop it first"):
        monitor.start()
    until(monitor, lambda data: data.run is not None and data.run.steps >= 4)
    monitor.stop_button.click()
    until(monitor, lambda data: data.state == "stopped")
    stopped = monitor.data.run.steps
    assert 4 <= stopped < 30 and monitor.error is None and f"{stopped} of 30 steps done" in monitor.text
    assert not monitor.resume_button.disabled
    monitor.controls["seed"].value = 6  # a resumed run keeps its own settings
    monitor.resume_button.click()
    until(monitor, lambda data: data.state == "finished")
    assert monitor.error is None and monitor.data.run.steps == 30 and "Held out: KL" in monitor.text

    whole = ia.align(replace(CTRLConfig(**TINY, transform="exp:10", steps=30, seed=5, target_kl=0.6), out="whole"))
    timeless = [{k: v for k, v in one.items() if k != "seconds"} for one in runs.progress(whole.folder).metrics]
    assert [{k: v for k, v in one.items() if k != "seconds"} for one in monitor.data.run.metrics] == timeless
    assert {**monitor.data.run.report, "seconds": 0} == {**whole.report, "seconds": 0}
    again = TrainingMonitor(**TINY)
    again.start()
    assert again.folder.name == "monitor-2"
    again.close()
    again.job.process.wait(120)
