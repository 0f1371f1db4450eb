"""How many rows a model is run on at a time, by what it keeps of each and what the machine has free.

Too large a micro-batch is slow before it is too much: glibc hands large blocks back to the system and faults them in
anew (measured by benchmarks/rows/choices.py), so on a CPU rows and bytes have a limit of their own, however much is
free. Left out: reading the peak of the last micro-batch and adapting to it, which would make runs differ by their past.
"""

from __future__ import annotations

from typing import Any

import torch

from infalign_edu.memory import free_memory

MAX_ROWS = 512  # of a tiny model at a time, while sampling
SAMPLING, TRAINING = 2**29, 2**32  # most bytes of one micro-batch on a CPU
LEAST, SHARE = 2**24, 4  # bytes it gets in any case; what is free is shared with so many others


def rows_to_sample(config: Any, dtype: torch.dtype, device: torch.device, length: int) -> int:
    """Rows of `length` tokens whose key-value cache and logits fit the memory of one micro-batch."""
    heads = config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // heads
    width *= getattr(config, "num_key_value_heads", None) or heads
    cache = 3 * config.num_hidden_layers * width * dtype.itemsize * length  # keys, values and one copy in flight
    limit = MAX_ROWS if device.type == "cpu" else 8 * MAX_ROWS
    return int(min(limit, max(1, budget(device, SAMPLING) // (cache + 24 * config.vocab_size))))  # float32 and float64


def rows_to_train(config: Any, dtype: torch.dtype, device: torch.device, length: int) -> int:
    """Rows of `length` tokens whose forward pass, kept for the way back, fits the memory of one micro-batch.

    Derived: a layer keeps about 20 numbers for each of its hidden ones (queries, keys, values, the four-fold inner
    layer before and after its activation, both norms), and the head six of the vocabulary's size in float32: logits,
    their softmax and gradient, the reference's. tests/test_micro_batch.py holds it against what autograd keeps.
    """
    layers = 20 * config.num_hidden_layers * config.hidden_size * dtype.itemsize
    return int(max(1, budget(device, TRAINING) // (length * (layers + 24 * config.vocab_size))))


def budget(device: torch.device, most: int) -> int:
    """Bytes of one micro-batch: half of what is free on a GPU; on a CPU a quarter of it, and no more than `most`."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] // 2
    free = free_memory()
    return most if free is None else int(min(most, max(LEAST, free * 1e9 / SHARE)))
