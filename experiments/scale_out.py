"""Where TRL's own trainers end on a model whose every response can be written down: RLOO, GRPO, GRPO without scaling.

    python experiments/scale_out.py            writes data/runs/trl.csv, three minutes of one core
    python experiments/scale_out.py --quick    one seed and a few steps, printed

The model, prompts and rewards are those of tests/trl_world.py. Every row judges one policy by enumeration: how far
it is from pi_ref exp(Phi / beta), and from the policy that `rl.algorithms.grpo.fixed_point` computes for that trainer;
`largest` is the probability of its likeliest response, `better` how many responses have a larger Phi than that one.
Runs that are in the file already are not run again.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import os
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import numpy as np  # noqa: E402
import torch  # noqa: E402
import trl_world as world  # noqa: E402
from transformers import TrainerCallback  # noqa: E402

from infalign_edu.atomic import write_text  # noqa: E402
from infalign_edu.rl.algorithms.grpo import fixed_point  # noqa: E402
from infalign_edu.rl.tables import Tables  # noqa: E402
from infalign_edu.rl.trl_reward import CTRLReward  # noqa: E402

OUT = ROOT / "data" / "runs" / "trl.csv"
SAMPLES, EVERY = 64, 10
TRAINERS = {"RLOO": "", "GRPO": "group", "GRPO without scaling": "none"}  # scale_rewards; otherwise TRL's defaults
COLUMNS = ("trainer", "transform", "seed", "step", "prompt", "kl", "kl_optimum", "kl_claimed", "kl_to_optimum",
           "tv_to_optimum", "tv_to_claimed", "tv_claimed_to_optimum", "largest", "better")  # fmt: skip


class Judge(TrainerCallback):
    """Measures the policy of every prompt before the first step and every few steps, without changing its mode."""

    def __init__(self, ctrl: CTRLReward, reference: Any, trainer: str) -> None:
        self.rows: list[dict[str, Any]] = []
        self.places = {key: self._place(ctrl, reference, key, TRAINERS[trainer]) for key in world.PROMPTS}

    @staticmethod
    def _place(ctrl: CTRLReward, reference: Any, key: str, scale: str) -> tuple[Any, Any, Any, Any]:
        """The problem of a prompt, its optimum, where this trainer is claimed to go, and Phi of every response."""
        said, problem = world.responses(), world.problem(reference, key)
        best = world.optimum(ctrl, reference, key)
        phi = np.array(ctrl(prompts=[world.PROMPTS[key]] * len(said), completions=said, prompt_id=[key] * len(said)))
        if not scale:
            return problem, best, best, phi
        beta = ctrl.beta * SAMPLES / (SAMPLES - 1)
        goal = fixed_point(problem.reference, phi, beta, world.WORDS, normalize=scale == "group", corrected=True)
        return problem, best, goal, phi

    def judge(self, model: Any, step: int) -> None:
        """One row a prompt."""
        for key, (problem, best, claimed, phi) in self.places.items():
            found = world.distribution(model, world.PROMPTS[key])
            self.rows.append({
                "step": step, "prompt": key, "kl": problem.kl(found), "kl_optimum": problem.kl(best),
                "kl_claimed": problem.kl(claimed), "kl_to_optimum": float(found @ np.log(found / best)),
                "tv_to_optimum": apart(found, best), "tv_to_claimed": apart(found, claimed),
                "tv_claimed_to_optimum": apart(claimed, best), "largest": float(found.max()),
                "better": int((phi > phi[found.argmax()] + 1e-9).sum()),
            })  # fmt: skip

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        self.judge(model, 0)

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        if state.global_step % EVERY == 0:
            self.judge(model, state.global_step)


def apart(p: np.ndarray, q: np.ndarray) -> float:
    """Total variation."""
    return float(np.abs(p - q).sum() / 2)


def run(folder: Path, tables: Tables, trainer: str, transform: str, seed: int, steps: int) -> list[dict[str, Any]]:
    """One training run of one of TRL's trainers; the rows of its judge."""
    import trl
    from datasets import Dataset

    ctrl = CTRLReward(tables, world.reward, transform=transform, target_kl=0.5)
    chosen = ctrl.settings(num_generations=SAMPLES, per_device_train_batch_size=3 * SAMPLES, max_steps=steps, seed=seed,
                           learning_rate=1e-2, warmup_steps=10, save_strategy="no", logging_strategy="no", use_cpu=True,
                           bf16=False, gradient_checkpointing=False, report_to="none", disable_tqdm=True,
                           output_dir=str(folder / "run"))  # fmt: skip
    kind = trainer.split()[0]
    if kind == "GRPO":
        chosen = {k: v for k, v in chosen.items() if k not in ("normalize_advantages", "reward_clip_range")}
        chosen["scale_rewards"] = TRAINERS[trainer]
    judge = Judge(ctrl, world.policy(folder / "model").model, trainer)
    args, data = getattr(trl, f"{kind}Config")(**chosen), Dataset.from_dict(ctrl.columns())
    made = getattr(trl, f"{kind}Trainer")(str(folder / "model"), ctrl, args, train_dataset=data, callbacks=[judge])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that GRPO goes elsewhere is the point
        ctrl.check(made, processes=1)
    made.train()
    return [{"trainer": trainer, "transform": transform, "seed": seed} | row for row in judge.rows]


def main(arguments: list[str] | None = None) -> None:
    """Every trainer and transform, each with its seeds."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--quick", action="store_true", help="one seed, 20 steps, nothing written")
    quick = parser.parse_args(arguments).quick
    torch.set_num_threads(1)
    rows = [] if quick or not OUT.exists() else list(csv.DictReader(OUT.open(encoding="utf-8")))
    done = {(row["trainer"], row["transform"], row["seed"]) for row in rows}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        world.write(folder / "model")
        tables = Tables.make(world.policy(folder / "model"), world.PROMPTS, world.reward, samples=world.K)
        for seed, transform, trainer in itertools.product(range(1 if quick else 3), ("identity", "exp:10"), TRAINERS):
            if (trainer, transform, str(seed)) in done:
                continue
            found = run(folder, tables, trainer, transform, seed, 20 if quick else 150)
            rows += [{c: f"{v:.5f}" if isinstance(v := row[c], float) else str(v) for c in COLUMNS} for row in found]
            last = "  ".join(f"{row['prompt']} {row['tv_to_optimum']:.3f}" for row in found[-3:])
            print(f"{trainer:<22}{transform:<10} seed {seed}   TV to the optimum: {last}", flush=True)
            if not quick:
                write_text(OUT, "\n".join([",".join(COLUMNS), *(",".join(row.values()) for row in rows)]) + "\n")


if __name__ == "__main__":
    main()
