"""The audio-question task and a user's own: what is asked, and how answers become numbers."""

from functools import partial
from pathlib import Path

import pytest
import torch

from speechrl import rewards, text
from speechrl.data.manifest import Item
from speechrl.tasks import custom
from speechrl.tasks.aqa import AudioQuestions
from speechrl.tasks.custom import Custom
from speechrl.types import Answer, Outcome

CHOICES = ["Man", "Woman", "Child", "Robot"]
QUESTION = "Based on the given audio, identify the source of the speaking voice."
ASKED = f"<audio>{QUESTION} Please choose the answer from the following options: ['Man', 'Woman', 'Child', 'Robot']."
PROMPTS = {
    1: ASKED,
    2: ASKED + " Output the final answer in <answer> </answer>.",
    3: ASKED + " Output the thinking process in <think> </think> and final answer in <answer> </answer>.",
}
TARGETS = {1: "Man", 2: "<answer>Man</answer>", 3: "<think></think><answer>Man</answer>"}


def item(**changes):
    known = {"target": "Man", "prompt": QUESTION, "meta": {"choices": CHOICES, "task": "speech"}}
    return Item(**{"id": "one", "path": Path("one.wav"), **known, **changes})


def outcome(answer, target="<answer>Man</answer>", split="mmau", ended=True, **meta):
    return Outcome(id="one", split=split, target=target, answer=answer, ended=ended, meta={"choices": CHOICES, **meta})


@pytest.mark.parametrize("prompt", [1, 2, 3])
def test_the_paper_s_prompts_word_for_word(prompt):
    example = AudioQuestions(prompt=prompt).example(item(), torch.zeros(8))
    assert (example.prompt, example.target) == (PROMPTS[prompt], TARGETS[prompt])
    assert example.meta["task"] == "speech" and example.meta["path"] == "one.wav"


@pytest.mark.parametrize("prompt", [2, 3])
def test_a_target_earns_the_whole_reward(prompt):
    example = AudioQuestions(prompt=prompt).example(item(), torch.zeros(8))
    both = rewards.Sum(terms={"right": rewards.ChoiceAccuracy(), "form": rewards.AnswerFormat(think=prompt == 3)})
    assert rewards.total(both([Answer(example.target)], [example])).tolist() == [2]


def test_thoughts_and_choices_in_json():
    example = AudioQuestions(prompt=3).example(
        item(meta={"choices": '["Man", "It\'s a \\"robot\\""]', "think": "deep"}), torch.zeros(8)
    )
    assert example.target == "<think>deep</think><answer>Man</answer>"
    assert """['Man', 'It\\'s a "robot"']""" in example.prompt
    assert example.meta["choices"] == ["Man", 'It\'s a "robot"']


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"target": "man"}, "'one'.*'man' is not among"),
        ({"meta": {}}, "'one'.*two options"),
        ({"meta": {"choices": ["Man"]}}, "'one'.*two options"),
        ({"meta": {"choices": "Man, Woman"}}, "'one'.*JSON"),
    ],
)
def test_items_that_cannot_be_asked_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        AudioQuestions().example(item(**changes), torch.zeros(8))


def test_unknown_prompt():
    with pytest.raises(ValueError, match="prompt=4"):
        AudioQuestions(prompt=4)


def test_metrics_of_splits_kinds_and_categories():
    outcomes = [
        outcome("<answer>Man</answer>", task="sound", **{"sub-category": "Counting"}),
        outcome("The speaker is a man.", task="sound", **{"sub-category": "Order/Time"}),
        outcome("<answer>Woman</answer> Man", task="sound", difficulty="hard"),
        outcome("Man or Woman", task="music", ended=False),
        outcome("<answer>man</answer>", "Man", split="valid"),
    ]
    found = AudioQuestions(prompt=2).measure(outcomes)
    assert found["mmau/accuracy"] == 50 and found["mmau/exact"] == 25
    assert found["mmau/se"] == pytest.approx(100 * (0.5 * 0.5 / 4) ** 0.5)
    assert found["mmau_sound/accuracy"] == pytest.approx(200 / 3) and found["mmau_music/accuracy"] == 0
    assert found["mmau_sub/Counting/accuracy"] == 100 and found["mmau_sub/Order-Time/exact"] == 0
    assert found["mmau_difficulty/hard/accuracy"] == 0
    assert (found["mmau/ended"], found["mmau/parsed"], found["mmau/words"]) == (75, 50, 11 / 4)
    assert found["valid/accuracy"] == 100 and found["valid/exact"] == 0
    assert not any("speech" in name for name in found)


def test_average_counts_items_not_kinds():
    outcomes = [outcome("Man", task="sound")] * 3 + [outcome("Robot", task="music")]
    assert AudioQuestions().measure(outcomes)["mmau/accuracy"] == 75


def test_parsed_means_written_at_all_under_prompt_1():
    assert AudioQuestions(prompt=1).measure([outcome("Man"), outcome(" ")])["mmau/parsed"] == 50


def own(**changes):
    known = {"metrics": {"exact": custom.exact_match}, "selection": "valid/exact"}
    return Custom(**{**known, **changes})


def test_a_users_own_prompts():
    assert own().example(item(prompt="Say it."), torch.zeros(8)).prompt == "<audio>Say it."
    assert own().example(item(prompt="Say <audio> it."), torch.zeros(8)).prompt == "Say <audio> it."
    assert own(prompt="What is said?").example(item(prompt=""), torch.zeros(8)).prompt == "<audio>What is said?"
    tagged = own(target="<answer>{target}</answer>").example(item(target="{x}"), torch.zeros(8))
    assert tagged.target == "<answer>{x}</answer>"


def test_a_users_own_labels():
    task = own(labels=["happy", "sad"])
    assert task.labels == ("happy", "sad")
    assert task.example(item(target="sad", prompt=""), torch.zeros(8)).prompt == ""
    with pytest.raises(ValueError, match="'one'.*'hapy'"):
        task.example(item(target="hapy"), torch.zeros(8))


def test_a_users_own_metrics():
    task = own(
        metrics={"exact": custom.exact_match, "accuracy": custom.accuracy, "wer": custom.word_error_rate},
        selection="valid/wer",
        higher_is_better=False,
    )
    rows = [("Two red boats.", "two red boats"), ("two boats", "two red boats"), ("two red boats", "two red boats")]
    found = task.measure([outcome(answer, target, split="valid") for answer, target in rows])
    assert found == {
        "valid/exact": pytest.approx(100 / 3),
        "valid/accuracy": pytest.approx(200 / 3),
        "valid/wer": pytest.approx(100 / 9),
    }


def test_an_equal_error_rate_needs_scores():
    eer = own(metrics={"eer": partial(custom.equal_error_rate, positive="yes")}, selection="valid/eer")
    rows = [("yes", 0.9), ("yes", 0.4), ("no", 0.6), ("no", 0.1)]
    outcomes = [Outcome(id="a", split="test", target=target, answer="", score=score) for target, score in rows]
    assert eer.measure(outcomes) == {"test/eer": 50}
    assert eer.measure([*outcomes[:1], *outcomes[3:]]) == {"test/eer": 0}
    with pytest.raises(ValueError, match="'one' has no score"):
        eer.measure([outcome("yes")])


def test_selection_must_be_a_metric():
    with pytest.raises(ValueError, match="valid/accuracy"):
        own(selection="valid/accuracy")


def test_options_are_written_as_python_writes_them():
    asked = text.ask("Q{0}?", ("it's", 'a "b"', "ä"), prompt=1)
    assert asked == """Q{0}? Please choose the answer from the following options: ["it's", 'a "b"', 'ä']."""
