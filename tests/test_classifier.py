"""The detector: the policy contract on every kind of encoder, its pooling, its sampling, what it saves."""

import json
from pathlib import Path
from typing import Any

import policy_contract
import pytest
import torch
from omegaconf import OmegaConf
from torch import Tensor, nn

from speechrl.config import CONF
from speechrl.policies.base import without_dropout
from speechrl.policies.classifier import LABELS, Classifier, load
from speechrl.regimes.grpo import GroupRelative, GroupSettings
from speechrl.rewards import Match
from speechrl.types import GREEDY, SAMPLE_RATE, Decoding, Example, generator

SMALL = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "conv_dim": [16] * 7,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
    "initializer_range": 0.3,
    "layerdrop": 0.0,
}
LAYER = {**SMALL, "feat_extract_norm": "layer", "conv_bias": True, "do_stable_layer_norm": True}
GROUP = {**SMALL, "feat_extract_norm": "group"}
TINY: dict[str, dict[str, Any]] = {
    "layer": {"model_type": "wav2vec2", **LAYER},
    "group": {"model_type": "wav2vec2", **GROUP},
    "wavlm": {"model_type": "wavlm", **LAYER},
    "hubert": {"model_type": "hubert", **LAYER},
}
KINDS = tuple(TINY)


def policy(kind: str = "layer", **options: Any) -> Classifier:
    """A tiny detector whose scores depend on what it hears."""
    built = load(config=TINY[kind], seed=3, **options)
    with torch.no_grad():
        built.head.weight.mul_(4.0)
    return built.eval()


def examples(seconds: tuple[float, ...] = (0.7, 1.31, 1.0)) -> list[Example]:
    """Noise of different lengths, loudness and colour."""
    found = []
    for i, length in enumerate(seconds):
        noise = torch.randn(int(length * SAMPLE_RATE), generator=generator("detected", i))
        colour = torch.tanh(torch.cumsum(noise, 0) / 10**i)
        found.append(Example(f"clip-{i}", noise * 0.3 + i * colour, target=LABELS[i % 2]))
    return found


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("check", policy_contract.CHECKS, ids=lambda check: check.__name__)
def test_contract(check: Any, kind: str) -> None:
    check(policy(kind), examples())


@pytest.mark.parametrize("kind", KINDS)
def test_a_clip_is_heard_the_same_alone_and_in_a_batch(kind: str) -> None:
    subject, clips = policy(kind), examples((0.7, 1.31, 0.7, 0.1))
    with torch.no_grad():
        together = subject.embed(clips)
        alone = torch.cat([subject.embed([clip]) for clip in clips])
    assert together.shape == (4, 32)
    policy_contract.close(together, alone, 1e-5)


def test_group_norm_clips_of_one_length_are_heard_in_one_pass() -> None:
    subject, passes = policy("group"), []
    subject.encoder.register_forward_hook(lambda _, inputs, output: passes.append(tuple(inputs[0].shape)))
    subject.embed(examples((0.7, 1.0, 0.7, 1.0, 0.7)))
    assert sorted(passes) == [(2, 16000), (3, 11200)]


@pytest.mark.parametrize("kind", ["layer", "group"])
def test_the_released_mean_goes_over_the_padding(kind: str) -> None:
    clips = examples()
    masked, released = policy(kind), policy(kind, masked=False)
    length = max(len(clip.waveform) for clip in clips)
    with torch.no_grad():
        waves = [normal(clip.waveform) for clip in clips]
        padded = torch.stack([nn.functional.pad(wave, (0, length - len(wave))) for wave in waves])
        by_hand = released.encoder(padded).last_hidden_state.mean(1)
        found = released.embed(clips)
        policy_contract.close(found, by_hand)
        assert float((found[0] - masked.embed(clips)[0]).abs().max()) > 1e-2, "the shortest clip has padding"
        policy_contract.close(released.embed(clips[:1]), masked.embed(clips[:1]), 1e-6)


def normal(waveform: Tensor) -> Tensor:
    """Zero mean and unit variance, as the released detectors want it."""
    return (waveform - waveform.mean()) / (waveform.var(correction=0) + 1e-5).sqrt()


def test_the_pooled_vector_is_the_mean_of_the_last_hidden_layer() -> None:
    subject, clip = policy(), examples()[0]
    with torch.no_grad():
        hidden = subject.encoder(normal(clip.waveform)[None]).last_hidden_state
        policy_contract.close(subject.embed([clip])[0], hidden[0].mean(0), 1e-5)
        policy_contract.close(subject.logits([clip]), subject.head(hidden.mean(1)), 1e-5)


