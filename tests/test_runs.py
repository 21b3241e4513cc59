"""A run's folder: named by what was changed, written whole, and cut back to where a run resumes."""

from pathlib import Path

import pytest

from speechrl import runs
from speechrl.config import composed
from speechrl.types import Outcome


def test_the_signature_follows_the_experiment_and_nothing_else() -> None:
    def name(*overrides: str) -> str:
        return runs.signature(composed(["experiment=deepfake/grpo", *overrides]))

    assert name() == name()
    assert name() == name("logger=csv", "paths.runs=/elsewhere", "table=other", "row=other")
    changed = ["seed=1", "grpo.beta=0.1", "regime=sft", "optimisation.steps=7", "scale=paper", "+reward.right=2.0"]
    assert len({name(), *(name(change) for change in changed)}) == 1 + len(changed)


def test_the_folder_names_table_row_seed_and_signature() -> None:
    config = composed(["experiment=deepfake/sft", "seed=2", "paths.runs=/r"])
    assert runs.folder(config) == Path(f"/r/deepfake_table1/sft/seed=2-{runs.signature(config)}")


def test_metrics_are_appended_and_cut_back(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    log = runs.MetricsFile(path, 0)
    for step in range(1, 6):
        log.log_metrics({"train/loss": step / 3, "train/kl": 0.0}, step=step)
    whole = path.read_text()
    with path.open("a") as file:
        file.write("6,train/lo")
    again = runs.MetricsFile(path, 3)
    assert path.read_text().splitlines()[-1] == "3,train/kl,0.0"
    for step in (4, 5):
        again.log_metrics({"train/loss": step / 3, "train/kl": 0.0}, step=step)
    assert path.read_text() == whole


def test_outcomes_come_back_as_they_were(tmp_path: Path) -> None:
    kept = [Outcome(id="a", split="ood_x", target="real", answer="fake", score=0.1234567890123, meta={"attack": "W1"})]
    runs.write_outcomes(tmp_path / "answers.jsonl", kept)
    assert runs.read_outcomes(tmp_path / "answers.jsonl") == kept


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "metrics.json"
    runs.write_json(path, {"a": 1})

    def full(*_: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(OSError, match="No space"):
        runs.write_json(path, {"a": 2})
    assert runs.read_json(path) == {"a": 1}


def test_one_claim_at_a_time(tmp_path: Path) -> None:
    import fcntl

    with runs.Claim(tmp_path / "run"), (tmp_path / "run" / ".lock").open() as other, pytest.raises(BlockingIOError):
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
