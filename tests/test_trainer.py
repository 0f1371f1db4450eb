"""The loop on an enumerable policy, where the optimum is known: pi* is proportional to pi_ref exp(Phi / beta)."""

import numpy as np
import pytest
import torch

import infalign_edu as ia
from infalign_edu.lm.table import EnumerablePolicy, PrefixTable
from infalign_edu.rl.runs import TrainingFiles
from infalign_edu.rl.trainer import Scores, Trainer, stream

WORDS, LENGTH = 4, 3


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


def make(phi=None, *, beta=0.4, steps=300, seed=0, **options):
    """A trainer over 4^3 responses with a random reference, and the exact optimum it should reach."""
    rng = np.random.default_rng(7)
    model = PrefixTable(WORDS, LENGTH)
    with torch.no_grad():
        model.table.copy_(torch.tensor(0.7 * rng.normal(size=model.table.shape)))
    policy = EnumerablePolicy(model, WORDS, LENGTH)
    reference = policy.copy()
    worth = dict(zip(policy.responses(), rng.normal(size=WORDS**LENGTH), strict=True))
    rewards = np.array(list(worth.values()))
    u = np.array([reference.distribution() @ ((rewards < r) + 0.5 * (rewards == r)) for r in rewards])
    transformed = np.asarray((phi or ia.Identity())(u))
    number = {text: i for i, text in enumerate(policy.responses())}

    def score(indices, responses):
        rows = np.array([number[text] for text in responses]).reshape(len(indices), -1)
        return Scores(rewards[rows], u[rows], transformed[rows])

    options = {"prompts_per_step": 1, "samples_per_prompt": 128, "learning_rate": 0.05} | options
    trainer = Trainer(policy, reference, ["x"], score, beta=beta, steps=steps, seed=seed, **options)
    optimum = reference.distribution() * np.exp(transformed / beta)
    return trainer, optimum / optimum.sum(), transformed


def kl(p, q):
    return float((p * np.log(p / q)).sum())


@pytest.mark.parametrize(("phi", "beta"), [(ia.Identity(), 0.2), (ia.standardize(ia.Exponential(5.0)), 1.2)])
def test_training_reaches_the_exact_optimum(phi, beta):
    trainer, optimum, transformed = make(phi, beta=beta)
    start = kl(trainer.policy.distribution(), optimum)
    for _ in range(trainer.steps):
        row = trainer.advance()
    found = trainer.policy.distribution()
    assert kl(found, optimum) < 0.005 < 0.1 < start
    exact_kl = kl(found, trainer.reference.distribution())
    assert row["kl"] == pytest.approx(exact_kl, abs=0.05)
    assert row["transformed"] == pytest.approx(found @ transformed, abs=0.3)


def test_a_wrong_beta_or_sign_misses_the_optimum():
    """What the test above would not forgive: half of beta, or the reward turned over."""
    trainer, optimum, _ = make(beta=0.2)
    trainer.beta = 0.1
    for _ in range(trainer.steps):
        trainer.advance()
    assert kl(trainer.policy.distribution(), optimum) > 0.05


def test_same_seed_same_run_and_other_seed_another():
    runs = []
    for seed in (3, 3, 4):
        trainer, *_ = make(steps=5, seed=seed)
        runs.append([trainer.advance()["loss"] for _ in range(5)])
    assert runs[0] == runs[1] != runs[2]


def test_stopping_and_going_on_is_the_same_run_bit_for_bit(tmp_path):
    whole, *_ = make(steps=12)
    for _ in range(12):
        last = whole.advance()
    first, *_ = make(steps=12)
    for _ in range(5):
        first.advance()
    TrainingFiles(tmp_path).save(first.tensors(), first.step)
    second, *_ = make(steps=12)
    second.restore(*TrainingFiles(tmp_path).latest())
    for _ in range(7):
        resumed = second.advance()
    assert {k: v for k, v in resumed.items() if k != "seconds"} == {k: v for k, v in last.items() if k != "seconds"}
    for name, value in whole.tensors().items():
        assert torch.equal(value, second.tensors()[name]), name


