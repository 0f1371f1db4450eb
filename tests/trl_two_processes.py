"""Run by torchrun from test_trl_reward.py: python -m torch.distributed.run --nproc_per_node 2 THIS FOLDER STOP STEPS.

Makes or loads the tables, scores this process's share of all responses, and trains to step STOP of STEPS, from the
latest checkpoint if there is one. The first process leaves what it found in FOLDER/found-STOP.json.
"""

import json
import os
import sys
from pathlib import Path

import torch
import trl_world as world
from accelerate import PartialState
from transformers import TrainerCallback

from infalign_edu.rl.tables import Tables
from infalign_edu.rl.trl_reward import CTRLReward


class StopAt(TrainerCallback):
    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        control.should_training_stop = state.global_step >= self.step


def everywhere(mine):
    """The values of all processes, in the order of their ranks."""
    parts = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(parts, mine)
    return [value for part in parts for value in part]


def main(folder, stop, steps):
    torch.set_num_threads(1)
    state = PartialState(cpu=True)
    assert (state.num_processes, torch.distributed.get_world_size()) == (2, 2), "launched as one process"
    tables = Tables.make(world.policy(folder / "model"), world.PROMPTS, world.reward, samples=world.K, path=folder)
    made, questions = sorted(set(world.ASKED)), len(world.ASKED)
    ctrl = CTRLReward(tables, world.reward, transform="exp:10", target_kl=0.5)
    rows = [(key, said) for key in world.PROMPTS for said in world.responses()][state.process_index :: 2]
    phi = ctrl(prompts=[world.PROMPTS[key] for key, _ in rows], completions=[said for _, said in rows],
               prompt_id=[key for key, _ in rows])  # fmt: skip
    trainer = ctrl.trainer(
        folder / "model", folder / "run", processes=2, num_generations=64, per_device_train_batch_size=96,
        max_steps=steps, learning_rate=2e-2, warmup_steps=10, save_steps=stop, seed=1,
        use_cpu=True, bf16=False, gradient_checkpointing=False, report_to="none", disable_tqdm=True, logging_steps=1,
    )  # fmt: skip
    trainer.add_callback(StopAt(stop))
    checkpoints = sorted((folder / "run").glob("checkpoint-*"))
    trainer.train(resume_from_checkpoint=str(checkpoints[-1]) if checkpoints else None)
    found = {"phi": everywhere(list(zip(rows, phi, strict=True))), "made": everywhere([(made, questions)]),
             "steps": [row["step"] for row in trainer.state.log_history if "reward" in row],
             "table": tables.calibrator.reference_rewards.tolist(), "beta": ctrl.beta}  # fmt: skip
    if state.is_main_process:
        trainer.model.save_pretrained(folder / f"policy-{stop}")
        (folder / f"found-{stop}.json").write_text(json.dumps(found))
    torch.distributed.barrier()
    sys.stdout.flush()
    os._exit(0)  # not by return: freeing the trainer, torch may join gloo's thread while it holds the lock that one needs


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
