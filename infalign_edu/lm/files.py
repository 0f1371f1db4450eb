"""Files and folders that appear whole or not at all: written beside their place, then moved there, quietly.

Tensors carry a digest of all that was written: safetensors has none, and one changed byte would be another model.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from infalign_edu.atomic import replacing as whole_file

__all__ = ["load_tensors", "no_progress_bars", "one_line", "save_tensors", "whole_file", "whole_folder"]


def save_tensors(path: str | Path, tensors: Mapping[str, torch.Tensor], about: Mapping[str, str]) -> None:
    """Writes tensors and texts about them as one safetensors file, whole or not at all.

    Raises: OSError naming the file where it can't be written; what stood there before is kept.
    """
    whole = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    with whole_file(path) as beside:
        try:
            save_file(whole, beside, {**about, "digest": _digest(whole, about)})
        except SafetensorError as error:  # a full disk is told as text
            number = re.search(r"os error (\d+)", str(error))
            raise OSError(int(number[1]), os.strerror(int(number[1]))) if number else OSError(str(error)) from None
        beside.chmod(0o644)  # safetensors writes files that only their owner can read


def load_tensors(path: str | Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """What `save_tensors` wrote; files of an earlier version have no digest and are taken as they are.

    Raises: FileNotFoundError; ValueError saying what is wrong with a damaged file.
    """
    try:
        with safe_open(path, "pt") as file:
            about = dict(file.metadata() or {})
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except FileNotFoundError:
        raise
    except (SafetensorError, OSError, ValueError, TypeError, RuntimeError) as error:
        raise ValueError(" ".join(str(error).split())) from error
    if (wanted := about.pop("digest", None)) is not None and wanted != _digest(tensors, about):
        raise ValueError("its content is not what was written: some bytes have changed")
    return tensors, about


def _digest(tensors: Mapping[str, torch.Tensor], about: Mapping[str, str]) -> str:
    key = hashlib.sha256(repr(sorted(about.items())).encode())
    for name in sorted(tensors):
        value = tensors[name]
        key.update(repr((name, str(value.dtype), tuple(value.shape))).encode())
        key.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return key.hexdigest()


@contextmanager
def whole_folder(path: str | Path) -> Iterator[Path]:
    """A folder beside `path` to fill, moved to `path` at the end in the place of what was there."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
        beside, old = Path(folder) / "new", Path(folder) / "old"
        beside.mkdir()
        yield beside
        for file in beside.rglob("*"):
            file.chmod(0o755 if file.is_dir() else 0o644)  # temporary files are private; finished ones are not
        if path.exists():
            path.rename(old)
        beside.rename(path)
        shutil.rmtree(old, ignore_errors=True)


@contextmanager
def one_line(told: str) -> Iterator[None]:
    """Makes whatever a library raises in the block one line that begins with `told`; a panic of Rust is no Exception.

    >>> with one_line("model can't be read"):
    ...     raise OSError("no such key:\\n  at line 3")
    Traceback (most recent call last):
    ValueError: model can't be read: no such key: at line 3
    """
    try:
        yield
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:
        why = f"unknown {error}" if isinstance(error, KeyError) else str(error)
        raise ValueError(f"{told}: {' '.join(why.split())[:400] or type(error).__name__}") from error


@contextmanager
def no_progress_bars() -> Iterator[None]:
    """Keep transformers' own progress bars out of a notebook's output while it reads or writes weights."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
