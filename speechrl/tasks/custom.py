"""A user's own manifest: audio, a prompt or none, an answer or a label; judged by any metric."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from jaxtyping import Float
from torch import Tensor

from speechrl import metrics, text
from speechrl.data.manifest import Item
from speechrl.types import Example, Outcome

Metric = Callable[[Sequence[Outcome]], float]


class Custom:
    """Items asked as the manifest writes them, answers judged by the named metrics, each over one split's outcomes.

    `prompt` is asked where an item has none of its own; the `<audio>` mark is put first where a prompt has none. With
    `labels` the answers are that closed set, and an outcome's score is the probability of the first. `target` may be
    "<answer>{target}</answer>" for a prompt that wants tags. A metric is any function of a list of outcomes: those
    below, or one's own (`_target_: my_module.my_metric`, `_partial_: true`).
    """

    def __init__(
        self,
        *,
        metrics: Mapping[str, Metric],
        selection: str,
        higher_is_better: bool = True,
        labels: Sequence[str] | None = None,
        prompt: str = "",
        target: str = "{target}",
    ) -> None:
        if selection.partition("/")[2] not in metrics:
            raise ValueError(f"selection={selection!r}: must be valid/ and one of the metrics {sorted(metrics)}")
        self.labels = tuple(labels) if labels else None
        self.selection, self.higher_is_better = selection, higher_is_better
        self._metrics, self._prompt, self._target = dict(metrics), prompt, target

    def example(self, item: Item, waveform: Float[Tensor, " s"]) -> Example:
        """The item as it is asked. Raises ValueError where its answer is not one of the labels."""
        if self.labels and item.target not in self.labels:
            raise ValueError(f"item {item.id!r}: {item.target!r} is not one of the labels {list(self.labels)}")
        asked = item.prompt or self._prompt
        prompt = asked if "<audio>" in asked or (self.labels and not asked) else f"<audio>{asked}"
        target = self._target.replace("{target}", item.target)
        return Example(item.id, waveform, prompt=prompt, target=target, meta=dict(item.meta) | {"path": str(item.path)})

    def measure(self, outcomes: Sequence[Outcome]) -> dict[str, float]:
        """Every metric of every split, named `<split>/<metric>`."""
        splits = {split: [row for row in outcomes if row.split == split] for split in {row.split for row in outcomes}}
        return {
            f"{split}/{name}": float(metric(rows)) for split, rows in sorted(splits.items())
            for name, metric in self._metrics.items()
        }  # fmt: skip


def exact_match(outcomes: Sequence[Outcome]) -> float:
    """How many final answers are the reference letter by letter, in percent."""
    return _percent([metrics.exact_match(*_pair(outcome)) for outcome in outcomes])


def accuracy(outcomes: Sequence[Outcome]) -> float:
    """How many final answers have the reference's words, case and punctuation aside, in percent."""
    return _percent([text.normalise(given) == text.normalise(right) for given, right in map(_pair, outcomes)])


def word_error_rate(outcomes: Sequence[Outcome]) -> float:
    """The word errors of all answers over all reference words, case and punctuation aside, in percent."""
    given, right = zip(*((text.normalise(a), text.normalise(b)) for a, b in map(_pair, outcomes)), strict=True)
    return 100 * metrics.wer(right, given)


def equal_error_rate(outcomes: Sequence[Outcome], *, positive: str) -> float:
    """The equal error rate of the scores, in percent; `positive` is the label that a high score stands for: the first.

    Raises ValueError where an outcome has no score, as open answers have none, or where a class is missing.
    """
    without = [outcome.id for outcome in outcomes if outcome.score is None]
    if without:
        raise ValueError(f"item {without[0]!r} has no score: an equal error rate needs `labels` on the task")
    scores = np.array([outcome.score for outcome in outcomes], dtype=float)
    return 100 * metrics.eer(scores, [outcome.target == positive for outcome in outcomes])


def _pair(outcome: Outcome) -> tuple[str, str]:
    return text.final_answer(outcome.answer), text.final_answer(outcome.target)


def _percent(verdicts: Sequence[bool]) -> float:
    return 100 * sum(verdicts) / len(verdicts)
