"""Calibration tables that many processes share: one row of K reference rewards for each prompt *id*.

A row is a function of seed, prompt, id, reference and reward alone. So it does not matter which process makes it, in
which order, or beside which other prompts: a run on eight machines has the tables of a run on one. Left out: tables
from the batch at hand, since each process of a data-parallel run sees its own slice of it, and a policy that moves.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm.auto import tqdm

from infalign_edu.calibration import EmpiricalCalibrator
from infalign_edu.inputs import reals, shown
from infalign_edu.lm.features import fingerprint
from infalign_edu.lm.rewards import Reward
from infalign_edu.lm.rewards import reward as named_reward
from infalign_edu.rl.names import by_code
from infalign_edu.rl.trainer import stream

Array = NDArray[np.float64]
FILE = "calibration.npz"
KEYED = 6  # the stream of randomness of keyed tables; the pipeline uses 0 to 5


@dataclass(frozen=True)
class Tables:
    """Reference rewards by prompt id, with what they were made with.

    `prompts` maps an id to the prompt's text; rows are in the order of the sorted ids. `made_with` holds model, reward,
    max_new_tokens, samples, seed and a hash of the prompts. Tables of your own samples: `Tables.of`.

    >>> tables = Tables.of({"b": "hi", "a": "yo"}, {"a": [1.0, 2.0], "b": [5.0, 9.0]})
    >>> tables.calibrated(["b", "a", "a"], [6.0, 6.0, 0.0])     # below all of K: 1/(2K)
    array([0.5 , 1.  , 0.25])
    """

    prompts: dict[str, str]
    calibrator: EmpiricalCalibrator

    @property
    def made_with(self) -> dict[str, Any]:
        """What decided the table: two tables with equal entries are equal."""
        return self.calibrator.metadata

    @property
    def K(self) -> int:
        """Reference samples a prompt."""
        return self.calibrator.K

    @classmethod
    def of(cls, prompts: Mapping[Any, str], rewards: Mapping[Any, Sequence[float]], **made_with: Any) -> Tables:
        """Tables of rewards that were made elsewhere, K a prompt id, for instance from samples of an inference server.

        Raises: ValueError unless every id has K finite rewards.
        """
        named, rows = keyed(prompts), keyed(rewards)
        if named.keys() != rows.keys():
            raise ValueError(f"rewards must have the prompts' ids, differs in {sorted(named.keys() ^ rows.keys())[:3]}")
        if len({len(row) for row in rows.values()}) != 1:
            raise ValueError(f"rewards must be K for every prompt, got {sorted({len(r) for r in rows.values()})[:5]}")
        facts = made_with | {"prompts": digest(named), "samples": len(next(iter(rows.values())))}
        return cls(named, EmpiricalCalibrator([rows[key] for key in named], facts))

    @classmethod
    def make(
        cls, reference: Any, prompts: Mapping[Any, str] | Sequence[str], reward: str | Reward, *, samples: int = 64,
        seed: int = 0, path: str | os.PathLike[str] | None = None, progress: bool = False,
    ) -> Tables:
        """Samples K = `samples` responses a prompt from the reference and scores them, or takes the file at `path`.

        Prompts are named by the mapping's keys, or by their place in a list. Where torch.distributed runs, processes
        share the work, all get all rows and the first one writes the file. One prompt is sampled at a time, so that its
        row owes nothing to its neighbours. Raises: ValueError for a file made with anything else, naming what.
        """
        named = keyed(prompts)
        facts = {"prompts": digest(named), "model": identity(reference), "reward": by_code(reward), "seed": seed,
                 "max_new_tokens": reference.max_new_tokens, "chat": bool(getattr(reference, "chat", False)),
                 "samples": samples}  # fmt: skip
        file = _file(path) if path is not None else None
        if file is not None and _everywhere(file.is_file(), reference.device):
            return cls.load(file, named, **facts)
        (rank, world), judge = processes(), named_reward(reward)
        rows = torch.zeros(len(named), samples, dtype=torch.float64, device=reference.device)
        mine = list(enumerate(named.items()))[rank::world]
        for row, (key, text) in tqdm(mine, desc="calibrating", disable=not progress):
            generator = torch.Generator().manual_seed(prompt_seed(seed, key))
            drawn = reference.sample([text], samples, generator=generator)
            rows[row] = torch.as_tensor(judge(drawn.row_prompts, drawn.responses))
        if world > 1:
            torch.distributed.all_reduce(rows)  # each row has one maker and is 0 elsewhere: the sum is exact
        tables = cls(named, EmpiricalCalibrator(rows.cpu().numpy(), facts))
        if file is not None and rank == 0:
            tables.save(file)
        return tables

    def calibrated(self, ids: Sequence[Any], rewards: Sequence[float] | Array) -> Array:
        """C of each reward under its own prompt's row, clipped at 1/(2K). Shape: ids [R], rewards [R] -> [R].

        Raises: ValueError for an id that has no row.
        """
        if np.shape(rewards) != (len(ids),):
            raise ValueError(f"rewards must be one for each of {len(ids)} ids, got shape {np.shape(rewards)}")
        number = {key: row for row, key in enumerate(self.prompts)}
        if unknown := [key for key in ids if str(key) not in number]:
            raise ValueError(f"prompt_id must be one of the {len(number)} that have a table, got {unknown[0]!r}")
        own = self.calibrator.take([number[str(key)] for key in ids])
        return own(reals("rewards", rewards)[:, None])[:, 0].clip(1 / (2 * self.K), 1.0)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Writes one .npz file, whole or not at all; a folder gets a calibration.npz. The prompts' texts stay out."""
        file = _file(path)
        self.calibrator.save(file)
        return file

    @classmethod
    def load(
        cls, path: str | os.PathLike[str], prompts: Mapping[Any, str] | Sequence[str], /, **expected: Any
    ) -> Tables:
        """The tables of a file or of the folder (run, checkpoint) it lies in, for these prompts.

        Raises: ValueError naming the file and the first entry of `made_with` that is not what was expected.

        >>> import tempfile
        >>> file = Tables.of(["hi"], {0: [1.0, 2.0]}, reward="length").save(tempfile.mkdtemp())
        >>> Tables.load(file, ["hi"], reward="length").K
        2
        """
        file, named = _file(path), keyed(prompts)
        calibrator = EmpiricalCalibrator.load(file)
        found = cls(named, calibrator)
        found.same_as(expected | {"prompts": digest(named)}, f"calibration table {str(file)!r}")
        return found

    def same_as(self, expected: Mapping[str, Any], name: str) -> None:
        """Raises: ValueError naming the first entry of `made_with` that differs from `expected`."""
        for field, wanted in expected.items():
            if (held := self.made_with.get(field)) != wanted:
                raise ValueError(f"{name} must be made with {field} {wanted!r}, got {held!r}: make it anew elsewhere")


