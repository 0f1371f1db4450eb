"""The peer of the training benchmarks: TRL's RLOO trainer, told to do the very work that ours does.

The one file of this room that imports TRL. Its settings are those that keep the transform (sequence-level KL inside
the reward, no normalised advantages, no clipping of rewards) and those it is fastest with on a CPU: no checkpoints, no
logging, no gradient checkpointing, no completions kept. Its time is taken from the begin to the end of a step, so what
its loop does between two steps counts for nobody.
"""

from __future__ import annotations

import logging
import shutil
import tempfile
import time
import warnings
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

Reward = Callable[[Sequence[str], Sequence[str]], Sequence[float]]  # prompts, responses -> Phi of each


def installed() -> bool:
    """Whether TRL can be imported."""
    try:
        _quiet()
    except ImportError:
        return False
    return True


def _quiet() -> Any:
    warnings.filterwarnings("ignore", category=FutureWarning)
    for name in ("trl", "transformers", "datasets", "accelerate"):
        logging.getLogger(name).setLevel(logging.ERROR)
    import datasets
    import trl

    datasets.disable_progress_bars()
    return trl, datasets


def trainer(
    policy: Any,
    prompts: Sequence[str],
    reward: Reward,
    *,
    beta: float,
    samples: int,
    prompts_per_step: int,
    steps: int,
    learning_rate: float = 1e-5,
    micro_batch: int | None = None,
    callbacks: Sequence[Any] = (),
    **changes: Any,
) -> Any:
    """TRL's RLOO trainer on a copy of `policy`, which takes `prompts` in their order; `changes` replace settings.

    `micro_batch` rows are run at a time, all of a step by default. The model goes through a folder, because TRL reads
    its reference from there.
    """
    trl, datasets = _quiet()
    rows = prompts_per_step * samples
    folder = Path(tempfile.mkdtemp(prefix="trl-peer-"))
    policy.save(folder / "model")
    options: dict[str, Any] = {
        "output_dir": str(folder), "max_steps": steps, "learning_rate": learning_rate, "beta": beta,
        "per_device_train_batch_size": micro_batch or rows, "generation_batch_size": rows,
        "gradient_accumulation_steps": rows // (micro_batch or rows), "num_generations": samples,
        "max_completion_length": policy.max_new_tokens, "temperature": 1.0, "top_k": 0, "top_p": 1.0,
        "normalize_advantages": False, "reward_clip_range": None, "num_iterations": 1, "disable_dropout": True,
        "shuffle_dataset": False, "lr_scheduler_type": "constant", "weight_decay": 0.0, "max_grad_norm": 1.0,
        "bf16": False, "gradient_checkpointing": False, "use_cpu": True, "logging_strategy": "no",
        "save_strategy": "no", "report_to": [], "disable_tqdm": True, "dataloader_pin_memory": False,
        "model_init_kwargs": {"dtype": "float32"},
    }  # fmt: skip

    def paid(prompts: Sequence[str], completions: Sequence[str], **_: Any) -> list[float]:
        return [float(value) for value in reward(prompts, [text.strip() for text in completions])]

    made = trl.RLOOTrainer(
        model=str(folder / "model"), reward_funcs=paid, args=trl.RLOOConfig(**(options | changes)),
        train_dataset=datasets.Dataset.from_dict({"prompt": list(prompts)}), processing_class=policy.tokenizer,
        callbacks=list(callbacks),
    )  # fmt: skip
    _silence(made)
    weakref.finalize(made, shutil.rmtree, folder, ignore_errors=True)
    return made


def _silence(made: Any) -> None:
    """Takes away the callback that prints the last metrics."""
    from transformers.trainer_callback import PrinterCallback

    made.remove_callback(PrinterCallback)


def stopwatch(between: Callable[[], None], clock: Callable[[], float] = time.process_time) -> tuple[Any, list[float]]:
    """A callback that times each of TRL's steps and calls `between` after each; and the list of seconds it fills."""
    from transformers import TrainerCallback

    seconds: list[float] = []

    class Stopwatch(TrainerCallback):
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            self.began = clock()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            seconds.append(clock() - self.began)
            between()

    return Stopwatch(), seconds


def completions(rollouts: Any) -> list[list[int]]:
    """The tokens of each response as a list, as TRL holds them, <eos> included."""
    return [row[on].tolist() for row, on in zip(rollouts.tokens, rollouts.mask, strict=True)]


def hold(made: Any, rollouts: Any) -> None:
    """From now on TRL's trainer samples nothing: every step gets these responses."""
    fixed = completions(rollouts)
    made._generate_single_turn = lambda *_, **__: fixed


def look(made: Any, rollouts: Any, advantages: torch.Tensor) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """TRL's log-probabilities of the responses and the gradients of its loss. Shape: [rows], and one for each weight.

    `advantages` [rows]; the old log-probabilities are the current ones, as in the first update on a batch.
    """
    samples = rollouts.samples
    ids, seen = (x.repeat_interleave(samples, 0) for x in (rollouts.prompt_ids, rollouts.prompt_mask))
    inputs = {"prompt_ids": ids, "prompt_mask": seen.long(), "completion_ids": rollouts.tokens,
              "completion_mask": rollouts.mask.long(), "advantages": advantages}  # fmt: skip
    both = torch.cat([ids, rollouts.tokens], 1), torch.cat([seen, rollouts.mask], 1).long()
    with torch.no_grad():
        found = made._get_per_token_logps_and_entropies(made.model, *both, rollouts.tokens.shape[1])[0]
    inputs["old_logps"] = (found * rollouts.mask).sum(1)
    made.model.zero_grad()
    made.current_gradient_accumulation_steps = 1
    made._compute_loss(made.model, inputs).backward()
    gradients = {name: p.grad.numpy().copy() for name, p in made.model.named_parameters() if p.grad is not None}
    made.model.zero_grad()
    return inputs["old_logps"].numpy(), gradients
