"""Real architectures with tiny configurations and random weights, and a byte-level tokenizer, for the tests."""

from typing import Any

import torch

from speechrl.policies.qwen2_audio import Qwen2Audio
from speechrl.policies.speech_lm import SpeechLM, load
from speechrl.types import SAMPLE_RATE, Example, generator

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|audio_bos|>", "<|AUDIO|>", "<|audio_eos|>"]


def tokenizer() -> Any:
    """One token per byte, no merges, and Qwen2-Audio's special tokens."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(models.BPE(vocab={byte: i for i, byte in enumerate(alphabet)}, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    return PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<|im_end|>", pad_token="<|endoftext|>")


def config(*, seconds: int = 4, layers: int = 2, width: int = 64) -> dict[str, Any]:
    """A Qwen2-Audio of two encoder and two decoder layers whose ears are open for four seconds."""
    audio = {
        "d_model": width,
        "encoder_layers": layers,
        "encoder_attention_heads": 4,
        "encoder_ffn_dim": 2 * width,
        "num_mel_bins": 32,
        "max_source_positions": 50 * seconds,
    }
    text = {
        "hidden_size": width,
        "intermediate_size": 2 * width,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 4096,
        "initializer_range": 0.15,
    }
    return {"audio_config": audio, "text_config": text}


def qwen2_audio(**options: Any) -> SpeechLM:
    """A tiny Qwen2-Audio policy; the wide initialisation makes its answers depend on what it hears."""
    settings = options.pop("config", None) or config()
    return load(spec=Qwen2Audio(), config=settings, tokenizer=tokenizer(), **options)


def examples(seconds: tuple[float, ...] = (0.7, 2.31, 1.5), **fields: Any) -> list[Example]:
    """Noise of different lengths with prompts of different lengths, one of them with the mark in the middle."""
    prompts = ("<audio>\nWhat is it?", "Listen: <audio> and now say in a few words what happens there.", "Why?")
    return [
        Example(
            id=f"clip-{i}",
            waveform=torch.randn(int(length * SAMPLE_RATE), generator=generator("clip", i)) * (0.1 + 0.2 * i),
            prompt=prompts[i % len(prompts)],
            target=("Car", "a dog barks", "x")[i % 3],
            **fields,
        )
        for i, length in enumerate(seconds)
    ]
