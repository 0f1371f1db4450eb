"""CalibrationExplorer: what is called exact is exact, what is simulated agrees with it, controls that all do something."""

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy import stats

from infalign_edu import theory
from infalign_edu.calibration import EmpiricalCalibrator
from infalign_edu.classroom.widgets.calibration import (
    KOLMOGOROV,
    SIZES,
    TRANSFORMS,
    CalibrationExplorer,
    _live,
    calibrate,
    cost,
    picture,
    words,
)
from infalign_edu.classroom.widgets.known_rewards import (
    SHAPES,
    TIES,
    errors,
    histogram,
    level_of,
    levels_of,
    raw,
    usual_rms,
    usual_worst,
)
from infalign_edu.transforms import transform as named

TIED = [("normal", "coarse"), ("skewed", "very coarse"), ("heavy tails", "fine"), ("binary", "none")]


def rewards(shape, ties, v):
    """Raw rewards of responses at true quantiles v, rounded as the explorer says: another way than its levels."""
    quantile = SHAPES[shape][1]
    low, first, third, high = quantile(np.array([1e-4, 0.25, 0.75, 1 - 1e-4]))
    step = TIES[ties] * (third - first)
    return np.round(np.clip(quantile(v), low, high) / step) if step and shape != "binary" else quantile(v)


@pytest.mark.parametrize("shape", [s for s in SHAPES if s != "binary"])
def test_each_shape_has_the_quantiles_of_its_cdf(shape):
    cdf, quantile = SHAPES[shape]
    u = np.linspace(0.001, 0.999, 400)
    assert cdf(quantile(u)) == pytest.approx(u, abs=1e-6)
    other = {"normal": stats.norm, "skewed": stats.expon, "heavy tails": stats.t(2)}.get(shape)
    assert other is None or quantile(u) == pytest.approx(other.ppf(u), rel=1e-9, abs=1e-9)


@pytest.mark.parametrize(("shape", "ties"), [*TIED, ("bimodal", "none")])
def test_the_estimate_is_that_of_the_calibrator_on_raw_rewards(shape, ties):
    data = calibrate(shape, ties, 24, "identity", 3)
    z = np.random.default_rng(3).random(24)
    inside = (data.u > 0) & (data.u < 1)
    direct = EmpiricalCalibrator(rewards(shape, ties, z)[None])(rewards(shape, ties, data.u[inside])[None])[0]
    edges = levels_of(shape, ties)
    far = np.ones(inside.sum(), bool) if edges is None else np.abs(data.u[inside, None] - edges).min(axis=1) > 1e-6
    far &= np.abs(rewards(shape, ties, data.u[inside])) < 60 if shape == "heavy tails" else True  # the clipped ends
    assert direct[far] == pytest.approx(data.estimate[inside][far], abs=1e-12) and far.sum() > 250


@pytest.mark.parametrize(("shape", "ties"), [*TIED, ("normal", "none")])
def test_band_and_rms_agree_with_simulated_tables(shape, ties):
    K, levels, u = 7, levels_of(shape, ties), np.array([0.05, 0.31, 0.5, 0.93])
    tables = np.random.default_rng(0).random((40_000, K))
    C = EmpiricalCalibrator(level_of(levels, tables)[0])
    seen = C(np.broadcast_to(level_of(levels, u)[0], (40_000, 4)))
    data = calibrate(shape, ties, K, "identity", 0)
    at = np.searchsorted(data.u, u - 1e-9)
    assert seen.mean(axis=0) == pytest.approx(level_of(levels, u)[0], abs=0.004)  # unbiased, half ties included
    assert seen.std(axis=0) == pytest.approx(data.sd[at], rel=0.02)
    square = np.mean([errors(levels, np.sort(z))[2][1] ** 2 for z in tables[:4000]])
    assert np.sqrt(square) == pytest.approx(usual_rms(levels, K), rel=0.04) and data.rms_mean == usual_rms(levels, K)


def test_rms_and_band_without_ties_are_the_closed_forms():
    data = calibrate("skewed", "none", 32, "log", 1)
    assert data.rms_mean == pytest.approx(np.sqrt(1 / (6 * 32))) and data.sd[150] == pytest.approx(0.5 / np.sqrt(32))
    assert data.sd[0] == data.sd[-1] == 0 and data.sd[30] == pytest.approx(np.sqrt(0.1 * 0.9 / 32))