def test_micro_batches_do_not_change_the_update():
    big, *_ = make(steps=3, prompts_per_step=1, micro_batch=1000)
    small, *_ = make(steps=3, prompts_per_step=1, micro_batch=17)
    for _ in range(3):
        big.advance(), small.advance()
    assert small.parameters["table"].detach().numpy() == pytest.approx(big.parameters["table"].detach().numpy(), abs=1e-5)


def test_small_updates_are_not_rounded_away_in_bfloat16():
    """A step of 1e-5 is far below bfloat16's spacing near 1; the float32 copies add the steps up."""
    trainer, *_ = make(steps=40, learning_rate=1e-4)
    short, *_ = make(steps=40, learning_rate=1e-4)
    short.policy.model.bfloat16()
    short = Trainer(
        short.policy, short.reference, ["x"], short.score, beta=0.4, steps=40, samples_per_prompt=128, learning_rate=1e-4
    )
    start = short.parameters["table"].detach().clone()
    for _ in range(40):
        trainer.advance(), short.advance()
    moved = (short.parameters["table"].detach() - start).abs().mean()
    assert short.parameters["table"].dtype == torch.float32 and short.policy.model.table.dtype == torch.bfloat16
    assert 5e-4 < float(moved) < 5e-3
    assert torch.equal(short.policy.model.table, short.parameters["table"].bfloat16())
    twin = short.policy.copy()
    with pytest.raises(ValueError, match="policy must have weights that take gradients, got a frozen one"):
        Trainer(twin, short.reference, ["x"], short.score, beta=0.4, steps=40)
    twin.model.requires_grad_(True)
    again = Trainer(twin, short.reference, ["x"], short.score, beta=0.4, steps=40)
    again.restore(short.tensors(), short.step)
    assert torch.equal(again.policy.model.table, short.policy.model.table)


def test_every_epoch_visits_every_prompt_once():
    trainer, *_ = make(steps=10)
    trainer.prompts, trainer.prompts_per_step = [str(i) for i in range(10)], 4
    visited = np.concatenate([trainer.batch(step) for step in range(5)])
    assert sorted(visited[:10]) == sorted(visited[10:]) == list(range(10))
    assert list(visited[:10]) != list(visited[10:])
    assert np.array_equal(trainer.batch(3), trainer.batch(3))


def test_learning_rate_warms_up_and_decays():
    trainer, *_ = make(steps=100)
    rates = [trainer.schedule(step) for step in range(100)]
    assert rates[0] == pytest.approx(0.2) and max(rates) <= 1 and rates[-1] == pytest.approx(0.03)
    assert (np.diff(rates[5:]) <= 0).all()


def test_streams_of_randomness_do_not_meet():
    seeds = {stream(seed, *key) for seed in range(20) for key in [(), (0,), (1,), (0, 0), (0, 1), (1, 0)]}
    assert len(seeds) == 20 * 6 and all(0 <= s < 2**63 for s in seeds)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"beta": 0.0}, "beta must be a positive number, got 0.0"),
        ({"beta": float("nan")}, "beta must be a positive number, got nan"),
        ({"samples_per_prompt": 1}, "samples_per_prompt must be at least 2, got 1"),
    ],
)
def test_bad_input_is_one_clear_error(change, message):
    with pytest.raises(ValueError, match=message):
        make(**change)


def test_infinite_rewards_stop_training():
    trainer, *_ = make(lambda u: np.where(u < 0.5, -np.inf, 0.0))
    with pytest.raises(ValueError, match="transformed rewards must be finite"):
        trainer.advance()


def test_a_checkpoint_of_another_model_is_refused():
    trainer, *_ = make()
    with pytest.raises(ValueError, match=r"must hold table of shape \(21, 4\), got nothing"):
        trainer.restore({}, 3)
    with pytest.raises(ValueError, match=r"got shape \(2, 2\)"):
        trainer.restore({"policy.table": torch.zeros(2, 2)}, 3)
