"""Models, tokenizers, prompts, decoders: what a policy is made of and asked for."""

from __future__ import annotations

import functools
import json
import shutil
import tempfile
from pathlib import Path

import numpy as np
import torch
from tiny_llama import tiny_llama
from tiny_policy import tiny, tokenizer_of

from infalign_edu.lm import decoding, embedded, models
from infalign_edu.lm.datasets import PromptSet
from infalign_edu.lm.policy import Policy
from infalign_edu.procedures import BestOfN

from . import Case, nan, right, wrong

ASK = ["w0 w1"]
SEEDS = (-1, 2**64, 10**30, 1.5, "a", nan, True)


@functools.cache
def policy() -> Policy:
    return tiny()


@functools.cache
def chatty() -> Policy:
    return tiny_llama()


def length(prompts: list[str], responses: list[str]) -> list[float]:
    return [float(len(text)) for text in responses]


def with_tokenizer(**special: None) -> Policy:
    """The tiny model with a tokenizer that lacks some special tokens."""
    tokenizer = tokenizer_of([f"w{i}" for i in range(6)])
    for name, value in special.items():
        setattr(tokenizer, name, value)
    return Policy(tiny().model, tokenizer, name="tiny", max_new_tokens=4)


def prompts() -> list[Case]:
    """What stands in the place of a list of prompts."""
    first = policy().sample(ASK, 1, seed=0).responses
    bad = {
        "one string": ("w0 w1", "write ['w0 w1']"), "None": (None, "got None"), "numbers": ([5], "got 5 at place 0"),
        "None in it": (["w0", None], "got None at place 1"), "bytes": ([b"w0"], "got b'w0'"), "nested": ([["w0"]], "got ['w0']"),
        "a set": ({"w0"}, "{'w0'}"), "a dict": ({"w0": 1}, "{'w0': 1}"), "surrogates": (["\ud800"], "unpaired surrogate"),
        "none": ([], "at least one prompt"), "raw bytes": (b"w0", "b'w0'"),
    }  # fmt: skip
    asked = {
        "sample": lambda p: policy().sample(p, 1, seed=0),
        "decode": lambda p: decoding.decode(policy(), length, BestOfN(2), p, 0),
        "ranked": lambda p: decoding.Ranked("best-of-2", length).draw(policy(), p, 1, seed=0),
        "blockwise": lambda p: decoding.Blockwise(length).draw(policy(), p, 1, seed=0),
        "fit a value": lambda p: decoding.LearnedValue.fit(policy(), length, p),
    }
    return [
        *[wrong(f"{ask} {name}", lambda f=f, p=p: f(p), "prompts", says)
          for ask, f in asked.items() for name, (p, says) in bad.items()],
        *[right(f"prompts in {type(given).__name__}", lambda g=given: policy().sample(g, 1, seed=0).responses, first)
          for given in (tuple(ASK), np.array(ASK), PromptSet(ASK))],
        right("prompts from a generator", lambda: policy().sample((p for p in ASK), 1, seed=0).responses, first),
        right("one prompt thrice", lambda: policy().sample(ASK * 3, 1, seed=0).row_prompts, ASK * 3),
        right("an empty prompt", lambda: len(policy().sample([""], 2, seed=0).responses), 2),
        right("a prompt of blanks", lambda: len(chatty().sample(["  "], 2, seed=0).responses), 2),
        right("unknown letters", lambda: len(policy().sample(["\u4e2d \U0001f600"], 2, seed=0).responses), 2),
        *[wrong(f"a long prompt, {who.name}", lambda w=who: w.sample(["w1", "w0 " * 100], 1, seed=0), "prompt 1", "64 tokens")
          for who in (policy(), chatty())],
        wrong("a long prompt to decode", lambda: decoding.Blockwise(length).draw(policy(), ["w0 " * 99], 1, seed=0),
              "prompt 0", "64 tokens"),
        wrong("no room for a response", lambda: policy().sample(ASK, 1, seed=0, max_new_tokens=1000), "64 tokens", "1000 new"),
    ]  # fmt: skip


