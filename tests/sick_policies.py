"""Ways to break a speech language model that the doctor must notice, besides those of the policy contract."""

from collections.abc import Sequence
from dataclasses import replace
from types import MethodType
from typing import Any

import torch

from speechrl import checkup
from speechrl.policies.base import Frozen
from speechrl.policies.speech_lm import SpeechLM
from speechrl.types import Actions


def hidden_dropout(policy: SpeechLM) -> None:
    """A dropout that no module knows of, on in training mode."""
    logits = policy._logits
    policy._logits = lambda hidden: logits(torch.nn.functional.dropout(hidden, 0.2, policy.training))


def stale_copy(policy: SpeechLM) -> None:
    """The frozen copy is another model."""

    def shifted() -> Frozen:
        copy = Frozen(policy)
        for tensor in copy.state.values():
            tensor.mul_(1.05)
        return copy

    policy.frozen = shifted


def batch_dependent(policy: SpeechLM) -> None:
    """Hearing is normalised over the whole batch."""
    hear = policy.spec.hear

    def normalised(*inputs: Any) -> Any:
        features, counts = hear(*inputs)
        return features - features.mean(0, keepdim=True), counts

    policy.spec.hear = normalised


def endless(policy: SpeechLM) -> None:
    """Targets are encoded without their end."""
    encode = policy.encode

    def cut(self: SpeechLM, texts: Sequence[str]) -> Actions:
        rows = encode(texts)
        return Actions(rows.ids, rows.mask & rows.mask.roll(-1, 1).index_fill(1, torch.tensor([-1]), False))

    policy.encode = MethodType(cut, policy)


def unknown_end(policy: SpeechLM) -> None:
    """The tokenizer has no such token."""
    policy.spec.eos = lambda tokenizer: (tokenizer.convert_tokens_to_ids("<|no such token|>"),)


def always_ended(policy: SpeechLM) -> None:
    """Cut answers are said to have ended."""
    decode = policy.decode
    policy.decode = lambda actions: tuple(replace(answer, ended=True) for answer in decode(actions))


def closed_turn(policy: SpeechLM) -> None:
    """The prompt stops at the end of the user's turn."""
    ids, end = policy.spec.prompt_ids, policy.spec.eos(policy.tokenizer)[0]
    policy.spec.prompt_ids = lambda *asked: (found := ids(*asked))[: len(found) - found[::-1].index(end)]


def other_role(policy: SpeechLM) -> None:
    """The model was taught another name for itself."""
    policy.tokenizer.chat_template = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>model\n{% endif %}"
    )


def one_token_less(policy: SpeechLM) -> None:
    """The prompt has a placeholder too few."""
    ids = policy.spec.prompt_ids
    policy.spec.prompt_ids = lambda tokenizer, prompt, count: ids(tokenizer, prompt, count - 1)


def always_the_window(policy: SpeechLM) -> None:
    """Every clip has as many features as the longest of its batch."""
    hear = policy.spec.hear

    def padded(*inputs: Any) -> Any:
        features, counts = hear(*inputs)
        return features, torch.full_like(counts, features.shape[1])

    policy.spec.hear = padded


def off_in_sampling(policy: SpeechLM) -> None:
    """Adapters are off while answers are drawn, as when a reference switches them off and forgets them."""
    sample = policy.sample

    def without(*asked: Any) -> Any:
        switch(policy, False)
        rollout = sample(*asked)
        switch(policy, True)
        return rollout

    policy.sample = without


def switch(policy: SpeechLM, on: bool) -> None:
    for layer in checkup._adapters(policy).values():
        layer._disable_adapters = not on


def thawed(policy: SpeechLM) -> None:
    """Freezing a copy stops the training of what it copied."""
    frozen = policy.frozen

    def stopping() -> Frozen:
        copy = frozen()
        next(iter(policy.trained_state().values())).requires_grad_(False)
        return copy

    policy.frozen = stopping
