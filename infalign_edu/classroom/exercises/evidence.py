"""Exercises of `09_frontiers_and_baselines` about reading evidence: noise of prompts and of training, share of a gain.

Those about other algorithms are in `baselines`. Left out: degrees of freedom, which the notebook takes from
`infalign_edu.rl.experiments.pairs`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from infalign_edu.classroom.exercise import Exercise, Mistake
from infalign_edu.classroom.exercises import baselines

Array = NDArray[np.float64]
NOTEBOOK = "09_frontiers_and_baselines"


def _parts(d: Array, ddof: int = 1) -> tuple[float, float, float]:
    """Variance of the mean over seeds, over prompts, and by what is left."""
    S, P = d.shape
    rest = d - d.mean(axis=0) - d.mean(axis=1, keepdims=True) + d.mean()
    left = float((rest**2).sum()) / ((S - ddof) * (P - ddof)) / (S * P)
    return d.mean(axis=1).var(ddof=ddof) / S, d.mean(axis=0).var(ddof=ddof) / P, left


def _crossed(d: Array, ddof: int = 1) -> float:
    seeds, prompts, left = _parts(d, ddof)
    return float(np.sqrt(max(seeds + prompts - left, seeds, prompts)))


def _unguarded(d: Array) -> float:
    seeds, prompts, left = _parts(d)
    return float(np.sqrt(seeds + prompts - left))


def _differences(rng: np.random.Generator, by_seed: float = 1.0, by_prompt: float = 1.0) -> tuple[Array]:
    """Differences in points; a size of 0 makes all seeds, or all prompts, the same on average."""
    S, P = int(rng.integers(3, 7)), int(rng.integers(8, 14))
    noise = rng.normal(size=(S, P))
    noise = noise - noise.mean(axis=1, keepdims=True) - noise.mean(axis=0) + noise.mean()
    seeds, prompts = rng.normal(size=(S, 1)), rng.normal(size=P)
    seeds, prompts = (seeds - seeds.mean()) / seeds.std(), (prompts - prompts.mean()) / prompts.std()
    return (rng.uniform(1, 5) + by_seed * rng.uniform(1, 2) * seeds + by_prompt * rng.uniform(2, 4) * prompts + noise,)


CROSSED = Exercise(
    name="crossed-error",
    notebook=NOTEBOOK,
    goal="The standard error of a mean difference when seeds and prompts are both a sample of what could have been.",
    difficulty=2,
    minutes=15,
    points=2,
    answer=_crossed,
    inputs=_differences,
    corners=(lambda rng: _differences(rng, by_seed=0.0), lambda rng: _differences(rng, by_prompt=0.0)),
    mistakes=(
        Mistake(
            "That is the error over prompts alone. However many prompts you add, the same few trainings stand behind "
            "all of them.",
            lambda d: np.sqrt(_parts(d)[1]),
        ),
        Mistake(
            "That is the error over seeds alone: it forgets that these prompts are a sample, too.",
            lambda d: np.sqrt(_parts(d)[0]),
        ),
        Mistake(
            "You take all cells of the table as independent. Cells of one seed share a training, cells of one prompt "
            "share a prompt.",
            lambda d: np.sqrt(d.var(ddof=1) / d.size),
        ),
        Mistake(
            "The noise that belongs to neither seed nor prompt sits in both parts: their sum counts it twice.",
            lambda d: np.sqrt(_parts(d)[0] + _parts(d)[1]),
        ),
        Mistake(
            "You add what is left once more, though it sits in both parts already.",
            lambda d: np.sqrt(sum(_parts(d))),
        ),
        Mistake(
            "Right where the seeds differ, and too small where they happen to agree: never return less than the larger "
            "part alone.",
            _unguarded,
        ),
        Mistake(
            "That is the variance of the mean; the standard error is its root.",
            lambda d: _crossed(d) ** 2,
        ),
        Mistake(
            "You divide by the counts. A mean was taken out in each direction, so one degree of freedom is gone in "
            "each.",
            lambda d: _crossed(d, ddof=0),
        ),
    ),
    hints=(
        "Write each difference as mean + seed's part + prompt's part + rest. Which of them does the mean over prompts "
        "of one seed still hold?",
        "Var(seed means)/S and Var(prompt means)/P each hold the rest's share, Var(rest)/(S P); subtract it once.",
        "rest = d - column means - row means + mean; left = sum(rest^2)/((S-1)(P-1))/(S P). Then the root of "
        "max(a + b - left, a, b), a and b with ddof=1.",
    ),
)


def _share(
    ours: Array, baseline: Array, theory: tuple[float, float], t: float, ddof: int = 1, n: float | None = None
) -> tuple[float, float, float]:
    d = ours - baseline
    half = t * d.std(ddof=ddof) / np.sqrt(n or len(d))
    gap = theory[0] - theory[1]
    ends = sorted(((d.mean() - half) / gap, (d.mean() + half) / gap))
    return float(d.mean() / gap), float(ends[0]), float(ends[1])


def _unsorted(ours: Array, baseline: Array, theory: tuple[float, float], t: float) -> tuple[float, float, float]:
    share, low, high = _share(ours, baseline, theory, t)
    return (share, high, low) if theory[0] < theory[1] else (share, low, high)


def _unpaired(ours: Array, baseline: Array, theory: tuple[float, float], t: float) -> tuple[float, float, float]:
    share, gap = _share(ours, baseline, theory, t)[0], abs(theory[0] - theory[1])
    half = t * float(np.sqrt((ours.var(ddof=1) + baseline.var(ddof=1)) / len(ours))) / gap
    return share, share - half, share + half


def _share_inputs(rng: np.random.Generator, sign: int = 1) -> tuple[Array, Array, tuple[float, float], float]:
    S, base, gap = int(rng.integers(3, 7)), float(rng.uniform(0.65, 0.8)), sign * float(rng.uniform(0.04, 0.09))
    run = rng.normal(size=S) * 0.02  # what a seed does to both policies
    ours = base + rng.uniform(0.5, 0.9) * gap + run + rng.normal(size=S) * 0.01
    return ours, base + run, (base + gap, base), float(rng.uniform(2.0, 4.5))


GAIN_SHARE = Exercise(
    name="gain-share",
    notebook=NOTEBOOK,
    goal="Which share of the gain that theory promises was measured, with an interval over seeds.",
    difficulty=2,
    minutes=12,
    points=2,
    answer=_share,
    inputs=_share_inputs,
    corners=(lambda rng: _share_inputs(rng, -1),),
    mistakes=(
        Mistake(
            "That is the share of the lift over one half. The baseline earns most of that as well; compare with the "
            "baseline instead.",
            lambda a, b, theory, t: _share(a, b * 0 + 0.5, (theory[0], 0.5), t),
        ),
        Mistake(
            "You measured the gain over the baseline that was trained, and theory's over one half.",
            lambda a, b, theory, t: _share(a, b, (theory[0], 0.5), t),
        ),
        Mistake(
            "The fraction is upside down: measured gain over promised gain.",
            lambda a, b, theory, t: tuple(1 / x for x in _share(a, b, theory, t)),
        ),
        Mistake(
            "The pairing is lost. Both policies of a seed share their prompts and their reward: take the differences "
            "first, then their spread.",
            _unpaired,
        ),
        Mistake(
            "Where theory promises a loss, dividing by a negative number turns the ends of the interval round.",
            _unsorted,
        ),
        Mistake(
            "You divide by S in the standard deviation: S - 1 seeds are free once their mean is known.",
            lambda a, b, theory, t: _share(a, b, theory, t, ddof=0),
        ),
        Mistake(
            "That is how far apart single seeds lie. The interval of their mean is narrower, by the root of S.",
            lambda a, b, theory, t: _share(a, b, theory, t, n=1),
        ),
        Mistake(
            "You divide by S where its root belongs: the variance of a mean falls as 1/S, its standard error slower.",
            lambda a, b, theory, t: _share(a, b, theory, t, n=float(len(a) ** 2)),
        ),
    ),
    hints=(
        "Share of what? Theory promises a difference between two policies at one KL: measure the same difference.",
        "Differences by seed, their mean and t sd/sqrt(S); then divide the mean and both ends by theory's difference.",
        "d = ours - baseline; half = t d.std(ddof=1)/sqrt(S); gap = theory[0] - theory[1]; divide mean, mean - half, "
        "mean + half by gap, and sort the ends.",
    ),
)

EXERCISES = (CROSSED, GAIN_SHARE, *baselines.EXERCISES)