def test_labels_are_drawn_as_often_as_the_softmax_says() -> None:
    subject, clips, size = policy(), examples(), 20_000
    decoding = Decoding(temperature=2.0)
    with torch.no_grad():
        chances = (subject.logits(clips) / 2.0).softmax(-1)[:, 1]
        rollout = subject.sample(clips, size, decoding, generator("frequencies"))
    often = rollout.actions.ids.view(3, size).float().mean(1)
    assert float((often - chances).abs().max()) < 4 * 0.5 / size**0.5
    assert float(chances.max() - chances.min()) > 0.05 and 0.02 < float(chances.min()) < float(chances.max()) < 0.98
    assert [answer.text for answer in rollout.answers] == [LABELS[i] for i in rollout.actions.ids[:, 0].tolist()]


def test_greedy_takes_the_likelier_label() -> None:
    subject, clips = policy(), examples()
    answers = subject.sample(clips, 3, GREEDY, generator(0)).answers
    likelier = subject.logits(clips).argmax(-1).repeat_interleave(3)
    assert [answer.text for answer in answers] == [LABELS[i] for i in likelier.tolist()]


def test_one_encoder_pass_serves_all_answers() -> None:
    subject, heard = policy(), []
    subject.encoder.register_forward_hook(lambda _, inputs, output: heard.append(len(inputs[0])))
    rollout = subject.sample(examples(), 64, Decoding(), generator(0))
    subject.logps(examples(), rollout.actions)
    assert heard == [3, 3]


def test_label_probabilities_sum_to_one() -> None:
    chances = policy().label_logps(examples(), LABELS).exp().sum(-1)
    policy_contract.close(chances, torch.ones(3), 1e-6)
    with pytest.raises(ValueError, match="answers 'fake' or 'real', not 'bonafide'"):
        policy().encode(["real", "bonafide"])


def test_a_sample_drawn_under_grad_has_the_gradient_of_its_score() -> None:
    subject, clips = policy(), examples()
    rollout = subject.sample(clips, 8, Decoding(temperature=0.7), generator("grad"))
    assert rollout.logps.requires_grad
    weights = torch.randn(rollout.logps.shape, generator=generator("weights"))
    scored = subject.logps(clips, rollout.actions, 0.7)
    trained = [tensor for tensor in subject.parameters() if tensor.requires_grad]
    drawn = torch.autograd.grad((rollout.logps * weights).sum(), trained, allow_unused=True)
    again = torch.autograd.grad((scored * weights).sum(), trained, allow_unused=True)
    assert sum(float(gradient.abs().sum()) for gradient in drawn if gradient is not None) > 0
    for one, other in zip(drawn, again, strict=True):
        assert one is other is None or torch.allclose(one, other, atol=1e-6)
    with torch.no_grad():
        assert not subject.sample(clips, 8, Decoding(), generator("grad")).logps.requires_grad


@pytest.mark.parametrize("kind", ["layer", "wavlm"])
def test_a_snapshot_does_not_follow_its_policy(kind: str) -> None:
    subject, clips = policy(kind), examples()
    rows = subject.encode(["real", "fake", "real"])
    snapshot = subject.frozen()
    with torch.no_grad():
        before = subject.logps(clips, rows)
        for tensor in subject.parameters():
            tensor.mul_(1.3).add_(0.01)
    policy_contract.close(snapshot.logps(clips, rows), before, 1e-6)
    policy_contract.differ(subject.logps(clips, rows), before)


@pytest.mark.parametrize("kind", KINDS)
def test_saved_and_loaded_scores_are_identical(kind: str, tmp_path: Path) -> None:
    subject = policy(kind)
    subject.save_pretrained(str(tmp_path))
    with torch.no_grad():
        wanted = subject.logits(examples())
        assert torch.equal(load(weights=str(tmp_path), seed=9).eval().logits(examples()), wanted)
    assert not list(tmp_path.glob("*.bin")) and json.loads((tmp_path / "config.json").read_text())["model_type"]


def test_labels_of_ones_own_are_saved(tmp_path: Path) -> None:
    subject = load(config=TINY["layer"], labels=("angry", "calm", "sad"))
    subject.save_pretrained(str(tmp_path))
    again = load(weights=str(tmp_path), labels=("angry", "calm", "sad"))
    assert again.sample(examples(), 1, GREEDY, generator(0)).answers[0].text in subject.labels
    with pytest.raises(ValueError, match="head.safetensors: this head scores the labels .*'sad'"):
        load(weights=str(tmp_path))


class Planted:
    """What a pickle runs when it is opened."""

    def __reduce__(self) -> tuple:
        return Path.touch, (Path("planted"),)


