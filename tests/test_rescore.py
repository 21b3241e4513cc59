"""Rewards anew on kept rollouts: the same where the reward is the same, others where it is not, nothing half-done."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from speechrl import rescore, runs
from speechrl.config import composed
from speechrl.regimes.base import Judged
from speechrl.types import Actions, Answer, Example, Rollout

ANSWERS = (
    ("<answer>Car</answer>", "Car", "a car", "<answer>Dog</answer>"),
    ("Dog", "Dog", "Dog", "<answer>Dog</answer>"),
    ("x", "y", "z", "<answer>Cat</answer>"),
)
TARGETS = ("<answer>Car</answer>", "<answer>Dog</answer>", "<answer>Owl</answer>")


def kept(folder: Path, reward: Any = None) -> Path:
    """Two steps of rollouts as a run keeps them, judged by the run's reward."""
    reward = reward or rescore.reward_of(Path(), "aqa")
    file = runs.RolloutFile(folder / rescore.KEPT, 0)
    for step, groups in enumerate(((0, 1), (2,))):
        examples = [
            Example(
                f"clip-{g}",
                torch.zeros(9),
                prompt="What?",
                target=TARGETS[g],
                meta={"path": f"{g}.wav", "kind": "sound"},
            )
            for g in groups
        ]
        answers = tuple(Answer(text) for g in groups for text in ANSWERS[g])
        ids = torch.zeros(len(answers), 2, dtype=torch.long)
        rollout = Rollout(Actions(ids, ids == 0), -torch.ones(len(answers), 2), answers)
        terms = reward(answers, [example for example in examples for _ in range(4)])
        totals = torch.stack(list(terms.values())).sum(0).view(len(groups), 4)
        file(step, examples, Judged(rollout, terms, totals - 1, totals))
    return folder / rescore.KEPT


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_the_same_reward_gives_the_same_terms(tmp_path: Path) -> None:
    source, target = kept(tmp_path), tmp_path / "again" / "out.jsonl"
    summary = rescore.rescore(source, rescore.reward_of(tmp_path, "aqa"), target)
    for before, after in zip(lines(source), lines(target), strict=True):
        assert after.pop("rescored") == before["terms"]
        assert after == before, "all else stays as it was"
    assert summary.means("before") == summary.means("after")
    assert (summary.groups, summary.answers, summary.moved) == (3, 12, 0)


def test_another_reward_says_what_it_changes(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    runs.freeze(tmp_path, composed(["task=aqa"]))
    before = kept(tmp_path).read_text()
    # letter by letter: only the tagged answer is right, which was among the best before
    assert rescore.main([f"run={tmp_path}", "reward=custom_text", "+reward.right=3", "+reward.wrong=-1"]) == 0
    found = lines(tmp_path / "rollouts-custom_text.jsonl")
    assert found[0]["rescored"] == {"match": [3, -1, -1, -1]}
    assert found[1]["rescored"] == {"match": [-1, -1, -1, 3]}
    assert found[2]["rescored"] == {"match": [-1, -1, -1, -1]}
    said = capsys.readouterr().out
    for words in ("match", "-0.3333", "accuracy", "0.5000", "0 of 3 groups"):
        assert words in said, said
    assert (tmp_path / rescore.KEPT).read_text() == before


def test_a_group_s_best_answer_may_become_another(tmp_path: Path) -> None:
    def shortest(answers: Any, _: Any) -> dict[str, torch.Tensor]:
        return {"short": torch.tensor([-float(len(answer.text)) for answer in answers])}

    summary = rescore.rescore(kept(tmp_path), shortest, tmp_path / "out.jsonl")
    assert summary.moved == 3
    assert "3 of 3 groups (100.0%)" in summary.sentence()


def test_a_reward_reads_what_it_read_in_training(tmp_path: Path) -> None:
    steps = []

    def nosy(answers: Any, examples: Any) -> dict[str, torch.Tensor]:
        steps.append([(a.text, e.id, e.prompt, e.target, dict(e.meta)) for a, e in zip(answers, examples, strict=True)])
        return {"seen": torch.arange(len(answers))}

    source = kept(tmp_path)
    rescore.rescore(source, nosy, tmp_path / "out.jsonl")
    assert [len(step) for step in steps] == [8, 4], "a step's answers are judged together"
    meta = {"path": "1.wav", "kind": "sound"}
    assert steps[0][7] == ("<answer>Dog</answer>", "clip-1", "What?", TARGETS[1], meta)
    assert [line["rescored"]["seen"] for line in lines(tmp_path / "out.jsonl")] == [
        [0, 1, 2, 3],
        [4, 5, 6, 7],
        [0, 1, 2, 3],
    ]


def test_a_line_that_was_not_finished_is_left_out(tmp_path: Path) -> None:
    source = kept(tmp_path)
    with source.open("a") as file:
        file.write('{"step": 2, "id"')
    summary = rescore.rescore(source, rescore.reward_of(tmp_path, "aqa"), tmp_path / "out.jsonl")
    assert summary.groups == 3


@pytest.mark.parametrize(
    "damage, said",
    [
        (lambda text: text.replace('"target"', '"targte"', 1), "row 1: has no 'target'"),
        (lambda text: "{]\n" + text, "row 1: is not JSON"),
        (lambda text: text.replace("<answer>Owl</answer>", ""), "row 3 and what follows"),
        (lambda _: "", "holds no rollout"),
    ],
)
def test_nothing_is_left_of_what_fails(tmp_path: Path, damage: Any, said: str, capsys: pytest.CaptureFixture) -> None:
    source = kept(tmp_path)
    source.write_text(damage(source.read_text()))
    assert rescore.main([f"run={source}", "reward=aqa"]) == 1
    assert said in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == [rescore.KEPT]


@pytest.mark.parametrize(
    "words, said",
    [
        (["run={run}", "reward=nothing"], "nothing"),
        (["run={run}"], "give reward=..."),
        (["reward=aqa"], "give run=..."),
        (["run={run}", "reward=aqa", "rewrad.right=2"], "rewrad.right=2: give run=..."),
        (["run={run}/nowhere", "reward=aqa"], "keep_rollouts=true"),
        (["run={run}", "reward=aqa", "output={run}/rollouts.jsonl"], "would replace"),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, words: list[str], said: str, capsys: pytest.CaptureFixture) -> None:
    kept(tmp_path)
    assert rescore.main([word.format(run=tmp_path) for word in words]) == 1
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("values", [torch.ones(3), torch.full((8,), float("nan"))])
def test_a_reward_must_give_finite_numbers(tmp_path: Path, values: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="row 1 .*'odd'"):
        rescore.rescore(kept(tmp_path), lambda *_: {"odd": values}, tmp_path / "out.jsonl")
