"""The checks of `speechrl.doctor` that only a model which writes text can pass or fail."""

from collections.abc import Sequence
from typing import Any

import torch

from speechrl.checkup import Finding, Patient
from speechrl.policies.base import eval_mode
from speechrl.policies.speech_lm import SpeechLM
from speechrl.types import SAMPLE_RATE, generator

SECONDS = (0.1, 10.0, 30.0, 45.0)
"""Clips whose audio tokens are counted."""


def answers_end_with_an_end(patient: Patient) -> Finding:
    """Written answers end with an end-of-text; of drawn ones, those and only those that are said to have ended."""
    policy = patient.policy
    if not isinstance(policy, SpeechLM):
        return Finding(None, "A detector's answer is one label and needs no end.")
    ends, vocabulary = policy.spec.eos(policy.tokenizer), policy.network.lm_head.out_features
    for end in ends:
        if not isinstance(end, int) or end == policy.tokenizer.unk_token_id or not 0 <= end < vocabulary:
            return Finding(
                False, f"The tokenizer does not know one of the ends of an answer (it gives the id {end!r})."
            )
    written = policy.encode([probe.target for probe in patient.probes])
    if (row := _endless(written.ids.tolist(), written.mask.sum(1).tolist(), ends, [True] * len(written))) is not None:
        return Finding(
            False, f"The target of {patient.probes[row].id}, as it is encoded, does not end with its one end."
        )
    rollout = patient.draw()
    lengths, ended = rollout.actions.mask.sum(1).tolist(), [answer.ended for answer in rollout.answers]
    if _endless(rollout.actions.ids.tolist(), lengths, ends, ended) is not None:
        return Finding(False, "A drawn answer is said to have ended and did not, or ended and is said to be cut.")
    limit = patient.shortened(patient.decoding).max_tokens
    if any(length < limit and not done for length, done in zip(lengths, ended, strict=True)):
        return Finding(False, f"A drawn answer is cut before the limit of {limit} tokens.")
    names = policy.tokenizer.convert_ids_to_tokens(list(ends))
    return Finding(True, f"Answers end with {' or '.join(names)}; {sum(ended)} of {len(ended)} drawn ones have ended.")


def _endless(rows: list[list[int]], lengths: list[int], ends: Sequence[int], ended: Sequence[bool]) -> int | None:
    """The first row with an end before its last action, or whose last action is an end and should not be one."""
    for row, (ids, length, done) in enumerate(zip(rows, lengths, ended, strict=True)):
        if set(ids[: length - 1]) & set(ends) or (ids[length - 1] in ends) != done:
            return row
    return None


def prompts_end_where_answers_begin(patient: Patient) -> Finding:
    """With what the model's own chat template opens an answer with; or, without one, within an open turn."""
    policy = patient.policy
    if not isinstance(policy, SpeechLM):
        return Finding(None, "A detector is asked nothing.")
    opening, ends = _opening(policy.tokenizer), policy.spec.eos(policy.tokenizer)
    for probe in patient.probes:
        ids = policy.spec.prompt_ids(policy.tokenizer, probe.prompt, 3)
        last = max((place for place, token in enumerate(ids) if token in ends), default=-1)
        tail = policy.tokenizer.decode(ids[last + 1 :])
        if not tail.strip() or (opening and ids[-len(opening) :] != opening):
            wanted = policy.tokenizer.decode(opening) if opening else "the opening of a turn"
            return Finding(False, f"The prompt of {probe.id} ends with {tail!r}; an answer begins after {wanted!r}.")
    return Finding(True, f"Every prompt ends with {tail!r}{', as the chat template does' if opening else ''}.")


def _opening(tokenizer: Any) -> list[int]:
    """The tokens that the model's chat template adds where an answer is to begin; none where it has no template."""
    if not tokenizer.chat_template:
        return []
    asked = [{"role": "user", "content": "?"}]
    closed, opened = (
        tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=opens) for opens in (False, True)
    )
    return tokenizer.encode(opened.removeprefix(closed), add_special_tokens=False)


def every_audio_token_has_a_feature(patient: Patient) -> Finding:
    """For clips of 0.1, 10, 30 and 45 seconds, alone and together; never fewer for a longer clip."""
    policy = patient.policy
    if not isinstance(policy, SpeechLM):
        return Finding(None, "A detector hears the clip itself, without audio tokens.")
    window = policy.spec.window(policy.network.config)
    noise = [0.1 * torch.randn(round(s * SAMPLE_RATE), generator=generator("doctor", str(s))) for s in SECONDS]
    counts: list[int] = []
    with torch.no_grad(), eval_mode(policy):
        for seconds, wave in zip(SECONDS, noise, strict=True):
            features, count = policy.spec.hear(policy.network, policy.extractor, [wave])
            counts.append(int(count))
            ids = policy.spec.prompt_ids(policy.tokenizer, patient.probes[0].prompt, counts[-1])
            tokens = ids.count(policy.spec.audio_token(policy.tokenizer))
            if not tokens == counts[-1] == features.shape[1] or not tokens:
                return Finding(
                    False,
                    f"{seconds:g} s of audio become {features.shape[1]} features, {counts[-1]} of them counted, "
                    f"and {tokens} tokens in the prompt.",
                )
        together = policy.spec.hear(policy.network, policy.extractor, noise)[1].tolist()
    if together != counts:
        return Finding(False, f"Clips of {SECONDS} s have {counts} features alone and {together} in one batch.")
    # two clips may only share a count where both fill the model's window
    shorter = [min(s, window or s) for s in SECONDS]
    for i in range(1, len(SECONDS)):
        if counts[i] < counts[i - 1] or (shorter[i] > shorter[i - 1] and counts[i] == counts[i - 1]):
            return Finding(False, f"{SECONDS[i]:g} s have {counts[i]} features, {SECONDS[i - 1]:g} s {counts[i - 1]}.")
    heard = f"; it hears {window:g} s" if window else ""
    said = ", ".join(f"{count} at {seconds:g} s" for seconds, count in zip(SECONDS, counts, strict=True))
    return Finding(True, f"As many audio tokens as features: {said}{heard}.")
