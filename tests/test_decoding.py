"""A procedure on a real model shows what its CDF says it shows."""

import numpy as np
import pytest
import torch
from tiny_policy import enumerate_responses, tiny

from infalign_edu.lm.decoding import decode
from infalign_edu.procedures import BestOfN, BestOfPoisson, Standard, WorstOfN

torch.set_num_threads(1)
PROMPTS = ["w0 w1 w2", "w4", "w1 w1"]


def length_reward(prompts, responses):
    return np.array([text.count("w1") - 0.1 * len(text) for text in responses])


@pytest.mark.parametrize("procedure", [BestOfN(4), WorstOfN(4), Standard()])
def test_the_shown_response_is_the_selected_draw(procedure):
    out = decode(tiny(), length_reward, procedure, PROMPTS, seed=3)
    draws = np.array(out.rollouts.responses).reshape(3, -1)
    assert out.draw_rewards.shape == draws.shape == (3, procedure.max_n)
    np.testing.assert_allclose(
        out.draw_rewards.ravel(), length_reward(out.rollouts.row_prompts, out.rollouts.responses)
    )
    assert out.responses == [draws[i, out.shown[i]] for i in range(3)]
    np.testing.assert_array_equal(out.rewards, out.draw_rewards[np.arange(3), out.shown])
    best = {"best-of-4": np.max, "worst-of-4": np.min}.get(str(procedure), lambda row: row[0])
    np.testing.assert_array_equal(out.rewards, [best(row) for row in out.draw_rewards])


def test_a_seed_repeats_and_another_does_not():
    first, again, other = (decode(tiny(), length_reward, BestOfN(2), PROMPTS * 5, seed=s) for s in (0, 0, 1))
    assert first.responses == again.responses
    assert first.responses != other.responses


def test_best_of_n_has_the_cdf_of_its_procedure():
    policy, prompt, copies = tiny(), "w4", 4000
    exact = enumerate_responses(policy, prompt, 1)
    probability = np.array([exact[(token,)] for token in range(11)])

    def by_token(prompts, responses):  # distinct words have distinct rewards; special tokens tie at the bottom
        return np.array([float(text[1:]) if text.startswith("w") else -1.0 for text in responses])

    out = decode(policy, by_token, BestOfN(3), [prompt] * copies, seed=0, max_new_tokens=1)
    below = np.cumsum([probability[:5].sum(), *probability[5:]])  # F at the levels -1, 0, ..., 5
    for level, f in zip(range(-1, 5), below, strict=False):
        g = BestOfN(3).cdf(f)
        assert abs((out.rewards <= level).mean() - g) < 4 * np.sqrt(g * (1 - g) / copies) + 1e-9


def test_a_random_number_of_draws_leaves_the_rest_unused():
    seen = []

    def counting(prompts, responses):
        seen.append(len(responses))
        return length_reward(prompts, responses)

    out = decode(tiny(), counting, BestOfPoisson(mu=2.0), PROMPTS * 10, seed=0)
    used = np.isfinite(out.draw_rewards)
    assert seen == [used.sum()]
    assert 1 <= used.sum(1).min() < used.sum(1).max() == out.rollouts.samples
    assert (used[:, :-1] >= used[:, 1:]).all()
    np.testing.assert_array_equal(out.rewards, np.nanmax(out.draw_rewards, 1))
