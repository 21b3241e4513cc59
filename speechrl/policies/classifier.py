"""The detector: a self-supervised speech encoder, a mean over time, and a linear layer whose softmax is the policy."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int64
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from speechrl.policies.base import Policy, without_dropout
from speechrl.policies.export import identity
from speechrl.types import Actions, Answer, Decoding, Example, Rollout

LABELS = ("fake", "real")
"""In the order of the released detectors' two logits."""

RELEASED = (".ckpt", ".pt", ".safetensors")
"""What tells a released checkpoint's file from a Hugging Face id or a folder."""


class Classifier(Policy):
    """A policy whose answer is one of a closed set of labels (2603.02914, section 2).

    One encoder pass serves all answers to a clip. The mean over time leaves padding out, so that a clip scores the same
    alone and in a batch; encoders that normalise over time (`feat_extract_norm="group"`) cannot be padded without
    changing the scores, so their clips are heard in groups of equal length. `masked=False` pads whatever the encoder is
    and averages over the padding too, as the released code does: a clip's score then depends on its batch.
    """

    encoder: Any
    """A transformers encoder of raw audio; what it is can only be known from its configuration."""

    def __init__(self, encoder: nn.Module, labels: Sequence[str] = LABELS, *, masked: bool = True) -> None:
        super().__init__()
        self.encoder = encoder
        self.labels = tuple(labels)
        self.masked = masked
        self.head = nn.Linear(self.encoder.config.hidden_size, len(self.labels))
        self._paddable = self.encoder.config.feat_extract_norm == "layer" or not masked

    def encode(self, texts: Sequence[str]) -> Actions:
        """Each text must be one of the labels, else ValueError."""
        unknown = sorted(set(texts) - set(self.labels))
        if unknown:
            raise ValueError(f"a detector answers {' or '.join(map(repr, self.labels))}, not {unknown[0]!r}")
        ids = torch.tensor([[self.labels.index(text)] for text in texts])
        return Actions(ids, torch.ones_like(ids, dtype=torch.bool))

    def sample(
        self, examples: Sequence[Example], group_size: int, decoding: Decoding, generator: torch.Generator
    ) -> Rollout:
        """Labels drawn with replacement from the softmax, or the most likely one when greedy.

        Where gradients are on, the log-probabilities carry them: drawing and scoring are one encoder pass.
        """
        scores = (self.logits(examples) / decoding.scale).log_softmax(-1)
        if decoding.greedy:
            ids = scores.argmax(-1, keepdim=True).repeat(1, group_size)
        else:
            chances = scores.detach().exp().cpu()
            ids = torch.multinomial(chances, group_size, replacement=True, generator=generator).to(scores.device)
        actions = Actions(ids.reshape(-1, 1), torch.ones_like(ids, dtype=torch.bool).reshape(-1, 1))
        answers = tuple(Answer(self.labels[i]) for i in actions.ids[:, 0].tolist())
        return Rollout(actions, scores.gather(1, ids).reshape(-1, 1), answers)

    def logps(self, examples: Sequence[Example], actions: Actions, temperature: float = 1.0) -> Float[Tensor, "n 1"]:
        """Log-softmax of the labels' logits at the chosen labels; one encoder pass per example."""
        assert len(actions) % len(examples) == 0
        scores = (self.logits(examples) / temperature).log_softmax(-1)
        return scores.gather(1, actions.ids.view(len(examples), -1)).reshape(-1, 1)

    def logits(self, examples: Sequence[Example]) -> Float[Tensor, "b l"]:
        """One logit for each label."""
        return self.head(self.embed(examples))

    def embed(self, examples: Sequence[Example]) -> Float[Tensor, "b d"]:
        """The last hidden layer's mean over time, the vector that embedding drift is measured on.

        Raises ValueError naming a clip that is too short to hear: under one frame of the encoder.
        """
        self._check(examples)
        waves = [nn.functional.layer_norm(x, x.shape) for x in (e.waveform.to(self.device) for e in examples)]
        if self._paddable:
            return self._pooled(waves)
        lengths = torch.tensor([len(wave) for wave in waves])
        groups = [(lengths == length).nonzero()[:, 0] for length in lengths.unique()]
        pooled = torch.cat([self._pooled([waves[i] for i in rows.tolist()]) for rows in groups])
        return pooled[torch.cat(groups).argsort().to(pooled.device)]

    def _check(self, examples: Sequence[Example]) -> None:
        # Padded, such a clip would have a mean over no frame: NaN, for it and then for every weight
        frames = self._frames(torch.tensor([example.waveform.numel() for example in examples]))
        for example, count in zip(examples, frames.tolist(), strict=True):
            if count < 1:
                raise ValueError(
                    f"example {example.id}: its {example.waveform.numel()} samples are less than one frame of the "
                    "encoder; leave it out"
                )

    def _pooled(self, waves: list[Tensor]) -> Float[Tensor, "b d"]:
        lengths = torch.tensor([len(wave) for wave in waves], device=self.device)
        padded = nn.utils.rnn.pad_sequence(waves, batch_first=True)
        if not self.masked or bool((lengths == padded.shape[1]).all()):
            return self.encoder(padded).last_hidden_state.mean(1)
        mask = torch.arange(padded.shape[1], device=self.device) < lengths[:, None]
        return _mean(self.encoder(padded, attention_mask=mask.long()).last_hidden_state, self._frames(lengths))

    def _frames(self, samples: Int64[Tensor, " b"]) -> Int64[Tensor, " b"]:
        frames = samples
        for kernel, stride in zip(self.encoder.config.conv_kernel, self.encoder.config.conv_stride, strict=True):
            frames = (frames - kernel) // stride + 1
        return frames

    def save_pretrained(self, folder: str) -> None:
        """The encoder in transformers' own format, and the head beside it; `load` reads the folder back."""
        self.encoder.save_pretrained(folder)
        head = {name: tensor.detach().cpu().contiguous() for name, tensor in self.head.state_dict().items()}
        temporary = os.path.join(folder, "head.safetensors.tmp")
        save_file(head, temporary, metadata={"labels": json.dumps(self.labels)})
        os.replace(temporary, os.path.join(folder, "head.safetensors"))


