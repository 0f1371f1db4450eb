"""What mutation testing left alive: reads mutmut's results and writes data/runs/mutants.csv, with a reason for each.

    make mutants && python tests/mutants.py          a table of modules is printed, survivors are written

A mutant is one small change of a formula, a bound or a message; it is killed when a test fails with it. Some survivors
change nothing that can be observed; those kinds are known by their form and named below. What fits no kind is "open".
A run that was stopped counts the mutants that were tried, and keeps what the table said of the others.
"""

from __future__ import annotations

import ast
import csv
import difflib
import json
import re
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
COLUMNS = ("module", "function", "before", "after", "reason")
SURVIVED, TIMED_OUT = 0, (36, 24, -24, 152, 255)  # exit codes of the tests under a mutant
KINDS = {  # reason: what the changed line looks like, and the change itself, "old -> new"
    "zip's strict guards against a programmer's error": (r"strict=True", r""),
    "values are float64 already": (r"dtype=|astype", r"dtype|float|None|^ -> $"),
    "equality at a bound of measure zero": (r"[<>]", r"^([<>]=?) -> ([<>]=?)$"),
    "a finer or coarser mesh, tolerance or step of quadrature: the answer agrees to its tested digits":
        (r"graded\(|roughness|width|1e-\d|_EPS|np\.pi \* \(np\.arange|np\.arange\(-|xtol|maxiter|tolerance|panels|block = max|solve_ivp|np\.sin\(np\.linspace|steepest = |round\(12", r""),
    "a bound that rounding alone can reach": (r"clip\(|np\.minimum|np\.maximum", r"^(0|1|2|None|, None|0\.0|1\.0|1\.0 |, 1\.0|) -> "),
    "the side or the order that is the default, or any of them": (r"searchsorted\(|argsort\(", r"left|stable|kind"),
    "the same axis, counted from the other end": (r"flatten\(-2\)|, -2\)$", r"^- -> \+$"),
    "divided by what is 1 to rounding": (r"^return array / array\.sum", r"/ -> \*"),
    "one more place that nobody reads": (r"np\.pad\(", r"0 -> 1"),
    "text that holds the letters too": (r"\"iub\"", r"iub"),
    "the names of einsum's axes": (r"einsum\(", r"-> [A-Z]+"),
    "0 times or 0 divided by a width": (r"0 \* half", r"^\* -> /$"),
    "what is known is computed again": (r"same = |if same else", r"None|and False"),
    "a check of input that is finite": (r"check_finite", r"False|check_finite"),
    "a slice that ends between the same steps": (r":-[12]:2\]", r"^[12] -> [23]$"),
    "the axis that is the default": (r"sort\(|take_along_axis", r"^(1|axis = 1|axis = - 1|, axis = - 1|, 1) -> $"),
    "either side of a knot has the same sum": (r"searchsorted", r"side"),
    "a distance from the other end, held to its panel": (r"^right = u > 0\.5|^distance = |^i = np\.clip", r""),
    "any negative number is the free axis": (r"reshape\(", r"^1 -> 2$|^- 1 -> None$"),
    "not a number, in another way": (r"float\(\"nan\"\)", r""),
    "times a probability of 0": (r"np\.divide\(shown", r""),
    "which of two sums: they agree to rounding": (r"np\.where\((lower|upper) > 0\.5", r""),
    "where a search begins, not where it ends": (r"^for strength in|solve_for_kl\(kl_of|step = |\[-10:\]|in range\([14]00\)|np\.arange\(12\)|1\.5 \*\* np|guess|sample = values|decades|size = float", r""),
    "a constant that cancels": (r"cumulative\(self\.mass \* np\.exp\(tilt - tilt\.max|legval\(-1\.0", r""),
    "one of two values, 1 and -1": (r"sigma [<>] 0|N \* self\.sigma \*", r"0|\* -> /"),
    "a first step that has one choice": (r"^values = \[self\.value|pi\.new_ones\(1, 1\)", r""),
    "a warning that NumPy gives or not": (r"errstate", r""),
    "the words of an error": (r"raise |f\"|told|got|str\(name\)\[:80\]", r""),
    "any number serves where none can be": (r" or \d", r"^\d.* -> \d"),
}  # fmt: skip
STARTS = ("Levels.scan", "Levels._merge", "_guess")  # what they return is made exact, and certified, by others


def bodies(source: str) -> dict[str, list[str]]:
    """Lines of every function of a mutated module, by name."""
    lines = source.splitlines()
    tree = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef)]
    return {node.name: lines[node.lineno - 1 : node.end_lineno] for node in tree}


