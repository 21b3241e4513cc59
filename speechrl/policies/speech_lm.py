"""The audio language model: hears a clip and a prompt once, and writes or scores any number of answers to them."""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from speechrl.policies import export
from speechrl.policies.base import Policy, eval_mode
from speechrl.policies.decoding import decode
from speechrl.policies.packing import install, pack
from speechrl.policies.spec import Spec
from speechrl.types import Actions, Answer, Decoding, Example, Rollout

SHORTEST = 0.1
"""Seconds; a shorter clip would have no audio token to stand for it."""
SCORES_AT_ONCE = 2**28
"""Entries of logits held at a time: 1 GiB in single precision. What is more is recomputed in the backward pass."""


class SpeechLM(Policy):
    """A policy whose answer is text, by any transformers model that a `Spec` describes.

    `network` may hold LoRA layers already; what is trained is what requires a gradient, less the spec's parts named in
    `freeze`. A part of which nothing is trained stays in evaluation mode. `base_identity` is a fingerprint of the
    weights that training starts from: a checkpoint of another base must not be loaded into this one.
    """

    def __init__(
        self, network: Any, spec: Spec, tokenizer: Any, *, freeze: Sequence[str] = (), base_identity: str = ""
    ) -> None:
        super().__init__()
        unknown = sorted(set(freeze) - set(spec.parts))
        if unknown:
            raise ValueError(f"freeze={unknown[0]!r}: choose from {', '.join(spec.parts)}")
        install(network.model.language_model)
        self.network, self.spec, self.tokenizer = network, spec, tokenizer
        self.extractor = spec.extractor(network.config)
        self.base_identity = base_identity
        self.cut: set[str] = set()
        """Ids of the examples whose audio was longer than the model can hear."""
        self._eos, self._audio = spec.eos(tokenizer), spec.audio_token(tokenizer)
        self._divisor, self._window = spec.logit_divisor(network.config), spec.window(network.config)
        for name in freeze:
            network.get_submodule(spec.parts[name]).requires_grad_(False)
        parts = [network.get_submodule(spec.parts[name]) for name in spec.parts]
        self._fixed_parts = tuple(p for p in parts if not any(tensor.requires_grad for tensor in p.parameters()))
        ears = (network.get_submodule(spec.parts[name]) for name in ("encoder", "projector"))
        self._ears_are_fixed = all(part in self._fixed_parts for part in ears)
        self._heard: dict[int, tuple[Tensor, Tensor]] = {}

    def train(self, mode: bool = True) -> "SpeechLM":
        """Training mode for all but the parts that are not trained, whose dropout and statistics must not move."""
        super().train(mode)
        for part in self._fixed_parts:
            part.eval()
        return self

    def encode(self, texts: Sequence[str]) -> Actions:
        """The tokens of each text and the end of the turn; special tokens in a text are read as plain text."""
        rows = [self.tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True) for text in texts]
        tokens = [torch.tensor([*row, self._eos[0]]) for row in rows]
        lengths = torch.tensor([len(row) for row in tokens])
        ids = nn.utils.rnn.pad_sequence(tokens, batch_first=True, padding_value=self._eos[0])
        return Actions(ids, torch.arange(ids.shape[1]) < lengths[:, None])

    def decode(self, actions: Actions) -> tuple[Answer, ...]:
        """The text of each row without its special tokens, and whether it was ended or cut."""
        last = actions.ids.gather(1, actions.mask.sum(1, keepdim=True).clamp(min=1) - 1)
        ended = torch.isin(last[:, 0], torch.tensor(self._eos, device=last.device)).tolist()
        rows = [ids[mask] for ids, mask in zip(actions.ids.cpu(), actions.mask.cpu(), strict=True)]
        texts = self.tokenizer.batch_decode(rows, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return tuple(Answer(text, done) for text, done in zip(texts, ended, strict=True))

    def sample(
        self, examples: Sequence[Example], group_size: int, decoding: Decoding, generator: torch.Generator
    ) -> Rollout:
        """Answers drawn from one prefill of each example; without gradient, and as in evaluation mode."""
        from speechrl.policies.cache import growing_cache

        with torch.no_grad(), eval_mode(self):
            embeddings, lengths = self._prefix(examples, afresh=True)
            cache = growing_cache()
            hidden = self._read(embeddings, past_key_values=cache, use_cache=True)
            first = hidden[torch.arange(len(lengths), device=hidden.device), lengths - 1]

            def step(ids: Tensor, positions: Tensor, mask: Tensor) -> Tensor:
                fed = self.network.get_input_embeddings()(ids)
                return self._logits(
                    self._read(
                        fed,
                        position_ids=positions,
                        attention_mask=mask,
                        past_key_values=cache,
                        use_cache=True,
                        prefix=0,
                    )
                )

            actions, logps = decode(
                step,
                cache,
                self._logits(first),
                lengths,
                group_size=group_size,
                decoding=decoding,
                eos=self._eos,
                generator=generator,
            )
        return Rollout(actions, logps, self.decode(actions))

    def logps(self, examples: Sequence[Example], actions: Actions, temperature: float = 1.0) -> Float[Tensor, "n t"]:
        """One pass over each example's prefix and all its answers, packed; logits only where an action is predicted.

        Each row's mask must be true from the first action on without gaps.
        """
        assert len(actions) % len(examples) == 0
        actions = actions.to(self.device)
        embeddings, lengths = self._prefix(examples)
        width = embeddings.shape[1]
        packed = pack(lengths, width, actions)
        answers = self.network.get_input_embeddings()(packed.ids)
        hidden = self._read(
            torch.cat([embeddings, answers.to(embeddings.dtype)], 1),
            position_ids=packed.positions,
            attention_mask=packed.mask,
            prefix=width,
            use_cache=False,
        )
        last = hidden[torch.arange(len(lengths), device=hidden.device), lengths - 1]
        first = self._score(last, actions.ids[:, 0].view(len(lengths), -1), temperature)
        scored = self._score(hidden[:, width:][packed.used], packed.targets[packed.used][:, None], temperature)
        rest = first.new_zeros(packed.used.shape).masked_scatter(packed.used, scored)
        return packed.unpack(rest, first, actions.ids.shape[1]) * actions.mask

    def _prefix(
        self, examples: Sequence[Example], *, afresh: bool = False
    ) -> tuple[Float[Tensor, "b p d"], Int64[Tensor, " b"]]:
        for example in examples:
            self._check(example)
        features, counts = self._hear([example.waveform for example in examples], afresh)
        rows = [self._prompt(e, count) for e, count in zip(examples, counts.tolist(), strict=True)]
        lengths = torch.tensor([len(row) for row in rows], device=self.device)
        ids = nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=self._eos[0]).to(self.device)
        embeddings = self.network.get_input_embeddings()(ids)
        heard: Bool[Tensor, "b f"] = torch.arange(features.shape[1], device=self.device) < counts[:, None]
        spoken = (ids == self._audio)[..., None].expand_as(embeddings)
        return embeddings.masked_scatter(spoken, features[heard].to(embeddings.dtype)), lengths

    def _hear(self, waveforms: list[Tensor], afresh: bool) -> tuple[Float[Tensor, "b f d"], Int64[Tensor, " b"]]:
        # Sampling listens, and what scores its answers need not: unless the ears are trained, they hear the same.
        # Only what was sampled last is kept, so that every process of a sharded model listens at the same calls.
        if not afresh and all(self._heard.get(id(wave), (None,))[0] is wave for wave in waveforms):
            own = [self._heard[id(wave)][1] for wave in waveforms]
            counts = torch.tensor([len(features) for features in own], device=self.device)
            return nn.utils.rnn.pad_sequence(own, batch_first=True), counts
        features, counts = self.spec.hear(self.network, self.extractor, waveforms)
        if afresh and self._ears_are_fixed:
            parts = zip(waveforms, features, counts.tolist(), strict=True)
            self._heard = {id(wave): (wave, heard[:count]) for wave, heard, count in parts}
        return features, counts

    def _prompt(self, example: Example, audio_tokens: int) -> Int64[Tensor, " p"]:
        try:
            return torch.tensor(self.spec.prompt_ids(self.tokenizer, example.prompt, audio_tokens))
        except ValueError as error:
            raise ValueError(f"example {example.id}: {error}") from None

    def _check(self, example: Example) -> None:
        if example.seconds < SHORTEST:
            raise ValueError(
                f"example {example.id}: its clip lasts {example.seconds:.3f} s, and under {SHORTEST} s there is "
                "nothing for the model to hear; leave the example out"
            )
        if self._window is not None and example.seconds > self._window:
            if not self.cut:
                warnings.warn(
                    f"example {example.id}: of its {example.seconds:.1f} s the model hears the first "
                    f"{self._window:.0f} s; the same goes for every longer clip",
                    stacklevel=2,
                )
            self.cut.add(example.id)

    def _read(self, embeddings: Float[Tensor, "b s d"], **how: Any) -> Float[Tensor, "b s d"]:
        return self.network.model.language_model(inputs_embeds=embeddings, **how).last_hidden_state

    def _logits(self, hidden: Float[Tensor, "*s d"]) -> Float[Tensor, "*s v"]:
        logits = self.network.lm_head(hidden).float()
        return logits if self._divisor == 1 else logits / self._divisor

    def _score(
        self, hidden: Float[Tensor, "m d"], tokens: Int64[Tensor, "m k"], temperature: float
    ) -> Float[Tensor, "m k"]:
        """Log-probabilities of K tokens after each of M states, a bounded number of logits at a time."""
        size = max(SCORES_AT_ONCE // self.network.lm_head.out_features, 1)
        if len(hidden) <= size:
            return self._score_some(hidden, tokens, temperature)
        parts = zip(hidden.split(size), tokens.split(size), strict=True)
        return torch.cat([checkpoint(self._score_some, *part, temperature, use_reentrant=False) for part in parts])

    def _score_some(self, hidden: Tensor, tokens: Tensor, temperature: float) -> Tensor:
        logits = self._logits(hidden)
        if temperature not in (0, 1):
            logits = logits / temperature
        # Not log_softmax, whose result would be a second copy of the logits to keep for the backward pass.
        return logits.gather(1, tokens) - logits.logsumexp(-1, keepdim=True)

    def save_pretrained(self, folder: str, *, form: Literal["whole", "adapter"] = "whole") -> None:
        """For plain transformers: all weights with LoRA merged in, or for peft the adapter alone."""
        export.save(self.network, folder, form)
        self.tokenizer.save_pretrained(folder)
        self.extractor.save_pretrained(folder)


def load(
    *,
    spec: Spec,
    weights: str | None = None,
    revision: str | None = None,
    config: str | Mapping[str, Any] | None = None,
    tokenizer: Any = None,
    lora: Mapping[str, Any] | None = None,
    freeze: Sequence[str] = (),
    dtype: str = "float32",
    gradient_checkpointing: bool = False,
    seed: int = 0,
) -> SpeechLM:
    """A speech language model from a Hugging Face id or a local folder, or with random weights from a configuration.

    `config` is a dictionary, or an id or folder whose config.json is read; with it the weights are drawn from `seed`.
    `tokenizer` is a tokenizer, or an id or folder; by default that of `weights` or `config`. `lora` gives `rank`,
    `alpha` and `dropout`; without it all is trained but the parts in `freeze`. Adapters are kept in single precision
    whatever `dtype` is. Weights are safetensors only, and no code that comes with them is ever run.
    """
    import transformers

    if (weights is None) == (config is None):
        raise ValueError("model: give either weights (an id or a folder) or config (for random weights), not both")
    if tokenizer is None and not isinstance(weights or config, str):
        raise ValueError("model: a config written out needs a tokenizer")
    source = tokenizer if tokenizer is not None else weights or config
    if isinstance(source, str):
        source = transformers.AutoTokenizer.from_pretrained(source, revision=revision, trust_remote_code=False)
    if weights is not None:
        network = _loaded(spec, weights, revision, dtype)
    else:
        network = _drawn(spec, config or {}, source, revision, dtype, seed)
    identity = export.identity(network)
    if lora is not None:
        export.adapt(network, spec.lora_targets, seed=seed, **lora)
    if gradient_checkpointing:
        network.gradient_checkpointing_enable({"use_reentrant": False})
    return SpeechLM(network, spec, source, freeze=freeze, base_identity=identity).eval()


def _loaded(spec: Spec, weights: str, revision: str | None, dtype: str) -> Any:
    import transformers

    return getattr(transformers, spec.architecture).from_pretrained(
        weights, revision=revision, dtype=getattr(torch, dtype), attn_implementation="sdpa", use_safetensors=True
    )


def _drawn(
    spec: Spec, config: str | Mapping[str, Any], tokenizer: Any, revision: str | None, dtype: str, seed: int
) -> Any:
    import transformers

    architecture = getattr(transformers, spec.architecture)
    if isinstance(config, str):
        settings = architecture.config_class.from_pretrained(config, revision=revision)
    else:
        settings = spec.configuration(config, tokenizer)
    torch.manual_seed(seed)
    return architecture._from_config(settings, dtype=getattr(torch, dtype), attn_implementation="sdpa")
