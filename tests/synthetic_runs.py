"""Finished runs of a made-up detector study, written as `speechrl.train` writes them, with known effects."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from speechrl import metrics, runs
from speechrl.types import Outcome, seed_of

TARGETS = ("target_4s", "target_10s")
OOD = ("ood_add", "ood_for", "ood_dv", "ood_itw")
SHIFT = {"none": (0.6, 1.3), "sft": (1.3, 0.6), "grpo": (1.3, 1.2), "sft_grpo": (1.3, 0.8)}
"""How far real and fake scores lie apart, in deviations: in the target domain, and out of it."""

SCHEMES = {"none": "none", "sft": "sft", "grpo": "grpo", "sft_grpo": "hybrid"}


def described(rows: Sequence[str] = tuple(SHIFT), **more: object) -> dict:
    """A sweep.yaml."""
    return {
        "table": "deepfake_table1",
        "title": "A made-up table",
        "paper": "arXiv 0000.00000, Table 1 (EER, %)",
        "experiments": "deepfake",
        "unit": r"^(target-\d+)-",
        "rows": [
            {"name": row, "label": row.upper(), "model": "XLS_R", "scheme": SCHEMES.get(row, "ablation")}
            for row in rows
        ],
        "columns": [{"metric": f"{name}/eer", "label": name} for name in (*TARGETS, "target", *OOD, "ood")],
        "compare": [
            {"a": "grpo", "b": "sft", "metric": "ood/eer"},
            {"a": "grpo", "b": "sft", "metric": "target/eer"},
        ],
        **more,
    }


def write(
    root: Path, row: str, seed: int, *, trials: int = 200, scale: str = "embedded", cost: float = 1.0, curves: int = 40
) -> Path:
    """One finished run's folder."""
    folder = root / row / f"seed={seed}-0123abcd"
    outcomes, found = [], {}
    near, far = SHIFT.get(row, (1.5, 1.5))
    for split in (*TARGETS, *OOD):
        part = _outcomes(split, seed, row, near if split in TARGETS else far, trials)
        scores, real = [one.score for one in part], [one.target == "real" for one in part]
        found[f"{split}/eer"] = 100 * metrics.eer(scores, real)
        found[f"{split}/auc"] = metrics.auc(scores, real)
        found[f"{split}/accuracy"] = 100 * metrics.accuracy(scores, real)
        found[f"{split}/drift"] = 0.1 + 0.05 * len(split) / 10 + (0.1 * (split in OOD) if row == "sft" else 0.0)
        outcomes += part
    for name, parts in (("target", TARGETS), ("ood", OOD)):
        found[f"{name}/eer"] = float(np.mean([found[f"{part}/eer"] for part in parts]))
    runs.write_outcomes(folder / "answers.jsonl", outcomes)
    runs.write_json(folder / "provenance.json", provenance(seed, scale, cost, drawn=row != "sft"))
    runs.write_text(folder / "metrics.csv", _curves(row, seed, curves))
    runs.write_json(folder / runs.DONE, found)
    return folder


def folders(root: Path, rows: Mapping[str, int], **how: object) -> dict[str, list[Path]]:
    """Runs of several rows, as many seeds of each as said."""
    return {row: [write(root, row, seed, **how) for seed in range(seeds)] for row, seeds in rows.items()}


def provenance(seed: int, scale: str, cost: float, drawn: bool = True) -> dict:
    """A run's provenance."""
    return {
        "scale": scale,
        "seed": seed,
        "git": "0123456789abcdef",
        "dirty": False,
        "versions": {"torch": "2.11.0"},
        "device": "cpu",
        "finished": "2026-11-20T20:00:00+0000",
        "wall_seconds": 90.0 * cost,
        "optimizer_steps": 200 * cost,
        "examples": 3200 * cost,
        "audio_seconds": 6000.0 * cost,
        "actions": 204800 * cost * drawn,
    }


def _outcomes(split: str, seed: int, row: str, shift: float, trials: int) -> list[Outcome]:
    # The items' own difficulty is shared by rows and seeds; a row and seed adds noise of its own.
    items = np.random.default_rng(seed_of("items", "target" if split in TARGETS else split)).normal(size=trials)
    noise = np.random.default_rng(seed_of("run", row, seed, split)).normal(size=trials)
    real = np.arange(trials) % 2 == 0
    logits = shift * (real - 0.5) * 2 + items + 0.4 * noise
    scores = 1 / (1 + np.exp(-logits))
    suffix = f"-{split.removeprefix('target_')}" if split in TARGETS else ""
    name = "target" if split in TARGETS else split
    return [
        Outcome(
            id=f"{name}-{k:04d}{suffix}",
            split=split,
            target="real" if real[k] else "fake",
            answer="real" if scores[k] > 0.5 else "fake",
            score=float(scores[k]),
        )
        for k in range(trials)
    ]


def _curves(row: str, seed: int, steps: int) -> str:
    rng = np.random.default_rng(seed_of("curves", row, seed))
    lines = ["step,name,value"]
    for step in range(steps):
        lines.append(f"{step},train/loss,{1 / (1 + step / 10) + 0.02 * rng.normal()}")
        if row not in ("none", "sft"):
            lines.append(f"{step},train/reward,{1 - 0.5 / (1 + step / 10) + 0.02 * rng.normal()}")
            lines.append(f"{step},train/kl,{0.002 * step + 0.005 * abs(rng.normal())}")
        if step % 10 == 9:
            lines.append(f"{step},valid/eer,{30 / (1 + step / 10) + rng.normal()}")
    return "\n".join(lines) + "\n"
