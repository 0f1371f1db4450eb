"""CTRL inside TRL: the same rewards on two processes as on one, settings that are looked at, and the analytic optimum."""

import importlib.util
import json
import os
import re
import subprocess
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import transformers
import trl_world as world
from transformers import GPT2LMHeadModel

import infalign_edu as ia
from infalign_edu.lm.datasets import turns
from infalign_edu.rl import trl_reward
from infalign_edu.rl.algorithms.grpo import GRPO
from infalign_edu.rl.algorithms.rloo import RLOO, Batch, Rows
from infalign_edu.rl.tables import Tables, digest, keyed, prompt_seed
from infalign_edu.rl.trl_reward import CTRLReward

needs_trl = pytest.mark.skipif(not importlib.util.find_spec("trl"), reason="TRL is not installed")
QUIET = {"use_cpu": True, "bf16": False, "gradient_checkpointing": False, "report_to": "none", "disable_tqdm": True}
STOP, STEPS = 40, 100
LEFT_OUT = ("normalize_advantages", "reward_clip_range")  # fields that GRPOConfig does not have


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("trl")
    world.write(path / "model")
    return path


@pytest.fixture(scope="module")
def tables(folder):
    return Tables.make(world.policy(folder / "model"), world.PROMPTS, world.reward, samples=world.K)


@pytest.fixture
def ctrl(tables):
    return CTRLReward(tables, world.reward, transform="exp:10", target_kl=0.5)


def call(ctrl, key, said):
    return ctrl(prompts=[world.PROMPTS[key]] * len(said), completions=said, prompt_id=[key] * len(said))


# tables


def test_a_row_depends_on_its_own_prompt_id_and_the_seed_alone(folder, tables):
    policy = world.policy(folder / "model")
    row = dict(zip(tables.prompts, tables.calibrator.reference_rewards, strict=True))
    backwards = Tables.make(policy, dict(reversed(world.PROMPTS.items())), world.reward, samples=world.K)
    assert np.array_equal(backwards.calibrator.reference_rewards, tables.calibrator.reference_rewards)
    alone = Tables.make(policy, {"two": world.PROMPTS["two"]}, world.reward, samples=world.K)
    assert np.array_equal(alone.calibrator.reference_rewards[0], row["two"])
    twins = Tables.make(policy, {"two": "w1", "copy": "w1"}, world.reward, samples=world.K).calibrator.reference_rewards
    assert np.array_equal(twins[1], row["two"]) and not np.array_equal(*twins)
    other = Tables.make(policy, {"two": "w1"}, world.reward, samples=world.K, seed=1)
    assert not np.array_equal(other.calibrator.reference_rewards[0], row["two"])
    assert len({prompt_seed(s, k) for s in range(3) for k in ("a", "b", 1)}) == 9


def test_a_table_holds_rewards_of_plain_samples_of_the_reference(folder, tables):
    problem = world.problem(world.policy(folder / "model").model, "three")
    big = Tables.make(world.policy(folder / "model"), {"three": "w2"}, world.reward, samples=20_000)
    u = big.calibrated(["three"] * len(problem.reward), problem.reward)
    assert np.abs(u - problem.calibrated).max() < 0.02  # a Kolmogorov bound of 1.36/sqrt(20000) = 0.0096


def test_calibrated_uses_the_row_of_each_response_and_keeps_off_zero():
    tables = Tables.of({1: "x", 0: "y"}, {0: [0.0, 1.0, 2.0, 3.0], 1: [10.0, 11.0, 12.0, 13.0]})
    assert tables.calibrated([0, 1, "1", 0], [1.5, 1.5, 12.0, 9.0]).tolist() == [0.5, 0.125, 0.625, 1.0]
    with pytest.raises(ValueError, match="prompt_id must be one of the 2 that have a table, got 2"):
        tables.calibrated([2], [0.0])


