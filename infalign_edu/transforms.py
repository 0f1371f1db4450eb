"""Phi: calibrated reward -> the reward that reinforcement learning maximises.

Under KL-regularised reinforcement learning on Phi(u) the optimal policy has density proportional to exp(Phi(u) / beta)
over the calibrated reward u, so an additive constant in Phi changes nothing and a factor is a change of beta. To
compare betas between transforms, `standardize` them first. The optimal transform of a procedure is no entry of this
list: it is computed by `theory.optimum(procedure, beta).transform`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from infalign_edu.inputs import label, nearest, reals, shown
from infalign_edu.order_statistics import count, real, unit

Array = NDArray[np.float64]
Transform = Callable[[ArrayLike], Array]
PANELS, ORDER = 40, 12  # of a quadrature on [0, 1]: the narrowest panel is 2^-PANELS wide, ORDER nodes in each
NAMES = ("identity", "log", "exp:T", "power:K")


@dataclass(frozen=True)
class Identity:
    """Phi(u) = u: calibration alone, the optimum for the standard win rate.

    Derived: tests/test_theory_continuous.py.

    >>> Identity()([0.0, 0.5])
    array([0. , 0.5])
    """

    def __call__(self, u: ArrayLike) -> Array:
        return unit(u)

    def __str__(self) -> str:
        return "identity"


@dataclass(frozen=True)
class Log:
    """Phi(u) = log u, in nats: distils best-of-n, since the tilted density is (1 + 1/beta) u^(1/beta).

    Source: vBoN, arXiv 2407.06057, and BOND, arXiv 2407.14622, with beta = 1/(n-1). Log(0) is -inf: a response below
    every reference sample would be forbidden, so the pipeline clips u at 1/(2K).

    >>> float(Log()(1.0)), float(Log()(0.0))
    (0.0, -inf)
    """

    def __call__(self, u: ArrayLike) -> Array:
        with np.errstate(divide="ignore"):
            return np.log(unit(u))

    def __str__(self) -> str:
        return "log"


@dataclass(frozen=True)
class Exponential:
    """Phi(u) = sign(t) exp(t u), unscaled: t > 0 stresses the top (best-of-N), t < 0 the bottom (worst-of-N).

    Paper: exponential transforms are found close to optimal (arXiv 2412.19792).
    Raises: ValueError unless t is finite and not 0.

    >>> Exponential(t=2.0)([0.0, 1.0]).round(3), float(Exponential(-10.0)(0.0))
    (array([1.   , 7.389]), -1.0)
    """

    t: float

    def __post_init__(self) -> None:
        accepted = "a number in [-700, 700] other than 0"
        object.__setattr__(self, "t", real("t", self.t, accepted, lambda t: 0 < abs(t) <= 700))

    def __call__(self, u: ArrayLike) -> Array:
        return np.sign(self.t) * np.exp(self.t * unit(u))

    def __str__(self) -> str:
        return f"exp:{_shortest(self.t)}"


@dataclass(frozen=True)
class Power:
    """Phi(u) = u^k. For best-of-N, u^(2N-1) is the optimal direction as KL goes to 0.

    Derived: the small-KL law, tests/test_theory_continuous.py. Raises: ValueError unless k is finite and positive.

    >>> float(Power(7)(0.5)), str(Power(7))
    (0.0078125, 'power:7')
    """

    k: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "k", real("k", self.k, "a finite positive number", lambda k: k > 0))

    def __call__(self, u: ArrayLike) -> Array:
        return unit(u) ** self.k

    def __str__(self) -> str:
        return f"power:{_shortest(self.k)}"


def _shortest(number: float) -> str:
    return f"{number:g}" if float(f"{number:g}") == number else repr(number)


class Tabulated:
    """Phi given at points and interpolated linearly, for instance drawn by hand.

    Shape: u [points], strictly increasing from 0 to 1, phi [points].
    Raises: ValueError unless u runs from 0 to 1 and phi is finite.

    >>> float(Tabulated([0.0, 0.5, 1.0], [0.0, 0.0, 1.0])(0.75))
    0.5
    """

    def __init__(self, u: ArrayLike, phi: ArrayLike) -> None:
        self.u, self.phi = reals("u", u).copy(), reals("phi", phi).copy()
        if self.u.ndim != 1 or self.u.size < 2 or self.u.shape != self.phi.shape:
            raise ValueError(
                f"u and phi must be equally long, two points or more, got {self.u.shape}, {self.phi.shape}"
            )
        if not (self.u[0] == 0 and self.u[-1] == 1 and (np.diff(self.u) > 0).all()):
            raise ValueError(f"u must increase strictly from 0 to 1, got {shown(self.u.tolist())}")
        if (beyond := self.phi[~(np.abs(self.phi) <= 1e300)]).size:  # between larger ones a line would overflow
            raise ValueError(f"phi must be finite, at most 1e300 in size, got {beyond[0]}")

    def __call__(self, u: ArrayLike) -> Array:
        return np.interp(unit(u), self.u, self.phi)

    def __str__(self) -> str:
        return f"tabulated:{self.u.size}"


@dataclass(frozen=True)
class Standardized:
    """(Phi - mean) / scale; made by `standardize`."""

    transform: Transform
    mean: float
    scale: float

    def __call__(self, u: ArrayLike) -> Array:
        return (self.transform(u) - self.mean) / self.scale

    def __str__(self) -> str:
        return str(self.transform)


def standardize(transform: Transform) -> Transform:
    """The same transform with mean 0 and variance 1 under u ~ Uniform[0, 1], so that betas compare.

    Training on it with beta is training on Phi with beta times the standard deviation of Phi.

    Raises: ValueError for a constant transform, one that is not finite inside (0, 1), or one whose variance is infinite
    or lies too close to 0 or 1 for floats to tell.

    >>> round(float(standardize(Identity())(1.0)), 6)        # (1 - 1/2) sqrt(12)
    1.732051
    """
    if isinstance(transform, Standardized):
        return transform
    if not callable(transform):
        raise ValueError(f"transform must be a callable such as ia.transform('exp:10'), got {shown(transform)}")
    u, weight = graded_quadrature()
    phi = reals(f"transform {label(transform)}", transform(u))
    if phi.shape != u.shape or not np.isfinite(phi).all():
        raise ValueError(f"transform {label(transform)} must give one finite value for every u in (0, 1)")
    peak = np.abs(phi).max() or 1.0  # scaled first: exp(700 u) squared would overflow
    mean = float(weight @ (phi / peak))
    part = (weight * (phi / peak - mean) ** 2).reshape(-1, ORDER).sum(axis=1)  # of the variance, panel by panel
    scale = float(np.sqrt(part.sum()))
    if scale <= 1e-13:
        raise ValueError(f"transform {label(transform)} is constant: it has no scale and no effect on training")
    if abs(part[0] - part[1]) + abs(part[-1] - part[-2]) > 1e-4 * part.sum():  # of equal width, unequal: a peak
        told = f"got one with a peak within 2^-{PANELS} of u = 0 or 1"
        raise ValueError(f"transform {label(transform)} must have a finite variance that floats resolve, {told}")
    return Standardized(transform, mean * peak, scale * peak)


def graded_quadrature(panels: int = PANELS, order: int = ORDER) -> tuple[Array, Array]:
    """Nodes and weights of Gauss-Legendre panels that shrink by halves towards 0 and 1.

    Integrates steep transforms and log u alike: the smallest panel is 2^-panels wide.

    Shape: u [2 * panels * order], weights likewise, summing to 1.

    >>> u, w = graded_quadrature()
    >>> round(float(w @ np.log(u)), 10)
    -1.0
    """
    if count("panels", panels) > 1000:
        raise ValueError(f"panels must be at most 1000, got {panels}")
    x, w = np.polynomial.legendre.leggauss(count("order", order))
    edges = np.concatenate([[0.0], 0.5 ** np.arange(panels, 0, -1.0)])
    left, width = edges[:-1, None], np.diff(edges)[:, None]
    nodes, weights = (left + width * (x + 1) / 2).ravel(), (width * w / 2).ravel()
    return np.concatenate([nodes, 1 - nodes[::-1]]), np.concatenate([weights, weights[::-1]])


def transform(name: str | Transform) -> Transform:
    """The transform that a name stands for: identity, log, exp:T, power:K. A callable is returned as it is.

    Own transforms are vectorised functions on [0, 1]:

    >>> float(transform(lambda u: np.asarray(u) ** 2)(0.5)), transform("exp:-10")
    (0.25, Exponential(t=-10.0))

    Raises: ValueError for an unknown name, with the nearest one, and for a function that takes no u by itself.
    """
    if callable(name):
        if not type(name).__module__.startswith("infalign_edu."):
            _check_own(name)
        return name
    word, _, value = str(name).strip().partition(":")
    if word in ("identity", "log") and not value:
        return Identity() if word == "identity" else Log()
    if word in ("exp", "power") and _number(value):
        try:
            return Exponential(float(value)) if word == "exp" else Power(float(value))
        except ValueError as error:
            raise ValueError(f"transform {name!r}: {error}") from None
    known = [form.partition(":")[0] + (f":{value if _number(value) else 10}" if ":" in form else "") for form in NAMES]
    close = nearest(name, [*known, "optimal"] if word.startswith("opt") else known)
    raise ValueError(f"transform must be identity, log, exp:T, power:K or a callable, got {shown(name)}{close}")


def _check_own(phi: Transform) -> None:
    """Refuses what depends on the other values of a batch, on chance or on the shape: no tilted density is its own."""
    u = np.linspace(0, 1, 102)[1:-1]
    part, told = u[::2].reshape(5, 10), f"transform {label(phi)}"
    every, some = reals(told, phi(u)), reals(told, phi(part))
    for values, where in ((every, u), (some, part)):
        if values.shape != where.shape:
            raise ValueError(f"{told} must give one number for each u, got shape {values.shape} for {where.shape}")
    if not np.allclose(every[::2], some.ravel(), rtol=1e-9, atol=1e-12, equal_nan=True):
        i = int(np.abs(every[::2] - some.ravel()).argmax())
        twice = f"got {every[2 * i]:.6g} and {some.flat[i]:.6g} for u = {part.flat[i]:.3g} among other values"
        raise ValueError(f"{told} must give the same number for the same u, {twice}")


def _number(text: str) -> bool:
    try:
        return bool(float(text) or True)
    except ValueError:
        return False
