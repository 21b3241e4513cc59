"""A run that is killed at any moment and started again ends like one that was left alone, bit for bit."""

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from speechrl.config import composed
from speechrl.train import run
from tests import miniature

ROOT = Path(__file__).parent.parent
TIMED = ("examples_per_second",)


def execute(corpus: Path, runs: Path, regime: str, delays: list[float], *more: str) -> tuple[Path, dict]:
    """The run's folder, how often it was killed, and the seconds that its last start took."""
    overrides = miniature.overrides(corpus, runs, regime, "checkpoint_seconds=0.0", "keep_rollouts=true", *more)
    task = json.dumps({"overrides": overrides, "delays": delays})
    done = subprocess.run(
        [sys.executable, "-m", "tests.killed", task], cwd=ROOT, capture_output=True, text=True, timeout=500,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    said = json.loads(done.stdout.splitlines()[-1])
    assert said["status"] == 0, done.stderr[-3000:]
    return next((runs / "mini" / regime).iterdir()), said


def record(folder: Path) -> dict[str, object]:
    """All that a run leaves but times."""
    metrics = [line for line in (folder / "metrics.csv").read_text().splitlines() if not any(t in line for t in TIMED)]
    return {
        "metrics.csv": metrics,
        "rollouts": (folder / "rollouts.jsonl").read_text() if (folder / "rollouts.jsonl").exists() else None,
        "metrics.json": (folder / "metrics.json").read_text(),
        "answers": (folder / "answers.jsonl").read_text(),
    }


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return {
        f"{path.name}/{name}": tensor
        for path in sorted(folder.rglob("*.safetensors"))
        for name, tensor in load_file(path).items()
    }


def compare(undisturbed: Path, disturbed: Path) -> None:
    assert record(undisturbed) == record(disturbed)
    left, right = weights(undisturbed), weights(disturbed)
    assert left.keys() == right.keys()
    assert all(torch.equal(left[name], right[name]) for name in left)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return miniature.corpus(tmp_path_factory.mktemp("corpus"))


@pytest.mark.parametrize(
    ("regime", "kills"),
    [("hybrid", 3)] + [pytest.param(regime, 10, marks=pytest.mark.slow) for regime in ("sft", "grpo", "hybrid")],
)
def test_killed_runs_end_like_undisturbed_ones(regime: str, kills: int, corpus: Path, tmp_path: Path) -> None:
    alone, said = execute(corpus, tmp_path / "a", regime, [], "grpo.snapshot_every=5")
    moments = random.Random(f"{regime}{kills}")
    delays = [moments.uniform(0.05, said["seconds"]) for _ in range(kills)]
    disturbed, said = execute(corpus, tmp_path / "b", regime, delays, "grpo.snapshot_every=5")
    assert said["killed"] >= 1
    compare(alone, disturbed)


def test_a_finished_run_is_not_run_again(corpus: Path, tmp_path: Path) -> None:
    config = composed(miniature.overrides(corpus, tmp_path, "none"), extra=[miniature.CONF])
    folder = run(config)
    written = (folder / "metrics.json").stat().st_mtime_ns
    assert run(config) == folder
    assert (folder / "metrics.json").stat().st_mtime_ns == written
