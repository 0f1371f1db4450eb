"""The RLOO code, fed with samples only, against the analytic optimum on 6^4 responses: by a table and a transformer."""

import csv
from pathlib import Path

import numpy as np
import pytest
import torch

import infalign_edu as ia
from infalign_edu.lm.table import EnumerablePolicy, PrefixTable, SmallTransformer
from infalign_edu.rl.toy import SLOW, TRANSFORMS, ToyWorld, curve, group_std
from infalign_edu.rl.trainer import Scores

CURVES = Path(__file__).parents[1] / "data" / "runs" / "toy_curves.csv"
BOUND = {name: 0.02 if name in SLOW else 0.005 for name in TRANSFORMS}  # on KL(pi || pi*) in nats and on the gap of J
slow = pytest.mark.slow


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def world():
    return ToyWorld()


def trained(trainer):
    while trainer.step < trainer.steps:
        trainer.advance()
    return trainer.policy.distribution()


RUNS = [
    (name, model, seed)
    for name in TRANSFORMS
    for model in ("table", "transformer")
    for seed in ((0, 1) if model == "table" else (0,))
]
QUICK = [(name, model, 0) for name in ("exp:10", "optimal best-of-4") for model in ("table", "transformer")]


@pytest.mark.parametrize(
    ("name", "model", "seed"), [pytest.param(*run, marks=() if run in QUICK else slow) for run in RUNS]
)
def test_samples_alone_reach_the_analytic_optimum(world, name, model, seed):
    target = world.target(name)
    policy = trained(world.trainer(target, model, seed=seed))
    assert target.kl_to_optimum(policy) <= BOUND[name]
    assert 0 <= target.optimum.objective - target.objective(policy) <= BOUND[name]
    if target.shown:
        assert 0 <= target.shown_gap(policy) <= BOUND[name]
    for shown in ("standard", "best-of-4", "worst-of-4"):
        assert world.problem.win_rate(policy, shown) == pytest.approx(
            world.problem.win_rate(target.optimum.policy, shown), abs=0.02
        )


@pytest.mark.parametrize("name", ["exp:10", "log"])
def test_half_of_beta_misses_the_optimum_and_reaches_its_own(world, name):
    target = world.target(name)
    policy = trained(world.trainer(target, beta=target.beta / 2))
    assert target.kl_to_optimum(policy) > 0.1
    own = world.problem.rlhf(target.phi, target.beta / 2).policy
    assert policy @ np.log(policy / own) < 0.02


def test_dividing_by_the_group_deviation_misses_the_optimum(world):
    """exp:10 stops short of it, where theory says; identity runs on until one response is left."""
    target = world.target("exp:10")
    policy = trained(world.trainer(target, score=group_std(world.score(target))))
    predicted = target.group_std_optimum()
    assert target.kl_to_optimum(policy) > 0.05
    assert policy @ np.log(policy / predicted) < 0.005
    assert target.optimum.objective - target.objective(policy) > 0.1
    target = world.target("identity")
    policy = trained(world.trainer(target, score=group_std(world.score(target))))
    assert target.kl_to_optimum(policy) > 1 < target.kl_to_optimum(target.group_std_optimum())


def test_dividing_by_the_group_deviation_forgets_the_scale_of_phi(world):
    plain = world.score(world.target("exp:10"))(np.array([0]), list(world.number)[:50])
    large = Scores(plain.rewards, plain.calibrated, 7 * plain.transformed)
    small, same = (group_std(lambda indices, responses, s=s: s)(np.array([0]), []) for s in (plain, large))
    assert same.transformed == pytest.approx(small.transformed, abs=1e-3)


@pytest.mark.parametrize("name", TRANSFORMS)
def test_the_objective_gap_is_beta_times_the_kl_to_the_optimum(world, name):
    target = world.target(name)
    reference = world.problem.reference
    assert reference @ target.phi == pytest.approx(0, abs=2e-3)
    assert reference @ target.phi**2 == pytest.approx(1, abs=2e-2)
    assert target.optimum.kl == pytest.approx(0.5, abs=0.01)
    for seed in range(3):
        policy = reference * np.exp(0.5 * np.random.default_rng(seed).normal(size=reference.size))
        policy /= policy.sum()
        gap = target.optimum.objective - target.objective(policy)
        assert gap == pytest.approx(target.beta * target.kl_to_optimum(policy), rel=1e-9)
        assert gap > 0.05
        if target.shown:
            assert target.shown_gap(policy) > 0