def test_saved_tables_come_back_whole_and_are_checked(tmp_path, folder, tables):
    file = tables.save(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["calibration.npz"] and file == tmp_path / "calibration.npz"
    for path in (tmp_path, file, str(file)):
        back = Tables.load(path, world.PROMPTS, **tables.made_with)
        assert np.array_equal(back.calibrator.reference_rewards, tables.calibrator.reference_rewards)
    assert "w1" not in json.dumps(tables.made_with)  # prompts may be private
    world.ASKED.clear()
    policy = world.policy(folder / "model")
    again = Tables.make(policy, world.PROMPTS, world.reward, samples=world.K, path=file)
    assert world.ASKED == [] and np.array_equal(again.calibrator.reference_rewards, back.calibrator.reference_rewards)
    with pytest.raises(ValueError, match=r"calibration.npz' must be made with samples 8, got 64"):
        Tables.make(policy, world.PROMPTS, world.reward, samples=8, path=file)
    with pytest.raises(ValueError, match=r"must be made with seed 3, got 0"):
        Tables.make(policy, world.PROMPTS, world.reward, samples=world.K, path=file, seed=3)
    with pytest.raises(ValueError, match=r"must be made with reward 'abs', got 'reward \w{12}'"):
        Tables.make(policy, world.PROMPTS, abs, samples=world.K, path=file)

    def reward(prompts, responses):  # of the same name
        return [-value for value in world.reward(prompts, responses)]

    with pytest.raises(ValueError, match=r"must be made with reward 'reward \w{12}', got 'reward \w{12}'"):
        Tables.make(policy, world.PROMPTS, reward, samples=world.K, path=file)
    with pytest.raises(ValueError, match=r"must be made with prompts '"):
        Tables.make(policy, world.PROMPTS | {"two": "w0"}, world.reward, samples=world.K, path=file)
    with torch.no_grad():
        policy.model.lm_head.weight[0, 0] += 0.5
    with pytest.raises(ValueError, match=r"must be made with model '"):
        Tables.make(policy, world.PROMPTS, world.reward, samples=world.K, path=file)
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(ValueError, match="can't be read"):
        Tables.load(file, world.PROMPTS)


def test_ids_are_texts_that_differ():
    assert keyed({2: "b", 1: "a"}) == {"1": "a", "2": "b"}
    with pytest.raises(ValueError, match="ids that differ as text, at least one, got 1 of 2"):
        keyed({1: "a", "1": "b"})
    with pytest.raises(ValueError, match="got 0 of 0"):
        keyed([])
    with pytest.raises(ValueError, match="rewards must have the prompts' ids"):
        Tables.of({"a": "x"}, {"b": [1.0]})
    with pytest.raises(ValueError, match=r"rewards must be K for every prompt, got \[1, 2\]"):
        Tables.of(["x", "y"], [[1.0], [1.0, 2.0]])
    assert digest({"a": "bc"}) != digest({"ab": "c"})


# the reward


def test_the_reward_is_the_transform_of_the_prompts_own_quantile(folder, tables, ctrl):
    said, phi = world.responses(), ia.standardize(ia.transform("exp:10"))
    for row, key in enumerate(tables.prompts):
        text = world.PROMPTS[key]
        u = tables.calibrator.take([row])([world.reward([text] * len(said), said)])[0]
        assert call(ctrl, key, said) == phi(u.clip(1 / (2 * world.K), 1)).tolist()
    assert ctrl.beta == ia.theory.beta_for_kl(phi, 0.5)


def test_beta_and_scale_mean_what_they_mean_in_the_pipeline(tables):
    raw = CTRLReward(tables, world.reward, transform="exp:10", beta=2.0, standardize=False)
    assert (raw.beta, float(raw.transform(0.5))) == (2.0, pytest.approx(np.exp(5.0)))
    optimal = CTRLReward(tables, world.reward, transform="optimal", procedure="worst-of-4", beta=0.2)
    best = ia.theory.optimum("worst-of-4", 0.2)
    u = np.linspace(0.05, 1, 20)
    moved = optimal.transform(u) / optimal.beta - best.transform(u) / 0.2  # a constant: the same optimum
    assert np.ptp(moved) < 1e-9
    with pytest.raises(ValueError, match="give beta or target_kl, not both"):
        CTRLReward(tables, world.reward, beta=1.0, target_kl=1.0)


def test_chats_and_spaces_are_the_same_question(tables, ctrl):
    said = world.responses()[:4]
    chat = ctrl(
        prompts=[turns("w1")] * 4, completions=[[{"role": "assistant", "content": f" {text} "}] for text in said],
        prompt_id=["two"] * 4,
    )  # fmt: skip
    assert chat == call(ctrl, "two", said)
    tables.made_with["chat"] = True
    try:
        assert ctrl.columns()["prompt"][0] == turns(next(iter(tables.prompts.values())))
    finally:
        tables.made_with["chat"] = False
    assert ctrl.columns() == {"prompt": list(keyed(world.PROMPTS).values()), "prompt_id": list(keyed(world.PROMPTS))}


def test_a_prompt_that_is_not_the_tables_is_an_error(ctrl):
    ask = {"completions": ["w0 w0"], "completion_ids": [[0, 0]]}
    with pytest.raises(ValueError, match="prompt_id must be a column of the dataset, with remove_unused_columns=False"):
        ctrl(prompts=["w0"], **ask)
    with pytest.raises(ValueError, match="prompt_id must be one of the 3 that have a table, got 'four'"):
        ctrl(prompts=["w0"], prompt_id=["four"], **ask)
    with pytest.raises(ValueError, match="prompt of id 'one' must be the table's, 'w0', got 'w1'"):
        ctrl(prompts=["w1"], prompt_id=["one"], **ask)


def test_means_are_logged_for_the_trainer(ctrl):
    logged = {}
    said = world.responses()
    ctrl(prompts=["w0"] * len(said), completions=said, prompt_id=["one"] * len(said), log_metric=logged.__setitem__)
    assert logged["ctrl/reward"] == pytest.approx(world.reward(["w0"] * len(said), said).mean())
    assert 0 < logged["ctrl/calibrated"] < 1


# settings


class RLOOConfig(SimpleNamespace):
    """Stands in for TRL's: the check reads names and fields only."""


class GRPOConfig(RLOOConfig):
    pass


def config(ctrl, kind=RLOOConfig, **changes):
    more = {"gradient_accumulation_steps": 1, "steps_per_generation": 1, "world_size": 1}
    return kind(**(ctrl.settings() | more | changes))


def test_its_own_settings_pass_and_carry_beta_and_length(ctrl):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ctrl.check(config(ctrl))
    assert ctrl.settings()["beta"] == ctrl.beta and ctrl.settings()["max_completion_length"] == world.LENGTH
    assert ctrl.settings(learning_rate=1e-5)["learning_rate"] == 1e-5
    with pytest.raises(ValueError, match="temperature must be 1.0, got 0.7"):
        ctrl.settings(temperature=0.7)


@pytest.mark.parametrize(
    ("field", "value"),
    [("temperature", 0.9), ("top_k", 50), ("top_p", 0.95), ("min_p", 0.1), ("repetition_penalty", 1.1),
     ("generation_kwargs", {"num_beams": 2}), ("normalize_advantages", True), ("reward_clip_range", (-1.0, 1.0)),
     ("reward_weights", [0.5]), ("num_iterations", 2), ("mask_truncated_completions", True), ("sync_ref_model", True),
     ("disable_dropout", False), ("remove_unused_columns", True), ("beta", 0.05), ("beta", 0.0),
     ("max_completion_length", 512), ("chat_template_kwargs", {"x": 1}), ("steps_per_generation", 4),
     ("generation_batch_size", 48)],
)  # fmt: skip
def test_every_setting_that_breaks_the_transform_is_named_with_its_value(ctrl, field, value):
    with pytest.raises(ValueError) as error:
        ctrl.check(config(ctrl, **{field: value}))
    line = str(error.value)
    assert line.startswith(f"{field} must be ") and f"got {value!r}" in line and "\n" not in line


def test_all_wrong_settings_are_told_at_once_and_other_trainers_refused(ctrl):
    with pytest.raises(ValueError) as error:
        ctrl.check(config(ctrl, temperature=0.5, num_iterations=4))
    assert [line.split()[0] for line in str(error.value).splitlines()] == ["temperature", "num_iterations"]
    with pytest.raises(ValueError, match="config must be an RLOOConfig"):
        ctrl.check(SimpleNamespace(beta=ctrl.beta))
    trainer = SimpleNamespace(args=config(ctrl), reward_funcs=[ctrl, len])
    with pytest.raises(ValueError, match="reward_funcs must be this reward alone, got 2"):
        ctrl.check(trainer)
    with pytest.warns(UserWarning, match="num_generations 2: unbiased but noisy"):
        ctrl.check(config(ctrl, num_generations=2))


def test_a_launch_that_runs_one_process_is_found_out(ctrl):
    trainer = SimpleNamespace(args=config(ctrl), accelerator=SimpleNamespace(num_processes=1))
    ctrl.check(trainer, processes=1)
    with pytest.raises(ValueError, match="processes must be 2, got 1: .*torchrun --nproc_per_node"):
        ctrl.check(trainer, processes=2)


def test_grpo_is_told_what_it_optimises(ctrl):
    with pytest.warns(UserWarning, match=r"gradient of KL\(pi_ref \|\| pi\), and scale_rewards='group' divides Phi"):
        ctrl.check(config(ctrl, GRPOConfig, scale_rewards="group"))
    with pytest.warns(UserWarning, match=r"GRPOConfig does not maximise .* use RLOOConfig") as told:
        ctrl.check(config(ctrl, GRPOConfig, scale_rewards="none", use_bias_correction_kl=True))
    assert not [word for word in ("divides", "gradient") if word in str(told[0].message)]


def test_without_trl_there_is_one_clear_line(ctrl, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "trl", None)
    with pytest.raises(ImportError, match=r"TRL must be installed: pip install 'infalign-edu\[trl\]'"):
        ctrl.trainer(tmp_path, tmp_path)


def test_the_module_itself_needs_no_trl(monkeypatch):
    for name in ("trl", "datasets", "accelerate"):
        monkeypatch.setitem(sys.modules, name, None)  # an import of it raises
    spec = importlib.util.spec_from_file_location("again", trl_reward.__file__)
    again = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(again)
    assert again.KEPT == trl_reward.KEPT


@needs_trl
def test_every_field_that_is_looked_at_is_one_of_the_installed_trl(ctrl, tmp_path):
    from trl import GRPOConfig as Group
    from trl import RLOOConfig as LeaveOneOut

    made = LeaveOneOut(output_dir=str(tmp_path), **ctrl.settings(), **QUIET)
    assert [field for field in trl_reward.LOOKED_AT if not hasattr(made, field)] == []
    ctrl.check(made)
    defaults = LeaveOneOut(output_dir=str(tmp_path), per_device_train_batch_size=6, **QUIET)
    with pytest.raises(ValueError) as error:
        ctrl.check(defaults)
    assert {line.split()[0] for line in str(error.value).splitlines()} == {"disable_dropout", "beta", "max_completion_length"}
    group = Group(output_dir=str(tmp_path), **{k: v for k, v in ctrl.settings().items() if k not in LEFT_OUT}, **QUIET)
    with pytest.warns(UserWarning, match="scale_rewards='group' divides Phi"):
        ctrl.check(group)


def test_the_page_lists_every_setting_and_its_script_runs_and_goes_on(folder, tmp_path, monkeypatch):
    page = (Path(__file__).parents[1] / "teaching" / "scaling_out.md").read_text(encoding="utf-8")
    rows = [f"| `{field}` | `{accepted[0]!r}` | {why} |" for field, (accepted, why) in trl_reward.KEPT.items()]
    assert page.split("|---|---|---|\n")[1].split("\n<!-- /settings -->")[0].splitlines() == rows
    if importlib.util.find_spec("trl") is None:
        pytest.skip("TRL is not installed")
    script = re.search(r"save as `align_trl.py`:\n\n```python\n(.*?)```", page, re.DOTALL)[1]
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("w0\nw1\nw2\n")
    for steps in (2, 3):
        more = {"max_steps": steps, "max_completion_length": 2, "per_device_train_batch_size": 8, "save_steps": 2} | QUIET
        monkeypatch.setattr(sys, "argv", ["align_trl.py", str(folder / "model"), str(prompts), str(tmp_path / "out"), "1", json.dumps(more)])
        space = {}
        exec(script, space)
        assert space["trainer"].state.global_step == steps
    assert sorted(p.name for p in (tmp_path / "out").glob("c*")) == ["calibration.npz", "checkpoint-2", "checkpoint-3"]
    assert (tmp_path / "out" / "checkpoint-3" / "calibration.npz").is_file()
    assert (tmp_path / "out" / "policy" / "model.safetensors").is_file()


# training


# torchrun, which would ask the network for this machine's name
TORCHRUN = "import socket; socket.getfqdn = lambda *a: 'localhost'; from torch.distributed.run import main; main()"


def launch(folder, stop):
    """torchrun with two processes on this machine; their output is shown where they fail."""
    tests = Path(__file__).parent
    command = [sys.executable, "-c", TORCHRUN, "--nproc_per_node", "2", "--rdzv-backend", "c10d",
               "--rdzv-endpoint", "127.0.0.1:0", "--local-addr", "127.0.0.1", str(tests / "trl_two_processes.py"), str(folder), str(stop), str(STEPS)]  # fmt: skip
    paths = os.pathsep.join([str(tests), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-6000:]
    return json.loads((folder / f"found-{stop}.json").read_text())


@needs_trl
def test_two_processes_give_the_rewards_of_one_resume_and_reach_the_optimum(folder, tables, ctrl):
    first = launch(folder, STOP)
    mine = {(key, said): phi for key in world.PROMPTS for said, phi in zip(world.responses(), call(ctrl, key, world.responses()), strict=True)}
    assert {tuple(row): phi for row, phi in first["phi"]} == mine  # bit for bit
    assert np.array_equal(first["table"], tables.calibrator.reference_rewards) and first["beta"] == ctrl.beta
    shares = sorted(len(made) for made, _ in first["made"])
    assert shares == [1, 2] and sum(n for _, n in first["made"]) == len(world.PROMPTS) * world.K  # shared work
    assert first["steps"] == list(range(1, STOP + 1))
    checkpoint = folder / "run" / f"checkpoint-{STOP}"
    Tables.load(checkpoint, world.PROMPTS, **tables.made_with)

    if tuple(map(int, transformers.__version__.split(".")[:2])) < (5, 18):
        pytest.skip("to resume with several CPU processes, transformers must be 5.18 or newer")  # its device "cpu:0"
    second = launch(folder, STEPS)
    assert [n for _, n in second["made"]] == [0, 0]  # loaded, not made again
    assert second["steps"] == list(range(1, STEPS + 1)) and second["phi"] == first["phi"]
    model, reference = (GPT2LMHeadModel.from_pretrained(folder / name) for name in (f"policy-{STEPS}", "model"))
    for key, prompt in world.PROMPTS.items():
        start, found, best = world.distribution(reference, prompt), world.distribution(model, prompt), world.optimum(ctrl, reference, key)
        assert kl(start, best) > 0.1 and apart(start, best) > 0.15
        assert kl(found, best) < 0.03 and apart(found, best) < 0.05, key


def kl(p, q):
    return float(p @ np.log(p / q))


def apart(p, q):
    """Total variation."""
    return float(np.abs(p - q).sum() / 2)


@needs_trl
def test_a_run_with_other_tables_is_not_resumed(folder, tables, ctrl, tmp_path):
    (tmp_path / "checkpoint-7").mkdir()
    args, state = SimpleNamespace(output_dir=str(tmp_path)), SimpleNamespace(global_step=7, is_world_process_zero=True)
    ctrl.callback().on_save(args, state, None)
    ctrl.callback().on_train_begin(args, state, None)
    other = Tables.of(world.PROMPTS, {key: [0.0, 1.0] for key in world.PROMPTS})
    with pytest.raises(ValueError, match=r"checkpoint-7.calibration.npz' must be made with samples 2, got 64"):
        CTRLReward(other, world.reward, beta=1.0).callback().on_train_begin(args, state, None)


@needs_trl
@pytest.mark.parametrize("name", ["rloo", "grpo", "grpo group", "grpo published"])
def test_trls_update_is_that_of_the_librarys_algorithm(folder, ctrl, tmp_path, name):
    """On the running trainer: the gradients of three steps. So `grpo.fixed_point` speaks of TRL's GRPO, too."""
    import trl
    from datasets import Dataset

    M, key, seen = 64, "three", []
    kind, _, form = name.upper().partition(" ")
    algo = RLOO() if kind == "RLOO" else GRPO(normalize=form == "GROUP", corrected=form != "PUBLISHED")
    chosen = ctrl.settings(num_generations=M, learning_rate=5e-3, max_steps=3, per_device_train_batch_size=M,
                           save_strategy="no", logging_strategy="no", output_dir=str(tmp_path), **QUIET)  # fmt: skip
    if kind == "GRPO":
        chosen = {k: v for k, v in chosen.items() if k not in LEFT_OUT}
        chosen |= {"scale_rewards": "group" if form == "GROUP" else "none", "use_bias_correction_kl": form != "PUBLISHED"}

    class Watched(getattr(trl, f"{kind}Trainer")):
        def compute_loss(self, model, inputs, **options):
            loss = super().compute_loss(model, inputs, **options)
            ids, y = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], 1), inputs["completion_ids"]
            now, reference = (logprobs(m, ids, y) for m in (model, self.ref_model))
            said = [" ".join(f"w{i}" for i in row) for row in y.tolist()]
            phi, mask = torch.tensor(call(ctrl, key, said)).float()[None], torch.ones_like(y, dtype=torch.bool)
            past, at_rest = now.detach(), reference.detach()
            batch = Batch(phi, phi, past.sum(1), at_rest.sum(1), past, at_rest, mask, 0 * past, past[:, :0], ctrl.beta)
            targets = algo.targets(batch)
            if form == "GROUP":  # TRL's deviation within a group has M - 1 below, the library's M
                targets["advantages"] *= ((M - 1) / M) ** 0.5
            ours = algo.loss(Rows(now, mask, targets, M, ctrl.beta))
            weights = [p for p in model.parameters() if p.requires_grad]
            both = (torch.autograd.grad(each, weights, retain_graph=True) for each in (loss, ours))
            theirs, mine = (torch.cat([g.flatten() for g in gradients]) for gradients in both)
            seen.append((float((theirs - mine).norm() / mine.norm()), float((past - at_rest).sum(1).mean())))
            return loss

    data = Dataset.from_dict({"prompt": [world.PROMPTS[key]], "prompt_id": [key]})
    args = getattr(trl, f"{kind}Config")(**chosen)
    Watched(str(folder / "model"), ctrl, args, train_dataset=data).train()
    off, kls = zip(*seen, strict=True)
    assert len(off) == 3 and max(off) < 1e-4 and kls[-1] > 0.02 > abs(kls[0])


def logprobs(model, ids, y):
    logits = model(input_ids=ids).logits[:, -y.shape[1] - 1 : -1]
    return logits.log_softmax(-1).gather(-1, y[..., None])[..., 0]
