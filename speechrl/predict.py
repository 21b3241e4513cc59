"""`python -m speechrl.predict run=<folder> <recordings>`: what a trained model says of new recordings, as a CSV."""

import argparse
import csv
import io
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from rich.progress import track

from speechrl import runs
from speechrl.audio import Channel
from speechrl.config import built
from speechrl.data.manifest import Item
from speechrl.data.pipeline import Clips, eval_batches
from speechrl.data.verified import measure_all
from speechrl.evaluate import Judge
from speechrl.policies.base import Policy
from speechrl.tasks.base import Task
from speechrl.types import SAMPLE_RATE, Decoding, Outcome

KEYS = ("run", "input", "output", "prompt", "choices")
_ORIGIN = ("config", "tokenizer", "revision", "lora")
"""What of a model's configuration says where its first weights came from; an export stands for all of it."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; the exit status is 0, or 1 after one sentence that says what is wrong with the input."""
    try:
        given = _parsed(arguments)
        rows = predict(Path(given.pop("run")), Path(given.pop("input")), **given)
    except (ValueError, OSError) as error:
        print(f"speechrl.predict: {error}", file=sys.stderr)
        return 1
    faults = sum(bool(row["error"]) for row in rows)
    unused = f", {faults} of them not scored: its error column says why" if faults else ""
    print(f"Wrote {given['output']}: {len(rows)} recordings{unused}.")
    return int(faults == len(rows))


