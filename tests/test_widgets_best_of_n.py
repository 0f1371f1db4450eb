"""The best-of-N playground: what it marks is what the procedures pick, and nothing a model writes becomes markup."""

from html.parser import HTMLParser
from types import SimpleNamespace

import numpy as np
import pytest

from infalign_edu.calibration import EmpiricalCalibrator
from infalign_edu.classroom.widgets import best_of_n, draws
from infalign_edu.classroom.widgets.best_of_n import BestOfNPlayground
from infalign_edu.lm.rewards import GoldReward
from infalign_edu.procedures import procedure

NAMES = ["best-of-N", "2nd-best-of-N", "standard", "worst-of-N"]


class Page(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags, self.rows = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_data(self, data):
        if self.rows and self.rows[-1]:
            self.rows[-1][-1] += data


@pytest.fixture(scope="module")
def policy():
    return best_of_n._embedded()


@pytest.fixture
def playground(policy):
    found = BestOfNPlayground(lambda: policy)
    found.press()
    return found


def judged(rewards, n=None, seed=0):
    rewards = np.asarray(rewards, dtype=float)
    return draws.judge("p", "r", n or len(rewards), seed, [f"y{j}" for j in range(len(rewards))], rewards, np.arange(8.0))


def test_what_is_shown_is_the_largest_second_first_and_smallest(playground):
    for n in (1, 2, 5, 16):
        playground.controls["n"].value = n
        data = playground.data
        order = np.argsort(data.rewards)
        assert len(data.responses) == len(data.rewards) == n and len(set(data.rewards)) == n
        assert data.shown["best-of-N"] == data.rewards.argmax() and data.shown["worst-of-N"] == data.rewards.argmin()
        assert data.shown["standard"] == 0
        assert data.shown.get("2nd-best-of-N") == (order[-2] if n > 1 else None)
        assert [data.ranks[j] for j in order] == list(range(n, 0, -1))


def test_equal_rewards_are_broken_by_the_seed_alone():
    picks = {judged([1, 1, 1, 0], seed=s).shown["best-of-N"] for s in range(30)}
    assert picks == {0, 1, 2} and judged([1, 1, 1, 0], seed=7).shown == judged([1, 1, 1, 0], seed=7).shown


def test_calibrated_rewards_come_from_samples_that_are_never_shown(playground, policy):
    data = playground.data
    hidden = policy.sample([data.prompt], 64, seed=best_of_n.stream(data.prompt, 0, 0)).responses
    shown = policy.sample([data.prompt], 16, seed=best_of_n.stream(data.prompt, 1, 0)).responses
    gold = GoldReward("helpfulness")
    assert data.responses == shown[:4] and np.array_equal(data.rewards, gold([data.prompt] * 4, shown[:4]))
    table = EmpiricalCalibrator(gold([data.prompt] * 64, hidden)[None])
    assert np.array_equal(data.calibrated, table(data.rewards[None])[0])
    assert np.array_equal(data.hidden, table.reference_rewards[0])
    playground.press()
    assert np.array_equal(playground.data.hidden, data.hidden)  # new draws, the same judge


def test_judge_on_numbers_that_can_be_counted():
    data = judged([3.0, 0.5, 9.0, 3.5], n=3)
    assert data.calibrated.tolist() == [3.5 / 8, 1 / 8, 1.0] and data.responses == ["y0", "y1", "y2"]
    assert data.shown == {"best-of-N": 2, "2nd-best-of-N": 0, "standard": 0, "worst-of-N": 1}
    assert data.ranks.tolist() == [2, 3, 1]


@pytest.mark.parametrize("n", [1, 2, 4, 16])
def test_expected_rewards_are_means_of_the_procedures_distributions(n):
    t = (np.arange(20_000) + 0.5) / 20_000
    found = draws.expected(n)
    assert list(found) == [name for name in NAMES if n > 1 or not name.startswith("2nd")]
    for name, mean in found.items():
        shown = procedure(name.replace("-N", f"-{n}"))
        assert mean == pytest.approx(np.mean(t * shown.pdf(t)), abs=1e-6)


def test_a_longer_draw_begins_with_the_shorter_one(playground):
    short = playground.data
    playground.controls["n"].value = 11
    assert playground.data.responses[:4] == short.responses and len(set(playground.data.responses)) > 8
    assert np.array_equal(playground.data.rewards[:4], short.rewards)


@pytest.mark.parametrize(("control", "value", "moves"), [
    ("prompt", None, {"prompt", "responses", "rewards", "hidden"}), ("reward", "harmlessness", {"rewards", "hidden"}),
    ("n", 7, {"responses", "rewards"}), ("seed", 5, {"responses", "rewards"}),
])  # fmt: skip
def test_moving_a_control_changes_what_it_should_and_nothing_else(playground, control, value, moves):
    before, image, text = playground.data, playground.image.value, playground.text
    options = getattr(playground.controls[control], "options", None)
    playground.controls[control].value = options[-1][1] if value is None else value
    after = playground.data
    assert playground.error is None and playground.image.value != image and playground.text != text
    for part in ("prompt", "responses", "rewards", "hidden"):
        assert (str(getattr(after, part)) != str(getattr(before, part))) == (part in moves), part


def test_the_same_seed_draws_the_same_and_another_prompt_other_sentences(playground, policy):
    first = playground.data.responses
    playground.press()
    assert playground.controls["seed"].value == 1 and playground.data.responses != first
    playground.controls["seed"].value = 0
    assert playground.data.responses == first
    playground.controls["prompt"].value = playground.controls["prompt"].options[1][1]
    assert playground.data.responses[0].split()[0] != first[0].split()[0] or playground.data.responses[1:] != first[1:]


def test_every_prompt_is_held_out_and_of_both_kinds(playground):
    from infalign_edu.lm.datasets import load_prompts

    options = playground.controls["prompt"].options
    for kind in ("harmless", "harmful"):
        held = load_prompts("embedded").where(split="heldout", kind=kind).prompts
        found = [text for label, text in options if label.startswith(f"{kind} ")]
        assert len(found) >= 6 and set(found) <= set(held)


def test_the_table_says_who_shows_what(playground):
    playground.controls["n"].value = 6
    data, page = playground.data, Page(playground.table.value)
    head, *rows = page.rows
    assert head == ["draw", "response", "reward r", "calibrated u", "rank", "shown by"] and len(rows) == 6
    for j, row in enumerate(rows):
        assert row[:2] == [str(j + 1), data.responses[j]] and float(row[2]) == pytest.approx(data.rewards[j], abs=0.006)
        assert float(row[3]) == pytest.approx(data.calibrated[j], abs=0.006) and row[4] == str(data.ranks[j])
        by = {name.strip() for name in row[5].lstrip("● ").split(",") if name.strip()}
        assert by == {name.replace("-N", "-6") for name, pick in data.shown.items() if pick == j}
    scopes = [attrs.get("scope") for tag, attrs in page.tags if tag == "th"]
    assert scopes == ["col"] * 6 + ["row"] * 6 and "caption" in [tag for tag, _ in page.tags]


def test_a_script_shaped_response_is_text():
    hostile = "<script>alert(1)</script><img src=x onerror=alert(2)>"
    fake = SimpleNamespace(sample=lambda prompts, samples, seed: SimpleNamespace(responses=[hostile] * samples))
    playground = BestOfNPlayground(lambda: fake)
    playground.press()
    page = Page(playground.table.value)
    assert playground.error is None and [row[1] for row in page.rows[1:]] == [hostile] * 4
    assert not {"script", "img"} & {tag for tag, _ in page.tags}
    playground.show(draws.judge(hostile, "r", 1, 0, ["y"], np.zeros(1), np.zeros(1)))
    page = Page(playground.table.value + playground.numbers.value + playground.message.value)
    assert not {"script", "img"} & {tag for tag, _ in page.tags} and "&lt;script&gt;" in playground.numbers.value


def test_nothing_is_loaded_before_it_is_asked_for():
    def load():
        raise AssertionError("loaded too early")

    playground = BestOfNPlayground(load)
    playground.controls["n"].value = 9
    assert playground.error is None and playground.table.value == "" and playground.data.responses == []
    assert "0.90" in playground.text and playground.image.value[1:4] == b"PNG"


def test_a_model_that_cannot_be_loaded_is_an_error_on_the_page_and_the_picture_stays():
    said = []

    def load():
        said.append(playground.message.value)
        raise OSError("no <such> model")

    playground = BestOfNPlayground(load)
    image = playground.image.value
    playground.button.click()
    assert "Loading the model" in said[0]
    assert "OSError: no &lt;such&gt; model" in playground.message.value and 'role="alert"' in playground.message.value
    assert playground.image.value == image and playground.controls["seed"].value == 0
    assert playground.button.description == "Draw responses"
    playground.controls["n"].value = 3
    assert playground.message.value == "" and "best-of-3" in playground.text


def test_the_button_loads_once_then_draws_again(policy):
    loads = []
    playground = BestOfNPlayground(lambda: loads.append(1) or policy)
    playground.button.click()
    assert playground.button.description == "Draw again" and playground.controls["seed"].value == 0
    playground.controls["seed"].value = 99
    playground.button.click()
    assert loads == [1] and playground.controls["seed"].value == 0 and playground.message.value == ""


def test_the_picture_shows_the_draws(playground):
    playground.controls["n"].value = 5
    left, right = playground.live._lines
    data = playground.data
    assert left["draws·"].get_ydata().tolist() == data.calibrated.tolist()
    assert right["_worst-of-N·"].get_xydata().tolist() == [[5, data.calibrated[data.shown["worst-of-N"]]]]
    assert right["best-of-N"].get_ydata()[4] == pytest.approx(5 / 6) and right["2nd-best-of-N"].get_xdata()[0] == 2
    curve = left[best_of_n.HIDDEN].get_xydata()
    assert curve[0].tolist() == [-5.5, 0] and curve[-1, 1] == 1 and (np.diff(curve, axis=0) >= 0).all()
    redraws = playground.live.full_redraws
    playground.controls["n"].value = 15
    assert playground.live.full_redraws == redraws
