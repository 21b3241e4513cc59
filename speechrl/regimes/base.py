"""The training step that SFT, GRPO and the hybrid share: parts of a loss, one clipped optimiser step, selection."""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pytorch_lightning as pl
import torch
import torch.distributed as dist
from jaxtyping import Float
from pytorch_lightning.core.optimizer import LightningOptimizer
from torch import Tensor

from speechrl.policies.base import Policy
from speechrl.types import Example, Rollout, seed_of

DECAYS: dict[str, Callable[[float], float]] = {
    "none": lambda done: 1.0,
    "linear": lambda done: 1.0 - done,
    "cosine": lambda done: 0.5 * (1.0 + torch.cos(torch.tensor(torch.pi * done)).item()),
    "exponential": lambda done: 0.01**done,
}


@dataclass(frozen=True, kw_only=True)
class Optimisation:
    """How a stage of training runs: its length, its AdamW, its schedule, and how often it looks at validation data.

    `steps` optimiser steps of `batch_size` examples each, or, where `batch_seconds` is given, of as many as fit into
    that much audio. `micro_batch` examples at a time are scored and differentiated; it changes memory, never numbers.
    """

    steps: int = 1000
    lr: float = 1e-6
    batch_size: int = 16
    batch_seconds: float | None = None
    micro_batch: int | None = None
    weight_decay: float = 0.0
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    max_grad_norm: float = 1.0
    warmup_steps: int = 0
    decay: str = "none"
    decay_steps: int | None = None
    validate_every: int = 100

    def __post_init__(self) -> None:
        if self.decay not in DECAYS:
            raise ValueError(f"optimisation.decay={self.decay!r}: choose one of {', '.join(DECAYS)}")
        if min(self.steps, self.batch_size, self.validate_every) < 1 or (self.micro_batch or 1) < 1:
            raise ValueError("optimisation: steps, batch_size, micro_batch and validate_every must be at least 1")

    def rate(self, step: int) -> float:
        """The learning rate of a stage's step, counted from 0: a linear ramp, then the decay."""
        if step < self.warmup_steps:
            return self.lr * (step + 1) / self.warmup_steps
        horizon = self.decay_steps or self.steps
        return self.lr * DECAYS[self.decay](min((step - self.warmup_steps) / max(horizon - self.warmup_steps, 1), 1.0))


def total(value: float) -> float:
    """The sum of a number over all processes."""
    if not (dist.is_initialized() and dist.get_world_size() > 1):
        return value
    values: list[float] = [0.0] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return sum(values)


def gathered(rows: Float[Tensor, "b g"]) -> tuple[Float[Tensor, "all g"], slice]:
    """The rows of all processes, one below the other, and which of them are this one's."""
    if not (dist.is_initialized() and dist.get_world_size() > 1):
        return rows, slice(0, len(rows))
    everywhere: list[Tensor] = [rows] * dist.get_world_size()
    dist.all_gather_object(everywhere, rows.cpu())
    start = sum(len(part) for part in everywhere[: dist.get_rank()])
    return torch.cat([part.to(rows) for part in everywhere]), slice(start, start + len(rows))


@dataclass(frozen=True, eq=False)
class Judged:
    """A rollout with what its answers earned."""

    rollout: Rollout
    terms: Mapping[str, Tensor]
    advantages: Float[Tensor, "b g"]
    rewards: Float[Tensor, "b g"]


@dataclass
class Part:
    """A share of a step's loss and of what the step has to tell; the shares of all parts add up."""

    loss: Tensor
    logs: dict[str, float]
    judged: Judged | None = None
    """The whole step's answers, with its first part."""


class Objective(ABC):
    """What a stage minimises; told apart from the loop so that the hybrid is two of them, one after the other."""

    def prepare(self, policy: Policy) -> None:
        """The run starts with the policy as it is now."""

    def begin(self, policy: Policy) -> None:
        """The stage starts with the policy as it is now."""

    def finish_step(self, step: int) -> None:
        """An optimiser step of the stage, counted from 1, has been taken."""

    @abstractmethod
    def parts(self, policy: Policy, examples: Sequence[Example], step: int, micro_batch: int | None) -> Iterator[Part]:
        """The step's loss in parts that add up to it, each to be differentiated before the next is asked for."""

    def state(self) -> dict[str, Any]:
        """What a resumed run needs besides the policy."""
        return {}

    def load(self, state: dict[str, Any], policy: Policy) -> None:
        """Goes on from `state()`."""

    def notes(self, logs: Mapping[str, float]) -> Iterator[str]:
        """Plain words about a step's log: what is alarming, and what only looks so."""
        yield from ()


@dataclass(frozen=True)
class Selection:
    """Which weights a stage leaves: those that `measure` likes best, scored on validation data."""

    measure: Callable[[Policy], dict[str, float]]
    metric: str
    higher_is_better: bool

    def better(self, new: float, best: float | None) -> bool:
        """Whether a score beats the best so far; the earlier of two equals stays."""
        return best is None or (new > best if self.higher_is_better else new < best)


