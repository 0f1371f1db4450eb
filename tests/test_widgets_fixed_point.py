"""FixedPointExplorer: THEORY's numbers on the page, verdicts that are right, controls that all do something."""

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from infalign_edu.classroom.widgets.fixed_point import FixedPointExplorer, _live, picture, words
from infalign_edu.classroom.widgets.iteration import KINDS, LEVELS, REFERENCES, STARTS, STEPS, iterate, solve

BASE = {"procedure": "best-of", "n": 4, "reference": "the same", "reward": "continuous", "beta": 0.3, "damping": 0.0, "start": "reference", "step": 40}
BINARY = {"procedure": "worst-of", "n": 32, "reward": "2 levels (safe or not)", "beta": 0.1}


def seen(**change):
    return iterate(**{**BASE, **change})


def pixels(png):
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))


def test_the_two_cycle_has_the_numbers_of_the_theory():
    data = seen()
    assert data.verdict == "two-cycle" and data.swing == pytest.approx((0.230, 0.507), abs=5e-4)
    assert sorted(data.history.win_rate[39:41]) == pytest.approx([0.507, 0.977], abs=5e-4)
    assert data.optimum.stationary[0] == pytest.approx((0.729115, 0.840137, 0.370072), abs=1e-6)
    assert "swings between 0.230 and 0.507" in words(data) and "J 0.7291, win rate 0.8401, KL 0.37 nats" in words(data)


@pytest.mark.parametrize(("n", "below", "above"), [(2, 0.22, 0.26), (4, 0.63, 0.70), (8, 1.40, 1.55)])
def test_the_cycle_starts_where_the_theory_says(n, below, above):
    assert seen(n=n, beta=below, step=STEPS).verdict == "two-cycle"
    assert seen(n=n, beta=above, step=STEPS).verdict != "two-cycle"


def test_damping_helps_if_it_is_enough():
    assert seen(damping=0.8, step=60).verdict == "optimum"
    assert seen(damping=0.5, beta=0.1, step=STEPS).verdict == "two-cycle"
    assert seen(damping=0.9, beta=0.1, step=STEPS).swing[0] == pytest.approx(seen(beta=0.1).optimum.stationary[0][0], abs=1e-5)
    assert seen(damping=1.0).verdict == "frozen" and "nothing ever moves" in words(seen(damping=1.0))


def test_the_binary_trap_and_the_way_out():
    trapped = seen(**BINARY, step=20)
    assert trapped.verdict == "trap" and trapped.swing[0] == pytest.approx(0.5, abs=1e-6) and trapped.history.residual[20] < 1e-9
    assert [s[0] for s in trapped.optimum.stationary] == pytest.approx([0.930685, 0.5, 0.475084], abs=1e-6)
    assert "Converged to a stationary policy that is not the optimum: J = 0.5000 against 0.9307" in words(trapped)
    assert seen(**BINARY, step=20, start="mostly high").verdict == "optimum"
    assert "The start is a stationary policy that is not the optimum" in words(seen(**BINARY, step=0))


def test_worst_of_8_against_best_of_8_stays_beside_the_reference():
    data = seen(procedure="worst-of", n=8, reference="the opposite", beta=0.1)
    assert data.verdict == "trap" and data.swing[0] == pytest.approx(0.00008, abs=5e-6)
    assert [s[0] for s in data.optimum.stationary] == pytest.approx([0.4856, 0.00008, -0.0338], abs=5e-5)
    assert "the best of 3 stationary policies found" in words(data)


def test_worst_of_n_against_itself_converges_in_25_steps():
    for n, beta in ((2, 0.1), (4, 0.1), (32, 0.1), (16, 0.005)):
        data = seen(procedure="worst-of", n=n, beta=beta, step=25)
        assert data.verdict == "optimum" and "provably the only stationary policy" in words(data)
    assert seen(procedure="worst-of", n=4, beta=0.1).history.win_rate[-1] == pytest.approx(0.975, abs=1e-5)


def test_a_verdict_never_looks_ahead():
    for step in (0, 1, 2, 3):
        data = seen(step=step)
        assert data.verdict == ("start", "moving", "moving", "moving")[step] and f"Step {step}:" in words(data)


def test_the_optimum_of_levels_is_drawn_as_levels():
    solved = solve("worst-of-32", "worst-of-32", 2, 0.1)
    (u, phi), (edges, F) = solved.transform, solved.cdf
    assert u.tolist() == [0, 0.5, 0.5, 1] and phi == pytest.approx([0, 0, 16, 16], abs=1e-6)  # N / 2 from bad to good
    assert edges.tolist() == [0, 0.5, 1] and pytest.approx([0, 0, 1], abs=1e-12) == F


