"""The process that runs one learner's answer: `python -I worker.py FD`, the request on its standard input.

It knows the learner's code and the arguments of the calls. It knows no exercise, no right answer and no test: it sends
back what the function returned, one line of JSON a call, and the grader judges elsewhere. So code that replaces the
checker, NumPy or this file's own functions changes only the values that it hands in itself.

Values travel as plain data, see `encode`. This file is also imported by the grader for `encode` and `decode`, and must
not import the course, which a learner's code could then read.
"""

from __future__ import annotations

import base64
import contextlib
import importlib.util
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

DEEPEST, LARGEST = 6, 200_000  # levels of nesting, and numbers in one value
CHANGED = "it changes its input in place; work on a copy, since the caller still needs the original"


def encode(value: Any, depth: int = DEEPEST) -> Any:
    """A value as JSON data: numbers and strings as themselves, all else as a one-letter kind with its content.

    Raises: TypeError for what is neither a real number, a string, an array, a tensor nor a list, tuple or dict of them.

    >>> decode(encode((1.5, {"a": [True, None]}))), encode([2])
    ((1.5, {'a': [True, None]}), {'l': [2]})
    """
    if value is None or isinstance(value, (bool, str)):
        return value if value is None or isinstance(value, bool) else str.__str__(value)
    if isinstance(value, (np.ndarray, np.generic)):
        found = np.asarray(value)
        return {"a" if isinstance(value, np.ndarray) else "g": _array(found)}
    if isinstance(value, int):
        return int.__int__(value)
    if isinstance(value, float):
        return float.__float__(value)
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(value, torch.Tensor):
        return {"t": [*_array(value.detach().cpu().numpy()), bool(value.requires_grad)]}
    if not isinstance(value, (list, tuple, dict)):
        raise TypeError(f"a {type(value).__name__}")
    if depth == 0 or len(value) > LARGEST:
        raise TypeError(f"a {type(value).__name__} with too many entries or levels")
    if isinstance(value, dict):
        return {"d": [[encode(key, 0), encode(entry, depth - 1)] for key, entry in value.items()]}
    return {"l" if isinstance(value, list) else "u": [encode(entry, depth - 1) for entry in value]}


def _array(found: np.ndarray) -> list[Any]:
    if found.dtype.kind not in "biuf":
        raise TypeError(f"values of type {found.dtype}")
    if found.size > LARGEST:
        raise TypeError(f"an array of {found.size} numbers")
    return [found.dtype.str, list(found.shape), base64.b64encode(np.ascontiguousarray(found).tobytes()).decode()]


def decode(data: Any, tensors: bool = True, depth: int = DEEPEST + 1) -> Any:
    """The value that `encode` wrote down; without `tensors` a tensor comes back as an array.

    Raises: ValueError for anything that `encode` does not write: the sender may be hostile.
    """
    if data is None or isinstance(data, (bool, int, float, str)):
        return data
    if depth == 0 or not isinstance(data, dict) or len(data) != 1:
        raise ValueError("not a value")
    ((kind, content),) = data.items()
    if not isinstance(content, list) or len(content) > LARGEST:
        raise ValueError("not a value")
    if kind in ("l", "u"):
        entries = [decode(entry, tensors, depth - 1) for entry in content]
        return entries if kind == "l" else tuple(entries)
    if kind == "d":
        pairs = [(decode(key, tensors, 1), decode(entry, tensors, depth - 1)) for key, entry in content]
        return dict(pairs)
    if kind not in ("a", "g", "t"):
        raise ValueError("not a value")
    dtype, shape, text = content[:3]
    form = np.dtype(str(dtype))
    if form.kind not in "biuf" or not all(type(n) is int and 0 <= n <= LARGEST for n in shape):
        raise ValueError("not an array of real numbers")
    found = np.frombuffer(base64.b64decode(text, validate=True), form).reshape(shape).copy()
    if kind == "t" and tensors:
        import torch

        return torch.from_numpy(found).requires_grad_(content[3])
    return found[()] if kind == "g" else found


def prepare(request: dict[str, Any]) -> dict[str, Any]:
    """The names that the notebook's import cell gives, and a `check` that does nothing."""
    names: dict[str, Any] = {"__name__": "answers", "__builtins__": __builtins__}
    for line in request["imports"]:
        with contextlib.suppress(Exception):  # what the notebook could not import either fails where it is used
            exec(line, names)
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)
    for name in ("check", "hint", "require"):
        names[name] = lambda *_, **__: None
    return names


def describe(error: BaseException) -> str:
    """One line about an error: its type, its message cut."""
    if isinstance(error, MemoryError):
        return "it ran out of memory"
    if isinstance(error, SystemExit):
        return "it ended the program instead of returning a value"
    try:
        says = " ".join(str(error).split())[:200]
    except BaseException:
        says = ""
    return f"it raised {type(error).__name__}: {says}"


def answer_one(function: Callable[..., Any], case: Any) -> dict[str, Any]:
    """What one call came to: a value, or the text of its failure."""
    try:
        arguments = decode(case)
        value = function(*arguments)
        if encode(arguments) != case:
            return {"failed": CHANGED}
        try:
            return {"value": encode(value)}
        except TypeError as error:
            return {"failed": f"it returned {error}; numbers, text, or lists and arrays of them are asked for"}
    except BaseException as error:
        return {"failed": describe(error)}


def answer_all(request: dict[str, Any], names: dict[str, Any], send: Callable[[dict[str, Any]], None]) -> None:
    """Runs the learner's cells, the answer last, then calls the function on every case."""
    trouble = ""
    for source in request["cells"]:
        trouble = ""
        try:
            exec(compile(source, "<answer>", "exec"), names)
        except BaseException as error:
            trouble = describe(error).replace("it raised", "your cell raised", 1)
    function = names.get(request["function"])
    if not callable(function):
        says = f"there is no function named {request['function']} in it; keep the name that the exercise gives"
        send({"broken": trouble or says})
        return
    for i, case in enumerate(request["cases"]):
        send({"case": i, **answer_one(function, case)})


def beside(name: str) -> ModuleType:
    """A module loaded from the file beside this one, without importing the course."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def main() -> None:
    """Reads the request, raises the walls, runs the answer."""
    results, home = int(sys.argv[1]), str(Path.cwd())
    request = json.loads(sys.stdin.read())
    write = os.write

    def send(line: dict[str, Any]) -> None:
        payload = json.dumps(line).encode() + b"\n"
        while payload:
            payload = payload[write(results, payload) :]

    walls = beside("walls")
    checkout = [path for path in sys.path if (Path(path) / "infalign_edu").is_dir() and "site-packages" not in path]
    sys.path[:] = [path for path in sys.path if path not in checkout]
    names = prepare(request)
    if any(json.dumps(case).find('{"t": ') >= 0 for case in request["cases"]):
        import torch

        torch.set_num_threads(1)
    readable = {sys.prefix, sys.base_prefix, *sys.path, "/usr/lib", "/lib", "/lib64", "/usr/share/zoneinfo"}
    walls.limit(request["cpu"], request["memory"])
    standing = walls.kernel(sorted(filter(None, readable)))
    send({"ready": standing})
    told = iter(range(8))

    def tell(event: str) -> None:
        if next(told, None) is not None:
            write(results, b'{"refused": "' + event.encode() + b'"}\n')

    walls.watch(sorted(filter(None, readable)), request["hidden"], home, tell)
    answer_all(request, names, send)
    send({"done": True})


if __name__ == "__main__":
    sys.stdout.reconfigure(errors="replace")  # type: ignore[union-attr]
    main()
    sys.stdout.flush()
    os._exit(0)