class Regime(pl.LightningModule):
    """One or two stages of manual optimisation on a policy; each starts from the best weights of the one before.

    Optimisation is manual because a step is split into parts: under automatic optimisation DDP would average the
    gradients of unfinished steps. The state of a run is the policy's trained tensors, the optimiser's, each
    objective's, and the best score; every random choice is a function of (seed, step), so nothing else is kept.
    """

    def __init__(
        self,
        policy: Policy,
        stages: Sequence[Objective],
        optimisation: Optimisation,
        *,
        seed: int = 0,
        selection: Selection | None = None,
        keep_best: Callable[[int, dict[str, Tensor]], None] | None = None,
        read_best: Callable[[int], dict[str, Tensor]] | None = None,
        keep_rollout: Callable[[int, Sequence[Example], Judged], None] | None = None,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.strict_loading = False  # a checkpoint leaves out what was never trained
        self.policy = policy
        self.stages = list(stages)
        self.optimisation = optimisation
        self.seed = seed
        self.selection = selection
        self.best: list[float | None] = [None] * len(self.stages)
        self._keep_best, self._read_best, self._keep_rollout = keep_best, read_best, keep_rollout
        self._begun = -1
        self._noted: set[str] = set()

    @property
    def total_steps(self) -> int:
        """Optimiser steps of all stages together."""
        return self.optimisation.steps * len(self.stages)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW over what is trained; fused where the tensors allow it."""
        o = self.optimisation
        trained = list(self.policy.trained_state().values())
        return torch.optim.AdamW(
            trained, lr=o.lr, betas=(o.beta1, o.beta2), eps=o.eps, weight_decay=o.weight_decay, fused=True
        )

    @property
    def _optimizer(self) -> LightningOptimizer:
        optimizer = self.optimizers()
        assert isinstance(optimizer, LightningOptimizer)
        return optimizer

    def transfer_batch_to_device(self, batch: list[Example], device: torch.device, _: int) -> list[Example]:
        """Leaves the frozen examples alone: the policy moves what it reads."""
        return batch

    def on_fit_start(self) -> None:
        """Training mode, the first stage begun, and validation once before any step."""
        self.policy.train()
        if self._begun < 0:
            for stage in self.stages:
                stage.prepare(self.policy)
            self._begin(0)

    def _begin(self, stage: int) -> None:
        if stage and self._read_best and self.best[stage - 1] is not None:
            with torch.no_grad():
                for name, tensor in self._read_best(stage - 1).items():
                    self.policy.get_parameter(name).copy_(tensor)
        if stage:
            self._optimizer.optimizer.state.clear()
        self.stages[stage].begin(self.policy)
        self._begun = stage

    def training_step(self, batch: list[Example], _: int) -> None:
        """One optimiser step on one batch of examples."""
        self._started, step = time.perf_counter(), self.global_step
        stage, within = divmod(step, self.optimisation.steps)
        if stage != self._begun:
            self._begin(stage)
        torch.manual_seed(seed_of(self.seed, step, "dropout"))
        optimizer = self._optimizer
        optimizer.zero_grad()
        for group in optimizer.param_groups:
            group["lr"] = self.optimisation.rate(within)
        logs = self._differentiate(self.stages[stage], batch, step)
        logs["grad_norm"] = float(self._clip())
        optimizer.step()
        self.stages[stage].finish_step(within + 1)
        logs["lr"], logs["stage"] = self.optimisation.rate(within), float(stage)
        self._log(logs, batch)
        if (within + 1) % self.optimisation.validate_every == 0 or within + 1 == self.optimisation.steps:
            self._select(stage)

    def _differentiate(self, objective: Objective, batch: list[Example], step: int) -> dict[str, float]:
        logs: dict[str, float] = {}
        for part in objective.parts(self.policy, batch, step, self.optimisation.micro_batch):
            self.manual_backward(part.loss)
            if part.judged and self._keep_rollout:
                self._keep_rollout(step, batch, part.judged)
            logs["loss"] = logs.get("loss", 0.0) + float(part.loss.detach())
            for name, value in part.logs.items():
                logs[name] = logs.get(name, 0.0) + value
        return logs

    def _clip(self) -> Tensor:
        gradients = [p.grad for p in self.policy.trained_state().values() if p.grad is not None]
        if dist.is_initialized() and dist.get_world_size() > 1:
            for gradient in gradients:
                dist.all_reduce(gradient)
        return torch.nn.utils.clip_grad_norm_(self.policy.trained_state().values(), self.optimisation.max_grad_norm)

    def _log(self, logs: dict[str, float], batch: list[Example]) -> None:
        logs["examples"] = float(len(batch))
        logs["audio_seconds"] = sum(example.seconds for example in batch)
        now = time.perf_counter()
        logs["examples_per_second"] = len(batch) / (now - self._started)
        for note in self.stages[self._begun].notes(logs):
            if (kind := note.split(":")[0].lstrip("0123456789.% ")) not in self._noted:
                self._noted.add(kind)
                print(f"note at step {self.global_step}: {note}")
        for logger in self.loggers:
            logger.log_metrics({f"train/{name}": value for name, value in logs.items()}, step=self.global_step)

    def _select(self, stage: int) -> None:
        if self.selection is None:
            return
        scores = self.selection.measure(self.policy)
        self.policy.train()
        for logger in self.loggers:
            logger.log_metrics(scores, step=self.global_step)
        if self.selection.better(scores[self.selection.metric], self.best[stage]):
            self.best[stage] = scores[self.selection.metric]
            if self._keep_best:
                self._keep_best(stage, self.policy.trained_state())

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Only what was trained, and what the stages remember."""
        checkpoint["state_dict"] = {f"policy.{k}": v for k, v in self.policy.trained_state().items()}
        checkpoint["regime"] = {
            "base": self.policy.base_identity,
            "stage": self._begun,
            "best": self.best,
            "objectives": [stage.state() for stage in self.stages],
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Takes up the stage, the best score and the objectives where they were left."""
        kept = checkpoint["regime"]
        if kept["base"] != self.policy.base_identity:
            raise ValueError(
                f"the checkpoint was trained from another base model: {kept['base']}, not {self.policy.base_identity}; "
                "remove the run's folder, or bring that base back"
            )
        self._begun, self.best = kept["stage"], kept["best"]
        for stage, state in zip(self.stages, kept["objectives"], strict=True):
            stage.load(state, self.policy)
