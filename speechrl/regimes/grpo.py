"""GRPO: several answers to each example, their rewards, and the loss of `speechrl.grpo` on them."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor

from speechrl import grpo
from speechrl.policies.base import Frozen, Policy, without_dropout
from speechrl.regimes.base import Judged, Objective, Optimisation, Part, Regime, gathered, total
from speechrl.types import Actions, Answer, Decoding, Example, generator

Reward = Callable[[Sequence[Answer], Sequence[Example]], Mapping[str, Float[Tensor, " n"]]]
"""One [N] tensor for each named term; their sum is the reward."""


@dataclass(frozen=True, kw_only=True)
class GroupSettings:
    """What a GRPO study varies. The defaults are GRPO with an advantage per group, on-policy, beta 0.04.

    `center` and `scale`: the peers that an answer is compared with (group, batch, none). `snapshot_every`: steps
    between two looks of the old policy at the current one; null is on-policy. `sample_from`: which of these two draws
    the answers. `anchor`: the reference is the policy at the start of this stage, or of the whole run. `dropout`: as
    the released detectors were trained, active in the policy but not in the reference.
    """

    group_size: int = 8
    beta: float = 0.04
    clip_low: float = 0.2
    clip_high: float = 0.2
    center: str = "group"  # a Literal would be clearer, but OmegaConf has no node for one
    scale: str = "group"
    floor: float = 1e-4
    how: str = "sequence"
    snapshot_every: int | None = None
    sample_from: str = "current"
    anchor: str = "stage"
    dropout: bool = False
    decoding: Decoding = field(default_factory=Decoding)

    def __post_init__(self) -> None:
        choices = {
            "center": ("group", "batch", "none"),
            "scale": ("group", "batch", "none"),
            "how": ("sequence", "token"),
            "sample_from": ("current", "old"),
            "anchor": ("stage", "run"),
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"grpo.{name}={getattr(self, name)!r}: choose one of {', '.join(allowed)}")
        if self.sample_from == "old" and self.snapshot_every is None:
            raise ValueError("grpo.sample_from=old needs grpo.snapshot_every, the steps between two snapshots")
        if self.floor <= 0:
            raise ValueError("grpo.floor must be above 0: a group whose answers earn alike has no deviation")
        if self.group_size < 2 and self.scale == "group":
            raise ValueError("grpo.group_size must be at least 2 where answers are compared within their group")


class GroupRelative(Objective):
    """Draws G answers to each example, has them judged, and yields the GRPO loss (2402.03300; 2603.02914 Eq. 3-4)."""

    def __init__(
        self,
        reward: Reward,
        settings: GroupSettings,
        *,
        seed: int = 0,
    ) -> None:
        self._reward, self.settings, self._seed = reward, settings, seed
        self._reference: Frozen | None = None
        self._old: Frozen | None = None

    def prepare(self, policy: Policy) -> None:
        """Holds the policy to what it is at the start of the run, where the anchor asks for that."""
        if self.settings.anchor == "run" and self.settings.beta:
            self._reference = policy.frozen()

    def begin(self, policy: Policy) -> None:
        """Takes the snapshots, and turns dropout off unless it is wanted."""
        if not self.settings.dropout:
            without_dropout(policy)
        if self.settings.beta and self._reference is None:
            self._reference = policy.frozen()
        if self.settings.snapshot_every:
            self._old = policy.frozen()

    def finish_step(self, step: int) -> None:
        """Refreshes the old policy when its time has come."""
        if self._old and step % (self.settings.snapshot_every or 1) == 0:
            self._old.refresh()

    def parts(self, policy: Policy, examples: Sequence[Example], step: int, micro_batch: int | None) -> Iterator[Part]:
        """One rollout of the whole batch, then its loss, as many examples at a time as `micro_batch` says."""
        judged = self._judge(policy, examples, step, with_gradient=micro_batch is None)
        rows = judged.rollout.actions
        count = total(float(rows.mask.sum()) if self.settings.how == "token" else float(len(rows)))
        size, group = micro_batch or len(examples), self.settings.group_size
        for start in range(0, len(examples), size):
            span = slice(start * group, (start + size) * group)
            part = self._part(policy, examples[start : start + size], judged, span, count)
            if start == 0:
                part.logs |= self._rollout_logs(judged)
                part.judged = judged
            yield part

    def _judge(self, policy: Policy, examples: Sequence[Example], step: int, with_gradient: bool) -> Judged:
        s = self.settings
        drawn_by = self._old if s.sample_from == "old" and self._old else policy
        randomness = generator(self._seed, step, "rollout", _rank())
        with torch.set_grad_enabled(with_gradient):
            rollout = drawn_by.sample(examples, s.group_size, s.decoding, randomness)
        repeated = [example for example in examples for _ in range(s.group_size)]
        terms = self._reward(rollout.answers, repeated)
        rewards = torch.stack([term.float() for term in terms.values()]).sum(0).view(len(examples), s.group_size)
        everywhere, mine = gathered(rewards)
        advantages = grpo.advantages(
            everywhere, center=cast(grpo.Scope, s.center), scale=cast(grpo.Scope, s.scale), floor=s.floor
        )[mine]
        return Judged(rollout, terms, advantages, rewards)

    def _part(self, policy: Policy, examples: Sequence[Example], judged: Judged, span: slice, count: float) -> Part:
        s, rollout = self.settings, judged.rollout
        actions: Actions = rollout.actions.rows(span)
        width = actions.ids.shape[1]
        drawn, heat = rollout.logps[span, :width], s.decoding.scale
        logps = drawn if drawn.requires_grad else policy("logps", examples, actions, heat)
        old = self._old_logps(examples, actions, drawn)
        reference = self._reference.logps(examples, actions, heat) if s.beta and self._reference else None
        advantage = judged.advantages.reshape(-1)[span].to(logps)
        loss = grpo.loss(
            logps, old, reference, advantage, actions.mask,
            clip_low=s.clip_low, clip_high=s.clip_high, beta=s.beta, how=cast(grpo.How, s.how), count=count,
        )  # fmt: skip
        with torch.no_grad():
            logs = self._score_logs(logps, drawn, old, reference, advantage, actions, len(rollout.actions))
        return Part(loss, logs)

    def _old_logps(self, examples: Sequence[Example], actions: Actions, drawn: Tensor) -> Tensor | None:
        if self._old is None:
            return None
        if self.settings.sample_from == "old":
            return drawn.detach()
        return self._old.logps(examples, actions, self.settings.decoding.scale)

    def _score_logs(
        self, logps: Tensor, drawn: Tensor, old: Tensor | None, reference: Tensor | None,
        advantage: Tensor, actions: Actions, rows: int,
    ) -> dict[str, float]:  # fmt: skip
        """This part's share of the step's means over answers."""

        def mean(values: Tensor) -> float:
            return float(grpo.aggregate(values, actions.mask, "sequence", float(rows)))

        ratio = (logps - (logps if old is None else old)).exp()
        clipped = grpo.clipped(ratio, advantage, self.settings.clip_low, self.settings.clip_high)
        return {
            "kl": mean(grpo.kl(logps, reference)) if reference is not None else 0.0,
            "ratio": mean(ratio),
            "clipped": mean(clipped.to(ratio)),
            "answer_entropy": mean(-logps),
            "sampling_gap": mean((logps - drawn).abs()) if self.settings.sample_from == "current" else 0.0,
        }

    def _rollout_logs(self, judged: Judged) -> dict[str, float]:
        """What the rewards and the answers' shapes look like, over the whole batch."""
        spread = judged.rewards.amax(1) - judged.rewards.amin(1)
        logs = {f"reward_{name}": float(term.float().mean()) for name, term in judged.terms.items()}
        return logs | {
            "reward": float(judged.rewards.mean()),
            "reward_std": float(judged.rewards.std(1).mean()) if judged.rewards.shape[1] > 1 else 0.0,
            "dead_groups": float((spread == 0).float().mean()),
            "answer_length": float(judged.rollout.actions.mask.sum(1).float().mean()),
            "ended": sum(answer.ended for answer in judged.rollout.answers) / len(judged.rollout.answers),
            "actions": float(judged.rollout.actions.mask.sum()),
        }

    def notes(self, logs: Mapping[str, float]) -> Iterator[str]:
        """What of a step's log looks alarming and is expected, and what is alarming."""
        if self._old is None and not self.settings.beta and abs(logs["loss"]) < 1e-6:
            yield "loss is 0: on-policy with beta = 0 the loss has a gradient but no value; watch the reward"
        if logs["dead_groups"] > 0.5 and self.settings.scale == "group":
            yield f"{logs['dead_groups']:.0%} of groups carry no signal: all their answers earned the same reward"
        if logs["sampling_gap"] > 0.05 and not self.settings.dropout:
            yield f"answers are scored {logs['sampling_gap']:.2f} nats away from how they were drawn: run the doctor"
        if logs["ended"] < 0.5:
            yield f"{1 - logs['ended']:.0%} of answers were cut at max_tokens={self.settings.decoding.max_tokens}"
        if logs["kl"] > 10:
            yield f"KL to the reference is {logs['kl']:.1f} nats: the policy has left it"

    def state(self) -> dict[str, Any]:
        """The snapshots that cannot be recomputed."""
        return {
            "reference": self._reference.state if self._reference else None,
            "old": self._old.state if self._old else None,
        }

    def load(self, state: dict[str, Any], policy: Policy) -> None:
        """Takes the snapshots up again."""
        if not self.settings.dropout and any(state.values()):
            without_dropout(policy)
        if state["reference"] is not None:
            self._reference = policy.frozen()
            self._reference.load(state["reference"])
        if state["old"] is not None:
            self._old = policy.frozen()
            self._old.load(state["old"])


def _rank() -> int:
    return torch.distributed.get_rank() if torch.distributed.is_initialized() else 0


class GRPO(Regime):
    """GRPO alone, from the policy as it was given."""

    def __init__(self, policy: Policy, grpo: GroupRelative, optimisation: Optimisation, **run: Any) -> None:
        super().__init__(policy, [grpo], optimisation, **run)
