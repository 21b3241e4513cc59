"""Rewards: callables of (answers, examples) that give one [N] tensor per named term, and no more than that.

`examples` holds one entry per answer: the caller repeats an example for each of its G answers. A term's weight is an
argument of its reward; the caller adds the terms up. A reward never sees tokens or log-probabilities.
"""

from collections.abc import Callable, Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from speechrl import text
from speechrl.types import Answer, Example

Terms = dict[str, Float[Tensor, " n"]]
Reward = Callable[[Sequence[Answer], Sequence[Example]], Terms]
"""What the regimes call: any function or class, a user's own too. It raises ValueError naming the item it fails on."""


class Match:
    """Term `match`: `right` where the answer is the target, letter by letter, and `wrong` where it is not.

    `labels` replaces `right` by a value of its own for each right label, e.g. {"fake": 2, "real": 1} (a label that is
    missing there keeps `right`); with right=1 and wrong=0 it is the reward of 2603.02914.
    """

    def __init__(self, *, right: float = 1.0, wrong: float = 0.0, labels: Mapping[str, float] | None = None) -> None:
        self._right, self._wrong, self._labels = right, wrong, dict(labels or {})

    def __call__(self, answers: Sequence[Answer], examples: Sequence[Example]) -> Terms:
        """Rewards of N answers; ValueError where an example has no target."""
        return {"match": score(self._one, answers, examples, term="match")}

    def _one(self, answer: Answer, example: Example) -> float:
        target = _target(example)
        return self._labels.get(target, self._right) if answer.text == target else self._wrong


class ChoiceAccuracy:
    """Term `accuracy`: `weight` where the final answer is the right option's text, case and all, else 0 (2503.11197).

    The final answer is the first `<answer>...</answer>` on one line, or the whole answer where there is none, stripped:
    an untagged "Car" is right, and "car", "A. Car" or "['Car']" are not. The right option is read from the example's
    target in the same way, so that bare and tagged targets serve alike.

    `math_verify=True` brings back a step of the original code: before the texts are compared, the answer and the
    tagged right option are parsed as mathematics, and what verifies is right. On words it never fires; on options with
    a number among other words it calls wrong answers right ("At 3 pm today" for "Around 3 hours").
    """

    def __init__(self, *, weight: float = 1.0, math_verify: bool = False) -> None:
        self._weight, self._math_verify = weight, math_verify

    def __call__(self, answers: Sequence[Answer], examples: Sequence[Example]) -> Terms:
        """Rewards of N answers; ValueError where an example has no target."""
        return {"accuracy": score(self._one, answers, examples, term="accuracy")}

    def _one(self, answer: Answer, example: Example) -> float:
        right = text.final_answer(_target(example))
        verified = self._math_verify and _verifies(answer.text, text.wrap(right))
        return self._weight * (verified or text.final_answer(answer.text) == right)


class AnswerFormat:
    """Term `format`: `weight` where the whole answer, unstripped, is `<answer>...</answer>`, else 0 (2503.11197).

    With `think`, a `<think>...</think>` must come first. An answer that was cut at the token limit is judged by what is
    there.
    """

    def __init__(self, *, weight: float = 1.0, think: bool = False) -> None:
        self._weight, self._think = weight, think

    def __call__(self, answers: Sequence[Answer], examples: Sequence[Example]) -> Terms:
        """Rewards of N answers."""
        return {"format": score(self._one, answers, examples, term="format")}

    def _one(self, answer: Answer, _: Example) -> float:
        return self._weight * text.is_formatted(answer.text, think=self._think)


class Sum:
    """The terms of several rewards side by side, each reward's terms times its weight (1 where none is given).

    `terms` names the rewards, as a mapping, so that a configuration can override or drop one of them by its name.
    """

    def __init__(self, *, terms: Mapping[str, Reward | None], weights: Mapping[str, float] | None = None) -> None:
        unknown = set(weights or {}) - set(terms)
        if unknown:
            raise ValueError(f"Sum: weights for {sorted(unknown)}, but the terms are {sorted(terms)}")
        self._terms = {name: reward for name, reward in terms.items() if reward is not None}
        self._weights = dict(weights or {})
        if not self._terms:
            raise ValueError("Sum: no term is left; name at least one reward under `terms`")

    def __call__(self, answers: Sequence[Answer], examples: Sequence[Example]) -> Terms:
        """All terms of N answers; ValueError where two rewards use one name, or a value is not a number."""
        out: Terms = {}
        for name, reward in self._terms.items():
            weight = self._weights.get(name, 1.0)
            for term, values in checked(reward(answers, examples), examples).items():
                if term in out:
                    raise ValueError(f"two rewards give a term called {term!r}: leave one of them out")
                out[term] = weight * values
        return out


def score(
    one: Callable[[Answer, Example], float], answers: Sequence[Answer], examples: Sequence[Example], *, term: str
) -> Float[Tensor, " n"]:
    """One term's N values from a function of a single answer: what most rewards, a user's own too, are made of.

    Whatever goes wrong with an item, and a value that is not a finite number, is a ValueError that names the item's id.
    """
    values = []
    for answer, example in zip(answers, examples, strict=True):
        try:
            values.append(float(one(answer, example)))
        except Exception as error:
            raise ValueError(f"reward term {term!r} failed on item {example.id!r}: {error}") from error
    return checked({term: torch.tensor(values)}, examples)[term]


def checked(terms: Terms, examples: Sequence[Example]) -> Terms:
    """The same terms if each is N finite numbers; else a ValueError naming the term and the first item at fault."""
    for term, values in terms.items():
        if values.shape != (len(examples),):
            raise ValueError(f"reward term {term!r} has shape {tuple(values.shape)} for {len(examples)} answers")
        bad = (~values.isfinite()).nonzero()
        if len(bad):
            row = int(bad[0])
            raise ValueError(f"reward term {term!r} is {values[row].item()} for item {examples[row].id!r}")
    return terms


def total(terms: Terms) -> Float[Tensor, " n"]:
    """The sum of all terms, which is what advantages are made of."""
    return torch.stack(list(terms.values())).sum(0)


def _target(example: Example) -> str:
    if not example.target.strip():
        raise ValueError("it has no target to compare the answer with")
    return example.target


def _verifies(answer: str, solution: str) -> bool:
    """Whether the original's mathematics step calls the answer right; what it cannot parse, it leaves to the texts."""
    from math_verify import parse, verify  # sympy takes a second to import

    return bool(verify(parse(answer), parse(solution)))
