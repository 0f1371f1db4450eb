"""What a user sees of N answers: draws of the embedded model, their rewards, and which one each procedure shows.

Sixteen answers are drawn once for a prompt and a seed, and the first N of them looked at, so that N slides without
sampling. Their quantiles come from 64 other samples that are never shown. Left out: temperature, which the package's
policies do not have because the theory speaks of the model's own distribution, and prompts of one's own, which the
world's gold rewards cannot judge.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import ipywidgets as widgets
import numpy as np
from numpy.typing import NDArray

from infalign_edu import plots
from infalign_edu.classroom.widgets.draws import MOST, Drawn, every_expectation, expected, judge, table
from infalign_edu.classroom.widgets.explorer import Explorer, choice, whole
from infalign_edu.lm.datasets import load_prompts
from infalign_edu.plots.live import Live, Panel

Array = NDArray[np.float64]
K, SEEDS = 64, 99  # samples that calibrate, largest seed
SHOWN_STREAM, HIDDEN_STREAM = 1, 0
HIDDEN = f"{K} hidden samples"
REWARDS = ("helpfulness", "harmlessness")
REACH = (-5.5, 5.0)  # rewards of the world lie in here but for nonsense, which is drawn at the edge
_COLOURS = plots.PALETTE
LOOKS: dict[str, dict[str, Any]] = {
    "best-of-N": {"color": _COLOURS[0], "linestyle": "-", "marker": "^"},
    "2nd-best-of-N": {"color": _COLOURS[5], "linestyle": (0, (5, 1)), "marker": "D"},
    "standard": {"color": _COLOURS[6], "linestyle": ":", "marker": "o", "markerfacecolor": "none"},
    "worst-of-N": {"color": _COLOURS[1], "linestyle": "-.", "marker": "v"},
}
_RING = {"markersize": 12, "markeredgewidth": 1.6}  # lies around another procedure's mark


def stream(prompt: str, who: int, seed: int) -> int:
    """A seed that depends on the prompt too: the same random numbers would give every prompt the same sentences.

    >>> stream("a", 1, 0) == stream("b", 1, 0)
    False
    """
    sequence = np.random.SeedSequence([zlib.crc32(prompt.encode()), who, seed])
    return int(sequence.generate_state(1)[0])


def _embedded() -> Any:
    from infalign_edu.lm.models import load  # brings torch, which takes seconds

    return load("embedded", device="cpu")


class BestOfNPlayground(Explorer[Drawn]):
    """Draws N answers of the embedded reference and marks what best-of-N, worst-of-N and others show of them.

    The model is loaded at the first press of "Draw responses" (or `press()`), from `load` if that is given.

    >>> playground = BestOfNPlayground()
    >>> playground.text.split(":")[0]
    'No responses yet'
    """

    title = "Best of N: what the user sees"

    def __init__(self, load: Callable[[], Any] = _embedded) -> None:
        self._load, self._policy = load, None
        self._responses = lru_cache(maxsize=256)(self._sample)
        self._pool = lru_cache(maxsize=256)(self._judged)
        self.live = _live()
        self.button = widgets.Button(description="Draw responses", tooltip="load the model, and draw 16 responses")
        self.button.on_click(self.guarded(lambda button: self.press()))
        self.table = widgets.HTML()
        super().__init__(_controls(), extra=(self.button,))
        self.box.children = (*self.box.children[:-1], self.table, self.message)

    def press(self) -> None:
        """Draws: the first time with the seed as it stands, then with the next one. Raises: what `load` raises."""
        if self._policy is None:
            self.message.value = '<div role="status"><b>Loading the model.</b> Once, some seconds.</div>'
            self._policy = self._load()
            self.button.description, self.button.tooltip = "Draw again", "16 new responses: the seed goes up by one"
            self.refresh()
            self.message.value = ""
        else:
            seed = self.controls["seed"]
            seed.value = (seed.value + 1) % (SEEDS + 1)

    def _sample(self, prompt: str, samples: int, who: int, seed: int) -> list[str]:
        assert self._policy is not None
        return list(self._policy.sample([prompt], samples, seed=stream(prompt, who, seed)).responses)

    def _judged(self, prompt: str, reward: str, seed: int) -> tuple[list[str], Array, Array]:
        """Responses [16], their rewards [16] and those of the hidden samples [K]."""
        from infalign_edu.lm.rewards import GoldReward, score

        shown = self._responses(prompt, MOST, SHOWN_STREAM, seed)
        hidden = self._responses(prompt, K, HIDDEN_STREAM, 0)
        rewards = score(GoldReward(reward), [prompt] * (MOST + K), [*shown, *hidden])
        return shown, rewards[:MOST], rewards[MOST:]

    def compute(self, prompt: str, reward: str, n: int, seed: int) -> Drawn:
        """The first n draws and what each procedure shows; nothing drawn before the model is loaded."""
        if self._policy is None:
            none = np.zeros(0)
            return Drawn(prompt, reward, n, seed, [], none, none, none, {})
        return judge(prompt, reward, n, seed, *self._pool(prompt, reward, seed))

    def draw(self, data: Drawn) -> bytes:
        """Left: the draws on the hidden samples' distribution. Right: what is shown, over its mean for every N."""
        left, right = dict[str, Any](), dict[str, Any](every_expectation())
        if data.responses:
            steps = np.arange(len(data.hidden) + 1) / len(data.hidden)
            edges = np.concatenate([[REACH[0]], np.repeat(data.hidden, 2), [REACH[1]]])
            places = data.rewards.clip(*REACH)
            left = {HIDDEN: (edges, np.repeat(steps, 2)), "draws·": (places, data.calibrated)}
            left |= {f"_{name}·": (places[j], data.calibrated[j]) for name, j in data.shown.items()}
            right |= {f"_{name}·": (data.n, data.calibrated[j]) for name, j in data.shown.items()}
        return self.live.update([left, right])

    def describe(self, data: Drawn) -> str:
        """What each procedure shows, in words, beside what it shows on average."""
        means = expected(data.n)
        if not data.responses:
            told = ", ".join(f"{name.replace('-N', f'-{data.n}')} {mean:.2f}" for name, mean in means.items())
            return (
                f"No responses yet: press Draw responses to hear the model on “{data.prompt}” ({data.reward}, "
                f"seed {data.seed}). On average the calibrated reward of what is shown will be {told}."
            )
        told = "; ".join(
            f"{name.replace('-N', f'-{data.n}')} shows draw {j + 1} with reward {data.rewards[j]:+.2f} and "
            f"u {data.calibrated[j]:.2f}, {means[name]:.2f} on average"
            for name, j in data.shown.items()
        )
        return f"{data.n} draws for “{data.prompt}”, judged by {data.reward}: {told}."

    def show(self, data: Drawn) -> None:
        """Picture, words and table."""
        super().show(data)
        self.table.value = table(data)


