"""Every public numeric function under random and extreme parameters, in two precisions, on two devices, in two processes.

The fuzzers and what they assert are in tests/numerics/. `test_no_public_function_is_forgotten` watches them run and
holds what was called against the public names, so that a new function without a fuzzer fails here.
"""

from __future__ import annotations

import importlib
import inspect
import os
import subprocess
import sys
import warnings
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from types import CodeType, FrameType, ModuleType

import numpy as np
import pytest
import torch
from numerics import FUZZERS, Fuzzer, close, learned, method, solved  # noqa: F401  the last two register their fuzzers

import infalign_edu as ia
from infalign_edu import theory

MODULES = (
    "calibration", "winrate", "transforms", "procedures", "mixtures", "order_statistics", "theory.continuous", "theory.tilted",
    "theory.optimal", "theory.finite", "theory.finite_samples", "theory.lesson", "theory.sequences", "theory.decoders", "lm.rollouts",
    "lm.rewards.preferences", "lm.rewards.gold", "lm.rewards.corruption", "lm.rewards.bradley_terry", "rl.objectives", "rl.shaping",
    "rl.evaluation", "rl.toy", "rl.cost", "rl.algorithms.rloo", "rl.algorithms.ppo", "rl.algorithms.grpo", "rl.algorithms.preference",
    "rl.algorithms.distillation", "rl.algorithms.quantile_regression",
)  # fmt: skip
EXEMPT = {  # what no fuzzer calls, and why
    "Procedure": "a protocol: what it names is fuzzed in its implementations", "Critic": "a base class", "Algorithm": "a base class",
    "RankMixture.rank_probabilities": "abstract", "BradleyTerry": "fitted on features: tests/test_bradley_terry.py",
    "cross_validated": "fitted on features: tests/test_bradley_terry.py", "sample_preferences": "samples text: tests/test_reward_model.py",
    "Samples": "needs a model: tests/test_ctrl.py", "draw": "needs a model: tests/test_ctrl.py", "evaluate": "needs a run: tests/test_ctrl.py",
    "Outcome": "needs a run: tests/test_ctrl.py", "load_snapshot": "reads files: tests/test_faults.py", "reach": "needs a run: tests/test_ctrl.py",
    "compare": "needs a run: tests/test_ctrl.py", "LinearCritic": "trained: tests/test_algorithms_training.py", "score": "checks: tests/bad_input",
    "TableCritic": "trained: tests/test_algorithms_training.py", "output_layer": "no number", "GoldReward": "tests/test_world.py",
    "Tilted.resolved": "the mesh behind win_rate and kl, called by both", "Rollouts.row_prompts": "no number",
}  # fmt: skip


def cases(size: str) -> list[object]:
    marks = [pytest.mark.slow] if size == "slow" else []
    return [pytest.param(fuzzer, getattr(fuzzer, size), id=f"{fuzzer.name}-{getattr(fuzzer, size)}", marks=marks) for fuzzer in FUZZERS]


@pytest.mark.parametrize(("fuzzer", "number"), [*cases("fast"), *cases("slow")])
def test_random_parameters(fuzzer: Fuzzer, number: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # an overflow that nobody meant would be silent
        fuzzer.run(np.random.default_rng([0, *fuzzer.name.encode()]), number)


def public(module: ModuleType) -> Iterator[tuple[str, CodeType]]:
    """Name and code of every public function, method and property that a module defines."""
    for name, thing in vars(module).items():
        if name[0] == "_" or getattr(thing, "__module__", None) != module.__name__:
            continue
        if inspect.isclass(thing):
            for part, value in vars(thing).items():
                inner = getattr(value, "fget", None) or getattr(value, "func", None) or getattr(value, "__func__", value)
                if (part[0] != "_" or part == "__call__") and inspect.isfunction(inner) and not isinstance(value, cached_property):
                    yield f"{name}.{part}", inner.__code__
        elif inspect.isfunction(inspect.unwrap(thing)):
            yield name, inspect.unwrap(thing).__code__


def test_no_public_function_is_forgotten() -> None:
    called: set[CodeType] = set()

    def watch(frame: FrameType, event: str, argument: object) -> None:
        if event == "call":
            called.add(frame.f_code)

    before = sys.gettrace()
    for fuzzer in FUZZERS:
        rng = np.random.default_rng([1, *fuzzer.name.encode()])
        sys.settrace(watch)  # without a trace of its lines: a call each
        try:
            fuzzer.run(rng, min(fuzzer.fast, 12))
        finally:
            sys.settrace(before)
    forgotten = []
    for name in MODULES:
        for function, code in public(importlib.import_module(f"infalign_edu.{name}")):
            if code not in called and function not in EXEMPT and function.partition(".")[0] not in EXEMPT:
                forgotten.append(f"{name}.{function}")
    assert forgotten == [], ' '.join(forgotten)


def test_the_public_names_are_all_looked_at() -> None:
    """What `infalign_edu` and `theory` offer is defined in the modules above."""
    for package, names in ((ia, ia.__all__), (theory, theory.__all__)):
        for thing in (getattr(package, name) for name in names):
            module = getattr(thing, "__module__", "")
            if callable(thing) and not inspect.ismodule(thing):
                home = module.removeprefix("infalign_edu.")
                assert home in MODULES or home in ("shipped", "rl.ctrl", "rl.config"), thing  # files, a whole run


def test_the_watch_sees_a_function_that_nobody_calls() -> None:
    names = dict(public(importlib.import_module("infalign_edu.theory.finite_samples")))
    assert {"bernstein", "dkw_band", "mismatch"} <= set(names) and "special" not in names
    assert "Mixture.cdf" in dict(public(importlib.import_module("infalign_edu.mixtures")))


def on(device: str, number: int) -> None:
    """Every function of tensors in float64 there and on the CPU."""
    for seed in range(number):
        for name, function, arguments in learned.tensor_calls(np.random.default_rng(seed)):
            here = function(*arguments)
            there = function(*learned.moved(arguments, lambda x: x.to(device)))
            assert there.device.type == torch.device(device).type
            close(there.cpu(), here, 1e-9), name


def test_devices_are_compared() -> None:
    on("cpu", 2)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA: torch sees none on this machine")
def test_the_cpu_and_cuda_agree() -> None:
    on("cuda", 300)
    from infalign_edu.lm.models import load

    prompts = ["how do i clean my kettle before work"] * 4
    cpu, cuda = (load("embedded", device=device, dtype="float32") for device in ("cpu", "cuda"))
    drawn = cpu.sample(prompts, 8, seed=0)
    assert cuda.sample(prompts, 8, seed=0).responses == drawn.responses
    moved = cuda.sample(prompts, 8, seed=0)
    close(cuda.logprobs(moved).detach().cpu(), cpu.logprobs(drawn).detach(), 1e-4)


RESULTS = Path(__file__).parent / "numerics" / "results.py"


def test_the_same_seed_gives_the_same_twice_in_one_process() -> None:
    from numerics.results import hashes

    first = hashes(quick=True)
    assert hashes(quick=True) == first and len(set(first.values())) == len(first)
    assert hashes(quick=True, seed=1) != first


@pytest.mark.slow
def test_the_same_seed_gives_the_same_in_two_processes() -> None:
    told = []
    for hash_seed in ("1", "2"):
        env = os.environ | {"PYTHONHASHSEED": hash_seed, "OMP_NUM_THREADS": "1"}
        done = subprocess.run([sys.executable, str(RESULTS)], capture_output=True, text=True, env=env, check=True, timeout=300)
        told.append(done.stdout)
    assert told[0] == told[1] and len(told[0].splitlines()) >= 12
