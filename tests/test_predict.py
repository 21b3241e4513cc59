"""Predictions on new recordings: the scores of the run, a row for every file whatever is wrong with it, plain words."""

import csv
import struct
from pathlib import Path
from typing import Any

import pytest
import tiny_models
import torch
from omegaconf import OmegaConf
from test_classifier import examples, policy

from speechrl import audio, predict, runs
from speechrl.config import composed, plain
from speechrl.types import GREEDY, SAMPLE_RATE, Decoding, Example, generator


def table(path: Path) -> list[dict[str, str]]:
    """A CSV's rows."""
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def finished(folder: Path, config: Any, model: Any) -> Path:
    """A run's folder as a run leaves it."""
    model.save_pretrained(str(folder / "export"))
    runs.freeze(folder, config)
    runs.write_json(folder / runs.DONE, {})
    return folder


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A finished run of a detector, whose configuration says how its base model would be made."""
    config = composed(["experiment=deepfake/sft", "+model.masked=false", "evaluation.batch_seconds=3"])
    return finished(tmp_path / "runs" / "table" / "row" / "seed=0-12345678", config, policy())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three good recordings, one of them in a folder of its own."""
    for name, example in zip(("b.wav", "a.flac", "deep/c, d.wav"), examples(), strict=True):
        audio.write(tmp_path / "new" / name, example.waveform / 10)
    return tmp_path / "new"


