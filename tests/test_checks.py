"""The judge on its own: which values agree, what a learner reads, and that nothing a learner returns makes it raise."""

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from infalign_edu.classroom import checks
from infalign_edu.classroom.checks import check, hint, require, verdict
from infalign_edu.classroom.exercise import Exercise, Failure, Mistake, array, call, judge, same
from infalign_edu.classroom.exercises import find

CASES = 6


def exercise(answer=lambda x: 2 * x, inputs=None, mistakes=None, **fields):
    """An exercise on arrays of three numbers, unless told otherwise."""
    wrong = mistakes or {f"times {k}": (lambda x, k=k: k * x) for k in (3, 4, 5, 6)}
    return Exercise(
        name="doubling", notebook="99_none", goal="Double it.", difficulty=1, minutes=5, points=2, answer=answer,
        inputs=inputs or (lambda rng: (rng.random(3) + 0.5,)),
        mistakes=tuple(Mistake(says, function) for says, function in wrong.items()), hints=("a", "b", "c"), **fields)  # fmt: skip


def said(function, **fields):
    return verdict(exercise(**fields), function).message


# values that agree, and values that do not

NAN, INF = float("nan"), float("inf")
ALIKE = [
    (1, 1.0), (True, 1.0), (np.float32(0.5), 0.5), ([1.0, 2.0], np.array([1, 2])), ((1.0, 2.0), [1.0, 2.0]), (NAN, NAN),
    (INF, INF), (torch.tensor([1.0, 2.0]), np.array([1.0, 2.0])), (torch.tensor(3.0, requires_grad=True), 3.0),
    ([torch.tensor(1.0), torch.tensor(2.0)], [1.0, 2.0]), ("a", "a"), (None, None), ({"kl": 1.0}, {"kl": np.array(1.0)}),
    ({"b": 1, "a": [2, "x"]}, {"a": (2, "x"), "b": 1}), ((np.zeros(2), np.zeros(3)), (np.zeros(2), np.zeros(3))),
    ([np.zeros(2), None, "a"], (np.zeros(2), None, "a")), (np.zeros((0, 2)), np.zeros((0, 2))), ([], np.zeros(0)),
    (1 + 1e-9, 1.0), (1e9 + 1, 1e9), (np.bool_(False), 0.0), (np.str_("a"), "a"), (np.array([1, 2])[0], 1.0),
]  # fmt: skip
UNLIKE = [
    (1.0, 1.001), ([1.0], 1.0), ([[1.0, 2.0]], [1.0, 2.0]), (NAN, 1.0), (1.0, NAN), (INF, -INF), (INF, 1e300), ("a", "b"),
    ("1.0", 1.0), (1.0, "1.0"), (None, 0.0), (0.0, None), (None, "None"), ({"a": 1}, {"b": 1}), ({"a": 1}, 1), (1, {"a": 1}),
    ({"a": 1, "b": 2}, {"a": 1}), ({}, None), ([1, "a"], [1, "b"]), ([1, "a"], [1, "a", 2]), (1j, 1.0), (object(), 1.0),
    (lambda: 1, 1.0), ({1.0}, 1.0), ((np.zeros(2), np.zeros(3)), (np.zeros(2), np.ones(3))), (np.array(["a"]), 1.0),
    (np.array([1, None]), np.array([1.0, 2.0])), (torch.tensor([1.0, 2.0]), torch.tensor([2.0, 1.0])), ([], None),
    (range(2), [0, 2]), (torch.tensor(1j), 1.0), ([None, 1.0], [1.0, 1.0]), (np.zeros(2), np.zeros(3)),
]  # fmt: skip


@pytest.mark.parametrize(("left", "right"), ALIKE, ids=repr)
def test_values_that_agree(left, right):
    assert same(left, right, 1e-6) and same(right, left, 1e-6)


@pytest.mark.parametrize(("left", "right"), UNLIKE, ids=[str(i) for i in range(len(UNLIKE))])
def test_values_that_differ(left, right):
    assert not same(left, right, 1e-6) and not same(right, left, 1e-6)


@given(st.floats(-1e6, 1e6), st.sampled_from([1e-3, 1e-6]))
def test_the_tolerance_is_relative_and_absolute(value, tolerance):
    edge = tolerance * (1 + abs(value))
    for sign in (-1, 1):
        assert same(value + sign * 0.99 * edge, value, tolerance) and not same(value + sign * 1.01 * edge, value, tolerance)
    assert same(value, value, 0.0)


def test_an_object_that_answers_with_errors_is_no_number():
    class Hostile:
        def detach(self):
            raise KeyError("no")

    class Loud:
        def __array__(self, *_, **__):
            raise ZeroDivisionError

    for value in (Hostile(), Loud(), [Loud()]):
        with pytest.raises(ValueError, match="values must be"):
            array(value)
        assert not same(value, 1.0, 1e-6) and "a number is asked for" in said(lambda x, v=value: v, answer=lambda x: 1.0)
    bfloat = torch.tensor([1.0], dtype=torch.bfloat16)
    with pytest.raises(ValueError, match="values must be numbers, got Tensor"):
        array(bfloat)


