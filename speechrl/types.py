"""The nouns that every room shares: what is heard, what is answered, and how answers are drawn.

Shape legend, used in every annotation of this project:

    B  examples in a batch          G  answers drawn for each example
    N  rows, N = B * G; the answers of example b are rows b*G ... b*G + G - 1
    T  actions in an answer: 1 for a label, the number of tokens for text
    L  labels of a closed set       S  audio samples, 16 kHz mono
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

SAMPLE_RATE = 16_000


@dataclass(frozen=True, eq=False)
class Example:
    """One item to be answered: a clip, the question about it, and what is known of the right answer."""

    id: str
    waveform: Float[Tensor, " s"]
    prompt: str = ""
    """The question; text policies find one neutral `<audio>` mark in it, detectors ignore it."""
    target: str = ""
    """The reference answer, as text."""
    meta: Mapping[str, Any] = field(default_factory=dict)
    """What rewards and metrics may read besides: choices, attack, category, audio path, ..."""

    @property
    def seconds(self) -> float:
        """The clip's duration."""
        return self.waveform.numel() / SAMPLE_RATE


@dataclass(frozen=True, eq=False)
class Actions:
    """Answers as a policy emits them: N rows of T actions, `mask` false on padding."""

    ids: Int64[Tensor, "n t"]
    mask: Bool[Tensor, "n t"]

    def __len__(self) -> int:
        return self.ids.shape[0]

    def rows(self, index: slice | Tensor) -> "Actions":
        """Some of the rows, without the columns that are padding in all of them."""
        ids, mask = self.ids[index], self.mask[index]
        width = max(int(mask.sum(1).max()), 1) if len(ids) else 1
        return Actions(ids[:, :width], mask[:, :width])

    def repeat(self, times: int) -> "Actions":
        """The whole block of rows once for each of `times` examples."""
        return Actions(self.ids.repeat(times, 1), self.mask.repeat(times, 1))

    def to(self, device: torch.device | str) -> "Actions":
        """The same actions on another device."""
        return Actions(self.ids.to(device), self.mask.to(device))


@dataclass(frozen=True, eq=False)
class Answer:
    """What rewards and metrics see of a row: its text, and for a policy that speaks, the sound of it."""

    text: str
    ended: bool = True
    """False when the answer was cut at the token limit."""
    waveform: Float[Tensor, " s"] | None = None


@dataclass(frozen=True, eq=False)
class Rollout:
    """G answers to each of B examples, with the log-probabilities they were drawn at."""

    actions: Actions
    logps: Float[Tensor, "n t"]
    answers: tuple[Answer, ...]


@dataclass(frozen=True, kw_only=True)
class Decoding:
    """How answers are drawn, complete: nothing is taken from a model's own generation settings.

    `temperature=0` takes the most likely action. Log-probabilities are always those of the whole vocabulary at this
    temperature (at 1 when greedy), never renormalised over the top-p or top-k set.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    max_tokens: int = 256

    def __post_init__(self) -> None:
        if self.temperature < 0 or not 0 < self.top_p <= 1 or self.top_k < 0 or self.max_tokens < 1:
            raise ValueError(f"{self}: need temperature >= 0, 0 < top_p <= 1, top_k >= 0 and max_tokens >= 1")

    @property
    def greedy(self) -> bool:
        """Whether the most likely action is taken."""
        return self.temperature == 0

    @property
    def scale(self) -> float:
        """What logits are divided by before the log-softmax."""
        return self.temperature or 1.0


GREEDY = Decoding(temperature=0.0)


def seed_of(*keys: int | str) -> int:
    """A 63-bit seed that is a pure function of its keys, usually (seed, step, stream)."""
    digest = hashlib.blake2b("/".join(map(str, keys)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def generator(*keys: int | str, device: torch.device | str = "cpu") -> torch.Generator:
    """A fresh random generator seeded by `seed_of(*keys)`: every random choice of a run comes from one of these."""
    return torch.Generator(device).manual_seed(seed_of(*keys))


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """One evaluated item as it is written to answers.jsonl: all that a metric, a table or a bootstrap needs."""

    id: str
    split: str
    """Which test set it belongs to."""
    target: str
    answer: str
    score: float | None = None
    """For a closed label set: the probability of the first label."""
    ended: bool = True
    meta: Mapping[str, Any] = field(default_factory=dict)