@pytest.mark.parametrize(
    "change",
    [{"procedure": "worst-of"}, {"n": 5}, {"reference": "standard"}, {"reward": "4 levels"}, {"beta": 0.2}, {"damping": 0.35},
     {"start": "mostly low"}, {"step": 7}],
)  # fmt: skip
def test_every_control_changes_data_words_and_picture(change):
    explorer = FixedPointExplorer()
    explorer.controls["step"].value = 2
    before, words_before, image = explorer.data, explorer.text, explorer.image.value
    (name, value), = change.items()
    explorer.controls[name].value = value
    after = explorer.data
    assert explorer.error is None and explorer.text != words_before and explorer.image.value != image
    assert after.step != before.step or abs(after.history.objective[:3] - before.history.objective[:3]).max() > 1e-6


def test_buttons_move_the_step_and_stop_at_the_ends():
    explorer = FixedPointExplorer()
    for button, step in ((explorer.one, 1), (explorer.run, 51), (explorer.run, STEPS), (explorer.one, STEPS), (explorer.back, 0)):
        button.click()
        assert explorer.controls["step"].value == step == explorer.data.step
    assert all(button.tooltip and button.tabbable is not False for button in (explorer.one, explorer.run, explorer.back))


def test_every_control_has_a_label_and_a_tooltip():
    for control in FixedPointExplorer().controls.values():
        assert control.description and control.tooltip


def test_a_bad_setting_is_shown_and_the_picture_stays():
    explorer = FixedPointExplorer()
    image, text = explorer.image.value, explorer.text
    explorer.controls["start"].options = [*STARTS, "nowhere"]
    explorer.controls["start"].value = "nowhere"
    assert "start must be one of reference, " in explorer.message.value and "nowhere" in explorer.message.value
    assert explorer.image.value == image and explorer.text == text
    explorer.controls["start"].value = "mostly high"
    assert explorer.message.value == "" and explorer.image.value != image


@pytest.mark.parametrize(
    ("change", "says"),
    [({"step": 101}, "step must be a whole number from 0 to 100"), ({"damping": 1.2}, "damping must be"), ({"beta": 0.0}, "beta must be a positive"),
     ({"reward": "3 levels"}, "reward must be one of"), ({"reference": "x"}, "reference must be"), ({"procedure": "kth"}, "procedure must be")],
)  # fmt: skip
def test_bad_values_are_named(change, says):
    with pytest.raises(ValueError, match=says):
        seen(**change)


def test_the_still_picture_has_its_text():
    bundle, metadata = FixedPointExplorer()._repr_mimebundle_()
    assert bundle["image/png"] and "best-of-4 against the reference's best-of-4" in metadata["image/png"]["alt"]


def test_axes_keep_their_size_however_often_limits_change():
    explorer = FixedPointExplorer()
    sizes = []
    for step in (1, 25, 45, 75, 100, 25, 1):
        explorer.controls["step"].value = step
        sizes.append(_live().axes[0].get_position().width)
    assert np.ptp(sizes) < 0.01 and min(sizes) > 0.25


@given(
    st.sampled_from(KINDS), st.integers(2, 32), st.sampled_from(REFERENCES), st.sampled_from(list(LEVELS)), st.floats(-2.3, 0.3),
    st.floats(0, 1), st.sampled_from(STARTS), st.integers(0, 40),
)  # fmt: skip
@settings(max_examples=12, deadline=None, derandomize=True)
def test_any_setting_gives_finite_numbers_and_a_picture(procedure, n, reference, reward, log_beta, damping, start, step):
    data = iterate(procedure, n, reference, reward, 10**log_beta, damping, start, step)
    history, best = data.history, data.optimum.stationary[0]
    assert np.isfinite(history.objective).all() and np.isfinite(history.residual).all() and (history.kl > -1e-9).all()
    assert ((history.cdf >= 0) & (history.cdf <= 1 + 1e-9)).all() and ((history.win_rate >= -1e-9) & (history.win_rate <= 1 + 1e-9)).all()
    assert history.objective.max() <= best[0] + 1e-7  # nothing that is visited beats the certified optimum
    shown = pixels(picture(data))
    assert shown.shape[1] > 1000 and (shown < 128).any(axis=2).sum() > 3000
    assert "nan" not in words(data) and f"{best[0]:.4f}" in words(data)
