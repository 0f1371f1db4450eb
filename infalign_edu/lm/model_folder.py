"""What a model folder may name: its own safetensors files, and nothing that leads out of it or to somebody's code.

A folder that was downloaded or unpacked is a text of its author. transformers follows what it says: shards of an index
wherever they lie, another base model for an adapter, an attention kernel that is fetched from the Hub and run. Here
these are refused before anything is read. Left out: a chat template that loops for hours or fills the memory; jinja's
sandbox, in which transformers runs it, bounds what it reaches and not how long it takes.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

AGAIN = "take the model from a source you trust, or mend that file"
PICKLES = {".bin", ".pt", ".pth", ".ckpt", ".pkl"}
CODE = ("attn_implementation", "experts_implementation")  # names of kernels; one with a slash is fetched and run
ADAPTER = "adapter_config.json"


def check_files(folder: Path) -> None:
    """Refuses what a folder of safetensors must not hold.

    Raises: FileNotFoundError without a config.json; ValueError naming the file for no safetensors, links out of the
    folder, what is no plain file, an index or a configuration that names files elsewhere, or a kernel of the Hub.
    """
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(f"model folder must hold a config.json, got {folder}")
    if not any(folder.glob("*.safetensors")):
        held = sorted(p.name for p in folder.iterdir() if p.suffix in PICKLES)
        raise ValueError(f"model folder must hold *.safetensors weights, got {folder} with {held or 'no weights'}")
    check_adapter(folder)
    places = _places(folder)
    for path in sorted(folder.iterdir()):
        real = Path(os.path.realpath(path))  # resolve() raises for a link to itself
        if path.is_symlink() and not any(real.is_relative_to(place) for place in places):
            told = f"got a link to {real}; copy that file into the folder if it belongs to the model"
            raise ValueError(f"model file {path} must lie in its folder, {told}")
        if not (path.is_file() or path.is_dir()):
            raise ValueError(f"model file {path} must be a plain file that can be read; remove it")
        if path.suffix == ".safetensors" and path.is_file():
            _starts_well(path)
    for index in sorted(folder.glob("*.index.json")):
        _own_weights(index, _object(index).get("weight_map"))
    config = folder / "config.json"
    for key, value in _entries(_object(config)):
        if key == "transformers_weights":
            _own_weights(config, {key: value})
        if key.lstrip("_").startswith(CODE) and "/" in json.dumps(value):
            told = f"got {key} {str(value)[:80]!r}; {AGAIN}"
            raise ValueError(f"model config {config} must name no kernel to fetch and run, {told}")


def own_files(config: Path) -> None:
    """Refuses a tokenizer's settings that name a file elsewhere that is there: transformers 5.10 reads it.

    Many models name files of the machine that they were made on: those are no file here.
    """
    for key, value in _entries(_object(config)) if config.is_file() else ():
        for name in value if isinstance(value, list) else [value]:
            named = key.endswith(("_file", "_files")) and isinstance(name, str) and Path(name).name != name
            if named and any(os.path.lexists(place) for place in (name, config.parent / name)):
                told = f"got {key} {name[:80]!r}; {AGAIN}"
                raise ValueError(f"tokenizer config {config} must name files of its own folder, {told}")


def check_adapter(folder: Path) -> None:
    """Refuses a folder that tells transformers to load another model, to be adapted by it, or a file elsewhere."""
    own_files(folder / "tokenizer_config.json")
    if (folder / ADAPTER).exists():
        told = "save it merged into its base, or remove that file to have the model without it"
        raise ValueError(f"model folder must hold a whole model, got the adapter {folder / ADAPTER}; {told}")


def check_settings(folder: Path, model: Any, tokenizer: Any) -> None:
    """Refuses sizes, a generation config or a chat template that sampling would stumble over.

    Raises: ValueError naming the file, the field and its value; or the template and what it does.
    """
    for field in ("num_hidden_layers", "num_attention_heads", "hidden_size"):
        if type(value := getattr(model.config.get_text_config(), field, 1)) is int and value < 1:
            raise ValueError(f"{field} in {folder / 'config.json'} must be a positive integer, got {value}; {AGAIN}")
    said = getattr(model, "generation_config", None)
    for field, accepted in (("eos_token_id", "token ids"), ("max_new_tokens", "a whole number")):
        value = getattr(said, field, None)
        listed = value if isinstance(value, list) and field == "eos_token_id" else [value]
        if value is not None and not all(type(entry) is int for entry in listed):
            file = folder / "generation_config.json"
            raise ValueError(f"{field} in {file} must be {accepted}, got {repr(value)[:80]}; {AGAIN}")
    if not getattr(tokenizer, "chat_template", None):
        return
    try:
        turns = [{"role": "user", "content": "hi"}]
        tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    except Exception as error:  # jinja has its own errors, and a template may raise any text
        why = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"chat template of {folder} must render a user's turn, got {why[:200]!r}; {AGAIN}") from None


def _places(folder: Path) -> list[Path]:
    """Where a folder's links may lead: into itself, and in the Hub's cache to the blobs that snapshots consist of."""
    here = folder.resolve()
    return [here, here.parents[1] / "blobs"] if here.parent.name == "snapshots" else [here]


def _object(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise ValueError(f"model file {path} can't be read: it must hold a JSON object; {AGAIN}")
    return found


def _starts_well(path: Path) -> None:
    """Raises: ValueError unless a file begins as safetensors do, with the length of a JSON object and its brace."""
    with path.open("rb") as file:
        start = file.read(9)
    if not (start[8:] == b"{" and int.from_bytes(start[:8], "little") <= path.stat().st_size - 8):
        kind = "a pickle" if start[:1] == b"\x80" or start[:2] == b"PK" else "something else or one that is cut short"
        raise ValueError(f"model file {path} must be safetensors whatever its name, got {kind}; {AGAIN}")


def _own_weights(file: Path, named: Any) -> None:
    """Raises: ValueError unless every name is that of a safetensors file beside `file`."""
    if not isinstance(named, dict):
        raise ValueError(f"model index {file} must hold a weight_map, got {type(named).__name__}; {AGAIN}")
    for name in dict.fromkeys(map(str, named.values())):
        if Path(name).name != name or "\\" in name or not name.endswith(".safetensors"):
            raise ValueError(f"model index {file} must name *.safetensors files of its folder, got {name!r}; {AGAIN}")


def _entries(data: Any) -> Iterator[tuple[str, Any]]:
    """Every key of nested JSON data with its value; a list of what is left to do, since the nesting may be deep."""
    left = [data]
    while left:
        found = left.pop()
        if isinstance(found, dict):
            yield from found.items()
        left.extend(found.values() if isinstance(found, dict) else found if isinstance(found, list) else ())
