"""The embedded studies' base models, made once and kept: tiny networks of the real architectures."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from speechrl.data import manifest
from speechrl.data.pipeline import Clips, Steps
from speechrl.policies.base import Policy
from speechrl.policies.classifier import Classifier, load
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
    phoneme_steps: int = 300,
    post_steps: int = 300,
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


def kept(folder: Path, make: Callable[[], Policy]) -> str:
    """The folder of a base model, made first if it is not there; a second process waits."""
    with Claim(folder):
        if not finished(folder):
            make().save_pretrained(str(folder))
            write_json(folder / "metrics.json", {})
    return str(folder)


def supervised(
    policy: Policy, clips: Clips, *, steps: int, lr: float, seed: int, seconds: float | None = None, batch_size: int = 16
) -> None:
    """Plain supervised training with the loss of the SFT regime, and a cosine schedule."""
    objective = Supervised()
    for step, examples in optimised(policy, clips, steps, lr, seed, seconds, batch_size):
        for part in objective.parts(policy, examples, step, None):
            part.loss.backward()


def optimised(
    module: nn.Module, clips: Clips, steps: int, lr: float, seed: int, seconds: float | None, batch_size: int = 16
) -> Iterator[tuple[int, list[Example]]]:
    """Yields batches, and steps AdamW with whatever gradients the caller has left when it asks for the next."""
    batches = Steps(clips.items, steps=steps, seed=seed, seconds=seconds, batch_size=batch_size)
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
        "conv_dim": [48] * 7,
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
