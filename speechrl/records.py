"""A table's raw material: columns, finished runs, and the draws of a column's test items that pair its rows."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from speechrl import inference, metrics, runs
from speechrl.inference import Statistic
from speechrl.types import Outcome

Drawn = dict[tuple[str, int], tuple[int, dict[str, np.ndarray]]]
"""Of each row and seed: which items it answered, as a fingerprint, and the draws [R] of each test set."""


@dataclass(frozen=True, kw_only=True)
class Column:
    """What a column shows: a metric `<set>/<kind>`, or the mean over all sets named `<set>_...`.

    The value is metrics.json's times `times`; its interval comes from the kept answers, for the kinds eer, auc,
    accuracy and wer, or for any kind where `item` names a function that judges one outcome ("package.module.function").
    `splits` and `where` (an outcome's meta) say which answers, where the metric's name does not.
    """

    metric: str
    label: str = ""
    times: float = 1.0
    digits: int = 2
    error: Literal["std", "binomial"] = "std"
    splits: tuple[str, ...] = ()
    where: Mapping[str, str] = field(default_factory=dict)
    item: str | None = None

    @property
    def name(self) -> str:
        """The metric's set, or family of sets."""
        return self.metric.rpartition("/")[0]

    @property
    def kind(self) -> str:
        """What is measured."""
        return self.metric.rpartition("/")[2]

    @property
    def family(self) -> str:
        """What its sets' names begin with, up to the first underscore."""
        return (self.splits or (self.name,))[0].split("_")[0]

    def parts(self, available: Sequence[str]) -> list[str]:
        """The test sets it is the mean of."""
        if self.splits or self.name in available:
            return list(self.splits) or [self.name]
        return [split for split in available if split.startswith(f"{self.name}_")]


@dataclass(frozen=True, eq=False)
class Run:
    """A finished run."""

    folder: Path
    metrics: dict[str, float]
    provenance: dict[str, Any]

    @classmethod
    def read(cls, folder: Path) -> "Run":
        """A run from its folder."""
        return cls(folder, runs.read_json(folder / runs.DONE), runs.read_json(folder / "provenance.json"))

    @property
    def seed(self) -> int:
        """The run's seed."""
        return int(self.provenance["seed"])

    @cached_property
    def outcomes(self) -> dict[str, list[Outcome]]:
        """The kept answers of each test set, by id."""
        found: dict[str, list[Outcome]] = {}
        for outcome in sorted(runs.read_outcomes(self.folder / "answers.jsonl"), key=lambda outcome: outcome.id):
            found.setdefault(outcome.split, []).append(outcome)
        return found


def chosen(run: Run, column: Column, *, family: bool = False) -> dict[str, list[Outcome]]:
    """The answers that a column is about, or those of its whole family of sets."""
    names = sorted(run.outcomes)
    if family and not column.splits:
        names = [name for name in names if name.split("_")[0] == column.family]
    else:
        names = [name for name in column.parts(names) if name in run.outcomes]
    meant = column.where.items()
    return {name: [one for one in run.outcomes[name] if meant <= one.meta.items()] for name in names}


def draw(
    rows: Mapping[str, Mapping[int, Run]],
    column: Column,
    *,
    unit: re.Pattern[str] | None = None,
    positive: str = "real",
    resamples: int = inference.RESAMPLES,
) -> Drawn:
    """Draws of every run in all sets of a column's family, in the units that are printed (percent, an AUC as it is).

    All sets of a family are resampled together: what `unit` finds in an item's id names the recording that it was cut
    from, and the cuts of one recording, in whichever of the sets, are drawn together. Runs that answered the same items
    are resampled alike, and so paired. Empty where the kept answers cannot give the metric.
    """
    measure = _measure(column, positive)
    if measure is None:
        return {}
    alike: dict[tuple[str, ...], list[tuple[str, int, dict[str, list[Outcome]]]]] = {}
    for row, seeds in rows.items():
        for seed, run in seeds.items():
            sets = {k: v for k, v in chosen(run, column, family=True).items() if v}
            items = tuple(f"{split}/{one.id}={one.target}" for split, part in sets.items() for one in part)
            if items:
                alike.setdefault(items, []).append((row, seed, sets))
    drawn: Drawn = {}
    for fingerprint, (items, group) in enumerate(alike.items()):
        names = list(group[0][2])
        statistics = [one for _, _, sets in group for one in _statistics(sets, measure)]
        units, strata = _units(group[0][2], unit)
        keys = (column.family, len(items))
        found = inference.bootstrap(statistics, strata, units=units, keys=keys, resamples=resamples)
        for (row, seed, _), mine in zip(group, found.reshape(len(group), len(names), -1), strict=True):
            drawn[row, seed] = (fingerprint, dict(zip(names, mine, strict=True)))
    return drawn


def _units(sets: Mapping[str, Sequence[Outcome]], unit: re.Pattern[str] | None) -> tuple[list[str], list[str]]:
    """What each item was cut from, and the sets and classes that this is in: its stratum."""
    units, places = [], []
    closed = all(one.score is not None for part in sets.values() for one in part)
    for split, part in sets.items():
        for one in part:
            found = unit.search(one.id) if unit else None
            units.append(found.group(found.lastindex or 0) if found else f"{split}/{one.id}")
            places.append(f"{split}/{one.target if closed else ''}")
    strata: dict[str, set[str]] = {}
    for name, place in zip(units, places, strict=True):
        strata.setdefault(name, set()).add(place)
    names = {name: " ".join(sorted(found)) for name, found in strata.items()}
    return units, [names[name] for name in units]


Measure = Callable[[Sequence[Outcome]], Statistic]


def _measure(column: Column, positive: str) -> Measure | None:
    """How answers become the statistic of a column, in percent (an AUC as it is); None where they cannot."""
    if column.item:
        from hydra.utils import get_method

        judge = get_method(column.item)
        return lambda part: _mean([float(judge(one)) for one in part])

    def scored(part: Sequence[Outcome]) -> tuple[np.ndarray, np.ndarray]:
        return np.array([one.score for one in part], dtype=float), np.array([one.target == positive for one in part])

    def errors(part: Sequence[Outcome]) -> Statistic:
        wrong, words = metrics.word_errors([one.target for one in part], [one.answer for one in part])
        return lambda counts: 100 * metrics.resampled_ratio(wrong, words, counts)

    kinds: dict[str, Measure] = {
        "eer": lambda part: lambda counts: 100 * metrics.resampled_eer(*scored(part), counts),
        "auc": lambda part: lambda counts: metrics.resampled_auc(*scored(part), counts),
        "accuracy": lambda part: _mean([one.answer == one.target for one in part]),
        "wer": errors,
    }
    return kinds.get(column.kind)


def _mean(values: Sequence[float]) -> Statistic:
    return lambda counts: 100 * metrics.resampled_mean(values, counts)


def _statistics(sets: Mapping[str, Sequence[Outcome]], measure: Measure) -> list[Statistic]:
    """One statistic for each set, of counts over the items of all sets."""
    found, start = [], 0
    for part in sets.values():
        found.append(_sliced(measure(part), slice(start, start + len(part))))
        start += len(part)
    return found


def _sliced(statistic: Statistic, items: slice) -> Statistic:
    return lambda counts: statistic(counts[:, items])
