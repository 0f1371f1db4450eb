"""Optimal transforms: reference values, a second solver, all stationary policies, certificates, dead mutants."""

import inspect
import runpy
import time
import types
from pathlib import Path

import numpy as np
import pytest
from own_procedure import Careless

import infalign_edu as ia
from infalign_edu.procedures import procedure
from infalign_edu.theory import continuous, optimal, tilted
from infalign_edu.theory.continuous import beta_for_kl, frontier, tilt
from infalign_edu.theory.lesson import naive_fixed_point
from infalign_edu.theory.optimal import optimal_beta_for_kl, optimal_frontier, optimum, unique
from infalign_edu.theory.solver import layers, power, shooting, stationary
from infalign_edu.theory.solver.panels import Panels
from infalign_edu.theory.solver.power import power_curve
from infalign_edu.transforms import Exponential, Identity, Log

second_solver = runpy.run_path(str(Path(__file__).parents[1] / "experiments" / "theory_grid.py"))["second_solver"]
HEDGE = "0.5*best-of-8+0.5*worst-of-8"


@pytest.mark.parametrize(
    ("name", "beta", "win_rate", "kl", "below"),
    [  # W*, KL*, and points below W* at that KL of identity, log and the exponentials: THEORY.md, section 3
        ("best-of-2", 0.1, 0.907248, 1.096990, {Identity(): 2.28, Log(): 3.12, Exponential(5): 0.08}),
        ("best-of-4", 0.3, 0.840137, 0.370072, {Identity(): 7.17, Log(): 10.84, Exponential(5): 1.42}),
        ("best-of-4", 0.1, 0.931170, 0.890859, {Identity(): 6.74, Log(): 8.43, Exponential(10): 0.51}),
        ("best-of-32", 0.1, 0.983092, 0.343761, {Identity(): 21.40, Log(): 25.97, Exponential(10): 8.74}),
        ("worst-of-2", 0.1, 0.950000, 1.013609, {Identity(): 1.16, Log(): 0.45, Exponential(-5): 0.04}),
        ("worst-of-4", 0.1, 0.975000, 0.683601, {Identity(): 4.38, Log(): 1.53, Exponential(-10): 0.02}),
        ("worst-of-32", 0.1, 0.996875, 0.150790, {Identity(): 24.15, Log(): 7.25, Exponential(-5): 6.95}),
    ],
)  # fmt: skip
def test_reference_values(name: str, beta: float, win_rate: float, kl: float, below: dict) -> None:
    best = optimum(name, beta)
    assert (best.win_rate, best.kl) == (pytest.approx(win_rate, abs=6e-7), pytest.approx(kl, abs=6e-7))
    assert best.certified == "global" and len(best.stationary) == 1
    for transform, points in below.items():
        fixed = tilt(transform, beta_for_kl(transform, best.kl))
        assert 100 * (best.win_rate - fixed.win_rate(name)) == pytest.approx(points, abs=0.006)


@pytest.mark.parametrize(
    ("name", "against", "beta"),
    [("best-of-4", "best-of-4", 0.1), ("worst-of-8", "worst-of-8", 0.3), ("best-of-8", "best-of-2", 0.05),
     ("2nd-best-of-4", "2nd-best-of-4", 0.1), ("top-2-of-8", "top-2-of-8", 0.3), (HEDGE, HEDGE, 0.1),
     ("best-of-poisson-3.0", "best-of-4", 0.1), ("best-of-4", "worst-of-4", 1.0), ("31st-best-of-32",) * 2 + (0.1,)],
)  # fmt: skip
def test_a_solver_of_another_kind_agrees(name: str, against: str, beta: float) -> None:
    best = optimum(name, beta, against)
    win_rate, kl = second_solver(name, beta, against, float(best.policy.log_density(1.0)))
    assert (best.win_rate, best.kl) == (pytest.approx(win_rate, abs=1e-9), pytest.approx(kl, abs=1e-9))


