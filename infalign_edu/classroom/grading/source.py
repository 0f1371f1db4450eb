"""What a cell's text says about itself without being run: the names it defines and uses, its imports, its shape.

Parsing is all that happens here. Left out: code that hides its names in strings; it is run and judged like any other.
"""

from __future__ import annotations

import ast
import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

COURSE = "infalign_edu"
ALLOWED = frozenset(("math", "cmath", "itertools", "functools", "collections", "statistics", "random", "fractions",
                     "decimal", "operator", "bisect", "heapq", "typing", "dataclasses", "copy", "string", "re",
                     "numbers", "enum", "abc", "numpy", "scipy", "torch"))  # fmt: skip
HARMLESS = {"check", "hint", "require"}  # of the course, in an answer: the grader's stand-ins do nothing
LONGEST, DEEPEST = 20_000, 150  # characters of a cell and levels of its tree; more is not looked at
FORCED = 40  # nodes of an answer up to which two learners may well write the same


def python(text: str) -> ast.Module | str:
    r"""The syntax tree of a cell, notebook magics left out, or what is wrong with it.

    >>> python("%time\nx = 1").body[0].targets[0].id, python("x = = 1")
    ('x', 'line 1: invalid syntax')
    """
    try:
        try:
            tree = ast.parse(text)
        except SyntaxError:
            tree = ast.parse(re.sub(r"^[ \t]*[%!?].*$", "", text, flags=re.MULTILINE))
        ast.unparse(tree)  # a tree too deep for this is too deep for all that follows, and so is what `_depth` finds
        if _depth(tree) > DEEPEST:
            raise RecursionError
    except SyntaxError as error:
        return f"line {error.lineno}: {error.msg}"
    except (ValueError, RecursionError, MemoryError, OverflowError):
        return "it is nested too deeply, or holds characters that no program has"
    return tree


def _depth(tree: ast.AST) -> int:
    """Levels of a tree, counted one level after the other: a chain of a thousand elifs must not end the grader."""
    levels, nodes = 0, [tree]
    while nodes:
        levels, nodes = levels + 1, [child for node in nodes for child in ast.iter_child_nodes(node)]
    return levels


def _roots(node: ast.AST) -> set[str]:
    """The top packages that an import statement names; empty for any other node."""
    if isinstance(node, ast.Import):
        return {alias.name.partition(".")[0] for alias in node.names}
    if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
        return {node.module.partition(".")[0]}
    return set()


@dataclass(frozen=True)
class Cell:
    """The text of a code cell with its identifier and, for an answer cell, the name of its exercise."""

    identifier: str
    grade_id: str
    text: str

    @cached_property
    def tree(self) -> ast.Module:
        """The syntax tree, empty for a cell that is not Python, or longer than anybody writes."""
        found = python(self.text) if len(self.text) <= LONGEST else "too long"
        return ast.Module([], []) if isinstance(found, str) else found

    @cached_property
    def code(self) -> str:
        """The text to run: magics, checks and the course's own imports, which the grader has not, are left out."""
        kept = [node for node in self.tree.body if _roots(node) != {COURSE} and not _check(node)]
        return ast.unparse(ast.Module(kept, []))

    @cached_property
    def bound(self) -> set[str]:
        """Names that the cell defines at its top level, or changes an entry of."""
        return set(_bound(self.tree.body))

    @cached_property
    def used(self) -> set[str]:
        """Names that the cell reads, anywhere, but for the course's checks."""
        names = (node for node in ast.walk(self.tree) if isinstance(node, ast.Name))
        return {node.id for node in names if isinstance(node.ctx, ast.Load)} - HARMLESS


def _bound(body: Iterable[ast.AST]) -> Iterator[str]:
    for node in body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            yield node.name
            continue
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            yield from (_name(alias) for alias in node.names)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Store) and isinstance(node.value, ast.Name):
            yield node.value.id
        if not isinstance(node, ast.Lambda):
            yield from _bound(ast.iter_child_nodes(node))


def _check(node: ast.AST) -> bool:
    """Whether a statement is a call such as `check("name", function)`."""
    called = node.value.func if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call) else None
    return isinstance(called, ast.Name) and called.id in HARMLESS


