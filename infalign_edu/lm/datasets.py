"""Prompts and preference pairs: the embedded ones, JSON lines, Anthropic HH transcripts, plain text, the Hub.

A malformed line is an error that names file, line and reason, or is counted where the caller asked to skip. Left out:
CSV, Parquet and chat-message lists (convert them to JSON lines), and everything that needs torch.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from infalign_edu import inputs
from infalign_edu.inputs import nearest
from infalign_edu.lm import embedded, hub, lines

HUMAN, ASSISTANT = "\n\nHuman:", "\n\nAssistant:"
JSON_SUFFIXES, TEXT_SUFFIXES = {".jsonl", ".ndjson", ".json"}, {".txt", ".text"}

T = TypeVar("T")


@dataclass(frozen=True)
class Preference:
    """A prompt with a preferred and a dispreferred response.

    >>> Preference("how are you ?", chosen="fine", rejected="no").chosen
    'fine'
    """

    prompt: str
    chosen: str
    rejected: str


@dataclass(frozen=True)
class PromptSet(Sequence[str]):
    """Prompts, the other columns of their file, and what was skipped and why: {reason: lines}.

    >>> PromptSet(["a", "b"], [{"split": "train"}, {"split": "heldout"}]).where(split="train").prompts
    ['a']
    """

    prompts: list[str]
    columns: list[dict[str, Any]] = field(default_factory=list)
    skipped: dict[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.prompts)

    def __getitem__(self, index: Any) -> Any:
        return self.prompts[index]

    def where(self, **wanted: Any) -> PromptSet:
        """The prompts whose columns have the wanted values."""
        rows = [i for i, row in enumerate(self.columns) if all(row.get(k) == v for k, v in wanted.items())]
        return PromptSet([self.prompts[i] for i in rows], [self.columns[i] for i in rows], self.skipped)


class PreferenceSet(list[Preference]):
    """A list of `Preference` that also says what was skipped and why: {reason: lines}."""

    skipped: dict[str, int]


def load_prompts(spec: str | Path, *, skip_bad_lines: bool = False) -> PromptSet:
    """Prompts of "embedded", a .jsonl or .txt file (.gz too), or "hub:<owner>/<name>/<file>" on the Hugging Face Hub.

    A JSON line holds {"prompt": ...}, or an HH transcript pair, of which the dialogue up to the last Assistant turn
    is taken. Raises: FileNotFoundError, or ValueError with file, line number and reason.

    >>> load_prompts("embedded").where(split="train", kind="harmless")[0].split()[0] in {"how", "show", "please"}
    True
    """
    path = _path(spec, "prompts.jsonl")

    def parse(line: str) -> tuple[str, dict[str, Any]]:
        if _suffix(path) in TEXT_SUFFIXES:
            return lines.text(line.strip(), "prompt"), {}
        record = lines.json_object(line)
        if "prompt" not in record and "chosen" in record:
            return _transcript(record, "chosen")[0], {}
        prompt = lines.text(record.get("prompt"), "prompt")
        return prompt, {key: value for key, value in record.items() if key != "prompt"}

    rows, skipped = lines.read(path, parse, skip_bad_lines)
    return PromptSet([prompt for prompt, _ in rows], [columns for _, columns in rows], skipped)


def load_preferences(spec: str | Path, *, skip_bad_lines: bool = False) -> PreferenceSet:
    """Preference pairs of "embedded", a .jsonl file (.gz too), or "hub:<owner>/<name>/<file>".

    A line holds {"prompt", "chosen", "rejected"}, or "chosen" and "rejected" as Anthropic HH transcripts of one
    dialogue; what they share up to an Assistant turn is the prompt. Raises: as `load_prompts`.

    >>> len(load_preferences("embedded")) > 1000
    True
    """
    path = _path(spec, "preferences.jsonl.gz")
    if _suffix(path) not in JSON_SUFFIXES:
        raise ValueError(f"preferences must be a .jsonl or .jsonl.gz file, got {path}")
    out, skipped = lines.read(path, lambda line: _preference(lines.json_object(line)), skip_bad_lines)
    pairs = PreferenceSet(out)
    pairs.skipped = skipped
    return pairs


def turns(prompt: str) -> list[dict[str, str]]:
    """A prompt as chat turns: an HH dialogue by its Human and Assistant turns, anything else as one user turn.

    >>> turns("\\n\\nHuman: Hi\\n\\nAssistant: Hello\\n\\nHuman: Why?\\n\\nAssistant:")[1:]
    [{'role': 'assistant', 'content': 'Hello'}, {'role': 'user', 'content': 'Why?'}]
    """
    if not isinstance(prompt, str):
        raise ValueError(f"prompt must be a string, got {inputs.shown(prompt)}")
    if not prompt.startswith(HUMAN):
        return [{"role": "user", "content": prompt}]
    out: list[dict[str, str]] = []
    pieces = re.split(r"\n\n(Human|Assistant):", prompt)[1:]
    for speaker, said in zip(pieces[::2], pieces[1::2], strict=True):
        role, said = {"Human": "user", "Assistant": "assistant"}[speaker], said.strip()
        if out and out[-1]["role"] == role:  # chat templates want the roles to alternate
            out[-1]["content"] += f"\n\n{said}"
        else:
            out.append({"role": role, "content": said})
    if len(out) > 1 and out[-1] == {"role": "assistant", "content": ""}:
        out.pop()  # the turn that the model is to write
    return out


def split(items: Iterable[T], fractions: Sequence[float], seed: int) -> list[list[T]]:
    """Parts of the items, disjoint by prompt text: all items of one prompt go to one part, drawn by the seed.

    Items are prompts or have a `.prompt`. Fractions are of distinct prompts and sum to at most 1.

    >>> [sorted(part) for part in split(["a", "b", "a", "c", "d"], [0.5, 0.5], seed=0)]
    [['a', 'a', 'c'], ['b', 'd']]
    """
    shares = inputs.reals("fractions", fractions)
    if shares.ndim != 1 or not ((shares > 0) & (shares <= 1)).all() or not 0 < shares.sum() <= 1 + 1e-9:
        raise ValueError(f"fractions must be positive and sum to at most 1, got {inputs.shown(fractions)}")
    if isinstance(items, str) or not isinstance(items, Iterable):
        raise ValueError(f"items must be a list of prompts or of what has a prompt, got {inputs.shown(items)}")
    items = list(items)
    named = [item if isinstance(item, str) else getattr(item, "prompt", item) for item in items]
    texts, seed = inputs.texts("items", named, least=0), inputs.seed(seed)  # type: ignore[arg-type]
    prompts = sorted(set(texts))
    order = np.random.default_rng(seed).permutation(len(prompts))
    edges = np.rint(np.cumsum([0.0, *fractions]) * len(prompts)).astype(int)
    if (np.diff(edges) == 0).any():
        raise ValueError(f"fractions {list(fractions)} must leave each part a prompt, got {len(prompts)} prompts")
    part = {prompts[p]: int(np.searchsorted(edges[1:], rank, side="right")) for rank, p in enumerate(order)}
    return [[item for item, text in zip(items, texts, strict=True) if part[text] == k] for k in range(len(fractions))]


def _path(spec: str | Path, shipped: str) -> Path:
    if str(spec).startswith("hub:"):
        return _hub(str(spec))
    path = embedded(shipped) if spec == "embedded" else Path(os.path.expanduser(spec) if _is_path(spec) else "")  # noqa: PTH111
    if not path.is_file():
        told = "embedded, hub:<owner>/<name>/<file> or a file that exists"
        got = " ".join(str(spec).split())[:200]
        raise FileNotFoundError(f"data must be {told}, got {got}{nearest(spec, ['embedded'])}")
    if _suffix(path) not in JSON_SUFFIXES | TEXT_SUFFIXES:
        raise ValueError(f"data must be a .jsonl or .txt file, .gz or not, got {spec!s}")
    return path


def _is_path(spec: object) -> bool:
    return isinstance(spec, (str, os.PathLike)) and "\0" not in str(spec)


def _hub(spec: str) -> Path:
    owner, _, rest = spec.removeprefix("hub:").partition("/")
    name, _, file = rest.partition("/")
    if not (owner and name and _suffix(Path(file)) in JSON_SUFFIXES | TEXT_SUFFIXES and ".." not in file.split("/")):
        raise ValueError(f"a Hub file must be hub:<owner>/<name>/<file> with a .jsonl or .txt file, got {spec}")
    return hub.dataset_file(f"{owner}/{name}", file)


def _suffix(path: Path) -> str:
    return (path.with_suffix("").suffix if path.suffix.lower() == ".gz" else path.suffix).lower()


def _transcript(record: dict[str, Any], key: str) -> tuple[str, str]:
    """Prompt and response of an HH transcript; the prompt ends with "Assistant:"."""
    before, found, after = lines.text(record.get(key), key).rpartition(ASSISTANT)
    if not found or not before.startswith(HUMAN):
        raise ValueError(f"{key} must be a transcript that starts with Human: and has an Assistant: turn")
    return before + ASSISTANT, after.strip()


def _preference(record: dict[str, Any]) -> Preference:
    if "prompt" in record:
        prompt = lines.text(record["prompt"], "prompt")
        chosen, rejected = (lines.text(record.get(key), key, empty=True) for key in ("chosen", "rejected"))
    else:
        (prompt, chosen), (other, rejected) = _transcript(record, "chosen"), _transcript(record, "rejected")
        if prompt != other:  # the dialogues part before their last turn: the prompt is what they share
            shared = os.path.commonprefix([record["chosen"], record["rejected"]])
            before, found, _ = shared.rpartition(ASSISTANT)
            if not found:
                raise ValueError("chosen and rejected must share their first Human: turn, got two dialogues")
            prompt = before + ASSISTANT
            chosen, rejected = (record[key][len(prompt) :].strip() for key in ("chosen", "rejected"))
    if chosen == rejected:
        raise ValueError("chosen and rejected are the same")
    return Preference(prompt, chosen, rejected)