def test_the_errors_of_one_table_are_those_of_a_fine_grid():
    z, u = np.sort(np.random.default_rng(5).random(9)), np.linspace(0, 1, 200_001)
    estimate = np.searchsorted(z, u, side="left") / 9
    values, chance, (worst, rms) = errors(None, z)
    assert worst == pytest.approx(np.abs(estimate - u).max(), abs=1e-5)
    assert rms == pytest.approx(np.sqrt(np.mean((estimate - u) ** 2)), abs=1e-5)
    assert chance @ values == pytest.approx(estimate.mean(), abs=1e-5) and chance.sum() == pytest.approx(1)


@pytest.mark.parametrize("K", [1, 8, 64, 256])
def test_the_usual_largest_error_is_that_of_kolmogorov(K):
    exact = stats.kstwo(K).mean()
    assert usual_worst("normal", "none", K) == pytest.approx(exact, rel=0.05)
    assert usual_worst("binary", "none", K) < 0.7 * exact
    assert KOLMOGOROV == pytest.approx(stats.kstwobign.mean(), abs=1e-9) == pytest.approx(0.8687, abs=1e-4)
    assert calibrate("normal", "none", K, "identity", 0).worst < 1.63 / np.sqrt(K) + 0.5 / K  # 99 % of tables


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_what_is_trained_without_ties_is_the_bernstein_polynomial(transform):
    data, phi = calibrate("normal", "none", 12, transform, 0), named(transform)
    ends = phi(np.array([1 / 24 if transform == "log" else 0.0, 1.0]))
    assert data.trained * np.ptp(ends) * np.sign(ends[1] - ends[0]) + ends[0] == pytest.approx(theory.bernstein(phi, 12)(data.u), rel=1e-9)
    assert data.wanted[[0, -1]] == pytest.approx([0, 1]) and data.trained[[0, -1]] == pytest.approx([0, 1], abs=1e-9)
    if transform.startswith("exp"):
        t = phi.t
        closed = np.sign(t) * (1 - data.u + data.u * np.exp(t / 12)) ** 12
        assert data.trained == pytest.approx((closed - ends[0]) / (ends[1] - ends[0]), abs=1e-9)
    if transform == "identity":
        assert data.trained == pytest.approx(data.wanted, abs=1e-12)


@pytest.mark.parametrize(("shape", "ties"), TIED)
def test_what_is_trained_with_ties_is_the_mean_over_tables(shape, ties):
    K, levels, phi = 5, levels_of(shape, ties), named("exp:5")
    data = calibrate(shape, ties, K, "exp:5", 0)
    u = data.u[[20, 150, 290]]
    tables = EmpiricalCalibrator(level_of(levels, np.random.default_rng(1).random((40_000, K)))[0])
    seen = phi(tables(np.broadcast_to(level_of(levels, u)[0], (40_000, 3)))).mean(axis=0)
    assert data.trained[[20, 150, 290]] == pytest.approx((seen - 1) / (np.exp(5) - 1), abs=0.01)


def test_fine_ties_come_close_to_no_ties():
    fine, none = (calibrate("normal", ties, 16, "exp:10", 0) for ties in ("fine", "none"))
    assert np.abs(fine.trained - none.trained).max() < 0.1 and fine.rms_mean == pytest.approx(none.rms_mean, rel=0.04)


@pytest.mark.parametrize(("transform", "K"), [("exp:10", 16), ("exp:5", 4), ("log", 2), ("exp:-10", 1), ("power:7", 48)])
def test_the_cost_is_that_of_the_theory(transform, K):
    assert cost(transform, K) == pytest.approx(100 * theory.calibration_cost(named(transform), "best-of-4", K, 0.5), abs=1e-4)


def test_histograms_hold_everyone_and_flatten_as_k_grows():
    for shape in SHAPES:
        for ties in TIES:
            assert 0.99 < raw(shape, ties).sum() < 1 + 1e-9
    for K in SIZES:
        even = histogram(np.arange(K + 1) / K, np.full(K + 1, 1 / (K + 1)), K)
        assert even == pytest.approx(np.full(10, 0.1))  # equally likely values look equally likely, whatever K
    flat = [np.abs(calibrate("normal", "none", K, "identity", 0).flat - 0.1).max() for K in (4, 256)]
    assert flat[1] < 0.05 < flat[0] and raw("heavy tails", "none").max() > 0.4


