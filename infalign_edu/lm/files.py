"""Files and folders that appear whole or not at all: written beside their place, then moved there, quietly."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from infalign_edu.atomic import replacing as whole_file

__all__ = ["no_progress_bars", "whole_file", "whole_folder"]


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
