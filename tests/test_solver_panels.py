"""The meshes under the solver, number by number: panels and their edges, what is split, and levels in a thin layer."""

import re

import numpy as np
import pytest
from numpy.polynomial import legendre

import infalign_edu as ia
from infalign_edu import theory
from infalign_edu.theory.solver.layers import Level, knots_of, values
from infalign_edu.theory.solver.panels import NODES, Panels, resolve, roughness


def edges(panels: Panels) -> list[float]:
    return [*panels.start, float(panels.start[-1] + panels.width[-1])]


@pytest.mark.parametrize(("knots", "found"), [
    (None, [1 / 8, 1 / 4, 1 / 2, 3 / 4, 7 / 8]), ([0.3, 0.6], [1 / 8, 1 / 4, 0.3, 1 / 2, 0.6, 3 / 4, 7 / 8]),
    ([0.15, 0.86], [1 / 8, 0.15, 1 / 4, 1 / 2, 3 / 4, 0.86, 7 / 8]), ([0.1, 0.9, 0.25, 0.5], [1 / 8, 1 / 4, 1 / 2, 3 / 4, 7 / 8]),
])  # fmt: skip
def test_panels_halve_towards_both_ends_and_knots_are_edges(knots, found):
    panels = Panels.graded(1 / 8, 1 / 8, None if knots is None else np.array(knots))
    assert edges(panels) == pytest.approx(found, abs=1e-15)
    assert panels.right.tolist() == [edge >= 0.5 for edge in found[:-1]]


def test_roughness_is_the_size_of_the_last_two_of_sixteen_coefficients():
    shapes = np.stack([legendre.legval(NODES, np.eye(16)[k]) for k in (13, 14, 15)] + [
        legendre.legval(NODES, np.append(np.ones(14), [-1.0, 0.5]))])
    assert roughness(shapes) == pytest.approx([0, 1, 1, 1.5], abs=1e-13)


WHOLE = Panels(np.array([False, False]), np.array([0.0, 0.25]), np.array([0.25, 0.5])).join(
    Panels(np.array([True, True]), np.array([0.25, 0.0]), np.array([0.5, 0.25])))


@pytest.mark.parametrize(("rough", "limits", "number", "thinnest"), [
    (lambda p, v: np.full(len(v), True), {"levels": 0}, 4, 1 / 4),
    (lambda p, v: np.full(len(v), True), {"levels": 3}, 32, 1 / 32),
    (lambda p, v: np.full(len(v), True), {"most": 50}, 32, 1 / 32),
    (lambda p, v: p.right, {"most": 18}, 10, 1 / 16),  # 2 panels are kept, 8 would become 16
    (lambda p, v: p.right, {"most": 19}, 18, 1 / 32),
    (lambda p, v: p.near + p.right == 0, {"most": 15}, 13, 2.0**-11),  # one more is kept each time, 11 at last
    (lambda p, v: p.near + p.right == 0, {"levels": 5}, 9, 2.0**-7),
    (lambda p, v: p.near + p.right == 0, {}, 64, 2.0**-62),
])  # fmt: skip
def test_panels_are_split_as_long_as_they_are_rough_and_few(rough, limits, number, thinnest):
    panels, found = resolve(WHOLE, lambda p: p.u**2, rough, **limits)
    assert panels.near.size == number and panels.width.min() == thinnest
    assert panels.width.sum() == pytest.approx(1, abs=1e-15) and (np.diff(panels.start) > 0).all()
    assert found == pytest.approx(panels.u**2, abs=1e-15) and panels.integral(found) == pytest.approx(1 / 3, abs=1e-14)


def test_no_more_panels_than_forty_thousand():
    panels, _ = resolve(WHOLE, lambda p: p.u, lambda p, v: np.full(len(v), True))
    assert panels.near.size == 2**15


