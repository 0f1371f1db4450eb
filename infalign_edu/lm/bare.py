"""GPT-2's forward pass on bare tensors: the same numbers as transformers', without the frame around them.

A model of 300,000 weights spends a third of its time on what surrounds the arithmetic: building attention masks,
appending to the key-value cache by copying it, passing keyword arguments down. Here the cache is a buffer with room to
grow, and a mask is made only where there is padding. Derived: tests/test_bare.py holds logits, gradients and samples
against transformers'. A part that is no plain linear layer, as with adapters, is called as it is. Left out: every other
architecture, other devices and formats than float32 on a CPU; `fits` says no there and the model runs itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional as F

RISE = 2 * math.sqrt(2 / math.pi)  # gelu's tanh form is x sigmoid(RISE (x + BEND x^3))
BEND = 0.044715
ROOM = 32  # tokens a buffer has room for beyond those it holds
DENSE = 400  # numbers in one head's keys from which torch multiplies a batch of matrices by its fast kernel


def fits(model: Any) -> bool:
    """Whether `Cache` computes what this model's own forward pass does: a float32 GPT-2 in evaluation mode.

    >>> fits(torch.nn.Linear(2, 2))
    False
    """
    from transformers.models.gpt2.modeling_gpt2 import GPT2MLP, GPT2Attention, GPT2LMHeadModel

    if type(model) is not GPT2LMHeadModel:
        return False
    c = model.config
    if c.add_cross_attention or not c.scale_attn_weights or c.scale_attn_by_inverse_layer_idx:
        return False
    if c.reorder_and_upcast_attn or model.training or model.device.type != "cpu" or model.dtype != torch.float32:
        return False
    if any(part._forward_hooks or part._forward_pre_hooks for part in model.modules()):
        return False
    blocks: Any = model.transformer.h
    return all(type(block.attn) is GPT2Attention and type(block.mlp) is GPT2MLP for block in blocks)


class Cache:
    """Keys and values of a GPT-2, and the forward pass that fills them; takes the place of a `DynamicCache`.

    The weights used are the model's own tensors. Without gradients keys and values lie time first in a buffer that is
    written in place; with gradients they are joined anew, so that autograd may look back.
    Shape: each buffer [>= length, rows, heads, d].
    """

    def __init__(self, model: Any) -> None:
        body = model.transformer
        self.heads, self.length = model.config.n_head, 0
        self.tokens, self.places = body.wte.weight, body.wpe.weight
        self.last, self.head = _norm(body.ln_f), model.lm_head
        self.layers = [
            (_norm(b.ln_1), _affine(b.attn.c_attn), _affine(b.attn.c_proj), _norm(b.ln_2), _affine(b.mlp.c_fc),
             _activation(b.mlp.act), _affine(b.mlp.c_proj)) for b in body.h
        ]  # fmt: skip
        self.spare: list[torch.Tensor] = []  # memory to be used again, flat
        self.held: list[torch.Tensor] = []  # keys and values of the first layer, of the second, ...

    def batch_select_indices(self, rows: torch.Tensor) -> None:
        """Keep these rows, in this order; a row may be kept more than once."""
        if torch.is_grad_enabled():
            self.held = [one[: self.length].index_select(1, rows) for one in self.held]
            return
        for i, one in enumerate(self.held):
            self.held[i] = self._buffer(one, max(len(one), self.length + ROOM), len(rows))
            torch.index_select(one[: self.length], 1, rows, out=self.held[i][: self.length])
            self.spare.append(one.flatten())

    def _buffer(self, like: torch.Tensor, room: int, rows: int) -> torch.Tensor:
        """Place for `room` tokens of so many rows, in memory that an earlier selection left, if it is enough.

        What `_one_query` may read before it is written is 0. Shape: [room, rows, heads, d].
        """
        shape = (room, rows, *like.shape[2:])
        fit = next((i for i, left in enumerate(self.spare) if left.numel() >= math.prod(shape)), None)
        made = like.new_empty(math.prod(shape)) if fit is None else self.spare.pop(fit)[: math.prod(shape)]
        made = made.view(shape)
        made[self.length : _dense(like)] = 0.0
        return made

    def logits(self, tokens: torch.Tensor, seen: torch.Tensor, keep: int) -> torch.Tensor:
        """Logits after the last `keep` tokens. Shape: tokens [rows, n], seen [rows, length + n] -> [rows, keep, V]."""
        return self.head(self.states(tokens, seen)[:, -keep:])

    def states(self, tokens: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
        """Last hidden states. Shape: tokens [rows, n], seen [rows, length + n] bool -> [rows, n, d]."""
        (rows, n), whole = tokens.shape, bool(seen.all())
        if whole:
            places = torch.arange(self.length, self.length + n, device=tokens.device)
        else:
            counted = seen.cumsum(-1)[:, -n:] if n > 1 else seen.sum(-1, keepdim=True)
            places = (counted - 1).clamp_(min=0)
        x = (F.embedding(tokens, self.tokens) + F.embedding(places, self.places)).view(rows * n, -1)
        mask, alone = _mask(seen, n, whole), n == 1 and not torch.is_grad_enabled()
        for i, (norm, attend, project, norm2, widen, act, narrow) in enumerate(self.layers):
            mixed = attend(F.layer_norm(x, *norm)).view(rows, n, 3, self.heads, -1)
            q, k, v = mixed.permute(2, 1, 0, 3, 4)  # [n, rows, heads, d] each
            k, v = self._put(2 * i, k), self._put(2 * i + 1, v)
            mixed = _one_query(q, k, v, self.length + 1, mask) if alone else _attention(q, k, v, mask)
            x = x + project(mixed.reshape(rows * n, -1))
            x = x + narrow(act(widen(F.layer_norm(x, *norm2))))
        self.length += n
        return F.layer_norm(x, *self.last).view(rows, n, -1)

    def _put(self, place: int, new: torch.Tensor) -> torch.Tensor:
        """Everything held in that place, `new` included. Shape: [n, rows, heads, d] -> [length + n, rows, heads, d].

        For a single query without gradients zeros may follow, up to DENSE numbers a head.
        """
        n, now = len(new), self.length
        if place == len(self.held):
            self.held.append(new[:0])
        old = self.held[place]
        if torch.is_grad_enabled():
            self.held[place] = torch.cat([old[:now], new])
            return self.held[place]
        reach = max(now + n, _dense(new)) if n == 1 else now + n
        if len(old) < reach:
            self.held[place] = self._buffer(new, reach + (ROOM if now else 0), new.shape[1])
            self.held[place][:now] = old[:now]
        self.held[place][now : now + n] = new
        return self.held[place][:reach]


def _dense(like: torch.Tensor) -> int:
    """Keys from which a head's products are large enough for torch's fast kernel. Shape: like [..., d]."""
    return -(-DENSE // like.shape[-1])


def _attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """softmax(q k / sqrt(d)) v. Shape: q [n, rows, heads, d], k and v [all, rows, heads, d] -> [rows, n, heads, d]."""
    q, k, v = (one.permute(1, 2, 0, 3) for one in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2)


def _one_query(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, length: int, mask: torch.Tensor | None
) -> torch.Tensor:
    """The same for one query a row, as small matrix products, which are faster there than the kernel for any number.

    Only the first `length` keys count. Shape: q [1, rows, heads, d], k and v [>= length, rows, heads, d], mask as
    `_mask` has it -> [rows x heads, 1, d].
    """
    _, rows, heads, d = q.shape
    q, k, v = (one.reshape(len(one), rows * heads, d).transpose(0, 1) for one in (q * d**-0.5, k, v))
    scores = torch.bmm(q, k.transpose(1, 2))  # [rows x heads, 1, reach]
    scores[:, :, length:] = -torch.inf
    if mask is not None:
        scores.view(rows, heads, -1)[:, :, :length].masked_fill_(~mask[:, 0], -torch.inf)
    return torch.bmm(scores.softmax(-1), v)


def _mask(seen: torch.Tensor, n: int, whole: bool) -> torch.Tensor | None:
    """Which key each query may look at; a padded one looks at itself, so that none is empty. [rows or 1, 1, n, all]."""
    if n == 1:
        return None if whole else seen[:, None, None, :]
    total = seen.shape[1]
    past = torch.ones(n, total, dtype=torch.bool, device=seen.device).tril(total - n)
    if whole:
        return past[None, None]
    own = torch.zeros_like(past)
    own.diagonal(total - n).fill_(True)
    return ((past & seen[:, None]) | own)[:, None]


class _Gelu(torch.autograd.Function):
    """The tanh form of GELU by its logistic function, whose vectorised form is more than twice as fast as tanh's."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        s = torch.addcmul(x.new_tensor(RISE), x, x, value=RISE * BEND).mul_(x).sigmoid_()
        y = x * s
        ctx.save_for_backward(x, s, y)
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> torch.Tensor:
        x, s, y = ctx.saved_tensors  # dy/dx = s + y (1 - s) RISE (1 + 3 BEND x^2)
        slope = torch.addcmul(x.new_tensor(RISE), x, x, value=3 * RISE * BEND)
        return slope.mul_(torch.addcmul(y, y, s, value=-1)).add_(s).mul_(gradients[0])


def _activation(act: Any) -> Callable[[torch.Tensor], torch.Tensor]:
    """A model's activation, on a CPU in its faster form where it is the tanh form of GELU."""
    return _Gelu.apply if type(act).__name__ in ("GELUTanh", "NewGELUActivation") else act


def _affine(part: Any) -> Callable[[torch.Tensor], torch.Tensor]:
    """x W + b of a linear layer of GPT-2; anything else in its place is called as it is."""
    if type(part).__name__ != "Conv1D":
        return part
    weight, bias = part.weight, part.bias
    return lambda x: torch.addmm(bias, x, weight)


def _norm(part: Any) -> tuple[tuple[int, ...], torch.Tensor, torch.Tensor, float]:
    return part.normalized_shape, part.weight, part.bias, part.eps
