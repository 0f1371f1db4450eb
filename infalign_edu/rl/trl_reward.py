"""CTRL inside TRL's trainers: calibrate and transform as a reward function, for more than one machine.

TRL samples, distributes and updates; this file gives it Phi(C(reward)) and looks after the settings under which
RLOOTrainer then maximises E[Phi] - beta KL(pi || pi_ref), whose optimum is pi_ref exp(Phi / beta). Only RLOO puts the
KL of the whole response into the reward. GRPOTrainer optimises something else: `rl.algorithms.grpo` computes what.
Written against TRL 1.16. Left out: trainers of our own, and rewards that need the batch or the policy.
"""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from infalign_edu.lm import rewards
from infalign_edu.lm.datasets import turns
from infalign_edu.lm.model_folder import check_files
from infalign_edu.procedures import Procedure
from infalign_edu.rl.config import CTRLConfig
from infalign_edu.rl.ctrl import objective
from infalign_edu.rl.tables import Tables
from infalign_edu.transforms import Transform

SAMPLED = "tables and theory speak of plain samples of the model"
SCALED = "it would change the scale of Phi, and with it beta"
FEW = 8  # generations a prompt below which the leave-one-out baseline is mostly noise
KEPT: dict[str, tuple[tuple[Any, ...], str]] = {  # field: values that keep the transform (the first is set), and why
    "temperature": ((1.0,), SAMPLED),
    "top_k": ((0, None), SAMPLED),
    "top_p": ((1.0,), SAMPLED),
    "min_p": ((None, 0.0), SAMPLED),
    "repetition_penalty": ((1.0,), SAMPLED),
    "generation_kwargs": ((None, {}), SAMPLED),
    "normalize_advantages": ((False,), "advantages vanish at the optimum; divided by their deviation they never do"),
    "reward_clip_range": ((None,), "it would flatten Phi where it is steep"),
    "reward_weights": ((None, [1.0]), SCALED),
    "num_iterations": ((1,), "a sample used twice is no longer one of the policy, and its ratio is clipped"),
    "mask_truncated_completions": ((False,), "the table's samples were cut at the same length and did count"),
    "sync_ref_model": ((False,), "the optimum is relative to a reference that stands still"),
    "disable_dropout": ((True,), "dropout makes the KL non-zero at the first step"),
    "remove_unused_columns": ((False,), "the column prompt_id must reach the reward"),
}
GRPO = (
    "GRPOConfig does not maximise E[Phi] - beta KL(pi || pi_ref): its KL is taken token by token, in the loss, so that "
    "no token answers for the KL that it leads to later{more}; where it goes: infalign_edu.rl.algorithms.grpo "
    "(fixed_point). For pi_ref exp(Phi / beta) use RLOOConfig"
)


