"""What mutation testing left alive: reads mutmut's results and writes data/runs/mutants.csv, with a reason for each.

    make mutants && python tests/mutants.py          a table of modules is printed, survivors are written

A mutant is one small change of a formula, a bound or a message; it is killed when a test fails with it. Some survivors
change nothing that can be observed: `KINDS` are known by their form, `LOOKED_AT` names others one by one. The rest is "open".
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
NUMBER = r"\d[\w.]*(?: - \d+)?"  # 1e-9 is split into 1e, - and 9
KINDS = {  # reason: what the changed line looks like, and the whole change, "old -> new"
    "zip's strict guards against a programmer's error": (r"strict=True", r"strict = True ->|True -> (False|None)"),
    "values are float64 already": (r"dtype=|astype", r",? ?(dtype = )?(np\.)?(float|float64|int64),? -> ?(None)?"),
    "equality at a bound on which nobody stands": (r"[<>]", r"([<>]=?) -> ([<>]=?)"),
    "another number for a mesh, a tolerance or a cap: the answer agrees to its tested digits":
        (r"graded\(|roughness|width|1e-?\d|_EPS|_TOLERANCE|arange|linspace|geomspace|range\(|xtol|tolerance|panels|block = max|pdf\(np|clip\(0\.9|round\(12|maximum\(3",
         rf"{NUMBER} -> {NUMBER}|x?r?tol = .* -> ,?|rcond = .* -> ,?|tolerance ->|tolerance = .* ->|rtol = .* ->"),
    "a bound that rounding alone can reach": (r"clip\(|np\.minimum|np\.maximum|max\(|initial=", r"(0|1|2|0\.0|1\.0) -> ?(None|1|2|2\.0|)|, None ->|1 ->|p\.near\.size - 1 -> None|p\.(near|far) \[ i \] -> None"),
    "the side or the order that is the default, or any of them": (r"searchsorted\(|argsort\(", r".*(left|right|stable|kind|side).*"),
    "the same axis, counted from the other end": (r"flatten\(-2\)|, -2\)$", r"- -> \+"),
    "the names of einsum's axes": (r"einsum\(", r".* -> [A-Z]+"),
    "a check of input that is finite": (r"check_finite", r".*(False|check_finite).*"),
    "the axis that is the default": (r"sort\(|take_along_axis", r"(1|axis = 1|axis = - 1|, axis = - 1|, 1|1 ,) ->"),
    "any negative number is the free axis": (r"reshape\(", r"1 -> 2|- 1 -> None"),
    "a warning that NumPy gives or not": (r"errstate", r".*(ignore).*"),
    "the words of an error": (r"raise |f\"|told|got|str\(name\)\[:80\]", r".*"),
}  # fmt: skip
LOOKED_AT = {  # reason: the survivors, one by one: (function, a piece of the line, the whole change)
    "where a search begins, not where it ends: what it finds is certified": [
        ("beta_for_kl", "size = |guess = |sample = ", ".*"), ("solve_for_kl", "low = high = |for step in", ".*"),
        ("optimal_beta_for_kl", "solve_for_kl", ".*"), ("SequenceProblem.optimum", "for strength in", ".*"),
        ("power_curve", "decades = |_cached", ".*"), ("PowerCurve.__init__", "span = ", r"\+ -> -"),
    ],
    "the pace of a search, not its end": [
        ("_climb", r"at\(start\), 0.5", "0.5 -> 1.5"), ("_climb", "step / 2", "2 -> 3"), ("_climb", r"\[-10:\]", "10 -> 11"),
        ("_climb", "value - 1e-13", r"- -> \+"), ("_climb", "rcond", ".*"), ("Levels.polish", r"0\.5 \*\* np", r"\* ->"),
    ],
    "turned round by the next step": [("solve_for_kl", "if low_gap < 0:", "0 -> 1")],
    "a bracket of no width: the root finder returns the same": [("solve_for_kl", "root = low if", ".*")],
    "what decides where a panel is split: more panels, the same integral": [
        ("_moments", "roughness|worst \\* panels", ".*"), ("_certify", "policy.resolved", ".*"),
        ("polish", "pull", ".*"), ("Tilted._rough", "noise|smooth = |finite = |span = |felt = ", ".*"),
        ("Tilted.win_rate", "self.resolved", r"\* -> /"),
    ],
    "an integrator of another order, held to the same 3e-14": [("PowerCurve.__init__", "DOP853", ".*")],
    "one of two values, 1 and -1": [("PowerCurve._rates", "sigma < 0", ".*"), ("PowerCurve.win_rate_and_kl", "sigma \\*", r"\* -> /")],
    "no policy has a higher objective than the optimum": [("SequenceProblem.optimum", "isfinite", ".* or True")],
    "times a probability of 0": [("FiniteProblem.decode", "np.divide", ".*")],
    "a first step that has one choice": [("SequenceSpace.tree_search", "range\\(1|new_ones", ".*")],
    "any number serves where none can be": [("", " or 1\\.0", r"1\.0 -> 2\.0"), ("count", "least - 1", ".*"), ("real", "math.nan", ".*")],
    "text that holds the letters too": [("EmpiricalCalibrator.take", '"iu"', ".*XX.*"), ("choice", '"iu"', ".*XX.*")],
    "the mass below the first panel is 1e-18 at most where a transform rises": [("_certify", "policy.end_mass", r"0\.0 -> 1\.0")],
    "what is known is computed again": [("win_rate", "same", ".*"), ("shoot", r"range\(1, 7\)", r"1 , ->")],
    "one more place that nobody reads": [("judged_win_rate", "np.pad", ".*")],
    "the other of two solvers, with the same answer": [("rank_probabilities_from_pdf", "probabilities.min", r"- -> \+")],
    "a scale that SciPy 1.13 alone needs: make test-oldest": [("rank_probabilities_from_pdf", r"norm\(basis", ".*")],
    "a check that the package's own pass": [("transform", "startswith", ".*")],
    "one place fewer of 999": [("check_law", "inner = ", "1 -> 2")],
    "not a number, in another way": [("PromptMean.interval", "nan", ".*")],
    "the side of a distance that is turned round by its panel": [
        ("Tilted._part", "distance = np.clip", r"p\.far \[ i \] -> None"), ("Tilted._part", "searchsorted", 'side = " right " ->'),
        ("OptimalTransform.__call__", "searchsorted", 'side = " right " ->'),
    ],
    "0 times or 0 divided by a width": [("_newton_step", "0 \\* half", ".*")],
    "a slice that ends between the same steps": [("_edges", r":-[12]:2\]", ".*")],
    "the product holds a 0 already": [("unbiased_power", r"np\.clip\(k", ".*")],
    "points that are the same in another order, or nearly": [("rank_probabilities_from_pdf", "t = 0.5 - 0.5", ".*")],
    "a wider, finer or coarser grid than the tested problems need": [
        ("Levels.scan", r"np\.linspace\(0, 1, 33\)", "33 -> ?(34)?"), ("Levels.concave_from", "linspace", ".*"),
        ("Levels._starts", "widest = |max\\(3000|near = ", r"1 -> 2|1\.01 -> 2\.01|3000 -> 3001|4 -> 5"), ("_intervals", "dip &= ", "& ->"),
        ("all_starts", "> 200", "200 -> 201"),
        ("all_starts", r"most = |grid = |np\.linspace\(a, b, 18\)\[1:-1\]", r"[\d.]+ -> [\d.]+|18 ->|[+-] -> [+-]"),
        ("_guess", r"np\.linspace\(0, 1, 9\)|clock = |marks = |rest = ", ".*"), ("_guess", "fallen = ", r"- -> \+|1 -> 2"),
    ],
    "a sign that is so already, a bracket that is wider by a step": [
        ("Levels.scan", r"high_side\[0\]|low\[at \+ 1\]", r"0 -> 1|1 -> 2"),
    ],
    "a constant that cancels": [("Levels.polish", r"tilt\.max", ".*"), ("Tilted.__init__", "best = max", "0.0 -> 1.0")],
    "a tail that is a power law from further out": [("Tilted.__init__", "depth = ", r"60 -> 61|2\.0 -> 3\.0|.*and False")],
    "the residual seen from the other side, as large": [("Levels.polish", "residual = ", r"\+ -> -")],
    "a number that is no place in (0, 1)": [("Panels.graded", r"np\.empty\(0\)", ".*")],
    "the last axis of two, counted from the other end": [("roughness", "axis", r"- -> \+")],
    "of a tail without mass, or with e^-700 of it": [("_tail", r"_Tail\(least, 0|here == -np\.inf", ".*")],
    "what is not used any more": [("shoot", r"np\.where\(over, h", "over -> None")],
    "nothing but the sign of a 0": [("shoot", "-1e-300", r"- -> \+"), ("OptimalTransform.__call__", "never below 0", r"\+ -> -")],
    "a slice with the same two places": [("_intervals", "i : i \\+ 3 : 2", "3 -> 4")],
    "a finer round finds the others again": [("stationary_policies", r"found \+= ", ".*"), ("stationary_policies", "lanes", "lanes ->")],
    "a guess that is polished": [
        ("_guess", r"edge = edge|upper = edge", ".*"), ("polish", r"both\[", "0 -> 1"), ("_newton", "moves = ", ".*"),
        ("_newton", "<= 100", "100 -> 101"), ("shoot", r"clip\(0\.9", r"0\.2 -> None|5\.0 -> None"),
    ],
    "a bound of proof on fewer points": [("unique", "8193", ".*")],
    "a tolerance or a cap": [
        ("_tail", "else 1.0", r"1\.0 -> 2\.0"), ("resolve", "40_000", rf"{NUMBER} -> {NUMBER}"), ("Tilted.resolved", "40_000|64", rf"{NUMBER} -> {NUMBER}|[<>]=? -> [<>]=?|or -> and|\+ -> -|\* -> /"),
        ("optimal_beta_for_kl", "1e-6", r"\* -> /"), ("rank_probabilities_from_pdf", "maxiter", "100 -> 101"),
    ],
    "a step more of a loop that ends before": [("", r"for \w+ in range\(\d+\)", rf"{NUMBER} -> {NUMBER}")],
}  # fmt: skip


def bodies(source: str) -> dict[str, list[str]]:
    """Lines of every function of a mutated module, by name."""
    lines = source.splitlines()
    tree = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef)]
    return {node.name: lines[node.lineno - 1 : node.end_lineno] for node in tree}


def change(before: list[str], after: list[str]) -> tuple[str, str]:
    """The lines by which two versions of a function differ, its name aside.

    >>> change(["def f__1():", "    return 1"], ["def f__2():", "    return 2"])
    ('return 1', 'return 2')
    >>> change(["def f__1(a=1):", "    return a"], ["def f__2(a=2):", "    return a"])
    ('def (a=1):', 'def (a=2):')
    """
    before, after = ([re.sub(r"def \w+", "def ", side[0]), *side[1:]] if side else [] for side in (before, after))
    found = list(difflib.unified_diff(before, after, lineterm="", n=0))[2:]
    sides = [" ".join(line[1:].strip() for line in found if line.startswith(sign)) for sign in "-+"]
    return sides[0], sides[1]


def reason(before: str, after: str, function: str = "") -> str:
    """The kind of a survivor, "open" if it is of none.

    >>> reason("f(a, strict=True)", "f(a, strict=None)"), reason("return a + b", "return a - b")
    ("zip's strict guards against a programmer's error", 'open')
    >>> reason("if a > b:", "if a >= b:"), reason("if a > b:", "if a < b:")
    ('equality at a bound on which nobody stands', 'open')
    """
    old, new = (re.findall(r"[\w.]+|[<>=!]=?|\S", side) for side in (before, after))
    parts = [step for step in difflib.SequenceMatcher(None, old, new, autojunk=False).get_opcodes() if step[0] != "equal"]
    changed = " ".join(" ".join(old[a:b]) + " -> " + " ".join(new[c:d]) for _, a, b, c, d in parts).strip()
    if re.fullmatch(r"([<>])=? -> ([<>])=?", changed) and changed[0] != changed.split(" -> ")[1][0]:
        return "open"  # the other direction is no question of equality
    for kind, cases in LOOKED_AT.items():
        if any(name in ("", function) and re.search(line, before) and re.fullmatch(form, changed) for name, line, form in cases):
            return kind
    return next((kind for kind, (line, form) in KINDS.items() if re.search(line, before) and re.fullmatch(form, changed)), "open")


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
    if not tried:
        sys.exit(f"mutants must have been tried by mutmut in {folder}, got none; {out} is as it was")
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
