"""One transform beside the optimum: closed forms, the optimum's own zero loss, every control, and errors on the page."""

import io
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import infalign_edu as ia
from infalign_edu import theory
from infalign_edu.classroom.widgets import bound as bounds
from infalign_edu.classroom.widgets.bound import KINDS, U, bound, named
from infalign_edu.classroom.widgets.transform import TRANSFORMS, TransformExplorer, _draw, explore
from infalign_edu.plots.live import Panel

MOVES = {"procedure": "worst-of", "n": 7, "n_use": 9, "transform": "log", "t": 4.0, "beta": 10**0.5}


@pytest.fixture(scope="module")
def explorer():
    return TransformExplorer()


@pytest.fixture
def fresh(explorer):
    """The explorer at its first settings."""
    for name, value in zip(MOVES, ("best-of", 4, 4, "exp", 10.0, 10**0.2), strict=True):
        explorer.controls[name].value = value
    assert explorer.error is None
    return explorer


def ink(png):
    """The share of dark or coloured pixels in each half of the picture."""
    pixels = np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).min(axis=2) < 160
    return [float(half.mean()) for half in np.array_split(pixels, 2, axis=1)]


@pytest.mark.parametrize("beta", [0.3, 1.0, 5.0])
def test_identity_is_the_optimum_of_standard_in_closed_form(beta):
    found, t = explore("standard", 3, 5, "identity", 0, beta), 12**0.5 / beta
    assert found.win_rate == pytest.approx(1 / (1 - np.exp(-t)) - 1 / t, abs=1e-10)
    assert found.kl == pytest.approx(t * found.win_rate - np.log(np.expm1(t) / t), abs=1e-10)
    assert found.density == pytest.approx(t * np.exp(t * U) / np.expm1(t), rel=1e-9)
    assert found.price == pytest.approx(1 / t, rel=1e-4)  # u is Phi*, and its standard deviation 1 / sqrt(12)
    assert found.gap < 1e-7 and found.best == pytest.approx(found.density, abs=2e-3 * found.density.max())


def test_log_in_closed_form():
    beta = 0.4  # Phi = log u + 1 has unit variance, so f = (1 + 1/beta) u^(1/beta)
    found, a = explore("best-of", 4, 4, "log", 0, beta), 1 / beta
    assert found.density == pytest.approx((1 + a) * U**a, abs=1e-6) and found.cdf == pytest.approx(U ** (1 + a), abs=1e-6)
    assert found.win_rate == pytest.approx((1 + a) / (2 + a), abs=1e-6)  # u^(4 (1+a)) against u^4
    assert found.kl == pytest.approx(np.log(1 + a) - a / (1 + a), abs=1e-5)


@pytest.mark.parametrize("kind, n, beta", [("best-of", 4, 0.6), ("worst-of", 4, 0.3), ("top-2-of", 6, 0.5), ("2nd-best-of", 3, 0.2)])
def test_the_optimal_transform_loses_nothing(kind, n, beta):
    found = explore(kind, n, n, "optimal", 0, beta)
    best = theory.optimum(named(kind, n), found.price)
    assert (found.win_rate, found.kl) == pytest.approx((best.win_rate, best.kl), abs=1e-12)
    assert found.gap < 2e-5
    assert found.best == pytest.approx(found.density, abs=0.03 * found.density.max())


def test_values_of_exp_10_at_best_of_4():
    found = explore("best-of", 4, 4, "exp", 10, theory.beta_for_kl(ia.standardize(ia.transform("exp:10")), 0.370072))
    assert found.best_win_rate == pytest.approx(0.840137, abs=1e-5) and found.gap == pytest.approx(0.0008, abs=5e-5)
    policy = theory.tilt(ia.standardize(ia.transform("exp:10")), found.beta)
    assert found.win_rate == policy.win_rate("best-of-4") and (found.cdf == policy.cdf(U)).all()


