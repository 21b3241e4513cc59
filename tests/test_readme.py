"""The README's commands do what it says: parsed from it, and run on recordings of a few seconds with tiny models."""

import csv
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from speechrl import audio, runs
from speechrl.types import generator
from tests.miniature import CONF

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
COMMANDS = [line for block in re.findall(r"```sh\n(.*?)```", README, re.S) for line in block.strip().splitlines()]
QUICKLY = [
    "optimisation.steps=2", "optimisation.validate_every=1", "optimisation.lr=0.01", "model=tiny",
]  # fmt: skip


def command(start: str) -> list[str]:
    """The README's one command that begins so."""
    (found,) = [line for line in COMMANDS if line.startswith(start)]
    return shlex.split(found)


def execute(words: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    assert words[0] == "python"
    path = os.pathsep.join([str(folder), str(ROOT)])
    done = subprocess.run(
        [sys.executable, *words[1:]], cwd=folder, capture_output=True, text=True, timeout=500,
        env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", "COLUMNS": "200"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-1500:] + done.stderr[-3000:]
    return done


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's folder: recordings with labels, and the reward and configuration that the README writes."""
    folder = tmp_path_factory.mktemp("user")
    (folder / "my").mkdir()
    with (folder / "my.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["path", "label"])
        for i in range(60):
            wave = 0.1 * torch.randn(8000, generator=generator("readme", i))
            audio.write(folder / "my" / f"{i}.wav", wave if i % 2 else wave.cumsum(0) / 30)
            table.writerow([f"my/{i}.wav", "real" if i % 2 else "fake"])
    (code,) = re.findall(r"```python\n(.*?)```", README, re.S)
    (conf,) = re.findall(r"```yaml\n(.*?)```", README, re.S)
    (folder / "my_rewards.py").write_text(code)
    (folder / "my_conf" / "reward").mkdir(parents=True)
    (folder / "my_conf" / "reward" / "cautious.yaml").write_text(conf)
    (folder / "my_conf" / "model").mkdir()
    (folder / "my_conf" / "model" / "tiny.yaml").write_text((Path(CONF) / "model" / "tiny.yaml").read_text())
    return folder


def test_a_reward_of_ones_own_without_forking(home: Path) -> None:
    assert len(re.findall(r"```python\n(.*?)```", README, re.S)[0].splitlines()) <= 30
    said = execute([*command("python -m speechrl.train --config-dir"), *QUICKLY], home)
    folder = Path(re.search(r"done: (\S+)", said.stdout)[1])
    assert "train/reward_cautious" in (home / folder / "metrics.csv").read_text()
    words = command("python -m speechrl.predict")
    words = [f"run={folder}" if w.startswith("run=") else "my" if w.startswith("/my") else w for w in words]
    execute(words, home)
    with (home / "scores.csv").open() as file:
        scored = list(csv.DictReader(file))
    assert len(scored) == 60
    assert all(0 <= float(row["P(real)"]) <= 1 for row in scored)


@pytest.mark.slow
def test_labelled_recordings_get_a_table(home: Path) -> None:
    table = home / "table"
    table.mkdir()
    (table / "sweep.yaml").write_text((ROOT / "experiments" / "custom" / "sweep.yaml").read_text())
    words = command("python -m speechrl.sweep experiments/custom")
    words = [str(table) if w == "experiments/custom" else w for w in words]
    said = execute([*words, "--config-dir", "my_conf", *QUICKLY], home)
    assert "4 cells" in said.stdout
    assert len(list(home.glob(f"runs/custom/*/seed=0-*/{runs.DONE}"))) == 4
    assert "SFT → GRPO" in (table / "results.md").read_text()
    again = execute([*words, "--config-dir", "my_conf", *QUICKLY], home)
    assert "4 done before" in again.stdout


def test_every_other_command_is_one_that_exists() -> None:
    """Those that the tests of their own modules run: here, their words are held against what the programs take."""
    prepared = [line for line in COMMANDS if "speechrl.prepare" in line]
    from speechrl.prepare import _parser as parser

    assert len(prepared) == 6
    for line in prepared:
        parser().parse_args(shlex.split(line)[3:])
    from speechrl.config import composed
    from speechrl.sweep import arguments

    for line in COMMANDS:
        words = shlex.split(line)
        if "speechrl.sweep" in line:
            composed(["experiment=deepfake/grpo", *arguments().parse_intermixed_args(words[3:]).overrides])
        if "speechrl.train" in line and "--config-dir" not in line and "-m" not in words[3:]:
            composed(words[3:])
        if words[0] == "make":
            dry = subprocess.run(["make", "-n", *words[1:]], cwd=ROOT, capture_output=True, text=True, check=False)
            assert dry.returncode == 0, dry.stderr