class CTRLReward:
    """A reward function for TRL: Phi(C(reward)), each response calibrated by the table of its own prompt id.

    `transform`, `procedure`, `beta` or `target_kl` and `standardize` mean what they mean in `CTRLConfig`; `beta` of the
    object is the one to train with. `reward` is a callable (prompts, responses) -> rewards, or the name of one. The
    dataset needs the columns prompt and prompt_id: `columns()`.

    Raises: ValueError for settings that `CTRLConfig` refuses.

    >>> tables = Tables.of({"a": "say"}, {"a": [1.0, 2.0, 3.0, 4.0]})
    >>> phi = CTRLReward(tables, lambda prompts, said: [len(t) for t in said], transform="identity", beta=0.5)
    >>> np.round(phi(prompts=["say"] * 2, completions=["yes", "no"], prompt_id=["a", "a"]), 3).tolist()
    [0.433, -0.433]
    >>> phi.settings(num_generations=16)["beta"]
    0.5
    """

    def __init__(
        self, tables: Tables, reward: str | rewards.Reward, *, transform: str | Transform = "exp:10",
        procedure: str | Procedure = "best-of-4", beta: float | None = None, target_kl: float | None = None,
        standardize: bool = True,
    ) -> None:
        chosen = CTRLConfig(
            transform=transform, procedure=procedure, beta=beta, target_kl=target_kl, standardize=standardize
        )
        aim = objective(chosen, next(iter(chosen.transforms)))
        self.tables, self.reward, self.procedure = tables, rewards.reward(reward), procedure
        self.transform, self.beta = aim.transform, aim.beta
        self.__name__ = f"ctrl_{aim.name}"  # what TRL logs it as

    def __call__(
        self, prompts: Sequence[Any], completions: Sequence[Any], completion_ids: Any = None,
        prompt_id: Sequence[Any] | None = None, log_metric: Callable[[str, float], None] | None = None, **columns: Any,
    ) -> list[float]:
        """Phi of each completion. Shape: R prompts, completions and prompt_id -> R numbers.

        The reward is asked about the text that the table was made for, and of the completion without white space at
        its ends. Raises: ValueError for a missing or unknown prompt_id, or a prompt that is not the table's.
        """
        if prompt_id is None:
            raise ValueError("prompt_id must be a column of the dataset, with remove_unused_columns=False, got none")
        responses = [_said(completion) for completion in completions]
        texts = [self._asked(key, prompt) for key, prompt in zip(prompt_id, prompts, strict=True)]
        values = rewards.score(self.reward, texts, responses)
        u = self.tables.calibrated(prompt_id, values)
        phi = np.asarray(self.transform(u), dtype=float)
        if log_metric is not None:
            log_metric("ctrl/reward", float(values.mean()))
            log_metric("ctrl/calibrated", float(u.mean()))
        return phi.tolist()

    def _asked(self, key: Any, prompt: Any) -> str:
        text = self.tables.prompts.get(str(key))
        if text is None:
            raise ValueError(f"prompt_id must be one of the {len(self.tables.prompts)} that have a table, got {key!r}")
        if prompt != text and prompt != turns(text):
            raise ValueError(f"prompt of id {key!r} must be the table's, {text[:40]!r}, got {str(prompt)[:60]!r}")
        return text

    def columns(self) -> dict[str, list[Any]]:
        """The columns prompt and prompt_id, for `datasets.Dataset.from_dict`; chat turns where the tables are chat."""
        render = turns if self.tables.made_with.get("chat") else str
        return {"prompt": [render(text) for text in self.tables.prompts.values()], "prompt_id": [*self.tables.prompts]}

    def settings(self, **changes: Any) -> dict[str, Any]:
        """The arguments of RLOOConfig that keep the transform intact, with yours added. Raises: as `check`."""
        kept = {field: accepted[0] for field, (accepted, _) in KEPT.items()}
        if length := self.tables.made_with.get("max_new_tokens"):
            kept["max_completion_length"] = length
        chosen = kept | {"beta": self.beta, "num_generations": FEW} | changes
        _complain(self._wrong(chosen, "RLOOConfig"))
        return chosen

    def check(self, trainer_or_config: Any, *, processes: int | None = None) -> None:
        """Looks at a TRL trainer or its config for what would train on something else than E[Phi] - beta KL.

        `processes` is the number you launched: one common launch form silently runs a single one. Warns (UserWarning)
        for GRPO and for few generations. Raises: ValueError with one line for each setting: field, value, remedy.
        """
        config = getattr(trainer_or_config, "args", trainer_or_config)
        kinds = [kind.__name__ for kind in type(config).__mro__]
        name = next((kind for kind in kinds if kind in ("RLOOConfig", "GRPOConfig")), None)
        if name is None:
            raise ValueError(f"config must be an RLOOConfig (GRPOConfig with a warning), got {type(config).__name__}")
        if name == "GRPOConfig":
            warnings.warn(GRPO.format(more=_deviations(config)), stacklevel=2)
        found = {field: getattr(config, field) for field in LOOKED_AT if hasattr(config, field)}
        wrong = self._wrong(found, name)
        functions = getattr(trainer_or_config, "reward_funcs", [self])
        if len(functions) != 1:
            wrong.append(f"reward_funcs must be this reward alone, got {len(functions)}: they would be added to Phi")
        wrong += _world(config, trainer_or_config, processes)
        _complain(wrong)
        if (few := found.get("num_generations", FEW)) < FEW:
            warnings.warn(f"num_generations {few}: unbiased but noisy, at least {FEW} is better", stacklevel=2)

    def _wrong(self, found: dict[str, Any], name: str) -> list[str]:
        wrong = [
            f"{field} must be {accepted[0]!r}, got {found[field]!r}: {why}; set {name}({field}={accepted[0]!r})"
            for field, (accepted, why) in KEPT.items()
            if field in found and found[field] not in accepted
        ]
        beta, length = found.get("beta", self.beta), self.tables.made_with.get("max_new_tokens")
        if not math.isclose(beta, self.beta, rel_tol=1e-9):
            told = "make CTRLReward with the beta you mean" if beta else "without a KL there is no optimum to reach"
            wrong.append(f"beta must be {self.beta!r}, the transform's own, got {beta!r}: {told}")
        if length and (got := found.get("max_completion_length", length)) != length:
            wrong.append(f"max_completion_length must be {length}, that of the tables' samples, got {got}")
        if found.get("chat_template_kwargs"):
            wrong.append(f"chat_template_kwargs must be empty, as for the tables, got {found['chat_template_kwargs']}")
        per, steps = found.get("steps_per_generation"), found.get("gradient_accumulation_steps")
        if per is not None and steps is not None and per != steps:
            told = "else later updates use samples of an older policy, clipped"
            wrong.append(f"steps_per_generation must be gradient_accumulation_steps, {steps}, got {per}: {told}")
        batch, most = found.get("generation_batch_size"), found.get("num_generations", FEW) * len(self.tables.prompts)
        if batch and batch > most:
            told = "TRL leaves incomplete batches out and would train on nothing"
            wrong.append(f"generation_batch_size must be at most {most}, all generations, got {batch}: {told}")
        return wrong

    def callback(self) -> Any:
        """A TrainerCallback that writes the tables into every checkpoint, and compares them when a run goes on."""
        from transformers import TrainerCallback

        tables = self.tables

        class Beside(TrainerCallback):
            def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
                if state.is_world_process_zero:
                    tables.save(Path(args.output_dir) / f"checkpoint-{state.global_step}")

            def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
                saved = Path(args.output_dir) / f"checkpoint-{state.global_step}"
                if state.global_step and saved.is_dir():
                    Tables.load(saved, tables.prompts, **tables.made_with)

        return Beside()

    def trainer(self, model: str | os.PathLike[str], output_dir: str | os.PathLike[str], *,
                processes: int | None = None, **changes: Any) -> Any:  # fmt: skip
        """TRL's RLOOTrainer for a model in a folder or on the Hub, checked, with the tables in its checkpoints.

        `changes` are any other arguments of RLOOConfig. Raises: ImportError where TRL is missing; as `check`, and as
        `lm.model_folder.check_files` for a folder.
        """
        try:
            from datasets import Dataset
            from huggingface_hub import constants
            from trl import RLOOConfig, RLOOTrainer
        except ImportError as error:
            raise ImportError(f"TRL must be installed: pip install 'infalign-edu[trl]' ({error})") from None
        constants.HF_HUB_DISABLE_TELEMETRY = True  # TRL tells the Hub of every trainer that is made
        if Path(model).is_dir():
            check_files(Path(model))  # TRL would take a pickle where there are no safetensors
        config = RLOOConfig(output_dir=str(output_dir), **self.settings(**changes))
        function: Any = self  # TRL's type wants a list that may hold None
        data = Dataset.from_dict(self.columns())
        made = RLOOTrainer(str(model), function, config, train_dataset=data, callbacks=[self.callback()])
        self.check(made, processes=processes)
        return made


