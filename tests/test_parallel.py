"""Two processes over gloo, on fixed rollouts, take the same steps as one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parent.parent


def train(kind: str, devices: int, output: Path) -> list[torch.Tensor]:
    done = subprocess.run(
        [sys.executable, "-m", "tests.parallel_worker", kind, str(devices), str(output)], cwd=ROOT,
        capture_output=True, text=True, timeout=240, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return [torch.load(f"{output}.{rank}", weights_only=True) for rank in range(devices)]


KINDS = ["token", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("sequence", "sft"))]


@pytest.mark.parametrize("kind", KINDS)
def test_two_processes_take_the_steps_of_one(kind: str, tmp_path: Path) -> None:
    (alone,) = train(kind, 1, tmp_path / "one")
    first, second = train(kind, 2, tmp_path / "two")
    assert torch.equal(first, second)
    assert torch.allclose(alone, first, atol=1e-6)
    assert (alone - first).abs().max() < 1e-6 < (alone - torch.zeros_like(alone)).abs().max()
