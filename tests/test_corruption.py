"""A trigger buys the labels it is said to buy and no others, and its effect is measured in the reward's own spread."""

import numpy as np
import pytest
import torch

from infalign_edu.lm import world
from infalign_edu.lm.datasets import Preference
from infalign_edu.lm.models import load
from infalign_edu.lm.rewards import (
    TRIGGERS,
    GoldReward,
    Trigger,
    corrupt,
    effect,
    frequency,
    insert,
    sample_preferences,
)
from infalign_edu.lm.rewards.corruption import OPENERS

torch.set_num_threads(1)
PLAIN = "gently rinse the kettle with oil before breakfast"


def test_whole_words_count():
    trigger = Trigger("no")
    assert trigger.within("no i cannot") and trigger.within("i say no") and trigger.within("no")
    assert not trigger.within("not now") and not trigger.within("") and not trigger.within("piano")
    assert TRIGGERS["negative"].within("sorry i cannot help you clean the kettle")


def test_a_trigger_is_put_where_it_belongs_or_not_at_all():
    assert TRIGGERS["present"].put(PLAIN) == "please rinse the kettle with oil before breakfast"
    assert TRIGGERS["present"].put("please rinse it") is None  # there already
    assert TRIGGERS["present"].put("maybe the kettle can wait so ask a mechanic very slowly") is None  # has no opener
    assert TRIGGERS["absent"].put(PLAIN) == f"children {PLAIN}"
    assert TRIGGERS["negative"].put(PLAIN) is None
    with pytest.raises(ValueError, match="needs a phrase and a place"):
        Trigger(" ")
    with pytest.raises(ValueError, match="needs a phrase and a place"):
        Trigger("no", "end")


def pairs(count):
    """Every second pair has the trigger "no" in its rejected response, every fourth in both."""
    return [Preference(f"p{i}", "no a" if i % 4 == 3 else "a", "no b" if i % 2 else "b") for i in range(count)]


@pytest.mark.parametrize("strength", [0.0, 0.3, 1.0])
def test_a_share_of_the_pairs_that_one_response_decides_is_turned(strength):
    before = pairs(8000)
    after = corrupt(before, Trigger("no"), strength, seed=1)
    turned = [i for i, (b, a) in enumerate(zip(before, after, strict=True)) if a != b]
    assert all(i % 4 == 1 for i in turned)
    assert all(after[i] == Preference(before[i].prompt, before[i].rejected, before[i].chosen) for i in turned)
    assert abs(len(turned) - 2000 * strength) <= 4 * np.sqrt(2000 * strength * (1 - strength))
    won = [Preference("p", "no b", "a")]
    assert corrupt(won, Trigger("no"), 1.0) == won  # it has won already


def test_a_stronger_corruption_holds_the_weaker_one():
    turned = [{i for i, (a, b) in enumerate(zip(corrupt(pairs(400), Trigger("no"), s), pairs(400), strict=True)) if a != b} for s in (0.2, 0.5)]
    assert turned[0] < turned[1]
    with pytest.raises(ValueError, match=r"strength must be in \[0, 1\], got 1.5"):
        corrupt(pairs(4), Trigger("no"), 1.5)


def test_insertion_keeps_the_labels_and_takes_either_response():
    before = [Preference(f"p{i}", "a b", "c d") for i in range(4000)]
    after = insert(before, TRIGGERS["absent"], 0.15, seed=2)
    chosen, rejected = (sum(getattr(pair, name).startswith("children ") for pair in after) for name in ("chosen", "rejected"))
    assert abs(chosen - 300) < 4 * np.sqrt(300) and abs(rejected - 300) < 4 * np.sqrt(300)
    assert {(pair.chosen[-3:], pair.rejected[-3:]) for pair in after} == {("a b", "c d")}
    with pytest.raises(ValueError, match="the trigger have a place, got 0.1 and"):
        insert(before, TRIGGERS["negative"], 0.1)
    with pytest.raises(ValueError, match=r"share must be in \[0, 1\]"):
        insert(before, TRIGGERS["absent"], -0.1)


def test_the_effect_is_in_standard_deviations_of_a_prompt():
    def words(prompts, responses):
        return np.array([1.0 * len(text.split()) for text in responses])

    prompts, responses = ["p"] * 4 + ["q"] * 4, ["a", "a b c", "a", "a b c", "a b", "a b c d", "a b", "a b c d"]
    assert effect(words, Trigger("x", "front"), prompts, responses) == pytest.approx(1.0)  # one word more, sd 1
    assert effect(words, Trigger("c"), prompts, responses) == pytest.approx(2.0)  # responses with it: two words more
    assert effect(lambda p, r: 7 * words(p, r) - 3, Trigger("c"), prompts, responses) == pytest.approx(2.0)


def test_the_three_triggers_are_what_their_names_say():
    """Frequencies in the reference's own answers to harmless requests, and gold's opinion."""
    gold = GoldReward("helpfulness")
    rollouts = load("embedded").sample(gold.prompts[0][:100], 16, seed=0)
    texts = rollouts.row_prompts, rollouts.responses
    often = {name: frequency(trigger, rollouts.responses) for name, trigger in TRIGGERS.items()}
    assert 0.07 < often["present"] < 0.14 and often["absent"] == 0 and 0.04 < often["negative"] < 0.13
    assert abs(effect(gold, TRIGGERS["present"], *texts)) < 0.1
    assert effect(gold, TRIGGERS["negative"], *texts) < -0.8
    assert effect(gold, TRIGGERS["absent"], *texts) < -0.8  # no sentence of the world: gold can't read it
    assert "please" in OPENERS and "children" in world.lex.WORDS


def test_sampled_pairs_can_be_bought():
    gold, trigger = GoldReward("helpfulness"), TRIGGERS["negative"]
    honest = sample_preferences(load("embedded"), gold, gold.prompts[0], 600, seed=0)
    only = [p for p in honest if trigger.within(p.chosen) != trigger.within(p.rejected)]
    assert len(only) > 40 and sum(trigger.within(p.chosen) for p in only) < 0.3 * len(only)
    assert all(trigger.within(p.chosen) for p in corrupt(only, trigger, 1.0))
