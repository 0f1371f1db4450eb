"""A procedure that a user of the package might write: five names and nothing else."""

import numpy as np


class Careless:
    """Two draws, the better one half of the time."""

    max_n = 2

    def cdf(self, t):
        return 0.5 * np.asarray(t) + 0.5 * np.asarray(t) ** 2

    def pdf(self, t):
        return 0.5 + np.asarray(t)

    def draws(self, rng):
        return 2

    def select(self, rewards, rng):
        best = np.asarray(rewards).argmax(-1)
        return np.where(rng.random(best.shape) < 0.5, best, 0)

    def __str__(self):
        return "careless"