def change(before: list[str], after: list[str]) -> tuple[str, str]:
    """The lines by which two versions of a function differ, the name in the first line aside.

    >>> change(["def f__1():", "    return 1"], ["def f__2():", "    return 2"])
    ('return 1', 'return 2')
    """
    found = list(difflib.unified_diff(before[1:], after[1:], lineterm="", n=0))[2:]
    sides = [" ".join(line[1:].strip() for line in found if line.startswith(sign)) for sign in "-+"]
    return sides[0], sides[1]


def reason(before: str, after: str, function: str = "") -> str:
    """The kind of a survivor, "open" if it is of none.

    >>> reason("f(a, strict=True)", "f(a, strict=None)"), reason("return a + b", "return a - b")
    ("zip's strict guards against a programmer's error", 'open')
    >>> reason("if a > b:", "if a >= b:"), reason("if a > b:", "if a < b:")
    ('equality at a bound of measure zero', 'open')
    """
    if not after and not before:
        return "a default that every caller in the tests gives"
    old, new = (re.findall(r"[\w.]+|[<>=!]=?|\S", side) for side in (before, after))
    parts = [step for step in difflib.SequenceMatcher(None, old, new, autojunk=False).get_opcodes() if step[0] != "equal"]
    changed = " ".join(" ".join(old[a:b]) + " -> " + " ".join(new[c:d]) for _, a, b, c, d in parts)
    if re.fullmatch(r"([<>])=? -> ([<>])=?", changed) and changed[0] != changed.split(" -> ")[1][0]:
        return "open"  # the other direction is no question of equality
    other = "where a search begins, not where it ends" if function in STARTS else "open"
    return next((kind for kind, (line, form) in KINDS.items() if re.search(line, before) and re.search(form, changed)), other)


def survivors(folder: Path, before: list[dict[str, str]]) -> Iterator[tuple[str, Counter[str], list[dict[str, str]]]]:
    """Module by module: its name, how many mutants fared how, and those that survived, untried ones in a run before."""
    lived = {tuple(row[name] for name in COLUMNS[:-1]) for row in before}
    for meta in sorted((folder / "infalign_edu").rglob("*.py.meta")):
        codes = json.loads(meta.read_text())["exit_code_by_key"]
        if not codes:
            continue
        module = str(meta.relative_to(folder / "infalign_edu")).removesuffix(".py.meta")
        functions, rows, counts = bodies(meta.with_suffix("").read_text()), [], Counter[str]()
        for key, code in codes.items():
            fate = "untried" if code is None else "survived" if code == SURVIVED else "timed out" if code in TIMED_OUT else "killed"
            counts[fate] += 1
            if fate not in ("survived", "untried"):
                continue
            name = key.rsplit(".", 1)[1]
            base = name.rsplit("__mutmut_", 1)[0]
            plain = re.sub(r"^x_?|ǁ", " ", base).strip().replace(" ", ".")
            told = (module, plain, *change(functions.get(f"{base}__mutmut_orig", [""]), functions.get(name, [""])))
            if fate == "survived" or told in lived:
                rows.append(dict(zip(COLUMNS, (*told, reason(*told[2:], plain)), strict=True)))
        yield module, counts, rows


def main(folder: Path = ROOT / "build" / "mutants" / "mutants", out: Path = ROOT / "data" / "runs" / "mutants.csv") -> int:
    """Prints the table of modules and of reasons, writes the survivors."""
    total, rows = Counter[str](), []
    before = list(csv.DictReader(out.read_text(encoding="utf-8").splitlines())) if out.exists() else []
    print(f"{'module':<28}{'tried':>7}{'killed':>8}{'timed out':>11}{'survived':>10}{'untried':>9}")
    for module, counts, left in survivors(folder, before):
        total += counts
        rows += left
        tried = sum(counts.values()) - counts["untried"]
        print(f"{module:<28}{tried:>7}{counts['killed']:>8}{counts['timed out']:>11}{counts['survived']:>10}{counts['untried']:>9}")
    tried = sum(total.values()) - total["untried"]
    print(f"{'together':<28}{tried:>7}{total['killed']:>8}{total['timed out']:>11}{total['survived']:>10}{total['untried']:>9}")
    for kind, count in Counter(row["reason"] for row in rows).most_common():
        print(f"{count:>6}  {kind}")
    with out.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return 0


if __name__ == "__main__":
    sys.exit(main(*map(Path, sys.argv[1:])))
