"""Pictures of a table's runs: DET curves, score histograms, training curves, generalisation, drift, differences."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from speechrl import canvas, metrics
from speechrl.inference import Difference
from speechrl.results import Results

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CURVES = {
    "train/reward": "reward",
    "train/kl": "KL to the reference, nats",
    "train/answer_entropy": "answer entropy, nats",
    "train/dead_groups": "groups without signal",
    "train/answer_length": "answer length",
    "valid/eer": "validation EER, %",
    "valid/accuracy": "validation accuracy",
}
"""What of metrics.csv is drawn, where it is there and not constant."""


def draw(results: Results, folder: Path) -> list[Path]:
    """Every picture that the runs allow, as PNG files in a folder."""
    drawn = []
    for name, picture in PICTURES.items():
        with canvas.styled():
            figure = picture(results)
            if figure is not None:
                drawn.append(folder / f"{name}.png")
                canvas.save(figure, drawn[-1])
    return drawn


def _scored(results: Results, most: int = 4) -> dict[str, list[str]]:
    """Test sets with scores, by the name they are drawn under: each alone, or a family of more than `most` pooled."""
    run = next((run for run in results.all_runs() if run.outcomes), None)
    families: dict[str, list[str]] = {}
    for split in _ordered(results, run.outcomes if run else ()):
        if run and all(one.score is not None for one in run.outcomes[split]):
            families.setdefault(split.split("_")[0], []).append(split)
    found: dict[str, list[str]] = {}
    for family, splits in families.items():
        each = {_name(results, split): [split] for split in splits}
        found |= each if len(splits) <= most else {f"{family}, pooled": splits}
    return found


def _ordered(results: Results, splits: Iterable[str]) -> list[str]:
    """Test sets in the order of the table's columns."""
    places = {column.name: place for place, column in enumerate(results.columns)}
    return sorted(splits, key=lambda split: (places.get(split, len(places)), split))


def _name(results: Results, split: str) -> str:
    """A test set's name: the label of its column."""
    return next((column.label for column in results.columns if column.name == split), split)


