"""The race to the optimum: exact curves, the transform drawn by hand, the advice, buttons, and errors on the page."""

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

import infalign_edu as ia
from infalign_edu import theory
from infalign_edu.classroom.widgets.bound import curve_of
from infalign_edu.classroom.widgets.by_hand import KNOTS, advise, curve_by_hand
from infalign_edu.classroom.widgets.frontier import BEST, HAND, FrontierExplorer, _draw, describe, race

LINE, TOP = KNOTS, (np.exp(10 * KNOTS) - 1) / np.expm1(10)
MOVES = {"procedure": "worst-of", "n": 7, "kl": 0.8, "transforms": ("log",), **{f"u{i}": 0.3 for i in range(9)}}


@pytest.fixture(scope="module")
def explorer():
    return FrontierExplorer()


@pytest.fixture
def fresh(explorer):
    """The explorer at its first settings."""
    first = {"procedure": "best-of", "n": 4, "kl": 0.5, "transforms": ("identity", "exp:10")}
    for name, value in first.items():
        explorer.controls[name].value = value
    explorer.start("identity")
    assert explorer.error is None
    return explorer


def ink(png):
    """The share of dark or coloured pixels in each half of the picture."""
    pixels = np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).min(axis=2) < 160
    return [float(half.mean()) for half in np.array_split(pixels, 2, axis=1)]


def exactly(transform, procedure, kl):
    return theory.tilt(transform, theory.beta_for_kl(transform, kl)).win_rate(procedure)


@pytest.mark.parametrize("procedure", ["standard", "best-of-4", "worst-of-16"])
@pytest.mark.parametrize("name", ["identity", "log", "exp:10", "exp:60", "power:40"])
def test_curves_of_named_transforms_are_those_of_the_theory(procedure, name):
    found = race(procedure, [name], LINE, 0.3)
    for kl in (0.3, 1.2):
        exact = exactly(ia.standardize(ia.transform(name)), procedure, kl)
        assert np.interp(kl, *found.curves[name]) == pytest.approx(exact, abs=5e-4)
        if kl == 0.3:
            assert found.win_rate[name] == pytest.approx(exact, abs=5e-5)


@pytest.mark.parametrize("procedure", ["standard", "best-of-4", "worst-of-4", "2nd-best-of-3"])
@pytest.mark.parametrize("phi", [LINE, TOP, 1 - LINE, [0, 0.5, 0.2, 0.2, 0.9, 1, 0.3, 0.8, 0.95]], ids=["line", "top", "down", "wild"])
def test_the_curve_drawn_by_hand_is_that_of_the_theory(procedure, phi):
    phi = np.array(phi)
    (kl, win_rate), beta = curve_by_hand(phi, procedure, 0.4)
    policy = theory.tilt(ia.Tabulated(KNOTS, phi), beta)
    assert policy.kl == pytest.approx(0.4, abs=2e-3)
    i = int(np.searchsorted(kl, 0.4))
    for j in (3, i, i + 4):
        at = theory.beta_for_kl(ia.Tabulated(KNOTS, phi), float(kl[j]))
        assert win_rate[j] == pytest.approx(theory.tilt(ia.Tabulated(KNOTS, phi), at).win_rate(procedure), abs=2e-5)
    assert (kl[0], win_rate[0]) == (0.0, 0.5) and (np.diff(kl) > 0).all()


def test_a_flat_top_ends_the_curve_at_its_measure():
    flat = np.minimum(LINE * 8, 1.0)  # 1 from u = 1/8 on
    found = race("best-of-4", ["identity"], flat, 0.5)
    assert found.reach == pytest.approx(np.log(8 / 7), abs=2e-3) and HAND not in found.win_rate
    assert found.advice is None and "it ends at 0.13, because it is flat at its top" in describe(found)


def test_identity_by_hand_is_the_optimum_of_standard():
    kl = theory.optimum("standard", 0.5).kl
    found = race("standard", [], LINE, kl)
    assert found.share(HAND) == pytest.approx(1, abs=2e-4) and found.share(BEST) == 1 and found.advice is None
    assert found.win_rate[BEST] == pytest.approx(0.656518, abs=1e-6)
    assert found.best_phi == pytest.approx(np.interp(found.best_phi, LINE, LINE)) and "the optimum to a tenth" in describe(found)


@pytest.mark.parametrize("procedure", ["best-of-4", "worst-of-8", "2nd-best-of-4"])
def test_nothing_beats_the_optimum_and_its_own_transform_comes_next_to_it(procedure):
    from infalign_edu.classroom.widgets.bound import U

    found = race(procedure, ["identity", "exp:10", "exp:-10"], LINE, 0.4)
    assert all(found.win_rate[BEST] >= found.win_rate[name] for name in found.win_rate)
    again = race(procedure, [], np.interp(KNOTS, U, found.best_phi), 0.4)
    assert 0.98 < again.share(HAND) <= 1
    exact = theory.optimum(procedure, theory.optimal_beta_for_kl(procedure, 0.4))
    phi = exact.transform(U)
    assert found.best_phi == pytest.approx((phi - phi[0]) / (phi[-1] - phi[0]), abs=0.02)
    assert found.win_rate[BEST] == pytest.approx(exact.win_rate, abs=2e-5)


