"""Lines of a file that somebody else made: each is good, or has a reason why not.

Wrong encodings, NUL bytes, endless lines, damaged gzip streams and broken JSON all end in one clear sentence.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

MAX_LINE = 1_000_000  # bytes; a longer line is no prompt that a model can read
MAX_RATIO = 50  # text shrinks to a tenth or so; what grows more than this was made to fill somebody's memory

REMEDY = {
    "not UTF-8 text": ", save the file as UTF-8",
    "holds a NUL byte": ", as UTF-16 text does: save the file as UTF-8",
    f"longer than {MAX_LINE:,} bytes": ": is it one JSON object a line?",
    "not valid JSON": ": one JSON object a line is read",
}
T = TypeVar("T")


def read(path: Path, parse: Callable[[str], T], skip: bool) -> tuple[list[T], dict[str, int]]:
    """Every line through `parse`; a ValueError gets file and line, or is counted by its reason if `skip`.

    Returns the rows and {reason: lines skipped}. Blank lines are no error. Raises: ValueError, one line; also for a
    compressed file that grows to more than `MAX_RATIO` times its size (or a megabyte's).
    """
    rows: list[T] = []
    skipped: Counter[str] = Counter()
    with path.open("rb") as raw:
        file = _Inflated(path, raw) if path.suffix.lower() == ".gz" else raw
        for number, (line, reason) in enumerate(_lines(file), start=1):
            try:
                if reason:
                    raise ValueError(reason)
                text = line.decode("utf-8-sig" if number == 1 else "utf-8")
                if text.strip():
                    rows.append(parse(text))
            except ValueError as error:
                reason = "not UTF-8 text" if isinstance(error, UnicodeDecodeError) else str(error)
                if not skip:
                    raise ValueError(f"{path}, line {number}: {reason}{REMEDY.get(reason, '')}") from None
                skipped[reason] += 1
    if not rows:
        raise ValueError(f"{path} must hold at least one good line, got none ({dict(skipped) or 'empty'})")
    return rows, dict(skipped)


class _Inflated(gzip.GzipFile):
    """A gzip file that ends with an error where it has grown too much: ten megabytes may hold ten gigabytes."""

    def __init__(self, path: Path, raw: BinaryIO) -> None:
        super().__init__(fileobj=raw, mode="rb")
        self.path, self.most = path, MAX_RATIO * max(path.stat().st_size, MAX_LINE)

    def readline(self, size: int | None = -1) -> bytes:
        line = super().readline(-1 if size is None else size)
        if self.tell() > self.most:
            told = f"must inflate to at most {self.most:,} bytes, {MAX_RATIO} times its size, got more"
            raise ValueError(f"{self.path} {told}; unpack it first if you trust it")
        return line


def _lines(file: BinaryIO | gzip.GzipFile) -> Iterator[tuple[bytes, str]]:
    """Raw lines, each with "" or the reason why it can't be used."""
    while True:
        try:
            line = file.readline(MAX_LINE + 1)
            if len(line) > MAX_LINE and not line.endswith(b"\n"):
                while (rest := file.readline(MAX_LINE)) and not rest.endswith(b"\n"):
                    pass
                yield b"", f"longer than {MAX_LINE:,} bytes"
                continue
        except (EOFError, OSError, zlib.error) as error:
            yield b"", f"the compressed file is cut short or damaged ({type(error).__name__})"
            return
        if not line:
            return
        yield line, "holds a NUL byte" if b"\0" in line else ""


def json_object(line: str) -> dict[str, Any]:
    """The JSON object on a line.

    >>> json_object('{"prompt": "hi"}')
    {'prompt': 'hi'}
    """
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):  # nested a thousand deep
        raise ValueError("not valid JSON") from None
    if not isinstance(record, dict):
        raise ValueError(f"must be a JSON object, got {type(record).__name__}")
    return record


def text(value: Any, key: str, *, empty: bool = False) -> str:
    """The value, if it is text that a tokenizer can read.

    >>> text("hi", "prompt")
    'hi'
    """
    if not isinstance(value, str):
        raise ValueError(f"{key} must be a string, got {'nothing' if value is None else type(value).__name__}")
    if not value.strip() and not empty:
        raise ValueError(f"{key} is empty")
    if "\0" in value or any("\ud800" <= c <= "\udfff" for c in value):
        raise ValueError(f"{key} holds a NUL or an unpaired surrogate")
    return value
