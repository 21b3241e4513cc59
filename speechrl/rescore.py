"""`python -m speechrl.rescore run=<folder> reward=<name>`: any reward on the answers that a run kept, drawn no more."""

import argparse
import json
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, groupby
from pathlib import Path
from typing import Any

import torch
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor

from speechrl.config import built, composed
from speechrl.regimes.grpo import Reward
from speechrl.types import Answer, Example

KEPT = "rollouts.jsonl"
NEEDED = ("step", "id", "audio", "prompt", "target", "meta", "answers", "terms")
"""What a line must have, as `speechrl.runs.RolloutFile` writes it."""
Record = dict[str, Any]


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; the exit status is 0, or 1 after one sentence that says what is wrong with the input."""
    try:
        run, name, output, more, extra = _parsed(arguments)
        source = run / KEPT if run.is_dir() else run
        target = output or source.with_name(f"{source.stem}-{name.replace('/', '-')}.jsonl")
        summary = rescore(source, reward_of(run, name, more, extra), target)
    except (ValueError, OSError, HydraException) as error:
        print(f"speechrl.rescore: {error}", file=sys.stderr)
        return 1
    Console().print(summary.table())
    print(summary.sentence(), f"Wrote {target}.")
    return 0


class Summary:
    """What a second judgement changed: the mean of each term before and after, and which answers are now the best."""

    def __init__(self) -> None:
        self.answers = self.groups = self.moved = 0
        self._sums: dict[str, dict[str, float]] = {"before": {}, "after": {}}

    def add(self, record: Record) -> None:
        """One group's answers."""
        self.answers += len(record["answers"])
        self.groups += 1
        for when, key in (("before", "terms"), ("after", "rescored")):
            for name, values in record[key].items():
                self._sums[when][name] = self._sums[when].get(name, 0.0) + sum(values)
        self.moved += not _best(record["terms"]) & _best(record["rescored"])

    def means(self, when: str) -> dict[str, float]:
        """The mean over answers of each term, `before` or `after`."""
        return {name: value / self.answers for name, value in self._sums[when].items()}

    def sentence(self) -> str:
        """How many groups have none of their former best answers among their best now."""
        share = f"{self.moved} of {self.groups} groups ({self.moved / self.groups:.1%})"
        return f"Means over {self.answers} answers; {share} have another best answer."

    def table(self) -> Table:
        """The means, for the screen."""
        before, after = self.means("before"), self.means("after")
        table = Table("term", "before", "after")
        for name in dict.fromkeys([*before, *after]):
            table.add_row(name, *(f"{part[name]:.4f}" if name in part else "" for part in (before, after)))
        return table


def rescore(source: Path, reward: Reward, target: Path) -> Summary:
    """Writes the kept rollouts to `target` with each line's new terms as `rescored`; all else stays as it was.

    The reward sees a step's answers together, as in training. The audio itself is not kept with the answers: a reward
    that listens finds an empty waveform and the recording's path in the example's meta. Advantages are still those of
    the old terms. Raises ValueError naming file and row where a line cannot be read or its answers cannot be judged.
    """
    if target.exists() and target.samefile(source):
        raise ValueError(f"output={target}: would replace the kept rollouts themselves; give another name")
    summary, temporary = Summary(), target.with_name(f".{target.name}.{os.getpid()}")
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with temporary.open("w") as file:
            for record in _rescored(track(list(_records(source)), "rescoring"), reward):
                summary.add(record)
                file.write(json.dumps(record) + "\n")
        if not summary.groups:
            raise ValueError(f"{source}: holds no rollout")
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)
    return summary


def reward_of(run: Path, name: str, more: Sequence[str] = (), extra: Sequence[str] = ()) -> Reward:
    """The reward of a configuration group's name, with overrides; in a run's folder, as that run would have it."""
    config: DictConfig = composed([f"reward={name}", *more], list(extra))
    if (run / "config.yaml").is_file():
        own = OmegaConf.load(run / "config.yaml")
        assert isinstance(own, DictConfig)
        own.reward = config.reward
        config = own
    return built(config.reward)


