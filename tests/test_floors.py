"""Imports point down only: method and theory -> lm -> rl -> classroom -> command line."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "infalign_edu"
FLOORS = ("lm", "rl", "classroom")
TOP = {"cli.py", "__main__.py", "__init__.py"}


def floor(parts: tuple[str, ...]) -> int:
    if len(parts) == 1 and parts[0] in TOP:
        return len(FLOORS) + 1
    return FLOORS.index(parts[0]) + 1 if parts[0] in FLOORS else 0


def imported(tree: ast.AST, path: Path) -> list[str]:
    """Every module an import may bring in, with relative imports resolved."""
    names = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parent = ("infalign_edu", *path.relative_to(PACKAGE).parts)[: -node.level]
                base = ".".join([*parent, *([base] if base else [])])
            names += [base, *(f"{base}.{alias.name}" for alias in node.names)]
    return names


def upward(tree: ast.AST, path: Path) -> list[str]:
    here = floor(path.relative_to(PACKAGE).parts)
    modules = [name.split(".")[1:] for name in imported(tree, path) if name.startswith("infalign_edu.")]
    return [".".join(m) for m in modules if m[0] in FLOORS and FLOORS.index(m[0]) + 1 > here]


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_no_module_imports_from_a_floor_above(path):
    assert upward(ast.parse(path.read_text()), path) == []


@pytest.mark.parametrize("line", ["import infalign_edu.rl.trainer", "from ..rl import trainer", "from infalign_edu import rl"])
def test_the_check_sees_every_form_of_import(line):
    assert upward(ast.parse(line), PACKAGE / "lm" / "policy.py") != []


def test_importing_the_package_loads_neither_torch_nor_matplotlib():
    heavy = "torch transformers matplotlib scipy.stats infalign_edu.theory infalign_edu.lm"
    code = f"import sys, infalign_edu; print([m for m in {heavy.split()!r} if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_theory_needs_no_torch():
    code = "import sys, infalign_edu as ia; ia.theory.tilt(ia.Identity(), 0.5).kl; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