def test_the_price_is_the_standard_deviation_of_the_optimal_transform_near_the_reference():
    price = explore("best-of", 4, 4, "exp", 10, 1000.0).price
    phi = ia.standardize(theory.optimum("best-of-4", price).transform)
    assert price / phi.scale == pytest.approx(1000.0, rel=3e-3)
    assert price == pytest.approx(1000 * 16 / 7 * np.sqrt(1 / 15 - 1 / 64), rel=1e-3)  # Phi* is 16/7 u^7 there


def test_use_differs_from_training():
    same, other = explore("best-of", 4, 4, "optimal", 0, 0.5), explore("best-of", 4, 16, "optimal", 0, 0.5)
    assert (same.density == other.density).all() and same.trained == other.trained == "best-of-4"
    assert other.used == "best-of-16" and other.gap > 0.01 > same.gap
    assert other.win_rate == pytest.approx(theory.optimum("best-of-4", same.price).policy.win_rate("best-of-16"))
    assert not np.allclose(other.best, other.best_at_use) and np.allclose(same.best, same.best_at_use)


class Seen:
    """Takes the place of a live figure and keeps what it is given."""

    panels = [Panel("u", "density", [], ylim=(0.0, 3.0))]

    def update(self, curves):
        self.curves = curves
        return b""


def test_the_picture_shows_densities_cut_and_both_distributions_before_and_after_decoding():
    seen, found = Seen(), explore("worst-of", 2, 4, "exp", -5, 1.0)
    _draw(seen, replace(found, density=np.where(U == 0, np.inf, found.density)))
    left, right = seen.curves
    assert left["policy"][1][0] == 3.0 and left["policy"][1][1:] == pytest.approx(found.density[1:].clip(0, 3))
    assert (left["optimum"][1] == found.best.clip(0, 3)).all() and (left["reference"][1] == 1).all()
    assert (left["optimum at use"][1] == found.best_at_use.clip(0, 3)).all()
    assert right["policy shown"][1] == pytest.approx(1 - (1 - found.cdf) ** 4) and (right["policy"][1] == found.cdf).all()
    assert right["reference shown"][1] == pytest.approx(1 - (1 - U) ** 4) and (right["reference"][1] == U).all()


@pytest.mark.parametrize("name", MOVES)
def test_every_control_moves_numbers_and_picture(fresh, name):
    text, picture = fresh.text, fresh.image.value
    fresh.controls[name].value = MOVES[name]
    assert fresh.error is None and fresh.image.value != picture
    assert fresh.text != text


@pytest.mark.parametrize("moves, says", [
    ({"t": 0.0}, "t must be a number in [-700, 700] other than 0, got 0.0"),
    ({"transform": "power", "t": -3.0}, "k must be a finite positive number, got -3.0"),
    ({"procedure": "2nd-best-of", "n": 1}, "N must be at least 2 for 2nd-best-of-N, which looks at two responses, got 1"),
    ({"procedure": "top-2-of", "n_use": 1}, "N must be at least 2 for top-2-of-N"),
])  # fmt: skip
def test_a_setting_that_does_not_exist_is_said_and_the_picture_stays(fresh, moves, says):
    *before, (name, value) = moves.items()
    for other, at in before:
        fresh.controls[other].value = at
    picture = fresh.image.value
    fresh.controls[name].value = value
    assert says in fresh.message.value and 'role="alert"' in fresh.message.value
    assert fresh.image.value == picture and min(ink(picture)) > 0.005
    fresh.controls[name].value = 3.0 if name == "t" else 4
    assert fresh.message.value == "" and fresh.error is None


def test_the_words_name_the_numbers(fresh):
    data = fresh.data
    for part in (f"win rate {100 * data.win_rate:.1f} %", f"{data.kl:.3f} nats", f"wins {100 * data.best_win_rate:.1f} %",
                 f"{100 * data.gap:.1f} points are lost by the shape"):  # fmt: skip
        assert part in fresh.text
    assert fresh.text.startswith("exp:10 at beta 1.58, shown through best-of-4: win rate 87.3 %")
    fresh.controls["n_use"].value = 8
    assert "shown through best-of-8 (training was for best-of-4)" in fresh.text
    data, metadata = fresh._repr_mimebundle_()
    assert metadata["image/png"]["alt"] == fresh.text and fresh.text.endswith(".") and len(data["image/png"]) > 5000


