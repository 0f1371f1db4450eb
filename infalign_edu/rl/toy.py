"""A world small enough to enumerate: 6^4 responses, a reward without ties, and what training should reach, exactly.

The reference is a small transformer with random weights. Training starts from it, as the transformer itself or as a
table of its logits, and sees sampled responses only; everything that judges the result is a sum over all responses.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from infalign_edu import theory
from infalign_edu.inputs import seed as checked_seed
from infalign_edu.inputs import whole
from infalign_edu.lm.table import EnumerablePolicy, SmallTransformer
from infalign_edu.rl.trainer import Score, Scores, Trainer
from infalign_edu.theory.finite import FiniteProblem, Solution
from infalign_edu.transforms import standardize, transform

Array = NDArray[np.float64]
TRANSFORMS = ("identity", "log", "exp:10", "optimal best-of-4", "exp:-10", "optimal worst-of-4")
SLOW = ("exp:-10", "optimal worst-of-4")  # their signal sits in bad responses that are soon never drawn
PROCEDURES = ("standard", "best-of-4", "worst-of-4")  # every policy is judged under each
_EASY = {"steps": 700, "samples_per_prompt": 256}
_HARD = {"steps": 2500, "samples_per_prompt": 512}
_RATES = {"table": 0.1, "transformer": 8e-3}


@dataclass(frozen=True)
class Target:
    """What one training run maximises, E[Phi] - beta KL(pi || pi_ref), and its exact optimum.

    For an optimal transform, `shown` is its procedure and `shown_beta` the beta of W - beta KL, which has the same
    optimum. Shape: phi [S], with mean 0 and variance 1 under u ~ Uniform[0, 1].
    """

    name: str
    problem: FiniteProblem
    phi: Array
    beta: float
    optimum: Solution
    shown: str = ""
    shown_beta: float = 0.0

    def objective(self, policy: Array) -> float:
        """J = E_policy[Phi] - beta KL(policy || pi_ref), exactly. Shape: policy [S] -> float."""
        return float(policy @ self.phi) - self.beta * self.problem.kl(policy)

    def kl_to_optimum(self, policy: Array) -> float:
        """KL(policy || pi*) in nats. Derived: J(pi*) - J(policy) is beta times it; tests/test_rl_meets_theory.py."""
        on = policy > 0
        return float(policy[on] @ (np.log(policy[on]) - np.log(self.optimum.policy[on])))

    def shown_gap(self, policy: Array) -> float:
        """How far W - beta KL of the procedure `shown` lies below its maximum, exactly."""
        best = self.optimum
        lost = self.problem.win_rate(best.policy, self.shown) - self.problem.win_rate(policy, self.shown)
        return lost - self.shown_beta * (best.kl - self.problem.kl(policy))

    def group_std_optimum(self) -> Array:
        """Where training goes that divides Phi, but not the KL, by its standard deviation within the batch.

        Derived: pi proportional to pi_ref exp(Phi / (beta s)) with s = std_pi(Phi), followed from s = 1; it may have no
        solution, and then s falls to 0 and the policy to the best responses. Shape: [S].

        >>> ToyWorld(words=3, length=2).target("identity").group_std_optimum().max().round(3)
        np.float64(1.0)
        """
        s, before = 1.0, 0.0
        for _ in range(1000):
            policy = self.problem.rlhf(self.phi, self.beta * s).policy
            s, before = max(1e-3, float(np.sqrt(policy @ (self.phi - policy @ self.phi) ** 2))), s
            if abs(s - before) < 1e-14 * s:
                break
        return policy


def group_std(score: Score) -> Score:
    """The score with Phi divided by its standard deviation within the group: a wrong objective, kept as a lesson.

    Source: the default of GRPO, arXiv 2402.03300. Where it leads: `Target.group_std_optimum`.

    >>> fixed = Scores(*3 * (np.array([[1.0, 2.0, 3.0]]),))
    >>> group_std(lambda indices, responses: fixed)(np.array([0]), []).transformed.round(2)
    array([[-1.22,  0.  ,  1.22]])
    """

    def normalized(indices: NDArray[np.intp], responses: list[str]) -> Scores:
        s = score(indices, responses)
        phi = s.transformed
        spread = phi.std(-1, keepdims=True) + 1e-4
        return Scores(s.rewards, s.calibrated, (phi - phi.mean(-1, keepdims=True)) / spread)

    return normalized


class ToyWorld:
    """Reference, reward and exact calibration over all words^length responses.

    The reward is a random number for each word at each place, and one for each pair of neighbours.

    >>> world = ToyWorld()
    >>> len(world.problem.reward) == len(set(world.problem.reward)) == 6**4
    True
    """

    def __init__(self, words: int = 6, length: int = 4, seed: int = 0) -> None:
        words, length = whole("words", words, "an integer of at least 2", 2), whole("length", length)
        seed = checked_seed(seed)
        self._start = EnumerablePolicy(SmallTransformer(words, length, seed=seed), words, length)
        self.reference = EnumerablePolicy.from_distribution(self._start.distribution(), words, length).copy()
        rng, y = np.random.default_rng(seed), self.reference.sequences()  # y [S, length]
        single, pair = rng.normal(size=(length, words)), rng.normal(size=(length - 1, words, words))
        reward = single[np.arange(length), y].sum(1) + pair[np.arange(length - 1), y[:, :-1], y[:, 1:]].sum(1)
        self.problem = FiniteProblem(self.reference.distribution(), reward)
        self.number = {text: i for i, text in enumerate(self.reference.responses())}

    def policy(self, model: str = "table") -> EnumerablePolicy:
        """A trainable policy that starts at the reference. Raises: ValueError unless a table or a transformer."""
        if model not in _RATES:
            raise ValueError(f"model must be table or transformer, got {model!r}")
        policy = (self._start if model == "transformer" else self.reference).copy()
        policy.model.requires_grad_(True)
        return policy

    def target(self, name: str, kl: float = 0.5) -> Target:
        """The target of a transform, with the beta that gives KL(pi* || pi_ref) = `kl` nats for continuous rewards.

        `name`: a name of `ia.transform`, or "optimal best-of-4" for the optimal transform of a procedure.

        >>> target = ToyWorld().target("optimal best-of-4")
        >>> round(target.optimum.kl, 1), target.optimum.residual < 1e-9
        (0.5, True)
        """
        if not name.startswith("optimal "):
            phi = standardize(transform(name))
            beta, values = theory.beta_for_kl(phi, kl), phi(self.problem.calibrated)
            return Target(name, self.problem, values, beta, self.problem.rlhf(values, beta))
        shown = name.removeprefix("optimal ")
        beta = theory.optimal_beta_for_kl(shown, kl)
        R = self.problem.gradient(self.problem.infalign(shown, beta).policy, shown)
        R = R - self.problem.reference @ R
        scale = float(np.sqrt(self.problem.reference @ R**2))
        best = self.problem.rlhf(R / scale, beta / scale, shown)
        return Target(name, self.problem, R / scale, beta / scale, best, shown, beta)

    def score(self, target: Target) -> Score:
        """The trainer's score: reward, exact calibrated reward and Phi of each sampled response."""
        stages = self.problem.reward, self.problem.calibrated, target.phi

        def score(indices: NDArray[np.intp], responses: list[str]) -> Scores:
            rows = np.array([self.number[text] for text in responses]).reshape(len(indices), -1)
            return Scores(*(stage[rows] for stage in stages))

        return score

    def trainer(self, target: Target, model: str = "table", **changes: Any) -> Trainer:
        """The trainer of `rl.trainer` from the reference to the target; `changes` replace settings, `score` included.

        >>> world = ToyWorld()
        >>> trainer = world.trainer(world.target("identity"), steps=100)
        >>> trainer.steps, trainer.samples_per_prompt, round(trainer.beta, 2)
        (100, 256, 0.84)
        """
        policy = self.policy(model)
        options: dict[str, Any] = dict(_HARD if target.name in SLOW else _EASY)
        options |= {"score": self.score(target), "beta": target.beta, "learning_rate": _RATES[model]}
        options |= {"prompts_per_step": 1} | changes
        options.setdefault("micro_batch", options["samples_per_prompt"])
        return Trainer(policy, self.reference, [""], options.pop("score"), **options)


def curve(trainer: Trainer, target: Target, points: int = 20) -> Iterator[dict[str, float]]:
    """Trains to the end and judges the policy by enumeration before the first step and `points` times on the way.

    >>> world = ToyWorld(words=3, length=2)
    >>> target = world.target("identity")
    >>> [row["step"] for row in curve(world.trainer(target, steps=4), target, points=2)]
    [0, 2, 4]
    """
    began, judged = time.process_time(), 0.0
    for step in range(trainer.steps + 1):
        if step:
            trainer.advance()
        if step * points // trainer.steps > (step - 1) * points // trainer.steps:
            paused = time.process_time()
            policy = trainer.policy.distribution()
            row = {
                "step": step,
                "kl_to_optimum": target.kl_to_optimum(policy),
                "objective": target.objective(policy),
                "objective_optimum": target.optimum.objective,
                "kl": target.problem.kl(policy),
                **{shown: target.problem.win_rate(policy, shown) for shown in PROCEDURES},
                "cpu_seconds": paused - began - judged,
            }
            judged += time.process_time() - paused
            yield row