def keyed(values: Mapping[Any, Any] | Sequence[Any]) -> dict[str, Any]:
    """Values by id, ids as text and sorted. Raises: ValueError for none, or for ids that are one text.

    >>> keyed(["x", "y"]), keyed({7: "x"})
    ({'0': 'x', '1': 'y'}, {'7': 'x'})
    """
    if isinstance(values, str):
        raise ValueError(f"prompts must be a mapping or a list, got {shown(values)}: write [{shown(values)}]")
    pairs = list(values.items() if isinstance(values, Mapping) else enumerate(values))
    named = {str(key): value for key, value in pairs}
    if not named or len(named) != len(pairs):
        raise ValueError(f"prompts must have ids that differ as text, at least one, got {len(named)} of {len(pairs)}")
    return dict(sorted(named.items()))


def prompt_seed(seed: int, key: Any) -> int:
    """The seed of one prompt's reference samples: a function of the run's seed and the prompt's id only.

    >>> prompt_seed(0, 7) == prompt_seed(0, "7"), prompt_seed(0, 7) == prompt_seed(0, 8)
    (True, False)
    """
    number = int.from_bytes(hashlib.sha256(str(key).encode("utf-8", "surrogatepass")).digest()[:8], "little")
    return stream(seed, KEYED, number)


def digest(prompts: Mapping[str, str]) -> str:
    """A hash of ids and texts, in their order."""
    found = hashlib.sha256()
    for part in (part for pair in prompts.items() for part in pair):
        data = part.encode("utf-8", "surrogatepass")
        found.update(len(data).to_bytes(8, "little") + data)
    return found.hexdigest()[:32]


def identity(reference: Any) -> str:
    """A hash of the reference: weights, tokenizer and template of a language model, else the weights alone."""
    if hasattr(reference, "tokenizer"):
        return fingerprint(reference)[:32]
    found = hashlib.sha256()
    for name, value in sorted(reference.model.state_dict().items()):
        found.update(name.encode() + value.detach().cpu().numpy().tobytes())
    return found.hexdigest()[:32]


def processes() -> tuple[int, int]:
    """Rank and number of the processes that train together; (0, 1) where torch.distributed has not been started."""
    running = torch.distributed.is_available() and torch.distributed.is_initialized()
    return (torch.distributed.get_rank(), torch.distributed.get_world_size()) if running else (0, 1)


def _everywhere(here: bool, device: torch.device) -> bool:
    """Whether all processes say yes: where disks are not shared, one must not read while the others wait for it."""
    if processes()[1] == 1:
        return here
    votes = torch.tensor(int(here), device=device)
    torch.distributed.all_reduce(votes)
    return int(votes) == processes()[1]


def _file(path: str | os.PathLike[str]) -> Path:
    return Path(path) if str(path).endswith(".npz") else Path(path) / FILE
