"""The exercise of `13_scaling_out` on cost: the arithmetic of calibration and of training, before anything is run.

Left out: attention scores, which grow with the square of the length, and the reward model.
"""

from __future__ import annotations

import numpy as np

from infalign_edu.classroom.exercise import Arguments, Exercise, Mistake

NOTEBOOK = "13_scaling_out"


def _plan(rng: np.random.Generator) -> Arguments:
    counts = rng.integers((20, 8, 5, 2, 2, 50, 50), (90, 65, 20, 9, 9, 300, 300))
    return float(rng.uniform(1.0, 10.0)), *map(int, counts)


def _flop(
    N: float, prompts: int, K: int, steps: int, batch: int, samples: int, asked: int, said: int,
    *, reads: bool = True, again: bool = False, decodes: bool = True, scoring: int = 2, update: float = 6.0,
    forward: float = 2.0, heard: bool = True, once: bool = False,
) -> tuple[float, float]:  # fmt: skip
    N = N * 1e9 / 1e15  # billions of parameters in, 1e15 FLOP out
    calibration = forward * N * prompts * ((K if again else reads) * asked + K * said)
    group = decodes * ((samples if again else reads) * asked + samples * said)
    seen = asked + samples * said if once else samples * (heard * asked + said)
    return calibration, steps * batch * N * (forward * group + (forward * scoring + update) * seen)


COST = Exercise(
    name="run-flop",
    notebook=NOTEBOOK,
    goal="The arithmetic of a run in 1e15 FLOP, calibration and training apart, from the size and the plan's counts.",
    difficulty=2,
    minutes=10,
    points=2,
    answer=_flop,
    inputs=_plan,
    mistakes=(
        Mistake(
            "You read the prompt once for every sample while decoding. Its keys and values are computed once and "
            "shared by all samples of that prompt.",
            lambda *plan: _flop(*plan, again=True),
        ),
        Mistake(
            "Reading the prompts before decoding is missing: 2 N for each token of each prompt.",
            lambda *plan: _flop(*plan, reads=False),
        ),
        Mistake(
            "One pass over the sampled tokens is missing: 8 N in yours. Policy and reference both score them, and the "
            "update has a forward pass of its own before it goes back.",
            lambda *plan: _flop(*plan, scoring=1),
        ),
        Mistake(
            "6 N for each scored token is the update alone, or an update without its way back. Policy and reference "
            "score before it, 2 N each.",
            lambda *plan: _flop(*plan, scoring=0),
        ),
        Mistake(
            "The K reference samples share one response in yours: each of them is decoded.",
            lambda N, prompts, K, *rest: (_flop(N, prompts, 1, *rest)[0], _flop(N, prompts, K, *rest)[1]),
        ),
        Mistake(
            "Calibration scores its samples in yours. It needs rewards, no log-probabilities: decode, that is all.",
            lambda *plan: (_flop(*plan)[0] + 2e-6 * plan[0] * plan[1] * plan[2] * (plan[6] + plan[7]), _flop(*plan)[1]),
        ),
        Mistake(
            "N a token is half of it: each parameter is multiplied *and* added, 2 N.",
            lambda *plan: _flop(*plan, forward=1.0),
        ),
        Mistake(
            "Scoring and update go through the responses only in yours. Without the prompt before it a response has "
            "no log-probability: count prompt and response of every sample.",
            lambda *plan: _flop(*plan, heard=False),
        ),
        Mistake(
            "Each sample is scored and learned from with its own copy of the prompt before it, asked + said tokens. "
            "Only decoding shares the prompt.",
            lambda *plan: _flop(*plan, once=True),
        ),
        Mistake(
            "A training step begins with new samples, and those have to be decoded: that part is missing.",
            lambda *plan: _flop(*plan, decodes=False),
        ),
        Mistake(
            "Only the update is in your training. Its samples are decoded first, and scored by policy and reference.",
            lambda *plan: _flop(*plan, decodes=False, scoring=0),
        ),
        Mistake(
            "That is the training of a single step.",
            lambda N, prompts, K, steps, *rest: _flop(N, prompts, K, 1, *rest),
        ),
        Mistake(
            "That is the training on one prompt a step: there are `batch` of them.",
            lambda N, prompts, K, steps, batch, *rest: _flop(N, prompts, K, steps, 1, *rest),
        ),
        Mistake(
            "You train on all prompts in every step. A step has `batch` of them.",
            lambda N, prompts, K, steps, batch, *rest: _flop(N, prompts, K, steps, prompts, *rest),
        ),
        Mistake(
            "You take batch for a number of responses. Here it counts prompts, each with its own samples.",
            lambda *plan: (_flop(*plan)[0], _flop(*plan)[1] / plan[5]),
        ),
        Mistake(
            "Your training holds the calibration as well. They are asked for apart: that one is paid once.",
            lambda *plan: (_flop(*plan)[0], sum(_flop(*plan))),
        ),
        Mistake(
            "The two are in the wrong order: calibration first.",
            lambda *plan: _flop(*plan)[::-1],
        ),
        Mistake(
            "That is right, in FLOP. Asked for are units of 1e15.",
            lambda *plan: tuple(1e15 * part for part in _flop(*plan)),
        ),
        Mistake(
            "The size comes in billions of parameters, the answer goes out in 1e15 FLOP: one of the two is missing.",
            lambda *plan: tuple(1e6 * part for part in _flop(*plan)),
        ),
    ),
    hints=(
        "Go through the tokens: which are read, which are decoded, which are scored, which are learned from?",
        "Calibration: prompts x asked tokens are read, prompts x K x said are decoded, 2 N each. A training step does "
        "the same with its own counts, and more.",
        "Training, for each of steps x batch prompts: 2 N (asked + samples x said) to decode, then "
        "(2 + 2 + 6) N x samples x (asked + said).",
    ),
)

EXERCISES = (COST,)
