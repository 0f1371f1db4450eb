"""Decoders that look inside a response show the distribution that theory computes, on responses that can be counted."""

from collections import Counter
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from tiny_policy import EOS, enumerate_responses, tiny

from infalign_edu.lm.decoding import Blockwise, Ranked, TreeSearch
from infalign_edu.lm.table import EnumerablePolicy, SmallTransformer
from infalign_edu.procedures import BestOfN
from infalign_edu.theory.decoders import SequenceSpace
from infalign_edu.theory.finite import FiniteProblem

torch.set_num_threads(1)
WORDS, LENGTH, DRAWS = 4, 3, 6_000
PROMPTS = ["w0 w1 w2", "w4", "w1 w1"]


def world(ties: bool = False) -> tuple[EnumerablePolicy, EnumerablePolicy, SequenceSpace]:
    """A policy, the reference that its guide was made for, and the space of all 4^3 responses with their rewards."""
    networks = (EnumerablePolicy(SmallTransformer(WORDS, LENGTH, seed=s), WORDS, LENGTH) for s in (1, 0))
    policy, reference = (EnumerablePolicy.from_distribution(p.distribution(), WORDS, LENGTH) for p in networks)
    rng, shape = np.random.default_rng(0), (WORDS,) * LENGTH
    reward = rng.integers(0, 3, shape).astype(float) if ties else rng.normal(size=shape)
    return policy, reference, SequenceSpace(reference.distribution().reshape(shape), reward)


class Known:
    """The exact value of a prefix, or of a whole response its reward, as a function of text."""

    def __init__(self, space: SequenceSpace) -> None:
        prefixes = {n: np.indices((WORDS,) * n).reshape(n, -1).T for n in range(1, LENGTH + 1)}
        self.of = {
            " ".join(map(str, words)): value
            for n, rows in prefixes.items()
            for words, value in zip(rows, space.value(n), strict=True)
        }

    def __call__(self, prompts, texts):
        return [self.of[text] for text in texts]


def frequencies(draws) -> np.ndarray:
    words = np.array([list(map(int, text.split())) for text in draws.responses])
    return np.bincount(np.ravel_multi_index(words.T, (WORDS,) * LENGTH), minlength=WORDS**LENGTH)


def chi_square(counts: np.ndarray, exact: np.ndarray) -> float:
    """How many standard deviations Pearson's statistic lies above its mean, over the cells that expect five or more."""
    expected = exact * counts.sum()
    common = expected >= 5
    rest = np.append(expected[common], expected[~common].sum() + 1e-9)
    seen = np.append(counts[common], counts[~common].sum())
    used = rest > 5
    freedom = used.sum() - 1
    return float((((seen - rest)[used] ** 2 / rest[used]).sum() - freedom) / np.sqrt(2 * freedom))


