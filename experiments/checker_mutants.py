"""Breaks the right answers of the exercises on purpose, and counts how many broken ones the checks let pass.

    python experiments/checker_mutants.py            writes data/runs/checker_mutants.csv
    python experiments/checker_mutants.py shortfall  tries one exercise, writes nothing

The answer of each exercise is taken from its master notebook. One small change of its syntax tree makes a mutant: an
operator, a constant, a comparison, an axis, a name. The check of a notebook, on its visible inputs, must reject every
mutant, unless it is equivalent: it agrees with the right answer on 200 other inputs too. What the check lets pass and
is not equivalent survives; there must be none. Left out: mutants with two changes.
"""

from __future__ import annotations

import ast
import copy
import csv
import io
import math
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat
import numpy as np

from infalign_edu.atomic import write_text
from infalign_edu.classroom import masters
from infalign_edu.classroom.checks import verdict
from infalign_edu.classroom.exercise import Exercise, Failure, call, same
from infalign_edu.classroom.exercises import catalogue, find

ROOT = Path(__file__).parents[1]
REPORT = ROOT / "data" / "runs" / "checker_mutants.csv"
FRESH = 200  # inputs on which an equivalent mutant agrees with the right answer
SECONDS = 10  # that one mutant may take for one check: a mutant may loop for ever

OPERATORS: dict[type, tuple[type, ...]] = {
    ast.Add: (ast.Sub,), ast.Sub: (ast.Add,), ast.Mult: (ast.Div, ast.Add), ast.Div: (ast.Mult,),
    ast.Pow: (ast.Mult,), ast.MatMult: (ast.Mult,), ast.FloorDiv: (ast.Div,), ast.Mod: (ast.Mult,),
    ast.Lt: (ast.LtE, ast.Gt), ast.LtE: (ast.Lt, ast.GtE), ast.Gt: (ast.GtE, ast.Lt), ast.GtE: (ast.Gt, ast.LtE),
    ast.Eq: (ast.NotEq,), ast.NotEq: (ast.Eq,), ast.And: (ast.Or,), ast.Or: (ast.And,),
    ast.BitAnd: (ast.BitOr,), ast.BitOr: (ast.BitAnd,),
}  # fmt: skip
NAMES = {
    "exp": ("expm1", "exp2"), "expm1": ("exp",), "log": ("log1p", "log2"), "log1p": ("log",), "cumsum": ("cumprod",),
    **{name: (other,) for pair in (
        ("min", "max"), ("minimum", "maximum"), ("amin", "amax"), ("argmin", "argmax"), ("sum", "mean"), ("var", "std"),
        ("any", "all"), ("floor", "ceil"), ("left", "right"), ("zeros_like", "ones_like"), ("zeros", "ones"),
        ("prod", "sum"), ("sin", "cos"),
    ) for name, other in (pair, pair[::-1])},
    "sum": ("mean", "prod"),
}  # fmt: skip
IDENTITY = {"sort", "sqrt", "abs", "log", "exp", "cumsum", "tanh", "sign", "flip", "square", "diff", "clip", "clamp"}


@dataclass(frozen=True)
class Answer:
    """The source of an answer cell without its check, and the name of the function in it."""

    exercise: Exercise
    function: str
    source: str


def answers(folder: Path = ROOT / masters.MASTERS) -> Iterator[Answer]:
    """The right answers as the master notebooks have them, in the order of the course."""
    for path in sorted(folder.glob("[0-9]*.ipynb")):
        for cell, name, function in masters.answers(nbformat.read(path, as_version=4)):
            yield Answer(find(name), function, cell.source.rsplit("check(", 1)[0])


def function_of(source: str | ast.Module, name: str) -> Callable[..., Any]:
    """The function of that name in a cell's source, which finds `np` and `math`, and `torch` if it speaks of it."""
    names: dict[str, Any] = {"np": np, "math": math}
    if "torch" in (source if isinstance(source, str) else ast.unparse(source)):
        import torch

        names["torch"] = torch
    exec(compile(source, "<answer>", "exec"), names)  # the course's own source, from its own notebooks
    return names[name]


def mutants(source: str) -> list[ast.Module]:
    """Every tree that differs from the source's by one change, each once."""
    tree = ast.parse(source)
    found: dict[str, ast.Module] = {}
    for number, node in enumerate(ast.walk(tree)):
        for changed in _changes(node, _parameters(tree)):
            made = _replaced(tree, number, changed)
            found.setdefault(ast.unparse(made), made)
    found.pop(ast.unparse(tree), None)
    return list(found.values())


def _parameters(tree: ast.Module) -> list[str]:
    return [argument.arg for node in tree.body if isinstance(node, ast.FunctionDef) for argument in node.args.args]


def _replaced(tree: ast.Module, number: int, changed: ast.AST) -> ast.Module:
    """A copy of the tree in which the node of that number in walking order is another one."""
    made = copy.deepcopy(tree)
    old = list(ast.walk(made))[number]

    class Swap(ast.NodeTransformer):
        def visit(self, node: ast.AST) -> Any:
            return copy.deepcopy(changed) if node is old else self.generic_visit(node)

    made.body = [Swap().visit(statement) for statement in made.body]
    return ast.fix_missing_locations(made)