def counts() -> list[Case]:
    """Numbers of samples, lengths, seeds."""
    P, D = policy(), decoding
    drawn = {"sample": lambda s: P.sample(ASK, 1, seed=s), "decode": lambda s: D.decode(P, length, BestOfN(2), ASK, s),
             "blockwise": lambda s: D.Blockwise(length).draw(P, ASK, 1, seed=s)}  # fmt: skip
    return [
        *[wrong(f"{n!r} samples", lambda n=n: P.sample(ASK, n, seed=0), "samples must be a positive integer", repr(n))
          for n in (0, -1, 1.5, None, "2", True, nan)],
        *[wrong(f"max_new_tokens={n!r}", lambda n=n: P.sample(ASK, 1, seed=0, max_new_tokens=n), "max_new_tokens", repr(n))
          for n in (0, -1, 1.5, "a")],
        *[wrong(f"micro_batch={n!r}", lambda n=n: P.sample(ASK, 1, seed=0, micro_batch=n), "micro_batch", repr(n))
          for n in (0, -1, 1.5, "a")],
        *[wrong(f"{who} by seed {str(s)[:9]}", lambda f=f, s=s: f(s), "seed must be an integer from 0", str(s)[:20])
          for who, f in drawn.items() for s in SEEDS],
        wrong("decode by no seed", lambda: D.decode(P, length, BestOfN(2), ASK, None), "seed", "None"),
        right("sample by no seed", lambda: len(P.sample(ASK, 1).responses), 1),
        right("seeds in NumPy's integers", lambda: P.sample(ASK, 1, seed=np.int64(3)).responses, P.sample(ASK, 1, seed=3).responses),
        right("the largest seed", lambda: len(P.sample(ASK, 1, seed=2**64 - 1).responses), 1),
        wrong("a seed for a generator", lambda: P.sample(ASK, 1, generator=5), "torch.Generator", "got 5"),
        wrong("a policy of -5 tokens", lambda: Policy(P.model, P.tokenizer, max_new_tokens=-5), "max_new_tokens", "-5"),
        wrong("a policy of 2.5 tokens", lambda: Policy(P.model, P.tokenizer, max_new_tokens=2.5), "max_new_tokens", "2.5"),
    ]  # fmt: skip


def formats() -> list[Case]:
    """Tokenizers that lack something, weights in other formats, weights that are no numbers."""
    broken = tiny()
    with torch.no_grad():
        broken.model.lm_head.weight.fill_(nan)
    cases = [
        *[right(f"a tokenizer without {' and '.join(s)}", lambda s=s: with_tokenizer(**dict.fromkeys(s)).sample(ASK, 2, seed=0).responses,
                lambda found: len(found) == 2 and all(isinstance(text, str) for text in found))
          for s in (("pad_token",), ("eos_token",), ("pad_token", "eos_token"))],
        right("no pad token, same draws", lambda: with_tokenizer(pad_token=None).sample(["w0", "w1 w2"], 2, seed=0).responses,
              with_tokenizer().sample(["w0", "w1 w2"], 2, seed=0).responses),
        right("no chat template", lambda: with_tokenizer().chat, False),
        wrong("chat without a template", lambda: Policy(tiny().model, with_tokenizer().tokenizer, chat=True).sample(ASK, 1),
              "chat", "template"),
        wrong("a tokenizer of other words", lambda: Policy(tiny(2).model, tokenizer_of([f"w{i}" for i in range(60)])).sample(["w50"], 1),
              "prompt 0", "tokens below 7", "got 55"),
        wrong("weights that are nan", lambda: broken.sample(ASK, 1, seed=0), "log-probabilities must be finite", "tiny"),
    ]  # fmt: skip
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        for make in (lambda d: Policy(tiny().model.to(d), with_tokenizer().tokenizer, max_new_tokens=4), lambda d: tiny_llama(dtype=d)):
            def probabilities(make=make, dtype=dtype) -> list[object]:
                other, full = make(dtype), make(torch.float32)
                drawn = other.sample(ASK, 3, seed=0)
                off = (other.logprobs(drawn) - full.logprobs(drawn)).abs().max().item()
                return [other.dtype == dtype, drawn.logprobs.dtype == torch.float32, off < 0.3]

            cases.append(right(f"{make(dtype).name} in {dtype}", probabilities, [True, True, True]))
    return cases