@pytest.mark.parametrize(("transform", "knots"), [
    (ia.Identity(), []), (ia.transform("exp:3"), []), (ia.Tabulated([0.0, 0.25, 1.0], [0.0, 2.0, 3.0]), [0, 0.25, 1]),
    (type("Own", (), {"knots": [0.7, 0.2, 0.7], "u": [0.5]})(), [0.2, 0.7]),
])  # fmt: skip
def test_a_transform_says_where_its_kinks_are(transform, knots):
    assert knots_of(transform).tolist() == knots


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(("transform", "told"), [
    (lambda u: np.where(u == 0.25, np.nan, u), "transform must be a number below infinity inside (0, 1), got <function"),
    (lambda u: np.exp(4e3 * u), "transform must be a number below infinity inside (0, 1), got <function"),
    (lambda u: ["a"] * 3, "transform must "),
    (lambda u: u[:2], "transform must give one number for each of (3,) places, got shape (2,)"),
    (3.0, "transform must be a callable such as ia.transform('exp:10'), got 3.0"),
])  # fmt: skip
def test_a_transform_that_is_none(transform, told):
    with pytest.raises(ValueError, match=f"^{re.escape(told)}"):
        values(transform, np.array([0.1, 0.25, 0.5]))


def test_the_place_of_a_bad_value_is_told():
    with pytest.raises(ValueError, match=r"at u = 0\.25$"):
        values(lambda u: np.where(u == 0.25, np.nan, u), np.array([0.1, 0.25, 0.5]))
    with pytest.raises(ValueError, match=r"at u = 0\.5$"):
        values(lambda u: np.where(u == 0.5, np.inf, u), np.array([0.1, 0.25, 0.5]))


U = np.linspace(0.05, 0.95, 19)


@pytest.mark.parametrize(("transform", "end"), [
    (ia.Identity(), (0, 1)), (ia.transform("exp:2"), (1, np.exp(2))), (ia.Log(), (-np.inf, 0)), (lambda u: -u, (0, -1)),
])  # fmt: skip
def test_the_ends_of_a_transform(transform, end):
    level = Level(transform, 0.1, U)
    assert level.end == pytest.approx(end) and level.top == pytest.approx(max(end))


def mirrored(u):
    return -np.exp(20 * (1 - u))


@pytest.mark.parametrize(("transform", "beta", "thin"), [
    (ia.Identity(), 0.99e-6, (True, True)), (ia.Identity(), 1.01e-6, (False, False)), (ia.transform("exp:20"), 1.0, (False, True)),
    (mirrored, 1.0, (True, False)), (ia.Log(), 1e-9, (False, True)), (lambda u: 0.5 * u, 0.49e-6, (True, True)),
    (lambda u: 0.5 * u, 0.51e-6, (False, False)), (lambda u: np.where(u == 1, 0.0, np.where(u > 0.99, -np.inf, u)), 0.1, (False, False)),
])  # fmt: skip
@pytest.mark.filterwarnings("error")
def test_where_a_layer_is_too_thin_for_floats(transform, beta, thin):
    """An end where Phi falls by beta within less than 1e-6."""
    assert tuple(series is not None for series in Level(transform, beta, U).series) == thin


@pytest.mark.parametrize(("transform", "beta", "right", "slope"), [
    (ia.Identity(), 1e-9, True, 1.0), (ia.Identity(), 1e-9, False, 1.0), (lambda u: 0.5 * u, 1e-12, True, 0.5),
    (ia.transform("exp:20"), 1e-3, True, 20 * np.exp(20)), (mirrored, 1e-3, False, 20 * np.exp(20)),
    (lambda u: u**3, 1e-15, True, 3.0),
])  # fmt: skip
def test_levels_keep_their_digits_in_a_thin_layer(transform, beta, right, slope):
    level = Level(transform, beta, U)
    assert level.scale(right) == pytest.approx(beta / slope, rel=1e-6, abs=0)
    d = np.geomspace(1e-30, 1e-9, 22)
    at_end = (level.end[right] - level.top) / beta
    assert level(d, right) - at_end == pytest.approx((-1 if right else 1) * slope * d / beta, rel=1e-6, abs=4e-16 * abs(at_end))


def test_a_straight_transform_is_straight_as_far_as_a_quarter():
    for right in (False, True):
        width, series = Level(ia.Identity(), 1e-9, U).series[right]
        assert width == 0.25 and series == pytest.approx([-0.25 if right else 0.25] + [0] * 12, abs=1e-12)
    assert Level(ia.transform("exp:20"), 1.0, U).series[1][0] < 0.25


def test_without_a_layer_the_scale_is_one():
    level = Level(ia.Identity(), 1.0, U)
    assert level.scale(True) == level.scale(False) == 1.0
    assert level(np.array([0.25, 0.25]), np.array([False, True])) == pytest.approx([-0.75, -0.25])