def _parsed(arguments: Sequence[str] | None) -> tuple[Path, str, Path | None, list[str], list[str]]:
    parser = argparse.ArgumentParser(
        prog="python -m speechrl.rescore",
        description="Recomputes a reward on the rollouts that a run kept (keep_rollouts=true), without drawing again.",
        epilog="run=runs/<table>/<row>/seed=<k>-<signature> (or a rollouts.jsonl) reward=<name> [output=...] "
        "and overrides of the reward's own settings, such as +reward.right=2",
    )
    parser.add_argument("words", nargs="+", metavar="key=value")
    parser.add_argument("--config-dir", action="append", default=[], help="a folder with a reward/ group of your own")
    given, more = {}, []
    parsed = parser.parse_args(arguments)
    for word in parsed.words:
        key, _, value = word.partition("=")
        if key.lstrip("+~").startswith("reward."):
            more.append(word)
        elif key in ("run", "reward", "output") and key not in given:
            given[key] = value
        else:
            raise ValueError(f"{word}: give run=..., reward=... and perhaps output=..., each once; -h shows how")
    for key in ("run", "reward"):
        if not given.get(key):
            raise ValueError(f"give {key}=...; -h shows how")
    output = Path(given["output"]) if given.get("output") else None
    return Path(given["run"]), given["reward"], output, more, parsed.config_dir


def _records(path: Path) -> Iterator[tuple[str, Record]]:
    """Where each line is, and what it says; a last line that a killed run did not finish is left out."""
    if not path.is_file():
        raise ValueError(f"{path}: there are no rollouts; a run keeps them where keep_rollouts=true")
    with path.open() as file:
        for row, line in enumerate(file, 1):
            if not line.endswith("\n"):
                return
            try:
                record = json.loads(line)
            except json.JSONDecodeError as error:
                raise ValueError(f"{path} row {row}: is not JSON ({error})") from None
            missing = [key for key in NEEDED if key not in record]
            if missing:
                raise ValueError(f"{path} row {row}: has no {missing[0]!r}; is this a rollouts.jsonl?")
            yield f"{path} row {row}", record


def _rescored(records: Iterable[tuple[str, Record]], reward: Reward) -> Iterator[Record]:
    for _, step in groupby(records, lambda place: place[1]["step"]):
        places = list(step)
        groups = [record for _, record in places]
        answers = [Answer(text) for record in groups for text in record["answers"]]
        examples = [example for record in groups for example in [_example(record)] * len(record["answers"])]
        try:
            terms = {name: _values(name, values, len(answers)) for name, values in reward(answers, examples).items()}
        except ValueError as error:
            raise ValueError(f"{places[0][0]} and what follows of its step: {error}") from error
        ends = list(chain([0], torch.tensor([len(record["answers"]) for record in groups]).cumsum(0).tolist()))
        for record, start, end in zip(groups, ends, ends[1:], strict=False):
            yield record | {"rescored": {name: values[start:end] for name, values in terms.items()}}


def _values(name: str, values: Tensor, count: int) -> list[float]:
    if values.shape != (count,) or not bool(values.isfinite().all()):
        raise ValueError(f"the reward term {name!r} is not one finite number for each of {count} answers")
    return values.tolist()


def _example(record: Record) -> Example:
    meta = record["meta"] | ({"path": record["audio"]} if record["audio"] else {})
    return Example(record["id"], torch.zeros(0), prompt=record["prompt"], target=record["target"], meta=meta)


def _best(terms: Mapping[str, Sequence[float]]) -> set[int]:
    """The rows of a group that earn most, all terms together."""
    totals = [sum(values) for values in zip(*terms.values(), strict=True)]
    return {row for row, value in enumerate(totals) if value >= max(totals) - 1e-9}
