"""The embedded studies' base models, made once and kept: tiny networks of the real architectures."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from speechrl.data import manifest
from speechrl.data.pipeline import Clips, Steps
from speechrl.grpo import How
from speechrl.policies import speech_lm
from speechrl.policies.base import Policy
from speechrl.policies.classifier import Classifier, load
from speechrl.policies.qwen2_audio import Qwen2Audio
from speechrl.regimes.sft import Supervised
from speechrl.runs import Claim, finished, write_json
from speechrl.tasks.deepfake import Deepfake
from speechrl.types import Example, seed_of

RECIPE = 1
"""Raised when a recipe below changes, so that older base models are not taken for newer ones."""


def detector(
    *,
    corpus: Path,
    cache: str,
    layers: int,
    hidden_size: int,
    post_trained: bool,
    phoneme_steps: int = 200,
    post_steps: int = 500,
    seed: int = 0,
) -> str:
    """A folder with a tiny wav2vec 2.0 detector: pre-trained on phonemes (CTC), then, if asked, post-trained on fakes.

    The pre-trained encoder has never been shown real against fake; its head is random.
    """
    stage = f"post{post_steps}" if post_trained else "pre"
    name = f"detector-r{RECIPE}-{Path(corpus).name}-{layers}x{hidden_size}-p{phoneme_steps}-{stage}-s{seed}"
    folder = Path(cache) / "bases" / name

    def make() -> Policy:
        if not post_trained:
            return _phonetic(Path(corpus), layers, hidden_size, phoneme_steps, seed)
        start = detector(
            corpus=corpus, cache=cache, layers=layers, hidden_size=hidden_size, post_trained=False,
            phoneme_steps=phoneme_steps, seed=seed,
        )  # fmt: skip
        policy = load(weights=start, seed=seed)
        items = manifest.read(Path(corpus) / "post_train.csv")
        clips = Clips(items, Deepfake().example, seed=seed)
        supervised(policy, clips, steps=post_steps, lr=5e-4, seconds=30.0, seed=seed)
        return policy

    return kept(folder, make)


def audio_lm(*, corpus: Path, cache: str, steps: int = 900, seed: int = 0) -> str:
    """A folder with a tiny Qwen2-Audio that has learned the corpus's lessons: captions, transcripts, questions."""
    name = f"audio_lm-r{RECIPE}-{Path(corpus).name}-{steps}-s{seed}"

    def make() -> Policy:
        policy = speech_lm.load(
            spec=Qwen2Audio(), config=_TINY_QWEN2_AUDIO, tokenizer=str(Path(corpus) / "tokenizer"), seed=seed
        )
        lessons = manifest.read(Path(corpus) / "pretrain.csv")
        clips = Clips(lessons, _lesson, seed=seed)
        supervised(policy, clips, steps=steps, lr=2e-3, seed=seed, how="token")
        return policy

    return kept(Path(cache) / "bases" / name, make)


def _lesson(item: manifest.Item, waveform: Tensor) -> Example:
    return Example(item.id, waveform, prompt=f"<audio>{item.prompt}", target=item.target)


def kept(folder: Path, make: Callable[[], Policy]) -> str:
    """The folder of a base model, made first if it is not there; a second process waits."""
    with Claim(folder):
        if not finished(folder):
            make().save_pretrained(str(folder))
            write_json(folder / "metrics.json", {})
    return str(folder)


def supervised(
    policy: Policy,
    clips: Clips,
    *,
    steps: int,
    lr: float,
    seed: int,
    seconds: float | None = None,
    how: How = "sequence",
) -> None:
    """Plain supervised training with the loss of the SFT regime, and a cosine schedule."""
    objective = Supervised(how=how)
    for step, examples in optimised(policy, clips, steps, lr, seed, seconds):
        for part in objective.parts(policy, examples, step, None):
            part.loss.backward()


