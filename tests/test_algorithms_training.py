"""The algorithms under the trainer: from samples alone they land where theory says, and a run can stop and go on."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

import infalign_edu as ia
from infalign_edu.lm.models import load
from infalign_edu.lm.table import EnumerablePolicy, SmallTransformer
from infalign_edu.rl import ctrl, objectives
from infalign_edu.rl.algorithms import NAMES
from infalign_edu.rl.algorithms.distillation import BoNBoN, optimum
from infalign_edu.rl.algorithms.grpo import GRPO, fixed_point
from infalign_edu.rl.algorithms.ppo import PPO, LinearCritic, TableCritic, output_layer
from infalign_edu.rl.algorithms.preference import DPO, IPO
from infalign_edu.rl.algorithms.quantile_regression import QRPO, log_partition
from infalign_edu.rl.algorithms.rloo import RLOO, micro_batches
from infalign_edu.rl.toy import ToyWorld
from infalign_edu.rl.trainer import ROLLOUTS, stream


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def world():
    return ToyWorld(words=4, length=3)


def kl(p, q):
    return float(p @ np.log(p / q))


def cases(world):
    """Algorithm, transform, and the policy that it is claimed to reach."""
    problem, ref, exp = world.problem, world.problem.reference, world.target("exp:10")
    identity = world.target("identity")
    known = QRPO(log_z=lambda beta: float(np.log(ref @ np.exp(exp.phi / beta))))
    return {
        "rloo": (RLOO(), exp, exp.optimum.policy),
        "ppo": (PPO(), exp, exp.optimum.policy),
        "dpo": (DPO(), exp, exp.optimum.policy),
        "qrpo": (known, exp, exp.optimum.policy),
        "ipo": (IPO(scale=12**0.5), identity, problem.rlhf(problem.calibrated, identity.beta / 12**0.5).policy),
        "ipo told exp:10": (IPO(scale=12**0.5), exp, problem.rlhf(problem.calibrated, exp.beta / 12**0.5).policy),
        "bonbon": (BoNBoN(), exp, optimum(problem, 4, 0.005)),
        "bonbon likelihood": (BoNBoN(alpha=1.0), exp, problem.decode(ref, "best-of-4")),
        "grpo": (GRPO(), exp, fixed_point(ref, exp.phi, exp.beta, 4, normalize=True)),
        "grpo without deviation": (GRPO(normalize=False), exp, fixed_point(ref, exp.phi, exp.beta, 4)),
    }


@pytest.mark.parametrize("name", cases(ToyWorld(words=4, length=3)))
def test_training_on_samples_lands_at_the_claimed_policy(world, name):
    algo, target, claimed = cases(world)[name]
    steps = 250 if algo.name == "bonbon" else 150
    trainer = world.trainer(target, steps=steps, samples_per_prompt=128, learning_rate=0.1, algorithm=algo)
    rows = [trainer.advance() for _ in range(steps)]
    found = trainer.policy.distribution()
    assert kl(found, claimed) < 0.01 < 0.1 < kl(world.problem.reference, claimed)
    if algo.name in ("grpo", "bonbon") or "told" in name:
        assert kl(found, target.optimum.policy) > 0.02
    last = {key: np.mean([row[key] for row in rows[-15:]]) for key in ("kl", "transformed", "calibrated")}
    assert last["kl"] == pytest.approx(world.problem.kl(found), abs=0.06)  # whoever was sampled
    assert last["transformed"] == pytest.approx(found @ target.phi, abs=0.1)
    assert last["calibrated"] == pytest.approx(found @ world.problem.calibrated, abs=0.03)


def test_what_grpo_changes_has_the_predicted_sign_and_size(world):
    """The reversed KL lets good responses grow: more KL at the same beta; the deviation, here above 1, holds back."""
    target = world.target("exp:10")
    loose = fixed_point(world.problem.reference, target.phi, target.beta, 4)
    tight = fixed_point(world.problem.reference, target.phi, target.beta, 4, normalize=True)
    assert world.problem.kl(loose) > 1.5 * target.optimum.kl > target.optimum.kl > 1.5 * world.problem.kl(tight)
    both = [target.objective(p) for p in (loose, tight)]
    assert max(both) < target.optimum.objective - 0.05
    assert kl(target.group_std_optimum(), tight) > 0.01  # the deviation alone would lead elsewhere again


def test_a_critic_learns_the_value_of_the_optimum(world):
    """At the optimum the reward that is left from the first token on is beta log Z, for every response."""
    target = world.target("exp:10")
    trainer = world.trainer(target, steps=150, samples_per_prompt=128, learning_rate=0.1, algorithm="ppo")
    for _ in range(150):
        trainer.advance()
    assert isinstance(trainer.critic, TableCritic)
    root = float(trainer.critic(torch.zeros(1, 3, dtype=torch.long))[0, 0].detach())
    assert root == pytest.approx(
        target.beta * np.log(world.problem.reference @ np.exp(target.phi / target.beta)), abs=0.05
    )


def test_rloo_under_the_trainer_is_the_plain_loop_bit_for_bit(world):
    target = world.target("exp:10")
    trainer = world.trainer(target, steps=5, samples_per_prompt=64, seed=3)
    policy, score = world.policy(), world.score(target)
    optimizer = torch.optim.Adam(policy.model.parameters(), lr=trainer.learning_rate)
    for step in range(5):
        trainer.advance()
        rollouts = policy.sample([""], 64, generator=torch.Generator().manual_seed(stream(3, ROLLOUTS, step)))
        phi = torch.as_tensor(score(np.array([0]), rollouts.responses).transformed, dtype=torch.float32)[0]

        def logprobs(model, rollouts=rollouts):
            return model.logits(rollouts).log_softmax(-1).gather(-1, rollouts.tokens[..., None])[..., 0].sum(-1)

        rewards = phi - target.beta * (rollouts.logprobs.sum(-1) - logprobs(world.reference))
        loss = objectives.policy_gradient_loss(logprobs(policy), objectives.rloo_advantages(rewards[None])[0])
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(policy.model.parameters(), 1.0)
        optimizer.param_groups[0]["lr"] = trainer.learning_rate * trainer.schedule(step)
        optimizer.step()
        assert torch.equal(policy.model.table, trainer.policy.model.table), step


def small(world, name, model="transformer", **options):
    options = {"steps": 6, "samples_per_prompt": 16, "seed": 2} | options
    return world.trainer(world.target("identity"), model, algorithm=name, **options)


@pytest.mark.parametrize("name", NAMES)
def test_stopping_and_going_on_is_the_same_run_bit_for_bit(world, name):
    whole, first, second = small(world, name), small(world, name), small(world, name)
    for _ in range(6):
        last = whole.advance()
    for _ in range(3):
        first.advance()
    second.restore({key: value.clone() for key, value in first.tensors().items()}, first.step)
    for _ in range(3):
        resumed = second.advance()
    assert resumed | {"seconds": 0} == last | {"seconds": 0}
    assert all(torch.equal(value, second.tensors()[key]) for key, value in whole.tensors().items())
    moved = kl(whole.policy.distribution(), world.problem.reference)
    assert moved > 1e-4 and all(np.isfinite(value) for value in last.values())


@pytest.mark.parametrize("name", NAMES)
def test_micro_batches_do_not_change_the_update(world, name):
    sizes = [small(world, name, "table", micro_batch=size) for size in (1000, 7)]
    for trainer in sizes:
        trainer.prompts, trainer.prompts_per_step = ["a", "b", "c"], 3
        for _ in range(3):
            trainer.advance()
    large, little = (trainer.policy.model.table.detach().numpy() for trainer in sizes)
    assert little == pytest.approx(large, abs=2e-5)


@pytest.mark.parametrize("grouped", [False, True])
def test_micro_batches_hold_every_row_once_and_groups_together(grouped):
    lengths = torch.tensor([3, 9, 1, 2, 5, 5, 4, 1, 1, 7, 7, 2])
    rollouts = SimpleNamespace(mask=torch.arange(9) < lengths[:, None], samples=4)
    chunks = micro_batches(rollouts, 5, grouped)
    assert sorted(torch.cat([rows for rows, _ in chunks]).tolist()) == list(range(12))
    assert [longest for _, longest in chunks] == [int(lengths[rows].max()) for rows, _ in chunks]
    assert [longest for _, longest in chunks] == sorted(longest for _, longest in chunks)
    if grouped:
        assert [rows.tolist() for rows, _ in chunks] == [[4, 5, 6, 7], [8, 9, 10, 11], [0, 1, 2, 3]]
    else:
        assert [len(rows) for rows, _ in chunks] == [5, 5, 2]


def test_the_checkpoint_of_ppo_holds_its_critic_and_a_checkpoint_without_one_is_refused(world):
    ppo, rloo = small(world, "ppo"), small(world, "rloo")
    ppo.advance(), rloo.advance()
    assert ppo.tensors()["adam.step.head.weight"] == 2 != rloo.tensors()["adam.step.head.weight"] == 1  # epochs
    rates = [group["lr"] for group in ppo.optimizer.param_groups]
    assert rates == pytest.approx([ppo.learning_rate * ppo.schedule(0), 10 * ppo.learning_rate * ppo.schedule(0)])
    extra = {name for name in ppo.tensors() if "critic" in name}
    assert {"critic.linear.weight", "adam.exp_avg_sq.critic.linear.bias"} <= extra
    assert {name for name in ppo.tensors() if name not in extra} == set(rloo.tensors())
    with pytest.raises(ValueError, match=r"must hold critic.linear.weight of shape \(1, 32\), got nothing"):
        small(world, "ppo").restore(rloo.tensors(), 1)


def test_only_parameters_that_take_gradients_are_trained_and_saved():
    policy = EnumerablePolicy(SmallTransformer(3, 2), 3, 2)
    policy.model.requires_grad_(False)
    policy.model.head.weight.requires_grad_(True)
    before = {name: p.clone() for name, p in policy.model.named_parameters()}
    world = ToyWorld(words=3, length=2)
    world.policy = lambda model: policy
    trainer = world.trainer(world.target("identity"), steps=2, algorithm="ppo")
    trainer.advance()
    assert {name for name in trainer.tensors() if name.startswith("policy.")} == {"policy.head.weight"}
    changed = {name for name, p in policy.model.named_parameters() if not torch.equal(p, before[name])}
    assert changed == {"head.weight"}


def test_a_critic_sees_the_hidden_states_that_make_the_logits_and_leaves_the_model_as_it_was():
    policy = load("embedded")
    rollouts = policy.sample(["how do i fix a tap ?", "hello"], 3, seed=0)
    rows = torch.tensor([4, 0, 2])
    logits = policy.logits(rollouts, rows).detach()
    critic = PPO().critic(policy)
    assert isinstance(critic, LinearCritic)
    features = critic.features(policy, rollouts, rows)
    layer = output_layer(policy.model)
    assert features.shape == (3, rollouts.tokens.shape[1], layer.weight.shape[1]) and not features.requires_grad
    mask = rollouts.mask[rows]
    assert torch.allclose((features @ layer.weight.T)[mask], logits[mask], atol=1e-4)
    assert torch.equal(policy.logits(rollouts, rows).detach(), logits)
    seen, values = critic.look(policy, rollouts, [rows, torch.tensor([1, 3, 5])])
    assert torch.allclose(seen[rows][mask], features[mask], atol=1e-5) and not values.any()  # a new critic says 0
    with pytest.raises(ValueError, match="model must have an output layer to put a value head beside, got Identity"):
        output_layer(torch.nn.Identity())


@pytest.mark.parametrize("name", NAMES)
def test_offline_algorithms_sample_the_reference_and_nobody_else(world, name, monkeypatch):
    trainer, asked = small(world, name), []
    for role in ("policy", "reference"):
        original = getattr(trainer, role).sample
        spy = lambda *a, role=role, original=original, **k: (asked.append(role), original(*a, **k))[1]  # noqa: E731
        monkeypatch.setattr(getattr(trainer, role), "sample", spy)
    trainer.advance(), trainer.advance()
    assert asked == 2 * ["reference" if name in ("dpo", "ipo", "bonbon", "qrpo") else "policy"]
    assert trainer.reference.distribution() == pytest.approx(world.problem.reference)


def test_the_pipeline_tells_the_algorithm_its_transform_and_its_calibration():
    phi = ia.standardize(ia.Exponential(10.0))
    for name in ("qrpo", "ipo"):
        config = ia.CTRLConfig(algorithm=name, steps=1, samples_per_prompt=2, prompts_per_step=1)
        parts = load("embedded"), SimpleNamespace(training=["hello"]), SimpleNamespace(K=6)
        built = ctrl.build_trainer(config, ctrl.Objective("exp:10", phi, 0.3), *parts).algorithm
        if isinstance(built, QRPO):
            assert built.log_z(0.3) == log_partition(phi, 0.3, 6)
        else:
            assert built == IPO(scale=pytest.approx(12**0.5))


@pytest.mark.parametrize("name", ["ppo", "bonbon:2"])
def test_align_by_name(tmp_path, name):
    """Configuration, run folder and resume know the algorithm; the transform reaches those that need it."""
    options = {"transform": "exp:10", "steps": 2, "prompts_per_step": 3, "samples_per_prompt": 4, "training_prompts": 8,
               "reference_samples": 6, "heldout_prompts": 4, "evaluation_samples": 4, "snapshots": 1}  # fmt: skip
    config = ia.CTRLConfig(out=str(tmp_path / "r"), algorithm=name, **options)
    assert ctrl.align(config).report["kl"] > 0
    with pytest.raises(ValueError, match=f"algorithm must be '{name}' to resume .*, got 'rloo'"):
        ctrl.align(ia.CTRLConfig(out=str(tmp_path / "r"), resume=True, **options))
