"""The policy contract is worth something only if it fails: policies broken in the ways that have happened elsewhere."""

from collections.abc import Callable
from types import MethodType
from typing import Any

import policy_contract
import pytest
import tiny_models
import torch

from speechrl.policies.speech_lm import SpeechLM
from speechrl.types import Actions


def wrong_audio(policy: SpeechLM) -> None:
    """Features tiled where rows are interleaved: each example hears its neighbour."""
    hear = policy.spec.hear

    def rolled(*inputs: Any) -> Any:
        features, counts = hear(*inputs)
        return features.roll(1, 0), counts

    policy.spec.hear = rolled


def wrong_rows(policy: SpeechLM) -> None:
    """Rows taken to be answer by answer instead of example by example."""
    logps = policy.logps

    def tiled(self: SpeechLM, examples: Any, actions: Actions, temperature: float = 1.0) -> torch.Tensor:
        order = torch.arange(len(actions)).view(len(examples), -1).T.flatten()
        return logps(examples, actions.rows(order), temperature)[order.argsort()]

    policy.logps = MethodType(tiled, policy)


def deaf(policy: SpeechLM) -> None:
    """The audio is left out."""
    hear = policy.spec.hear
    policy.spec.hear = lambda *inputs: (torch.zeros_like(hear(*inputs)[0]), hear(*inputs)[1])


def cold_scores(policy: SpeechLM) -> None:
    """The temperature is forgotten in scoring."""
    logps = policy.logps
    policy.logps = lambda examples, actions, temperature=1.0: logps(examples, actions)


def own_randomness(policy: SpeechLM) -> None:
    """Draws from a generator of its own."""
    sample = policy.sample
    policy.sample = lambda examples, size, decoding, _: sample(
        examples, size, decoding, torch.Generator().manual_seed(torch.seed() % 2**31)
    )


def padding_counts(policy: SpeechLM) -> None:
    """Padding is scored."""
    logps = policy.logps
    policy.logps = lambda examples, actions, temperature=1.0: logps(
        examples, Actions(actions.ids, torch.ones_like(actions.mask)), temperature
    )


def live_snapshot(policy: SpeechLM) -> None:
    """The snapshot is the policy itself: KL is always 0."""
    frozen = policy.frozen

    def shared() -> Any:
        snapshot = frozen()
        snapshot.state = policy.trained_state()
        return snapshot

    policy.frozen = shared


def answers_see_each_other(policy: SpeechLM) -> None:
    """All answers of an example read as one text."""
    read = policy._read

    def leaky(embeddings: torch.Tensor, **how: Any) -> torch.Tensor:
        if how.get("prefix"):
            mask = how["attention_mask"]
            how["attention_mask"] = torch.ones_like(mask).tril(mask.shape[3] - mask.shape[2])
        return read(embeddings, **how)

    policy._read = leaky


@pytest.mark.parametrize(
    "damage, check",
    [
        (wrong_audio, policy_contract.rows_stand_alone),
        (wrong_audio, policy_contract.greedy_answers_stand_alone),
        (wrong_rows, policy_contract.rows_stand_alone),
        (wrong_rows, policy_contract.sampled_logps_are_the_rescored_ones),
        (deaf, policy_contract.every_audio_is_heard),
        (cold_scores, policy_contract.temperature_matters),
        (cold_scores, policy_contract.sampled_logps_are_the_rescored_ones),
        (own_randomness, policy_contract.a_seed_is_all_the_randomness),
        (padding_counts, policy_contract.padding_is_nothing),
        (live_snapshot, policy_contract.a_snapshot_stays_as_it_was),
        (answers_see_each_other, policy_contract.rows_stand_alone),
        (answers_see_each_other, policy_contract.sampled_logps_are_the_rescored_ones),
    ],
    ids=lambda value: value.__name__,
)
def test_the_contract_notices(damage: Callable[[SpeechLM], None], check: Callable) -> None:
    policy = tiny_models.qwen2_audio()
    check(policy, tiny_models.examples())
    damage(policy)
    with pytest.raises(AssertionError):
        check(policy, tiny_models.examples())
