"""Files that are the whole old one or the whole new one, and folders that one process holds at a time.

Writers work in a hidden folder beside their target, `.NAME.PID.part`. It is all that a killed process leaves behind:
nothing reads it, and `held` sweeps it away. Left out: disks shared by machines whose file system knows no locks.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from infalign_edu.inputs import shown

MAX_RATIO = 50  # what `write_arrays` writes is not compressed at all


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yields a path to write to; what is there takes the place of `path` only if the block ends without an error.

    Raises: ValueError where `path` names no file; OSError naming the file where it can't be written; what stood there
    before is kept.

    >>> import tempfile
    >>> target = Path(tempfile.mkdtemp()) / "note.txt"
    >>> with replacing(target) as part:
    ...     _ = part.write_text("whole")
    >>> target.read_text(), len(list(target.parent.iterdir()))
    ('whole', 1)
    """
    target = named(path)
    beside = target.with_name(f".{target.name}.{os.getpid()}.part")  # a folder: some writers have helper files too
    with writing(target):
        try:
            beside.mkdir(parents=True, exist_ok=True)
            part = beside / target.name
            yield part
            with part.open("rb") as handle:
                os.fsync(handle.fileno())
            part.replace(target)
        finally:
            shutil.rmtree(beside, ignore_errors=True)  # on a broken disk the first error is the one to tell


def named(path: Any) -> Path:
    """`path`, which must end in the name of a file; an empty one would be the working folder, and 3 an open file.

    >>> named("")
    Traceback (most recent call last):
    ValueError: path must name a file, got ''
    """
    if not isinstance(path, (str, os.PathLike)) or not Path(path).name:
        raise ValueError(f"path must name a file, got {shown(path)}")
    return Path(path)


