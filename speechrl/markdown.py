"""results.md: a paper's table beside ours, and in words what the runs say of its claims."""

from collections.abc import Sequence

from speechrl.inference import Difference
from speechrl.records import Column
from speechrl.results import LEDGER, Cell, Results, comparisons, unfair, verdicts

DASH = "–"
_ABOUT = {
    "embedded": (
        "**Embedded data: these numbers prove the machinery, not the paper.** The recordings are generated, the models"
        " are tiny and made here in minutes; the published numbers stand beside ours for orientation, and no difference"
        " is taken between them. What is said of the paper's claims below is said of these data alone."
    ),
    "paper": (
        "**Paper scale:** the paper's models and data sets. `difference` is ours minus published; where a published"
        " value was averaged over runs whose deviation is not known, judge it by the deviation and interval of ours."
    ),
}
_COSTS = dict(
    zip(LEDGER, ("optimiser steps", "examples", "audio, hours", "answers drawn", "wall time, min"), strict=True)
)
_UNITS = {"audio_seconds": 3600, "wall_seconds": 60}


def number(value: float | None, digits: int = 2, *, sign: bool = False) -> str:
    """A number as it is printed, a dash where there is none."""
    return DASH if value is None else f"{value:{'+' if sign else ''}.{digits}f}".replace("-", "−")


def ours(cell: Cell, column: Column) -> str:
    """Our value: mean ± deviation over seeds, or ± the binomial standard error where the column asks for it."""
    if cell.mean is None:
        return DASH
    spread = cell.binomial() if column.error == "binomial" else cell.std
    text = number(cell.mean, column.digits)
    return text if spread is None else f"{text} ± {number(spread, column.digits)}"


def interval(cell: Cell, column: Column) -> str:
    """The 95 % interval of our value."""
    if cell.interval is None:
        return ""
    low, high = (number(bound, column.digits) for bound in cell.interval)
    return f"[{low}, {high}]"


def said(found: Difference, digits: int) -> str:
    """A difference with its interval."""
    return f"{number(found.value, digits, sign=True)} [{number(found.low, digits)}, {number(found.high, digits)}]"


def summary_columns(results: Results) -> list[Column]:
    """The columns of the first table: the means over several sets, or all where none is a mean."""
    names = [column.name for column in results.columns]
    means = [c for c in results.columns if any(name.startswith(f"{c.name}_") for name in names)]
    return means or results.columns


def markdown(results: Results) -> str:
    """All of results.md."""
    described, published = results.described, results.published
    parts = [
        f"# {described['title']}",
        f"{described['paper']}. Made from the runs by `make table TABLE={described['table']}`; not edited by hand.",
        "> " + _ABOUT[results.scale],
        _summary(results),
        "## Every column\n\n" + _every_cell(results),
        "## What these runs say of the paper's claims\n\n" + _claims(results),
        "## Comparisons\n\n" + _comparisons(results),
        "## How each published cell is known\n\n" + _sources(results),
        "## What the rows cost\n\n" + _ledger(results),
        "## Missing\n\n" + _missing(results),
    ]
    notes = [*(described.get("notes") or []), *(published.get("notes") or [])]
    parts += ["## Notes\n\n" + "\n".join(f"- {note}" for note in notes)] if notes else []
    return "\n\n".join([*parts, "---\n\n" + _footer(results)]) + "\n"


def _lines(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    ruler = ["---", *["---:"] * (len(header) - 1)]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in [header, ruler, *rows])


def _summary(results: Results) -> str:
    at_paper = results.scale == "paper"
    columns = summary_columns(results)
    header = ["row"]
    for column in columns:
        header += [f"{column.label}: published", "ours"] + ["difference"] * at_paper
    body = []
    for row in results.rows:
        line = [results.label(row["name"])]
        for column in columns:
            cell = results.cell(row["name"], column)
            line += [number(cell.published, column.digits), with_seeds(cell, column)]
            line += [number(cell.difference, column.digits, sign=True)] * at_paper
        body.append(line)
    spread = {"std": "standard deviation over n seeds", "binomial": "binomial standard error"}
    kinds = " or ".join(spread[kind] for kind in dict.fromkeys(column.error for column in columns))
    return _lines(header, body) + f"\n\nOurs: mean ± {kinds}; a dash is a value that is not known, or not run."


def with_seeds(cell: Cell, column: Column) -> str:
    """Our value and how many seeds it is the mean of."""
    return f"{ours(cell, column)} (n = {len(cell.values)})" if cell.values else DASH


def _every_cell(results: Results) -> str:
    body = []
    for row in results.rows:
        line = [results.label(row["name"])]
        for column in results.columns:
            cell = results.cell(row["name"], column)
            known = "" if cell.published is None else f"paper {number(cell.published, column.digits)}"
            line.append("<br>".join(filter(None, [ours(cell, column), interval(cell, column), known])))
        body.append(line)
    table = _lines(["row", *[column.label for column in results.columns]], body)
    return table + (
        "\n\nIn brackets the 95 % bootstrap interval: test items are resampled within their class, items cut from one"
        " recording together, and seeds too where there are several. With one seed it says nothing of other seeds."
    )