@pytest.mark.parametrize("sign", ["best", "worst"])
@pytest.mark.parametrize(("n", "m"), [(2, 2), (7, 3), (3, 64), (128, 128), (128, 1)])
@pytest.mark.parametrize("beta", [0.01, 0.4, 100.0])
def test_curve_and_general_solver_agree(sign: str, n: int, m: int, beta: float) -> None:
    best = optimum(f"{sign}-of-{n}", beta, f"{sign}-of-{m}")
    win_rate, kl = power_curve(n, m, 1 if sign == "best" else -1, beta).win_rate_and_kl(beta)
    assert (best.win_rate, best.kl) == (pytest.approx(win_rate, abs=1e-10), pytest.approx(kl, abs=1e-10))
    ends = best.policy.density(np.array([0.0, 1.0]))
    if sign == "best" and beta <= 1:
        assert beta / m * (ends[1] - 1) == pytest.approx(best.win_rate, abs=1e-9)
        assert beta / n * (np.log(ends[1]) - best.kl) == pytest.approx(1 - best.win_rate, abs=1e-9)
    elif beta <= 1:
        assert 1 - beta / m * (1 - ends[0]) == pytest.approx(best.win_rate, abs=1e-9)
        log_start = float(best.policy.log_density(0.0))
        assert beta / n * (best.kl - log_start) == pytest.approx(best.win_rate, abs=1e-9)


def test_standard_has_its_closed_form() -> None:
    beta = np.geomspace(0.01, 100, 9)
    found, t = optimal_frontier("standard", beta), 1 / beta
    win_rate = 1 / -np.expm1(-t) - 1 / t
    assert found.win_rate == pytest.approx(win_rate, abs=1e-12)
    assert found.kl == pytest.approx(t * win_rate - t - np.log(-np.expm1(-t) / t), abs=1e-11)
    best = optimum("standard", 0.1)
    u = np.linspace(0, 1, 5)
    assert best.transform(u) == pytest.approx(u) and best.certified == "global"


def test_all_stationary_policies_are_listed() -> None:
    three = optimum(HEDGE, 0.1)
    assert [s.objective for s in three.stationary] == pytest.approx([0.6617, 0.6330, 0.6309], abs=6e-5)
    assert three.certified == "stationary" and three.objective == three.stationary[0].objective
    crossed = optimum("worst-of-8", 0.1, "best-of-8")
    assert [s.objective for s in crossed.stationary[:2]] == pytest.approx([0.4856, 0.00008], abs=6e-5)
    for s in (*three.stationary, *crossed.stationary):
        assert s.residual < 1e-10 and abs(s.balance_gap) < 1e-10
        assert s.policy.kl == pytest.approx(s.kl, abs=1e-12)


@pytest.mark.parametrize(
    ("name", "beta"), [("best-of-4", 0.2), ("worst-of-4", 0.2), ("3rd-best-of-5", 0.3), (HEDGE, 0.1)]
)
def test_first_order_condition_by_finite_differences(name: str, beta: float) -> None:
    shown = procedure(name)
    panels = Panels.graded(2.0**-50, 2.0**-50)

    def objective(log_f: np.ndarray) -> float:
        f = np.exp(log_f)
        f /= panels.integral(f)
        F = panels.cumulative(f).clip(0, 1)
        return panels.integral(shown.pdf(F) * f * shown.cdf(panels.u)) - beta * panels.integral(f * np.log(f))

    for s in optimum(name, beta).stationary:
        log_f = s.policy.log_density(panels.u)
        bend = tilt(lambda u: np.cos(9 * u), 1.0).log_density(panels.u)
        for direction in (np.sin(3 * panels.u), np.cos(11 * panels.u), panels.u**2):
            slope = (objective(log_f + 1e-4 * direction) - objective(log_f - 1e-4 * direction)) / 2e-4
            off = (objective(log_f + bend + 1e-4 * direction) - objective(log_f + bend - 1e-4 * direction)) / 2e-4
            assert abs(slope) < 1e-7 < 1e-5 < abs(off)


def test_nothing_lies_above_the_optimal_frontier() -> None:
    for name in ("best-of-4", "worst-of-4", "2nd-best-of-4"):
        for transform in (Identity(), Log(), Exponential(5.0), Exponential(-5.0)):
            fixed = frontier(transform, name, [beta_for_kl(transform, 0.3)])
            best = optimum(name, optimal_beta_for_kl(name, float(fixed.kl[0])))
            assert best.kl == pytest.approx(fixed.kl[0], abs=1e-8) and best.win_rate > fixed.win_rate[0]


def test_beta_is_the_slope_of_the_frontier() -> None:
    for name, against in (("best-of-8", "best-of-3"), ("worst-of-5", "worst-of-5"), ("top-2-of-5", "top-2-of-5")):
        found = optimal_frontier(name, [0.2 * 0.999, 0.2, 0.2 * 1.001], against)
        assert (found.win_rate[0] - found.win_rate[2]) / (found.kl[0] - found.kl[2]) == pytest.approx(0.2, rel=1e-5)