# what a learner reads


def test_a_right_answer():
    found = verdict(exercise(), lambda x: [2 * v for v in x])
    assert (found.passed, found.message, found.tried, found.answered) == (True, "Right, on 6 random inputs.", CASES, True)


def test_a_known_mistake_is_named_only_if_every_value_makes_it():
    assert said(lambda x: 3 * x) == "times 3" and said(lambda x: 6 * x) == "times 6"
    assert said(lambda x: 3 * x if x[0] > 1 else 4 * x).startswith(f"Wrong on {CASES} of {CASES} random inputs. For ([")


def test_no_answer_and_half_an_answer():
    nothing = verdict(exercise(), lambda x: None)
    assert not nothing.answered and nothing.message == "Not answered yet: the function returns None."
    half = verdict(exercise(), lambda x: 2 * x if x[0] > 1 else None)
    assert half.answered and half.message.endswith("your function returns None: is a `return` missing?")


WHERE = {
    "shape": (lambda x: x[:2], "the shape of your value is (2,); it should be (3,)"),
    "scalar": (lambda x: x[0], "the shape of your value is (); it should be (3,)"),
    "nan": (lambda x: x * np.nan, "your value is not finite: [nan nan nan]"),
    "infinite": (lambda x: np.array([1, 2, np.inf]), "your value is not finite: [ 1. 2. inf]"),
    "off": (lambda x: 2 * x + 0.25, "off by up to 0.25."),
    "text": (lambda x: "2 x", "your value is a value of type str; an array of shape (3,) is asked for"),
    "dict": (lambda x: {"x": x}, "your value is a dict with the keys x; an array of shape (3,) is asked for"),
    "list": (lambda x: [1.0, "a"], "your value is a value of type list of 2; an array of shape (3,) is asked for"),
    "complex": (lambda x: 2j * x, "your value is a value of type ndarray; an array of shape (3,) is asked for"),
    "function": (lambda x: np.sum, "; an array of shape (3,) is asked for"),
    "raises": (lambda x: [][1], "it raised IndexError: list index out of range."),
    "exits": (lambda x: exit(3), "it raised SystemExit: 3."),
    "recursion": (lambda x: endless(x), "it raised RecursionError"),
    "two arguments": (lambda x, y: x, "it raised TypeError"),
}


def endless(x):
    return endless(x) + 1


@pytest.mark.parametrize("case", list(WHERE))
def test_where_an_unknown_answer_differs(case):
    function, expected = WHERE[case]
    assert expected in said(function)


def test_where_a_part_differs():
    def both(x):
        return {"kl": x.sum(), "rates": (x, "high")}

    def answers(**changed):
        return lambda x: both(x) | {key: change(x) for key, change in changed.items()}

    wrong = {f"wrong {k}": (lambda x, k=k: {"kl": k}) for k in range(4)}
    text = {
        "your value['kl'] is ": answers(kl=lambda x: x.sum() + 1),
        "the shape of your value['kl'] is (3,); it should be ()": answers(kl=lambda x: x),
        "the shape of your value['rates'][0] is (2,)": answers(rates=lambda x: (x[:2], "high")),
        "your value['rates'][1] is 'low'; another text is asked for": answers(rates=lambda x: (x, "low")),
        "your value['rates'] is a value of type list of 1; a value of type tuple of 2": answers(rates=lambda x: ["high"]),
        "your value['kl'] is None; a number is asked for": answers(kl=lambda x: None),
        "a dict with the keys kl; a dict with the keys kl, rates": lambda x: {"kl": x.sum()},
    }
    for expected, function in text.items():
        assert expected in said(function, answer=both, mistakes=wrong), expected
    assert verdict(exercise(both, mistakes=wrong), both).passed


def test_an_infinite_answer_is_compared_where_it_is_finite():
    wrong = {f"wrong {k}": (lambda x, k=k: x + k) for k in range(4)}
    fields = {"answer": lambda x: np.array([np.inf, x[1]]), "mistakes": wrong}
    assert "off by up to 0.5" in said(lambda x: np.array([np.inf, x[1] + 0.5]), **fields)
    assert "which should not be finite everywhere" in said(lambda x: np.array([9.0, x[1]]), **fields)
    assert "which should not be finite everywhere" in said(lambda x: np.array([np.nan, x[1]]), **fields)


def test_long_inputs_and_values_are_cut():
    message = said(lambda x: x, inputs=lambda rng: (rng.random((40, 40)), "s" * 500, torch.ones(9), 3))
    assert len(message) < 600 and "..." in message