def test_scores_are_the_runs_own(run: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert predict.main([f"run={run}", str(folder)]) == 0
    rows = table(Path("scores.csv"))
    assert list(rows[0]) == ["path", "P(real)", "answer", "seconds", "error"]
    assert [row["path"] for row in rows] == [str(folder / name) for name in ("a.flac", "b.wav", "deep/c, d.wav")]
    # of 3 s in a batch, the longest first: 1.31 and 1.0 s together, then 0.7 s; masked=False makes that matter
    clips = [Example(name, audio.read(folder / name)) for name in ("a.flac", "deep/c, d.wav", "b.wav")]
    subject = policy(masked=False)
    with torch.no_grad():
        chances = torch.cat([subject.label_logps(part, ["real"]).exp() for part in (clips[:2], clips[2:])])[
            :, 0
        ].tolist()
    for row, chance in zip((rows[0], rows[2], rows[1]), chances, strict=True):
        assert float(row["P(real)"]) == pytest.approx(chance, abs=1e-6)
        assert row["answer"] == ("real" if chance > 0.5 else "fake") and row["error"] == ""
    assert [float(row["seconds"]) for row in rows] == [1.31, 0.7, 1.0]
    assert len({row["P(real)"] for row in rows}) == 3


def test_every_file_has_a_row(run: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "empty.wav").touch()
    (folder / "notes.txt").write_text("not a recording")
    cut = (folder / "b.wav").read_bytes()
    (folder / "cut.wav").write_bytes(cut[: len(cut) // 2])
    header = b"RIFF" + struct.pack("<I", 40) + b"WAVEfmt " + struct.pack("<IHHIIHH", 16, 3, 1, 16000, 64000, 4, 32)
    samples = struct.pack("<2f", 0.5, float("nan"))
    (folder / "nan.wav").write_bytes(header + b"data" + struct.pack("<I", len(samples)) + samples)
    audio.write(folder / "short.wav", torch.ones(200) * 0.1)
    (folder / ".hidden").touch()
    output = folder / "out.csv"
    for _ in range(2):  # the second call finds the first one's table beside the recordings
        assert predict.main([f"run={run}", f"input={folder}", f"output={output}"]) == 0
    rows = {Path(row["path"]).name: row for row in table(output)}
    faults = {
        "empty.wav": "empty",
        "notes.txt": "decode",
        "cut.wav": "truncated",
        "nan.wav": "NaN",
        "short.wav": "200 samp",
    }
    assert set(rows) == {"a.flac", "b.wav", "c, d.wav", *faults}
    for name, row in rows.items():
        assert faults.get(name, "") in row["error"] and bool(row["error"]) == (name in faults)
        assert bool(row["P(real)"]) == bool(row["answer"]) == (name not in faults)
    assert "8 recordings, 5 of them not scored" in capsys.readouterr().out
    assert {path.name for path in folder.iterdir()} == {*rows, "deep", ".hidden", "out.csv"} - {"c, d.wav"}


def test_one_file_and_nothing_good(run: Path, folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "of" / "one.csv"
    assert predict.main([str(folder / "b.wav"), f"output={output}", f"run={run}/"]) == 0
    assert [row["path"] for row in table(output)] == [str(folder / "b.wav")]
    (folder / "b.wav").write_bytes(b"")
    assert predict.main([str(folder / "b.wav"), f"output={output}", f"run={run}"]) == 1
    assert "empty" in table(output)[0]["error"]


@pytest.mark.parametrize(
    "words, said",
    [
        (["run={run}", "{tmp}/nowhere"], "nowhere: there is no such file or folder"),
        (["run={run}", "{tmp}/void"], "void: there is no file in this folder"),
        (["run={tmp}", "{new}"], "is no run's folder"),
        (["run={tmp}/unfinished", "{new}"], "not finished"),
        (["{new}"], "give run=..."),
        (["run={run}"], "give input=..."),
        (["run={run}", "{new}", "outptu=x.csv"], "there is no key 'outptu'"),
        (["run={run}", "{new}", "{new}"], "give one"),
        (["run={run}", "{new}", "output={tmp}"], "is a folder"),
    ],
)
def test_what_is_wrong_is_said(
    run: Path, folder: Path, tmp_path: Path, words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "void").mkdir()
    runs.write_text(tmp_path / "unfinished" / "config.yaml", "seed: 0\n")
    places = {"run": run, "tmp": tmp_path, "new": folder}
    assert predict.main([word.format(**places) for word in words]) == 1
    assert said in capsys.readouterr().err


@pytest.fixture
def answering(tmp_path: Path) -> Path:
    """A finished run of a model that answers multiple-choice questions about clips."""
    config = OmegaConf.create(
        {
            "task": {"_target_": "speechrl.tasks.aqa.AudioQuestions", "prompt": 2},
            "model": {
                "_target_": "speechrl.policies.speech_lm.load",
                "spec": {"_target_": "speechrl.policies.qwen2_audio.Qwen2Audio"},
                "weights": "some/base-model",
                "lora": {"rank": 4, "alpha": 8},
            },
            "evaluation": {"decoding": plain(composed([]))["evaluation"]["decoding"], "batch_seconds": 100.0},
            "seed": 0,
        }
    )
    config.evaluation.decoding.max_tokens = 5
    return finished(tmp_path / "answering", config, tiny_models.qwen2_audio())


def test_a_model_that_writes_is_asked_as_it_was_trained(answering: Path, folder: Path, tmp_path: Path) -> None:
    audio.write(folder / "short.wav", torch.ones(int(0.05 * SAMPLE_RATE)) * 0.1)
    output = tmp_path / "answers.csv"
    rows = predict.predict(answering, folder, output=output, prompt="What is it?", choices="a dog | cat")
    assert list(table(output)[0]) == ["path", "answer", "seconds", "error"]
    prompt = (
        "<audio>What is it? Please choose the answer from the following options: ['a dog', 'cat']."
        " Output the final answer in <answer> </answer>."
    )
    subject = tiny_models.qwen2_audio()
    for row in rows[:3]:
        example = Example("x", audio.read(row["path"]), prompt=prompt)
        decoding = Decoding(temperature=GREEDY.temperature, max_tokens=5)
        assert row["answer"] == subject.sample([example], 1, decoding, generator(0)).answers[0].text != ""
    assert "0.050 s" in rows[3]["error"] and rows[3]["answer"] == ""


def test_a_task_that_needs_options_says_so(answering: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert predict.main([f"run={answering}", str(folder), "prompt=What?", f"output={folder / 'x.csv'}"]) == 1
    assert 'choices="one|two"' in capsys.readouterr().err and not (folder / "x.csv").exists()