def _mean(hidden: Float[Tensor, "b f d"], frames: Int64[Tensor, " b"]) -> Float[Tensor, "b d"]:
    mask: Bool[Tensor, "b f"] = torch.arange(hidden.shape[1], device=hidden.device) < frames[:, None]
    return (hidden * mask[..., None]).sum(1) / frames[:, None]


def load(
    *,
    weights: str | None = None,
    config: dict[str, Any] | None = None,
    labels: Sequence[str] = LABELS,
    masked: bool = True,
    dropout: bool = True,
    seed: int = 0,
) -> Classifier:
    """A detector from a Hugging Face id, a folder that `save_pretrained` wrote, or a released AntiDeepfake checkpoint.

    `config` alone builds that architecture with random weights; with a checkpoint file it says which encoder the
    fairseq keys belong to, and with an id or a folder what differs from the configuration found there.
    `dropout=False` sets every dropout to 0. A head that the weights do not bring is drawn from `seed`. Weights are
    safetensors or, in a released checkpoint, plain tensors; nothing in them is executed. Raises ValueError for
    arguments that do not fit each other, and for other labels than those of a saved head.
    """
    from speechrl.policies.fairseq import load_released

    torch.manual_seed(seed)
    path = Path(weights or "")
    released = path.suffix in RELEASED
    policy = Classifier(_encoder(None if released else weights, config or {}), labels, masked=masked)
    if released:
        load_released(policy, path)
    elif weights and (path / "head.safetensors").is_file():
        _load_head(policy, path / "head.safetensors")
    if not dropout:
        without_dropout(policy)
    policy.base_identity = identity(policy)
    return policy


def _encoder(weights: str | None, config: dict[str, Any]) -> nn.Module:
    from transformers import AutoConfig, AutoModel

    if weights is None and "model_type" not in config:
        raise ValueError("model: give weights (an id or a folder), or a config that says at least the model_type")
    found = AutoConfig.from_pretrained(weights) if weights else None
    settings = _changed(found, config) if found else AutoConfig.for_model(**config)
    settings.apply_spec_augment, settings.mask_time_prob = False, 0.0
    if weights is None:
        return AutoModel.from_config(settings)
    return AutoModel.from_pretrained(weights, config=settings, weights_only=True, dtype=torch.float32)


def _changed(settings: Any, changes: dict[str, Any]) -> Any:
    unknown = sorted(set(changes) - set(settings.to_dict()))
    if unknown:
        raise ValueError(f"model.config.{unknown[0]}: a {settings.model_type} has no such setting")
    settings.update(changes)
    return settings


def _load_head(policy: Classifier, path: Path) -> None:
    with safe_open(path, "pt") as file:
        saved = tuple(json.loads(file.metadata()["labels"]))
    if saved != policy.labels:
        raise ValueError(f"{path}: this head scores the labels {list(saved)}; give model.labels={list(saved)}")
    policy.head.load_state_dict(load_file(path))
