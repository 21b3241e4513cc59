"""What every policy is: three methods and a frozen copy."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from speechrl.types import Actions, Decoding, Example, Rollout


class Policy(nn.Module, ABC):
    """Turns examples into answers, and tells how likely an answer is.

    A subclass is final: it holds a network, says how text becomes actions, how actions are drawn, and how they are
    scored. It hears each example once, however many rows are asked of it. Rewards and tasks are unknown to it.
    """

    base_identity: str = ""
    """A fingerprint of the weights that training starts from: a checkpoint fits no other base."""

    @abstractmethod
    def encode(self, texts: Sequence[str]) -> Actions:
        """Answers as actions: a label's index, or the tokens of the text and an end-of-text.

        Raises ValueError naming the text that this policy cannot answer with.
        """

    @abstractmethod
    def sample(
        self, examples: Sequence[Example], group_size: int, decoding: Decoding, generator: torch.Generator
    ) -> Rollout:
        """G answers to each of B examples; those of example b are rows b*G ... b*G + G - 1.

        The rollout's log-probabilities carry a gradient only where that costs no further pass (a classifier's do).
        """

    @abstractmethod
    def logps(self, examples: Sequence[Example], actions: Actions, temperature: float = 1.0) -> Float[Tensor, "n t"]:
        """Log-probability of each action given the actions before it, differentiable; 0 on padding.

        N is a multiple of len(examples); rows b*(N/B) ... belong to example b.
        """

    @abstractmethod
    def save_pretrained(self, folder: str) -> None:
        """Writes weights and configuration that plain transformers loads back to identical scores."""

    def forward(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """Calls a method by name, so that wrappers of `forward` (DDP, FSDP, functional_call) see every use."""
        return getattr(self, method)(*args, **kwargs)

    def frozen(self) -> "Frozen":
        """What GRPO is held to: a snapshot of the trained tensors, sharing everything that is not trained."""
        return Frozen(self)

    def label_logps(self, examples: Sequence[Example], labels: Sequence[str]) -> Float[Tensor, "b l"]:
        """Log-probability of each label as the whole answer, the continuous score that an EER needs."""
        rows = self.encode(labels).to(self.device).repeat(len(examples))
        return self.logps(examples, rows).sum(-1).view(len(examples), len(labels))

    def embed(self, examples: Sequence[Example]) -> Float[Tensor, "b d"]:
        """One vector a clip, for the policies that make one on their way to an answer; ValueError from the others."""
        raise ValueError(f"{type(self).__name__} has no embedding of a clip; set evaluation.drift_clips=0")

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    def trained_state(self) -> dict[str, Tensor]:
        """The tensors that training changes, by name: what a checkpoint or a snapshot holds."""
        return {name: tensor for name, tensor in self.named_parameters() if tensor.requires_grad}


class Frozen:
    """A policy as it was: the trained tensors are copies, everything else is the live policy's own."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self.state = {name: tensor.detach().clone() for name, tensor in policy.trained_state().items()}

    def _call(self, method: str, *args: Any, **kwargs: Any) -> Any:
        with torch.no_grad(), eval_mode(self._policy):
            return torch.func.functional_call(self._policy, self.state, (method, *args), kwargs)

    def sample(
        self, examples: Sequence[Example], group_size: int, decoding: Decoding, generator: torch.Generator
    ) -> Rollout:
        """As `Policy.sample`, by the snapshot."""
        return self._call("sample", examples, group_size, decoding, generator)

    def logps(self, examples: Sequence[Example], actions: Actions, temperature: float = 1.0) -> Float[Tensor, "n t"]:
        """As `Policy.logps`, by the snapshot and without gradient."""
        return self._call("logps", examples, actions, temperature)

    def refresh(self) -> None:
        """Takes the live policy's tensors as they are now."""
        self.load({name: tensor.detach() for name, tensor in self._policy.trained_state().items()})

    def load(self, state: dict[str, Tensor]) -> None:
        """Takes another snapshot's tensors, for a resumed run."""
        for name, tensor in self.state.items():
            tensor.copy_(state[name])


class eval_mode:  # noqa: N801  (used as a context, like torch.no_grad)
    """Evaluation mode inside the block, the former mode of every module after it."""

    def __init__(self, module: nn.Module) -> None:
        self._module = module

    def __enter__(self) -> None:
        self._training = [m for m in self._module.modules() if m.training]
        self._module.eval()

    def __exit__(self, *_: object) -> None:
        for module in self._training:
            module.training = True


def without_dropout(module: nn.Module) -> None:
    """Sets every dropout probability to 0, so that training mode scores as evaluation mode does.

    Not `eval()`, which would also turn gradient checkpointing off.
    """
    for part in module.modules():
        if isinstance(part, nn.Dropout):
            part.p = 0.0
        # transformers keeps some of them as plain numbers: on the module, or (layerdrop) on its configuration
        for holder in (part, getattr(part, "config", None)):
            for name in ("dropout", "attention_dropout", "activation_dropout", "layerdrop"):
                if isinstance(getattr(holder, name, None), float):
                    setattr(holder, name, 0.0)
