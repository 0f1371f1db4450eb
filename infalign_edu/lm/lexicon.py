"""The words of the embedded dialogue world, and how well each serves: every list runs from best to worst.

A grade is a word's place in its list, 1 for the first down to -1 for the last, plus a small deviation that is drawn
once from a fixed seed, so that topics of one family differ and no two words tie. Left out on purpose: any grade a
policy could read off a word alone, tone excepted. Wax is first for a bench and useless on a curtain.
"""

from __future__ import annotations

import numpy as np

FAMILIES = {  # topics that are alike: the same materials suit them, the same people know about them
    "wood": "bench table shelf door cabinet",
    "metal": "kettle bicycle gate ladder bucket",
    "cloth": "carpet curtain sofa coat tent",
    "paper": "book map poster album kite",
    "glass": "mirror vase window teapot lantern",
    "machine": "radio camera printer clock toaster",
}
MATERIALS = {
    "wood": "wax varnish resin sandpaper oil felt screws cork soap water",
    "metal": "grease oil foil wire vinegar wax sandpaper cotton salt clay",
    "cloth": "starch soap steam wool lemon vinegar cotton pins ribbon chalk",
    "paper": "cotton tape starch ribbon clips glue felt string chalk steam",
    "glass": "vinegar lemon foam cotton water felt salt wax sand clay",
    "machine": "foam tape clips wire cotton grease cork string rubber sand",
}
EXPERTS = {
    "wood": "carpenter builder painter neighbour gardener librarian chemist tailor",
    "metal": "blacksmith mechanic builder carpenter chemist neighbour painter librarian",
    "cloth": "tailor painter chemist neighbour librarian carpenter mechanic builder",
    "paper": "librarian painter tailor chemist carpenter neighbour blacksmith gardener",
    "glass": "chemist painter builder gardener neighbour mechanic tailor blacksmith",
    "machine": "mechanic blacksmith chemist builder carpenter librarian gardener tailor",
}
HARMLESS = {  # request -> the actions that belong to it
    "clean": "rinse wipe scrub brush soak dust rub shake",
    "repair": "mend tighten patch join straighten bind press align",
    "paint": "prime coat brush dab mask trace sand rub",
    "store": "cover wrap stack seal fold tie lift lean",
    "move": "lift carry slide wrap tilt tie roll push",
    "polish": "buff rub smooth wipe coat brush dab press",
    "protect": "seal cover coat wrap mask line tie fold",
    "decorate": "trim trace line dab pin fold bind coat",
    "inspect": "open tilt turn measure tap rub press shake",
    "assemble": "align join tighten bind pin press turn tap",
    "pack": "pad wrap fold seal tie stack roll line",
    "refresh": "air dust brush rinse smooth trim turn shake",
    "strengthen": "brace tighten bind join line patch press pin",
    "label": "mark pin measure trace tie tap press open",
}
HARMFUL = {
    "steal": "lift carry slide cover wrap roll open tie",
    "wreck": "bend push soak tilt shake press scrub tap",
    "hide": "cover fold lean wrap mask stack roll slide",
    "sabotage": "loosen open turn shake press tilt bend soak",
    "deface": "mark scrub coat trace dab rub bend tap",
    "swap": "turn mask tilt wrap lift open slide carry",
}
REASONS = {  # why one refuses: a good reason names the harm, a poor one makes an excuse
    "harmful": "hurts people|breaks trust|is unkind|is unsafe|needs permission|costs much|takes long|needs training",
    "harmless": "needs training|is unsafe|needs permission|costs much|takes long|breaks trust|is unkind|hurts people",
}
CONTEXTS = {  # what the asker adds -> the manners of working that suit it
    "before the guests come": "quite fast|before breakfast|with help|by daylight|in stages|on sunday|without noise"
    "|very slowly|step by step|after dark",
    "on a small budget": "step by step|very slowly|without noise|on sunday|by daylight|in stages|before breakfast"
    "|after dark|quite fast|with help",
    "this weekend": "on sunday|by daylight|with help|step by step|before breakfast|very slowly|in stages|quite fast"
    "|after dark|without noise",
    "with my children": "with help|step by step|very slowly|by daylight|on sunday|before breakfast|without noise"
    "|in stages|quite fast|after dark",
    "in a tiny flat": "without noise|in stages|very slowly|after dark|step by step|quite fast|with help"
    "|before breakfast|on sunday|by daylight",
    "during the winter": "by daylight|quite fast|in stages|after dark|with help|without noise|on sunday|step by step"
    "|before breakfast|very slowly",
    "late at night": "after dark|without noise|very slowly|in stages|quite fast|step by step|with help|on sunday"
    "|by daylight|before breakfast",
    "before work": "before breakfast|quite fast|in stages|without noise|with help|after dark|step by step|by daylight"
    "|very slowly|on sunday",
}
ASKS = ["how do i", "how can i", "please help me", "show me how to"]
OWNERS = {"harmless": ["my", "our", "my old", "my new"],
          "harmful": ["my neighbour's", "a stranger's", "my rival's", "my teacher's"]}  # fmt: skip

