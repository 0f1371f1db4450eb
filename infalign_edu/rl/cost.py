"""What a CTRL run costs before it is run: samples, tokens, arithmetic and memory, from sizes alone.

Every number is a formula of a model's shape and a plan's counts; tests hold the parts that can be counted (parameters,
arithmetic of a forward pass, key-value cache, optimizer, table) against real models. Device hours rest on two shares of
the peak that are assumed, not measured. Left out: attention scores, activations, communication, the reward model.
"""

from __future__ import annotations

from dataclasses import dataclass

TRAINED_BYTES = 16  # a trained parameter: bf16 weight 2, gradient 2, float32 master 4, Adam's two moments 4 + 4
FROZEN_BYTES = 2  # a frozen parameter in bf16
HOUR = 3600.0


@dataclass(frozen=True)
class Shape:
    """A decoder-only transformer with gated feed-forward layers. `kv` is the width of keys: below `width` if shared.

    >>> f"{Shape(layers=32, width=4096, kv=1024, hidden=14336, vocabulary=128256).parameters:,}"
    '8,030,261,248'
    """

    layers: int
    width: int
    kv: int
    hidden: int
    vocabulary: int
    tied: bool = False  # one matrix for embedding and head

    @property
    def parameters(self) -> int:
        """L (2 d^2 + 2 d k + 3 d h + 2 d) + V d (2 d k: keys, values; 2 d: norms), V d again for a head, and d."""
        d = self.width
        layer = 2 * d * d + 2 * d * self.kv + 3 * d * self.hidden + 2 * d
        return self.layers * layer + (1 if self.tied else 2) * self.vocabulary * d + d

    @property
    def cache_bytes(self) -> int:
        """Keys and values of one token in bf16: 2 L k values of 2 bytes."""
        return 2 * self.layers * self.kv * 2

    def lora(self, rank: int) -> int:
        """Parameters of adapters on every linear layer: rank (inputs + outputs) of each, and there are seven."""
        d, k, h = self.width, self.kv, self.hidden
        return self.layers * rank * (2 * (d + d) + 2 * (d + k) + 3 * (d + h))


@dataclass(frozen=True)
class Plan:
    """How much is sampled: K reference samples a prompt, then `steps` updates of so many prompts and samples.

    >>> Plan().calibration_tokens / Plan().training_tokens
    1.25
    """

    prompts: int = 10_000
    K: int = 64
    steps: int = 1000
    prompts_per_step: int = 64
    samples_per_prompt: int = 8
    prompt_tokens: int = 256
    response_tokens: int = 256
    rows: int = 64  # responses that are decoded at once on one device

    @property
    def calibration_samples(self) -> int:
        """prompts x K."""
        return self.prompts * self.K

    @property
    def training_samples(self) -> int:
        """steps x prompts a step x samples a prompt."""
        return self.steps * self.prompts_per_step * self.samples_per_prompt

    @property
    def calibration_tokens(self) -> int:
        """Response tokens that the reference samples."""
        return self.calibration_samples * self.response_tokens

    @property
    def training_tokens(self) -> int:
        """Response tokens that the policy samples."""
        return self.training_samples * self.response_tokens

    @property
    def table_bytes(self) -> int:
        """The calibration table: one float64 a reference sample."""
        return 8 * self.calibration_samples


