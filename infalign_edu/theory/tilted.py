"""One tilted policy on [0, 1]: f = exp(Phi / beta) / Z, with its KL, CDF and win rates by quadrature.

The mass of f may sit in a layer far thinner than the spacing of floats near 1 (`solver.layers`), in a power law at 0
(log u) or on one side of a step; panels follow it wherever it is. Made by `continuous.tilt`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from infalign_edu.order_statistics import Array, unit
from infalign_edu.procedures import Procedure, procedure
from infalign_edu.theory.solver.layers import Level, Transform, knots_of, positive
from infalign_edu.theory.solver.panels import NODES, WEIGHTS, Panels, resolve, roughness

_EPS = float(np.finfo(float).eps)
_TAIL = 700.0  # nats below the maximum where a density counts as zero
_BENT = 1e-7  # nats, about, that the KL may owe to a tail that is no power law


@dataclass(frozen=True)
class _Tail:
    """The power law c d^power that continues a density from distance `least` to its end; bend: how far from one."""

    least: float
    power: float
    mass: float
    mean_level: float
    bend: float = 0.0

    def upto(self, distance: Array) -> Array:
        return self.mass * (np.minimum(distance, self.least) / self.least) ** (1 + self.power)


def _tail(level: Level, least: float, right: bool) -> _Tail:
    here, there, beyond = level(np.array([least, 2 * least, 4 * least]), right)
    if here < -_TAIL:
        return _Tail(least, 0.0, 0.0, 0.0)
    power = float((there - here) / np.log(2)) if np.isfinite(there) else 0.0
    bend = power - float((beyond - there) / np.log(2)) if np.isfinite(there) and np.isfinite(beyond) else 1.0
    if power <= -1 + 1e-9:
        raise _unresolved(level, least, right) if bend > 0.01 else ValueError(  # it grows flatter towards the end
            f"exp(transform / beta) must have a finite integral, got {level.transform!r} at beta = {level.beta!r}, "
            f"which is too steep at u = {int(right)}")
    return _Tail(least, power, least * float(np.exp(here)) / (1 + power), float(here) - power / (1 + power), abs(bend))


def _unresolved(level: Level, least: float, right: bool) -> ValueError:
    return ValueError(
        f"exp(transform / beta) must be wider than the spacing of floats, got {level.transform!r} at "
        f"beta = {level.beta!r} with mass within {least:.0e} of u = {int(right)}: a larger beta is needed")


class Tilted:
    """The policy f = exp(Phi / beta) / Z on [0, 1]; made by `tilt`."""

    def __init__(self, transform: Transform, beta: float) -> None:
        self.transform, self.beta = transform, positive("beta", beta)
        self._level = level = Level(transform, self.beta, Panels.graded(2.0**-60, 2.0**-44).u)
        depth = [2.0**-60 * level.scale(False), (2.0**-60 if level.series[1] else 2.0**-44) * level.scale(True)]
        panels = Panels.graded(depth[0], depth[1], knots_of(transform))
        self._panels, self._levels = resolve(panels, self._evaluate, self._rough)
        best = max(0.0, float(self._levels.max()))
        level.top += best * self.beta
        self._levels = self._levels - best
        self._tails = (_tail(level, depth[0], False), _tail(level, depth[1], True))
        unscaled = self._panels.integral(np.exp(self._levels)) + sum(t.mass for t in self._tails)
        if unscaled == 0:
            raise ValueError(f"transform / beta must have a slope below 1e290, got {transform!r} at beta = {beta}")
        self.log_normaliser = float(np.log(unscaled))
        for right, tail in enumerate(self._tails):
            if tail.mass / unscaled * tail.bend > _BENT:
                raise _unresolved(level, tail.least, bool(right))

    def _evaluate(self, panels: Panels) -> Array:
        return self._level(panels.distance, panels.right[:, None])

    def _rough(self, panels: Panels, level: Array) -> np.ndarray:
        top = level.max(axis=1)
        smooth = np.exp(level - np.where(np.isfinite(top), top, 0.0)[:, None])
        finite = np.where(np.isfinite(level), level, 0.0)
        noise = np.abs(finite + self._level.top / self.beta).max(axis=1)  # rounding of Phi, then of u
        span = np.ptp(finite, axis=1)
        with np.errstate(over="ignore"):
            noise += span / panels.width * np.where(panels.right, 1.0, panels.far)
        for side, found in enumerate(self._level.series):
            if found is not None:
                noise[(panels.right == side) & (panels.far <= found[0])] = 0.0
        wide = panels.width > 8 * _EPS * panels.far
        felt = top + 0.1 * span > -_TAIL  # a peak between the nodes may stand higher than all of them
        return wide & felt & (roughness(smooth) > np.minimum(1e-12 + 256 * _EPS * noise, 1e-2))

    def log_density(self, u: ArrayLike) -> Array:
        """log f(u), in nats. Shape: any -> same."""
        u = unit(u)
        flat = u.ravel()
        found = self._level(np.where(flat > 0.5, 1 - flat, flat), flat > 0.5) - self.log_normaliser
        return np.asarray(found.reshape(u.shape))

    def density(self, u: ArrayLike) -> Array:
        """f(u). Shape: any -> same."""
        return np.exp(self.log_density(u))

    def resolved(self, *columns: Callable[[Panels, Array, Array], Array], tolerance: float = 1e-13
                 ) -> tuple[Panels, Array, Array]:
        """Panels on which sixteen nodes also resolve functions of (panels, f, F), with log f and F at their nodes."""
        panels, levels = self._panels, self._levels
        for _ in range(30):
            log_f = levels - self.log_normaliser
            f = np.exp(log_f)
            F = panels.cumulative(f, self.end_mass[0]).clip(0, 1)
            rough = np.maximum.reduce([roughness(c(panels, f, F)) for c in columns])
            bad = (rough * panels.width > tolerance) & (panels.width > 64 * _EPS)
            if not bad.any() or panels.near.size + bad.sum() > 40_000:
                break
            halves = panels.split(bad)
            levels = np.concatenate([levels[~bad], self._evaluate(halves)])
            panels = panels.take(~bad).join(halves)
            order = panels.order()
            panels, levels = panels.take(order), levels[order]
        return panels, log_f, F

    @property
    def end_mass(self) -> tuple[float, float]:
        """The probability below the first and above the last panel."""
        low, high = (t.mass * float(np.exp(-self.log_normaliser)) for t in self._tails)
        return low, high

    def _part(self, u: Array, upper: bool) -> Array:
        """F(u), or 1 - F(u) where `upper`, summed from the small side so that either tail keeps its digits."""
        p, shape = self._panels, np.shape(u)
        u = np.ravel(u)
        i = np.maximum(np.searchsorted(p.start, u, side="right") - 1, 0)
        edge = np.where(p.right[i] != upper, p.far[i], p.near[i])  # where the sum over whole panels stops
        distance = np.clip(np.where(p.right[i], 1 - u, u), p.near[i], p.far[i])
        nodes = edge[:, None] + (distance - edge)[:, None] * 0.5 * (NODES + 1)
        partial = 0.5 * np.abs(distance - edge) * (np.exp(self._level(nodes, p.right[i][:, None])) @ WEIGHTS)
        mass = 0.5 * p.width * (np.exp(self._levels) @ WEIGHTS)
        whole = np.cumsum(mass[::-1])[::-1] - mass if upper else np.cumsum(mass) - mass
        near, far = self._tails[::-1] if upper else self._tails
        inside = near.mass + whole[i] + partial
        tail = near.upto(1 - u if upper else u)
        other = far.mass - far.upto(u if upper else 1 - u)
        total = np.where((1 - u if upper else u) < near.least, tail, inside + other)
        return (total * np.exp(-self.log_normaliser)).clip(0, 1).reshape(shape)

    def cdf(self, u: ArrayLike) -> Array:
        """F(u). Shape: any -> same."""
        u = unit(u)
        lower = self._part(u, upper=False)
        return np.asarray(np.where(lower > 0.5, 1 - self._part(u, upper=True), lower))

    def survival(self, u: ArrayLike) -> Array:
        """1 - F(u), with its digits where it is small. Shape: any -> same."""
        u = unit(u)
        upper = self._part(u, upper=True)
        return np.asarray(np.where(upper > 0.5, 1 - self._part(u, upper=False), upper))

    @property
    def kl(self) -> float:
        """KL(pi || pi_ref) = int f log f du = int (f log f - f + 1) du, in nats; no digit is lost when it is small."""
        log_f = self._levels - self.log_normaliser
        with np.errstate(invalid="ignore"):
            inside = np.where(log_f > -_TAIL, np.exp(log_f) * log_f - np.expm1(log_f), 1.0)
        tails = [t.mass * np.exp(-self.log_normaliser) * (t.mean_level - self.log_normaliser - 1) + t.least
                 for t in self._tails if t.mass > 0]
        return max(0.0, self._panels.integral(inside) + float(sum(tails)))

    def win_rate(self, shown: str | Procedure, reference_procedure: str | Procedure | None = None) -> float:
        """W = int G_ref(u) dG(F(u)): the shown response of the policy against the shown response of the reference.

        Paper: the inference-time win rate (arXiv 2412.19792). Derived: this form, tests/test_theory_continuous.py.
        """
        ours = procedure(shown)
        theirs = ours if reference_procedure is None else procedure(reference_procedure)
        panels, log_f, F = self.resolved(lambda panels, f, F: ours.pdf(F) * f * theirs.cdf(panels.u))
        earned = ours.pdf(F) * np.exp(log_f) * theirs.cdf(panels.u)
        above = 1 - float(ours.cdf(1 - self.end_mass[1]))
        return float(np.clip(panels.integral(earned) + above, 0, 1))