def test_the_mean_under_the_reference_is_a_half_on_average():
    means = [calibrate("skewed", "coarse", 8, "identity", seed).mean for seed in range(300)]
    assert np.mean(means) == pytest.approx(0.5, abs=0.02)
    levels = levels_of("skewed", "coarse")
    middle, mass = (levels[1:] + levels[:-1]) / 2, np.diff(levels)
    assert middle @ mass == pytest.approx(0.5, abs=1e-12)


@pytest.mark.parametrize(
    "change", [{"shape": "binary"}, {"ties": "coarse"}, {"k": 256}, {"k": 1}, {"transform": "log"}, {"seed": 7}]
)
def test_every_control_changes_data_words_and_picture(change):
    explorer = CalibrationExplorer()
    before, said, image = explorer.data, explorer.text, explorer.image.value
    (name, value), = change.items()
    explorer.controls[name].value = value
    after = explorer.data
    parts = (after.estimate, after.trained, after.raw), (before.estimate, before.trained, before.raw)
    assert explorer.error is None and explorer.text != said and explorer.image.value != image
    assert any(not np.array_equal(a, b) for a, b in zip(*parts, strict=True))


def test_new_samples_are_numbered_and_come_again():
    explorer = CalibrationExplorer()
    image = explorer.image.value
    explorer.again.click()
    assert explorer.controls["seed"].value == 1 and explorer.image.value != image and "sample 1." in explorer.text
    explorer.controls["seed"].value = 99
    explorer.again.click()
    assert explorer.controls["seed"].value == 0 and explorer.image.value == image
    assert explorer.again.tooltip and all(c.description and c.tooltip for c in explorer.controls.values())


def test_a_bad_setting_is_shown_and_the_picture_stays():
    explorer = CalibrationExplorer()
    explorer.controls["transform"].options = [*TRANSFORMS, "exp:none"]
    image, text = explorer.image.value, explorer.text
    explorer.controls["transform"].value = "exp:none"
    assert "transform must be identity" in explorer.message.value and "&#x27;exp:none&#x27;" in explorer.message.value
    assert explorer.image.value == image and explorer.text == text
    explorer.controls["transform"].value = "log"
    assert explorer.message.value == "" and explorer.image.value != image


@pytest.mark.parametrize(
    ("setting", "says"),
    [(("cubic", "none", 4, "log", 0), "shape must be one of normal"), (("normal", "some", 4, "log", 0), "ties must be one of none"),
     (("normal", "none", 0, "log", 0), "k must be an integer of at least 1"), (("normal", "none", 4, "sin", 0), "transform must be")],
)  # fmt: skip
def test_bad_values_are_named(setting, says):
    with pytest.raises(ValueError, match=says):
        calibrate(*setting)


def test_the_still_picture_has_its_numbers():
    bundle, metadata = CalibrationExplorer()._repr_mimebundle_()
    alt = metadata["image/png"]["alt"]
    assert bundle["image/png"] and "0.869 / sqrt(K) = 0.217" in alt and "sqrt(1 / (6 K)) = 0.102" in alt and "0.500 exactly" in alt
    assert "costs 0.43 win-rate points" in alt


@given(
    st.sampled_from(list(SHAPES)), st.sampled_from(list(TIES)), st.sampled_from(SIZES), st.sampled_from(TRANSFORMS), st.integers(0, 99)
)
@settings(max_examples=20, deadline=None, derandomize=True)
def test_any_setting_gives_finite_numbers_and_a_picture(shape, ties, k, transform, seed):
    data = calibrate(shape, ties, k, transform, seed)
    redraws = _live().full_redraws
    for part in (data.exact, data.estimate, data.raw, data.flat, data.wanted, data.trained, data.sd):
        assert np.isfinite(part).all() and part.min() > -1e-9 and part.max() < 1 + 1e-9
    assert (np.diff(data.estimate) >= 0).all() and data.flat.sum() == pytest.approx(1) and (np.diff(data.trained) > -1e-9).all()
    assert 0 <= data.rms <= data.worst <= 1
    shown = np.asarray(Image.open(io.BytesIO(picture(data))).convert("RGB"))
    assert (shown < 128).any(axis=2).sum() > 3000 and _live().full_redraws == redraws  # limits never jump
    assert "nan" not in words(data) and f"K = {k}" in words(data)
