"""A run's folder: its name, what lies in it, and how it is written so that nothing half-done is ever read."""

import fcntl
import hashlib
import json
import os
import platform
import resource
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.loggers.logger import Logger
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from speechrl.config import plain
from speechrl.regimes.base import Judged
from speechrl.types import Example, Outcome

DONE = "metrics.json"
"""Written last: a folder that has it is a finished run."""

_NAMELESS = ("paths", "logger", "launcher", "table", "row", "keep_rollouts", "checkpoint_seconds")
"""What a configuration may differ in without being another experiment."""


def signature(config: DictConfig) -> str:
    """Eight hex digits that change whenever the experiment does."""
    kept = {key: value for key, value in plain(config, resolve=False).items() if key not in _NAMELESS}
    return hashlib.sha256(json.dumps(kept, sort_keys=True, default=str).encode()).hexdigest()[:8]


def folder(config: DictConfig) -> Path:
    """Where this configuration's run lives: runs/<table>/<row>/seed=<k>-<signature>."""
    return Path(config.paths.runs) / config.table / config.row / f"seed={config.seed}-{signature(config)}"


def finished(path: Path) -> bool:
    """Whether the run in a folder ran to its end."""
    return (path / DONE).is_file()


def first_process() -> bool:
    """Whether this is the process that writes, of those that share a run."""
    return getattr(rank_zero_only, "rank", 0) in (0, None)


class Claim:
    """One run at a time in a folder; a second one waits for the first, then finds the work done.

    Of the processes that share a run, the first claims it for all.
    """

    def __init__(self, path: Path) -> None:
        path.mkdir(parents=True, exist_ok=True)
        self._file = path / ".lock"

    def __enter__(self) -> None:
        self._handle = self._file.open("w")
        if first_process():
            fcntl.flock(self._handle, fcntl.LOCK_EX)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._handle.close()


def write_text(path: Path, text: str) -> None:
    """Writes a file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text)
    os.replace(temporary, path)


def write_json(path: Path, value: Any) -> None:
    """Writes JSON whole or not at all."""
    write_text(path, json.dumps(value, indent=1, sort_keys=True, default=str) + "\n")


def read_json(path: Path) -> Any:
    """What `write_json` wrote."""
    return json.loads(path.read_text())


def write_outcomes(path: Path, outcomes: Iterable[Outcome]) -> None:
    """One evaluated item a line."""
    write_text(path, "".join(json.dumps(asdict(outcome), default=str) + "\n" for outcome in outcomes))


def read_outcomes(path: Path) -> list[Outcome]:
    """The evaluated items of a run."""
    return [Outcome(**json.loads(line)) for line in path.read_text().splitlines()]


def freeze(path: Path, config: DictConfig) -> None:
    """Keeps the configuration as it was run."""
    write_text(path / "config.yaml", OmegaConf.to_yaml(config, resolve=False))


class MetricsFile(Logger):
    """All that was logged, one `step,name,value` a line, append-only; a resumed run cuts it back to its step."""

    def __init__(self, path: Path, resumed_step: int) -> None:
        super().__init__()
        self._path = path
        cut_back(path, resumed_step, lambda line: int(line.split(",", 1)[0]), header="step,name,value\n")

    @property
    def name(self) -> str:
        """As other loggers have one."""
        return "csv"

    @property
    def version(self) -> str:
        """As other loggers have one."""
        return ""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Appends one line for each metric, in one write."""
        with self._path.open("a") as file:
            file.write("".join(f"{step},{name},{float(value)!r}\n" for name, value in metrics.items()))

    def log_hyperparams(self, *_: Any, **__: Any) -> None:
        """The frozen configuration has them."""


class RolloutFile:
    """Every answer drawn in training with what it earned: one example a line of rollouts.jsonl."""

    def __init__(self, path: Path, resumed_step: int) -> None:
        self._path = path
        cut_back(path, resumed_step - 1, lambda line: int(json.loads(line)["step"]))

    def __call__(self, step: int, examples: Sequence[Example], judged: Judged) -> None:
        """Appends a step's rollout."""
        group = judged.rewards.shape[1]
        sums = judged.rollout.logps.detach().sum(1).view(-1, group).tolist()
        terms = {name: term.view(-1, group).tolist() for name, term in judged.terms.items()}
        lines = []
        for b, example in enumerate(examples):
            answers = [answer.text for answer in judged.rollout.answers[b * group : (b + 1) * group]]
            record = {
                "step": step,
                "id": example.id,
                "audio": str(example.meta.get("path", "")),
                "prompt": example.prompt,
                "target": example.target,
                "meta": {k: v for k, v in example.meta.items() if k != "path"},
                "answers": answers,
                "logps": sums[b],
                "terms": {name: values[b] for name, values in terms.items()},
                "advantages": judged.advantages[b].tolist(),
            }
            lines.append(json.dumps(record, default=str) + "\n")
        with self._path.open("a") as file:
            file.write("".join(lines))


@rank_zero_only
def cut_back(path: Path, last_step: int, step_of: Any, header: str = "") -> None:
    """Drops the lines of an append-only file that are later than a step, and a last line that was not finished."""
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    body = [line for line in lines[bool(header) :] if line.endswith("\n")]
    write_text(path, header + "".join(line for line in body if step_of(line) <= last_step))


def provenance(config: DictConfig, **more: Any) -> dict[str, Any]:
    """What this run was made with: code, versions, machine, and whatever the caller adds."""
    libraries = ("torch", "transformers", "pytorch-lightning", "hydra-core", "numpy", "speechrl")
    return {
        "scale": config.scale.name,
        "seed": config.seed,
        "signature": signature(config),
        "git": _git("rev-parse", "HEAD"),
        "dirty": bool(_git("status", "--porcelain")),
        "versions": {name: version(name) for name in libraries} | {"python": platform.python_version()},
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor() or "cpu",
        "threads": torch.get_num_threads(),
        "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "finished": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        **more,
    }


def _git(*arguments: str) -> str | None:
    here = Path(__file__).parent
    answer = subprocess.run(["git", "-C", str(here), *arguments], capture_output=True, text=True, check=False)
    return answer.stdout.strip() if answer.returncode == 0 else None