def optimised(
    module: nn.Module, clips: Clips, steps: int, lr: float, seed: int, seconds: float | None
) -> Iterator[tuple[int, list[Example]]]:
    """Yields batches, and steps AdamW with whatever gradients the caller has left when it asks for the next."""
    batches = Steps(clips.items, steps=steps, seed=seed, seconds=seconds)
    optimizer = torch.optim.AdamW(module.parameters(), lr=lr, weight_decay=0.01)
    warmup = max(steps // 20, 1)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps + 1, pct_start=warmup / steps)
    module.train()
    for step, keys in enumerate(batches):
        torch.manual_seed(seed_of(seed, step, "pretrain"))
        yield step, [clips[key] for key in keys]
        nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
    module.eval()


class _Phonemes(nn.Module):
    """An encoder with one linear layer over its frames, trained to spell phonemes."""

    def __init__(self, detector: Classifier, symbols: int) -> None:
        super().__init__()
        self.encoder = detector.encoder
        self.spell = nn.Linear(detector.head.in_features, symbols + 1)

    def forward(self, waves: list[Tensor], targets: list[Tensor]) -> Tensor:
        padded = nn.utils.rnn.pad_sequence([nn.functional.layer_norm(w, w.shape) for w in waves], batch_first=True)
        lengths = torch.tensor([len(wave) for wave in waves])
        mask = torch.arange(padded.shape[1]) < lengths[:, None]
        frames = self.encoder._get_feat_extract_output_lengths(lengths)
        spelled = self.spell(self.encoder(padded, attention_mask=mask.long()).last_hidden_state).log_softmax(-1)
        sizes = torch.tensor([len(target) for target in targets])
        return nn.functional.ctc_loss(spelled.transpose(0, 1), torch.cat(targets), frames, sizes, zero_infinity=True)


def _phonetic(corpus: Path, layers: int, hidden_size: int, steps: int, seed: int) -> Classifier:
    items = manifest.read(corpus / "pretrain.csv")
    symbols = sorted({symbol for item in items for symbol in str(item.meta["phonemes"]).split()})
    number = {symbol: i + 1 for i, symbol in enumerate(symbols)}
    policy = load(config=_tiny(layers, hidden_size), seed=seed)
    network = _Phonemes(policy, len(symbols))
    clips = Clips(items, lambda item, wave: Example(item.id, wave, meta=item.meta), seed=seed)
    for _, examples in optimised(network, clips, steps, 1e-3, seed, 30.0):
        targets = [torch.tensor([number[s] for s in str(e.meta["phonemes"]).split()]) for e in examples]
        network([example.waveform for example in examples], targets).backward()
    return policy


def _tiny(layers: int, hidden_size: int) -> dict[str, Any]:
    """A wav2vec 2.0 of the large models' kind (layer-norm extractor, stable layer norm), a thousandth of their size."""
    return {
        "model_type": "wav2vec2",
        "hidden_size": hidden_size,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "intermediate_size": 2 * hidden_size,
        "conv_dim": [32, 32, 48, 64],
        "conv_kernel": [20, 8, 8, 4],
        "conv_stride": [10, 4, 4, 2],
        "num_feat_extract_layers": 4,
        "feat_extract_norm": "layer",
        "conv_bias": True,
        "do_stable_layer_norm": True,
        "num_conv_pos_embeddings": 16,
        "num_conv_pos_embedding_groups": 4,
        "hidden_dropout": 0.0,
        "attention_dropout": 0.0,
        "activation_dropout": 0.0,
        "feat_proj_dropout": 0.1,
        "final_dropout": 0.0,
        "layerdrop": 0.0,
    }


_TINY_QWEN2_AUDIO: dict[str, Any] = {
    "audio_config": {
        "num_mel_bins": 64,
        "encoder_layers": 2,
        "encoder_attention_heads": 4,
        "encoder_ffn_dim": 192,
        "d_model": 96,
        "max_source_positions": 150,
        "dropout": 0.0,
        "attention_dropout": 0.0,
        "activation_dropout": 0.0,
        "encoder_layerdrop": 0.0,
    },
    "text_config": {
        "model_type": "qwen2",
        "hidden_size": 128,
        "intermediate_size": 256,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "max_position_embeddings": 512,
        "tie_word_embeddings": False,
        "bos_token_id": 0,
        "eos_token_id": 2,
    },
}
"""Hears 3 s: two encoder layers, three language-model layers, about a million parameters."""
