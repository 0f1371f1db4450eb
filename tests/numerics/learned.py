"""Objectives, algorithms, shaped rewards, statistics of preferences, tokens, costs: all that learning computes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from tiny_policy import tiny

import infalign_edu as ia
from infalign_edu import theory
from infalign_edu.lm import rewards as R
from infalign_edu.lm import rollouts
from infalign_edu.lm.policy import token_kl
from infalign_edu.lm.rewards import preferences as pairs
from infalign_edu.lm.table import EnumerablePolicy, SmallTransformer
from infalign_edu.rl import algorithms, cost, evaluation, objectives, shaping, toy, trainer
from infalign_edu.rl.algorithms import distillation, grpo, ppo, preference, quantile_regression

from . import close, fuzz, log_uniform, probabilities, rewards, rises, transform, whole

Call = tuple[str, Callable[..., torch.Tensor], tuple[Any, ...]]


def tensor_calls(rng: np.random.Generator) -> Iterator[Call]:
    """Every function of tensors, with float64 tensors and masks."""
    P, M, L, V = whole(rng, 1, 4), whole(rng, 2, 8), whole(rng, 1, 6), whole(rng, 2, 9)
    Rr = P * M
    beta = log_uniform(rng, 1e-3, 1e3)

    def table(*shape: int) -> torch.Tensor:
        return torch.tensor(rng.normal(size=shape) * rng.choice([0.1, 1.0, 3.0]))

    def logs(*shape: int) -> torch.Tensor:
        return table(*shape, V).log_softmax(-1)

    mask = torch.arange(L)[None] < torch.tensor(rng.integers(1, L + 1, Rr))[:, None]
    policy, reference = logs(Rr, L), logs(Rr, L)
    ours, theirs = (x[..., 0].masked_fill(~mask, 0.0) for x in (policy, reference))
    group, phi = table(P, M), table(Rr)
    yield "sequence_logprobs", objectives.sequence_logprobs, (ours, mask)
    yield "kl_regularized_rewards", objectives.kl_regularized_rewards, (phi, ours.sum(1), theirs.sum(1), beta)
    yield "rloo_advantages", objectives.rloo_advantages, (group,)
    yield "policy_gradient_loss", objectives.policy_gradient_loss, (ours.sum(1), phi)
    yield "exact_kl", objectives.exact_kl, (policy, reference, mask)
    yield "prefix_weights", objectives.prefix_weights, (ours, theirs)
    yield "exact_kl, weighted", objectives.exact_kl, (policy, reference, mask, objectives.prefix_weights(ours, theirs))
    yield "token_rewards", ppo.token_rewards, (phi, ours, theirs, mask, beta)
    yield "generalized_advantages", ppo.generalized_advantages, (table(Rr, L), table(Rr, L), mask, float(rng.uniform()))
    yield "clipped_loss", ppo.clipped_loss, (ours, theirs, table(Rr, L), mask, 0.2)
    yield "group_advantages", grpo.group_advantages, (group,)
    yield "group_advantages, plain", grpo.group_advantages, (group, False)
    yield "k3", grpo.k3, (ours, theirs)
    yield "pair_differences", preference.pair_differences, (group,)
    gaps = preference.pair_differences(group)
    yield "dpo_loss", preference.dpo_loss, (gaps, gaps.sigmoid(), beta)
    yield "ipo_loss", preference.ipo_loss, (gaps, (1 + gaps.sign()) / 2, beta)
    weights = torch.tensor(distillation.best_worst_weights.__wrapped__(M, int(rng.integers(2, M + 1))))
    yield "likelihood_loss", distillation.likelihood_loss, (-group.abs(), weights)
    yield "contrast_loss", distillation.contrast_loss, (group, weights, distillation.contrast(M))
    yield "qrpo_loss", quantile_regression.qrpo_loss, (table(Rr), phi, beta, float(rng.normal()))


def moved(arguments: tuple[Any, ...], change: Callable[[torch.Tensor], torch.Tensor]) -> tuple[Any, ...]:
    return tuple(change(a) if isinstance(a, torch.Tensor) else a for a in arguments)


@fuzz(fast=40)
def tensors(rng: np.random.Generator, n: int) -> None:
    """Finite, float32 as float64, and what each must obey."""
    for _ in range(n):
        found = {}
        for name, function, arguments in tensor_calls(rng):
            full = found[name] = function(*arguments)
            assert full.dtype == torch.float64 and torch.isfinite(full).all(), name
            single = function(*moved(arguments, lambda x: x if x.dtype == torch.bool else x.float()))
            assert single.dtype == torch.float32, name
            sizes = [float(a.abs().max()) for a in arguments if isinstance(a, torch.Tensor) and a.numel() and a.dtype != torch.bool]
            scalars = [abs(a) for a in arguments if isinstance(a, float)]
            size = max([1.0, *sizes]) * max([1.0, *scalars]) + float(full.abs().max())
            if name in ("ipo_loss",):
                size += (max(sizes) + 0.5 / min(scalars)) ** 2
            if name == "group_advantages":  # divides rounding errors of the rewards by their spread
                spread = arguments[0].std(-1, correction=0)
                size += max(sizes) / float(spread.min() + grpo.FLOOR)
            close(single.double() / size, full / size, 2e-5)
        for name in ("exact_kl", "exact_kl, weighted", "k3", "dpo_loss", "ipo_loss", "contrast_loss", "qrpo_loss", "prefix_weights"):
            assert found[name].min() >= -1e-12, name
        close(found["rloo_advantages"].sum(-1), 0, 1e-8)
        close(found["group_advantages"].sum(-1), 0, 1e-8)
        assert found["sequence_logprobs"].max() <= 0 and (found["prefix_weights"][:, 0] == 1).all()


@fuzz(fast=150)
def drawn_tokens(rng: np.random.Generator, n: int) -> None:
    for _ in range(n):
        B, V = whole(rng, 1, 6), whole(rng, 2, 300)
        logits = torch.tensor(rng.normal(size=(B, V)) * log_uniform(rng, 1e-3, 300), dtype=torch.float32)
        logits[torch.tensor(rng.random((B, V)) < 0.3)] = -torch.inf
        logits[:, 0] = logits[:, 0].clamp(min=0)
        u = torch.tensor(rng.choice([0.0, np.nextafter(1, 0), 0.5, *rng.random(3)], B))
        token, logprob = rollouts.draw(logits, u)
        assert torch.isfinite(logits.gather(1, token[:, None])).all() and torch.isfinite(logprob).all()
        close(logprob, logits.log_softmax(-1).gather(1, token[:, None])[:, 0], 1e-6)
        block = rollouts.uniform_block(B, V, whole(rng, 1, 10**9), None)
        assert block.dtype == torch.float64 and block.min() >= 0 and block.max() < 1
        rows = [list(range(whole(rng, 1, 9))) for _ in range(B)]
        ids, mask = rollouts.pad(rows, 0, left=True)
        assert [line[m].tolist() for line, m in zip(*rollouts.trim(ids, mask), strict=True)] == rows
        parts = list(rollouts.batches(mask.sum(1), V % 5 + 1, whole(rng, 1, 20)))
        assert sorted(torch.cat(parts).tolist()) == list(range(B * (V % 5 + 1)))


@fuzz(fast=150)
def preferences(rng: np.random.Generator, n: int) -> None:
    for _ in range(n):
        count = whole(rng, 1, 400)
        right = float(rng.choice([0, count, rng.uniform(0, count)]))
        low, high = R.wilson(right, count)
        assert -1e-12 <= low <= right / count + 1e-9 and right / count - 1e-9 <= high <= 1 + 1e-12
        close([1 - high, 1 - low], R.wilson(count - right, count), 1e-7)
        given = [R.Preference("ask", f"a{i % 3} no" if rng.random() < 0.5 else f"b{i}", f"c{i}") for i in range(min(count, 12))]
        table = dict(zip([t for p in given for t in (p.chosen, p.rejected)], rewards(rng, 2 * len(given)), strict=True))

        def reward(prompts: list[str], responses: list[str], table: dict[str, float] = table) -> list[float]:
            return [table.get(text, 0.0) for text in responses]

        found = R.agreement(reward, given)
        probabilities([found["accuracy"], *np.clip(found["interval"], 0, 1)])
        assert (pairs.gaps(reward, R.relabelled(given, reward)) >= 0).all()
        assert 0.5 <= R.ceiling(reward, given, log_uniform(rng, 1e-3, 1e3)) <= 1
        noise = R.noise(whole(rng, 1, 10**6), ["ask"] * 5, list("abcde"))
        assert np.isfinite(noise).all() and np.abs(noise).max() < 9
        noisy = R.Noisy(lambda p, r: np.zeros(len(r)), 2.0, 3)
        close(noisy(["ask"], ["a"]), 2 * R.noise(3, ["ask"], ["a"]))
        chosen = pairs.label_pairs(rewards(rng, 50), rng, log_uniform(rng, 1e-3, 1e3))
        assert chosen.shape == (50,)
        trigger = R.Trigger("no", "front")
        weak, strong = (R.corrupt(given, trigger, s, seed=1) for s in (0.3, 0.9))
        assert all(b == a or b != p for a, b, p in zip(weak, strong, given, strict=True))
        probabilities(R.frequency(trigger, [p.chosen for p in R.insert(given, trigger, float(rng.uniform()))]))
        groups = pairs.by_prompt(given)
        assert sum(len(b.chosen) for b in pairs.batches(groups, 4, rng)) == len(given)
    close(R.effect(lambda p, r: [float(len(t)) for t in r], R.Trigger("no", "front"), ["a"] * 2, ["so", "so far"]), 1.5)


@fuzz(fast=20)
def shaped(rng: np.random.Generator, n: int) -> None:
    for _ in range(n):
        P, K = whole(rng, 1, 5), whole(rng, 2, 64)
        table = rng.normal(size=(P, K)) * log_uniform(rng, 1e-3, 1e3)
        for name, shape in (("raw", shaping.raw), ("z-score", shaping.z_score), ("log-sigmoid", shaping.log_sigmoid)):
            asked = np.sort(rng.normal(size=(P, 6)), axis=1)
            values = shape(asked, table)
            assert np.isfinite(values).all()
            rises(values, 1e-12)
            phi = shaping.Shaped(name, table)
            kl = phi.kl(log_uniform(rng, 1e-3, 1e3))
            assert -1e-12 <= kl <= np.log(K) + 1e-12 and np.isfinite(phi(table, np.arange(P))).all()
            most = phi.kl(1e-3)
            wanted = float(rng.uniform(0.1, 0.8)) * most
            if wanted > 1e-6:
                close(phi.kl(phi.beta_for_kl(wanted)), wanted, 1e-6)
                W = phi.win_rate(wanted, "best-of-4")
                probabilities(W)
                assert W >= 0.5 - 1e-9
    noisy = shaping.Shaped("z-score", rewards(np.random.default_rng(3), 2, 8) * 0 + 1.0)
    assert noisy.kl(1.0) == 0


@fuzz(fast=20)
def exact_policies(rng: np.random.Generator, n: int) -> None:
    """Where GRPO, BoNBoN and QRPO lead, on enumerable responses."""
    for i in range(n):
        words, length = int(rng.integers(2, 4)), int(rng.integers(1, 3))
        S = words**length
        reference, phi = rng.dirichlet(np.ones(S)).clip(1e-6), rng.normal(size=S)
        reference /= reference.sum()
        policy = grpo.fixed_point(reference, phi, log_uniform(rng, 1e-2, 1e2), words, corrected=bool(rng.integers(2)))
        probabilities(policy)
        close(policy.sum(), 1)
        assert policy @ phi >= reference @ phi - 1e-9
        beta, K = log_uniform(rng, 1e-2, 1e3), whole(rng, 1, 4096)
        Z = quantile_regression.log_partition(ia.Identity(), beta)
        close(Z, np.log(-np.expm1(-1 / beta)) + np.log(beta) + 1 / beta, 1e-7)
        assert abs(quantile_regression.log_partition(ia.Identity(), beta, K)) <= 1 / beta + 1e-9
        close(quantile_regression.QRPO().told(ia.Identity(), K).log_z(beta), quantile_regression.log_partition(ia.Identity(), beta, K))
        close(preference.IPO().told(ia.standardize(transform(rng))).scale, 12**0.5, 1e-6)  # a standardized transform
        M = whole(rng, 2, 40)
        w = distillation.best_worst_weights.__wrapped__(M, int(rng.integers(2, M + 1)))
        probabilities(w)
        close(w.sum(), 1)
        assert distillation.contrast(M) > 0
        if i % 5 == 0:
            problem = theory.FiniteProblem(reference, phi)
            N = int(rng.integers(2, 6))
            best = distillation.optimum(problem, N, float(rng.uniform(0.05, 1)))
            close(best.sum(), 1)
            J = distillation.best_and_worst(np.sort(reference), N)
            assert J.min() >= -1e-12
            close(J.sum(), 1)


@fuzz(fast=100)
def judged(rng: np.random.Generator, n: int) -> None:
    """Shares, matched KLs and what theory says of a trained policy."""
    for i in range(n):
        a, b = rng.normal(size=2)
        close(evaluation.share_of(a, b) * b, a)
        assert np.isnan(evaluation.share_of(a, 0.0))
        kls = np.sort(rng.uniform(0, 2, 4))
        path = [(s, float(k), ia.PromptMean(rng.uniform(size=3))) for s, k in enumerate(kls)]
        at = evaluation.at_matched_kl(float(rng.uniform(kls[0], kls[-1])), path)
        assert min(w.mean for _, _, w in path) - 1e-12 <= at.win_rate.mean <= max(w.mean for _, _, w in path) + 1e-12
        if i % 25 == 0:
            W = evaluation.theory_at(transform(rng), log_uniform(rng, 1e-6, 1e-2), ia.BestOfN(whole(rng, 1, 64)))
            assert 0.5 - 1e-9 <= W <= 1
        pair = evaluation.Comparison("a", "b", 0.1, {}, ia.PromptMean(rng.normal(size=5)), float(abs(b)) + 0.1)
        low, high = pair.gain_share_interval()
        assert low <= pair.gain_share <= high


@fuzz(fast=100)
def costs(rng: np.random.Generator, n: int) -> None:
    for _ in range(n):
        size = cost.Shape(*(whole(rng, 1, 100) for _ in range(4)), whole(rng, 2, 10**5), bool(rng.integers(2)))
        plan = cost.Plan(*(whole(rng, 1, 10**4) for _ in range(8)))
        more = cost.cost(size, plan, rank=whole(rng, 1, 64))
        assert more.training_flop > 0 and more.calibration_flop > 0 and more.devices >= 1 and size.lora(3) == 3 * size.lora(1)
        assert plan.calibration_tokens == plan.calibration_samples * plan.response_tokens and plan.training_tokens > 0
        assert more.table_bytes == plan.table_bytes and more.calibration_hours < more.training_hours + more.calibration_hours
        assert size.cache_bytes > 0 and size.parameters > 0
    assert len(cost.table()) == 2 + len(cost.SHAPES)


@fuzz(fast=12)
def small_policies(rng: np.random.Generator, n: int) -> None:
    """Tables and transformers that can be enumerated, and the tiny language model: KL >= 0, distributions, streams."""
    policy = tiny()
    for i in range(n):
        world = toy.ToyWorld(words=int(rng.integers(2, 4)), length=int(rng.integers(2, 4)), seed=int(rng.integers(1000)))
        pi = world.policy("transformer").distribution()
        probabilities(pi)
        close(pi.sum(), 1, 1e-6)
        name = str(rng.choice(["identity", "exp:10"])) if i % 2 else "optimal best-of-4"
        target = world.target(name, kl=log_uniform(rng, 1e-2, 0.3))
        assert target.objective(pi) <= target.optimum.objective + 1e-9 and target.kl_to_optimum(pi) >= -1e-9
        close(target.optimum.objective - target.objective(pi), target.beta * target.kl_to_optimum(pi), 1e-6)
        if target.shown:
            assert target.shown_gap(pi) >= -1e-9
        probabilities(target.group_std_optimum())
        scores = world.score(target)(np.array([0]), world.reference.responses())
        assert abs(toy.group_std(world.score(target))(np.array([0]), world.reference.responses()).transformed.mean()) < 1e-6
        assert scores.calibrated.shape == (1, len(pi)) and min(row["kl"] for row in toy.curve(world.trainer(target, steps=1, samples_per_prompt=16), target, 1)) >= 0
        step = world.trainer(target, steps=2, samples_per_prompt=8, algorithm=algorithms.NAMES[i % len(algorithms.NAMES)])
        assert all(np.isfinite(list(step.advance().values())).all() for _ in range(2))
        assert trainer.stream(i, 1) != trainer.stream(i, 2)
        other = tiny(seed=i + 1)
        drawn = policy.sample(["w0 w1", "w2"], 3, seed=i)
        exact = token_kl(policy, other, drawn)
        assert exact.min() >= -1e-6 and token_kl(policy, policy, drawn).abs().max() < 1e-6
        close(evaluation.sequence_kl(policy, other, drawn), exact.detach().sum(1), 1e-4)
        assert policy.logprobs(drawn).max() <= 0
        table = EnumerablePolicy.from_distribution(np.full(8, 1 / 8), 2, 3)
        close(table.distribution(), 1 / 8, 1e-6)
        assert SmallTransformer(2, 3, seed=i)(torch.as_tensor(table.sequences())[:, :2]).shape == (8, 3, 2)