@contextmanager
def writing(path: str | os.PathLike[str]) -> Iterator[None]:
    """Makes an OSError of the block say which file could not be written, why, and that nothing is lost.

    >>> with writing("runs/a/report.json"):
    ...     raise OSError(28, "No space left on device")
    Traceback (most recent call last):
    OSError: 'runs/a/report.json' can't be written: No space left on device; what was there is kept, mend this and go on
    """
    try:
        yield
    except OSError as error:
        why = error.strerror or str(error)
        told = OSError(f"{str(path)!r} can't be written: {why}; what was there is kept, mend this and go on")
        told.errno = error.errno
        raise told from error


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Writes a text file whole.

    >>> import tempfile
    >>> target = Path(tempfile.mkdtemp()) / "a.txt"
    >>> write_text(target, "all of it"); target.read_text()
    'all of it'
    """
    with replacing(path) as part:
        part.write_text(text, encoding="utf-8")


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Writes a JSON file whole, keys in the order given; nan and inf are refused.

    >>> import tempfile
    >>> target = Path(tempfile.mkdtemp()) / "a.json"
    >>> write_json(target, {"kl": 0.5}); read_json(target)
    {'kl': 0.5}
    """
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def read_json(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The object in a JSON file. Raises: ValueError naming the file and what it begins with instead.

    >>> import tempfile
    >>> target = Path(tempfile.mkdtemp()) / "a.json"
    >>> write_text(target, "[1, 2]")
    >>> read_json(target)                                                         # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ValueError: '...a.json' must hold a JSON object, got b'[1, 2]'
    """
    raw = Path(path).read_bytes()
    with suppress(ValueError):
        if isinstance(found := json.loads(raw), dict):
            return found
    start = raw.strip()[:40]
    raise ValueError(f"{str(path)!r} must hold a JSON object, got {start if start else 'an empty file'!r}")


def write_arrays(path: str | os.PathLike[str], **arrays: Any) -> None:
    """Writes arrays as one .npz file, whole; each carries the checksum that `read_arrays` holds it against."""
    with replacing(path) as part, part.open("wb") as handle:
        np.savez(handle, **arrays)


def read_arrays(path: str | os.PathLike[str]) -> dict[str, NDArray[Any]]:
    """The arrays of an .npz file. Raises: FileNotFoundError; ValueError naming the file when it is damaged.

    It is damaged, too, when it holds pickled objects, or would unpack to more than `MAX_RATIO` times its size.

    >>> import tempfile
    >>> target = Path(tempfile.mkdtemp()) / "a.npz"
    >>> write_arrays(target, x=[1, 2]); read_arrays(target)["x"].tolist()
    [1, 2]
    """
    path = named(path)
    try:
        with zipfile.ZipFile(path) as packed:  # numpy would tell how to open a pickle all the same
            if sum(part.file_size for part in packed.infolist()) > MAX_RATIO * max(path.stat().st_size, 1 << 20):
                raise ValueError(f"it would unpack to more than {MAX_RATIO} times its size")
        with np.load(path, allow_pickle=False) as saved:
            return dict(saved)
    except FileNotFoundError:
        raise
    except Exception as error:  # zip, zlib, array and header errors alike
        told = " ".join(str(error).split()) or type(error).__name__
        told = "it holds objects, not numbers, and objects may run code" if "allow_pickle" in told else told
        raise ValueError(f"{str(path)!r} can't be read: {told}") from error


@contextmanager
def held(folder: str | os.PathLike[str], name: str, *, file: str = "", wait: bool = False) -> Iterator[None]:
    """Holds a folder, or one file in it, for this process, and sweeps away what a killed one left half-written.

    The lock is the kernel's and ends with the process, however that ends; a note beside it tells others who has it.
    Raises: ValueError when the folder can't be written, or another process has it and this one is not to `wait`.

    >>> import tempfile
    >>> place = tempfile.mkdtemp()
    >>> with held(place, "out"), held(place, "out"):                              # doctest: +ELLIPSIS
    ...     pass
    Traceback (most recent call last):
    ValueError: out '...' is in use by another process (... on ... since ...): wait for it or choose another
    """
    import filelock

    path, stem = Path(folder), f".{file}.lock" if file else ".lock"
    note = path / f"{stem}.holder"
    try:
        path.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(path / stem)
        lock.acquire(timeout=0)
    except filelock.Timeout:
        told = f"{name} {str(path / file)!r} is in use by another process{_holder(note)}"
        if not wait:
            raise ValueError(f"{told}: wait for it or choose another") from None
        print(f"{told}: waiting for it", file=sys.stderr, flush=True)
        lock.acquire()
    except OSError as error:
        why = error.strerror or error
        raise ValueError(f"{name} {str(path / file)!r} can't be written: {why}; mend this or choose another") from None
    try:
        clear(path, file)
        with suppress(OSError):
            now = datetime.now().isoformat(sep=" ", timespec="seconds")
            note.write_text(f" ({os.getpid()} on {platform.node()} since {now})", encoding="utf-8")
        yield
    finally:
        with suppress(OSError):
            note.unlink(missing_ok=True)
        lock.release()


def _holder(note: Path) -> str:
    try:
        return note.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def clear(folder: Path, file: str = "", floors: int = 2) -> None:
    """Removes the parts of writers that were killed: of one file, or of a folder and those below that nobody holds.

    >>> import tempfile
    >>> place = Path(tempfile.mkdtemp())
    >>> (place / ".a.txt.123.part").mkdir(); (place / ".b.txt.123.part").mkdir()
    >>> clear(place, "a.txt"); [left.name for left in place.iterdir()]
    ['.b.txt.123.part']
    """
    for left in folder.glob(".*.part"):
        name, _, pid = left.name[1:].removesuffix(".part").rpartition(".")
        if pid.isdigit() and name and file in ("", name):
            shutil.rmtree(left, ignore_errors=True) if left.is_dir() else left.unlink(missing_ok=True)
    for below in folder.iterdir() if floors and not file else ():
        if below.is_dir() and not below.is_symlink() and not (below / ".lock").exists():
            with suppress(OSError):
                clear(below, floors=floors - 1)