@pytest.mark.parametrize("procedure", ["best-of-4", "worst-of-4"])
@pytest.mark.parametrize("phi", [LINE, [0.1, 0.3, 0.2, 0.4, 0.35, 0.6, 0.7, 0.5, 0.9]], ids=["line", "wild"])
def test_the_advice_is_the_slider_that_gains_most(procedure, phi):
    phi, kl, gains = np.array(phi), 0.4, []
    start = exactly(ia.Tabulated(KNOTS, phi), procedure, kl)
    for i in range(9):
        for sign in (1, -1):
            moved = phi + sign * 0.004 * (np.arange(9) == i)
            if 0 <= moved[i] <= 1:
                gains.append((exactly(ia.Tabulated(KNOTS, moved), procedure, kl) - start, (i, sign)))
    assert advise(phi, theory.beta_for_kl(ia.Tabulated(KNOTS, phi), kl), procedure) == max(gains)[1]


def test_following_the_advice_closes_the_gap():
    phi = LINE.copy()
    first = race("best-of-4", [], phi, 0.5)
    for _ in range(120):
        found = race("best-of-4", [], phi, 0.5)
        if found.advice is None:
            break
        where, sign = found.advice
        phi[where] = np.clip(phi[where] + 0.02 * sign, 0, 1)
    assert first.share(HAND) < 0.82 and found.share(HAND) > 0.97


@pytest.mark.parametrize("name", MOVES)
def test_every_control_moves_numbers_and_picture(fresh, name):
    text, picture = fresh.text, fresh.image.value
    fresh.controls[name].value = MOVES[name]
    assert fresh.error is None and fresh.text != text and fresh.image.value != picture


def test_the_sliders_start_from_what_their_buttons_say(fresh):
    scores = []
    for button in fresh.buttons:
        button.click()
        assert fresh.error is None
        scores.append(fresh.data.share(HAND))
    assert scores[0] == pytest.approx(0.803, abs=2e-3) and 0.98 < scores[1] < scores[2] < 1
    assert [fresh.controls["u8"].value, fresh.controls["u0"].value] == [1.0, 0.0]
    fresh.buttons[1].click()
    assert [fresh.controls[f"u{i}"].value for i in range(9)] == pytest.approx(list(TOP), abs=1e-6)


def test_transforms_are_added_and_cleared(fresh):
    fresh.adding.value = "exp:25"
    fresh.add_button.click()
    assert fresh.controls["transforms"].value == ("identity", "exp:10", "exp:25") and "exp:25 " in fresh.text
    assert np.interp(0.5, *fresh.data.curves["exp:25"]) == pytest.approx(np.interp(0.5, *curve_of("exp:25", "best-of-4")))
    picture = fresh.image.value
    fresh.adding.value = "exq:25"
    fresh.add_button.click()
    assert "transform must be identity, log, exp:T, power:K or a callable, got &#x27;exq:25&#x27;" in fresh.message.value
    assert fresh.image.value == picture
    fresh.clear_button.click()
    assert fresh.controls["transforms"].value == () and fresh.message.value == "" and "Others" not in fresh.text


def test_a_constant_and_too_many_transforms_are_said_and_the_picture_stays(fresh):
    for i in range(9):
        fresh.controls[f"u{i}"].value = 0.5
    assert "must be 9 finite numbers that differ" in fresh.message.value and min(ink(fresh.image.value)) > 0.005
    fresh.start("identity")
    assert fresh.error is None
    picture = fresh.image.value
    fresh.controls["transforms"].value = ("identity", "log", "exp:5", "exp:10", "exp:-5", "exp:-10", "power:3")
    assert "transforms must be at most 6" in fresh.message.value and fresh.image.value == picture
    with pytest.raises(ValueError, match="9 finite numbers"):
        race("standard", [], [0.0, 1.0], 0.5)


def test_the_words_name_the_numbers(fresh):
    data = fresh.data
    assert fresh.text.startswith(
        f"Your transform reaches {100 * data.share(HAND):.1f} % of the optimum's gain at KL 0.50 nats under best-of-4: "
        f"win rate {100 * data.win_rate[HAND]:.1f} % against {100 * data.win_rate[BEST]:.1f} %."
    )
    assert f"exp:10 {100 * data.share('exp:10'):.1f} %" in fresh.text and "the slider at u = 6/8 down" in fresh.text
    for i in range(9):
        fresh.controls[f"u{i}"].value = 1 - i / 8
    assert fresh.text.startswith("Your transform makes the policy worse than the reference")
    shown, metadata = fresh._repr_mimebundle_()
    assert metadata["image/png"]["alt"] == fresh.text and fresh.text.endswith(".") and len(shown["image/png"]) > 5000


def test_controls_have_labels_tooltips_and_units(fresh):
    assert all(control.description and control.tooltip for control in [*fresh.controls.values(), *fresh.buttons])
    assert fresh.controls["u3"].description == "u=3/8" and "nats" in fresh.controls["kl"].description


@settings(max_examples=15, deadline=None, derandomize=True)
@given(
    phi=arrays.arrays(float, 9, elements=st.integers(0, 100).map(lambda v: v / 100)), kl=st.floats(0.05, 1.5),
    procedure=st.sampled_from(["standard", "best-of-4", "best-of-64", "worst-of-2", "worst-of-16", "2nd-best-of-3"]),
)  # fmt: skip
def test_any_drawing_gives_finite_numbers_and_a_picture(phi, kl, procedure):
    phi[0] += 0.005  # never constant
    found = race(procedure, ["exp:10"], phi, kl)
    for kls, win_rate in found.curves.values():
        assert np.isfinite(kls).all() and win_rate.min() >= -1e-6 and win_rate.max() <= 1 + 1e-6
    assert all(0 <= value <= found.win_rate[BEST] + 2e-4 for value in found.win_rate.values())
    assert min(ink(_draw(found))) > 0.005 and "nan" not in describe(found)