def predict(
    run: Path, source: Path, *, output: str | Path = "scores.csv", prompt: str = "", choices: str = ""
) -> list[dict[str, Any]]:
    """Scores a recording, or every file of a folder and the folders in it but for hidden ones, and writes a row each.

    The columns are path, for a closed set of labels the probability of the first (`P(real)`), answer, seconds, and
    error: a file that cannot be read or heard has its row too. Clips are heard, batched and decoded as the run's own
    test sets were, and asked as its task asks: `prompt` is the question, `choices` the options, as in "dog|cat".
    Raises ValueError where the run is not finished, nothing is found, or the task cannot ask without more.
    """
    output = Path(output)
    if output.is_dir():
        raise ValueError(f"output={output}: is a folder; give the name of a CSV file")
    config = _finished(run)
    task: Task = built(config.task)
    lengths = measure_all(dict.fromkeys(_recordings(source, output)), progress=True)
    items = [_item(path, found, task, prompt, choices) for path, found in lengths.items() if isinstance(found, int)]
    answers: dict[str, Outcome | str] = {}
    if items:
        _ask_once(task, items[0])
        answers = _answers(config, task, _restored(config, run / "export"), items)
    rows = [_row(path, found, answers, task) for path, found in lengths.items()]
    table = io.StringIO()
    writer = csv.DictWriter(table, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    runs.write_text(output, table.getvalue())
    return rows


def _parsed(arguments: Sequence[str] | None) -> dict[str, str]:
    parser = argparse.ArgumentParser(
        prog="python -m speechrl.predict",
        description="Scores new recordings with the model of a finished run, and writes a CSV with a row for each.",
        epilog='run=runs/<table>/<row>/seed=<k>-<signature> [output=scores.csv] [prompt="What is it?"] '
        '[choices="dog|cat"] and a folder or a file',
    )
    parser.add_argument("words", nargs="+", metavar="key=value or a path")
    given: dict[str, str] = {}
    for word in parser.parse_args(arguments).words:
        key, sign, value = word.partition("=")
        if not sign or (key not in KEYS and Path(word).exists()):
            key, value = "input", word
        if key not in KEYS:
            raise ValueError(f"{word}: there is no key {key!r}; the keys are {', '.join(KEYS)}")
        if key in given:
            raise ValueError(f"{word}: {key} is already {given[key]}; give one")
        given[key] = value
    for key in ("run", "input"):
        if not given.get(key):
            raise ValueError(f"give {key}=...; -h shows how")
    return {"output": "scores.csv", **given}


def _finished(run: Path) -> DictConfig:
    """The configuration of a finished run."""
    path = run / "config.yaml"
    if not path.is_file():
        raise ValueError(f"run={run}: is no run's folder, it has no config.yaml; they are runs/<table>/<row>/seed=...")
    if not runs.finished(run) or not (run / "export").is_dir():
        raise ValueError(f"run={run}: this run is not finished; start it again, it goes on where it stopped")
    config = OmegaConf.load(path)
    assert isinstance(config, DictConfig)
    return config


def _recordings(source: Path, output: Path) -> list[Path]:
    """The file, or all files of a folder in the order of their names; never what an earlier call wrote."""
    if source.is_file():
        return [source]
    if not source.is_dir():
        raise ValueError(f"{source}: there is no such file or folder")
    files = [path for path in sorted(source.rglob("*")) if path.is_file() and path.resolve() != output.resolve()]
    found = [path for path in files if not any(part.startswith(".") for part in path.relative_to(source).parts)]
    if not found:
        raise ValueError(f"{source}: there is no file in this folder")
    return found


def _item(path: Path, samples: int, task: Task, prompt: str, choices: str) -> Item:
    """The recording with the question; the target, which nobody knows, is the first of the possible answers."""
    options = [choice.strip() for choice in choices.split("|")] if choices else []
    target = next(iter([*(task.labels or ()), *options]), "")
    return Item(str(path), path, target, prompt, samples / SAMPLE_RATE, {"choices": options} if options else {})


def _ask_once(task: Task, item: Item) -> None:
    """Tells before a model is loaded that the task needs to know more."""
    try:
        task.example(item, torch.zeros(SAMPLE_RATE))
    except ValueError as error:
        raise ValueError(f'this run\'s task cannot ask: {error}; give prompt="..." and choices="one|two"') from error


def _restored(config: DictConfig, export: Path) -> Policy:
    """The run's policy with the weights that the run left."""
    for key in _ORIGIN:
        config.model.pop(key, None)
    config.model.weights = str(export)
    policy: Policy = built(config.model)
    return policy.to("cuda" if torch.cuda.is_available() else "cpu")


def _answers(config: DictConfig, task: Task, policy: Policy, items: Sequence[Item]) -> dict[str, Outcome | str]:
    """What the policy says of each item by its id, or in words why it says nothing."""
    evaluation = config.evaluation
    judge = Judge(task, Decoding(**evaluation.decoding), batch_seconds=evaluation.batch_seconds, seed=config.seed)
    channel: Channel = OmegaConf.select(config, "data.channel") or "mean"
    found: dict[str, Outcome | str] = {}

    def heard(batch: Sequence[Item]) -> None:
        outcomes = judge.outcomes(policy, "new", Clips(batch, task.example, channel=channel, cache_bytes=0))
        found.update({outcome.id: outcome for outcome in outcomes})

    for indices in track(eval_batches(items, evaluation.batch_seconds), "scoring", transient=True):
        batch = [items[index] for index in indices]
        try:
            heard(batch)
        except (ValueError, torch.OutOfMemoryError):  # one of them: each by itself tells which
            for item in batch:
                try:
                    heard([item])
                except (ValueError, torch.OutOfMemoryError) as error:
                    found[item.id] = str(error).split("\n", 1)[0]
    return found


def _row(path: Path, length: int | str, answers: Mapping[str, Outcome | str], task: Task) -> dict[str, Any]:
    found = length if isinstance(length, str) else answers[str(path)]
    outcome = found if isinstance(found, Outcome) else None
    score = {f"P({task.labels[0]})": outcome.score if outcome else ""} if task.labels else {}
    return {
        "path": str(path),
        **score,
        "answer": outcome.answer if outcome else "",
        "seconds": "" if isinstance(length, str) else round(length / SAMPLE_RATE, 3),
        "error": "" if outcome else found,
    }


if __name__ == "__main__":
    sys.exit(main())
