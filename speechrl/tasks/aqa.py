"""Audio question answering (2503.11197): a clip, a question, a few options; judged by MMAU's official rule."""

import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from jaxtyping import Float
from torch import Tensor

from speechrl import metrics, text
from speechrl.data.manifest import Item
from speechrl.types import Example, Outcome

GROUPS = {"task": "{split}_{value}", "sub-category": "{split}_sub/{value}", "difficulty": "{split}_difficulty/{value}"}
"""What accuracies are broken down by: a key of the item's meta, and the name its values get."""


class AudioQuestions:
    """Multiple-choice questions about clips, asked by prompt 1 (plain), 2 (answer tag) or 3 (thinking, answer tag).

    The reference answer is the option's text under prompt 1, and tagged as asked under 2 and 3; under prompt 3 the
    thinking block holds the item's `think` text, nothing where there is none.
    """

    labels: tuple[str, ...] | None = None
    higher_is_better = True

    def __init__(self, *, prompt: int = 2, selection: str = "valid/accuracy") -> None:
        if prompt not in text.PROMPTS:
            raise ValueError(f"prompt={prompt}: the paper's prompts are {sorted(text.PROMPTS)}")
        self.prompt = prompt
        self.selection = selection

    def example(self, item: Item, waveform: Float[Tensor, " s"]) -> Example:
        """The item as it is asked. Raises ValueError where it has no options or its answer is not one of them."""
        choices = choices_of(item.meta, item.id)
        if item.target not in choices:
            raise ValueError(f"item {item.id!r}: the answer {item.target!r} is not among the options {choices}")
        asked = text.ask(item.prompt, choices, prompt=self.prompt)
        thought = str(item.meta.get("think") or "") if self.prompt == 3 else None
        target = item.target if self.prompt == 1 else text.wrap(item.target, thought=thought)
        meta = dict(item.meta) | {"choices": choices, "path": str(item.path)}
        return Example(item.id, waveform, prompt=f"<audio>{asked}", target=target, meta=meta)

    def measure(self, outcomes: Sequence[Outcome]) -> dict[str, float]:
        """Flat metrics of every split, and of its kinds, sub-categories and difficulties; all but `words` in percent.

        `accuracy` is MMAU's token-set rule (correct / all, so an average over kinds is weighted by their sizes), `se`
        its binomial standard error, `exact` the letter-by-letter share. Of a whole split also: `ended`, the share of
        answers not cut at the token limit; `parsed`, that with a readable answer (tagged, under prompts 2 and 3);
        `words`, the mean length of what was written.
        """
        out: dict[str, float] = {}
        for split, rows in _grouped(outcomes, lambda outcome: outcome.split).items():
            out |= _accuracies(split, rows) | self._habits(split, rows)
            for key, name in GROUPS.items():
                for value, part in _grouped(rows, partial(_value, key=key)).items():
                    out |= _accuracies(name.format(split=split, value=value), part) if value else {}
        return out

    def _habits(self, name: str, rows: Sequence[Outcome]) -> dict[str, float]:
        answers = [row.answer for row in rows]
        parsed = [bool(answer.strip() if self.prompt == 1 else text.tagged_answer(answer)) for answer in answers]
        return {
            f"{name}/ended": 100 * sum(row.ended for row in rows) / len(rows),
            f"{name}/parsed": 100 * sum(parsed) / len(rows),
            f"{name}/words": sum(len(answer.split()) for answer in answers) / len(rows),
        }


def choices_of(meta: Mapping[str, Any], name: str) -> list[str]:
    """An item's options, from a list or from the JSON list that a manifest holds; ValueError naming the item."""
    found = meta.get("choices")
    if isinstance(found, str):
        try:
            found = json.loads(found)
        except json.JSONDecodeError as error:
            raise ValueError(f"item {name!r}: `choices` is not a JSON list: {found!r}") from error
    if not isinstance(found, list | tuple) or len(found) < 2:
        raise ValueError(f"item {name!r}: `choices` must be a list of two options or more, not {found!r}")
    return [str(choice) for choice in found]


def is_right(outcome: Outcome) -> bool:
    """Whether MMAU's rule accepts the final answer: all words of the right option, none that only others have."""
    right, choices = text.final_answer(outcome.target), choices_of(outcome.meta, outcome.id)
    return metrics.mmau_correct(text.final_answer(outcome.answer), right, choices)


def _accuracies(name: str, rows: Sequence[Outcome]) -> dict[str, float]:
    accuracy = sum(is_right(row) for row in rows) / len(rows)
    exact = [metrics.exact_match(text.final_answer(row.answer), text.final_answer(row.target)) for row in rows]
    return {
        f"{name}/accuracy": 100 * accuracy,
        f"{name}/exact": 100 * sum(exact) / len(rows),
        f"{name}/se": 100 * metrics.binomial_se(accuracy, len(rows)),
    }


def _grouped(outcomes: Sequence[Outcome], key: Callable[[Outcome], str]) -> dict[str, list[Outcome]]:
    groups: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        groups.setdefault(key(outcome), []).append(outcome)
    return groups


def _value(outcome: Outcome, key: str) -> str:
    """A meta entry as part of a metric's name, in which a slash would open another level."""
    return str(outcome.meta.get(key) or "").strip().replace("/", "-")