# f = exp(-d^(1/c) / beta) / Z at a distance d from an end: Z = c! beta^c and KL = -c - log(c!) - c log(beta), up to exp(-1 / beta).
@pytest.mark.parametrize(("c", "right", "betas", "digits"), [
    (2, True, [1e-2, 1e-3, 1e-4, 3e-5, 1e-5, 1e-6, 3e-7, 1e-7, 1e-8, 1e-9], 4), (3, True, [1e-2, 1e-3, 1e-4, 1e-5], 2),
    (2, False, [1e-2, 1e-4, 1e-6, 1e-7, 1e-8, 1e-9, 1e-10], 4), (10, False, [1e-3, 1e-5], 0),
])  # fmt: skip
def test_a_policy_thinner_than_floats_is_refused_not_wrong(c, right, betas, digits):
    """A root has no slope at its end: below some beta most of the mass lies where floats cannot tell places apart."""
    found = []
    for beta in betas:
        right_kl = -c - np.log(float(np.prod(np.arange(1, c + 1)))) - c * np.log(beta)
        try:
            found.append(abs(theory.tilt(lambda u: -((1 - u if right else u) ** (1 / c)), beta).kl - right_kl))  # noqa: B023
        except ValueError as error:
            assert re.search(f"^(exp\\(transform / beta\\) must be wider than the spacing of floats, got .* at beta = {beta!r} "
                             f"with mass within .* of u = {int(right)}: a larger beta is needed|"
                             f"transform / beta must have a slope below 1e290, got .*)$", str(error))
    assert len(found) == digits and max(found, default=0) < 5e-7


@pytest.mark.parametrize("beta", [1e-3, 1e-6, 1e-9, 1e-12])
@pytest.mark.parametrize("shift", [0.0, 1.0])
def test_the_logarithm_keeps_its_digits_whatever_its_value_at_one(beta, shift):
    """f = (1 + 1/beta) u^(1/beta): KL = log(1 + a) - a / (1 + a) with a = 1 / beta."""
    kl = theory.tilt(lambda u: np.log(u) + shift, beta).kl
    assert kl == pytest.approx(np.log1p(1 / beta) - 1 / (1 + beta), abs=1e-12)


@pytest.mark.parametrize("power", [0.3, 0.9, 0.99])
def test_a_tail_that_is_a_power_law_counts_however_much_it_holds(power):
    """f = (1 - k) (1 - u)^-k: KL = log(1 - k) + k / (1 - k); for k = .99 three quarters of all mass lie within 2^-44 of 1."""
    kl = theory.tilt(lambda u: -power * np.log(1 - u), 1.0).kl
    assert kl == pytest.approx(np.log(1 - power) + power / (1 - power), rel=3e-7)


@pytest.mark.parametrize("power", [1.0, 1.5])
def test_a_density_without_an_integral_is_too_steep(power):
    with pytest.raises(ValueError, match=r"^exp\(transform / beta\) must have a finite integral, got .* too steep at u = 1$"):
        theory.tilt(lambda u: -power * np.log(1 - u), 1.0)
    with pytest.raises(ValueError, match=r"^exp\(transform / beta\) must have a finite integral, got .* too steep at u = 0$"):
        theory.tilt(lambda u: -power * np.log(u), 1.0)


def test_all_mass_in_the_last_place_of_floats_is_refused():
    """A share of 1e-13 next to 1, and nothing elsewhere: as wide as a panel's end, so its size is not known."""
    with pytest.raises(ValueError, match=r"^exp\(transform / beta\) must be wider than the spacing of floats, got"):
        theory.tilt(lambda u: np.where(u > 1 - 1e-13, 0.0, -np.inf), 1.0)
    spread = theory.tilt(lambda u: np.where(u > 1 - 1e-13, 0.1, np.where(u > 0.5, 0.0, -np.inf)), 1.0)
    assert spread.kl == pytest.approx(np.log(2), abs=1e-9)


@pytest.mark.parametrize(("shown", "mean"), [("512th-best-of-1024", 513 / 1025), ("700th-best-of-1000", 301 / 1001),
                                             ("best-of-1024", 1024 / 1025), ("worst-of-1024", 1 / 1025)])
def test_a_procedure_that_looks_at_a_thin_middle_is_resolved(shown, mean):
    """Against one response, W of the reference is the mean of the shown rank: (n - k + 1) / (n + 1)."""
    assert theory.tilt(ia.Identity(), 1e12).win_rate(shown, "standard") == pytest.approx(mean, abs=1e-11)