def test_controls_have_labels_tooltips_and_units(fresh):
    assert all(control.description and control.tooltip for control in fresh.controls.values())
    assert "draws" in fresh.controls["n"].description and "nat" in fresh.controls["beta"].description


def test_limits_stay_while_a_slider_moves(fresh):
    from infalign_edu.classroom.widgets.transform import _live

    live = [_live("exp", top) for top in (3.0, 7.0)]
    drawn = [one.full_redraws for one in live]
    for t in np.arange(1.0, 30.0, 3.0):
        fresh.controls["t"].value = t
    assert [one.full_redraws for one in live] == drawn


@settings(max_examples=15, deadline=None, derandomize=True)
@given(
    kind=st.sampled_from(KINDS), n=st.sampled_from([2, 3, 16]), n_use=st.sampled_from([2, 5, 64]),
    transform=st.sampled_from(TRANSFORMS), t=st.floats(0.5, 30), sign=st.sampled_from([1, -1]), beta=st.floats(-1.5, 1.0),
)  # fmt: skip
def test_any_setting_gives_finite_numbers_and_a_picture(kind, n, n_use, transform, t, sign, beta):
    t = t if transform == "power" else sign * t
    if kind in ("2nd-best-of", "top-2-of", "best-of-poisson"):
        n, n_use = min(n, 3), min(n_use, 5)  # a few optima each, solved once
    found = explore(kind, n, n_use, transform, t, 10**beta)
    assert 0 <= found.win_rate <= 1 and 0 < found.kl < 20 and found.win_rate <= found.best_win_rate + 2e-4
    assert (np.diff(found.cdf) >= 0).all() and found.cdf[[0, -1]] == pytest.approx([0, 1])
    for f in (found.best, found.best_at_use):
        assert np.isfinite(f).all() and np.trapezoid(f, U) == pytest.approx(1, abs=0.02)
    shell = TransformExplorer.__new__(TransformExplorer)
    assert min(ink(shell.draw(found))) > 0.005 and "nan" not in shell.describe(found)


def test_at_use_with_128_and_a_policy_beyond_the_last_optimum():
    for moves in (("best-of", 64, 128, "exp", 30, 0.04), ("worst-of", 64, 128, "log", 0, 0.04)):
        found = explore(*moves)
        assert found.best_win_rate > 0.999 and found.gap < 0.06 and np.isfinite(found.best_at_use).all()


@pytest.mark.parametrize("shown", ["standard", "best-of-3", "worst-of-5", "worst-of-32"])
@pytest.mark.parametrize("beta", [0.08, 0.7])
def test_the_bound_has_the_densities_of_certified_optima(shown, beta):
    best = theory.optimum(shown, beta)
    f = best.policy.density(U)
    assert bound(shown).density(best.kl) == pytest.approx(f, abs=3e-3 * f.max())


@pytest.mark.parametrize("shown", ["best-of-4", "worst-of-4", "2nd-best-of-4", "best-of-poisson-3.0"])
def test_the_bound_interpolates_certified_optima(shown):
    for beta in (0.07, 0.31, 1.3):
        best = theory.optimum(shown, beta)
        assert bound(shown).win_rate(best.kl) == pytest.approx(best.win_rate, abs=2e-5)


def test_the_bound_near_the_reference_and_far_away():
    b = bounds.Bound("2nd-best-of-3")
    assert b.win_rate(1e-4) == pytest.approx(0.5 + b.slope * np.sqrt(2e-4), abs=2e-4)
    far = b.win_rate(20.0)
    assert 0.99 < far <= 1 and b.win_rate(25.0) == far
    kl, win_rate = b.curve
    assert win_rate[0] == 0.5 and (np.diff(win_rate) >= 0).all() and kl[-1] == pytest.approx(bounds.MOST_KL)
