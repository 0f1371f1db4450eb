"""The embedded reference model: a small GPT-2 trained from scratch on the dialogue world, and what it is good for.

    python -m infalign_edu.lm.pretrain --out FOLDER      trains it (minutes on one core)
    python -m infalign_edu.lm.pretrain --check FOLDER    samples from it on held-out prompts and prints its quality
    python -m infalign_edu.lm.pretrain --data FOLDER     writes prompts and preference pairs, sampled from FOLDER/model

The model sees `<bos> prompt words <sep> response words <eos>`. The tokenizer's post-processor puts `<bos>` before a
prompt and `<sep>` after it, so a sampler encodes the plain prompt and draws until `<eos>`.
Left out: dropout, validation, early stopping, resuming. The data are drawn fresh at every step, so nothing overfits.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from tqdm import tqdm
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from infalign_edu.lm import lexicon, world
from infalign_edu.lm.models import load
from infalign_edu.lm.policy import Policy
from infalign_edu.lm.reference import quality, write_data

SPECIAL = {"pad_token": "<pad>", "bos_token": "<bos>", "eos_token": "<eos>", "sep_token": "<sep>", "unk_token": "<unk>"}
LONGEST = 28  # tokens a response may have, <eos> included
POSITIONS = 64


@dataclass(frozen=True)
class PretrainConfig:
    """Every number of the training run.

    >>> PretrainConfig(steps=0)
    Traceback (most recent call last):
    ValueError: steps must be a positive number, got 0
    """

    steps: int = 700
    batch: int = 128  # fresh sequences a step
    layers: int = 2
    width: int = 112
    heads: int = 4
    learning_rate: float = 7e-3
    warmup: int = 40  # steps
    weight_decay: float = 0.01
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "layers", "width", "heads", "learning_rate", "warmup"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be a positive number, got {getattr(self, name)}")


def build_tokenizer() -> PreTrainedTokenizerFast:
    """One token a word; `<bos> prompt <sep>` for one text, `<bos> prompt <sep> response <eos>` for two.

    >>> tokenizer = build_tokenizer()
    >>> tokenizer.decode(tokenizer("clean my kettle", "rinse it")["input_ids"])
    '<bos> clean my kettle <sep> rinse it <eos>'
    """
    vocabulary = {word: index for index, word in enumerate([*SPECIAL.values(), *lexicon.WORDS])}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token=SPECIAL["unk_token"]))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    core.post_processor = processors.TemplateProcessing(
        single="<bos> $A <sep>", pair="<bos> $A <sep> $B <eos>",
        special_tokens=[(token, vocabulary[token]) for token in ("<bos>", "<sep>", "<eos>")],
    )  # fmt: skip
    return PreTrainedTokenizerFast(tokenizer_object=core, model_max_length=POSITIONS, padding_side="left",
                                   clean_up_tokenization_spaces=False, **SPECIAL)  # fmt: skip


def build_model(config: PretrainConfig, tokenizer: PreTrainedTokenizerFast) -> GPT2LMHeadModel:
    """A GPT-2 with random weights, seeded: no dropout, so that KL(pi || pi_ref) is 0 at the first step of RL.

    >>> build_model(PretrainConfig(width=16), build_tokenizer()).config.n_layer
    2
    """
    torch.manual_seed(config.seed)
    model = GPT2LMHeadModel(GPT2Config(
        vocab_size=len(tokenizer), n_positions=POSITIONS, n_embd=config.width, n_layer=config.layers,
        n_head=config.heads, activation_function="gelu_pytorch_tanh", resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
        tie_word_embeddings=True, bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    ))  # fmt: skip
    model.generation_config.update(do_sample=True, temperature=1.0, top_k=0, top_p=1.0, max_new_tokens=LONGEST)
    return model


def _batch(tokenizer: PreTrainedTokenizerFast, size: int, rng: np.random.Generator) -> tuple[torch.Tensor, ...]:
    """Fresh sequences [size, tokens], padded on the right, and where a response token is to be predicted next."""
    asked = [world.TRAIN_PROMPTS[index] for index in rng.integers(len(world.TRAIN_PROMPTS), size=size)]
    pairs = [(prompt.text, world.sample_response(prompt, rng)) for prompt in asked]
    rows = tokenizer(pairs, padding=True, padding_side="right", return_tensors="pt")["input_ids"]
    answered = (rows == tokenizer.sep_token_id).cumsum(1) > 0
    predicted = answered[:, :-1] & (rows[:, 1:] != tokenizer.pad_token_id)
    return rows, predicted


def train(config: PretrainConfig, progress: bool = True) -> tuple[Policy, list[float]]:
    """Train a reference model from scratch; the same seed gives the same weights on the same kind of CPU.

    Adam with a linear warm-up and a cosine to zero, on the cross-entropy of response tokens only.

    Shape: the second value is the loss of every step [steps], nats per response token.

    >>> policy, losses = train(PretrainConfig(steps=2, batch=2, width=16), progress=False)
    >>> len(losses), policy.parameters > 0
    (2, True)
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # a model this small is slower on more
    try:
        tokenizer, rng = build_tokenizer(), np.random.default_rng(config.seed)
        model = build_model(config, tokenizer)
        optimizer = torch.optim.AdamW(
            model.parameters(), config.learning_rate, betas=(0.9, 0.98), weight_decay=config.weight_decay, fused=True
        )
        losses = []
        for step in (bar := tqdm(range(config.steps), desc="pretraining", disable=not progress, file=sys.stderr)):
            decay = 0.5 * (1 + math.cos(math.pi * step / config.steps))
            optimizer.param_groups[0]["lr"] = config.learning_rate * min(1.0, (step + 1) / config.warmup) * decay
            rows, predicted = _batch(tokenizer, config.batch, rng)
            seen = torch.ones_like(rows[:, :-1])  # padding on the right is never looked back at
            hidden = model.transformer(rows[:, :-1], attention_mask=seen).last_hidden_state[predicted]
            loss = torch.nn.functional.cross_entropy(model.lm_head(hidden), rows[:, 1:][predicted])
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            losses.append(loss.item())
            if step % 25 == 0:
                bar.set_postfix(nats_per_token=f"{losses[-1]:.3f}")
    finally:
        torch.set_num_threads(threads)
    return Policy(model, tokenizer, name="embedded reference"), losses


