"""One cell for hosted notebooks (Colab, Kaggle, Binder): installs the course where it is missing, else does nothing.

The package comes from a wheel beside the notebook or from where INFALIGN_EDU_SOURCE points: never by a name looked up
in a package index, where anybody may own it. What the wheel depends on comes from the index that pip is set to. Left
out: mounting drives and cloning repositories, which each host does in its own way.
"""

from __future__ import annotations

CELL = """\
# On a hosted machine (Colab, Kaggle, Binder) this installs the course; where it is installed already, it does nothing.
import importlib.util

spec = importlib.util.find_spec("infalign_edu")
if spec is None or spec.origin is None:  # a mere folder of that name has no origin
    import importlib.metadata
    import os
    import subprocess
    import sys
    from pathlib import Path

    wheels = sorted(Path.cwd().glob("infalign_edu-*.whl"), key=lambda path: path.stat().st_mtime)
    source = os.environ.get("INFALIGN_EDU_SOURCE") or (str(wheels[-1]) if wheels else "")
    if "://" not in source and not Path(source or "none").exists():
        raise SystemExit(
            "infalign_edu is not installed here: run `make wheel` where you have the course, upload the file "
            "dist/infalign_edu-*.whl beside this notebook (or set INFALIGN_EDU_SOURCE to a path or URL of it"
            + (f"; it is {source!r}, which does not exist" if source else "") + "), and run this cell again."
        )
    target = source if "://" in source else str(Path(source).resolve())
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--", target]  # a path is never an option
    done = subprocess.run(pip, capture_output=True, text=True)
    if done.returncode:
        reason = (done.stderr.strip() or done.stdout.strip() or "no reason given").splitlines()
        raise SystemExit(f"pip could not install {target}: " + next((r for r in reason if "ERROR" in r), reason[-1]))
    importlib.invalidate_caches()
    for name in ("numpy", "scipy", "matplotlib", "torch", "transformers"):
        loaded = getattr(sys.modules.get(name), "__version__", None)
        if loaded and loaded != importlib.metadata.version(name):
            raise SystemExit(f"{name} was updated: restart the kernel, then run the notebook from its first cell.")
    print("infalign_edu", importlib.metadata.version("infalign-edu"), "is installed, from", target)
"""
