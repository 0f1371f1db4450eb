"""Any differentiable procedure on a sequence space: simulations, differences, optima, rank procedures, mutants."""

import itertools
import subprocess
import sys

import numpy as np
import pytest
import torch
from test_theory_finite import mutated

from infalign_edu.theory import decoders, sequences
from infalign_edu.theory.finite import FiniteProblem
from infalign_edu.theory.sequences import SequenceProblem

torch.set_num_threads(1)


def example(shape: tuple[int, ...] = (3, 3), seed: int = 0, ties: bool = True) -> tuple[SequenceProblem, np.ndarray]:
    """A problem and a policy that is not its reference."""
    rng, S = np.random.default_rng(seed), int(np.prod(shape))
    reward = rng.integers(0, 4, S).astype(float) if ties else rng.normal(size=S)
    problem = SequenceProblem(rng.dirichlet(np.full(S, 2.0)).reshape(shape), reward.reshape(shape))
    return problem, rng.dirichlet(np.ones(S)).reshape(shape)


PROCEDURES = {
    "blockwise": lambda toy: toy.blockwise(block=1, draws=3),
    "blocks of two": lambda toy: toy.blockwise(block=2, draws=3),
    "tree search": lambda toy: toy.tree_search(draws=3),
    "tree search, one draw each": lambda toy: toy.tree_search(draws=1),
    "soft best-of-4": lambda toy: toy.soft_best_of(n=4, temperature=0.7),
    "rejection": lambda toy: toy.rejection(threshold=1.5, cap=4),
}


def shown(decode, policy: np.ndarray) -> np.ndarray:
    return decode(torch.tensor(policy)).numpy()


def simulate(name: str, toy: SequenceProblem, policy: np.ndarray, M: int, rng: np.random.Generator) -> np.ndarray:
    """Shares of the sequences that M simulated users see, by drawing tokens one after another. Shape: [V, ..., V]."""
    counts = np.zeros(policy.shape)
    T, V = policy.ndim, policy.shape[0]

    def value(prefix):
        inside = toy.reference[prefix] / toy.reference[prefix].sum()
        return round(float((inside * toy.reward[prefix]).sum()), 9)

    def draw(prefix, length, many):
        blocks = list(itertools.product(range(V), repeat=length))
        mass = np.array([policy[prefix + block].sum() for block in blocks])
        picks = rng.choice(len(blocks), size=many, p=mass / mass.sum())
        return [prefix + blocks[i] for i in picks]

    def best(prefixes, keep):  # ties are broken by a random order of the draws
        prefixes = [prefixes[i] for i in rng.permutation(len(prefixes))]
        return sorted(prefixes, key=value, reverse=True)[:keep]

    for _ in range(M):
        if name in ("blockwise", "blocks of two"):
            block, prefix = 1 + (name != "blockwise"), ()
            while len(prefix) < T:
                prefix = best(draw(prefix, min(block, T - len(prefix)), 3), 1)[0]
        elif name.startswith("tree"):
            beams = [(), ()]
            for _ in range(T):
                beams = best([p for beam in beams for p in draw(beam, 1, 3 if name == "tree search" else 1)], 2)
            prefix = beams[0]
        elif name == "soft best-of-4":
            found = draw((), T, 4)
            weight = np.exp(np.array([toy.reward[y] for y in found]) / 0.7)
            prefix = found[rng.choice(4, p=weight / weight.sum())]
        else:
            for _ in range(4):
                prefix = draw((), T, 1)[0]
                if toy.reward[prefix] >= 1.5:
                    break
        counts[prefix] += 1
    return counts / M


@pytest.mark.parametrize("name", PROCEDURES)
def test_simulated_users_see_the_exact_distribution(name):
    toy, policy = example((2, 2, 2), seed=1)
    exact, M = shown(PROCEDURES[name](toy), policy), 4000
    assert exact.sum() == pytest.approx(1, abs=1e-12) and exact.min() >= 0
    shares = simulate(name, toy, policy, M, np.random.default_rng(3))
    stderr = np.sqrt(exact * (1 - exact) / M)
    assert (np.abs(shares - exact) <= 4 * stderr + 1e-12).all()
    np.testing.assert_array_less(0.01, np.abs(exact - policy).max())  # and the procedure does something