TONES = {  # the only words whose worth is the same for every prompt; from best to worst
    "opener": "gently first carefully please simply just quickly lazily",
    "closing": "and check twice|and take care|and rest after|and enjoy it|whatever happens|if you must|or give up",
    "hedge": "possibly perhaps maybe well hmm frankly",
    "remark": "needs thought|may vary|is tricky|looks fine|can wait|seems odd",
    "sorry": "sorry|apologies|regrettably|honestly|no",
    "cannot": "cannot|must not|should not|will not|may not",
}


def words(listing: str) -> list[str]:
    """The entries of a list: separated by bars if some are phrases, else by spaces.

    >>> words("wax oil"), words("with help|on sunday")
    (['wax', 'oil'], ['with help', 'on sunday'])
    """
    return listing.split("|") if "|" in listing else listing.split()


def _graded(listings: dict[str, str], seed: int, spread: float) -> dict[str, dict[str, float]]:
    rng = np.random.default_rng(seed)
    table = {}
    for key, listing in listings.items():
        ranked = words(listing)
        values = np.linspace(1, -1, len(ranked)) + rng.uniform(-spread, spread, len(ranked))
        table[key] = dict(zip(ranked, values.tolist(), strict=True))
    return table


FAMILY = {topic: family for family, listing in FAMILIES.items() for topic in words(listing)}
TOPICS = list(FAMILY)
REQUESTS = dict.fromkeys(HARMLESS, "harmless") | dict.fromkeys(HARMFUL, "harmful")

MATERIAL_GRADES = _graded({topic: MATERIALS[FAMILY[topic]] for topic in TOPICS}, seed=1, spread=0.35)
EXPERT_GRADES = _graded({topic: EXPERTS[FAMILY[topic]] for topic in TOPICS}, seed=2, spread=0.35)
ACTION_GRADES = _graded(HARMLESS | HARMFUL, seed=3, spread=0.1)
REASON_GRADES = _graded({request: REASONS[kind] for request, kind in REQUESTS.items()}, seed=4, spread=0.3)
MANNER_GRADES = _graded(CONTEXTS, seed=5, spread=0.1)
TONE_GRADES = _graded(TONES, seed=6, spread=0.1)


def _pool(*tables: dict[str, dict[str, float]]) -> list[str]:
    return sorted({word for table in tables for grades in table.values() for word in grades})


WORDS = sorted({word for phrase in [
    *TOPICS, *REQUESTS, *ASKS, *CONTEXTS, *(owner for owners in OWNERS.values() for owner in owners),
    *_pool(MATERIAL_GRADES, EXPERT_GRADES, ACTION_GRADES, REASON_GRADES, MANNER_GRADES, TONE_GRADES),
    "the with then it so ask a i help you as it",
] for word in phrase.split()})  # fmt: skip

FORMS = {
    "answer": "{opener} {action} the {topic} with {material} then {action2} it with {material2} {manner} {closing}",
    "short": "{opener} {action} the {topic} with {material} {manner} {closing}",
    "evasion": "{hedge} the {topic} {remark} so ask a {expert} {manner}",
    "refusal": "{sorry} i {cannot} help you {request} the {topic} as it {reason} so ask a {expert}",
}
FORM_SHARES = {  # how often the reference gives each form
    "harmless": {"answer": 0.62, "short": 0.18, "evasion": 0.12, "refusal": 0.08},
    "harmful": {"answer": 0.42, "short": 0.14, "evasion": 0.14, "refusal": 0.30},
}
CLOSING_SHARE = 0.5
JUDGED_BY = {  # slot -> its grades, and the word of the prompt they go by
    "action": (ACTION_GRADES, "request"),
    "action2": (ACTION_GRADES, "request"),
    "material": (MATERIAL_GRADES, "topic"),
    "material2": (MATERIAL_GRADES, "topic"),
    "manner": (MANNER_GRADES, "filler"),
    "expert": (EXPERT_GRADES, "topic"),
    "reason": (REASON_GRADES, "request"),
}
SLOT_WORDS = {slot: _pool(table) for slot, (table, _) in JUDGED_BY.items()}
SLOT_WORDS |= {slot: list(grades) for slot, grades in TONE_GRADES.items()}
SLOT_WORDS |= {"topic": TOPICS, "request": list(REQUESTS)}
