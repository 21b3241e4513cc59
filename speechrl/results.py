"""A table's numbers: finished runs, cells with their intervals, comparisons, the paper's claims, and what rows cost."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from speechrl import inference, metrics
from speechrl.inference import Difference
from speechrl.records import Column, Drawn, Run, chosen, draw

LEDGER = ("optimizer_steps", "examples", "audio_seconds", "actions", "wall_seconds")
"""What a row cost, by its name in a run's provenance."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One row in one column: what was published, and what the runs gave."""

    published: float | None
    source: str | None
    values: tuple[float, ...]
    items: int
    interval: tuple[float, float] | None

    @property
    def mean(self) -> float | None:
        """The mean over seeds."""
        return inference.mean_std(self.values)[0] if self.values else None

    @property
    def std(self) -> float | None:
        """The deviation over seeds, from two on."""
        return inference.mean_std(self.values)[1] if self.values else None

    @property
    def difference(self) -> float | None:
        """Ours minus the published value."""
        return None if self.mean is None or self.published is None else self.mean - self.published

    def binomial(self) -> float | None:
        """The binomial standard error of a percentage."""
        return None if self.mean is None or not self.items else 100 * metrics.binomial_se(self.mean / 100, self.items)


class Results:
    """All that the runs of a table say, from its sweep.yaml, its published.yaml and the finished runs' folders."""

    def __init__(
        self,
        described: Mapping[str, Any],
        published: Mapping[str, Any],
        folders: Mapping[str, Sequence[Path]],
        *,
        resamples: int = inference.RESAMPLES,
    ) -> None:
        self.described, self.published = described, published
        self.rows: list[dict[str, Any]] = described["rows"]
        self.columns = [_column(entry) for entry in described["columns"]]
        self.runs = {row: _by_seed(paths) for row, paths in folders.items() if paths}
        self._unit = re.compile(described["unit"]) if "unit" in described else None
        self._resamples = resamples
        self._kept: dict[str, Drawn] = {}
        scales = {run.provenance["scale"] for run in self.all_runs()}
        if len(scales) > 1:
            raise ValueError(f"{described['table']}: runs of {' and '.join(sorted(scales))} scale cannot share a table")
        self.scale = next(iter(scales), "embedded")

    def all_runs(self) -> list[Run]:
        """Every run of every row."""
        return [run for seeds in self.runs.values() for run in seeds.values()]

    def label(self, row: str) -> str:
        """A row's name for people: its model and how it was fine-tuned."""
        entry = next((entry for entry in self.rows if entry["name"] == row), {"label": row})
        return f"{entry['model']}: {entry['label']}" if "model" in entry else entry["label"]

    def pair(self, a: str, b: str) -> str:
        """What a difference is of, for people: "A − B (model)", or each with its own model."""
        models = {row["name"]: row.get("model") for row in self.rows}
        labels = {row["name"]: row["label"] for row in self.rows}
        if models.get(a) and models.get(a) == models.get(b):
            return f"{labels[a]} − {labels[b]} ({models[a]})"
        return f"{self.label(a)} − {self.label(b)}"

    def column(self, metric: str) -> Column:
        """The column of a metric, or one that the table does not show."""
        return next((column for column in self.columns if column.metric == metric), Column(metric=metric, label=metric))

    def values(self, row: str, column: Column) -> dict[int, float]:
        """The metric of each seed that has it."""
        found = {seed: _value(run, column) for seed, run in self.runs.get(row, {}).items()}
        return {seed: value * column.times for seed, value in found.items() if value is not None}

    def cell(self, row: str, column: Column) -> Cell:
        """A row's cell in a column."""
        known = (self.published.get("rows") or {}).get(row, {}).get(column.metric, {})
        values = self.values(row, column)
        draws = self._draws(row, sorted(values), column)
        one = next(iter(self.runs.get(row, {}).values()), None)
        return Cell(
            published=known.get("value"),
            source=known.get("source"),
            values=tuple(values[seed] for seed in sorted(values)),
            items=sum(len(part) for part in chosen(one, column).values()) if one else 0,
            interval=None if draws is None else inference.interval(inference.over_seeds(draws)),
        )

    def compare(self, a: str, b: str, column: Column) -> Difference | None:
        """Row A minus row B over the seeds that both have, paired by seed and item; None where nothing can be paired.

        Raises ValueError where the two rows answered different items.
        """
        left, right = self.values(a, column), self.values(b, column)
        seeds = sorted(left.keys() & right.keys())
        first, second = self._draws(a, seeds, column), self._draws(b, seeds, column)
        if first is None or second is None:
            return None
        drawn = self._drawn(column)
        for seed in seeds:
            if drawn[a, seed][0] != drawn[b, seed][0]:
                both = f"{self.runs[a][seed].folder} and {self.runs[b][seed].folder}"
                raise ValueError(
                    f"{column.metric}: {both} answered different items; evaluate both on the same test sets"
                )
        value = float(np.mean([left[seed] - right[seed] for seed in seeds]))
        return inference.difference(value, first, second)

    def missing(self) -> dict[str, list[int]]:
        """The rows that lack seeds that other rows have; every row lacks seed 0 where nothing was run."""
        wanted = sorted({run.seed for run in self.all_runs()} or {0})
        lacking = {row["name"]: [k for k in wanted if k not in self.runs.get(row["name"], {})] for row in self.rows}
        return {row: seeds for row, seeds in lacking.items() if seeds}

    def ledger(self, row: str) -> dict[str, float]:
        """What a row cost, the mean over its seeds."""
        records = [run.provenance for run in self.runs.get(row, {}).values()]
        kept = {key: [record[key] for record in records if record.get(key) is not None] for key in LEDGER}
        return {key: float(np.mean(values)) for key, values in kept.items() if values}

    def _draws(self, row: str, seeds: Sequence[int], column: Column) -> np.ndarray | None:
        """Draws [K, R] of the metric of each seed; None where the answers cannot give it."""
        drawn = self._drawn(column)
        if not seeds or any((row, seed) not in drawn for seed in seeds):
            return None
        kept = [drawn[row, seed][1] for seed in seeds]
        parts = column.parts(list(kept[0]))
        if not parts or any(part not in draws for part in parts for draws in kept):
            return None
        return np.stack([np.mean([draws[part] for part in parts], axis=0) for draws in kept])

    def _drawn(self, column: Column) -> Drawn:
        key = repr((column.kind, column.family, column.splits, sorted(column.where.items()), column.item))
        if key not in self._kept:
            positive = self.described.get("positive", "real")
            self._kept[key] = draw(self.runs, column, unit=self._unit, positive=positive, resamples=self._resamples)
        return self._kept[key]


