"""A deepfake study of forty half-second clips, and the overrides that train a tiny detector on it in seconds."""

from pathlib import Path

import torch

from speechrl import audio
from speechrl.data import manifest
from speechrl.types import generator

CONF = str(Path(__file__).parent / "conf")


def corpus(folder: Path, *, train: int = 24, other: int = 12) -> Path:
    """Noise bursts: the fake ones hum. Written as wav files with train.csv, valid.csv, near.csv and far.csv."""
    folder.mkdir(parents=True, exist_ok=True)
    for split, count in {"train": train, "valid": other, "near": other, "far": other}.items():
        rows = []
        for i in range(count):
            randomness = generator("miniature", split, i)
            samples = 6000 + 400 * (i % 5)
            wave = 0.1 * torch.randn(samples, generator=randomness)
            if i % 2:
                wave += 0.05 * torch.sin(torch.arange(samples) * (0.3 if split == "far" else 0.2))
            audio.write(folder / f"{split}{i}.wav", wave)
            label = "fake" if i % 2 else "real"
            path = f"$ROOT/{split}{i}.wav"
            rows.append({"ID": f"{split}-{i}", "Label": label, "Duration": samples / 16000, "Path": path})
        manifest.write(folder / f"{split}.csv", rows)
    return folder


def overrides(corpus: Path, runs: Path, regime: str = "grpo", *more: str) -> list[str]:
    """A run of 12 steps, validated every 4."""
    return [
        "model=tiny", "data=miniature", f"regime={regime}", f"data.folder={corpus}", f"paths.runs={runs}",
        "table=mini", f"row={regime}", "optimisation.steps=12", "optimisation.validate_every=4",
        "optimisation.lr=0.01", *more,
    ]  # fmt: skip