@pytest.mark.parametrize("name", PROCEDURES)
@pytest.mark.parametrize("ties", [True, False])
def test_gradient_is_the_derivative_of_the_win_rate(name, ties):
    toy, policy = example(ties=ties)
    decode, h = PROCEDURES[name](toy), 1e-5
    slope = np.zeros(policy.shape)
    for y in np.ndindex(policy.shape):
        to = np.zeros(policy.shape)
        to[y] = 1.0
        up, down = (1 - h) * policy + h * to, (1 + h) * policy - h * to
        slope[y] = (toy.win_rate(up, decode) - toy.win_rate(down, decode)) / (2 * h)
    gradient = toy.gradient(policy, decode)
    np.testing.assert_allclose(gradient, slope, atol=1e-8)
    assert (policy * gradient).sum() == pytest.approx(0, abs=1e-13)
    assert toy.win_rate(toy.reference, decode) == pytest.approx(0.5, abs=1e-12)


@pytest.mark.parametrize("name", PROCEDURES)
@pytest.mark.parametrize("beta", [0.3, 0.05])
def test_the_optimum_is_stationary_and_beats_plain_rlhf(name, beta):
    toy, _ = example()
    decode = PROCEDURES[name](toy)
    solution = toy.optimum(decode, beta)
    tilt = np.log(solution.policy / toy.reference) - toy.gradient(solution.policy, decode) / beta
    assert np.ptp(tilt) < 1e-8 and solution.residual < 1e-8
    assert solution.objective == pytest.approx(toy.objective(solution.policy, decode, beta), abs=1e-12)
    assert solution.win_rate - beta * solution.kl == pytest.approx(solution.objective, abs=1e-12)
    plain = toy.flat.rlhf(toy.flat.calibrated, beta).policy.reshape(toy.shape)
    assert solution.objective > toy.objective(plain, decode, beta) + 1e-3
    rng = np.random.default_rng(0)  # nor does any policy nearby do better
    for scale in (0.01, 0.1, 1.0):
        for _ in range(5):
            other = solution.policy * np.exp(scale * rng.normal(size=toy.shape))
            assert toy.objective(other / other.sum(), decode, beta) < solution.objective


def test_sixty_four_sequences_two_beams():
    toy, _ = example((4, 4, 4), seed=2, ties=False)
    decode = toy.tree_search(draws=2)
    solution = toy.optimum(decode, beta=0.1)
    plain = toy.flat.rlhf(toy.flat.calibrated, 0.1).policy.reshape(toy.shape)
    assert solution.residual < 1e-8 and solution.objective > toy.objective(plain, decode, 0.1) + 0.01


@pytest.mark.parametrize("beta", [0.5, 0.1])
def test_one_block_is_best_of_n_and_has_its_optimum(beta):
    toy, policy = example()
    decode = toy.blockwise(block=2, draws=4)
    np.testing.assert_allclose(shown(decode, policy).ravel(), toy.flat.decode(policy.ravel(), "best-of-4"), atol=1e-14)
    exact, found = toy.flat.infalign("best-of-4", beta), toy.optimum(decode, beta)
    np.testing.assert_allclose(found.policy.ravel(), exact.policy, atol=1e-10)
    assert found.objective == pytest.approx(exact.objective, abs=1e-12)


def test_several_starts_find_what_the_reference_hides():
    toy = SequenceProblem([0.5, 0.5], [0.0, 1.0])
    worst = lambda pi: torch.stack([1 - pi[1] ** 32, pi[1] ** 32])  # noqa: E731
    found, exact = toy.optimum(worst, beta=0.1), toy.flat.infalign("worst-of-32", beta=0.1)
    assert found.objective == pytest.approx(exact.objective, abs=1e-12) == pytest.approx(0.9306853, abs=1e-6)
    assert min(s.objective for s in found.stationary) == pytest.approx(0.5, abs=1e-6)


