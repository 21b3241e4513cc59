"""What may be concluded from a finite test set and a few seeds: bootstrap intervals, paired tests, Holm's correction.

A statistic is a function of how often each item counts: integers [R, n] to R values (see `speechrl.metrics`). Two rows
that are resampled with the same counts are paired, so the interval of their difference is that of draws minus draws.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import ArrayLike

from speechrl.types import seed_of

RESAMPLES = 2000
_CELLS = 8_000_000  # items of all resamples held at once: 32 MB of counts

Statistic = Callable[[Int[np.ndarray, "r n"]], Float[np.ndarray, " r"]]


@dataclass(frozen=True)
class Difference:
    """Row A minus row B: the value, its 95 % interval, and the two-sided p-value of no difference."""

    value: float
    low: float
    high: float
    p: float


def bootstrap(
    statistics: Sequence[Statistic],
    strata: ArrayLike,
    *,
    units: ArrayLike | None = None,
    keys: Sequence[int | str] = (),
    resamples: int = RESAMPLES,
) -> Float[np.ndarray, "s r"]:
    """R draws of each of several statistics of the same items, all under the same resamples.

    Items are drawn with replacement within their stratum, so that no class, split or category changes its size;
    `strata` gives each item's, and all the same is the plain bootstrap. `units` names what each item was cut from:
    items of one unit (and so of one stratum) are drawn together, as the segments of a recording are no independent
    trials. The draws are a function of `keys`, strata and units alone: rows drawn apart are paired as well.
    """
    labels = np.asarray(strata)
    if not len(labels):
        raise ValueError("a bootstrap needs items, and there are none")
    unit_of = None
    if units is not None:
        _, first, unit_of = np.unique(np.asarray(units), return_index=True, return_inverse=True)
        labels = labels[first]
    members = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    rng = np.random.default_rng(seed_of("bootstrap", *keys))
    at_once = max(_CELLS // (len(labels) if unit_of is None else len(unit_of)), 1)
    parts = []
    for start in range(0, resamples, at_once):
        counts = _counts(members, len(labels), min(at_once, resamples - start), rng)
        counts = counts if unit_of is None else counts[:, unit_of]
        parts.append(np.stack([statistic(counts) for statistic in statistics]))
    return np.concatenate(parts, axis=1)


def _counts(members: list[np.ndarray], n: int, resamples: int, rng: np.random.Generator) -> Int[np.ndarray, "r n"]:
    counts = np.zeros((resamples, n), dtype=np.int32)
    offsets = np.arange(resamples)[:, None]
    for items in members:
        size = len(items)
        drawn = rng.integers(size, size=(resamples, size)) + offsets * size
        counts[:, items] = np.bincount(drawn.ravel(), minlength=resamples * size).reshape(resamples, size)
    return counts


def over_seeds(draws: Float[np.ndarray, "k r"], *, keys: Sequence[int | str] = ()) -> Float[np.ndarray, " r"]:
    """Draws of the mean over K seeds, the seeds resampled too: with `bootstrap`, the hierarchical bootstrap.

    With one seed it says nothing of other seeds; with a few it is still somewhat too sure of them.
    """
    seeds, resamples = draws.shape
    rng = np.random.default_rng(seed_of("seeds", *keys))
    chosen = rng.integers(seeds, size=(seeds, resamples))
    return np.take_along_axis(draws, chosen, 0).mean(0)


def interval(draws: Float[np.ndarray, " r"], level: float = 0.95) -> tuple[float, float]:
    """The percentile interval of some draws."""
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def p_value(draws: Float[np.ndarray, " r"]) -> float:
    """Two-sided p-value of zero under draws of a difference: twice the smaller tail, each draw on zero in both."""
    tail = min((draws <= 0).sum(), (draws >= 0).sum())
    return float(min(2 * (tail + 1) / (len(draws) + 1), 1.0))


def difference(
    value: float,
    a: Float[np.ndarray, "k r"],
    b: Float[np.ndarray, "k r"],
    *,
    keys: Sequence[int | str] = (),
) -> Difference:
    """Row A minus row B from their paired draws, K seeds each in the same order; `value` is the difference itself."""
    draws = over_seeds(a - b, keys=keys)
    return Difference(value, *interval(draws), p_value(draws))


def bootstrap_ci(
    statistic: Statistic,
    strata: ArrayLike,
    *,
    keys: Sequence[int | str] = (),
    resamples: int = RESAMPLES,
    level: float = 0.95,
) -> tuple[float, float]:
    """The percentile interval of one statistic over test items."""
    return interval(bootstrap([statistic], strata, keys=keys, resamples=resamples)[0], level)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction of several p-values, in the order given."""
    count = len(p_values)
    order = np.argsort(p_values, kind="stable")
    stepped = np.asarray(p_values, dtype=float)[order] * (count - np.arange(count))
    corrected = np.empty(count)
    corrected[order] = np.minimum(np.maximum.accumulate(stepped), 1.0)
    return corrected.tolist()


def mean_std(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean and unbiased deviation over seeds; one seed has no deviation."""
    if not len(values):
        raise ValueError("a mean over seeds needs at least one seed")
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else None
