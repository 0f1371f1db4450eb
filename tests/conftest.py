"""Test settings shared by all files: no deadlines on shared machines, the same examples on every run, one thread."""

import os

from hypothesis import Phase, settings

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

settings.register_profile("course", deadline=None, derandomize=True, print_blob=False)
settings.register_profile("mutants", settings.get_profile("course"), phases=[Phase.explicit, Phase.generate])  # no smallest example
settings.load_profile("mutants" if "MUTANT_UNDER_TEST" in os.environ else "course")
