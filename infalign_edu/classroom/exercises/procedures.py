"""Exercises of `02_inference_time_procedures`: what a procedure does to a distribution, and how to estimate it."""

from __future__ import annotations

from infalign_edu.classroom.exercise import Exercise, Mistake

NOTEBOOK = "02_inference_time_procedures"

EXERCISES = (
    Exercise(
        name="best-of-n-density",
        notebook=NOTEBOOK,
        goal="The density of the calibrated reward that best-of-N shows, at u, when the policy is the reference.",
        difficulty=1,
        minutes=5,
        points=2,
        answer=lambda u, n: n * u ** (n - 1),
        inputs=lambda rng: (rng.random(5), int(rng.integers(2, 9))),
        mistakes=(
            Mistake(
                "That is worst-of-N: its density is largest at u = 0. The best of N is high when all the others lie "
                "below it, and each does so with probability u.",
                lambda u, n: n * (1 - u) ** (n - 1),
            ),
            Mistake("That is the CDF. The density is its derivative by u.", lambda u, n: u**n),
            Mistake(
                "The factor N is missing: any of the N draws can be the best. Your density does not integrate to 1.",
                lambda u, n: u ** (n - 1),
            ),
            Mistake(
                "The exponent is N, but only the N - 1 others have to lie below: n u^(n-1).", lambda u, n: n * u**n
            ),
            Mistake(
                "The factor is the exponent N - 1: you took the derivative of u^(N-1). The CDF is u^N.",
                lambda u, n: (n - 1) * u ** (n - 1),
            ),
        ),
        hints=(
            "When is the best of N draws at most u? Write that event about the N draws.",
            "All N draws have to be at most u, so the CDF is u^N (the draws are independent, u is uniform).",
            "The density is the derivative of u^N by u.",
        ),
    ),
)