LOOKED_AT = {*KEPT, "beta", "max_completion_length", "chat_template_kwargs", "steps_per_generation",
             "gradient_accumulation_steps", "generation_batch_size", "num_generations"}  # fmt: skip


def _said(completion: Any) -> str:
    """The text of a completion: a string, or the messages that TRL gives for chats."""
    text = completion if isinstance(completion, str) else "".join(message["content"] for message in completion)
    return text.strip()


def _deviations(config: Any) -> str:
    """What a GRPOConfig does beyond the KL by the token, in words."""
    scale, more = getattr(config, "scale_rewards", "group"), ""
    if not getattr(config, "use_bias_correction_kl", False):
        more += ", with the gradient of KL(pi_ref || pi)"
    if scale not in ("none", False):
        more += f", and scale_rewards={scale!r} divides Phi by its deviation, so that beta is multiplied by it"
    return more


def _world(config: Any, trainer: Any, expected: int | None) -> list[str]:
    running = getattr(getattr(trainer, "accelerator", None), "num_processes", None) or getattr(config, "world_size", 1)
    if expected is None or running == expected:
        return []
    told = "launch with torchrun --nproc_per_node N or accelerate launch --multi_gpu"
    return [f"processes must be {expected}, got {running}: accelerate launch --cpu runs a single one; {told}"]


def _complain(wrong: list[str]) -> None:
    if wrong:
        raise ValueError("\n".join(wrong))
