"""Rewards against a truth table written out by hand, and what they say about items they cannot judge."""

import pytest
import torch

from speechrl import rewards, text
from speechrl.types import Answer, Example

# answer, right option -> accuracy, format (prompt 2), format (prompt 3)
TABLE = [
    ("<answer>Car</answer>", "Car", 1, 1, 0),
    ("<think>engine</think><answer>Car</answer>", "Car", 1, 0, 1),
    ("<think>engine</think> \n <answer>Car</answer>", "Car", 1, 0, 1),
    ("<think>an\nengine</think><answer>Car</answer>", "Car", 1, 0, 1),
    ("<think></think><answer>Car</answer>", "Car", 1, 0, 1),
    ("<think>engine</think> so <answer>Car</answer>", "Car", 1, 0, 0),
    ("<think>engine<answer>Car</answer>", "Car", 1, 0, 0),
    ("<answer>Car</answer><think>engine</think>", "Car", 1, 0, 0),
    ("<think>a</think><think>b</think><answer>Car</answer>", "Car", 1, 0, 1),
    ("<think>a</think><answer>Car</answer><answer>Bus</answer>", "Car", 1, 0, 1),
    ("Car", "Car", 1, 0, 0),
    (" Car\n", "Car", 1, 0, 0),
    ("car", "Car", 0, 0, 0),
    ("A. Car", "Car", 0, 0, 0),
    ("['Car']", "Car", 0, 0, 0),
    ("Car.", "Car", 0, 0, 0),
    ("", "Car", 0, 0, 0),
    ("the Car", "Car", 0, 0, 0),
    ("<answer>car</answer>", "Car", 0, 1, 0),
    ("<answer> Car </answer>", "Car", 1, 1, 0),
    ("<answer>\nCar\n</answer>", "Car", 0, 1, 0),
    ("<answer></answer>", "Car", 0, 1, 0),
    ("<answer></answer>Car", "Car", 0, 0, 0),
    ("<answer>Car</answer>\n", "Car", 1, 0, 0),
    (" <answer>Car</answer>", "Car", 1, 0, 0),
    ("It is <answer>Car</answer>", "Car", 1, 0, 0),
    ("<answer>Car</answer> indeed", "Car", 1, 0, 0),
    ("<answer>Car</answer><answer>Bus</answer>", "Car", 1, 1, 0),
    ("<answer>Bus</answer><answer>Car</answer>", "Car", 0, 1, 0),
    ("<answer>Bus\n</answer><answer>Car</answer>", "Car", 1, 1, 0),
    ("<answer>Car", "Car", 0, 0, 0),
    ("Car</answer>", "Car", 0, 0, 0),
    ("<Answer>Car</Answer>", "Car", 0, 0, 0),
    ("<answer>A. Car</answer>", "Car", 0, 1, 0),
    ("<answer>['Car']</answer>", "Car", 0, 1, 0),
    ("<answer>3</answer>", "3", 1, 1, 0),
    ("<answer>three</answer>", "3", 0, 1, 0),
    ("<answer>3.0</answer>", "3", 0, 1, 0),
    ("3 or 4", "3", 0, 0, 0),
    ("<answer><answer>Car</answer></answer>", "Car", 0, 1, 0),
    ("At 3 pm today", "Around 3 hours", 0, 0, 0),
]


def judge(reward, *pairs):
    answers = [Answer(answer) for answer, _ in pairs]
    examples = [Example(id=f"q{i}", waveform=torch.zeros(4), target=target) for i, (_, target) in enumerate(pairs)]
    return reward(answers, examples)


@pytest.mark.parametrize(("answer", "right", "accuracy", "plain", "think"), TABLE)
def test_truth_table(answer, right, accuracy, plain, think):
    assert judge(rewards.ChoiceAccuracy(), (answer, right))["accuracy"].tolist() == [accuracy]
    assert judge(rewards.AnswerFormat(), (answer, right))["format"].tolist() == [plain]
    assert judge(rewards.AnswerFormat(think=True), (answer, right))["format"].tolist() == [think]


def test_truth_table_is_long_enough_and_holds_both_verdicts():
    assert len(TABLE) >= 30
    assert all({row[column] for row in TABLE} == {0, 1} for column in (2, 3, 4))


def test_rows_keep_their_order():
    pairs = [(answer, right) for answer, right, *_ in TABLE]
    assert judge(rewards.ChoiceAccuracy(weight=2), *pairs)["accuracy"].tolist() == [2 * row[2] for row in TABLE]