def test_the_learner_s_input_is_a_copy_and_must_stay_as_it_was():
    seen = []

    def in_place(x):
        seen.append(x)
        x *= 2
        return x

    fixed = np.ones(3)
    assert "it changes its input in place" in said(in_place, inputs=lambda rng: (fixed,))
    assert np.array_equal(fixed, np.ones(3)) and all(x is not fixed for x in seen)
    for value, spoil in (({"a": 1}, dict.clear), ([1, 2], list.pop), (torch.ones(2), torch.Tensor.zero_), (np.array([NAN, 1]), np.ndarray.sort)):
        found = call(spoil, (value,))
        assert isinstance(found, Failure) and "in place" in found.says


def test_an_input_with_nan_counts_as_unchanged():
    assert call(lambda x: 1.0, (np.array([np.nan, 1.0]),)) == 1.0


def test_a_failure_agrees_with_nothing_not_even_with_a_mistake_that_fails():
    def fails(x):
        raise ValueError

    broken = exercise(mistakes={f"fails {k}": fails for k in range(4)})
    found = judge(broken, broken.cases(1), [Failure("it took too long")] * CASES)
    assert not found.passed and found.answered and found.message.endswith("it took too long.")


def test_warnings_of_a_mistake_are_not_shown_to_the_learner(recwarn):
    wrong = {f"log {k}": (lambda x, k=k: np.log(x - x) + k) for k in range(4)}
    assert "off by" in said(lambda x: x + 1, mistakes=wrong) and len(recwarn) == 0


@given(st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3) | st.complex_numbers() | st.binary(max_size=2),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner, max_size=3) | st.tuples(inner, inner),
    max_leaves=6,
))  # fmt: skip
def test_nothing_that_a_learner_returns_makes_the_judge_raise(value):
    for answer in (lambda x: x, lambda x: 1.0, lambda x: {"a": x, "b": "c"}, lambda x: (x, None), lambda x: "text"):
        one = exercise(answer, tries=3)
        found = judge(one, one.cases(1), [value, 0.0, value])
        assert isinstance(found.message, str) and not found.passed


# check, hint, require


def test_check_prints_one_verdict(capsys):
    for function, expected in (
        (lambda u, n: n * u ** (n - 1), "best-of-n-density: right, on 6 random inputs.\n"),
        (lambda u, n: u**n, "best-of-n-density: not yet. That is the CDF. The density is its derivative by u.\n"
                            'A hint: hint("best-of-n-density")\n'),
        (lambda u, n: None, f'best-of-n-density: to do. {find("best-of-n-density").goal}\nA first hint: hint("best-of-n-density")\n'),
        (0.5, "best-of-n-density: not yet. Give `check` the function itself, not a value of it: you gave float.\n"),
    ):  # fmt: skip
        check("best-of-n-density", function)
        assert capsys.readouterr().out == expected


def test_hints_come_one_after_the_other_and_begin_again(capsys, monkeypatch):
    monkeypatch.setattr(checks, "_hints_given", {})
    hints = find("shortfall").hints
    for step in (0, 1, 2, 0):
        hint("shortfall")
        assert capsys.readouterr().out == f"Hint {step + 1} of 3: {hints[step]}\n"
    hint("best-of-n-density")
    assert capsys.readouterr().out.startswith("Hint 1 of 3")


def test_an_unknown_exercise_is_told_its_neighbours():
    for function in (lambda: check("best-of-n-densty", max), lambda: hint("best-of-n-densty")):
        with pytest.raises(ValueError, match="such as best-of-n-density.*got 'best-of-n-densty'"):
            function()


def test_require_raises_the_message():
    with pytest.raises(AssertionError, match="That is worst-of-N"):
        require("best-of-n-density", lambda u, n: n * (1 - u) ** (n - 1), 7)
    with pytest.raises(AssertionError, match="Not answered yet"):
        require("best-of-n-density", lambda u, n: None, 7)
    require("best-of-n-density", find("best-of-n-density").answer, 7)


def test_an_exercise_must_be_whole():
    good = exercise()
    for field, value, message in (
        ("hints", ("a", "b"), "hints of exercise 'doubling' must be 3 steps, got 2"),
        ("mistakes", good.mistakes[:3], "mistakes of exercise 'doubling' must be at least 4, got 3"),
        ("difficulty", 4, "difficulty of exercise 'doubling' must be 1, 2 or 3, got 4"),
        ("tries", 2, "tries of exercise 'doubling' must be 3 more than its corners, got 2"),
        ("corners", (good.inputs,) * 4, "tries of exercise 'doubling' must be 3 more than its corners, got 6"),
    ):
        with pytest.raises(ValueError) as caught:
            dataclasses.replace(good, **{field: value})
        assert str(caught.value) == message


def test_headings():
    assert exercise().heading == "★☆☆ warm-up, 5 minutes, 2 points"
    assert dataclasses.replace(exercise(), difficulty=3, points=1).heading == "★★★ hard, 5 minutes, 1 point"
