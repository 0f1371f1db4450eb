import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import infalign_edu as ia
from infalign_edu.transforms import graded_quadrature

U = np.linspace(0, 1, 101)
slopes = st.floats(-60, 60).filter(lambda t: abs(t) > 1e-3)


def test_values():
    assert np.array_equal(ia.Identity()(U), U)
    assert ia.Log()(U[1:]) == pytest.approx(np.log(U[1:])) and ia.Log()(0.0) == -np.inf
    assert ia.Exponential(10.0)(U) == pytest.approx(np.exp(10 * U))
    assert ia.Exponential(-10.0)(U) == pytest.approx(-np.exp(-10 * U))
    assert ia.Power(7)(U) == pytest.approx(U**7)
    assert ia.Tabulated([0, 0.5, 1], [1, 1, 3])([0.25, 0.75]) == pytest.approx([1, 2])


@given(slopes)
def test_exponentials_increase_whatever_the_sign(t):
    assert (np.diff(ia.Exponential(t)(U)) >= 0).all()


@given(st.one_of(slopes.map(ia.Exponential), st.floats(0.1, 200).map(ia.Power), st.just(ia.Log()), st.just(ia.Identity())))
def test_standardized_has_mean_0_and_variance_1(phi):
    u, w = graded_quadrature()
    values = ia.standardize(phi)(u)
    assert w @ values == pytest.approx(0, abs=1e-9) and w @ values**2 == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize("t", [5.0, 10.0, -10.0, 300.0])
def test_standardize_against_closed_moments(t):
    scaled = ia.standardize(ia.Exponential(t))
    mean = np.sign(t) * np.expm1(t) / t
    second = np.expm1(2 * t) / (2 * t)
    assert scaled.mean == pytest.approx(mean, rel=1e-10)
    assert scaled.scale == pytest.approx(np.sqrt(second - mean**2), rel=1e-8)


def test_a_scale_is_right_as_long_as_it_is_given():
    """Steep powers have closed moments; `1 / u` has none, and near it no float is close enough to 0."""
    scales = {ia.Power(k): np.sqrt(1 / (2 * k + 1) - 1 / (k + 1) ** 2) for k in 10.0 ** np.arange(13)}
    scales |= {(lambda u, a=a: u**-a): np.sqrt(1 / (1 - 2 * a) - 1 / (1 - a) ** 2) for a in np.linspace(0.05, 0.45, 9)}
    given = []
    for phi, scale in scales.items():
        try:
            given.append(ia.standardize(phi).scale / scale)
        except ValueError as error:
            assert "finite variance" in str(error)
    assert len(given) == 16 and given == pytest.approx([1] * 16, rel=1e-4)
    for phi in (lambda u: 1 / u, lambda u: 1 / (u - 1), lambda u: u**-0.5, lambda u: np.tan(np.pi * (u - 0.5))):
        with pytest.raises(ValueError, match="finite variance"):
            ia.standardize(phi)


def test_standardize_known_scales():
    assert ia.standardize(ia.Identity()).scale == pytest.approx(1 / np.sqrt(12), rel=1e-12)
    assert ia.standardize(ia.Log()).scale == pytest.approx(1, rel=1e-9)
    once = ia.standardize(ia.Log())
    assert ia.standardize(once) is once and str(once) == "log"


def test_standardize_takes_own_functions_and_undoes_any_affine_change():
    plain, changed = (ia.standardize(f)(U) for f in (lambda u: np.asarray(u) ** 2, lambda u: 9 * np.asarray(u) ** 2 - 4))
    assert plain == pytest.approx(changed, abs=1e-10)


def test_graded_quadrature_is_exact_where_ordinary_rules_are_not():
    u, w = graded_quadrature()
    assert w.sum() == pytest.approx(1, abs=1e-14)
    assert w @ np.log(u) == pytest.approx(-1, abs=1e-10) and w @ np.log1p(-u) == pytest.approx(-1, abs=1e-10)
    assert w @ np.exp(500 * (u - 1)) == pytest.approx(-np.expm1(-500) / 500, rel=1e-10)


@given(st.one_of(slopes.map(ia.Exponential), st.floats(0.1, 200).map(ia.Power), st.just(ia.Log()), st.just(ia.Identity())))
def test_names_go_there_and_back(phi):
    assert ia.transform(str(phi)) == phi and ia.transform(phi) is phi


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ia.Exponential(0), "t must be a number in .* other than 0, got 0"),
        (lambda: ia.Exponential(float("inf")), "t must be a number"),
        (lambda: ia.Power(-1), "k must be a finite positive number, got -1"),
        (lambda: ia.Identity()(1.5), r"t must lie in \[0, 1\]|u must lie"),
        (lambda: ia.Tabulated([0, 1], [0, np.nan]), "phi must be finite, at most 1e300 in size, got nan"),
        (lambda: ia.Tabulated([0, 0.5], [0, 1]), "u must increase strictly from 0 to 1"),
        (lambda: ia.Tabulated([0, 1], [0, 1, 2]), "equally long"),
        (lambda: ia.standardize(lambda u: np.zeros_like(u)), "constant"),
        (lambda: ia.standardize(lambda u: np.full_like(u, np.nan)), "one finite value for every u"),
        (lambda: ia.transform("exp"), "exp"),
        (lambda: ia.transform("exp:0"), "transform 'exp:0': t must be"),
        (lambda: ia.transform("square"), "transform must be identity, log, exp:T, power:K or a callable, got 'square'"),
    ],
)
def test_bad_input_is_one_clear_error(make, message):
    with pytest.raises(ValueError, match=message):
        make()