def test_a_misleading_value_hides_the_optimum_from_the_reference():
    """After token 0 the reference earns 2 for sure, after token 1 it earns 0 or 3, so 1.5 on average.

    Of 16 first tokens the user keeps a 0 if there is one: the answer worth 3 is seen by a user of a policy that has all
    but given up token 0, at a price of log 2 nats, and by nobody else.
    """
    toy = SequenceProblem(np.full((2, 2), 0.25), [[2.0, 2.0], [0.0, 3.0]])
    solution = toy.optimum(toy.blockwise(block=1, draws=16), beta=0.3)
    best, trap = solution.stationary
    assert best.objective == pytest.approx(1 - 0.3 * np.log(2), abs=1e-4) and best.policy[0].sum() < 1e-10
    assert trap.objective == pytest.approx(0.5, abs=1e-4) and trap.residual < 1e-8
    np.testing.assert_allclose(trap.policy, toy.reference, atol=0.002)


def test_procedures_meet_at_their_corners():
    toy, policy = example()
    rank = toy.flat.decode
    same = [
        (toy.blockwise(block=1, draws=1), policy),
        (toy.tree_search(draws=1, beams=1), policy),
        (toy.soft_best_of(n=5, temperature=1e9), policy),
        (toy.soft_best_of(n=1, temperature=0.1), policy),
        (toy.soft_best_of(n=5, temperature=0.01), rank(policy.ravel(), "best-of-5").reshape(toy.shape)),
        (toy.rejection(threshold=9.0, cap=5), policy),
        (toy.rejection(threshold=-9.0, cap=5), policy),
        (toy.blockwise(block=9, draws=2), rank(policy.ravel(), "best-of-2").reshape(toy.shape)),
    ]
    for decode, expected in same:
        np.testing.assert_allclose(shown(decode, policy), expected, atol=2e-8)
    passes = FiniteProblem(toy.flat.reference, toy.flat.reward >= 1.5)  # rejection is best-of-cap on a binary reward
    np.testing.assert_allclose(
        shown(toy.rejection(1.5, cap=5), policy).ravel(), passes.decode(policy.ravel(), "best-of-5"), atol=1e-14
    )
    one_token = SequenceProblem(toy.flat.reference, toy.flat.reward)  # two beams of b draws are 2 b draws
    tree = shown(one_token.tree_search(draws=3), policy.ravel())
    np.testing.assert_allclose(tree, rank(policy.ravel(), "best-of-6"), atol=1e-14)


def test_soft_best_of_n_by_enumeration():
    toy, policy = example((2, 2))
    weight, pi, expected = np.exp(toy.flat.reward / 0.7), policy.ravel(), np.zeros(4)
    for draws in itertools.product(range(4), repeat=4):
        for y in draws:
            expected[y] += pi[list(draws)].prod() * weight[y] / weight[list(draws)].sum()
    np.testing.assert_allclose(shown(toy.soft_best_of(4, 0.7), policy).ravel(), expected, atol=1e-13)


def test_argmax_has_no_derivative_and_bad_input_one_clear_error():
    toy, policy = example()
    beam = lambda pi: torch.nn.functional.one_hot(pi.argmax(), 9).double().reshape(3, 3)  # noqa: E731
    calls = {
        "decode must be differentiable": lambda: toy.optimum(beam, 0.1),
        r"decode\(reference\) must be >= 0 and sum to 1": lambda: toy.win_rate(policy, lambda pi: 2 * pi),
        "beams must be 1 or 2, got 3": lambda: toy.tree_search(draws=2, beams=3),
        "draws must be an integer": lambda: toy.blockwise(block=1, draws=0),
        "temperature must be at least": lambda: toy.soft_best_of(4, 1e-9),
        "beta must be a positive number": lambda: toy.optimum(toy.blockwise(1, 2), -0.1),
        "policy must hold one number": lambda: toy.win_rate(policy.ravel(), toy.blockwise(1, 2)),
        "at most 1024 sequences": lambda: SequenceProblem(np.full((2,) * 11, 2.0**-11), np.zeros((2,) * 11)),
        "reference must be positive": lambda: SequenceProblem([1.0, 0.0], [0.0, 1.0]),
    }
    for message, call in calls.items():
        with pytest.raises(ValueError, match=message):
            call()