def _with(node: ast.AST, **fields: Any) -> ast.AST:
    made = copy.deepcopy(node)
    for field, value in fields.items():
        setattr(made, field, value)
    return made


def _changes(node: ast.AST, parameters: list[str]) -> Iterator[ast.AST]:
    """What one node can be replaced by."""
    if isinstance(node, (ast.BinOp, ast.AugAssign)):
        yield from (_with(node, op=other()) for other in OPERATORS.get(type(node.op), ()))
    if isinstance(node, ast.BinOp):
        yield from (node.left, node.right)  # a term or a factor is dropped
        if not isinstance(node.op, (ast.Add, ast.Mult, ast.BitAnd, ast.BitOr)):
            yield _with(node, left=node.right, right=node.left)  # also turns a log-ratio round
    elif isinstance(node, ast.AugAssign):
        yield ast.Pass()
    elif isinstance(node, ast.BoolOp):
        yield from [_with(node, op=OPERATORS[type(node.op)][0]()), *node.values]
    elif isinstance(node, ast.UnaryOp):
        yield node.operand
    elif isinstance(node, ast.Compare):
        yield from (_with(node, ops=[other()]) for other in OPERATORS.get(type(node.ops[0]), ()))
    elif isinstance(node, ast.Constant):
        yield from (ast.Constant(value) for value in _constants(node.value))
    elif isinstance(node, ast.IfExp):
        yield from (node.body, node.orelse)
    elif isinstance(node, ast.If):
        yield from (_with(node, test=ast.Constant(value)) for value in (True, False))
    elif isinstance(node, ast.Call):
        yield from _calls(node)
    elif isinstance(node, ast.Attribute):
        yield from (_with(node, attr=other) for other in NAMES.get(node.attr, ()))
    elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
        yield from (_with(node, id=other) for other in NAMES.get(node.id, ()))
        if node.id in parameters:
            yield from (_with(node, id=other) for other in parameters if other != node.id)


def _constants(value: Any) -> tuple[Any, ...]:
    if isinstance(value, bool):
        return (not value,)
    if isinstance(value, (int, float)):
        return (value + 1, value - 1, *((1.0,) if value == 0.5 else ()))
    return NAMES.get(value, ()) if isinstance(value, str) else ()


def _calls(node: ast.Call) -> Iterator[ast.AST]:
    if len(node.args) >= 2:
        yield _with(node, args=[node.args[1], node.args[0], *node.args[2:]])
    yield from (_with(node, keywords=[k for k in node.keywords if k is not left_out]) for left_out in node.keywords)
    called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
    if called in IDENTITY:
        method = isinstance(node.func, ast.Attribute) and not node.args
        yield node.func.value if method and isinstance(node.func, ast.Attribute) else node.args[0]


class _TooLong(BaseException):
    pass


def _limited(work: Callable[[], bool]) -> bool:
    """What `work` returns, or False if it takes too long."""

    def stop(*_: Any) -> None:
        raise _TooLong

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        return work()
    except _TooLong:
        return False
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def passes(answer: Answer, mutant: ast.Module) -> bool:
    """Whether the visible check takes the mutant for right."""
    try:
        function = function_of(mutant, answer.function)
    except Exception:  # it does not even define its function
        return False
    return _limited(lambda: verdict(answer.exercise, function).passed)


def equivalent(answer: Answer, mutant: ast.Module, fresh: int = FRESH) -> bool:
    """Whether a mutant agrees with the right answer on that many inputs that no check has seen."""
    function, exercise, tried, seed = function_of(mutant, answer.function), answer.exercise, 0, 1000
    while tried < fresh:
        for case in exercise.cases(seed)[: fresh - tried]:
            value = call(function, case)
            if isinstance(value, Failure) or not same(value, exercise.answer(*copy.deepcopy(case)), exercise.tolerance):
                return False
            tried += 1
        seed += 1
    return True


def trial(answer: Answer) -> dict[str, Any]:
    """One row of the report, and the sources of the survivors."""
    made = mutants(answer.source)
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        passed = [mutant for mutant in made if passes(answer, mutant)]
        alive = [ast.unparse(mutant) for mutant in passed if not equivalent(answer, mutant)]
    counts = {"mutants": len(made), "killed": len(made) - len(passed), "equivalent": len(passed) - len(alive)}
    exercise = answer.exercise
    return {"exercise": exercise.name, "notebook": exercise.notebook, **counts, "survivors": len(alive), "alive": alive}


def main(names: list[str]) -> int:
    """0 if no mutant survives, 1 otherwise; without names every exercise is tried and the report is written."""
    rows = []
    for answer in answers():
        if names and answer.exercise.name not in names:
            continue
        rows.append(row := trial(answer))
        alive = row.pop("alive")
        print(", ".join(f"{key} {value}" for key, value in row.items() if key != "notebook"), flush=True)
        for source in alive:
            print("  survives:\n    " + source.replace("\n", "\n    "))
    if not names:
        missing = {exercise.name for exercise in catalogue()} - {row["exercise"] for row in rows}
        if missing:
            print(f"checker_mutants: no master has an answer to {', '.join(sorted(missing))}", file=sys.stderr)
            return 2
        text = io.StringIO()
        writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_text(REPORT, text.getvalue())
    return int(any(row["survivors"] for row in rows))


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