def _replaceable(folder: Path) -> None:
    empty = not folder.exists() or (folder.is_dir() and not any(folder.iterdir()))
    if not empty and not (folder / "model.safetensors").exists():
        raise ValueError(f"--out must be a new or empty folder or one that holds a model, got {str(folder)!r}")


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line of this module: `--out`, `--check` or `--data`; a mistake ends in one line and status 2."""
    parser = argparse.ArgumentParser(prog="infalign_edu.lm.pretrain", description=__doc__.splitlines()[0])
    task = parser.add_mutually_exclusive_group(required=True)
    task.add_argument("--out", type=Path, metavar="FOLDER", help="train a reference model and save it here")
    task.add_argument("--check", type=Path, metavar="FOLDER", help="print the quality of the model in this folder")
    task.add_argument("--data", type=Path, metavar="FOLDER", help="write prompts and preferences beside FOLDER/model")
    parser.add_argument("--steps", type=int, default=PretrainConfig.steps, help="training steps (default %(default)s)")
    parser.add_argument("--seed", type=int, default=PretrainConfig.seed, help="seed (default %(default)s)")
    chosen = parser.parse_args(arguments)
    torch.set_num_threads(1)  # a model this small is slower on more
    try:
        if chosen.out:
            _replaceable(chosen.out)
            policy, losses = train(PretrainConfig(steps=chosen.steps, seed=chosen.seed))
            policy.save(chosen.out)
            last = sum(losses[-10:]) / len(losses[-10:])
            print(f"{chosen.out}: {policy.parameters:,} parameters, {last:.3f} nats per token, "
                  f"{time.process_time():.0f} CPU seconds")  # fmt: skip
        elif chosen.check:
            for name, value in quality(load(chosen.check), world.HELDOUT_PROMPTS).items():
                print(f"{name:<54}{value:>10,}" if isinstance(value, int) else f"{name:<54}{value:>10.4f}")
        else:
            write_data(chosen.data)
    except (OSError, ValueError) as error:
        parser.error(str(error))
    return 0


if __name__ == "__main__":
    sys.exit(main())