DECODERS = {
    "blocks of one": (lambda v: Blockwise(v, block=1, draws=3), lambda s: s.blockwise(1, 3)),
    "blocks of two": (lambda v: Blockwise(v, block=2, draws=3), lambda s: s.blockwise(2, 3)),
    "whole response": (lambda v: Blockwise(v, block=LENGTH, draws=4), lambda s: s.blockwise(LENGTH, 4)),
    "tree of two": (lambda v: TreeSearch(v, width=2, draws=3, block=1), lambda s: s.tree_search(3, 2)),
    "tree of two, one draw each": (lambda v: TreeSearch(v, width=2, draws=1, block=1), lambda s: s.tree_search(1, 2)),
    "tree of one": (lambda v: TreeSearch(v, width=1, draws=3, block=1), lambda s: s.tree_search(3, 1)),
}


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("name", DECODERS)
def test_a_decoder_shows_the_exact_distribution_of_theory(name, ties):
    policy, _, space = world(ties)
    decoder, theory = DECODERS[name]
    exact = theory(space)(torch.tensor(policy.distribution().reshape(space.shape))).numpy().ravel()
    counts = frequencies(decoder(Known(space)).draw(policy, ["a", "b"], DRAWS // 2, seed=1))
    assert abs(chi_square(counts, exact)) < 4
    assert chi_square(counts, policy.distribution()) > 20  # and plain sampling is far from it


def test_the_guide_is_the_references_value_not_the_policys():
    policy, reference, space = world()
    own = SequenceSpace(policy.distribution().reshape(space.shape), space.reward)
    counts = frequencies(Blockwise(Known(space), block=1, draws=4).draw(policy, ["a"], DRAWS, seed=0))
    at = torch.tensor(policy.distribution().reshape(space.shape))
    right, wrong = (s.blockwise(1, 4)(at).numpy().ravel() for s in (space, own))
    assert chi_square(counts, right) < 4 < chi_square(counts, wrong)


def test_a_block_as_long_as_the_response_is_best_of_k():
    policy, _, space = world()
    known = Known(space)
    exact = FiniteProblem(space.reference.ravel(), space.reward.ravel()).decode(policy.distribution(), BestOfN(4))
    at = torch.tensor(policy.distribution().reshape(space.shape))
    np.testing.assert_allclose(exact, space.blockwise(LENGTH, 4)(at).numpy().ravel(), atol=1e-12)
    blockwise = Blockwise(known, block=LENGTH, draws=4).draw(policy, ["a", "b"], 300, seed=5)
    best_of = Ranked("best-of-4", known).draw(policy, ["a", "b"], 300, seed=5)
    assert blockwise.responses == best_of.responses  # the same uniform numbers: the same draws, the same choice
    assert (blockwise.drawn == best_of.drawn).all() and blockwise.tokens == 4 * LENGTH


@pytest.mark.parametrize("block", [1, 2, 3])
def test_a_tree_of_one_is_blockwise_draw_by_draw(block):
    policy, _, space = world()
    a = Blockwise(Known(space), block=block, draws=3).draw(policy, ["a", "b"], 200, seed=2)
    b = TreeSearch(Known(space), width=1, draws=3, block=block).draw(policy, ["a", "b"], 200, seed=2)
    assert a.responses == b.responses and (a.drawn == b.drawn).all()


def longest(prompts, texts):
    return np.array([text.count("w1") + 0.01 * len(text) for text in texts])


def decoders(reward=None):
    return [
        Blockwise(longest, 2, 3, reward),
        TreeSearch(longest, 2, 2, 2, reward),
        TreeSearch(longest, 3, 1, 1, reward),
    ]


@pytest.mark.parametrize(
    "decoder", [Blockwise(longest, 2, 1), TreeSearch(longest, 1, 1, 3), Ranked("standard", longest)]
)
def test_one_draw_is_plain_sampling(decoder):
    draws = decoder.draw(tiny(), PROMPTS, 40, seed=7)
    plain = tiny().sample(PROMPTS, 40, seed=7)
    assert draws.responses == plain.responses
    np.testing.assert_array_equal(draws.drawn, plain.mask.sum(1))
    assert draws.row_prompts == plain.row_prompts


@pytest.mark.parametrize("decoder", decoders(longest) + decoders() + [Ranked("best-of-2", longest)], ids=str)
def test_a_seed_repeats_whatever_the_micro_batch(decoder):
    policy = tiny()
    first = decoder.draw(policy, PROMPTS, 12, seed=0)
    for micro_batch in (1, 7, 100):
        again = decoder.draw(policy, PROMPTS, 12, seed=0, micro_batch=micro_batch)
        assert again.responses == first.responses
        np.testing.assert_array_equal(again.drawn, first.drawn)
    assert decoder.draw(policy, PROMPTS, 12, seed=1).responses != first.responses


@pytest.mark.parametrize("decoder", decoders(longest), ids=str)
def test_choosing_pays_and_costs_what_is_reported(decoder):
    policy = tiny()
    draws, plain = decoder.draw(policy, PROMPTS, 100, seed=0), policy.sample(PROMPTS, 100, seed=0)
    assert draws.rewards(longest).mean() > longest([], plain.responses).mean() + 0.1
    branches = decoder.draws * getattr(decoder, "width", 1)
    words = np.array([len(text.split()) for text in draws.responses])
    assert (draws.drawn >= words).all() and (draws.drawn <= branches * 5).all() and draws.drawn.max() > branches
    assert (draws.read == 0).all() and (draws.scored >= 1).all() and (draws.scored <= branches * 5).all()
    assert draws.tokens == draws.drawn.mean()


def test_what_has_ended_is_judged_by_the_reward_and_keeps_its_place():
    policy = tiny()

    def ends_early(prompts, texts):  # the reward: an answer of no word at all is best
        return np.array([-float(len(text.split())) for text in texts])

    def misled(prompts, texts):  # the value: longer is better
        return np.array([float(len(text.split())) - 100 for text in texts])

    short = Blockwise(misled, 1, 4, reward=ends_early).draw(policy, ["w4"], 300, seed=0)
    long = Blockwise(misled, 1, 4).draw(policy, ["w4"], 300, seed=0)
    assert short.rewards(ends_early).mean() > long.rewards(ends_early).mean() + 1
    tree = TreeSearch(misled, 2, 2, 1, reward=ends_early).draw(policy, ["w4"], 300, seed=0)
    ends = enumerate_responses(policy, "w4", 1)[(EOS,)]
    one_of_four = 1 - (1 - ends) ** 4  # has ended after the first token; it is the best there is, and stays
    assert 0.1 < one_of_four <= np.mean([not text for text in tree.responses]) + 0.08


def simulate(policy, prompt, width, draws, block, value, reward, runs):
    """Tree search by the book, one prefix and one token at a time. Returns how often each text was shown."""
    rng, start, cdf, shown = np.random.default_rng(0), policy.tokenizer(prompt)["input_ids"], {}, Counter()

    def token(prefix):
        if prefix not in cdf:
            with torch.no_grad():
                logits = policy.model(torch.tensor([[*start, *prefix]])).logits[0, -1]
            cdf[prefix] = logits.double().softmax(-1).cumsum(-1).numpy()
        return int(np.searchsorted(cdf[prefix], rng.random() * cdf[prefix][-1], side="right"))

    def ended(prefix):
        return len(prefix) == policy.max_new_tokens or EOS in prefix

    @cache
    def text(prefix):
        return policy.tokenizer.decode(prefix, skip_special_tokens=True).strip()

    @cache
    def worth(prefix):
        return (reward if ended(prefix) else value)([prompt], [text(prefix)])[0]

    def grown(prefix):
        for _ in range(block):
            prefix = prefix if ended(prefix) else (*prefix, token(prefix))
        return prefix

    for _ in range(runs):
        beams = [()] * width
        while not all(map(ended, beams)):
            found = [grown(beam) for beam in beams for _ in range(1 if ended(beam) else draws)]
            order = np.lexsort((rng.random(len(found)), [-worth(prefix) for prefix in found]))
            beams = [found[i] for i in order[:width]]
        shown[text(beams[0])] += 1
    return shown


@pytest.mark.parametrize(("width", "draws", "block"), [(2, 2, 1), (3, 2, 2), (1, 3, 1)])
def test_with_responses_that_end_early_it_is_the_search_by_the_book(width, draws, block):
    policy, runs = tiny(max_new_tokens=4), 1000

    def value(prompts, texts):  # likes words
        return np.array([float(len(text.split())) for text in texts])

    def reward(prompts, texts):  # an early end is worth more than a beginning, and less than a long end
        return np.array([5.0 + text.count("w1") if len(text.split()) > 2 else 2.5 for text in texts])

    prompts = ["w4", "w0 w1 w2"]
    decoder = TreeSearch(value, width, draws, block, reward)
    draws_ = decoder.draw(policy, prompts, runs, seed=1)
    for i, prompt in enumerate(prompts):
        found = Counter(draws_.responses[i * runs : (i + 1) * runs])
        book = simulate(policy, prompt, width, draws, block, value, reward, runs)
        pairs = np.array([(found[t], book[t]) for t in found | book if found[t] + book[t] >= 10], dtype=float)
        rest = runs - pairs.sum(0)
        pairs = np.vstack([pairs, rest]) if rest.sum() >= 10 else pairs
        freedom = len(pairs) - 1
        statistic = ((pairs[:, 0] - pairs[:, 1]) ** 2 / pairs.sum(1)).sum()
        assert freedom >= 5 and statistic < freedom + 4 * np.sqrt(2 * freedom)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: Blockwise(longest, block=0), "block must be an integer of at least 1, got 0"),
        (lambda: Blockwise(longest, draws=1.5), "draws must be an integer of at least 1, got 1.5"),
        (lambda: TreeSearch(longest, width=-1), "width must be an integer of at least 1, got -1"),
        (lambda: Blockwise("gold").draw(tiny(), PROMPTS, 1, seed=0), "value must be a LearnedValue or a callable"),
        (lambda: Ranked("best-of-none", longest), "procedure must be standard"),
        (lambda: Blockwise(longest).draw(tiny(), [], 1, seed=0), "prompts must hold at least one prompt, got none"),
        (
            lambda: Blockwise(lambda p, t: np.full(len(t), np.nan)).draw(tiny(), PROMPTS, 1, seed=0),
            "rewards must be finite",
        ),
    ],
)
def test_errors_name_the_field(wrong, message):
    with pytest.raises(ValueError, match=message) as error:
        wrong()
    assert "\n" not in str(error.value)


def test_logits_that_are_not_finite_stop_the_search():
    policy = tiny()
    with torch.no_grad():
        policy.model.lm_head.weight[:] = torch.nan
    with pytest.raises(FloatingPointError, match="log-probabilities must be finite"):
        Blockwise(longest).draw(policy, PROMPTS, 1, seed=0)


def test_decoders_are_values_that_can_be_compared_and_replaced():
    one = Blockwise(longest, 4, 4)
    assert replace(one, draws=2) == Blockwise(longest, 4, 2) and str(replace(one, draws=2)) == "blockwise-b4-k2"