def _value(run: Run, column: Column) -> float | None:
    if column.metric in run.metrics or not column.splits:
        return run.metrics.get(column.metric)
    parts = [run.metrics.get(f"{split}/{column.kind}", np.nan) for split in column.splits]
    return None if np.isnan(parts).any() else float(np.mean(parts))


def _column(entry: Mapping[str, Any]) -> Column:
    return Column(**{**entry, "splits": tuple(entry.get("splits") or ())})


def _by_seed(folders: Sequence[Path]) -> dict[int, Run]:
    found: dict[int, Run] = {}
    for folder in folders:
        run = Run.read(folder)
        if run.seed in found:
            raise ValueError(f"{folder} and {found[run.seed].folder} are the same row and seed; move one away")
        found[run.seed] = run
    return dict(sorted(found.items()))


@dataclass(frozen=True, kw_only=True)
class Compared:
    """A comparison that the table asks for; `corrected` is its p-value after Holm over all of them."""

    a: str
    b: str
    column: Column
    difference: Difference | None
    corrected: float | None


def comparisons(results: Results) -> list[Compared]:
    """The sweep's `compare` entries: {a, b, metric}; or {a, b, metric: kind, splits: [...]}, a mean over these."""
    asked = []
    for entry in results.described.get("compare") or []:
        column = results.column(entry["metric"])
        if "/" not in entry["metric"]:
            splits = tuple(entry["splits"])
            column = Column(
                metric=f"mean/{column.kind}", label=f"{column.kind}, mean of {', '.join(splits)}", splits=splits
            )
        asked.append((entry["a"], entry["b"], column, results.compare(entry["a"], entry["b"], column)))
    corrected = iter(inference.holm([found.p for *_, found in asked if found]))
    return [
        Compared(a=a, b=b, column=column, difference=found, corrected=next(corrected) if found else None)
        for a, b, column, found in asked
    ]


Says = Literal["support", "contradict", "leave open", "not run"]


@dataclass(frozen=True)
class Verdict:
    """What the runs say of one of the paper's claims, and the differences that it rests on."""

    text: str
    says: Says
    tests: tuple[tuple[Column, Difference | None], ...]
    claim: Mapping[str, Any]


def verdicts(results: Results) -> list[Verdict]:
    """Each claim {text, a, b, metric, direction} against the runs.

    `direction` is what row a is said to be, compared with row b: lower, higher, or equal, which is within `margin`. A
    claim is supported where the 95 % interval of every metric's difference lies where the claim puts it, contradicted
    where one lies wholly elsewhere, and else left open.
    """
    found = []
    for claim in results.published.get("claims") or []:
        names = [claim["metric"]] if isinstance(claim["metric"], str) else claim["metric"]
        columns = [results.column(name) for name in names]
        tests = tuple((column, results.compare(claim["a"], claim["b"], column)) for column in columns)
        says = [_says(one, claim["direction"], claim.get("margin", 0.0)) for _, one in tests if one]
        order: tuple[Says, ...] = ("contradict", "leave open", "support")
        verdict: Says = next(one for one in order if one in says) if len(says) == len(tests) else "not run"
        found.append(Verdict(claim["text"], verdict, tests, claim))
    return found


def _says(found: Difference, direction: str, margin: float) -> Says:
    bounds = {"lower": (-np.inf, 0.0), "higher": (0.0, np.inf), "equal": (-margin, margin)}
    if direction not in bounds:
        raise ValueError(f"a claim's direction is one of {sorted(bounds)}, not {direction!r}")
    low, high = bounds[direction]
    if low < found.low and found.high < high:
        return "support"
    return "contradict" if found.high < low or found.low > high else "leave open"


def unfair(results: Results, factor: float = 2.0) -> list[tuple[str, str, dict[str, float]]]:
    """The compared rows whose costs differ by more than a factor: (a, b, {cost: a over b}).

    A cost that one of them does not have at all (drawing answers, in SFT) is no ratio and is left out, and so is a row
    that was not trained.
    """
    pairs = [
        (one["a"], one["b"])
        for one in (results.described.get("compare") or []) + (results.published.get("claims") or [])
    ]
    found = []
    for a, b in dict.fromkeys(pairs):
        left, right = results.ledger(a), results.ledger(b)
        if not (left.get("optimizer_steps") and right.get("optimizer_steps")):
            continue
        ratios = {key: left[key] / right[key] for key in LEDGER if left.get(key) and right.get(key)}
        wide = {key: ratio for key, ratio in ratios.items() if not 1 / factor <= ratio <= factor}
        if wide:
            found.append((a, b, wide))
    return found
