"""What the loop maximises, as pure functions on tensors.

The objective is E_pi[Phi(C)] - beta KL(pi || pi_ref) with the *sequence-level* KL inside the reward. That choice keeps
the transform: the optimum is pi_ref exp(Phi / beta), up to normalisation. Dividing advantages by the group's standard
deviation and a per-token KL in the loss change the objective, and with it the meaning of Phi: `algorithms.grpo` has
both. What one algorithm alone needs is in its own module of `rl.algorithms`.
"""

from __future__ import annotations

import torch


def sequence_logprobs(logprobs: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """log pi(y | x) = sum_t log pi(y_t | x, y_<t), in nats.

    Shape: logprobs [rows, tokens], mask [rows, tokens] bool -> [rows].

    >>> sequence_logprobs(torch.tensor([[-1.0, -2.0, -9.0]]), torch.tensor([[True, True, False]]))
    tensor([-3.])
    """
    return logprobs.masked_fill(~mask, 0.0).sum(-1)


def kl_regularized_rewards(
    transformed: torch.Tensor, logprobs: torch.Tensor, reference_logprobs: torch.Tensor, beta: float
) -> torch.Tensor:
    """Phi(C) - beta log(pi(y | x) / pi_ref(y | x)): its mean under pi is E[Phi] - beta KL(pi || pi_ref).

    Paper: KL-regularised RL on the transformed reward is the last step of CTRL (arXiv 2412.19792).
    Shape: transformed, logprobs, reference_logprobs [rows] (nats) -> [rows].

    >>> kl_regularized_rewards(torch.tensor([1.0]), torch.tensor([-2.0]), torch.tensor([-3.0]), beta=0.5)
    tensor([0.5000])
    """
    return transformed - beta * (logprobs - reference_logprobs)


def rloo_advantages(rewards: torch.Tensor) -> torch.Tensor:
    """A_i = r_i - mean of the other responses' rewards: REINFORCE with a leave-one-out baseline.

    Source: Kool, van Hoof and Welling 2019; Ahmadian et al., arXiv 2402.14740. The baseline does not depend on y_i, so
    the gradient stays unbiased; each group's advantages sum to zero.

    Shape: rewards [prompts, samples] -> [prompts, samples]. Raises: ValueError for fewer than two samples.

    >>> rloo_advantages(torch.tensor([[1.0, 2.0, 6.0]]))
    tensor([[-3.0000, -1.5000,  4.5000]])
    """
    samples = rewards.shape[-1]
    if samples < 2:
        raise ValueError(f"samples_per_prompt must be at least 2 for a leave-one-out baseline, got {samples}")
    return (rewards - rewards.mean(-1, keepdim=True)) * (samples / (samples - 1))


def policy_gradient_loss(logprobs: torch.Tensor, advantages: torch.Tensor) -> torch.Tensor:
    """-mean_i A_i log pi(y_i | x): its gradient is minus the policy gradient for on-policy samples.

    Source: Williams 1992 (REINFORCE). Shape: logprobs, advantages [rows] -> scalar; advantages carry no gradient.

    >>> policy_gradient_loss(torch.tensor([-1.0, -3.0]), torch.tensor([1.0, -1.0]))
    tensor(-1.)
    """
    return -(advantages.detach() * logprobs).mean()


def exact_kl(
    log_policy: torch.Tensor, log_reference: torch.Tensor, mask: torch.Tensor, weights: torch.Tensor | None = None
) -> torch.Tensor:
    """sum_t KL(pi(. | h_t) || pi_ref(. | h_t)) along each response, over the whole vocabulary, in nats.

    Under y ~ pi its mean is KL(pi || pi_ref) of whole responses (chain rule), with less variance than log-ratios; so it
    is under y ~ pi_ref with the `prefix_weights` of the tokens as `weights`.

    Shape: log_policy, log_reference [rows, tokens, V], mask and weights [rows, tokens] -> [rows].

    >>> half, mask = torch.tensor([[[0.5, 0.5]]]).log(), torch.ones(1, 1, dtype=torch.bool)
    >>> exact_kl(torch.tensor([[[1.0, 0.0]]]).log(), half, mask)         # log 2
    tensor([0.6931])
    """
    policy = log_policy.exp()
    tokens = (policy * (log_policy - log_reference)).sum(-1)
    if tokens.isnan().any():  # 0 log 0 = 0, looked at only where it occurs
        tokens = torch.where(policy > 0, policy * (log_policy - log_reference), 0.0).sum(-1)
    tokens = tokens.clamp(min=0.0).masked_fill(~mask, 0.0)  # rounding can end below 0
    return (tokens if weights is None else tokens * weights).sum(-1)


def prefix_weights(logprobs: torch.Tensor, reference_logprobs: torch.Tensor) -> torch.Tensor:
    """pi(y_<t | x) / pi_ref(y_<t | x): how much more often the policy visits the state before token t.

    Shape: logprobs, reference_logprobs [rows, tokens] in nats, 0 on padding -> [rows, tokens], 1 at the first token.

    >>> prefix_weights(torch.tensor([[0.5, 0.5]]).log(), torch.tensor([[0.25, 0.1]]).log())
    tensor([[1., 2.]])
    """
    ratios = (logprobs - reference_logprobs).cumsum(-1)
    return torch.nn.functional.pad(ratios[:, :-1], (1, 0)).exp()