def test_importing_the_theory_loads_no_torch():
    code = "import sys, infalign_edu.theory.sequences, infalign_edu.theory.finite; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def core_checks(problem: type) -> None:
    """Every procedure against brute force or a rank procedure; the optimum against its own first-order condition."""
    toy, policy = example((3, 3))
    toy = problem(toy.reference, toy.reward)
    weight, pi, rank = np.exp(toy.flat.reward / 0.7), policy.ravel(), toy.flat.decode
    soft = np.array([2 * pi[y] * (pi * weight[y] / (weight[y] + weight)).sum() for y in range(9)])
    passes = FiniteProblem(toy.flat.reference, toy.flat.reward >= 1.5)
    line = problem(toy.flat.reference, toy.flat.reward)
    for decode, at, expected in (
        (toy.blockwise(2, 3), policy, rank(pi, "best-of-3")),
        (toy.soft_best_of(2, 0.7), policy, soft),
        (toy.rejection(1.5, 3), policy, passes.decode(pi, "best-of-3")),
        (line.tree_search(2), pi, rank(pi, "best-of-4")),
    ):
        np.testing.assert_allclose(shown(decode, at).ravel(), expected, atol=1e-12)
    assert shown(toy.tree_search(2), policy).sum() == pytest.approx(1, abs=1e-12)
    shares = simulate("tree search", toy, policy, 1000, np.random.default_rng(0))
    np.testing.assert_allclose(shares, shown(toy.tree_search(3), policy), atol=0.075)
    if hasattr(toy, "optimum"):
        decode = toy.blockwise(2, 3)
        found, exact = toy.optimum(decode, 0.2), toy.flat.infalign("best-of-3", 0.2)
        np.testing.assert_allclose(found.policy.ravel(), exact.policy, atol=1e-9)
        assert found.objective == pytest.approx(exact.objective, abs=1e-12)
        assert found.win_rate == pytest.approx(exact.win_rate, abs=1e-9) and found.kl == pytest.approx(exact.kl)


def test_the_core_checks_pass_on_the_code_itself():
    core_checks(SequenceProblem)


@pytest.mark.parametrize(
    ("module", "old", "new"),
    [
        (decoders, "for _ in range(draws - 1)", "for _ in range(draws)"),
        (decoders, "@ flat) ** (n - 1)", "@ flat) ** n"),
        (decoders, "/ temperature\n", "* temperature\n"),
        (decoders, "value[:, None] <= value", "value[:, None] >= value"),
        (decoders, "(b - 1) * own", "b * own"),
        (decoders, "(own * other) ** (b - 1)", "(own * other) ** b"),
        (decoders, "* (1 - u)", "* u"),
        (decoders, "v[..., :, None] > v", "v[..., :, None] < v"),
        (sequences, "prior + R / beta", "prior + R"),
        (sequences, "prior + R / beta", "prior - R / beta"),
        (sequences, "win - beta * float", "win - float"),
    ],
    ids=lambda value: value if isinstance(value, str) else value.__name__.split(".")[-1],
)
def test_mutants_fail_the_core_checks(module, old, new):
    mutant = mutated(module, old, new)
    with pytest.raises((AssertionError, RuntimeError, ValueError)):
        core_checks(getattr(mutant, "SequenceProblem", None) or mutant.SequenceSpace)
