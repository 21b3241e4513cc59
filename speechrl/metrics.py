"""What answers are worth: error rates of scores, accuracies and word errors of texts, distances of embeddings.

A score is the probability of *real*; an item is called real when its score lies above the threshold. Rates are
fractions from 0 to 1. Every function that a bootstrap needs has a `resampled_` form, which takes how often each item
counts in each of R resamples, as integers [R, n], and gives R values; the plain form counts every item once.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import ArrayLike

_WORD = re.compile(r"\b\w+\b")


@dataclass(frozen=True, eq=False)
class _Sorted:
    """Scored items in order: P thresholds, and how many items of each class lie on or below each of them."""

    thresholds: Float[np.ndarray, " p"]
    """Ascending, the first below every score."""
    real: Int[np.ndarray, " reals"]
    """The real items by ascending score, as indices."""
    fake: Int[np.ndarray, " fakes"]
    real_below: Int[np.ndarray, " p"]
    fake_below: Int[np.ndarray, " p"]

    def sums(self, counts: Int[np.ndarray, "r n"]) -> tuple[np.ndarray, np.ndarray]:
        """How much the k lowest real, and the k lowest fake items count: [R, reals + 1] and [R, fakes + 1]."""
        real, fake = (_sums(counts[:, items]) for items in (self.real, self.fake))
        for name, total in (("real", real[:, -1]), ("fake", fake[:, -1])):
            if not total.all():
                raise ValueError(f"a resample holds no {name} items: resample within the classes")
        return real, fake


def _sorted(scores: ArrayLike, is_real: ArrayLike, merge_ties: bool = True) -> _Sorted:
    values, real = np.asarray(scores, dtype=float), np.asarray(is_real, dtype=bool)
    if values.ndim != 1 or values.shape != real.shape:
        raise ValueError(f"need one label for each score, not shapes {values.shape} and {real.shape}")
    if np.isnan(values).any():
        raise ValueError(f"score {int(np.isnan(values).argmax())} of {len(values)} is NaN")
    for name, found in (("real", real.any()), ("fake", not real.all())):
        if not found:
            raise ValueError(f"error rates need both classes, and none of {len(values)} items is {name}")
    # Within a tie real items come first, as in the released code's stable sort of (real, fake); it shows when unmerged.
    order = np.lexsort((~real, values))
    values, real = values[order], real[order]
    last = np.append(values[1:] != values[:-1], True) if merge_ties else np.ones(len(values), dtype=bool)
    kept = np.append(True, last)
    below = [_sums(side[None])[0, kept] for side in (real, ~real)]
    return _Sorted(np.append(-np.inf, values[last]), order[real], order[~real], below[0], below[1])


def _sums(values: np.ndarray) -> Int[np.ndarray, "r p"]:
    out = np.zeros((values.shape[0], values.shape[1] + 1), dtype=np.int32)
    np.cumsum(values, axis=1, dtype=np.int32, out=out[:, 1:])
    return out


def roc(
    scores: ArrayLike, is_real: ArrayLike, merge_ties: bool = True
) -> tuple[Float[np.ndarray, " p"], Float[np.ndarray, " p"], Float[np.ndarray, " p"]]:
    """Thresholds ascending from -inf, and at each the false rejection (real called fake) and false acceptance rates.

    Equal scores share one threshold; `merge_ties=False` gives each item its own, real before fake within a tie, as the
    code of 2603.02914 does. Raises ValueError naming the missing class.
    """
    items = _sorted(scores, is_real, merge_ties)
    reals, fakes = len(items.real), len(items.fake)
    return items.thresholds, items.real_below / reals, (fakes - items.fake_below) / fakes


def eer(scores: ArrayLike, is_real: ArrayLike, merge_ties: bool = True) -> float:
    """Equal error rate by the rule of 2603.02914: mean of FRR and FAR at the first threshold where they are closest.

    Constant scores give 0.5; with `merge_ties=False`, the released rule, they give 1.0.
    """
    return float(resampled_eer(scores, is_real, _once(scores), merge_ties)[0])


def _once(items: ArrayLike) -> Int[np.ndarray, "1 n"]:
    return np.ones((1, np.size(items)), dtype=np.int32)


def resampled_eer(
    scores: ArrayLike, is_real: ArrayLike, counts: Int[np.ndarray, "r n"], merge_ties: bool = True
) -> Float[np.ndarray, " r"]:
    """The equal error rate of each resample, found by bisection: FRR - FAR never falls as the threshold rises."""
    items = _sorted(scores, is_real, merge_ties)
    real, fake = items.sums(counts)
    row = np.arange(len(counts))
    reals, fakes = real[:, -1].astype(np.int64), fake[:, -1].astype(np.int64)

    def wrong(at: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return real[row, items.real_below[at]].astype(np.int64), fakes - fake[row, items.fake_below[at]]

    def gap(at: np.ndarray) -> np.ndarray:  # in whole numbers, so that thresholds that are equally good stay so
        missed, accepted = wrong(at)
        return missed * fakes - accepted * reals

    low, high = np.zeros_like(row), np.full_like(row, len(items.thresholds) - 1)
    while (high - low > 1).any():
        middle = (low + high) // 2
        over = gap(middle) >= 0
        low, high = np.where(over, low, middle), np.where(over, middle, high)
    missed, accepted = wrong(np.where(-gap(low) <= gap(high), low, high))
    return (missed / reals + accepted / fakes) / 2


def auc(scores: ArrayLike, is_real: ArrayLike) -> float:
    """Area under the ROC curve: how often a real item scores above a fake one, a tie counting half."""
    return float(resampled_auc(scores, is_real, _once(scores))[0])


def resampled_auc(scores: ArrayLike, is_real: ArrayLike, counts: Int[np.ndarray, "r n"]) -> Float[np.ndarray, " r"]:
    """The area under the ROC curve of each resample."""
    items = _sorted(scores, is_real)
    real, fake = items.sums(counts)
    missed = real[:, items.real_below].astype(float)
    above = real[:, -1:] - (missed[:, 1:] + missed[:, :-1]) / 2
    return (np.diff(fake[:, items.fake_below]) * above).sum(1) / real[:, -1] / fake[:, -1]


def det(scores: ArrayLike, is_real: ArrayLike) -> tuple[Float[np.ndarray, " p"], Float[np.ndarray, " p"]]:
    """The DET curve in probit coordinates: (false acceptance, false rejection), both as normal deviates.

    Rates of 0 and 1, which have no finite deviate, are drawn half an item away from it.
    """
    from scipy.special import ndtri

    items = _sorted(scores, is_real)
    sides = ((len(items.fake) - items.fake_below, len(items.fake)), (items.real_below, len(items.real)))
    far, frr = (ndtri(np.clip(wrong, 0.5, total - 0.5) / total) for wrong, total in sides)
    return far, frr


def accuracy(scores: ArrayLike, is_real: ArrayLike, threshold: float = 0.5) -> float:
    """The share of items on the right side of the threshold; a score on it is called fake, as argmax would."""
    return float(((np.asarray(scores) > threshold) == np.asarray(is_real, dtype=bool)).mean())


def resampled_mean(values: ArrayLike, counts: Int[np.ndarray, "r n"]) -> Float[np.ndarray, " r"]:
    """The mean over items in each resample: an accuracy, where values are 0 and 1."""
    return resampled_ratio(values, np.ones(counts.shape[1]), counts)


def resampled_ratio(
    numerators: ArrayLike, denominators: ArrayLike, counts: Int[np.ndarray, "r n"]
) -> Float[np.ndarray, " r"]:
    """A sum over items divided by another, in each resample: a corpus word error rate from `word_errors`."""
    weights = counts.astype(float)
    return (weights @ np.asarray(numerators, dtype=float)) / (weights @ np.asarray(denominators, dtype=float))


def binomial_se(rate: float, n: int) -> float:
    """The standard error of a share of n items."""
    if n < 1 or not 0 <= rate <= 1:
        raise ValueError(f"a binomial standard error needs a share from 0 to 1 of some items, not {rate} of {n}")
    return float(np.sqrt(rate * (1 - rate) / n))


def exact_match(prediction: str, answer: str) -> bool:
    """Whether two texts are the same letter by letter, but for the space around them."""
    return prediction.strip() == answer.strip()


def mmau_correct(prediction: str, answer: str, choices: Sequence[str]) -> bool:
    """MMAU's official rule, on sets of lower-case words.

    Right when every word of the answer is in the prediction, and no word is that only wrong options have. So "The
    speaker is a man." answers "man", "3 or 4" does not answer "3", and "It is not 3." does.
    """
    predicted, right = _words(prediction), _words(answer)
    wrong = set().union(*(_words(choice) for choice in choices)) - right
    return bool(predicted) and right <= predicted and not predicted & wrong


def _words(text: str) -> set[str]:
    return set(_WORD.findall(text.lower()))


def word_errors(
    references: Sequence[str], hypotheses: Sequence[str]
) -> tuple[Int[np.ndarray, " n"], Int[np.ndarray, " n"]]:
    """Of each item: substituted, deleted and inserted words, and words of the reference. Texts are taken as is."""
    import jiwer

    if len(references) != len(hypotheses):
        raise ValueError(
            f"word errors need a hypothesis for each reference, not {len(hypotheses)} for {len(references)}"
        )
    found = jiwer.process_words(list(references), list(hypotheses))
    errors = [
        sum(
            max(part.ref_end_idx - part.ref_start_idx, part.hyp_end_idx - part.hyp_start_idx)
            for part in parts
            if part.type != "equal"
        )
        for parts in found.alignments
    ]
    return np.array(errors, dtype=np.int64), np.array([len(words) for words in found.references], dtype=np.int64)


def wer(references: Sequence[str], hypotheses: Sequence[str]) -> float:
    """Word error rate of the corpus: all errors over all reference words."""
    errors, words = word_errors(references, hypotheses)
    if not words.sum():
        raise ValueError("a word error rate needs reference words, and all references are empty")
    return float(errors.sum() / words.sum())


def drift(embeddings_a: Float[np.ndarray, "n d"], embeddings_b: Float[np.ndarray, "m d"]) -> float:
    """Mean over dimensions of the 1-D Wasserstein-1 distance between two sets of embeddings (2603.02914, Fig. 2).

    Exact for sets of different size: both quantile functions are read on their common steps.
    """
    n, m = len(embeddings_a), len(embeddings_b)
    if not n or not m:
        raise ValueError(f"a drift needs two sets of embeddings, not {n} and {m} of them")
    steps = np.union1d(np.arange(n + 1) * m, np.arange(m + 1) * n)
    widths, starts = np.diff(steps) / (n * m), steps[:-1]
    a, b = np.sort(embeddings_a, 0)[starts // m], np.sort(embeddings_b, 0)[starts // n]
    return float(widths @ np.abs(a - b).mean(1))
