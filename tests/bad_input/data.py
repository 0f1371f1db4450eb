"""Files of prompts and preferences that somebody else made."""

from __future__ import annotations

import functools
import gzip
import json
import tempfile
from pathlib import Path

from infalign_edu.lm import datasets

from . import Case, nan, right, wrong

GOOD = b'{"prompt": "hi"}\n'
FILES = {  # content, and what the line says, or the prompts that it holds
    "broken.jsonl": (GOOD + b'{"prompt": \n', ("line 2", "not valid JSON")),
    "missing.jsonl": (GOOD + b'{"x": 1}\n', ("line 2", "prompt must be a string, got nothing")),
    "number.jsonl": (b'{"prompt": 5}\n', ("line 1", "prompt must be a string, got int")),
    "null.jsonl": (b"null\n", ("must be a JSON object, got NoneType",)),
    "list.json": (b'[{"prompt": "a"}]', ("must be a JSON object, got list",)),
    "nan.jsonl": (b"NaN\n", ("must be a JSON object, got float",)),
    "pretty.json": (b'{\n "prompt": "a"\n}\n', ("line 1", "one JSON object a line")),
    "quotes.jsonl": (b"{'prompt': 'a'}\n", ("not valid JSON",)),
    "comma.jsonl": (b'{"prompt": "a",}\n', ("not valid JSON",)),
    "two on a line.jsonl": (GOOD.strip() + GOOD, ("not valid JSON",)),
    "deep.jsonl": (b"[" * 100_000, ("not valid JSON",)),
    "digits.jsonl": (b'{"prompt": "a", "n": ' + b"9" * 10_000 + b"}\n", ("not valid JSON",)),
    "utf-16.jsonl": (GOOD.decode().encode("utf-16"), ("line 1", "UTF-16", "save the file as UTF-8")),
    "utf-16-le.jsonl": (GOOD.decode().encode("utf-16-le"), ("UTF-16",)),
    "utf-32.jsonl": (GOOD.decode().encode("utf-32"), ("NUL byte",)),
    "latin-1.jsonl": ('{"prompt": "caf\xe9"}\n'.encode("latin-1"), ("not UTF-8 text, save the file as UTF-8",)),
    "nul.jsonl": (b'{"prompt": "a\0b"}\n', ("NUL byte",)),
    "escaped nul.jsonl": (b'{"prompt": "a\\u0000b"}\n', ("prompt holds a NUL",)),
    "surrogate.jsonl": (b'{"prompt": "\\ud800"}\n', ("unpaired surrogate",)),
    "no text.jsonl": (b'{"prompt": ""}\n', ("prompt is empty",)),
    "blanks.jsonl": (b'{"prompt": " \\n "}\n', ("prompt is empty",)),
    "no gzip.jsonl.gz": (GOOD, ("compressed file is cut short or damaged",)),
    "short.jsonl.gz": (gzip.compress(GOOD * 1000)[:-20], ("cut short or damaged (EOFError)",)),
    "sum.jsonl.gz": (gzip.compress(GOOD)[:-6] + b"xxxxxx", ("line 2", "damaged")),
    "trailing.jsonl.gz": (gzip.compress(GOOD) + b"garbage", ("damaged",)),
    "empty.jsonl.gz": (b"", ("at least one good line", "empty")),
    "empty.jsonl": (b"", ("at least one good line", "empty")),
    "white.txt": (b"\n \n\t\n", ("at least one good line", "empty")),
    "10 MB line.jsonl": (GOOD + b'{"prompt": "' + b"a" * 10_000_000 + b'"}\n', ("line 2", "longer than 1,000,000 bytes")),
    "10 MB no end.jsonl": (b"a" * 10_000_000, ("line 1", "longer than 1,000,000 bytes")),
    "table.csv": (b"a,b\n", ("data must be a .jsonl or .txt file", "table.csv")),
    "nosuffix": (b"a", ("data must be a .jsonl or .txt file", "nosuffix")),
    "pair.jsonl": (b'{"chosen": "x", "rejected": "y"}\n', ("chosen must be a transcript",)),
    "blank lines.jsonl": (b"\n\n" + GOOD + b"\n   \n", ["hi"]),
    "bom.jsonl": (b"\xef\xbb\xbf" + GOOD, ["hi"]),
    "crlf.jsonl": (GOOD.replace(b"\n", b"\r\n") * 2, ["hi", "hi"]),
    "no last newline.jsonl": (GOOD.strip(), ["hi"]),
    "two parts.jsonl.gz": (gzip.compress(GOOD) + gzip.compress(GOOD), ["hi", "hi"]),
    "LOUD.JSONL": (GOOD, ["hi"]),
    "LOUD.TXT.GZ": (gzip.compress(b"a\n\nb"), ["a", "b"]),
    "infinity.jsonl": (b'{"prompt": "a", "x": Infinity}\n', ["a"]),
    "twice the key.jsonl": (b'{"prompt": "a", "prompt": "b"}\n', ["b"]),
    "emoji.jsonl": ('{"prompt": "\U0001f600 \u4e2d"}\n'.encode(), ["\U0001f600 \u4e2d"]),
}
PAIRS = {
    "no rejected": ({"prompt": "a", "chosen": "b"}, "rejected must be a string, got nothing"),
    "equal": ({"prompt": "a", "chosen": "b", "rejected": "b"}, "chosen and rejected are the same"),
    "a number": ({"prompt": "a", "chosen": 1, "rejected": "b"}, "chosen must be a string, got int"),
    "no transcript": ({"chosen": "a", "rejected": "b"}, "chosen must be a transcript"),
    "no prompt": ({"prompt": "", "chosen": "a", "rejected": "b"}, "prompt is empty"),
    "a list": ({"prompt": ["a"], "chosen": "", "rejected": "b"}, "prompt must be a string, got list"),
    "null": ({"prompt": None, "chosen": "a", "rejected": "b"}, "prompt must be a string, got nothing"),
    "two dialogues": ({"chosen": "\n\nHuman: x\n\nAssistant: y", "rejected": "\n\nHuman: z\n\nAssistant: y"}, "two dialogues"),
}  # fmt: skip