@dataclass(frozen=True)
class Cost:
    """Arithmetic in FLOP, memory in bytes, time in device hours; see `cost`."""

    parameters: int
    calibration_flop: float
    training_flop: float
    full_bytes: int
    lora_bytes: int
    cache_bytes: int
    table_bytes: int
    calibration_hours: float
    training_hours: float

    @property
    def devices(self) -> int:
        """Devices of 80 GB that hold all states and one cache, if four fifths of each may be filled; at least 1."""
        return max(1, -(-(self.full_bytes + self.cache_bytes) // int(0.8 * 80e9)))


def cost(
    shape: Shape, plan: Plan = Plan(), *, rank: int = 16, peak: float = 989e12, decoding: float = 0.1,
    updating: float = 0.35,
) -> Cost:
    """What a plan costs with a model of that shape.

    A forward pass takes 2 N FLOP a token, a backward pass 4 N. Calibration: a prompt is read once, K responses are
    decoded. Training: of each prompt and response the sampled tokens are decoded (2 N), then policy and reference score
    all tokens (2 N each) and the update goes through them forward and backward (6 N). Hours: FLOP over `peak` times
    the share of it that `decoding` and `updating` reach; both shares are assumptions.

    Source: 2 N and 6 N, Kaplan et al., arXiv 2001.08361. Derived: the sums.

    >>> found = cost(Shape(layers=32, width=4096, kv=1024, hidden=14336, vocabulary=128256))
    >>> found.devices, f"{found.full_bytes / 1e9:.0f} GB"
    (3, '145 GB')
    """
    N, tokens = shape.parameters, plan.prompt_tokens + plan.response_tokens
    calibration = 2.0 * N * (plan.prompts * plan.prompt_tokens + plan.calibration_tokens)
    read = plan.steps * plan.prompts_per_step * plan.prompt_tokens
    decoded = 2.0 * N * (read + plan.training_tokens)
    scored = 10.0 * N * plan.training_samples * tokens
    return Cost(
        parameters=N,
        calibration_flop=calibration,
        training_flop=decoded + scored,
        full_bytes=(TRAINED_BYTES + FROZEN_BYTES) * N,
        lora_bytes=FROZEN_BYTES * N + TRAINED_BYTES * shape.lora(rank),
        cache_bytes=plan.rows * tokens * shape.cache_bytes,
        table_bytes=plan.table_bytes,
        calibration_hours=calibration / (peak * decoding) / HOUR,
        training_hours=(decoded / (peak * decoding) + scored / (peak * updating)) / HOUR,
    )


SHAPES = {
    "1 M": Shape(layers=4, width=128, kv=128, hidden=384, vocabulary=1024, tied=True),
    "135 M": Shape(layers=30, width=576, kv=192, hidden=1536, vocabulary=49152, tied=True),
    "1 B": Shape(layers=16, width=2048, kv=512, hidden=8192, vocabulary=128256, tied=True),
    "8 B": Shape(layers=32, width=4096, kv=1024, hidden=14336, vocabulary=128256),
    "70 B": Shape(layers=80, width=8192, kv=1024, hidden=28672, vocabulary=128256),
}
"""Shapes from a laptop's to a cluster's; the last four are those of common open models."""


def table(plan: Plan = Plan()) -> list[str]:
    """The rows of the cost table in Markdown, head first; teaching/scaling_out.md shows it.

    >>> len(table()) == 2 + len(SHAPES)
    True
    """
    head = ("model", "parameters", "calibration, FLOP", "training, FLOP", "all weights trained", "LoRA", "cache",
            "device hours, calibration", "device hours, training", "80 GB devices")  # fmt: skip
    lines: list[tuple[str, ...]] = [head]
    for name, shape in SHAPES.items():
        c = cost(shape, plan)
        memory = (_bytes(size) for size in (c.full_bytes, c.lora_bytes, c.cache_bytes))
        hours = (f"{x:.2g}" if x < 100 else f"{x:,.0f}" for x in (c.calibration_hours, c.training_hours))
        flop = (f"{value:.1e}" for value in (c.calibration_flop, c.training_flop))
        lines.append((name, f"{c.parameters:,}", *flop, *memory, *hours, str(c.devices)))
    shown = [f"| {' | '.join(line)} |" for line in lines]
    return [shown[0], "|" + "---|" * len(head), *shown[1:]]


def _bytes(size: float) -> str:
    unit, scale = next(pair for pair in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("bytes", 1.0)) if size >= pair[1])
    return f"{size / scale:.3g} {unit}"