def tokenizers() -> list[Case]:
    """Files of tokenizers that the library behind them does not survive: some of its errors are panics of Rust."""
    whole = embedded("model")
    file = json.loads((whole / "tokenizer.json").read_text())
    parts = {
        "normalizer": {"type": "Precompiled", "precompiled_charsmap": "AAAA"},
        "pre_tokenizer": {"type": "FixedLength", "length": 0},
        "post_processor": {"type": "TemplateProcessing", "pair": [], "special_tokens": {},
                           "single": [{"SpecialToken": {"id": "zz", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]},
        "model": {"type": "Unigram", "unk_id": None, "vocab": [["a", -1.0]]},
        "truncation": {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 9},
    }  # fmt: skip
    told = {"normalizer": "can't be read: Precompiled", "truncation": "can't be read: tokenizer stride"}
    cases = []
    for part, broken in parts.items():
        folder = Path(tempfile.mkdtemp()) / part
        shutil.copytree(whole, folder)
        (folder / "tokenizer.json").write_text(json.dumps(file | {part: broken}))
        says = told.get(part, f"tokenizer of {part} must encode every text, got")
        cases.append(wrong(f"a broken {part}", lambda f=folder: models.load(f).sample(["how do i clean my kettle"], 1, seed=0), says))
    return cases


def configurations() -> list[Case]:
    """Settings of a config.json that does not fit its weights: with fewer layers a model would answer, in silence."""
    whole = embedded("model")
    file = json.loads((whole / "config.json").read_text())
    changes = {
        "n_layer 1": ({"n_layer": 1}, "name all layers", "transformer.h.1."), "n_layer 0": ({"n_layer": 0}, "name all layers", "transformer.h.0."),
        "n_head -1": ({"n_head": -1}, "num_attention_heads", "must be a positive integer, got -1"), "n_head a": ({"n_head": "a"}, "n_head", "'a'"),
        "a function": ({"activation_function": "exp"}, "can't be read: unknown 'exp'"),
    }  # fmt: skip
    cases = []
    for name, (change, *says) in changes.items():
        folder = Path(tempfile.mkdtemp())
        shutil.copytree(whole, folder, dirs_exist_ok=True)
        (folder / "config.json").write_text(json.dumps(file | change))
        cases.append(wrong(f"config.json: {name}", lambda f=folder: models.load(f), folder.name, *says))
    return cases


def choices() -> list[Case]:
    """What an own procedure may say of its draws: a reward in the place of a place would show somebody else's response."""
    best = {"max_n": 2, "cdf": BestOfN(2).cdf, "pdf": BestOfN(2).pdf, "__str__": lambda self: "own",
            "draws": lambda self, rng: 2, "select": lambda self, rewards, rng: rewards.argmax(-1)}  # fmt: skip
    spoiled = {
        "a reward": {"select": lambda self, r, g: r.max()}, "place 2 of 2": {"select": lambda self, r, g: 2}, "place -1": {"select": lambda self, r, g: -1},
        "all places": {"select": lambda self, r, g: [0, 1]}, "none": {"select": lambda self, r, g: None}, "a truth": {"select": lambda self, r, g: True},
    }  # fmt: skip
    few = {"no draw": 0, "half a draw": 1.5, "a draw too many": 3, "None": None}
    ask = {"decode": lambda p: decoding.decode(policy(), length, p, ASK * 2, 0), "ranked": lambda p: decoding.Ranked(p, length).draw(policy(), ASK, 2, seed=0)}
    own = lambda change: type("Own", (), best | change)()  # noqa: E731
    return [
        *[wrong(f"{who}, select gives {name}", lambda f=f, c=c: f(own(c)), "procedure own: select must give a whole number from 0 to 1", "got")
          for who, f in ask.items() for name, c in spoiled.items()],
        *[wrong(f"{who}, {name}", lambda f=f, n=n: f(own({"draws": lambda self, rng: n})), "procedure own: draws must be", "got")
          for who, f in ask.items() for name, n in few.items()],
        *[right(f"{who} with a number of draws by chance", lambda f=f: f(own({"draws": lambda self, rng: int(rng.integers(1, 3)), "select": lambda self, r, g: 0})).responses,
                lambda found: len(found) == 2) for who, f in ask.items()],
        *[right(f"{who} with an own best-of-2", lambda f=f: length([], f(own({})).responses), length([], f(BestOfN(2)).responses))
          for who, f in ask.items()],
    ]  # fmt: skip


def names() -> list[Case]:
    """Models and devices by name."""
    folder = Path(tempfile.mkdtemp())
    (folder / "none").mkdir()
    (folder / "none" / "config.json").write_text("{}")
    (folder / "cut.gguf").write_bytes(b"GGUFxxxx")
    specs = {
        "embeded": "'embeded'", "": "''", None: "None", 5: "'5'", "a/b/c": "'a/b/c'", "/nowhere": "'/nowhere'",
        "~nobody-here/x": "nobody-here", folder: "config.json", folder / "none": "*.safetensors", folder / "cut.gguf": "cut.gguf",
        folder / "no.gguf": "no.gguf",
    }  # fmt: skip
    return [
        *[wrong(f"model {str(spec)[-12:]!r}", lambda s=spec: models.load(s), "model", says) for spec, says in specs.items()],
        *[wrong(f"device {d!r}", lambda d=d: models.load("embedded", device=d), "device must be auto, cpu", repr(d))
          for d in ("gpu", None, "cuda:99", "meta", "cpu:x")],
        *[wrong(f"dtype {d!r}", lambda d=d: models.load("embedded", dtype=d), "dtype must be auto or one of", str(d))
          for d in ("float31", "float64", None, torch.float32)],
        wrong("dtype with a slip", lambda: models.load("embedded", dtype="bfloat6"), "did you mean 'bfloat16'"),
        wrong("responses of -1 tokens", lambda: models.load("embedded", max_new_tokens=-1), "max_new_tokens", "-1"),
    ]  # fmt: skip


def decoders() -> list[Case]:
    """Decoders with settings that are none."""
    D, P = decoding, policy()
    return [
        right("a procedure by name", lambda: D.decode(P, length, "best-of-2", ASK, 0).responses,
              D.decode(P, length, BestOfN(2), ASK, 0).responses),
        wrong("a procedure by a wrong name", lambda: D.decode(P, length, "bst-of-2", ASK, 0), "did you mean 'best-of-2'"),
        wrong("ranked by a number", lambda: D.Ranked("standard", 5), "reward", "callable", "got 5"),
        wrong("ranked under a typo", lambda: D.Ranked("bst-of-4", length), "did you mean"),
        wrong("no output", lambda: D.Ranked("best-of-2", length).draw(P, ASK, 0, seed=0), "samples", "got 0"),
        wrong("blocks of 0", lambda: D.Blockwise(length, block=0), "block", "got 0"),
        wrong("-1 draws", lambda: D.Blockwise(length, draws=-1), "draws", "-1"),
        wrong("a number for a value", lambda: D.Blockwise(5), "value", "got 5"),
        wrong("no width", lambda: D.TreeSearch(length, width=0), "width", "got 0"),
        wrong("a width of 1.5", lambda: D.TreeSearch(length, width=1.5), "width", "1.5"),
        wrong("a value of nan", lambda: D.Blockwise(lambda p, r: [nan] * len(r)).draw(P, ASK, 1, seed=0), "finite", "nan"),
        wrong("half an output", lambda: D.Blockwise(length).draw(P, ASK, 0.5, seed=0), "samples", "0.5"),
        wrong("values of one sample", lambda: D.LearnedValue.fit(P, length, ASK * 2, samples=1), "samples", "got 1"),
        wrong("values without a test", lambda: D.LearnedValue.fit(P, length, ASK, held_out=2), "held_out", "got 2"),
        wrong("win rate of no sample", lambda: D.inference_win_rate(P, P, D.Ranked("standard", length), length, ASK, 0), "samples"),
    ]  # fmt: skip


def cases() -> list[Case]:
    return [*prompts(), *counts(), *formats(), *tokenizers(), *configurations(), *choices(), *names(), *decoders()]
