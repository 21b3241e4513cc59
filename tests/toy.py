"""A policy small enough to train in a test: two labels, one linear layer on eight samples."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from speechrl.policies.base import Policy
from speechrl.types import Actions, Answer, Decoding, Example, Rollout, generator

LABELS = ("fake", "real")


class Toy(Policy):
    """p(real) = sigmoid of a linear function of the clip; counts how often it listens."""

    def __init__(self, seed: int = 0, dropout: float = 0.0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.head = nn.Linear(8, 2)
        self.dropout = nn.Dropout(dropout)
        self.heard = 0

    def encode(self, texts: Sequence[str]) -> Actions:
        ids = torch.tensor([[LABELS.index(text)] for text in texts])
        return Actions(ids, torch.ones_like(ids, dtype=torch.bool))

    def scores(self, examples: Sequence[Example], temperature: float) -> Tensor:
        self.heard += len(examples)
        return (self.head(self.dropout(torch.stack([e.waveform for e in examples]))) / temperature).log_softmax(-1)

    def sample(
        self, examples: Sequence[Example], group_size: int, decoding: Decoding, generator: torch.Generator
    ) -> Rollout:
        scores = self.scores(examples, decoding.scale)
        ids = torch.multinomial(scores.detach().exp(), group_size, replacement=True, generator=generator)
        actions = Actions(ids.view(-1, 1), torch.ones(ids.numel(), 1, dtype=torch.bool))
        answers = tuple(Answer(LABELS[i]) for i in ids.view(-1).tolist())
        return Rollout(actions, scores.gather(1, ids).view(-1, 1), answers)

    def logps(self, examples: Sequence[Example], actions: Actions, temperature: float = 1.0) -> Tensor:
        return self.scores(examples, temperature).gather(1, actions.ids.view(len(examples), -1)).view(-1, 1)

    def save_pretrained(self, folder: str) -> None:
        raise NotImplementedError


def examples(count: int, seed: int = 0) -> list[Example]:
    """Clips whose first sample tells the label, under noise."""
    noise = torch.randn(count, 8, generator=generator(seed, "toy"))
    made = []
    for i in range(count):
        real = i % 2
        wave = noise[i].clone()
        wave[0] += 3.0 if real else -3.0
        made.append(Example(f"clip{i}", wave, target=LABELS[real]))
    return made


def match(answers: Sequence[Answer], about: Sequence[Example]) -> dict[str, Tensor]:
    """1 where the answer is the label."""
    return {"match": torch.tensor([float(a.text == e.target) for a, e in zip(answers, about, strict=True)])}