def _live() -> Live:
    """Two panels; a procedure's mark is a series of its own, with a leading _ that keeps it out of the legend."""
    marks = {f"_{name}·": look | (_RING if name == "standard" else {"markersize": 8}) for name, look in LOOKS.items()}
    looks = {name: look | {"markevery": [-1], "markersize": 5} for name, look in LOOKS.items()} | marks
    looks[HIDDEN] = {"color": "#767676", "linestyle": "-"}
    looks["draws·"] = {"color": "#000000", "marker": "o", "markersize": 4}
    left, right = "calibrated reward u  [quantile]", "calibrated reward shown  [quantile]"
    return Live(
        [
            Panel("raw reward r", left, [HIDDEN, "draws·", *marks], xlim=REACH, looks=looks),
            Panel("N  [draws]", right, [*LOOKS, *marks], xlim=(0.5, MOST + 0.5), looks=looks),
        ],
        width=4.6,
        height=3.4,
    )


def _controls() -> dict[str, Any]:
    heldout = load_prompts("embedded").where(split="heldout")
    prompts = [
        (f"{kind} {i}", x)
        for kind in ("harmless", "harmful")
        for i, x in enumerate(heldout.where(kind=kind).prompts[:180:23], start=1)
    ]
    ask = choice("prompt", prompts, prompts[0][1], "a request that the model was not trained on")
    return {
        "prompt": ask,
        "reward": choice("reward r", list(REWARDS), REWARDS[0], "what the world's gold score looks at"),
        "n": whole("N  [draws]", 4, 1, MOST, "how many responses are drawn before one is shown"),
        "seed": whole("seed", 0, 0, SEEDS, "the same seed draws the same responses"),
    }
