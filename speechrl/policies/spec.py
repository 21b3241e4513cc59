"""What differs between families of audio language models, and nothing else: see `speech_lm` for what they share."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

from jaxtyping import Float, Int64
from torch import Tensor

AUDIO = "<audio>"
"""The neutral mark in an example's prompt; where it is absent, the audio comes first."""


class Spec(ABC):
    """One family: its chat turn, its ears, its names. Stateless; the network is passed in.

    The network is a transformers model with a language model (embeddings in, hidden states out) at
    `network.model.language_model` and a head at `network.lm_head`.
    """

    architecture: str
    """The name of the transformers class."""
    parts: Mapping[str, str]
    """Modules that can be frozen by name: at least "encoder" and "projector"."""
    lora_targets: str
    """A regular expression for the full names of the linear layers that LoRA adapts."""

    @abstractmethod
    def configuration(self, settings: Mapping[str, Any], tokenizer: Any) -> Any:
        """The family's configuration object from a plain dictionary, its token ids those of the tokenizer."""

    @abstractmethod
    def extractor(self, config: Any) -> Any:
        """The feature extractor that belongs to a configuration."""

    @abstractmethod
    def window(self, config: Any) -> float | None:
        """Seconds of audio that the model can hear; None where there is no limit."""

    @abstractmethod
    def prompt_ids(self, tokenizer: Any, prompt: str, audio_tokens: int) -> list[int]:
        """The chat turn up to where the answer begins, with that many placeholders for the audio.

        Raises ValueError if the prompt holds more than one mark, or the family's own audio token.
        """

    @abstractmethod
    def audio_token(self, tokenizer: Any) -> int:
        """The placeholder's id."""

    @abstractmethod
    def eos(self, tokenizer: Any) -> tuple[int, ...]:
        """The ids that end an answer; the first is the one that this family writes at the end of its turn."""

    @abstractmethod
    def hear(
        self, network: Any, extractor: Any, waveforms: Sequence[Float[Tensor, " _"]]
    ) -> tuple[Float[Tensor, "b f d"], Int64[Tensor, " b"]]:
        """Audio as embeddings of the language model, padded on the right, and how many of them each clip has."""

    def logit_divisor(self, config: Any) -> float:
        """What the head's output must be divided by to be the model's logits."""
        return 1.0
