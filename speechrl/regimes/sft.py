"""Supervised fine-tuning: the loss is minus the log-probability of the reference answer."""

from collections.abc import Iterator, Sequence
from typing import Any

from speechrl import grpo
from speechrl.policies.base import Policy
from speechrl.regimes.base import Objective, Optimisation, Part, Regime, total
from speechrl.types import Example


class Supervised(Objective):
    """L = -log p(target | example), averaged over answers, or over all their tokens (`how="token"`)."""

    def __init__(self, *, how: grpo.How = "sequence") -> None:
        self._how = how

    def parts(self, policy: Policy, examples: Sequence[Example], step: int, micro_batch: int | None) -> Iterator[Part]:
        """As many examples at a time as `micro_batch` says."""
        actions = policy.encode([example.target for example in examples]).to(policy.device)
        count = total(float(actions.mask.sum()) if self._how == "token" else float(len(examples)))
        size = micro_batch or len(examples)
        for start in range(0, len(examples), size):
            rows = actions.rows(slice(start, start + size))
            logps = policy("logps", examples[start : start + size], rows)
            share = float((logps.detach().sum(1)).exp().sum()) / len(examples)
            yield Part(-grpo.aggregate(logps, rows.mask, self._how, count), {"target_probability": share})


class SFT(Regime):
    """Supervised fine-tuning alone."""

    def __init__(self, policy: Policy, sft: Supervised, optimisation: Optimisation, **run: Any) -> None:
        super().__init__(policy, [sft], optimisation, **run)