def _name(alias: ast.alias) -> str:
    return alias.asname or alias.name.partition(".")[0]


def imports(provided: Sequence[Cell], chain: Sequence[Cell]) -> tuple[str, ...]:
    """Import lines of the notebook that give a name which the learner's code uses, ordinary libraries only."""
    used = set().union(*(cell.used for cell in chain))
    lines = []
    for node in (node for cell in provided for node in cell.tree.body if _roots(node) and _roots(node) <= ALLOWED):
        for alias in node.names if isinstance(node, (ast.Import, ast.ImportFrom)) else ():
            if _name(alias) in used:
                lines.append(ast.unparse(type(node)(**{**dict(ast.iter_fields(node)), "names": [alias]})))
    return tuple(dict.fromkeys(lines))


def preload(chain: Sequence[Cell]) -> tuple[str, ...]:
    """Lines that load, without giving a name, what the learner's code imports itself: no wall stands then yet."""
    lines = []
    for node in (node for cell in chain for node in ast.walk(cell.tree) if _roots(node) and _roots(node) <= ALLOWED):
        if isinstance(node, ast.ImportFrom):
            lines.append(f"__import__({node.module!r}, fromlist={[alias.name for alias in node.names]!r})")
        elif isinstance(node, ast.Import):
            lines.extend(f"__import__({alias.name!r})" for alias in node.names)
    return tuple(dict.fromkeys(lines))


def library(provided: Sequence[Cell], chain: Sequence[Cell]) -> tuple[str, ...]:
    """Names of the course's own library that the learner's code uses, whoever imported them."""
    used = set().union(*(cell.used for cell in chain))
    given = {name for cell in provided for node in cell.tree.body for name in _course(node) if name in used}
    taken = {name for cell in chain for node in ast.walk(cell.tree) for name in _course(node)}
    return tuple(sorted((given | taken) - HARMLESS))


def _course(node: ast.AST) -> set[str]:
    if COURSE in _roots(node) and isinstance(node, (ast.Import, ast.ImportFrom)):
        return {_name(alias) for alias in node.names}
    return set()


def untouched(text: str, function: str) -> bool:
    r"""Whether the function that an answer defines is still the stub: nothing but `...`, `pass` or a docstring.

    >>> untouched("def f(u):\n    ...  # your answer", "f"), untouched("def f(u):\n    return u", "f")
    (True, False)
    """
    defined = [node for node in Cell("", "", text).tree.body if isinstance(node, ast.FunctionDef)]
    bodies = [node.body for node in defined if node.name == function]
    return bool(bodies) and len(defined) == 1 and all(map(_idle, bodies[-1]))


def _idle(node: ast.stmt) -> bool:
    return isinstance(node, ast.Pass) or isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


class _Plain(ast.NodeTransformer):
    """Names of a function's own variables by the order of their appearance; no docstrings, annotations or checks."""

    def __init__(self, own: set[str]) -> None:
        self.names: dict[str, str] = {}
        self.own = own

    def _plain(self, name: str) -> str:
        return self.names.setdefault(name, f"v{len(self.names)}") if name in self.own else name

    def visit_Name(self, node: ast.Name) -> ast.AST:
        return ast.Name(self._plain(node.id), node.ctx)

    def visit_arg(self, node: ast.arg) -> ast.AST:
        return ast.arg(self._plain(node.arg))

    def visit_Expr(self, node: ast.Expr) -> ast.AST | None:
        return None if _idle(node) or _check(node) else self.generic_visit(node)


def form(text: str) -> tuple[str, int]:
    r"""A digest of an answer that forgets names, layout, comments and checks, and its size in nodes.

    >>> form("def f(u):\n    a = u * 2\n    return a")[0] == form("def f(x): # mine\n  b = x*2\n  return b")[0]
    True
    """
    tree = Cell("", "", text).tree
    nodes = list(ast.walk(tree))
    own = {node.arg for node in nodes if isinstance(node, ast.arg)}
    own |= {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    plain = _Plain(own).visit(ast.parse(ast.unparse(tree)))
    return hashlib.sha256(ast.dump(plain).encode()).hexdigest(), sum(1 for _ in ast.walk(plain))