def test_older_weights_are_read_as_tensors_and_never_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    subject = policy()
    subject.encoder.config.save_pretrained(tmp_path)
    state = subject.encoder.state_dict()
    torch.save(state, tmp_path / "pytorch_model.bin")
    assert torch.equal(load(weights=str(tmp_path)).embed(examples()), subject.embed(examples()))
    torch.save(state | {"more": Planted()}, tmp_path / "pytorch_model.bin")
    with pytest.raises(Exception, match=r"(?i)weights.?only|unsupported"):
        load(weights=str(tmp_path))
    assert not Path("planted").exists()


def test_arguments_that_do_not_fit(tmp_path: Path) -> None:
    policy().save_pretrained(str(tmp_path))
    changed = load(weights=str(tmp_path), config={"hidden_dropout": 0.25})
    assert changed.encoder.encoder.dropout.p == 0.25
    with pytest.raises(ValueError, match="model.config.hiden_dropout: a wav2vec2 has no such"):
        load(weights=str(tmp_path), config={"hiden_dropout": 0.25})
    for nothing in ({}, {"weights": "some.ckpt"}, {"config": {"hidden_size": 32}}):
        with pytest.raises(ValueError, match="a config that says at least the model_type"):
            load(**nothing)


def test_a_clip_without_a_frame_is_named() -> None:
    clips = [*examples(), Example("too-short", torch.zeros(399))]
    for kind in ("layer", "group"):
        with pytest.raises(ValueError, match="too-short: its 399 samples"):
            policy(kind).logits(clips)
        assert policy(kind).logits([Example("shortest", torch.ones(400))]).isfinite().all()


def test_dropout_is_what_was_released_or_none() -> None:
    dropped = TINY["layer"] | {"feat_proj_dropout": 0.5, "hidden_dropout": 0.5, "attention_dropout": 0.5}
    clips = examples()
    released, without = load(config=dropped).train(), load(config=dropped, dropout=False).train()
    assert not torch.equal(released.logits(clips), released.logits(clips))
    assert torch.equal(without.logits(clips), without.logits(clips))
    policy_contract.close(without.logits(clips), load(config=dropped).eval().logits(clips))


def test_layers_are_not_dropped_either() -> None:
    subject = load(config=TINY["layer"] | {"layerdrop": 0.7}).train()
    without_dropout(subject)
    scores = [subject.logits(examples()) for _ in range(6)]
    assert all(torch.equal(score, scores[0]) for score in scores)


def step(subject: Classifier, clips: list[Example], lr: float = 1e-4) -> dict[str, float]:
    """One GRPO step with everything on: reference, old policy, clip."""
    objective = GroupRelative(Match(), GroupSettings(group_size=64, center="batch", scale="batch", snapshot_every=1000))
    optimizer = torch.optim.SGD(subject.parameters(), lr=lr)
    subject.train()
    objective.prepare(subject)
    objective.begin(subject)
    logs: dict[str, float] = {}
    for part in objective.parts(subject, clips, 0, None):
        part.loss.backward()
        logs |= part.logs
    optimizer.step()
    objective.finish_step(1)
    return logs


def test_a_grpo_step_moves_the_policy() -> None:
    subject, clips = policy(), examples()
    rows = subject.encode([clip.target for clip in clips])
    before = subject.logps(clips, rows).exp().mean()
    logs = step(subject, clips)
    assert logs["kl"] < 1e-9 and abs(logs["ratio"] - 1) < 1e-6 and logs["sampling_gap"] == 0
    gained = subject.eval().logps(clips, rows).exp().mean() - before
    assert 1e-4 < float(gained.detach()) < 0.1


@pytest.mark.slow
def test_mms_300m_as_it_is() -> None:
    """The true architecture with random weights: its size, a forward pass, and a step of GRPO."""
    node = OmegaConf.to_container(OmegaConf.load(CONF / "model" / "paper" / "mms_300m.yaml"), resolve=False)
    assert isinstance(node, dict)
    subject = load(config=node["config"])
    weights = sum(tensor.numel() for tensor in subject.parameters())
    assert abs(weights - 315.4e6) < 1e6
    clips = examples((1.0, 0.6))
    with torch.no_grad():
        before = subject.eval().label_logps(clips, LABELS)
        policy_contract.close(before[1:], subject.label_logps(clips[1:], LABELS), 1e-4)
    assert step(subject, clips)["ratio"] == pytest.approx(1, abs=1e-4)
    with torch.no_grad():
        after = subject.eval().label_logps(clips, LABELS)
    assert after.isfinite().all() and not torch.equal(after, before)