def _claims(results: Results) -> str:
    found = verdicts(results)
    if not found:
        return "No claims are listed in published.yaml."
    counts = {
        says: sum(one.says == says for one in found) for says in ("support", "contradict", "leave open", "not run")
    }
    text = (
        f"Of {len(found)} claims, these runs support {counts['support']}, contradict {counts['contradict']} and leave"
        f" {counts['leave open']} open; {counts['not run']} cannot be judged before their rows are run. A claim is"
        " supported where the 95 % interval of the difference lies where the claim puts it, contradicted where it lies"
        " wholly elsewhere; these intervals are not corrected for their number."
    )
    if results.scale == "embedded":
        text += " This holds for the embedded data, whatever it says of the paper's."
    lines = []
    for one in found:
        tests = "; ".join(f"{column.label} {said(diff, column.digits)}" for column, diff in one.tests if diff)
        pair = results.pair(one.claim["a"], one.claim["b"])
        margin = f", margin {one.claim['margin']}" if "margin" in one.claim else ""
        lines.append(f"- **{one.says}**: {one.text}. ({pair}{margin}{': ' + tests if tests else ''})")
    return text + "\n\n" + "\n".join(lines)


def _comparisons(results: Results) -> str:
    found = comparisons(results)
    if not found:
        return "The sweep asks for none."
    body = []
    for one in found:
        cells = [DASH] * 3
        if one.difference is not None and one.corrected is not None:
            p = (_p(one.difference.p), _p(one.corrected))
            cells = [said(one.difference, one.column.digits), *p]
        body.append([results.pair(one.a, one.b), one.column.label, *cells])
    return _lines(["rows", "metric", "difference [95 %]", "p", "p (Holm)"], body) + (
        "\n\nPaired bootstrap: both rows on the same resampled items (and seeds, where there are several), two-sided,"
        f" with Holm's correction over the {sum(one.difference is not None for one in found)} comparisons made here."
    )


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def _sources(results: Results) -> str:
    legend = results.published.get("sources") or {}
    labels = {column.metric: column.label for column in results.columns}
    lines = []
    for row, cells in (results.published.get("rows") or {}).items():
        by_source: dict[str, list[str]] = {}
        for metric, cell in cells.items():
            by_source.setdefault(cell["source"], []).append(labels.get(metric, metric))
        known = "; ".join(f"{', '.join(names)}: *{source}*" for source, names in by_source.items())
        lines.append(f"- {results.label(row)}: {known or 'nothing is known'}")
    return "\n".join([*lines, "", *(f"*{source}*: {meaning}.  " for source, meaning in legend.items())]).strip()


def _ledger(results: Results) -> str:
    body = []
    for row in results.rows:
        cost = results.ledger(row["name"])
        cells = [
            number(cost[key] / _UNITS.get(key, 1), 1 if key in _UNITS else 0) if key in cost else DASH for key in LEDGER
        ]
        body.append([results.label(row["name"]), *cells])
    lines = [
        f"- **Unequal cost**: {results.label(a)} against {results.label(b)}: "
        + ", ".join(f"{_COSTS[key]} × {ratio:.2g}" for key, ratio in wide.items())
        for a, b, wide in unfair(results)
    ]
    table = _lines(["row", *_COSTS.values()], body) + "\n\nMeans over seeds."
    return "\n\n".join([table, "\n".join(lines)] if lines else [table])


def _missing(results: Results) -> str:
    described = results.described
    group = described.get("experiments", described["table"])
    lines = [
        f"- {results.label(row)}, seed {', '.join(map(str, seeds))}: `python -m speechrl.train -m"
        f" experiment={group}/{row} seed={','.join(map(str, seeds))}{' scale=paper' * (results.scale == 'paper')}`"
        for row, seeds in results.missing().items()
    ]
    for row in results.runs:
        absent = [column.label for column in results.columns if not results.values(row, column)]
        lines += [f"- {results.label(row)}: its runs hold no {', '.join(absent)}"] * bool(absent)
    return "\n".join(lines) or "Nothing: every row has every seed."


def _footer(results: Results) -> str:
    records = [run.provenance for run in results.all_runs()]
    if not records:
        return "No runs yet."
    dates = sorted(str(record.get("finished", ""))[:10] for record in records)
    commits = sorted({f"{str(r.get('git'))[:10]}{' (changed)' if r.get('dirty') else ''}" for r in records})
    used = sorted({f"{name} {version}" for record in records for name, version in record.get("versions", {}).items()})
    devices = sorted({str(record.get("device")) for record in records})
    when = dates[0] if dates[0] == dates[-1] else f"{dates[0]} to {dates[-1]}"
    return f"{len(records)} runs, {when}; commit {', '.join(commits)}; {', '.join(used)}; {', '.join(devices)}."