def _scores(results: Results, row: str, seed: int, splits: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    positive = results.described.get("positive", "real")
    part = [one for split in splits for one in results.runs[row][seed].outcomes.get(split, [])]
    return np.array([one.score for one in part], dtype=float), np.array([one.target == positive for one in part])


def det_curves(results: Results) -> "Figure | None":
    """False rejection against false acceptance on probit axes: a panel for each test set, a line for each seed."""
    from scipy.special import ndtri

    sets, shown, colours = _scored(results), canvas.shown(results), canvas.colours(results)
    if not sets or not shown:
        return None
    figure, axes = canvas.panels(len(sets), 3, 2.5)
    ticks, ends = np.array([1, 2, 5, 10, 20, 40, 60]) / 100, ndtri([0.006, 0.7])
    for axis, (name, splits) in zip(axes, sets.items(), strict=True):
        for row in shown:
            for seed in results.runs[row]:
                far, frr = metrics.det(*_scores(results, row, seed, splits))
                axis.plot(far, frr, color=colours[row], linewidth=1.1, alpha=0.8, drawstyle="steps-post")
        axis.plot([-4, 4], [-4, 4], color="#9a9a9a", linewidth=0.7, linestyle=":")
        axis.set(title=name, xlabel="false acceptance, %", ylabel="false rejection, %", aspect="equal")
        labels = [f"{100 * tick:g}" for tick in ticks]
        axis.set_xticks(ndtri(ticks), labels)
        axis.set_yticks(ndtri(ticks), labels)
        axis.set(xlim=ends, ylim=ends)
    canvas.legend(figure, {label: colours[row] for row, label in shown.items()})
    return figure


def score_histograms(results: Results) -> "Figure | None":
    """Log-odds of *real*, for real and for fake items: a row of panels for each regime, all seeds together."""
    import matplotlib.pyplot as plt

    sets, shown, colours = _scored(results, most=0), canvas.shown(results), canvas.colours(results)
    if not sets or not shown:
        return None
    size = (canvas.WIDTH, 0.5 + 1.25 * len(shown))
    figure, grid = plt.subplots(len(shown), len(sets), figsize=size, squeeze=False, sharex=True)
    found = {(row, name): _odds(results, row, splits) for row in shown for name, splits in sets.items()}
    edge = min(np.ceil(max(np.quantile(np.abs(odds), 0.995) for odds, _ in found.values())), 12.0)
    bins = np.linspace(-edge, edge, 61)
    for (row, label), axes in zip(shown.items(), grid, strict=True):
        for axis, name in zip(axes, sets, strict=True):
            odds, real = found[row, name]
            odds = odds.clip(-edge, edge)
            axis.hist(odds[~real], bins, density=True, color="#c4c4c4", label="fake")
            axis.hist(odds[real], bins, density=True, histtype="step", color=colours[row], linewidth=1.6, label="real")
            axis.axvline(0, color="#404040", linewidth=0.7, linestyle=":")
            axis.set(yticks=[], ylabel="")
            axis.spines["left"].set_visible(False)
            axis.set_title(f"{label}: {name}", loc="left")
            axis.legend(loc="upper left", fontsize=7, handlelength=1.2)
    for axis in grid[-1]:
        axis.set_xlabel("log-odds of real (the outermost bins hold all beyond)")
    return figure


def _odds(results: Results, row: str, splits: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Log-odds of real of every seed's items, and which are real."""
    parts = [_scores(results, row, seed, splits) for seed in results.runs[row]]
    scores, real = (np.concatenate(side) for side in zip(*parts, strict=True))
    return np.log(scores + 1e-12) - np.log1p(1e-12 - scores), real


def training_curves(results: Results) -> "Figure | None":
    """Reward, KL and what else was logged: the mean over seeds and their range, smoothed over a fiftieth of the run."""
    shown, colours = canvas.shown(results), canvas.colours(results)
    logged = {row: [_logged(run.folder / "metrics.csv") for run in results.runs[row].values()] for row in shown}
    series: dict[str, dict[str, list[np.ndarray]]] = {}
    for name in CURVES:
        for row, seeds in logged.items():
            varied = [log[name] for log in seeds if name in log and np.ptp(log[name][:, 1]) > 0]
            if varied:
                series.setdefault(name, {})[row] = varied
    if not series:
        return None
    figure, axes = canvas.panels(len(series), 3, 2.2)
    for axis, (name, rows) in zip(axes, series.items(), strict=True):
        for row, curves in rows.items():
            _band(axis, curves, colours[row])
        axis.set(title=CURVES[name], xlabel="step")
    canvas.legend(
        figure, {label: colours[row] for row, label in shown.items() if any(row in s for s in series.values())}
    )
    return figure


def _logged(path: Path) -> dict[str, np.ndarray]:
    """Of each name in a metrics.csv: its steps and values, [points, 2]."""
    if not path.is_file():
        return {}
    found: dict[str, list[tuple[float, float]]] = {}
    for line in path.read_text().splitlines()[1:]:
        step, name, value = line.split(",")
        if name in CURVES:
            found.setdefault(name, []).append((float(step), float(value)))
    return {name: np.array(points) for name, points in found.items()}


def _band(axis: "Axes", seeds: Sequence[np.ndarray], colour: str) -> None:
    steps = seeds[0][:, 0] if len({len(seed) for seed in seeds}) == 1 else np.unique(np.concatenate(seeds)[:, 0])
    values = np.stack([np.interp(steps, *_smoothed(seed).T) for seed in seeds])
    axis.plot(steps, values.mean(0), color=colour, linewidth=1.6)
    if len(seeds) > 1:
        axis.fill_between(steps, values.min(0), values.max(0), color=colour, alpha=0.2, linewidth=0)


def _smoothed(points: np.ndarray) -> np.ndarray:
    width = max(len(points) // 50, 1)
    kernel = np.ones(width)
    weight = np.convolve(np.ones(len(points)), kernel, "same")
    return np.column_stack([points[:, 0], np.convolve(points[:, 1], kernel, "same") / weight])


def generalisation(results: Results) -> "Figure | None":
    """Out of domain against the target domain: a small mark for each seed of each row, a large one for its mean."""
    x, y = results.column("target/eer"), results.column("ood/eer")
    points = {row: (results.values(row, x), results.values(row, y)) for row in results.runs}
    points = {row: pair for row, pair in points.items() if pair[0] and pair[1]}
    if not points:
        return None
    import matplotlib.pyplot as plt

    colours, entries = canvas.colours(results), {row["name"]: row for row in results.rows}
    models = list(dict.fromkeys(entries[row].get("model", "") for row in points))
    markers = dict(zip(models, "osD^vP" * len(models), strict=False))
    figure, axis = plt.subplots(figsize=(canvas.WIDTH, 4.4))
    labels: list[tuple[str, tuple[float, float]]] = []
    for row, (near, far) in points.items():
        colour, marker = colours[row], markers[entries[row].get("model", "")]
        axis.scatter(list(near.values()), list(far.values()), 14, color=colour, marker=marker, alpha=0.45, linewidths=0)
        mean = (float(np.mean(list(near.values()))), float(np.mean(list(far.values()))))
        axis.scatter(*mean, 70, color=colour, marker=marker, linewidths=0)
        labels.append((entries[row]["label"], mean))
    axis.set(xlabel="target domain: mean EER, %", ylabel="out of domain: mean EER, %")
    axis.margins(0.1)
    for model, marker in markers.items():
        axis.scatter([], [], color="#606060", marker=marker, s=40, label=model)
    figure.legend(loc="outside lower center", ncols=min(len(models), 4))
    canvas.annotate(axis, labels)
    return figure


def drift_bars(results: Results) -> "Figure | None":
    """How far each test set's embeddings lie from the validation set's (2603.02914, Fig. 2), by regime."""
    found: dict[str, dict[str, list[float]]] = {}
    for row in canvas.shown(results):
        for run in results.runs[row].values():
            for name, value in run.metrics.items():
                if name.endswith("/drift"):
                    found.setdefault(row, {}).setdefault(name.removesuffix("/drift"), []).append(value)
    if not found:
        return None
    import matplotlib.pyplot as plt

    colours, shown = canvas.colours(results), canvas.shown(results)
    sets = _ordered(results, dict.fromkeys(name for part in found.values() for name in part))
    figure, axis = plt.subplots(figsize=(canvas.WIDTH, 2.8))
    width = 0.8 / len(found)
    for place, (row, part) in enumerate(found.items()):
        at = np.arange(len(sets)) + (place - (len(found) - 1) / 2) * width
        means = [np.mean(part.get(name, [np.nan])) for name in sets]
        spread = [np.std(part[name], ddof=1) if len(part.get(name, [])) > 1 else 0.0 for name in sets]
        error = np.array(spread) if any(spread) else None
        axis.bar(at, np.array(means), 0.92 * width, color=colours[row], yerr=error, error_kw={"linewidth": 0.8})
    axis.set_xticks(range(len(sets)), [_name(results, name) for name in sets])
    axis.set_ylabel("Wasserstein distance\nto the validation set")
    axis.grid(visible=False, axis="x")
    canvas.legend(figure, {shown[row]: colours[row] for row in found})
    return figure


def forest(results: Results) -> "Figure | None":
    """The comparisons that the table asks for, each with its 95 % interval: the mean in bold, its test sets below."""
    entries = []
    for asked in results.described.get("compare") or []:
        column = results.column(asked["metric"])
        parts = [
            other for other in results.columns if other.name.startswith(f"{column.name}_") and other.kind == column.kind
        ]
        pair = results.pair(asked["a"], asked["b"])
        for place, one in enumerate([column, *parts]):
            found = results.compare(asked["a"], asked["b"], one)
            if found:
                entries.append((f"{pair}, {one.label}" if not place else one.label, found, not place))
    return intervals(entries) if entries else None


def intervals(entries: Sequence[tuple[str, Difference, bool]]) -> "Figure":
    """A line for each (label, difference, whether bold), from top to bottom, and a line at no difference."""
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(canvas.WIDTH, 0.8 + 0.24 * len(entries)))
    for place, (_, found, bold) in enumerate(entries):
        colour = "#202020" if bold else "#8a8a8a"
        axis.plot([found.low, found.high], [place, place], color=colour, linewidth=2.2 if bold else 1.2)
        axis.plot(found.value, place, "D" if bold else "o", color=colour, markersize=6 if bold else 4)
    axis.axvline(0, color="#d55e00", linewidth=1)
    axis.set_yticks(range(len(entries)), [label for label, *_ in entries])
    for text, (*_, bold) in zip(axis.get_yticklabels(), entries, strict=True):
        text.set_fontweight("bold" if bold else "normal")
    axis.set(xlabel="points; left: the first is lower")
    axis.invert_yaxis()
    axis.grid(visible=False, axis="y")
    return figure


PICTURES: dict[str, Callable[[Results], "Figure | None"]] = {
    "det": det_curves,
    "scores": score_histograms,
    "curves": training_curves,
    "generalisation": generalisation,
    "drift": drift_bars,
    "forest": forest,
}
"""The pictures, by file name; one gives None where the runs do not allow it."""