def test_transform_is_fit_for_training() -> None:
    best = optimum("worst-of-32", 0.01)
    u = np.random.default_rng(0).random((50, 40))
    phi = best.transform(u)
    assert phi.shape == u.shape and np.isfinite(phi).all() and best.transform(np.array([0.0, 1.0])).min() >= -1e-9
    order = np.argsort(u, axis=None)
    assert (np.diff(phi.ravel()[order]) >= -1e-9).all()
    assert best.policy.log_density(0.0) < -3000


def test_uniqueness_bound_is_the_one_of_worst_of_n() -> None:
    bound = 7 * (1 - 1 / 8) ** 7
    assert unique("worst-of-8", 1.01 * bound, "best-of-8") and not unique("worst-of-8", 0.99 * bound, "best-of-8")
    assert unique("best-of-8", 0.01, "worst-of-8") and unique("0.5*top-2-of-8+0.5*best-of-poisson-2.0", 0.01)
    assert not unique("2nd-best-of-4", 0.01) and not unique(HEDGE, 0.1)
    assert len(optimum("worst-of-8", 0.5 * bound, "best-of-8").stationary) == 1  # sufficient, not sharp


def test_own_procedures_work() -> None:
    mixed = optimum("0.5*standard+0.5*best-of-2", 0.2)
    assert optimum(Careless(), 0.2).win_rate == pytest.approx(mixed.win_rate, abs=1e-10)


def test_the_textbook_fixed_point_cycles_and_small_steps_settle() -> None:
    seen = naive_fixed_point("best-of-4", 0.3)
    assert sorted(seen.win_rate[-2:]) == pytest.approx([0.5073, 0.9769], abs=1e-4)
    assert sorted(seen.kl[-2:]) == pytest.approx([0.000418, 2.4904], abs=1e-4)
    assert sorted(seen.objective[-2:]) == pytest.approx([0.2297, 0.5072], abs=1e-4)
    settled, best = naive_fixed_point("best-of-4", 0.3, steps=300, step_size=0.1), optimum("best-of-4", 0.3)
    assert settled.win_rate[-1] == pytest.approx(best.win_rate, abs=1e-9)
    worst = optimum("worst-of-4", 0.3).win_rate
    assert naive_fixed_point("worst-of-4", 0.3).win_rate[-1] == pytest.approx(worst, abs=1e-5)


def random_cases(seed: int, number: int, largest: int):
    rng = np.random.default_rng(seed)

    def draw() -> str:
        n = int(round(largest ** rng.uniform()))
        k, mu, w = int(rng.integers(1, n + 1)), rng.uniform(0, largest / 2), rng.uniform(0.05, 0.95)
        return str(rng.choice([
            "standard", f"best-of-{n}", f"worst-of-{n}", f"{k}th-best-of-{n}", f"top-{k}-of-{n}",
            f"best-of-poisson-{mu}", f"{w}*best-of-{n}+{1 - w}*worst-of-{int(rng.integers(1, largest + 1))}",
        ]))  # fmt: skip

    for _ in range(number):
        name = draw()
        yield name, (name if rng.random() < 0.4 else draw()), float(10 ** rng.uniform(-2, 2))


def check_random_cases(seed: int, number: int, largest: int) -> list[float]:
    seconds = []
    for name, against, beta in random_cases(seed, number, largest):
        began = time.perf_counter()
        best = optimum(name, beta, against)
        seconds.append(time.perf_counter() - began)
        assert best.residual < 1e-8 and abs(best.balance_gap) < 1e-8, (name, against, beta)
        assert best.certified == "stationary" or len(best.stationary) == 1, (name, against, beta)
        assert best.objective == max(s.objective for s in best.stationary)
        assert best.objective >= tilt(Identity(), 1e9).win_rate(name, against) - 1e-9, (name, against, beta)
    return seconds


def test_random_pairs_never_raise() -> None:
    check_random_cases(0, 500, 32)


@pytest.mark.slow
def test_random_pairs_up_to_128_never_raise() -> None:
    check_random_cases(1, 500, 128)