@functools.cache
def corpus() -> Path:
    """The hand-made files, written once, and a folder with a file's name."""
    folder = Path(tempfile.mkdtemp(prefix="corpus-"))
    for name, (content, _) in FILES.items():
        (folder / name).write_bytes(content)
    for number, (record, _) in enumerate(PAIRS.values()):
        (folder / f"pair{number}.jsonl").write_text(json.dumps(record) + "\n")
    (folder / "folder.jsonl").mkdir()
    return folder


def files() -> list[Case]:
    """Every file as it is, and with its bad lines skipped where a good one is left."""
    cases = []
    for name, (content, expected) in FILES.items():
        def load(name: str = name, **options: bool) -> list[str]:
            return datasets.load_prompts(corpus() / name, **options).prompts

        cases += [right(name, load, expected)] if isinstance(expected, list) else [wrong(name, load, name, *expected)]
        if isinstance(expected, tuple) and content.startswith(GOOD) and not name.endswith(".gz"):
            cases.append(right(f"{name}, skipping", functools.partial(load, skip_bad_lines=True), ["hi"]))
    return cases


def specs() -> list[Case]:
    """Names that are no file, and the parts that a data set is split into."""
    D = datasets
    specs = {"no.jsonl": "no.jsonl", "": "got ", None: "None", 5: "got 5", "hub:": "hub:", "hub:a/b": "hub:a/b", "a\0b.jsonl": "data",
             "hub:a/b/c.csv": "c.csv", "hub:a/b/../../x.jsonl": "../../x.jsonl", "~nobody-here/x.jsonl": "~nobody-here",
             "embeded": "did you mean 'embedded'"}  # fmt: skip
    parts = {(): "()", (-0.5, 0.5): "-0.5", (0.9, 0.9): "0.9", (nan,): "nan", (9e307, 9e307): "9e+307", ("a",): "'a'"}
    return [
        *[wrong(f"{load.__name__} {spec!r}", lambda load=load, s=spec: load(s), says)
          for load in (D.load_prompts, D.load_preferences) for spec, says in specs.items()],
        wrong("a folder of prompts", lambda: D.load_prompts(corpus()), "a file that exists", "corpus-"),
        wrong("a folder with a file's name", lambda: D.load_prompts(corpus() / "folder.jsonl"), "folder.jsonl"),
        wrong("preferences as text", lambda: D.load_preferences(corpus() / "white.txt"), ".jsonl", "white.txt"),
        *[wrong(f"pair: {name}", lambda n=n: D.load_preferences(corpus() / f"pair{n}.jsonl"), f"pair{n}.jsonl, line 1", says)
          for n, (name, (_, says)) in enumerate(PAIRS.items())],
        *[wrong(f"parts {part}", lambda p=part: D.split(["a", "b"], p, 0), "fractions", says) for part, says in parts.items()],
        wrong("more parts than prompts", lambda: D.split(["a"], [0.5, 0.5], 0), "fractions", "1 prompts"),
        wrong("parts of numbers", lambda: D.split([1, 2], [0.5, 0.5], 0), "items", "got 1"),
        *[wrong(f"split by seed {seed!r}", lambda s=seed: D.split(["a", "b"], [0.5, 0.5], s), "seed", repr(seed))
          for seed in (-1, 1.5, None, "x", True)],
        right("split by a huge seed", lambda: sorted(sum(D.split(["a", "b"], [0.5, 0.5], 2**64 - 1), [])), ["a", "b"]),
        wrong("turns of a number", lambda: D.turns(5), "prompt", "got 5"),
        right("turns of nothing", lambda: D.turns("")[0], {"role": "user", "content": ""}),
        right("turns of a name alone", lambda: D.turns("\n\nHuman:")[0], {"role": "user", "content": ""}),
    ]  # fmt: skip


def cases() -> list[Case]:
    return [*files(), *specs()]