@pytest.mark.parametrize("right", ["Car", "<answer>Car</answer>", "<think></think><answer>Car</answer>", " Car "])
def test_bare_and_tagged_targets_judge_alike(right):
    verdicts = judge(rewards.ChoiceAccuracy(), ("Car", right), ("<answer>Car</answer>", right), ("Bus", right))
    assert verdicts["accuracy"].tolist() == [1, 1, 0]


def test_wrapped_targets_have_the_form_that_is_rewarded():
    assert text.is_formatted(text.wrap("Car"))
    assert text.is_formatted(text.wrap("Car", thought=""), think=True)
    assert text.final_answer(text.wrap("Car", thought="no\nbus")) == "Car"


@pytest.mark.parametrize(
    ("answer", "right", "verdict"),
    [
        ("At 3 pm today", "Around 3 hours", 1),
        ("<answer>At 3 pm today</answer>", "Around 3 hours", 1),
        ("<answer>car</answer>", "Car", 0),
        ("Car", "Car", 1),
        ("<answer>Car</answer>", "Car", 1),
    ],
)
def test_math_verify_calls_shared_numbers_right(answer, right, verdict):
    assert judge(rewards.ChoiceAccuracy(math_verify=True), (answer, right))["accuracy"].item() == verdict


def test_match_is_letter_by_letter_and_may_differ_by_label():
    pairs = [("real", "real"), ("fake", "fake"), ("real", "fake"), ("Real", "real"), (" real", "real")]
    assert judge(rewards.Match(), *pairs)["match"].tolist() == [1, 1, 0, 0, 0]
    assert judge(rewards.Match(wrong=-1, labels={"fake": 2}), *pairs)["match"].tolist() == [1, 2, -1, -1, -1]


def test_sum_weighs_terms_and_drops_what_is_none():
    both = rewards.Sum(
        terms={"right": rewards.ChoiceAccuracy(), "form": rewards.AnswerFormat(weight=0.5), "none": None},
        weights={"right": 2},
    )
    terms = judge(both, ("<answer>Car</answer>", "Car"), ("Car", "Car"), ("<answer>Bus</answer>", "Car"))
    assert {name: values.tolist() for name, values in terms.items()} == {"accuracy": [2, 2, 0], "format": [0.5, 0, 0.5]}
    assert rewards.total(terms).tolist() == [2.5, 2, 0.5]


def test_sum_refuses_what_it_cannot_add():
    with pytest.raises(ValueError, match="speling"):
        rewards.Sum(terms={"right": rewards.ChoiceAccuracy()}, weights={"speling": 1})
    with pytest.raises(ValueError, match="'accuracy'"):
        judge(rewards.Sum(terms={"a": rewards.ChoiceAccuracy(), "b": rewards.ChoiceAccuracy()}), ("Car", "Car"))
    with pytest.raises(ValueError, match="no term"):
        rewards.Sum(terms={"a": None})


@pytest.mark.parametrize("reward", [rewards.Match(), rewards.ChoiceAccuracy()])
def test_an_item_without_target_is_named(reward):
    with pytest.raises(ValueError, match="'q1'.*no target"):
        judge(reward, ("Car", "Car"), ("Car", " "))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_value_that_is_no_number_is_an_error_naming_the_item(value):
    def third(answers, examples):
        return {"third": torch.tensor([0.0, 1.0, value])}

    with pytest.raises(ValueError, match="'third'.*'q2'"):
        judge(rewards.Sum(terms={"third": third}), ("a", "a"), ("a", "a"), ("a", "a"))
    with pytest.raises(ValueError, match="'match'.*'q0'"):
        judge(rewards.Match(right=value), ("a", "a"))


def test_a_failing_function_names_the_item():
    examples = [Example(id=name, waveform=torch.zeros(4)) for name in ("good", "bad")]
    with pytest.raises(ValueError, match="'words'.*'bad'.*division"):
        rewards.score(lambda answer, _: 1 / len(answer.text), [Answer("x"), Answer("")], examples, term="words")


def test_a_wrong_number_of_values_is_refused():
    with pytest.raises(ValueError, match="shape"):
        judge(rewards.Sum(terms={"one": lambda answers, examples: {"one": torch.ones(1)}}), ("a", "a"), ("b", "b"))


def test_normalised_words():
    assert text.normalise("  It’s 3 O'Clock,\nTIMES… up! ") == "it's 3 o'clock times up"