@pytest.mark.parametrize("shown", ["best-of-4", "worst-of-4"])
def test_the_optimal_transform_of_this_world_is_that_of_the_continuum(world, shown):
    """W, KL and the RL optimum of the continuous transform agree with those of 1,296 responses."""
    target, beta = world.target(f"optimal {shown}"), ia.theory.optimal_beta_for_kl(shown, 0.5)
    exact, smooth = world.problem.infalign(shown, beta), ia.theory.optimum(shown, beta)
    assert target.optimum.policy == pytest.approx(exact.policy, abs=1e-9)
    assert exact.win_rate == pytest.approx(smooth.win_rate, abs=0.003)
    assert exact.kl == pytest.approx(smooth.kl, abs=0.005)
    assert target.kl_to_optimum(world.problem.rlhf(smooth.transform(world.problem.calibrated), beta).policy) < 1e-3


def test_at_the_optimum_every_batch_has_a_zero_gradient(world):
    target = world.target("optimal best-of-4")
    norms = []
    for share in (0.0, 0.5, 1.0):
        trainer = world.trainer(target)
        start = world.problem.rlhf(share * target.phi, target.beta).policy
        trainer.policy.model.load_state_dict(EnumerablePolicy.from_distribution(start, 6, 4).model.state_dict())
        norms.append(trainer.advance()["gradient_norm"])
    assert min(norms[:2]) > 0.05 > 1e-4 > norms[2]


def test_transformer_is_causal_and_its_weights_come_from_the_seed():
    model = SmallTransformer(words=5, length=4)
    a, b = torch.tensor([[1, 2, 3]]), torch.tensor([[1, 2, 0]])
    assert torch.allclose(model(a)[:, :3], model(b)[:, :3], atol=1e-6)
    assert not torch.allclose(model(a)[:, 3], model(b)[:, 3], atol=1e-2)
    assert torch.allclose(model(a)[:, :2], model(a[:, :1]), atol=1e-6)
    assert torch.equal(model(a), SmallTransformer(words=5, length=4)(a))
    assert not torch.equal(model(a), SmallTransformer(words=5, length=4, seed=1)(a))
    before = torch.random.get_rng_state()
    SmallTransformer(words=5, length=4)
    assert torch.equal(before, torch.random.get_rng_state())


def test_table_from_a_distribution_and_both_starts_are_the_reference(world):
    for model in ("table", "transformer"):
        assert world.policy(model).distribution() == pytest.approx(world.problem.reference, rel=1e-5)
    p = np.random.default_rng(0).dirichlet(np.ones(27))
    policy = EnumerablePolicy.from_distribution(p, 3, 3)
    assert isinstance(policy.model, PrefixTable) and policy.distribution() == pytest.approx(p, rel=1e-5)
    for bad in (np.zeros(27), p[:9]):
        with pytest.raises(ValueError, match="probabilities must be 27 positive numbers, got shape"):
            EnumerablePolicy.from_distribution(bad, 3, 3)
    with pytest.raises(ValueError, match="model must be table or transformer, got 'rnn'"):
        world.policy("rnn")


def test_a_curve_starts_at_the_reference_and_judges_as_often_as_asked(world):
    target = world.target("identity")
    rows = list(curve(world.trainer(target, steps=30), target, points=3))
    assert [row["step"] for row in rows] == [0, 10, 20, 30]
    assert rows[0]["kl"] == pytest.approx(0, abs=1e-6) and rows[0]["standard"] == pytest.approx(0.5, abs=1e-4)
    assert rows[0]["kl_to_optimum"] > rows[-1]["kl_to_optimum"]
    assert rows[-1]["cpu_seconds"] > rows[1]["cpu_seconds"] > 0


def test_the_curves_that_ship_cover_five_seeds_and_end_within_the_bounds(world):
    rows = list(csv.DictReader(CURVES.open(newline="")))
    ends = {(row["transform"], row["model"], row["seed"]): row for row in rows}  # the last row of each run
    assert len(ends) == len(TRANSFORMS) * 2 * 5
    for (name, model, seed), row in ends.items():
        target = world.target(name)
        gap = float(row["objective_optimum"]) - float(row["objective"])
        assert max(float(row["kl_to_optimum"]), gap) <= BOUND[name], (name, model, seed)
        assert float(row["objective_optimum"]) == pytest.approx(target.optimum.objective, abs=1e-5)
        assert gap == pytest.approx(target.beta * float(row["kl_to_optimum"]), abs=1e-4)
        assert row["command"].endswith(f"--transform '{name}' --model {model} --seed {seed}")
