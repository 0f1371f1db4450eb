"""Test settings shared by all files: no deadlines on shared machines, the same examples on every run, one thread."""

import os

from hypothesis import settings

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

settings.register_profile("course", deadline=None, derandomize=True, print_blob=False)
settings.load_profile("course")
