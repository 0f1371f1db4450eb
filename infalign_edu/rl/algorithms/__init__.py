"""Ways from scored samples to a better policy, all under the one loop of `rl.trainer`.

    rloo.py                  what an algorithm is, and RLOO: the default, whose optimum is pi_ref exp(Phi / beta)
    ppo.py                   a value head, GAE and a clipped ratio: the same optimum
    grpo.py                  group deviation and per-token KL in the loss: another optimum, computed there
    preference.py            DPO and IPO: pairs of reference samples instead of rewards
    distillation.py          BoNBoN: imitate best-of-N of the reference
    quantile_regression.py   QRPO: regression on log pi*, whose normaliser is known for calibrated rewards

An algorithm says whom it samples from, what a batch is turned into, and the loss of a micro-batch; sampling, scoring,
Adam and checkpoints are the trainer's. This page knows no torch, so that the command line stays quick.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from infalign_edu.inputs import nearest, shown

if TYPE_CHECKING:
    from infalign_edu.rl.algorithms.rloo import Algorithm

_HOME = {
    "rloo": ("rloo", "RLOO"),
    "ppo": ("ppo", "PPO"),
    "grpo": ("grpo", "GRPO"),
    "dpo": ("preference", "DPO"),
    "ipo": ("preference", "IPO"),
    "bonbon": ("distillation", "BoNBoN"),
    "qrpo": ("quantile_regression", "QRPO"),
}
NAMES = tuple(_HOME)


def parse(name: str) -> tuple[str, int | None]:
    """An algorithm's name and, for `bonbon:N`, its N.

    Raises: ValueError that lists what is accepted.

    >>> parse("rloo"), parse("bonbon:8")
    (('rloo', None), ('bonbon', 8))
    """
    word, colon, number = str(name).strip().partition(":")
    n = int(number) if number.isascii() and number.isdecimal() else 0
    if word not in _HOME or (colon and (word != "bonbon" or n < 2)):
        told = f"algorithm must be {', '.join(NAMES)} or bonbon:N with N of at least 2"
        raise ValueError(f"{told}, got {shown(name)}{nearest(name, NAMES)}")
    return word, n or None


def algorithm(name: str | Algorithm) -> Algorithm:
    """The algorithm that a name stands for, with its default settings; an `Algorithm` is returned as it is.

    Raises: ValueError for a name that is none.

    >>> algorithm("rloo"), algorithm("bonbon:8").n
    (RLOO(), 8)
    """
    if not isinstance(name, str):
        if isinstance(name, type) or not (hasattr(name, "targets") and hasattr(name, "loss")):
            parse(repr(name))
        return name
    word, n = parse(name)
    module, kind = _HOME[word]
    found = getattr(importlib.import_module(f"{__name__}.{module}"), kind)
    return found() if n is None else found(n=n)
