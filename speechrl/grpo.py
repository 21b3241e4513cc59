"""GRPO in one page: advantages, the k3 divergence, and the clipped loss, as pure functions of [N, T] tensors.

Notation: r[b, g] reward of answer g to example b; p the policy, p_old the one that drew the answers, p_ref the one it
is held to; rho = p(a) / p_old(a) for one action a.

    advantage    A[b, g] = (r[b, g] - center) / (scale + floor)
    ratio        rho     = exp(log p - log p_old)
    k3           KL      = exp(log p_ref - log p) - (log p_ref - log p) - 1
    per action   l       = min(rho * A, clip(rho, 1 - clip_low, 1 + clip_high) * A) - beta * KL
    sequence     loss    = - mean over answers of (mean of l over the answer's actions)
    token        loss    = - (sum of l over all actions) / (number of actions)

Every published form is a choice of arguments:

    per-group GRPO (2402.03300, 2603.02914 Eq. 3-4)        center = scale = "group"
    normalised over the whole batch (2603.02914, as run)   center = scale = "batch"
    on-policy, simplified (GRPO_s; 2503.11197 as run)      old_logps = None: rho is 1 and its gradient is grad log p
    without negative reward (2603.02914, ablation)         center = scale = "none", old_logps = None
    DAPO's token mean (2509.16990 Eq. 3)                   how = "token"
    reference answer in the group (2509.16990 Eq. 4)       old_logps = 0 and infinite clip bounds on that row
"""

from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

Scope = Literal["group", "batch", "none"]
How = Literal["sequence", "token"]


def advantages(
    rewards: Float[Tensor, "b g"], *, center: Scope = "group", scale: Scope = "group", floor: float = 1e-4
) -> Float[Tensor, "b g"]:
    """How much better each answer is than its peers: those of its group, or those of the whole batch.

    The deviation is unbiased (ddof = 1), as torch's and every released code's is; of a single answer it is 0. Reckoned
    in double precision: in single, equal rewards leave a rounding error that a small floor makes an advantage of 0.02.
    """
    exact = rewards.double()
    baseline = {"group": exact.mean(1, keepdim=True), "batch": exact.mean(), "none": exact.new_zeros(())}
    deviation = {"group": _std(exact, 1), "batch": _std(exact, (0, 1)), "none": exact.new_ones(()) - floor}
    return ((exact - baseline[center]) / (deviation[scale] + floor)).to(rewards.dtype)


def _std(rewards: Tensor, axes: int | tuple[int, ...]) -> Tensor:
    groups = rewards.mean(axes, keepdim=True).numel()
    return rewards.std(axes, keepdim=True) if rewards.numel() > groups else torch.zeros_like(rewards)


def kl(logps: Float[Tensor, "n t"], ref_logps: Float[Tensor, "n t"]) -> Float[Tensor, "n t"]:
    """The k3 estimate of KL(p || p_ref) at the drawn actions: never negative, unbiased under p."""
    delta = ref_logps - logps
    return torch.expm1(delta) - delta


def aggregate(
    values: Float[Tensor, "n t"], mask: Bool[Tensor, "n t"], how: How = "sequence", count: Tensor | float | None = None
) -> Float[Tensor, ""]:
    """One number of [N, T]: the mean over answers of their means, or the mean over all actions.

    `count` replaces what is divided by (answers, or actions) when these rows are a part of a step: of a micro-batch, or
    of one of several processes. The parts' results then add up to the step's.
    """
    weights = mask.to(values.dtype)
    if how == "token":
        return (values * weights).sum() / (weights.sum() if count is None else count)
    means = (values * weights).sum(1) / weights.sum(1).clamp(min=1)
    return means.sum() / (len(means) if count is None else count)


def loss(
    logps: Float[Tensor, "n t"],
    old_logps: Float[Tensor, "n t"] | None,
    ref_logps: Float[Tensor, "n t"] | None,
    advantage: Float[Tensor, " n"],
    mask: Bool[Tensor, "n t"],
    *,
    clip_low: float | Float[Tensor, "n 1"] = 0.2,
    clip_high: float | Float[Tensor, "n 1"] = 0.2,
    beta: float = 0.04,
    how: How = "sequence",
    count: Tensor | float | None = None,
) -> Float[Tensor, ""]:
    """The GRPO loss of a rollout; `old_logps=None` is on-policy, `ref_logps=None` goes with `beta=0`."""
    ratio = (logps - (logps.detach() if old_logps is None else old_logps)).exp()
    weight = advantage[:, None]
    low = torch.as_tensor(1 - clip_low, dtype=ratio.dtype, device=ratio.device)
    high = torch.as_tensor(1 + clip_high, dtype=ratio.dtype, device=ratio.device)
    value = torch.minimum(ratio * weight, ratio.clamp(low, high) * weight)
    if ref_logps is not None:
        value = value - beta * kl(logps, ref_logps)
    return -aggregate(value, mask, how, count)


def clipped(ratio: Float[Tensor, "n t"], advantage: Float[Tensor, " n"], clip_low: float, clip_high: float) -> Tensor:
    """Where the clip stops the gradient, a boolean [N, T]: the fraction to watch."""
    weight = advantage[:, None]
    return ((ratio > 1 + clip_high) & (weight > 0)) | ((ratio < 1 - clip_low) & (weight < 0))
