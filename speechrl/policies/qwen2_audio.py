"""Qwen2-Audio: ChatML, a Whisper encoder of 25 tokens per second, a linear projector, a Qwen2 language model."""

import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from speechrl.policies.spec import AUDIO, Spec
from speechrl.types import SAMPLE_RATE

HOP = 160
"""Samples per mel frame."""
TURN = (
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
    "<|im_start|>user\n{content}<|im_end|>\n<|im_start|>assistant\n"
)
HEARD = "Audio 1: <|audio_bos|><|AUDIO|><|audio_eos|>\n"
PLACEHOLDER = "<|AUDIO|>"
MARK = re.compile(rf"{AUDIO}\s*")


class Qwen2Audio(Spec):
    """`Qwen2AudioForConditionalGeneration` (2407.10759): Qwen2-Audio-7B-Instruct and what was made from it."""

    architecture = "Qwen2AudioForConditionalGeneration"
    parts = MappingProxyType({"encoder": "model.audio_tower", "projector": "model.multi_modal_projector"})
    lora_targets = r"model\.language_model\.layers\.\d+\.(self_attn\.[qkvo]_proj|mlp\.(gate|up|down)_proj)"

    def configuration(self, settings: Mapping[str, Any], tokenizer: Any) -> Any:
        """Fills in the vocabulary's size and the placeholder's id where the dictionary does not."""
        from transformers import Qwen2AudioConfig

        text = {"vocab_size": len(tokenizer)} | dict(settings.get("text_config", {}))
        other = {"audio_token_index": self.audio_token(tokenizer)} | dict(settings) | {"text_config": text}
        return Qwen2AudioConfig(**other)

    def extractor(self, config: Any) -> Any:
        """Whisper's log-mel features, as many bins and seconds as the encoder takes."""
        from transformers import WhisperFeatureExtractor

        seconds = int(self.window(config))
        return WhisperFeatureExtractor(feature_size=config.audio_config.num_mel_bins, chunk_length=seconds)

    def window(self, config: Any) -> float:
        """30 s for the released models: two mel frames for each of the encoder's positions."""
        return config.audio_config.max_source_positions * 2 * HOP / SAMPLE_RATE

    def prompt_ids(self, tokenizer: Any, prompt: str, audio_tokens: int) -> list[int]:
        """One user turn; the audio line stands where the mark is."""
        if prompt.count(AUDIO) > 1 or PLACEHOLDER in prompt:
            raise ValueError(f"the prompt must hold one {AUDIO} mark at most, and no {PLACEHOLDER}: {prompt!r}")
        before, after = MARK.split(prompt) if AUDIO in prompt else ("", prompt)
        ids = tokenizer.encode(TURN.format(content=before + HEARD + after), add_special_tokens=False)
        at = ids.index(tokenizer.convert_tokens_to_ids(PLACEHOLDER))  # not `audio_token`: this runs for every example
        return ids[:at] + ids[at : at + 1] * audio_tokens + ids[at + 1 :]

    def audio_token(self, tokenizer: Any) -> int:
        """The id of `<|AUDIO|>`."""
        return _id(tokenizer, PLACEHOLDER)

    def eos(self, tokenizer: Any) -> tuple[int, ...]:
        """The end of the turn, and the end of the text, which a base model writes instead."""
        return _id(tokenizer, "<|im_end|>"), _id(tokenizer, "<|endoftext|>")

    def hear(
        self, network: Any, extractor: Any, waveforms: Sequence[Float[Tensor, " _"]]
    ) -> tuple[Float[Tensor, "b f d"], Int64[Tensor, " b"]]:
        """As `Qwen2AudioModel` does, without computing the silence up to the window's end; longer clips are cut."""
        tower, projector = network.model.audio_tower, network.model.multi_modal_projector
        mels, frames = _mels(extractor, waveforms, tower.config.max_source_positions * 2, tower.conv1.weight)
        lengths = (frames - 1) // 2 + 1
        hidden = nn.functional.gelu(tower.conv2(nn.functional.gelu(tower.conv1(mels)))).transpose(1, 2)
        longest = int(lengths.max())
        hidden = hidden[:, :longest] + tower.embed_positions.weight[:longest]
        hidden = nn.functional.dropout(hidden, tower.dropout, tower.training)
        valid = torch.arange(longest, device=hidden.device) < lengths[:, None]
        mask = None if bool(valid.all()) else valid[:, None, None].expand(-1, 1, longest, longest)
        for layer in tower.layers:
            hidden = layer(hidden, mask)
        hidden = tower.layer_norm(tower.avg_pooler(hidden.transpose(1, 2)).transpose(1, 2))
        return projector(hidden), (lengths - 2) // 2 + 1


def _id(tokenizer: Any, token: str) -> int:
    if token not in tokenizer.get_vocab():
        raise ValueError(f"the tokenizer lacks {token}, which Qwen2Audio needs; give the model's own")
    return tokenizer.convert_tokens_to_ids(token)


def _mels(
    extractor: Any, waveforms: Sequence[Tensor], limit: int, like: Tensor
) -> tuple[Float[Tensor, "b m f"], Int64[Tensor, " b"]]:
    """Log-mel features and their number for each clip, computed no further than the longest clip's end is heard.

    The two convolutions look two frames beyond a clip's last frame, whose window looks 200 samples beyond: four frames
    of silence after the longest clip give what padding to the whole window would.
    """
    longest = max(len(wave) for wave in waveforms)
    frames = min(-(-longest // HOP) + 4, limit)
    features = extractor(
        [wave.cpu().numpy() for wave in waveforms],
        sampling_rate=SAMPLE_RATE,
        max_length=frames * HOP,
        return_attention_mask=True,
        return_tensors="pt",
        device=str(like.device),
    )
    return features["input_features"].to(like), features["attention_mask"].sum(1).to(like.device)
