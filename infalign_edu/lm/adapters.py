"""Low-rank adapters (LoRA): of a large model only small matrices are trained, W + SCALE B A, and W itself is shared.

The reference stays the model that was loaded; the policy is a second set of layers over the *same* weight tensors, so
that both together take the memory of one. The only file that imports peft, and only when an adapter is asked for.
Left out: dropout (KL(pi || pi_ref) would not start at 0), biases, and quantised base weights.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

if TYPE_CHECKING:
    from infalign_edu.lm.policy import Policy

SCALE = 2  # alpha / rank: fixed, so that the rank alone says what a checkpoint holds
MARK = ".lora_"  # in the name of each adapter weight, in a model and in a checkpoint
FILE = "adapter_model.safetensors"  # peft's name for it
DOWN = ".lora_A."  # the matrix A, [rank, inputs]


def attach(reference: Policy, rank: int, *, seed: int = 0) -> Policy:
    """A policy that starts as the reference: its frozen weights, shared, and trainable adapters with B = 0.

    Source: Hu et al., LoRA (arXiv 2106.09685): y = W x + SCALE B A x on every linear layer but the head; A is drawn by
    the seed, B is zero, so KL(pi || pi_ref) is exactly 0. Adapters are float32 whatever the weights are. The reference
    is frozen. Raises: ValueError for a rank that is no positive integer, ImportError without peft.

    Example:
        >>> from infalign_edu.lm.models import load
        >>> count(attach(load("embedded"), 4).model)   # doctest: +SKIP
        14336
    """
    from infalign_edu.lm.policy import Policy

    shared = {id(t): t for t in (*reference.model.parameters(), *reference.model.buffers())}
    model = copy.deepcopy(reference.model, shared)  # the layers are new, the tensors are not
    policy = Policy(
        model, reference.tokenizer, name=reference.name, max_new_tokens=reference.max_new_tokens, chat=reference.chat
    )
    inject(model, rank, seed=seed)
    return policy


def inject(model: torch.nn.Module, rank: int, *, seed: int = 0) -> None:
    """Puts untrained adapters into a model, in place, and freezes all its other weights. Raises: as `attach`."""
    if isinstance(rank, bool) or not isinstance(rank, int) or rank < 1:
        raise ValueError(f"rank must be a positive integer, got {rank!r}")
    try:
        import peft
    except ImportError:
        raise ImportError("lora_rank above 0 needs peft: pip install 'infalign-edu[lora]', or take 0") from None
    from transformers.pytorch_utils import Conv1D

    transposed = any(isinstance(module, Conv1D) for module in model.modules())  # GPT-2 keeps W the other way round
    wanted = peft.LoraConfig(
        r=rank, lora_alpha=SCALE * rank, lora_dropout=0.0, target_modules="all-linear", fan_in_fan_out=transposed
    )
    with torch.random.fork_rng(devices=[]):  # peft draws from the global generator; nobody else's numbers move
        peft.inject_adapter_in_model(wanted, model)
    generator = torch.Generator().manual_seed(seed)
    for name, weight in model.named_parameters():
        weight.requires_grad_(MARK in name)
        if MARK in name:
            weight.data = weight.data.float()
        if DOWN in name:
            bound = weight.shape[1] ** -0.5  # what peft takes, from a generator of our own: the same on every device
            weight.data.copy_((2 * torch.rand(weight.shape, generator=generator) - 1) * bound)


def count(model: torch.nn.Module) -> int:
    """Number of adapter weights of a model."""
    return sum(weight.numel() for name, weight in model.named_parameters() if MARK in name)


def rank_in(tensors: Mapping[str, torch.Tensor]) -> int:
    """The rank of the adapters among named tensors, 0 if there are none.

    >>> rank_in({"policy.layer.lora_A.default.weight": torch.zeros(4, 32)}), rank_in({"policy.bias": torch.ones(2)})
    (4, 0)
    """
    return next((int(value.shape[0]) for name, value in tensors.items() if DOWN in name), 0)


@torch.no_grad()
def merged(model: Any) -> Any:
    """A plain model with W + SCALE B A in the place of W, as any program reads it; else the model itself."""
    if not count(model):
        return model
    plain = copy.deepcopy(model)
    for name, layer in list(plain.named_modules()):
        if hasattr(layer, "lora_A") and hasattr(layer, "base_layer"):
            layer.merge()
            plain.set_submodule(name, layer.base_layer)
    del plain.peft_config
    return plain


def save(policy: Policy, folder: str | Path) -> Path:
    """Writes the adapters alone in peft's own format: adapter_config.json and adapter_model.safetensors.

    Raises: ValueError for a policy without adapters.
    """
    from infalign_edu.lm.files import whole_folder

    if not count(policy.model):
        raise ValueError(f"policy must have adapters to be saved without its base, got {policy.name} with none")
    named = {_filed(name): p.detach().cpu().contiguous() for name, p in policy.model.named_parameters() if MARK in name}
    with whole_folder(folder) as beside:
        policy.model.peft_config["default"].save_pretrained(str(beside))
        save_file(named, str(beside / FILE), metadata={"format": "pt"})
    return Path(folder)


def load(reference: Policy, folder: str | Path) -> Policy:
    """The policy that `save` wrote, over the weights of the reference that it was trained from.

    Raises: ValueError for a folder that `save` did not write, or that belongs to another model.
    """
    try:
        saved = load_file(str(Path(folder) / FILE))
    except (OSError, SafetensorError) as error:
        told = f"{' '.join(str(error).split())[:200]}; save them again, a pickle is never opened"
        raise ValueError(f"adapters must be a folder with {FILE}, got {folder}: {told}") from None
    policy = attach(reference, rank_in(saved) or 1)
    into = {_filed(name): weight for name, weight in policy.model.named_parameters() if MARK in name}
    if {name: value.shape for name, value in saved.items()} != {name: value.shape for name, value in into.items()}:
        raise ValueError(f"adapters {folder} must be those of {reference.name}, got weights of another model")
    with torch.no_grad():
        for name, weight in into.items():
            weight.copy_(saved[name])
    return policy


def _filed(name: str) -> str:
    """The name of an adapter weight in peft's own files."""
    return "base_model.model." + name.replace(".default.", ".")
