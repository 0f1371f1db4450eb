"""Test settings shared by all files: no deadlines on shared machines, the same examples on every run, one thread."""

import os
import sys

from hypothesis import Phase, settings

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

settings.register_profile("course", deadline=None, derandomize=True, print_blob=False)
settings.register_profile("mutants", settings.get_profile("course"), phases=[Phase.explicit, Phase.generate])  # no smallest example
settings.load_profile("mutants" if "MUTANT_UNDER_TEST" in os.environ else "course")


def pytest_sessionstart():
    """Mutants are forks of one process: what it kept of an earlier session is not theirs."""
    if "MUTANT_UNDER_TEST" in os.environ:
        modules = [module for name, module in sys.modules.items() if name.startswith("infalign_edu.theory")]
        for kept in (thing for module in modules for thing in vars(module).values() if hasattr(thing, "cache_clear")):
            kept.cache_clear()
