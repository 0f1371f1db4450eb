"""What can be computed exactly: tilted policies, optimal transforms with a certificate, finite problems with ties.

Each public name loads its module when it is first used, so `import infalign_edu.theory` costs nothing and only
`SequenceProblem` needs torch.
"""

from importlib import import_module
from typing import Any

_HOME = {
    "tilt": "continuous",
    "frontier": "continuous",
    "beta_for_kl": "continuous",
    "efficiency": "continuous",
    "solve_for_kl": "continuous",
    "optimum": "optimal",
    "unique": "optimal",
    "optimal_frontier": "optimal",
    "optimal_beta_for_kl": "optimal",
    "naive_fixed_point": "lesson",
    "bernstein": "finite_samples",
    "calibration_cost": "finite_samples",
    "unbiased_polynomial": "finite_samples",
    "dkw_band": "finite_samples",
    "best_of_n_kl_bound": "finite_samples",
    "best_of_n_kl_estimate": "finite_samples",
    "mismatch": "finite_samples",
    "FiniteProblem": "finite",
    "SequenceProblem": "sequences",
}
__all__ = list(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'infalign_edu.theory' has no attribute {name!r}")
    return getattr(import_module(f"infalign_edu.theory.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
