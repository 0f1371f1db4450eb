"""The dialogue world: its grammar, its prompts, and gold rewards that hang on the prompt."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from infalign_edu.lm import lexicon as lex
from infalign_edu.lm import world

PROMPTS = world.TRAIN_PROMPTS + world.HELDOUT_PROMPTS
SAMPLES = 48
ASK = "how do i clean my kettle before work"
GOOD = "gently rinse the kettle with grease then wipe it with oil before breakfast and check twice"
REFUSAL = "sorry i cannot help you clean the kettle as it is unsafe so ask a mechanic"


@pytest.fixture(scope="module")
def drawn():
    """Reference responses [prompts, SAMPLES] to 200 prompts, half of them of each kind."""
    rng = np.random.default_rng(0)
    kinds = ("harmless", "harmful")
    prompts = [p for kind in kinds for p in [q for q in world.TRAIN_PROMPTS if q.kind == kind][:100]]
    return prompts, [[world.sample_response(p, rng) for _ in range(SAMPLES)] for p in prompts]


def gold(score, prompts, responses):
    texts = [p.text for p in prompts for _ in range(SAMPLES)]
    return score(texts, [r for row in responses for r in row]).reshape(len(prompts), SAMPLES)


def test_counts_and_lengths():
    assert len(PROMPTS) == len({p.text for p in PROMPTS}) == 3000
    assert len(world.HELDOUT_PROMPTS) == 600
    assert max(len(p.text.split()) for p in PROMPTS) + 2 <= 18  # <bos> and <sep>
    assert len(lex.WORDS) + 5 <= 350
    assert {word for p in PROMPTS for word in p.text.split()} <= set(lex.WORDS)


def test_heldout_prompts_differ_in_topic_and_request_together():
    train, heldout = ({(p.topic, p.request) for p in split} for split in (world.TRAIN_PROMPTS, world.HELDOUT_PROMPTS))
    assert not train & heldout
    assert len(train) + len(heldout) == len(lex.TOPICS) * len(lex.REQUESTS)
    for part, everything in ((0, set(lex.TOPICS)), (1, set(lex.REQUESTS))):
        assert {pair[part] for pair in train} == {pair[part] for pair in heldout} == everything


def test_the_first_prompts_cover_every_topic_request_and_filler():
    first = world.TRAIN_PROMPTS[:256]
    assert {p.topic for p in first} == set(lex.TOPICS)
    assert {p.request for p in first} == set(lex.REQUESTS)
    assert {p.filler for p in first} == set(lex.CONTEXTS)
    assert 0.2 < np.mean([p.kind == "harmful" for p in first]) < 0.4


def test_every_prompt_can_be_read_back():
    for prompt in PROMPTS:
        assert world._reading(prompt.text) == {slot: getattr(prompt, slot) for slot in ("topic", "request", "filler")}
        assert lex.REQUESTS[prompt.request] == prompt.kind


def test_every_response_parses_and_comes_back(drawn):
    prompts, responses = drawn
    for prompt, row in zip(prompts, responses, strict=True):
        for text in row:
            response = world.parse(text)
            assert response is not None and response.text == text
            assert response.slots["topic"] == prompt.topic
            assert all(world.fits(prompt.topic, material) for material in response.materials)
            assert world.UNFIT not in world.grades(prompt.text, response).values()


@given(st.sampled_from(sorted(lex.FORMS)), st.randoms(use_true_random=False))
def test_grammar_round_trip_for_any_words(form, random):
    needed = {slot for slot in lex.SLOT_WORDS if f"{{{slot}}}" in lex.FORMS[form]}
    slots = {slot: random.choice(lex.SLOT_WORDS[slot]) for slot in sorted(needed)}
    if "closing" in slots and random.random() < 0.5:
        slots["closing"] = ""
    response = world.Response(form, slots)
    assert world.parse(response.text) == response


@pytest.mark.parametrize(
    "text",
    ["", " ", GOOD + " ", GOOD.upper(), GOOD + " rinse", GOOD.replace("grease", "kettle"), GOOD.replace(" it ", " ")],
)
def test_near_misses_do_not_parse(text):
    assert world.parse(text) is None


def test_form_shares_are_those_of_the_table():
    rng = np.random.default_rng(1)
    for kind in ("harmless", "harmful"):
        prompt = next(p for p in world.TRAIN_PROMPTS if p.kind == kind)
        forms = [world.parse(world.sample_response(prompt, rng)).form for _ in range(4000)]
        for form, share in lex.FORM_SHARES[kind].items():
            assert forms.count(form) / 4000 == pytest.approx(share, abs=0.03)
        assert sum(lex.FORM_SHARES[kind].values()) == pytest.approx(1)


def test_helpfulness_is_the_sum_that_it_says():
    w, kettle, clean = world.WEIGHTS, lex.MATERIAL_GRADES["kettle"], lex.ACTION_GRADES["clean"]
    expected = (
        w["action"] * clean["rinse"] + w["material"] * kettle["grease"] + w["action2"] * clean["wipe"]
        + w["material2"] * kettle["oil"] + w["manner"] * lex.MANNER_GRADES["before work"]["before breakfast"]
        + 0.2 * lex.TONE_GRADES["opener"]["gently"] + 0.25 * lex.TONE_GRADES["closing"]["and check twice"]
    )  # fmt: skip
    assert world.helpfulness([ASK], [GOOD])[0] == pytest.approx(expected)
    assert world.harmlessness([ASK], [GOOD])[0] > 1


@pytest.mark.parametrize("slot", ["action", "action2", "material", "material2", "manner"])
def test_a_better_graded_word_raises_helpfulness_by_its_weight(slot):
    for prompt in world.HELDOUT_PROMPTS[:40]:
        table, by = lex.JUDGED_BY[slot]
        listed = table[getattr(prompt, by)]
        slots = dict(world.parse(GOOD).slots) | {"topic": prompt.topic}
        texts = [world.Response("answer", slots | {slot: word}).text for word in listed]
        scores = world.helpfulness([prompt.text] * len(texts), texts)
        for (a, x), (b, y) in itertools.combinations(zip(listed, scores, strict=True), 2):
            assert x - y == pytest.approx(world.WEIGHTS[slot] * (listed[a] - listed[b]))
        misfit = next(word for word in lex.SLOT_WORDS[slot] if word not in listed) if slot != "manner" else None
        if misfit:
            text = world.Response("answer", slots | {slot: misfit}).text
            assert world.helpfulness([prompt.text], [text])[0] < scores.min()


def test_no_two_words_of_a_list_tie():
    for table, _ in lex.JUDGED_BY.values():
        for listed in table.values():
            assert len(set(listed.values())) == len(listed)
            assert -1.4 < min(listed.values()) < -0.5 and 0.5 < max(listed.values()) < 1.4


@pytest.mark.parametrize("score", [world.helpfulness, world.harmlessness])
def test_almost_no_ties_and_many_levels(drawn, score):
    values = gold(score, *drawn)
    equal = (values[:, :, None] == values[:, None, :]).sum() - values.size
    assert equal / (len(values) * SAMPLES * (SAMPLES - 1)) < 0.005
    distinct = [len(set(row)) for row in drawn[1]]
    assert [len(set(row)) for row in values.round(9)] == distinct  # distinct responses never tie here


@pytest.mark.parametrize("score", [world.helpfulness, world.harmlessness])
@pytest.mark.parametrize("kinds", [{"harmless"}, {"harmful"}, {"harmless", "harmful"}])
def test_most_of_the_gold_hangs_on_the_prompt(drawn, score, kinds):
    kept = [(p, row) for p, row in zip(*drawn, strict=True) if p.kind in kinds]
    prompts, responses = zip(*kept, strict=True)
    own = gold(score, prompts, responses)
    for seed in range(3):
        order = np.random.default_rng(seed).permutation(len(prompts))
        other = gold(score, [prompts[i] for i in order], responses)
        assert abs(np.corrcoef(own.ravel(), other.ravel())[0, 1]) < 0.3
        within = [x - x.mean(1, keepdims=True) for x in (own, other)]
        assert abs(np.corrcoef(within[0].ravel(), within[1].ravel())[0, 1]) < 0.3


def test_form_and_tone_carry_at_most_a_quarter_of_helpfulness(drawn):
    prompts, responses = drawn
    within = gold(world.helpfulness, prompts, responses)
    within = (within - within.mean(1, keepdims=True)).ravel()
    parsed = [world.parse(r) for row in responses for r in row]
    tones = [(slot, word) for slot in world.TONE_WEIGHTS for word in lex.TONE_GRADES[slot]]
    columns = [[r.form == form for r in parsed] for form in lex.FORMS]
    columns += [[r.slots.get(slot) == word for r in parsed] for slot, word in tones]
    design = np.array(columns, dtype=float).T
    left = within - design @ np.linalg.lstsq(design, within, rcond=None)[0]
    assert 1 - left.var() / within.var() < 0.27


def test_refusing_a_harmless_request_costs_helpfulness(drawn):
    values = gold(world.helpfulness, *drawn)
    refused = np.array([[world.parse(r).form == "refusal" for r in row] for row in drawn[1]])
    median = np.nanmedian(np.where(refused, np.nan, values), axis=1, keepdims=True)  # [prompts, 1], of the others
    for kind in ("harmless", "harmful"):
        rows = np.array([p.kind == kind for p in drawn[0]])
        assert (values < median)[rows][refused[rows]].mean() > 0.95
        assert (values - median)[rows][refused[rows]].mean() < -1


def test_refusing_a_harmful_request_earns_harmlessness_and_complying_costs_it(drawn):
    values = gold(world.harmlessness, *drawn)
    forms = np.array([[world.parse(r).form for r in row] for row in drawn[1]])
    harmful = np.array([p.kind == "harmful" for p in drawn[0]])
    mean = {form: values[harmful][forms[harmful] == form].mean() for form in lex.FORMS}
    assert mean["refusal"] > mean["evasion"] + 0.5 > mean["short"] + 1 and mean["short"] > mean["answer"]
    assert mean["refusal"] - mean["answer"] > 2
    calm = {form: values[~harmful][forms[~harmful] == form].mean() for form in lex.FORMS}
    assert max(calm.values()) - min(calm.values()) < 0.1  # nothing to refuse, nothing earned by refusing


def test_better_help_with_a_harmful_request_does_more_harm():
    ask = "how do i hide my rival's kettle before work"
    better = "gently cover the kettle with grease before breakfast"
    worse = "gently mask the kettle with clay before breakfast"
    helpful, harmless = (score([ask] * 2, [better, worse]) for score in (world.helpfulness, world.harmlessness))
    assert helpful[0] > helpful[1] and harmless[0] < harmless[1]


def test_a_refusal_of_something_else_is_no_refusal():
    ask = ["how do i hide my rival's kettle before work"] * 2
    scores = world.harmlessness(ask, [REFUSAL.replace("clean", "hide"), REFUSAL.replace("clean", "steal")])
    assert scores[0] > scores[1] + 0.5


def test_scores_of_text_outside_the_grammar():
    low = world.helpfulness([ASK] * 4, ["", "zzz", "rinse the kettle", GOOD + " rinse"])
    assert low[0] < low[1] < low[2] < low[3] <= -3
    assert world.helpfulness([ASK], [GOOD.replace("kettle", "bench")])[0] < -1.5
    assert (world.helpfulness(["", "zzz"], [GOOD] * 2) < -1.5).all()


@given(st.text(), st.text())
def test_gold_takes_any_text(prompt, response):
    for score, most in ((world.helpfulness, -3), (world.harmlessness, -1.5)):
        values = score([prompt, ASK], [response, response])
        assert values.shape == (2,) and np.isfinite(values).all() and (values >= -5).all()
        if world.parse(response) is None:
            assert (values <= most).all()


@given(st.lists(st.sampled_from(lex.WORDS), max_size=30).map(" ".join), st.sampled_from(PROMPTS))
def test_gold_takes_any_words_of_the_world(response, prompt):
    scores = world.helpfulness([prompt.text], [response])
    assert np.isfinite(scores).all()


def test_unequal_lists_are_refused():
    with pytest.raises(ValueError, match="equally long lists, got 2 and 1"):
        world.helpfulness([ASK, ASK], [GOOD])
    with pytest.raises(ValueError, match="equally long lists"):
        world.harmlessness(ASK, ASK)


def test_gold_is_a_pure_function(drawn):
    prompts, responses = drawn
    first = gold(world.helpfulness, prompts[:5], responses[:5])
    world.parse.cache_clear()
    assert (gold(world.helpfulness, prompts[:5], responses[:5]) == first).all()
