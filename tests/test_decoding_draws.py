"""Inference-time win rates of decoded outputs are those that theory computes."""

import numpy as np
import pytest
import torch
from test_decoding_search import LENGTH, WORDS, Known, world
from tiny_policy import tiny

from infalign_edu.lm.decoding import Blockwise, Ranked, TreeSearch, inference_win_rate, judge_decoders
from infalign_edu.lm.table import EnumerablePolicy
from infalign_edu.procedures import Standard
from infalign_edu.theory.finite import FiniteProblem
from infalign_edu.theory.sequences import SequenceProblem
from infalign_edu.winrate import win_rate

torch.set_num_threads(1)


@pytest.mark.parametrize("name", ["standard", "best-of-4", "worst-of-2", "blockwise", "tree"])
def test_the_estimate_is_the_exact_win_rate(name):
    _, reference, space = world(ties=True)
    tilted = space.reference * np.exp(0.5 * space.reward)  # a policy that training might give
    policy = EnumerablePolicy.from_distribution((tilted / tilted.sum()).ravel(), WORDS, LENGTH)
    problem, known, at = SequenceProblem(space.reference, space.reward), Known(space), policy.distribution()
    flat = FiniteProblem(space.reference.ravel(), space.reward.ravel())
    if name == "blockwise":
        decoder, exact = Blockwise(known, 1, 3), problem.win_rate(at.reshape(space.shape), problem.blockwise(1, 3))
    elif name == "tree":
        decoder = TreeSearch(known, 2, 2, 1)
        exact = problem.win_rate(at.reshape(space.shape), problem.tree_search(2, 2))
    else:
        decoder, exact = Ranked(name, known), flat.win_rate(at, name)
    prompts = [str(i) for i in range(60)]  # one distribution serves every prompt: 60 independent estimates
    found = inference_win_rate(policy, reference, decoder, known, prompts, samples=40, seed=3)
    assert found.per_prompt.shape == (60,)
    assert abs(found.mean - exact) < 4 * found.stderr
    assert found.stderr < 0.01 and abs(exact - 0.5) > 4 * found.stderr


def test_a_policy_is_even_with_itself_and_a_seed_repeats():
    _, reference, space = world()
    decoder, prompts = Blockwise(Known(space), 1, 3), [str(i) for i in range(40)]
    even = inference_win_rate(reference, reference, decoder, Known(space), prompts, samples=20, seed=0)
    assert abs(even.mean - 0.5) < 4 * even.stderr and even.stderr > 0.005  # the two sides are independent
    again = inference_win_rate(reference, reference, decoder, Known(space), prompts, samples=20, seed=0)
    other = inference_win_rate(reference, reference, decoder, Known(space), prompts, samples=20, seed=1)
    assert (again.per_prompt == even.per_prompt).all() and (other.per_prompt != even.per_prompt).any()


def test_rows_hold_what_single_calls_find_and_share_the_reference():
    policy, reference, space = world()
    known, prompts = Known(space), ["a", "b", "c"]
    decoders = [Ranked("best-of-2", known), Blockwise(known, 1, 2)]
    against = {"reward": known, "opposite": lambda p, t: -np.array(known(p, t))}
    found = judge_decoders(
        {"trained": policy, "reference": reference}, decoders, reference, against, prompts, 10, seed=4
    )
    rows = [one.row() for one in found]
    names = [(row["decoder"], row["policy"], row["judge"]) for row in rows]
    assert names[:3] == [
        ("best-of-2", "trained", "reward"),
        ("best-of-2", "trained", "opposite"),
        ("best-of-2", "reference", "reward"),
    ]
    assert len(rows) == 8 and names[4][0] == "blockwise-b1-k2"
    alone = inference_win_rate(policy, reference, decoders[1], known, prompts, 10, seed=4)
    assert rows[4]["win_rate"] == alone.mean and rows[4]["stderr"] == alone.stderr
    assert rows[5]["win_rate"] == pytest.approx(1 - rows[4]["win_rate"], abs=1e-12)
    assert rows[4]["tokens_per_response"] == rows[4]["drawn_per_response"] == 2 * LENGTH
    assert rows[0]["scored_per_response"] == 2 and rows[4]["scored_per_response"] == 0
    assert rows[4]["low"] < rows[4]["win_rate"] < rows[4]["high"] and rows[4]["cpu_seconds"] >= 0
    assert found[4].win_rate.per_prompt.shape == (3,) and found[4].rewards.shape == (3, 10)


def test_outputs_of_a_rank_procedure_are_independent_and_estimate_what_subsets_estimate():
    policy, reference, space = world()
    known, prompts = Known(space), [str(i) for i in range(50)]
    shown = inference_win_rate(policy, reference, Ranked("best-of-2", known), known, prompts, 40, seed=0)
    draws = [
        Ranked("standard", known).draw(p, prompts, 40, seed=s).rewards(known) for p, s in ((policy, 1), (reference, 2))
    ]
    subsets = win_rate(*draws, "best-of-2")
    assert abs(shown.mean - subsets.mean) < 4 * np.hypot(shown.stderr, subsets.stderr)


def test_the_cost_of_a_rank_procedure_is_that_of_its_draws():
    policy = tiny()

    def length(prompts, responses):
        return np.array([float(len(text)) for text in responses])

    one = Ranked(Standard(), length).draw(policy, ["w0", "w1 w2"], 30, seed=0)
    assert (one.scored == 0).all() and (one.read == 0).all()
    four = Ranked("best-of-4", length).draw(policy, ["w0", "w1 w2"], 30, seed=0)
    plain = policy.sample(["w0", "w1 w2"], 120, seed=0)
    np.testing.assert_array_equal(four.drawn, plain.mask.sum(1).reshape(60, 4).sum(1))
    texts = np.array(plain.responses).reshape(60, 4)
    assert [len(text) for text in four.responses] == [max(map(len, row)) for row in texts]
    some = Ranked("best-of-poisson-1.0", length).draw(policy, ["w0"], 300, seed=0)
    assert some.scored.min() == 1 and abs(some.scored.mean() - 2) < 0.3  # 1 + Poisson(1) draws
    assert (some.scored <= some.drawn).all() and (some.drawn <= policy.max_new_tokens * some.scored).all()


def test_errors_name_the_field():
    policy, reference, space = world()
    known = Known(space)
    with pytest.raises(ValueError, match="samples must be an integer of at least 1, got 0"):
        inference_win_rate(policy, reference, Ranked("standard", known), known, ["a"], samples=0)
    twice = [Blockwise(known, 1, 2), Blockwise(known, 1, 2, known)]
    with pytest.raises(ValueError, match="decoders must have names of their own, got blockwise-b1-k2 twice"):
        judge_decoders({"p": policy}, twice, reference, known, ["a"])