def test_no_number_without_a_certificate(monkeypatch) -> None:
    found = shooting.all_starts
    monkeypatch.setattr(stationary, "all_starts", lambda pair, *rest: shooting.Shots(*(
        part[..., :0] for part in vars(found(pair, *rest)).values())))
    with pytest.raises(RuntimeError, match="has no certificate"):
        optimum("2nd-best-of-4", 0.1)
    with pytest.raises(ValueError, match="beta must be a positive number, got 0"):
        optimum("best-of-4", 0)
    with pytest.raises(ValueError, match="kl must be a positive number, got -1"):
        optimal_beta_for_kl("best-of-4", -1)


def mutant(module: types.ModuleType, old: str, new: str) -> types.ModuleType:
    source = inspect.getsource(module)
    assert source.count(old) >= 1, old
    changed = types.ModuleType(module.__name__)
    exec(compile(source.replace(old, new), "mutant", "exec"), vars(changed))
    return changed


@pytest.mark.parametrize(
    ("old", "new"),
    [("(N - 1) * r", "N * r"), ("-(1 + k) * over", "-(1 - k) * over"), ("weight = 1 + (N - 1)", "weight = 1 + N"),
     ("k = self.N * self.M / np.asarray(beta, dtype=float)", "k = self.N * self.M * np.ones_like(beta)"),
     ("(M * slope)", "(N * slope)")],
)  # fmt: skip
def test_mutants_of_the_curve_die(old: str, new: str, monkeypatch) -> None:
    monkeypatch.setattr(optimal, "power_curve", mutant(power, old, new).power_curve)
    with pytest.raises(RuntimeError, match="has no certificate"):
        optimum("best-of-4", 0.3, "best-of-3")


@pytest.mark.parametrize(
    ("old", "new"),
    [("ref = pair.theirs.pdf(panels.u) / pair.beta", "ref = pair.theirs.pdf(panels.u)"),
     ("pair.ours.pdf(inside) * ref", "-pair.ours.pdf(inside) * ref"),
     ("ref = pair.theirs.pdf(panels.u)", "ref = pair.theirs.cdf(panels.u)"),
     ("inside, f = F.clip(0, 1), np.exp(log_f)", "inside, f = F.clip(0, 1) ** 1.25, np.exp(log_f)")],
)  # fmt: skip
def test_mutants_of_the_solver_die(old: str, new: str, monkeypatch) -> None:
    with np.errstate(all="ignore"):
        monkeypatch.setattr(optimal, "stationary_policies", mutant(stationary, old, new).stationary_policies)
        with pytest.raises(RuntimeError, match="has no certificate"):
            optimum("2nd-best-of-4", 0.3)


def test_a_mutant_of_the_procedure_is_another_problem(monkeypatch) -> None:
    honest = optimum("best-of-4", 0.3).win_rate
    monkeypatch.setattr(type(procedure("best-of-4")), "pdf", lambda self, t: self.n * np.asarray(t) ** self.n)
    with pytest.raises(RuntimeError, match="has no certificate"):  # N - 1 -> N: the curve disagrees
        optimum("best-of-4", 0.3)
    assert honest == pytest.approx(0.840137, abs=1e-6)


@pytest.mark.parametrize(
    ("old", "new"),
    [("- self.top) / self.beta", "- self.top)"),
     ("(values(self.transform, u) - self.top)", "(self.top - values(self.transform, u))")],
)  # fmt: skip
def test_mutants_of_the_tilt_die(old: str, new: str) -> None:
    changed = mutant(tilted, "theory.solver.layers import Level, ", "theory.solver.layers import ")
    vars(changed)["Level"] = mutant(layers, old, new).Level
    assert continuous.Tilted is tilted.Tilted
    assert abs(vars(changed)["Tilted"](Identity(), 0.5).win_rate("standard") - 0.656518) > 1e-3


@pytest.mark.parametrize("finite", [ia.BestOfN(4), ia.WorstOfN(4)])
def test_a_random_number_of_draws_is_on_no_curve_of_powers(finite):
    """Best-of-Poisson is neither best-of-N nor standard: its frontier goes through the optimum of its own."""
    for ours, theirs in ((finite, ia.BestOfPoisson(2.0)), (ia.BestOfPoisson(2.0), finite)):
        curve, best = optimal_frontier(ours, [0.3], theirs), optimum(ours, 0.3, theirs)
        assert (curve.kl[0], curve.win_rate[0]) == (pytest.approx(best.kl, abs=1e-9), pytest.approx(best.win_rate, abs=1e-9))
